package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// dedupe is how long the engine knows what it was sent, so that a client may send it again.
const dedupe = 30 * time.Second

// readMost is the most messages the engine is asked for at once; the answers fit into one subscription's queue.
const readMost = 1000

// Record is one record of a stream.
type Record struct {
	Seq  uint64 // ascending, from 1, without gaps
	Time time.Time
	Data []byte
}

// Stream is an append-only log of records. Its methods may be called from many goroutines. It lives until its engine
// is closed.
type Stream struct {
	e       *Engine
	name    string
	config  jetstream.StreamConfig
	appends *committer
}

// OpenStream opens the stream of that name, which is created if absent. Records older than maxAge are forgotten;
// 0 keeps them for ever. A client's stream is returned at once when the engine is away.
func OpenStream(ctx context.Context, e *Engine, name string, maxAge time.Duration) (*Stream, error) {
	if !plainName(name) {
		return nil, fmt.Errorf("engine: stream name %q: use letters, digits, '_' and '-'", name)
	}
	s := &Stream{
		e:    e,
		name: name,
		config: jetstream.StreamConfig{
			Name:               "EV_" + name,
			Subjects:           []string{"ev." + name},
			MaxAge:             maxAge,
			DenyDelete:         true,
			AllowDirect:        true,
			AllowAtomicPublish: true,
			Duplicates:         dedupe,
			Storage:            jetstream.FileStorage,
			Replicas:           1,
		},
	}
	if maxAge > 0 && maxAge < dedupe {
		s.config.Duplicates = maxAge
	}
	if err := e.writable(); err != nil && e.ctx.Err() != nil {
		return nil, fmt.Errorf("engine: open stream %s: %w", name, err)
	}
	s.appends = e.committer(s.config.Name)
	if e.server != nil {
		if _, err := e.ensure(ctx, s.config); err != nil {
			return nil, fmt.Errorf("engine: open stream %s: %w", name, e.asked(err))
		}
		return s, nil
	}
	// A client creates the stream as soon as there is an engine, and again when that one came back empty.
	e.Go(func(ctx context.Context) {
		for {
			session, done, err := e.link.wait(ctx)
			if err != nil {
				return
			}
			wait := time.Second
			if _, err := e.ensure(session, s.config); err != nil {
				e.log.Debug("stream cannot be prepared yet", "stream", name, "err", err)
			} else {
				<-session.Done()
				wait = 20 * time.Millisecond
			}
			done()
			if !sleep(ctx, wait) {
				return
			}
		}
	})
	return s, nil
}

// Append adds data to the stream and returns its sequence once it is on disk.
func (s *Stream) Append(ctx context.Context, data []byte) (uint64, error) {
	seq, err := s.appends.put(ctx, &write{subject: s.config.Subjects[0], data: data, expect: anything})
	if err != nil {
		return 0, fmt.Errorf("engine: append to stream %s: %w", s.name, err)
	}
	return seq, nil
}

// Read returns up to limit records with sequence from or later, oldest first; none when there are none. A very large
// answer may have fewer records than limit; read on after the last one.
func (s *Stream) Read(ctx context.Context, from uint64, limit int) ([]Record, error) {
	ctx, cancel := s.e.bounded(ctx)
	defer cancel()
	msgs, err := s.e.read(ctx, s.config.Name, "", max(from, 1), limit)
	if err != nil {
		return nil, fmt.Errorf("engine: read stream %s: %w", s.name, err)
	}
	recs := make([]Record, len(msgs))
	for i, m := range msgs {
		recs[i] = Record{Seq: m.seq, Time: m.time, Data: m.data}
	}
	return recs, nil
}

// Last returns the sequence of the newest record, 0 if there never was one.
func (s *Stream) Last(ctx context.Context) (uint64, error) {
	if !s.e.link.up() { // to wait for it is the caller's business
		return 0, fmt.Errorf("engine: last of stream %s: %w", s.name, s.e.away())
	}
	ctx, cancel := s.e.bounded(ctx)
	defer cancel()
	h, err := s.e.js.Stream(ctx, s.config.Name)
	if err != nil {
		return 0, fmt.Errorf("engine: last of stream %s: %w", s.name, s.e.asked(err))
	}
	return h.CachedInfo().State.LastSeq, nil
}

