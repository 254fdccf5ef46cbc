package service

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/stream"
	"github.com/roadbed/roadbed/platform/api/porttest"
)

// asChild makes this test binary a service, for the tests that need a process to send signals to.
const asChild = "ROADBED_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(asChild) != "" {
		s, err := Start(context.Background(), Config{Name: "child", Handler: http.HandlerFunc(greet), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.Addr())
		if err := s.Wait(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println("drained")
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func greet(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }

// platform is just enough of registry, config and telemetry to see what a service tells them.
type platform struct {
	*httptest.Server
	props map[string]string // pushed to whoever watches

	mu    sync.Mutex
	heard []string // "POST STARTING", "DELETE", "publish", in order; guarded by mu
	body  string   // of the last publication; guarded by mu
	news  chan struct{}
}

func startPlatform(t *testing.T, props map[string]string) *platform {
	p := &platform{props: props, news: make(chan struct{}, 100)}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	for k, v := range map[string]string{
		"ROADBED_REGISTRY": p.URL, "ROADBED_CONFIG": p.URL, "ROADBED_TELEMETRY": p.URL,
		"ROADBED_APP": "catalog", "ROADBED_GROUP": "catalog-prod-v003", "ROADBED_INSTANCE": "catalog-prod-v003-1-abcd", "ROADBED_HOST": "127.0.0.1",
		"ROADBED_REGION": "local", "ROADBED_ZONE": "zone-b", "ROADBED_CRITICALITY": "DEGRADED", "PORT": "0",
	} {
		t.Setenv(k, v)
	}
	return p
}

var status = regexp.MustCompile(`"status":"([A-Z_]+)"`)

func (p *platform) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	switch path := r.URL.Path; {
	case path == "/api/v1/publish":
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzip, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				panic(err)
			}
			if body, err = io.ReadAll(unzip); err != nil {
				panic(err)
			}
		}
		p.note("publish", string(body))
	case path == "/config/v1/watch":
		data, err := json.Marshal(config.Snapshot{Rev: 1, Properties: p.props})
		if err != nil {
			panic(err)
		}
		sendEvent(w, r, "snapshot", data)
	case path == "/registry/v1/watch":
		sendEvent(w, r, "snapshot", []byte(`{"instances":[]}`))
	case strings.HasPrefix(path, "/eureka/apps/CATALOG"):
		what := r.Method
		if r.Method == http.MethodPost {
			what += " as somebody else"
			if bytes.Contains(body, []byte(`"catalog-prod-v003-1-abcd"`)) && bytes.Contains(body, []byte(`"catalog-prod-v003"`)) {
				what = "POST " + string(status.FindSubmatch(body)[1])
			}
			w.WriteHeader(http.StatusNoContent)
		}
		p.note(what, "")
	default:
		http.NotFound(w, r)
	}
}

func sendEvent(w http.ResponseWriter, r *http.Request, name string, data []byte) {
	w.Header().Set("Content-Type", "text/event-stream")
	fmt.Fprintf(w, "id: 1-x\nevent: %s\ndata: %s\n\n", name, data)
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func (p *platform) note(what, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, what)
	if body != "" {
		p.body += body
	}
	p.news <- struct{}{}
}

// wait returns once the platform has heard what.
func (p *platform) wait(t *testing.T, what string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		p.mu.Lock()
		ok, heard := slices.Contains(p.heard, what), slices.Clone(p.heard)
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-p.news:
		case <-late:
			t.Fatalf("the platform did not hear %q, but %q", what, heard)
		}
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// client has connections of its own, for a kept one would hide that a service stopped listening.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestEveryServiceStreamsToDashboardsUntilItStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Config{Name: "hello", Handler: http.HandlerFunc(greet), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.Calls().Command("catalog", ipc.Settings{Timeout: time.Second})
	for _, path := range stream.Paths {
		if path == "/hystrix/request.stream" {
			continue // it says nothing before there are requests
		}
		resp, err := http.Get("http://" + s.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if line := lines.Text(); strings.HasPrefix(line, "data: {") && strings.Contains(line, `"catalog"`) {
				break
			} else if line != "" && line != "ping: " {
				t.Errorf("%s: got %q", path, line)
				break
			}
		}
	}
	s.stopWithin = time.Minute // so that a busy machine is not taken for it
	begin := time.Now()
	cancel()
	if err := s.Wait(); err != nil {
		t.Errorf("Wait: got %v, want nil", err)
	}
	if took := time.Since(begin); took > s.stopWithin/2 {
		t.Errorf("a service with open streams took %v to stop", took)
	}
}

