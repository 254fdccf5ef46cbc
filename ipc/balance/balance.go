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
//	ep.Done(balance.Answered, now, took)
//
// Times are nanoseconds on one clock of the caller's, which never goes back.
//
// # What it promises
//   - Of two endpoints drawn at random the cheaper is likely to win: the one with fewer requests in flight, the
//     faster, the healthier, the warmer. Failures that come fast do not make an endpoint cheap.
//   - A pick takes no lock and allocates nothing, however many endpoints there are; with most of Ribbon's rules it looks
//     at each of them, under its lock, and still allocates nothing.
//   - An endpoint that stays in the list keeps its statistics.
//   - If too few endpoints are healthy, health does not count: somebody is chosen as long as anybody may be.
//   - Of the last picks it can tell who the candidates were, what they would have cost, and who was left out and why.
//
// # What it does not
//   - Ribbon's rules behave as Ribbon's, its faults included: they know of connections that failed, not of answers.
//   - It does not see how callers elsewhere fare: each process judges by its own attempts.
//   - Picks of the last second may not know of it that an endpoint warms up, or has been away for long enough.
package balance

import (
	"math"
	"slices"
	"strconv"
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
	Zone     string                // the caller's own; its endpoints are preferred
	At       func(time.Time) int64 // converts to the caller's clock; nil: instances are taken to be warm
	Event    func(Event)           // is told of changes worth knowing; must not call the balancer; nil: nobody is
	Settings *Settings             // nil: Defaults
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
	zone      string
	at        func(time.Time) int64
	event     func(Event)
	settings  atomic.Pointer[Settings]
	knowsTime atomic.Bool // somebody has answered once
	next      turns
	picks     atomic.Pointer[picks]
	trace     trace
	strangers atomic.Pointer[map[string]*Endpoint] // by address, that are in no list; copied on write

	mu       sync.Mutex           // guards what follows, and writes of picks
	known    map[string]*Endpoint // by id and address
	all      []*Endpoint          // the same in the order of their ids
	nextLook int64                // when to look for outliers
	weighted bool                 // not all weigh the same
	ordinal  int                  // which of so many callers of its kind this one is
	callers  int                  // 0 = unknown
	ribbon   ribbonState
}

// picks is what the balancer chooses from: immutable, replaced as a whole when the list or somebody's fitness changes.
type picks struct {
	all     []*Endpoint // every instance of the list
	fit     []candidate // the eligible ones, or in a panic all that could be
	local   []candidate // those of fit in the own zone; empty without any, or when zones do not matter
	remote  []candidate // the others of fit
	share   float64     // of the traffic that the local ones should take
	away    []away      // the zones that take the rest, with spare capacity; none: all of remote
	median  float64     // round trip of those that know theirs, nanoseconds
	expires int64       // when to look again
	panic   bool        // too few are healthy, so health does not count
	rules   *ruled      // a rule of Ribbon's chooses; nil: p2c
}

// candidate is an endpoint with what its cost is to be multiplied by as long as these picks last.
type candidate struct {
	*Endpoint
	factor float64
}

// away is another zone.
type away struct {
	list []candidate
	upTo float64 // of the traffic that leaves the own zone, what this zone and those before it take
}

const (
	lookAgain  = int64(time.Second)
	spill      = 2.0 // a remote endpoint wins if the local one costs more than so many times as much
	defaultRTT = float64(20 * time.Millisecond)
	maxLoad    = 1000
	minWeight  = 0.01
	maxWeight  = 100
)

// New makes a balancer that has no endpoints yet.
func New(c Config) *Balancer {
	b := &Balancer{zone: c.Zone, at: c.At, event: c.Event, known: map[string]*Endpoint{}}
	if c.Settings == nil {
		d := Defaults()
		c.Settings = &d
	}
	b.settings.Store(c.Settings)
	b.picks.Store(&picks{expires: Never, median: defaultRTT})
	return b
}

// Configure replaces the settings, which [Resolve] or [Defaults] made.
func (b *Balancer) Configure(s Settings, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settings.Store(&s)
	if len(b.all) > 0 {
		b.rebuild(now)
	}
}

// Patience is how long to go on asking when there is nobody: RetryRule's time, otherwise none.
func (b *Balancer) Patience() time.Duration {
	if s := b.settings.Load(); s.Rule == RetryRule {
		return s.RetryRuleTime
	}
	return 0
}

// Settings returns what is in force.
func (b *Balancer) Settings() Settings { return *b.settings.Load() }

// SetCallers tells which of how many callers of its kind this one is, counted from 0, so that [Settings.SubsetSize]
// lets each use other endpoints. Without it there are no subsets.
func (b *Balancer) SetCallers(ordinal, callers int, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if ordinal < 0 || ordinal >= callers {
		ordinal, callers = 0, 0
	}
	b.ordinal, b.callers = ordinal, callers
	if len(b.all) > 0 {
		b.rebuild(now)
	}
}

