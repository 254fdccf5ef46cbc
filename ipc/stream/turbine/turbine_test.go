package turbine

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc/stream/internal/sse"
)

// instance is a process with a stream: it sends its message at once and again whenever that changes.
type instance struct {
	*httptest.Server
	path string

	mu      sync.Mutex
	message string
	changed chan struct{}
	opened  int
	open    int
}

func newInstance(t *testing.T, path, message string) *instance {
	i := &instance{path: path, message: message, changed: make(chan struct{})}
	i.Server = httptest.NewServer(i)
	t.Cleanup(func() { i.CloseClientConnections(); i.Close() })
	return i
}

func (i *instance) says(message string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.message = message
	close(i.changed)
	i.changed = make(chan struct{})
}

func (i *instance) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != i.path {
		http.NotFound(w, r)
		return
	}
	i.mu.Lock()
	i.opened++
	i.open++
	i.mu.Unlock()
	defer func() { i.mu.Lock(); i.open--; i.mu.Unlock() }()
	for {
		i.mu.Lock()
		message, changed := i.message, i.changed
		i.mu.Unlock()
		if message == "" {
			return
		}
		fmt.Fprintf(w, "ping: \n\ndata: %s\n\n", message)
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-time.After(time.Second): // as all that are known ping, so that it is not taken for broken
		case <-r.Context().Done():
			return
		}
	}
}

func (i *instance) counts() (opened, open int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.opened, i.open
}

func serve(t *testing.T, c Config) *httptest.Server {
	c.Log = slog.New(slog.DiscardHandler)
	a := New(c)
	s := httptest.NewServer(a)
	t.Cleanup(func() { a.Close(); s.Close() })
	return s
}

// reader reads a stream until stop; the messages, without their times, are in its channel, which is closed when the stream ends.
func reader(t *testing.T, address string) (got chan map[string]any, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d", address, resp.StatusCode)
	}
	got = make(chan map[string]any, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer resp.Body.Close()
		s := sse.Splitter{Event: func(b []byte) {
			var m map[string]any
			if err := json.Unmarshal(b, &m); err != nil {
				t.Errorf("%q: %v", b, err)
			}
			delete(m, "currentTime")
			got <- m
		}}
		if _, err := bufio.NewReader(resp.Body).WriteTo(&s); ctx.Err() == nil {
			t.Errorf("GET %s: the stream ended by itself: %v", address, err)
		}
		close(got)
	}()
	return got, func() {
		cancel()
		<-ended
		http.DefaultClient.CloseIdleConnections()
	}
}

// await reads messages until one is as wanted.
func await(t *testing.T, got chan map[string]any, claim, want string) {
	t.Helper()
	var w, last map[string]any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	late := time.After(time.Minute)
	for {
		select {
		case m, ok := <-got:
			if last = m; !ok {
				t.Fatalf("%s: the stream has ended", claim)
			}
			if cmp.Equal(last, w) {
				return
			}
		case <-late:
			t.Fatalf("%s (-want +last):\n%s", claim, cmp.Diff(w, last))
		}
	}
}

func TestInstancesAreReadOnceForAllReadersAndOnlyAsLongAsThereAreAny(t *testing.T) {
	one := newInstance(t, "/hystrix.stream", `{"type":"HystrixCommand","name":"A","requestCount":3,"reportingHosts":1}`)
	two := newInstance(t, "/actuator/x", `{"type":"HystrixCommand","name":"A","requestCount":4,"reportingHosts":1}`)
	s := serve(t, Config{Static: map[string][]string{"api": {one.URL + "/hystrix.stream", two.URL + "/actuator/x"}}})

	first, stopFirst := reader(t, s.URL+"/turbine.stream?cluster=API&delay=100")
	await(t, first, "both instances are added up", `{"type":"HystrixCommand","name":"A","requestCount":7,"reportingHosts":2}`)
	second, stopSecond := reader(t, s.URL+"/turbine.stream?cluster=api&delay=100")
	await(t, second, "a second reader gets the whole state", `{"type":"HystrixCommand","name":"A","requestCount":7,"reportingHosts":2}`)
	one.says(`{"type":"HystrixCommand","name":"A","requestCount":10,"reportingHosts":1}`)
	await(t, first, "a change comes to all readers", `{"type":"HystrixCommand","name":"A","requestCount":14,"reportingHosts":2}`)
	await(t, second, "a change comes to all readers", `{"type":"HystrixCommand","name":"A","requestCount":14,"reportingHosts":2}`)
	two.says("")
	await(t, first, "what an instance said is taken back when its stream ends", `{"type":"HystrixCommand","name":"A","requestCount":10,"reportingHosts":1}`)
	two.says(`{"type":"HystrixCommand","name":"A","requestCount":1,"reportingHosts":1}`)
	await(t, first, "a stream that ended is read again", `{"type":"HystrixCommand","name":"A","requestCount":11,"reportingHosts":2}`)
	if opened, open := one.counts(); opened != 1 || open != 1 {
		t.Errorf("for two readers the instance's stream was opened %d times, %d are open; want one connection", opened, open)
	}
	stopFirst()
	stopSecond()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, open := one.counts(); open == 0 {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("a minute after the last reader left the instance's stream is still read")
		}
	}
}

