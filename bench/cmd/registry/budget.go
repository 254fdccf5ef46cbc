//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"testing"
	"time"

	"github.com/roadbed/roadbed/bench/fleet"
	"github.com/roadbed/roadbed/bench/process"
	"github.com/roadbed/roadbed/config"
)

const (
	large    = 100_000 // instances of the budgets
	watchers = 10_000  // open streams
	changes  = 20      // that each stream is told of
)

// least adds a row whose figure must be at least bar; most one whose figure must be at most bar.
func (b *bench) least(what string, got, bar float64) {
	b.add(row{what: what, ours: number(got), bar: "≥ " + number(bar), ok: got >= bar})
}

func (b *bench) most(what string, got time.Duration, bar time.Duration) {
	b.add(row{what: what, ours: got.Round(time.Microsecond).String(), bar: "< " + bar.String(), ok: got < bar})
}

// loaded measures one node of ours that knows 100,000 instances.
func (b *bench) loaded() error {
	s, err := b.startRoadbed(node{})
	if err != nil {
		return err
	}
	defer s.Stop()
	empty, err := s.Resident()
	if err != nil {
		return err
	}
	one, err := s.load(fleet.Load{Conns: 32, Count: large, Next: func(buf []byte, i int) []byte { return s.Register(buf, i, "v1") }})
	if err != nil {
		return err
	}
	b.least("registrations a second", one.perSecond(), 30_000)
	if err := s.knows(large); err != nil {
		return err
	}

	beat := func(buf []byte, i int) []byte { return s.Heartbeat(buf, i%large) }
	if one, err = s.load(fleet.Load{Conns: 32, For: b.phase, Next: beat}); err != nil {
		return err
	}
	b.least("heartbeats a second, one a request", one.perSecond(), 60_000)
	if one, err = s.load(fleet.Load{Conns: 64, Rate: 20_000, For: 2 * b.phase, Next: beat}); err != nil {
		return err
	}
	b.most("heartbeats at 20,000 a second, p99", one.Latency.At(0.99), 2*time.Millisecond)
	if one, err = s.load(fleet.Load{Conns: 8, For: b.phase, Next: batches(s, large), Keep: true, Answer: allRenewed}); err != nil {
		return err
	}
	b.least("replicated renewals a second, 250 a batch", one.perSecond()*batch, 1_000_000)

	full := gets("/apps/", true)(s)
	if one, err = s.load(fleet.Load{Conns: 2, For: b.phase, Next: full}); err != nil {
		return err
	}
	b.add(row{what: fmt.Sprintf("all 100,000 instances, gzip, %.1f MB, a second", float64(one.Bytes)/float64(one.Answers)/1e6), ours: number(one.perSecond())})
	const times = 20
	if one, err = s.load(fleet.Load{Conns: 1, Count: times, Next: full}); err != nil {
		return err
	}
	two, err := s.load(fleet.Load{Conns: 1, Count: 2 * times, Next: func(buf []byte, i int) []byte {
		if i%2 == 0 {
			return s.Register(buf, i*fleet.AppSize, fmt.Sprintf("w%d", i))
		}
		return full(buf, i)
	}})
	if err != nil {
		return err
	}
	b.most("to make them anew after one change, CPU time", (two.cpu-one.cpu)/times, 30*time.Millisecond)

	resident, err := s.Resident()
	if err != nil {
		return err
	}
	b.add(row{what: fmt.Sprintf("resident with 100,000 instances, after all this, MiB (%d when empty)", empty>>20),
		ours: number(float64(resident) / (1 << 20)), bar: "< 250", ok: resident < 250<<20})
	if err := b.visible(s); err != nil {
		return err
	}
	return b.copied(s)
}

// copied measures how long a node that starts takes until it serves what its peer knows.
func (b *bench) copied(from *server) error {
	start := time.Now()
	s, err := b.startRoadbed(node{ready: "/eureka/apps/" + fleet.App(large-1), flags: []string{"--eureka-peers", from.base + from.Path}})
	if err != nil {
		return err
	}
	took := time.Since(start)
	defer s.Stop()
	b.most("from the start of a node until it serves 100,000 instances of its peer", took, 3*time.Second)
	return s.knows(large)
}

