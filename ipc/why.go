package ipc

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/roadbed/roadbed/ipc/balance"
)

// try is one attempt of an HTTP call, for whoever asks later why.
type try struct {
	at, end  int64 // on the engine's clock; end 0: it did not end before the call did
	wait     int64 // before it
	endpoint *balance.Endpoint
	err      error
	fault    string // the rules that were injected
	status   int16
	number   int16 // that its callee was told
	cause    tryCause
	next     verdict
}

// tryCause says why an attempt was made.
type tryCause uint8

const (
	firstTry tryCause = iota
	resent            // the one before did not reach anybody
	retried
	hedged // the one before took long
)

var tryCauses = [...]string{"first attempt", "sent again", "retry", "hedge"}

// verdict says why an attempt was the last, or that it was not.
type verdict uint8

const (
	goOn verdict = iota
	settled
	notSafe
	noneLeft
	nested
	bodySent
	toldNot
	badPushback
	tooLate
	nobodyElse
	overBudget
	askedNot
	callerGone
	tooMany
	outrun
)

var verdicts = [...]string{
	goOn:        "",
	settled:     "",
	notSafe:     "not tried again: the method is not idempotent and there is no Idempotency-Key",
	noneLeft:    "not tried again: no retries are left or allowed",
	nested:      "not tried again: the request served here is itself a retry, so whoever made it pays",
	bodySent:    "not tried again: its body was sent and cannot be had again; set GetBody",
	toldNot:     "not tried again: the answer forbids it with " + HeaderNoRetry,
	badPushback: "not tried again: the answer's Retry-After makes no sense",
	tooLate:     "not tried again: another attempt would end after the deadline",
	nobodyElse:  "not tried again: there is no other instance to try",
	overBudget:  "not tried again: the budget for retries is spent",
	askedNot:    "not tried again: the app asks callers to retry less for a while, by " + HeaderBackoff,
	callerGone:  "",
	outrun:      "the other attempt's outcome counts",
	tooMany:     "not tried again: " + strconv.Itoa(maxAttempts) + " attempts are enough",
}

// record is what is remembered of one HTTP call.
type record struct {
	at, end  int64
	deadline int64
	id       string
	method   string
	path     string
	err      error // it ended with; nil after a response
	status   int16
	kind     Kind
	hop      int16 // the attempt that its caller serves
	first    try
	more     []try
	broke    error // the body broke off
	brokeAt  int64
}

// calls are the last HTTP calls to an app. Those that went as they should are kept apart from the others, so that they
// do not push them out; refusals come in masses and push out only each other.
type calls struct {
	well, troubled, refused history
}

const (
	keptWell     = 100
	keptTroubled = 100
	keptRefused  = 30
)

// history is a ring of records. Writers never wait: of two that meet in a slot, one is not recorded.
type history struct {
	next  atomic.Uint64
	slots atomic.Pointer[[]slot] // nil until the first
}

type slot struct {
	mu sync.Mutex
	record
	text  []byte // what id, method and path lie in, if they were copied
	owned bool   // they were
}

// add remembers r; copied says that its id, method and path lie in memory that is about to change.
func (h *history) add(r *record, size int, copied bool) {
	slots := h.slots.Load()
	if slots == nil {
		fresh := make([]slot, size)
		h.slots.CompareAndSwap(nil, &fresh)
		slots = h.slots.Load()
	}
	s := &(*slots)[h.next.Add(1)%uint64(size)]
	if s.mu.TryLock() {
		s.record = *r
		if s.owned = copied; copied {
			s.text = append(append(append(s.text[:0], r.id...), r.method...), r.path...)
			all := unsafe.String(unsafe.SliceData(s.text), len(s.text))
			s.id, all = all[:len(r.id)], all[len(r.id):]
			s.method, s.path = all[:len(r.method)], all[len(r.method):]
		}
		s.mu.Unlock()
	}
}

// all returns the records, in no order.
func (h *history) all() (out []record) {
	slots := h.slots.Load()
	if slots == nil {
		return nil
	}
	for i := range *slots {
		s := &(*slots)[i]
		s.mu.Lock()
		r := s.record
		if s.owned {
			r.id, r.method, r.path = strings.Clone(r.id), strings.Clone(r.method), strings.Clone(r.path)
		}
		s.mu.Unlock()
		if r.at != 0 {
			out = append(out, r)
		}
	}
	return out
}

