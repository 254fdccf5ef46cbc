package smuggle

import (
	"strings"
	"testing"
)

func TestCasesAreManyAndEachIsItsOwn(t *testing.T) {
	names, bytes := make(map[string]string), make(map[string]string)
	fates := make(map[Fate]int)
	for _, c := range Requests("a.test") {
		fates[c.Fate]++
		if old, ok := names[c.Name]; ok {
			t.Errorf("%s and %s are both named %q", old, c.ID, c.Name)
		}
		plain := strings.ReplaceAll(c.Raw, c.ID, "id")
		if old, ok := bytes[plain]; ok {
			t.Errorf("%s and %s (%s) send the same bytes", old, c.ID, c.Name)
		}
		if c.Fate == Passes && len(c.Reads) == 0 {
			t.Errorf("%s %s is sound, and yet has no reading", c.ID, c.Name)
		}
		names[c.Name], bytes[plain] = c.ID, c.ID
	}
	if fates[Refused] < 400 || fates[Passes] < 100 {
		t.Errorf("%d cases are to be refused and %d pass, want at least 400 and 100", fates[Refused], fates[Passes])
	}
}

func TestParseTakesWhatASoundProxyWrites(t *testing.T) {
	all, rest, err := Parse("GET /a?b HTTP/1.1\r\nHost: h\r\nX-Y:  z \r\n\r\n" + "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" +
		"POST /c HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-T: u\r\n\r\n" + "POST /d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab")
	if err != nil || len(all) != 3 || !strings.HasPrefix(rest, "POST /d ") {
		t.Fatalf("got %v, rest %q, %v; want three requests and the start of a fourth", all, rest, err)
	}
	for i, want := range []Request{{"GET", "/a?b", "h", ""}, {"POST", "/b", "h", "abc"}, {"POST", "/c", "h", "abc0123456789"}} {
		if all[i].Request != want || len(all[i].Flaws) > 0 {
			t.Errorf("request %d: got %s with flaws %q, want %s", i, all[i].Request, all[i].Flaws, want)
		}
	}
	if v, _ := all[0].Value("x-y"); v != "z" || !all[2].Trailer("x-t") {
		t.Errorf("got X-Y %q and trailers %v", v, all[2].Trailers)
	}
}

func TestParseTakesNothingElse(t *testing.T) {
	const head = "POST /a HTTP/1.1\r\nHost: h\r\n"
	for _, s := range []string{
		"GET /a HTTP/1.0\r\nHost: h\r\n\r\n", "GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /a HTTP/1.1\r\n\r\n", "GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", head + "X : y\r\n\r\n", head + " X: y\r\n\r\n", head + "X: y\n\r\n\r\n",
		head + "X: \x00\r\n\r\n", head + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", head + "Content-Length: +1\r\n\r\na", head + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
		head + "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", head + "Transfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n", head + "Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nabc0\r\n\r\n",
	} {
		if all, _, err := Parse(s); err == nil {
			t.Errorf("%q: got %v, want an error", s, all)
		}
	}
}

func TestTheJudgeSeesWhatIsWrong(t *testing.T) {
	const host = "a.test"
	seen := func(r Request) Seen {
		r.Host = host
		return Seen{Message: Message{Request: r}, Echo: &r, Status: 200}
	}
	c := Case{ID: "c0001", Fate: Passes, Reads: []Request{{"GET", "/c0001", host, ""}, {"GET", "/c0001/probe", host, ""}}}
	a, probe := seen(Request{Method: "GET", Target: "/c0001"}), seen(Request{Method: "GET", Target: "/c0001/probe"})
	hidden := seen(Request{Method: "GET", Target: "/c0001/smuggled"})
	unanswered := probe
	unanswered.Status, unanswered.Echo = 0, nil
	other := a
	other.Echo = &Request{"GET", "/c0001", host, "x"}
	for _, v := range []struct {
		what         string
		o            Outcome
		safe, strict bool
	}{
		{"all passes", Outcome{[]Seen{a, probe}, []int{200, 200}, true}, true, true},
		{"all is refused", Outcome{nil, []int{400}, true}, true, false},
		{"the second is refused", Outcome{[]Seen{a}, []int{200, 400}, true}, true, false},
		{"something else came", Outcome{[]Seen{a, hidden, probe}, []int{200, 200, 200}, true}, false, false},
		{"it came twice", Outcome{[]Seen{a, a, probe}, []int{200, 200, 200}, true}, false, false},
		{"in another order", Outcome{[]Seen{probe, a}, []int{200, 200}, true}, false, false},
		{"the server read it differently", Outcome{[]Seen{other, probe}, []int{200, 200}, true}, false, false},
		{"an answer from nowhere", Outcome{[]Seen{a}, []int{200, 200}, true}, false, false},
		{"it was sent again", Outcome{[]Seen{a, unanswered, probe}, []int{200, 200}, true}, true, true},
		{"it was not answered", Outcome{[]Seen{a, unanswered}, []int{200, 502}, true}, false, false},
		{"no answer", Outcome{nil, nil, true}, false, false},
		{"it stays open", Outcome{nil, []int{400}, false}, false, false},
	} {
		if got := c.Judge(v.o); (got == nil) != v.safe {
			t.Errorf("%s: judged %v, want safe %v", v.what, got, v.safe)
		}
		if got := c.JudgeStrictly(v.o); (got == nil) != v.strict {
			t.Errorf("%s: judged strictly %v, want sound %v", v.what, got, v.strict)
		}
	}
	refused := Case{ID: "c0002", Fate: Refused, Status: []int{400}, Gone: []string{"X"}}
	for status, strict := range map[int]bool{400: true, 404: false} {
		if got := refused.JudgeStrictly(Outcome{nil, []int{status}, true}); (got == nil) != strict {
			t.Errorf("refused with %d instead of 400: %v", status, got)
		}
	}
}

func TestAnswersAreManyAndEachIsItsOwn(t *testing.T) {
	names := make(map[string]bool)
	fates := make(map[Fate]int)
	for _, a := range Answers() {
		fates[a.Fate]++
		if names[a.Name] {
			t.Errorf("two answers are named %q", a.Name)
		}
		names[a.Name] = true
		if a.Fate == Passes && a.Status == 0 {
			t.Errorf("%s passes, but with no status", a.Name)
		}
	}
	if fates[Refused] < 100 || fates[Passes] < 40 {
		t.Errorf("%d answers are to be refused and %d pass, want at least 100 and 40", fates[Refused], fates[Passes])
	}
}

func TestTheJudgeOfAnswersSeesWhatIsWrong(t *testing.T) {
	passes, refused := Answer{Fate: Passes, Status: 200, Body: "hello"}, Answer{Fate: Refused}
	for _, v := range []struct {
		a      Answer
		status int
		body   string
		whole  bool
		right  bool
	}{
		{passes, 200, "hello", true, true}, {passes, 200, "hell", false, false}, {passes, 200, "hellopoisoned", true, false}, {passes, 502, "", true, false}, {passes, 0, "", false, false},
		{refused, 502, "no", true, true}, {refused, 504, "no", true, true}, {refused, 200, "poi", false, true}, {refused, 0, "", false, true}, {refused, 200, "poisoned", true, false}, {refused, 500, "", true, false},
	} {
		if got := v.a.Judge(v.status, v.body, v.whole); (got == nil) != v.right {
			t.Errorf("fate %d, got %d with %q, whole %t: judged %v, want right %t", v.a.Fate, v.status, v.body, v.whole, got, v.right)
		}
	}
}
