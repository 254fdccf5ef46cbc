package registry

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// snapshot is the whole registry at one moment. It is never altered; what is expensive in it is made on first use and
// shared by all readers.
type snapshot struct {
	edition uint64      // of the state it was made of
	version uint64      // of the newest change in it
	made    int64       // ns since the state's epoch
	cost    int64       // ns it took to make
	long    atomic.Bool // something was made of it that takes long because so many are registered
	hash    string
	warming bool
	count   int
	views   []*view // sorted by name
	changes changes
	self    string

	full   document
	delta  func() *document
	byVIP  func() map[string][]*view
	bySVIP func() map[string][]*view
	byID   func() map[string]member1
}

// view is one application at one moment, with its rendered forms.
type view struct {
	name   string
	recs   []shown
	made   int64
	self   string
	region string
	blocks [codecs]block
}

// shown is one instance with what its lease said when the view was made.
type shown struct {
	rec     *record
	renewed int64 // ms since 1970
}

// member1 is one instance and the view it is in.
type member1 struct {
	v *view
	i int
}

const (
	// coalesce bounds how long readers may see the former snapshot while a large registry changes without pause: when a list
	// of very many was made of it, or it was expensive itself. Then so do eight times what it cost, and if that is much, they
	// see it for three times its cost.
	coalesce = 10 * time.Millisecond
	cheap    = int64(time.Millisecond) // a snapshot that costs less is made for every change

	// staleTimes is how old the lease times in a view may be when it becomes part of a snapshot. Views are looked over for
	// those that would become older, not more often than every staleLook.
	staleTimes = 30 * time.Second
	staleLook  = time.Second
)

// current returns the registry as it is, or as it was at most a coalescing tick ago if it is large and changing.
func (s *state) current(region string) *snapshot {
	if sn := s.snap.Load(); sn != nil && s.fresh(sn) {
		return sn
	}
	s.building.Lock()
	defer s.building.Unlock()
	was := s.snap.Load()
	if was != nil && s.fresh(was) {
		return was // somebody else made it while we waited
	}
	sn := s.snapshot(region)
	s.snap.Store(sn)
	return sn
}

// read returns what readers of lists see: the registry as it is, unless it was configured to show a copy.
func (r *Registry) read() *snapshot {
	if !r.c.Settings.ReadOnlyCache {
		return r.s.current(r.c.Location.Region)
	}
	if sn := r.copied.Load(); sn != nil {
		return sn
	}
	r.copied.CompareAndSwap(nil, r.s.current(r.c.Location.Region)) // nobody has read before
	return r.copied.Load()
}

// refreshCopy makes the copy anew at whole multiples of its period by the clock, as Eureka does, until ctx ends.
func (r *Registry) refreshCopy(ctx context.Context) {
	period := cmp.Or(r.c.Settings.ReadOnlyCacheUpdates, 30*time.Second)
	for {
		now := time.Now()
		t := time.NewTimer(now.Truncate(period).Add(period).Sub(now))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
			r.copied.Store(r.s.current(r.c.Location.Region))
		}
	}
}

func (s *state) fresh(sn *snapshot) bool {
	now := s.now()
	age := now - sn.made
	if age > int64(staleTimes) {
		return false
	}
	s.mu.RLock()
	same, warmth := sn.edition == s.edition, sn.warming == s.warming
	s.mu.RUnlock()
	return warmth && (same || sn.long.Load() && age < int64(coalesce) || sn.cost > cheap && age < max(min(int64(coalesce), 8*sn.cost), 3*sn.cost))
}

// snapshot makes a new one. Of what it lists, all is shared with the last one but applications that changed, or whose
// lease times are stale.
func (s *state) snapshot(region string) *snapshot {
	start := s.now()
	wall := time.Now().UnixMilli()
	s.mu.Lock()
	s.log.trim(start)
	sn := &snapshot{
		edition: s.edition, version: s.log.version, made: start, hash: hashCode(s.byStatus), warming: s.warming,
		count: s.count, self: s.self, views: s.list(start, wall, region), changes: slices.Clone(s.log.changes),
	}
	if start-s.past.since > int64(pastKept) {
		s.past.since = start
		s.past.forgetDeltas()
	}
	s.mu.Unlock()

	sn.derive(region, &s.past, s.log.measure)
	sn.cost = s.now() - start
	return sn
}

