package auth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// house is an issuer that logs people in: everybody who comes is logged in as ana.
type house struct {
	*httptest.Server
	now func() time.Time

	mu      sync.Mutex
	codes   map[string]url.Values // what a code was asked for with
	refresh string                // good for one time
	asked   map[string]int        // how often each endpoint was
	public  bool                  // the client has no secret
	deny    string                // the error that comes back in place of a code
	nonce   string                // in place of the right one
	issuer  string                // as it names itself, in place of the right one
	large   int                   // bytes of a claim more
	long    int                   // bytes of the access token more
	sub     any                   // in place of the right one
	mute    bool                  // it tells no times, and renews without an ID token
	broken  bool                  // the token endpoint answers 500
	tells   bool                  // that it always says who it is with a code
	iss     string                // what it adds in place of who it is
	reading func()                // when it is asked what it says of itself; nil: nothing
}

func newHouse(t *testing.T, now func() time.Time) *house {
	h := &house{now: now, codes: map[string]url.Values{}, asked: map[string]int{}}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		name := h.URL
		if h.issuer != "" {
			name = h.issuer
		}
		if h.reading != nil {
			h.reading()
		}
		answer(w, 200, map[string]any{"issuer": name, "authorization_response_iss_parameter_supported": h.tells, "jwks_uri": h.URL + "/jwks", "authorization_endpoint": h.URL + "/authorize?tenant=1", "token_endpoint": h.URL + "/token", "userinfo_endpoint": h.URL + "/me", "end_session_endpoint": h.URL + "/end"})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, publicSet) })
	mux.HandleFunc("/authorize", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		q := r.URL.Query()
		back := url.Values{"state": q["state"], "iss": {h.URL}}
		if h.deny != "" {
			back.Set("error", h.deny)
		} else {
			code := fmt.Sprint("code-", len(h.codes))
			h.codes[code] = q
			back.Set("code", code)
		}
		more := ""
		if h.iss != "" {
			back.Del("iss")
			more = "&" + strings.ReplaceAll(h.iss, "URL", url.QueryEscape(h.URL))
		}
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode()+more, http.StatusFound)
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		r.ParseForm()
		h.asked[r.Form.Get("grant_type")]++
		id, key, ok := r.BasicAuth()
		switch {
		case h.broken:
			answer(w, 500, map[string]string{"error": "server_error"})
			return
		case h.public && (ok || r.Form.Get("client_id") != "shop"), !h.public && (id != "shop" || key != "s%26cret"):
			answer(w, 401, map[string]string{"error": "invalid_client"})
			return
		}
		claims := jwt.MapClaims{"sub": "u-17", "aud": "shop", "iss": h.URL, "exp": h.now().Add(time.Hour).Unix(), "groups": []string{"staff", "beta"}}
		if h.large > 0 {
			claims["large"] = noise(h.large)
		}
		if h.sub != nil {
			claims["sub"] = h.sub
		}
		switch r.Form.Get("grant_type") {
		case "authorization_code":
			q := h.codes[r.Form.Get("code")]
			delete(h.codes, r.Form.Get("code"))
			sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
			if q == nil || q.Get("redirect_uri") != r.Form.Get("redirect_uri") || q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
				answer(w, 400, map[string]string{"error": "invalid_grant"})
				return
			}
			claims["nonce"] = q.Get("nonce")
			if h.nonce != "" {
				claims["nonce"] = h.nonce
			}
		case "refresh_token":
			if h.refresh == "" || r.Form.Get("refresh_token") != h.refresh {
				answer(w, 400, map[string]string{"error": "invalid_grant"})
				return
			}
		}
		h.refresh = fmt.Sprint("refresh-", h.asked["refresh_token"])
		out := map[string]any{"access_token": fmt.Sprint("access-", h.asked["refresh_token"]) + noise(h.long), "token_type": "bearer", "expires_in": 600, "refresh_token": h.refresh, "id_token": sign(jwt.SigningMethodRS256, "rsa", rsaKey, claims)}
		if h.mute {
			if delete(out, "expires_in"); r.Form.Get("grant_type") == "refresh_token" {
				delete(out, "id_token")
			}
		}
		answer(w, 200, out)
	})
	mux.HandleFunc("/me", func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer access-") {
			w.WriteHeader(401)
			return
		}
		answer(w, 200, map[string]any{"sub": "u-17", "email": "ana@example.com", "preferred_username": "ana", "plan": "gold"})
	})
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

// noise is text that cannot be packed.
func noise(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(random())
	}
	return b.String()[:n]
}

// browser is one, with its cookies.
type browser struct {
	t       *testing.T
	g       *gate
	scheme  string
	method  string // GET unless said
	cookies map[string]string
	last    *filter.Exchange // as the origin got it, or as the edge answered it
}

