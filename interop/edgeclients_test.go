package interop

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
)

// edgeCall is what a client is told to do, in the words of client.js, client.py and Caller.java.
type edgeCall struct {
	method, target string
	form           string // of the body: none, length or chunked
	body           string
}

func (c edgeCall) String() string {
	if c.form == "none" {
		return c.method + " " + c.target
	}
	return fmt.Sprintf("%s %s with %d bytes, %s", c.method, c.target, len(c.body), c.form)
}

// reply is what came back.
type reply struct {
	Status  int
	Headers map[string]string
	Body    []byte
}

// bin are calls of all that go-httpbin has.
func bin() (all []edgeCall) {
	for _, target := range []string{
		"/get", "/get?a=b%20c&a=d&e", "/anything/a%2Fb/c?x=1", "/headers", "/user-agent", "/status/200", "/status/201", "/status/204", "/status/304", "/status/400", "/status/401", "/status/404", "/status/418", "/status/429",
		"/status/500", "/status/502", "/status/503", "/redirect/3", "/relative-redirect/2", "/absolute-redirect/2", "/redirect-to?url=/get&status_code=307", "/gzip", "/deflate", "/stream/5", "/stream-bytes/100000?seed=1",
		"/range/1024", "/bytes/50000?seed=1", "/drip?duration=0.3&numbytes=10&delay=0", "/drip?duration=0.2&numbytes=5&code=500", "/delay/0.2", "/cookies", "/cookies/set?a=b", "/etag/abc", "/cache", "/cache/60",
		"/response-headers?X-A=1&X-A=2&X-B=%E2%98%83", "/encoding/utf8", "/json", "/jsonl", "/xml", "/html", "/image/png", "/image/jpeg", "/base64/aGVsbG8=", "/sse?count=3&duration=0.2", "/trailers?X-T=1", "/robots.txt", "/deny",
		"/links/3/0", "/basic-auth/a/b", "/bearer", "/no/such/thing",
	} {
		all = append(all, edgeCall{"GET", target, "none", ""})
	}
	for _, target := range []string{"/head", "/status/404", "/bytes/1000", "/stream/5"} {
		all = append(all, edgeCall{"HEAD", target, "none", ""})
	}
	large := strings.Repeat("0123456789abcdef", 60000)
	for _, c := range []edgeCall{{"POST", "/post", "", "hello"}, {"PUT", "/put", "", "hello"}, {"PATCH", "/patch", "", "hello"}, {"DELETE", "/delete", "", "hello"}, {"POST", "/anything", "", large}, {"PUT", "/upload", "", large}, {"POST", "/status/500", "", "hello"}, {"POST", "/status/413", "", large[:200_000]}} {
		for _, form := range []string{"length", "chunked"} {
			c.form = form
			all = append(all, c)
		}
	}
	return append(all, edgeCall{"POST", "/post", "length", ""}, edgeCall{"POST", "/post", "none", ""}, edgeCall{"DELETE", "/delete", "none", ""}, edgeCall{"OPTIONS", "/anything", "none", ""}, edgeCall{"PUT", "/put", "none", ""}, edgeCall{"POST", "/redirect-to?url=/get&status_code=303", "length", "hello"})
}

// serveBin starts go-httpbin on a port.
func serveBin(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: httpbin.New(httpbin.WithMaxBodySize(64 << 20))}
	go srv.Serve(l) //nolint:errcheck // it always ends with ErrServerClosed
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// do has a client make the calls to a server at base, and returns what it got, in their order.
func do(t *testing.T, calls []edgeCall, base string, command ...string) (all []reply) {
	t.Helper()
	var in, said bytes.Buffer
	for _, c := range calls {
		fmt.Fprintf(&in, "%s\t%s\t%s\t%s\n", c.method, c.target, c.form, base64.StdEncoding.EncodeToString([]byte(c.body)))
	}
	cmd := exec.CommandContext(t.Context(), command[0], append(slices.Clone(command[1:]), base)...)
	cmd.Stdin, cmd.Stderr = &in, &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", command, err, &said)
	}
	for line := range strings.Lines(string(out)) {
		var r reply
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q said %q: %v", command, line, err)
		}
		all = append(all, r)
	}
	if len(all) != len(calls) {
		t.Fatalf("%q made %d of %d calls:\n%s", command, len(all), len(calls), &said)
	}
	return all
}

