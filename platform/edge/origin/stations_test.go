package origin

import (
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

func TestAPassportTellsWhenARequestWasConnectedSentAndAnswered(t *testing.T) {
	for _, protocol := range []string{"http1", "h2c"} {
		t.Run(protocol, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { io.Copy(io.Discard, q.Body) }))
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetHTTP1(true)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
			t.Cleanup(srv.Close)
			r := newRig(t, map[string]string{"edge.origin.app.protocol": protocol}, srv.Listener.Addr().String())
			r.fast = true
			for _, tt := range []struct{ method, body, want string }{
				{"GET", "", "ORIGIN_CONN_ACQUIRE_START ORIGIN_CH_CONNECTING ORIGIN_CH_CONNECTED ORIGIN_CONN_ACQUIRE_END OUT_REQ_HEADERS_SENDING OUT_REQ_HEADERS_SENT IN_RESP_HEADERS_RECEIVED"},
				{"POST", "a body", "ORIGIN_CONN_ACQUIRE_START ORIGIN_CONN_ACQUIRE_END OUT_REQ_HEADERS_SENDING OUT_REQ_HEADERS_SENT OUT_REQ_LAST_CONTENT_SENT IN_RESP_HEADERS_RECEIVED"},
			} {
				if status, text, _ := r.ask(tt.method, "/", tt.body); status != 200 {
					t.Fatalf("%s: got %d %s, want 200", tt.method, status, text)
				}
				passport := r.last().passport
				var got []string
				before := ""
				for _, m := range regexp.MustCompile(`\+(\d+)=((?:ORIGIN|OUT_REQ|IN_RESP_HEADERS)\w+)`).FindAllStringSubmatch(passport, -1) {
					got = append(got, m[2])
					if len(m[1]) < len(before) || len(m[1]) == len(before) && m[1] < before {
						t.Errorf("%s: %s is before what comes before it: %s", tt.method, m[2], passport)
					}
					before = m[1]
				}
				s, sooner := strings.Join(got, " "), tt.want
				if protocol == "h2c" { // the answer may be there before the goroutine that sends the body has said so
					sooner = strings.Replace(tt.want, "OUT_REQ_LAST_CONTENT_SENT ", "", 1)
				}
				if s != tt.want && s != sooner {
					t.Errorf("%s:\ngot  %s\nwant %s", tt.method, s, tt.want)
				}
			}
			for name, want := range map[string]int64{"request": 2, "create": 1, "create_success": 1, "reuse": 1} {
				if got := r.meter.Counter("connectionpool_"+name, "id", "app").Count(); got != want {
					t.Errorf("connectionpool_%s: got %d, want %d", name, got, want)
				}
			}
		})
	}
}

func TestClosedConnectionsAreCountedByWhy(t *testing.T) {
	for _, tt := range []struct {
		counter string
		acts    []act
		method  string
		times   int
	}{
		{"headerClose", []act{{raw: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", close: true}}, "GET", 1},
		{"error", []act{{raw: "no HTTP at all\r\n\r\n", close: true}}, "POST", 1},
		{"fromPoolIsClosed", []act{{raw: said200("ok")}, {close: true}, {raw: said200("ok")}}, "GET", 2},
	} {
		s := scripts(t, tt.acts...)
		r := newRig(t, nil, s.addr())
		r.fast = true
		for range tt.times {
			r.ask(tt.method, "/", "")
		}
		if got := r.meter.Counter("connectionpool_"+tt.counter, "id", "app").Count(); got != 1 {
			t.Errorf("connectionpool_%s: got %d, want 1", tt.counter, got)
		}
	}
}

func TestWhoHasAKeyKeepsItsInstanceWhileThatIsThere(t *testing.T) {
	one, two, three := scripts(t, act{raw: said200("1")}), scripts(t, act{raw: said200("2")}), scripts(t, act{raw: said200("3")})
	r := newRig(t, nil, one.addr(), two.addr(), three.addr())
	var key uint64
	r.change(func(x *filter.Exchange) { x.Affinity = key })
	seen := map[string]bool{}
	var last string
	for key = 1; key <= 20; key++ {
		_, first, _ := r.ask("GET", "/", "")
		for range 5 {
			if _, got, _ := r.ask("GET", "/", ""); got != first {
				t.Fatalf("key %d: asked instance %s, then %s", key, first, got)
			}
		}
		seen[first], last = true, first
	}
	if len(seen) != 3 {
		t.Errorf("20 keys have the instances %v, want all three", seen)
	}
	key = 20
	map[string]*scripted{"1": one, "2": two, "3": three}[last].kill()
	status, second, _ := r.ask("GET", "/", "")
	if status != 200 || second == last {
		t.Fatalf("its instance %s is gone: got %d from %s, want 200 from another", last, status, second)
	}
	for range 5 {
		if _, got, _ := r.ask("GET", "/", ""); got != second {
			t.Errorf("its instance is gone: asked instance %s, then %s", second, got)
		}
	}
}
