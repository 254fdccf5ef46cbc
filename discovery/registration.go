package discovery

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
)

const (
	renewEvery = 10 * time.Second
	leaseFor   = 30 * time.Second

	registerLeast = 100 * time.Millisecond // first wait after a registry refused
	registerMost  = 5 * time.Second
)

// Registration keeps one instance registered. Its methods may be called from many goroutines.
type Registration struct {
	c    *Client
	kick chan struct{} // holds a token when the registry must hear the whole record again
	stop chan struct{} // closed by Cancel
	once sync.Once

	mu    sync.Mutex
	inst  roadbed.Instance
	dirty int64         // ms since 1970; rises with each change of inst
	ended chan struct{} // closed when its goroutine has ended; nil before it was started
}

// Register registers i and renews it in the background, for ever: while no registry answers it keeps trying, and one
// that forgot i is told again. It begins when [Client.Run] does. A place that i does not name is the client's.
func (c *Client) Register(i roadbed.Instance) *Registration {
	if i.Location.Region == "" {
		i.Location.Region = c.cfg.Location.Region
	}
	if i.Location.Zone == "" {
		i.Location.Zone = c.cfg.Location.Zone
	}
	if i.Status == "" {
		i.Status = roadbed.Up
	}
	r := &Registration{c: c, inst: i, dirty: time.Now().UnixMilli(), kick: make(chan struct{}, 1), stop: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.regs[r] = struct{}{}
	if c.wg != nil {
		r.start(c.running, c.wg)
	}
	return r
}

// reregister tells the registry of every registration at once, for it may be another one or have lost its memory.
func (c *Client) reregister() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.regs {
		c.notify(r.kick)
	}
}

// SetStatus alters what the instance says of itself and tells the registry at once.
func (r *Registration) SetStatus(s roadbed.Status) {
	r.mu.Lock()
	same := r.inst.Status == s
	if !same {
		r.inst.Status = s
		r.touch()
	}
	r.mu.Unlock()
	if !same {
		r.c.notify(r.kick)
	}
}

// touch makes the record a newer version of itself. The caller holds mu.
func (r *Registration) touch() { r.dirty = max(r.dirty+1, time.Now().UnixMilli()) }

// Cancel ends the registration and takes the instance out of the registry. If the registry cannot be reached the
// registration has ended all the same, and its lease will run out.
func (r *Registration) Cancel(ctx context.Context) error {
	r.c.mu.Lock()
	delete(r.c.regs, r)
	r.c.mu.Unlock()
	r.once.Do(func() { close(r.stop) })
	r.mu.Lock()
	ended, i := r.ended, r.inst
	r.mu.Unlock()
	if ended != nil {
		select {
		case <-ended: // a request under way must not arrive after ours
		case <-ctx.Done():
			return fmt.Errorf("discovery: cancel %s of %s: %w", i.ID, i.App, ctx.Err())
		}
	}
	return r.c.Remove(ctx, i.App, i.ID)
}

// start runs the registration. The caller holds the client's mu.
func (r *Registration) start(ctx context.Context, wg *sync.WaitGroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = make(chan struct{})
	wg.Go(func() {
		defer close(r.ended)
		r.run(ctx)
	})
}

func (r *Registration) run(ctx context.Context) {
	if len(r.c.bases) == 0 {
		return
	}
	wait := backoff{least: registerLeast, most: registerMost}
	whole := true // whether the registry must hear the whole record
	told := false
	for {
		var err error
		if whole {
			err = r.register(ctx)
		} else {
			err = r.renew(ctx)
		}
		var pause time.Duration
		switch {
		case err == nil:
			whole = false
			if told {
				r.c.log.Info("registered again", "app", r.inst.App, "instance", r.inst.ID)
			}
			told = false
			wait.reset()
			pause = renewEvery - renewEvery/10 + rand.N(renewEvery/5)
		case isStatus(err, http.StatusNotFound) && !whole:
			whole = true
			r.mu.Lock()
			r.touch()
			r.mu.Unlock()
		default:
			if !told && ctx.Err() == nil {
				told = true
				r.c.log.Warn("cannot reach the registry; trying on", "app", r.inst.App, "instance", r.inst.ID, "err", err)
			}
			from, to := wait.span()
			pause = from + rand.N(to-from+1)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-r.stop:
			t.Stop()
			return
		case <-r.kick:
			t.Stop()
			whole = true
		case <-t.C:
		}
	}
}

func (r *Registration) record() (wireRecord, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return toWire(r.inst, r.dirty), r.inst.App
}

func (r *Registration) register(ctx context.Context) error {
	w, _ := r.record()
	_, err := r.c.call(ctx, http.MethodPost, "/apps/"+url.PathEscape(w.App), map[string]wireRecord{"instance": w})
	return err
}

func (r *Registration) renew(ctx context.Context) error {
	w, app := r.record()
	q := "?status=" + w.Status + "&lastDirtyTimestamp=" + strconv.FormatInt(int64(w.Dirty), 10)
	_, err := r.c.call(ctx, http.MethodPut, instancePath(app, w.InstanceID)+q, nil)
	return err
}