func TestServesWithoutAPlatformAndWarnsOnce(t *testing.T) {
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Config{Name: "hello", Version: "7", Handler: http.HandlerFunc(greet), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + s.Addr()
	for path, want := range map[string]string{"/": "hello", "/healthcheckup": "hello", "/metrics": "ipc_server_call", "/ipc/state": "", "/ipc/why": "ask /ipc/why?vip=", "/ipc/events": `"events"`,
		"/info": `"app":"hello"`} {
		if status, body := get(t, base+path); status != http.StatusOK || !strings.Contains(body, want) && path != "/metrics" {
			t.Errorf("GET %s: got %d %s, want 200 with %q", path, status, body, want)
		}
	}
	if _, body := get(t, base+"/metrics"); !strings.Contains(body, "ipc_server_call") || !strings.Contains(body, `nf_app="hello"`) {
		t.Errorf("/metrics lacks what the handler served: %s", body)
	}
	var i struct {
		Host, Version, Criticality string
		Port                       int
		PID                        int
	}
	if _, body := get(t, base+"/info"); json.Unmarshal([]byte(body), &i) != nil || i.Version != "7" || i.Criticality != "CRITICAL" ||
		i.PID != os.Getpid() || net.JoinHostPort(i.Host, strconv.Itoa(i.Port)) != s.Addr() {
		t.Errorf("/info: got %s", body)
	}
	s.settle = time.Minute // so that a busy machine is not taken for it
	begin := time.Now()
	cancel()
	if err := s.Wait(); err != nil {
		t.Errorf("Wait: got %v, want nil", err)
	}
	if took := time.Since(begin); took > s.settle/2 {
		t.Errorf("without callers draining took %v, of the %v they would need", took, s.settle)
	}
	if got := strings.Count(log.String(), "level=WARN"); got != 1 || !strings.Contains(log.String(), "ROADBED_REGISTRY") {
		t.Errorf("got %d warnings, want one that names ROADBED_REGISTRY:\n%s", got, &log)
	}
}

func TestAnAdminPortAnswersApartFromTraffic(t *testing.T) {
	p := startPlatform(t, nil)
	t.Setenv("ROADBED_ADMIN_PORT", "0")
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Config{Name: "catalog", Handler: http.HandlerFunc(greet), Metadata: map[string]string{"team": "films", "criticality": "no"}, Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	p.wait(t, "POST UP")
	_, port, _ := net.SplitHostPort(s.AdminAddr())
	if m := s.Instance().Metadata; m["management.port"] != port || m["team"] != "films" || m["criticality"] != "DEGRADED" {
		t.Errorf("registered with %v, want management.port %s and team films", m, port)
	}
	for path, want := range map[string]string{"/healthcheck": "UP", "/info": "catalog", "/metrics": "nf_app", "/ipc/state": "commands", "/ipc/why": "", "/ipc/events": ""} {
		if status, body := get(t, "http://"+s.AdminAddr()+path); status != http.StatusOK || !strings.Contains(body, want) && path != "/metrics" {
			t.Errorf("GET %s at the admin port: got %d %s, want 200 with %q", path, status, body, want)
		}
		if _, body := get(t, "http://"+s.Addr()+path); (body == "hello") != (path != "/healthcheck") {
			t.Errorf("GET %s among the traffic: got %q, want only /healthcheck to be answered by the service itself", path, body)
		}
	}
	if status, _ := get(t, "http://"+s.AdminAddr()+"/films"); status != http.StatusNotFound {
		t.Errorf("traffic at the admin port: got %d, want 404", status)
	}
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

func TestTakesNoTrafficBeforeItIsHealthy(t *testing.T) {
	p := startPlatform(t, nil)
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Config{Name: "catalog", Handler: http.HandlerFunc(greet), Log: discard(), Health: func(ctx context.Context) error {
		select {
		case <-ready:
			return nil
		case <-ctx.Done():
			return errors.New("still loading")
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.wait(t, "POST STARTING")
	if status, body := get(t, "http://"+s.Addr()+"/healthcheck"); status != http.StatusServiceUnavailable || !strings.Contains(body, "STARTING") {
		t.Errorf("/healthcheck before it is healthy: got %d %s, want 503 STARTING", status, body)
	}
	close(ready)
	p.wait(t, "POST UP")
	if status, body := get(t, "http://"+s.Addr()+"/healthcheck"); status != http.StatusOK || !strings.Contains(body, "UP") {
		t.Errorf("/healthcheck when healthy: got %d %s, want 200 UP", status, body)
	}
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

func TestDrainsWithoutLosingARequest(t *testing.T) {
	addr := porttest.Hold(t) // where nobody else listens when the service no longer does
	p := startPlatform(t, nil)
	t.Setenv("PORT", strings.TrimPrefix(addr, "127.0.0.1:"))
	entered, release := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Config{Name: "catalog", Log: discard(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(entered)
			<-release
		}
		greet(w, r)
	})})
	if err != nil {
		t.Fatal(err)
	}
	p.wait(t, "POST UP")
	slow := make(chan error, 1)
	go func() {
		resp, err := client.Get("http://" + s.Addr() + "/slow")
		if err == nil {
			defer resp.Body.Close()
			if body, _ := io.ReadAll(resp.Body); string(body) != "hello" {
				err = fmt.Errorf("got %q", body)
			}
		}
		slow <- err
	}()
	<-entered
	s.settle = 5 * time.Second // time for two requests, also on a busy machine
	cancel()
	<-s.Draining()
	p.wait(t, "DELETE")
	// Callers that have not heard yet are still served.
	if status, body := get(t, "http://"+s.Addr()+"/"); status != http.StatusOK || body != "hello" {
		t.Errorf("a request after the cancellation: got %d %s, want it served", status, body)
	}
	if status, _ := get(t, "http://"+s.Addr()+"/healthcheck"); status != http.StatusServiceUnavailable {
		t.Errorf("/healthcheck while draining: got %d, want 503", status)
	}
	for { // until it no longer listens, with the slow request still inside
		c, err := net.Dial("tcp", s.Addr())
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(10 * time.Millisecond)
	}
	select {
	case <-s.done:
		t.Error("the service ended with a request in flight")
	default:
	}
	close(release)
	if err := <-slow; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := s.Wait(); err != nil {
		t.Errorf("Wait: got %v, want nil", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.heard, "DELETE"); slices.ContainsFunc(p.heard[i:], func(s string) bool { return strings.HasPrefix(s, "P") }) {
		t.Errorf("the registry heard %q: it was told something after the cancellation", p.heard)
	}
	for _, want := range []string{`nf.app`, `catalog-prod-v003-1-abcd`, `catalog-prod`, `zone-b`, `ipc.server.call`} {
		if !strings.Contains(p.body, want) {
			t.Errorf("the last publication of meters lacks %s: %.500s", want, p.body)
		}
	}
}

func TestConnectionsWithoutARequestDoNotDelayTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := Start(ctx, Config{Name: "hello", Handler: http.HandlerFunc(greet), Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if status, _ := get(t, "http://"+s.Addr()+"/"); status != http.StatusOK { // accepted later, so c was accepted too
		t.Errorf("got %d", status)
	}
	s.stopWithin = time.Minute // so that a busy machine is not taken for it
	begin := time.Now()
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > s.stopWithin/2 {
		t.Errorf("the end took %v with an unused connection open, want about %v", took, firstRequest)
	}
}

func TestPropertiesAndFaultKeyComeFromThePlatform(t *testing.T) {
	startPlatform(t, map[string]string{"fault.key": "secret", "greeting": "good day"})
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan string, 1)
	s, err := Start(ctx, Config{Name: "catalog", Log: discard(), Build: func(s *Service) (http.Handler, error) {
		s.Properties().String("greeting", "hello").OnChange(func(_, now string) { changed <- now })
		return http.HandlerFunc(greet), nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-changed:
		if got != "good day" {
			t.Errorf("property greeting: got %q", got)
		}
	case <-time.After(time.Minute):
		t.Error("no property came within a minute")
	}
	if got := string(faultKey(s.Properties())()); got != "secret" {
		t.Errorf("fault key: got %q, want that of the platform", got)
	}
	cancel()
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
	if k := faultKey(nil)(); k != nil {
		t.Errorf("fault key without properties: got %q, want none", k)
	}
}

func TestGoesOnWithThePlatformAway(t *testing.T) {
	p := startPlatform(t, nil)
	p.Close()             // nobody listens there any more
	quickest := time.Hour // of several, for the machine may be busy
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		s, err := Start(ctx, Config{Name: "catalog", Handler: http.HandlerFunc(greet), Log: discard()})
		if err != nil {
			t.Fatal(err)
		}
		if status, body := get(t, "http://"+s.Addr()+"/"); status != http.StatusOK || body != "hello" {
			t.Errorf("got %d %s", status, body)
		}
		begin := time.Now()
		cancel()
		if err := s.Wait(); err != nil {
			t.Error(err)
		}
		quickest = min(quickest, time.Since(begin))
	}
	if quickest > 4*time.Second {
		t.Errorf("draining with the platform away took %v and more, each of three times", quickest)
	}
}

func TestHealthIsAskedEveryFiveSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sick atomic.Pointer[error]
		s := &Service{log: discard(), draining: make(chan struct{})}
		s.c.Health = func(context.Context) error { return *sick.Load() }
		s.status.Store(roadbed.Starting)
		ctx, cancel := context.WithCancel(t.Context())
		for i, c := range []struct {
			sick error
			want roadbed.Status
		}{{errors.New("loading"), roadbed.Starting}, {errors.New("loading"), roadbed.Starting}, {nil, roadbed.Up}, {errors.New("no disk"), roadbed.Down},
			{nil, roadbed.Up}} {
			sick.Store(&c.sick)
			if i == 0 {
				go s.check(ctx, nil)
			} else {
				time.Sleep(healthEvery)
			}
			synctest.Wait()
			if got := s.Status(); got != c.want {
				t.Errorf("health %v: got %s, want %s", c.sick, got, c.want)
			}
		}
		cancel()
		synctest.Wait()
	})
}

func TestStartRefusesWhatCannotBeMeant(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	h := http.HandlerFunc(greet)
	build := func(*Service) (http.Handler, error) { return nil, errors.New("no film") }
	for _, c := range []struct {
		config Config
		env    [2]string
		want   string
	}{
		{Config{Handler: h}, [2]string{}, "app is empty"},
		{Config{Name: "a b", Handler: h}, [2]string{}, "only letters"},
		{Config{Name: "api-v003", Handler: h}, [2]string{}, `"api"`},
		{Config{Name: "api"}, [2]string{}, "neither Handler nor Build"},
		{Config{Name: "api", Handler: h, Build: build}, [2]string{}, "both Handler and Build"},
		{Config{Name: "api", Build: build}, [2]string{}, "no film"},
		{Config{Name: "api", Handler: h, Addr: taken.Addr().String()}, [2]string{}, "taken by another process"},
		{Config{Name: "api", Handler: h}, [2]string{"PORT", "http"}, "PORT"},
		{Config{Name: "api", Handler: h}, [2]string{"PORT", "70000"}, "PORT"},
		{Config{Name: "api", Handler: h}, [2]string{"ROADBED_ADMIN_PORT", "-1"}, "ROADBED_ADMIN_PORT"},
		{Config{Name: "api", Handler: h, Admin: taken.Addr().String()}, [2]string{}, "admin address"},
		{Config{Name: "api", Handler: h, Beside: "127.0.0.1:1"}, [2]string{}, "either it serves or what is beside it does"},
		{Config{Name: "api", Beside: "3000"}, [2]string{}, "127.0.0.1:3000"},
		{Config{Name: "api", Handler: h}, [2]string{"ROADBED_CRITICALITY", "HIGH"}, "ROADBED_CRITICALITY"},
		{Config{Name: "api", Handler: h}, [2]string{"ROADBED_PROPERTIES", "a=1;b"}, "ROADBED_PROPERTIES"},
	} {
		t.Run(c.want, func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			c.config.Log = discard()
			s, err := Start(t.Context(), c.config)
			if err == nil {
				t.Fatalf("it started at %s", s.Addr())
			}
			if !strings.HasPrefix(err.Error(), "service: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q, want it to say %q", err, c.want)
			}
		})
	}
}

func TestTheEnvironmentSaysWhoTheServiceIs(t *testing.T) {
	vars := map[string]string{"ROADBED_APP": "web", "ROADBED_REGISTRY": "http://a:1, http://b:2,", "PORT": "8081", "ROADBED_ZONE": "zone-c",
		"ROADBED_CRITICALITY": "best-effort", "ROADBED_GROUP": "web-prod-big-v012", "ROADBED_REGION": "local", "ROADBED_PROPERTIES": " web.rows = 5 ; web.hosts=a,b=c;",
		"NETFLIX_ENVIRONMENT": "prod"}
	e, err := readEnv(func(k string) string { return vars[k] })
	if err != nil {
		t.Fatal(err)
	}
	if e.host != "127.0.0.1" || len(e.registry) != 2 || e.registry[1] != "http://b:2" || *e.criticality != roadbed.BestEffort {
		t.Errorf("got %+v", e)
	}
	if want := map[string]string{"web.rows": "5", "web.hosts": "a,b=c"}; !maps.Equal(e.override, want) {
		t.Errorf("properties: got %q, want %q", e.override, want)
	}
	i := e.instance(Config{Name: "Web", Version: "3"}, 8081)
	if i.ID != "127.0.0.1:Web:8081" || i.App != "web" || i.VIP != "web" || i.Metadata["zone"] != "zone-c" || i.Metadata["env"] != "prod" || i.Metadata["version"] != "3" ||
		i.Status != roadbed.Starting {
		t.Errorf("instance without an id of the fleet: got %+v", i)
	}
	sc := e.scope(i, "web-prod-big")
	if want := (config.Scope{Env: "prod", App: "web", Stack: "prod", Region: "local", Zone: "zone-c", Cluster: "web-prod-big", Group: "web-prod-big-v012",
		Instance: i.ID}); sc != want {
		t.Errorf("scope: got %+v, want %+v", sc, want)
	}
}

func TestSIGTERMDrainsTheProcess(t *testing.T) {
	for _, sig := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), asChild+"=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Fatal("the child said nothing")
		}
		if status, body := get(t, "http://"+lines.Text()+"/"); status != http.StatusOK || body != "hello" {
			t.Errorf("the child answers %d %s", status, body)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != "drained" {
			t.Errorf("after %v: the child said %q, want drained", sig, lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: got %v, want exit code 0", sig, err)
		}
	}
}