func TestSpringsPathIsTriedWhereTheUsualOneHasNothing(t *testing.T) {
	boot := newInstance(t, springPath, `{"type":"HystrixCommand","name":"A","requestCount":3}`)
	c := newStage()
	got := make(chan string, 1)
	u, err := url.Parse(boot.URL)
	if err != nil {
		t.Fatal(err)
	}
	var port int
	fmt.Sscan(u.Port(), &port) //nolint:errcheck // the next line fails without it
	c.follow(places([]roadbed.Instance{{ID: "boot", App: "boot", Host: u.Hostname(), Port: port, Status: roadbed.Up}, {ID: "down", Status: roadbed.Down}}))
	go func() {
		for {
			if parts, _ := c.since(0, 0, nil); len(parts) > 0 {
				got <- string(parts[0])
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	if said := <-got; !strings.Contains(said, `"requestCount":3`) {
		t.Errorf("got %q", said)
	}
	c.follow(nil) // it leaves the registry
	for began := time.Now(); c.speakers("A") != 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("a minute after the instance left the registry what it said still counts")
		}
	}
	c.close()
	c.follow(places([]roadbed.Instance{{ID: "late", Status: roadbed.Up}})) // a call under way when the last reader left
	if len(c.sources) != 0 {
		t.Error("a cluster without readers reads a stream")
	}
}

// speakers returns how many instances speak of the command.
func (s *stage) speakers(name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groups[[2]string{"HystrixCommand", name}].hosts
}

func TestMetadataSaysWhereAStreamIs(t *testing.T) {
	at := func(meta map[string]string, secure bool) string {
		return strings.Join(streamURLs(roadbed.Instance{Host: "10.0.0.1", Port: 8080, Secure: secure, Metadata: meta}), " ")
	}
	for _, c := range []struct {
		meta   map[string]string
		secure bool
		want   string
	}{
		{nil, false, "http://10.0.0.1:8080/hystrix.stream http://10.0.0.1:8080/actuator/hystrix.stream"},
		{nil, true, "https://10.0.0.1:8080/hystrix.stream https://10.0.0.1:8080/actuator/hystrix.stream"},
		{map[string]string{"management.port": "8081"}, false, "http://10.0.0.1:8081/hystrix.stream http://10.0.0.1:8081/actuator/hystrix.stream"},
		{map[string]string{"hystrix.stream.path": "/admin/hystrix.stream"}, false, "http://10.0.0.1:8080/admin/hystrix.stream"},
		{map[string]string{"hystrix.stream.path": "x", "management.port": "1"}, false, "http://10.0.0.1:1/x"},
	} {
		if got := at(c.meta, c.secure); got != c.want {
			t.Errorf("%v: got %q, want %q", c.meta, got, c.want)
		}
	}
}

func TestClustersAreListedAndOthersRefused(t *testing.T) {
	s := serve(t, Config{Static: map[string][]string{"web": nil, "api": nil}})
	get := func(path string) (int, string) {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b strings.Builder
		bufio.NewReader(resp.Body).WriteTo(&b) //nolint:errcheck // what came is compared
		return resp.StatusCode, strings.TrimSpace(b.String())
	}
	want := fmt.Sprintf(`[{"name":"API","link":"%[1]s/turbine.stream?cluster=API"},{"name":"WEB","link":"%[1]s/turbine.stream?cluster=WEB"}]`, s.URL)
	if status, got := get("/clusters"); status != http.StatusOK || got != want {
		t.Errorf("/clusters: %d %s, want %s", status, got, want)
	}
	if status, got := get("/turbine.stream?cluster=shop"); status != http.StatusNotFound || !strings.Contains(got, `no instance of "shop" is in the registry`) {
		t.Errorf("an unknown cluster: %d %q", status, got)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAStreamWithNothingToAddUpPings(t *testing.T) {
	s := serve(t, Config{Static: map[string][]string{"api": nil}})
	resp, err := http.Get(s.URL + "/turbine.stream?cluster=api")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 16)
	if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != ": ping\n\nping: \n\n" {
		t.Errorf("got %q, %v", buf, err)
	}
}
