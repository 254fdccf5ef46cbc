package program

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

func compiled(t testing.TB, text string) *script {
	t.Helper()
	s, err := newScript("p", text, time.Minute)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	return s
}

func TestAScriptChangesARequest(t *testing.T) {
	s := compiled(t, `
TIERS = {"gold": 1, "silver": 20}

def tier(ctx):
    claims = ctx.get("jwt.claims", {})
    return claims.get("plan", "none")

def apply(req, ctx):
    if req.method == "GET" and req.headers.get("x-device") == "tv":
        req.headers["X-Tier"] = tier(ctx) + "/" + req.cookies["lang"]
        req.headers.add("X-Also", "one")
        req.headers.add("X-Also", "two")
        req.headers.remove("x-device")
    req.priority = TIERS.get(tier(ctx), 90)
    req.path = "/v" + req.query["v"] + req.path + "?a=1"
    if req.bucket("user") < 10000:
        req.app = "api-canary"
    n = 0
    for h in req.headers.names():
        n += len(h)
    words = "a,b,c".split(",")
    words += ["d"]
    words[0] += "%s-%d" % ("z", n)
    ctx["seen"] = ";".join(words)
    ctx["host"] = "{}|{}|{}".format(req.host, req.client_ip, req.tls_version)
`)
	x := request()
	if err := s.run(x); err != nil {
		t.Fatal(err)
	}
	h := &x.Request.Header
	if h.Get("x-tier") != "gold/de" || h.Count("x-also") != 2 || h.Has("X-Device") {
		t.Errorf("header %v", h.Fields())
	}
	if x.Priority != 1 || x.Path != "/v2/a/b" || x.Request.RawQuery != "a=1" || x.App != "api-canary" {
		t.Errorf("priority %d, path %s?%s, app %s", x.Priority, x.Path, x.Request.RawQuery, x.App)
	}
	if x.Value("seen") != "az-24;b;c;d" || x.Value("host") != "api.example.com|10.1.2.3|1.3" {
		t.Errorf("kept %v, %v", x.Value("seen"), x.Value("host"))
	}
}

func TestAScriptAnswers(t *testing.T) {
	s := compiled(t, `
def apply(req, ctx):
    if req.path.startswith("/a"):
        req.answer(403, "not you", {"X-Why": "because"})
    elif req.response:
        req.response.status = 418
        req.response.headers["X-Seen"] = "%d" % req.response.status
`)
	x := request()
	if err := s.run(x); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(x.Response.Body)
	if !x.Answered() || x.Response.Status != 403 || string(b) != "not you" || x.Response.Header.Get("x-why") != "because" {
		t.Errorf("got %d %q %v", x.Response.Status, b, x.Response.Header.Fields())
	}
	x = request()
	x.Request.Path = "/z"
	if err := s.run(x); err != nil || x.Response.Status != 418 || x.Response.Header.Get("x-seen") != "418" {
		t.Errorf("got %d %v %v", x.Response.Status, x.Response.Header.Fields(), err)
	}
}

func TestAScriptWithAMistakeNamesLineColumnAndReason(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "line 1, column 1: the script has no function apply(req, ctx)",
		"def apply(req):\n  pass":                "line 1, column 1: apply takes 1 parameters",
		"def apply(req, ctx):\n  x = (":          "line 2, column 8",
		"def apply(req, ctx):\n  return nothing": "line 2, column 10: undefined: nothing",
		"x = 1 // 0\ndef apply(req, ctx):\n  pass":                         "line 1, column 7: ",
		"load('a', 'b')\ndef apply(req, ctx):\n  pass":                     "line 1, column 1: load is not allowed",
		"def apply(req, ctx):\n  while True:\n    pass":                    "line 2, column 3: while is not allowed",
		"def f(*args):\n  pass\ndef apply(req, ctx):\n  pass":              "line 1, column 7: *args",
		"def f():\n  return [1]\ndef apply(req, ctx):\n  f()[0] += f()[0]": "line 4, column 10: += to what a call returns",
		"def apply(req, ctx):\n  pass\n" + strings.Repeat("#", maxScript):  "at most 65536",
		"def apply(req, ctx):\n  return " + strings.Repeat("(", 40000):     "line",
		"x = 'a' * 1000000\ndef apply(req, ctx):\n  pass":                  "line 1, column 9: it needs more than the 512 KiB",
		"[x for x in range(100000)] + [y for y in range(90000)]":           "line 1",
		"x = getattr('a', 'format')\ndef apply(req, ctx):\n  pass":         "line 1, column 12: filters may not ask",
	} {
		_, err := newScript("p", text, time.Minute)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		}
	}
}

