package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/ipc/stream/turbine"
)

// asNeighbour makes this test binary a neighbour that a sidecar starts: it exits with that status when it is asked for
// /exit, and prints a line when it is asked to end.
const asNeighbour = "SIDECAR_TEST_NEIGHBOUR"

func TestMain(m *testing.M) {
	if os.Getenv(asNeighbour) != "" {
		http.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
		http.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "%s %s", os.Getenv("PORT"), os.Getenv("http_proxy"))
		})
		fmt.Fprintln(os.Stderr, http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
		os.Exit(1)
	}
	goleak.VerifyTestMain(&tests{m})
}

// tests drain their sidecars, which takes a while, beside each other.
type tests struct{ m *testing.M }

var draining sync.WaitGroup

func (t *tests) Run() int {
	code := t.m.Run()
	draining.Wait()
	return code
}

// platform is as much of registry and config as a sidecar speaks to.
type platform struct {
	*httptest.Server
	mu        sync.Mutex
	instances []roadbed.Instance
	heard     []string // method and, of registrations, what is in them
	news      chan struct{}
}

func startPlatform(t *testing.T, props map[string]string, instances ...roadbed.Instance) *platform {
	p := &platform{instances: instances, news: make(chan struct{}, 100)}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/registry/v1/watch":
			p.mu.Lock()
			data, _ := json.Marshal(map[string]any{"instances": p.instances})
			p.mu.Unlock()
			events(w, r, data)
		case r.URL.Path == "/config/v1/watch":
			data, _ := json.Marshal(config.Snapshot{Rev: 1, Properties: props})
			events(w, r, data)
		case strings.HasPrefix(r.URL.Path, "/eureka/apps/"):
			body, _ := io.ReadAll(r.Body)
			p.mu.Lock()
			p.heard = append(p.heard, r.Method+" "+string(body))
			p.mu.Unlock()
			p.news <- struct{}{}
			w.WriteHeader(http.StatusNoContent)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	t.Cleanup(p.CloseClientConnections)
	t.Setenv("ROADBED_REGISTRY", p.URL)
	t.Setenv("ROADBED_CONFIG", p.URL)
	return p
}

func events(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "id: 1-x\nevent: snapshot\ndata: %s\n\n", data)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

// wait returns once the registry has heard a request of that method with all parts in it.
func (p *platform) wait(t *testing.T, method string, parts ...string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		p.mu.Lock()
		for _, h := range p.heard {
			ok := strings.HasPrefix(h, method)
			for _, part := range parts {
				ok = ok && strings.Contains(h, part)
			}
			if ok {
				p.mu.Unlock()
				return
			}
		}
		heard := fmt.Sprintf("%.600q", p.heard)
		p.mu.Unlock()
		select {
		case <-p.news:
		case <-late:
			t.Fatalf("the registry did not hear %s with %q, but %s", method, parts, heard)
		}
	}
}

// instanceOf is one of app at the address of a test server.
func instanceOf(app, at string) roadbed.Instance {
	u, _ := url.Parse(at)
	port, _ := strconv.Atoi(u.Port())
	return roadbed.Instance{ID: app + "-" + u.Port(), App: app, VIP: app + ".vip", Host: u.Hostname(), Port: port, Status: roadbed.Up}
}

// start starts a sidecar that ends with the test and knows all instances of the platform.
func start(t *testing.T, c Config) *Sidecar {
	t.Helper()
	if c.App == "" {
		c.App = "shop"
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := begin(t, c)
	if s.names.found != nil {
		await(t, "the list of instances", func() bool { return len(s.names.found.Apps()) > 0 })
	}
	return s
}

// begin starts a sidecar that ends after the test.
func begin(t *testing.T, c Config) *Sidecar {
	ctx, cancel := context.WithCancel(context.Background())
	s, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		draining.Go(func() {
			if err := s.Wait(); err != nil {
				panic(err)
			}
		})
	})
	return s
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for late := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("%s did not come within a minute", what)
		}
	}
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv
}

func addrOf(srv *httptest.Server) string { return srv.Listener.Addr().String() }

func greet(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }

