package filter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"pgregory.net/rapid"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newChain(t testing.TB, c ChainConfig) *Chain {
	t.Helper()
	if c.Proxy == nil {
		c.Proxy = says(200, "origin")
	}
	if c.Log == nil {
		c.Log = quiet()
	}
	ch, err := NewChain(c)
	if err != nil {
		t.Fatal(err)
	}
	ch.sample = 1
	return ch
}

func says(status int, text string) *Filter {
	return &Filter{Name: "ProxyEndpoint", Kind: Endpoint, Apply: func(x *Exchange) error {
		x.Answer(status, text)
		return nil
	}}
}

func body(t testing.TB, x *Exchange) string {
	t.Helper()
	if x.Response.Body == nil {
		return ""
	}
	b, err := io.ReadAll(x.Response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What follows is the model: Zuul's rules of one filter's run and of the choice of the endpoint, without bodies, times
// and limits.

type act string

var acts = []act{"nothing", "nothing", "nothing", "error", "panic", "answer", "stop", "fail"}

type spec struct {
	f   *Filter
	act act
	off bool // by property
	no  bool // If says no
}

type model struct {
	trace             []string
	stopped, answered bool
	failing           bool
	status            int
}

func (m *model) run(s spec) {
	kind := s.f.Kind
	note := func(status string) { m.trace = append(m.trace, s.f.Name+" "+status) }
	switch {
	case kind == Inbound && m.failing, kind != Endpoint && m.stopped && !s.f.Always, kind == Inbound && m.answered && !s.f.Always:
		note("SKIPPED")
		return
	case s.off:
		note("DISABLED")
		if kind == Endpoint {
			m.failing, m.status = true, 500
		}
		return
	case kind != Endpoint && s.no:
		note("SKIPPED")
		return
	}
	switch s.act {
	case "error", "panic":
		note("FAILED")
		if kind == Endpoint || s.f.Guard {
			m.failing, m.status = true, 500
		}
	default:
		note("SUCCESS")
		switch s.act {
		case "answer":
			m.answered, m.status = true, 299
		case "stop":
			m.stopped = true
		case "fail":
			m.failing, m.status = true, 418
		case "nothing":
			if kind == Endpoint {
				m.answered, m.status = true, 200
			}
		}
	}
}

func (m *model) request(in []spec, end, oops spec, out []spec) {
	for _, s := range in {
		m.run(s)
	}
	if !m.failing && !m.answered {
		m.run(end)
		if !m.failing && m.status == 0 {
			m.failing, m.status = true, 500
		}
	}
	m.fail(oops)
	for _, s := range out {
		m.run(s)
		m.fail(oops)
	}
}

func (m *model) fail(oops spec) {
	if !m.failing {
		return
	}
	code := m.status
	m.failing = false
	m.run(oops)
	if m.failing {
		m.failing, m.status = false, code
	}
}

func TestAChainRunsAsZuulsRulesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		off := map[string]string{}
		var filters, planIn, planOut []*Filter
		specs := map[*Filter]spec{}
		draw := func(name string, kind Kind) spec {
			s := spec{act: rapid.SampledFrom(acts).Draw(t, name), off: rapid.IntRange(0, 5).Draw(t, "off") == 0, no: rapid.IntRange(0, 3).Draw(t, "no") == 0}
			f := &Filter{Name: name, Kind: kind, Order: rapid.IntRange(-3, 3).Draw(t, "order")}
			f.Always, f.Guard, f.Quick = rapid.Bool().Draw(t, "always"), rapid.Bool().Draw(t, "guard"), rapid.Bool().Draw(t, "quick")
			if rapid.Bool().Draw(t, "has If") || s.no {
				f.If = func(*Exchange) bool { return !s.no }
			}
			f.Apply = func(x *Exchange) error {
				switch s.act {
				case "error":
					return errors.New("as asked")
				case "panic":
					panic("as asked")
				case "answer":
					x.Answer(299, "")
				case "stop":
					x.Stop()
				case "fail":
					x.Fail(&Error{Status: 418, Category: FailureBadRequest, Reason: "as asked"})
				case "nothing":
					if kind == Endpoint {
						x.Answer(200, "")
					}
				}
				return nil
			}
			if s.off {
				off["zuul."+name+"."+kind.Key()+".disable"] = "true"
			}
			s.f = f
			specs[f] = s
			return s
		}
		for i := range rapid.IntRange(0, 8).Draw(t, "filters") {
			kind := rapid.SampledFrom([]Kind{Inbound, Outbound}).Draw(t, "kind")
			filters = append(filters, draw(fmt.Sprintf("f%d", i), kind).f)
		}
		plan := rapid.Bool().Draw(t, "plan")
		if plan {
			for i := range rapid.IntRange(0, 2).Draw(t, "plan in") {
				planIn = append(planIn, draw(fmt.Sprintf("pi%d", i), Inbound).f)
			}
			for i := range rapid.IntRange(0, 2).Draw(t, "plan out") {
				planOut = append(planOut, draw(fmt.Sprintf("po%d", i), Outbound).f)
			}
		}
		end, own, none, oops := draw("proxy", Endpoint), draw("own", Endpoint), draw("none", Endpoint), draw("oops", Endpoint)
		c, err := NewChain(ChainConfig{Filters: filters, Proxy: end.f, NoRoute: none.f, Error: oops.f,
			Properties: config.New(config.Options{Override: off}), Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}

		chosen := none
		var x Exchange
		x.Debug = true
		if plan {
			x.Plan, chosen = &Plan{Inbound: planIn, Outbound: planOut}, end
			if rapid.Bool().Draw(t, "own endpoint") {
				x.Plan.Endpoint, chosen = own.f, own
			}
		}
		c.Run(&x)

		ordered := func(kind Kind, pick func(*Filter) bool) (list []spec) {
			for _, f := range filters {
				if f.Kind == kind && pick(f) {
					list = append(list, specs[f])
				}
			}
			slices.SortFunc(list, func(a, b spec) int { return cmp.Or(cmp.Compare(a.f.Order, b.f.Order), cmp.Compare(a.f.Name, b.f.Name)) })
			return list
		}
		of := func(fs []*Filter) (list []spec) {
			for _, f := range fs {
				list = append(list, specs[f])
			}
			return list
		}
		var m model
		m.request(slices.Concat(ordered(Inbound, func(f *Filter) bool { return f.Order < 0 }), of(planIn), ordered(Inbound, func(f *Filter) bool { return f.Order >= 0 })),
			chosen, oops, slices.Concat(of(planOut), ordered(Outbound, func(*Filter) bool { return true })))
		var trace []string
		for _, e := range x.Ran {
			trace = append(trace, e.Filter.Name+" "+e.Status)
		}
		if !slices.Equal(trace, m.trace) || x.Response.Status != m.status {
			t.Fatalf("got  %v and %d\nwant %v and %d", trace, x.Response.Status, m.trace, m.status)
		}
	})
}