// curl makes the calls with curl, on one connection.
func curl(t *testing.T, calls []edgeCall, base string, flags ...string) (all []reply) {
	t.Helper()
	for _, c := range calls {
		args := append(slices.Clone(flags), "-s", "-S", "-L", "-i", "--max-time", "20", "-X", c.method)
		switch c.form {
		case "length":
			args = append(args, "--data-binary", "@-", "-H", "Content-Type: application/octet-stream")
		case "chunked":
			args = append(args, "--data-binary", "@-", "-H", "Content-Type: application/octet-stream", "-H", "Transfer-Encoding: chunked")
		}
		if c.method == "HEAD" {
			args = slices.DeleteFunc(append(args, "-I"), func(s string) bool { return s == "-X" || s == "HEAD" })
		}
		cmd := exec.CommandContext(t.Context(), "curl", append(args, base+c.target)...)
		cmd.Stdin = strings.NewReader(c.body)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			all = append(all, reply{Body: []byte(fmt.Sprintf("%v: %s", err, &said))})
			continue
		}
		r := reply{Headers: make(map[string]string)}
		for strings.HasPrefix(string(out), "HTTP/") { // the last head is the answer's, those before are redirects and informational ones
			head, rest, _ := strings.Cut(string(out), "\r\n\r\n")
			lines := strings.Split(head, "\r\n")
			fmt.Sscanf(lines[0], "HTTP/%s %d", new(string), &r.Status)
			clear(r.Headers)
			for _, l := range lines[1:] {
				k, v, _ := strings.Cut(l, ":")
				k = strings.ToLower(k)
				if old, ok := r.Headers[k]; ok {
					v = old + "," + v
				}
				r.Headers[k] = strings.TrimSpace(v)
			}
			out = []byte(rest)
			if r.Status >= 300 && r.Status < 400 && strings.Contains(rest, "HTTP/") { // what a redirect says beside
				out = []byte(rest[strings.Index(rest, "HTTP/"):])
			}
		}
		r.Body = out
		if m := trailing.FindSubmatch(out); m != nil {
			r.Body, r.Headers["(trailers)"] = m[1], strings.ToLower(strings.TrimSpace(string(m[2])))
		}
		all = append(all, r)
	}
	return all
}

// unlike are fields of answers that differ from one connection to another, or that the edge adds.
var unlike = []string{"date", "connection", "keep-alive", "transfer-encoding", "x-request-id", "via", "alt-svc", ":status", "last-modified", "(version)", "proxy-connection", "trailer"}

// trailing finds the trailers that curl prints behind a JSON document or events.
var trailing = regexp.MustCompile(`(?s)^(\{.*\n\}\n?|event: .*\n\n)((?:[A-Za-z-]+: [^\n]*\n)+\s*)$`)

// timestamp finds the times in what go-httpbin says.
var timestamp = regexp.MustCompile(`"timestamp":\d+|[0-9a-f]{96,}|dur=[0-9.]+`)

