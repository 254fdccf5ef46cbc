package drill

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Patience is how long whoever asks waits for an answer.
const Patience = time.Second

// Load sends requests for some URLs at random moments, whether earlier ones are answered or not, and keeps what became of them
// by the second in which they were due.
type Load struct {
	urls   []string
	client *http.Client

	mu      sync.Mutex
	seconds [][]Tally // by second, then by URL; guarded by mu
}

// Tally is what became of the requests for one URL that were due within one second.
type Tally struct {
	Asked  int
	Served []time.Duration // what those took that were answered with 200 within [Patience], from when they were due
}

// NewLoad returns a load of these URLs.
func NewLoad(urls ...string) *Load {
	return &Load{urls: urls, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true}}}
}

// Run sends requests for so many seconds, or until ctx ends, rates(second)[i] of them a second for the i-th URL, and returns when
// all are answered or given up.
func (l *Load) Run(ctx context.Context, seconds int, rates func(second int) []float64) {
	defer l.client.CloseIdleConnections()
	var asking sync.WaitGroup
	defer asking.Wait()
	dice := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	start := time.Now()
	for due := start; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		at := due
		second := int(at.Sub(start) / time.Second)
		if second >= seconds {
			return
		}
		rate, total := rates(second), 0.0
		for _, r := range rate {
			total += r
		}
		which, x := 0, dice.Float64()*total
		for ; which < len(rate)-1 && x >= rate[which]; which++ {
			x -= rate[which]
		}
		l.at(second, which, func(t *Tally) { t.Asked++ })
		asking.Go(func() {
			if l.ask(ctx, l.urls[which], at.Add(Patience)) {
				l.at(second, which, func(t *Tally) { t.Served = append(t.Served, time.Since(at)) })
			}
		})
		due = due.Add(time.Duration(dice.ExpFloat64() / total * float64(time.Second)))
	}
}

// at lets do see to one tally.
func (l *Load) at(second, url int, do func(*Tally)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.seconds) <= second {
		l.seconds = append(l.seconds, make([]Tally, len(l.urls)))
	}
	do(&l.seconds[second][url])
}

// ask reports whether one request was served by then.
func (l *Load) ask(ctx context.Context, url string, by time.Time) bool {
	ctx, cancel := context.WithDeadline(ctx, by)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	req.Header.Set("X-Member", fmt.Sprintf("m%05d", rand.IntN(20_000))) // many ask, as the demo's members do
	resp, err := l.client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// Sum adds up what became of requests for the i-th URL from one second up to another, which is not counted.
func (l *Load) Sum(i, from, to int) (sum Tally) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := from; s < to && s < len(l.seconds); s++ {
		sum.Asked += l.seconds[s][i].Asked
		sum.Served = append(sum.Served, l.seconds[s][i].Served...)
	}
	return sum
}

// Share returns the share that was served, in percent; 100 if nothing was asked.
func (t Tally) Share() float64 {
	if t.Asked == 0 {
		return 100
	}
	return 100 * float64(len(t.Served)) / float64(t.Asked)
}

// Quantile returns within what time a share of those served were, q from 0 to 1; 0 if none was.
func (t Tally) Quantile(q float64) time.Duration {
	if len(t.Served) == 0 {
		return 0
	}
	all := slices.Sorted(slices.Values(t.Served))
	return all[min(len(all)-1, int(q*float64(len(all))))]
}
