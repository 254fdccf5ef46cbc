//go:build linux

package fleet

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/registry"
)

func addrOf(t *testing.T, l net.Listener) netip.AddrPort {
	t.Helper()
	a, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func serve(t *testing.T, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return addrOf(t, s.Listener)
}

func plain(buf []byte, i int) []byte {
	return fmt.Appendf(buf, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
}

func TestAnswersAreReadHoweverTheyAreCut(t *testing.T) {
	for _, c := range []struct {
		in, body string
		status   int
		closes   bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello", 200, false},
		{"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", "", 204, false},
		{"HTTP/1.1 404 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n", "", 404, true},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", "hello", 200, false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n", "0123456789", 200, false},
	} {
		for cut := range len(c.in) {
			var body []byte
			var r response
			r.reset(func(b []byte) { body = append(body, b...) })
			done, err := r.feed([]byte(c.in[:cut]))
			if err != nil || done {
				t.Fatalf("%q: after %d bytes: done %v, err %v; want neither", c.in, cut, done, err)
			}
			done, err = r.feed([]byte(c.in[cut:]))
			if !done || err != nil || string(body) != c.body || r.status != c.status || r.closes != c.closes {
				t.Errorf("%q cut at %d: got done %v, err %v, status %d, closes %v, body %q; want %d, %v, %q", c.in, cut, done, err, r.status, r.closes, body, c.status, c.closes, c.body)
			}
		}
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), 20)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n0\r\n\r\n"), 50)
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		read := func(parts ...[]byte) (string, bool, bool) {
			var body []byte
			var r response
			r.reset(func(b []byte) { body = append(body, b...) })
			for _, p := range parts {
				if _, err := r.feed(p); err != nil {
					return "", false, false
				}
			}
			return string(body), r.phase == whole, true
		}
		cut = min(max(cut, 0), len(in))
		a, doneA, okA := read(in)
		b, doneB, okB := read(in[:cut], in[cut:])
		if a != b || doneA != doneB || okA != okB {
			t.Errorf("%q: in one piece %q %v %v, cut at %d %q %v %v", in, a, doneA, okA, cut, b, doneB, okB)
		}
	})
}

func TestSharesOfLatenciesAreRightToTwoPercent(t *testing.T) {
	var all []time.Duration
	var l, half Latencies
	for i := range 20_000 {
		d := time.Duration(rand.Int64N(int64(time.Second) >> rand.IntN(30)))
		all = append(all, d)
		if i%2 == 0 {
			l.Add(d)
		} else {
			half.Add(d)
		}
	}
	l.Merge(&half)
	slices.Sort(all)
	for _, p := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[min(int(p*float64(len(all))), len(all)-1)]
		if got := l.At(p); got < want || float64(got) > 1.017*float64(want)+1 {
			t.Errorf("At(%v): got %v, want %v and at most 1.6 %% more", p, got, want)
		}
	}
	if l.Count() != len(all) || l.Max() != all[len(all)-1] {
		t.Errorf("got %d durations up to %v, want %d up to %v", l.Count(), l.Max(), len(all), all[len(all)-1])
	}
	if got := new(Latencies).At(0.5); got != 0 {
		t.Errorf("of no durations: got %v, want 0", got)
	}
}

func TestLoadAsksEachRequestOnceAndCountsWhatIsWrong(t *testing.T) {
	var seen sync.Map
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, twice := seen.LoadOrStore(r.URL.Path, true); twice {
			t.Errorf("%s was asked twice", r.URL.Path)
		}
		if strings.HasSuffix(r.URL.Path, "7") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if strings.HasSuffix(r.URL.Path, "8") {
			w.Header().Set("Connection", "close")
		}
		io.WriteString(w, "hello")
	})
	r, err := (&Load{Addr: addr, Conns: 7, Count: 1000, Next: plain}).Run()
	if err != nil {
		t.Fatal(err)
	}
	if r.Answers != 900 || r.Wrong != 100 || r.Latency.Count() != 900 || r.Bytes != 900*5 || r.Why == nil {
		t.Errorf("got %d answers, %d latencies, %d wrong (%v), %d bytes; want 900, 900, 100 with a reason, 4500", r.Answers, r.Latency.Count(), r.Wrong, r.Why, r.Bytes)
	}
	if r.Connects != 7+100 {
		t.Errorf("got %d connections, want 107: 7, and one for each that the server closed", r.Connects)
	}
}

func TestLoadGivesBodiesToAnswer(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, strings.Repeat(r.URL.Path, 20_000))
	})
	r, err := (&Load{Addr: addr, Conns: 3, Count: 30, Keep: true, Next: plain, Answer: func(i, status int, body []byte) error {
		if want := strings.Repeat(fmt.Sprintf("/%d", i), 20_000); status != 200 || string(body) != want {
			return fmt.Errorf("request %d: status %d and %d bytes, want 200 and %d", i, status, len(body), len(want))
		}
		return nil
	}}).Run()
	if err != nil || r.Wrong != 0 || r.Answers != 30 {
		t.Errorf("got %d answers, %d wrong (%v), err %v; want 30 right ones", r.Answers, r.Wrong, r.Why, err)
	}
}

func TestLoadKeepsItsRate(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	r, err := (&Load{Addr: addr, Conns: 4, Rate: 500, Count: 200, Next: plain}).Run()
	if err != nil || r.Wrong > 0 {
		t.Fatalf("err %v, %d wrong: %v", err, r.Wrong, r.Why)
	}
	if r.Answers != 200 || r.Took < 398*time.Millisecond {
		t.Errorf("200 requests at 500 a second: got %d answers in %v, want 200 in 0.4 s or, on a busy machine, more", r.Answers, r.Took)
	}
}

