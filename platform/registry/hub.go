package registry

import (
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// hub brings changes to the watchers whom they concern, and leaves the others asleep. It works in rounds: whatever
// changed since the last one is written as events once, and those who are up to date get the same bytes. A round runs
// in a goroutine that ends when there is nothing new.
type hub struct {
	s           *state
	incarnation string // of this process, in the ids of events
	region      string

	anyone   atomic.Bool           // whether there are watchers
	everyone atomic.Bool           // whether the next round is for all of them
	work     atomic.Int32          // idle, rounding or behind
	upTo     atomic.Uint64         // version up to which everybody concerned was roused
	last     atomic.Pointer[round] // the newest
	events   events
	roused   []*watcher // by a round, while their work is done; then room for those of the next

	mu      sync.Mutex
	streams map[string]*watcher // by name
	all     crowd               // want everything
	bus     *watcher            // publishes everything on the engine's bus; nil without one
	byApp   map[string]crowd
	byVIP   map[string]crowd
	slots   [watchSlots]crowd // by the second in which it is their turn for a sign of life
	second  int
	nth     uint64      // of the last round
	pulse   *time.Timer // runs while there are watchers
}

// What the hub does: nothing; a round; a round, and since it began there is something new.
const (
	idle int32 = iota
	rounding
	behind
)

// round is what changed between two versions.
type round struct {
	from, to uint64
	events   []byte            // of all changes
	byApp    map[string][]byte // and of those of an application
	large    bool              // it was too much to write events
}

const (
	beatEvery  = 10 // seconds, between two signs of life
	hashEvery  = 15 // seconds
	watchSlots = 30 // seconds after which both begin anew
)

// crowd is a set of watchers.
type crowd map[*watcher]struct{}

func newHub(s *state, incarnation, region string) *hub {
	h := &hub{
		s: s, incarnation: incarnation, region: region,
		streams: make(map[string]*watcher), all: make(crowd), byApp: make(map[string]crowd), byVIP: make(map[string]crowd),
	}
	for i := range h.slots {
		h.slots[i] = make(crowd)
	}
	return h
}

// watcher is one who wants to know of changes.
type watcher struct {
	name string // of its stream
	in   interest
	wake chan struct{} // holds a token when there is something to do

	bound map[key]struct{} // instances that are alive as long as the stream is; guarded by the hub's mu
	slot  int              // of the hub
	nth   uint64           // the last round that roused it; guarded by the hub's mu
	line  *line            // if there is one it is worked instead of wake

	mu   sync.Mutex
	todo todo
}

// todo is what a watcher is roused for.
type todo struct {
	news bool   // something that concerns it happened,
	from uint64 // and nothing before this version that it did not hear of
	beat bool   // a sign of life is due
	hash bool   // it is to be told what it should count
}

func newWatcher(name string, in interest) *watcher {
	return &watcher{name: name, in: in, wake: make(chan struct{}, 1), bound: make(map[key]struct{})}
}

// rouse adds to what w has to do.
func (w *watcher) rouse(t todo) {
	w.mu.Lock()
	if t.news && !w.todo.news {
		w.todo.news, w.todo.from = true, t.from
	}
	w.todo.beat = w.todo.beat || t.beat
	w.todo.hash = w.todo.hash || t.hash
	w.mu.Unlock()
	if w.line != nil {
		return // whoever rouses it has it worked
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns what there is to do, and upTo: whatever concerns w and is no newer is part of it or of what it was told
// before.
func (w *watcher) take(h *hub) (t todo, upTo uint64) {
	upTo = h.upTo.Load() // before todo is read: who rouses stores it afterwards
	w.mu.Lock()
	defer w.mu.Unlock()
	t, w.todo = w.todo, todo{}
	return t, upTo
}

func (t todo) nothing() bool { return !t.news && !t.beat && !t.hash }

// join makes w one of the watchers.
func (h *hub) join(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[w.name] = w
	for _, c := range h.places(w) {
		c[w] = struct{}{}
	}
	w.slot = rand.IntN(watchSlots) // so that they are not written to at the same time
	h.slots[w.slot][w] = struct{}{}
	if h.pulse == nil {
		h.pulse = time.AfterFunc(time.Second, h.beat)
	}
	h.anyone.Store(true)
}

// publish makes w, nil for none, the one who is told that anything changed, and nothing else.
func (h *hub) publish(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bus = w
	h.anyone.Store(w != nil || len(h.streams) > 0)
}

// places are the sets in which w is found, which are made if they are missing.
func (h *hub) places(w *watcher) []crowd {
	if w.in.all() {
		return []crowd{h.all}
	}
	var cs []crowd
	find := func(m map[string]crowd, names map[string]bool) {
		for name := range names {
			if m[name] == nil {
				m[name] = make(crowd)
			}
			cs = append(cs, m[name])
		}
	}
	find(h.byApp, w.in.apps)
	find(h.byVIP, w.in.vips)
	return cs
}

// leave ends what join began. It returns the instances that were alive because of w.
func (h *hub) leave(w *watcher) (bound []key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, w.name)
	for _, c := range h.places(w) {
		delete(c, w)
	}
	for name := range w.in.apps {
		if len(h.byApp[name]) == 0 {
			delete(h.byApp, name)
		}
	}
	for name := range w.in.vips {
		if len(h.byVIP[name]) == 0 {
			delete(h.byVIP, name)
		}
	}
	delete(h.slots[w.slot], w)
	if len(h.streams) == 0 {
		h.anyone.Store(h.bus != nil)
		h.pulse.Stop()
		h.pulse = nil
	}
	for k := range w.bound {
		bound = append(bound, k)
	}
	return bound
}

// end hangs up on all watchers whose connections net/http has let go of.
func (h *hub) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, w := range h.streams {
		if w.line != nil {
			w.line.conn.Close() //nolint:errcheck // listen does the rest
		}
	}
}

// bind says that an instance is alive as long as the stream of that name is.
func (h *hub) bind(stream string, k key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.streams[stream]; w != nil && len(w.bound) < boundMost {
		w.bound[k] = struct{}{}
	}
}

// boundMost is how many instances one stream can keep alive. A process has one or two.
const boundMost = 1024

// beat rouses those whose turn it is for a sign of life.
func (h *hub) beat() {
	var due []*watcher
	defer func() { work(due) }()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pulse == nil {
		return
	}
	h.second = (h.second + 1) % watchSlots
	for i, c := range h.slots {
		since := (h.second - i + watchSlots) % watchSlots
		if t := (todo{beat: since%beatEvery == 0, hash: since%hashEvery == 0}); t.beat || t.hash {
			for w := range c {
				w.rouse(t)
				due = append(due, w)
			}
		}
	}
	h.pulse.Reset(time.Second)
}

// changed says that there is something new. It never waits. A nil hub has no watchers.
func (h *hub) changed() {
	if h == nil || !h.anyone.Load() {
		return
	}
	for {
		switch h.work.Load() {
		case behind:
			return
		case rounding:
			if h.work.CompareAndSwap(rounding, behind) {
				return
			}
		default:
			if h.work.CompareAndSwap(idle, rounding) {
				go h.rounds()
				return
			}
		}
	}
}

func (h *hub) rounds() {
	for {
		h.roused = h.round(h.roused[:0])
		work(h.roused)
		clear(h.roused) // who leaves is let go of
		if h.work.CompareAndSwap(rounding, idle) {
			return
		}
		h.work.Store(rounding)
	}
}

// round rouses everybody whom something concerns that happened since the last round, and appends them to roused, which is
// empty.
func (h *hub) round(roused []*watcher) []*watcher {
	everyone := h.everyone.Swap(false)
	from := h.upTo.Load()
	h.s.mu.RLock()
	changes, known := h.s.log.since(from)
	to := h.s.log.version
	h.s.mu.RUnlock()

	h.mu.Lock()
	defer h.mu.Unlock()
	rd := &round{from: from, to: to, byApp: make(map[string][]byte)}
	h.nth++
	concerns := func(w *watcher) {
		if w.nth != h.nth {
			w.nth = h.nth
			roused = append(roused, w)
		}
	}
	add := func(c crowd) {
		for w := range c {
			concerns(w)
		}
	}
	if everyone || !known {
		for _, w := range h.streams {
			concerns(w)
		}
	}
	if len(changes) > 0 {
		add(h.all)
	}
	if h.bus != nil && (len(changes) > 0 || !known) {
		h.bus.rouse(todo{news: true})
	}
	for c := range changes.all() {
		crowd := h.byApp[c.rec.app]
		add(crowd)
		if !rd.large {
			size := 0
			if len(h.all) > 0 {
				rd.events = c.appendEvent(rd.events, h)
				size += len(rd.events)
			}
			if len(crowd) > 0 {
				rd.byApp[c.rec.app] = c.appendEvent(rd.byApp[c.rec.app], h)
				size += len(rd.byApp[c.rec.app])
			}
			rd.large = size > writeMost
		}
		if len(h.byVIP) > 0 {
			for name := range strings.SplitSeq(c.vips(), ",") {
				add(h.byVIP[strings.TrimSpace(name)])
			}
		}
	}
	if rd.large {
		rd.events, rd.byApp = nil, nil
	}
	h.last.Store(rd)
	for _, w := range roused {
		w.rouse(todo{news: true, from: from})
	}
	h.upTo.Store(to)
	return roused
}
