package api_test

import (
	"testing"

	"github.com/roadbed/roadbed/platform/api"
	"pgregory.net/rapid"
)

func TestDistanceCountsLettersAndPrefixesAreNear(t *testing.T) {
	for _, tt := range []struct {
		asked, have string
		want        int
	}{
		{"", "", 0}, {"api", "api", 0}, {"api", "api-v000", 0}, {"port-ofset", "port-offset", 1},
		{"kitten", "sitting", 3}, {"abc", "", 3}, {"hello-v000", "hello-v001", 1},
	} {
		if got := api.Distance(tt.asked, tt.have); got != tt.want {
			t.Errorf("Distance(%q, %q) = %d, want %d", tt.asked, tt.have, got, tt.want)
		}
	}
}

func TestDistanceIsSymmetricAndZeroOnlyForTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.StringMatching(`[ab]{3,6}x`).Draw(t, "a"), rapid.StringMatching(`[ab]{3,6}x`).Draw(t, "b")
		d, e := api.Distance(a, b), api.Distance(b, a)
		if d != e || (d == 0) != (a == b) || d > max(len(a), len(b)) {
			t.Errorf("distance of %q and %q: got %d and %d", a, b, d, e)
		}
	})
}
