package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// Bounds of one group commit.
const (
	groupMost     = 256
	groupBytes    = 4 << 20
	groupWait     = 200 * time.Microsecond // at least, and
	groupWaitMost = 2 * time.Millisecond
	batchLeast    = 8 // a batch smaller than this never pays
)

// Headers of JetStream's atomic batch publishing (ADR-50) and expectations.
const (
	batchIDHeader     = "Nats-Batch-Id"
	batchSeqHeader    = "Nats-Batch-Sequence"
	batchCommitHeader = "Nats-Batch-Commit"
	expectHeader      = "Nats-Expected-Last-Subject-Sequence"
	msgIDHeader       = "Nats-Msg-Id"
	operationHeader   = "KV-Operation"
	ttlHeader         = "Nats-TTL"
)

// JetStream's error codes that mean something to a caller.
const (
	codeWrongLastSequence = 10071
	codeWrongLastConstant = 10164
	codeMessageTooLarge   = 10054
)

// anything is the expectation of a write that overwrites whatever there is.
const anything = -1

// write is one message on its way into a stream.
type write struct {
	subject string
	data    []byte
	expect  int64 // the subject's last sequence; anything for no condition
	marker  bool  // marks the key as deleted
	ttl     string
	id      string // makes sending it twice harmless; only clients need it
	again   bool   // it was sent before, without an answer; owned by the committer

	state atomic.Int32 // queued, sent or abandoned
	done  chan outcome // buffered
}

const (
	queued int32 = iota
	sent
	abandoned
)

type outcome struct {
	seq uint64
	err error
}

// committer brings writes into one stream, many at a time: the disk sync, which costs more than all else together,
// is shared by the writes that arrived while the one before it ran.
//
// It sends a group as one atomic batch. A batch is refused as a whole when one expectation fails; then its writes are
// sent one by one, so that one writer's conflict is not another's.
//
// The server stages a batch in files of its own, which costs as much as tens of syncs on some disks and two on
// others. So the committer measures what a batch and what a single write take here, and sends a group the cheaper way.
type committer struct {
	e      *Engine
	stream string
	in     chan *write

	// Owned by run.
	held   *write        // read from in, but not fit for the group before it
	last   int           // size of the batch before; 0 if the group before was not one
	batch  time.Duration // moving average of what a batch takes
	single time.Duration // moving average of what a write sent by itself takes
}

// committer returns the committer of a JetStream stream; nil after Close.
func (e *Engine) committer(stream string) *committer {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.committers[stream]
	if c == nil {
		c = &committer{e: e, stream: stream, in: make(chan *write, groupMost)}
		e.committers[stream] = c
		if !e.closed {
			e.wg.Go(func() { c.run(e.ctx) })
		}
	}
	return c
}

// put brings w into the stream and returns its sequence there once it is on disk.
func (c *committer) put(ctx context.Context, w *write) (uint64, error) {
	if err := c.e.writable(); err != nil {
		return 0, err
	}
	if len(w.data) > MaxValue {
		return 0, fmt.Errorf("%w: %d bytes, and at most %d are allowed", ErrTooLarge, len(w.data), MaxValue)
	}
	w.done = make(chan outcome, 1)
	if c.e.server == nil {
		w.id = nuid.Next()
	}
	ctx, cancel := c.e.bounded(ctx)
	defer cancel()
	select {
	case c.in <- w:
	case <-ctx.Done():
		return 0, c.gaveUp(ctx, false)
	case <-c.e.ctx.Done():
		return 0, c.gaveUp(ctx, false)
	}
	select {
	case o := <-w.done:
		return o.seq, o.err
	case <-ctx.Done():
	case <-c.e.ctx.Done():
	}
	select {
	case o := <-w.done:
		return o.seq, o.err
	default:
	}
	return 0, c.gaveUp(ctx, !w.state.CompareAndSwap(queued, abandoned))
}

func (c *committer) gaveUp(ctx context.Context, sent bool) error {
	state := "it was not written"
	if sent {
		state = "it may or may not have been written"
	}
	switch {
	case c.e.ctx.Err() != nil:
		return fmt.Errorf("%w: the engine was closed; %s", ErrUnavailable, state)
	case !c.e.link.up():
		return fmt.Errorf("%w; %s", c.e.away(), state)
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("%w; %s", ctx.Err(), state)
	}
	return fmt.Errorf("%w: no answer in time; %s: %w", ErrUnavailable, state, ctx.Err())
}

