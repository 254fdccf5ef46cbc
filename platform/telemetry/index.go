package telemetry

import (
	"cmp"
	"hash/maphash"
	"math"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/roadbed/roadbed/platform/telemetry/asl"
)

// maxSeries bounds what runaway tags can cost; 200 000 live series take about 250 MB.
const maxSeries = 200_000

// index knows which series there are. A series is a number: its page and its place there. Numbers are given in
// ascending order and never again, so every list of them is sorted by appending.
//
// Readers hold mu only to take slices; what a slice held stays valid, because lists are appended to or replaced.
type index struct {
	mu    sync.RWMutex
	pages []*page // by number / pageSize; nil when all its series are gone
	next  uint32  // the number of the next new series
	count int

	ids    map[uint64][]uint32 // series by hash of their tags; several when hashes collide
	names  []string            // interned texts by id
	refs   []int32             // how many series use the text
	free   []uint32            // ids of texts nobody uses
	lookup map[string]uint32
	keys   map[uint32]*keyIndex
	every  []uint32 // all series
	seed   maphash.Seed
}

type keyIndex struct {
	values map[uint32][]uint32 // series by value
	having []uint32            // series that have the key
}

// page holds the points of pageSize series.
type page struct {
	mu     sync.Mutex
	series [pageSize]series
	live   ring
	minute ring
}

// series is guarded by its page's mu, but tags are written before anybody can find it and only read until it goes.
type series struct {
	tags   []pair // sorted by key id; nil: there is no such series, or no more
	kind   seriesKind
	stride uint8 // live steps between its points, as far as known
	gap    uint8 // between the last two
	last   int64 // the time of its newest point, rounded to the live step
}

type pair struct{ key, value uint32 }

type seriesKind uint8

const (
	rateSeries seriesKind = iota
	gaugeSeries
	sumSeries
)

func newIndex() *index {
	return &index{ids: make(map[uint64][]uint32), lookup: make(map[string]uint32), keys: make(map[uint32]*keyIndex), seed: maphash.MakeSeed()}
}

func (x *index) intern(s string) uint32 {
	if id, ok := x.lookup[s]; ok {
		x.refs[id]++
		return id
	}
	s = strings.Clone(s)
	var id uint32
	if n := len(x.free); n > 0 {
		id, x.free = x.free[n-1], x.free[:n-1]
		x.names[id], x.refs[id] = s, 1
	} else {
		id = uint32(len(x.names))
		x.names, x.refs = append(x.names, s), append(x.refs, 1)
	}
	x.lookup[s] = id
	return id
}

func (x *index) release(id uint32) {
	if x.refs[id]--; x.refs[id] == 0 {
		delete(x.lookup, x.names[id])
		x.names[id] = ""
		x.free = append(x.free, id)
	}
}