func TestAFailedInboundFilterDoesNotFailTheRequest(t *testing.T) {
	m := meter.New(nil)
	c := newChain(t, ChainConfig{Meter: m, Filters: []*Filter{
		{Name: "Broken", Apply: func(*Exchange) error { return errors.New("broken") }},
		{Name: "Mad", Apply: func(*Exchange) error { panic("mad") }},
	}})
	x := &Exchange{Plan: &Plan{}}
	c.Run(x)
	if x.Response.Status != 200 || len(x.Failed) != 2 || x.Failed[0].Filter != "Broken" || !strings.Contains(x.Failed[1].Err.Error(), "Mad panicked: mad") {
		t.Errorf("got %d with %v, want 200 with the failures of Broken and Mad", x.Response.Status, x.Failed)
	}
	if n := m.Counter("zuul.filter-Mad", "filtertype", "in", "status", "FAILED").Count(); n != 1 {
		t.Errorf("zuul.filter-Mad: got %d failed, want 1", n)
	}
}

func TestAFailedGuardFailsTheRequest(t *testing.T) {
	asked := false
	c := newChain(t, ChainConfig{
		Proxy:   &Filter{Name: "P", Kind: Endpoint, Apply: func(x *Exchange) error { asked = true; x.Answer(200, ""); return nil }},
		Filters: []*Filter{{Name: "Auth", Guard: true, Apply: func(*Exchange) error { panic("no key") }}},
	})
	x := &Exchange{Plan: &Plan{}}
	c.Run(x)
	if cat, _ := x.Category(); x.Response.Status != 500 || asked || cat != FailureLocal {
		t.Errorf("got %d, %v, endpoint asked: %v; want 500 FAILURE_LOCAL and no endpoint", x.Response.Status, cat, asked)
	}
}