// unpacked undoes the content coding, for clients that leave it.
func (r reply) unpacked() []byte {
	var from io.Reader
	var err error
	switch r.Headers["content-encoding"] {
	case "gzip":
		from, err = gzip.NewReader(bytes.NewReader(r.Body))
	case "deflate":
		from, err = zlib.NewReader(bytes.NewReader(r.Body))
	default:
		return r.Body
	}
	if err != nil {
		return r.Body // the client did
	}
	b, err := io.ReadAll(from)
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

// plain makes an answer one that is the same however it came: it knows nothing of ports, ids and who stands between.
func (r reply) plain(base string) string {
	var b strings.Builder
	r.Body = r.unpacked()
	fmt.Fprintf(&b, "%d\n", r.Status)
	for _, k := range slices.Sorted(maps.Keys(r.Headers)) {
		if !slices.Contains(unlike, k) {
			fmt.Fprintf(&b, "%s: %s\n", k, timestamp.ReplaceAllString(strings.ReplaceAll(r.Headers[k], base, "BASE"), "TIME"))
		}
	}
	_, host, _ := strings.Cut(base, "://")
	var doc map[string]any
	body := timestamp.ReplaceAllString(strings.ReplaceAll(string(r.Body), base, "BASE"), "TIME")
	if json.Unmarshal(r.Body, &doc) == nil {
		body = ""
		told(doc)
		text, _ := json.Marshal(doc)
		body = strings.ReplaceAll(strings.ReplaceAll(string(text), base, "BASE"), host, "HOST")
		s := b.String() // whose length is that of another document
		b.Reset()
		for line := range strings.Lines(s) {
			if !strings.HasPrefix(line, "content-length:") {
				b.WriteString(line)
			}
		}
	} else if lines := strings.Split(body, "\n"); len(lines) > 1 && strings.HasPrefix(lines[0], "{") { // of JSON, one a line
		for i, l := range lines {
			var doc map[string]any
			if json.Unmarshal([]byte(l), &doc) == nil {
				told(doc)
				text, _ := json.Marshal(doc)
				lines[i] = strings.ReplaceAll(strings.ReplaceAll(string(text), base, "BASE"), host, "HOST")
			}
		}
		body = strings.Join(lines, "\n")
	}
	return b.String() + "\n" + body
}

// told takes out of what go-httpbin says of a request what it was told by those between.
func told(doc map[string]any) {
	delete(doc, "origin")
	if h, ok := doc["headers"].(map[string]any); ok {
		for k := range h {
			if strings.HasPrefix(k, "X-Forwarded-") || k == "Via" || k == "X-Request-Id" || k == "Traceparent" || k == "X-Ipc-Caller" || strings.HasPrefix(k, "X-Ipc-") ||
				strings.HasPrefix(k, "X-B3") || k == "Connection" || k == "Keep-Alive" || k == "Transfer-Encoding" || k == "Content-Length" || k == "Accept-Encoding" || k == "Upgrade" || k == "Http2-Settings" || k == "X-Originating-Url" || k == "Forwarded" {
				delete(h, k)
			}
		}
	}
	if u, ok := doc["url"].(string); ok {
		_, rest, _ := strings.Cut(u, "://") // a request through HTTP/2 and TLS is told otherwise
		doc["url"] = rest
	}
}

// leadAll has the edge send everything to one server.
func (r *road) leadAll(app, addr string) {
	r.t.Helper()
	r.once(app, addr)
	r.set("bool", "zuul.GZipResponseFilter.out.disable", "true")
	r.set("json", "edge.routes", fmt.Sprintf(`[{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":%q}]}]`, app))
	eventually(r.t, "the edge leads everything to "+app, func() []string {
		resp, err := http.Get(r.at(7000) + "/status/218")
		if err != nil {
			return []string{err.Error()}
		}
		resp.Body.Close()
		return []string{fmt.Sprint(resp.StatusCode)}
	}, "218")
}

// TestRealClientsGetThroughTheEdgeWhatTheyGetDirectly compares all that go-httpbin answers.
func TestRealClientsGetThroughTheEdgeWhatTheyGetDirectly(t *testing.T) {
	need(t, "curl", "apt-get install curl")
	needNPM(t)
	needJava(t)
	addr := serveBin(t)
	r := newRoad(t, "--edge-tls-port", "7443", "--edge-http3")
	r.leadAll("httpbin", addr)
	direct, through, secure := "http://"+addr, r.at(7000), strings.Replace(r.at(7443), "http:", "https:", 1)
	type client struct {
		through string // the edge; by HTTP/2 where it has TLS
		calls   []edgeCall
		do      func(t *testing.T, calls []edgeCall, base string) []reply
	}
	speaks := func(command ...string) func(*testing.T, []edgeCall, string) []reply {
		return func(t *testing.T, calls []edgeCall, base string) []reply { return do(t, calls, base, command...) }
	}
	curls := func(flags ...string) func(*testing.T, []edgeCall, string) []reply {
		return func(t *testing.T, calls []edgeCall, base string) []reply {
			if base == direct && slices.Contains(flags, "--http2-prior-knowledge") {
				return curl(t, calls, base) // go-httpbin speaks HTTP/1.1 alone
			}
			return curl(t, calls, base, flags...)
		}
	}
	inPython := func(kind string) func(*testing.T, []edgeCall, string) []reply {
		return speaks(append([]string{"env"}, python(t, "-B", "client.py", kind)...)...)
	}
	clients := map[string]client{
		"curl, HTTP 1.1":            {through, bin(), curls("--http1.1")},
		"curl, HTTP 1.0":            {through, withoutChunks(), curls("--http1.0")},
		"curl, h2c by upgrade":      {through, bin(), curls("--http2")},
		"curl, h2c":                 {through, withoutRedirects(), curls("--http2-prior-knowledge")},
		"curl, HTTP 2":              {secure, bin(), curls("--http2", "--insecure")},
		"undici":                    {through, bin(), speaks("node", "client.js", "undici")},
		"undici, HTTP 2":            {secure, inASCII(), speaks("node", "client.js", "undici")},
		"Node's http":               {through, bin(), speaks("node", "client.js", "http")},
		"Python's httpx":            {through, bin(), inPython("httpx")},
		"Python's httpx, HTTP 2":    {secure, bin(), inPython("httpx2")},
		"curl, HTTP 3":              {secure, bin(), inPython("curl3")},
		"Python's requests":         {through, bin(), inPython("requests")},
		"OkHttp":                    {through, bin(), speaks("java/run", "edge", "OkCaller", "1")},
		"OkHttp, HTTP 2":            {secure, bin(), speaks("java/run", "edge", "OkCaller", "2")},
		"Java's HttpClient":         {through, bin(), speaks("java/run", "edge", "Caller", "1")},
		"Java's, h2c by upgrade":    {through, bin(), speaks("java/run", "edge", "Caller", "2")},
		"Java's HttpClient, HTTP 2": {secure, bin(), speaks("java/run", "edge", "Caller", "2")},
	}
	same := func(t *testing.T, c client, adapt func(got, want *reply)) {
		began := time.Now()
		want, got := c.do(t, c.calls, direct), c.do(t, c.calls, c.through)
		for i := range want {
			adapt(&got[i], &want[i])
			if got, want := got[i].plain(c.through), want[i].plain(direct); got != want {
				t.Errorf("%s: through the edge\n%.1000s\ndirectly\n%.1000s", c.calls[i], got, want)
			}
		}
		t.Logf("%d calls each way in %v", len(want), time.Since(began).Round(time.Millisecond))
	}
	t.Run("as it is", func(t *testing.T) {
		for name, c := range clients {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				same(t, c, func(got, want *reply) {
					if _, told := want.Headers["content-length"]; !told {
						delete(got.Headers, "content-length") // who has the whole body may say how long it is
					}
				})
			})
		}
	})
	r.set("bool", "zuul.GZipResponseFilter.out.disable", "false")
	eventually(t, "the edge compresses", func() []string {
		return []string{curl(t, []edgeCall{{"GET", "/html", "none", ""}}, through, "--compressed")[0].Headers["content-encoding"]}
	}, "zstd")
	t.Run("compressed", func(t *testing.T) {
		for _, name := range []string{"undici", "Python's httpx, HTTP 2"} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				packed := 0
				same(t, clients[name], func(got, want *reply) {
					if got.Headers["content-encoding"] != "" && want.Headers["content-encoding"] == "" {
						packed++
					}
					for _, r := range []*reply{got, want} {
						r.Body = r.unpacked()
						for _, k := range []string{"vary", "content-encoding", "content-length", "accept-ranges", "etag"} {
							delete(r.Headers, k)
						}
					}
				})
				if packed < 3 {
					t.Errorf("%d answers were compressed, want some", packed)
				}
			})
		}
	})
}

