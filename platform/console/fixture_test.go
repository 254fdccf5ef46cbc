package console

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
)

// fixture answers as the rooms of a small streaming service do, with numbers that move: for whoever works on the
// pages, and for tests. Every 40 s an instance dies and comes back; a fault that blacks services out shows as
// fallbacks.
type fixture struct {
	mux   *http.ServeMux
	start time.Time

	mu      sync.Mutex
	down    map[string]bool // rooms that answer 500; guarded by mu, like all below
	apps    []*fakeApp
	changes []roadbed.Change // oldest first
	faults  []map[string]any
	asked   map[string]int // requests by path
	aborted time.Time      // when somebody stopped the roll-out
}

type fakeApp struct {
	name        string
	criticality roadbed.Criticality
	disabled    bool
	instances   []*fakeInstance
}

type fakeInstance struct {
	ID       string    `json:"id"`
	Group    string    `json:"group"`
	App      string    `json:"app"`
	Zone     string    `json:"zone"`
	Port     int       `json:"port"`
	PID      int       `json:"pid"`
	State    string    `json:"state"`
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"`
	LastExit string    `json:"lastExit,omitempty"`
	Health   string    `json:"health"`
	Reason   string    `json:"reason,omitempty"`

	back time.Time // when a killed one runs again
	out  bool      // an operator took it out of traffic
}

// calls of the made-up service: who, whom, calls per request of a member, median seconds.
var fixtureCalls = []struct {
	from, to  string
	share, at float64
}{
	{"INTERNET", "edge", 1, 0.019}, {"edge", "api", 1, 0.018},
	{"api", "catalog", .9, 0.004}, {"api", "members", .8, 0.003}, {"api", "recommendations", .6, 0.011},
	{"api", "bookmarks", .5, 0.005}, {"api", "abtest", .4, 0.002}, {"api", "playback", .35, 0.009},
	{"playback", "catalog", .35, 0.004}, {"playback", "members", .35, 0.003}, {"playback", "bookmarks", .2, 0.005},
	{"members", "billing", .12, 0.007}, {"recommendations", "catalog", .3, 0.004},
}

func newFixture() *fixture {
	f := &fixture{mux: http.NewServeMux(), start: time.Now(), down: map[string]bool{}, asked: map[string]int{}}
	port := 20000
	for _, a := range []struct {
		name string
		n    int
		c    roadbed.Criticality
	}{{"api", 3, 0}, {"playback", 3, 0}, {"catalog", 3, 0}, {"members", 3, 0}, {"recommendations", 2, roadbed.Degraded},
		{"bookmarks", 3, roadbed.Degraded}, {"abtest", 2, roadbed.BestEffort}, {"billing", 2, roadbed.Degraded}} {
		app := &fakeApp{name: a.name, criticality: a.c}
		for i := range a.n {
			app.instances = append(app.instances, &fakeInstance{
				ID: fmt.Sprintf("%s-v000-%d-%04x", a.name, i+1, 0x7f30+port), Group: a.name + "-v000", App: a.name,
				Zone: "zone-" + string(rune('a'+i)), Port: port, PID: 4000 + port - 20000, State: "RUNNING", Health: "UP",
				Since: f.start.Add(-26 * time.Minute)})
			port++
		}
		f.apps = append(f.apps, app)
		f.record("roadbed", "serverGroup.create", "serverGroup:"+a.name+"-v000", "demo", nil, map[string]any{"instances": a.n, "criticality": a.c})
		f.changes[len(f.changes)-1].Time = f.start.Add(-26 * time.Minute)
	}
	f.record("ana", "property.set", "property:edge.routes", "home page moves to /browse", map[string]any{"routes": []string{"/ -> api"}}, map[string]any{"routes": []string{"/ -> api", "/browse -> api"}})
	for part, h := range map[string]func(*http.Request) any{
		"GET /api/v1/health":                                  func(*http.Request) any { return map[string]any{"status": "UP", "version": "0.1.0"} },
		"GET /api/v1/traffic":                                 f.traffic,
		"GET /api/v1/services":                                f.services,
		"GET /api/v1/registry/instances":                      f.registry,
		"GET /api/v1/registry/status":                         f.node,
		"GET /config/v1/rollouts":                             f.rollouts,
		"POST /config/v1/rollouts/{id}/abort":                 f.abort,
		"GET /api/v1/registry/leases":                         f.leases,
		"GET /api/v1/instances":                               f.fleet,
		"GET /api/v1/clusters":                                f.clusters,
		"GET /api/v1/changes":                                 f.listChanges,
		"GET /api/v1/faults":                                  func(*http.Request) any { return append([]map[string]any{}, f.faults...) },
		"GET /api/v1/graph":                                   f.graph,
		"GET /api/v1/edge/{part}":                             ofEdge,
		"GET /api/v1/regions":                                 ofRegions,
		"POST /api/v1/faults":                                 f.addFault,
		"DELETE /api/v1/faults/{id}":                          f.removeFault,
		"DELETE /api/v1/instances/{id}":                       f.kill,
		"PUT /api/v1/registry/instances/{app}/{id}/status":    func(r *http.Request) any { return f.override(r, true) },
		"DELETE /api/v1/registry/instances/{app}/{id}/status": func(r *http.Request) any { return f.override(r, false) },
		"POST /api/v1/server-groups/{name}/disable":           func(r *http.Request) any { return f.disable(r, true) },
		"POST /api/v1/server-groups/{name}/enable":            func(r *http.Request) any { return f.disable(r, false) },
	} {
		f.mux.HandleFunc(part, func(w http.ResponseWriter, r *http.Request) {
			f.mu.Lock()
			f.asked[r.URL.Path]++
			if f.down[r.URL.Path] {
				f.mu.Unlock()
				api.WriteProblem(w, r, api.Problem(500, "the room is on fire; bring water"))
				return
			}
			f.live()
			v := h(r)
			f.mu.Unlock()
			api.WriteJSON(w, v)
		})
	}
	f.mux.HandleFunc("GET /api/v1/instances/{id}/logs", f.logs)
	return f
}

