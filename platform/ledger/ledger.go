// Package ledger keeps the platform's change log: who did what to which resource, when and why. At Netflix this was
// Chronos.
//
// Every room records a change before it acknowledges it, most simply by [Ledger.Apply]:
//
//	change := api.Change(ctx, "serverGroup.resize", "serverGroup:api-v003")
//	err := ledger.Apply(ctx, change, func(ctx context.Context) error { return resize(ctx) })
//
// The entries are records of the engine's stream LEDGER; an entry's id is its sequence there. A later version keeps
// them in a Merkle tree of its own, so that nobody can alter one unnoticed; today whoever can write to the state
// directory can.
//
// # What it promises
//   - An entry that was recorded survives kill -9 and power loss.
//   - Ids ascend from 1 without gaps, in the order of acknowledgement.
//   - An entry that was recorded is in the next List.
//   - A change that did not take effect after all is followed by an entry with result FAILED that names it as Parent.
//   - When the ledger cannot be written, no change that needs an entry happens: Apply fails before it acts.
//
// # What it does not
//   - It is not a queue: readers list and follow, they do not consume.
//   - It hides nothing: keep secrets out of Before and After.
//   - Entries are not yet proof against somebody who owns the machine.
package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/engine"
)

// Stream is the name of the engine's stream that holds the entries.
const Stream = "LEDGER"

// Bounds of List.
const (
	DefaultLimit = 100
	MaxLimit     = 1000
)

// The newest entries are kept in memory, so that lists do not ask the engine.
const (
	keepEntries = 2000
	keepBytes   = 4 << 20
)

// Ledger is the change log. Its methods may be called from many goroutines. It lives until its engine is closed.
type Ledger struct {
	e   *engine.Engine
	log *engine.Stream

	mu      sync.Mutex
	recent  []roadbed.Change // the newest entries, ascending ids without gaps; guarded by mu
	bytes   int              // size of recent, about; guarded by mu
	last    uint64           // id of the newest entry that recent has had; guarded by mu
	next    uint64           // id that must come next, 0 before the first; guarded by mu
	lost    uint64           // entries that should be there and are not; guarded by mu
	changed chan struct{}    // closed when last grows; guarded by mu
}

// Open opens the ledger of an engine. With an embedded engine it returns when List knows every entry; a client's
// ledger catches up in the background.
func Open(ctx context.Context, e *engine.Engine) (*Ledger, error) {
	log, err := engine.OpenStream(ctx, e, Stream, 0)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l := &Ledger{e: e, log: log, changed: make(chan struct{})}
	last, err := log.Last(ctx)
	known := err == nil
	if err != nil && !errors.Is(err, engine.ErrUnavailable) {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	begun := make(chan struct{}) // closed when it is known which entry comes first, if the engine is there
	// The index lives as long as the engine, which ends it and waits for it when it closes.
	running := e.Go(func(ctx context.Context) {
		last, known := last, known
		for !known {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
				return
			}
			var err error
			last, err = log.Last(ctx)
			known = err == nil
		}
		from := uint64(1)
		if last > keepEntries {
			from = last - keepEntries + 1
		}
		l.expect(from)
		close(begun)
		for ctx.Err() == nil {
			err := log.Follow(ctx, from, l.index)
			if ctx.Err() == nil { // index never fails, so the stream went back: it was restored from a backup
				e.Log().Warn("the ledger is read anew", "err", err)
				l.forget()
				from = 1
				l.expect(from)
			}
		}
	})
	if !running {
		return nil, fmt.Errorf("ledger: %w: the engine is closed", engine.ErrUnavailable)
	}
	if !known {
		return l, nil
	}
	<-begun
	newest, err := log.Newest(ctx)
	if err == nil {
		err = l.await(ctx, newest)
	}
	if err != nil {
		return nil, fmt.Errorf("ledger: read the newest entries: %w", err)
	}
	l.endsAt(last)
	return l, nil
}

// endsAt notes the entries up to last that did not come, and will not.
func (l *Ledger) endsAt(last uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next <= last {
		l.miss(last + 1)
		l.next, l.last = last+1, last
	}
}

// expect says which entry Follow gives first.
func (l *Ledger) expect(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = id
}

