package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// pushed returns properties that follow a server of one event stream, and what changes one of them there.
func pushed(t *testing.T) (*config.Properties, func(key, value string)) {
	t.Helper()
	p, set, _ := acknowledged(t)
	return p, set
}

// acknowledged is pushed, with what the properties say they took.
func acknowledged(t *testing.T) (*config.Properties, func(key, value string), <-chan config.Ack) {
	t.Helper()
	changes, acks := make(chan config.Change), make(chan config.Ack, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			var a config.Ack
			if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
				t.Error(err)
			}
			acks <- a
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		send := func(name string, data any) {
			b, err := json.Marshal(data)
			if err != nil {
				t.Error(err)
			}
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, b)
			if err := http.NewResponseController(w).Flush(); err != nil && r.Context().Err() == nil {
				t.Error(err)
			}
		}
		send("snapshot", config.Snapshot{Rev: 1, Properties: map[string]string{}})
		for {
			select {
			case c := <-changes:
				send("change", c)
			case <-r.Context().Done():
				return
			}
		}
	}))
	tr := &http.Transport{}
	p := config.New(config.Options{URL: srv.URL, Scope: config.Scope{App: "edge", Instance: "edge-1"}, HTTP: &http.Client{Transport: tr}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); tr.CloseIdleConnections(); srv.Close() })
	return p, func(key, value string) {
		now := p.String(key, "")
		seen := make(chan struct{}, 1)
		defer now.OnChange(func(_, text string) {
			if text == value {
				seen <- struct{}{}
			}
		})()
		changes <- config.Change{Rev: 2, Key: key, Value: &value}
		<-seen
	}, acks
}

func TestWhatTheEdgeCannotUseIsToldToTheServer(t *testing.T) {
	props, set, acks := acknowledged(t)
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.NotFoundHandler()})
	h.calls.Command("hello", ipc.Settings{})
	defer h.props.Prefix("edge.routes", h.write)()
	await := func(key, says string) {
		t.Helper()
		for {
			select {
			case a := <-acks:
				if says == "" && len(a.Errors) == 0 || len(a.Errors) == 1 && a.Errors[0].Key == key && strings.Contains(a.Errors[0].Error, says) {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("nothing says %q of %s", says, key)
			}
		}
	}
	set("edge.routes", `[{"id":"x"}]`)
	await("edge.routes", "at least one backend")
	set("edge.routes", `[]`)
	await("edge.routes", "")
	defer h.limits.follow(func(http1.Settings) {})() // as a door does
	set("edge.http1.pipelining", "never")
	await("edge.http1.pipelining", "use reject, serve")
	set("edge.http1.pipelining", "reject")
	await("edge.http1.pipelining", "")
	set("hystrix.command.hello.execution.isolation.thread.timeoutInMilliseconds", "soon")
	await("hystrix.command.hello.execution.isolation.thread.timeoutInMilliseconds", "use a whole number")
}

func TestTheTimeLimitOfRoutesIsAProperty(t *testing.T) {
	props, set := pushed(t)
	release := make(chan struct{})
	defer close(release)
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})})
	set("edge.timeouts.request", "50ms")
	began := time.Now()
	if resp, body := h.get(t, "/hello/slow"); resp.StatusCode != http.StatusGatewayTimeout || time.Since(began) > 5*time.Second {
		t.Errorf("a slow backend with edge.timeouts.request=50ms: got %d %q after %v, want 504 long before the usual 10 s", resp.StatusCode, body, time.Since(began))
	}
	set("edge.timeouts.request", "0")
	began = time.Now()
	if resp, body := h.get(t, "/hello/slow"); resp.StatusCode != http.StatusGatewayTimeout || time.Since(began) > 5*time.Second {
		t.Errorf("edge.timeouts.request=0: got %d %q after %v, want 504 as with the last good 50ms", resp.StatusCode, body, time.Since(began))
	}
}

func TestTheSizeOfBodiesIsAProperty(t *testing.T) {
	props, set := pushed(t)
	h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return // the edge gave up
		}
		fmt.Fprint(w, n)
	})})
	post := func(size int, chunked bool) (int, string) {
		t.Helper()
		var body io.Reader = bytes.NewReader(make([]byte, size))
		if chunked {
			body = io.MultiReader(body) // of a size nobody tells
		}
		resp, err := h.front.Client().Post(h.front.URL+"/hello/", "application/octet-stream", body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text)
	}
	if status, body := post(100_000, false); status != 200 || body != "100000" {
		t.Errorf("100 kB without a limit: got %d %s", status, body)
	}
	set("edge.body.maxBytes", "1000")
	for _, chunked := range []bool{false, true} {
		if status, body := post(1000, chunked); status != 200 || body != "1000" {
			t.Errorf("1000 bytes of 1000, chunked %v: got %d %s", chunked, status, body)
		}
		if status, body := post(1001, chunked); status != http.StatusRequestEntityTooLarge || !strings.Contains(body, "edge.body.maxBytes") {
			t.Errorf("1001 bytes of 1000, chunked %v: got %d %s, want 413", chunked, status, body)
		}
	}
}

