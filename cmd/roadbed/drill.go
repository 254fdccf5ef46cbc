package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/examples/drill"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/roadbed/roadbed/platform/properties"
	"github.com/spf13/cobra"
)

// drills are the demo's lessons. Each puts services on the platform, loads them through the edge, breaks something, prints
// what happens by the second, takes everything away again and says whether what docs/calls.md promises was kept.
func (c *cli) drills() []*cobra.Command {
	return []*cobra.Command{
		c.drill("storm", "Let the last of a chain of services die, and see how many retries reach it",
			"edge -> drillhop1 -> drillhop2 -> drillleaf, two instances each, three tries at each hop. Without a budget a dead leaf\nwould get 27 requests for each one offered, at the moment when it can bear them least.", (*exercise).storm),
		c.drill("overload", "Ask a service for five times what it can bear, and see who is served",
			"Two instances of drilltill serve eight requests at once, each for 50 ms. Requests are CRITICAL, DEGRADED, BEST_EFFORT\nand BULK by the edge's properties edge.priority.*.", (*exercise).overload),
		c.drill("slow", "Make one instance of ten slow, and see who notices",
			"Ten instances of drilltile take 10 ms; then one takes 500 ms, and is well for every health check.", (*exercise).slow),
	}
}

func (c *cli) drill(name, short, long string, run func(*exercise) error) *cobra.Command {
	var last time.Duration
	cmd := &cobra.Command{
		Use: name, Short: short, Long: short + ".\n\n" + long + "\n\nIt takes half a minute, and ends with status 1 if what docs/calls.md promises was not kept.", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if last < 4*time.Second || last > 5*time.Minute || last%time.Second != 0 {
				return usageError{fmt.Errorf("--for %s: use whole seconds from 4s to 5m", last)}
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			s := &exercise{ctx: cmd.Context(), client: client, out: cmd.OutOrStdout(), mends: breaks + int(last/time.Second)}
			var health struct {
				Edge string `json:"edge"`
			}
			if err := client.Do(s.ctx, http.MethodGet, "/api/v1/health", nil, &health); err != nil {
				return err
			}
			s.edge = health.Edge
			if err := s.sweep(); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.clear()) }()
			return run(s)
		},
	}
	cmd.Flags().DurationVar(&last, "for", 10*time.Second, "how long it is broken, in whole seconds")
	return cmd
}

// exercise is what a drill has put on the platform.
type exercise struct {
	ctx    context.Context
	client *api.Client
	out    io.Writer
	edge   string   // URL
	groups []string // to destroy at the end
	set    []string // ids of properties, to delete at the end
	broken int      // promises that were not kept
	mends  int      // the second from which on all is well again
}

// put starts instances of a service, in place of those that an earlier drill may have left, and waits until the edge reaches them.
func (s *exercise) put(name string, instances int) error {
	spec := fleet.Spec{
		Name: name, Command: []string{"{self}", "demo", "serve", name}, Instances: instances, Criticality: roadbed.Critical,
		Register: fleet.RegisterSelf, Reason: "a drill of the demo", Replace: true,
	}
	var group fleet.GroupView
	if err := s.client.Do(s.ctx, http.MethodPost, "/api/v1/server-groups", spec, &group); err != nil {
		return err
	}
	s.groups = append(s.groups, group.Name)
	return awaitGroup(s.ctx, io.Discard, s.client, group.Name, 30*time.Second)
}

