package interop

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
)

// shelf is a real store of properties behind HTTP, which counts what it answered and can be away.
type shelf struct {
	t     *testing.T
	store *properties.Store
	url   string
	away  atomic.Bool

	mu       sync.Mutex
	answered map[string]int // by path and status
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	e, err := engine.Open(t.Context(), engine.Config{Dir: t.TempDir(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{t: t, answered: make(map[string]int)}
	if s.store, err = properties.New(t.Context(), properties.Config{Engine: e, Ledger: l, Log: quiet}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.store.Run(ctx) }) //nolint:errcheck // it always ends with nil
	h := s.store.Handler()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.away.Load() {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				conn.(*net.TCPConn).SetLinger(0) //nolint:errcheck // it is closed all the same
				conn.Close()
			}
			return
		}
		rec := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(rec, r)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.answered[fmt.Sprint(r.URL.Path, " ", rec.status)]++
	}))
	s.url = srv.URL
	t.Cleanup(func() {
		srv.Close()
		cancel()
		wg.Wait()
		if err := e.Close(); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	return s
}

// statusWriter knows which status was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (s *shelf) count(pathAndStatus string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.answered[pathAndStatus]
}

// set writes a property and returns its id.
func (s *shelf) set(key, value string, scope config.Scope) string {
	s.t.Helper()
	p, err := s.store.Set(properties.AllowGlobal(api.As(s.t.Context(), "ana", "interop")), properties.Property{Key: key, Value: value, Scope: scope}, properties.Any)
	if err != nil {
		s.t.Fatalf("set %s=%s: %v", key, value, err)
	}
	return p.ID
}

func (s *shelf) delete(id string) {
	s.t.Helper()
	if err := s.store.Delete(properties.AllowGlobal(api.As(s.t.Context(), "ana", "interop")), id, properties.Any); err != nil {
		s.t.Fatal(err)
	}
}

// words are values that a format must not alter. (Archaius 1 itself takes a comma for a list, and drops spaces after it.)
var words = map[string]string{
	"plain": "750", "list": "a,b,c", "unicode": "grüß Gott: 世界 😀", "spaces": "  lead and trail  ", "signs": `a=b:c#d!e\f"g'`, "lines": "one\ntwo\r\tthree",
	"key with = and : signs": "x", "größe": "7", "brace": "{\"a\":1}", "empty": "",
}

func TestArchaius1FollowsPropertiesLive(t *testing.T) {
	t.Parallel()
	needJava(t)
	s := newShelf(t)
	api := config.Scope{App: "api"}
	s.set("timeout", "1000", config.Scope{})
	own := s.set("timeout", "900", api)
	s.set("timeout", "700", config.Scope{App: "api", Zone: "zone-b"})
	s.set("timeout", "1", config.Scope{App: "other"})
	for k, v := range words {
		s.set(k, v, api)
	}
	jvm := start(t, "java/run", "netflix", "Archaius1", s.url+"/config/v1/properties/api.properties?zone=zone-a")
	jvm.await("ready")
	order := func(o string) func() []string {
		return func() []string { return jvm.order(o, strings.Fields(o)[0]) }
	}
	eventually(t, "it reads its own app's", order("get timeout"), "900")
	eventually(t, "as a number", order("int timeout"), "900")
	for k, v := range words {
		if !strings.Contains(k, " ") {
			eventually(t, "the value of "+k, order("get "+k), v)
		}
	}
	s.set("timeout", "800", api)
	eventually(t, "a change arrives", order("get timeout"), "800")
	eventually(t, "as a number too", order("int timeout"), "800")
	eventually(t, "its callback is called once", order("called timeout"), "1")
	s.delete(own)
	eventually(t, "what is deleted falls back", order("get timeout"), "1000")
	eventually(t, "an absent one is absent", order("get new"), "absent")
	created := s.set("new", "here", api)
	eventually(t, "a new one arrives", order("get new"), "here")
	s.away.Store(true)
	s.delete(created)
	polls := s.count("/config/v1/properties/api.properties 200")
	eventually(t, "while the server is away it keeps what it had", order("get new"), "here")
	s.away.Store(false)
	eventually(t, "and follows when it is back", order("get new"), "absent")
	eventually(t, "its callback was called for coming and going", order("called new"), "2")
	if got := s.count("/config/v1/properties/api.properties 200"); got <= polls {
		t.Errorf("polls answered after the server's return: got %d in all, want more than the %d before", got, polls)
	}
	jvm.order("stop", "stop")
}

