//go:build linux

// Package fleet pretends to be many clients of a Eureka server, at little processor time of its own: it registers, renews,
// polls and watches, and says how fast and how well it was answered.
//
//	t := fleet.Target{Addr: netip.MustParseAddrPort("127.0.0.1:8761"), Path: "/eureka"}
//	l := fleet.Load{Addr: t.Addr, Conns: 32, For: 10 * time.Second, Next: func(buf []byte, i int) []byte {
//		return t.Heartbeat(buf, i%10_000)
//	}}
//	report, err := l.Run()
//
// A [Load] is any requests at all, as fast as they are answered or at a rate. [Watchers] hold streams of events and see
// how long a change takes to each. [Fleet] is instances that live: they come, renew, poll, reconcile, go.
//
// # What it promises
//   - Each connection has one request under way at a time, as clients of Eureka do; none are sent ahead of answers.
//   - At a rate, latency counts from when a request was due, so that a server which stalls is not spared.
//   - An answer that is wrong, or does not come, is counted and told, never left out.
//   - Nothing leaves this machine.
//
// # What it does not
//   - It runs on Linux only, by epoll.
//   - It holds no more connections than one process may have open, some thousands; real fleets hold one for each client.
package fleet

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Fleet is instances that live with a Eureka server: each renews its lease and polls for changes every 30 seconds, all
// of them spread evenly; one that is told 404 registers again. Some go, and come again a little later.
type Fleet struct {
	Target
	Size    int           // instances
	For     time.Duration // how long they live
	Churn   float64       // instances a second that go and come again
	Conns   int           // connections that carry renewals and polls
	Mirrors int           // clients that hold everything, apply each delta, and compare hashes as DiscoveryClient does
	Every   time.Duration // how often each renews and polls; 30 seconds, as Eureka's clients do, if 0
	Settle  bool          // polls begin when deltas no longer tell of everybody's registration; For counts from then
	Told    func(string)  // is told how it goes every ten seconds; may be nil
}

// Outcome is how a fleet fared.
type Outcome struct {
	Renewals, Polls Report
	Lost            int // renewals that were answered 404: the server had forgotten the instance
	Gone, Back      int // instances that went, and that came again
	Deltas          int // that mirrors applied
	Mismatches      int // of hashes, after a delta was applied
	Missing         int // instances that should be there at the end and are not, or the other way round
}

// Fault says what the server did wrong, nil if nothing.
func (o *Outcome) Fault() error {
	return errors.Join(
		wrong(o.Lost, "renewals were answered 404: the server had forgotten their instances", nil),
		wrong(o.Mismatches, "deltas led to another hash than the server's", nil),
		wrong(o.Missing, "instances are missing at the end, or there and should not be", nil),
		wrong(o.Renewals.Wrong, "renewals went wrong; the first", o.Renewals.Why),
		wrong(o.Polls.Wrong, "polls went wrong; the first", o.Polls.Why))
}

func wrong(n int, what string, first error) error {
	switch {
	case n == 0:
		return nil
	case first != nil:
		return fmt.Errorf("%d %s: %w", n, what, first)
	}
	return fmt.Errorf("%d %s", n, what)
}

// String is a few lines for a reader.
func (o *Outcome) String() string {
	line := func(what string, r *Report) string {
		return fmt.Sprintf("%-9s%9d, %6.0f a second, p50 %v, p99 %v, longest %v, %d wrong\n", what, r.Answers, r.PerSecond(), round(r.Latency.At(0.5)), round(r.Latency.At(0.99)), round(r.Latency.Max()), r.Wrong)
	}
	return line("renewals", &o.Renewals) + line("polls", &o.Polls) +
		fmt.Sprintf("%d went, %d came again; %d were lost; %d deltas applied, %d hashes differed; %d missing at the end\n", o.Gone, o.Back, o.Lost, o.Deltas, o.Mismatches, o.Missing)
}

func round(d time.Duration) time.Duration { return d.Round(time.Microsecond) }

// Register brings all instances in, as fast as they are let in.
func (f *Fleet) Register() (*Report, error) {
	return (&Load{Addr: f.Addr, Conns: f.Conns, Count: f.Size, Next: func(buf []byte, i int) []byte { return f.Target.Register(buf, i, "v1") }}).Run()
}

