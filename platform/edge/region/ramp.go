package region

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// ramp is how far a document's change is at this edge. Only who holds [Regions.mu] uses it.
type ramp struct {
	lag    time.Duration // for how long it has stood still
	last   time.Time     // when it was looked at
	why    string        // it stands still; empty: it does not
	since  time.Time     // when it began to stand still
	failed time.Time     // when a target was last out of bounds
}

// holdFor is how long targets must do well until a ramp that stands still goes on.
const holdFor = 10 * time.Second

// move works out the share of users that are elsewhere.
func (g *region) move(now time.Time) {
	share := g.doc.share(now, g.ramp.lag)
	g.share.Store(uint64(math.Round(share / whole * buckets)))
	g.ramp.last = now
}

// rising reports whether the ramp takes users away, and is not at its end.
func (g *region) rising(now time.Time) bool {
	d := g.doc
	return d.State != Evacuated && d.goal() > d.From && d.share(now, g.ramp.lag) < d.goal()
}

// step moves all ramps, but for those whose targets fail.
func (r *Regions) step(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.now.Load()
	if p == nil {
		return
	}
	for _, g := range p.regions {
		m := &g.ramp
		if bad := r.failing(g); bad != "" && g.rising(now) {
			if m.failed = now; m.why == "" {
				m.since = now
				r.log.Warn("users stay where they are, for where they go fails", "region", g.name, "why", bad)
			}
			m.why = bad
		} else if m.why != "" && (now.Sub(m.failed) >= holdFor || !g.rising(now)) {
			m.why = ""
			r.log.Warn("users move on", "region", g.name, "after", now.Sub(m.since).Round(time.Second))
		}
		if m.why != "" {
			m.lag += max(0, now.Sub(m.last))
		}
		g.move(now)
	}
}

// failing says which targets of g fail more than they may; empty if none does.
func (r *Regions) failing(g *region) string {
	set := r.set.Get()
	if !set.Gate || len(g.to) == 0 {
		return ""
	}
	own := 0.0
	if all, bad := r.here.last(); all >= set.Requests {
		own = float64(bad) / float64(all)
	}
	var out []string
	for i := range g.to {
		t := g.to[i].tunnel
		if t == nil {
			continue
		}
		all, bad := t.tally.last()
		if share := float64(bad) / float64(max(1, all)); all >= set.Requests && share > own+set.Errors {
			out = append(out, fmt.Sprintf("%s fails: %.1f %% of %d requests in 10 s, and %.1f %% of those served here; %.1f points more are allowed", t.region, 100*share, all, 100*own, 100*set.Errors))
		}
	}
	return strings.Join(out, "; ")
}
