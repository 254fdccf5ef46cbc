package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Event is one server-sent event. Name and ID may be empty. Data is sent as JSON.
type Event struct {
	ID   string
	Name string
	Data any
}

// beat is how often a silent event stream says it is alive, so that both ends notice a dead peer.
const beat = 10 * time.Second

// ErrNoFlush is why an event stream cannot be sent: something between wraps the connection without flushing.
var ErrNoFlush = errors.New("api: connection cannot stream events")

// Stream answers w with the events that arrive until the channel closes or ctx, the request's context, ends. Between
// events it sends a comment every ten seconds. It returns the first write error; a client that left is not one.
func Stream(ctx context.Context, w http.ResponseWriter, events <-chan Event) error {
	rc := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoFlush, err)
	}
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		var out []byte
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			out = []byte(": beat\n\n")
		case ev, ok := <-events:
			if !ok {
				return nil
			}
			var err error
			if out, err = ev.Encode(); err != nil {
				return err
			}
		}
		// A reader that stops reading must not hold this goroutine for ever.
		if err := rc.SetWriteDeadline(time.Now().Add(3 * beat)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := w.Write(out); err != nil {
			return nil
		}
		if err := rc.Flush(); err != nil {
			return nil
		}
	}
}

// Encode returns the event as it is sent.
func (ev Event) Encode() ([]byte, error) {
	data, err := json.Marshal(ev.Data) // JSON holds no raw newline, so one data line is enough
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", ev.Name, err)
	}
	out := make([]byte, 0, len(data)+64)
	if ev.ID != "" {
		out = fmt.Appendf(out, "id: %s\n", ev.ID)
	}
	if ev.Name != "" {
		out = fmt.Appendf(out, "event: %s\n", ev.Name)
	}
	return fmt.Appendf(out, "data: %s\n\n", data), nil
}
