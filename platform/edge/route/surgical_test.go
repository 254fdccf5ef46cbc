package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// operated returns surgery of one rule.
func operated(t testing.TB, id, text string) *Surgery {
	t.Helper()
	s, wrong := NewSurgery(Config{}, map[string]string{id: text}, nil)
	for id, err := range wrong {
		t.Fatalf("%s: %v", id, err)
	}
	return s
}

const playback = `[{"id":"playback","match":{"path":{"prefix":"/playback"}},"backends":[{"vip":"playback"}]},
	{"id":"gone","match":{"path":{"prefix":"/gone"}},"filters":[{"answer":{"status":410}}]}]`

func TestSurgicalRulesSendChosenRequestsElsewhere(t *testing.T) {
	table := tabled(t, Config{Apps: []string{"web"}}, playback)
	for _, tt := range []struct{ rule, url, user, want string }{
		{`{"match":{"path":{"prefix":"/playback"}},"to":{"vip":"canary"}}`, "http://h/playback/1", "", "canary///"},
		{`{"match":{"path":{"prefix":"/playback"}},"to":{"vip":"canary"}}`, "http://h/web/1", "", "web///"},
		{`{"routes":["playback"],"to":{"instance":"i-1"},"force":true}`, "http://h/playback/1", "", "playback//i-1/!"},
		{`{"routes":["playback"],"to":{"instance":"i-1"}}`, "http://h/web/1", "", "web///"},
		{`{"apps":["web"],"to":{"instance":"i-1"}}`, "http://h/web/1", "", "web//i-1/"},
		{`{"match":{"hosts":["*.example.com"]},"to":{"addr":"127.0.0.1:9000"}}`, "http://A.EXAMPLE.com/web/1", "", "127.0.0.1:9000///127.0.0.1:9000"},
		{`{"to":{"vip":"x","addr":"127.0.0.1:9000"}}`, "http://h/web/1", "", "x///127.0.0.1:9000"},
		{`{"to":{"asg":"web-v012"}}`, "http://h/playback/1", "", "web/web-v012//"},
		{`{"select":{"ids":["ana","bo"]},"to":{"vip":"debug"}}`, "http://h/web/1", "ana", "debug///"},
		{`{"select":{"ids":["ana","bo"]},"to":{"vip":"debug"}}`, "http://h/web/1", "cy", "web///"},
		{`{"select":{"ids":["ana","bo"]},"to":{"vip":"debug"}}`, "http://h/web/1", "", "web///"},
		{`{"select":{"ids":["7"],"hash":"query:dev"},"to":{"vip":"debug"}}`, "http://h/web/1?dev=7", "", "debug///"},
		{`{"select":{"percent":100,"hash":"user"},"to":{"vip":"debug"}}`, "http://h/web/1", "", "web///"}, // no key, no stable choice
		{`{"select":{"percent":100},"to":{"vip":"debug"}}`, "http://h/web/1", "", "debug///"},
		{`{"select":{"percent":0},"to":{"vip":"debug"}}`, "http://h/web/1", "", "web///"},
		{`{"until":"2001-01-01T00:00:00Z","to":{"vip":"debug"}}`, "http://h/web/1", "", "web///"},
		{`{"to":{"vip":"debug"}}`, "http://h/nowhere", "", "debug///"},
		{`{"to":{"instance":"i-1"}}`, "http://h/nowhere", "", "///"},
		{`{"to":{"vip":"debug"}}`, "http://h/gone", "", "///"}, // the route answers itself
		{"match: {path: {prefix: /web}}\nto: {vip: debug}\n", "http://h/web/1", "", "debug///"},
	} {
		s := operated(t, "r", tt.rule)
		x := asked("GET", tt.url)
		x.User = tt.user
		matched := table.Match(x)
		y := *x
		s.Apply(x)
		got := strings.Join([]string{x.App, x.Group, x.Instance, x.Addr}, "/")
		if x.Force {
			got += "!"
		}
		if got != tt.want || (x.Surgical != "") != (x.App != y.App || x.Instance != y.Instance) {
			t.Errorf("%s for %s by %q: got %s (rule %q), want %s", tt.rule, tt.url, tt.user, got, x.Surgical, tt.want)
		}
		if !matched && x.App != "" && (x.Plan == nil || x.Plan.Route != "surgical.r") {
			t.Errorf("%s for %s: got plan %+v", tt.rule, tt.url, x.Plan)
		}
		z := asked("GET", tt.url)
		z.User = tt.user
		if e := table.Explain(z, s); e.Surgical != x.Surgical || z.App != x.App || (e.Surgical != "") != strings.Contains(e.Why, "surgical") {
			t.Errorf("%s for %s: explained as %+v", tt.rule, tt.url, e)
		}
	}
}

