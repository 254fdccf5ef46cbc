package balance

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// What is here behaves as Ribbon 2.7 documents and does, for those who come with its properties. A pick looks at every
// endpoint for most rules: it costs some nanoseconds for each, and no allocation.

// ribbonState outlives picks. It is guarded by the balancer's mu, but for the counters.
type ribbonState struct {
	byZone    map[string]*turns
	kept      []*Endpoint // by the subset filter
	keptAt    int64
	weights   []float64 // cumulative
	weighedAt int64
	listed    bool // a list has come since the subset filter ran
}

// turns counts the turns of those who take turns: of all, and of those that passed a filter.
type turns struct{ all, filtered atomic.Uint64 }

// ruled is what a rule chooses from.
type ruled struct {
	rule    Rule
	set     *Settings
	list    []*Endpoint // those UP that the filter lets through
	zones   []ruledZone
	weights []float64 // cumulative, of list; of another length while they are out of date
	next    *turns
}

// ruledZone is a zone's part of the list.
type ruledZone struct {
	name string // lower case; empty for those without
	list []*Endpoint
	next *turns
}

// Blackout is how long an endpoint gets nothing after so many connections failed in a row.
func Blackout(fails int, r *Ribbon) time.Duration {
	if fails < r.FailureThreshold {
		return 0
	}
	return min(time.Duration(1)<<min(fails-r.FailureThreshold, 16)*r.TripFactor, r.TripMax)
}

// rule prepares what the rule chooses from. The caller holds mu.
func (b *Balancer) rule(p *picks, up []candidate, now int64, s *Settings) *ruled {
	st := &b.ribbon
	r := &ruled{rule: s.Rule, set: s, next: &b.next}
	for _, c := range up {
		c.look(now)
		r.list = append(r.list, c.Endpoint)
	}
	r.list = b.affine(r.list, now, s)
	if s.Filter == SubsetFilter {
		if st.listed || now >= st.keptAt+int64(s.RefreshInterval) {
			st.kept, st.keptAt = keepSome(st.kept, r.list, now, s), now
		}
		r.list = slices.DeleteFunc(r.list, func(e *Endpoint) bool { return !slices.Contains(st.kept, e) })
	}
	st.listed = false
	if st.byZone == nil {
		st.byZone = map[string]*turns{}
	}
	for _, ep := range r.list {
		name := strings.ToLower(ep.Zone)
		i := slices.IndexFunc(r.zones, func(z ruledZone) bool { return z.name == name })
		if i < 0 {
			if st.byZone[name] == nil {
				st.byZone[name] = new(turns)
			}
			i = len(r.zones)
			r.zones = append(r.zones, ruledZone{name: name, next: st.byZone[name]})
		}
		r.zones[i].list = append(r.zones[i].list, ep)
	}
	if s.Rule == WeightedResponseTimeRule {
		if st.weighedAt == 0 || now >= st.weighedAt+int64(s.WeightInterval) {
			st.weighedAt = now
			st.weights = weigh(r.list)
		}
		r.weights = st.weights
	}
	return r
}

// look notes whether anything happened at the endpoint since the last look, so that requests which were never ended do
// not count for ever.
func (e *Endpoint) look(now int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := e.active.Load(); a != e.activeSeen || e.total != e.totalSeen || e.stillSince == 0 {
		e.activeSeen, e.totalSeen, e.stillSince = a, e.total, now
	}
}

// inFlight is the requests in flight as rules see them.
func (e *Endpoint) inFlight(now int64, s *Settings) int64 {
	if a := e.active.Load(); a > 0 {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.stillSince != 0 && now-e.stillSince > int64(s.ActiveWindow) && a == e.activeSeen && e.total == e.totalSeen {
			return 0
		}
		return a
	}
	return 0
}

// failing is how many connections failed in the last second.
func (e *Endpoint) failing(now int64) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.rollFails(now)
	return e.failsLast
}

// weigh works out the weights of WeightedResponseTimeRule.
func weigh(list []*Endpoint) []float64 {
	means := make([]float64, len(list))
	for i, ep := range list {
		ep.mu.Lock()
		if ep.timed > 0 {
			means[i] = ep.times / float64(ep.timed) / 1e6
		}
		ep.mu.Unlock()
	}
	return Weigh(means)
}

// Weigh returns WeightedResponseTimeRule's weights for mean response times, in the same order and added up: each
// weighs the sum of all times less its own.
func Weigh(means []float64) []float64 {
	sum := 0.0
	for _, m := range means {
		sum += m
	}
	out := make([]float64, len(means))
	total := 0.0
	for i, m := range means {
		total += sum - m
		out[i] = total
	}
	return out
}

// ZoneLoad is what decides whether a zone is used.
type ZoneLoad struct {
	Endpoints int
	Tripped   int     // of them
	Load      float64 // requests in flight per endpoint that is not tripped; -1 if all are
}

