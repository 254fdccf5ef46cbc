package discovery

import (
	"testing"

	"github.com/roadbed/roadbed"
)

func TestTheHealthPathIsToldAsAURL(t *testing.T) {
	for path, want := range map[string]string{"": "", "/healthcheck": "https://h:8443/healthcheck", "up?deep=1": "https://h:8443/up?deep=1"} {
		i := roadbed.Instance{Host: "h", Port: 8443, Secure: true, Metadata: map[string]string{HealthPath: path}}
		if got := toWire(i, 0).HealthURL; got != want {
			t.Errorf("healthCheckPath %q: got %q, want %q", path, got, want)
		}
	}
}