// withoutRedirects are those on one connection each: curl 7.88 cannot use one with prior knowledge again, whose ever it is.
func withoutRedirects() []edgeCall {
	return slices.DeleteFunc(bin(), func(c edgeCall) bool {
		return strings.Contains(c.target, "redirect") || strings.Contains(c.target, "/set")
	})
}

// inASCII are those that undici understands by HTTP/2, where it takes fields for UTF-8 and writes them as Latin-1.
func inASCII() []edgeCall {
	return slices.DeleteFunc(bin(), func(c edgeCall) bool { return strings.Contains(c.target, "%E2%98%83") })
}

// withoutChunks are the calls that HTTP/1.0 can make.
func withoutChunks() []edgeCall {
	return slices.DeleteFunc(bin(), func(c edgeCall) bool { return c.form == "chunked" })
}

// TestWebSocketsSayThroughTheEdgeWhatTheySayDirectly has clients of two languages talk to the server of a third.
func TestWebSocketsSayThroughTheEdgeWhatTheySayDirectly(t *testing.T) {
	needNPM(t)
	addr := freeAddr(t, "127.0.0.1")
	run(t, addr, "node", "websocket.js", "serve", strings.TrimPrefix(addr, "127.0.0.1:"))
	r := newRoad(t)
	r.register("chat", addr)
	r.set("json", "edge.routes", `[{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"chat"}]}]`)
	eventually(t, "the edge leads to the server", func() []string {
		resp, err := http.Get(r.at(7000) + "/")
		if err != nil {
			return []string{err.Error()}
		}
		resp.Body.Close()
		return []string{fmt.Sprint(resp.StatusCode)}
	}, "426")
	for name, command := range map[string][]string{"ws": {"node", "websocket.js", "try"}, "websockets": append([]string{"env"}, python(t, "-B", "websocket.py")...)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			talk := func(url string) []string {
				out, err := exec.CommandContext(t.Context(), command[0], append(slices.Clone(command[1:]), url)...).CombinedOutput()
				if err != nil {
					t.Fatalf("%q %s: %v\n%s", command, url, err, out)
				}
				return strings.Split(strings.TrimSpace(string(out)), "\n")
			}
			want := talk("ws://" + addr + "/")
			got := talk("ws://" + r.edgeAddr() + "/")
			if len(got) != len(want) || len(want) < 15 {
				t.Errorf("%d conversations through the edge, %d directly; want as many, and some", len(got), len(want))
			}
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Errorf("through the edge\n%.500s\ndirectly\n%.500s", got[i], want[i])
				}
			}
			t.Logf("%d conversations", len(want))
		})
	}
}

