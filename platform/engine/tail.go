package engine

import (
	"context"
	"errors"
	"fmt"
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
	// the newest message of every subject. pending is how many messages will arrive before all are read.
	begin func(info *jetstream.StreamInfo) (from uint64)
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
	deleted bool // marks a key as deleted
	data    []byte
}

// stopped is an error of deliver, as opposed to one of the connection.
type stopped struct{ error }

// run reads until ctx ends or deliver fails, and returns that error.
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
	sub, err := t.e.nc.SubscribeSync(t.e.nc.NewInbox())
	if err != nil {
		return err
	}
	unsubscribe := func() {
		// The server removes the consumer when nobody listens.
		sub.Unsubscribe() //nolint:errcheck // fails only when the connection is gone, and the subscription with it
	}
	defer unsubscribe()
	defer context.AfterFunc(ctx, unsubscribe)()

	cfg := jetstream.ConsumerConfig{
		DeliverSubject:    sub.Subject,
		AckPolicy:         jetstream.AckNonePolicy,
		FlowControl:       true,
		IdleHeartbeat:     heartbeat,
		MemoryStorage:     true,
		InactiveThreshold: heartbeat,
		MaxDeliver:        1,
	}
	if from := t.begin(info); from == 0 {
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
		t.caughtUp()
	}
	last := uint64(0) // the consumer's sequence
	for {
		m, err := sub.NextMsg(3 * heartbeat)
		switch {
		case errors.Is(err, nats.ErrSlowConsumer):
			return fmt.Errorf("messages of %s were lost: %w", t.config.Name, err)
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("no sign of life: %w", err)
		}
		if len(m.Data) == 0 && m.Header.Get("Status") == "100" {
			if err := t.control(m, last); err != nil {
				return err
			}
			continue
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("message without a sequence: %w", err)
		}
		if meta.Sequence.Consumer != last+1 {
			return fmt.Errorf("messages %d to %d of the consumer of %s were lost", last+1, meta.Sequence.Consumer-1, t.config.Name)
		}
		last = meta.Sequence.Consumer
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
	}
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