// reached waits until the edge has answered at a path with 200 for a second without a break, as it does not while a breaker is open
// since an earlier drill.
func (s *exercise) reached(path string) error {
	ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
	defer cancel()
	for good := 0; ; {
		_, err := fetchText(ctx, s.edge+path)
		if good++; err != nil {
			good = 0
		}
		if good == 20 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the edge does not reach what the drill has started: %w", cmp.Or(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// sweep deletes what a drill that was killed has left broken. Its server groups are replaced by [exercise.put].
func (s *exercise) sweep() error {
	left, err := listProperties(s.ctx, s.client, url.Values{"prefix": {"drill."}})
	for _, p := range left {
		err = errors.Join(err, gone(s.client.Do(s.ctx, http.MethodDelete, "/config/v1/properties/"+p.ID, nil, nil)))
	}
	return err
}

// change sets a property until the drill ends.
func (s *exercise) change(key, value, kind string, scope config.Scope) error {
	if id := properties.ID(key, scope); !slices.Contains(s.set, id) {
		s.set = append(s.set, id)
	}
	return setProperty(s.ctx, s.client, properties.Property{Key: key, Value: value, Type: kind, Scope: scope, Description: "of a drill of the demo"})
}

// clear takes everything from the platform, also after an interrupt.
func (s *exercise) clear() (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 20*time.Second)
	defer cancel()
	for _, id := range s.set {
		err = errors.Join(err, gone(s.client.Do(ctx, http.MethodDelete, "/config/v1/properties/"+id, nil, nil)))
	}
	for _, g := range s.groups {
		err = errors.Join(err, gone(s.client.Do(ctx, http.MethodDelete, "/api/v1/server-groups/"+g, nil, nil)))
	}
	s.set, s.groups = nil, nil
	return err
}

// gone is err unless that says there is nothing to take away.
func gone(err error) error {
	if p := (*api.Error)(nil); errors.As(err, &p) && p.Status == http.StatusNotFound {
		return nil
	}
	return err
}

// arrived asks all instances of a service how many requests have reached each, by instance.
func (s *exercise) arrived(app string) (map[string]int, error) {
	list, err := fetchList[fleet.InstanceView](s.client, "/api/v1/instances")(s.ctx)
	if err != nil {
		return nil, err
	}
	base, err := url.Parse(s.client.Base)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, i := range list {
		if i.App != app || !slices.Contains(s.groups, i.Group) {
			continue // one of an earlier drill, at its end
		}
		text, err := fetchText(s.ctx, "http://"+net.JoinHostPort(base.Hostname(), strconv.Itoa(i.Port))+drill.Arrived)
		if err != nil {
			return nil, err
		}
		if counts[i.ID], err = strconv.Atoi(text); err != nil {
			return nil, fmt.Errorf("%s tells %q of how many requests reached it, want a number", i.ID, text)
		}
	}
	if len(counts) == 0 {
		return nil, fmt.Errorf("the fleet has no instance of %s any more", app)
	}
	return counts, nil
}

// fetchText gets a short text within five seconds. The error of an answer other than 200 says what it was.
func fetchText(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", url, resp.Status, text)
	}
	return strings.TrimSpace(string(text)), err
}

