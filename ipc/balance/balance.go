// Package balance chooses which of an app's instances gets the next request. At Netflix this was Ribbon.
//
// It is a pure library: no goroutine, no connection, no clock of its own. A [Balancer] is told the list of instances,
// asked for one, and told how the attempt went; package ipc does so for every call:
//
//	b := balance.New(balance.Config{Zone: "us-east-1a", At: at})
//	b.Update(list, now)
//	ep := b.Pick(now)
//	ep.Begin()
//	...
//	ep.End()
//	if ep.Done(balance.Answered, now, took) {
//		b.Refresh(now)
//	}
//
// Times are nanoseconds on one clock of the caller's, which never goes back.
//
// # What it promises
//   - Of two endpoints drawn at random the cheaper is likely to win: the one with fewer requests in flight, the
//     faster, the healthier, the warmer. Failures that come fast do not make an endpoint cheap.
//   - A pick takes no lock and allocates nothing, however many endpoints there are.
//   - An endpoint that stays in the list keeps its statistics.
//   - If too few endpoints are healthy, health does not count: somebody is chosen as long as anybody may be.
//   - Of the last picks it can tell who the candidates were, what they would have cost, and who was left out and why.
//
// # What it does not
//   - It does not see how callers elsewhere fare: each process judges by its own attempts.
//   - Picks of the last second may not know of it that an endpoint warms up, or has been away for long enough.
package balance

import (
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
)

// Never is a time that does not come.
const Never = int64(math.MaxInt64)

// Config says who chooses. The zero value has no zone and tells nobody of what happens.
type Config struct {
	Zone  string                // the caller's own; its endpoints are preferred
	At    func(time.Time) int64 // converts to the caller's clock; nil: instances are taken to be warm
	Event func(Event)           // is told of changes worth knowing; must not call the balancer; nil: nobody is
}

// Event is a change in what the balancer chooses from.
type Event struct {
	Kind     EventKind
	Endpoint *Endpoint // whose; nil if it concerns all
	Text     string    // a sentence
}

// EventKind is one word for what happened.
type EventKind string

// The kinds of events.
const (
	Ejected  EventKind = "eject" // an endpoint gets nothing for a while, for what it did
	Panicked EventKind = "panic" // too few are healthy, so health does not count
)

// Balancer chooses among the endpoints of one app. Its methods may be called from many goroutines.
type Balancer struct {
	zone  string
	at    func(time.Time) int64
	event func(Event)

	picks atomic.Pointer[picks]
	trace trace

	mu    sync.Mutex           // guards what follows, and writes of picks
	known map[string]*Endpoint // by id and address
	all   []*Endpoint          // the same in the order of their ids
}

// picks is what the balancer chooses from: immutable, replaced as a whole when the list or somebody's fitness changes.
type picks struct {
	all     []*Endpoint // every instance of the list
	fit     []candidate // the eligible ones, or in a panic all that could be
	local   []candidate // those of fit in the own zone; empty without any
	remote  []candidate // the others of fit
	share   float64     // of the traffic that the local ones should take
	median  float64     // round trip of those that know theirs, nanoseconds
	expires int64       // when to look again
	panic   bool        // too few are healthy, so health does not count
}

// candidate is an endpoint with what its cost is to be multiplied by as long as these picks last.
type candidate struct {
	*Endpoint
	factor float64
}

const (
	lookAgain    = int64(time.Second)
	panicPercent = 50
	spill        = 2.0 // a remote endpoint wins if the local one costs more than so many times as much
	defaultRTT   = float64(20 * time.Millisecond)
)

// New makes a balancer that has no endpoints yet.
func New(c Config) *Balancer {
	b := &Balancer{zone: c.Zone, at: c.At, event: c.Event, known: map[string]*Endpoint{}}
	b.picks.Store(&picks{expires: Never, median: defaultRTT})
	return b
}

