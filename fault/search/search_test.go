package search

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// toy is a system of services. Each entry makes its slots' calls, one slot after the other; a slot's calls are made in
// turn until one succeeds. A slot that ends in "default" is filled with something that needs no call.
type toy map[string][][]string

// request runs one request into service while these points fail.
func (y toy) request(service string, failing []string) Trace {
	var t Trace
	t.Good = y.serve(&t, service, -1, failing)
	return t
}

func (y toy) serve(t *Trace, service string, parent int, failing []string) bool {
	good := true
	for _, slot := range y[service] {
		filled, before := false, -1
		for _, to := range slot {
			if to == "default" {
				t.Calls[before].Fallback, filled = true, true
				break
			}
			me := len(t.Calls)
			t.Calls = append(t.Calls, Call{Point: to, Parent: parent, Instead: before})
			if !slices.Contains(failing, to) && y.serve(t, to, me, failing) {
				filled = true
				break
			}
			t.Calls[me].Failed, before = true, me
		}
		if !filled {
			good = false
			break // as a caller that gives up
		}
	}
	return good
}

// exhaustive tries every set of at most most points and returns the smallest that hurt, and how many it tried.
func (y toy) exhaustive(points []string, most int) (hurting [][]string, runs int) {
	var sets func(from, size int, set []string) [][]string
	sets = func(from, size int, set []string) (out [][]string) {
		if size == 0 {
			return [][]string{slices.Clone(set)}
		}
		for i := from; i < len(points); i++ {
			out = append(out, sets(i+1, size-1, append(set, points[i]))...)
		}
		return out
	}
	for size := 1; size <= most; size++ {
		for _, set := range sets(0, size, nil) {
			runs++
			if !y.request("edge", set).Good && !slices.ContainsFunc(hurting, func(h []string) bool { return subset(h, set) }) {
				hurting = append(hurting, set)
			}
		}
	}
	return hurting, runs
}

func (y toy) search(t testing.TB, s Search) Result {
	t.Helper()
	seen := map[string]bool{}
	s.Run = func(_ context.Context, failing []string) (Trace, error) {
		if k := key(failing); seen[k] {
			t.Errorf("%v was tried twice", failing)
		} else {
			seen[k] = true
		}
		return y.request("edge", failing), nil
	}
	res, err := s.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(res.Hurting, slices.Compare)
	return res
}

// film is a system of twelve services behind an edge, with bugs of one, two and three failures among them.
var film = toy{
	"edge":            {{"api"}},
	"api":             {{"members", "members-cache"}, {"recommendations", "popular", "default"}, {"catalog", "catalog-replica", "catalog-file"}, {"billing"}, {"abtest", "default"}},
	"recommendations": {{"ratings", "default"}},
	"catalog":         {{"artwork", "default"}},
}

func TestAllSeededBugsAreFoundInATenthOfTheRuns(t *testing.T) {
	points := []string{"abtest", "api", "artwork", "billing", "catalog", "catalog-file", "catalog-replica", "members", "members-cache", "popular", "ratings", "recommendations"}
	want, all := film.exhaustive(points, 3)
	res := film.search(t, Search{})
	slices.SortFunc(want, slices.Compare)
	seeded := [][]string{{"api"}, {"billing"}, {"catalog", "catalog-file", "catalog-replica"}, {"members", "members-cache"}}
	if !reflect.DeepEqual(want, seeded) {
		t.Fatalf("trying everything finds %v; the toy is meant to have %v", want, seeded)
	}
	if !reflect.DeepEqual(res.Hurting, want) || !res.Whole {
		t.Errorf("found %v, whole %v; want %v", res.Hurting, res.Whole, want)
	}
	if len(res.Steps)*10 > all {
		t.Errorf("%d runs, of %d that trying everything takes; want a tenth at most: %v", len(res.Steps), all, res.Steps)
	}
	t.Logf("%d runs instead of %d", len(res.Steps), all)
}

func TestSearchFindsWhatTryingEverythingFinds(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(rt, "services")
		y := toy{}
		names := []string{"edge"}
		for i := range n {
			names = append(names, fmt.Sprintf("s%d", i))
		}
		free := slices.Clone(names[1:]) // each is called for one purpose
		for _, name := range names {
			for range rapid.IntRange(0, 3).Draw(rt, "slots") {
				free = slices.DeleteFunc(free, func(s string) bool { return s <= name && name != "edge" }) // calls lead to later services only
				if len(free) == 0 {
					break
				}
				slot := free[:rapid.IntRange(1, min(3, len(free))).Draw(rt, "calls")]
				free = free[len(slot):]
				slot = slices.Clone(slot)
				if rapid.IntRange(0, 3).Draw(rt, "default") == 0 {
					slot = append(slot, "default")
				}
				y[name] = append(y[name], slot)
			}
		}
		want, _ := y.exhaustive(names[1:], 3)
		slices.SortFunc(want, slices.Compare)
		res := y.search(t, Search{})
		if !res.Whole || len(res.Hurting) != len(want) || len(want) > 0 && !reflect.DeepEqual(res.Hurting, want) {
			rt.Fatalf("system %v: found %v, want %v, in %v", y, res.Hurting, want, res.Steps)
		}
	})
}

