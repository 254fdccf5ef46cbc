package push

import (
	"sync"
	"time"
)

// wheel keeps for each connection when something is next due for it, to the second, in a slot for each of the next so many
// seconds. It costs two pointers a connection where a timer would cost a hundred bytes.
type wheel struct {
	mu    sync.Mutex
	began time.Time
	turn  int64 // seconds since began that are done
	slots [512]*conn
	at    map[*conn]int64 // for those due later than the wheel goes round; nil until there is one
}

func (w *wheel) start(now time.Time) { w.began = now }

// add has c be due at the time t, at the earliest in a second.
func (w *wheel) add(c *conn, t time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.insert(c, max(w.turn+1, int64((t.Sub(w.began)+time.Second-1)/time.Second)))
}

func (w *wheel) insert(c *conn, due int64) {
	if due-w.turn > int64(len(w.slots)) {
		if w.at == nil {
			w.at = map[*conn]int64{}
		}
		w.at[c] = due
		due = w.turn + int64(len(w.slots)) // looked at again then
	}
	c.slot = int(due%int64(len(w.slots))) + 1
	head := &w.slots[c.slot-1]
	c.prev, c.next = nil, *head
	if *head != nil {
		(*head).prev = c
	}
	*head = c
}

// take takes c out, and reports whether it was there.
func (w *wheel) take(c *conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.at, c)
	if c.slot == 0 {
		return false
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		w.slots[c.slot-1] = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.slot, c.next, c.prev = 0, nil, nil
	return true
}

// due returns what is due at now, and takes it out.
func (w *wheel) due(now time.Time) (out []*conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for until := int64(now.Sub(w.began) / time.Second); w.turn < until; {
		w.turn++
		head := &w.slots[w.turn%int64(len(w.slots))]
		c := *head
		*head = nil
		for c != nil {
			next := c.next
			c.slot, c.next, c.prev = 0, nil, nil
			if at, later := w.at[c]; later && at > w.turn {
				delete(w.at, c)
				w.insert(c, at)
			} else {
				delete(w.at, c)
				out = append(out, c)
			}
			c = next
		}
	}
	return out
}

// all returns every connection.
func (w *wheel) all() (out []*conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.slots {
		for ; c != nil; c = c.next {
			out = append(out, c)
		}
	}
	return out
}
