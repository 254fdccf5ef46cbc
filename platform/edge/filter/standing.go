package filter

import "time"

// Standing is how one filter of a chain does.
type Standing struct {
	Name     string        `json:"name"`
	Kind     string        `json:"kind" doc:"INBOUND, ENDPOINT or OUTBOUND"`
	Order    int           `json:"order"`
	Disabled bool          `json:"disabled" doc:"left out by its property zuul.NAME.KIND.disable"`
	Guard    bool          `json:"guard" doc:"its failure fails the request"`
	Running  int64         `json:"running" doc:"requests in it now; 0 if it has no limit"`
	Limit    int           `json:"limit" doc:"of requests in it at once; 0 is any number"`
	Runs     int64         `json:"runs" doc:"since the edge began, counted at one request in 64"`
	Skipped  int64         `json:"skipped" doc:"as runs"`
	Failed   int64         `json:"failed" doc:"since the edge began"`
	Mean     time.Duration `json:"mean" doc:"of a run, in nanoseconds"`
}

// Standings returns how the filters of the chain do, in the order they run in, its endpoints between inbound and outbound
// ones. Those of routes are not among them.
func (c *Chain) Standings() []Standing {
	var list []Standing
	for _, fs := range [][]*Filter{c.early, c.late, {c.proxy, c.noRoute, c.error}, c.after} {
		for _, f := range fs {
			if f != nil {
				list = append(list, c.standing(f))
			}
		}
	}
	return list
}

func (c *Chain) standing(f *Filter) Standing {
	b := c.of(f)
	r := run{c: c, paused: !c.protect.Get()}
	s := Standing{
		Name: f.Name, Kind: f.Kind.String(), Order: f.Order, Disabled: b.disabled.Get(), Guard: f.Guard, Running: b.running.Load(), Limit: r.limit(f, b),
		Runs: b.counts[success].Count(), Skipped: b.counts[skipped].Count(), Failed: b.counts[failed].Count(),
	}
	if n := b.took.Count(); n > 0 {
		s.Mean = b.took.Total() / time.Duration(n)
	}
	return s
}
