package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// leaseRecord is what the table of leases holds under a lease's name. Each renewal is a new revision of it.
type leaseRecord struct {
	Holder string        `json:"holder"`
	Epoch  uint64        `json:"epoch,omitempty"` // revision of the acquisition; 0 in that very revision
	TTL    time.Duration `json:"ttl"`
}

// Lease is the right to act alone, as long as it is not lost. A holder renews it in the background.
//
// The right ends by the holder's own clock before anybody else can get it, however the clocks of two machines differ:
// others wait until they have not seen a renewal for the whole ttl by theirs.
type Lease struct {
	e     *Engine
	name  string
	rec   leaseRecord
	epoch uint64

	mu       sync.Mutex
	rev      uint64 // of the record; guarded by mu
	released bool   // guarded by mu

	lost chan struct{}
	stop context.CancelFunc // ends renewing
	done chan struct{}      // closed when renewing has ended
}

// Acquire waits until nobody holds the lease of that name and takes it for holder. The lease is lost when it cannot
// be renewed for ttl, which must be at least 100 ms: 5 s is a good choice.
func (e *Engine) Acquire(ctx context.Context, name, holder string, ttl time.Duration) (*Lease, error) {
	l, err := e.acquire(ctx, name, holder, ttl)
	if err != nil {
		return nil, fmt.Errorf("engine: acquire lease %s for %s: %w", name, holder, err)
	}
	return l, nil
}

func (e *Engine) acquire(ctx context.Context, name, holder string, ttl time.Duration) (*Lease, error) {
	if holder == "" {
		return nil, errors.New("the holder has no name")
	}
	if ttl < 100*time.Millisecond {
		return nil, fmt.Errorf("a ttl of %v is too short; use 5s", ttl)
	}
	if err := validKey(name); err != nil {
		return nil, err
	}
	t, err := e.leaseTable(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := t.Watch(ctx, name)
	var now Entry[leaseRecord] // who holds it; Rev 0 for nobody
	synced := false
	expire := time.NewTimer(0)
	defer expire.Stop()
	<-expire.C
	for {
		if synced && now.Rev == 0 {
			l, err := e.take(ctx, t, name, leaseRecord{Holder: holder, TTL: ttl}, 0)
			if err == nil || !errors.Is(err, ErrExists) && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnavailable) {
				return l, err
			}
			if errors.Is(err, ErrUnavailable) && !sleep(ctx, 50*time.Millisecond) {
				return nil, err
			}
		}
		select {
		case ev, ok := <-events:
			switch {
			case !ok && ctx.Err() != nil:
				return nil, ctx.Err()
			case !ok:
				return nil, fmt.Errorf("%w: the engine was closed", ErrUnavailable)
			case ev.Kind == Synced:
				synced = true
			case ev.Entry.Key != name:
			case ev.Kind == Deleted:
				now = Entry[leaseRecord]{}
				expire.Stop()
			default:
				now = ev.Entry
				expire.Reset(now.Value.TTL)
			}
		case <-expire.C:
			if !e.link.up() {
				// Not having heard of a renewal means nothing while the engine is away.
				expire.Reset(now.Value.TTL)
				continue
			}
			l, err := e.take(ctx, t, name, leaseRecord{Holder: holder, TTL: ttl}, now.Rev)
			if err == nil || !errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnavailable) {
				return l, err
			}
			expire.Reset(now.Value.TTL) // somebody was faster; the watch tells who
		}
	}
}

func (e *Engine) leaseTable(ctx context.Context) (*Table[leaseRecord], error) {
	e.leaseMu.Lock()
	defer e.leaseMu.Unlock()
	if e.leases == nil {
		t, err := OpenTable[leaseRecord](ctx, e, "lease", 1)
		if err != nil {
			return nil, err
		}
		e.leases = t
	}
	return e.leases, nil
}

// take writes rec over revision rev, or where nothing is when rev is 0, and starts to renew.
func (e *Engine) take(ctx context.Context, t *Table[leaseRecord], name string, rec leaseRecord, rev uint64) (*Lease, error) {
	asked := time.Now()
	rev, err := t.Update(ctx, name, rec, rev)
	if err != nil {
		return nil, err
	}
	rec.Epoch = rev
	l := &Lease{
		e: e, name: name, rec: rec, epoch: rev, rev: rev,
		lost: make(chan struct{}), done: make(chan struct{}),
	}
	var renewing context.Context
	renewing, l.stop = context.WithCancel(context.Background())
	running := e.Go(func(closed context.Context) {
		defer close(l.done)
		defer close(l.lost)
		defer context.AfterFunc(closed, l.stop)()
		l.renew(renewing, t, asked)
	})
	if !running {
		l.stop()
		return nil, fmt.Errorf("%w: the engine was closed", ErrUnavailable)
	}
	return l, nil
}

// renew keeps the lease until it cannot, or ctx ends. asked is when the last successful write was sent: others may
// count from any later moment, so the right ends ttl after it, less a fifth for what the holder has under way.
func (l *Lease) renew(ctx context.Context, t *Table[leaseRecord], asked time.Time) {
	every, grace := l.rec.TTL*3/10, l.rec.TTL*4/5
	for sleep(ctx, every) {
		now := time.Now()
		end := asked.Add(grace)
		// A renewal that is under way is not broken off by Release, which would not know the revision then.
		call, cancel := context.WithDeadline(context.WithoutCancel(ctx), end)
		l.mu.Lock()
		rev, err := t.Update(call, l.name, l.rec, l.rev)
		if err == nil {
			l.rev = rev
		}
		l.mu.Unlock()
		cancel()
		switch {
		case err == nil:
			asked = now
			every = l.rec.TTL * 3 / 10
		case errors.Is(err, ErrConflict) || errors.Is(err, ErrExists):
			// Ours, written by an attempt whose answer was lost? Then the view tells.
			if e, ok := t.Get(l.name); ok && e.Value.Epoch == l.epoch {
				l.mu.Lock()
				l.rev = e.Rev
				l.mu.Unlock()
				every = 0
				continue
			}
			l.e.log.Warn("lease is lost to somebody else", "lease", l.name, "holder", l.rec.Holder)
			return
		case !time.Now().Before(end):
			l.e.log.Warn("lease is lost: it could not be renewed in time", "lease", l.name, "holder", l.rec.Holder, "err", err)
			return
		default:
			every = min(50*time.Millisecond, time.Until(end))
		}
	}
}

// Epoch returns the lease's fencing token: later holders of the same lease have a larger one. What a holder writes
// should carry it, so that readers can refuse what an earlier holder wrote late.
func (l *Lease) Epoch() uint64 { return l.epoch }

// Lost returns a channel that is closed when the lease is no longer held: it could not be renewed in time, somebody
// took it, it was released or the engine closed. Its holder must have stopped acting within a fifth of the ttl.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Release gives the lease back, so that the next holder need not wait. A lease that is lost is not an error.
func (l *Lease) Release(ctx context.Context) error {
	l.stop()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.released {
		return nil
	}
	l.released = true
	t, err := l.e.leaseTable(ctx)
	if err == nil {
		err = t.Delete(ctx, l.name, l.rev)
	}
	if errors.Is(err, ErrConflict) {
		// A renewal whose answer was lost may have happened: then the record is still ours.
		if e, ok := t.Get(l.name); ok && e.Value.Epoch == l.epoch {
			err = t.Delete(ctx, l.name, e.Rev)
		}
	}
	if err == nil || errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) {
		return nil
	}
	return fmt.Errorf("engine: release lease %s: %w", l.name, err)
}
