package registry

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	pushFlush    = 20 * time.Millisecond // between news; what comes after a while of silence does not wait for more
	compareEvery = 5 * time.Second
	aliveEvery   = time.Second
	silentFor    = 5 * time.Second // without a frame from the other side it is gone
	stuckFor     = 10 * time.Second
	tasksLimit   = 4 << 20 // answers that may wait to be written
	slotsLimit   = 1 << 23 // instances that a connection may have numbers for
)

// duplex is one connection between two registries of our kind. Either side writes what its clients tell it, and answers
// the other; the one that connected also compares what both hold, when the connection begins and every five seconds.
// Reading never waits for writing: what is to be answered goes into a queue.
type duplex struct {
	s       *state
	box     *outbox // what the other side is to be told
	conn    io.ReadWriteCloser
	asks    bool            // whether this side compares
	open    func() bool     // whether lists may be read here
	matched func(open bool) // is called when a comparison has ended; open says whether lists may be read on the other side

	queue tasks

	// of the writer
	out   frameWriter
	bound map[*entry]uint32
	marks uint64

	comparing atomic.Bool
	begun     atomic.Int64 // when the current or last comparison began

	// of the reader
	numbers []*entry
	mine    map[int]*held // during a comparison, what is here
	differs bool          // whether the current comparison found anything

	caughtUp bool // whether the other side knows who renewed while there was no connection

	dog *time.Timer // closes the connection when the other side is silent
}

// task is something to be written.
type task struct {
	kind  frameKind
	key   key
	n     uint64
	held  *held
	whole bool // of a bucket: send what is in it instead of a list
}

// tasks is a queue of tasks.
type tasks struct {
	mu    sync.Mutex
	list  []task
	full  bool
	ready chan struct{}
}

func (q *tasks) add(ts ...task) {
	q.mu.Lock()
	q.list = append(q.list, ts...)
	q.full = q.full || len(q.list) > tasksLimit
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *tasks) take() (list []task, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list, q.list = q.list, nil
	return list, q.full
}

func newDuplex(s *state, box *outbox, conn io.ReadWriteCloser, asks bool, open func() bool) *duplex {
	d := &duplex{
		s: s, box: box, conn: conn, asks: asks, open: open, matched: func(bool) {},
		queue: tasks{ready: make(chan struct{}, 1)}, bound: make(map[*entry]uint32),
	}
	return d
}

// progress is a connection that is closed when a write to it takes too long.
type progress struct {
	io.WriteCloser
	stuck *time.Timer
}

func (p progress) Write(b []byte) (int, error) {
	p.stuck.Reset(stuckFor)
	defer p.stuck.Stop()
	return p.WriteCloser.Write(b)
}

// run serves the connection until it breaks or ctx ends, and closes it.
func (d *duplex) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.dog = time.AfterFunc(silentFor, func() { d.conn.Close() })
	defer d.dog.Stop()
	wrote := make(chan error, 1)
	go func() {
		err := d.write(ctx)
		d.conn.Close() // so that reading ends
		wrote <- err
	}()
	err := d.read()
	cancel()
	if e := <-wrote; e != nil && !errors.Is(err, errFrame) {
		err = e
	}
	return err
}

// write writes until ctx ends or that fails.
func (d *duplex) write(ctx context.Context) error {
	stuck := time.AfterFunc(stuckFor, func() { d.conn.Close() })
	defer stuck.Stop()
	d.out.out = bufio.NewWriterSize(progress{d.conn, stuck}, frameFull)
	beat := time.NewTicker(aliveEvery)
	defer beat.Stop()
	compare := time.NewTicker(compareEvery)
	defer compare.Stop()
	for _, t := range d.s.endings() {
		d.out.ended(t.key, t.dirty)
	}
	if d.asks {
		d.box.clear()
		d.compare()
	}
	l := &d.box.lanes
	var last time.Time // news were told
	for {
		if d.out.err == nil {
			d.out.err = d.out.out.Flush()
		}
		if d.out.err != nil {
			return d.out.err
		}
		select {
		case <-ctx.Done():
			d.news()
			if d.out.err == nil {
				d.out.err = d.out.out.Flush()
			}
			return d.out.err
		case <-d.queue.ready:
			if err := d.answer(); err != nil {
				return err
			}
			continue
		case <-beat.C:
			d.out.beat()
			continue
		case <-compare.C:
			if d.asks && !d.comparing.Load() {
				d.news()
				d.compare()
			}
			continue
		case <-l[0].ready:
		case <-l[1].ready:
		case <-l[2].ready:
		case <-l[3].ready:
		}
		pause(ctx, pushFlush-time.Since(last))
		d.news()
		last = time.Now()
	}
}