func newBrowser(t *testing.T, g *gate) *browser {
	return &browser{t: t, g: g, scheme: "https", cookies: map[string]string{}}
}

// ask sends one request, and keeps the cookies that it is answered with.
func (b *browser) ask(to string, fields ...string) *filter.Exchange {
	b.t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		b.t.Fatal(err)
	}
	x := request(fields...)
	x.Request.Path, x.Request.RawQuery, x.Request.Scheme, x.Request.Method = u.EscapedPath(), u.RawQuery, b.scheme, cmp.Or(b.method, "GET")
	if !x.Request.Header.Has("Accept") {
		x.Request.Header.Add("Accept", "text/html,*/*")
	}
	var all []string
	for k, v := range b.cookies {
		all = append(all, k+"="+v)
	}
	if all = append(all, "theme=dark"); len(all) > 0 {
		x.Request.Header.Add("Cookie", strings.Join(all, "; "))
	}
	b.g.run(x)
	for line := range x.Response.Header.Values("Set-Cookie") {
		k, err := http.ParseSetCookie(line)
		if err != nil {
			b.t.Fatalf("%q is no cookie: %v", line, err)
		}
		if !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Secure != (b.scheme == "https") || strings.HasPrefix(k.Name, "__") != k.Secure {
			b.t.Errorf("the cookie %q can be had by others", line)
		}
		if delete(b.cookies, k.Name); k.MaxAge > 0 {
			b.cookies[k.Name] = k.Value
		}
	}
	b.last = x
	return x
}

// visit goes where the edge has led to, and returns where that leads back.
func (b *browser) visit(x *filter.Exchange) string {
	b.t.Helper()
	if x.Response.Status != 302 {
		b.t.Fatalf("got %d %s, want to be led to the issuer", x.Response.Status, body(x))
	}
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	resp, err := c.Get(x.Response.Header.Get("Location"))
	if err != nil {
		b.t.Fatal(err)
	}
	resp.Body.Close()
	to := resp.Header.Get("Location")
	rest, ok := strings.CutPrefix(to, b.scheme+"://shop.example.com/")
	if !ok {
		b.t.Fatalf("the issuer leads to %q, want back to where the login began", to)
	}
	return "/" + rest
}

// login goes to a page and logs in on the way.
func (b *browser) login(to string) *filter.Exchange {
	b.t.Helper()
	x := b.ask(b.visit(b.ask(to)))
	if x.Response.Status == 302 {
		return b.ask(x.Response.Header.Get("Location"))
	}
	return x
}

// logged is a gate with a login, and its issuer.
func logged(t *testing.T, more string) (*gate, *house) {
	t.Helper()
	var g *gate
	h := newHouse(t, func() time.Time { return g.now })
	g = newGate(t, fmt.Sprintf(`{"login": {"issuer": %q, "clientId": "shop", "clientSecret": "s&cret"%s}}`, h.URL, more))
	return g, h
}

func TestABrowserIsLedToTheLoginAndBackToWhereItWanted(t *testing.T) {
	for _, scheme := range []string{"https", "http"} {
		g, _ := logged(t, `, "claims": {"X-Plan": "plan"}, "accessToken": true, "bearer": true, "parameters": {"prompt": "login"}`)
		b := newBrowser(t, g)
		b.scheme = scheme
		first := b.ask("/cart?a=b")
		to, err := url.Parse(first.Response.Header.Get("Location"))
		if q := to.Query(); err != nil || q.Get("tenant") != "1" || q.Get("prompt") != "login" || q.Get("scope") != "openid profile email" || q.Get("code_challenge_method") != "S256" || q.Get("redirect_uri") != scheme+"://shop.example.com/oauth2/callback" {
			t.Errorf("the issuer is asked %v, %v", to, err)
		}
		back := b.ask(b.visit(first))
		if l := back.Response.Header.Get("Location"); back.Response.Status != 302 || l != "/cart?a=b" {
			t.Fatalf("after the login: got %d to %q %s, want to /cart?a=b", back.Response.Status, l, body(back))
		}
		if len(b.cookies) != 1 {
			t.Errorf("the browser keeps %d cookies, want the session's alone", len(b.cookies))
		}
		x := b.ask("/cart?a=b")
		got := map[string]string{}
		for _, f := range x.Request.Header.Fields() {
			got[f.Name] = f.Value
		}
		for name, want := range map[string]string{"X-Forwarded-User": "u-17", "X-Forwarded-Email": "ana@example.com", "X-Forwarded-Groups": "staff,beta", "X-Forwarded-Preferred-Username": "ana", "X-Plan": "gold",
			"X-Forwarded-Access-Token": "access-0", "Authorization": "Bearer access-0", "Cookie": "theme=dark"} {
			if got[name] != want {
				t.Errorf("the service gets %s: %q, want %q", name, got[name], want)
			}
		}
		if claims, _ := x.Value(claimsKey).(map[string]any); x.User != "u-17" || g.asked.Load() != 1 || claims["plan"] != "gold" {
			t.Errorf("user %q, claims %v, the service was asked %d times; want u-17, and once", x.User, claims, g.asked.Load())
		}
	}
}

