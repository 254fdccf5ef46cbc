package registry

import (
	"slices"
	"strings"
	"sync"
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
	byKey          map[key]*change
	oldest, newest *change
	version        uint64 // of the newest change ever
	trimmed        uint64 // version of the newest change that fell out of the log

	least, most time.Duration // that changes are kept; between them, as many as fit into deltaBudget
	cost        atomic.Int64  // compressed bytes of a change in a delta, as it was measured last
}

func newChangeLog() changeLog {
	return changeLog{byKey: make(map[key]*change), least: leastRetention, most: mostRetention}
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
	vips         string // comma list of those that it has, or had lately

	once  sync.Once
	event []byte // as watchers read it, made once for all of them
}

// add makes r, which was something else before unless was is nil, the newest change. Versions rise with the clock so that they rise across restarts too.
func (l *changeLog) add(r, was *record, now int64) {
	l.trim(now)
	k := r.key()
	vips := r.vip
	if was != nil {
		vips = mergeLists(vips, was.vip)
	}
	if c := l.byKey[k]; c != nil {
		vips = mergeLists(vips, c.vips)
		l.unlink(c)
	}
	l.version = max(l.version+1, uint64(time.Now().UnixMilli()))
	c := &change{version: l.version, at: now, rec: r, vips: vips, older: l.newest}
	if l.newest != nil {
		l.newest.newer = c
	} else {
		l.oldest = c
	}
	l.newest = c
	l.byKey[k] = c
}

func (l *changeLog) trim(now int64) {
	cost := l.cost.Load()
	if cost <= 0 {
		cost = changeCost
	}
	room := int(deltaBudget / cost)
	for c := l.oldest; c != nil; c = l.oldest {
		if age := time.Duration(now - c.at); age <= l.least || age <= l.most && len(l.byKey) <= room {
			return
		}
		l.trimmed = c.version
		l.unlink(c)
		delete(l.byKey, c.rec.key())
	}
}

// unlink takes c out of the list.
func (l *changeLog) unlink(c *change) {
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
