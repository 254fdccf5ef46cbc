//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	workers     = 20                    // requests that the small origin answers at once
	work        = 10 * time.Millisecond // that each of them takes
	excess      = 3                     // times its capacity is offered
	settleShed  = 3 * time.Second       // of overload before it counts
	critical    = 30                    // the last importance of the group CRITICAL
	leastVital  = 99.9                  // percent of CRITICAL that must succeed
	leastOutput = 90.0                  // percent of the capacity that must still be answered
	mostShedCPU = 0.1                   // of what a request costs that is passed on
)

// shed offers an origin three times what it can answer, of evenly spread importance, and looks at who is answered; then at
// what it costs to refuse.
func (b *bench) shed() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	slots := make(chan struct{}, workers)
	origin := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		slots <- struct{}{}
		time.Sleep(work)
		<-slots
		large(w, r)
	})}
	go origin.Serve(l) //nolint:errcheck // ends by Close
	defer origin.Close()
	ours, err := b.startRoadbed(netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		return err
	}
	defer ours.Stop()
	// The header that names a request's importance is believed of trusted peers alone.
	if err := ours.setAll(map[string]string{"edge.trusted.cidrs": "127.0.0.0/8", "edge.connections.perip": "4096"}); err != nil {
		return err
	}
	full, err := wrk(ours.url, 2*workers, b.phase)
	if err != nil {
		return err
	}
	capacity := float64(full.answers) / full.took.Seconds()
	log.Printf("the origin answers %.0f requests a second; %d times that is offered for %v", capacity, excess, settleShed+b.phase)
	some := storm(ours.url, excess*capacity, settleShed+b.phase)
	vital, all := some.count(settleShed)
	if all.good == 0 {
		return fmt.Errorf("not one of %d requests was answered with success", all.sent)
	}
	b.table.tell("requests a second offered under overload", map[string]float64{columns[0]: float64(all.sent) / b.phase.Seconds()})
	b.table.reach(fmt.Sprintf("%% of CRITICAL answered with success at %d times the capacity", excess), 100*float64(vital.good)/float64(vital.sent), leastVital)
	b.table.reach("% of the capacity answered with success meanwhile", 100*float64(all.good)/b.phase.Seconds()/capacity, leastOutput)
	b.table.tell("p99 of these, ms", map[string]float64{columns[0]: float64(some.p99(settleShed).Microseconds()) / 1000})
	return nil
}

// asked is one request of a storm.
type asked struct {
	at         time.Duration // since the beginning
	importance int
	status     int // 0 if there was no answer
	took       time.Duration
}

// tally is how many requests were sent, and how many answered with success.
type tally struct{ sent, good int }

type gale []asked

// storm asks rate times a second for so long, whether or not the requests before are answered; their importance is 1 to
// 100 in turn.
func storm(url string, rate float64, d time.Duration) gale {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	out := make(gale, int(rate*d.Seconds()))
	gap := float64(time.Second) / rate
	began := time.Now()
	var wg sync.WaitGroup
	for i := range out {
		a := &out[i]
		a.at = time.Duration(float64(i) * gap)
		a.importance = 1 + i*37%100 // 37 and 100 share no divisor: all come once in a hundred, far from their neighbours
		time.Sleep(time.Until(began.Add(a.at)))
		wg.Go(func() { a.ask(client, url) })
	}
	wg.Wait()
	return out
}

func (a *asked) ask(client *http.Client, url string) {
	began := time.Now()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return
	}
	req.Header.Set("X-Edge-Priority", strconv.Itoa(a.importance))
	resp, err := client.Do(req)
	if err != nil {
		return
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil {
		a.status = resp.StatusCode
	}
	a.took = time.Since(began)
}

// count looks at what was asked after the first so long.
func (g gale) count(after time.Duration) (vital, all tally) {
	for _, a := range g {
		if a.at < after {
			continue
		}
		ok := 0
		if a.status == http.StatusOK {
			ok = 1
		}
		all.sent, all.good = all.sent+1, all.good+ok
		if a.importance <= critical {
			vital.sent, vital.good = vital.sent+1, vital.good+ok
		}
	}
	return vital, all
}

// p99 is that of the requests that succeeded after the first so long.
func (g gale) p99(after time.Duration) time.Duration {
	var took []time.Duration
	for _, a := range g {
		if a.at >= after && a.status == http.StatusOK {
			took = append(took, a.took)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}