// list returns a view of each application, in the order of their names. It makes those anew of applications that were
// touched or whose lease times would become stale. The caller holds mu.
func (s *state) list(start, wall int64, region string) []*view {
	if start-s.looked >= int64(staleLook) {
		s.looked = start
		for _, v := range s.listed {
			if start-v.made > int64(staleTimes-staleLook) {
				s.touched[v.name] = struct{}{}
			}
		}
	}
	views, at := make([]*view, 0, len(s.apps)), 0
	for _, name := range slices.Sorted(maps.Keys(s.touched)) {
		i, known := slices.BinarySearchFunc(s.listed[at:], name, viewNamed)
		views = append(views, s.listed[at:at+i]...)
		if at += i; known {
			at++
		}
		if a := s.apps[name]; a != nil {
			v := &view{name: a.name, recs: make([]shown, len(a.order)), made: start, self: s.self, region: region}
			for i, e := range a.order {
				v.recs[i] = shown{e.rec, wall - (start-e.lease.renewed.Load())/int64(time.Millisecond)}
			}
			views = append(views, v)
		}
	}
	views = append(views, s.listed[at:]...)
	s.listed, s.touched = views, make(map[string]struct{})
	return views
}

func viewNamed(v *view, name string) int { return strings.Compare(v.name, name) }

// past is what documents of former snapshots were made of, on which the next ones build.
type past struct {
	full  zips                     // of lists
	delta zips                     // of deltas
	told  atomic.Pointer[document] // the last delta
	since int64                    // ns since the state's epoch when deltas were forgotten; guarded by the state's mu
}

// pastKept is how long deltas are built on one another. One that nobody asked for since would keep all that it told of.
const pastKept = time.Minute

func (p *past) forgetDeltas() {
	for c := range p.delta {
		p.delta[c].Store(nil)
	}
	p.told.Store(nil)
}

// derive prepares what is made of sn's views and changes. That builds on past; weigh, if not nil, is told how many changes
// a delta holds and how many bytes it needs.
func (sn *snapshot) derive(region string, past *past, weigh func(changes, compressed int)) {
	sn.full = document{version: 1, hash: sn.hash, views: sn.views, past: &past.full, weighed: func(int) { sn.tookLong(sn.count) }}
	sn.delta = sync.OnceValue(func() *document {
		n := sn.changes.count()
		sn.tookLong(n)
		d := sn.makeDelta(region, past)
		if weigh != nil {
			d.weighed = func(compressed int) { weigh(n, compressed) }
		}
		return d
	})
	sn.byVIP = sync.OnceValue(func() map[string][]*view { return sn.index(func(r *record) string { return r.vip }) })
	sn.bySVIP = sync.OnceValue(func() map[string][]*view { return sn.index(func(r *record) string { return r.svip }) })
	sn.byID = sync.OnceValue(func() map[string]member1 {
		sn.tookLong(sn.count)
		m := make(map[string]member1, sn.count)
		for _, v := range sn.views {
			for i, x := range v.recs {
				if _, ok := m[x.rec.id]; !ok {
					m[x.rec.id] = member1{v, i}
				}
			}
		}
		return m
	})
}

// tookLong takes note of that something is made that takes time for each of n instances.
func (sn *snapshot) tookLong(n int) {
	if n > longList {
		sn.long.Store(true)
	}
}

// hashCode is what clients compare with their own count: each status that occurs, with how often.
func hashCode(n [statuses]int) string {
	var b []byte
	for st, c := range n {
		if c > 0 {
			b = append(append(b, status(st).String()...), '_')
			b = append(strconv.AppendInt(b, int64(c), 10), '_')
		}
	}
	return string(b)
}

// makeDelta groups the changes by application. In each, those that add come before those that delete: Java clients
// that do not know an application yet would otherwise keep its deleted instances. Applications of which the last delta
// said the same are taken from there.
func (sn *snapshot) makeDelta(region string, past *past) *document {
	byApp := make(map[string]*view)
	d := &document{version: max(sn.version, 1), hash: sn.hash, past: &past.delta}
	for c := range sn.changes.all() {
		v := byApp[c.rec.app]
		if v == nil {
			v = &view{name: c.rec.app, self: sn.self, region: region}
			byApp[c.rec.app] = v
			d.views = append(d.views, v)
		}
		v.recs = append(v.recs, shown{c.rec, c.rec.updated})
	}
	slices.SortFunc(d.views, func(a, b *view) int { return strings.Compare(a.name, b.name) })
	for _, v := range d.views {
		slices.SortStableFunc(v.recs, func(a, b shown) int {
			return cmp.Compare(a.rec.action/deleted, b.rec.action/deleted)
		})
	}
	if last := past.told.Load(); last != nil {
		known := last.views
		for i, v := range d.views {
			at, ok := slices.BinarySearchFunc(known, v.name, viewNamed)
			if known = known[at:]; ok && slices.Equal(known[0].recs, v.recs) {
				d.views[i] = known[0]
			}
		}
	}
	past.told.Store(d)
	return d
}

