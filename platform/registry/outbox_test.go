package registry

import (
	"fmt"
	"testing"
)

// withBox returns a state with one peer, and that peer's outbox.
func withBox() (*state, *outbox) {
	s, b := newState(""), newOutbox()
	s.peers = &outboxes{}
	s.peers.list.Store(&[]*outbox{b})
	return s, b
}

// waiting empties b and returns what was in it, without times.
func (b *outbox) waiting() map[key]slot {
	m := make(map[key]slot)
	for i := range b.lanes {
		for _, n := range b.lanes[i].take(1 << 20) {
			n.since, n.last = 0, 0
			m[n.key] = n.slot
		}
	}
	return m
}

func TestPeersAreToldWhatClientsSayAndNotWhatPeersSay(t *testing.T) {
	k := key{"A", "i"}
	ops := []struct {
		name string
		do   func(*state, origin)
		want slot
	}{
		{"register", func(s *state, o origin) { s.register(reg("A", "i", up, 20), o) }, slot{registered: true}},
		{"renew", func(s *state, o origin) { s.renew(k, o, 0, unknown) }, slot{renewed: true}},
		{"override", func(s *state, o origin) { s.setOverride(k, down, 0, o) }, slot{decided: overrode, status: down}},
		{"clear", func(s *state, o origin) { s.clearOverride(k, up, false, 0, o) }, slot{decided: cleared, status: up}},
		{"metadata", func(s *state, o origin) { s.setMeta(k, []pair{{"a", "b"}}, o) }, slot{registered: true}},
		{"cancel", func(s *state, o origin) {
			if o.replicated {
				s.endedElsewhere(k, 0)
				return
			}
			s.cancel(k)
		}, slot{ended: true, dirty: 10}},
	}
	for _, op := range ops {
		for _, replicated := range []bool{false, true} {
			s, b := withBox()
			s.register(reg("A", "i", up, 10), origin{replicated: true})
			if op.name == "clear" {
				s.setOverride(k, outOfService, 0, origin{replicated: true})
			}
			op.do(s, origin{replicated: replicated})
			got, told := b.waiting()[k]
			if told == replicated || told && got != op.want {
				t.Errorf("%s, replicated %v: told %v %+v, want %+v when it is not replicated", op.name, replicated, told, got, op.want)
			}
		}
	}
	s, b := withBox()
	s.register(reg("A", "i", up, 10), origin{replicated: true})
	s.find(k).lease.renewed.Store(-int64(1e12))
	if s.evict([]*entry{s.find(k)}, s.now()); len(b.waiting()) != 0 {
		t.Error("an eviction was told to a peer, want it kept to ourselves")
	}
	s.renew(k, origin{}, 0, unknown)
	s.setOverride(k, down, 0, origin{})
	s.cancel(k)
	if m := b.waiting(); len(m) != 0 {
		t.Errorf("operations on nobody: told %v, want nothing", m)
	}
}

func TestAnInstanceHasOneSlotHoweverMuchHappensToIt(t *testing.T) {
	register, beat, end := slot{registered: true}, slot{renewed: true}, slot{ended: true, dirty: 7}
	override, lift := slot{decided: overrode, status: down}, slot{decided: cleared, status: up}
	tests := []struct {
		happened []slot
		want     slot
	}{
		{[]slot{beat, beat}, slot{renewed: true}},
		{[]slot{beat, register}, slot{renewed: true, registered: true}},
		{[]slot{register, override}, slot{registered: true, decided: overrode, status: down}},
		{[]slot{override, register}, slot{registered: true, decided: overrode, status: down}},
		{[]slot{override, register, lift}, slot{registered: true, decided: cleared, status: up}},
		{[]slot{override, lift}, slot{registered: true, decided: cleared, status: up}},
		{[]slot{register, lift}, slot{registered: true, decided: cleared, status: up}},
		{[]slot{lift, override}, slot{registered: true, decided: overrode, status: down}},
		{[]slot{register, override, register}, slot{registered: true, decided: overrode, status: down}},
		{[]slot{register, override, end}, end},
		{[]slot{end, register}, slot{registered: true, decided: cleared, status: unknown}},
		{[]slot{end, register, end}, end},
		{[]slot{end, register, override}, slot{registered: true, decided: overrode, status: down}},
	}
	for _, tt := range tests {
		// However the slots were gathered, the outcome is the same: what is given back after a failure goes below.
		for cut := range len(tt.happened) {
			l := &newOutbox().lanes[0]
			k := key{"A", "i"}
			for _, n := range tt.happened[:cut] {
				l.put(k, n)
			}
			early := l.take(10)
			for _, n := range tt.happened[cut:] {
				l.put(k, n)
			}
			l.back(early)
			got := l.take(10)
			if len(got) != 1 || got[0].slot != tt.want && len(tt.happened) > 1 {
				t.Errorf("%+v, %d of them taken and given back: got %+v, want %+v", tt.happened, cut, got, tt.want)
			}
		}
	}
}

func TestLanesKeepTheOrderInWhichInstancesCameIn(t *testing.T) {
	l := &newOutbox().lanes[0]
	next := 0
	for i := range 1000 {
		l.put(key{"A", fmt.Sprint(i)}, slot{since: int64(i), renewed: true})
		if i%3 == 2 {
			for _, n := range l.take(2) {
				if n.id != fmt.Sprint(next) {
					t.Fatalf("taken: got %s, want %d", n.id, next)
				}
				next++
			}
		}
		if since, ok := l.oldest(); ok != (next <= i) || ok && since != int64(next) {
			t.Fatalf("oldest after %d: got %d, %v; want %d", i, since, ok, next)
		}
	}
	if got := len(l.take(1 << 20)); got != 1000-next {
		t.Errorf("left: got %d, want %d", got, 1000-next)
	}
	if _, ok := l.oldest(); ok {
		t.Error("an empty lane has an oldest slot")
	}
	select {
	case <-l.ready:
	default:
		t.Error("a lane that was filled gave no signal")
	}
}

func BenchmarkRenewWithPeers(b *testing.B) {
	r := filled(b, 10_000)
	r.s.peers = &outboxes{}
	boxes := []*outbox{newOutbox(), newOutbox()}
	r.s.peers.list.Store(&boxes)
	ks := make([]key, 0, 10_000)
	for i := range 10_000 {
		ks = append(ks, key{fmt.Sprintf("APP%d", i/20), fmt.Sprintf("web-%d.internal:shop:8080", i)})
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if res, _ := r.s.renew(ks[n%len(ks)], origin{}, 0, unknown); res != done {
			b.Fatal(res)
		}
	}
}