func TestLatencyAtARateCountsFromWhenARequestWasDue(t *testing.T) {
	var n atomic.Int32
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			time.Sleep(200 * time.Millisecond) // a server that stalls: its only connection is busy
		}
	})
	r, err := (&Load{Addr: addr, Conns: 1, Rate: 1000, Count: 100, Next: plain}).Run()
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Latency.At(0.5); got < 100*time.Millisecond {
		t.Errorf("half of the requests waited %v, want 100 ms and more: they were due while the server stalled", got)
	}
}

func TestLoadCountsBrokenConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.Read(make([]byte, 1000))
				if i%2 == 0 {
					io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
				} else {
					io.WriteString(c, "HTTP/1.1 204 No")
				}
			}()
		}
	}()
	r, err := (&Load{Addr: addrOf(t, l), Conns: 1, Count: 10, Next: plain}).Run()
	if err != nil {
		t.Fatal(err)
	}
	if r.Answers != 5 || r.Wrong != 5 || r.Why == nil {
		t.Errorf("got %d answers and %d wrong (%v), want 5 and 5 with a reason", r.Answers, r.Wrong, r.Why)
	}
}

func TestLoadFailsWhenNothingListens(t *testing.T) {
	if _, err := (&Load{Addr: netip.MustParseAddrPort("127.0.0.1:1"), Conns: 1, Count: 1, Next: plain}).Run(); err == nil {
		t.Error("got no error")
	}
}

func TestNothingLeavesThisMachine(t *testing.T) {
	_, err := (&Load{Addr: netip.MustParseAddrPort("192.0.2.1:80"), Conns: 1, Count: 1, Next: plain}).Run()
	if err == nil || !strings.Contains(err.Error(), "not an IPv4 address of this machine") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestWatchersSeeEveryChangeOnEveryStream(t *testing.T) {
	const streams = 300
	var mu sync.Mutex
	var changes []chan string
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		c := make(chan string, 10)
		mu.Lock()
		changes = append(changes, c)
		mu.Unlock()
		rc := http.NewResponseController(w)
		io.WriteString(w, "event: snapshot\n\n")
		rc.Flush()
		for {
			select {
			case s := <-c:
				io.WriteString(w, "data: "+s[:7]) // cut, so that no read has all of it
				rc.Flush()
				io.WriteString(w, s[7:]+"\n\n")
				rc.Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	w, err := Watch(addr, streams, plain)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for n := range 3 {
		err := w.Change(n, func() error {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range changes {
				c <- Mark(n)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := w.Took().Count(); got != 3*streams {
		t.Errorf("got %d times, want %d: one for each change and stream", got, 3*streams)
	}
	broken := errors.New("nothing changed")
	if err := w.Change(3, func() error { return broken }); err != broken {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestWatchFailsWhenStreamsAreRefused(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no", http.StatusForbidden) })
	if _, err := Watch(addr, 3, plain); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("got %v, want an error with status 403", err)
	}
}

// node is a registry of ours, and its address.
func node(t *testing.T) Target {
	t.Helper()
	r := registry.New(registry.Config{})
	return Target{serve(t, r.Handler().ServeHTTP), "/eureka"}
}

func TestFleetLivesWithoutLoss(t *testing.T) {
	target := node(t)
	f := &Fleet{Target: target, Size: 200, For: 1500 * time.Millisecond, Every: 200 * time.Millisecond, Churn: 20, Conns: 4, Mirrors: 2}
	if r, err := f.Register(); err != nil || r.Answers != f.Size {
		t.Fatalf("register: %d of %d, %v %v", r.Answers, f.Size, err, r.Why)
	}
	out, err := f.Run()
	if err != nil {
		t.Fatal(err)
	}
	if err := out.Fault(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out.Gone < 2 || out.Back < 2 || out.Deltas < 2 || out.Renewals.Answers < 50 || out.Polls.Answers < 20 {
		t.Errorf("%d went, %d came back, %d deltas, %d renewals, %d polls; want more of each", out.Gone, out.Back, out.Deltas, out.Renewals.Answers, out.Polls.Answers)
	}
}

func TestFleetSeesThatTheServerForgotAnInstance(t *testing.T) {
	target := node(t)
	f := &Fleet{Target: target, Size: 40, For: time.Second, Every: 200 * time.Millisecond, Conns: 2, Mirrors: 1}
	if _, err := f.Register(); err != nil {
		t.Fatal(err)
	}
	if r, err := (&Load{Addr: target.Addr, Conns: 1, Count: 1, Next: func(buf []byte, _ int) []byte { return target.Cancel(buf, 7) }}).Run(); err != nil || r.Wrong > 0 {
		t.Fatal(err, r.Why)
	}
	out, err := f.Run()
	if err != nil {
		t.Fatal(err)
	}
	if out.Lost == 0 || out.Missing != 0 || out.Fault() == nil {
		t.Errorf("lost %d, missing %d; want it seen as lost, and back at the end", out.Lost, out.Missing)
	}
}

func TestTheReferenceInstanceHasAbout990Bytes(t *testing.T) {
	if n := len(appendInstance(nil, 4711, "v1")); n < 940 || n > 1050 {
		t.Errorf("got %d bytes", n)
	}
}