// via is a client that has the sidecar for its proxy.
func via(t *testing.T, s *Sidecar) *http.Client {
	at, err := url.Parse("http://" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(at), DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

type reply struct {
	status int
	body   string
	header http.Header
}

func do(t *testing.T, c *http.Client, method, at string, body io.Reader, header ...string) reply {
	t.Helper()
	req, err := http.NewRequest(method, at, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, at, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, at, err)
	}
	return reply{resp.StatusCode, string(b), resp.Header}
}

// once is a client without kept connections.
var once = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

func TestTheTableOfEndpoints(t *testing.T) {
	var sick bool
	var mu sync.Mutex
	neighbour := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if sick {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL, r.Header.Get("X-Question"), body)
	})
	down := instanceOf("recommendations", "http://127.0.0.1:9")
	down.Host, down.Status = "dead", roadbed.Down
	startPlatform(t, map[string]string{"shop.rows": "5", "shop.note": "${shop.rows} rows", "fault.key": "00ff"}, instanceOf("recommendations", recs.URL), down)
	plain := start(t, Config{To: addrOf(neighbour), Properties: map[string]string{"shop.rows": "1", "only.here": "x"}})
	prana := start(t, Config{To: addrOf(neighbour), Prana: true})
	await(t, "UP", func() bool { return plain.Status() == roadbed.Up && prana.Status() == roadbed.Up })
	await(t, "properties", func() bool { text, _ := plain.props.Lookup("shop.rows"); return text == "5" })

	const xmlError = "<status><status_code>500</status_code><message>Error forwarding request to origin</message></status>"
	for _, c := range []struct {
		method, path, body    string
		status, quirk         int
		want, quirkWant, kind string
	}{
		{"GET", "/ping", "", 200, 200, "pong", "pong", ""},
		{"GET", "/status", "", 200, 200, `{"status":"UP"}`, `{"status":"UP"}`, ""},
		{"GET", "/healthcheck", "", 200, 200, "<health>ok</health>", "<health>ok</health>", ""},
		{"GET", "/eureka/hosts?appName=RECOMMENDATIONS", "", 200, 200, `["127.0.0.1"]`, `["127.0.0.1","dead"]`, ""},
		{"GET", "/eureka/hosts?appName=recommendations&vip=ions.v", "", 200, 200, `["127.0.0.1"]`, `["127.0.0.1","dead"]`, ""},
		{"GET", "/eureka/hosts?appName=recommendations&vip=other", "", 200, 200, `[]`, `[]`, ""},
		{"GET", "/eureka/hosts?appName=nobody", "", 200, 200, `[]`, `[]`, ""},
		{"GET", "/eureka/hosts", "", 400, 200, `{"reason":"Bad Request","message":"appName has to be specified"}`, `{"reason":"Bad Request","message":"appName has to be specified"}`, "badrequest"},
		{"GET", "/dynamicproperties?id=shop.note&id=none&id=only.here", "", 200, 200, `{"none":null,"only.here":"x","shop.note":"5 rows"}`, `{"none":null,"only.here":null,"shop.note":"5 rows"}`, ""},
		{"GET", "/dynamicproperties?id=fault.key", "", 200, 200, `{"fault.key":null}`, `{"fault.key":null}`, ""},
		{"GET", "/dynamicproperties", "", 200, 200, `{}`, `{}`, ""},
		{"PUT", "/proxy?vip=recommendations&path=/users/42%3Fa%3D1", "film", 202, 202, "PUT /users/42?a=1 why film", "PUT /users/42?a=1 why film", ""},
		{"GET", "/proxy?vip=recommendations.vip&path=users", "", 202, 202, "GET /users why ", "GET /users why ", ""},
		{"GET", "/proxy?vip=nobody&path=/", "", 503, 200, `no instance of "nobody" is known`, xmlError, "noendpoint"},
		{"GET", "/proxy?path=/", "", 400, 200, "say whom to call", xmlError, "badrequest"},
		{"GET", "/proxy?vip=127.0.0.1:9&path=/", "", 502, 200, "connection refused", xmlError, "error"},
		{"GET", "/v1/fit/cache?name=film", "", 200, 200, `{"point":"cache","name":"film","inject":false}`, `{"point":"cache","name":"film","inject":false}`, ""},
		{"GET", "/info", "", 200, 200, `"app":"shop"`, `"app":"shop"`, ""},
		{"GET", "/ipc/state", "", 200, 200, `"recommendations"`, `"recommendations"`, ""},
		{"GET", "/nothing", "", 404, 404, "not found", "not found", ""},
	} {
		for _, mode := range []struct {
			name, base string
			status     int
			want       string
		}{{"default", "http://" + plain.Addr(), c.status, c.want}, {"prana", "http://" + prana.Addr(), c.quirk, c.quirkWant}} {
			var body io.Reader
			if c.body != "" {
				body = strings.NewReader(c.body)
			}
			got := do(t, once, c.method, mode.base+c.path, body, "X-Question", "why")
			if got.status != mode.status || !strings.Contains(got.body, mode.want) || got.header.Get(headerError) != c.kind {
				t.Errorf("%s %s, mode %s: got %d %q with %s %q, want %d with %q and %q", c.method, c.path, mode.name, got.status, got.body, headerError, got.header.Get(headerError), mode.status, mode.want, c.kind)
			}
		}
	}
	if got := do(t, once, "GET", "http://"+plain.Addr()+"/ping", nil).header.Get("Cache-Control"); got != "must-revalidate,no-cache,no-store" {
		t.Errorf("/ping: Cache-Control is %q", got)
	}
	mu.Lock()
	sick = true
	mu.Unlock()
	for s, want := range map[*Sidecar]int{plain: 503, prana: 200} {
		got := do(t, once, "GET", "http://"+s.Addr()+"/healthcheck", nil)
		if got.status != want || got.body != "<health>fail</health>" || got.header.Get("Content-Type") != "application/xml" {
			t.Errorf("/healthcheck of a sick neighbour: got %d %q, want %d <health>fail</health>", got.status, got.body, want)
		}
	}
}

