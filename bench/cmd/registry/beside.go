//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/roadbed/roadbed/bench/fleet"
	"github.com/roadbed/roadbed/bench/process"
)

const (
	few  = 100    // instances before memory is compared
	many = 10_000 // instances in what is compared

	warmLeast = 30 * time.Second
	warmMost  = 75 * time.Second
)

// beside compares a node of ours with a stock Eureka server. The two take turns.
func (b *bench) beside() error {
	ours, err := b.startRoadbed(node{})
	if err != nil {
		return err
	}
	defer ours.Stop()
	theirs, err := b.startEureka()
	if err != nil {
		return err
	}
	defer theirs.Stop()
	pair := []*server{ours, theirs}

	if err := b.memory(ours, theirs); err != nil {
		return err
	}
	if err := warm(theirs); err != nil {
		return err
	}

	type kind struct {
		what  string
		load  fleet.Load
		items float64
		next  func(s *server) func([]byte, int) []byte
		bar   float64
	}
	for _, k := range []kind{
		{"heartbeats, one a request, as fast as they are answered", fleet.Load{Conns: 32}, 1, heartbeats, 10},
		{"heartbeats, 5,000 a second on 2,000 connections", fleet.Load{Conns: 2000, Rate: 5000}, 1, heartbeats, 0},
		{"registrations that change an instance", fleet.Load{Conns: 32}, 1, func(s *server) func([]byte, int) []byte {
			return func(buf []byte, i int) []byte { return s.Register(buf, i%many, fmt.Sprintf("v%d", i)) }
		}, 0},
		{"all 10,000 instances, JSON, gzip", fleet.Load{Conns: 4}, 1, gets("/apps/", true), 10},
		{"all 10,000 instances, JSON, not compressed", fleet.Load{Conns: 4}, 1, gets("/apps/", false), 0},
		{"delta of 10,000 instances, JSON, gzip", fleet.Load{Conns: 4}, 1, gets("/apps/delta", true), 0},
		{"replicated renewals, 250 a batch", fleet.Load{Conns: 8, Keep: true, Answer: allRenewed}, batch, func(s *server) func([]byte, int) []byte { return batches(s, many) }, 0},
	} {
		for _, s := range pair { // leases may have run out meanwhile
			if err := s.register(0, many, "v1"); err != nil {
				return err
			}
		}
		sum, err := b.turns(pair, k.load, k.next)
		if err != nil {
			return fmt.Errorf("%s: %w", k.what, err)
		}
		r := row{what: k.what + ", by CPU second of the server"}
		o, t := sum[0].perCPU()*k.items, sum[1].perCPU()*k.items
		r.ours, r.theirs, r.ratio = number(o), number(t), fmt.Sprintf("%.1f", o/t)
		if k.bar > 0 {
			r.bar, r.ok = fmt.Sprintf("≥ %g", k.bar), o/t >= k.bar
		}
		b.add(r)
		r = row{what: "the same: a second; p99"}
		o, t = sum[0].perSecond()*k.items, sum[1].perSecond()*k.items
		r.ours, r.theirs, r.ratio = number(o)+"; "+short(sum[0]), number(t)+"; "+short(sum[1]), fmt.Sprintf("%.1f", o/t)
		b.add(r)
		if n := sum[0].Bytes / int64(sum[0].Answers); n > 10_000 {
			b.add(row{what: "the same: bytes of an answer", ours: number(float64(n)), theirs: number(float64(sum[1].Bytes) / float64(sum[1].Answers))})
		}
	}
	return b.bare()
}

func short(s spent) string { return s.Latency.At(0.99).Round(10 * time.Microsecond).String() }

// bareEnv holds the port of this program when it is a server that answers whatever it is asked with nothing.
const bareEnv = "ROADBED_BENCH_BARE"

