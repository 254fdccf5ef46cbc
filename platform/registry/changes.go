package registry

import (
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

// changeLog is the last change of each instance that changed lately, oldest first. It is guarded by the state's mu.
type changeLog struct {
	oldest, newest *change
	gone           map[key]*change // of instances that are no longer registered; entries have their own
	kept           int             // how many changes there are
	version        uint64          // of the newest change ever
	trimmed        uint64          // version of the newest change that fell out of the log

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

// change is the last thing that happened to an instance.
type change struct {
	older, newer *change
	version      uint64
	at           int64 // ns since the state's epoch
	rec          *record
	e            *entry  // nil if the instance is no longer registered
	had          *string // comma list of VIPs that it has or had lately, nil if it never had others

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
	c := &change{version: l.version, at: now, rec: r, older: l.newest}
	if vips != r.vip {
		c.had = &vips
	}
	if l.newest != nil {
		l.newest.newer = c
	} else {
		l.oldest = c
	}
	l.newest = c
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
	for c := l.oldest; c != nil; c = l.oldest {
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
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		l.oldest = c.newer
	}
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		l.newest = c.older
	}
	c.older, c.newer = nil, nil
}

// since lists the changes after version, oldest first; ok is false if some of them are no longer known.
func (l *changeLog) since(version uint64) (cs []*change, ok bool) {
	if version < l.trimmed {
		return nil, false
	}
	for c := l.newest; c != nil && c.version > version; c = c.older {
		cs = append(cs, c)
	}
	for i, j := 0, len(cs)-1; i < j; i, j = i+1, j-1 {
		cs[i], cs[j] = cs[j], cs[i]
	}
	return cs, true
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