// visible measures how long a change takes to be seen by a reader of the same node, while the other instances renew.
func (b *bench) visible(s *server) error {
	const times = 300
	done := make(chan error, 1)
	go func() {
		_, err := s.load(fleet.Load{Conns: 16, Rate: large / 30.0, For: time.Duration(times) * 12 * time.Millisecond, Next: func(buf []byte, i int) []byte { return s.Heartbeat(buf, i%large) }})
		done <- err
	}()
	var took fleet.Latencies
	for n := range times {
		i := (n * 331) % large
		mark := fleet.Mark(n)
		start := time.Now()
		if err := s.once(func(buf []byte) []byte { return s.Register(buf, i, mark) }, nil); err != nil {
			return err
		}
		for seen := false; !seen; {
			if time.Since(start) > 5*time.Second {
				return fmt.Errorf("a change is not seen after 5 s")
			}
			err := s.once(func(buf []byte) []byte { return s.Get(buf, "/apps/"+fleet.App(i), false) }, func(body []byte) { seen = bytes.Contains(body, []byte(mark)) })
			if err != nil {
				return err
			}
		}
		took.Add(time.Since(start))
		time.Sleep(10 * time.Millisecond)
	}
	b.most("a change until a reader of the node sees it, p99", took.At(0.99), 25*time.Millisecond)
	return <-done
}

// once sends one request on a connection of its own, and gives the answer's body to read if that is not nil. It does not
// look at what the server used, which takes as long as ten requests where many processes run.
func (s *server) once(next func([]byte) []byte, read func([]byte)) error {
	r, err := (&fleet.Load{Addr: s.Addr, Conns: 1, Count: 1, Keep: read != nil, Next: func(buf []byte, _ int) []byte { return next(buf) },
		Answer: func(_, status int, body []byte) error {
			if status != http.StatusOK && status != http.StatusNoContent {
				return fmt.Errorf("status %d", status)
			}
			if read != nil {
				read(body)
			}
			return nil
		}}).Run()
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	if r.Wrong > 0 {
		return fmt.Errorf("%s: a wrong answer: %w", s.Name, r.Why)
	}
	return nil
}

// deltas measures polls for changes, of which there were a few lately.
func (b *bench) deltas() error {
	s, err := b.startRoadbed(node{})
	if err != nil {
		return err
	}
	defer s.Stop()
	if err := s.register(0, 20, "v1"); err != nil {
		return err
	}
	one, err := s.load(fleet.Load{Conns: 32, For: b.phase, Next: gets("/apps/delta", true)(s)})
	if err != nil {
		return err
	}
	b.least("deltas of 20 changes a second, gzip", one.perSecond(), 60_000)
	return nil
}

// pushed measures how long changes take to each of 10,000 subscribers of the registry: on the node that is told of them,
// and on its peer.
func (b *bench) pushed() error {
	ports, err := process.FreePorts(2)
	if err != nil {
		return err
	}
	url := func(i int) string { return fmt.Sprintf("http://127.0.0.1:%d/eureka/", ports[i]) }
	var pair []*server
	for i := range ports {
		s, err := b.startRoadbed(node{port: ports[i], flags: []string{"--eureka-url", url(i), "--eureka-peers", url(1 - i)}})
		if err != nil {
			return err
		}
		defer s.Stop()
		pair = append(pair, s)
	}
	const instances = 200
	if err := pair[0].register(0, instances, "v1"); err != nil {
		return err
	}
	for i, what := range []string{"a change until 10,000 subscribers know it, p99", "the same at the node's peer, p99"} {
		at := pair[i]
		if err := at.knows(instances); err != nil {
			return err
		}
		root := fleet.Target{Addr: at.Addr}
		err := b.told(at, what, i*changes, 100*time.Millisecond,
			func(buf []byte, _ int) []byte { return root.Get(buf, "/registry/v1/watch", false) },
			func(n int) error {
				return pair[0].once(func(buf []byte) []byte { return pair[0].Register(buf, n%instances, fleet.Mark(n)) }, nil)
			})
		if err != nil {
			return err
		}
	}
	return nil
}

