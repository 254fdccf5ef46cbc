package config

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var me = Scope{App: "api", Instance: "i-1"}

func TestTheServerIsToldWhatWasTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{Scope: me})
		p.Int("i", 1)
		time.Sleep(time.Minute)
		if got := s.told(); len(got) != 0 {
			t.Errorf("before the server said anything: got %+v, want silence", got)
		}
		s.send(t, "snapshot", Snapshot{Rev: 4, Properties: map[string]string{"i": "5"}})
		s.set(t, 5, "i", "6")
		s.set(t, 6, "i", "7")
		time.Sleep(ackSpread)
		synctest.Wait()
		if got, want := s.told(), []Ack{{Instance: "i-1", Rev: 6}}; !reflect.DeepEqual(got, want) {
			t.Errorf("after three events in a moment: got %+v, want one ack %+v", got, want)
		}
		s.send(t, "hash", Hash{Rev: 9, Sum: Sum(map[string]string{"i": "7"})})
		time.Sleep(ackSpread)
		synctest.Wait()
		if got, want := s.told(), []Ack{{Instance: "i-1", Rev: 9}}; !reflect.DeepEqual(got, want) {
			t.Errorf("after a hash of a newer revision: got %+v, want %+v", got, want)
		}
		s.send(t, "hash", Hash{Rev: 9, Sum: Sum(map[string]string{"i": "7"})})
		time.Sleep(ackSpread)
		synctest.Wait()
		if got := s.told(); len(got) != 0 {
			t.Errorf("after nothing new: got %+v, want silence", got)
		}
	})
}

func TestAValueOfNoUseIsToldAtOnceAndWithoutTheValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{Scope: me})
		p.Int("db.port", 1)
		p.Int("db.port", 2) // another handle of the same key: one error
		if _, err := Bind(p, "x.", touchyRange{N: 1}); err != nil {
			t.Fatal(err)
		}
		s.send(t, "snapshot", Snapshot{Rev: 4, Properties: map[string]string{}})
		time.Sleep(ackSpread)
		synctest.Wait()
		s.told()
		s.set(t, 5, "db.port", "hunter2")
		if got, want := s.told(), []Ack{{Instance: "i-1", Rev: 5, Errors: []Flaw{{"db.port", "its value is not a whole number"}}}}; !reflect.DeepEqual(got, want) {
			t.Errorf("without a moment's delay: got %+v, want %+v", got, want)
		}
		s.set(t, 6, "x.n", "11")
		got := s.told()
		if len(got) != 1 || len(got[0].Errors) != 2 || got[0].Errors[1] != (Flaw{"x.n", "n is 11; it must be from 0 to 10"}) {
			t.Errorf("a struct that refuses: got %+v, want its error beside the first", got)
		}
		s.set(t, 7, "db.port", "5432")
		s.set(t, 8, "x.n", "3")
		time.Sleep(ackSpread)
		synctest.Wait()
		if got := s.told(); len(got) == 0 || len(got[len(got)-1].Errors) != 0 || got[len(got)-1].Rev != 8 {
			t.Errorf("all mended: got %+v, want an ack of 8 without errors last", got)
		}
		s.set(t, 9, "late", "no number")
		time.Sleep(ackSpread)
		synctest.Wait()
		s.told()
		p.Float("late", 1) // asked for when the value is long there
		synctest.Wait()
		if got := s.told(); len(got) != 1 || len(got[0].Errors) != 1 {
			t.Errorf("a handle made later: got %+v, want its error told", got)
		}
	})
}

type touchyRange struct{ N int }

func (r *touchyRange) Validate() error { return Between("n", r.N, 0, 10) }

func TestAServerThatDoesNotListenIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := started(t, Options{Scope: me})
		s.deaf = true
		s.send(t, "snapshot", Snapshot{Rev: 4, Properties: map[string]string{"i": "x"}})
		for range 60 { // half an hour, in which the stream stays alive
			time.Sleep(30 * time.Second)
			s.send(t, "hash", Hash{Rev: 4, Sum: Sum(map[string]string{"i": "x"})})
		}
		if n := len(s.told()); n < 20 || n > 150 {
			t.Errorf("acks in half an hour to a deaf server: got %d, want 20 to 150", n)
		}
		s.mu.Lock()
		s.deaf = false
		s.mu.Unlock()
		time.Sleep(30 * time.Second)
		s.send(t, "hash", Hash{Rev: 4, Sum: Sum(map[string]string{"i": "x"})})
		time.Sleep(30 * time.Second)
		if n := len(s.told()); n != 1 {
			t.Errorf("acks once it listens: got %d, want 1", n)
		}
	})
}

func TestWhoHasNoNameTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s := started(t, Options{Scope: Scope{App: "api"}})
		s.send(t, "snapshot", Snapshot{Rev: 4, Properties: map[string]string{}})
		time.Sleep(10 * time.Second)
		if got := s.told(); len(got) != 0 {
			t.Errorf("got %+v, want nothing", got)
		}
	})
}

func TestWhatWasChangedTogetherIsSeenTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type pair struct{ A, B int }
		p, s := started(t, Options{})
		v, err := Bind(p, "", pair{})
		if err != nil {
			t.Fatal(err)
		}
		var seen []string
		p.Prefix("", func(m map[string]string) { seen = append(seen, m["a"]+m["b"]) })
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"a": "1", "b": "1"}})
		two := "2"
		s.send(t, "change", Change{Rev: 2, Key: "a", Value: &two, More: true})
		if got := *v.Get(); got != (pair{1, 1}) {
			t.Errorf("half-way: got %+v, want {1 1}", got)
		}
		s.send(t, "change", Change{Rev: 2, Key: "b", Value: &two})
		if got := *v.Get(); got != (pair{2, 2}) {
			t.Errorf("after both: got %+v, want {2 2}", got)
		}
		three := "3"
		s.send(t, "change", Change{Rev: 3, Key: "a", Value: &three, More: true})
		s.setDown(true) // the rest is lost
		s.setDown(false)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		s.set(t, 4, "c", "1")
		if got := *v.Get(); got != (pair{2, 2}) {
			t.Errorf("half a change, then a new stream: got %+v, want {2 2}", got)
		}
		if got := strings.Join(seen, " "); got != " 11 22 22" {
			t.Errorf("seen by prefix: got %q", got)
		}
	})
}
