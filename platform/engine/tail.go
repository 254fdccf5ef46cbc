package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// heartbeat is how often the server says that a silent stream is silent. After three missed ones the tail starts anew.
const heartbeat = 5 * time.Second

// tail reads a JetStream stream in order from wherever it is to start, and goes on with what is appended, for ever.
// It notices lost messages by the consumer's sequence and then starts anew, as it does after a lost connection.
type tail struct {
	e      *Engine
	config jetstream.StreamConfig // of the stream, which is created if absent

	// begin is told what the stream is each time reading starts, and answers from which sequence to read; 0 means
	// the newest message of every subject. Its error ends the tail.
	begin func(info *jetstream.StreamInfo) (from uint64, err error)
	// deliver gets each message. Its error ends the tail.
	deliver func(m message) error
	// caughtUp is called when everything in the stream was delivered; again and again.
	caughtUp func()
}

// message is one message of a stream.
type message struct {
	subject string
	seq     uint64
	time    time.Time
	deleted bool   // marks a key as deleted
	id      string // of the write; empty for those of an embedded engine
	data    []byte
}

// stopped is an error of begin or deliver, as opposed to one of the connection.
type stopped struct{ error }

// run reads until ctx ends, or begin or deliver fails, and returns that error.
func (t *tail) run(ctx context.Context) error {
	delay := 20 * time.Millisecond
	for {
		session, done, err := t.e.link.wait(ctx)
		if err != nil {
			return err
		}
		began := time.Now()
		err = t.read(session)
		done()
		var s stopped
		if errors.As(err, &s) {
			return s.error
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > heartbeat {
			delay = 20 * time.Millisecond
		}
		t.e.log.Debug("reading starts anew", "stream", t.config.Name, "err", err)
		if !sleep(ctx, delay) {
			return ctx.Err()
		}
		delay = min(2*delay, time.Second)
	}
}

// read reads with one consumer until something goes wrong.
func (t *tail) read(ctx context.Context) error {
	prepare, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info, err := t.e.ensure(prepare, t.config)
	if err != nil {
		return err
	}
	r := reading{tail: t, failed: make(chan error, 1)}
	sub, err := t.e.nc.Subscribe(t.e.nc.NewInbox(), r.handle)
	if err != nil {
		return err
	}
	defer r.end()
	// The server removes the consumer when nobody listens.
	defer sub.Unsubscribe() //nolint:errcheck // fails only when the connection is gone, and the subscription with it
	// Flow control bounds what is under way.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}

	cfg := jetstream.ConsumerConfig{
		DeliverSubject:    sub.Subject,
		AckPolicy:         jetstream.AckNonePolicy,
		FlowControl:       true,
		IdleHeartbeat:     heartbeat,
		MemoryStorage:     true,
		InactiveThreshold: heartbeat,
		MaxDeliver:        1,
	}
	from, err := t.begin(info)
	if err != nil {
		return stopped{err}
	}
	if from == 0 {
		cfg.DeliverPolicy = jetstream.DeliverLastPerSubjectPolicy
		cfg.FilterSubject = t.config.Subjects[0]
	} else {
		cfg.DeliverPolicy = jetstream.DeliverByStartSequencePolicy
		cfg.OptStartSeq = from
	}
	c, err := t.e.js.CreatePushConsumer(prepare, t.config.Name, cfg)
	if err != nil {
		return fmt.Errorf("consumer of %s: %w", t.config.Name, err)
	}
	if c.CachedInfo().NumPending == 0 && c.CachedInfo().Delivered.Consumer == 0 {
		r.empty()
	}
	alive := time.NewTicker(3 * heartbeat)
	defer alive.Stop()
	for {
		select {
		case err := <-r.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-alive.C:
			if !r.alive.Swap(false) {
				return fmt.Errorf("no sign of life from %s", t.config.Name)
			}
		}
	}
}

// reading is the life of one consumer. Its messages are handled one at a time, and none after end returned.
type reading struct {
	tail   *tail
	failed chan error
	alive  atomic.Bool // something came since it was last looked at

	mu    sync.Mutex
	ended bool   // guarded by mu
	last  uint64 // the consumer's sequence; guarded by mu
}

func (r *reading) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
}

// empty is told that the consumer has nothing to deliver.
func (r *reading) empty() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == 0 {
		r.tail.caughtUp()
	}
}

func (r *reading) handle(m *nats.Msg) {
	r.alive.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	if err := r.message(m); err != nil {
		r.ended = true
		r.failed <- err
	}
}

// message is called with mu held.
func (r *reading) message(m *nats.Msg) error {
	t := r.tail
	if len(m.Data) == 0 && m.Header.Get("Status") == "100" {
		return t.control(m, r.last)
	}
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("message without a sequence: %w", err)
	}
	if meta.Sequence.Consumer != r.last+1 {
		return fmt.Errorf("messages %d to %d of the consumer of %s were lost", r.last+1, meta.Sequence.Consumer-1, t.config.Name)
	}
	r.last = meta.Sequence.Consumer
	err = t.deliver(message{
		subject: m.Subject,
		seq:     meta.Sequence.Stream,
		time:    meta.Timestamp,
		deleted: deletes(m.Header),
		data:    m.Data,
	})
	if err != nil {
		return stopped{err}
	}
	if meta.NumPending == 0 {
		t.caughtUp()
	}
	return nil
}

// control answers flow control and reads heartbeats, which tell the consumer's last sequence.
func (t *tail) control(m *nats.Msg, last uint64) error {
	if m.Reply != "" {
		return m.Respond(nil)
	}
	if stalled := m.Header.Get("Nats-Consumer-Stalled"); stalled != "" {
		if err := t.e.nc.Publish(stalled, nil); err != nil {
			return err
		}
	}
	if told := m.Header.Get("Nats-Last-Consumer"); told != "" && told != fmt.Sprint(last) {
		return fmt.Errorf("messages of %s were lost: the consumer sent %s, %d arrived", t.config.Name, told, last)
	}
	t.caughtUp()
	return nil
}

// deletes reports whether a message with these headers marks its key as deleted.
func deletes(h nats.Header) bool {
	op := h.Get(operationHeader)
	return op == "DEL" || op == "PURGE" || h.Get("Nats-Marker-Reason") != ""
}