func TestNobodyIsLetInBeforeRoutesAreKnown(t *testing.T) {
	h := newHouse(t, nil)
	d, err := h.Door(DoorConfig{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.Run(ctx, l, nil) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	answered := make(chan int, 1)
	go func() {
		resp, err := client.Get("http://" + l.Addr().String() + "/healthcheck")
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	select {
	case status := <-answered:
		t.Errorf("the edge answered %d before it knew its routes", status)
	case <-time.After(50 * time.Millisecond):
	}
	h.begun.Do(func() { close(h.ready) }) // as Run does
	if status := <-answered; status != http.StatusOK {
		t.Errorf("then it answered %d, want 200", status)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestADoorServesWithTheSettingsOfNow(t *testing.T) {
	for _, limit := range []string{"", "7"} {
		props, set := pushed(t)
		h := newHouseWith(t, props, nil)
		h.limits.files = math.MaxInt32 // else it is the machine that says how many
		d, err := h.Door(DoorConfig{Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		want := 20000 // the default
		if limit != "" {
			set("maxConnections", limit) // before the door is open
			want = 7
		}
		h.begun.Do(func() { close(h.ready) }) // as Run does
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- d.Run(ctx, l, nil) }()
		client := &http.Client{Transport: &http.Transport{}, Timeout: 10 * time.Second}
		resp, err := client.Get("http://" + l.Addr().String() + "/healthcheck")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body) // or the client would close the connection, which is counted below
		resp.Body.Close()
		if open, most := h.connections(); open != 1 || most != want {
			t.Errorf("maxConnections=%q: %d of %d connections are told to the shedder, want 1 of %d", limit, open, most, want)
		}
		client.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

func TestADoorThatNeverOpensClosesItsSockets(t *testing.T) {
	h := newHouse(t, nil)
	d, err := h.Door(DoorConfig{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Run(ctx, l, p); err != nil {
		t.Error(err)
	}
	for _, s := range []io.Closer{l, p} {
		if err := s.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%T: got %v, want it closed already", s, err)
		}
	}
}

func TestClientsNeverHaveAllFilesThatTheProcessMayOpen(t *testing.T) {
	for _, c := range []struct {
		files        uint64
		wanted, want int
	}{
		{math.MaxInt32, 0, 20_000},
		{math.MaxInt32, 100_000, 100_000},
		{20_000, 0, 18_000},
		{20_000, 500, 500},
		{20_000, 18_001, 18_000},
		{256, 0, 192}, // 64 are left
		{40, 0, 1},    // somebody gets in
		{2, 7, 1},
	} {
		l := newLimits(config.New(config.Options{Override: map[string]string{"maxConnections": fmt.Sprint(c.wanted)}, Log: slog.New(slog.DiscardHandler)}))
		l.files = c.files
		if got := l.settings().Connections; got != c.want {
			t.Errorf("%d files, %d connections wanted: got %d, want %d", c.files, c.wanted, got, c.want)
		}
	}
	if n := openFiles(); n < 3 {
		t.Errorf("this process may open %d files, want more than the three that it has", n)
	}

	props, set, acks := acknowledged(t)
	l := newLimits(props)
	l.files = 1000
	stop := l.follow(func(http1.Settings) {})
	defer stop()
	set("maxConnections", "1001")
	for a := range acks {
		if len(a.Errors) == 0 {
			continue
		}
		if f := a.Errors[0]; f.Key != "maxConnections" || !strings.Contains(f.Error, "1000 files open, so 900 hold") || !strings.Contains(f.Error, "ulimit -n") {
			t.Errorf("refused: %+v, want maxConnections and what to do", f)
		}
		return
	}
}

func TestAListenerIsToldOfOneChangeAtATimeAndOfTheNewestLast(t *testing.T) {
	props, set := pushed(t)
	l := newLimits(props)
	l.files = math.MaxInt32 // else it is the machine that says how many
	for i := range 20 {
		changed := make(chan struct{})
		go func() {
			defer close(changed)
			set("maxConnections", fmt.Sprint(1000+i))
			set("idleTimeout", fmt.Sprint(1000+i))
		}()
		inside, told := atomic.Bool{}, make(chan int, 100)
		stop := l.follow(func(s http1.Settings) {
			if !inside.CompareAndSwap(false, true) {
				t.Error("told of two changes at once")
			}
			for range 100 {
				runtime.Gosched()
			}
			told <- s.Connections
			inside.Store(false)
		})
		<-changed
		last := 5000 + i
		set("maxConnections", fmt.Sprint(last))
		for n := 0; n != last; {
			n = <-told
		}
		stop()
		for len(told) > 0 {
			if n := <-told; n != last {
				t.Errorf("told of %d connections after the newest change, to %d", n, last)
			}
		}
	}
}

func TestAFilterIsDisabledWhileTheChainRuns(t *testing.T) {
	p, set := pushed(t)
	ran := false
	end := &filter.Filter{Name: "End", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error { x.Answer(200, ""); return nil }}
	mine := &filter.Filter{Name: "Mine", Kind: filter.Inbound, Quick: true, Apply: func(*filter.Exchange) error { ran = true; return nil }}
	c, err := filter.NewChain(filter.ChainConfig{Filters: []*filter.Filter{mine}, Proxy: end, Properties: p, Meter: meter.New(nil)})
	if err != nil {
		t.Fatal(err)
	}
	runs := func() bool {
		x := &filter.Exchange{Plan: &filter.Plan{}}
		ran = false
		c.Run(x)
		return ran
	}
	for _, want := range []bool{true, false, true} {
		set("zuul.Mine.in.disable", fmt.Sprint(!want))
		for by := time.Now().Add(10 * time.Second); runs() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(by) {
				t.Fatalf("the filter is disabled: %v; ten seconds later it runs: %v", !want, !want)
			}
		}
	}
}

func TestASecretThatCouldBeGuessedIsNotUsedForTickets(t *testing.T) {
	for secret, fine := range map[string]bool{"": true, "short": false, strings.Repeat("s", 31): false, strings.Repeat("s", 32): true} {
		if err := (&tickets{Secret: secret}).Validate(); (err == nil) != fine {
			t.Errorf("%d characters: got %v, want it taken: %v", len(secret), err, fine)
		}
	}
}