// index groups instances by the names in a comma list that of returns.
func (sn *snapshot) index(of func(*record) string) map[string][]*view {
	sn.tookLong(sn.count)
	m := make(map[string][]*view)
	for _, v := range sn.views {
		for _, x := range v.recs {
			for name := range strings.SplitSeq(of(x.rec), ",") {
				if name = strings.TrimSpace(name); name == "" {
					continue
				}
				vs := m[name]
				if len(vs) == 0 || vs[len(vs)-1].name != v.name {
					m[name] = append(vs, &view{name: v.name, made: v.made, self: v.self, region: v.region})
					vs = m[name]
				}
				last := vs[len(vs)-1]
				if n := len(last.recs); n == 0 || last.recs[n-1].rec != x.rec {
					last.recs = append(last.recs, x)
				}
			}
		}
	}
	return m
}

// documentOf returns the document of some views only, as VIP look-ups want it.
func documentOf(views []*view) *document {
	var n [statuses]int
	for _, v := range views {
		for _, x := range v.recs {
			n[x.rec.status]++
		}
	}
	return &document{version: 1, hash: hashCode(n), views: views}
}

// find returns the view of an application, nil if there is none.
func (sn *snapshot) find(name string) *view {
	i, ok := slices.BinarySearchFunc(sn.views, name, viewNamed)
	if !ok {
		return nil
	}
	return sn.views[i]
}

// one renders the i-th instance of v as a document.
func (v *view) one(i int, c codec) []byte {
	x := v.recs[i]
	t := times{x.renewed, x.rec.id == v.self}
	if c.isJSON() {
		return append(x.rec.appendJSON([]byte(`{"instance":`), t, c.compact()), '}')
	}
	return x.rec.appendXML(nil, t, c.compact(), 0)
}

// whole renders v as a document.
func (v *view) whole(c codec) [][]byte {
	if c.isJSON() {
		return [][]byte{[]byte(`{"application":`), v.block(c), []byte(`}`)}
	}
	return [][]byte{v.render(c, 0)}
}

// block returns v as a part of a larger document, rendered once.
func (v *view) block(c codec) []byte {
	b := &v.blocks[c]
	b.once.Do(func() {
		plain := v.render(c, 1)
		b.plain.Store(&plain)
	})
	return *b.plain.Load()
}

// appendBlock appends what block returns, without keeping it.
func (v *view) appendBlock(b []byte, c codec) []byte {
	if plain := v.blocks[c].plain.Load(); plain != nil {
		return append(b, *plain...)
	}
	return v.appendTo(b, c, 1)
}

func (v *view) render(c codec, depth int) []byte {
	room := 64 + len(v.recs)*1100
	switch c {
	case native:
		room = len(v.recs) * 400
	case xmlFull, xmlCompact:
		room = 64 + len(v.recs)*1700
	}
	return bytes.Clone(v.appendTo(make([]byte, 0, room), c, depth)) // without the room to spare
}

func (v *view) appendTo(b []byte, c codec, depth int) []byte {
	switch {
	case c == native:
		for i, x := range v.recs {
			if i > 0 {
				b = append(b, ',')
			}
			b = x.rec.appendNative(b, v.region)
		}
		return b
	case c.isJSON():
		b = jsonMember(append(b, '{'), "name", v.name)
		b = append(b, `,"instance":[`...)
		for i, x := range v.recs {
			if i > 0 {
				b = append(b, ',')
			}
			b = x.rec.appendJSON(b, times{x.renewed, x.rec.id == v.self}, c.compact())
		}
		return append(b, "]}"...)
	}
	x := xmlWriter{b: b, depth: depth}
	x.open("application", "")
	x.leaf("name", v.name)
	for _, sh := range v.recs {
		x.b = sh.rec.appendXML(x.b, times{sh.renewed, sh.rec.id == v.self}, c.compact(), x.depth)
	}
	x.close("application")
	return x.b
}
