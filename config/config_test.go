package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is the other end of a watch, in memory so that it lives inside a synctest bubble.
type server struct {
	mu     sync.Mutex
	down   bool
	asked  []*http.Request
	stream *io.PipeWriter
	acks   []Ack
	deaf   bool // to acks
}

func (s *server) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/config/v1/ack" {
		var a Ack
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			return nil, err
		}
		s.acks = append(s.acks, a)
		if s.deaf || s.down {
			return nil, errors.New("connection refused")
		}
		return &http.Response{StatusCode: 204, Status: "204 No Content", Body: http.NoBody, Request: r}, nil
	}
	s.asked = append(s.asked, r)
	if s.down {
		return nil, errors.New("connection refused")
	}
	pr, pw := io.Pipe()
	s.stream = pw
	context.AfterFunc(r.Context(), func() { pw.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: 200, Status: "200 OK", Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: pr, Request: r}, nil
}

func (s *server) setDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if down && s.stream != nil {
		s.stream.CloseWithError(io.ErrUnexpectedEOF)
	}
}

func (s *server) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

// told returns the acks since the last call.
func (s *server) told() []Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	acks := s.acks
	s.acks = nil
	return acks
}

func (s *server) send(t *testing.T, name string, data any) {
	t.Helper()
	b, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	w := s.stream
	s.mu.Unlock()
	if _, err := fmt.Fprintf(w, "id: 7-x\nevent: %s\ndata: %s\n\n", name, b); err != nil {
		t.Fatalf("send %s: %v", name, err)
	}
	synctest.Wait()
}

func (s *server) set(t *testing.T, rev uint64, key, value string) {
	t.Helper()
	s.send(t, "change", Change{Rev: rev, Key: key, Value: &value})
}

// started returns properties that follow a server inside the bubble, which ends with the test.
func started(t *testing.T, o Options) (*Properties, *server) {
	t.Helper()
	s := &server{}
	o.URL, o.HTTP = "http://config.test", &http.Client{Transport: s}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return run(t, o), s
}

func run(t *testing.T, o Options) *Properties {
	p := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil after its context ended", err)
		}
	})
	synctest.Wait()
	return p
}

func TestHandlesFollowTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{Scope: Scope{App: "api", Zone: "zone-a", Instance: "i-1"}})
		b, i, f := p.Bool("b", false), p.Int("i", 1), p.Float("f", 0.5)
		d, x := p.Duration("d", time.Second), p.String("x", "def")
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"b": "on", "i": "42", "f": "2.5", "d": "250", "x": ""}})
		if !b.Get() || i.Get() != 42 || f.Get() != 2.5 || d.Get() != 250*time.Millisecond || x.Get() != "" {
			t.Errorf("after the snapshot: got %v %v %v %v %q, want true 42 2.5 250ms \"\"", b.Get(), i.Get(), f.Get(), d.Get(), x.Get())
		}
		changes := p.Changes()
		s.set(t, 2, "d", "3s")
		if got := d.Get(); got != 3*time.Second {
			t.Errorf("d after a change to 3s: got %v", got)
		}
		if got := p.Changes(); got != changes+1 {
			t.Errorf("changes after one more: got %d, want %d", got, changes+1)
		}
		s.send(t, "change", Change{Rev: 3, Key: "i"})
		if got := i.Get(); got != 1 {
			t.Errorf("i after its deletion: got %d, want its default 1", got)
		}
		if q := s.requests()[0].URL.Query(); q.Get("appId") != "api" || q.Get("zone") != "zone-a" || q.Get("serverId") != "i-1" || q.Has("env") {
			t.Errorf("the watch asked with %v, want the scope and nothing else", q)
		}
	})
}