// add remembers a call that has ended, or whose body has broken off; copied is as for [history.add].
// hot path: 0 allocs, BenchmarkRoundTrip
func (c *calls) add(r *record, copied bool) {
	switch {
	case r.kind == Open || r.kind == Rejected:
		c.refused.add(r, keptRefused, copied)
	case r.kind != None || r.more != nil || r.broke != nil || r.first.fault != "":
		c.troubled.add(r, keptTroubled, copied)
	default:
		c.well.add(r, keptWell, copied)
	}
}

// last returns the calls that keep accepts, newest first.
func (c *calls) last(keep func(*record) bool) []record {
	var out []record
	for _, h := range [...]*history{&c.troubled, &c.refused, &c.well} { // what broke off stands before what went well
		for _, r := range h.all() {
			if keep(&r) && !slices.ContainsFunc(out, func(o record) bool { return o.at == r.at && o.id == r.id && o.path == r.path }) {
				out = append(out, r)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b record) int { return int(b.at - a.at) })
	return out
}

// served remembers the last requests to this process that were not simply handed to its handler.
type served struct {
	next  atomic.Uint64
	slots [keptServed]servedSlot
}

const keptServed = 100

type servedSlot struct {
	mu sync.Mutex
	servedRecord
}

type servedRecord struct {
	at               int64 // on the engine's clock; 0: nothing is there
	id, caller, what string
	method, path     string
	text             []byte // never altered
	status           int16  // that it was answered with; 0: the handler answered it all the same
}

// noteServed remembers what became of a request before, or instead of, its handler: it was shed, late, or had faults
// injected.
// hot path: 0 allocs, BenchmarkHandler
func (e *Engine) noteServed(method, path, id, caller, what string, status int, text []byte) {
	s := &e.served.slots[e.served.next.Add(1)%keptServed]
	if s.mu.TryLock() {
		s.servedRecord = servedRecord{e.clock.now(), id, caller, what, method, path, text, int16(status)}
		s.mu.Unlock()
	}
}

// Served tells of one request to this process that was not simply handed to its handler.
type Served struct {
	At        time.Time `json:"at"`
	RequestID string    `json:"requestId,omitempty"`
	Caller    string    `json:"caller,omitempty"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	What      string    `json:"what"`             // shed, late or injected
	Status    int       `json:"status,omitempty"` // that it was answered with; 0: the handler answered it all the same
	Why       string    `json:"why"`
}

// WhyServed tells of the last requests to this process that were shed, late, or had faults injected, newest first: a
// hundred at most, and only those of that id unless it is empty.
func (e *Engine) WhyServed(id string) []Served {
	out := []Served{}
	for i := range e.served.slots {
		s := &e.served.slots[i]
		s.mu.Lock()
		r := s.servedRecord
		s.mu.Unlock()
		if r.at != 0 && (id == "" || r.id == id) {
			out = append(out, Served{e.clock.time(r.at), r.id, r.caller, r.method, r.path, r.what, int(r.status), strings.TrimSpace(string(r.text))})
		}
	}
	slices.SortFunc(out, func(a, b Served) int { return b.At.Compare(a.At) })
	return out
}

func (s *Served) write(b *strings.Builder) {
	fmt.Fprintf(b, "%s  %s %s", clockTime(s.At), s.Method, s.Path)
	if s.Caller != "" {
		fmt.Fprintf(b, " of %s", s.Caller)
	}
	if s.RequestID != "" {
		fmt.Fprintf(b, ", request %s", s.RequestID)
	}
	fmt.Fprintf(b, ": %s", s.What)
	if s.Status != 0 {
		fmt.Fprintf(b, ", answered %d", s.Status)
	}
	fmt.Fprintf(b, ": %s\n", s.Why)
}

// Explanation tells of one HTTP call what happened and why.
type Explanation struct {
	App       string      `json:"app"`
	At        time.Time   `json:"at"`
	RequestID string      `json:"requestId,omitempty"` // of the request it was made for
	Method    string      `json:"method"`
	Path      string      `json:"path"`
	Took      float64     `json:"tookSeconds"`              // to the response's headers, or to the failure
	Timeout   float64     `json:"timeoutSeconds,omitempty"` // what there was when it began; 0: no deadline
	Status    int         `json:"status,omitempty"`         // of the response; 0: there was none
	Kind      string      `json:"kind"`                     // none: it went well; else the value of ipc.cause
	Error     string      `json:"error,omitempty"`          // what the caller was told
	Broke     string      `json:"bodyBrokeOff,omitempty"`   // the response's body ended early: why
	Serves    int         `json:"servesAttempt,omitempty"`  // the attempt it was made for, if not the first
	Attempts  []Attempted `json:"attempts"`                 // none if it was refused
	Refused   string      `json:"refused,omitempty"`        // why no attempt was made
}

// Attempted is one attempt of a call.
type Attempted struct {
	Cause    string  `json:"cause"`         // first attempt, sent again, retry, hedge
	After    float64 `json:"afterSeconds"`  // when it began, since the call did
	Waited   float64 `json:"waitedSeconds"` // of that, on purpose
	Took     float64 `json:"tookSeconds"`
	Instance string  `json:"instance"`
	Addr     string  `json:"addr"`
	Zone     string  `json:"zone"`
	Pick     *Pick   `json:"pick,omitempty"`  // how the instance was chosen, if that was recorded
	Fault    string  `json:"fault,omitempty"` // the rules that were injected
	Status   int     `json:"status,omitempty"`
	Error    string  `json:"error,omitempty"`
	Verdict  string  `json:"verdict,omitempty"` // why no other attempt followed, if one might have
}

// Pick is one choice of the balancer.
type Pick struct {
	At     time.Time          `json:"at"`
	Winner balance.Candidate  `json:"winner"`
	Loser  *balance.Candidate `json:"loser,omitempty"` // nil if there was only one to choose
	Why    string             `json:"why"`
}

func (e *Engine) pick(c balance.Choice) *Pick {
	p := &Pick{At: e.clock.time(c.At), Winner: c.Winner, Why: c.Why}
	if c.Loser.Addr != "" {
		p.Loser = &c.Loser
	}
	return p
}

// Why is what can be told of an app's recent calls.
type Why struct {
	State  CommandState  `json:"state"`  // now
	Calls  []Explanation `json:"calls"`  // newest first
	Picks  []*Pick       `json:"picks"`  // newest first; from when somebody first asks on, for a minute, every one
	Events []Event       `json:"events"` // newest first
}

const whyEvents = 20

// Why explains the recent calls of the command or app of that name, newest first, n at most: the last 100 that went
// well, the last 100 that did not or took more than one attempt, and the last 30 that were refused are known. ok tells
// whether there is such a command.
func (e *Engine) Why(name string, n int) (w Why, ok bool) {
	c := (*e.commands.Load())[name]
	if c == nil {
		return Why{}, false
	}
	w = Why{State: c.snapshot(), Calls: []Explanation{}, Picks: []*Pick{}, Events: e.eventsOf(name, whyEvents)}
	if cl := (*e.clusters.Load())[name]; cl != nil {
		choices := cl.lb.Choices(e.clock.now())
		for _, ch := range choices {
			w.Picks = append(w.Picks, e.pick(ch))
		}
		for _, r := range cl.calls.last(func(*record) bool { return true }) {
			if len(w.Calls) == n {
				break
			}
			w.Calls = append(w.Calls, cl.explain(&r, choices))
		}
	}
	return w, true
}

// WhyRequest explains the recent calls made for the request of that id, oldest first.
func (e *Engine) WhyRequest(id string) []Explanation {
	out := []Explanation{}
	for _, cl := range *e.clusters.Load() {
		choices := cl.lb.Choices(e.clock.now())
		for _, r := range cl.calls.last(func(r *record) bool { return r.id == id }) {
			out = append(out, cl.explain(&r, choices))
		}
	}
	slices.SortFunc(out, func(a, b Explanation) int { return a.At.Compare(b.At) })
	return out
}

func (cl *cluster) explain(r *record, choices []balance.Choice) Explanation {
	seconds := func(from, to int64) float64 { return time.Duration(max(0, to-from)).Seconds() }
	x := Explanation{
		App: cl.name, At: cl.engine.clock.time(r.at), RequestID: r.id, Method: r.method, Path: r.path, Took: seconds(r.at, r.end),
		Status: int(r.status), Kind: r.kind.String(), Attempts: []Attempted{},
	}
	if r.deadline != noDeadline {
		x.Timeout = seconds(r.at, r.deadline)
	}
	if r.err != nil {
		x.Error = r.err.Error()
	}
	if r.broke != nil {
		x.Broke = fmt.Sprintf("%v, %s after the call began", r.broke, time.Duration(r.brokeAt-r.at).Round(time.Microsecond))
	}
	if r.hop > 1 {
		x.Serves = int(r.hop)
	}
	if r.first.endpoint == nil {
		x.Refused = x.Error
		return x
	}
	for i := range len(r.more) + 1 {
		t := &r.first
		if i > 0 {
			t = &r.more[i-1]
		}
		a := Attempted{
			Cause: tryCauses[t.cause], After: seconds(r.at, t.at), Waited: time.Duration(t.wait).Seconds(), Took: seconds(t.at, t.end),
			Instance: t.endpoint.ID, Addr: t.endpoint.Addr, Zone: t.endpoint.Zone, Fault: t.fault, Status: int(t.status), Verdict: verdicts[t.next],
		}
		if t.err != nil {
			a.Error = t.err.Error()
		}
		if t.err == errOutrun {
			a.Verdict = "" // that says it
		}
		if i := slices.IndexFunc(choices, func(c balance.Choice) bool { return c.At == t.at && c.Winner.Addr == t.endpoint.Addr }); i >= 0 {
			a.Pick = cl.engine.pick(choices[i])
		}
		x.Attempts = append(x.Attempts, a)
	}
	return x
}

// WhyHandler explains recent calls; services serve it at /ipc/why. With ?vip=NAME it tells of those to an app, or of a
// command, newest first; with ?id=ID of those made for one request; without either it lists what can be asked for, by
// which rules faults were injected, and which requests to this process were shed, late, or had faults injected.
// It answers in text, or in JSON with ?format=json or "Accept: application/json". ?n=50 asks for more than 20 calls.
func (e *Engine) WhyHandler() http.Handler { return http.HandlerFunc(e.serveWhy) }

const (
	whyCalls = 20
	maxCalls = keptWell + keptTroubled + keptRefused
)

func (e *Engine) serveWhy(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	asJSON := strings.Contains(r.Header.Get("Accept"), "application/json")
	switch f := q.Get("format"); f {
	case "":
	case "json", "text":
		asJSON = f == "json"
	default:
		http.Error(w, fmt.Sprintf("format=%q is unknown; use json or text", f), http.StatusBadRequest)
		return
	}
	n := whyCalls
	if text := q.Get("n"); text != "" {
		var err error
		if n, err = parseRange(text, 1, maxCalls); err != nil {
			http.Error(w, fmt.Sprintf("n=%q says how many calls to explain; %v", text, err), http.StatusBadRequest)
			return
		}
	}
	name, id := strings.ToLower(q.Get("vip")), q.Get("id")
	var text strings.Builder
	var answer any
	switch {
	case id != "":
		found, here := e.WhyRequest(id), e.WhyServed(id)
		if len(found)+len(here) == 0 {
			http.Error(w, fmt.Sprintf("no recent call was made here for the request %q; the last %d calls to each app are known, failures longer", id, keptWell), http.StatusNotFound)
			return
		}
		answer = map[string]any{"calls": found, "served": here}
		for i := range here {
			here[i].write(&text)
		}
		for i := range found {
			found[i].write(&text)
		}
	case name != "":
		why, ok := e.Why(name, n)
		if !ok {
			if why, ok = e.Why(q.Get("vip"), n); !ok { // commands that are not apps may have capitals
				http.Error(w, fmt.Sprintf("nothing called %q was called from here; there are: %s", name, strings.Join(e.commandNames(), ", ")), http.StatusNotFound)
				return
			}
		}
		answer = why
		why.write(&text)
	default:
		names := e.commandNames()
		here, hits := e.WhyServed(""), e.FaultHits()
		answer = map[string]any{"names": names, "served": here, "faults": hits}
		fmt.Fprintf(&text, "ask /ipc/why?vip=NAME about one of these, or /ipc/why?id=REQUEST about one request\n\n")
		for _, name := range names {
			c := (*e.commands.Load())[name].snapshot()
			fmt.Fprintf(&text, "%-32s breaker %-9s %d calls lately, %d %% failed\n", name, c.Breaker, c.Requests, c.ErrorPercent)
		}
		if len(hits) > 0 {
			text.WriteString("\nrules by which faults were injected here, and when last\n")
		}
		for _, h := range hits[:min(len(hits), n)] {
			fmt.Fprintf(&text, "%s  %s\n", clockTime(h.Last), h.Rule)
		}
		if len(here) > 0 {
			text.WriteString("\nrequests served here that were shed, late, or had faults injected, newest first\n")
		}
		for i := range here[:min(len(here), n)] {
			here[i].write(&text)
		}
	}
	if asJSON {
		writeJSON(w, answer)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Write([]byte(text.String())) // an error means that the reader has gone
}

func (w *Why) write(b *strings.Builder) {
	s := &w.State
	fmt.Fprintf(b, "%s: breaker %s, %d calls lately of which %d %% failed, %d in flight, half within %s, 99 %% within %s\n",
		s.Name, s.Breaker, s.Requests, s.ErrorPercent, s.InFlight, ms(s.P50), ms(s.P99))
	if a := s.App; a != nil {
		fmt.Fprintf(b, "further attempts: %d of %.0f allowed in 10 s, %d denied since the start\n", a.Budget.Used, a.Budget.Allowed, a.Budget.Denied)
		if a.Panic {
			b.WriteString("the balancer panics: too few instances are healthy, so all are tried\n")
		}
		fmt.Fprintf(b, "\n%-28s %-22s %-14s %8s %9s %7s %5s %9s  %s\n", "instance", "address", "zone", "requests", "in flight", "rtt ms", "err %", "cost ms", "")
		for _, ep := range a.Endpoints {
			fmt.Fprintf(b, "%-28s %-22s %-14s %8d %9d %7.2f %5.0f %9.2f  %s\n", ep.ID, ep.Addr, ep.Zone, ep.Requests, ep.Active, ep.RTT*1e3, ep.Error*100, ep.Cost*1e3, ep.Why)
		}
	}
	if len(w.Events) > 0 {
		b.WriteString("\nevents, newest first\n")
		for _, ev := range w.Events {
			fmt.Fprintf(b, "%s  %s: %s\n", clockTime(ev.At), ev.Kind, ev.Text)
		}
	}
	if len(w.Calls) > 0 {
		b.WriteString("\ncalls, newest first\n")
	}
	for i := range w.Calls {
		w.Calls[i].write(b)
	}
}

func (x *Explanation) write(b *strings.Builder) {
	fmt.Fprintf(b, "\n%s  %s %s", clockTime(x.At), x.Method, x.App+x.Path)
	if x.RequestID != "" {
		fmt.Fprintf(b, "  for request %s", x.RequestID)
	}
	switch {
	case x.Refused != "":
		fmt.Fprintf(b, ": refused (%s)\n", x.Kind)
		fmt.Fprintf(b, "  %s\n", x.Refused)
		return
	case x.Status != 0:
		fmt.Fprintf(b, ": %d after %s", x.Status, ms(x.Took))
	default:
		fmt.Fprintf(b, ": failed (%s) after %s", x.Kind, ms(x.Took))
	}
	if x.Timeout != 0 {
		fmt.Fprintf(b, " of %s", ms(x.Timeout))
	}
	if x.Serves != 0 {
		fmt.Fprintf(b, ", for its caller's attempt %d", x.Serves)
	}
	b.WriteByte('\n')
	for _, a := range x.Attempts {
		fmt.Fprintf(b, "  +%s %s", ms(a.After), a.Cause)
		if a.Waited > 0 {
			fmt.Fprintf(b, " after a wait of %s", ms(a.Waited))
		}
		fmt.Fprintf(b, ": %s at %s", a.Instance, a.Addr)
		if a.Zone != "" {
			fmt.Fprintf(b, " in %s", a.Zone)
		}
		switch p := a.Pick; {
		case p == nil:
		case p.Loser == nil:
			fmt.Fprintf(b, ", cost %s: %s", ms(p.Winner.Cost), p.Why)
		default:
			fmt.Fprintf(b, ", cost %s against %s of %s: %s", ms(p.Winner.Cost), ms(p.Loser.Cost), p.Loser.ID, p.Why)
		}
		b.WriteByte('\n')
		if a.Fault != "" {
			fmt.Fprintf(b, "    injected: %s\n", a.Fault)
		}
		fmt.Fprintf(b, "    +%s ", ms(a.After+a.Took))
		switch {
		case a.Error != "":
			b.WriteString(a.Error)
		case a.Status != 0:
			fmt.Fprintf(b, "answered %d", a.Status)
		default:
			b.WriteString("given up")
		}
		if a.Verdict != "" {
			b.WriteString("; " + a.Verdict)
		}
		b.WriteByte('\n')
	}
	if x.Status == 0 && x.Error != "" {
		fmt.Fprintf(b, "  the caller was told: %s\n", x.Error)
	}
	if x.Broke != "" {
		fmt.Fprintf(b, "  the body broke off: %s\n", x.Broke)
	}
}

// ms writes seconds as milliseconds.
func ms(seconds float64) string { return strconv.FormatFloat(seconds*1e3, 'f', 2, 64) + " ms" }

func clockTime(t time.Time) string { return t.Format("15:04:05.000") }