// Newest returns the sequence of the newest record that is still there, 0 if none is. It is below Last's where the state directory
// was damaged.
func (s *Stream) Newest(ctx context.Context) (uint64, error) {
	ctx, cancel := s.e.bounded(ctx)
	defer cancel()
	h, err := s.e.js.Stream(ctx, s.config.Name)
	if err != nil {
		return 0, fmt.Errorf("engine: newest of stream %s: %w", s.name, s.e.asked(err))
	}
	m, err := h.GetLastMsgForSubject(ctx, s.config.Subjects[0])
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("engine: newest of stream %s: %w", s.name, s.e.asked(err))
	}
	return m.Sequence, nil
}

// Follow calls fn with each record from sequence from on, in order, first those that are there and then those that
// are appended, until ctx or the engine ends or fn fails, and returns why. After the engine was away it goes on where
// it was: nothing is lost, nothing repeated. It fails if the engine comes back, from a backup, without records that
// were read already.
func (s *Stream) Follow(ctx context.Context, from uint64, fn func(Record) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.e.ctx, cancel)()
	next, read := max(from, 1), false
	t := tail{
		e:      s.e,
		config: s.config,
		begin: func(info *jetstream.StreamInfo) (uint64, error) {
			if read && info.State.LastSeq+1 < next {
				return 0, fmt.Errorf("engine: follow stream %s: it ends at record %d now, and %d was read already: the engine was restored from a backup; read it anew",
					s.name, info.State.LastSeq, next-1)
			}
			return next, nil
		},
		deliver: func(m message) error {
			if m.seq < next {
				return nil
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(Record{Seq: m.seq, Time: m.time, Data: m.data}); err != nil {
				return err
			}
			next, read = m.seq+1, true
			return nil
		},
		caughtUp: func() {},
	}
	err := t.run(ctx)
	if s.e.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return fmt.Errorf("engine: follow stream %s: %w: the engine was closed", s.name, ErrUnavailable)
	}
	return err
}

// read asks for up to limit messages of a JetStream stream with sequence from or later, of one subject when it is not
// empty, by JetStream's direct batch get (ADR-31).
func (e *Engine) read(ctx context.Context, stream, subject string, from uint64, limit int) ([]message, error) {
	var out []message
	for len(out) < limit {
		msgs, more, err := e.readSome(ctx, stream, subject, from, min(limit-len(out), readMost))
		if err != nil {
			return nil, e.asked(err)
		}
		out = append(out, msgs...)
		if !more || len(msgs) == 0 {
			break
		}
		from = msgs[len(msgs)-1].seq + 1
	}
	return out, nil
}

func (e *Engine) readSome(ctx context.Context, stream, subject string, from uint64, limit int) (msgs []message, more bool, err error) {
	req, err := json.Marshal(struct {
		Seq      uint64 `json:"seq"`
		NextFor  string `json:"next_by_subj,omitempty"`
		Batch    int    `json:"batch"`
		MaxBytes int    `json:"max_bytes"`
	}{from, subject, limit, 8 << 20})
	if err != nil {
		return nil, false, err
	}
	sub, err := e.nc.SubscribeSync(e.nc.NewInbox())
	if err != nil {
		return nil, false, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // fails only when the connection is gone, and the subscription with it
	if err := e.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, sub.Subject, req); err != nil {
		return nil, false, err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, false, err
		}
		if len(m.Data) == 0 {
			switch m.Header.Get("Status") {
			case "":
			case "204": // the end; what is pending did not fit
				return msgs, m.Header.Get("Nats-Num-Pending") != "0", nil
			case "404":
				return msgs, false, nil
			case "503":
				return nil, false, nats.ErrNoResponders
			default:
				return nil, false, fmt.Errorf("read %s: %s %s", stream, m.Header.Get("Status"), m.Header.Get("Description"))
			}
		}
		seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
		if err != nil {
			return nil, false, fmt.Errorf("read %s: answer without a sequence: %w", stream, err)
		}
		at, err := time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer))
		if err != nil {
			return nil, false, fmt.Errorf("read %s: answer without a time: %w", stream, err)
		}
		msgs = append(msgs, message{
			subject: m.Header.Get(jetstream.SubjectHeader),
			seq:     seq,
			time:    at,
			deleted: deletes(m.Header),
			id:      m.Header.Get(msgIDHeader),
			data:    m.Data,
		})
	}
}