func loadOf(list []*Endpoint, now int64, s *Settings) (z ZoneLoad) {
	var active int64
	for _, ep := range list {
		z.Endpoints++
		if now < ep.tripped.Load() {
			z.Tripped++
		} else {
			active += ep.inFlight(now, s)
		}
	}
	switch {
	case z.Endpoints == 0:
	case z.Tripped == z.Endpoints:
		z.Load = -1
	default:
		z.Load = float64(active) / float64(z.Endpoints-z.Tripped)
	}
	return z
}

// AvoidZones says which zones are not to be used: gone those that must not, worst those one of which must not (the
// caller draws it, with the odds of its endpoints); if worst is empty that is all. Both are sets of indexes, so there
// may be 64 zones. With maxLoad requests in flight per endpoint the worst zone is avoided, with the part maxTripped of
// its endpoints tripped any zone is.
func AvoidZones(zones []ZoneLoad, maxLoad, maxTripped float64) (gone, worst uint64) {
	if len(zones) == 1 {
		return 0, 0
	}
	most := 0.0
	for i, z := range zones {
		switch bit := uint64(1) << i; {
		case z.Endpoints == 0, float64(z.Tripped)/float64(z.Endpoints) >= maxTripped, z.Load < 0:
			gone |= bit
		case math.Abs(z.Load-most) < 1e-6:
			worst |= bit
		case z.Load > most:
			most, worst = z.Load, bit
		}
	}
	if most < maxLoad && gone == 0 {
		worst = 0
	}
	return gone, worst
}

const maxZones = 64

// available returns the set of zones to use, as indexes.
func (r *ruled) available(now int64) uint64 {
	all := uint64(1)<<len(r.zones) - 1
	if len(r.zones) > maxZones {
		return math.MaxUint64
	}
	var loads [maxZones]ZoneLoad
	for i := range r.zones {
		loads[i] = loadOf(r.zones[i].list, now, r.set)
	}
	gone, worst := AvoidZones(loads[:len(r.zones)], r.set.ZoneLoad, r.set.ZoneTripPercent)
	use := all &^ gone
	if worst != 0 {
		use &^= 1 << r.draw(worst)
	}
	return use
}

// draw takes one zone of a set, with odds of the number of its endpoints.
func (r *ruled) draw(set uint64) int {
	total := 0
	for i, z := range r.zones {
		if set>>i&1 != 0 {
			total += len(z.list)
		}
	}
	at := rand.IntN(max(total, 1))
	last := 0
	for i, z := range r.zones {
		if set>>i&1 == 0 {
			continue
		}
		if last = i; at < len(z.list) {
			break
		}
		at -= len(z.list)
	}
	return last
}

// choose picks by the rule, nil if nobody lives.
func (r *ruled) choose(now int64) *Endpoint {
	if r.set.ZoneAware && len(r.zones) > 1 && len(r.zones) <= maxZones {
		all := uint64(1)<<len(r.zones) - 1
		if use := r.available(now); use != 0 && use != all {
			z := &r.zones[r.draw(use)]
			in := ruled{rule: r.rule, set: r.set, list: z.list, zones: r.zones, next: z.next}
			if ep := in.apply(now); ep != nil {
				return ep
			}
		}
	}
	return r.apply(now)
}

func (r *ruled) apply(now int64) *Endpoint {
	switch r.rule {
	case RandomRule:
		return r.nth(rand.Uint64(), lives, now, 0)
	case AvailabilityFilteringRule:
		for range 11 {
			if ep := r.inTurn(); ep != nil && r.open(ep, now, 0) {
				return ep
			}
		}
		turn := r.next.filtered.Add(1)
		if ep := r.nth(turn, (*ruled).open, now, 0); ep != nil {
			return ep
		}
		return r.nth(turn, lives, now, 0)
	case BestAvailableRule:
		var best *Endpoint
		least := int64(math.MaxInt64)
		for _, ep := range r.list {
			if ep.dead.Load() || now < ep.tripped.Load() {
				continue
			}
			if a := ep.inFlight(now, r.set); a < least {
				best, least = ep, a
			}
		}
		if best != nil {
			return best
		}
	case WeightedResponseTimeRule:
		if n := len(r.weights); n > 0 && n == len(r.list) && r.weights[n-1] >= 0.001 {
			for range 10 {
				i, _ := slices.BinarySearch(r.weights, rand.Float64()*r.weights[n-1])
				if ep := r.list[min(i, n-1)]; !ep.dead.Load() {
					return ep
				}
			}
		}
	case ZoneAvoidanceRule:
		turn := r.next.filtered.Add(1)
		if len(r.zones) > 1 && r.set.ZoneAvoidance {
			if ep := r.nth(turn, (*ruled).openInZone, now, r.available(now)); ep != nil {
				return ep
			}
		}
		if ep := r.nth(turn, (*ruled).open, now, 0); ep != nil {
			return ep
		}
		return r.nth(turn, lives, now, 0)
	}
	for range 10 {
		if ep := r.inTurn(); ep != nil && !ep.dead.Load() {
			return ep
		}
	}
	return nil
}