func TestAStableChoiceIsTheSameForTheSameKey(t *testing.T) {
	chosen := func(id string) map[string]bool {
		s := operated(t, id, `{"select":{"percent":12.5,"hash":"client"},"to":{"vip":"canary"}}`)
		in := map[string]bool{}
		for i := range 4000 {
			a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			x := asked("GET", "http://h/")
			for port := range uint16(3) {
				x.App, x.Client = "main", &filter.Client{Remote: netip.AddrPortFrom(a, port)}
				s.Apply(x)
				if was, known := in[a.String()]; known && was != (x.App == "canary") {
					t.Fatalf("%s is chosen only sometimes", a)
				}
				in[a.String()] = x.App == "canary"
			}
		}
		return in
	}
	first, second := chosen("a"), chosen("b")
	n, both := 0, 0
	for a, in := range first {
		if in {
			n++
		}
		if in && second[a] {
			both++
		}
	}
	if n < 400 || n > 600 {
		t.Errorf("12.5 %% of 4000 are %d", n)
	}
	if both > n/3 {
		t.Errorf("%d of the %d of one rule are of another's too; each rule has a salt of its own", both, n)
	}
	if got, want := bucketOf("salt", []byte("key")), bucketOf("sal", []byte("tkey")); got != want {
		t.Errorf("the bucket is not that of salt + key: %d and %d", got, want)
	}
}

func TestASqueezeSendsAtMostItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := operated(t, "squeeze", `{"to":{"instance":"i-1"},"rate":"50rps"}`)
		count := func(s *Surgery, every time.Duration, n int) (sent int) {
			for range n {
				x := asked("GET", "http://h/")
				x.App, x.Plan = "app", &filter.Plan{}
				if s.Apply(x); x.Instance == "i-1" {
					sent++
				}
				time.Sleep(every)
			}
			return sent
		}
		if got := count(s, time.Millisecond, 10_000); got < 495 || got > 510 {
			t.Errorf("1000 a second for 10 s at 50rps: %d were sent, want 500", got)
		}
		if got := count(s, 100*time.Millisecond, 100); got != 100 {
			t.Errorf("10 a second at 50rps: %d of 100 were sent, want all", got)
		}
		count(s, 0, 100)
		again, _ := NewSurgery(Config{}, map[string]string{"squeeze": `{"to":{"instance":"i-1"},"rate":"50rps"}`, "other": `{"apps":["none"],"to":{"vip":"x"}}`}, s)
		if got := count(again, 0, 100); got != 0 {
			t.Errorf("a change of another rule gave the rate %d more at once", got)
		}
	})
}

func TestASurgicalRuleEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := operated(t, "r", fmt.Sprintf(`{"to":{"vip":"x"},"until":%q}`, time.Now().Add(time.Minute).Format(time.RFC3339Nano)))
		sent := func() bool {
			x := asked("GET", "http://h/")
			s.Apply(x)
			return x.Surgical == "r"
		}
		if !sent() {
			t.Error("it is not in force before its end")
		}
		time.Sleep(61 * time.Second)
		if sent() {
			t.Error("it is in force after its end")
		}
	})
}

