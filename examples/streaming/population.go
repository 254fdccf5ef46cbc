package streaming

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roadbed/roadbed/meter"
)

// PopulationConfig says where members knock, how often and with which dice.
type PopulationConfig struct {
	Edge  string               // where api's paths are, e.g. "http://127.0.0.1:7000/api"
	RPS   func() float64       // requests per second wanted now, asked several times a second; 0 or less pauses
	Think func() time.Duration // between two steps of a journey; nil = 300 ms
	Seed  uint64               // the same seed makes the same members take the same journeys
	Meter *meter.Registry      // gets members.journey

	transport http.RoundTripper // nil outside tests: keep-alive connections to the edge
}

// Deadline is how long a member waits for one answer.
const Deadline = 2 * time.Second

const (
	maxWorkers = 512             // requests in flight at most
	window     = 5 * time.Second // of Report.Last
	maxAnswer  = 1 << 20         // bytes read of one answer
)

// Population is members on their journeys: each opens the home page, browses one to three rows, plays a title and
// sometimes comes back for another.
//
// The load is an open model: requests become due by a Poisson process at the wanted rate, whether or not earlier
// ones were answered, and each is timed from when it was due, so that a stall of the platform shows in all requests it
// delayed (no coordinated omission). A request that becomes due takes the next step of a journey that has had time to
// think, or begins a new journey. A step succeeds when it is answered within [Deadline] with status 200 and all that
// its page needs; parts that are fallbacks are counted but are no failures. A member whose step fails goes away.
//
// Members never retry: that is the platform's work. (Go's HTTP client alone sends a request again when a kept
// connection turns out to be closed before a byte of it was answered, as every browser does.)
type Population struct {
	c      PopulationConfig
	client *http.Client
	timers map[string]map[string]*meter.PercentileTimer // by journey kind and result

	mu    sync.Mutex
	total *tally     // since the last reset; guarded by mu
	now   *tally     // the window that fills; guarded by mu
	last  Figures    // the last whole window; guarded by mu
	ready []*journey // in the order in which they have thought enough; guarded by mu
}

// NewPopulation returns a population that is at rest until Run. It fails when c.Edge is not an absolute http URL.
func NewPopulation(c PopulationConfig) (*Population, error) {
	u, err := url.Parse(c.Edge)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("streaming: edge %q is not a URL such as http://127.0.0.1:7000/api", c.Edge)
	}
	c.Edge = strings.TrimSuffix(c.Edge, "/")
	if c.Think == nil {
		c.Think = func() time.Duration { return loadDefaults().Think }
	}
	p := &Population{c: c, client: &http.Client{Transport: c.transport}, timers: map[string]map[string]*meter.PercentileTimer{},
		total: newTally(), now: newTally()}
	if c.transport == nil {
		p.client.Transport = &http.Transport{MaxIdleConnsPerHost: maxWorkers, IdleConnTimeout: 30 * time.Second, DisableCompression: true}
	}
	for _, kind := range []string{"browse", "play"} {
		p.timers[kind] = map[string]*meter.PercentileTimer{}
		for _, result := range []string{"success", "failure", "late"} {
			p.timers[kind][result] = c.Meter.PercentileTimer("members.journey", "journey", kind, "result", result)
		}
	}
	return p, nil
}

// Run makes members knock until ctx ends, then returns nil. Requests in flight at that moment are given up and not
// counted.
func (p *Population) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer p.client.CloseIdleConnections()
	defer workers.Wait()
	workers.Go(func() { p.turnWindows(ctx) })

	arrivals := newArrivals(p.c.Seed)
	due := make(chan visit) // to workers that have nothing to do
	running := 0
	for {
		at, ok := arrivals.next(ctx, p.c.RPS)
		if !ok {
			return nil
		}
		if time.Since(at) > Deadline {
			p.unsent(at)
			continue
		}
		v := visit{p.take(arrivals), at}
		select {
		case due <- v:
			continue
		default:
		}
		if running < maxWorkers {
			running++
			workers.Go(func() { p.work(ctx, v, due) })
			continue
		}
		select {
		case due <- v:
		case <-ctx.Done():
			return nil
		}
	}
}

// Report tells what members experienced since the last reset, and in the last whole five seconds.
func (p *Population) Report() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.report()
}

// Reset returns the report and begins the totals anew.
func (p *Population) Reset() Report {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.report()
	p.total = newTally()
	return r
}