func (f *fixture) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.mux.ServeHTTP(w, r) }

func (f *fixture) fail(path string, down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[path] = down
}

func (f *fixture) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[path]
}

func (f *fixture) record(actor, action, resource, why string, before, after any) {
	c := roadbed.Change{ID: uint64(len(f.changes) + 1), Time: time.Now(), Actor: actor, Action: action, Resource: resource, Why: why, Result: roadbed.Succeeded}
	if before != nil {
		c.Before, _ = json.Marshal(before)
	}
	if after != nil {
		c.After, _ = json.Marshal(after)
	}
	f.changes = append(f.changes, c)
}

// live lets time pass: instances die and return.
func (f *fixture) live() {
	now := time.Now()
	period := int(now.Sub(f.start) / (40 * time.Second))
	n := 0
	for _, a := range f.apps {
		for _, i := range a.instances {
			n++
			if i.back.IsZero() && period > 0 && period*7%21 == n && now.Sub(f.start)%(40*time.Second) < 2*time.Second {
				f.die(i, "signal: killed")
			}
			switch {
			case i.back.IsZero():
			case now.After(i.back):
				i.back, i.State, i.Health, i.Reason, i.PID = time.Time{}, "RUNNING", "UP", "", i.PID+100
				i.Since = now
			case now.After(i.back.Add(-3 * time.Second)):
				i.State, i.Health, i.Reason = "STARTING", "STARTING", "waiting for the first good health check"
			}
		}
	}
	f.faults = slices.DeleteFunc(f.faults, func(x map[string]any) bool { return now.After(x["expires"].(time.Time)) })
}

func (f *fixture) die(i *fakeInstance, why string) {
	i.State, i.Health, i.Reason, i.LastExit = "BACKOFF", "DOWN", "restarts in a moment", why
	i.Restarts++
	i.back = time.Now().Add(8 * time.Second)
	f.record("fleet", "instance.restart", "instance:"+i.ID, why, map[string]any{"pid": i.PID, "state": "RUNNING"}, map[string]any{"pid": i.PID, "state": "BACKOFF", "restarts": i.Restarts})
}

func (f *fixture) blackedOut(app string) bool {
	return slices.ContainsFunc(f.faults, func(x map[string]any) bool { return strings.Contains(x["rules"].(string), ":"+app+"=") })
}

func (f *fixture) ailing() bool { return int(time.Since(f.start).Seconds())/20%2 == 0 }

func (f *fixture) rate() float64 {
	t := time.Since(f.start).Seconds()
	return 300 + 40*math.Sin(t/25) + 6*rand.Float64()
}