// bare measures such a server: what the kernel alone needs for a request on a connection that is kept alive.
func (b *bench) bare() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		return err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", bareEnv, ports[0]))
	s, err := start("the bare server", filepath.Join(b.dir, "bare.log"), ports[0], "/eureka", "/", cmd)
	if err != nil {
		return err
	}
	defer s.Stop()
	for _, k := range []struct {
		what string
		load fleet.Load
	}{{"as fast as they are answered", fleet.Load{Conns: 32}}, {"5,000 a second on 2,000 connections", fleet.Load{Conns: 2000, Rate: 5000}}} {
		sum, err := b.turns([]*server{s}, k.load, heartbeats)
		if err != nil {
			return err
		}
		b.add(row{what: "for comparison: a server that answers everything with nothing, unread, " + k.what + ", by its CPU second", ours: number(sum[0].perCPU())})
	}
	return nil
}

// serveBare answers every piece that arrives.
func serveBare(port string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buf := make([]byte, 4096)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
				if _, err := c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")); err != nil {
					return
				}
			}
		}()
	}
}

func heartbeats(s *server) func([]byte, int) []byte {
	return func(buf []byte, i int) []byte { return s.Heartbeat(buf, i%many) }
}

func gets(path string, gzip bool) func(*server) func([]byte, int) []byte {
	return func(s *server) func([]byte, int) []byte {
		return func(buf []byte, _ int) []byte { return s.Get(buf, path, gzip) }
	}
}

// allRenewed checks the answer to a batch: each item is told of, and none is wrong.
func allRenewed(_, status int, body []byte) error {
	if n := bytes.Count(body, []byte(`"statusCode":200`)); status != http.StatusOK || n != batch {
		return fmt.Errorf("status %d, and %d of %d renewals done", status, n, batch)
	}
	return nil
}

// batch is how many renewals a peer sends at once.
const batch = 250

func batches(s *server, instances int) func([]byte, int) []byte {
	var made [][]byte
	for from := 0; from+batch <= instances; from += batch {
		made = append(made, s.Batch(nil, from, from+batch))
	}
	return func(buf []byte, i int) []byte { return append(buf, made[i%len(made)]...) }
}

// spent is what a server did in some loads, and the processor time it took.
type spent struct {
	fleet.Report
	cpu time.Duration
}

func (s *spent) perCPU() float64    { return float64(s.Answers) / s.cpu.Seconds() }
func (s *spent) perSecond() float64 { return float64(s.Answers) / s.Took.Seconds() }

// turns loads the servers in turn, as fast as they answer. Not one answer may be wrong.
func (b *bench) turns(servers []*server, l fleet.Load, next func(*server) func([]byte, int) []byte) ([]spent, error) {
	l.For = b.phase
	sum := make([]spent, len(servers))
	for range b.rounds {
		for i, s := range servers {
			l.Next = next(s)
			one, err := s.load(l)
			if err != nil {
				return nil, err
			}
			sum[i].cpu += one.cpu
			sum[i].Answers += one.Answers
			sum[i].Bytes += one.Bytes
			sum[i].Took += one.Took
			sum[i].Latency.Merge(&one.Latency)
		}
	}
	return sum, nil
}

// load runs l against s and says what it cost s. Not one answer may be wrong.
func (s *server) load(l fleet.Load) (*spent, error) {
	l.Addr = s.Addr
	before, err := s.Used()
	if err != nil {
		return nil, err
	}
	r, err := l.Run()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	after, err := s.Used()
	if err != nil {
		return nil, err
	}
	if r.Wrong > 0 {
		return nil, fmt.Errorf("%s: %d of %d answers were wrong; the first: %w", s.Name, r.Wrong, r.Wrong+r.Answers, r.Why)
	}
	return &spent{*r, after - before}, nil
}

// register registers instances from to to.
func (s *server) register(from, to int, mark string) error {
	_, err := s.load(fleet.Load{Conns: 16, Count: to - from, Next: func(buf []byte, i int) []byte { return s.Register(buf, from+i, mark) }})
	return err
}

