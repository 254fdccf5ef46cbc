package registry

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// A delta tells of a change for so long; a client that slept longer must fetch everything. The hash by which clients
// notice that they missed something sees only counts, so a change is told for longer while that costs little.
const (
	leastRetention = 180 * time.Second
	mostRetention  = 15 * time.Minute
	deltaBudget    = 256 << 10 // compressed bytes of a delta up to which more than the least is told
	changeCost     = 200       // compressed bytes that a change is taken to need until that was measured
	costSample     = 8         // changes in a delta by which it is measured
)

// changeLog is the last change of each instance that changed lately. It is guarded by the state's mu, but whoever got
// changes of it reads on without.
type changeLog struct {
	changes changes         // of these, runs are replaced
	gone    map[key]*change // of instances that are no longer registered; entries have their own
	kept    int             // how many changes there are
	version uint64          // of the newest change ever
	trimmed uint64          // version of the newest change that fell out of the log

	least, most time.Duration // that changes are kept; between them, as many as fit into deltaBudget
	cost        atomic.Int64  // compressed bytes of a change in a delta, as it was measured last
}

func newChangeLog() changeLog {
	return changeLog{gone: make(map[key]*change), least: leastRetention, most: mostRetention}
}

// measure takes note of what a delta of n changes needs.
func (l *changeLog) measure(n, compressed int) {
	if n >= costSample {
		l.cost.Store(int64(compressed / n))
	}
}

// changes are changes, oldest first, in runs of at most runMost. What is in a run is never altered, so that copies of
// the list of runs share them: the log appends behind what others see, and takes a change out by making the run anew.
type changes [][]*change

// runMost is how many changes a run holds. More make the list that each reader copies shorter, and the copy of a run that
// each change of an instance costs that changed before, longer. Two neighbours hold more than half of it together.
const runMost = 256

// all yields the changes in order.
func (cs changes) all() iter.Seq[*change] {
	return func(yield func(*change) bool) {
		for _, run := range cs {
			for _, c := range run {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// count is how many there are.
func (cs changes) count() (n int) {
	for _, run := range cs {
		n += len(run)
	}
	return n
}

// after returns those after version, without copying runs. It is quick where version is among the newest.
func (cs changes) after(version uint64) changes {
	i := len(cs)
	for i > 0 && cs[i-1][0].version > version {
		i--
	}
	if i == 0 {
		return slices.Clone(cs)
	}
	some := make(changes, 0, 1+len(cs)-i)
	if at, met := inRun(cs[i-1], version); met {
		some = append(some, cs[i-1][at+1:])
	} else {
		some = append(some, cs[i-1][at:])
	}
	if len(some[0]) == 0 {
		some = some[:0]
	}
	return append(some, cs[i:]...)
}

// inRun finds the place of a version in a run, or where it would be.
func inRun(run []*change, version uint64) (at int, met bool) {
	return slices.BinarySearchFunc(run, version, func(c *change, v uint64) int { return cmp.Compare(c.version, v) })
}

// add appends c, which is newer than all others.
func (cs *changes) add(c *change) {
	if last := len(*cs) - 1; last >= 0 && len((*cs)[last]) < runMost {
		(*cs)[last] = append((*cs)[last], c)
	} else {
		*cs = append(*cs, []*change{c})
	}
}

// drop takes out c, which is among them.
func (cs *changes) drop(c *change) {
	i, met := slices.BinarySearchFunc(*cs, c.version, func(run []*change, v uint64) int { return cmp.Compare(run[0].version, v) })
	if !met {
		i--
	}
	run := (*cs)[i]
	at, _ := inRun(run, c.version)
	switch {
	case len(run) == 1:
		*cs = slices.Delete(*cs, i, i+1)
	case i == 0 && at == 0:
		(*cs)[i] = run[1:]
	default:
		(*cs)[i] = slices.Concat(run[:at], run[at+1:])
	}
	cs.join(i)
	cs.join(i - 1)
}

// join makes the i-th run and the next one, if there are both and they are short.
func (cs *changes) join(i int) {
	if i < 0 || i+1 >= len(*cs) {
		return
	}
	if a, b := (*cs)[i], (*cs)[i+1]; len(a)+len(b) <= runMost/2 {
		(*cs)[i] = slices.Concat(a, b)
		*cs = slices.Delete(*cs, i+1, i+2)
	}
}

// change is the last thing that happened to an instance.
type change struct {
	version uint64
	at      int64 // ns since the state's epoch
	rec     *record
	e       *entry  // nil if the instance is no longer registered, or something happened to it since; guarded by the state's mu
	had     *string // comma list of VIPs that it has or had lately, nil if it never had others

	event atomic.Pointer[[]byte] // as watchers read it, once one of them did
}

// vips is a comma list of those that the instance has, or had lately.
func (c *change) vips() string {
	if c.had != nil {
		return *c.had
	}
	return c.rec.vip
}

// add makes r, which was something else before unless was is nil, the newest change. It is that of e unless r was
// deleted. Versions rise with the clock so that they rise across restarts too.
func (l *changeLog) add(e *entry, r, was *record, now int64) {
	l.trim(now)
	vips := r.vip
	if was != nil {
		vips = mergeLists(vips, was.vip)
	}
	last := e.last
	if last == nil {
		last = l.gone[r.key()]
	}
	if last != nil {
		vips = mergeLists(vips, last.vips())
		l.drop(last)
	}
	l.version = max(l.version+1, uint64(time.Now().UnixMilli()))
	c := &change{version: l.version, at: now, rec: r}
	if vips != r.vip {
		c.had = &vips
	}
	l.changes.add(c)
	l.kept++
	if r.action == deleted {
		l.gone[r.key()] = c
	} else {
		c.e, e.last = e, c
	}
}

func (l *changeLog) trim(now int64) {
	cost := l.cost.Load()
	if cost <= 0 {
		cost = changeCost
	}
	room := int(deltaBudget / cost)
	for len(l.changes) > 0 {
		c := l.changes[0][0]
		if age := time.Duration(now - c.at); age <= l.least || age <= l.most && l.kept <= room {
			return
		}
		l.trimmed = c.version
		l.drop(c)
	}
}

// drop takes c out of the log.
func (l *changeLog) drop(c *change) {
	l.kept--
	if c.e != nil {
		c.e.last, c.e = nil, nil
	} else {
		delete(l.gone, c.rec.key())
	}
	l.changes.drop(c)
}

// since returns the changes after version; ok is false if some of them are no longer known.
func (l *changeLog) since(version uint64) (cs changes, ok bool) {
	if version < l.trimmed {
		return nil, false
	}
	return l.changes.after(version), true
}

// mergeLists adds to a what only b has; both are comma lists.
func mergeLists(a, b string) string {
	if a == b || b == "" {
		return a
	}
	for name := range strings.SplitSeq(b, ",") {
		if name = strings.TrimSpace(name); name != "" && !slices.ContainsFunc(strings.Split(a, ","), func(s string) bool { return strings.TrimSpace(s) == name }) {
			a += "," + name
		}
	}
	return a
}