func (f *fixture) traffic(*http.Request) any {
	rate := f.rate()
	node := func(name, class string) map[string]any {
		return map[string]any{"name": name, "renderer": "focusedChild", "class": class}
	}
	nodes := []any{node("INTERNET", "normal"), node("edge", "normal")}
	for _, a := range f.apps {
		zones := map[string]float64{}
		for _, i := range a.instances {
			if i.Health == "UP" {
				zones[i.Zone] = rate / float64(len(a.instances))
			}
		}
		class := "normal"
		switch {
		case f.blackedOut(a.name), a.name == "billing" && f.ailing():
			class = "danger"
		}
		n := node(a.name, class)
		n["metadata"] = map[string]any{"zones": zones}
		nodes = append(nodes, n)
	}
	var conns []any
	for _, c := range fixtureCalls {
		rps := rate * c.share * (0.97 + 0.06*rand.Float64())
		warning, danger, class := 0.0, 0.0, "normal"
		switch {
		case f.blackedOut(c.to):
			warning, rps, class = rps*.92, rps*.08, "warning"
		case c.to == "recommendations":
			warning, class = rps*.03, "warning"
		case c.to == "billing" && f.ailing():
			danger, class = rps*.08, "danger"
		}
		slow := 1 + .2*math.Sin(time.Since(f.start).Seconds()/9+c.at*1000)
		conns = append(conns, map[string]any{"source": c.from, "target": c.to, "class": class,
			"metrics":  map[string]any{"normal": rps, "warning": warning, "danger": danger},
			"metadata": map[string]any{"p50": c.at * slow, "p99": c.at * 4.2 * slow}})
	}
	return map[string]any{
		"renderer": "global", "name": "edge", "maxVolume": 600, "serverUpdateTime": time.Now().UnixMilli(),
		"metadata":    map[string]any{"members": map[string]any{"all": map[string]any{"rps": rate / 3, "success": 0.9997, "p99": 0.081}}},
		"connections": []any{},
		"nodes": []any{map[string]any{"renderer": "region", "name": "local", "layout": "ltrTree", "updated": time.Now().UnixMilli(),
			"maxVolume": 600, "class": "normal", "nodes": nodes, "connections": conns}},
	}
}

func (f *fixture) services(*http.Request) any {
	var out []any
	for _, a := range f.apps {
		zones := map[string]map[string]int{}
		up := 0
		for _, i := range a.instances {
			z := zones[i.Zone]
			if z == nil {
				z = map[string]int{"up": 0, "total": 0}
				zones[i.Zone] = z
			}
			z["total"]++
			if i.Health == "UP" && !a.disabled {
				z["up"]++
				up++
			}
		}
		out = append(out, map[string]any{"name": a.name, "instances": len(a.instances), "up": up, "zones": zones, "criticality": a.criticality})
	}
	return out
}

func (f *fixture) registry(*http.Request) any {
	var out []roadbed.Instance
	for _, a := range f.apps {
		for _, i := range a.instances {
			s := roadbed.ParseStatus(i.Health)
			if a.disabled {
				s = roadbed.OutOfService
			}
			out = append(out, roadbed.Instance{ID: i.ID, App: i.App, Group: i.Group, Host: "127.0.0.1", Port: i.Port, Status: s, Since: i.Since,
				Location: roadbed.Location{Region: "local", Zone: i.Zone}, Metadata: map[string]string{"criticality": a.criticality.String()}})
		}
	}
	return out
}

func (f *fixture) node(*http.Request) any {
	up, out := 0, 0
	for _, a := range f.apps {
		for _, i := range a.instances {
			if i.out || a.disabled {
				out++
			} else {
				up++
			}
		}
	}
	return map[string]any{"self": "registry-zone-a", "location": map[string]any{"region": "local", "zone": "zone-a"}, "since": f.start,
		"warming": time.Since(f.start) < 35*time.Second, "apps": len(f.apps), "instances": up + out, "statuses": map[string]int{"UP": up, "OUT_OF_SERVICE": out}, "overrides": out,
		"preservation": map[string]any{"mode": "normal", "reason": "few instances are late", "since": f.start, "late": 1, "silent": 0, "expected": up * 2, "observed": up*2 - 2},
		"peers": []any{map[string]any{"url": "http://registry-b:8761/eureka/", "tried": true, "reachable": true, "waiting": 3, "lag": 0.1},
			map[string]any{"url": "http://registry-c:8761/eureka/", "tried": true, "reachable": false, "waiting": 21, "lag": time.Since(f.start).Seconds()}}}
}

func (f *fixture) leases(r *http.Request) any {
	rows := []any{}
	for _, a := range f.apps {
		for n, i := range a.instances {
			if q := r.URL.Query().Get("q"); !strings.Contains(i.ID+i.Zone, q) {
				continue
			}
			l := map[string]any{"id": i.ID, "app": a.name, "group": i.Group, "location": map[string]any{"region": "local", "zone": i.Zone},
				"address": fmt.Sprintf("127.0.0.1:%d", i.Port), "says": i.Health, "status": i.Health, "registered": i.Since, "up": i.Since,
				"renewed": time.Now().Add(-time.Duration((time.Now().Unix()+int64(i.Port)*7)%30) * time.Second), "interval": 30, "duration": 90}
			if a.disabled || i.out {
				l["status"], l["override"] = "OUT_OF_SERVICE", "OUT_OF_SERVICE"
			}
			if a.name == "abtest" && n == 1 {
				l["renewed"] = time.Now().Add(-time.Duration(60+time.Now().Unix()%40) * time.Second) // it hangs
			}
			rows = append(rows, l)
		}
	}
	return map[string]any{"leases": rows, "more": 0}
}