func TestOnlyPagesAreLedToTheLogin(t *testing.T) {
	g, _ := logged(t, "")
	for name, fields := range map[string][]string{
		"a program": {"Accept", "*/*"}, "a script": {"Accept", "text/html", "Sec-Fetch-Mode", "cors"}, "JSON": {"Accept", "application/json"},
	} {
		x := newBrowser(t, g).ask("/cart", fields...)
		if x.Response.Status != 401 || !strings.Contains(body(x), "/oauth2/start") || len(x.Response.Header.Get("Set-Cookie")) > 0 {
			t.Errorf("%s: got %d, want 401 that tells where to log in", name, x.Response.Status)
		}
	}
	b := newBrowser(t, g)
	x := request("Accept", "text/html")
	x.Request.Method = "POST"
	if g.run(x); x.Response.Status != 401 {
		t.Errorf("POST: got %d, want 401, for what is posted would be lost", x.Response.Status)
	}
	if x := b.login("/oauth2/start?to=/profile"); x.Request.Path != "/profile" || x.User != "u-17" {
		t.Errorf("from /start: got to %s as %q, want /profile as u-17", x.Request.Path, x.User)
	}
}

func TestALoginLeadsToNoOtherHost(t *testing.T) {
	g, _ := logged(t, "")
	for _, to := range []string{"//evil.example/", "https://evil.example/", `/\evil.example`, "/%0d%0aLocation:evil", "evil"} {
		b := newBrowser(t, g)
		back := b.ask(b.visit(b.ask("/oauth2/start?to=" + url.QueryEscape(to))))
		if l := back.Response.Header.Get("Location"); l != "/" && !(strings.HasPrefix(l, "/%0d") && local(l)) {
			t.Errorf("to %q: led to %q, want /", to, l)
		}
	}
	b := newBrowser(t, g)
	x := request("Accept", "text/html")
	x.Request.Path = "//evil.example/x"
	back := b.visit(g.run(x))
	first, err := http.ParseSetCookie(x.Response.Header.Get("Set-Cookie"))
	if err != nil {
		t.Fatal(err)
	}
	b.cookies[first.Name] = first.Value
	if back := b.ask(back); back.Response.Header.Get("Location") != "/" {
		t.Errorf("asked for //evil.example/x: led to %q, want /", back.Response.Header.Get("Location"))
	}
}

func TestACallbackThatWasNotAskedForLogsNobodyIn(t *testing.T) {
	refused := func(name string, status int, x *filter.Exchange, b *browser) {
		t.Helper()
		if x.Response.Status != status {
			t.Errorf("%s: got %d %s, want %d", name, x.Response.Status, body(x), status)
		}
		for k := range b.cookies {
			if !strings.Contains(k, "-login-") {
				t.Errorf("%s: the browser has a session", name)
			}
		}
	}
	g, h := logged(t, "")
	other := newBrowser(t, g)
	back := other.visit(other.ask("/"))
	b := newBrowser(t, g)
	refused("another browser's login", 400, b.ask(back), b)
	b = newBrowser(t, g)
	back = b.visit(b.ask("/"))
	refused("another state", 400, b.ask(strings.Replace(back, "state=", "state=x", 1)), b)
	refused("another issuer", 403, b.ask(strings.Replace(back, "iss=http", "iss=https", 1)), b)
	b = newBrowser(t, g)
	back = b.visit(b.ask("/"))
	if x := b.ask(back); x.Response.Status != 302 {
		t.Fatalf("got %d %s", x.Response.Status, body(x))
	}
	again := newBrowser(t, g)
	again.cookies = b.cookies
	if x := again.ask(back); x.Response.Status != 400 {
		t.Errorf("the same login again: got %d, want 400", x.Response.Status)
	}
	b = newBrowser(t, g)
	back = b.visit(b.ask("/"))
	g.now = g.now.Add(loginWithin + time.Second)
	refused("a login that takes too long", 400, b.ask(back), b)
	h.nonce = "another"
	b = newBrowser(t, g)
	refused("a token for another login", 403, b.login("/"), b)
	h.nonce = ""
	for _, sub := range []any{"", 17, []string{"u-17"}} {
		h.sub = sub
		b = newBrowser(t, g)
		refused(fmt.Sprintf("a token whose sub is %v", sub), 403, b.login("/"), b)
	}
	h.sub, h.deny = nil, "access_denied"
	b = newBrowser(t, g)
	if x := b.login("/"); x.Response.Status != 403 || !strings.Contains(body(x), "access_denied") {
		t.Errorf("the issuer says no: got %d, want 403 that says so", x.Response.Status)
	}
	h.deny, h.broken = "", true
	b = newBrowser(t, g)
	refused("the issuer is broken", 503, b.login("/"), b)
	h.broken, h.large, h.long = false, 9_000, 16_000
	b = newBrowser(t, g)
	refused("more than cookies hold", 503, b.login("/"), b)
}