// TestAScriptIsStopped is what a script may try to hold the process up or to fill its memory.
func TestAScriptIsStopped(t *testing.T) {
	for _, tt := range []struct{ what, body, want string }{
		{"loops", "for i in range(100000):\n    for j in range(100000):\n      pass", "it took"},
		{"loops in steps that take long", "x = ('a' * 100000)\n  for i in range(10000):\n    x.count('b')", "512 KiB"},
		{"recurses", "return f(req)", "called recursively"},
		{"repeats", "return 'x' * 1000000000", "512 KiB"},
		{"repeats by number first", "return 1000000000 * 'x'", "512 KiB"},
		{"repeats a list", "return [0] * 100000000", "512 KiB"},
		{"repeats in place", "x = 'x'\n  x *= 1000000000", "512 KiB"},
		{"doubles text", "x = 'xxxxxxxx'\n  for i in range(40):\n    x = x + x", "512 KiB"},
		{"doubles text in place", "x = 'xxxxxxxx'\n  for i in range(40):\n    x += x", "512 KiB"},
		{"doubles a list", "x = [1]\n  for i in range(40):\n    x += x", "512 KiB"},
		{"extends a list with itself", "x = [1]\n  for i in range(40):\n    x.extend(x)", "512 KiB"},
		{"doubles an element", "x = ['xxxxxxxx']\n  for i in range(40):\n    x[0] += x[0]", "512 KiB"},
		{"slices often", "x = [0] * 8000\n  y = []\n  for i in range(10000):\n    y.append(x[:])", "512 KiB"},
		{"makes a huge number", "x = 3\n  for i in range(40):\n    x = x * x", "more than 4096 bits"},
		{"shifts", "x = 1\n  for i in range(1000):\n    x = x << 511", "more than 4096 bits"},
		{"shifts in place", "x = 1\n  for i in range(1000):\n    x <<= 511", "more than 4096 bits"},
		{"reads a huge number", "return int('9' * 100000)", "more than 4096 bits"},
		{"formats", "s = 'x' * 10000\n  return '%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s%s' % tuple([s] * 52)", "512 KiB"},
		{"formats by name", "s = 'x' * 10000\n  return ('%(a)s' * 1000) % {'a': s}", "512 KiB"},
		{"formats by number", "s = 'x' * 10000\n  return ('{0}' * 1000).format(s)", "512 KiB"},
		{"replaces", "return ('a' * 10000).replace('a', 'b' * 10000)", "512 KiB"},
		{"replaces nothing", "return ('a' * 10000).replace('', 'b' * 10000)", "512 KiB"},
		{"joins", "return ('s' * 10000).join(['a'] * 10000)", "512 KiB"},
		{"joins long ones", "return ''.join(['s' * 10000] * 10000)", "512 KiB"},
		{"lists a range", "return list(range(1000000000))", "at most 100000"},
		{"lists ranges", "x = []\n  for i in range(100):\n    x.append(list(range(100000)))", "512 KiB"},
		{"sorts ranges", "for i in range(100):\n    sorted(range(100000))", "512 KiB"},
		{"zips", "return zip(range(100000), range(100000), range(100000))", "512 KiB"},
		{"passes many", "return len(*([range(100000)] * 100000))", "512 KiB"},
		{"tells a list of lists", "x = [1]\n  for i in range(50):\n    x = [x, x]\n  return str(x)", "512 KiB"},
		{"formats a list of lists", "x = [1]\n  for i in range(50):\n    x = [x, x]\n  return '%s' % x", "512 KiB"},
		{"formats a list of lists by method", "x = [1]\n  for i in range(50):\n    x = [x, x]\n  return '{}'.format(x)", "512 KiB"},
		{"fails with a list of lists", "x = [1]\n  for i in range(50):\n    x = [x, x]\n  fail(x)", "512 KiB"},
		{"compares wide lists", "x = [1]\n  for i in range(9):\n    x = [x] * 100\n  y = [1]\n  for i in range(9):\n    y = [y] * 100\n  return x == y", "512 KiB"},
		{"finds wide lists", "x = [1]\n  for i in range(9):\n    x = [x] * 100\n  y = [1]\n  for i in range(9):\n    y = [y] * 100\n  return [x].index(y)", "512 KiB"},
		{"compares tuples of tuples", "x = (1,)\n  for i in range(50):\n    x = (x, x)\n  return {x: 1}", "512 KiB"},
		{"nests", "x = [1]\n  for i in range(1000):\n    x = [x]\n  return str(x)", "more than 64 deep"},
		{"unions", "x = {}\n  for i in range(1000):\n    x[i] = i\n  y = []\n  for i in range(1000):\n    y.append(x | x)", "512 KiB"},
		{"sets", "x = set(range(2000))\n  y = []\n  for i in range(1000):\n    y.append(x.union(x))", "512 KiB"},
		{"splits", "return [('a,' * 30000).split(',') for i in range(1000)]", "512 KiB"},
		{"keeps", "LIST.append(1)", "frozen"},
		{"divides", "return 1 // 0", "line 4"},
		{"keeps req beyond its end", "LIST.append(req)", "frozen"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s := compiled(t, "LIST = []\ndef f(req): return apply(req, 1)\ndef apply(req, ctx):\n  "+tt.body+"\n")
			err := s.run(request())
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "line ") {
				t.Errorf("got %v, want %q and a line", err, tt.want)
			}
		})
	}
}

