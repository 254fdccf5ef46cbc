package registry

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestSnapshotShowsEverybodyAndIsNeverAltered makes snapshots while instances come, change and go, and compares what each
// lists with who is there, then and at the end.
func TestSnapshotShowsEverybodyAndIsNeverAltered(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(*testing.T) {
			s := newState("")
			shows := func(sn *snapshot) (list []string) {
				for _, v := range sn.views {
					if len(v.recs) == 0 || s.now()-v.made > int64(staleTimes) && sn.made == s.now() {
						rt.Errorf("view of %s: %d instances, %v old", v.name, len(v.recs), time.Duration(s.now()-v.made))
					}
					for _, x := range v.recs {
						list = append(list, fmt.Sprint(v.name, x.rec.id, x.rec.status))
					}
				}
				return list
			}
			there := func() (list []string) {
				for _, name := range slices.Sorted(maps.Keys(s.apps)) {
					for _, e := range s.apps[name].order {
						list = append(list, fmt.Sprint(name, e.rec.id, e.rec.status))
					}
				}
				return list
			}
			var taken []*snapshot
			var then [][]string
			for range rapid.IntRange(1, 60).Draw(rt, "steps") {
				app, id := rapid.StringMatching(`[A-F]`).Draw(rt, "app"), rapid.StringMatching(`[1-3]`).Draw(rt, "id")
				switch rapid.SampledFrom([]string{"register", "register", "cancel", "override", "wait", "look", "look"}).Draw(rt, "step") {
				case "register":
					s.register(reg(app, id, rapid.SampledFrom([]status{up, down}).Draw(rt, "status"), 0), origin{})
				case "cancel":
					s.cancel(key{app, id})
				case "override":
					s.setOverride(key{app, id}, outOfService, 0, origin{})
				case "wait":
					time.Sleep(rapid.SampledFrom([]time.Duration{time.Millisecond, 10 * time.Second, time.Minute}).Draw(rt, "for"))
				default:
					taken, then = append(taken, s.current("")), append(then, there())
					if got, want := shows(taken[len(taken)-1]), then[len(then)-1]; !slices.Equal(got, want) {
						rt.Fatalf("a snapshot: got %v, want %v", got, want)
					}
					sn := taken[len(taken)-1]
					c := rapid.SampledFrom([]codec{jsonFull, xmlCompact}).Draw(rt, "codec")
					sameAsPlain(rt, sn.delta(), c)
					got, want := bytes.Join(sn.delta().parts(c), nil), bytes.Join(sn.makeDelta("", &past{}).parts(c), nil)
					if !bytes.Equal(got, want) {
						rt.Fatalf("a delta that builds on the last one: got %s, want %s as without that", got, want)
					}
				}
				for name := range s.touched {
					if _, listed := slices.BinarySearchFunc(s.listed, name, viewNamed); s.apps[name] == nil && !listed {
						rt.Errorf("application %s is remembered, though it is neither there nor listed", name)
					}
				}
			}
			for i, sn := range taken {
				if got := shows(sn); !slices.Equal(got, then[i]) {
					rt.Errorf("snapshot %d of %d, later: got %v, want %v", i, len(taken), got, then[i])
				}
			}
		})
	})
}

func TestDeltaTakesFromTheLastOneWhatIsTheSame(t *testing.T) {
	s := newState("")
	for _, app := range []string{"A", "B", "C"} {
		s.register(reg(app, "1", up, 0), origin{})
	}
	first := s.current("").delta().views
	s.setOverride(key{"B", "1"}, outOfService, 0, origin{})
	s.register(reg("AB", "1", up, 0), origin{})
	then := s.current("").delta().views
	if len(then) != 4 || then[0] != first[0] || then[2] == first[1] || then[3] != first[2] {
		t.Errorf("views of A, AB, B and C after B changed and AB came: got %v, before them %v; want those of A and C again", then, first)
	}
}

func TestListsOfVeryManyAreMadeAnewEveryTenMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newState("")
		for i := range longList + 1 {
			s.register(reg(fmt.Sprint("A", i/100), fmt.Sprint(i), up, 0), origin{})
		}
		change := func() { s.setMeta(key{"A0", "0"}, []pair{{"at", fmt.Sprint(s.log.version)}}, origin{}) }
		sn := s.current("")
		change()
		next := s.current("")
		if next == sn {
			t.Error("after a change, nobody having read a list: got the former snapshot, want a new one")
		}
		next.delta()
		change()
		time.Sleep(coalesce - time.Microsecond)
		if s.current("") != next {
			t.Error("before ten milliseconds are over: got a new snapshot, want that of which a list was made")
		}
		time.Sleep(time.Microsecond)
		if s.current("") == next {
			t.Error("after ten milliseconds: got the former snapshot, want a new one")
		}
	})
}