func TestALoginIsRenewedWhileTheIssuerWantsAndNoLonger(t *testing.T) {
	g, h := logged(t, `, "lifetime": "1h", "accessToken": true`)
	b := newBrowser(t, g)
	b.login("/")
	before := b.cookies["__Host-roadbed_session"]
	g.now = g.now.Add(5 * time.Minute)
	if x := b.ask("/"); x.User != "u-17" || b.cookies["__Host-roadbed_session"] != before {
		t.Errorf("within the tokens' time: user %q, want u-17 with the same cookie", x.User)
	}
	g.now = g.now.Add(5 * time.Minute)
	var all sync.WaitGroup
	for range 8 { // at once, with the same cookie
		all.Go(func() {
			c := newBrowser(t, g)
			c.cookies["__Host-roadbed_session"] = before
			if x := c.ask("/", "Accept", "*/*"); x.User != "u-17" || x.Request.Header.Get("X-Forwarded-Access-Token") != "access-1" || c.cookies["__Host-roadbed_session"] == before {
				t.Errorf("after the tokens' time: user %q with %q; want u-17 with new tokens and another cookie", x.User, x.Request.Header.Get("X-Forwarded-Access-Token"))
			}
		})
	}
	all.Wait()
	if x := b.ask("/"); x.User != "u-17" || x.Response.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("renewed: user %q, Cache-Control %q, want u-17 and that no cache keeps the cookies", x.User, x.Response.Header.Get("Cache-Control"))
	}
	c := newBrowser(t, g)
	c.cookies["__Host-roadbed_session"] = before
	if c.ask("/"); c.cookies["__Host-roadbed_session"] != b.cookies["__Host-roadbed_session"] {
		t.Error("two who bring the same old cookie get different new ones")
	}
	if n := h.asked["refresh_token"]; n != 1 {
		t.Errorf("the issuer was asked %d times for new tokens, want once", n)
	}
	g.now = g.now.Add(10 * time.Minute)
	h.broken = true
	if x := b.ask("/"); x.Response.Status != 503 || x.Response.Header.Get("Location") != "" {
		t.Errorf("the issuer is broken: got %d, want 503", x.Response.Status)
	}
	h.broken = false
	if x := b.ask("/"); x.User != "u-17" {
		t.Errorf("the issuer is back: user %q, want u-17", x.User)
	}
	g.now = g.now.Add(10 * time.Minute)
	h.refresh = "" // revoked
	if x := b.ask("/"); x.Response.Status != 302 || x.User != "" {
		t.Errorf("the issuer renews no more: got %d for %q, want to be led to a login", x.Response.Status, x.User)
	}
	if x := b.login("/"); x.User != "u-17" {
		t.Fatalf("logged in anew: user %q", x.User)
	}
	for range 7 {
		g.now = g.now.Add(9 * time.Minute)
		b.ask("/")
	}
	if x := b.ask("/"); x.Response.Status != 302 {
		t.Errorf("after the login's lifetime: got %d, want to be led to a login", x.Response.Status)
	}
}

func TestAnIssuerThatTellsNoTimesIsAskedEveryFiveMinutes(t *testing.T) {
	g, h := logged(t, "")
	h.mute = true
	b := newBrowser(t, g)
	b.login("/")
	g.now = g.now.Add(2 * time.Hour)
	for range 5 {
		if x := b.ask("/"); x.User != "u-17" {
			t.Fatalf("user %q, want u-17", x.User)
		}
		g.now = g.now.Add(30 * time.Second)
	}
	if n := h.asked["refresh_token"]; n != 1 {
		t.Errorf("within three minutes the issuer was asked %d times for new tokens, want once", n)
	}
	g.now = g.now.Add(5 * time.Minute)
	if x := b.ask("/"); x.User != "u-17" || h.asked["refresh_token"] != 2 {
		t.Errorf("after five minutes: user %q, asked %d times; want u-17 and twice", x.User, h.asked["refresh_token"])
	}
}

