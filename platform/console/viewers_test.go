package console

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// still answers as rooms in which nothing happens, except that it counts faults.
type still struct {
	mu        sync.Mutex
	faults    int // guarded by mu, like all below
	instances int
}

func (s *still) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/api/v1/faults":
		fmt.Fprintf(w, `[{"id":"fault-%d"}]`, s.faults)
	case "/api/v1/registry/instances":
		rows := make([]string, s.instances)
		for i := range rows {
			rows[i] = fmt.Sprintf(`{"id":"i-%04d"}`, i)
		}
		fmt.Fprintf(w, "[%s]", strings.Join(rows, ","))
	default:
		fmt.Fprint(w, `{}`)
	}
}

// recorder is a viewer who reads everything at once.
type recorder struct {
	header http.Header
	status int

	mu     sync.Mutex
	events [][]byte // as they were given to Write, not copied; guarded by mu
}

func (r *recorder) Header() http.Header    { return r.header }
func (r *recorder) WriteHeader(status int) { r.status = status }
func (r *recorder) FlushError() error      { return nil }

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, p)
	return len(p), nil
}

func (r *recorder) got() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events
}

// record opens a viewer's stream. It ends with the test, or when the viewer leaves.
func record(t *testing.T, c *Console) (seen *recorder, leave func()) {
	ctx, cancel := context.WithCancel(t.Context())
	seen = &recorder{header: http.Header{}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Handler().ServeHTTP(seen, httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/overview/stream", nil))
	}()
	leave = func() {
		cancel()
		<-ended
	}
	t.Cleanup(leave)
	return seen, leave
}

func TestManyViewersShareOneEncodedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, newFixture())
		var viewers []*recorder
		for range 20 {
			v, _ := record(t, c)
			viewers = append(viewers, v)
		}
		time.Sleep(5*askEvery + askEvery/2)
		synctest.Wait()
		want := viewers[0].got()
		if len(want) != 6 {
			t.Fatalf("in 5.5 s a viewer got %d events, want 6", len(want))
		}
		for i, v := range viewers {
			got := v.got()
			if len(got) != len(want) {
				t.Fatalf("viewer %d got %d events, want %d", i, len(got), len(want))
			}
			for n := range got {
				if &got[n][0] != &want[n][0] {
					t.Errorf("viewer %d, event %d: has bytes of its own, want those of viewer 0", i, n)
				}
			}
		}
	})
}

func TestOnlyWhatChangedIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rooms := &still{instances: 500}
		v, _ := record(t, run(t, rooms))
		time.Sleep(3*askEvery + askEvery/2)
		synctest.Wait()
		rooms.mu.Lock()
		rooms.faults = 7
		rooms.mu.Unlock()
		time.Sleep(askEvery)
		synctest.Wait()
		got := v.got()
		if len(got) != 5 {
			t.Fatalf("in 4.5 s: got %d events, want 5", len(got))
		}
		if !bytes.HasPrefix(got[0], []byte("event: overview\n")) || !bytes.Contains(got[0], []byte("i-0499")) {
			t.Errorf("the first event: got %.80s, want the whole overview", got[0])
		}
		for _, ev := range got[1:4] {
			if !bytes.HasPrefix(ev, []byte("event: change\n")) || len(ev) > 160 {
				t.Errorf("nothing changed: got %d bytes, %.200s; want a change of at most 160", len(ev), ev)
			}
		}
		if ev := got[4]; !bytes.Contains(ev, []byte(`"faults":[{"id":"fault-7"}]`)) || bytes.Contains(ev, []byte("registry")) {
			t.Errorf("a fault changed: got %.200s, want it and nothing else", ev)
		}
	})
}

func TestPartThatHasGoneIsNull(t *testing.T) {
	before := Overview{Members: json.RawMessage(`{"all":{}}`), Faults: json.RawMessage(`[]`)}
	after := Overview{Faults: json.RawMessage(`[]`)}
	got := after.since(before)
	if string(got.Members) != "null" || got.Faults != nil {
		t.Errorf("got members %s and faults %s, want null and absent", got.Members, got.Faults)
	}
	if after.Members != nil || string(after.Faults) != "[]" {
		t.Errorf("the overview itself became %+v, want it unchanged", after)
	}
}

func TestSlowViewerSkipsOverviewsAndDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, newFixture())
		slow, _ := watch(t, c)
		slow()
		quick, _ := record(t, c)
		time.Sleep(20*askEvery + askEvery/2) // the slow one reads nothing
		synctest.Wait()
		if n := len(quick.got()); n < 20 {
			t.Errorf("beside a viewer who does not read, another got %d overviews in 20 s, want 20", n)
		}
		o, ok := slow() // what was being written to it
		if ok && time.Since(o.Time) > askEvery {
			o, ok = slow()
		}
		if !ok || time.Since(o.Time) > askEvery {
			t.Errorf("the second event after it reads again is %v old (%v), want the newest: those between skipped", time.Since(o.Time), ok)
		}
		if len(o.Registry) == 0 || len(o.Clusters) == 0 {
			t.Errorf("after skipping some: got %+v, want a whole overview", o)
		}
	})
}

func TestOneViewerTooManyIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, &still{})
		var leave func()
		for range maxViewers {
			_, leave = record(t, c)
		}
		synctest.Wait()
		resp := get(t, c.Handler(), "/api/v1/overview/stream")
		var problem struct{ Detail string }
		if err := json.NewDecoder(resp.Body).Decode(&problem); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" || resp.Header.Get("Content-Type") != "application/problem+json" ||
			!strings.HasPrefix(problem.Detail, "64 viewers watch the console already") {
			t.Errorf("viewer 65: got %d %v %q, want a 503 problem that says why, and to come back in 5 s", resp.StatusCode, resp.Header, problem.Detail)
		}
		leave()
		v, _ := record(t, c)
		time.Sleep(askEvery)
		synctest.Wait()
		if v.status != 200 || len(v.got()) == 0 {
			t.Errorf("after one left: got %d and %d events, want 200 and an overview", v.status, len(v.got()))
		}
	})
}

func TestLongListsAreCutAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rooms := &still{instances: shownRows + 3}
		next, _ := watch(t, run(t, rooms))
		o, _ := next()
		var rows []struct{ ID string }
		if err := json.Unmarshal(o.Registry, &rows); err != nil || len(rows) != shownRows || rows[shownRows-1].ID != "i-0999" {
			t.Errorf("of %d rows: got %d (%v), want the first %d", rooms.instances, len(rows), err, shownRows)
		}
		if o.Truncated["registry"] != 3 || len(o.Truncated) != 1 {
			t.Errorf("truncated: got %v, want 3 of the registry", o.Truncated)
		}
		rooms.mu.Lock()
		rooms.instances = shownRows
		rooms.mu.Unlock()
		next()
		if o, _ := next(); len(o.Truncated) != 0 {
			t.Errorf("a list of exactly %d rows: truncated %v, want nothing", shownRows, o.Truncated)
		}
	})
}