func (p *Population) report() Report {
	return Report{Since: p.total.since, RPS: p.c.RPS(), Total: p.total.figures(), Last: p.last}
}

func (p *Population) turnWindows(ctx context.Context) {
	tick := time.NewTicker(window)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		p.last, p.now = p.now.figures(), newTally()
		p.mu.Unlock()
	}
}

// arrivals is the Poisson process of requests, and the dice of journeys that begin.
type arrivals struct {
	dice *rand.Rand
	seed uint64
	rate float64 // at which due was drawn; 0 = nothing drawn
	due  time.Time
	born uint64 // journeys begun
}

func newArrivals(seed uint64) *arrivals {
	return &arrivals{dice: rand.New(rand.NewPCG(seed, 1)), seed: seed}
}

// next waits until the next request is due and returns when that was, which is in the past if the caller is slow. It
// reports false when ctx ends.
func (a *arrivals) next(ctx context.Context, rps func() float64) (time.Time, bool) {
	const look = 100 * time.Millisecond // how often the wanted rate is looked at while waiting
	for {
		if ctx.Err() != nil {
			return time.Time{}, false
		}
		wait := look
		if want := rps(); want <= 0 {
			a.rate = 0
		} else {
			// The exponential distribution has no memory: on a new rate the wait may start again from now.
			if want != a.rate {
				a.rate, a.due = want, time.Now().Add(a.gap(want))
			}
			if wait = min(look, time.Until(a.due)); wait <= 0 {
				at := a.due
				a.due = at.Add(a.gap(want))
				return at, true
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
	}
}

func (a *arrivals) gap(rate float64) time.Duration {
	return time.Duration(min(a.dice.ExpFloat64()/rate*float64(time.Second), math.MaxInt64/4))
}

// visit is one request that is due.
type visit struct {
	journey *journey
	due     time.Time
}

// take returns the journey that continues, or a new one.
func (p *Population) take(a *arrivals) *journey {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ready) > 0 && time.Since(p.ready[0].thinksUntil) >= 0 {
		j := p.ready[0]
		p.ready = p.ready[1:]
		return j
	}
	a.born++
	p.total.journeys.Started++
	p.now.journeys.Started++
	return newJourney(a.seed, a.born)
}

// journey is one member between opening the home page and leaving. It has one owner at a time.
type journey struct {
	member      string
	dice        *rand.Rand
	step        string // "home", "browse" or "play"
	rows        int    // still to browse
	row, title  string // of the step
	shelves     []string
	thinksUntil time.Time
}

// newJourney begins journey n of a population: the same member with the same plans for the same seed and n.
func newJourney(seed, n uint64) *journey {
	dice := rand.New(rand.NewPCG(seed, n+1))
	return &journey{member: memberID(1 + dice.IntN(payingCount)), dice: dice, step: "home", rows: 1 + dice.IntN(3)}
}

func (j *journey) path() string {
	switch j.step {
	case "browse":
		return "/browse/" + url.PathEscape(j.row)
	case "play":
		return "/play/" + url.PathEscape(j.title)
	}
	return "/home"
}

// kind groups steps: finding something to watch, and watching it.
func (j *journey) kind() string {
	if j.step == "play" {
		return "play"
	}
	return "browse"
}

// page is what a member's device needs of any answer.
type page struct {
	Member struct{ ID string }
	Rows   []struct {
		More   string
		Titles []struct{ ID string }
	}
	Row *struct {
		ID     string
		Titles []struct{ ID string }
	}
	Manifest *struct {
		Title   struct{ ID string }
		Licence string
		Streams []struct{ Path string }
	}
	Fallbacks []string
}

// advance checks that the page of the step is complete and decides the next one. It reports in done whether the
// journey has come to its end, and fails with what is missing.
func (j *journey) advance(pg *page) (done bool, err error) {
	if pg.Member.ID != j.member {
		return false, fmt.Errorf("page is for %q", pg.Member.ID)
	}
	switch j.step {
	case "home":
		j.shelves = j.shelves[:0]
		for _, r := range pg.Rows {
			if len(r.Titles) == 0 {
				return false, errors.New("home has an empty row")
			}
			if r.More != "" {
				j.shelves = append(j.shelves, r.More)
			}
		}
		if len(j.shelves) == 0 {
			return false, errors.New("home has no rows")
		}
		j.step, j.row = "browse", j.shelves[j.dice.IntN(len(j.shelves))]
	case "browse":
		if pg.Row == nil || pg.Row.ID != j.row || len(pg.Row.Titles) == 0 {
			return false, errors.New("row is missing or empty")
		}
		if j.rows--; j.rows > 0 {
			j.row = j.shelves[j.dice.IntN(len(j.shelves))]
			break
		}
		j.step, j.title = "play", pg.Row.Titles[j.dice.IntN(len(pg.Row.Titles))].ID
	case "play":
		if m := pg.Manifest; m == nil || m.Title.ID != j.title || m.Licence == "" || len(m.Streams) == 0 {
			return false, errors.New("manifest is missing or incomplete")
		}
		if j.dice.IntN(10) >= 3 {
			return true, nil
		}
		j.step, j.rows = "home", 1+j.dice.IntN(3) // comes back
	}
	return false, nil
}

// Visit is one journey of one member from the home page to the end of a film, without pauses, by which monitoring sees
// what members see. Its requests carry header. It fails with the first step that is not answered within [Deadline] with
// all that its page needs. The same seed and n make the same member with the same plans. edge is as in
// [PopulationConfig].
func Visit(ctx context.Context, client *http.Client, edge string, header http.Header, seed, n uint64) error {
	j := newJourney(seed, n)
	for range maxSteps {
		step, where := j.step, j.path()
		pg, cause := ask(ctx, client, strings.TrimSuffix(edge, "/"), header, j, time.Now().Add(Deadline))
		if cause != "" {
			return fmt.Errorf("%s of %s: %s", where, j.member, cause)
		}
		done, err := j.advance(pg)
		if err != nil {
			return fmt.Errorf("%s of %s: incomplete: %w", where, j.member, err)
		}
		if done || step == "play" {
			return nil
		}
	}
	return nil
}

const maxSteps = 5 // home, at most three rows, a film

// work makes visits: v first, then those that are due, until ctx ends.
func (p *Population) work(ctx context.Context, v visit, due <-chan visit) {
	for {
		p.visit(ctx, v)
		select {
		case <-ctx.Done():
			return
		case v = <-due:
		}
	}
}

// visit takes one step of a journey and counts what came of it.
func (p *Population) visit(ctx context.Context, v visit) {
	j := v.journey
	step, kind := j.step, j.kind()
	pg, cause := ask(ctx, p.client, p.c.Edge, nil, j, v.due.Add(Deadline))
	if ctx.Err() != nil {
		return
	}
	took := time.Since(v.due)
	done := false
	if cause == "" {
		var err error
		if done, err = j.advance(pg); err != nil {
			cause = "incomplete: " + err.Error()
		}
	}
	result := "success"
	switch {
	case took > Deadline, cause == "late":
		result, cause = "late", "late"
	case cause != "":
		result = "failure"
	}
	p.timers[kind][result].Record(took)

	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range []*tally{p.total, p.now} {
		t.add(step, result, cause, took)
		switch {
		case result != "success":
			t.journeys.Abandoned++
		case done:
			t.journeys.Completed++
		}
		if result == "success" {
			t.fallback(pg.Fallbacks)
		}
	}
	if result == "success" && !done {
		j.thinksUntil = time.Now().Add(p.c.Think())
		p.ready = append(p.ready, j)
	}
}

// unsent counts a request that could not even be sent before its deadline.
func (p *Population) unsent(due time.Time) {
	p.timers["browse"]["late"].Record(time.Since(due))
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range []*tally{p.total, p.now} {
		t.unsent++
		t.add("home", "late", "unsent", time.Since(due))
	}
}

// ask sends the request of j's step, with these headers too. It returns its page, or in a few words why there is none.
func ask(ctx context.Context, client *http.Client, edge string, header http.Header, j *journey, deadline time.Time) (*page, string) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, edge+j.path(), nil)
	if err != nil {
		return nil, "bad path"
	}
	for k, v := range header {
		req.Header[k] = v
	}
	req.Header.Set("X-Member", j.member)
	req.Header.Set("X-Device", device(j.member))
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, why(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, why(err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Sprintf("status %d", resp.StatusCode)
	}
	pg := &page{}
	if err := json.Unmarshal(body, pg); err != nil {
		return nil, "incomplete: not JSON"
	}
	return pg, ""
}

// why names the kind of a transport error: few, so that they can be counted.
func why(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "late"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection broken"
	}
	return "connection failed"
}