func TestMoreRenewalsThanAreRememberedAreMadeAllTheSame(t *testing.T) {
	g, _ := logged(t, "")
	b := newBrowser(t, g)
	b.login("/")
	g.now = g.now.Add(10 * time.Minute)
	l := g.all.Load().login
	for i := range mostRenewals {
		l.renewals[sha256.Sum256(fmt.Append(nil, i))] = &renewal{at: g.now}
	}
	if x := b.ask("/"); x.User != "u-17" {
		t.Errorf("got %d for %q, want u-17", x.Response.Status, x.User)
	}
	if n := len(l.renewals); n != 1 {
		t.Errorf("%d renewals are remembered, want the one", n)
	}
}

func TestALoginThatIsToLeadFartherThanACookieHoldsLeadsHome(t *testing.T) {
	g, _ := logged(t, "")
	b := newBrowser(t, g)
	x := b.ask(b.visit(b.ask("/oauth2/start?to=/" + noise(8000))))
	if to := x.Response.Header.Get("Location"); x.Response.Status != 302 || to != "/" {
		t.Errorf("got %d to %.40q, want /", x.Response.Status, to)
	}
}

func TestALongSessionIsInSeveralCookies(t *testing.T) {
	g, h := logged(t, "")
	h.large = 9000
	b := newBrowser(t, g)
	if x := b.login("/"); x.User != "u-17" {
		t.Fatalf("got %d %s", x.Response.Status, body(x))
	}
	if len(b.cookies) < 3 {
		t.Errorf("the browser has %d cookies, want several", len(b.cookies))
	}
	for k, v := range b.cookies {
		if len(k)+len(v) > 4000 {
			t.Errorf("%s has %d bytes, which browsers do not keep", k, len(v))
		}
	}
	delete(b.cookies, "__Host-roadbed_session-1")
	if x := b.ask("/"); x.Response.Status != 302 {
		t.Errorf("without one of them: got %d, want to be led to a login", x.Response.Status)
	}
}

