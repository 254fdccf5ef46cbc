package registry

import (
	"context"
	"crypto/rand"
	"net/url"
	"strings"

	"github.com/roadbed/roadbed/platform/engine"
)

// For programs that are on the engine's bus anyway. A registry with an engine publishes each change on
// reg.<region>.app.<APP>: the data is that of a watcher's event, the header Roadbed-Event says which, put or remove, and
// Roadbed-Id is the event's id, by which somebody who hears of a change twice can tell. A request to reg.get.<APP> is
// answered with {"version":7,"warming":false,"instances":[...]}. Names are upper case and written as
// [engine.SubjectPart] does. What is published while the engine is away is lost; ask again after having been away.
//
// The registry waits for none of this: it is done beside it, by a watcher of its own.
const (
	announceSubject = "reg."
	getSubject      = "reg.get."
	announceGroup   = "registry"
	eventHeader     = "Roadbed-Event"
	idHeader        = "Roadbed-Id"
)

// announce publishes what changes, and answers who asks, until ctx ends.
func (r *Registry) announce(ctx context.Context) {
	stop, err := r.c.Engine.Answer(getSubject+"*", announceGroup, r.answerGet)
	if err != nil {
		r.log.Warn("requests on the engine's bus are not answered", "subject", getSubject+"*", "err", err)
	} else {
		defer stop()
	}
	me := newWatcher(rand.Text(), interest{})
	r.hub.publish(me)
	defer r.hub.publish(nil)
	r.s.mu.RLock()
	cursor := r.s.log.version
	r.s.mu.RUnlock()
	var buf []byte
	for {
		select {
		case <-me.wake:
		case <-ctx.Done():
			return
		}
		me.take(r.hub)
		r.s.mu.RLock()
		changes, known := r.s.log.since(cursor)
		cursor = r.s.log.version
		r.s.mu.RUnlock()
		if !known {
			r.log.Warn("changes were not published, for there were too many at once")
		}
		for c := range changes.all() {
			buf = c.writeEvent(buf[:0], r.hub)
			if r.publishChange(c, buf) != nil {
				break // the engine is away; who listens asks again when it is back
			}
		}
	}
}

func (r *Registry) publishChange(c *change, written []byte) error {
	id, event, data := splitEvent(written)
	return r.c.Engine.Publish(announceSubject+engine.SubjectPart(r.c.Location.Region)+".app."+engine.SubjectPart(c.rec.app),
		map[string]string{eventHeader: event, idHeader: id}, data)
}

// splitEvent takes an event apart that was written for watchers.
func splitEvent(b []byte) (id, event string, data []byte) {
	for line := range strings.SplitSeq(string(b), "\n") {
		switch name, value, _ := strings.Cut(line, ": "); name {
		case "id":
			id = value
		case "event":
			event = value
		case "data":
			data = []byte(value)
		}
	}
	return id, event, data
}

func (r *Registry) answerGet(subject string, _ []byte) []byte {
	name, err := url.PathUnescape(strings.TrimPrefix(subject, getSubject))
	if err != nil {
		name = "" // there is no such application
	}
	r.s.mu.RLock()
	warming := r.s.warming
	r.s.mu.RUnlock()
	version, body := r.s.appNow(upper(name), r.c.Location.Region)
	head := appendState(nil, version, warming)
	_, rest, _ := strings.Cut(string(body), ",") // behind the version
	return append(append(head, ','), rest...)
}