func TestAPanicIsLoggedWithItsStackAndNotOftenerThanEveryTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		c := newChain(t, ChainConfig{Log: slog.New(slog.NewTextHandler(&out, nil)), Filters: []*Filter{{Name: "Mad", Apply: func(*Exchange) error { panic("mad") }}}})
		serve := func() { c.Run(&Exchange{Plan: &Plan{}}) }
		for range 50 {
			serve()
		}
		if n := strings.Count(out.String(), "filter panicked"); n != 1 || !strings.Contains(out.String(), "chain_test.go") {
			t.Fatalf("after 50 panics at once: got %d lines, want one with a stack:\n%s", n, out.String())
		}
		time.Sleep(11 * time.Second)
		serve()
		if n := strings.Count(out.String(), "filter panicked"); n != 2 || !strings.Contains(out.String(), "unlogged=49") {
			t.Errorf("11 s later: got %d lines, want a second that tells of 49 more:\n%s", n, out.String())
		}
	})
}

func TestAFilterWithTooManyRequestsInItFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct {
			name  string
			props map[string]string
			own   int
			quick bool
			want  int // run at once
		}{
			{"its own limit", nil, 2, false, 2},
			{"the property", map[string]string{"zuul.Slow.in.concurrency.limit": "3"}, 2, false, 3},
			{"the default", map[string]string{"zuul.filter.concurrency.limit.default": "1"}, 0, false, 1},
			{"no default for a quick one", map[string]string{"zuul.filter.concurrency.limit.default": "1"}, 0, true, 8},
			{"no protection", map[string]string{"zuul.filter.concurrency.protect.enabled": "false"}, 2, false, 8},
		} {
			release, in := make(chan struct{}), 0
			var mu sync.Mutex
			c := newChain(t, ChainConfig{Properties: config.New(config.Options{Override: tt.props}), Filters: []*Filter{
				{Name: "Slow", Limit: tt.own, Quick: tt.quick, Apply: func(*Exchange) error { mu.Lock(); in++; mu.Unlock(); <-release; return nil }},
			}})
			var wg sync.WaitGroup
			limited := 0
			for range 8 {
				wg.Go(func() {
					x := &Exchange{Plan: &Plan{}}
					c.Run(x)
					if len(x.Failed) == 1 && errors.Is(x.Failed[0].Err, ErrLimited) && x.Response.Status == 200 {
						mu.Lock()
						limited++
						mu.Unlock()
					}
				})
			}
			synctest.Wait()
			close(release)
			wg.Wait()
			if in != tt.want || limited != 8-tt.want {
				t.Errorf("%s: of 8 requests at once %d got in and %d were limited, want %d and %d", tt.name, in, limited, tt.want, 8-tt.want)
			}
		}
	})
}

func TestALimitedEndpointIsAnsweredWith503(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := newChain(t, ChainConfig{Proxy: &Filter{Name: "P", Kind: Endpoint, Limit: 1, Apply: func(x *Exchange) error { <-release; x.Answer(200, ""); return nil }}})
		var wg sync.WaitGroup
		wg.Go(func() { c.Run(&Exchange{Plan: &Plan{}}) })
		synctest.Wait()
		x := &Exchange{Plan: &Plan{}}
		c.Run(x)
		if x.Response.Status != 503 {
			t.Errorf("the second request at once: got %d, want 503", x.Response.Status)
		}
		close(release)
		wg.Wait()
	})
}

func TestAFilterThatTakesTooLongIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := meter.New(nil)
		c := newChain(t, ChainConfig{Meter: m, Filters: []*Filter{{Name: "Slow", Apply: func(*Exchange) error { time.Sleep(500 * time.Millisecond); return nil }}}})
		x := &Exchange{Plan: &Plan{}}
		c.Run(x)
		if got := x.Value("filter_execution_time_exceeded"); got != "Slow" || m.Timer("zuul.request.timing.filterExcessive", "id", "Slow").Count() != 1 {
			t.Errorf("after 500 ms: got %v, want Slow to be noted and counted once", got)
		}
	})
}

