package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type echoIn struct {
	Body struct {
		Size int `json:"size" minimum:"1" maximum:"9"`
	}
}
type echoOut struct {
	Body struct {
		Size  int    `json:"size"`
		Actor string `json:"actor"`
		Why   string `json:"why"`
	}
}

func newSurface(t *testing.T) (*httptest.Server, *atomic.Int32) {
	t.Helper()
	var ran atomic.Int32
	s := api.New("test", "v0")
	huma.Post(s.API, "/api/v1/echo", func(ctx context.Context, in *echoIn) (*echoOut, error) {
		ran.Add(1)
		if in.Body.Size == 8 {
			return nil, api.Problem(http.StatusConflict, "size 8 is taken; use another")
		}
		if in.Body.Size == 9 {
			return nil, api.Problem(http.StatusServiceUnavailable, "not now; ask again")
		}
		c := api.Change(ctx, "echo.set", "echo:1")
		out := &echoOut{}
		out.Body.Size, out.Body.Actor, out.Body.Why = in.Body.Size, c.Actor, c.Why
		return out, nil
	})
	s.Mux.HandleFunc("GET /api/v1/stream", func(w http.ResponseWriter, r *http.Request) {
		events := make(chan api.Event, 2)
		events <- api.Event{ID: "1", Name: "number", Data: 1}
		events <- api.Event{Name: "text", Data: "a\nb"}
		close(events)
		if err := api.Stream(r.Context(), w, events); err != nil {
			t.Error(err)
		}
	})
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return srv, &ran
}

func TestErrorsAreProblemsThatSayWhatToDo(t *testing.T) {
	srv, _ := newSurface(t)
	tests := []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/nowhere", "", 404, "there is nothing at /nowhere"},
		{"DELETE", "/api/v1/echo", "", 405, "it takes POST"},
		{"POST", "/api/v1/echo", `{"size":0}`, 422, "size"},
		{"POST", "/api/v1/echo", `{"size":`, 400, ""},
		{"POST", "/api/v1/echo", `{"size":8}`, 409, "size 8 is taken"},
	}
	for _, tt := range tests {
		req, _ := http.NewRequest(tt.method, srv.URL+tt.path, strings.NewReader(tt.body))
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		var p struct {
			Status int
			Title  string
		}
		if err := json.Unmarshal(body, &p); err != nil || p.Status != tt.status || p.Title == "" || resp.StatusCode != tt.status {
			t.Errorf("%s %s %s: got %d %s (%v), want a problem with status %d", tt.method, tt.path, tt.body, resp.StatusCode, body, err, tt.status)
		}
		if !strings.Contains(string(body), tt.says) {
			t.Errorf("%s %s %s: body %s does not say %q", tt.method, tt.path, tt.body, body, tt.says)
		}
		if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
			t.Errorf("%s %s: Content-Type %q", tt.method, tt.path, ct)
		}
	}
}

func TestClientCarriesActorAndReasonAndReadsProblems(t *testing.T) {
	srv, _ := newSurface(t)
	c := &api.Client{Base: srv.URL, Actor: "ana", Why: "Größe passt nicht"}
	var out struct {
		Size       int
		Actor, Why string
	}
	if err := c.Do(t.Context(), "POST", "/api/v1/echo", map[string]int{"size": 3}, &out); err != nil {
		t.Fatal(err)
	}
	if out.Size != 3 || out.Actor != "ana" || out.Why != "Größe passt nicht" {
		t.Errorf("got %+v, want size 3 by ana and her reason", out)
	}
	var p *api.Error
	err := c.Do(t.Context(), "POST", "/api/v1/echo", map[string]int{"size": 8}, &out)
	if !errors.As(err, &p) || p.Status != 409 || err.Error() != "size 8 is taken; use another" {
		t.Errorf("got %v, want the problem's detail with status 409", err)
	}
	err = c.Do(t.Context(), "POST", "/api/v1/echo", map[string]int{"size": 0}, &out)
	if err == nil || !strings.Contains(err.Error(), "body.size") {
		t.Errorf("got %v, want an error naming body.size", err)
	}
	gone := &api.Client{Base: "http://127.0.0.1:1"}
	if err := gone.Do(t.Context(), "GET", "/", nil, nil); err == nil || !strings.Contains(err.Error(), "roadbed up") {
		t.Errorf("with nothing listening: got %v, want a hint to start a platform", err)
	}
}

func TestClientSaysWhatToDoAboutAnUnknownCertificate(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	err := (&api.Client{Base: srv.URL}).Do(t.Context(), "GET", "/", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "SSL_CERT_FILE") {
		t.Errorf("got %v, want a hint at SSL_CERT_FILE", err)
	}
	err = (&api.Client{Base: srv.URL, HTTP: srv.Client()}).Do(t.Context(), "GET", "/", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "is not a platform's API") {
		t.Errorf("something else that answers 404: got %v, want that it is no platform", err)
	}
}

