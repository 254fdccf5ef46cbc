package registry

import (
	"context"
	"fmt"
	"time"
)

// Mode is what a registry does about instances that are silent.
type Mode string

// In the ordinary course of things few instances are silent together. When many are, they may be dead, or it may be
// this registry that nobody reaches; what it does then depends on what its peers have heard.
const (
	Normal     Mode = "normal"     // a lease that runs out ends
	Asking     Mode = "asking"     // many are late: peers are asked, and nobody is evicted meanwhile
	Thinning   Mode = "thinning"   // many are gone: they are evicted in slices
	Preserving Mode = "preserving" // many are silent but may be alive: nobody is evicted
	Off        Mode = "off"        // every lease that runs out ends at once, because it was configured so
)

// Silence is what a registry does about silent instances, and why.
type Silence struct {
	Mode       Mode      `json:"mode" enum:"normal,asking,thinning,preserving,off" doc:"what becomes of instances that are silent"`
	Reason     string    `json:"reason" doc:"why, in a sentence"`
	Since      time.Time `json:"since" doc:"when it took this mode"`
	Degraded   bool      `json:"degraded" doc:"instances that do not reach this registry reach a peer of it"`
	Registered int       `json:"registered" doc:"instances"`
	Late       int       `json:"late" doc:"instances of which renewals are missing"`
	Silent     int       `json:"silent" doc:"instances whose leases ran out and that are still registered"`
	Expected   float64   `json:"expected" doc:"renewals a minute that the instances promised"`
	Observed   float64   `json:"observed" doc:"renewals of the last minute"`
	Threshold  int       `json:"threshold,omitempty" doc:"renewals a minute under which Eureka's rule evicts nobody; only where it is that rule"`
}

// testimony is what one peer says about instances that are silent here.
type testimony struct {
	peer      string // its URL or name
	reachable bool   // whether it answered; the rest counts only then
	// ages tells how long ago each instance itself renewed at that peer. An instance is not in it if it never did, if
	// the peer knows its renewals only from others, or does not know it. Of a Eureka server, which does not tell these
	// apart, it is the age of the last renewal.
	ages map[key]time.Duration
}

// witnesses asks every configured peer about silent instances, at most askAbout of them, all peers at the same time.
// It returns one testimony for each, also for those that do not answer before ctx ends, and none if no peer is
// configured.
type witnesses func(ctx context.Context, silent []key) []testimony

const (
	askAbout  = 500             // instances at most, drawn at random
	askWithin = 5 * time.Second // what did not answer by then is not reachable
	askEvery  = 30 * time.Second

	// Self-preservation: in a slice of time at most a share of the instances is evicted, or two if that is more. A
	// slice is half a minute less one look, so that the third begins within a minute of the first.
	sliceTime  = 30*time.Second - tick
	sliceLeast = 2

	vouchedShare = 0.05 // of the silent that a peer must have heard for it to be this registry that is cut off
)

// guard decides how many of the silent may be evicted. Times are nanoseconds since the state's epoch.
type guard struct {
	share   float64       // of the instances that may be silent together in the ordinary course of things
	maxHold time.Duration // that instances are preserved because peers cannot be asked; 0 is for ever

	mode     Mode
	reason   string
	since    int64
	degraded bool

	waiting bool  // for an answer of the peers
	asked   int64 // when they were asked last
	holding bool  // instances are preserved because peers cannot be asked,
	held    int64 // since then
	base    int   // instances registered when many began to be late

	spent [sliceTime / tick]spending // what was evicted lately, by second
}

type spending struct {
	second int64
	n      int
}

func (g *guard) turn(now int64, m Mode, format string, args ...any) {
	if m != g.mode {
		g.since = now
	}
	g.mode, g.reason = m, fmt.Sprintf(format, args...)
}

// most is how many of n instances may be silent together.
func (g *guard) most(n int) int { return max(sliceLeast, int(g.share*float64(n))) }

// see takes note of how many are late, of how many registered. ask says that the peers are to be asked now.
func (g *guard) see(now int64, late, registered int) (ask bool) {
	if late <= g.most(registered) {
		if g.mode != Normal {
			g.turn(now, Normal, "%d of %d instances are late, which is no more than usual", late, registered)
		}
		g.waiting, g.holding, g.degraded = false, false, false
		return false
	}
	if g.mode == Normal {
		g.base = registered
		g.turn(now, Asking, "%d of %d instances are late; asking the peers whether they are alive", late, registered)
		g.waiting, g.asked = true, now
		return true
	}
	if g.holding && g.maxHold > 0 && now-g.held >= int64(g.maxHold) && g.mode == Preserving {
		g.turn(now, Thinning, "%d of %d instances are late and the peers could not be asked for %v; evicting them slowly", late, registered, g.maxHold)
	}
	if g.waiting || now-g.asked < int64(askEvery) {
		return false
	}
	g.waiting, g.asked = true, now
	return true
}

