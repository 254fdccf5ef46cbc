// Command overload measures what a server does with five times the load that it can bear, over real connections, and
// draws it. Its handler needs one of sixteen places, as those of a pool, for 50 ms.
//
//	go run ./overload -o ../docs/overload.svg
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/bench/chart"
	"github.com/roadbed/roadbed/ipc"
)

const (
	places   = 16
	took     = 50 * time.Millisecond
	patience = time.Second // of every caller
	begins   = 6           // seconds until the overload
	ends     = 22          // and until it is over
	end      = 30
	settled  = begins + 2 // from here on the overload is judged
)

// shares are the load of each criticality, in times the capacity, before and after, and during the overload.
var (
	calm = [4]float64{0.1, 0.1, 0.1, 0.1}
	much = [4]float64{0.5, 1.5, 1.5, 1.5}
)

func main() {
	out := flag.String("o", "overload.svg", "the SVG file to write")
	flag.Parse()
	shed := run(ipc.ServerSettings{HoldWhileIdle: true})
	bare := run(ipc.ServerSettings{Limit: ipc.LimitOff, ShedOff: true})
	unloaded := quantile(shed.times(0, 1, begins), 0.99)
	c := chart.Chart{
		Title: "Five times the load that a server can bear",
		Note:  fmt.Sprintf("Capacity %d requests a second, callers wait %s, over loopback; one point a second.", places*int(time.Second/took), patience),
		Marks: []chart.Mark{{At: begins, Text: "overload"}, {At: ends, Text: "over"}},
		Panels: []chart.Panel{
			{Label: "served, % of what was asked: with limit and shedding", Top: 100},
			{Label: "the same without", Top: 100},
			{Label: "CRITICAL: 99 % answered within, ms; line: twice the unloaded", Top: 1000, Limit: 2 * float64(unloaded.Milliseconds())},
		},
	}
	for i := range end {
		c.X = append(c.X, float64(i))
	}
	fmt.Printf("%-12s %12s %12s %12s   from second %d to %d; unloaded p99 %.1f ms\n", "", "asked", "served %", "p99 ms", settled, ends, ms(unloaded))
	for n, m := range []*measured{shed, bare} {
		for crit := range 4 {
			name := roadbed.Criticality(crit).String()
			share := make([]float64, end)
			asked, served := 0, 0
			for i := range end {
				share[i] = 100 * float64(len(m.took[i][crit])) / float64(max(1, m.asked[i][crit]))
				if i >= settled && i < ends {
					asked += m.asked[i][crit]
					served += len(m.took[i][crit])
				}
			}
			c.Panels[n].Series = append(c.Panels[n].Series, chart.Series{Name: name, Y: share})
			fmt.Printf("%-12s %12d %12.1f %12.1f   %s\n", name, asked, 100*float64(served)/float64(max(1, asked)), ms(quantile(m.times(crit, settled, ends), 0.99)), [...]string{"with", "without"}[n])
		}
		p99 := make([]float64, end)
		for i := range end {
			p99[i] = ms(quantile(m.all(0, i), 0.99))
		}
		c.Panels[2].Series = append(c.Panels[2].Series, chart.Series{Name: [...]string{"with", "without"}[n], Y: p99})
	}
	if err := c.WriteFile(*out); err != nil {
		log.Fatal(err)
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// measured is what became of requests, by the second in which they were sent and their criticality.
type measured struct {
	mu    sync.Mutex
	asked [end][4]int
	took  [end][4][]time.Duration // by those that were served
}

// times returns how long the served ones took that were sent in those seconds.
func (m *measured) times(crit, from, to int) (out []time.Duration) {
	for i := from; i < to; i++ {
		out = append(out, m.took[i][crit]...)
	}
	return out
}

// all returns how long the requests of a second took; one that was not served took all its caller's patience.
func (m *measured) all(crit, second int) []time.Duration {
	out := slices.Clone(m.took[second][crit])
	for len(out) < m.asked[second][crit] {
		out = append(out, patience)
	}
	return out
}

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// run serves and offers the load.
func run(set ipc.ServerSettings) *measured {
	e := ipc.New(ipc.Options{App: "server", Server: set, Log: slog.New(slog.DiscardHandler)})
	defer e.Close()
	free := make(chan struct{}, places)
	srv := httptest.NewServer(e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case free <- struct{}{}:
			time.Sleep(took)
			<-free
		case <-r.Context().Done():
			w.WriteHeader(http.StatusGatewayTimeout)
		}
	})))
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}
	defer client.CloseIdleConnections()
	m := &measured{}
	capacity := float64(places) / took.Seconds()
	var wg sync.WaitGroup
	dice := rand.New(rand.NewPCG(1, 2))
	start := time.Now()
	for due := start; ; {
		second := int(time.Since(start) / time.Second)
		if second >= end {
			break
		}
		load := calm
		if second >= begins && second < ends {
			load = much
		}
		total := load[0] + load[1] + load[2] + load[3]
		x, crit := dice.Float64()*total, 0
		for ; crit < 3 && x >= load[crit]; crit++ {
			x -= load[crit]
		}
		m.mu.Lock()
		m.asked[second][crit]++
		m.mu.Unlock()
		wg.Go(func() { m.ask(client, srv.URL, second, crit) })
		// Requests come at random moments, whether the earlier ones are answered or not.
		due = due.Add(time.Duration(dice.ExpFloat64() / (total * capacity) * float64(time.Second)))
		time.Sleep(time.Until(due))
	}
	wg.Wait()
	return m
}

// ask sends one request.
func (m *measured) ask(client *http.Client, url string, second, crit int) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set(ipc.HeaderCriticality, roadbed.Criticality(crit).String())
	req.Header.Set(ipc.HeaderTimeout, strconv.Itoa(int(patience.Milliseconds())))
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return // its patience is at an end
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode == http.StatusOK {
		m.mu.Lock()
		m.took[second][crit] = append(m.took[second][crit], time.Since(began))
		m.mu.Unlock()
	}
}