func TestStreamArrivesEventByEvent(t *testing.T) {
	srv, _ := newSurface(t)
	c := &api.Client{Base: srv.URL}
	var got []string
	err := c.Follow(t.Context(), "/api/v1/stream", func(name string, data []byte) error {
		got = append(got, name+" "+string(data))
		return nil
	})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("at the stream's end: got %v, want unexpected EOF", err)
	}
	want := []string{"number 1", `text "a\nb"`}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got events %q, want %q", got, want)
	}
}

func TestRepeatedIdempotencyKeyRunsOnce(t *testing.T) {
	srv, ran := newSurface(t)
	post := func(key, body string) (int, string, string) {
		t.Helper()
		req, _ := http.NewRequest("POST", srv.URL+"/api/v1/echo", strings.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), resp.Header.Get("Idempotency-Replayed")
	}
	s1, b1, _ := post("k1", `{"size":1}`)
	s2, b2, replayed := post("k1", `{"size":1}`)
	if s1 != 200 || s2 != s1 || b1 != b2 || replayed != "true" || ran.Load() != 1 {
		t.Errorf("first %d %s, second %d %s replayed %q, ran %d times; want the same answer and one run", s1, b1, s2, b2, replayed, ran.Load())
	}
	if s, b, _ := post("k1", `{"size":2}`); s != 422 {
		t.Errorf("the same key with another body: got %d %s, want 422", s, b)
	}
	post("k2", `{"size":9}`)
	post("k2", `{"size":9}`)
	if ran.Load() != 3 {
		t.Errorf("a 503 asked again: ran %d times in all, want 3 (it may be retried)", ran.Load())
	}
	// One byte too many, so that none is on its way when the connection ends and the answer is not lost to a reset.
	if s, b, _ := post("k3", strings.Repeat("x", 1<<20+1)); s != 413 {
		t.Errorf("a body of 1 MiB and a byte: got %d %s, want 413", s, b)
	}
}

func TestForeignPagesAndNamesAreRefused(t *testing.T) {
	srv, ran := newSurface(t)
	tests := []struct {
		name   string
		alter  func(*http.Request)
		status int
	}{
		{"no origin, as the CLI", func(*http.Request) {}, 200},
		{"a page of another origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, 403},
		{"a cross-site fetch", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
		{"a rebound name", func(r *http.Request) { r.Host = "evil.example" }, 403},
		{"localhost by name", func(r *http.Request) { r.Host = "localhost:7070" }, 200},
		{"loopback in IPv6", func(r *http.Request) { r.Host = "[::1]:7070" }, 200},
	}
	for _, tt := range tests {
		before := ran.Load()
		req, _ := http.NewRequest("POST", srv.URL+"/api/v1/echo", strings.NewReader(`{"size":1}`))
		req.Header.Set("Content-Type", "application/json")
		tt.alter(req)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status || (ran.Load() > before) != (tt.status == 200) {
			t.Errorf("%s: got %d and %d runs, want %d", tt.name, resp.StatusCode, ran.Load()-before, tt.status)
		}
	}
}

func TestOtherFacesCanRefuseForeignPagesToo(t *testing.T) {
	face := api.SameSite(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for _, tt := range []struct {
		method, host, origin string
		status               int
	}{
		{"POST", "127.0.0.1:8761", "", 204},
		{"POST", "localhost:8761", "http://evil.example", 403},
		{"GET", "localhost:8761", "http://evil.example", 204},
		{"GET", "evil.example:8761", "", 403},
	} {
		r := httptest.NewRequest(tt.method, "/eureka/apps/X", nil)
		r.Host = tt.host
		if tt.origin != "" {
			r.Header.Set("Origin", tt.origin)
		}
		w := httptest.NewRecorder()
		face.ServeHTTP(w, r)
		if w.Code != tt.status {
			t.Errorf("%s for %s from %q: got %d, want %d", tt.method, tt.host, tt.origin, w.Code, tt.status)
		}
	}
}

func TestOnlyLoopbackGoesWithoutTLSAndToken(t *testing.T) {
	cfg := &tls.Config{}
	tests := []struct {
		door api.Door
		says string
	}{
		{api.Door{}, ""},
		{api.Door{Host: "localhost"}, ""},
		{api.Door{Host: "::1"}, ""},
		{api.Door{Host: "0.0.0.0", TLS: cfg, Token: "secret"}, ""},
		{api.Door{Host: "0.0.0.0"}, "--tls-cert FILE --tls-key FILE --token-file FILE"},
		{api.Door{Host: "10.1.2.3", TLS: cfg}, "--token-file"},
		{api.Door{Host: "::", Token: "secret"}, "--tls-cert"},
	}
	for _, tt := range tests {
		err := tt.door.Validate()
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("door %q tls %v token %q: got %v, want %q", tt.door.Host, tt.door.TLS != nil, tt.door.Token, err, tt.says)
		}
		if tt.says != "" {
			if l, err := tt.door.Listen(0, "x", "--x"); err == nil {
				l.Close()
				t.Errorf("door %q listened", tt.door.Host)
			}
		}
	}
}

func TestTakenPortNamesItsFlag(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = api.Door{}.Listen(l.Addr().(*net.TCPAddr).Port, "the edge", "--edge-port")
	if err == nil || !strings.Contains(err.Error(), "the edge cannot listen on "+l.Addr().String()) || !strings.Contains(err.Error(), "--edge-port") {
		t.Errorf("got %v, want an error naming the edge, the address and --edge-port", err)
	}
}

func TestTLSDoorTakesClearTextFromThisMachineAndAsksStrangersForTheToken(t *testing.T) {
	cert, pool := selfSigned(t)
	door := api.Door{Host: "127.0.0.1", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Token: "a token of some length"}
	l, err := door.Listen(0, "test", "--test")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: door.Authenticate(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "in") }))}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "roadbed.test"}}}
	defer client.CloseIdleConnections()

	get := func(scheme string, alter func(*http.Request)) int {
		t.Helper()
		req, _ := http.NewRequest("GET", scheme+"://"+l.Addr().String()+"/", nil)
		alter(req)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	plain := func(*http.Request) {}
	if got := get("http", plain); got != 200 {
		t.Errorf("clear text from this machine: got %d, want 200", got)
	}
	if got := get("https", plain); got != 401 {
		t.Errorf("TLS without the token: got %d, want 401", got)
	}
	if got := get("https", func(r *http.Request) { r.Header.Set("Authorization", "Bearer wrong") }); got != 401 {
		t.Errorf("TLS with a wrong token: got %d, want 401", got)
	}
	if got := get("https", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+door.Token) }); got != 200 {
		t.Errorf("TLS with the token: got %d, want 200", got)
	}
	if got := get("https", func(r *http.Request) { r.SetBasicAuth("anyone", door.Token) }); got != 200 {
		t.Errorf("TLS with the token as a password: got %d, want 200", got)
	}
	if got := get("https", func(r *http.Request) { r.Header.Set("X-Config-Token", door.Token) }); got != 200 {
		t.Errorf("TLS with the token in X-Config-Token: got %d, want 200", got)
	}
	silent, err := net.Dial("tcp", l.Addr().String()) // says nothing; must not keep Close waiting
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"roadbed.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestOpenAPIDescribesTheOperations(t *testing.T) {
	srv, _ := newSurface(t)
	var doc struct {
		OpenAPI string
		Paths   map[string]any
	}
	if err := (&api.Client{Base: srv.URL}).Do(t.Context(), "GET", "/api/v1/openapi.json", nil, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Paths["/api/v1/echo"] == nil {
		t.Errorf("got OpenAPI %q with paths %v, want 3.1 with /api/v1/echo", doc.OpenAPI, doc.Paths)
	}
}

