package interop

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// page is what a browser sees.
type page struct {
	at     *url.URL
	status int
	text   string
}

// surfer is a browser with cookies that follows where it is led.
type surfer struct {
	t *testing.T
	c *http.Client
}

func newSurfer(t *testing.T) *surfer {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &surfer{t, &http.Client{Jar: jar}}
}

func (s *surfer) send(method, to, form string) page {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, to, strings.NewReader(form))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if form != "" {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := s.c.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return page{resp.Request.URL, resp.StatusCode, string(text)}
}

var (
	action = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)
	hidden = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)"`)
)

// submit fills in the form of a page.
func (s *surfer) submit(p page, fields url.Values) page {
	s.t.Helper()
	to := action.FindStringSubmatch(p.text)
	if to == nil {
		s.t.Fatalf("%s, %d, has no form:\n%.2000s", p.at, p.status, p.text)
	}
	for _, h := range hidden.FindAllStringSubmatch(p.text, -1) {
		fields.Set(h[1], html.UnescapeString(h[2]))
	}
	at, err := p.at.Parse(html.UnescapeString(to[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	return s.send(http.MethodPost, at.String(), fields.Encode())
}

// TestPeopleLogInAtAnIssuer has somebody log in at the edge by the package oidc-provider, stay in while the tokens are renewed,
// and log out.
func TestPeopleLogInAtAnIssuer(t *testing.T) {
	needNPM(t)
	r := newRoad(t)
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		json.NewEncoder(w).Encode(map[string]string{ //nolint:errcheck // the client is gone if this fails
			"user": q.Header.Get("X-Forwarded-User"), "email": q.Header.Get("X-Forwarded-Email"), "name": q.Header.Get("X-Forwarded-Preferred-Username"), "plan": q.Header.Get("X-Plan"),
			"token": q.Header.Get("X-Forwarded-Access-Token"), "cookie": q.Header.Get("Cookie"), "url": q.URL.String(),
		})
	}))
	t.Cleanup(app.Close)
	r.register("shop", app.Listener.Addr().String())
	eventually(t, "the edge leads to shop", func() []string {
		resp, err := http.Get(r.at(7000) + "/shop/")
		if err != nil {
			return []string{err.Error()}
		}
		resp.Body.Close()
		return []string{fmt.Sprint(resp.StatusCode)}
	}, "200")
	edge := r.at(7000)
	addr := freeAddr(t, "127.0.0.1")
	run(t, addr, "node", "oidc.mjs", fmt.Sprint(port(t, addr)), edge+"/oauth2/callback", edge+"/bye")
	document, err := json.Marshal(map[string]any{"login": map[string]any{
		"issuer": "http://" + addr, "clientId": "shop", "clientSecret": "a&secret of the shop", "scopes": []string{"openid", "profile", "email", "offline_access"},
		"parameters": map[string]string{"prompt": "consent"}, "claims": map[string]string{"X-Plan": "plan"}, "accessToken": true, "afterLogout": "/bye",
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.set("string", "edge.auth.sessionSecret", strings.Repeat("s", 32))
	r.set("string", "edge.auth", string(document))
	eventually(t, "strangers are not let in", func() []string {
		resp, err := http.Get(edge + "/shop/")
		if err != nil {
			return []string{err.Error()}
		}
		resp.Body.Close()
		return []string{fmt.Sprint(resp.StatusCode)}
	}, "401")

	s := newSurfer(t)
	p := s.send(http.MethodGet, edge+"/shop/cart?a=b", "")
	if p.at.Host != addr {
		t.Fatalf("a stranger is led to %s, %d, want the issuer:\n%.2000s", p.at, p.status, p.text)
	}
	p = s.submit(p, url.Values{"login": {"ana"}, "password": {"anything"}})
	p = s.submit(p, url.Values{}) // consent
	see := func(p page) map[string]string {
		t.Helper()
		var got map[string]string
		if p.status != http.StatusOK || json.Unmarshal([]byte(p.text), &got) != nil {
			t.Fatalf("%s answers %d, want the app's answer:\n%.2000s", p.at, p.status, p.text)
		}
		return got
	}
	first := see(p)
	for name, want := range map[string]string{"user": "ana", "email": "ana@example.com", "name": "ana", "plan": "gold", "url": "/cart?a=b"} {
		if first[name] != want {
			t.Errorf("the app sees %s %q, want %q", name, first[name], want)
		}
	}
	if first["token"] == "" || strings.Contains(first["cookie"], "roadbed") {
		t.Errorf("the app sees the token %q and the cookies %q; want a token, and no cookie of the edge's", first["token"], first["cookie"])
	}
	eventually(t, "the tokens are renewed, and nobody notices", func() []string {
		now := see(s.send(http.MethodGet, edge+"/shop/", ""))
		return []string{now["user"], fmt.Sprint(now["token"] != first["token"])}
	}, "ana", "true")

	p = s.send(http.MethodGet, edge+"/oauth2/logout", "")
	if p.status != http.StatusOK || !strings.Contains(p.text, "Do you want to log out?") {
		t.Errorf("%s, %d, does not ask whether to log out, though nothing says that no other page has led there:\n%.1000s", p.at, p.status, p.text)
	}
	p = s.send(http.MethodPost, p.at.String(), "")
	p = s.submit(p, url.Values{"logout": {"yes"}})
	if p.at.Host != addr || !strings.Contains(p.at.Path, "interaction") { // /bye is a page that wants a login, too
		t.Errorf("after the logout: at %s, %d, want to be asked to log in:\n%.1000s", p.at, p.status, p.text)
	}
}