// Run lets the registered fleet live, and returns afterwards.
func (f *Fleet) Run() (*Outcome, error) {
	if f.Every == 0 {
		f.Every = 30 * time.Second
	}
	out := &Outcome{}
	away := make([]atomic.Bool, f.Size) // instances that went and have not come back
	again := make(chan int, f.Size)     // instances that were told 404
	var over atomic.Bool
	beat := func(buf []byte, i int) []byte {
		if over.Load() {
			return buf
		}
		if i %= f.Size; away[i].Load() {
			return f.Get(buf, "/apps/delta", true) // whoever is away renews nothing
		}
		return f.Heartbeat(buf, i)
	}
	rate := float64(f.Size) / f.Every.Seconds()
	renewals := &Load{Addr: f.Addr, Conns: f.Conns, Rate: rate, Next: beat, Answer: func(i, status int, _ []byte) error {
		if status == http.StatusNotFound && !away[i%f.Size].Load() {
			out.Lost++
			again <- i % f.Size
		}
		if status != http.StatusOK && status != http.StatusNotFound {
			return fmt.Errorf("a renewal was answered %d", status)
		}
		return nil
	}}
	polls := &Load{Addr: f.Addr, Conns: f.Conns, Rate: rate, Next: func(buf []byte, _ int) []byte {
		if over.Load() {
			return buf
		}
		return f.Get(buf, "/apps/delta", true)
	}}

	errs := make([]error, 4+f.Mirrors)
	var wg sync.WaitGroup
	run := func(l *Load, into *Report, err *error) {
		wg.Go(func() {
			r, e := l.Run()
			if *err = e; r != nil {
				*into = *r
			}
		})
	}
	run(renewals, &out.Renewals, &errs[0])
	if f.Settle {
		errs[3] = f.settle()
	}
	end := time.Now().Add(f.For)
	time.AfterFunc(f.For, func() { over.Store(true) })
	run(polls, &out.Polls, &errs[1])
	wg.Go(func() { errs[2] = f.churn(out, away, again, end) })
	mirrors := make([]*mirror, f.Mirrors)
	for i := range mirrors {
		m := &mirror{target: f.Target}
		mirrors[i] = m
		wg.Go(func() {
			time.Sleep(f.Every * time.Duration(i) / time.Duration(f.Mirrors)) // they are spread, too
			errs[4+i] = m.follow(f.Every, end)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return out, err
	}
	for _, m := range mirrors {
		out.Deltas += m.deltas
		out.Mismatches += m.mismatches
	}
	final := &mirror{target: f.Target}
	if err := final.fetch(); err != nil {
		return out, err
	}
	for i := range f.Size {
		if _, there := final.status[App(i)+"/"+ID(i)]; there == away[i].Load() {
			out.Missing++
		}
	}
	return out, nil
}

const (
	// settled is the size of a delta, in bytes as transferred, that is no longer that of everybody's registration. Roadbed
	// goes on telling of as many changes as fit into 256 KiB.
	settled = 320 << 10
	told    = 3 * time.Minute // for which servers tell of a change
)

// settle waits until deltas are small.
func (f *Fleet) settle() error {
	for start, said := time.Now(), (time.Time{}); ; time.Sleep(time.Second) {
		r, err := (&Load{Addr: f.Addr, Conns: 1, Count: 1, Next: func(buf []byte, _ int) []byte { return f.Get(buf, "/apps/delta", true) }}).Run()
		switch {
		case err != nil:
			return err
		case r.Wrong > 0:
			return r.Why
		case r.Bytes < settled:
			return nil
		case time.Since(start) > 20*time.Minute:
			return fmt.Errorf("a delta has %d bytes 20 minutes after the last registration", r.Bytes)
		}
		if f.Told != nil && time.Since(said) > 30*time.Second {
			said = time.Now()
			f.Told(fmt.Sprintf("waits for deltas that no longer tell of everybody's registration, as servers do for %v: about %v to go; a delta has %d bytes", told,
				max(told-said.Sub(start), 0).Round(time.Second), r.Bytes))
		}
	}
}

// churn takes instances out and brings them back a tenth of the interval later, and those back that were forgotten.
func (f *Fleet) churn(out *Outcome, away []atomic.Bool, again <-chan int, end time.Time) error {
	pause := f.Every / 10
	var gone []int
	var back []time.Time
	do := func(next func(buf []byte, i int) []byte, i, want int) error {
		r, err := (&Load{Addr: f.Addr, Conns: 1, Count: 1, Next: func(buf []byte, _ int) []byte { return next(buf, i) },
			Answer: func(_, status int, _ []byte) error {
				if status != want {
					return fmt.Errorf("instance %d: status %d, want %d", i, status, want)
				}
				return nil
			}}).Run()
		if err == nil && r.Wrong > 0 {
			err = r.Why
		}
		return err
	}
	register := func(buf []byte, i int) []byte { return f.Target.Register(buf, i, "v1") }
	start, told := time.Now(), time.Now()
	for now := time.Now(); now.Before(end); now = time.Now() {
		if len(back) > 0 && now.After(back[0]) {
			if err := do(register, gone[0], http.StatusNoContent); err != nil {
				return fmt.Errorf("come back: %w", err)
			}
			away[gone[0]].Store(false)
			gone, back = gone[1:], back[1:]
			out.Back++
		}
		if float64(out.Gone) < f.Churn*now.Sub(start).Seconds() && now.Add(2*pause).Before(end) {
			if i := rand.IntN(f.Size); !away[i].Load() {
				away[i].Store(true)
				if err := do(f.Cancel, i, http.StatusOK); err != nil {
					return fmt.Errorf("go: %w", err)
				}
				gone, back = append(gone, i), append(back, now.Add(pause))
				out.Gone++
			}
		}
		select {
		case i := <-again:
			if err := do(register, i, http.StatusNoContent); err != nil {
				return fmt.Errorf("register again: %w", err)
			}
		case <-time.After(5 * time.Millisecond):
		}
		if f.Told != nil && now.Sub(told) >= 10*time.Second {
			told = now
			f.Told(fmt.Sprintf("%v to go; %d went, %d came back", end.Sub(now).Round(time.Second), out.Gone, out.Back))
		}
	}
	return nil
}

// mirror is a client that knows everything, as Netflix's DiscoveryClient does.
type mirror struct {
	target     Target
	status     map[string]string // by app/id
	hash       string            // as the server last said
	deltas     int
	mismatches int
}

// follow fetches everything, then a delta every interval until end.
func (m *mirror) follow(interval time.Duration, end time.Time) error {
	if err := m.fetch(); err != nil {
		return err
	}
	for {
		if time.Until(end) < interval {
			return nil
		}
		time.Sleep(interval)
		doc, err := m.get("/apps/delta")
		if err != nil {
			return err
		}
		m.apply(doc)
		m.deltas++
		if m.counted() != doc.Hash {
			m.mismatches++
			if err := m.fetch(); err != nil {
				return err
			}
		}
	}
}

// applications is what a mirror reads of a document.
type applications struct {
	Hash        string `json:"apps__hashcode"`
	Application []struct {
		Name     string `json:"name"`
		Instance []struct {
			ID     string `json:"instanceId"`
			Status string `json:"status"`
			Action string `json:"actionType"`
		} `json:"instance"`
	} `json:"application"`
}

// fetch replaces what the mirror knows by everything.
func (m *mirror) fetch() error {
	doc, err := m.get("/apps/")
	if err != nil {
		return err
	}
	m.status = make(map[string]string)
	for _, a := range doc.Application {
		for _, i := range a.Instance {
			m.status[a.Name+"/"+i.ID] = i.Status
		}
	}
	m.hash = doc.Hash
	return nil
}

func (m *mirror) apply(doc *applications) {
	for _, a := range doc.Application {
		for _, i := range a.Instance {
			if i.Action == "DELETED" {
				delete(m.status, a.Name+"/"+i.ID)
			} else {
				m.status[a.Name+"/"+i.ID] = i.Status
			}
		}
	}
}

// counted is the hash of what the mirror knows: each status with how often it occurs.
func (m *mirror) counted() string {
	n := map[string]int{}
	for _, s := range m.status {
		n[s]++
	}
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(n)) {
		fmt.Fprintf(&b, "%s_%d_", s, n[s])
	}
	return b.String()
}

func (m *mirror) get(path string) (*applications, error) {
	var body bytes.Buffer
	l := Load{Addr: m.target.Addr, Conns: 1, Count: 1, Keep: true,
		Next: func(buf []byte, _ int) []byte { return m.target.Get(buf, path, true) },
		Answer: func(_, status int, b []byte) error {
			if status != http.StatusOK {
				return fmt.Errorf("GET %s: status %d", path, status)
			}
			body.Write(b)
			return nil
		}}
	r, err := l.Run()
	if err == nil && r.Wrong > 0 {
		err = r.Why
	}
	if err != nil {
		return nil, err
	}
	var in io.Reader = &body
	if bytes.HasPrefix(body.Bytes(), []byte{0x1f, 0x8b}) {
		if in, err = gzip.NewReader(&body); err != nil {
			return nil, fmt.Errorf("GET %s: %w", path, err)
		}
	}
	var doc struct {
		Applications *applications `json:"applications"`
	}
	if err := json.NewDecoder(in).Decode(&doc); err != nil {
		return nil, fmt.Errorf("GET %s: %w", path, err)
	}
	if doc.Applications == nil {
		return nil, fmt.Errorf("GET %s: there are no applications in it", path)
	}
	return doc.Applications, nil
}
