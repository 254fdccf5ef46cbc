package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/api"
)

const (
	maxViewers  = 64               // at once; each costs a connection and, while it reads slowly, one old frame
	retryAfter  = 5 * time.Second  // what one too many is told
	writeWithin = 30 * time.Second // a viewer that takes longer to read one event is gone
)

// frame is one second's overview as it is sent. All viewers share its bytes, which nobody may change.
type frame struct {
	number   uint64
	overview Overview
	whole    func() ([]byte, error) // the event for a viewer who has not read the frame before; encoded once, when first asked for
	change   func() ([]byte, error) // the event for one who has; nil when there is no frame before
}

func newFrame(number uint64, o Overview, before *frame) *frame {
	f := &frame{number: number, overview: o, whole: sync.OnceValues(func() ([]byte, error) { return encode("overview", o) })}
	if before != nil {
		changed := o.since(before.overview)
		f.change = sync.OnceValues(func() ([]byte, error) { return encode("change", changed) })
	}
	return f
}

// after returns what a viewer who has read the frame with this number, 0 for none, must read to be at f.
func (f *frame) after(number uint64) ([]byte, error) {
	if f.change != nil && number > 0 && number+1 == f.number {
		return f.change()
	}
	return f.whole()
}

func encode(event string, o Overview) ([]byte, error) {
	data, err := json.Marshal(o) // JSON holds no raw newline, so one data line is enough
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", event, err)
	}
	return fmt.Appendf(make([]byte, 0, len(data)+32), "event: %s\ndata: %s\n\n", event, data), nil
}

// stream answers server-sent events: "overview" is a whole [Overview], and comes first; "change" is one that holds
// only the parts that changed since the event before. One comes each second, if only to say that nothing changed.
// A viewer that is still reading when the next is due misses it, and gets the newest whole when it is done: nothing
// queues. Frames are written here and not by [api.Stream], which would encode them for each viewer again.
func (c *Console) stream(w http.ResponseWriter, r *http.Request) {
	bell, ok := c.join()
	if !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
		api.WriteProblem(w, r, api.Problem(http.StatusServiceUnavailable,
			"%d viewers watch the console already, as many as it serves at once; close one that nobody needs, or try again in a moment", maxViewers))
		return
	}
	defer c.leave(bell)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if err := rc.Flush(); err != nil {
		c.log.Warn("console: this connection cannot stream the overview", "error", err)
		return
	}
	for read := uint64(0); ; {
		select {
		case <-r.Context().Done():
			return
		case <-c.done:
			return
		case <-bell:
		}
		f := c.current()
		if f == nil || f.number == read {
			continue
		}
		out, err := f.after(read)
		if err != nil {
			c.log.Warn("console: the overview cannot be sent", "error", err)
			return
		}
		if err := rc.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			c.log.Warn("console: this connection cannot stream the overview", "error", err)
			return
		}
		if _, err := w.Write(out); err != nil {
			return // the viewer left
		}
		if err := rc.Flush(); err != nil {
			return
		}
		read = f.number
	}
}

// join adds a viewer, unless there are too many. Its bell rings at once if there is something to see.
func (c *Console) join() (bell chan struct{}, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.viewers) >= maxViewers {
		return nil, false
	}
	bell = make(chan struct{}, 1)
	c.viewers[bell] = true
	if c.newest != nil {
		ring(bell)
	}
	ring(c.woken)
	return bell, true
}

func (c *Console) leave(bell chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.viewers, bell)
}

// show tells every viewer of o.
func (c *Console) show(o Overview) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames++
	c.newest = newFrame(c.frames, o, c.newest)
	for bell := range c.viewers {
		ring(bell)
	}
}

// forget drops the newest frame, for it grows old when nobody asks the rooms.
func (c *Console) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.newest = nil
}

func (c *Console) current() *frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest
}

func (c *Console) watched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.viewers) > 0
}

// ring makes a bell of capacity 1 ring, if it does not already.
func ring(bell chan<- struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}
