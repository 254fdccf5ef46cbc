package registry

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// counted is a connection that counts what is written to it.
type counted struct {
	net.Conn
	wrote atomic.Int64
}

func (c *counted) Write(b []byte) (int, error) {
	c.wrote.Add(int64(len(b)))
	return c.Conn.Write(b)
}

// connect lets a and b share what they know until stop is called: a asks, and both tell. The connections that come back
// are a's end and b's.
func connect(a, b *state) (ends [2]*counted, boxes [2]*outbox, stop func()) {
	x, y := net.Pipe()
	ends = [2]*counted{{Conn: x}, {Conn: y}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	yes := func() bool { return true }
	for i, s := range []*state{a, b} {
		boxes[i] = newOutbox()
		s.peers = &outboxes{}
		s.peers.list.Store(&[]*outbox{boxes[i]})
		d := newDuplex(s, boxes[i], ends[i], i == 0, yes)
		go func() { done <- d.run(ctx) }()
	}
	return ends, boxes, func() {
		cancel()
		<-done
		<-done
	}
}

// pass lets time pass, and what it brings happen.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestConnectedRegistriesComeToTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newState(""), newState("")
		rnd := rand.New(rand.NewPCG(1, 2))
		for i := range 3000 {
			k := key{fmt.Sprintf("APP%d", i%50), fmt.Sprint(i)}
			for n, s := range []*state{a, b} {
				version := int64(10)
				switch rnd.IntN(6) {
				case 0:
					continue // only the other has it
				case 1:
					version += int64(n + 1) // one has it newer
				}
				s.register(reg(k.app, k.id, up, version), origin{})
				switch rnd.IntN(10) {
				case 0:
					s.setOverride(k, outOfService, 0, origin{})
				case 1:
					s.setOverride(k, outOfService, 0, origin{})
					s.clearOverride(k, unknown, false, 0, origin{})
				case 2:
					s.setMeta(k, []pair{{"k", fmt.Sprint(n)}}, origin{})
				case 3:
					s.cancel(k)
				}
			}
		}
		_, boxes, stop := connect(a, b)
		defer stop()
		pass(time.Second)
		if a.knows() != b.knows() || *a.digests() != *b.digests() {
			t.Fatalf("a second after they connected: one knows %d instances, the other %d, and they differ", a.count, b.count)
		}
		if at := boxes[0].heard.Load(); at == math.MaxInt64 || at > a.now() {
			t.Errorf("known to be the same since: got %d, want a moment ago", at)
		}
		checkState(t, a)
		checkState(t, b)

		// Nothing is written but digests and beats while nothing happens.
		ends, _, stop2 := connect(a, b)
		defer stop2()
		pass(time.Second)
		before := ends[0].wrote.Load()
		pass(10 * time.Second)
		if n := ends[0].wrote.Load() - before; n > 20_000 {
			t.Errorf("in ten idle seconds: got %d bytes written, want two digests and ten beats", n)
		}
	})
}

func TestTenThousandRenewalsFitInto45KB(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newState(""), newState("")
		ends, _, stop := connect(a, b)
		defer stop()
		pass(time.Second)
		for i := range 10_000 {
			r := reg("WEB", fmt.Sprintf("web-%d.internal:shop:8080", i), up, 10)
			r.duration = 600
			a.register(r, origin{})
		}
		renew := func() int64 {
			before := ends[0].wrote.Load()
			for i := range 10_000 {
				a.renew(key{"WEB", fmt.Sprintf("web-%d.internal:shop:8080", i)}, origin{}, 0, unknown)
			}
			pass(time.Second)
			return ends[0].wrote.Load() - before
		}
		pass(time.Second)
		renew() // the first time they need their names
		pass(30 * time.Second)
		if n := renew(); n > 45<<10 {
			t.Errorf("10,000 renewals: got %d bytes, want at most 45 KB", n)
		}
		now := b.now()
		for _, e := range b.apps["WEB"].order {
			if age := now - e.lease.renewed.Load(); age > int64(2*time.Second) {
				t.Fatalf("%s at the other: last heard %v ago, want a second", e.rec.id, time.Duration(age))
			}
			if _, direct := e.lease.directAge(now); direct {
				t.Fatalf("%s at the other: heard directly, want by a peer", e.rec.id)
			}
		}
		if got := b.renewals.Load(); got != 20_000 {
			t.Errorf("renewals that the other counts: got %d, want 20000", got)
		}
	})
}

func TestRenewalsBringBackWhatTheOtherLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newState(""), newState("")
		_, _, stop := connect(a, b)
		defer stop()
		k := key{"A", "i"}
		a.register(reg("A", "i", up, 10), origin{})
		for _, lose := range []func(){
			func() { // evicted
				b.find(k).lease.renewed.Store(math.MinInt64 / 2)
				b.evict([]*entry{b.find(k)}, b.now())
			},
			func() { // evicted, and back with another entry
				b.find(k).lease.renewed.Store(math.MinInt64 / 2)
				b.evict([]*entry{b.find(k)}, b.now())
				b.register(reg("A", "i", up, 9), origin{replicated: true})
			},
			func() { b.suspect(b.find(k)) },
		} {
			pass(5500 * time.Millisecond) // between two comparisons
			a.renew(k, origin{}, 0, unknown)
			pass(100 * time.Millisecond)
			lose()
			a.renew(k, origin{}, 0, unknown)
			pass(100 * time.Millisecond)
			b.mu.RLock()
			if e := b.find(k); e == nil || e.rec.status != up || b.now()-e.lease.renewed.Load() > int64(time.Second) {
				t.Errorf("after it renewed at one: the other has %s", describe(b, k))
			}
			b.mu.RUnlock()
		}
		pass(10 * time.Second)
		if got := describe(b, k); got != "UP/-/10/MODIFIED" {
			t.Errorf("after a comparison: the other has %s, want version 10", got)
		}
	})
}

// TestSilenceSpreadsToNobody: an instance that fell silent is neither told of nor brought back.
func TestSilenceSpreadsToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newState(""), newState("")
		a.register(reg("A", "dead", up, 10), origin{})
		b.register(reg("A", "alive", up, 10), origin{})
		pass(91 * time.Second)
		b.renew(key{"A", "alive"}, origin{}, 0, unknown)
		_, _, stop := connect(a, b)
		defer stop()
		pass(11 * time.Second)
		if b.find(key{"A", "dead"}) != nil {
			t.Error("an instance whose lease ran out was told to the other registry")
		}
		e := a.find(key{"A", "alive"})
		if e == nil || a.now()-e.lease.renewed.Load() > int64(12*time.Second) {
			t.Errorf("the living one: got %+v, want it told with its age", e)
		}
	})
}

func TestAgesOfLeasesAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newState(""), newState("")
		a.register(reg("A", "i", up, 10), origin{})
		b.register(reg("A", "i", up, 10), origin{replicated: true})
		pass(60 * time.Second)
		a.renew(key{"A", "i"}, origin{}, 0, unknown) // which b did not hear, for they are not connected
		pass(20 * time.Second)
		_, _, stop := connect(a, b)
		defer stop()
		pass(time.Second)
		if age := time.Duration(b.now() - b.find(key{"A", "i"}).lease.renewed.Load()); age < 20*time.Second || age > 22*time.Second {
			t.Errorf("at the other it was last heard %v ago, want 21 s", age)
		}
	})
}

func TestWhoSendsNonsenseIsHungUpOn(t *testing.T) {
	k := key{"A", "i"}
	frames := map[string]func(*frameWriter){
		"an unknown kind":  func(f *frameWriter) { f.begin(99); f.end() },
		"a record cut off": func(f *frameWriter) { f.begin(putFrame); f.age(0); f.body = append(f.body, 1, 2, 3); f.end() },
		"more than a record": func(f *frameWriter) {
			f.begin(putFrame)
			f.age(0)
			f.body = append(shop().appendWire(f.body), 0)
			f.end()
		},
		"a verdict on nobody":  func(f *frameWriter) { f.decided(key{}, verdict{1, true, up}) },
		"a status there isn't": func(f *frameWriter) { f.begin(verdictFrame); f.key(k); f.uint(1); f.body = append(f.body, 77); f.end() },
		"a number of nobody":   func(f *frameWriter) { f.renewed(0, []uint32{5}) },
		"a gap in numbers":     func(f *frameWriter) { f.bind(0, k); f.bind(2, k) },
		"a bucket too high":    func(f *frameWriter) { f.bucket(buckets, nil, nil) },
		"half a digest":        func(f *frameWriter) { f.begin(digestFrame); f.body = append(f.body, make([]byte, 100)...); f.end() },
		"nothing at all":       func(f *frameWriter) { f.out.Write([]byte{0, 0, 0, 0}) },               //nolint:errcheck // it is read at once
		"4 GB":                 func(f *frameWriter) { f.out.Write([]byte{255, 255, 255, 255, 1, 1}) }, //nolint:errcheck // as above
	}
	for name, write := range frames {
		synctest.Test(t, func(t *testing.T) {
			s := newState("")
			mine, theirs := net.Pipe()
			defer mine.Close()
			go io.Copy(io.Discard, mine) //nolint:errcheck // it ends with the connection
			go func() {
				f := frameWriter{out: bufio.NewWriter(mine)}
				write(&f)
				f.out.Flush() //nolint:errcheck // the other side may have hung up
			}()
			start := time.Now()
			err := newDuplex(s, newOutbox(), theirs, false, func() bool { return true }).run(t.Context())
			if !errors.Is(err, errFrame) || time.Since(start) > time.Second {
				t.Errorf("%s: got %v after %v, want it hung up on at once", name, err, time.Since(start))
			}
			checkState(t, s)
		})
	}
}

