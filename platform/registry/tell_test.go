package registry

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// netflix makes a node that is a server of Netflix's to others, and need not wait for them.
func netflix(n *node, c *Config) { n.alike, c.Settings.SyncWait = true, -1 }

func registrationOf(id string, dirty int) string {
	return fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":"h","app":"A","ipAddr":"127.0.0.1","status":"UP",
		"dataCenterInfo":{"name":"MyOwn"},"lastDirtyTimestamp":"%d"}}`, id, dirty)
}

// TestWhatClientsTellOneRegistryAllKnow walks an instance's life at two registries: servers that speak Eureka's protocol
// with each other, registries of our kind, and one of each.
func TestWhatClientsTellOneRegistryAllKnow(t *testing.T) {
	for name, kinds := range map[string][2]func(*node, *Config){"Eureka's": {netflix, netflix}, "ours": {nil, nil}, "both": {nil, netflix}} {
		t.Run(name, func(t *testing.T) { walk(t, kinds) })
	}
}

func walk(t *testing.T, kinds [2]func(*node, *Config)) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a := m.start("a", kinds[0], "a", "b")
		b := m.start("b", kinds[1], "a", "b")
		pass(2 * time.Second)
		for i, st := range []struct {
			at           *node
			method, path string
			body, want   string
		}{
			{a, "POST", "apps/A", registrationOf("i", 10), "UP/-/10/ADDED"},
			{a, "PUT", "apps/A/i?lastDirtyTimestamp=10", "", "UP/-/10/ADDED"},
			{b, "PUT", "apps/A/i/status?value=OUT_OF_SERVICE&lastDirtyTimestamp=10", "", "OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED"},
			{a, "PUT", "apps/A/i?lastDirtyTimestamp=10", "", "OUT_OF_SERVICE/OUT_OF_SERVICE/10/MODIFIED"},
			{a, "POST", "apps/A", registrationOf("i", 20), "OUT_OF_SERVICE/OUT_OF_SERVICE/20/MODIFIED"},
			{b, "PUT", "apps/A/i/metadata?k=v", "", "OUT_OF_SERVICE/OUT_OF_SERVICE/20/MODIFIED"},
			{a, "DELETE", "apps/A/i/status?value=UP", "", "UP/-/20/MODIFIED"},
			{b, "DELETE", "apps/A/i", "", "gone/DELETED"},
		} {
			if code := st.at.do(st.method, st.path, st.body); code/100 != 2 {
				t.Fatalf("step %d: %s %s at %s: got %d", i, st.method, st.path, st.at.host, code)
			}
			pass(200 * time.Millisecond)
			for _, n := range []*node{a, b} {
				if got := n.is("i"); got != st.want && strings.Replace(got, "ADDED", "MODIFIED", 1) != st.want {
					t.Errorf("step %d: %s %s at %s: 200 ms later %s has %s, want %s", i, st.method, st.path, st.at.host, n.host, got, st.want)
				}
			}
			if a.holds() != b.holds() {
				t.Errorf("step %d: a has\n%s\nb has\n%s", i, a.holds(), b.holds())
			}
		}
	})
}

func TestServerThatWasAwayIsToldEverythingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a := m.start("a", netflix, "a", "b")
		b := m.start("b", netflix, "a", "b")
		pass(2 * time.Second)
		for i := range 600 {
			a.do("POST", "apps/A", registrationOf(fmt.Sprint(i), 10))
		}
		pass(time.Second)
		if got := b.count(); got != 602 {
			t.Fatalf("a second after 600 registrations at a: b has %d instances, want 602", got)
		}
		a.do("PUT", "apps/A/7/status?value=OUT_OF_SERVICE", "")
		pass(time.Second)
		b.stop()
		a.do("PUT", "apps/A/8/status?value=OUT_OF_SERVICE", "")
		a.do("DELETE", "apps/A/9", "")
		pass(time.Minute)
		b = m.start("b", netflix, "b") // and it copies nothing
		for i := range 600 {
			a.do("PUT", fmt.Sprintf("apps/A/%d?lastDirtyTimestamp=10", i), "")
		}
		pass(10 * time.Second)
		if a.holds() != b.holds() {
			t.Errorf("a has\n%.300s\nb has\n%.300s", a.holds(), b.holds())
		}
		if got := b.is("8"); got != "OUT_OF_SERVICE/OUT_OF_SERVICE/10/ADDED" {
			t.Errorf("an override that was set while it was away: got %s", got)
		}
	})
}

// TestPeerKnowsWhatItIsTold drives a registry by random operations, tells a peer now and then, loses the answer or the
// request at times, and compares the two whenever the peer has been told everything.
func TestPeerKnowsWhatItIsTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, box := withBox()
		theirs := New(Config{Log: slog.New(slog.DiscardHandler)})
		ids := rapid.SampledFrom([]string{"1", "2", "3"})
		sts := rapid.SampledFrom([]status{down, outOfService, starting, up})
		dirty := int64(0)
		tell := func(l *lane, fate string) {
			b := batch{now: s.now()}
			news := l.take(2)
			for _, n := range news {
				s.appendNews(&b, n, time.Minute)
			}
			if fate == "request lost" {
				l.back(news)
				return
			}
			items, err := scanBatch(`{"replicationList":[`+string(b.body)+"]}", nil)
			if err != nil || len(items) != len(b.items) {
				t.Fatalf("batch %s: %d items and error %v, want %d", b.body, len(items), err, len(b.items))
			}
			for i := range items {
				var a itemAnswer
				if err := json.Unmarshal(theirs.face.appendResult(nil, &items[i]), &a); err != nil {
					t.Fatal(err)
				}
				if fate == "told" {
					s.heed(l, b.items[i], a)
				}
			}
			if fate == "answer lost" {
				l.back(news)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"register": func(t *rapid.T) {
				dirty++
				s.register(reg("A", ids.Draw(t, "id"), sts.Draw(t, "status"), dirty), origin{native: rapid.Bool().Draw(t, "native")})
			},
			"renew": func(t *rapid.T) {
				s.renew(key{"A", ids.Draw(t, "id")}, origin{}, 0, unknown)
			},
			"override": func(t *rapid.T) {
				s.setOverride(key{"A", ids.Draw(t, "id")}, sts.Draw(t, "status"), 0, origin{})
			},
			"clear": func(t *rapid.T) {
				s.clearOverride(key{"A", ids.Draw(t, "id")}, sts.Draw(t, "then"), rapid.Bool().Draw(t, "own"), 0, origin{})
			},
			"metadata": func(t *rapid.T) {
				s.setMeta(key{"A", ids.Draw(t, "id")}, []pair{{"k", rapid.StringN(0, 3, -1).Draw(t, "value")}}, origin{})
			},
			"cancel": func(t *rapid.T) { s.cancel(key{"A", ids.Draw(t, "id")}) },
			"tell": func(t *rapid.T) {
				tell(&box.lanes[rapid.IntRange(0, lanes-1).Draw(t, "lane")], rapid.SampledFrom([]string{"told", "told", "request lost", "answer lost"}).Draw(t, "fate"))
			},
			"tell everything": func(t *rapid.T) {
				for round := 0; ; round++ {
					waits := false
					for i := range box.lanes {
						if _, ok := box.lanes[i].oldest(); ok {
							waits = true
							tell(&box.lanes[i], "told")
						}
					}
					if !waits {
						break
					}
					if round > 50 {
						t.Fatal("there is always more to tell")
					}
				}
				mine, peers := (&node{Registry: &Registry{s: s}}).holds(), (&node{Registry: theirs}).holds()
				if mine != peers {
					t.Fatalf("here\n%s\nat the peer\n%s", mine, peers)
				}
			},
		})
	})
}

func TestRegistryOpensWhenAPeerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		old := m.start("old", netflix)
		for i := range 300 {
			old.do("POST", "apps/A", registrationOf(fmt.Sprint(i), 10))
		}
		old.do("PUT", "apps/A/7/status?value=OUT_OF_SERVICE", "")
		m.cut("old", "young", true)
		young := m.start("young", nil, "old", "young")
		pass(5 * time.Second)
		for _, path := range []string{"apps", "apps/delta", "apps/A", "vips/a", "svips/a"} {
			if got := young.do("GET", path, ""); got != 403 {
				t.Errorf("GET %s before any peer answered: got %d, want 403", path, got)
			}
		}
		if got := young.do("GET", "apps/EUREKA/young:eureka:8761", ""); got != 200 {
			t.Errorf("one instance before any peer answered: got %d, want 200", got)
		}
		if young.Health() == nil {
			t.Error("before any peer answered: healthy, want a reason why not")
		}
		if got := young.do("POST", "apps/A", registrationOf("new", 10)); got != 204 {
			t.Errorf("registering before any peer answered: got %d, want 204", got)
		}
		m.cut("old", "young", false)
		pass(3 * time.Second)
		if got := young.do("GET", "apps", ""); got != 200 || young.Health() != nil {
			t.Errorf("3 s after the link is mended: got %d and health %v, want 200", got, young.Health())
		}
		if got := young.count(); got != 302 {
			t.Errorf("copied: got %d instances, want 300, one of our own client's and ourselves", got)
		}
		if got := young.is("7"); got != "OUT_OF_SERVICE/OUT_OF_SERVICE/10/ADDED" {
			t.Errorf("an overridden instance: got %s, want it out of service", got)
		}
		if got := old.count(); got != 302 {
			t.Errorf("at the peer: got %d instances, want what the new registry heard too", got)
		}
	})
}

func TestRegistryOpensAloneWhenNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		n := m.start("n", nil, "gone", "n")
		pass(29 * time.Second)
		if got := n.do("GET", "apps", ""); got != 403 {
			t.Errorf("after 29 s: got %d, want 403", got)
		}
		pass(2 * time.Second)
		if got := n.do("GET", "apps", ""); got != 200 {
			t.Errorf("after 31 s: got %d, want 200", got)
		}
		alone := m.start("alone", func(_ *node, c *Config) { c.Settings.SyncWait = -1 }, "gone")
		if got := alone.do("GET", "apps", ""); got != 200 {
			t.Errorf("with waitTimeInMsWhenSyncEmpty=0: got %d at once, want 200", got)
		}
	})
}

func TestRegistriesThatStartTogetherDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a := m.start("a", nil, "a", "b")
		c := m.start("c", nil, "b", "gone")
		time.Sleep(4 * time.Second)
		if got := a.do("GET", "apps", ""); got != 403 {
			t.Errorf("a while b does not answer: got %d, want 403", got)
		}
		b := m.start("b", nil, "a", "b", "c")
		time.Sleep(3 * time.Second)
		for _, n := range []*node{a, b} {
			if got := n.do("GET", "apps", ""); got != 200 {
				t.Errorf("%s 3 s after all have started: got %d, want 200", n.host, got)
			}
		}
		if got := c.do("GET", "apps", ""); got != 200 {
			t.Errorf("c 3 s after one of its peers has opened: got %d, want 200", got)
		}
		d := m.start("d", nil, "e", "gone")
		m.start("e", nil, "d", "gone")
		time.Sleep(10 * time.Second)
		if got := d.do("GET", "apps", ""); got != 403 {
			t.Errorf("d while one of its peers has just started and the other does not answer: got %d, want 403", got)
		}
	})
}

func TestRegistryIsAnInstanceAtItsPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a := m.start("a", netflix, "a", "b")
		b := m.start("b", func(n *node, c *Config) {
			netflix(n, c)
			c.Settings.Peers["other"] = []string{"http://B:8761/eureka"} // itself, spelled otherwise
			c.Location.Zone = "zone-b"
		}, "a", "b")
		pass(3 * time.Second)
		a.s.mu.RLock()
		rec := *a.s.find(key{"EUREKA", "b:eureka:8761"}).rec
		a.s.mu.RUnlock()
		if rec.host != "b" || rec.status != up || rec.port != (port{8761, true}) || rec.zone() != "zone-b" {
			t.Errorf("b at a: got %+v, want it UP at b:8761 in zone-b", rec)
		}
		status := httptest.NewRecorder()
		b.ServeHTTP(status, httptest.NewRequest("GET", "/eureka/status", nil))
		for _, want := range []string{"<registered-replicas>http://a:8761/eureka/<", "<available-replicas>http://a:8761/eureka/,<", "<unavailable-replicas><", "<hostName>b<"} {
			if !strings.Contains(status.Body.String(), want) {
				t.Errorf("status of b: got %s, want %s in it", status.Body, want)
			}
		}
		b.stop()
		pass(time.Second)
		if got := a.do("GET", "apps/EUREKA/b:eureka:8761", ""); got != 404 {
			t.Errorf("b at a after it ended: got %d, want 404", got)
		}
		pass(3 * time.Minute)
		if got := a.do("GET", "apps/EUREKA/a:eureka:8761", ""); got != 200 {
			t.Errorf("a at itself after three minutes: got %d, want 200", got)
		}
		status = httptest.NewRecorder()
		a.ServeHTTP(status, httptest.NewRequest("GET", "/eureka/status", nil))
		if want := "<unavailable-replicas>http://b:8761/eureka/,<"; !strings.Contains(status.Body.String(), want) {
			t.Errorf("status of a: got %s, want %s in it", status.Body, want)
		}
	})
}

// stub is a peer whose answers are scripted; it notes what it was sent.
type stub struct {
	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request)
	at     []time.Time
	bodies []string
	last   http.Header
}

// told returns the bodies that came since it was last asked.
func (s *stub) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := strings.Join(s.bodies, "")
	s.bodies = nil
	return got
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/peerreplication/batch/") {
		w.WriteHeader(404)
		return
	}
	body, _ := io.ReadAll(r.Body) //nolint:errcheck // what is missing shows
	s.mu.Lock()
	s.at, s.bodies, s.last = append(s.at, time.Now()), append(s.bodies, string(body)), r.Header
	s.mu.Unlock()
	s.answer(w, r)
}

// withStub runs a registry whose peer is st and returns it with a function that tells it of a renewal.
func withStub(t *testing.T, st *stub) *node {
	m := newMesh(t)
	m.serve("stub", st)
	n := m.start("n", func(_ *node, c *Config) {
		c.Settings.MyURL, c.Settings.SyncWait = "", -1
		c.Settings.Peers = map[string][]string{"z": {"http://ana:secret@stub:8761/eureka"}}
	}, "stub")
	synctest.Wait()
	return n
}

func TestBusyPeerIsLeftAloneAndABrokenOneMoreAndMore(t *testing.T) {
	tests := []struct {
		name   string
		answer func(w http.ResponseWriter, r *http.Request)
		least  time.Duration // between the first attempts
		within int           // attempts in a minute
	}{
		{"503", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, time.Second, 60},
		{"late", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 6 * time.Second, 10},
		{"breaks off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 50 * time.Millisecond, 25},
	}
	for _, tt := range tests {
		synctest.Test(t, func(t *testing.T) {
			st := &stub{answer: tt.answer}
			n := withStub(t, st)
			long := reg("A", "i", up, 10)
			long.renewal = 3600
			n.s.register(long, origin{})
			pass(time.Minute)
			st.mu.Lock()
			defer st.mu.Unlock()
			if len(st.at) < 3 || len(st.at) > tt.within || st.at[1].Sub(st.at[0]) < tt.least {
				t.Errorf("%s: got %d attempts in a minute, the second after %v; want 3 to %d, and %v at least", tt.name, len(st.at), st.at[1].Sub(st.at[0]), tt.within, tt.least)
			}
			for _, body := range st.bodies {
				if strings.Count(body, `"action"`) != 1 {
					t.Errorf("%s: got %s, want the one registration each time", tt.name, body)
				}
			}
		})
	}
}

func TestRefusedBatchIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &stub{answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }}
		n := withStub(t, st)
		n.do("POST", "apps/A", registrationOf("i", 10))
		pass(time.Minute)
		if len(st.at) != 1 {
			t.Errorf("answered 401: got %d attempts in a minute, want 1", len(st.at))
		}
		h := st.last
		who, password, _ := (&http.Request{Header: h}).BasicAuth()
		if who != "ana" || password != "secret" || h.Get("DiscoveryIdentity-Name") != "DefaultServer" || h.Get("DiscoveryIdentity-Version") != "1.0" ||
			h.Get("DiscoveryIdentity-Id") == "" || h.Get("X-Netflix-Discovery-Replication") != "" || h.Get("Content-Type") != "application/json" {
			t.Errorf("headers of a batch: got %v, want ana's password, a server's identity and JSON", h)
		}
		if p := (*n.peers.list.Load())[0]; strings.Contains(p.name(), "secret") || p.up.Load() {
			t.Errorf("the peer is %s, up %v; want no password in its name, and down", p.name(), p.up.Load())
		}
	})
}

func TestWhatIsTooOldIsNotTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		st := &stub{answer: func(w http.ResponseWriter, _ *http.Request) {
			if broken.Load() {
				w.WriteHeader(503)
				return
			}
			io.WriteString(w, `{"responseList":[]}`) //nolint:errcheck // the peer is gone if this fails
		}}
		n := withStub(t, st)
		for _, id := range []string{"ended", "decided", "registered", "renewed"} {
			r := reg("A", id, up, 10)
			r.renewal, r.duration = 3600, 7200
			n.s.register(r, origin{replicated: true})
		}
		n.s.cancel(key{"A", "ended"})
		n.s.setOverride(key{"A", "decided"}, down, 0, origin{})
		n.s.renew(key{"A", "renewed"}, origin{}, 0, unknown)
		quick := reg("A", "registered", up, 10)
		quick.renewal, quick.duration = 10, 7200
		n.s.register(quick, origin{})
		pass(3700 * time.Second)
		broken.Store(false)
		st.told() // what it refused
		pass(time.Minute)
		if got := st.told(); got != "" {
			t.Errorf("told an hour late: %s, want nothing", got)
		}
		n.s.renew(key{"A", "renewed"}, origin{}, 0, unknown)
		pass(time.Second)
		if got := st.told(); strings.Count(got, `"action"`) != 1 || !strings.Contains(got, `"id":"renewed","lastDirtyTimestamp":10,"status":"UP","action":"Heartbeat"`) {
			t.Errorf("told after a renewal: %s, want that renewal", got)
		}
	})
}
