package registry

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
)

// sink takes a stream's bytes inside a bubble.
type sink struct {
	mu     sync.Mutex
	header http.Header
	got    strings.Builder
}

func (s *sink) Header() http.Header { return s.header }
func (s *sink) WriteHeader(int)     {}
func (s *sink) Flush()              {}
func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

// take returns the names of the events since the last call, with beats as "beat".
func (s *sink) take() string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for line := range strings.SplitSeq(s.got.String(), "\n") {
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			names = append(names, n)
		}
		if line == ": beat" {
			names = append(names, "beat")
		}
		if strings.Contains(line, `"warming":`) {
			names[len(names)-1] += map[bool]string{true: "(warming)", false: "(warm)"}[strings.Contains(line, `"warming":true`)]
		}
	}
	s.got.Reset()
	return strings.Join(names, " ")
}

func TestWatchersAreToldWhenTheRegistryIsWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := running(t)
		ctx, cancel := context.WithCancel(context.Background())
		w := &sink{header: http.Header{}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.Handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/registry/v1/watch", nil))
		}()
		defer func() { cancel(); <-done }()
		if got := w.take(); got != "snapshot(warming)" {
			t.Errorf("at first: got %s, want a snapshot of a warming registry", got)
		}
		long := reg("WEB", "1", up, 0)
		long.duration = 3600
		r.s.register(long, origin{})
		if got := w.take(); got != "put" {
			t.Errorf("after a registration: got %s, want put", got)
		}
		time.Sleep(30 * time.Second)
		got := w.take()
		if beats, hashes := strings.Count(got, "beat"), strings.Count(got, "hash(warming)"); beats != 3 || hashes != 2 || len(strings.Fields(got)) != 5 {
			t.Errorf("30 s later: got %s, want three beats and two hashes of a warming registry", got)
		}
		time.Sleep(4 * time.Second)
		w.take()
		time.Sleep(3 * time.Second)
		if got := w.take(); strings.Count(got, "snapshot") != 1 || !strings.Contains(got, "snapshot(warm)") {
			t.Errorf("when warm: got %s, want one snapshot", got)
		}
		r.s.cancel(key{"WEB", "1"})
		if got := w.take(); got != "remove" {
			t.Errorf("after a cancel: got %s, want remove", got)
		}
	})
}

func TestCancelEndsTheOverride(t *testing.T) {
	s := at(t, "overridden")
	k := key{"A", "i"}
	res, was := s.cancel(k)
	if res != done || was == nil || *was != (decided{k, outOfService}) {
		t.Errorf("cancel of an overridden instance: got %v, %v; want done and its override", res, was)
	}
	s.register(reg("A", "i", up, 20), origin{})
	if got := describe(s, k); got != "UP/-/20/MODIFIED" {
		t.Errorf("registered again: got %s, want it UP without an override", got)
	}
}

func TestWhatOperatorsDecidedIsTheNewestEntryThatTookEffect(t *testing.T) {
	at := time.UnixMilli(1_700_000_000_000)
	out, none := decisionJSON(outOfService, outOfService), decisionJSON(up, unknown)
	newestFirst := []roadbed.Change{
		{ID: 9, Parent: 8, Action: overrideAction, Resource: "instance:a/failed", Result: roadbed.Failed},
		{ID: 8, Action: overrideAction, Resource: "instance:a/failed", Result: roadbed.Succeeded, After: out},
		{ID: 7, Action: clearAction, Time: at, Resource: "instance:a/cleared", Result: roadbed.Succeeded, After: none},
		{ID: 6, Action: overrideAction, Resource: "instance:a/cleared", Result: roadbed.Succeeded, After: out},
		{ID: 5, Action: overrideAction, Time: at, Resource: "instance:a/b/c", Result: roadbed.Succeeded, After: out},
		{ID: 4, Action: overrideAction, Resource: "instance:a/up", Result: roadbed.Succeeded, After: decisionJSON(up, up)},
		{ID: 3, Action: "instance.restart", Resource: "instance:a/other", Result: roadbed.Succeeded, After: out},
		{ID: 2, Action: overrideAction, Resource: "instance:odd", Result: roadbed.Succeeded, After: out},
		{ID: 1, Action: overrideAction, Resource: "instance:a/odd", Result: roadbed.Succeeded, After: []byte("{")},
	}
	want := map[key]verdict{
		{"A", "b/c"}: {stampOf(at), true, outOfService}, {"A", "up"}: {0, true, up}, {"A", "cleared"}: {stamp: stampOf(at)},
	}
	if got := decisions(newestFirst); !maps.Equal(got, want) {
		t.Errorf("decisions: got %v, want %v", got, want)
	}
}