func TestANeighbourIsRegisteredFollowedAndTakenOut(t *testing.T) {
	p := startPlatform(t, nil, instanceOf("other", "http://127.0.0.1:9"))
	neighbour := serve(t, greet)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Config{App: "shop", To: addrOf(neighbour), Listen: "127.0.0.1:0", VIP: "shop.prod", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(addrOf(neighbour))
	p.wait(t, "POST", `"status":"UP"`, `"app":"SHOP"`, port, `"vipAddress":"shop.prod"`)
	if s.Registered() != addrOf(neighbour) {
		t.Errorf("registered: got %s, want the neighbour's %s", s.Registered(), addrOf(neighbour))
	}
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	p.wait(t, "DELETE")
}

func TestCallsByProxyByHostAndByTunnelAreTheSame(t *testing.T) {
	recs := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s by %s", r.Header.Get("X-Forwarded-Host"), r.URL, r.Header.Get("X-Ipc-Caller"))
	})
	startPlatform(t, nil, instanceOf("recommendations", recs.URL))
	s := start(t, Config{To: addrOf(serve(t, greet))})
	want := "recommendations /users/42?a=1 by shop"
	if got := do(t, via(t, s), "GET", "http://recommendations/users/42?a=1", nil); got.body != want {
		t.Errorf("as a proxy: got %q, want %q", got.body, want)
	}
	if got := do(t, once, "GET", "http://"+s.Addr()+"/users/42?a=1", nil, "Host", "recommendations"); got.body != want {
		t.Errorf("by its host: got %q, want %q", got.body, want)
	}
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The request may come before the tunnel is agreed to.
	io.WriteString(conn, "CONNECT recommendations:80 HTTP/1.1\r\nHost: recommendations:80\r\n\r\nGET /users/42?a=1 HTTP/1.1\r\nHost: recommendations\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(conn); !strings.HasPrefix(string(got), "HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK") || !bytes.HasSuffix(got, []byte(want)) {
		t.Errorf("by a tunnel: got %q, want %q", got, want)
	}
	states := fmt.Sprint(s.calls.Snapshot())
	if !strings.Contains(states, "recommendations/users") {
		t.Errorf("the command is not called after app and first segment: %s", states)
	}
}

