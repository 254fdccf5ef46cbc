package registry

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api/porttest"
)

// plainWriter is a connection in memory as net/http hands it to a handler.
type plainWriter struct {
	net.Conn
	header http.Header
}

func (w plainWriter) Header() http.Header { return w.header }
func (w plainWriter) WriteHeader(int)     {}
func (w plainWriter) Flush()              {}

// freeWriter is one that a handler may take over.
type freeWriter struct{ plainWriter }

func (w freeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.Conn, nil, nil }

// viewer is a watcher's client: it knows what it was told.
type viewer struct {
	query string
	taken bool // the handler takes the connection over

	mu     sync.Mutex
	known  map[key]roadbed.Instance
	last   string // id of the newest event
	events []string
	faults []string
	paused chan struct{} // not nil while it does not read
	left   bool          // by the registry, for it did not read
	stop   func()
}

// watchAs opens a stream of r, which resumes after v's last event if there is one.
func (v *viewer) open(r *Registry) {
	ours, theirs := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	req := httptest.NewRequestWithContext(ctx, "GET", "/registry/v1/watch"+v.query, nil)
	v.mu.Lock()
	if v.known == nil {
		v.known = make(map[key]roadbed.Instance)
	}
	v.left = false
	if v.last != "" {
		req.Header.Set("Last-Event-ID", v.last)
	}
	v.mu.Unlock()
	w := plainWriter{theirs, make(http.Header)}
	var served, read sync.WaitGroup
	served.Go(func() {
		if v.taken {
			r.Handler().ServeHTTP(freeWriter{w}, req)
			return
		}
		r.Handler().ServeHTTP(w, req)
		theirs.Close()
	})
	read.Go(func() { v.read(ours) })
	v.stop = func() {
		v.pause(false)
		cancel()
		ours.Close()
		read.Wait()
		served.Wait()
	}
}

func (v *viewer) pause(yes bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.paused != nil {
		close(v.paused)
		v.paused = nil
	}
	if yes {
		v.paused = make(chan struct{})
	}
}

func (v *viewer) read(c net.Conn) {
	in := bufio.NewReaderSize(c, 1<<20)
	var id, name string
	for {
		v.mu.Lock()
		wait := v.paused
		v.mu.Unlock()
		if wait != nil {
			<-wait
			continue
		}
		line, err := in.ReadString('\n')
		if err != nil {
			v.mu.Lock()
			v.left = true
			v.mu.Unlock()
			return
		}
		line = strings.TrimRight(line, "\r\n")
		if s, ok := strings.CutPrefix(line, "id: "); ok {
			id = s
		}
		if s, ok := strings.CutPrefix(line, "event: "); ok {
			name = s
		}
		if s, ok := strings.CutPrefix(line, "data: "); ok {
			v.apply(name, s)
		}
		if line == "" && id != "" {
			v.mu.Lock()
			v.last = id
			v.mu.Unlock()
		}
	}
}

func (v *viewer) apply(name, data string) {
	var m struct {
		Instances []roadbed.Instance
		Instance  roadbed.Instance
		App, ID   string
		Hash      string
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.events = append(v.events, name)
	if err := json.Unmarshal([]byte(data), &m); err != nil {
		v.faults = append(v.faults, fmt.Sprintf("event %s with %q: %v", name, data, err))
	}
	switch name {
	case "snapshot":
		v.known = make(map[key]roadbed.Instance)
		for _, i := range m.Instances {
			v.known[key{i.App, i.ID}] = i
		}
	case "put":
		v.known[key{m.Instance.App, m.Instance.ID}] = m.Instance
	case "remove":
		delete(v.known, key{m.App, m.ID})
	case "hash":
		var n [statuses]int
		for _, i := range v.known {
			st, _ := parseStatus(string(i.Status))
			n[st]++
		}
		if got := hashCode(n); got != m.Hash {
			v.faults = append(v.faults, fmt.Sprintf("counts %q, was told %q", got, m.Hash))
		}
	}
}

// differs says what v knows otherwise than the registry, empty if nothing.
func (v *viewer) differs(s *state) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	want := make(map[key]string)
	in := interestOf(httptest.NewRequest("GET", "/registry/v1/watch"+v.query, nil))
	s.mu.RLock()
	for _, a := range s.apps {
		for _, e := range a.order {
			if in.wants(e.rec) {
				want[key{strings.ToLower(a.name), e.rec.id}] = string(e.rec.appendNative(nil, ""))
			}
		}
	}
	s.mu.RUnlock()
	got := make(map[key]string)
	for k, i := range v.known {
		raw, err := json.Marshal(i)
		if err != nil {
			return err.Error()
		}
		got[k] = string(raw)
	}
	if len(v.faults) > 0 {
		return strings.Join(v.faults, "; ")
	}
	for k := range want {
		if got[k] == want[k] {
			delete(got, k)
			delete(want, k)
		}
	}
	if len(got)+len(want) > 0 {
		return fmt.Sprintf("knows %v, want %v", got, want)
	}
	return ""
}