func (c *committer) run(ctx context.Context) {
	group := make([]*write, 0, groupMost)
	for {
		group = c.gather(ctx, group[:0])
		if ctx.Err() != nil {
			return
		}
		c.commit(ctx, group)
		clear(group)
	}
}

// gather waits for a write and takes the ones behind it. Writers that were answered together come back together a
// moment later: gather waits for as many as there were in the last batch, besides those that queued meanwhile, for
// an eighth of what a batch takes; and not at all while batches do not pay.
func (c *committer) gather(ctx context.Context, group []*write) []*write {
	w := c.held
	c.held = nil
	if w == nil {
		select {
		case w = <-c.in:
		case <-ctx.Done():
			return group
		}
	}
	var wait <-chan time.Time
	want := min(c.last+len(c.in)+1, groupMost)
	if c.last == 0 {
		want = 0
	}
	size := 0
	for {
		if size+len(w.data) > groupBytes && len(group) > 0 || c.clashes(group, w) {
			c.held = w
			break
		}
		group = append(group, w)
		size += len(w.data)
		if len(group) == groupMost {
			break
		}
		select {
		case w = <-c.in:
			continue
		default:
		}
		if len(group) >= want {
			break
		}
		if wait == nil {
			wait = time.After(min(max(c.batch/8, groupWait), groupWaitMost))
		}
		select {
		case w = <-c.in:
			continue
		case <-wait:
		case <-ctx.Done():
		}
		break
	}
	return group
}

// clashes reports whether w must not share a batch with group: the server refuses two writes of one subject in a
// batch when one of them has an expectation.
func (c *committer) clashes(group []*write, w *write) bool {
	for _, g := range group {
		if (w.expect != anything || g.expect != anything) && g.subject == w.subject {
			return true
		}
	}
	return false
}

// commit sends group until it is answered or nobody waits for it any more.
func (c *committer) commit(ctx context.Context, group []*write) {
	for {
		session, done, err := c.e.link.wait(ctx)
		if err != nil {
			return // closed: put answers
		}
		live := group[:0]
		for _, w := range group {
			if w.state.Load() == sent || w.state.CompareAndSwap(queued, sent) {
				live = append(live, w)
			}
		}
		group = live
		if len(group) == 0 {
			done()
			return
		}
		c.e.gate.RLock()
		err = c.send(session, group)
		c.e.gate.RUnlock()
		done()
		if err == nil {
			return
		}
		if c.e.server != nil || ctx.Err() != nil {
			for _, w := range group {
				w.finish(0, fmt.Errorf("%w: %w; it may or may not have been written", ErrUnavailable, err))
			}
			return
		}
		// A client sends again: the ids make that harmless.
		c.e.log.Debug("group is sent again", "stream", c.stream, "writes", len(group), "err", err)
		left := group[:0]
		for _, w := range group {
			if len(w.done) == 0 {
				w.again = true
				left = append(left, w)
			}
		}
		if group = left; len(group) == 0 || !sleep(ctx, 50*time.Millisecond) {
			return
		}
	}
}

func (w *write) finish(seq uint64, err error) {
	select {
	case w.done <- outcome{seq, err}:
	default: // answered already
	}
}

// send answers every write of group, or fails without having heard from the server.
func (c *committer) send(ctx context.Context, group []*write) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	start := time.Now()
	c.last = 0
	if c.pays(len(group)) {
		last, rejected, err := c.sendBatch(ctx, group)
		if err != nil {
			return err
		}
		if !rejected {
			first := last - uint64(len(group)) + 1
			for i, w := range group {
				w.finish(first+uint64(i), nil)
			}
			c.last = len(group)
			c.batch = average(c.batch, time.Since(start))
			return nil
		}
		start = time.Now()
	}
	err := c.sendSingles(ctx, group)
	c.single = average(c.single, time.Since(start)/time.Duration(len(group)))
	if len(group) >= batchLeast {
		c.batch -= c.batch / 64 // so that a batch is tried again some day
	}
	return err
}

// pays reports whether n writes are cheaper as a batch.
func (c *committer) pays(n int) bool {
	return n >= batchLeast && c.batch <= c.single*time.Duration(n)
}

// average is a moving average over about the last eight values.
func average(old, value time.Duration) time.Duration {
	if old == 0 {
		return value
	}
	return old + (value-old)/8
}

