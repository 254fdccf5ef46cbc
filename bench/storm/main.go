// Command storm measures what a retry storm does to the service at the end of a chain, over real connections, and draws
// it: edge -> a -> b -> leaf, each hop with three tries, two instances of everything. The leaf answers 503 for a while.
//
//	go run ./storm -o ../docs/retry-storm.svg
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/bench/chart"
	"github.com/roadbed/roadbed/ipc"
)

const (
	well = 4  // seconds until the leaf dies
	back = 14 // and until it is well again
	end  = 24
)

func main() {
	out := flag.String("o", "retry-storm.svg", "the SVG file to write")
	rate := flag.Int("rate", 250, "requests offered a second")
	flag.Parse()
	if *rate < 1 || *rate > 2000 {
		log.Fatalf("-rate %d: offer from 1 to 2000 requests a second", *rate)
	}
	kinds := []struct {
		name  string
		naive bool
		set   ipc.Settings
	}{
		{"three tries, no budget", true, ipc.Settings{}},
		{"budget, breakers off", false, ipc.Settings{BreakerOff: true, MaxConcurrent: 5000}},
		{"as it comes", false, ipc.Settings{}},
	}
	c := chart.Chart{
		Title: "A dead leaf under three hops with three tries each",
		Note:  fmt.Sprintf("%d requests a second for %d s, over loopback; one point a second.", *rate, end),
		Marks: []chart.Mark{{At: well, Text: "dies"}, {At: back, Text: "well again"}},
		Panels: []chart.Panel{
			{Label: "requests that reach the leaf for each one offered", Top: 30},
			{Label: "the same, enlarged", Top: 2.5, Limit: 1.25},
			{Label: "succeeded, % of what was offered", Top: 100},
		},
	}
	for i := range end {
		c.X = append(c.X, float64(i))
	}
	fmt.Printf("%-24s %14s %14s %14s %12s\n", "", "offered, dead", "leaf, dead", "leaf/offered", "well, % 5 s on")
	for _, k := range kinds {
		s := run(*rate, k.naive, k.set)
		ratio, good := make([]float64, end), make([]float64, end)
		for i := range end {
			ratio[i] = float64(s.leaf[i].Load()) / float64(s.offered[i].Load())
			good[i] = 100 * float64(s.good[i].Load()) / float64(s.offered[i].Load())
		}
		c.Panels[0].Series = append(c.Panels[0].Series, chart.Series{Name: k.name, Y: ratio})
		c.Panels[1].Series = append(c.Panels[1].Series, chart.Series{Name: k.name, Y: ratio})
		c.Panels[2].Series = append(c.Panels[2].Series, chart.Series{Name: k.name, Y: good})
		offered, leaf := total(s.offered[well:back]), total(s.leaf[well:back])
		fmt.Printf("%-24s %14d %14d %14.2f %12.1f\n", k.name, offered, leaf, float64(leaf)/float64(offered), 100*float64(total(s.good[back+5:]))/float64(total(s.offered[back+5:])))
	}
	if err := c.WriteFile(*out); err != nil {
		log.Fatal(err)
	}
}

// storm counts by second.
type storm struct {
	start               time.Time
	offered, leaf, good [end]atomic.Int64
}

func total(of []atomic.Int64) (n int64) {
	for i := range of {
		n += of[i].Load()
	}
	return n
}

func (s *storm) second() int { return min(int(time.Since(s.start)/time.Second), end-1) }

// run builds the chain, offers the load and takes everything down.
func run(rate int, naive bool, set ipc.Settings) *storm {
	s := &storm{start: time.Now()}
	var stop []func()
	defer func() {
		for _, f := range stop {
			f()
		}
	}()
	serve := func(name string, h http.Handler) roadbed.Instance {
		srv := httptest.NewServer(h)
		stop = append(stop, srv.Close)
		host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			log.Fatal(err)
		}
		return roadbed.Instance{ID: name + "-" + port, App: name, Host: host, Port: n, Status: roadbed.Up}
	}
	client := func(name string, next []roadbed.Instance) (http.RoundTripper, func(http.Handler) http.Handler) {
		if naive {
			base := &http.Transport{MaxIdleConnsPerHost: 256}
			stop = append(stop, base.CloseIdleConnections)
			return &thrice{base, next}, func(h http.Handler) http.Handler { return h }
		}
		e := ipc.New(ipc.Options{App: "caller-of-" + name, Lists: ipc.Static{name: next}, Log: slog.New(slog.DiscardHandler)})
		stop = append(stop, e.Close)
		e.Command(name, set)
		return e.Transport(), e.Handler
	}
	next := []roadbed.Instance{serve("leaf", http.HandlerFunc(s.serveLeaf)), serve("leaf", http.HandlerFunc(s.serveLeaf))}
	for _, name := range []string{"leaf", "b"} {
		var here []roadbed.Instance
		callers := map[string]string{"leaf": "b", "b": "a"}
		for range 2 {
			calls, wrap := client(name, next)
			here = append(here, serve(callers[name], wrap(passOn(calls, "http://"+name+"/"))))
		}
		next = here
	}
	calls, _ := client("a", next)

	s.start = time.Now()
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for time.Since(s.start) < end*time.Second {
		second := s.second()
		s.offered[second].Add(1)
		all.Go(func() {
			if err := ask(calls); err == nil {
				s.good[second].Add(1)
			}
		})
		<-tick.C
	}
	all.Wait()
	return s
}

func ask(calls http.RoundTripper) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://a/", nil)
	if err != nil {
		return err
	}
	resp, err := calls.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return err
}

func (s *storm) serveLeaf(w http.ResponseWriter, _ *http.Request) {
	now := s.second()
	s.leaf[now].Add(1)
	if now >= well && now < back {
		http.Error(w, "dead", http.StatusServiceUnavailable)
		return
	}
	time.Sleep(2 * time.Millisecond) // its work
	io.WriteString(w, "well")
}

// passOn is a service that needs the next one to answer.
func passOn(calls http.RoundTripper, url string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), "GET", url, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp, err := calls.RoundTrip(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body) // an error means that the caller has gone
	})
}

// thrice is what many clients are: three tries with a random pause, no questions asked.
type thrice struct {
	base http.RoundTripper
	next []roadbed.Instance
}

func (t *thrice) RoundTrip(r *http.Request) (resp *http.Response, err error) {
	for i := range 3 {
		if i > 0 {
			time.Sleep(rand.N(25 * time.Millisecond << i))
		}
		again := r.Clone(r.Context())
		again.URL.Host = t.next[rand.IntN(len(t.next))].Addr()
		if resp, err = t.base.RoundTrip(again); err == nil && resp.StatusCode < 500 || i == 2 {
			break
		}
		if err == nil {
			io.Copy(io.Discard, resp.Body) // for the connection's sake
			resp.Body.Close()
		}
	}
	return resp, err
}