func TestNobodyIsServedWhoHasGone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	asked := false
	c := newChain(t, ChainConfig{
		Filters: []*Filter{{Name: "A", Apply: func(*Exchange) error { cancel(); return nil }}, {Name: "B", Always: true, Apply: func(*Exchange) error { asked = true; return nil }}},
		Proxy:   &Filter{Name: "P", Kind: Endpoint, Apply: func(*Exchange) error { asked = true; return nil }},
	})
	x := &Exchange{Plan: &Plan{}}
	x.SetContext(ctx)
	c.Run(x)
	if cat, _ := x.Category(); asked || cat != FailureClientCancelled {
		t.Errorf("went on: %v, category %v; want FAILURE_CLIENT_CANCELLED and nothing asked", asked, cat)
	}
}

func TestWithoutARouteTheAnswerIs404(t *testing.T) {
	x := &Exchange{}
	newChain(t, ChainConfig{}).Run(x)
	if cat, _ := x.Category(); x.Response.Status != 404 || cat != SuccessLocalNoRoute {
		t.Errorf("got %d %v, want 404 SUCCESS_LOCAL_NO_ROUTE", x.Response.Status, cat)
	}
}

func TestTheErrorEndpointAnswersAndItsOwnFailureLeavesTheBareStatus(t *testing.T) {
	broken := &Filter{Name: "P", Kind: Endpoint, Apply: func(*Exchange) error {
		return &Error{Status: 504, Category: FailureOriginReadTimeout, Reason: "the origin took too long"}
	}}
	oops := &Filter{Name: "E", Kind: Endpoint, Apply: func(x *Exchange) error {
		status, _, reason := Verdict(x.Err)
		x.Answer(status, reason)
		return nil
	}}
	x := &Exchange{Plan: &Plan{}}
	newChain(t, ChainConfig{Proxy: broken, Error: oops}).Run(x)
	if cat, why := x.Category(); x.Response.Status != 504 || cat != FailureOriginReadTimeout || why != "the origin took too long" || body(t, x) != "the origin took too long" {
		t.Errorf("got %d %v %q", x.Response.Status, cat, why)
	}
	x = &Exchange{Plan: &Plan{}}
	newChain(t, ChainConfig{Proxy: broken, Error: &Filter{Name: "E", Kind: Endpoint, Apply: func(*Exchange) error { panic("me too") }}}).Run(x)
	if x.Response.Status != 504 || x.Response.Body != nil {
		t.Errorf("error endpoint failed: got %d, want the bare 504", x.Response.Status)
	}
}

func TestFiltersAreToldApartByKindAndName(t *testing.T) {
	f := func() *Filter { return &Filter{Name: "A"} }
	p := says(200, "")
	for what, cfg := range map[string]ChainConfig{
		"two of a name":        {Proxy: p, Filters: []*Filter{f(), f()}},
		"endpoint among them":  {Proxy: p, Filters: []*Filter{says(200, "")}},
		"no proxy":             {},
		"filter as an error's": {Proxy: p, Error: f()},
	} {
		if _, err := NewChain(cfg); err == nil {
			t.Errorf("%s: got no error", what)
		}
	}
}

// drip is a body that yields a byte at a time.
type drip struct {
	io.Reader
	closed int
}

func (d *drip) Read(p []byte) (int, error) { return d.Reader.Read(p[:min(len(p), 1)]) }
func (d *drip) Close() error               { d.closed++; return nil }

func TestAFilterThatAsksForItHasTheWholeBody(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		length     int64
		limit      string
		status     int
	}{
		{"known length", "hello world", 11, "100", 200},
		{"unknown length", "hello world", -1, "100", 200},
		{"as large as may be", "hello", 5, "5", 200},
		{"announced too large", "hello world", 11, "5", 413},
		{"too large", "hello world", -1, "5", 413},
		{"longer than announced", "hello world", 3, "100", 200},
		{"none", "", 0, "5", 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &drip{Reader: strings.NewReader(tt.text)}
			var seen, sent string
			echo := &Filter{Name: "P", Kind: Endpoint, Apply: func(x *Exchange) error {
				if x.Request.Body != nil {
					b, _ := io.ReadAll(x.Request.Body)
					sent = string(b)
				}
				if x.Request.ContentLength != int64(len(sent)) {
					t.Errorf("length for the origin: got %d of %q", x.Request.ContentLength, sent)
				}
				x.Answer(200, "")
				return nil
			}}
			c := newChain(t, ChainConfig{Proxy: echo, Properties: config.New(config.Options{Override: map[string]string{"zuul.HttpRequestMessage.body.max.size": tt.limit}}),
				Filters: []*Filter{
					{Name: "See", Body: true, Apply: func(x *Exchange) error { seen = string(x.Whole); return nil }},
					{Name: "SeeAgain", Order: 1, Body: true, Apply: func(x *Exchange) error { seen += "|" + string(x.Whole); return nil }},
				}})
			x := &Exchange{Plan: &Plan{}}
			x.Request.ContentLength = tt.length
			if tt.text != "" {
				x.Request.Body = d
			}
			c.Run(x)
			if x.Response.Status != tt.status {
				t.Fatalf("got %d, want %d", x.Response.Status, tt.status)
			}
			if tt.status == 200 && (seen != tt.text+"|"+tt.text || sent != tt.text || tt.text != "" && d.closed != 1) {
				t.Errorf("seen %q, sent %q, closed %d times", seen, sent, d.closed)
			}
		})
	}
}