// sendBatch sends group as one atomic batch and returns the sequence of the last, or that it was rejected.
func (c *committer) sendBatch(ctx context.Context, group []*write) (last uint64, rejected bool, err error) {
	id := nuid.Next()
	for i, w := range group {
		m := w.message()
		m.Header[batchIDHeader] = []string{id}
		m.Header[batchSeqHeader] = []string{strconv.Itoa(i + 1)}
		if i < len(group)-1 {
			if err := c.e.nc.PublishMsg(m); err != nil {
				return 0, false, err
			}
			continue
		}
		m.Header[batchCommitHeader] = []string{"1"}
		reply, err := c.e.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return 0, false, err
		}
		a, err := parseAck(reply)
		if err != nil {
			return 0, false, err
		}
		return a.Seq, a.Error != nil || a.Count != len(group), nil
	}
	return 0, true, nil
}

// sendSingles sends group one after the other without waiting in between, and then reads the answers.
func (c *committer) sendSingles(ctx context.Context, group []*write) error {
	if len(group) == 1 {
		reply, err := c.e.nc.RequestMsgWithContext(ctx, group[0].message())
		if err != nil {
			return err
		}
		a, err := parseAck(reply)
		if err != nil {
			return err
		}
		return c.answer(ctx, group[0], a)
	}
	inbox := c.e.nc.NewInbox()
	sub, err := c.e.nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return err
	}
	defer sub.Unsubscribe() //nolint:errcheck // fails only when the connection is gone, and the subscription with it
	for i, w := range group {
		m := w.message()
		m.Reply = inbox + "." + strconv.Itoa(i)
		if err := c.e.nc.PublishMsg(m); err != nil {
			return err
		}
	}
	for range group {
		reply, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		i, err := strconv.Atoi(reply.Subject[strings.LastIndexByte(reply.Subject, '.')+1:])
		if err != nil || i < 0 || i >= len(group) {
			return fmt.Errorf("answer on unknown subject %q", reply.Subject)
		}
		a, err := parseAck(reply)
		if err != nil {
			return err
		}
		if err := c.answer(ctx, group[i], a); err != nil {
			return err
		}
	}
	return nil
}

// answer ends w as a says. The server knows a write without a condition that it was sent before; for one with a
// condition it looks at the condition first, which the write itself may have made false.
func (c *committer) answer(ctx context.Context, w *write, a ack) error {
	err := a.reason()
	if !w.again || !errors.Is(err, ErrConflict) {
		w.finish(a.Seq, err)
		return nil
	}
	msgs, rerr := c.e.read(ctx, c.stream, w.subject, 1, maxHistory)
	if rerr != nil {
		return rerr
	}
	for _, m := range msgs {
		if m.id == w.id {
			w.finish(m.seq, nil)
			return nil
		}
	}
	if len(msgs) > 0 && int64(msgs[len(msgs)-1].seq) > w.expect {
		err = fmt.Errorf("%w: the answer was lost, and somebody wrote since; it may or may not have been written", ErrUnavailable)
	}
	w.finish(0, err)
	return nil
}

func (w *write) message() *nats.Msg {
	m := &nats.Msg{Subject: w.subject, Data: w.data, Header: make(nats.Header, 6)}
	if w.expect != anything {
		m.Header[expectHeader] = []string{strconv.FormatInt(w.expect, 10)}
	}
	if w.marker {
		m.Header[operationHeader] = []string{"DEL"}
	}
	if w.ttl != "" {
		m.Header[ttlHeader] = []string{w.ttl}
	}
	if w.id != "" {
		m.Header[msgIDHeader] = []string{w.id}
	}
	return m
}

// ack is JetStream's answer to a write or a batch of writes.
type ack struct {
	Seq   uint64 `json:"seq"`
	Count int    `json:"count"`
	Error *struct {
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

func parseAck(m *nats.Msg) (ack, error) {
	var a ack
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return a, nats.ErrNoResponders
	}
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return a, fmt.Errorf("answer %q: %w", m.Data, err)
	}
	if a.Error == nil && a.Seq == 0 {
		return a, fmt.Errorf("answer %q has no sequence", m.Data)
	}
	return a, nil
}

func (a ack) reason() error {
	switch {
	case a.Error == nil:
		return nil
	case a.Error.ErrCode == codeWrongLastSequence || a.Error.ErrCode == codeWrongLastConstant:
		return ErrConflict
	case a.Error.ErrCode == codeMessageTooLarge:
		return ErrTooLarge
	}
	return fmt.Errorf("%w: the engine refused: %s (%d)", ErrUnavailable, a.Error.Description, a.Error.ErrCode)
}

// sleep waits d and reports whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