func TestArchaius2FollowsPropertiesLive(t *testing.T) {
	t.Parallel()
	needJava(t)
	s := newShelf(t)
	mine := config.Scope{App: "api", Env: "prod"}
	s.set("timeout", "1000", config.Scope{})
	own := s.set("timeout", "900", mine)
	s.set("timeout", "1", config.Scope{App: "api", Env: "test"})
	region := s.set("timeout", "800", config.Scope{App: "api", Env: "prod", Region: "us-east-1,eu-west-1"})
	for k, v := range words {
		s.set(k, v, mine)
	}
	jvm := start(t, "java/run", "netflix", "Archaius2", s.url+"/config/archaius2", s.url+"/config/v1/properties/api.properties?env=prod&region=eu-west-1",
		"appId=api", "env=prod", "region=eu-west-1")
	jvm.await("ready")
	order := func(o string) func() []string {
		return func() []string { return jvm.order(o, strings.Fields(o)[0]) }
	}
	for _, how := range []string{"get", "file"} {
		eventually(t, how+": it reads the most specific", order(how+" timeout"), "800")
		for k, v := range words {
			if !strings.Contains(k, " ") {
				eventually(t, how+": the value of "+k, order(how+" "+k), v)
			}
		}
	}
	eventually(t, "it reads numbers", order("int timeout"), "800")
	idle := s.count("/config/archaius2 200")
	eventually(t, "while nothing changes it is told so", func() []string { return []string{fmt.Sprint(s.count("/config/archaius2 304") >= 2)} }, "true")
	if got := s.count("/config/archaius2 200"); got != idle {
		t.Errorf("whole answers while nothing changed: got %d more, want none", got-idle)
	}
	s.set("timeout", "750", config.Scope{App: "api", Env: "prod", Region: "eu-west-1,us-east-1"})
	for _, how := range []string{"get", "file", "int"} {
		eventually(t, how+": a change arrives", order(how+" timeout"), "750")
	}
	eventually(t, "who subscribed is called once", order("called timeout"), "1")
	s.delete(region)
	for _, how := range []string{"get", "file", "int"} {
		eventually(t, how+": what is deleted falls back to the app's", order(how+" timeout"), "900")
	}
	s.away.Store(true)
	s.delete(own)
	eventually(t, "while the server is away it keeps what it had", order("get timeout"), "900")
	s.away.Store(false)
	for _, how := range []string{"get", "file", "int"} {
		eventually(t, how+": it follows when the server is back", order(how+" timeout"), "1000")
	}
	jvm.order("stop", "stop")
}

// TestArchaius2ResolvesAsTheStoreDoes compares what Archaius 2 makes of the records it is sent with what the store
// resolves in Netflix's order, for random records of many keys and random callers.
func TestArchaius2ResolvesAsTheStoreDoes(t *testing.T) {
	t.Parallel()
	needJava(t)
	keys, callers := 1000, 10
	if *soak {
		keys = 10_000
	}
	s := newShelf(t)
	dice := rand.New(rand.NewPCG(3, 4))
	pick := func(of ...string) string { return of[dice.IntN(len(of))] }
	scopes := func(one func() string) config.Scope {
		return config.Scope{
			Env: one(), App: one(), Stack: one(), Region: one(), Zone: one(), Cluster: one(), Group: one(), AMI: one(), Instance: one(), Countries: one(),
		}
	}
	for k := range keys {
		for range 1 + dice.IntN(6) {
			s.set(fmt.Sprintf("key.%d", k), fmt.Sprint(dice.Uint32()), scopes(func() string { return pick("", "", "", "", "", "", "", "a", "b", "a,c", "A,B") }))
		}
	}
	jvm := start(t, "java/run", "netflix", "Archaius2", s.url+"/config/archaius2", s.url+"/config/v1/properties/x.properties", "appId=x")
	jvm.await("ready")
	compared := 0
	for range callers {
		who := scopes(func() string { return pick("a", "b", "c", "A") })
		q := fmt.Sprintf("env=%s appId=%s stack=%s region=%s zone=%s cluster=%s asg=%s ami=%s serverId=%s countries=%s",
			who.Env, who.App, who.Stack, who.Region, who.Zone, who.Cluster, who.Group, who.AMI, who.Instance, who.Countries)
		theirs := jvm.order("resolve "+q, "resolve")
		var snap config.Snapshot
		fetchJSON(t, s.url+"/config/v1/resolve?scopeOrder=netflix&"+strings.ReplaceAll(q, " ", "&"), &snap)
		var ours []string
		for _, k := range slices.Sorted(maps.Keys(snap.Properties)) {
			ours = append(ours, k+"="+snap.Properties[k])
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		compared += keys
		if slices.Equal(ours, theirs) {
			continue
		}
		for _, x := range theirs {
			if !slices.Contains(ours, x) {
				t.Errorf("for %s: Archaius 2 reads %s, the store resolves otherwise", q, x)
			}
		}
		t.Errorf("for %s: Archaius 2 reads %d properties, the store resolves %d", q, len(theirs), len(ours))
	}
	t.Logf("%d keys resolved alike", compared)
	jvm.order("stop", "stop")
}