func TestSilentOrStuckRegistryIsHungUpOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mine, theirs := net.Pipe()
		defer mine.Close()
		go io.Copy(io.Discard, mine) //nolint:errcheck // it ends with the connection
		start := time.Now()
		newDuplex(newState(""), newOutbox(), theirs, false, func() bool { return true }).run(t.Context()) //nolint:errcheck // only how long it takes counts
		if d := time.Since(start); d != silentFor {
			t.Errorf("one that says nothing: hung up on after %v, want %v", d, silentFor)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		mine, theirs := net.Pipe()
		defer mine.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			f := frameWriter{out: bufio.NewWriter(mine)}
			for pause(ctx, time.Second) {
				f.beat()
				f.out.Flush() //nolint:errcheck // the other side hangs up in the end
			}
		}()
		start := time.Now()
		newDuplex(newState(""), newOutbox(), theirs, true, func() bool { return true }).run(t.Context()) //nolint:errcheck // only how long it takes counts
		if d := time.Since(start); d < stuckFor || d > stuckFor+2*time.Second {
			t.Errorf("one that reads nothing: hung up on after %v, want %v", d, stuckFor)
		}
	})
}

// FuzzFrames feeds a registry what anybody may send: it must neither break nor hold what cannot be.
func FuzzFrames(f *testing.F) {
	write := func(fn func(*frameWriter)) {
		var b bytes.Buffer
		w := frameWriter{out: bufio.NewWriter(&b)}
		fn(&w)
		w.out.Flush() //nolint:errcheck // a buffer takes everything
		f.Add(b.Bytes())
	}
	k := key{"SHOP", "web-1.internal:shop:8080"}
	good := shop()
	good.base, good.stamp = up, 5
	write(func(w *frameWriter) {
		w.put(good, time.Second)
		w.bind(0, k)
		w.renewed(time.Second, []uint32{0})
		w.decided(k, verdict{7, true, outOfService})
		w.ended(k, 3)
	})
	write(func(w *frameWriter) {
		w.digest(newState("").digests())
		w.number(markFrame, 1, false)
		w.number(markedFrame, 1, true)
		w.beat()
	})
	write(func(w *frameWriter) {
		w.put(good, 0)
		w.bucket(bucketOf(k.hash64()), []summary{{key: k, dirty: 9, stamp: 1, digest: 3, verdict: verdict{1, false, 0}, age: time.Second}}, []ending{{k, 1}})
		w.want([]key{k, {"A", "b"}})
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newState("")
		s.register(reg("A", "b", up, 5), origin{})
		d := newDuplex(s, newOutbox(), nopConn{bytes.NewReader(b)}, false, func() bool { return true })
		d.dog = time.AfterFunc(time.Hour, func() {})
		defer d.dog.Stop()
		d.out.out = bufio.NewWriter(io.Discard)
		if err := d.read(); err == nil {
			t.Error("reading ended without an error")
		}
		if err := d.answer(); err != nil {
			t.Errorf("answer: %v", err)
		}
		checkState(t, s)
	})
}

type nopConn struct{ io.Reader }

func (nopConn) Write(b []byte) (int, error) { return len(b), nil }
func (nopConn) Close() error                { return nil }

func TestDigestsDifferWhereRegistriesDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := newState(""), newState("")
		for i := range 20 {
			for _, s := range []*state{a, b} {
				s.register(reg("A", fmt.Sprint(i), up, 10), origin{})
			}
		}
		if *a.digests() != *b.digests() {
			t.Fatal("two registries that were told the same: their digests differ")
		}
		k := key{"A", fmt.Sprint(rapid.IntRange(0, 19).Draw(t, "id"))}
		switch rapid.IntRange(0, 4).Draw(t, "change") {
		case 0:
			b.register(reg("A", k.id, up, 11), origin{})
		case 1:
			b.setOverride(k, outOfService, 0, origin{})
		case 2:
			b.setMeta(k, []pair{{"k", "v"}}, origin{})
		case 3:
			b.cancel(k)
		case 4:
			b.find(k).lease.renewed.Store(math.MinInt64 / 2)
		}
		x, y := a.digests(), b.digests()
		for i := range x {
			if (x[i] != y[i]) != (i == bucketOf(k.hash64())) {
				t.Fatalf("bucket %d: differs %v, want only %d to", i, x[i] != y[i], bucketOf(k.hash64()))
			}
		}
	})
}

func BenchmarkDigestsOf100000(b *testing.B) {
	r := filled(b, 100_000)
	r.s.digests()
	for b.Loop() {
		r.s.digests()
	}
}