func TestLoggingOutEndsTheLoginHereAndAtTheIssuer(t *testing.T) {
	g, h := logged(t, `, "afterLogout": "/bye"`)
	b := newBrowser(t, g)
	b.login("/")
	x := b.ask("/oauth2/logout", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate")
	to, _ := url.Parse(x.Response.Header.Get("Location"))
	if q := to.Query(); x.Response.Status != 302 || !strings.HasPrefix(to.String(), h.URL+"/end?") || q.Get("client_id") != "shop" || q.Get("post_logout_redirect_uri") != "https://shop.example.com/bye" || q.Get("id_token_hint") == "" {
		t.Errorf("got %d to %v, want the issuer's logout", x.Response.Status, to)
	}
	if len(b.cookies) != 0 {
		t.Errorf("the browser still has %d cookies", len(b.cookies))
	}
}

func TestASessionIsForItsEdgesAndItsIssuerAlone(t *testing.T) {
	g, h := logged(t, "")
	b := newBrowser(t, g)
	b.login("/")
	cookie := b.cookies["__Host-roadbed_session"]
	who := func(g *gate, value string) string {
		c := newBrowser(t, g)
		c.cookies["__Host-roadbed_session"] = value
		return c.ask("/").User
	}
	if got := who(g, cookie); got != "u-17" {
		t.Fatalf("got %q, want u-17", got)
	}
	document := `{"login": {"issuer": %q, "clientId": %q, "clientSecret": "s&cret"}}`
	beside := newGate(t, fmt.Sprintf(document, h.URL, "shop"))
	if got := who(beside, cookie); got != "" {
		t.Errorf("an edge with another secret takes the session, of %q", got)
	}
	own, both := beside.kit.secrets, append([]string{"a new one of thirty-two characters or more"}, *g.kit.secrets()...)
	beside.kit.secrets = func() *[]string { return &both }
	if got := who(beside, cookie); got != "u-17" {
		t.Errorf("an edge that has the secret among others: got %q, want u-17", got)
	}
	beside.kit.secrets = own
	if got := who(beside, cookie); got != "" {
		t.Errorf("an edge whose property has the secret no more goes on with the session, of %q", got)
	}
	stranger := newGate(t, fmt.Sprintf(document, h.URL, "admin"))
	stranger.kit.secrets = g.kit.secrets
	if got := who(stranger, cookie); got != "" {
		t.Errorf("another client of the issuer takes the session, of %q", got)
	}
	for i := range len(cookie) {
		changed := []byte(cookie)
		changed[i] ^= 1
		if got := who(g, string(changed)); got != "" && i != len(cookie)-1 { // the last character may hold bits that mean nothing
			t.Fatalf("byte %d changed: the session is taken, of %q", i, got)
		}
	}
}

func TestAClientWithoutASecretProvesItselfByPKCE(t *testing.T) {
	var g *gate
	h := newHouse(t, func() time.Time { return g.now })
	h.public = true
	g = newGate(t, fmt.Sprintf(`{"login": {"issuer": %q, "clientId": "shop"}, "apiKey": {"keys": {"batch": %q}}}`, h.URL, sum([]byte("k"))))
	if x := newBrowser(t, g).login("/"); x.User != "u-17" {
		t.Errorf("got %d %s, want u-17", x.Response.Status, body(x))
	}
	if x := newBrowser(t, g).ask("/", "X-API-Key", "k"); x.User != "batch" {
		t.Errorf("a program with its key: got %d %q, want batch", x.Response.Status, x.User)
	}
}

func TestAnIssuerThatIsNotThereIsAServiceUnavailable(t *testing.T) {
	g, h := logged(t, "")
	h.issuer = "https://other.example"
	if x := newBrowser(t, g).ask("/"); x.Response.Status != 503 {
		t.Errorf("an issuer of another name: got %d, want 503", x.Response.Status)
	}
	h.issuer = ""
	g.now = g.now.Add(askAgain)
	b := newBrowser(t, g)
	if x := b.ask("/"); x.Response.Status != 302 {
		t.Errorf("it is right now: got %d, want 302", x.Response.Status)
	}
}

func FuzzSession(f *testing.F) {
	secrets := []string{"a secret of thirty-two characters or more"}
	k := kit{secrets: func() *[]string { return &secrets }, now: time.Now}
	l, err := k.logins(&Login{Issuer: "https://login.example.com", ClientID: "shop"})
	if err != nil {
		f.Fatal(err)
	}
	good, err := k.seal(l.context("session"), &session{Claims: jwt.MapClaims{"sub": "u-17"}, Until: 1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("roadbed_session=roadbed.1." + good)
	f.Add("roadbed_session=roadbed.2." + good[:10] + "; roadbed_session-1=roadbed." + good[10:])
	f.Add("roadbed_session=roadbed.5.; roadbed_session-login-abc=roadbed.x; a=b")
	f.Add("a=roadbed;=roadbed.; b =roadbed.x;; c")
	f.Add("roadbed_session=\"roadbed.1." + good + "\"; a= roadbed.x; b=x.roadbed.y")
	f.Fuzz(func(t *testing.T, text string) {
		x := request("Cookie", text)
		h := &x.Request.Header
		if s, err := l.session(h, "http"); s != nil && (err != nil || s.who.User != "u-17" || s.Until != 1) {
			t.Errorf("%q is taken for the session %+v, %v", text, s, err)
		}
		if hidden.If(x) {
			if err := hidden.Apply(x); err != nil {
				t.Error(err)
			}
		} else if strings.Contains(text, "="+mark) {
			t.Errorf("%q: nothing is taken out", text)
		}
		for v := range h.Values("Cookie") {
			for pair := range strings.SplitSeq(v, ";") {
				if _, v, _ := strings.Cut(pair, "="); strings.HasPrefix(strings.Trim(v, `" `), mark) {
					t.Errorf("%q: the service gets %q", text, v)
				}
			}
		}
	})
}

func TestSecretsOfSessionsAreThoseOfThePropertyIfTheyCannotBeGuessed(t *testing.T) {
	long, other := strings.Repeat("s", 32), strings.Repeat("t", 40)
	for text, want := range map[string]string{long: long, long + "," + other: long + "," + other, "too short": "", long + ",too short": "", "": ""} {
		p := config.New(config.Options{Override: map[string]string{"edge.auth.sessionSecret": text}, Log: slog.New(slog.DiscardHandler)})
		got := *secrets(p)()
		if is := strings.Join(got, ","); want != "" && is != want || want == "" && (len(got) != 1 || len(is) < 32 || strings.Contains(is, long) || strings.Contains(is, "too short")) {
			t.Errorf("%q: got %q, want %q, or one of the edge's own if that is empty", text, got, want)
		}
	}
}

func TestWhoComesBackMustComeFromTheIssuer(t *testing.T) {
	for _, tt := range []struct {
		tells bool
		iss   string // in place of iss=URL
		want  int
	}{
		{true, "", 302},
		{false, "", 302},
		{false, "x=y", 302},
		{true, "x=y", 403}, // spec: RFC 9207 §2.4
		{true, "iss=", 403},
		{false, "iss=", 403},
		{false, "iss=https://evil.example", 403},
		{true, "iss=https://evil.example", 403},
		{true, "iss=URL/", 403},
		{true, "iss=URL&iss=https://evil.example", 403},
		{true, "iss=URL&iss=URL", 403},
		{true, "iss=URL&code=another", 403},
		{true, "iss=%zz", 403},
	} {
		g, h := logged(t, "")
		h.tells, h.iss = tt.tells, tt.iss
		b := newBrowser(t, g)
		if x := b.ask(b.visit(b.ask("/"))); x.Response.Status != tt.want {
			t.Errorf("it tells that it says so: %v, it says %q: got %d %s, want %d", tt.tells, tt.iss, x.Response.Status, body(x), tt.want)
		}
	}
}

func TestASlowIssuerHasNobodyWaitForItTwice(t *testing.T) {
	g, h := logged(t, "")
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	h.reading = func() { asked <- struct{}{}; <-answer }
	release := sync.OnceFunc(func() { close(answer) })
	t.Cleanup(release)

	p := g.all.Load().login.issuer
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.about(over); !errors.Is(err, context.Canceled) {
		t.Errorf("who waits no longer gets %v, want that its context has ended", err)
	}
	<-asked
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if x := newBrowser(t, g).ask("/"); x.Response.Status != 302 {
				t.Errorf("who waits for the first answer: got %d, want to be led to the issuer", x.Response.Status)
			}
		})
	}
	release()
	all.Wait()
	if n := len(asked); n != 0 {
		t.Errorf("the issuer was asked %d times more by those who waited", n)
	}

	again := make(chan struct{})
	h.reading = func() { asked <- struct{}{}; <-again }
	g.now = g.now.Add(addressesFor)
	for range 8 { // none of these would come back if it waited
		if x := newBrowser(t, g).ask("/"); x.Response.Status != 302 {
			t.Errorf("who asks while the issuer is asked anew: got %d, want to be led to it", x.Response.Status)
		}
	}
	<-asked
	p.mu.Lock()
	busy := p.asked
	p.mu.Unlock()
	close(again)
	<-busy
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(asked); n != 0 || !p.at.Equal(g.now) {
		t.Errorf("asked %d times more, and known since %v; want it known since %v", n, p.at, g.now)
	}
}

