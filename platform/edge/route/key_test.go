package route

import (
	"net/netip"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

func TestAClientIsWhoAsksAndNotTheProxyInFront(t *testing.T) {
	proxy := &filter.Client{Remote: netip.MustParseAddrPort("10.0.0.1:4711")}
	of := func(from string, c *filter.Client) string {
		x := &filter.Exchange{Client: c}
		if from != "" {
			x.From = netip.MustParseAddr(from)
		}
		var buf [64]byte
		v, has := key{kind: byClient}.of(x, &buf)
		if !has {
			return ""
		}
		return string(v)
	}
	for _, tt := range []struct {
		from string
		c    *filter.Client
		want string
	}{{"192.0.2.7", proxy, "192.0.2.7"}, {"", proxy, "10.0.0.1"}, {"2001:db8::7", nil, "2001:db8::7"}, {"", nil, ""}} {
		if got := of(tt.from, tt.c); got != tt.want {
			t.Errorf("asked for by %q over %v: the client is %q, want %q", tt.from, tt.c, got, tt.want)
		}
	}
}
