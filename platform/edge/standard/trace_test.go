package standard

import (
	"strings"
	"testing"
)

func TestARequestStaysInItsTrace(t *testing.T) {
	const w3c = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	for _, tt := range []struct {
		name   string
		fields []string
		parent string // that the origin gets
	}{
		{"W3C", []string{"traceparent", w3c, "tracestate", "a=1"}, w3c},
		{"a later version", []string{"traceparent", "01" + w3c[2:] + "-more"}, "01" + w3c[2:] + "-more"},
		{"a wrong version", []string{"traceparent", "ff" + w3c[2:]}, ""},
		{"too long for its version", []string{"traceparent", w3c + "-more"}, ""},
		{"capital letters", []string{"traceparent", strings.ToUpper(w3c)}, ""},
		{"no trace", []string{"traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"}, ""},
		{"no span", []string{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01"}, ""},
		{"two", []string{"traceparent", w3c, "traceparent", w3c}, ""},
		{"B3", []string{"b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90"}, "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"},
		{"B3, short, undecided", []string{"b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1"}, "00-000000000000000064fe8b2a57d3eff7-e457b5a2e4d86bd1-00"},
		{"B3, debugged", []string{"b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1-d"}, "00-000000000000000064fe8b2a57d3eff7-e457b5a2e4d86bd1-01"},
		{"B3, only a decision", []string{"b3", "0"}, ""},
		{"B3 in several fields", []string{"X-B3-TraceId", "64fe8b2a57d3eff7", "X-B3-SpanId", "e457b5a2e4d86bd1", "X-B3-Sampled", "1"}, "00-000000000000000064fe8b2a57d3eff7-e457b5a2e4d86bd1-01"},
		{"both", []string{"traceparent", w3c, "b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1"}, w3c},
		{"none", nil, ""},
	} {
		x := newEdge(t).run(get(tt.fields...))
		h := &x.Request.Header
		if h.Get("traceparent") != tt.parent || h.Count("traceparent") > 1 || tt.parent == "" && (h.Has("tracestate") || x.Trace != "") || tt.parent != "" && x.Trace != tt.parent[3:35] {
			t.Errorf("%s: the origin gets %q, trace %q; want %q", tt.name, h.Get("traceparent"), x.Trace, tt.parent)
		}
	}
}

func TestATraceBeginsHereOnlyIfWanted(t *testing.T) {
	seen := map[string]bool{}
	for share, want := range map[string]string{"0": "-00", "1": "-01"} {
		e := newEdge(t, "edge.trace.create", "true", "edge.trace.recorded", share)
		for range 100 {
			x := e.run(get())
			parent := x.Request.Header.Get("traceparent")
			if id, ok := traceID(parent); !ok || id != x.Trace || seen[id] || !strings.HasSuffix(parent, want) {
				t.Fatalf("got %q and trace %q", parent, x.Trace)
			}
			seen[x.Trace] = true
		}
	}
}
