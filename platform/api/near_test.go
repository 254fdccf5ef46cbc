package api_test

import (
	"testing"

	"github.com/roadbed/roadbed/platform/api"
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
