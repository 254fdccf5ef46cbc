package roadbed_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/roadbed/roadbed"
	"pgregory.net/rapid"
)

func TestParseMonikerFollowsFrigga(t *testing.T) {
	tests := []struct {
		name string
		want roadbed.Moniker
	}{
		{"foo", roadbed.Moniker{App: "foo", Sequence: -1}},
		{"foo-v030", roadbed.Moniker{App: "foo", Sequence: 30}},
		{"foo-v123456", roadbed.Moniker{App: "foo", Sequence: 123456}},
		{"foo-staging-bar-v031", roadbed.Moniker{App: "foo", Stack: "staging", Detail: "bar", Sequence: 31}},
		{"foo--d-e-v000", roadbed.Moniker{App: "foo", Detail: "d-e", Sequence: 0}},
		{"foo-bar-v2", roadbed.Moniker{App: "foo", Stack: "bar", Detail: "v2", Sequence: -1}},
		{"foo.b_r-x", roadbed.Moniker{App: "foo.b_r", Stack: "x", Sequence: -1}},
	}
	for _, tt := range tests {
		got, err := roadbed.ParseMoniker(tt.name)
		if err != nil || got != tt.want {
			t.Errorf("ParseMoniker(%q) = %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
		if got.String() != tt.name {
			t.Errorf("ParseMoniker(%q).String() = %q, want the same name", tt.name, got.String())
		}
	}
}

func TestParseMonikerRefusesWhatIsNoName(t *testing.T) {
	for _, name := range []string{"", "-", "-foo", "foo bar", "foo/bar", "foo-b^r", "-v000", "é"} {
		if m, err := roadbed.ParseMoniker(name); err == nil {
			t.Errorf("ParseMoniker(%q) = %+v, want an error", name, m)
		} else if !strings.Contains(err.Error(), fmt.Sprintf("%q", name)) {
			t.Errorf("ParseMoniker(%q): error %q does not name the input", name, err)
		}
	}
}

func TestMonikerSurvivesWritingAndReading(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := roadbed.Moniker{
			App:      rapid.StringMatching(`[a-zA-Z0-9._]{1,12}`).Draw(t, "app"),
			Stack:    rapid.StringMatching(`[a-zA-Z0-9._]{0,8}`).Draw(t, "stack"),
			Detail:   rapid.StringMatching(`[-a-zA-Z0-9._~^]{0,12}`).Draw(t, "detail"),
			Sequence: rapid.IntRange(-1, 999999).Draw(t, "sequence"),
		}
		if m.Validate() != nil {
			return
		}
		got, err := roadbed.ParseMoniker(m.String())
		if err != nil || got != m {
			t.Fatalf("ParseMoniker(%q) = %+v, %v; want %+v", m.String(), got, err, m)
		}
	})
}

func TestNextSequenceWrapsAndSkipsTheTaken(t *testing.T) {
	free := func(roadbed.Moniker) bool { return false }
	for from, want := range map[int]int{-1: 0, 0: 1, 998: 999, 999: 0} {
		if got, err := (roadbed.Moniker{App: "a", Sequence: from}).Next(free); err != nil || got.Sequence != want {
			t.Errorf("after %d: got %d, %v; want %d", from, got.Sequence, err, want)
		}
	}
	got, err := (roadbed.Moniker{App: "a", Sequence: 5}).Next(func(m roadbed.Moniker) bool { return m.Sequence < 9 })
	if err != nil || got.Sequence != 9 {
		t.Errorf("with v000-v008 taken, after v005: got %v, %v; want a-v009", got, err)
	}
	if _, err := (roadbed.Moniker{App: "a"}).Next(func(roadbed.Moniker) bool { return true }); err == nil {
		t.Error("with every sequence taken: got no error")
	}
}

func FuzzParseMoniker(f *testing.F) {
	for _, s := range []string{"foo-staging-bar-v031", "foo--d-e-v000", "a-v999999", "--", "-v000", "a-v000-v000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := roadbed.ParseMoniker(s)
		if err != nil {
			return
		}
		again, err := roadbed.ParseMoniker(m.String())
		if err != nil || again != m {
			t.Fatalf("%q reads as %+v, written %q, read again %+v, %v", s, m, m.String(), again, err)
		}
	})
}

func ExampleParseMoniker() {
	m, _ := roadbed.ParseMoniker("api-prod-canary-v003")
	fmt.Println(m.App, m.Stack, m.Detail, m.Sequence, m.Cluster())
	// Output: api prod canary 3 api-prod-canary
}
