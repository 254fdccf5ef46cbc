// Package search finds combinations of failures that hurt, by the lineage of requests that went well. It follows
// lineage-driven fault injection (Alvaro, Rosen, Hellerstein: "Lineage-driven Fault Injection", SIGMOD 2015; Alvaro et
// al.: "Automating Failure Testing Research at Internet Scale", SoCC 2016).
//
// A request that succeeded shows what it was made of: the calls it led to, and which of them stood in for another that
// had failed. From that follows which sets of failures could have made it fail: those that cut every way to success that
// was seen. Smallest first each is tried for real. If the request fails, the set is a finding. If it succeeds, its trace
// shows the way round, which is one more to cut. It ends when no set of at most MaxFaults is left that could hurt:
//
//	found, err := search.Search{Run: run}.Do(ctx)
//
// where run sends one request with the given points failing and returns its [Trace].
//
// # What it promises
//   - Of a request whose redundancy shows in its traces, and in which each service is called for one purpose, it finds every
//     smallest set of up to MaxFaults failures that hurts.
//   - What it reports hurt when it was tried, and no part of it with one failure less did.
//   - It tries no set twice, and none that leaves a way to success that was seen, but for parts of a set that hurts.
//
// # What it does not
//   - It does not see redundancy that leaves no call: two parts either of which suffices, without one being called for
//     want of the other. Sets of such parts are not tried.
//   - Where a service is called for several purposes it presumes that it always does the same; a rare set may be missed.
//   - It knows no services and injects nothing; that is for whoever gives it Run.
package search

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Call is one call that a request led to.
type Call struct {
	Point    string // where it can be made to fail, e.g. "client:ratings"
	Parent   int    // the call in whose service it was made, by its place in the trace; -1 = the request itself
	Instead  int    // the call that had failed and for which it stood in; -1 = none
	Failed   bool
	Fallback bool // it failed and its caller went on with something that needs no call
}

// Trace is what came of one request.
type Trace struct {
	Good  bool
	Calls []Call // a call comes after its parent and after what it stood in for

	// Untested says that what should have failed did not, so that the request says nothing of what happens if it does.
	Untested bool
}

// Search is what shall be searched. Run is required.
type Search struct {
	Run       func(ctx context.Context, failing []string) (Trace, error) // one request; failing is sorted
	MaxFaults int                                                        // at once; 0 = 3
	MaxRuns   int                                                        // 0 = 1000
	Tolerated [][]string                                                 // sets that are known not to hurt, say from an earlier run with the same code
	Tell      func(Step)                                                 // nil = nobody listens
}

// Step is one experiment.
type Step struct {
	Failing  []string `json:"failing"`
	Good     bool     `json:"good"`
	Untested bool     `json:"untested,omitempty"` // nothing failed
}

// Result is what was found.
type Result struct {
	Points  []string   `json:"points"`  // that were seen, in order
	Hurting [][]string `json:"hurting"` // smallest sets of points whose failure makes the request fail
	Steps   []Step     `json:"steps"`
	Whole   bool       `json:"whole"` // every set of at most MaxFaults that was worth it was tried

	Untested [][]string `json:"untested,omitempty"` // sets that could not be made to fail
}

// ErrUnwell is why a search did not begin: the request fails when nothing is injected.
var ErrUnwell = errors.New("search: the request fails although nothing was injected; make it succeed first")

// Do searches. It fails with [ErrUnwell], with what Run fails with, and when ctx ends; the result then holds what was
// found until then.
func (s Search) Do(ctx context.Context) (Result, error) {
	s.MaxFaults, s.MaxRuns = cmp.Or(s.MaxFaults, 3), cmp.Or(s.MaxRuns, 1000)
	if s.Tell == nil {
		s.Tell = func(Step) {}
	}
	var res Result
	root, points := &node{needed: true}, map[string]bool{}
	tried := map[string]bool{}
	for _, set := range s.Tolerated {
		tried[key(sorted(set))] = true
	}
	run := func(failing []string) (Trace, error) {
		t, err := s.Run(ctx, failing)
		if err == nil {
			err = t.check()
		}
		if err != nil {
			return t, fmt.Errorf("search: with %s failing: %w", cmp.Or(strings.Join(failing, ", "), "nothing"), err)
		}
		for _, c := range t.Calls {
			points[c.Point] = true
		}
		res.Points = res.Points[:0]
		for p := range points {
			res.Points = append(res.Points, p)
		}
		slices.Sort(res.Points)
		step := Step{failing, t.Good, t.Untested}
		res.Steps = append(res.Steps, step)
		s.Tell(step)
		return t, nil
	}
	t, err := run(nil)
	if err != nil {
		return res, err
	}
	if !t.Good {
		return res, ErrUnwell
	}
	root.learn(t)
	for {
		next := root.candidate(s.MaxFaults, tried, res.Hurting)
		if next == nil {
			res.Whole = len(res.Untested) == 0
			return res, nil
		}
		if len(res.Steps) >= s.MaxRuns {
			return res, nil
		}
		try := func(set []string) (hurt bool, err error) {
			if tried[key(set)] || len(set) == 0 || len(res.Steps) >= s.MaxRuns {
				return false, nil
			}
			tried[key(set)] = true
			t, err := run(set)
			if err != nil {
				return false, err
			}
			if t.Untested {
				res.Untested = append(res.Untested, set)
				return false, nil
			}
			root.learn(t)
			return !t.Good, nil
		}
		hurt, err := try(next)
		if err != nil {
			return res, err
		}
		if !hurt {
			continue
		}
		// It may hold more than it takes, for what it was made of is what was seen.
		for i := 0; i < len(next); {
			less := slices.Concat(next[:i], next[i+1:])
			if hurt, err = try(less); err != nil {
				return res, err
			}
			if hurt {
				next = less
			} else {
				i++
			}
		}
		res.Hurting = slices.DeleteFunc(res.Hurting, func(h []string) bool { return subset(next, h) })
		res.Hurting = append(res.Hurting, next)
	}
}