// hear takes note of what the peers said about asked instances. fresh says whether an age is one of an instance that
// is alive.
func (g *guard) hear(now int64, asked int, said []testimony, fresh func(key, time.Duration) bool) {
	if !g.waiting {
		return // it has passed meanwhile
	}
	g.waiting = false
	reachable, most, who := 0, 0, ""
	for _, t := range said {
		if !t.reachable {
			continue
		}
		reachable++
		n := 0
		for k, age := range t.ages {
			if fresh(k, age) {
				n++
			}
		}
		if n > most {
			most, who = n, t.peer
		}
	}
	g.degraded = false
	if most > 0 && float64(most) >= vouchedShare*float64(asked) {
		g.holding, g.degraded = false, true
		g.turn(now, Preserving, "%s hears %d of %d instances that are silent here, so it is this registry that they do not reach", who, most, asked)
		return
	}
	switch {
	case len(said) == 0:
		g.holding = false
		g.turn(now, Thinning, "many instances are silent and there is no peer that could have heard them; evicting them slowly")
	case 2*reachable > len(said):
		g.holding = false
		g.turn(now, Thinning, "%d of %d peers answer and hear them no more than we do; evicting them slowly", reachable, len(said))
	case !g.holding:
		g.holding, g.held = true, now
		fallthrough
	case g.mode != Thinning: // it was held long enough otherwise
		g.turn(now, Preserving, "%d of %d peers answer, too few to tell whether the silent are alive", reachable, len(said))
	}
}

// allowed is how many of the silent may be evicted now.
func (g *guard) allowed(now int64, registered int) int {
	if g.mode == Off {
		return registered
	}
	if g.mode != Normal && g.mode != Thinning {
		return 0
	}
	lately := 0
	for _, s := range g.spent {
		if now/int64(tick)-s.second < int64(len(g.spent)) {
			lately += s.n
		}
	}
	there := registered + lately // when the slice began
	if g.mode == Thinning {
		there = g.base
	}
	return max(g.most(there)-lately, 0)
}

// spend takes note that n were evicted.
func (g *guard) spend(now int64, n int) {
	second := now / int64(tick)
	s := &g.spent[second%int64(len(g.spent))]
	if s.second != second {
		*s = spending{second: second}
	}
	s.n += n
}

// eurekaGuard decides as Eureka servers do: nobody is evicted while fewer renewals arrive than a share of what is
// expected. Its rule is kept for those who compare.
type eurekaGuard struct {
	share    float64       // renewalPercentThreshold
	interval time.Duration // expectedClientRenewalIntervalSeconds
	update   time.Duration // renewalThresholdUpdateIntervalMs

	expected  int // clients
	threshold int // renewals a minute
	joined    uint64
	left      uint64

	minute   int64  // when the current minute began
	updated  int64  // when expected was last taken from the count
	counted  uint64 // renewals up to then
	lastMin  int    // renewals of the last whole minute
	evicting bool
}

// begin is called once, when the registry opens with n instances. Like Spring's servers it counts on one at least.
func (g *eurekaGuard) begin(now int64, n int, joined, left, renewals uint64) {
	g.expected, g.joined, g.left = max(1, n), joined, left
	g.minute, g.updated, g.counted = now, now, renewals
	g.limit()
}

func (g *eurekaGuard) limit() {
	g.threshold = int(float64(g.expected) * (60 / g.interval.Seconds()) * g.share)
}

// see takes note of what happened until now: how many came and went, how many renewals there were, ever, and how many
// are registered. Whoever is evicted is no longer expected, as in Eureka since its version 1.9.
func (g *eurekaGuard) see(now int64, joined, left, renewals uint64, registered int) {
	for ; g.joined < joined && g.expected > 0; g.joined++ {
		g.expected++
	}
	for ; g.left < left && g.expected > 0; g.left++ {
		g.expected--
	}
	g.joined, g.left = joined, left
	if now-g.minute >= int64(time.Minute) {
		g.lastMin, g.counted = int(renewals-g.counted), renewals
		g.minute += (now - g.minute) / int64(time.Minute) * int64(time.Minute)
	}
	if now-g.updated >= int64(g.update) {
		g.updated = now
		if float64(registered) > g.share*float64(g.expected) {
			g.expected = registered
		}
	}
	g.limit()
	g.evicting = g.threshold > 0 && g.lastMin > g.threshold
}

// allowed is how many of n instances may be evicted in one go.
func (g *eurekaGuard) allowed(n int) int {
	if !g.evicting {
		return 0
	}
	return n - int(float64(n)*g.share)
}