// warm lets a JVM find out what it does often: a little of everything in turn, until it gets no faster.
func warm(s *server) error {
	heartbeats := func(buf []byte, i int) []byte { return s.Heartbeat(buf, i%many) }
	registers := func(buf []byte, i int) []byte { return s.Register(buf, i%many, fmt.Sprintf("w%d", i)) }
	var last float64
	for start := time.Now(); ; {
		var rate float64
		for _, next := range []func([]byte, int) []byte{heartbeats, registers, gets("/apps/", true)(s), gets("/apps/", false)(s), gets("/apps/delta", true)(s)} {
			one, err := s.load(fleet.Load{Conns: 16, For: 2 * time.Second, Next: next})
			if err != nil {
				return err
			}
			if rate == 0 {
				rate = one.perCPU()
			}
		}
		log.Printf("%s warms up: %.0f heartbeats by CPU second", s.Name, rate)
		if took := time.Since(start); took >= warmLeast && rate < 1.05*last || took > warmMost {
			return nil
		}
		last = rate
	}
}

// memory compares what 10,000 instances take.
func (b *bench) memory(ours, theirs *server) error {
	type level struct{ asIs, collected int64 }
	look := func(s *server) (l level, err error) {
		if l.asIs, err = s.Resident(); err != nil || s == ours {
			return l, err
		}
		if err := s.collect(); err != nil {
			return l, err
		}
		l.collected, err = s.Resident()
		return l, err
	}
	grow := map[*server]level{}
	touch := func(s *server) error {
		for _, path := range []string{"/apps/", "/apps/delta"} { // as clients fetch them
			if _, err := s.load(fleet.Load{Conns: 1, Count: 1, Next: gets(path, true)(s)}); err != nil {
				return err
			}
		}
		return nil
	}
	for _, s := range []*server{ours, theirs} {
		if err := s.register(0, few, "v0"); err != nil {
			return err
		}
		if err := touch(s); err != nil {
			return err
		}
		before, err := look(s)
		if err != nil {
			return err
		}
		if err := s.register(few, many, "v1"); err != nil {
			return err
		}
		if err := s.knows(many); err != nil {
			return err
		}
		if err := touch(s); err != nil {
			return err
		}
		after, err := look(s)
		if err != nil {
			return err
		}
		grow[s] = level{(after.asIs - before.asIs) / (many - few), (after.collected - before.collected) / (many - few)}
	}
	o, t := grow[ours].asIs, grow[theirs]
	b.add(row{what: "memory by instance, each as it is, bytes", ours: number(float64(o)), theirs: number(float64(t.asIs)),
		ratio: fmt.Sprintf("%.3f", float64(o)/float64(t.asIs)), bar: "≤ 0.1", ok: 10*o <= t.asIs})
	b.add(row{what: "memory by instance, the JVM's after a forced collection, bytes", ours: number(float64(o)), theirs: number(float64(t.collected)),
		ratio: fmt.Sprintf("%.3f", float64(o)/float64(t.collected)), bar: "≤ 0.1", ok: 10*o <= t.collected})
	return nil
}

// knows checks that s lists n instances of the fleet.
func (s *server) knows(n int) error {
	for start := time.Now(); ; time.Sleep(time.Second) { // Eureka's read-only cache is 30 seconds old
		got, err := s.count()
		if err != nil {
			return err
		}
		if got == n {
			return nil
		}
		if time.Since(start) > time.Minute {
			return fmt.Errorf("%s lists %d instances, want %d", s.Name, got, n)
		}
	}
}

// count fetches everything and counts the fleet.
func (s *server) count() (n int, err error) {
	req, err := http.NewRequest(http.MethodGet, s.base+s.Path+"/apps/", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("fetch everything of %s: %w", s.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, fmt.Errorf("fetch everything of %s: %w", s.Name, err)
	}
	var doc struct {
		Applications *struct {
			Application []struct {
				Name     string            `json:"name"`
				Instance []json.RawMessage `json:"instance"`
			} `json:"application"`
		} `json:"applications"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return 0, fmt.Errorf("everything of %s: %w", s.Name, err)
	}
	if doc.Applications == nil {
		return 0, errors.New(s.Name + " answered without applications")
	}
	for _, a := range doc.Applications.Application {
		if fleet.IsApp(a.Name) { // and not the registry itself
			n += len(a.Instance)
		}
	}
	return n, nil
}

// number writes v with three digits and a comma between thousands.
func number(v float64) string {
	if v < 100 {
		return fmt.Sprintf("%.3g", v)
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
