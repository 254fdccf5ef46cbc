// Command balancing measures how balancers treat an instance that becomes slow and one that begins to fail, over real
// connections, and draws it: ten instances, each of which takes some 10 ms; later one takes ten times as long, and
// another answers 500 at once.
//
//	go run ./balancing -o ../docs/balancing.svg
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/bench/chart"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

const (
	slow    = 6  // seconds until one instance becomes slow
	failing = 16 // and until another begins to fail
	end     = 26
	count   = 10
)

// cell is ten instances, and who called them when.
type cell struct {
	start time.Time
	list  []roadbed.Instance
	mu    sync.Mutex
	took  [end][]time.Duration // of requests that began in each second
	got   [end][count]atomic.Int64
}

func main() {
	out := flag.String("o", "balancing.svg", "the SVG file to write")
	rate := flag.Int("rate", 300, "requests a second")
	flag.Parse()
	if *rate < 10 || *rate > 2000 {
		log.Fatalf("-rate %d: ask for 10 to 2000 requests a second", *rate)
	}
	c := chart.Chart{
		Title: "One of ten instances becomes ten times as slow, another fails at once",
		Note:  fmt.Sprintf("%d requests a second, over loopback, one after the other balancer; one point a second.", *rate),
		Marks: []chart.Mark{{At: slow, Text: "one slow"}, {At: failing, Text: "one fails"}},
		Panels: []chart.Panel{
			{Label: "99th percentile of the cluster, ms", Top: 250},
			{Label: "of the requests, % that went to the slow one", Top: 12, Limit: 1},
			{Label: "of the requests, % that went to the failing one", Top: 12, Limit: 1},
		},
	}
	for i := range end {
		c.X = append(c.X, float64(i))
	}
	fmt.Printf("%-28s %12s %12s %8s %12s %12s\n", "", "well, p99", "slow, p99", "ratio", "slow got", "failing got")
	for _, k := range []struct{ name, rule string }{
		{"p2c, as it comes", ""}, {"RoundRobinRule", "RoundRobinRule"}, {"WeightedResponseTimeRule", "WeightedResponseTimeRule"},
	} {
		s := run(*rate, k.rule)
		var p99, toSlow, toFailing []float64
		for i := range end {
			all := 0.0
			for n := range count {
				all += float64(s.got[i][n].Load())
			}
			p99 = append(p99, float64(percentile(s.took[i]))/1e6)
			toSlow = append(toSlow, 100*float64(s.got[i][0].Load())/all)
			toFailing = append(toFailing, 100*float64(s.got[i][1].Load())/all)
		}
		for i, y := range [][]float64{p99, toSlow, toFailing} {
			c.Panels[i].Series = append(c.Panels[i].Series, chart.Series{Name: k.name, Y: y})
		}
		before, after := percentile(slices.Concat(s.took[2:slow]...)), percentile(slices.Concat(s.took[slow+5:failing]...))
		fmt.Printf("%-28s %12s %12s %8.2f %11.2f%% %11.2f%%\n", k.name, before.Round(100*time.Microsecond), after.Round(100*time.Microsecond),
			float64(after)/float64(before), mean(toSlow[slow+5:failing]), mean(toFailing[failing+1:]))
	}
	if err := c.WriteFile(*out); err != nil {
		log.Fatal(err)
	}
}

func percentile(d []time.Duration) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[len(d)*99/100]
}

func mean(x []float64) (sum float64) {
	for _, v := range x {
		sum += v
	}
	return sum / float64(len(x))
}

func (s *cell) second() int { return min(int(time.Since(s.start)/time.Second), end-1) }

// run starts the instances, calls them by the rule, p2c if it is empty, and takes everything down.
func run(rate int, rule string) *cell {
	s := &cell{start: time.Now()}
	for n := range count {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.serve(w, n) }))
		defer srv.Close()
		host, text, err := net.SplitHostPort(srv.Listener.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		port, err := strconv.Atoi(text)
		if err != nil {
			log.Fatal(err)
		}
		s.list = append(s.list, roadbed.Instance{ID: "app-" + strconv.Itoa(n), App: "app", Host: host, Port: port, Status: roadbed.Up})
	}
	props := map[string]string{}
	if rule != "" {
		props["app.ribbon.NFLoadBalancerRuleClassName"] = rule
		props["app.ribbon.ServerWeightTaskTimerInterval"] = "1000" // else its first weights come after 30 s
	}
	e := ipc.New(ipc.Options{App: "caller", Lists: ipc.Static{"app": s.list}, Config: config.New(config.Options{Override: props}), Log: slog.New(slog.DiscardHandler)})
	defer e.Close()
	e.Command("app", ipc.Settings{Timeout: 5 * time.Second})
	calls := e.Transport()
	s.start = time.Now()
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for time.Since(s.start) < end*time.Second {
		all.Go(func() { s.ask(calls) })
		<-tick.C
	}
	all.Wait()
	return s
}

func (s *cell) ask(calls http.RoundTripper) {
	second, start := s.second(), time.Now()
	req, err := http.NewRequestWithContext(context.Background(), "GET", "http://app/", nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := calls.RoundTrip(req)
	if err != nil {
		return
	}
	io.Copy(io.Discard, resp.Body) // what counts is when it ends
	resp.Body.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took[second] = append(s.took[second], time.Since(start))
}

// serve is instance n.
func (s *cell) serve(w http.ResponseWriter, n int) {
	now := s.second()
	s.got[now][n].Add(1)
	if n == 1 && now >= failing {
		http.Error(w, "it fails", http.StatusInternalServerError)
		return
	}
	work := time.Duration(7e6*math.Exp(rand.NormFloat64()*0.4)) + 2*time.Millisecond
	if n == 0 && now >= slow {
		work *= 10
	}
	time.Sleep(work)
	io.WriteString(w, "well")
}
