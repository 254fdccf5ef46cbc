package ipc

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Event is one change of state worth knowing: a breaker that opened, an instance that was ejected, a budget that ran
// out.
type Event struct {
	Seq     uint64    `json:"seq"` // counts from 1 in this process; a gap to what was read before means that some are lost
	At      time.Time `json:"at"`
	Kind    EventKind `json:"kind"`
	Command string    `json:"command"` // whose: a command or an app that is called; empty if it concerns the process
	Text    string    `json:"text"`    // a sentence
}

// EventKind is one word for what an event is about.
type EventKind string

// The kinds of events.
const (
	BreakerEvent EventKind = "breaker" // it opened, closed, or failed its trial
	EjectEvent   EventKind = "eject"   // an instance gets no calls for a while
	PanicEvent   EventKind = "panic"   // too few instances are healthy, so all are tried
	LimitEvent   EventKind = "limit"   // requests are shed, or no longer
	BudgetEvent  EventKind = "budget"  // further attempts are refused, or allowed again
	FaultEvent   EventKind = "fault"   // an injected fault hits for the first time in a while
)

const (
	keptEvents = 500
	faultQuiet = int64(10 * time.Second) // a fault that did not hit for so long is told anew
	maxFaultIn = 256                     // rules whose last hit is remembered
)

// events keeps the last events of an engine.
type eventRing struct {
	mu     sync.Mutex
	ring   [keptEvents]Event
	count  uint64           // ever
	faults map[string]int64 // rule -> when it hit last, on the engine's clock
}

// event records a change of state.
func (e *Engine) event(kind EventKind, command, text string) {
	r := &e.events
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	r.ring[r.count%keptEvents] = Event{r.count, time.Now(), kind, command, text}
}

// faultHit records that a rule hit, unless it did so lately.
func (e *Engine) faultHit(rule string) {
	r, now := &e.events, e.clock.now()
	r.mu.Lock()
	last, known := r.faults[rule]
	if r.faults == nil || !known && len(r.faults) >= maxFaultIn {
		r.faults = map[string]int64{}
	}
	r.faults[rule] = now
	r.mu.Unlock()
	if !known || now-last > faultQuiet {
		e.event(FaultEvent, "", "faults are injected by rule "+rule)
	}
}

// FaultHit is a rule of faults by which this process injected.
type FaultHit struct {
	Rule string    `json:"rule"` // as it was written; several are separated by ";"
	Last time.Time `json:"last"` // when it hit last
}

// FaultHits returns by which rules faults were injected here, the latest first: 256 rules at most are remembered.
func (e *Engine) FaultHits() []FaultHit {
	r, out := &e.events, []FaultHit{}
	r.mu.Lock()
	for rule, at := range r.faults {
		out = append(out, FaultHit{rule, e.clock.time(at)})
	}
	r.mu.Unlock()
	slices.SortFunc(out, func(a, b FaultHit) int { return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Rule, b.Rule)) })
	return out
}

// Events returns what happened after the event of that number, oldest first: the last 500 events at most.
func (e *Engine) Events(after uint64) []Event {
	r := &e.events
	r.mu.Lock()
	defer r.mu.Unlock()
	first := min(after, r.count) + 1
	if r.count > keptEvents {
		first = max(first, r.count-keptEvents+1)
	}
	out := []Event{}
	for n := first; n <= r.count; n++ {
		out = append(out, r.ring[n%keptEvents])
	}
	return out
}

// eventsOf returns the last events of a command, newest first, n at most.
func (e *Engine) eventsOf(command string, n int) []Event {
	all := e.Events(0)
	out := []Event{}
	for i := len(all) - 1; i >= 0 && len(out) < n; i-- {
		if all[i].Command == command {
			out = append(out, all[i])
		}
	}
	return out
}

// EventsHandler answers with the last events as JSON, oldest first; services serve it at /ipc/events. The query may
// ask for those after a number, of a command, of a kind: ?after=17&command=catalog&kind=breaker.
func (e *Engine) EventsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		var after uint64
		if text := q.Get("after"); text != "" {
			n, err := strconv.ParseUint(text, 10, 64)
			if err != nil {
				http.Error(w, fmt.Sprintf("after=%q is not the number of an event; use the seq of the last event you read, or leave it out", text), http.StatusBadRequest)
				return
			}
			after = n
		}
		found := []Event{}
		for _, ev := range e.Events(after) {
			if c := q.Get("command"); c != "" && c != ev.Command {
				continue
			}
			if k := q.Get("kind"); k != "" && k != string(ev.Kind) {
				continue
			}
			found = append(found, ev)
		}
		writeJSON(w, map[string]any{"app": e.app, "instance": e.instance, "events": found})
	})
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, "the answer cannot be written as JSON: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(b, '\n')) // an error means that the reader has gone
}
