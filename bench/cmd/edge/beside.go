//go:build linux

package main

import (
	"fmt"
	"log"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed/bench/process"
)

const (
	few, many = 64, 1000 // connections

	warmJVM    = 20 * time.Second // until its compiler has seen all
	warmOthers = 2 * time.Second
)

// bars are how large ours may be beside theirs.
var (
	cpuBars = map[string]float64{"nginx": 1.15, "ReverseProxy": 0.4, "Caddy": 0.15, "Spring Cloud Gateway": 0.15}
	p99Bars = map[string]float64{"nginx": 1.5}
)

// beside loads ours and all others in turn, as fast as they answer.
func (b *bench) beside() error {
	ours, at, stop, err := b.crowded()
	if err != nil {
		return err
	}
	defer stop()
	all := []*proxy{&ours.proxy}
	for _, name := range columns[1:] {
		p, err := b.startPeer(name, at)
		if err != nil {
			return err
		}
		defer p.Stop()
		all = append(all, p)
	}
	for i, p := range all {
		d := warmOthers
		if columns[i] == "Spring Cloud Gateway" {
			d = warmJVM
		}
		log.Printf("%s warms up for %v", columns[i], d)
		if _, err := wrk(p.url, few, d); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
	}
	var passed map[string]float64 // what a request costs that is passed on
	for _, conns := range []int{few, many} {
		seen, err := b.turns(all, func(p *proxy) (report, error) { return wrk(p.url, conns, b.phase) })
		if err != nil {
			return err
		}
		on := fmt.Sprintf(", %d connections", conns)
		b.table.compare("CPU time of a request, µs"+on, seen.micros, cpuBars)
		b.table.compare("p99, ms"+on, seen.p99, p99Bars)
		b.table.tell("requests a second"+on, seen.rate)
		if conns == few {
			passed = seen.micros
		}
	}
	return b.refusals(ours, all[slices.Index(columns, "nginx")], passed)
}

// byName are the figures of all, by name.
type byName struct{ micros, p99, rate map[string]float64 }

// turns loads the first of all, and the others, in turn, b.rounds times, and returns medians.
func (b *bench) turns(all []*proxy, load func(*proxy) (report, error)) (byName, error) {
	seen := make([][]figures, len(all))
	for range b.rounds {
		for i, p := range all {
			f, err := measure(p.Process, func() (report, error) { return load(p) })
			if err != nil {
				return byName{}, err
			}
			seen[i] = append(seen[i], f)
		}
	}
	out := byName{map[string]float64{}, map[string]float64{}, map[string]float64{}}
	for i, p := range all {
		m := median(seen[i])
		out.micros[p.Name], out.p99[p.Name], out.rate[p.Name] = m.micros, m.p99, m.rate
	}
	return out, nil
}

// refusals has everything but the most important refused, as under overload, and looks at what that costs beside passed, a
// request that is passed on. nginx, which refuses without a reason, shows what of it is the system's: reading a request and
// writing an answer.
func (b *bench) refusals(ours *platform, nginx *proxy, passed map[string]float64) error {
	// Nothing says how important requests for another route are: they are 50.
	others := []*proxy{{ours.Process, refused(ours.url), ""}, {nginx.Process, refused(nginx.url), ""}}
	if err := ours.setAll(map[string]string{"edge.shed.force": "1", "edge.shed.force.percent": "100"}); err != nil {
		return err
	}
	seen, err := b.turns(others, func(p *proxy) (report, error) { return wrkRefused(p.url, few, b.phase) })
	if err != nil {
		return err
	}
	share := func(p *process.Process) float64 { return seen.micros[p.Name] / passed[p.Name] }
	b.table.compare(fmt.Sprintf("CPU time of a request that is refused, µs, %d connections", few), seen.micros, nil)
	b.table.keep("the same as a share of one that is passed on", share(ours.Process), mostShedCPU)
	b.table.tell("that share where nothing but system calls is left to do", map[string]float64{nginx.Name: share(nginx.Process)})
	return nil
}

// refused is where requests are refused, of a proxy that is asked at url.
func refused(url string) string { return strings.Replace(url, "/shop/500/", "/shop/499/", 1) }