func TestAnAnswerTooLargeToHoldIs502(t *testing.T) {
	d := &drip{Reader: strings.NewReader("hello world")}
	c := newChain(t, ChainConfig{
		Proxy:      &Filter{Name: "P", Kind: Endpoint, Apply: func(x *Exchange) error { x.Response = Response{Status: 200, ContentLength: -1, Body: d}; return nil }},
		Properties: config.New(config.Options{Override: map[string]string{"zuul.HttpResponseMessage.body.max.size": "5"}}),
		Filters:    []*Filter{{Name: "See", Kind: Outbound, Body: true}},
	})
	x := &Exchange{Plan: &Plan{}}
	c.Run(x)
	if cat, _ := x.Category(); x.Response.Status != 502 || cat != FailureOrigin || d.closed != 1 {
		t.Errorf("got %d %v, closed %d times; want 502 FAILURE_ORIGIN and closed once", x.Response.Status, cat, d.closed)
	}
}

func TestWhatAFilterMakesOfTheWholeBodyGoesOn(t *testing.T) {
	c := newChain(t, ChainConfig{Proxy: says(200, "hello"), Filters: []*Filter{
		{Name: "Double", Kind: Outbound, Body: true, Apply: func(x *Exchange) error { x.Whole = []byte(string(x.Whole) + string(x.Whole)); return nil }},
		{Name: "Upper", Kind: Outbound, Order: 1, Body: true, Chunk: func(_ *Exchange, p []byte, last bool) ([]byte, error) {
			if !last {
				t.Error("the whole body came in pieces")
			}
			return bytes.ToUpper(p), nil
		}},
	}})
	x := &Exchange{Plan: &Plan{}}
	c.Run(x)
	if x.Response.ContentLength != 10 || body(t, x) != "HELLOHELLO" {
		t.Errorf("length %d", x.Response.ContentLength)
	}
}

func TestChunksPassThroughFiltersAsTheyStream(t *testing.T) {
	var sent string
	upper := func(_ *Exchange, p []byte, last bool) ([]byte, error) { return bytes.ToUpper(p), nil }
	c := newChain(t, ChainConfig{
		Proxy: &Filter{Name: "P", Kind: Endpoint, Apply: func(x *Exchange) error {
			b, err := io.ReadAll(x.Request.Body)
			sent = string(b)
			x.Response = Response{Status: 200, ContentLength: 5, Body: &drip{Reader: strings.NewReader("world")}}
			return err
		}},
		Filters: []*Filter{
			{Name: "Upper", Chunk: upper},
			{Name: "Mark", Kind: Outbound, Chunk: func(_ *Exchange, p []byte, last bool) ([]byte, error) {
				if last {
					return append(p, '!'), nil
				}
				return p, nil
			}},
			{Name: "Upper", Kind: Outbound, Order: 1, Chunk: upper},
		},
	})
	x := &Exchange{Plan: &Plan{}}
	x.Request.Body, x.Request.ContentLength = &drip{Reader: strings.NewReader("hello")}, 5
	c.Run(x)
	if got := body(t, x); sent != "HELLO" || got != "WORLD!" || x.Response.ContentLength != -1 || x.Request.ContentLength != -1 {
		t.Errorf("sent %q, got %q, lengths %d and %d", sent, got, x.Request.ContentLength, x.Response.ContentLength)
	}
}