// TestWatchersKnowWhatTheRegistryKnows changes a registry at random, with watchers of all kinds who now and then do not
// read for a while or come back, and compares what each knows with what it should.
func TestWatchersKnowWhatTheRegistryKnows(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			r := runningWith(t, Config{Settings: Settings{NoProbe: true, Preservation: NoPreservation}}, nil)
			var vs []*viewer
			for i, q := range []string{"", "?apps=a", "?apps=A,b", "?vips=v1", "?apps=B&vips=v2"} {
				for _, taken := range []bool{false, true} {
					vs = append(vs, &viewer{query: q, taken: taken})
				}
				if i == 0 {
					time.Sleep(rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(rt, "before"))
				}
			}
			for _, v := range vs {
				v.open(r)
			}
			defer func() {
				for _, v := range vs {
					v.stop()
				}
				synctest.Wait()
			}()
			check := func(after string) {
				time.Sleep(50 * time.Millisecond) // those who do not read are waited for once
				synctest.Wait()
				for _, v := range vs {
					v.mu.Lock()
					reads := v.paused == nil && !v.left
					v.mu.Unlock()
					if reads {
						if d := v.differs(r.s); d != "" {
							rt.Fatalf("after %s, the watcher of %q (taken over: %v): %s", after, v.query, v.taken, d)
						}
					}
				}
			}
			check("opening")
			ids := rapid.Custom(func(t *rapid.T) key {
				return key{rapid.SampledFrom([]string{"A", "B", "C"}).Draw(t, "app"), rapid.SampledFrom([]string{"1", "2"}).Draw(t, "id")}
			})
			for range rapid.IntRange(1, 40).Draw(rt, "steps") {
				k := ids.Draw(rt, "key")
				what := rapid.SampledFrom([]string{"register", "register", "cancel", "override", "clear", "suspect", "pass", "pause", "read", "return"}).Draw(rt, "do")
				switch what {
				case "register":
					x := reg(k.app, k.id, rapid.SampledFrom([]status{up, down, starting}).Draw(rt, "status"), int64(rapid.IntRange(1, 1<<40).Draw(rt, "dirty")))
					x.vip = rapid.SampledFrom([]string{"", "v1", "v2", "v1,v2", " v2 , v3"}).Draw(rt, "vip")
					r.s.register(x, origin{native: true})
				case "cancel":
					r.s.cancel(k)
				case "override":
					r.s.setOverride(k, outOfService, 0, origin{})
				case "clear":
					r.s.clearOverride(k, unknown, true, 0, origin{})
				case "suspect":
					r.s.mu.RLock()
					e := r.s.find(k)
					r.s.mu.RUnlock()
					if e != nil {
						r.s.suspect(e)
					}
				case "pass":
					time.Sleep(rapid.SampledFrom([]time.Duration{time.Millisecond, 11 * time.Second, time.Minute, 20 * time.Minute}).Draw(rt, "time"))
				case "pause", "read":
					vs[rapid.IntRange(0, len(vs)-1).Draw(rt, "who")].pause(what == "pause")
				case "return":
					v := vs[rapid.IntRange(0, len(vs)-1).Draw(rt, "who")]
					v.stop()
					v.open(r)
				}
				check(what)
			}
		})
	})
}