// check reports what makes t no trace.
func (t Trace) check() error {
	for i, c := range t.Calls {
		if c.Point == "" || c.Parent >= i || c.Instead >= i || c.Parent < -1 || c.Instead < -1 {
			return fmt.Errorf("call %d of the trace, %+v, has no point, or points to a call that does not come before it", i, c)
		}
	}
	return nil
}

// node is a call as all traces together show it. Its work succeeds if the call does and all needed work of its children,
// or else if one that stands in for it does.
type node struct {
	point    string
	nth      int // of the calls of that point made by one parent
	children []*node
	instead  []*node // that stood in for it, in the order they were seen
	ran      bool    // it was seen to succeed, with the children that it has
	needed   bool    // false: a request succeeded although neither it nor what stood in for it did
}

// child returns the nth call of that point in list, made if there is none.
func child(list *[]*node, point string, nth int) *node {
	for _, n := range *list {
		if n.point == point && n.nth == nth {
			return n
		}
	}
	n := &node{point: point, nth: nth, needed: true}
	*list = append(*list, n)
	return n
}

// learn takes in a trace: what calls what, what stands in for what, and, from a request that went well, what is not
// needed.
func (root *node) learn(t Trace) {
	at := make([]*node, len(t.Calls))
	replaced := make([]bool, len(t.Calls))
	for i, c := range t.Calls {
		parent := root
		if c.Parent >= 0 {
			parent = at[c.Parent]
		}
		if c.Instead >= 0 {
			at[i] = child(&at[c.Instead].instead, c.Point, 0)
			replaced[c.Instead] = true
		} else {
			nth := 0
			for j := range i {
				if o := t.Calls[j]; o.Point == c.Point && o.Parent == c.Parent && o.Instead < 0 {
					nth++
				}
			}
			at[i] = child(&parent.children, c.Point, nth)
		}
	}
	for i, c := range t.Calls {
		at[i].ran = at[i].ran || !c.Failed
	}
	if !t.Good {
		return
	}
	// What failed, led to no other call, and yet did no harm to a caller that itself succeeded, is not needed there.
	for i, c := range t.Calls {
		if c.Failed && !replaced[i] && (c.Fallback || c.Parent < 0 || !t.Calls[c.Parent].Failed) {
			at[i].needed = false
		}
	}
}

// candidate returns the smallest set that cuts all ways to success, was not tried, and has none of hurting in it.
func (root *node) candidate(most int, tried map[string]bool, hurting [][]string) []string {
	var best []string
	for _, set := range (&cutter{most, root.roles()}).cuts(root, nil) {
		if len(set) == 0 || tried[key(set)] || slices.ContainsFunc(hurting, func(h []string) bool { return subset(h, set) }) {
			continue
		}
		if best == nil || len(set) < len(best) || len(set) == len(best) && key(set) < key(best) {
			best = set
		}
	}
	return best
}

// roles returns for each point a call of it that was seen to succeed.
func (root *node) roles() map[string]*node {
	out := map[string]*node{}
	var walk func(*node)
	walk = func(n *node) {
		if n.ran && (out[n.point] == nil || len(out[n.point].children) < len(n.children)) {
			out[n.point] = n
		}
		for _, c := range slices.Concat(n.children, n.instead) {
			walk(c)
		}
	}
	walk(root)
	return out
}

// cutter works out what makes work fail.
type cutter struct {
	most  int
	roles map[string]*node
}

// cuts returns the minimal sets of at most so many points whose failure makes the node's work fail; none if it cannot
// be made to. The root has no point of its own. A call that was never seen to succeed where it is does, it is presumed,
// what it does elsewhere; within are the points of those presumptions.
func (c *cutter) cuts(n *node, within []string) [][]string {
	if !n.needed {
		return nil
	}
	var own [][]string
	if n.point != "" {
		own = append(own, []string{n.point})
	}
	children := n.children
	if as := c.roles[n.point]; !n.ran && as != nil && !slices.Contains(within, n.point) {
		children, within = as.children, append(slices.Clone(within), n.point)
	}
	for _, x := range children {
		own = append(own, c.cuts(x, within)...)
	}
	own = minimal(own)
	for _, other := range n.instead {
		var both [][]string
		for _, a := range own {
			for _, b := range c.cuts(other, within) {
				if u := union(a, b); len(u) <= c.most {
					both = append(both, u)
				}
			}
		}
		own = minimal(both)
	}
	return own
}

// minimal returns sets without those that have another one in them.
func minimal(sets [][]string) [][]string {
	slices.SortStableFunc(sets, func(a, b []string) int { return cmp.Compare(len(a), len(b)) })
	var out [][]string
	for _, s := range sets {
		if !slices.ContainsFunc(out, func(smaller []string) bool { return subset(smaller, s) }) {
			out = append(out, s)
		}
	}
	return out
}

// subset reports whether all of a are in b; both are sorted.
func subset(a, b []string) bool {
	i := 0
	for _, x := range b {
		if i < len(a) && a[i] == x {
			i++
		}
	}
	return i == len(a)
}

func union(a, b []string) []string {
	return slices.Compact(sorted(slices.Concat(a, b)))
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func key(set []string) string { return strings.Join(set, "\x00") }