// compare begins a comparison.
func (d *duplex) compare() {
	d.comparing.Store(true)
	d.begun.Store(d.s.now())
	d.out.digest(d.s.digests())
	d.mark()
}

func (d *duplex) mark() {
	d.marks++
	d.out.number(markFrame, d.marks, false)
}

// news writes what is in the outbox.
func (d *duplex) news() {
	type renewal struct {
		e   *entry
		age time.Duration
	}
	if len(d.bound) > 2*d.s.size()+1024 {
		clear(d.bound) // most of them are gone
	}
	var renewed []renewal
	for i := range d.box.lanes {
		for _, n := range d.box.lanes[i].take(1 << 30) {
			if !n.registered && n.decided == undecided && !n.ended {
				d.s.mu.RLock()
				e := d.s.find(n.key)
				d.s.mu.RUnlock()
				if e != nil {
					renewed = append(renewed, renewal{e, time.Duration(d.s.now() - e.lease.renewed.Load())})
				}
				continue
			}
			d.tell(n.key)
		}
	}
	if len(renewed) == 0 {
		return
	}
	slices.SortFunc(renewed, func(a, b renewal) int { return int(a.age/ageStep) - int(b.age/ageStep) })
	var numbers []uint32
	for i, r := range renewed {
		numbers = append(numbers, d.number(r.e))
		if i+1 == len(renewed) || renewed[i+1].age/ageStep != r.age/ageStep {
			d.out.renewed(r.age/ageStep*ageStep, numbers)
			numbers = numbers[:0]
		}
	}
}

// ageStep is how exactly the age of a renewal is told.
const ageStep = 100 * time.Millisecond

// number returns the number that stands for e on this connection, and gives it one if need be.
func (d *duplex) number(e *entry) uint32 {
	n, ok := d.bound[e]
	if ok {
		return n
	}
	n = uint32(len(d.bound))
	d.bound[e] = n
	d.s.mu.RLock()
	k := e.rec.key()
	d.s.mu.RUnlock()
	d.out.bind(n, k)
	return n
}

// tell writes all that is known of an instance.
func (d *duplex) tell(k key) {
	d.s.mu.RLock()
	now := d.s.now()
	v := d.s.verdict(k)
	t, ended := d.s.tombs[k]
	var r *record
	var age time.Duration
	if e := d.s.find(k); e != nil && !e.lease.expired(now) {
		r, age = e.rec, time.Duration(now-e.lease.renewed.Load())
	}
	d.s.mu.RUnlock()
	if v.stamp != 0 {
		d.out.decided(k, v) // first, so that the other side never shows the one without the other
	}
	switch {
	case r != nil:
		d.out.put(r, age)
	case ended:
		d.out.ended(k, t.dirty)
	}
}

// answer writes what is in the queue.
func (d *duplex) answer() error {
	var want []key
	list, full := d.queue.take()
	if full {
		return fmt.Errorf("%w: it asks for more than %d things at once", errFrame, tasksLimit)
	}
	for i, t := range list {
		if t.kind == wantFrame {
			want = append(want, t.key)
		}
		if len(want) > 0 && (len(want) == 1000 || i+1 == len(list) || t.kind != wantFrame) {
			d.out.want(want)
			want = want[:0]
		}
		switch t.kind {
		case putFrame:
			d.tell(t.key)
		case renewFrame:
			d.s.mu.RLock()
			e := d.s.find(t.key)
			d.s.mu.RUnlock()
			if e != nil {
				d.out.renewed(time.Duration(d.s.now()-e.lease.renewed.Load()), []uint32{d.number(e)})
			}
		case bucketFrame:
			d.bucket(t)
		case markFrame:
			d.mark()
		case markedFrame:
			d.out.number(markedFrame, t.n, d.open())
		}
	}
	return nil
}