func (f *fixture) override(r *http.Request, set bool) any {
	actor, why := asked(r)
	for _, a := range f.apps {
		for _, i := range a.instances {
			if i.ID == r.PathValue("id") {
				i.out = set
				f.record(actor, map[bool]string{true: "instance.override", false: "instance.clearOverride"}[set], "instance:"+a.name+"/"+i.ID, why, nil, nil)
			}
		}
	}
	return nil
}

// rollouts takes a step each 30 s, and begins again after the last.
func (f *fixture) rollouts(*http.Request) any {
	const bake = 30 * time.Second
	gone := time.Since(f.start) % (3 * bake)
	step := int(gone / bake)
	at := time.Now().Add(-gone)
	r := map[string]any{
		"id": "0abc", "changes": []any{map[string]any{"op": "set", "record": map[string]any{"propertyId": "p_1", "key": "api.limit", "value": "40", "appId": "api"},
			"before": map[string]any{"propertyId": "p_1", "key": "api.limit", "value": "20", "appId": "api"}}},
		"steps": []any{map[string]any{"selector": "instances:1", "bake": "30s"}, map[string]any{"selector": "percent:50,zone:zone-a", "bake": "30s"}, map[string]any{"selector": "all", "bake": "30s"}},
		"state": "RUNNING", "phase": "BAKING", "step": step, "since": at.Add(time.Duration(step) * bake), "chosen": []string{"api-v000-2-c850"}, "created": at, "actor": "ana", "why": "the new machines are faster",
		"status":  map[string]any{"reached": step + 1, "lost": 0, "others": 2 - step, "missed": 0, "readers": step + 1, "acked": step + 1, "until": at.Add(time.Duration(step+1) * bake)},
		"history": []any{map[string]any{"at": at, "event": "start", "state": "RUNNING", "step": 0, "actor": "ana", "why": "the new machines are faster"}},
	}
	if !f.aborted.IsZero() {
		r["state"], r["phase"], r["since"], r["reason"], r["status"] = "ROLLED_BACK", "", f.aborted, "stopped by hand", nil
	}
	return map[string]any{"rollouts": []any{r}}
}

func (f *fixture) abort(r *http.Request) any {
	actor, why := asked(r)
	f.aborted = time.Now()
	f.record(actor, "rollout.abort", "rollout:"+r.PathValue("id"), why, nil, nil)
	return map[string]any{}
}

func (f *fixture) fleet(*http.Request) any {
	var out []*fakeInstance
	for _, a := range f.apps {
		for _, i := range a.instances {
			out = append(out, &[]fakeInstance{*i}[0])
		}
	}
	return out
}

func (f *fixture) clusters(*http.Request) any {
	var out []any
	for _, a := range f.apps {
		out = append(out, map[string]any{"name": a.name, "serverGroups": []any{map[string]any{"name": a.name + "-v000", "disabled": a.disabled, "instances": len(a.instances)}}})
	}
	return out
}

func (f *fixture) listChanges(r *http.Request) any {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = 50
	}
	before, err := strconv.Atoi(r.URL.Query().Get("cursor"))
	if err != nil {
		before = len(f.changes) + 1
	}
	out := []roadbed.Change{}
	for i := before - 2; i >= 0 && len(out) < limit; i-- {
		out = append(out, f.changes[i])
	}
	next := ""
	if len(out) > 0 && out[len(out)-1].ID > 1 {
		next = fmt.Sprint(out[len(out)-1].ID)
	}
	return map[string]any{"changes": out, "next": next}
}

func asked(r *http.Request) (actor, why string) {
	why, err := url.PathUnescape(r.Header.Get("Roadbed-Why"))
	if err != nil {
		why = r.Header.Get("Roadbed-Why")
	}
	return r.Header.Get("Roadbed-Actor"), why
}