// Update takes a new list. Endpoints that stay keep their statistics; one that went UP again, or whose instance is a
// new one at an old address, is no longer held dead.
func (b *Balancer) Update(list []roadbed.Instance, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := make(map[string]*Endpoint, len(list))
	b.weighted = false
	for _, i := range list {
		h2c := i.Metadata["protocol"] == "h2c"
		key := i.ID + "\x00" + i.Addr()
		if h2c {
			key += "\x00h2c"
		}
		ep := b.known[key]
		if ep == nil {
			ep = &Endpoint{lb: b, ID: i.ID, Addr: i.Addr(), Zone: i.Location.Zone, Group: i.Group, Secure: i.Secure, HTTP2: h2c, hash: hashOf(i.ID), since: noSince}
			ep.last.Store(now)
		}
		since := int64(noSince)
		if !i.Since.IsZero() && b.at != nil {
			since = b.at(i.Since)
		}
		ep.weight = weightOf(i.Metadata["weight"])
		b.weighted = b.weighted || ep.weight != 1
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
	b.ribbon.listed = true
	b.rebuild(now)
}

// weightOf reads an instance's weight: how much more than others it should get. What makes no sense is 1.
func weightOf(text string) float64 {
	w, err := strconv.ParseFloat(text, 64)
	if err != nil || !(w >= minWeight && w <= maxWeight) {
		return 1
	}
	return w
}

// byWeight repeats endpoints by their weights: one that is drawn as often as others gets at most twice what they get.
func byWeight(list []candidate) (out []candidate) {
	least := math.Inf(1)
	for _, c := range list {
		least = min(least, c.weight)
	}
	for _, c := range list {
		for range min(int(math.Round(c.weight/least)), maxWeight) {
			out = append(out, c)
		}
	}
	return out
}

// SetAlive takes the outcome of pings: who is not in alive is dead.
func (b *Balancer) SetAlive(alive func(*Endpoint) bool, now int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, ep := range b.all {
		ep.dead.Store(!alive(ep))
	}
	b.rebuild(now)
}

// Endpoints returns everybody who is listed, in the order of their ids.
func (b *Balancer) Endpoints() []*Endpoint { return slices.Clone(b.picks.Load().all) }

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
	set := b.settings.Load()
	p := &picks{all: b.all, expires: now + lookAgain}
	var up, live, fit, others []candidate
	var rtts []float64
	b.ejectDue(now, set)
	inUse, shares := b.subset(set)
	for i, ep := range inUse {
		s := ep.standing(now, set.WarmUp)
		p.expires = min(p.expires, s.changes)
		if r := math.Float64frombits(ep.rtt.Load()); r > 0 {
			rtts = append(rtts, r)
		}
		c := candidate{ep, 1 / (s.warm * ep.weight)}
		if shares != nil {
			c.factor /= shares[i]
		}
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
		}
	}
	// Who refuses connections serves nobody, so panic does not bring it back while anybody else lives.
	switch {
	case len(fit) > 0 && len(fit)*100 >= len(up)*set.PanicPercent:
		p.fit = fit
	case len(live) > 0:
		p.fit, p.panic = live, true
	case len(up) > 0:
		p.fit, p.panic = up, true
	default:
		p.fit, p.panic = others, len(others) > 0
	}
	if set.ZoneRouting && len(p.fit) >= set.ZoneMinimumEndpoints {
		b.routeZones(p)
	}
	if b.weighted {
		p.fit, p.local, p.remote = byWeight(p.fit), byWeight(p.local), byWeight(p.remote)
		for i := range p.away {
			p.away[i].list = byWeight(p.away[i].list)
		}
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
	if set.Rule != P2C {
		p.rules = b.rule(p, up, now, set)
	}
	b.picks.Store(p)
}

func (b *Balancer) tell(e Event) {
	if b.event != nil {
		b.event(e)
	}
}

// Missing says why there is nobody to choose, and what to do; "" if there is somebody.
func (b *Balancer) Missing(now int64) string {
	p := b.current(now)
	by := map[roadbed.Status]int{}
	for _, ep := range p.all {
		ep.mu.Lock()
		by[ep.status]++
		ep.mu.Unlock()
	}
	switch {
	case len(p.all) == 0:
		return "the list of instances is empty; see whether it has registered under this name"
	case p.rules != nil && len(p.rules.list) == 0 && by[roadbed.Up] > 0:
		return "its instances are all in other zones, and EnableZoneExclusivity forbids to use them; set it to false or start one in zone " + b.zone
	case p.rules == nil && len(p.fit) > 0 || p.rules != nil && by[roadbed.Up] > 0:
		return ""
	case by[roadbed.OutOfService] == len(p.all):
		return count(len(p.all), "instance is listed, and it is OUT_OF_SERVICE", "instances are listed, all of them OUT_OF_SERVICE") + "; put one back in service"
	}
	return "none of its instances (" + strconv.Itoa(len(p.all)) + " listed) is UP; see why in the registry"
}