func TestAFilterThatFailsOnAChunkBreaksTheBodyOff(t *testing.T) {
	for what, chunk := range map[string]func(*Exchange, []byte, bool) ([]byte, error){
		"panic": func(*Exchange, []byte, bool) ([]byte, error) { panic("mad") },
		"error": func(*Exchange, []byte, bool) ([]byte, error) { return nil, errors.New("mad") },
	} {
		m := meter.New(nil)
		c := newChain(t, ChainConfig{Proxy: says(200, "secret"), Meter: m, Filters: []*Filter{{Name: "Mask", Kind: Outbound, Chunk: chunk}}})
		x := &Exchange{Plan: &Plan{}}
		c.Run(x)
		b, err := io.ReadAll(x.Response.Body)
		if err == nil || len(b) > 0 || m.Counter("zuul.filter-Mask", "filtertype", "out", "status", "FAILED").Count() != 1 {
			t.Errorf("%s: got %q, %v; want nothing and an error, counted once", what, b, err)
		}
	}
}

func TestAChainTellsHowItsFiltersDo(t *testing.T) {
	c := newChain(t, ChainConfig{
		Meter: meter.New(nil), Properties: config.New(config.Options{Override: map[string]string{"zuul.Off.out.disable": "true", "zuul.A.in.concurrency.limit": "7"}}),
		Filters: []*Filter{
			{Name: "Off", Kind: Outbound}, {Name: "B", Order: 1, Guard: true, Quick: true}, {Name: "A", Apply: func(*Exchange) error { return errors.New("broken") }},
			{Name: "Never", Order: -5, If: func(*Exchange) bool { return false }},
		},
	})
	for range 3 {
		c.Run(&Exchange{Plan: &Plan{}})
	}
	got := c.Standings()
	for i := range got {
		got[i].Mean = 0
	}
	want := []Standing{
		{Name: "Never", Kind: "INBOUND", Order: -5, Skipped: 3, Limit: 4000},
		{Name: "A", Kind: "INBOUND", Failed: 3, Limit: 7},
		{Name: "B", Kind: "INBOUND", Order: 1, Guard: true, Runs: 3},
		{Name: "ProxyEndpoint", Kind: "ENDPOINT", Runs: 3},
		{Name: "Off", Kind: "OUTBOUND", Disabled: true, Limit: 4000},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// tenFilters is seven inbound filters and three outbound ones that do little.
func tenFilters() (filters []*Filter) {
	for i := range 7 {
		filters = append(filters, &Filter{Name: fmt.Sprint("in", i), Order: i*100 - 300, Quick: true,
			If:    func(x *Exchange) bool { return x.Request.Method != http.MethodConnect },
			Apply: func(x *Exchange) error { x.Priority = 50; return nil }})
	}
	for i := range 3 {
		filters = append(filters, &Filter{Name: fmt.Sprint("out", i), Kind: Outbound, Order: i, Quick: true, Apply: func(x *Exchange) error { return nil }})
	}
	return filters
}

func TestTenFiltersAllocateNothing(t *testing.T) {
	c := newChain(t, ChainConfig{Filters: tenFilters(), Meter: meter.New(nil), Proxy: says(200, "hello")})
	var x Exchange
	p := &Plan{}
	if n := testing.AllocsPerRun(1000, func() { x.Reset(); x.Plan = p; c.Run(&x); x.End() }); n != 0 {
		t.Errorf("got %v allocations a request, want none", n)
	}
}

// BenchmarkChain is ten filters and an endpoint that answers a text: Reset and End belong to it.
func BenchmarkChain(b *testing.B) {
	c, err := NewChain(ChainConfig{Filters: tenFilters(), Meter: meter.New(nil), Proxy: says(200, "hello")})
	if err != nil {
		b.Fatal(err)
	}
	var x Exchange
	p := &Plan{}
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		x.Plan = p
		c.Run(&x)
		x.End()
	}
}

// BenchmarkNoFilters is what of BenchmarkChain is not the filters'.
func BenchmarkNoFilters(b *testing.B) {
	c, err := NewChain(ChainConfig{Meter: meter.New(nil), Proxy: says(200, "hello")})
	if err != nil {
		b.Fatal(err)
	}
	var x Exchange
	p := &Plan{}
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		x.Plan = p
		c.Run(&x)
		x.End()
	}
}