func (f *fixture) addFault(r *http.Request) any {
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return map[string]any{"error": err.Error()}
	}
	actor, why := asked(r)
	in["id"] = fmt.Sprintf("fault-%d", len(f.changes))
	in["expires"], _ = time.Parse(time.RFC3339, fmt.Sprint(in["expires"]))
	in["actor"], in["why"], in["created"] = actor, why, time.Now()
	f.faults = append(f.faults, in)
	f.record(actor, "fault.add", "fault:"+fmt.Sprint(in["id"]), why, nil, in)
	return in
}

func (f *fixture) removeFault(r *http.Request) any {
	actor, why := asked(r)
	f.faults = slices.DeleteFunc(f.faults, func(x map[string]any) bool {
		if x["id"] != r.PathValue("id") {
			return false
		}
		f.record(actor, "fault.remove", "fault:"+r.PathValue("id"), why, x, nil)
		return true
	})
	return map[string]any{}
}

func (f *fixture) kill(r *http.Request) any {
	actor, why := asked(r)
	for _, a := range f.apps {
		for _, i := range a.instances {
			if i.ID == r.PathValue("id") {
				f.record(actor, "instance.kill", "instance:"+i.ID, why, map[string]any{"pid": i.PID}, nil)
				f.die(i, "signal: killed")
			}
		}
	}
	return map[string]any{}
}

func (f *fixture) disable(r *http.Request, to bool) any {
	actor, why := asked(r)
	for _, a := range f.apps {
		if a.name+"-v000" == r.PathValue("name") {
			f.record(actor, "serverGroup."+map[bool]string{true: "disable", false: "enable"}[to], "serverGroup:"+r.PathValue("name"), why,
				map[string]any{"disabled": a.disabled}, map[string]any{"disabled": to})
			a.disabled = to
		}
	}
	return map[string]any{}
}

// graph makes lines that fit the question's grouping.
func (f *fixture) graph(r *http.Request) any {
	q := r.URL.Query().Get("q")
	var legend []string
	var level, wave []float64
	line := func(name string, at, w float64) {
		legend, level, wave = append(legend, name), append(level, at), append(wave, w)
	}
	switch {
	case strings.Contains(q, ":percentiles"):
		line("percentile  50.0", .006, .001)
		line("percentile  99.0", .031, .012)
	case strings.Contains(q, "ipc.breaker.state"):
		line("api", 0, 0)
		line("playback", 0, 0)
	case strings.Contains(q, "ipc.cause"):
		line("timeout", .4, .4)
		line("error", .15, .15)
	case strings.Contains(q, "nf.zone"):
		line("zone-a", 98, 9)
		line("zone-b", 95, 8)
		line("zone-c", 91, 9)
	default:
		line("2xx", 280, 30)
		line("5xx", .6, .5)
	}
	span, err := time.ParseDuration(strings.TrimPrefix(r.URL.Query().Get("s"), "e-"))
	if err != nil {
		span = 10 * time.Minute
	}
	step, err := time.ParseDuration(r.URL.Query().Get("step"))
	if err != nil {
		step = 5 * time.Second
	}
	from := time.Now().Add(-span).Truncate(step)
	var values [][]any
	for at := from; at.Before(time.Now()); at = at.Add(step) {
		var row []any
		for i := range legend {
			t := float64(at.Unix())
			v := level[i] + wave[i]*math.Sin(t/90+float64(i))*math.Cos(t/37) + wave[i]*.2*math.Sin(t*1.7)
			if strings.Contains(q, "ipc.breaker.state") && i == 1 && math.Sin(t/60) > .9 {
				v = 1
			}
			if at.Sub(from) < span/8 {
				row = append(row, "NaN")
				continue
			}
			row = append(row, math.Max(v, 0))
		}
		values = append(values, row)
	}
	return map[string]any{"start": from.UnixMilli(), "step": step.Milliseconds(), "legend": legend, "values": values}
}

func (f *fixture) logs(w http.ResponseWriter, r *http.Request) {
	lines := make(chan api.Event)
	go func() {
		defer close(lines)
		for i := 0; ; i++ {
			line := fmt.Sprintf(`time=%s level=INFO msg="served" path=/titles/%d status=200 took=3.%dms`, time.Now().Format(time.RFC3339), 100+i*37%900, i%10)
			if i%17 == 16 {
				line = fmt.Sprintf(`time=%s level=WARN msg="fallback" command=billing cause=timeout`, time.Now().Format(time.RFC3339))
			}
			select {
			case lines <- api.Event{Name: "line", Data: map[string]any{"time": time.Now(), "line": line}}:
			case <-r.Context().Done():
				return
			}
			if i > 40 {
				select {
				case <-time.After(700 * time.Millisecond):
				case <-r.Context().Done():
					return
				}
			}
		}
	}()
	api.Stream(r.Context(), w, lines)
}
