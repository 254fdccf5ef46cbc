package interop

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
)

// patience is how long tests wait for what is to come, on however busy a machine.
const patience = time.Minute

// eventually waits until what a client or the registry says is as wanted.
func eventually(t *testing.T, claim string, got func() []string, want ...string) {
	t.Helper()
	within(t, patience, claim, got, want...)
}

// within waits as eventually does, but for at most limit.
func within(t *testing.T, limit time.Duration, claim string, got func() []string, want ...string) {
	t.Helper()
	var last []string
	for began := time.Now(); time.Since(began) < limit; time.Sleep(50 * time.Millisecond) {
		if last = got(); slices.Equal(last, want) {
			return
		}
	}
	if len(want) <= 10 {
		t.Fatalf("%s: got %q after %v, want %q", claim, last, limit, want)
	}
	t.Fatalf("%s: after %v %q are there that should not be, and %q are not", claim, limit, less(last, want), less(want, last))
}

// tries has once try up to three times what only a machine that is busy may spoil, such as that something is told of within
// the ten seconds for which it is counted. Before each further time it pauses. once returns what is wrong.
func tries(t *testing.T, pause time.Duration, once func() (wrong []string)) {
	t.Helper()
	for try := 1; ; try++ {
		wrong := once()
		if len(wrong) == 0 {
			return
		}
		if try == 3 {
			t.Fatalf("three times; at last:\n%s", strings.Join(wrong, "\n"))
		}
		t.Logf("another try, for\n%s", strings.Join(wrong, "\n"))
		time.Sleep(pause)
	}
}

// less lists what of a is not in b.
func less(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// held says what the registry has of an app, as APP/id/STATUS.
func (s *server) held(app string) []string {
	var out []string
	for _, i := range s.reg.Instances(app) {
		out = append(out, strings.ToUpper(i.App)+"/"+i.ID+"/"+string(i.Status))
	}
	slices.Sort(out)
	return out
}

func TestPyEurekaClientGoesThroughItsFullCycle(t *testing.T) {
	hello := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello from "+r.URL.Path) })) //nolint:errcheck // the client says what it got
	defer hello.Close()
	_, port, err := net.SplitHostPort(hello.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}

	s := newGuarded(t, "secret")
	if status, err := ask(t.Context(), http.MethodGet, baseAt(s.addr)+"apps/", ""); err != nil || status != http.StatusUnauthorized {
		t.Fatalf("without the token: got %d, %v; want 401", status, err)
	}
	url := s.base() // with user and password
	mine, others := "PQ/127.0.0.1:pq:"+port+"/", "OTHER/127.0.0.1:other:9191/"
	py := start(t, "env", python(t, "pyeureka.py", url, "pq", port)...)
	py.order("start", "started")
	known := s.reg.Instances("pq")
	if len(known) != 1 || known[0].Addr() != "127.0.0.1:"+port || known[0].Status != roadbed.Up || known[0].VIP != "pq.test" || known[0].Metadata["user_id"] != "7" {
		t.Fatalf("registered: got %+v, want one UP instance at port %s with VIP pq.test and user_id 7", known, port)
	}
	see := func() []string { return py.order("known", "known") }
	eventually(t, "it sees itself, read as XML", see, mine+"UP")
	if got := py.order("serve", "served"); !slices.Equal(got, []string{"hello from /hello"}) {
		t.Errorf("do_service by app name: got %q, want the answer of the service", got)
	}

	other := start(t, "env", python(t, "pyeureka.py", url, "other", "9191")...)
	other.order("start", "started")
	eventually(t, "by delta it sees another come", see, others+"UP", mine+"UP")
	other.order("status OUT_OF_SERVICE", "status")
	eventually(t, "by delta it sees the other out of service", see, others+"OUT_OF_SERVICE", mine+"UP")
	other.order("clear", "cleared")
	other.order("status UP", "status")
	eventually(t, "by delta it sees the other up again", see, others+"UP", mine+"UP")
	other.order("stop", "stopped")
	eventually(t, "the other is gone from the registry", func() []string { return s.held("other") })
	eventually(t, "by delta it sees the other gone", see, mine+"UP")

	s.stop()
	s.start() // it has lost its memory
	eventually(t, "it registers again by itself", func() []string { return s.held("pq") }, mine+"UP")
	eventually(t, "it sees itself again", see, mine+"UP")
	py.order("stop", "stopped")
	eventually(t, "it is gone after its farewell", func() []string { return s.held("") })
}