func TestTurbineOfTheSameMachineAddsUpWhatASidecarCalls(t *testing.T) {
	recs := serve(t, greet)
	startPlatform(t, nil, instanceOf("recommendations", recs.URL))
	s := start(t, Config{To: addrOf(serve(t, greet))})
	do(t, via(t, s), "GET", "http://recommendations/users/42", nil)

	shop := s.svc.Instance()
	shop.Status = roadbed.Up
	registry := startPlatform(t, nil, shop)
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	found := discovery.New(discovery.Config{Registry: []string{registry.URL}, Log: log})
	var running sync.WaitGroup
	running.Go(func() { found.Run(ctx) }) //nolint:errcheck // it ends with the test
	sums := turbine.New(turbine.Config{Discovery: found, Log: log})
	srv := httptest.NewServer(sums)
	defer func() { sums.Close(); srv.Close(); cancel(); running.Wait() }()
	await(t, "the list of instances", func() bool { return len(found.Apps()) > 0 })
	resp, err := once.Get(srv.URL + "/turbine.stream?cluster=shop")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); ; {
		if !lines.Scan() {
			t.Fatalf("the sums end without the sidecar's command: %v", lines.Err())
		}
		if strings.Contains(lines.Text(), `"name":"recommendations/users"`) {
			return
		}
	}
}

func TestHostsThatNoRegistryKnowsArePassedOn(t *testing.T) {
	far := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For")+r.Header.Get(headerPassed)+r.Header.Get("X-Ipc-Caller") != "" {
			t.Errorf("somebody else's server is told of us: %v", r.Header)
		}
		fmt.Fprint(w, "far")
	})
	startPlatform(t, nil, instanceOf("recommendations", "http://127.0.0.1:9"))
	s := start(t, Config{To: addrOf(serve(t, greet))})
	if got := do(t, via(t, s), "GET", far.URL+"/", nil); got.status != 200 || got.body != "far" {
		t.Errorf("GET %s: got %d %q", far.URL, got.status, got.body)
	}
	got := do(t, via(t, s), "GET", "http://nobody/", nil)
	if got.status != 503 || got.header.Get(headerError) != "noendpoint" || !strings.Contains(got.body, "roadbed instance list") {
		t.Errorf("GET http://nobody/: got %d %q", got.status, got.body)
	}
	if n := len(s.calls.Snapshot()); n != 0 {
		t.Errorf("hosts that are no apps left %d commands", n)
	}
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n", addrOf(far))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: far\r\nConnection: close\r\n\r\n")
	if got, _ := io.ReadAll(conn); !strings.HasSuffix(string(got), "far") {
		t.Errorf("a tunnel: got %q", got)
	}
}

func TestANeighbourThatItStartedEndsWithItAndItWithTheNeighbour(t *testing.T) {
	t.Setenv(asNeighbour, "1")
	t.Setenv("PORT", "")
	for _, killed := range []bool{false, true} {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := Start(ctx, Config{App: "shop", Command: []string{os.Args[0]}, Listen: "127.0.0.1:0", Inbound: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		await(t, "UP", func() bool { return s.Status() == roadbed.Up })
		_, port, _ := net.SplitHostPort(s.Neighbour())
		if got := do(t, once, "GET", "http://"+s.Registered()+"/env", nil); got.body != port+" http://"+s.Addr() {
			t.Errorf("the neighbour was told %q, want port %s and the proxy %s", got.body, port, s.Addr())
		}
		if killed {
			do(t, once, "GET", "http://"+s.Registered()+"/exit", nil)
			if err := s.Wait(); err == nil || !strings.Contains(err.Error(), "shop ended by itself: exit status 3") {
				t.Errorf("after the neighbour's end: got %v", err)
			}
		}
		cancel()
		if err := s.Wait(); err != nil && !killed {
			t.Errorf("Wait: got %v, want nil", err)
		}
		if _, err := net.Dial("tcp", s.Neighbour()); err == nil {
			t.Error("the neighbour lives on")
		}
	}
	if _, err := Start(t.Context(), Config{App: "shop", Command: []string{"/no/such/program"}, Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "cannot be started") {
		t.Errorf("a command that is none: got %v", err)
	}
}