// bucket writes what is in a bucket, or a list of it.
func (d *duplex) bucket(t task) {
	if t.whole {
		for _, x := range t.held.ended {
			d.out.ended(x.key, x.dirty)
		}
		for _, e := range t.held.there {
			d.s.mu.RLock()
			k := e.rec.key()
			d.s.mu.RUnlock()
			d.tell(k)
		}
		return
	}
	list := make([]summary, 0, len(t.held.there))
	d.s.mu.RLock()
	now := d.s.now()
	for _, e := range t.held.there {
		if !e.lease.hasEnded() {
			list = append(list, d.s.summary(e, now))
		}
	}
	d.s.mu.RUnlock()
	d.out.bucket(int(t.n), list, t.held.ended)
}

// read reads frames and does what they say until the connection breaks.
func (d *duplex) read() error {
	in := bufio.NewReaderSize(d.conn, frameFull)
	var buf []byte
	for {
		kind, w, err := readFrame(in, &buf)
		if err != nil {
			return err
		}
		d.dog.Reset(silentFor)
		if err := d.take(kind, &w); err != nil {
			return err
		}
	}
}

// take does what a frame says.
func (d *duplex) take(kind frameKind, w *wireReader) error {
	switch kind {
	case putFrame:
		age := w.age()
		r, err := w.record()
		if err != nil || len(w.b) > 0 {
			return errFrame
		}
		switch d.s.merge(r, age) {
		case buried, outdated:
			d.queue.add(task{kind: putFrame, key: r.key()})
		}
	case verdictFrame:
		k, v := w.key(), w.verdict()
		if err := w.done(); err != nil || k.id == "" {
			return errFrame
		}
		d.s.mergeVerdict(k, v)
	case endFrame:
		k, dirty := w.key(), w.int()
		if err := w.done(); err != nil {
			return err
		}
		d.s.mergeEnd(k, dirty)
	case bindFrame:
		n, k := w.uint(), w.key()
		if n == 0 {
			d.numbers = d.numbers[:0]
		}
		if err := w.done(); err != nil || n != uint64(len(d.numbers)) || n > slotsLimit {
			return errFrame
		}
		d.numbers = append(d.numbers, d.s.bind(k))
	case renewFrame:
		return d.renew(w)
	case digestFrame:
		theirs := new(digests)
		for i := range theirs {
			theirs[i] = w.fixed64()
		}
		if err := w.done(); err != nil {
			return err
		}
		d.differ(theirs)
	case bucketFrame:
		b, list, ended := w.uint(), w.summaries(), w.endings()
		if err := w.done(); err != nil || b >= buckets {
			return errFrame
		}
		d.settle(int(b), list, ended)
	case wantFrame:
		for range w.count(2) {
			if k := w.key(); !w.bad {
				d.queue.add(task{kind: putFrame, key: k})
			}
		}
		return w.done()
	case markFrame:
		d.queue.add(task{kind: markedFrame, n: w.uint()})
		return w.done()
	case markedFrame:
		_, open := w.uint(), w.byte() == 1
		if err := w.done(); err != nil {
			return err
		}
		d.mine = nil
		if d.differs { // look once more whether that is settled now
			d.differs = false
			d.queue.add(task{kind: markFrame})
			return nil
		}
		d.comparing.Store(false)
		if since := d.box.heard.Swap(d.begun.Load()); !d.caughtUp {
			d.caughtUp = true
			d.catchUp(since)
		}
		d.matched(open)
	case beatFrame:
		return w.done()
	default:
		return errFrame
	}
	return nil
}