// Health reports entries that were acknowledged and are no longer there, which only damage to the state directory
// can bring about.
func (l *Ledger) Health() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == 0 {
		return nil
	}
	return fmt.Errorf("ledger: %d entries are lost: the state directory was damaged; `roadbed restore` a backup into a new one", l.lost)
}

// miss notes the entries before id that did not come. Up to a hundred of them stand in the index as lost, so that
// whoever reads the log sees the hole. The caller holds mu.
func (l *Ledger) miss(id uint64) {
	if l.next == 0 || id <= l.next {
		return
	}
	l.lost += id - l.next
	l.e.Log().Error("entries of the change log are lost; the state directory was damaged", "first", l.next, "last", id-1)
	for n := l.next; n < id && n < l.next+100; n++ {
		l.recent = append(l.recent, roadbed.Change{
			ID: n, Actor: "unknown", Action: "unknown", Resource: "unknown", Result: roadbed.Failed,
			Error: fmt.Sprintf("entry %d is lost: the state directory was damaged", n),
		})
	}
}

// forget empties the index.
func (l *Ledger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent, l.bytes, l.last, l.next = nil, 0, 0, 0
}

// index brings one record into recent.
func (l *Ledger) index(r engine.Record) error {
	c := decode(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.miss(r.Seq)
	l.next = r.Seq + 1
	l.recent = append(l.recent, c)
	l.bytes += size(c)
	for len(l.recent) > keepEntries || l.bytes > keepBytes && len(l.recent) > 1 {
		l.bytes -= size(l.recent[0])
		l.recent = l.recent[1:]
	}
	l.last = r.Seq
	close(l.changed)
	l.changed = make(chan struct{})
	return nil
}

// size is about what c takes in memory.
func size(c roadbed.Change) int {
	return len(c.Before) + len(c.After) + len(c.Why) + len(c.Error) + len(c.Actor) + len(c.Action) + len(c.Resource) + 200
}

// decode makes an entry of a record. One that cannot be read, written by a later version perhaps, is shown as such
// instead of hiding that it is there.
func decode(r engine.Record) roadbed.Change {
	var c roadbed.Change
	if err := json.Unmarshal(r.Data, &c); err != nil {
		c = roadbed.Change{Actor: "unknown", Action: "unknown", Resource: "unknown", Error: fmt.Sprintf("entry %d cannot be read: %v", r.Seq, err)}
	}
	c.ID, c.Time = r.Seq, r.Time
	return c
}

// await waits until the entry id is in recent.
func (l *Ledger) await(ctx context.Context, id uint64) error {
	for {
		l.mu.Lock()
		last, changed := l.last, l.changed
		l.mu.Unlock()
		if last >= id {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Record appends c and returns its id once it is durable, normally within milliseconds. It gives the entry its id and
// time, and result SUCCEEDED if it has none. It fails if c names no actor, action or resource, or if the engine
// refuses writes.
func (l *Ledger) Record(ctx context.Context, c roadbed.Change) (uint64, error) {
	id, err := l.record(ctx, c)
	if err != nil {
		return 0, fmt.Errorf("ledger: record %s of %s: %w", c.Action, c.Resource, err)
	}
	return id, nil
}

func (l *Ledger) record(ctx context.Context, c roadbed.Change) (uint64, error) {
	if err := c.Validate(); err != nil {
		return 0, err
	}
	switch c.Result {
	case roadbed.Succeeded, roadbed.Failed, roadbed.Denied:
	case "":
		c.Result = roadbed.Succeeded
	default:
		return 0, fmt.Errorf("%q is not a result; use SUCCEEDED, FAILED or DENIED", c.Result)
	}
	c.ID, c.Time = 0, time.Time{} // the stream knows them
	data, err := json.Marshal(c)
	if err != nil {
		return 0, fmt.Errorf("encode: %w", err)
	}
	id, err := l.log.Append(ctx, data)
	if err != nil {
		return 0, err
	}
	// It is durable; that List shows it at once is worth waiting a moment for, but not worth an error.
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	l.await(ctx, id) //nolint:errcheck // see above
	return id, nil
}

// Apply records c, then calls do. If do fails, Apply records that c FAILED and returns do's error; if c cannot be
// recorded, do is not called.
func (l *Ledger) Apply(ctx context.Context, c roadbed.Change, do func(context.Context) error) error {
	id, err := l.Record(ctx, c)
	if err != nil {
		return err
	}
	err = do(ctx)
	if err == nil {
		return nil
	}
	c.Result, c.Parent, c.Error = roadbed.Failed, id, err.Error()
	c.Before, c.After = nil, nil
	// The request may be over; the record of its failure is owed all the same.
	if _, rerr := l.Record(context.WithoutCancel(ctx), c); rerr != nil {
		return errors.Join(err, fmt.Errorf("and that change %d failed is not on record: %w", id, rerr))
	}
	return err
}

// Query selects entries. Its zero value selects the newest 100.
type Query struct {
	Before   uint64    // only ids below it; 0 for no bound
	After    uint64    // only ids above it
	Limit    int       // at most so many; 0 means 100, more than 1000 means 1000
	Actor    string    // exactly
	Action   string    // exactly, or everything that starts so when it ends in "*": "serverGroup.*"
	Resource string    // everything that starts so: "serverGroup:" or "serverGroup:api-v003"
	Since    time.Time // only entries of that time or later
}

func (q Query) matches(c roadbed.Change) bool {
	action, prefix := strings.CutSuffix(q.Action, "*")
	switch {
	case q.Actor != "" && c.Actor != q.Actor:
	case prefix && !strings.HasPrefix(c.Action, action):
	case !prefix && action != "" && c.Action != action:
	case !strings.HasPrefix(c.Resource, q.Resource):
	default:
		return true
	}
	return false
}

// List returns the entries that q selects, newest first.
func (l *Ledger) List(ctx context.Context, q Query) ([]roadbed.Change, error) {
	switch {
	case q.Limit <= 0:
		q.Limit = DefaultLimit
	case q.Limit > MaxLimit:
		q.Limit = MaxLimit
	}
	l.mu.Lock()
	recent := l.recent // append-only: what is in this slice is not written again
	l.mu.Unlock()
	out, done := q.collect(make([]roadbed.Change, 0, min(q.Limit, len(recent))), recent)
	if done {
		return out, nil
	}
	// Older than what is in memory: ask the engine, backwards.
	var end uint64 // read below it
	if len(recent) > 0 {
		end = recent[0].ID
	} else {
		last, err := l.log.Last(ctx)
		if err != nil {
			return nil, fmt.Errorf("ledger: list: %w", err)
		}
		end = last + 1
	}
	if q.Before != 0 {
		end = min(end, q.Before)
	}
	for end > 1 {
		const step = 500
		from := uint64(1)
		if end > step {
			from = end - step
		}
		recs, err := l.log.Read(ctx, from, int(end-from))
		if err != nil {
			return nil, fmt.Errorf("ledger: list: %w", err)
		}
		older := make([]roadbed.Change, 0, len(recs))
		for _, r := range recs {
			if r.Seq < end {
				older = append(older, decode(r))
			}
		}
		var done bool
		if out, done = q.collect(out, older); done {
			break
		}
		end = from
	}
	return out, nil
}

// collect adds what q selects of ascending entries to out, newest first, and reports whether older ones are of no
// interest.
func (q Query) collect(out []roadbed.Change, entries []roadbed.Change) ([]roadbed.Change, bool) {
	for i := len(entries) - 1; i >= 0; i-- {
		c := entries[i]
		if q.Before != 0 && c.ID >= q.Before {
			continue
		}
		if c.ID <= q.After || c.Time.Before(q.Since) || len(out) == q.Limit {
			return out, true
		}
		if q.matches(c) {
			out = append(out, c)
		}
	}
	return out, len(out) == q.Limit
}

// Follow calls fn with each entry after the given id, in order, first those that exist and then those that are
// recorded, until ctx or the engine ends or fn fails, and returns why.
func (l *Ledger) Follow(ctx context.Context, after uint64, fn func(roadbed.Change) error) error {
	return l.log.Follow(ctx, after+1, func(r engine.Record) error { return fn(decode(r)) })
}
