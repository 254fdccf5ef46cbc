package balance

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
)

// trace keeps the last picks. One pick in 10 ms is recorded; once somebody has asked, every one for a minute.
type trace struct {
	due   atomic.Int64 // the next pick at or after is recorded
	mu    sync.Mutex   // guards what follows
	full  int64        // until when every pick is recorded
	ring  [traced]Choice
	count int // ever
}

const (
	traced     = 100
	traceEvery = int64(10 * time.Millisecond)
	traceFull  = int64(time.Minute)
)

// Choice is one pick: the two candidates with what they would have cost.
type Choice struct {
	At     int64     // on the caller's clock
	Winner Candidate // got the request
	Loser  Candidate // did not; its Addr is empty if there was only one
	Why    string    // a clause
}

// Candidate is an endpoint that was compared.
type Candidate struct {
	ID   string `json:"id"`
	Addr string `json:"addr"`
	Zone string `json:"zone"`
	Inputs
}

// Inputs are what an endpoint's cost is made of.
type Inputs struct {
	Active int64   `json:"active"`
	RTT    float64 `json:"rttSeconds"` // decayed; the cluster's median if unknown
	Load   float64 `json:"load"`       // it reported, of what it wants; 1 if nothing
	Error  float64 `json:"errorRate"`  // decayed
	Warm   float64 `json:"warm"`       // 0.1 cold to 1 warm, times its weight and how much of it this caller uses
	Proven bool    `json:"proven"`
	Cost   float64 `json:"cost"` // in seconds of expected wait, made worse
}

// Choices returns the last picks, newest first: a hundred at most, and not every one unless somebody asked within
// the last minute.
func (b *Balancer) Choices(now int64) []Choice {
	t := &b.trace
	t.mu.Lock()
	defer t.mu.Unlock()
	t.full = now + traceFull
	t.due.Store(0)
	out := make([]Choice, 0, min(t.count, traced))
	for i := range cap(out) {
		out = append(out, t.ring[(t.count-1-i)%traced])
	}
	return out
}

// traced picks and records how.
func (b *Balancer) traced(p *picks, now int64) *Endpoint {
	c := Choice{At: now}
	ep := b.choose(p, now, &c)
	if ep == nil {
		return nil
	}
	t := &b.trace
	if t.mu.TryLock() {
		t.ring[t.count%traced] = c
		t.count++
		if now >= t.full {
			t.due.Store(now + traceEvery)
		}
		t.mu.Unlock()
	}
	return ep
}

// compared notes one comparison; the last one of a pick stays.
func (c *Choice) compared(won, lost *candidate, now int64, median float64, why string) {
	c.Winner, c.Loser, c.Why = won.describe(now, median), Candidate{}, why
	if lost != nil {
		c.Loser = lost.describe(now, median)
	}
}

func (c *candidate) describe(now int64, median float64) Candidate {
	return Candidate{c.ID, c.Addr, c.Zone, c.inputs(now, median)}
}

// inputs explains cost.
func (c *candidate) inputs(now int64, median float64) Inputs {
	left := decay(now - c.last.Load())
	cost, _, _ := c.cost(now, median)
	return Inputs{
		Active: c.active.Load(), RTT: c.rttNow(left, median) / 1e9, Load: c.loadNow(now), Error: c.errorNow(left), Warm: 1 / c.factor,
		Proven: c.proven.Load(), Cost: cost / 1e9,
	}
}

// State is what a balancer knows.
type State struct {
	Rule       Rule
	Panic      bool    // too few instances are healthy, so all are tried
	LocalShare float64 // of the traffic that the own zone should take
	Endpoints  []EndpointState
}

// EndpointState is one instance and what its choice depends on.
type EndpointState struct {
	ID, Addr, Zone string
	Status         roadbed.Status
	Eligible       bool
	Why            string // it is not eligible; empty if it is
	Ejected        int64  // until when, after failures in a row; 0 = it is not
	Refused        int64  // until when, after a refused connection; 0 = it is not
	Requests       uint64 // attempts ever
	Failures       uint64
	Inputs
}

// State returns what the balancer knows now, by the ids of the endpoints.
func (b *Balancer) State(now int64) State {
	p := b.current(now)
	set := b.settings.Load()
	out := State{Rule: set.Rule, Panic: p.panic, LocalShare: p.share, Endpoints: make([]EndpointState, 0, len(p.all))}
	eligible := map[*Endpoint]bool{}
	factors := map[*Endpoint]float64{}
	for _, c := range p.fit {
		eligible[c.Endpoint], factors[c.Endpoint] = true, c.factor
	}
	if p.rules != nil {
		clear(eligible)
		for _, ep := range p.rules.list {
			eligible[ep] = p.rules.open(ep, now, 0)
		}
	}
	for _, ep := range p.all {
		s := ep.standing(now, set.WarmUp)
		c := candidate{ep, 1 / s.warm}
		if f := factors[ep]; f != 0 {
			c.factor = f
		}
		e := EndpointState{ID: ep.ID, Addr: ep.Addr, Zone: ep.Zone, Status: s.status, Eligible: eligible[ep], Inputs: c.inputs(now, p.median)}
		ep.mu.Lock()
		e.Requests, e.Failures = ep.total, ep.failed
		if now < ep.ejected {
			e.Ejected = ep.ejected
		}
		if r := ep.refused.Load(); now < r {
			e.Refused = r
		}
		ep.mu.Unlock()
		switch {
		case e.Eligible:
		case s.status != roadbed.Up:
			e.Why = "its status is " + string(s.status)
		case e.Refused != 0:
			e.Why = "it refused connections lately"
		case e.Ejected != 0:
			e.Why = "it is ejected for what it did"
		case ep.dead.Load():
			e.Why = "it does not answer pings"
		case now < ep.tripped.Load():
			e.Why = "too many connections to it failed in a row"
		case p.rules != nil && !slices.Contains(p.rules.list, ep):
			e.Why = "the filter leaves it out"
		case set.SubsetSize > 0 && p.rules == nil:
			e.Why = "it is not in the subset that this caller uses"
		default:
			e.Why = "it changed since the last look, at most a second ago"
		}
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}