func TestNoPageOfAnotherHostLogsAUserOut(t *testing.T) {
	for _, tt := range []struct {
		what, method string
		fields       []string
		ends         bool
	}{
		{"a link of the host's own page", "GET", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate"}, true},
		{"the user by hand", "GET", []string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate"}, true},
		{"another's link", "GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, false},
		{"a link of a host beside", "GET", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "navigate"}, false},
		{"an image in the host's own page", "GET", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "no-cors"}, false},
		{"a page that is fetched in advance", "GET", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "navigate", "Sec-Purpose", "prefetch"}, false},
		{"a link of the host's own page, by http", "GET", []string{"Referer", "http://shop.example.com/cart"}, true},
		{"another's link, by http", "GET", []string{"Referer", "http://evil.example/shop.example.com"}, false},
		{"a link that does not say where it is", "GET", nil, false},
		{"a form of the host's own page", "POST", []string{"Sec-Fetch-Site", "same-origin", "Origin", "https://shop.example.com"}, true},
		{"a script of the host's own page", "POST", []string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors"}, true},
		{"another's form", "POST", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, false},
		{"a form of the host's own page, by http", "POST", []string{"Origin", "http://SHOP.example.com"}, true},
		{"another's form, by http", "POST", []string{"Origin", "http://evil.example"}, false},
		{"a form that hides where it is", "POST", []string{"Origin", "null"}, false},
		{"a program", "POST", nil, true},
	} {
		g, h := logged(t, "")
		b := newBrowser(t, g)
		b.login("/")
		b.method = tt.method
		x := b.ask("/oauth2/logout", tt.fields...)
		b.method = ""
		if ends := x.Response.Status == 302 && strings.HasPrefix(x.Response.Header.Get("Location"), h.URL+"/end"); ends != tt.ends || ends != (len(b.cookies) == 0) {
			t.Errorf("%s: got %d with %d cookies left; want the login ended: %v", tt.what, x.Response.Status, len(b.cookies), tt.ends)
		}
		if tt.ends {
			continue
		}
		if page := body(x); x.Response.Status != 200 || !strings.Contains(page, `<form method="post">`) || x.Response.Header.Get("X-Frame-Options") != "DENY" || x.Response.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %d %s, want a page that asks, and that no other page can show", tt.what, x.Response.Status, page)
		}
		if x := b.ask("/"); x.User != "u-17" {
			t.Errorf("%s: afterwards the user is %q, want u-17", tt.what, x.User)
		}
	}
	g, _ := logged(t, "")
	if x := newBrowser(t, g).ask("/oauth2/logout", "Accept", "application/json"); x.Response.Status != 403 || !strings.Contains(body(x), "POST") {
		t.Errorf("a program by GET: got %d, want 403 that says how", x.Response.Status)
	}
	b := newBrowser(t, g)
	b.method = "DELETE"
	if x := b.ask("/oauth2/logout"); x.Response.Status != 405 || x.Response.Header.Get("Allow") != "GET, POST" {
		t.Errorf("DELETE: got %d, want 405", x.Response.Status)
	}
}