// woken counts how often a stream of r with this interest has something to write.
func woken(r *Registry, query string) (count func() int, stop func()) {
	v := &viewer{query: query, taken: true}
	v.open(r)
	synctest.Wait()
	return func() int {
		synctest.Wait()
		v.mu.Lock()
		defer v.mu.Unlock()
		n := len(v.events)
		v.events = nil
		return n
	}, v.stop
}

func TestOnlyThoseWhomAChangeConcernsAreWoken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		me := newWatcher("x", interest{apps: map[string]bool{"A": true}})
		r.hub.join(me)
		other := newWatcher("y", interest{apps: map[string]bool{"B": true}})
		r.hub.join(other)
		all, stop := woken(r, "")
		defer stop()
		all()
		r.s.register(reg("A", "1", up, 1), origin{})
		if got := all(); got != 1 {
			t.Errorf("who watches everything: got %d events for one change, want 1", got)
		}
		if a, b := len(me.wake), len(other.wake); a != 1 || b != 0 {
			t.Errorf("after a change of A: A's watcher has %d tokens and B's %d, want 1 and 0", a, b)
		}
		r.hub.leave(me)
		r.hub.leave(other)
	})
}

func TestSlowWatcherThatMissedTooMuchBeginsAnew(t *testing.T) {
	for _, taken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := running(t)
			v := &viewer{taken: taken}
			v.open(r)
			synctest.Wait()
			v.pause(true)
			n := 0
			for size := 0; size < backlogMost*2; n++ {
				x := reg("A", fmt.Sprint(n), up, 1)
				x.meta = []pair{{"k", strings.Repeat("x", 10_000)}}
				x.duration = 3600
				r.s.register(x, origin{})
				size += 10_000
			}
			time.Sleep(100 * time.Millisecond)
			v.mu.Lock()
			v.events = nil
			v.mu.Unlock()
			v.pause(false)
			synctest.Wait()
			time.Sleep(time.Second)
			synctest.Wait()
			v.mu.Lock()
			got := strings.Join(v.events, " ")
			v.mu.Unlock()
			before, _, found := strings.Cut(got, "reset snapshot")
			if puts := strings.Count(before, "put"); !found || puts > 100 {
				t.Errorf("taken over %v: after missing %d changes of 10 kB: got %.200s, want few and then reset and snapshot", taken, n, got)
			}
			if d := v.differs(r.s); d != "" {
				t.Errorf("taken over %v: afterwards it %.500s", taken, d)
			}
			v.stop()
			synctest.Wait()
		})
	}
}

func TestWatcherThatDoesNotReadForHalfAMinuteIsLeft(t *testing.T) {
	for _, taken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := running(t)
			v := &viewer{taken: taken}
			v.open(r)
			other := &viewer{taken: taken}
			other.open(r)
			synctest.Wait()
			v.pause(true)
			for i := range 3 {
				x := reg("A", fmt.Sprint(i), up, 1)
				x.duration = 3600
				x.meta = []pair{{"k", strings.Repeat("x", 1<<20)}} // more than its buffer holds
				r.s.register(x, origin{})
				synctest.Wait()
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
				if d := other.differs(r.s); d != "" {
					t.Errorf("taken over %v: 10 ms after change %d another watcher %.200s, want it not to wait for the slow one", taken, i, d)
				}
			}
			streams := func() int { r.hub.mu.Lock(); defer r.hub.mu.Unlock(); return len(r.hub.streams) }
			time.Sleep(29 * time.Second)
			if got := streams(); got != 2 && !taken {
				t.Errorf("taken over %v: 29 s after it stopped reading: got %d streams, want 2", taken, got)
			}
			time.Sleep(32 * time.Second)
			synctest.Wait()
			if got := streams(); got != 1 {
				t.Errorf("taken over %v: a minute after it stopped reading: got %d streams, want 1", taken, got)
			}
			v.stop()
			other.stop()
			synctest.Wait()
		})
	}
}