func TestWhatIsKnownIsNotTriedAgain(t *testing.T) {
	first := film.search(t, Search{})
	var good [][]string
	for _, s := range first.Steps {
		if s.Good && len(s.Failing) > 0 {
			good = append(good, s.Failing)
		}
	}
	var told []Step
	again := film.search(t, Search{Tolerated: [][]string{{"abtest"}, {"ratings"}}, Tell: func(s Step) { told = append(told, s) }})
	for _, s := range again.Steps {
		if k := strings.Join(s.Failing, " "); k == "abtest" || k == "ratings" {
			t.Errorf("%s was known and was tried", k)
		}
	}
	if !reflect.DeepEqual(again.Hurting, first.Hurting) || len(told) != len(again.Steps) || len(good) == 0 {
		t.Errorf("found %v of %d steps told %d; want %v", again.Hurting, len(again.Steps), len(told), first.Hurting)
	}
}

func TestWhatCouldNotBeMadeToFailIsToldAndTheSearchIsNotWhole(t *testing.T) {
	y := toy{"edge": {{"a"}, {"b", "default"}}}
	deaf := "b" // to faults
	var steps []Step
	res, err := Search{Tell: func(s Step) { steps = append(steps, s) }, Run: func(_ context.Context, failing []string) (Trace, error) {
		out := y.request("edge", slices.DeleteFunc(slices.Clone(failing), func(p string) bool { return p == deaf }))
		out.Untested = slices.Contains(failing, deaf)
		return out, nil
	}}.Do(t.Context())
	if err != nil || res.Whole || !reflect.DeepEqual(res.Untested, [][]string{{"b"}}) || !reflect.DeepEqual(res.Hurting, [][]string{{"a"}}) {
		t.Errorf("got %+v, %v; want a as hurting, b as untested, and not the whole", res, err)
	}
	if !slices.ContainsFunc(steps, func(s Step) bool { return s.Untested && slices.Equal(s.Failing, []string{"b"}) }) {
		t.Errorf("told %+v, want that b was not tested", steps)
	}
}

func TestASearchEndsWhenItMust(t *testing.T) {
	if res := film.search(t, Search{MaxRuns: 5}); res.Whole || len(res.Steps) != 5 {
		t.Errorf("at most 5 runs: got %d, whole %v", len(res.Steps), res.Whole)
	}
	if res := film.search(t, Search{MaxFaults: 1}); !res.Whole || !reflect.DeepEqual(res.Hurting, [][]string{{"api"}, {"billing"}}) {
		t.Errorf("one failure at most: got %v", res.Hurting)
	}
	bad := Search{Run: func(context.Context, []string) (Trace, error) { return Trace{}, nil }}
	if _, err := bad.Do(t.Context()); !errors.Is(err, ErrUnwell) {
		t.Errorf("a request that never succeeds: got %v, want ErrUnwell", err)
	}
	boom := errors.New("boom")
	broken := Search{Run: func(_ context.Context, f []string) (Trace, error) {
		if len(f) > 0 {
			return Trace{}, boom
		}
		return film.request("edge", nil), nil
	}}
	if res, err := broken.Do(t.Context()); !errors.Is(err, boom) || len(res.Steps) != 1 || !strings.Contains(err.Error(), "with abtest failing") {
		t.Errorf("a run that cannot be made: got %+v, %v", res, err)
	}
	for _, calls := range [][]Call{{{Point: ""}}, {{Point: "a", Parent: 0, Instead: -1}}, {{Point: "a", Parent: -1, Instead: 1}}, {{Point: "a", Parent: -2, Instead: -1}}} {
		nonsense := Search{Run: func(context.Context, []string) (Trace, error) { return Trace{Good: true, Calls: calls}, nil }}
		if _, err := nonsense.Do(t.Context()); err == nil || !strings.Contains(err.Error(), "trace") {
			t.Errorf("calls %+v: got %v, want that they are no trace", calls, err)
		}
	}
}