func TestNoServiceGetsTheCookiesOfALoginWhateverItsRoute(t *testing.T) {
	g, h := logged(t, "")
	h.large = 9000 // in several
	b := newBrowser(t, g)
	b.login("/")
	b.ask("/elsewhere") // nothing of an attempt is left
	x := b.ask("/oauth2/start")
	if x.Response.Status != 302 || len(b.cookies) < 4 {
		t.Fatalf("got %d and %d cookies, want a session's and an attempt's", x.Response.Status, len(b.cookies))
	}
	g.all.Store(nil) // a login of another route, say
	if x := b.ask("/"); x.Response.Status != 200 || x.Request.Header.Get("Cookie") != "theme=dark" || x.Request.Header.Count("Cookie") != 1 {
		t.Errorf("a service of a route without a login gets the cookies %q, want theme=dark alone", x.Request.Header.Get("Cookie"))
	}
	var all []string
	for name, v := range b.cookies {
		all = append(all, name+"="+v)
	}
	name, v, _ := strings.Cut(all[0], "=")
	x = request("Cookie", strings.Join(all, ";"), "Cookie", "a=b; c", "Cookie", all[0], "Cookie", name+`="`+v+`"`, "Accept", "*/*") // quotes are believed
	if g.run(x); x.Request.Header.Count("Cookie") != 1 || x.Request.Header.Get("Cookie") != "a=b; c" {
		t.Errorf("a service gets %v, want a=b; c alone", x.Request.Header.Fields())
	}

	var got []string
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r.Header["Cookie"] }))
	defer service.Close()
	decided := newGate(t, fmt.Sprintf(`{"forwardAuth": {"url": %q}}`, service.URL))
	decided.run(request("Cookie", "a=b; "+all[0], "Cookie", all[0]))
	if len(got) != 1 || got[0] != "a=b" {
		t.Errorf("the service that decides gets %q, want a=b alone", got)
	}
}

func TestAKnownSessionTakesNoMemoryAndNoSessionNone(t *testing.T) {
	if raceEnabled {
		return // it counts what the detector does
	}
	g, x, cookie := knownSession(t)
	for what, run := range map[string]func(){"a session that was seen": func() { g.again(x, cookie, "u-17") }, "cookies of others": func() { noSession(x) }} {
		if n := testing.AllocsPerRun(1000, run); n != 0 {
			t.Errorf("%s: got %v allocations, want none", what, n)
		}
	}
}

func knownSession(t testing.TB) (*gate, *filter.Exchange, string) {
	g := newGate(t, `{"login": {"issuer": "https://login.example.com", "clientId": "shop"}}`)
	l := g.all.Load().login
	fields, err := l.bake(&session{Claims: jwt.MapClaims{"sub": "u-17"}, Began: g.now.Unix(), Until: g.now.Add(time.Hour).Unix()}, "https")
	if err != nil {
		t.Fatal(err)
	}
	cookie, _, _ := strings.Cut(fields[0], ";")
	return g, request(), cookie
}

// again has a request of a session that is known checked.
func (g *gate) again(x *filter.Exchange, cookie, user string) {
	x.Reset()
	x.Client = client
	x.Request.Scheme, x.Request.Method, x.Request.Path = "https", "GET", "/"
	x.Request.Header.Add("Cookie", cookie)
	if err := g.all.Load().check(x); err != nil || x.User != user {
		panic(fmt.Sprint(err, x.User))
	}
}

var hidden = unseal()

// noSession looks for the edge's cookies where there are none.
func noSession(x *filter.Exchange) {
	x.Reset()
	x.Request.Header.Add("Accept", "*/*")
	x.Request.Header.Add("Cookie", "theme=dark; session=0123456789abcdef0123456789abcdef; lang=en")
	if hidden.If(x) {
		panic("there are none")
	}
}

func BenchmarkKnownSession(b *testing.B) {
	g, x, cookie := knownSession(b)
	b.ReportAllocs()
	for b.Loop() {
		g.again(x, cookie, "u-17")
	}
}

func BenchmarkNoSession(b *testing.B) {
	x := request()
	b.ReportAllocs()
	for b.Loop() {
		noSession(x)
	}
}