// catchUp puts into the outbox who renewed here since a time: renewals change no digest.
func (d *duplex) catchUp(since int64) {
	if since == math.MaxInt64 {
		since = 0
	}
	now := d.s.now()
	d.s.each(func(e *entry) {
		if e.lease.direct.Load() >= since {
			k := e.rec.key()
			d.box.lane(k).put(k, slot{since: now, last: now, renewed: true})
		}
	})
}

// bind returns the entry of an instance, or one that has ended if it is not there.
func (s *state) bind(k key) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if e := s.find(k); e != nil {
		return e
	}
	e := &entry{rec: &record{app: k.app, id: k.id}}
	e.lease.end()
	return e
}

// renew reads which instances renewed elsewhere.
func (d *duplex) renew(w *wireReader) error {
	age, n := w.age(), w.count(1)
	if w.bad {
		return errFrame
	}
	heard := d.s.now() - int64(age)
	var unknown []task
	var doubted []key
	last := uint64(0)
	d.s.mu.RLock()
	for range n {
		last += w.uint()
		if w.bad || last >= uint64(len(d.numbers)) {
			d.s.mu.RUnlock()
			return errFrame
		}
		e := d.numbers[last]
		if e.lease.hasEnded() {
			k := e.rec.key()
			if e = d.s.find(k); e == nil {
				unknown = append(unknown, task{kind: wantFrame, key: k})
				continue
			}
			d.numbers[last] = e
		}
		if e.rec.suspected {
			doubted = append(doubted, e.rec.key())
		}
		e.lease.heardOf(heard)
	}
	d.s.mu.RUnlock()
	d.s.renewals.Add(uint64(n - len(unknown)))
	for _, k := range doubted {
		d.s.settle(k)
	}
	d.queue.add(unknown...)
	return w.done()
}

// differ answers a digest: with what is in the buckets of which the other side has nothing, and with lists of those
// that differ.
func (d *duplex) differ(theirs *digests) {
	ours := d.s.digests()
	if *ours == *theirs {
		return
	}
	all := d.s.inBuckets(func(b int) bool { return ours[b] != theirs[b] })
	for b := range ours {
		if ours[b] == theirs[b] {
			continue
		}
		h := all[b]
		if h == nil {
			h = &held{}
		}
		d.queue.add(task{kind: bucketFrame, n: uint64(b), held: h, whole: theirs[b] == 0})
	}
}

// settle compares what is in a bucket here with what is in it on the other side.
func (d *duplex) settle(b int, theirs []summary, ended []ending) {
	for _, x := range ended {
		if d.s.mergeEnd(x.key, x.dirty) {
			d.differs = true
		}
	}
	if d.mine == nil {
		d.mine = d.s.inBuckets(func(int) bool { return true })
	}
	mine := d.mine[b]
	if mine == nil {
		mine = &held{}
	}
	told := make(map[key]bool, len(theirs))
	var todo []task
	note := func(k key, ours, theirs *summary, ended int64) {
		diff := compare(ours, theirs, ended)
		if diff.tell || diff.end {
			todo = append(todo, task{kind: putFrame, key: k})
		}
		if diff.ask {
			todo = append(todo, task{kind: wantFrame, key: k})
		}
		if diff.heard {
			todo = append(todo, task{kind: renewFrame, key: k})
		}
	}
	d.s.mu.RLock()
	now := d.s.now()
	for i := range theirs {
		k := theirs[i].key
		told[k] = true
		var ours *summary
		if e := d.s.find(k); e != nil && !e.lease.expired(now) {
			s := d.s.summary(e, now)
			ours = &s
		}
		note(k, ours, &theirs[i], d.s.tombs[k].dirty)
	}
	for _, e := range mine.there {
		if k := e.rec.key(); !told[k] && !e.lease.hasEnded() && !e.lease.expired(now) {
			s := d.s.summary(e, now)
			note(k, &s, nil, 0)
		}
	}
	d.s.mu.RUnlock()
	if len(todo) > 0 {
		d.differs = true
		d.queue.add(todo...)
	}
}