func TestAScriptSetsNothingThatWouldMakeTwoRequestsOfOne(t *testing.T) {
	for _, body := range []string{
		`req.headers["Content-Length"] = "5"`, `req.headers["transfer-encoding"] = "chunked"`, `req.headers.add("Host", "x")`,
		`req.headers.remove("Content-Length")`, `req.headers["X-Fit"] = "x"`, `req.headers["x-ipc-deadline"] = "1"`,
		`req.headers["A"] = "b\r\nc: d"`, `req.headers["A b"] = "c"`, `req.headers[""] = "c"`, `req.headers["A"] = 1`, `req.headers["A"] = "x" * 40000`,
		`req.path = "a"`, `req.path = "/a b"`, `req.path = "/a\r\nb"`, `req.path = "/ü"`, `req.app = "a/b"`, `req.app = ""`, `req.priority = 0`, `req.priority = 101`,
		`req.method = "POST"`, `req.answer(99)`, `req.answer(600)`, `req.answer(200, "", {"Content-Length": "3"})`, `req.response.status = 1`,
		`ctx["a"] = []`, `ctx["jwt.claims"] = "x"`, `ctx["a"] = 1 << 100`, `req.none`, `req.none = "x"`, `req.bucket("none")`, `req.headers["none"]`,
	} {
		x := request()
		before := x.Request.Header.Len()
		err := compiled(t, "def apply(req, ctx):\n  "+body+"\n").run(x)
		if err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: got %v, want an error of line 2", body, err)
		}
		if x.Request.Header.Len() != before || x.Answered() || x.Path != "" || x.App != "" || x.Priority != 7 {
			t.Errorf("%s: it had an effect", body)
		}
	}
}

func TestAScriptIsStoppedWhenItTakesTooLong(t *testing.T) {
	s := compiled(t, "def apply(req, ctx):\n  for i in range(100000):\n    pass\n")
	s.limit = time.Nanosecond
	if err := s.run(request()); err == nil || !strings.Contains(err.Error(), "it took longer than 1ns") {
		t.Errorf("got %v, want that it took too long", err)
	}
}

func FuzzScript(f *testing.F) {
	for _, s := range []string{
		"def apply(req, ctx):\n  req.headers['a'] = 'b' * 3\n", "def apply(req, ctx):\n  x = [i for i in range(9) if i % 2]\n  x += x[1:]\n  ctx['a'] = str(x)\n",
		"def apply(req, ctx):\n  a, (b, c) = 1, (2, 3)\n  d = {a: b, 'x': lambda y: y | 1}\n  d |= {}\n  req.answer(200, '%d' % c)\n",
		"x = 1\nx += 2\ndef apply(req, ctx):\n  return f(*[1], **{'b': 2})\ndef f(a, b = 2 * 3): return a if a > b else -b\n",
		"def apply(req, ctx):\n  for k, v in {'a': 1}.items():\n    ctx[k] = v << 3\n  return (1, 2) in [(1, 2)] and not req.cookies.get('x')\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := newScript("p", text, time.Minute)
		if err != nil {
			if !strings.Contains(err.Error(), "line ") && !strings.Contains(err.Error(), "at most") {
				t.Errorf("%q: %v names no line", text, err)
			}
			return
		}
		s.run(request())          //nolint:errcheck // any end is fine, as long as there is one
		s.run(&filter.Exchange{}) //nolint:errcheck // as before
	})
}

func BenchmarkScript(b *testing.B) {
	s := compiled(b, "def apply(req, ctx):\n  if req.headers.get('x-device') == 'tv':\n    req.headers['X-Tier'] = 'gold/' + req.path\n")
	x := request()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.run(x); err != nil {
			b.Fatal(err)
		}
	}
}