// configured measures the same for properties.
func (b *bench) configured() error {
	s, err := b.startRoadbed(node{roles: "engine,registry,properties"})
	if err != nil {
		return err
	}
	defer s.Stop()
	root := fleet.Target{Addr: s.Addr}
	err = b.told(s, "a property's change until 10,000 watchers know it, p99", 0, 250*time.Millisecond,
		func(buf []byte, i int) []byte {
			return root.Get(buf, fmt.Sprintf("/config/v1/watch?appId=api&serverId=api-%05d", i), false)
		},
		func(n int) error {
			resp, err := http.Post(s.base+"/config/v1/properties", "application/json", bytes.NewReader(fmt.Appendf(nil, `{"key":"bench.word","appId":"api","value":%q}`, fleet.Mark(n))))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
				return fmt.Errorf("set a property: %s %v: %s", resp.Status, err, body)
			}
			return nil
		})
	if err != nil {
		return err
	}
	handle := config.New(config.Options{}).Int("bench.number", 42)
	sum := 0
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sum += handle.Get()
		}
	})
	if sum == 0 {
		return fmt.Errorf("a handle with the default 42 gave %d", sum)
	}
	ns := float64(r.T.Nanoseconds()) / float64(r.N)
	b.add(row{what: "to read a typed property, ns", ours: fmt.Sprintf("%.2f, %d allocations", ns, r.AllocsPerOp()), bar: "< 5, none", ok: ns < 5 && r.AllocsPerOp() == 0})
	return nil
}

// told opens 10,000 streams, makes changes, of which the first has that number, and adds rows about how long they took to
// be told.
func (b *bench) told(s *server, what string, first int, bar time.Duration, request func([]byte, int) []byte, change func(n int) error) error {
	before, err := s.Resident()
	if err != nil {
		return err
	}
	w, err := fleet.Watch(s.Addr, watchers, request)
	if err != nil {
		return err
	}
	defer w.Close()
	after, err := s.Resident()
	if err != nil {
		return err
	}
	cpu, err := s.Used()
	if err != nil {
		return err
	}
	for n := first; n < first+changes; n++ {
		if err := w.Change(n, func() error { return change(n) }); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	spent, err := s.Used()
	if err != nil {
		return err
	}
	took := w.Took()
	b.most(what, took.At(0.99), bar)
	b.add(row{what: "the same, median; CPU time of a change by stream; memory of a stream, bytes", ours: fmt.Sprintf("%v; %v; %s",
		took.At(0.5).Round(time.Microsecond), (spent-cpu)/(changes*watchers), number(float64(after-before)/watchers))})
	return nil
}

// lives lets 100,000 clients live with a node of ours: each renews and polls every 30 seconds, one a second goes and
// another comes. Nobody may be lost, and no client that reconciles hashes may find a difference.
func (b *bench) lives() error {
	if b.soak == 0 {
		return nil
	}
	s, err := b.startRoadbed(node{})
	if err != nil {
		return err
	}
	defer s.Stop()
	f := &fleet.Fleet{Target: s.Target, Size: large, For: b.soak, Churn: 1, Conns: 64, Mirrors: 2, Settle: true, Told: func(word string) { log.Print("soak: ", word) }}
	if r, err := f.Register(); err != nil || r.Wrong > 0 {
		return fmt.Errorf("register: %w", errors.Join(err, r.Why))
	}
	before, err := s.Used()
	if err != nil {
		return err
	}
	start := time.Now()
	out, err := f.Run()
	if err != nil {
		return err
	}
	after, err := s.Used()
	if err != nil {
		return err
	}
	resident, err := s.Resident()
	if err != nil {
		return err
	}
	log.Printf("soak:\n%s", out)
	what := fmt.Sprintf("100,000 clients for %v: ", b.soak)
	b.add(row{what: what + "lost, hashes that differed, missing", ours: fmt.Sprintf("%d, %d, %d", out.Lost, out.Mismatches, out.Missing), bar: "none", ok: out.Fault() == nil})
	b.add(row{what: what + "renewals p99, polls p99", ours: fmt.Sprintf("%v, %v", out.Renewals.Latency.At(0.99).Round(time.Microsecond), out.Polls.Latency.At(0.99).Round(time.Microsecond))})
	b.add(row{what: what + "share of one CPU, resident MiB", ours: fmt.Sprintf("%.0f %%, %d", 100*(after-before).Seconds()/time.Since(start).Seconds(), resident>>20)})
	return out.Fault()
}