func TestNilPropertiesHoldDefaults(t *testing.T) {
	var p *Properties
	if got := p.Int("i", 3).Get(); got != 3 {
		t.Errorf("Int of nil: got %d, want 3", got)
	}
	p.Bool("b", true).OnChange(func(_, _ bool) {})()
	var got map[string]string
	p.Prefix("x", func(m map[string]string) { got = m })()
	if got == nil || len(got) != 0 {
		t.Errorf("Prefix of nil: got %v, want an empty map at once", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Run(ctx); err != nil {
		t.Errorf("Run of nil: %v", err)
	}
}

func TestHandlesOfOneKeyTypeAndDefaultAreOne(t *testing.T) {
	p := New(Options{})
	if first, again := p.Int("k", 1), p.Int("k", 1); first != again {
		t.Error("two handles of k int 1: got different ones, want the same")
	}
	if a, b := p.Int("k", 1), p.Int("k", 2); a.Get() != 1 || b.Get() != 2 {
		t.Errorf("defaults 1 and 2: got %d and %d", a.Get(), b.Get())
	}
	if got := p.Duration("k", 1).Get(); got != 1 {
		t.Errorf("another type of the same key: got %v, want 1ns", got)
	}
}

func TestABadValueKeepsTheLastGoodAndIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p, s := started(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		i := p.Int("i", 1)
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"i": "5"}})
		s.set(t, 2, "i", "many")
		s.set(t, 3, "other", "1") // refreshes i again
		if got := i.Get(); got != 5 {
			t.Errorf("after i=many: got %d, want the last good 5", got)
		}
		if got := strings.Count(log.String(), "bad value"); got != 1 {
			t.Errorf("reports of the bad value: got %d, want 1; log:\n%s", got, log.String())
		}
		s.set(t, 4, "i", "6")
		s.set(t, 5, "i", "many")
		if got := strings.Count(log.String(), "bad value"); got != 2 {
			t.Errorf("reports after it was good in between: got %d, want 2", got)
		}
	})
}

func TestCallbacksAreOrderedAndAPanicHarmsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		v := p.Int("i", 0)
		v.OnChange(func(_, _ int) { panic("mine") })
		var got []string
		stop := v.OnChange(func(old, new int) { got = append(got, fmt.Sprintf("%d>%d", old, new)) })
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{}})
		for n := range 5 {
			s.set(t, uint64(n+2), "i", fmt.Sprint(n+1))
		}
		stop()
		s.set(t, 9, "i", "9")
		if want := []string{"0>1", "1>2", "2>3", "3>4", "4>5"}; !slices.Equal(got, want) {
			t.Errorf("callbacks: got %v, want %v", got, want)
		}
	})
}

func TestASlowCallbackSeesTheNewestValueAndDelaysNoHandle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		v := p.Int("i", 0)
		var got []string
		v.OnChange(func(old, new int) {
			got = append(got, fmt.Sprintf("%d>%d", old, new))
			time.Sleep(time.Minute)
		})
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"i": "1"}})
		s.set(t, 2, "i", "2")
		s.set(t, 3, "i", "3")
		if v.Get() != 3 {
			t.Errorf("Get while a callback sleeps: got %d, want 3", v.Get())
		}
		s.send(t, "hash", Hash{Rev: 3, Sum: Sum(map[string]string{"i": "3"})})
		time.Sleep(30 * time.Second) // the stream stays alive by the hash; the callback still sleeps
		s.send(t, "hash", Hash{Rev: 3, Sum: Sum(map[string]string{"i": "3"})})
		time.Sleep(31 * time.Second)
		synctest.Wait()
		if want := []string{"0>1", "1>3"}; !slices.Equal(got, want) {
			t.Errorf("callbacks: got %v, want %v", got, want)
		}
	})
}

func TestPrefixTellsAllUnderItNowAndAtEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"fault.a": "1", "other": "x"}})
		var got []string
		stop := p.Prefix("fault.", func(m map[string]string) {
			got = append(got, fmt.Sprint(m))
			m["fault.mine"] = "a subscriber owns its map"
		})
		s.set(t, 2, "other", "y")
		s.set(t, 3, "fault.b", "${x}")
		s.send(t, "change", Change{Rev: 4, Key: "fault.a"})
		stop()
		s.set(t, 5, "fault.c", "3")
		want := []string{"map[fault.a:1]", "map[fault.a:1 fault.b:${x}]", "map[fault.b:${x}]"}
		if !slices.Equal(got, want) {
			t.Errorf("prefix calls: got %v, want %v", got, want)
		}
	})
}

func TestPrefixesTellAllUnderAnyOfThemNowAndAtEachChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"a.x": "1", "b.x": "2", "other": "x"}})
		var got []string
		stop := p.Prefixes([]string{"a.", "b."}, func(m map[string]string) { got = append(got, fmt.Sprint(m)) })
		s.set(t, 2, "other", "y")
		s.set(t, 3, "b.y", "3")
		s.send(t, "change", Change{Rev: 4, Key: "a.x"})
		stop()
		s.set(t, 5, "a.z", "4")
		want := []string{"map[a.x:1 b.x:2]", "map[a.x:1 b.x:2 b.y:3]", "map[b.x:2 b.y:3]"}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	var got map[string]string
	(*Properties)(nil).Prefixes([]string{"a."}, func(m map[string]string) { got = m })()
	if got == nil || len(got) != 0 {
		t.Errorf("without properties: got %v, want none", got)
	}
}

