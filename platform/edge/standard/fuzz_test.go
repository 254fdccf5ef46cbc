package standard

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Whatever stands in X-Forwarded-For: the address that comes of it is the peer's, or stands there.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"", "192.0.2.1", "192.0.2.1, 198.51.100.7", "[2001:db8::1]:80,10.0.0.1:5", "unknown", "_hidden", ",,,", "fe80::1%eth0", "::ffff:10.0.0.1", "1.2.3.4:5:6", "[::1", "\x00"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	peer := netip.MustParseAddr("203.0.113.9")
	f.Fuzz(func(t *testing.T, s string, all bool) {
		var h filter.Header
		h.Add("X-Forwarded-For", s)
		tr := &trust{CIDRs: prefixes{netip.MustParsePrefix("10.0.0.0/8")}}
		if all {
			tr.When = "ALWAYS"
		}
		got := clientOf(&h, peer, tr)
		if got == peer {
			return
		}
		if !got.IsValid() || got.Zone() != "" || got.Is4In6() {
			t.Fatalf("%q: got %v", s, got)
		}
		for part := range strings.SplitSeq(s, ",") {
			if a, ok := parseAddr(strings.Trim(part, " \t")); ok && a == got {
				return
			}
		}
		t.Errorf("%q: got %v, which stands nowhere", s, got)
	})
}

// Whatever a client accepts: an encoding is chosen only if it stands there or is matched by *, and never one that is
// refused by name.
func FuzzAcceptEncoding(f *testing.F) {
	for _, s := range []string{"", "gzip", "gzip, deflate, br, zstd", "*;q=0.1, br;q=0", "gzip;q=1.0000", "gzip;q=", "x-gzip", ";;q=1", "br;foo=bar;q=0.3", "GZIP ; Q=0.8"} {
		f.Add(s)
	}
	offered := []string{"zstd", "br", "gzip"}
	f.Fuzz(func(t *testing.T, s string) {
		var h filter.Header
		h.Add("Accept-Encoding", s)
		name := choose(&h, offered)
		if name == "" {
			return
		}
		if low := strings.ToLower(s); !strings.Contains(low, name) && !strings.Contains(s, "*") {
			t.Errorf("%q: chose %s", s, name)
		}
		if q := liking(&h)[slices.Index(known[:], name)]; q < 1 || q > 1000 {
			t.Errorf("%q: chose %s with a quality of %d", s, name, q)
		}
	})
}

// Whatever stands in the fields of traces: what the origin gets is one traceparent that can be read, or none.
func FuzzTrace(f *testing.F) {
	f.Add("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "", "")
	f.Add("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", "", "")
	f.Add("", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90", "")
	f.Add("", "d-", "a3ce929d0e0e4736")
	f.Add("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "0", "0000000000000000")
	e := newEdge(f)
	f.Fuzz(func(t *testing.T, parent, b3, id string) {
		x := get("Traceparent", parent, "B3", b3, "X-B3-TraceId", id, "X-B3-SpanId", "00f067aa0ba902b7")
		if e.run(x); !x.Request.Header.Has("Traceparent") {
			if x.Trace != "" {
				t.Fatalf("trace %q without traceparent", x.Trace)
			}
			return
		}
		got := x.Request.Header.Get("Traceparent")
		if id, ok := traceID(got); (!ok || id != x.Trace) && got != "" || x.Request.Header.Count("Traceparent") != 1 {
			t.Errorf("%q, %q, %q: the origin gets %q, trace %q", parent, b3, id, got, x.Trace)
		}
	})
}
