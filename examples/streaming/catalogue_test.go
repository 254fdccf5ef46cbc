package streaming

import (
	"reflect"
	"slices"
	"testing"
)

func TestCatalogueIsTheSameInEveryProcess(t *testing.T) {
	a, b := newCatalogue(), newCatalogue()
	if !reflect.DeepEqual(a, b) {
		t.Fatal("two catalogues differ")
	}
	// Instances of two builds run side by side during a deployment, so that an accidental change of the invention
	// would break play in between. Whoever changes it on purpose changes this number too.
	var all []string
	for _, x := range a.titles {
		all = append(all, x.ID)
	}
	if got, want := hash(all...), uint64(0xafd456fad47a5250); got != want {
		t.Errorf("hash of all titles: got %#x, want %#x", got, want)
	}
}

func TestCatalogueHasRowsForEverybody(t *testing.T) {
	c := newCatalogue()
	if len(c.titles) != titleCount || len(c.byID) != titleCount {
		t.Fatalf("got %d titles with %d ids, want %d of both", len(c.titles), len(c.byID), titleCount)
	}
	for _, row := range c.order {
		if s, ok := c.shelf(row, 18, 0, 8); !ok || len(s.Titles) < 8 {
			t.Errorf("row %s for adults: got %d titles, want 8", row, len(s.Titles))
		}
	}
	for _, row := range []string{"popular", "new", "family", "animation"} {
		s, _ := c.shelf(row, 7, 0, 8)
		if len(s.Titles) < 4 {
			t.Errorf("row %s for children: got %d titles, want at least 4", row, len(s.Titles))
		}
		for _, x := range s.Titles {
			if x.Maturity > 7 {
				t.Errorf("row %s for children has %q, made for age %d", row, x.Name, x.Maturity)
			}
		}
	}
	if _, ok := c.shelf("nothing", 18, 0, 8); ok {
		t.Error("row nothing: got one, want none")
	}
}

func TestShelfPagesCoverARowWithoutRepeats(t *testing.T) {
	c := newCatalogue()
	var seen []string
	for offset := 0; ; offset += 20 {
		s, _ := c.shelf("drama", 18, offset, 20)
		if len(s.Titles) == 0 {
			break
		}
		for _, x := range s.Titles {
			seen = append(seen, x.ID)
		}
	}
	if want := len(c.rows["drama"]); len(seen) != want {
		t.Errorf("pages of drama hold %d titles, want %d", len(seen), want)
	}
	slices.Sort(seen)
	if got := len(slices.Compact(seen)); got != len(c.rows["drama"]) {
		t.Errorf("pages of drama hold %d different titles, want %d", got, len(c.rows["drama"]))
	}
}

func TestMemberIDs(t *testing.T) {
	for id, want := range map[string]int{"m00001": 1, "m10000": 10000, "m00000": 0, "m10001": 0, "m1": 0, "00001": 0, "m-0001": 0, "m+0001": 0,
		"": 0, "m000001": 0, "M00001": 0} {
		got, ok := memberNumber(id)
		if ok != (want != 0) || ok && got != want {
			t.Errorf("memberNumber(%q): got %d, %v, want %d", id, got, ok, want)
		}
	}
	for _, n := range []int{1, 42, memberCount} {
		if got, ok := memberNumber(memberID(n)); !ok || got != n {
			t.Errorf("member %d named %s is read back as %d, %v", n, memberID(n), got, ok)
		}
	}
}

func TestEveryMemberHasTastesThatAreRows(t *testing.T) {
	c := newCatalogue()
	children := 0
	for n := 1; n <= memberCount; n++ {
		m, ok := member(memberID(n))
		if !ok || m.Name == "" || m.Country == "" || len(m.Tastes) != 2 || m.Tastes[0] == m.Tastes[1] {
			t.Fatalf("member %d is %+v", n, m)
		}
		for _, row := range m.Tastes {
			if c.names[row] == "" {
				t.Fatalf("member %s likes %q, which is no row", m.ID, row)
			}
		}
		if m.Maturity == 7 {
			children++
		}
	}
	if children < memberCount/15 || children > memberCount/7 {
		t.Errorf("got %d children among %d members, want about a tenth", children, memberCount)
	}
}

func TestRankSuitsTheMember(t *testing.T) {
	c := newCatalogue()
	share := func(whim float64) (liked float64) {
		total := 0
		for n := 1; n <= 200; n++ {
			m, _ := member(memberID(n))
			ids := rank(c, m.ID, m.Tastes, m.Maturity, whim, 16)
			if len(ids) != 16 {
				t.Fatalf("member %s got %d titles, want 16", m.ID, len(ids))
			}
			seen := map[string]bool{}
			for _, id := range ids {
				x, ok := c.title(id)
				if !ok || seen[id] || x.Maturity > m.Maturity {
					t.Fatalf("member %s (age %d) is offered %q: known %v, repeated %v, for age %d", m.ID, m.Maturity, id, ok, seen[id], x.Maturity)
				}
				seen[id] = true
				total++
				if slices.Contains(m.Tastes, x.row) {
					liked++
				}
			}
		}
		return liked / float64(total)
	}
	control, explore := share(150), share(400)
	if control < 0.5 || explore >= control {
		t.Errorf("titles to a member's taste: control %.2f, explore %.2f; want control above 0.5 and explore below control", control, explore)
	}
}

func TestHistoryForgetsTheOldestMembers(t *testing.T) {
	c := newCatalogue()
	h := newHistory(nil)
	first := c.titles[0].ID
	for n := 1; n <= 5001; n++ {
		h.watch(c, memberID(n), first, 60)
	}
	if got := len(h.seen); got != 5000 {
		t.Errorf("after 5001 members: remembers %d, want 5000", got)
	}
	if _, ok := h.seen[memberID(1)]; ok {
		t.Error("the first member is still remembered")
	}
	if got := h.of(c, memberID(5001)); got[0] != (Resume{first, 60}) {
		t.Errorf("the last member's latest: got %+v, want %s at 60", got[0], first)
	}
}

func TestHistoryKeepsTheLatestFirstAndThePoint(t *testing.T) {
	c := newCatalogue()
	h := newHistory(nil)
	id := memberID(7)
	for i := range 12 {
		h.watch(c, id, c.titles[i].ID, 10*i)
	}
	if got := h.watch(c, id, c.titles[9].ID, -1); got != (Resume{c.titles[9].ID, 90}) {
		t.Errorf("watching again without a point: got %+v, want the old point 90", got)
	}
	list := h.of(c, id)
	if len(list) != 8 || list[0].Title != c.titles[9].ID || list[1].Title != c.titles[11].ID {
		t.Errorf("got %+v, want 8 points, title 9 first, 11 second", list)
	}
	seen := map[string]bool{}
	for _, r := range list {
		if seen[r.Title] {
			t.Errorf("%s is listed twice", r.Title)
		}
		seen[r.Title] = true
	}
}