func TestAStartSucceedsWithTheServerDownOnWhatTheDiskKnows(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{Cache: dir, Scope: Scope{App: "api", Group: "api-v001", Instance: "i-1"}})
		s.send(t, "snapshot", Snapshot{Rev: 8, Properties: map[string]string{"k": "kept", "mine": "1"}, Own: []string{"mine"}})
		time.Sleep(time.Second)
		synctest.Wait()
		_ = p
	})
	synctest.Test(t, func(t *testing.T) {
		s := &server{down: true}
		p := run(t, Options{URL: "http://config.test", HTTP: &http.Client{Transport: s}, Cache: dir, Log: slog.New(slog.DiscardHandler),
			Scope: Scope{App: "api", Group: "api-v001", Instance: "i-2"}})
		if got := p.String("k", "default").Get(); got != "kept" {
			t.Errorf("k with the server down: got %q, want %q", got, "kept")
		}
		if got := p.String("mine", "default").Get(); got != "default" {
			t.Errorf("another instance's own property: got %q, want it not to be shared", got)
		}
		if got, want := s.requests()[0].Header.Get("Last-Event-ID"), EventID(8, map[string]string{"k": "kept"}); got != want {
			t.Errorf("Last-Event-ID: got %q, want %q", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{URL: "http://config.test", Cache: dir, Scope: Scope{App: "api", Group: "api-v002"}})
		if got := p.String("k", "default").Get(); got != "default" {
			t.Errorf("k of another server group: got %q, want its default", got)
		}
	})
}

func TestADamagedFileIsIgnoredAtEveryByte(t *testing.T) {
	b, err := seal(kept{Rev: 3, Properties: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	if k, err := unseal(b); err != nil || k.Properties["k"] != "v" || k.Rev != 3 {
		t.Fatalf("undamaged: got %v, %v", k, err)
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 1
		if k, err := unseal(bad); err == nil {
			t.Errorf("byte %d flipped: got %v, want an error", i, k)
		}
		if k, err := unseal(b[:i]); err == nil {
			t.Errorf("cut at %d: got %v, want an error", i, k)
		}
	}
}

func TestAFullDiskIsReportedAndChangesNothingInMemory(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p, s := started(t, Options{Cache: filepath.Join(blocked, "sub"), Log: slog.New(slog.NewTextHandler(&log, nil))})
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"i": "5"}})
		time.Sleep(time.Second)
		synctest.Wait()
		if got := p.Int("i", 0).Get(); got != 5 || !strings.Contains(log.String(), "could not be kept") {
			t.Errorf("got i=%d and log %q, want 5 and a warning", got, log.String())
		}
	})
}

func TestALostServerIsAskedEverLessOftenAndForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"i": "5"}})
		s.setDown(true)
		time.Sleep(10 * time.Minute)
		n := len(s.requests())
		if n < 20 || n > 80 {
			t.Errorf("requests in 10 minutes without a server: got %d, want 20 to 80", n)
		}
		if got := p.Int("i", 0).Get(); got != 5 {
			t.Errorf("i with the server away: got %d, want the last known 5", got)
		}
		s.setDown(false)
		// Not a fixed time: a stream that came back early and heard nothing would be replaced meanwhile.
		n = len(s.requests())
		for range 40 {
			if time.Sleep(time.Second); len(s.requests()) > n {
				break
			}
		}
		synctest.Wait()
		s.send(t, "hash", Hash{Rev: 1, Sum: Sum(map[string]string{"i": "5"})})
		s.set(t, 2, "i", "6")
		if got := p.Int("i", 0).Get(); got != 6 {
			t.Errorf("i after the server came back: got %d, want 6", got)
		}
	})
}

func TestASilentStreamIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := started(t, Options{})
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{}})
		time.Sleep(silence + 2*time.Second)
		synctest.Wait()
		if got := len(s.requests()); got != 2 {
			t.Errorf("requests after %v of silence: got %d, want 2", silence, got)
		}
	})
}

func TestADifferingHashAsksForEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := started(t, Options{})
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"a": "1"}})
		s.send(t, "hash", Hash{Rev: 1, Sum: "0000000000000000"})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		asked := s.requests()
		if len(asked) != 2 {
			t.Fatalf("requests after a differing hash: got %d, want 2", len(asked))
		}
		if got := asked[1].Header.Get("Last-Event-ID"); got != "" {
			t.Errorf("Last-Event-ID after a differing hash: got %q, want none", got)
		}
	})
}

func TestInterpolation(t *testing.T) {
	raw := map[string]string{"host": "db1", "port": "5432", "a": "${b}", "b": "${a}", "self": "x${self}"}
	bomb := map[string]string{"k0": ""}
	for i := range 15 {
		bomb[fmt.Sprintf("k%d", i+1)] = strings.Repeat(fmt.Sprintf("${k%d}", i), 100)
	}
	deep := map[string]string{"d0": "end"}
	for i := range 20 {
		deep[fmt.Sprintf("d%d", i+1)] = fmt.Sprintf("${d%d}", i)
	}
	for _, c := range []struct {
		raw        map[string]string
		text, want string
	}{
		{raw, "plain", "plain"},
		{raw, "${host}:${port}", "db1:5432"},
		{raw, "${none}", "${none}"},
		{raw, "${none:x:y}", "x:y"},
		{raw, "${none:}", ""},
		{raw, "${host", "${host"},
		{raw, "a ${a} b", "a ${a} b"},
		{raw, "${self}", "${self}"},
		{bomb, "${k15}", "${k15}"},
		{deep, "${d14}", "end"},
		{deep, "${d16}", "${d16}"},
	} {
		c.raw["it"] = c.text
		if got, ok := lookup(c.raw, "it"); !ok || got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"250": 250 * time.Millisecond, " 1m30s ": 90 * time.Second, "0": 0, "-5": -5 * time.Millisecond} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
	for _, in := range []string{"", "soon", "9223372036854775807", "10 s"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q: got %v, want an error", in, got)
		}
	}
}

func TestSumTellsMapsApart(t *testing.T) {
	seen := map[string]string{}
	for _, m := range []map[string]string{nil, {"a": ""}, {"": "a"}, {"a": "b"}, {"ab": ""}, {"a": "b", "c": "d"}, {"a": "b:1:c=1:d;"}} {
		s := Sum(m)
		if prev, dup := seen[s]; dup {
			t.Errorf("%v and %s have the same sum %s", m, prev, s)
		}
		seen[s] = fmt.Sprint(m)
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add("id: 1\nevent: snapshot\ndata: {}\n\n")
	f.Add(": beat\n\nevent:x\r\ndata:1\r\ndata: 2\r\n\r\n")
	f.Add("data\n\n")
	f.Fuzz(func(t *testing.T, in string) {
		beats, events := 0, 0
		err := readEvents(strings.NewReader(in), func() { beats++ }, func(name string, data []byte) error {
			events++
			if strings.ContainsAny(name, "\n") {
				t.Errorf("event name %q of %q holds a newline", name, in)
			}
			return nil
		})
		if err == nil {
			t.Errorf("%q: got no error, want one: a stream never ends well", in)
		}
		if events > beats {
			t.Errorf("%q: %d events of %d lines", in, events, beats)
		}
	})
}

func FuzzUnseal(f *testing.F) {
	b, err := seal(kept{Rev: 1, Properties: map[string]string{"k": "v"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := unseal(b); err == nil && k.Properties == nil {
			t.Errorf("%q: no error and no properties", b)
		}
	})
}

func FuzzInterpolation(f *testing.F) {
	f.Add("${b}${c:x}", "${a}", "y")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if got, ok := lookup(map[string]string{"a": a, "b": b, "c": c}, "a"); !ok || len(got) > maxExpanded+len(a)*(len(b)+len(c)+1) {
			t.Errorf("a=%q b=%q c=%q: got %d bytes, %v", a, b, c, len(got), ok)
		}
	})
}

func BenchmarkGet(b *testing.B) {
	b.ReportAllocs()
	v := New(Options{}).Duration("k", time.Second)
	var sum time.Duration
	for b.Loop() {
		sum += v.Get()
	}
	if sum == 0 {
		b.Fatal("Get returned nothing")
	}
}