// Update takes a new list. Endpoints that stay keep their statistics; one that went UP again, or whose instance is a
// new one at an old address, is no longer held dead.
func (b *Balancer) Update(list []roadbed.Instance, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := make(map[string]*Endpoint, len(list))
	for _, i := range list {
		key := i.ID + "\x00" + i.Addr()
		ep := b.known[key]
		if ep == nil {
			ep = &Endpoint{ID: i.ID, Addr: i.Addr(), Zone: i.Location.Zone, Secure: i.Secure, since: noSince}
			ep.last.Store(now)
		}
		since := int64(noSince)
		if !i.Since.IsZero() && b.at != nil {
			since = b.at(i.Since)
		}
		ep.listed(i.Status, since)
		next[key] = ep
	}
	b.known = next
	b.all = make([]*Endpoint, 0, len(next))
	for _, ep := range next {
		b.all = append(b.all, ep)
	}
	slices.SortFunc(b.all, func(a, b *Endpoint) int {
		if c := strings.Compare(a.ID, b.ID); c != 0 {
			return c
		}
		return strings.Compare(a.Addr, b.Addr)
	})
	b.rebuild(now)
}

// Refresh takes what has become of the endpoints into account at once.
func (b *Balancer) Refresh(now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rebuild(now)
}

// Len returns how many endpoints are listed, whatever their state.
func (b *Balancer) Len() int { return len(b.picks.Load().all) }

// Typical returns the round trip of the endpoint in the middle, in nanoseconds.
func (b *Balancer) Typical() int64 { return int64(b.picks.Load().median) }

// rebuild replaces the picks. The caller holds mu.
func (b *Balancer) rebuild(now int64) {
	p := &picks{all: b.all, expires: now + lookAgain}
	var up, live, fit, others []candidate
	var rtts []float64
	b.ejectWorst(now)
	var zones []string
	for _, ep := range b.all {
		s := ep.standing(now)
		p.expires = min(p.expires, s.changes)
		if r := math.Float64frombits(ep.rtt.Load()); r > 0 {
			rtts = append(rtts, r)
		}
		c := candidate{ep, 1 / s.warm}
		if s.status != roadbed.Up {
			if s.status != roadbed.OutOfService {
				others = append(others, c)
			}
			continue
		}
		up = append(up, c)
		if s.live {
			live = append(live, c)
		}
		if s.fit {
			fit = append(fit, c)
			if !slices.Contains(zones, ep.Zone) {
				zones = append(zones, ep.Zone)
			}
		}
	}
	// Who refuses connections serves nobody, so panic does not bring it back while anybody else lives.
	switch {
	case len(fit)*100 >= len(live)*panicPercent && len(fit) > 0:
		p.fit = fit
	case len(live) > 0:
		p.fit, p.panic = live, true
	case len(up) > 0:
		p.fit, p.panic = up, true
	default:
		p.fit, p.panic = others, len(others) > 0
	}
	for _, c := range p.fit {
		if c.Zone == b.zone && c.Zone != "" {
			p.local = append(p.local, c)
		} else {
			p.remote = append(p.remote, c)
		}
	}
	// Callers are taken to be spread evenly over the zones, so each zone's endpoints should take 1/zones of all.
	if n := len(zones); n > 0 && len(p.local) > 0 {
		p.share = min(1, float64(len(p.local))*float64(n)/float64(len(p.fit)))
	}
	p.median = defaultRTT
	if len(rtts) > 0 {
		slices.Sort(rtts)
		p.median = rtts[len(rtts)/2]
	}
	if was := b.picks.Load(); p.panic && !was.panic {
		b.tell(Event{Kind: Panicked, Text: "too few instances are healthy, so all are tried: " +
			count(len(fit), "is fit", "are fit") + " of " + count(len(up), "that is UP", "that are UP")})
	}
	b.picks.Store(p)
}

func (b *Balancer) tell(e Event) {
	if b.event != nil {
		b.event(e)
	}
}
