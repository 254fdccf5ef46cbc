package properties

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
)

const (
	watchBeat = 10 * time.Second // between two signs of life
	hashBeats = 3                // of which each so many-th is the hash
)

// watch is what one watcher of properties was told. It holds no properties: it walks from step to step, and what a step
// changes is encoded once for all whom it concerns alike.
type watch struct {
	s      *Store
	c      *caller
	prefix string
	at     *step  // everything before it was told
	rev    uint64 // of the index that at leads on from
}

// begin returns the first event: what the watcher sees, or the hash of that if it knows it already.
func (w *watch) begin(lastID string) ([]byte, error) {
	ix := w.s.index.Load()
	w.at, w.rev = ix.step, ix.rev
	known := ix.resolve(w.c, w.prefix)
	if _, sum, ok := strings.Cut(lastID, "-"); ok && sum == config.Sum(known.Properties) {
		return hashEvent(known)
	}
	return api.Event{ID: config.EventID(known.Rev, known.Properties), Name: "snapshot", Data: known}.Encode()
}

func hashEvent(known config.Snapshot) ([]byte, error) {
	sum := config.Sum(known.Properties)
	return api.Event{ID: fmt.Sprintf("%d-%s", known.Rev, sum), Name: "hash", Data: config.Hash{Rev: known.Rev, Sum: sum}}.Encode()
}

// news appends the events of all that happened since the last call.
func (w *watch) news(b []byte) ([]byte, error) {
	for {
		select {
		case <-w.at.done:
		default:
			return b, nil
		}
		var err error
		if b, err = w.take(b); err != nil {
			return nil, err
		}
	}
}

// take appends the events of the step at which w is, and goes on to the next. They are told together.
func (w *watch) take(b []byte) ([]byte, error) {
	at := w.at
	w.rev, w.at = at.rev, at.next
	var last *motion
	var won *record
	for i := range at.moves {
		m := &at.moves[i]
		now, changed := m.forCaller(w.c, w.prefix)
		if !changed {
			continue
		}
		if last != nil {
			text, err := last.event(won, at.rev, true)
			if err != nil {
				return nil, err
			}
			b = append(b, text...)
		}
		last, won = m, now
	}
	if last == nil {
		return b, nil
	}
	text, err := last.event(won, at.rev, false)
	return append(b, text...), err
}

// hash appends what has not been told yet, and then the hash of all that was.
func (w *watch) hash(b []byte) ([]byte, error) {
	b, err := w.news(b)
	ix := w.s.index.Load()
	for err == nil && ix.step != w.at { // it went on meanwhile
		<-w.at.done
		b, err = w.news(b)
		ix = w.s.index.Load()
	}
	if err != nil {
		return nil, err
	}
	known := ix.resolve(w.c, w.prefix)
	known.Rev = w.rev
	text, err := hashEvent(known)
	return append(b, text...), err
}

// forCaller returns the record of m's key that wins for c afterwards, nil for none, and whether that changes anything
// for c.
func (m *motion) forCaller(c *caller, prefix string) (now *record, changed bool) {
	if !strings.HasPrefix(m.key, prefix) || !slices.ContainsFunc(m.touched, func(r *record) bool { return r.matches(c) }) {
		return nil, false
	}
	was := c.pick(m.before, nil)
	if now = c.pick(m.after, nil); now == nil {
		return nil, was != nil
	}
	return now, was == nil || was.Value != now.Value || now.own() != was.own()
}

// texts are the events of a motion as they are sent, made when first needed.
type texts struct {
	mu sync.Mutex
	of map[textOf][]byte
}

// textOf is what one of them depends on besides the motion: who wins, and whether another change is told with it.
type textOf struct {
	now  *record
	more bool
}

// event is what is sent to those for whom now wins after m, at revision rev.
func (m *motion) event(now *record, rev uint64, more bool) ([]byte, error) {
	m.texts.mu.Lock()
	defer m.texts.mu.Unlock()
	k := textOf{now, more}
	if b, ok := m.texts.of[k]; ok {
		return b, nil
	}
	ev := config.Change{Rev: rev, Key: m.key, More: more}
	if now != nil {
		ev.Value, ev.Own = &now.Value, now.own()
		if now.via != nil {
			ev.Rollout = now.via.ID
		}
	}
	// No sum in the id: a client that breaks off here and knows no better is sent a snapshot.
	b, err := api.Event{ID: strconv.FormatUint(rev, 10), Name: "change", Data: ev}.Encode()
	if err != nil {
		return nil, err
	}
	if m.texts.of == nil {
		m.texts.of = map[textOf][]byte{}
	}
	m.texts.of[k] = b
	return b, nil
}

func (s *Store) getWatch(w http.ResponseWriter, r *http.Request) error {
	if !s.loaded.Load() {
		return ErrLoading
	}
	order, err := s.orderOf(r)
	if err != nil {
		return err
	}
	scope := s.known(scopeOf(r))
	prefix := r.URL.Query().Get("prefix")
	me := &watch{s: s, c: asCaller(scope, order).asking(prefix), prefix: prefix}
	first, err := me.begin(r.Header.Get("Last-Event-ID"))
	if err != nil {
		return err
	}
	line, err := api.OpenLine(w, r)
	if err != nil {
		s.log.Debug("a watch of properties broke", "err", err)
		return nil // the answer has begun
	}
	left := s.meet(scope, true)
	if !line.Write(first) {
		line.Close()
		left()
		return nil
	}
	if !line.Free() || !s.serve(func() { me.tell(line); left() }) {
		me.tell(line)
		left()
	}
	return nil
}

// tell writes what happens until the client leaves or the store ends.
func (w *watch) tell(line *api.Line) {
	defer line.Close()
	beat := time.NewTicker(watchBeat)
	defer beat.Stop()
	var buf []byte
	for beats := 0; ; {
		var err error
		select {
		case <-line.Gone():
			return
		case <-w.s.ended:
			return
		case <-beat.C:
			if beats++; beats%hashBeats == 0 {
				buf, err = w.hash(buf[:0])
			} else {
				buf = append(buf[:0], ": beat\n\n"...)
			}
		case <-w.at.done:
			buf, err = w.news(buf[:0])
		}
		if err != nil {
			w.s.log.Error("a watcher of properties cannot be told", "err", err)
			return
		}
		if len(buf) > 0 && !line.Write(buf) {
			return
		}
		if cap(buf) > 4<<10 {
			buf = nil
		}
	}
}

// serve calls fn in a goroutine that Run waits for. It reports false when Run has ended.
func (s *Store) serve(fn func()) bool {
	s.linesMu.Lock()
	defer s.linesMu.Unlock()
	select {
	case <-s.ended:
		return false
	default:
	}
	s.lines.Go(fn)
	return true
}

// endLines ends what serve began.
func (s *Store) endLines() {
	s.linesMu.Lock()
	close(s.ended)
	s.linesMu.Unlock()
	s.lines.Wait()
}