func TestQuietWatcherOfOneAppCanResumeAfterManyChangesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		v := &viewer{query: "?apps=a", taken: true}
		v.open(r)
		for i := range 2000 { // more than the log holds
			x := reg("B", fmt.Sprint(i), up, 1)
			x.duration = 3600
			r.s.register(x, origin{})
			time.Sleep(time.Second)
		}
		time.Sleep(15 * time.Second)
		v.stop()
		v.mu.Lock()
		v.events = nil
		v.mu.Unlock()
		v.open(r)
		synctest.Wait()
		v.mu.Lock()
		if got := strings.Join(v.events, " "); got != "resume" {
			t.Errorf("coming back: got %s, want resume", got)
		}
		v.mu.Unlock()
		v.stop()
		synctest.Wait()
	})
}

func TestInstanceWhoseStreamBreaksIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := &doors{open: map[string]bool{"10.0.0.1:80": false, "10.0.0.2:80": true, "10.0.0.3:80": false}}
		r := runningWith(t, Config{}, func(r *Registry) { r.keep.dial = net.dial })
		v := &viewer{taken: true}
		v.open(r)
		synctest.Wait()
		r.hub.mu.Lock()
		names := slices.Collect(maps.Keys(r.hub.streams))
		r.hub.mu.Unlock()
		register := func(id, ip, stream string) {
			req := httptest.NewRequest("POST", "/eureka/v2/apps/WEB", strings.NewReader(fmt.Sprintf(
				`{"instance":{"instanceId":%q,"app":"WEB","hostName":"h","ipAddr":%q,"status":"UP","port":{"$":80,"@enabled":"true"},"dataCenterInfo":{"name":"MyOwn"}}}`, id, ip)))
			req.Header.Set("Content-Type", "application/json")
			if stream != "" {
				req.Header.Set("X-Registry-Stream", stream)
			}
			w := httptest.NewRecorder()
			if r.Handler().ServeHTTP(w, req); w.Code != 204 {
				t.Fatalf("registering %s: got %d, want 204", id, w.Code)
			}
		}
		register("dead", "10.0.0.1", names[0])
		register("alive", "10.0.0.2", names[0])
		register("other", "10.0.0.3", "")
		register("stranger", "10.0.0.3", "no such stream")
		v.stop()
		synctest.Wait()
		for id, want := range map[string]status{"dead": down, "alive": up, "other": up, "stranger": up} {
			if got := r.s.overriding(key{"WEB", id}).status; got != want {
				t.Errorf("%s, at once after the stream broke: got %v, want %v", id, got, want)
			}
		}
		if len(net.knocked) != 2 {
			t.Errorf("probed: got %v, want the two of the stream", net.knocked)
		}
	})
}

// TestTakenOverStreamIsHTTP reads a stream over a real connection, whose handler net/http has let go of, and sees it
// end with Run.
func TestTakenOverStreamIsHTTP(t *testing.T) {
	r := New(Config{Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for _, method := range []string{"HEAD", "GET"} {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/registry/v1/watch", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		h := resp.Header
		if resp.StatusCode != 200 || h.Get("Content-Type") != "text/event-stream" || h.Get(streamHeader) == "" || h.Get("Date") == "" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: got %s with %v, want 200, a stream with a name that is not stored", method, resp.Status, h)
		}
		if method == "GET" {
			in := bufio.NewReader(resp.Body)
			if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "id: ") {
				t.Errorf("first line: got %q, %v; want an id", line, err)
			}
			cancel()
			if err := <-ran; err != nil {
				t.Error(err)
			}
			if _, err := io.Copy(io.Discard, in); err != nil {
				t.Errorf("after Run: got %v, want a plain end", err)
			}
		}
		resp.Body.Close()
	}
}

// TestDeadProcessIsDownWithinASecond is the whole way over real connections, through the fast front: a stream, an
// instance bound to it at a port where nobody listens, and the end of the stream. It is tried several times, for the machine may
// be busy: one of them must take less than a second.
func TestDeadProcessIsDownWithinASecond(t *testing.T) {
	r := New(Config{Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Run(ctx) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, deadPort, err := net.SplitHostPort(porttest.Hold(t))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r.Handler()}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(r.Front(srv, l, func(string, string) bool { return true })) }() //nolint:errcheck // it ends with Close
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		srv.Close()
		<-served
	}()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	quickest := time.Hour
	for range 5 {
		quickest = min(quickest, diesAt(t, r, tr, l.Addr().String(), deadPort))
	}
	if quickest > time.Second {
		t.Errorf("each of five times the instance was not DOWN before %v after its stream broke", quickest)
	}
}