func TestMistakenSurgicalRulesAreLeftOutWithTheReason(t *testing.T) {
	for text, says := range map[string]string{
		``:                                 "it is no rule",
		`[]`:                               "want a mapping",
		`{"to":{}}`:                        "nowhere to send",
		`{"to":{"vip":"x"},"tu":1}`:        "did you mean to?",
		`{"to":{"vip":"x"},"id":"b"}`:      "leave it out",
		`{"to":{"vip":"x"},"rate":"fast"}`: "50rps",
		`{"to":{"vip":"x"},"force":true}`:  "which instance",
		`{"to":{"vip":"x"},"select":{"percent":101}}`:                       "0 to 100",
		`{"to":{"vip":"x"},"select":{"hash":"user"}}`:                       "chooses nobody",
		`{"to":{"vip":"x"},"select":{"hash":"mood","percent":1}}`:           "select.hash",
		`{"to":{"vip":"x"},"select":{"ids":["a"],"percent":1}}`:             "not both",
		`{"to":{"addr":"x"}}`:                                               "host:port",
		`{"to":{"addr":"x:1","instance":"i"}}`:                              "stands for itself",
		`{"to":{"vip":"x"},"match":{"when":"1"}}`:                           "evaluates no expressions",
		"\n\n{\"to\":{\"vip\":\"x\"},\n\"match\":{\"path\":{\"prefx\":1}}}": "edge.surgical.a:4: path has no \"prefx\"; did you mean prefix?",
		`{"to":{"vip":"x"},"match":{"path":{"prefix":"x"}}}`:                "starts with /",
	} {
		s, wrong := NewSurgery(Config{}, map[string]string{"a": text, "good": `{"to":{"vip":"x"}}`}, nil)
		if err := wrong["a"]; err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error saying %q", text, err, says)
		}
		if rules := s.Rules(); len(rules) != 1 || rules[0].ID != "good" {
			t.Errorf("%s: the good rule beside it is gone: %+v", text, rules)
		}
	}
}

func TestSurgeryAllocatesNothing(t *testing.T) {
	s, x := thirtyRules(t)
	if n := testing.AllocsPerRun(100, func() { x.Surgical = ""; s.Apply(x) }); n != 0 || x.Surgical != "r29" {
		t.Errorf("%v allocations to rule %q", n, x.Surgical)
	}
}

func thirtyRules(t testing.TB) (*Surgery, *filter.Exchange) {
	texts := map[string]string{}
	for i := range 29 {
		texts[fmt.Sprintf("r%02d", i)] = fmt.Sprintf(`{"match":{"hosts":["h.example.com"],"path":{"prefix":"/p%d"}},"select":{"percent":1,"hash":"user"},"to":{"vip":"x"}}`, i)
	}
	texts["r29"] = `{"select":{"percent":100,"hash":"user"},"to":{"vip":"x"}}`
	s, wrong := NewSurgery(Config{}, texts, nil)
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	x := asked("GET", "http://H.example.com/px/y")
	x.User, x.Plan = "ana", &filter.Plan{}
	return s, x
}

func BenchmarkSurgery(b *testing.B) {
	s, x := thirtyRules(b)
	b.ReportAllocs()
	for b.Loop() {
		s.Apply(x)
	}
}

func FuzzRule(f *testing.F) {
	f.Add(`{"match":{"hosts":["*.x"],"path":{"prefix":"/a"}},"select":{"percent":50,"hash":"user"},"to":{"vip":"x"},"rate":"5rps"}`)
	f.Add("to: {asg: a-v001}\nselect: {ids: [a]}\nuntil: 2030-01-01T00:00:00Z\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, _ := NewSurgery(Config{}, map[string]string{"r": text}, nil)
		x := asked("GET", "http://a.x/a/b")
		x.User = "a"
		s.Apply(x)
	})
}