// inTurn is the next one of all, whatever its state.
func (r *ruled) inTurn() *Endpoint {
	if len(r.list) == 0 {
		return nil
	}
	return r.list[(r.next.all.Add(1)-1)%uint64(len(r.list))]
}

// nth returns the nth of those for which ok holds, counted round and round; nil if there is none.
func (r *ruled) nth(n uint64, ok func(*ruled, *Endpoint, int64, uint64) bool, now int64, zones uint64) *Endpoint {
	m := uint64(0)
	for _, ep := range r.list {
		if ok(r, ep, now, zones) {
			m++
		}
	}
	if m == 0 {
		return nil
	}
	n %= m
	var last *Endpoint
	for _, ep := range r.list {
		if !ok(r, ep, now, zones) {
			continue
		}
		if last = ep; n == 0 {
			break
		}
		n--
	}
	return last // also if somebody tripped meanwhile
}

func lives(_ *ruled, ep *Endpoint, _ int64, _ uint64) bool { return !ep.dead.Load() }

// open is Ribbon's AvailabilityPredicate.
func (r *ruled) open(ep *Endpoint, now int64, _ uint64) bool {
	switch {
	case ep.dead.Load(), r.set.FilterTripped && now < ep.tripped.Load():
		return false
	case r.set.ActiveLimit >= 0:
		return ep.inFlight(now, r.set) < int64(r.set.ActiveLimit)
	}
	return true
}

// openInZone also wants the endpoint's zone to be one of the set; who has no zone passes.
func (r *ruled) openInZone(ep *Endpoint, now int64, zones uint64) bool {
	if !r.open(ep, now, 0) {
		return false
	}
	if ep.Zone == "" {
		return true
	}
	for i := range r.zones {
		if strings.EqualFold(r.zones[i].name, ep.Zone) {
			return i >= maxZones || zones>>i&1 != 0
		}
	}
	return true
}

// affine keeps the own zone's endpoints only, if that is asked for and they do well.
func (b *Balancer) affine(list []*Endpoint, now int64, s *Settings) []*Endpoint {
	if b.zone == "" || !s.ZoneAffinity && !s.ZoneExclusive || len(list) == 0 {
		return list
	}
	var own []*Endpoint
	for _, ep := range list {
		if strings.EqualFold(ep.Zone, b.zone) {
			own = append(own, ep)
		}
	}
	if s.ZoneExclusive {
		return own
	}
	z := loadOf(own, now, s)
	if z.Endpoints == 0 || z.Load < 0 || z.Load >= s.AffinityLoad || float64(z.Tripped)/float64(z.Endpoints) >= s.AffinityTripped || z.Endpoints-z.Tripped < s.AffinityMinimum {
		return list
	}
	return own
}

// keepSome is ServerListSubsetFilter: of those kept before it removes who is gone or does badly, at least a few, and
// fills up with others at random.
func keepSome(before, list []*Endpoint, now int64, s *Settings) []*Endpoint {
	var keep, out []*Endpoint
	for _, ep := range before {
		if slices.Contains(list, ep) && ep.inFlight(now, s) <= int64(s.KeepConnections) && ep.failing(now) <= s.KeepFailures {
			keep = append(keep, ep)
		} else {
			out = append(out, ep)
		}
	}
	force := max(0, int(float64(s.KeepSize)*s.KeepEliminate)-len(out))
	if len(before) == 0 {
		force = 0
	}
	if more := len(keep) - s.KeepSize; more > 0 {
		force = more
	}
	if force = min(force, len(keep)); force > 0 {
		slices.SortStableFunc(keep, func(a, b *Endpoint) int { // the worst first
			if c := cmp.Compare(b.failing(now), a.failing(now)); c != 0 {
				return c
			}
			return cmp.Compare(b.inFlight(now, s), a.inFlight(now, s))
		})
		out = append(out, keep[:force]...)
		keep = slices.Clone(keep[force:])
	}
	fill := func(from []*Endpoint) {
		rand.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
		keep = append(keep, from[:min(len(from), max(0, s.KeepSize-len(keep)))]...)
	}
	without := func(no []*Endpoint) (rest []*Endpoint) {
		for _, ep := range list {
			if !slices.Contains(no, ep) && !slices.Contains(keep, ep) {
				rest = append(rest, ep)
			}
		}
		return rest
	}
	fill(without(out))
	fill(without(nil)) // rather somebody who was removed than too few
	return keep
}
