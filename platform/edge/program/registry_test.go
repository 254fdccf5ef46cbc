package program

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const okScript = `{"kind":"starlark","global":true,"text":"def apply(req, ctx):\n  req.headers['X-By'] = 'one'\n"`

func registry(t testing.TB, docs ...string) (*Registry, *[]string) {
	t.Helper()
	told := &[]string{}
	r, err := New(Config{Properties: config.New(config.Options{}), Meter: meter.New(nil), Region: "us-east-1", Changed: func(name, what, why string) { *told = append(*told, name+" "+what+" "+why) }})
	if err != nil {
		t.Fatal(err)
	}
	unhurried(r)
	put(r, docs...)
	t.Cleanup(func() { r.Set(nil) })
	return r, told
}

// unhurried gives the programs of r time that no busy machine takes up; what is of these limits sets them itself.
func unhurried(r *Registry) { r.perRun, r.perCall = time.Minute, time.Minute }

// put sets the programs p0, p1, ... and no others.
func put(r *Registry, docs ...string) {
	all := make(map[string]string)
	for i, d := range docs {
		all[fmt.Sprint(Prefix, "p", i)] = d
	}
	r.Set(all)
}

func chain(t testing.TB, r *Registry, plan *filter.Plan) func(x *filter.Exchange) {
	t.Helper()
	c, err := filter.NewChain(filter.ChainConfig{
		Filters: r.Filters(), Meter: meter.New(nil),
		Proxy: &filter.Filter{Name: "ProxyEndpoint", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error { x.Answer(200, "hello"); return nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	return func(x *filter.Exchange) {
		if x.Plan = plan; plan == nil {
			x.Plan = &filter.Plan{Route: "all"}
		}
		c.Run(x)
	}
}

func TestGlobalProgramsRunForEveryRequestInTheirOrder(t *testing.T) {
	r, _ := registry(t,
		`{"kind":"starlark","global":true,"order":2,"text":"def apply(req, ctx):\n  req.headers['X-By'] += 'c'\n"}`,
		`{"kind":"starlark","global":true,"order":1,"text":"def apply(req, ctx):\n  req.headers['X-By'] = 'b'\n"}`,
		"kind: cel\nglobal: true\norder: 3\nphase: outbound\ntext: '{\"X-Region\": region, \"X-Was\": req.headers[\"x-by\"]}'\n",
		`{"kind":"starlark","text":"def apply(req, ctx):\n  req.headers['X-By'] = 'not global'\n"}`)
	run := chain(t, r, nil)
	var x filter.Exchange
	run(&x)
	h := &x.Response.Header
	if x.Response.Status != 200 || h.Get("X-Region") != "us-east-1" || h.Get("X-Was") != "bc" {
		t.Errorf("got %d %v %v; %+v", x.Response.Status, h.Fields(), x.Failed, r.List())
	}
	put(r) // the chain stays as it is
	x = filter.Exchange{}
	if run(&x); x.Request.Header.Len() != 0 || x.Response.Header.Get("X-Region") != "" {
		t.Error("programs that are gone still run")
	}
}

func TestAnExpressionThatIsFalseRefusesAndAMissingKeyIsFalse(t *testing.T) {
	r, _ := registry(t, `{"kind":"cel","global":true,"text":"req.headers[\"x-key\"] == \"open\""}`)
	run := chain(t, r, nil)
	for key, want := range map[string]int{"open": 200, "shut": 403, "": 403} {
		var x filter.Exchange
		if key != "" {
			x.Request.Header.Add("X-Key", key)
		}
		if run(&x); x.Response.Status != want {
			t.Errorf("key %q: got %d, want %d", key, x.Response.Status, want)
		}
	}
	if v := r.List()[0].Versions[0]; v.Runs != 3 || v.Failures != 0 {
		t.Errorf("got %+v; refusals are no failures", v)
	}
}

func TestARouteRunsAProgramByItsName(t *testing.T) {
	r, _ := registry(t, `{"kind":"starlark","text":"def apply(req, ctx):\n  ctx['a'] = 1\n"}`, `{"kind":"starlark","phase":"endpoint","text":"def apply(req, ctx):\n  if req.path == '/a':\n    req.answer(200, 'mine')\n"}`)
	if _, err := r.Program("none"); err == nil || !strings.Contains(err.Error(), "there are p0, p1") {
		t.Errorf("got %v", err)
	}
	in, err := r.Program("p0")
	if err != nil {
		t.Fatal(err)
	}
	end, err := r.Program("p1")
	if err != nil {
		t.Fatal(err)
	}
	run := chain(t, r, &filter.Plan{Route: "x", Inbound: in, Endpoint: end[0]})
	var x filter.Exchange
	x.Request.Path = "/a"
	run(&x)
	b, _ := io.ReadAll(x.Response.Body)
	if x.Response.Status != 200 || string(b) != "mine" || x.Value("a") != int64(1) {
		t.Errorf("got %d %q %v", x.Response.Status, b, x.Failed)
	}
	x = filter.Exchange{}
	if run(&x); x.Response.Status != 500 {
		t.Errorf("an endpoint that leaves no answer: got %d, want 500", x.Response.Status)
	}
	put(r)
	x = filter.Exchange{}
	if run(&x); x.Response.Status != 503 {
		t.Errorf("a route whose program was deleted: got %d, want 503", x.Response.Status)
	}
}

func TestACanaryGetsAStableShare(t *testing.T) {
	r, _ := registry(t, `{"kind":"starlark","global":true,"text":"def apply(req, ctx):\n  ctx['v'] = 'new'\n","canary":{"percent":10},
		"previous":{"kind":"starlark","text":"def apply(req, ctx):\n  ctx['v'] = 'old'\n"}}`)
	run := chain(t, r, nil)
	of := func(i int) any {
		x := filter.Exchange{User: fmt.Sprint("user", i)}
		run(&x)
		return x.Value("v")
	}
	fresh := 0
	for i := range 2000 {
		v := of(i)
		if v == "new" {
			fresh++
		}
		if again := of(i); again != v {
			t.Fatalf("user %d got %v, then %v", i, v, again)
		}
	}
	if fresh < 140 || fresh > 260 {
		t.Errorf("%d of 2000 got the new one, want about 200", fresh)
	}
	v := r.List()[0].Versions
	if len(v) != 2 || v[0].State != "CANARY" || v[0].Percent != 10 || v[1].State != "ACTIVE" || v[1].Percent != 90 || v[0].Runs+v[1].Runs != 4000 {
		t.Errorf("got %+v", v)
	}
	x := filter.Exchange{Client: &filter.Client{Remote: netip.MustParseAddrPort("10.0.0.1:80")}}
	run(&x)
	first := x.Value("v")
	for range 20 {
		x := filter.Exchange{Client: &filter.Client{Remote: netip.MustParseAddrPort("10.0.0.1:99")}}
		if run(&x); x.Value("v") != first {
			t.Fatal("an address without a user did not get the same version")
		}
	}
}

func TestAVersionThatFailsTooOftenGoesBackToTheFormer(t *testing.T) {
	r, told := registry(t, `{"kind":"starlark","global":true,"text":"def apply(req, ctx):\n  if req.user == 'bad': fail('no')\n  ctx['v'] = 'new'\n",
		"previous":{"kind":"starlark","text":"def apply(req, ctx):\n  ctx['v'] = 'old'\n"}}`)
	run := chain(t, r, nil)
	for i := range 200 { // 1 % is not over 1 %
		x := filter.Exchange{}
		if i%100 == 99 {
			x.User = "bad"
		}
		run(&x)
		if x.Response.Status != 200 {
			t.Fatalf("got %d: a failing program failed the request", x.Response.Status)
		}
	}
	if len(*told) != 0 {
		t.Fatalf("after 2 failures in 200 runs: %v", *told)
	}
	for range 2 {
		run(&filter.Exchange{User: "bad"})
	}
	x := filter.Exchange{User: "bad"}
	run(&x)
	if x.Value("v") != "old" || len(*told) != 1 || !strings.HasPrefix((*told)[0], "p0 RETURNED 3 of 201 runs failed within 1m0s, the last one: line 2") {
		t.Errorf("got %v, told %v", x.Value("v"), *told)
	}
	v := r.List()[0].Versions
	if v[0].State != "DISABLED" || v[1].State != "ACTIVE" || !strings.Contains(v[0].Last, "no") {
		t.Errorf("got %+v", v)
	}
}

func TestAProgramWithoutAFormerIsDisabled(t *testing.T) {
	for what, doc := range map[string]string{
		"loops":     `{"kind":"starlark","global":true,"text":"def apply(req, ctx):\n  for i in range(100000):\n    for j in range(100000): pass\n"}`,
		"allocates": `{"kind":"starlark","global":true,"text":"def apply(req, ctx):\n  x = 'x' * 1000000000\n"}`,
		"costs":     `{"kind":"cel","global":true,"text":"[1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10].map(a, [1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10,1,2,3,4,5,6,7,8,9,10].map(b, [req.path + req.path + req.path])) == []"}`,
	} {
		t.Run(what, func(t *testing.T) {
			r, told := registry(t, doc)
			run := chain(t, r, nil)
			for range 100 {
				x := filter.Exchange{}
				if run(&x); x.Response.Status != 200 {
					t.Fatalf("got %d: a failing program failed the request", x.Response.Status)
				}
			}
			if len(*told) != 1 || !strings.HasPrefix((*told)[0], "p0 DISABLED 100 of 100 runs failed") {
				t.Errorf("told %v", *told)
			}
			run(&filter.Exchange{})
			if v := r.List()[0].Versions[0]; v.Runs != 100 || v.State != "DISABLED" {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func TestAPanicOfAProgramIsAFailure(t *testing.T) {
	r, _ := registry(t, okScript+"}")
	s := compiled(t, "def apply(req, ctx):\n  pass\n")
	s.apply = nil // as a mistake of ours would
	r.current.Load().byName["p0"].now.run = func(x *filter.Exchange, _ filter.Kind, _ bool) error { return s.run(x) }
	x := filter.Exchange{}
	chain(t, r, nil)(&x)
	if x.Response.Status != 200 || len(x.Failed) != 1 {
		t.Errorf("got %d, failed %v", x.Response.Status, x.Failed)
	}
	if v := r.List()[0].Versions[0]; v.Failures != 1 {
		t.Errorf("got %+v, want a failure", v)
	}
}

func TestAGuardThatFailsFailsTheRequest(t *testing.T) {
	r, _ := registry(t, `{"kind":"starlark","guard":true,"global":true,"text":"def apply(req, ctx):\n  fail('no')\n"}`)
	run := chain(t, r, nil)
	for range 105 { // also once it is disabled
		x := filter.Exchange{}
		if run(&x); x.Response.Status != 503 {
			t.Fatalf("got %d, want 503", x.Response.Status)
		}
	}
}

func TestAWindowForgets(t *testing.T) {
	v := &version{doc: &Document{}}
	now := int64(time.Hour)
	for range 99 {
		if why := v.record(now, 0, nil); why != "" {
			t.Fatal(why)
		}
	}
	for range 3 { // three failures a minute in 102 runs would be too many; over two minutes they are not enough runs
		now += int64(window)
		if why := v.record(now, 0, errors.New("no")); why != "" {
			t.Fatal(why)
		}
	}
	v.record(now, 0, nil)
	why := ""
	for i := 0; why == "" && i < 200; i++ {
		now += int64(window)
		why = v.record(now, 0, errors.New("no"))
	}
	if !strings.HasPrefix(why, "100 runs in a row failed") {
		t.Errorf("got %q", why)
	}
}

func TestADocumentWithAMistakeChangesNothing(t *testing.T) {
	r, _ := registry(t, okScript+"}")
	for text, want := range map[string]string{
		"":                                   "no program",
		"{":                                  "no program",
		`{"kind":"lua","text":"x"}`:          `kind "lua": use cel, starlark or wasm`,
		`{"kind":"cel"}`:                     "needs that",
		`{"kind":"cel","text":"true","x":1}`: "unknown field",
		`{"kind":"cel","text":"true"} true`:  "after its end",
		"kind: cel\ntext: 'true'\nnone: 1\n": "unknown field",
		`{"kind":"cel","text":"tru"}`:        "undeclared reference",
		`{"kind":"cel","text":"1"}`:          "must be true or false, or a map",
		`{"kind":"starlark","text":"x = "}`:  "line 1",
		`{"kind":"cel","text":"true","phase":"endpoint"}`:                                                              "cannot answer",
		`{"kind":"cel","text":"true","phase":"late"}`:                                                                  "use inbound, outbound or endpoint",
		`{"kind":"cel","text":"true","canary":{"percent":0}}`:                                                          "above 0",
		`{"kind":"cel","text":"true","draft":true,"canary":{"percent":1}}`:                                             "keep one",
		`{"kind":"cel","text":"true","previous":{"kind":"cel","text":"1"}}`:                                            "previous: line 1",
		`{"kind":"cel","text":"true","previous":{"kind":"cel","text":"true","previous":{"kind":"cel","text":"true"}}}`: "keep one",
		`{"kind":"wasm","text":"x"}`:                                                                                   "either base64 or file",
		`{"kind":"wasm","file":"/none"}`:                                                                               "needs its sha256",
		`{"kind":"starlark","text":"x","phase":"endpoint","global":true}`:                                              "cannot be global",
		strings.Repeat(" ", maxDocument+1):                                                                             "at most",
	} {
		put(r, text)
		v := r.List()
		if len(v) != 1 || !strings.Contains(v[0].Refused, want) {
			t.Errorf("%.60q: refused %q, want %q", text, v[0].Refused, want)
		}
		x := filter.Exchange{}
		if chain(t, r, nil)(&x); x.Request.Header.Get("X-By") != "one" {
			t.Errorf("%.60q: the old program does not run any more", text)
		}
		if _, err := r.Check(t.Context(), "p0", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: checked with %v, want %q", text, err, want)
		}
	}
	r.Set(map[string]string{Prefix + "a.b": okScript + "}"})
	if v := r.List(); len(v) != 1 || !strings.Contains(v[0].Refused, "no program's name") {
		t.Errorf("got %+v", v)
	}
}

func TestPromotingAVersionKeepsWhatItDid(t *testing.T) {
	r, _ := registry(t, okScript+`,"canary":{"percent":100}}`)
	run := chain(t, r, nil)
	run(&filter.Exchange{})
	put(r, okScript+"}")
	run(&filter.Exchange{})
	if v := r.List()[0].Versions[0]; v.State != "ACTIVE" || v.Runs != 2 {
		t.Errorf("got %+v, want ACTIVE with 2 runs", v)
	}
	put(r, okScript+`,"draft":true}`)
	x := filter.Exchange{}
	run(&x)
	if v := r.List()[0].Versions[0]; v.State != "DRAFT" || v.Runs != 2 || x.Request.Header.Len() != 0 {
		t.Errorf("got %+v, want DRAFT that does not run", v)
	}
}

func TestProgramsChangeWhileRequestsRun(t *testing.T) {
	r, _ := registry(t)
	run := chain(t, r, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 300 {
				x := filter.Exchange{}
				if run(&x); x.Response.Status != 200 || len(x.Failed) > 0 {
					t.Errorf("got %d, failed %v", x.Response.Status, x.Failed)
				}
			}
		})
	}
	for i := range 60 {
		put(r, fmt.Sprintf(`{"kind":"cel","global":true,"text":"%d >= 0"}`, i%7), `{"kind":"cel","global":true,"phase":"outbound","text":"{'X-A': 'b'}"}`)
		put(r)
	}
	all.Wait()
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{okScript + "}", "kind: cel\ntext: 'true'\ncanary: {percent: 5}\n", `{"kind":"wasm","base64":"AGFzbQEAAAA="}`, "a: &a [*a]", "{}", "- 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(d.String())
		if err != nil || again.Version() != d.Version() || again.String() != d.String() {
			t.Errorf("%q became %s, and that %v", text, d, err)
		}
	})
}

func BenchmarkNoPrograms(b *testing.B) {
	r, _ := registry(b)
	run := chain(b, r, &filter.Plan{})
	var x filter.Exchange
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		run(&x)
		x.End()
	}
}

func TestADocumentThatNestsTooDeepIsRefused(t *testing.T) {
	for _, text := range []string{"kind: " + strings.Repeat("[", 1000), "kind: " + strings.Repeat(`["]",`, 1000), strings.Repeat("- ", 10_000)} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), "nested deeper than") {
			t.Errorf("%.30q...: got %v, want that it is nested too deep", text, err)
		}
	}
}

func TestAnEmptyDocumentIsRefused(t *testing.T) {
	for _, text := range []string{"", "\n", "---\n"} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), "it is empty") {
			t.Errorf("%q: got %v, want that it is empty", text, err)
		}
	}
}