// diesAt registers an instance at a stream of r, which listens at addr, breaks the stream, and tells how long the instance is not
// DOWN.
func diesAt(t *testing.T, r *Registry, tr *http.Transport, addr, port string) time.Duration {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /registry/v1/watch HTTP/1.1\r\nHost: %s\r\n\r\n", addr) //nolint:errcheck // the answer tells
	in := bufio.NewReader(conn)
	stream := ""
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if name, ok := strings.CutPrefix(line, streamHeader+": "); ok {
			stream = strings.TrimSpace(name)
		}
		if strings.HasPrefix(line, "event: snapshot") {
			break
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr+"/eureka/v2/apps/WEB", strings.NewReader(fmt.Sprintf(
		`{"instance":{"instanceId":"i","app":"WEB","hostName":"h","ipAddr":"127.0.0.1","status":"UP","port":{"$":%s,"@enabled":"true"},"dataCenterInfo":{"name":"MyOwn"}}}`, port)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(streamHeader, stream)
	resp, err := tr.RoundTrip(req)
	if err != nil || resp.StatusCode != 204 {
		t.Fatalf("registering: got %v, %v; want 204", resp, err)
	}
	resp.Body.Close()
	if got := r.s.overriding(key{"WEB", "i"}).status; got != up {
		t.Fatalf("registered: got %v, want UP", got)
	}
	start := time.Now()
	conn.Close() // the process dies
	for r.s.overriding(key{"WEB", "i"}).status != down {
		if time.Since(start) > time.Minute {
			t.Fatal("a minute after its stream broke the instance is not DOWN")
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(start)
	r.s.cancel(key{"WEB", "i"})
	return took
}

// TestAWatcherOverTCPThatReadsLateDelaysNobodyAndMissesNothing has two streams through the fast front. One stops
// reading until the kernel takes nothing more for it.
func TestAWatcherOverTCPThatReadsLateDelaysNobodyAndMissesNothing(t *testing.T) {
	r := New(Config{Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r.Handler()}
	served := make(chan struct{})
	go func() { defer close(served); srv.Serve(r.Front(srv, l, func(string, string) bool { return true })) }() //nolint:errcheck // it ends with Close
	defer func() {
		r.hub.end()
		srv.Close()
		<-served
	}()
	open := func() (*viewer, func()) {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /registry/v1/watch HTTP/1.1\r\nHost: %s\r\n\r\n", l.Addr()) //nolint:errcheck // the answer tells
		v := &viewer{}
		done := make(chan struct{})
		go func() { defer close(done); v.read(conn) }()
		return v, func() {
			conn.Close()
			v.pause(false)
			<-done
		}
	}
	eventually := func(what string, v *viewer) {
		t.Helper()
		for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			d := v.differs(r.s)
			if d == "" {
				return
			}
			if time.Since(start) > time.Minute {
				t.Fatalf("%s: it %.300s", what, d)
			}
		}
	}
	late, end := open()
	defer end()
	other, end := open()
	defer end()
	put := func(id string, size int) {
		x := reg("A", id, up, 1)
		x.meta = []pair{{"k", strings.Repeat("x", size)}}
		r.s.register(x, origin{})
	}
	put("first", 1)
	eventually("the one that will be late, at first", late)
	eventually("the other, at first", other)
	late.pause(true)
	knows := func(v *viewer, id string) bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		_, ok := v.known[key{"a", id}]
		return ok
	}
	const many = 30
	for i := range many { // together more than the kernel holds
		put(fmt.Sprint(i), 200_000)
		for start := time.Now(); !knows(other, fmt.Sprint(i)); time.Sleep(time.Millisecond) {
			if time.Since(start) > time.Minute {
				t.Fatalf("the other does not know change %d after a minute", i)
			}
		}
	}
	if knows(late, fmt.Sprint(many-1)) {
		t.Fatal("the kernel took 6 MB for a client that does not read; the test shows nothing")
	}
	late.pause(false)
	eventually("the one that is late, when it reads on", late)
	put("last", 1)
	eventually("the same, after one more change", late)
	if late.left {
		t.Error("the one that is late was hung up on")
	}
}