func ExampleSurface() {
	s := api.New("example", "v1")
	type out struct{ Body []string }
	huma.Get(s.API, "/api/v1/zones", func(context.Context, *struct{}) (*out, error) {
		return &out{Body: []string{"zone-a", "zone-b"}}, nil
	})
	rec := httptest.NewRecorder()
	s.ServeHTTP(rec, httptest.NewRequest("GET", "http://localhost/api/v1/zones", nil))
	fmt.Println(rec.Code, strings.TrimSpace(rec.Body.String()))
	// Output: 200 ["zone-a","zone-b"]
}

func FuzzClientReadsAnyEventStream(f *testing.F) {
	f.Add([]byte("event: a\ndata: 1\n\n: beat\n\ndata: 2\ndata: 3\n\n"))
	f.Add([]byte("data: \n\nid: 7\nretry: x\n\n\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		srv := roundTripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(stream))}, nil
		})
		c := &api.Client{Base: "http://x", HTTP: &http.Client{Transport: srv}}
		err := c.Follow(context.Background(), "/", func(string, []byte) error { return nil })
		if err == nil {
			t.Error("a stream that ended: got no error")
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestAdmitsSaysBeforehandWhatHandlersSay asks both of each pair of headers.
func TestAdmitsSaysBeforehandWhatHandlersSay(t *testing.T) {
	const token = "a token of some length"
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("any:"+token))
	for _, door := range []api.Door{{}, {Token: token}, {Token: token, Local: true}} {
		h := door.Authenticate(api.SameSite(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
		for _, host := range []string{"localhost", "localhost:8761", "a.LOCALHOST", "127.0.0.1:1", "[::1]:8761", "10.1.2.3", "evil.example", "localhost.evil.example", ""} {
			for _, authorization := range []string{"", "Bearer " + token, "bearer " + token, "Bearer", "Bearer " + token + "x", basic, strings.ToLower(basic), "Basic !", token} {
				r := httptest.NewRequest("PUT", "/eureka/apps/A/i", nil)
				r.Host = host
				if authorization != "" {
					r.Header.Set("Authorization", authorization)
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if got, want := door.Admits(host, authorization), w.Code == http.StatusOK; got != want {
					t.Errorf("door with token %v, strict %v; host %q, authorization %q: Admits says %v, the handlers %d", door.Token != "", door.Local, host, authorization, got, w.Code)
				}
			}
		}
	}
	if err := (api.Door{Local: true}).Validate(); err == nil || !strings.Contains(err.Error(), "--token-file") {
		t.Errorf("a strict door without a token: got %v, want what is missing", err)
	}
}
