package interop

import (
	"slices"
	"strings"
	"testing"
)

// TestEachOperationOfNetflixsTransportIsAnsweredAsItExpects calls what DiscoveryClient is built on, one operation after
// another, in the words of either path, the second with user and password in the URL.
func TestEachOperationOfNetflixsTransportIsAnsweredAsItExpects(t *testing.T) {
	t.Parallel()
	needJava(t)
	for _, tt := range []struct {
		name string
		s    *server
		path string
	}{{"Netflix's path", newServer(t), "v2/"}, {"Spring's path, with a password", newGuarded(t, "secret"), ""}} {
		t.Run(tt.name, func(t *testing.T) {
			jvm := start(t, "java/run", "netflix", "Transport", tt.s.base()+tt.path)
			jvm.await("ready")
			for _, step := range []struct {
				order string
				want  string // status, and instances, parted by spaces
			}{
				{"apps", "200"}, {"delta", "200"}, {"app WIRE", "404"}, {"instance a", "404"}, {"any a", "404"}, {"vip wire.vip", "200"},
				{"register a UP", "204"}, {"register b STARTING", "204"},
				{"apps", "200 WIRE/a/UP WIRE/b/STARTING"}, {"delta", "200 WIRE/a/UP WIRE/b/STARTING"}, {"app wire", "200 WIRE/a/UP WIRE/b/STARTING"},
				{"vip wire.vip", "200 WIRE/a/UP WIRE/b/STARTING"}, {"vip WIRE.VIP", "200"}, {"vip other", "200"},
				{"instance a", "200 WIRE/a/UP"}, {"any b", "200 WIRE/b/STARTING"},
				{"heartbeat a", "200"}, {"register b UP", "204"}, {"heartbeat b", "200"}, {"instance b", "200 WIRE/b/UP"},
				{"status a OUT_OF_SERVICE", "200"}, {"heartbeat a", "200"}, {"instance a", "200 WIRE/a/OUT_OF_SERVICE"}, {"delta", "200 WIRE/a/OUT_OF_SERVICE WIRE/b/UP"},
				{"clear a", "200"}, {"instance a", "200 WIRE/a/UNKNOWN"}, {"heartbeat a", "404"}, {"register a UP", "204"}, {"heartbeat a", "200"}, {"instance a", "200 WIRE/a/UP"},
				{"cancel b", "200"}, {"cancel b", "404"}, {"heartbeat b", "404"}, {"status b DOWN", "404"}, {"clear b", "404"},
				{"apps", "200 WIRE/a/UP"}, {"app WIRE", "200 WIRE/a/UP"}, {"any b", "404"},
				{"cancel a", "200"}, {"app WIRE", "404"}, {"apps", "200"},
			} {
				word := strings.Fields(step.order)[0]
				do := func() []string {
					got := jvm.order(step.order, word)
					if len(got) > 1 {
						slices.Sort(got[1:])
					}
					return []string{strings.Join(got, " ")}
				}
				switch word {
				case "register", "heartbeat", "status", "clear", "cancel":
					if got := do()[0]; got != step.want {
						t.Fatalf("%s: got %s, want %s", step.order, got, step.want)
					}
				default: // a list may be a moment old
					eventually(t, step.order, do, step.want)
				}
			}
			jvm.order("stop", "stop")
		})
	}
}