// TestABrowserSpeaksThroughTheEdge opens a page that came through the edge and has it fetch, listen and talk.
func TestABrowserSpeaksThroughTheEdge(t *testing.T) {
	addr := serveBin(t)
	r := newRoad(t)
	r.leadAll("httpbin", addr)
	b := openBrowser(t)
	b.open(r.at(7000) + "/html")
	b.eval(`
		window.got = {events: 0}
		fetch('/post', {method: 'POST', body: 'from a browser'}).then(r => r.json()).then(d => got.posted = d.data)
		fetch('/gzip').then(r => r.json()).then(d => got.gzipped = d.gzipped)
		fetch('/redirect/2').then(r => got.redirected = r.url)
		const events = new EventSource('/sse?count=5&duration=1&delay=0')
		for (const name of ['message', 'ping']) events.addEventListener(name, () => { if (++got.events === 5) events.close() })
		const socket = new WebSocket(location.origin.replace('http', 'ws') + '/websocket/echo')
		socket.onopen = () => socket.send('over a socket')
		socket.onmessage = (m) => { got.said = m.data; socket.close(1000) }
		socket.onclose = (e) => { got.closed = e.code }
		true`)
	for claim, is := range map[string]string{
		"a POST": `got.posted && atob(got.posted.split(',').pop()) === 'from a browser' || got.posted === 'from a browser'`, "gzip": `got.gzipped === true`, "redirects": `got.redirected === location.origin + '/get'`,
		"a stream of events": `got.events === 5`, "a WebSocket": `got.said === 'over a socket'`, "its end": `got.closed === 1000`,
	} {
		b.until(claim+" came back", is)
	}
}