// play offers load for so many seconds. at is called when a second begins, tell once what became of its requests is known.
func (s *exercise) play(load *drill.Load, seconds int, rates func(second int) []float64, at func(second int) error, tell func(second int)) error {
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		load.Run(ctx, seconds, rates)
	}()
	defer func() { cancel(); <-ended }()
	lag := int(drill.Patience / time.Second)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for second := 0; ; second++ {
		if err := at(second); err != nil {
			return err
		}
		if second > lag {
			tell(second - lag - 1)
		}
		if second == seconds+lag {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// promise prints one of what docs/calls.md promises, and whether it was kept.
func (s *exercise) promise(kept bool, format string, args ...any) {
	word := "kept"
	if !kept {
		word = "NOT KEPT"
		s.broken++
	}
	fmt.Fprintf(s.out, "%-8s  %s\n", word, fmt.Sprintf(format, args...))
}

// judged is the error of a drill that is over.
func (s *exercise) judged() error {
	if s.broken == 0 {
		return nil
	}
	return fmt.Errorf("%d of what was promised was not kept; a machine that has other work, or two processors for all, may be why: look at docs/calls.md", s.broken)
}

// seconds is how many of them pass until what became of all requests is known.
func (s *exercise) seconds() int { return s.mends + lingers + int(drill.Patience/time.Second) }

func steady(rate float64) func(int) []float64 { return func(int) []float64 { return []float64{rate} } }

const (
	breaks   = 5          // the second from which on something is broken
	settled  = breaks + 2 // and from which on what is promised must hold: what was let in before is worked off
	recovers = 8          // seconds after which all breakers have found out that all is well: each tries about every five
	lingers  = 12         // seconds for which it goes on once all is well again
)

func (s *exercise) storm() error {
	const rate = 200
	for _, name := range []string{drill.Leaf, drill.Hop2, drill.Hop1} {
		if err := s.put(name, 2); err != nil {
			return err
		}
	}
	if err := s.reached("/" + drill.Hop1 + "/"); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%d requests a second, edge -> %s -> %s -> %s; the leaf is dead from second %d to %d\n", rate, drill.Hop1, drill.Hop2, drill.Leaf, breaks, s.mends)
	fmt.Fprintf(s.out, "%6s %9s %11s %8s %11s\n", "second", "offered", "reach leaf", "by each", "succeeded")
	load := drill.NewLoad(s.edge + "/" + drill.Hop1 + "/")
	reach := make([]int, s.seconds()+1) // by the beginning of a second
	err := s.play(load, s.mends+lingers, steady(rate), func(second int) error {
		switch second {
		case breaks, s.mends:
			if err := s.change(drill.LeafDead, strconv.FormatBool(second == breaks), "bool", config.Scope{App: drill.Leaf}); err != nil {
				return err
			}
		}
		counts, err := s.arrived(drill.Leaf)
		for _, n := range counts {
			reach[second] += n
		}
		return err
	}, func(second int) {
		t := load.Sum(0, second, second+1)
		n := reach[second+1] - reach[second]
		note := ""
		if second >= breaks && second < s.mends {
			note = "  dead"
		}
		fmt.Fprintf(s.out, "%6d %9d %11d %8.2f %9.1f %%%s\n", second, t.Asked, n, float64(n)/float64(max(t.Asked, 1)), t.Share(), note)
	})
	if err != nil {
		return err
	}
	dead, after := load.Sum(0, breaks, s.mends), load.Sum(0, s.mends+recovers, s.mends+lingers)
	share := float64(reach[s.mends]-reach[breaks]) / float64(max(dead.Asked, 1))
	s.promise(share <= 1.25, "%.2f requests reached the dead leaf for each one offered; at most 1.25, and 27 if each hop just tried three times", share)
	s.promise(after.Share() >= 99, "%.1f %% succeeded from %d s after the leaf was well again; at least 99 %%", after.Share(), recovers)
	return s.judged()
}

func (s *exercise) overload() error {
	const instances = 2
	capacity := float64(instances*drill.TillPlaces) / drill.TillTakes.Seconds()
	if err := s.put(drill.Till, instances); err != nil {
		return err
	}
	kinds := []roadbed.Criticality{roadbed.Critical, roadbed.Degraded, roadbed.BestEffort, roadbed.Bulk}
	var urls []string
	for _, k := range kinds {
		path := "/" + drill.Till + "/" + strings.ToLower(k.String())
		urls = append(urls, s.edge+path)
		if err := s.change("edge.priority."+drill.Till+"-"+strings.ToLower(k.String()), "GET "+path+" "+k.String(), "", config.Scope{}); err != nil {
			return err
		}
	}
	if err := s.reached("/" + drill.Till + "/critical"); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "%d instances of %s can serve %.0f requests a second; from second %d to %d they are asked for five times that\n", instances, drill.Till, capacity, breaks, s.mends)
	fmt.Fprintf(s.out, "%6s %9s %9s %9s %11s %9s %15s\n", "second", "offered", "CRITICAL", "DEGRADED", "BEST_EFFORT", "BULK", "CRITICAL's p99")
	load := drill.NewLoad(urls...)
	rates := func(second int) []float64 {
		if second < breaks || second >= s.mends {
			return []float64{0.1 * capacity, 0.1 * capacity, 0.1 * capacity, 0.1 * capacity}
		}
		return []float64{0.5 * capacity, 1.5 * capacity, 1.5 * capacity, 1.5 * capacity}
	}
	err := s.play(load, s.mends+lingers, rates, func(int) error { return nil }, func(second int) {
		offered, shares := 0, make([]any, len(kinds))
		for i := range kinds {
			t := load.Sum(i, second, second+1)
			offered += t.Asked
			shares[i] = t.Share()
		}
		fmt.Fprintf(s.out, "%6d %9d "+"%7.1f %% %7.1f %% %9.1f %% %7.1f %% %12.1f ms\n", append(append([]any{second, offered}, shares...), milliseconds(load.Sum(0, second, second+1).Quantile(0.99)))...)
	})
	if err != nil {
		return err
	}
	calm, much := load.Sum(0, 1, breaks), load.Sum(0, settled, s.mends)
	s.promise(much.Share() >= 99, "%.1f %% of CRITICAL requests were served from second %d to %d; at least 99 %%", much.Share(), settled, s.mends)
	within, at := milliseconds(much.Quantile(0.99)), milliseconds(calm.Quantile(0.99))
	s.promise(within <= 2*at, "99 %% of them took %.0f ms at most, unloaded %.0f ms; at most twice that", within, at)
	return s.judged()
}

func (s *exercise) slow() error {
	const rate, instances, slowed = 300, 10, 500 * time.Millisecond
	if err := s.put(drill.Tile, instances); err != nil {
		return err
	}
	if err := s.reached("/" + drill.Tile + "/"); err != nil {
		return err
	}
	counts, err := s.arrived(drill.Tile)
	if err != nil {
		return err
	}
	var ids []string
	for id := range counts {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	victim := ids[0]
	fmt.Fprintf(s.out, "%d requests a second at %d instances of %s, which take %s; from second %d to %d %s takes %s\n", rate, instances, drill.Tile, drill.TileTakes, breaks, s.mends, victim, slowed)
	fmt.Fprintf(s.out, "%6s %9s %12s %11s %9s %9s\n", "second", "offered", "at that one", "succeeded", "p50", "p99")
	load := drill.NewLoad(s.edge + "/" + drill.Tile + "/")
	here, all := make([]int, s.seconds()+1), make([]int, s.seconds()+1) // by the beginning of a second
	err = s.play(load, s.mends+lingers, steady(rate), func(second int) error {
		switch second {
		case breaks, s.mends:
			wait := drill.TileTakes
			if second == breaks {
				wait = slowed
			}
			if err := s.change(drill.TileWait, wait.String(), "duration", config.Scope{App: drill.Tile, Instance: victim}); err != nil {
				return err
			}
		}
		counts, err := s.arrived(drill.Tile)
		here[second] = counts[victim]
		for _, n := range counts {
			all[second] += n
		}
		return err
	}, func(second int) {
		t := load.Sum(0, second, second+1)
		note := ""
		if second >= breaks && second < s.mends {
			note = "  slow"
		}
		fmt.Fprintf(s.out, "%6d %9d %12d %9.1f %% %6.1f ms %6.1f ms%s\n", second, t.Asked, here[second+1]-here[second], t.Share(), milliseconds(t.Quantile(0.5)), milliseconds(t.Quantile(0.99)), note)
	})
	if err != nil {
		return err
	}
	slow := load.Sum(0, settled, s.mends)
	share := 100 * float64(here[s.mends]-here[settled]) / float64(max(all[s.mends]-all[settled], 1))
	s.promise(share <= 2, "%.1f %% of the requests reached the slow one, from second %d to %d; at most 2 %%, and 10 %% if turns were taken", share, settled, s.mends)
	s.promise(slow.Share() >= 99.9, "%.2f %% succeeded meanwhile; at least 99.9 %%", slow.Share())
	return s.judged()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