// find returns where the series with these tags is kept, creating it if need be; nil if there are too many.
func (x *index) find(tags []tag) (*page, int) {
	h := x.hash(tags)
	x.mu.RLock()
	n, ok := x.search(h, tags)
	p := x.pageOf(n, ok)
	x.mu.RUnlock()
	if ok {
		return p, int(n % pageSize)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if n, ok := x.search(h, tags); ok {
		return x.pages[n/pageSize], int(n % pageSize)
	}
	if x.count >= maxSeries || x.next == math.MaxUint32 {
		return nil, 0
	}
	return x.create(h, tags)
}

func (x *index) pageOf(n uint32, ok bool) *page {
	if !ok {
		return nil
	}
	return x.pages[n/pageSize]
}

func (x *index) hash(tags []tag) uint64 {
	var h maphash.Hash
	h.SetSeed(x.seed)
	for _, t := range tags {
		h.WriteString(t.key)   //nolint:errcheck // never fails
		h.WriteByte(0)         //nolint:errcheck // never fails
		h.WriteString(t.value) //nolint:errcheck // never fails
		h.WriteByte(0)         //nolint:errcheck // never fails
	}
	return h.Sum64()
}

func (x *index) search(h uint64, tags []tag) (uint32, bool) {
candidates:
	for _, n := range x.ids[h] {
		have := x.pages[n/pageSize].series[n%pageSize].tags
		if len(have) != len(tags) {
			continue
		}
		for _, t := range tags {
			k, ok1 := x.lookup[t.key]
			v, ok2 := x.lookup[t.value]
			if !ok1 || !ok2 || !slices.Contains(have, pair{k, v}) {
				continue candidates
			}
		}
		return n, true
	}
	return 0, false
}

func (x *index) create(h uint64, tags []tag) (*page, int) {
	n := x.next
	x.next++
	x.count++
	if int(n/pageSize) == len(x.pages) {
		x.pages = append(x.pages, new(page))
	}
	p, slot := x.pages[n/pageSize], int(n%pageSize)
	s := series{tags: make([]pair, len(tags)), kind: rateSeries, stride: 1}
	for i, t := range tags {
		s.tags[i] = pair{x.intern(t.key), x.intern(t.value)}
		if t.key == dstypeKey {
			switch t.value {
			case "gauge":
				s.kind = gaugeSeries
			case "sum":
				s.kind = sumSeries
			}
		}
	}
	slices.SortFunc(s.tags, func(a, b pair) int { return cmp.Compare(a.key, b.key) })
	p.mu.Lock()
	p.series[slot] = s
	p.mu.Unlock()
	for _, t := range s.tags {
		k := x.keys[t.key]
		if k == nil {
			k = &keyIndex{values: make(map[uint32][]uint32)}
			x.keys[t.key] = k
		}
		k.having = append(k.having, n)
		k.values[t.value] = append(k.values[t.value], n)
	}
	x.every = append(x.every, n)
	x.ids[h] = append(x.ids[h], n)
	return p, slot
}

// remove forgets series, whose numbers are sorted. Pages without series go.
func (x *index) remove(gone []uint32) {
	if len(gone) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	touched := make(map[pair]bool)
	for _, n := range gone {
		p := x.pages[n/pageSize]
		s := &p.series[n%pageSize]
		tags := make([]tag, len(s.tags))
		for i, t := range s.tags {
			touched[t] = true
			tags[i] = tag{x.names[t.key], x.names[t.value]}
		}
		slices.SortFunc(tags, func(a, b tag) int { return strings.Compare(a.key, b.key) })
		h := x.hash(tags)
		if x.ids[h] = without(x.ids[h], []uint32{n}); len(x.ids[h]) == 0 {
			delete(x.ids, h)
		}
	}
	for t := range touched {
		k := x.keys[t.key]
		if k.values[t.value] = without(k.values[t.value], gone); len(k.values[t.value]) == 0 {
			delete(k.values, t.value)
		}
	}
	for key, k := range x.keys {
		if k.having = without(k.having, gone); len(k.having) == 0 {
			delete(x.keys, key)
		}
	}
	x.every = without(x.every, gone)
	x.count -= len(gone)
	for _, n := range gone {
		p := x.pages[n/pageSize]
		p.mu.Lock()
		for _, t := range p.series[n%pageSize].tags {
			x.release(t.key)
			x.release(t.value)
		}
		p.series[n%pageSize] = series{}
		p.mu.Unlock()
	}
	for _, n := range gone {
		i := n / pageSize
		full := (i+1)*pageSize <= x.next // the last page still gets new series
		if p := x.pages[i]; full && p != nil && !slices.ContainsFunc(p.series[:], func(s series) bool { return s.tags != nil }) {
			x.pages[i] = nil
		}
	}
}

// match returns the numbers of the series that q means, sorted.
func (x *index) match(q *asl.Query) []uint32 {
	switch q.Op {
	case asl.True:
		x.mu.RLock()
		defer x.mu.RUnlock()
		return x.every
	case asl.False:
		return nil
	case asl.And:
		l := x.match(q.L)
		if len(l) == 0 {
			return nil
		}
		return intersect(l, x.match(q.R))
	case asl.Or:
		return unite(x.match(q.L), x.match(q.R))
	case asl.Not:
		x.mu.RLock()
		every := x.every
		x.mu.RUnlock()
		return without(every, x.match(q.L))
	}
	lists := x.lists(q)
	switch len(lists) {
	case 0:
		return nil
	case 1:
		return lists[0]
	}
	var all []uint32
	for _, l := range lists {
		all = append(all, l...)
	}
	slices.Sort(all) // a series has one value of a key, so nothing is there twice
	return all
}

// lists returns the series for each value that a key query means. Patterns are tried without holding mu.
func (x *index) lists(q *asl.Query) [][]uint32 {
	x.mu.RLock()
	key, ok := x.lookup[q.Key]
	k := x.keys[key]
	if !ok || k == nil {
		x.mu.RUnlock()
		return nil
	}
	var out [][]uint32
	of := func(value string) {
		if v, ok := x.lookup[value]; ok && len(k.values[v]) > 0 {
			out = append(out, k.values[v])
		}
	}
	switch q.Op {
	case asl.Has:
		out = append(out, k.having)
	case asl.Eq:
		of(q.Value)
	case asl.In:
		for _, v := range slices.Compact(slices.Sorted(slices.Values(q.Values))) {
			of(v)
		}
	default:
		type candidate struct {
			name string
			list []uint32
		}
		all := make([]candidate, 0, len(k.values))
		for v, list := range k.values {
			if name := x.names[v]; strings.HasPrefix(name, q.Prefix) {
				all = append(all, candidate{name, list})
			}
		}
		x.mu.RUnlock()
		for _, c := range all {
			if q.MatchValue(c.name) {
				out = append(out, c.list)
			}
		}
		return out
	}
	x.mu.RUnlock()
	return out
}

// intersect returns what is in both sorted lists.
func intersect(a, b []uint32) []uint32 {
	if len(a) > len(b) {
		a, b = b, a
	}
	var out []uint32
	if len(b) > 16*len(a) { // few in many: search instead of walking
		for _, n := range a {
			i := sort.Search(len(b), func(i int) bool { return b[i] >= n })
			if i < len(b) && b[i] == n {
				out = append(out, n)
			}
			b = b[i:]
		}
		return out
	}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] < b[j]:
			i++
		case a[i] > b[j]:
			j++
		default:
			out = append(out, a[i])
			i++
			j++
		}
	}
	return out
}

// unite returns what is in either sorted list.
func unite(a, b []uint32) []uint32 {
	out := make([]uint32, 0, len(a)+len(b))
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] < b[j]:
			out = append(out, a[i])
			i++
		case a[i] > b[j]:
			out = append(out, b[j])
			j++
		default:
			out = append(out, a[i])
			i++
			j++
		}
	}
	return append(append(out, a[i:]...), b[j:]...)
}

// without returns a new list of what is in a and not in b, both sorted.
func without(a, b []uint32) []uint32 {
	out := make([]uint32, 0, len(a))
	j := 0
	for _, n := range a {
		for j < len(b) && b[j] < n {
			j++
		}
		if j == len(b) || b[j] != n {
			out = append(out, n)
		}
	}
	return out
}
