package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/hammer"
)

func testRules(change ...func(*Rules)) *Rules {
	r := &Rules{}
	for _, c := range change {
		c(r)
	}
	r.Limits = r.Limits.withDefaults()
	return r
}

// parseRequest gives the parser all of in at once.
func parseRequest(in string, rules *Rules) (*filter.Exchange, *head, int, *Refusal) {
	var h head
	x := new(filter.Exchange)
	h.reset(rules)
	n, r := h.request([]byte(in), x)
	return x, &h, n, r
}

const hostLine = "Host: a.example\r\n"

func get(fields string) string { return "GET / HTTP/1.1\r\n" + hostLine + fields + "\r\n" }

func post(fields string) string { return "POST / HTTP/1.1\r\n" + hostLine + fields + "\r\n" }

var refusedHeads = []struct {
	name, in string
	status   int
	rule     string
}{
	{"a bare LF ends the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bare-lf"},
	{"a bare LF ends a field", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400, "bare-lf"},
	{"a bare LF ends the head", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare-lf"},
	{"nothing but LF", "\n", 400, "bare-lf"},
	{"LF before CR", "GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400, "bare-lf"},
	{"a bare CR in the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n", 400, "bare-cr"},
	{"a bare CR in the target", "GET /\rx HTTP/1.1\r\n\r\n", 400, "bare-cr"},
	{"a bare CR in a value", get("X: a\rb\r\n"), 400, "bare-cr"},
	{"a bare CR in a name", get("X\rY: a\r\n"), 400, "bare-cr"},
	{"a bare CR where a field begins", get("\rX: b\r\n"), 400, "bare-cr"},
	{"a bare CR before the request", "\rGET / HTTP/1.1\r\n\r\n", 400, "bare-cr"},
	{"NUL in a value", get("X: a\x00b\r\n"), 400, "control"},
	{"DEL in a value", get("X: a\x7fb\r\n"), 400, "control"},
	{"a vertical tab in Transfer-Encoding", post("Transfer-Encoding: \vchunked\r\n"), 400, "control"},
	{"a form feed in Transfer-Encoding", post("Transfer-Encoding: chunked\f\r\n"), 400, "control"},
	{"NUL in a name", get("X\x00: a\r\n"), 400, "control"},
	{"DEL in a name", get("X\x7f: a\r\n"), 400, "control"},
	{"an empty name", get(": a\r\n"), 400, "field-name"},
	{"a name that is no token", get("X(Y): a\r\n"), 400, "field-name"},
	{"a name beyond ASCII", get("X\xc3\xa4: a\r\n"), 400, "field-name"},
	{"a space before the colon", get("Transfer-Encoding : chunked\r\n"), 400, "field-name-space"},
	{"a tab before the colon", get("Content-Length\t: 3\r\n"), 400, "field-name-space"},
	{"no colon", get("X\r\n"), 400, "field-colon"},
	{"a folded field", get("X: a\r\n b\r\n"), 400, "folded"},
	{"a folded Transfer-Encoding", post("Transfer-Encoding:\r\n chunked\r\n"), 400, "folded"},
	{"a line of white space", get("X: a\r\n\t\r\n"), 400, "folded"},
	{"white space before the first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "leading-space"},
	{"two spaces after the method", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"},
	{"two spaces after the target", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"},
	{"a tab after the method", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"},
	{"a tab after the target", "GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"},
	{"a space after the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400, "request-line"},
	{"a space before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"},
	{"HTTP/0.9", "GET /\r\n", 400, "request-line"},
	{"no target", "GET HTTP/1.1\r\n\r\n", 400, "request-line"},
	{"no version", "GET / \r\n\r\n", 400, "request-line"},
	{"a method that is no token", "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"},
	{"a TLS hello", "\x16\x03\x01\x02\x00\x01", 400, "control"},
	{"a space in the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request-line"},
	{"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505, "version"},
	{"HTTP/2.0 in text", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "version"},
	{"the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version"},
	{"HTTP/1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", 505, "version"},
	{"http/1.1", "GET / http/1.1\r\nHost: a\r\n\r\n", 400, "version"},
	{"another protocol", "GET / RTSP/1.0\r\nHost: a\r\n\r\n", 400, "version"},
	{"HTTP/x", "GET / HTTP/x.1\r\nHost: a\r\n\r\n", 400, "version"},
	{"two empty lines before the request", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "blank-lines"},
	{"no Host", "GET / HTTP/1.1\r\n\r\n", 400, "host"},
	{"no Host with an absolute target", "GET http://a/ HTTP/1.1\r\n\r\n", 400, "host"},
	{"an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "host"},
	{"two Hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "host"},
	{"a Host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, "host"},
	{"a Host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, "host"},
	{"a Host with a comma", "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", 400, "host"},
	{"a Host with a space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "host"},
	{"a Host beyond ASCII", "GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", 400, "host"},
	{"a Host with a port of letters", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, "host"},
	{"a Host with a port too high", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400, "host"},
	{"a Host with a colon and no port", "GET / HTTP/1.1\r\nHost: a:\r\n\r\n", 400, "host"},
	{"a Host that is a bare IPv6 address", "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", 400, "host"},
	{"a Host with an open bracket", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "host"},
	{"a Host with IPv4 in brackets", "GET / HTTP/1.1\r\nHost: [1.2.3.4]\r\n\r\n", 400, "host"},
	{"a Host with a zone", "GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]\r\n\r\n", 400, "host"},
	{"a target with another host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host-differs"},
	{"a target with another port", "GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host-differs"},
	{"a target with a user", "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host"},
	{"CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "connect"},
	{"CONNECT with a path", "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", 405, "connect"},
	{"a target that is a host", "GET a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 400, "target"},
	{"a target that is a word", "GET index.html HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"},
	{"an opaque target", "GET mailto:a@b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"},
	{"an opaque http target", "GET http:a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"},
	{"a target of another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target"},
	{"GET *", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, "asterisk"},
	{"a fragment", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "fragment"},
	{"a fragment in a query", "GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", 400, "fragment"},
	{"a target beyond ASCII", "GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target-byte"},
	{"NUL in the target", "GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target-byte"},
	{"DEL in the target", "GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400, "target-byte"},
	{"a lone %", "GET /a% HTTP/1.1\r\nHost: a\r\n\r\n", 400, "percent"},
	{"% and letters", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "percent"},
	{"%00", "GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "percent-zero"},
	{"..;", "GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "dot-parameter"},
	{"%2e%2e;x", "GET /a/%2e%2E;x/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "dot-parameter"},
	{"Content-Length and Transfer-Encoding", post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400, "two-framings"},
	{"Transfer-Encoding and Content-Length", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), 400, "two-framings"},
	{"two equal lengths", post("Content-Length: 3\r\nContent-Length: 3\r\n"), 400, "content-length"},
	{"two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n"), 400, "content-length"},
	{"a list of lengths", post("Content-Length: 3, 3\r\n"), 400, "content-length"},
	{"a length with +", post("Content-Length: +3\r\n"), 400, "content-length"},
	{"a length with -", post("Content-Length: -3\r\n"), 400, "content-length"},
	{"a length with _", post("Content-Length: 1_0\r\n"), 400, "content-length"},
	{"a length with 0x", post("Content-Length: 0x3\r\n"), 400, "content-length"},
	{"a length with a space in it", post("Content-Length: 1 0\r\n"), 400, "content-length"},
	{"an empty length", post("Content-Length:\r\n"), 400, "content-length"},
	{"a length of 19 digits", post("Content-Length: 0000000000000000003\r\n"), 400, "content-length"},
	{"a length with a fraction", post("Content-Length: 3.0\r\n"), 400, "content-length"},
	{"chunked with HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "transfer-encoding-1.0"},
	{"xchunked", post("Transfer-Encoding: xchunked\r\n"), 400, "transfer-encoding"},
	{"chunked, identity", post("Transfer-Encoding: chunked, identity\r\n"), 400, "transfer-encoding"},
	{"identity, chunked", post("Transfer-Encoding: identity, chunked\r\n"), 400, "transfer-encoding"},
	{"identity", post("Transfer-Encoding: identity\r\n"), 400, "transfer-encoding"},
	{"gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n"), 501, "transfer-encoding"},
	{"gzip", post("Transfer-Encoding: gzip\r\n"), 400, "transfer-encoding"},
	{"chunked twice", post("Transfer-Encoding: chunked, chunked\r\n"), 400, "transfer-encoding"},
	{"chunked in quotes", post("Transfer-Encoding: \"chunked\"\r\n"), 400, "transfer-encoding"},
	{"chunked and a comma", post("Transfer-Encoding: chunked,\r\n"), 400, "transfer-encoding"},
	{"chunked with a parameter", post("Transfer-Encoding: chunked;q=1\r\n"), 400, "transfer-encoding"},
	{"an empty Transfer-Encoding", post("Transfer-Encoding:\r\n"), 400, "transfer-encoding"},
	{"Transfer-Encoding in two fields", post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), 400, "transfer-encoding"},
	{"Transfer-Encoding twice the same", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400, "transfer-encoding"},
	{"another expectation", post("Expect: 200-ok\r\nContent-Length: 3\r\n"), 417, "expect"},
	{"100-continue twice", post("Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"), 417, "expect"},
	{"an upgrade with a body", post("Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"), 400, "upgrade-body"},
	{"an upgrade with a chunked body", post("Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n"), 400, "upgrade-body"},
	{"a target over the limit", "GET /" + strings.Repeat("a", 16384) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414, "line-length"},
	{"a method without end", strings.Repeat("A", 16385), 414, "line-length"},
	{"a field over the limit", get("X: " + strings.Repeat("a", 32768) + "\r\n"), 431, "head-size"},
	{"a name without end", "GET / HTTP/1.1\r\n" + strings.Repeat("A", 32769), 431, "head-size"},
	{"201 fields", get(strings.Repeat("A: b\r\n", 200)), 431, "head-fields"},
}

func TestHeadsThatBreakARuleAreRefused(t *testing.T) {
	for _, c := range refusedHeads {
		t.Run(c.name, func(t *testing.T) {
			_, _, n, r := parseRequest(c.in, testRules())
			if r == nil {
				t.Fatalf("%q was read as %d bytes, want status %d by %s", cut(c.in), n, c.status, c.rule)
			}
			if r.Status != c.status || r.Rule != c.rule {
				t.Errorf("%q: got %d by %s (%v), want %d by %s", cut(c.in), r.Status, r.Rule, r, c.status, c.rule)
			}
			if want := filter.FailureBadRequest; r.Category != want && !(r.Status == 431 && r.Category == filter.FailureHeaderFieldsTooLarge) {
				t.Errorf("category: got %v, want %v", r.Category, want)
			}
		})
	}
}

func cut(s string) string { return s[:min(len(s), 200)] }

func TestWhatIsUnusualAndRightIsRead(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"one empty line before the request", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", `GET "a" "/" "" 11 0 []`},
		{"HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", `GET "" "/" "" 10 0 []`},
		{"an absolute target", "GET http://A.example:80/x?y HTTP/1.1\r\nHost: a.example:80\r\n\r\n", `GET "A.example:80" "/x" "y" 11 0 []`},
		{"an absolute target with HTTP/1.0 and no Host", "GET http://a HTTP/1.0\r\n\r\n", `GET "a" "/" "" 10 0 []`},
		{"an absolute target without a path", "GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n", `GET "a" "/" "x" 11 0 []`},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", `OPTIONS "a" "*" "" 11 0 []`},
		{"a method of one's own", "PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", `PURGE "a" "/" "" 11 0 []`},
		{"an IPv6 Host", "GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", `GET "[::1]:8080" "/" "" 11 0 []`},
		{"a value beyond ASCII", get("X: \xe4\xff\r\n"), `GET "a.example" "/" "" 11 0 [{X ` + "\xe4\xff" + `}]`},
		{"an empty value", get("X:\r\nY: \t \r\n"), `GET "a.example" "/" "" 11 0 [{X } {Y }]`},
		{"white space around a value", get("X: \t a b\t \r\n"), `GET "a.example" "/" "" 11 0 [{X a b}]`},
		{"tabs in a value", get("X: a\tb\tc\r\n"), "GET \"a.example\" \"/\" \"\" 11 0 [{X a\tb\tc}]"},
		{"a length with zeros before it", post("Content-Length: 003\r\n"), `POST "a.example" "/" "" 11 3 []`},
		{"a GET with a body", get("Content-Length: 3\r\n"), `GET "a.example" "/" "" 11 3 []`},
		{"chunked in capitals", post("TRANSFER-ENCODING: \t CHUNKED \r\n"), `POST "a.example" "/" "" 11 -1 []`},
		{"a query with %", "GET /a?100% HTTP/1.1\r\nHost: a\r\n\r\n", `GET "a" "/a" "100%" 11 0 []`},
		{"what Connection names is left out", get("Connection: x-a, keep-alive\r\nX-A: 1\r\nX-B: 2\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\n"), `GET "a.example" "/" "" 11 0 [{X-B 2}]`},
		{"what Connection must not name stays", get("Cookie: c\r\nX-Forwarded-For: f\r\nAuthorization: a\r\nForwarded: g\r\nConnection: cookie, X-Forwarded-For, AUTHORIZATION, forwarded, host, content-length, close\r\n"),
			`GET "a.example" "/" "" 11 0 [{Cookie c} {X-Forwarded-For f} {Authorization a} {Forwarded g}]`},
		{"TE but for trailers is left out", get("TE: gzip, trailers;q=1\r\nConnection: TE\r\n"), `GET "a.example" "/" "" 11 0 [{TE trailers}]`},
		{"TE without trailers is left out", get("TE: deflate\r\n"), `GET "a.example" "/" "" 11 0 []`},
		{"a name with an underscore is dropped", get("content_length: 3\r\nX: y\r\n"), `GET "a.example" "/" "" 11 0 [{X y}]`},
		{"an upgrade to h2c with a body is not heeded, which Java's client sends", post("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\nContent-Length: 3\r\n"), `POST "a.example" "/" "" 11 3 []`},
		{"HTTP2-Settings is left out though Connection does not name it", get("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"), `GET "a.example" "/" "" 11 0 []`},
		{"Upgrade without Connection is not heeded", get("Upgrade: websocket\r\n"), `GET "a.example" "/" "" 11 0 []`},
		{"Expect with HTTP/1.0 is not heeded", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", `POST "" "/" "" 10 3 []`},
		{"200 fields", "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("Te: a\r\n", 199) + "\r\n", `GET "a" "/" "" 11 0 []`},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, _, n, r := parseRequest(c.in+"rest", testRules())
			if r != nil || n != len(c.in) {
				t.Fatalf("%q: got %d bytes and %v, want %d", cut(c.in), n, r, len(c.in))
			}
			if got := describe(x); got != c.want {
				t.Errorf("%q:\n got %s\nwant %s", cut(c.in), got, c.want)
			}
		})
	}
}

func describe(x *filter.Exchange) string {
	q := &x.Request
	return fmt.Sprintf("%s %q %q %q %d %d %v", q.Method, q.Host, q.Path, q.RawQuery, q.Proto, q.ContentLength, q.Header.Fields())
}

func TestAnUpgradeIsAsked(t *testing.T) {
	x, _, _, r := parseRequest(get("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"), testRules())
	if r != nil || x.Request.Upgrade != "websocket" || x.Request.Header.Len() != 0 {
		t.Errorf("got %q, %v, %v, want websocket", x.Request.Upgrade, x.Request.Header.Fields(), r)
	}
}

func TestTheRulesCanBeChosen(t *testing.T) {
	const under, slash = "GET / HTTP/1.1\r\nHost: a\r\nx_y: 1\r\n\r\n", "GET /a%2Fb%5c HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, c := range []struct {
		name, in string
		rules    *Rules
		want     string
	}{
		{"keep underscores", under, testRules(func(r *Rules) { r.Underscores = Keep }), `GET "a" "/" "" 11 0 [{x_y 1}]`},
		{"reject underscores", under, testRules(func(r *Rules) { r.Underscores = Reject }), "underscore"},
		{"keep encoded slashes", slash, testRules(), `GET "a" "/a%2Fb%5C" "" 11 0 []`},
		{"reject encoded slashes", slash, testRules(func(r *Rules) { r.EncodedSlash = Reject }), "encoded-slash"},
		{"reject backslashes", "GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", testRules(func(r *Rules) { r.EncodedSlash = Reject }), "encoded-slash"},
		{"protect a field", get("Connection: x-team\r\nX-Team: a\r\n"), testRules(func(r *Rules) { r.Protected = []string{"X-Team"} }), `GET "a.example" "/" "" 11 0 [{X-Team a}]`},
	} {
		x, _, _, r := parseRequest(c.in, c.rules)
		got := describe(x)
		if r != nil {
			got = r.Rule
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestEachPathIsWrittenInOneWay(t *testing.T) {
	for _, c := range []struct {
		in, want string
		merge    bool
	}{
		{"/", "/", false}, {"/a.b/c.", "/a.b/c.", false}, {"/a/./b", "/a/b", false}, {"/a/../b", "/b", false}, {"/..", "/", false},
		{"/../../a", "/a", false}, {"/a/..", "/", false}, {"/a/b/..", "/a/", false}, {"/a/.", "/a/", false}, {"/.", "/", false},
		{"/a/%2e%2E/b", "/b", false}, {"/%2e", "/", false}, {"/a%2eb", "/a.b", false}, {"/a/.../b", "/a/.../b", false}, {"/.a", "/.a", false},
		{"/..a/b", "/..a/b", false}, {"/a//../b", "/a/b", false}, {"/a//b", "/a//b", false}, {"/a//b", "/a/b", true}, {"//a///b//", "/a/b/", true},
		{"/a//../b", "/b", true}, {"/a/%2f../b", "/a/%2F../b", false}, {"/a%20b", "/a%20b", false}, {"/.;a", "", false}, {"/a/./..//./b/", "//b/", false},
		{"/%61dmin", "/admin", false}, {"/a%2Db%5f%7e", "/a-b_~", false}, {"/caf%c3%a9", "/caf%C3%A9", false}, {"/a%2fb%3b", "/a%2Fb%3B", false},
		{"/a%2f%2Fb", "/a%2F%2Fb", true}, {"/%41%2e/%2E./b", "/b", false}, {"/%2561", "/%2561", false}, {"/%", "", false}, {"/%00", "", false},
	} {
		x, _, _, r := parseRequest("GET "+c.in+" HTTP/1.1\r\nHost: a\r\n\r\n", testRules(func(r *Rules) { r.MergeSlashes = c.merge }))
		if got := x.Request.Path; r == nil && got != c.want || (r != nil) != (c.want == "") {
			t.Errorf("%s (merge %v): got %q, %v, want %q", c.in, c.merge, got, r, c.want)
		}
		if x.Request.Target != c.in && r == nil {
			t.Errorf("%s: the target became %q", c.in, x.Request.Target)
		}
	}
}

// Every byte in every place: what is refused does not depend on luck.
func TestEachByteIsReadOrRefusedByItsClass(t *testing.T) {
	const tokens = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	for c := range 256 {
		b := string([]byte{byte(c)})
		ctl := c < 0x20 || c == 0x7f
		for _, p := range []struct {
			place, in string
			want      bool
		}{
			{"method", "G" + b + "T / HTTP/1.1\r\nHost: a\r\n\r\n", strings.Contains(tokens, b)},
			{"query", "GET /?a" + b + "b HTTP/1.1\r\nHost: a\r\n\r\n", c > 0x20 && c < 0x7f && c != '#'},
			{"name", get("X" + b + "Y: a\r\n"), strings.Contains(tokens, b) || c == ':'},
			{"value", get("X: aaaaaaaaaaaa" + b + "b\r\n"), !ctl || c == '\t'},
			{"value's end", get("X: a" + b + "\r\n"), !ctl || c == '\t'},
			{"host", "GET / HTTP/1.1\r\nHost: a" + b + "b\r\n\r\n", strings.Contains("-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", b)},
			{"length", post("Content-Length: 1" + b + "1\r\n"), c >= '0' && c <= '9'},
		} {
			if _, _, n, r := parseRequest(p.in, testRules()); (r == nil && n == len(p.in)) != p.want {
				t.Errorf("byte %#02x in the %s: read %d of %d bytes, %v, want it read: %v", c, p.place, n, len(p.in), r, p.want)
			}
		}
	}
}

// splitting gives the parser in in pieces that end where cuts says, and returns what it said and of how many bytes.
func splitting(in string, rules *Rules, cuts ...int) (string, int) {
	var h head
	x := new(filter.Exchange)
	h.reset(rules)
	buf := make([]byte, 0, len(in))
	for _, end := range append(cuts, len(in)) {
		buf = append(buf, in[len(buf):end]...)
		if n, r := h.request(buf, x); r != nil {
			return r.Rule, 0
		} else if n > 0 {
			return describe(x), n
		}
	}
	return "more", 0
}

func TestAHeadSplitAtEveryByteIsReadTheSame(t *testing.T) {
	ins := []string{browser, "\r\nGET http://a/./b?c HTTP/1.0\r\nHost: a\r\n\r\n"}
	for _, c := range refusedHeads {
		if len(c.in) < 2000 {
			ins = append(ins, c.in)
		}
	}
	for _, in := range ins {
		want, n := splitting(in, testRules())
		for i := range len(in) {
			if got, m := splitting(in, testRules(), i); got != want || m != n {
				t.Errorf("%q split after %d bytes: got %s, %d, want %s, %d", in, i, got, m, want, n)
			}
		}
		each := make([]int, len(in))
		for i := range each {
			each[i] = i
		}
		if got, m := splitting(in, testRules(), each...); got != want || m != n {
			t.Errorf("%q byte by byte: got %s, %d, want %s, %d", in, got, m, want, n)
		}
	}
	small := testRules(func(r *Rules) { r.Limits = Limits{Line: 20, Fields: 30, Count: 2} })
	for _, in := range []string{
		"GET /aaaaaaaaaaaaaaaaaaaaaaaa HTTP/1.1\r\n", "GET /aaaaa HTTP/1.1\r\nHost: a\r\n\r\n", "GET /aaaaaa HTTP/1.1\r\nHost: a\r\n\r\n", "GET /aaaaaaaaaaa HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaa\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaaa\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nXXXXXXXXXXXXXXXXXXXXXX: \x00\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\nY: b\r\n\r\n",
	} {
		want, n := splitting(in, small)
		for i := range len(in) {
			if got, m := splitting(in, small, i); got != want || m != n {
				t.Errorf("%q split after %d bytes with small limits: got %s, %d, want %s, %d", in, i, got, m, want, n)
			}
		}
	}
}

func TestLimitsAreExact(t *testing.T) {
	rules := testRules(func(r *Rules) { r.Limits = Limits{Line: 20, Fields: 16, Count: 2} })
	for in, want := range map[string]string{
		"GET /aaaaaa HTTP/1.1\r\nHost: a\r\n\r\n":       "",
		"GET /aaaaaaa HTTP/1.1\r\nHost: a\r\n\r\n":      "line-length",
		"GET / HTTP/1.1\r\nHost: a\r\nX: 12\r\n\r\n":    "",
		"GET / HTTP/1.1\r\nHost: a\r\nX: 12345\r\n\r\n": "head-size",
		"GET / HTTP/1.1\r\nHost:a\r\nX:\r\nY:\r\n\r\n":  "head-fields",
	} {
		got := ""
		if _, _, _, r := parseRequest(in, rules); r != nil {
			got = r.Rule
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

const browser = "GET /catalog/titles/8a1f?lang=fr&page=2 HTTP/1.1\r\n" +
	"Host: www.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.9,fr;q=0.8\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Connection: keep-alive\r\n" +
	"Referer: https://www.example.com/catalog\r\n" +
	"Cookie: session=4f1d8a6c2b; theme=dark\r\n" +
	"X-Request-Id: 6e9c1a0b77\r\n" +
	"Cache-Control: no-cache\r\n\r\n"

const answerHead = "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 26 Nov 2026 20:00:00 GMT\r\nContent-Type: application/json\r\n" +
	"Content-Length: 1024\r\nCache-Control: no-cache\r\nETag: \"3f2a9c00\"\r\nVary: Accept-Encoding\r\n\r\n"

func parseResponse(in string, upgrade bool) (*filter.Response, *head, int, *Refusal) {
	var h head
	p := new(filter.Response)
	h.reset(testRules())
	n, r := h.response([]byte(in), p, upgrade)
	return p, &h, n, r
}

func TestResponseHeads(t *testing.T) {
	for _, c := range []struct {
		name, in string
		upgrade  bool
		want     string // status, length, fields, and whether the connection persists; or the rule
	}{
		{"an answer", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\n", false, "200 5 [{X y}] true"},
		{"no reason", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", false, "200 0 [] true"},
		{"no reason and no space", "HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", false, "404 0 [] true"},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, "200 -1 [] true"},
		{"HTTP/1.0 closes", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false, "200 0 [] false"},
		{"HTTP/1.0 with keep-alive", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", false, "200 0 [] true"},
		{"close", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", false, "200 0 [] false"},
		{"204 has no body", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", false, "204 0 [] true"},
		{"304 tells a length", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, "304 5 [] true"},
		{"names with underscores stay", "HTTP/1.1 200 OK\r\nx_y: 1\r\nContent-Length: 0\r\n\r\n", false, "200 0 [{x_y 1}] true"},
		{"101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s\r\n\r\n", true, "101 0 [{Sec-WebSocket-Accept s} {Upgrade websocket}] true"},
		{"101 unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", false, "status-line"},
		{"101 to nothing", "HTTP/1.1 101 Switching Protocols\r\n\r\n", true, "status-line"},
		{"426 tells the protocol", "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", false, "426 0 [{Upgrade websocket}] true"},
		{"a status beyond those known", "HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n", false, "999 0 [] true"},
		{"a bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", false, "bare-lf"},
		{"a bare CR", "HTTP/1.1 200 OK\rX: y\r\n\r\n", false, "bare-cr"},
		{"two digits", "HTTP/1.1 20 OK\r\n\r\n", false, "status-line"},
		{"four digits", "HTTP/1.1 2000 OK\r\n\r\n", false, "status-line"},
		{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", false, "status-line"},
		{"another protocol", "SSH-2.0-OpenSSH_9.6\r\n", false, "status-line"},
		{"a page without a head", "<html>", false, "status-line"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", false, "content-length"},
		{"two framings", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false, "two-framings"},
		{"compressed transfer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", false, "transfer-encoding"},
		{"a folded field", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", false, "folded"},
		{"NUL in a value", "HTTP/1.1 200 OK\r\nX: a\x00\r\n\r\n", false, "control"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for at := range len(c.in) + 1 {
				var h head
				p := new(filter.Response)
				h.reset(testRules())
				buf := append(make([]byte, 0, len(c.in)), c.in[:at]...)
				n, r := h.response(buf, p, c.upgrade)
				if n == 0 && r == nil {
					n, r = h.response(append(buf, c.in[at:]...), p, c.upgrade)
				}
				got := fmt.Sprint(p.Status, " ", p.ContentLength, " ", p.Header.Fields(), " ", h.persists())
				if r != nil {
					got = r.Rule
				} else if n != len(c.in) {
					got = fmt.Sprint("read ", n)
				}
				if got != c.want {
					t.Fatalf("%q split after %d bytes: got %s, want %s", c.in, at, got, c.want)
				}
			}
		})
	}
}

func TestParsingAllocatesNothing(t *testing.T) {
	var h head
	x := new(filter.Exchange)
	rules := testRules()
	in, out := []byte(browser), []byte(answerHead)
	dots := []byte("GET /a/../b%2e HTTP/1.1\r\nHost: a\r\nConnection: x-a, keep-alive\r\nX-A: b\r\nTE: trailers\r\n\r\n")
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range [][]byte{in, dots} {
			x.Reset()
			h.reset(rules)
			if n, r := h.request(b, x); n != len(b) {
				t.Fatal(n, r)
			}
		}
		h.reset(rules)
		if n, r := h.response(out, &x.Response, false); n != len(out) {
			t.Fatal(n, r)
		}
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func BenchmarkRequestHead(b *testing.B) {
	var h head
	x := new(filter.Exchange)
	rules := testRules()
	in := []byte(browser)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		x.Request.Header.Reset()
		h.reset(rules)
		if n, r := h.request(in, x); n != len(in) {
			b.Fatal(n, r)
		}
	}
}

func BenchmarkResponseHead(b *testing.B) {
	var h head
	p := new(filter.Response)
	rules := testRules()
	in := []byte(answerHead)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		p.Header.Reset()
		h.reset(rules)
		if n, r := h.response(in, p, false); n != len(in) {
			b.Fatal(n, r)
		}
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	x, _, _, _ := parseRequest(browser, testRules())
	o := &Outgoing{Method: "GET", Host: "10.0.0.1:80", Target: "/catalog/titles/8a1f?lang=fr&page=2", Header: &x.Request.Header}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		out = appendRequest(out[:0], o, "")
	}
}

// stricter has why we refuse what net/http reads. Whatever is not here must be refused by both or read the same by both.
var stricter = map[string]string{
	"bare-lf":               "net/http ends lines at LF",
	"control":               "net/http lets some through in values",
	"blank-lines":           "net/http skips none, and counts them as a request",
	"request-line":          "net/http splits at the first and last space",
	"version":               "net/http reads HTTP/1.2 to 1.9",
	"host":                  "net/http takes sub-delims, empty ports and an empty Host",
	"host-differs":          "net/http lets the target win",
	"connect":               "net/http leaves CONNECT to its handler",
	"asterisk":              "net/http leaves it to its handler",
	"target":                "net/http takes other schemes",
	"fragment":              "net/http keeps it in the path",
	"target-byte":           "net/http takes bytes over 0x7e",
	"percent-zero":          "net/http decodes it",
	"dot-parameter":         "net/http does not know about parameters",
	"two-framings":          "net/http lets chunked win",
	"content-length":        "net/http takes several equal ones, and 19 digits",
	"transfer-encoding-1.0": "net/http ignores the field",
	"transfer-encoding":     "net/http takes it with other fields around",
	"chunk-size":            "net/http trims white space around it",
	"expect":                "net/http leaves it to its handler",
	"upgrade-body":          "net/http leaves it to its handler",
	"field-name-space":      "net/http takes it in ReadRequest and refuses it in its server",
	"field-name":            "net/http takes some in ReadRequest and refuses in its server",
	"line-length":           "ours is shorter",
	"head-size":             "ours is shorter",
	"head-fields":           "net/http counts bytes",
	"leading-space":         "net/http refuses some of them",
	"folded":                "net/http unfolds",
	"bare-cr":               "net/http lets some through in values",
}

// FuzzRequestHead has every input read here and by net/http: what is read here must be one request of the same method,
// target, host, framing and fields there.
func FuzzRequestHead(f *testing.F) {
	for _, c := range refusedHeads {
		if len(c.in) < 1000 {
			f.Add([]byte(c.in))
		}
	}
	f.Add([]byte(browser))
	f.Add([]byte("\r\nGET http://a:80/./%2e%2e/b?c HTTP/1.1\r\nHost: A:80\r\nX: \ta\t\r\n\r\n"))
	f.Add([]byte(post("Transfer-Encoding: chunked\r\nTrailer: X\r\n") + "0\r\n\r\n"))
	f.Add([]byte(post("Content-Length: 003\r\nConnection: close\r\n") + "abc"))
	f.Fuzz(func(t *testing.T, in []byte) { tryRequestHead(t, in) })
}

// tryRequestHead reads a head here, in halves, and by net/http.
func tryRequestHead(t *testing.T, in []byte) (accepted bool) {
	text := string(in)
	x, h, n, r := parseRequest(text, testRules(func(r *Rules) { r.Underscores = Keep }))
	half, m := splitting(text, testRules(func(r *Rules) { r.Underscores = Keep }), len(text)/2)
	if r != nil {
		if half != r.Rule {
			t.Fatalf("whole: %s; in halves: %s", r.Rule, half)
		}
		if stricter[r.Rule] == "" {
			if _, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in))); err == nil {
				t.Fatalf("refused by %s (%v), and net/http reads it", r.Rule, r)
			}
		}
		return false
	}
	if n == 0 {
		return false
	}
	if m != n || half != describe(x) {
		t.Fatalf("whole: %d, %s; in halves: %d, %s", n, describe(x), m, half)
	}
	br := bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(in[:n], []byte("\r\n"))))
	q, err := http.ReadRequest(br)
	if err != nil {
		t.Fatalf("read here, and net/http says %v", err)
	}
	if q.Method != x.Request.Method || q.RequestURI != x.Request.Target || !strings.EqualFold(q.Host, x.Request.Host) {
		t.Fatalf("got %s %q of %q, net/http has %s %q of %q", x.Request.Method, x.Request.Target, x.Request.Host, q.Method, q.RequestURI, q.Host)
	}
	length := q.ContentLength
	if length != x.Request.ContentLength || (len(q.TransferEncoding) > 0) != (x.Request.ContentLength < 0) {
		t.Fatalf("length: got %d, net/http has %d, %v", x.Request.ContentLength, length, q.TransferEncoding)
	}
	if x.Request.Proto != q.ProtoMajor*10+q.ProtoMinor {
		t.Fatalf("version: got %d, net/http has %s", x.Request.Proto, q.Proto)
	}
	for _, fd := range x.Request.Header.Fields() {
		if filter.Same(fd.Name, "TE") || filter.Same(fd.Name, "Trailer") {
			continue
		}
		vs := q.Header.Values(fd.Name)
		found := false
		for _, v := range vs {
			found = found || v == fd.Value
		}
		if !found {
			t.Fatalf("field %q: got %q, net/http has %q", fd.Name, fd.Value, vs)
		}
	}
	if h.at != n {
		t.Fatalf("at %d, n %d", h.at, n)
	}
	return true
}

// FuzzResponseHead is FuzzRequestHead for responses.
func FuzzResponseHead(f *testing.F) {
	f.Add([]byte(answerHead))
	f.Add([]byte("HTTP/1.0 404\r\nConnection: keep-alive\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nx_y: z\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) { tryResponseHead(t, in) })
}

// tryResponseHead reads the head of an answer here and by net/http.
func tryResponseHead(t *testing.T, in []byte) (accepted bool) {
	p, h, n, r := parseResponse(string(in), false)
	if r != nil || n == 0 {
		return false
	}
	q, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in[:n])), nil)
	if err != nil {
		t.Fatalf("read here, and net/http says %v", err)
	}
	if q.StatusCode != p.Status || q.ProtoMajor*10+q.ProtoMinor != h.proto {
		t.Fatalf("got %d by %d, net/http has %d by %s", p.Status, h.proto, q.StatusCode, q.Proto)
	}
	if !h.bodiless("GET") && q.ContentLength != p.ContentLength {
		t.Fatalf("length: got %d, net/http has %d", p.ContentLength, q.ContentLength)
	}
	for _, fd := range p.Header.Fields() {
		found := filter.Same(fd.Name, "TE") || filter.Same(fd.Name, "Trailer") || filter.Same(fd.Name, "Upgrade")
		for _, v := range q.Header.Values(fd.Name) {
			found = found || v == fd.Value
		}
		if !found {
			t.Fatalf("field %q: got %q, net/http has %q", fd.Name, fd.Value, q.Header.Values(fd.Name))
		}
	}
	return true
}

var errNotRead = errors.New("not read")

// readChunks takes the coding off in, which comes in pieces of the size given.
func readChunks(in []byte, rules *Rules, piece int) (body []byte, trailer filter.Header, rest int, err error) {
	var c chunks
	c.reset(rules)
	start, end := 0, 0
	for {
		n, d, r := c.next(in[start:end], &trailer)
		if r != nil {
			return nil, filter.Header{}, 0, r
		}
		body = append(body, d...)
		start += n
		if c.part == ended {
			return body, trailer, len(in) - start, nil
		}
		if start == end || n == 0 {
			if end == len(in) {
				return nil, filter.Header{}, 0, errNotRead
			}
			end = min(end+piece, len(in))
		}
	}
}

func TestChunks(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"one", "5\r\nhello\r\n0\r\n\r\n", `"hello" [] 0`},
		{"two and bytes after", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET", `"hello world" [] 3`},
		{"none", "0\r\n\r\n", `"" [] 0`},
		{"zeros", "000\r\n\r\n", `"" [] 0`},
		{"digits of both cases", "0a\r\n0123456789\r\n0A\r\n0123456789\r\n0\r\n\r\n", `"01234567890123456789" [] 0`},
		{"extensions", "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n", `"hello" [] 0`},
		{"a trailer", "0\r\nX-Sum: 1\r\nGrpc-Status: 0\r\n\r\n", `"" [{X-Sum 1} {Grpc-Status 0}] 0`},
		{"trailers that are none", "0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: a\r\nCookie: a\r\nSet-Cookie: b\r\nAuthorization: c\r\nTE: d\r\nTrailer: e\r\nConnection: f\r\nContent-Type: g\r\nContent-Encoding: h\r\nContent-Range: i\r\nX-Forwarded-User: j\r\nForwarded: k\r\nX-Ipc-Caller: l\r\nX-Edge-Hop: m\r\nX-Fit: n\r\nX-Real-IP: o\r\nX: y\r\n\r\n", `"" [{X y}] 0`},
		{"a request in place of trailers", "0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "field-name-space"},
		{"no size", "\r\nhello\r\n", "chunk-size"},
		{"an extension without a size", ";a\r\nhello\r\n", "chunk-size"},
		{"0x", "0x5\r\nhello\r\n", "chunk-size"},
		{"a sign", "+5\r\nhello\r\n", "chunk-size"},
		{"minus", "-5\r\nhello\r\n", "chunk-size"},
		{"an underscore", "1_0\r\nhello\r\n", "chunk-size"},
		{"a space before", " 5\r\nhello\r\n", "chunk-size"},
		{"a space after", "5 \r\nhello\r\n", "chunk-size"},
		{"a space before the extension", "5 ;a\r\nhello\r\n", "chunk-size"},
		{"16 digits", "0000000000000005\r\nhello\r\n", "chunk-size"},
		{"more than 64 bits", "10000000000000005\r\nhello\r\n", "chunk-size"},
		{"a bare LF after the size", "5\nhello\r\n", "bare-lf"},
		{"a bare LF in an extension", "5;a\nhello\r\n", "bare-lf"},
		{"a bare CR after the size", "5\rhello\r\n", "bare-cr"},
		{"a bare CR in an extension", "5;a\rb\r\nhello\r\n", "bare-cr"},
		{"NUL in an extension", "5;a\x00\r\nhello\r\n", "control"},
		{"a bare LF after the data", "5\r\nhello\n0\r\n\r\n", "chunk-end"},
		{"a bare CR after the data", "5\r\nhello\r0\r\n\r\n", "chunk-end"},
		{"nothing after the data", "5\r\nhello0\r\n\r\n", "chunk-end"},
		{"more data than said", "5\r\nhello!\r\n0\r\n\r\n", "chunk-end"},
		{"a long line", "5;" + strings.Repeat("a", 300) + "\r\nhello\r\n", "chunk-line"},
		{"many extensions", strings.Repeat("1;"+strings.Repeat("a", 200)+"\r\nx\r\n", 90), "chunk-extensions"},
		{"a bare LF in a trailer", "0\r\nX: y\n\r\n", "bare-lf"},
		{"a bare LF in place of a trailer", "0\r\n\n", "bare-lf"},
		{"trailers over the limit", "0\r\nX: " + strings.Repeat("a", 8192) + "\r\n\r\n", "trailer-size"},
		{"an early end", "5\r\nhel", errNotRead.Error()},
		{"an early end of trailers", "0\r\nX: y\r\n", errNotRead.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, piece := range []int{len(c.in), 1, 2, 3, 7} {
				body, trailer, rest, err := readChunks([]byte(c.in), testRules(), piece)
				got := fmt.Sprintf("%q %v %d", body, trailer.Fields(), rest)
				var r *Refusal
				if errors.As(err, &r) {
					got = r.Rule
				} else if err != nil {
					got = err.Error()
				}
				if got != c.want {
					t.Errorf("%q in pieces of %d: got %s, want %s", cut(c.in), piece, got, c.want)
				}
			}
		})
	}
}

// FuzzChunks has every input read here, in pieces, and by net/http.
func FuzzChunks(f *testing.F) {
	for _, s := range []string{"5\r\nhello\r\n0\r\n\r\n", "5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nrest", "a\r\n0123456789\r\n0\r\n\r\n", "0x5\r\n", "5 \r\nhello\r\n0\r\n\r\n", "5\nhello\n0\n\n"} {
		f.Add([]byte(s), 1)
	}
	f.Fuzz(func(t *testing.T, in []byte, piece int) { tryChunks(t, in, piece) })
}

// tryChunks reads a body in chunks here, in pieces, and by net/http.
func tryChunks(t *testing.T, in []byte, piece int) (accepted bool) {
	if piece < 1 {
		piece = 1
	}
	body, trailer, rest, err := readChunks(in, testRules(), len(in))
	body2, trailer2, rest2, err2 := readChunks(in, testRules(), piece)
	if !bytes.Equal(body, body2) || rest != rest2 || !errors.Is(err2, err) || fmt.Sprint(trailer.Fields()) != fmt.Sprint(trailer2.Fields()) {
		t.Fatalf("whole: %q, %d, %v, %v; in pieces of %d: %q, %d, %v, %v", body, rest, trailer.Fields(), err, piece, body2, rest2, trailer2.Fields(), err2)
	}
	if err != nil {
		return false
	}
	br := bufio.NewReader(io.MultiReader(strings.NewReader(post("Transfer-Encoding: chunked\r\n")), bytes.NewReader(in)))
	q, err := http.ReadRequest(br)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := io.ReadAll(q.Body)
	if err != nil || !bytes.Equal(theirs, body) {
		t.Fatalf("got %q, net/http has %q, %v", body, theirs, err)
	}
	left, _ := io.ReadAll(br)
	if len(left) != rest {
		t.Fatalf("%d bytes left, net/http leaves %d", rest, len(left))
	}
	return true
}

// Millions of heads and bodies that are nearly right are read as net/http reads them, or refused; see package hammer.
func TestHammer(t *testing.T) {
	words := []string{"\r\n", "\r\n\r\n", "\n", "\r", " ", "Content-Length: ", "Transfer-Encoding: ", "chunked", "Host: h\r\n", "Connection: ", "keep-alive", "close", "HTTP/1.1", "HTTP/1.0", "http://h/", "GET ", "POST ", "*", "..", "%2e",
		"%00", "%", "0\r\n\r\n", "5\r\nhello\r\n", ";a=b", "ffffffffffffffff", "0x", "gzip, ", "Expect: 100-continue\r\n", "Upgrade: websocket\r\n", "Trailer: X\r\n", "X_Y: z\r\n", ":", ", "}
	t.Run("request heads", func(t *testing.T) {
		seeds := [][]byte{[]byte(browser)}
		for _, in := range corpus() {
			if len(in) < 1000 {
				seeds = append(seeds, []byte(in))
			}
		}
		hammer.Run(t, seeds, words, tryRequestHead)
	})
	t.Run("response heads", func(t *testing.T) {
		seeds := [][]byte{[]byte(answerHead), []byte("HTTP/1.0 404\r\nConnection: keep-alive\r\n\r\n"), []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), []byte("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nx_y: z\r\n\r\n")}
		hammer.Run(t, seeds, words, tryResponseHead)
	})
	t.Run("chunks", func(t *testing.T) {
		seeds := [][]byte{[]byte("5\r\nhello\r\n0\r\n\r\n"), []byte("5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nrest"), []byte("a\r\n0123456789\r\n0\r\n\r\n"), []byte("0x5\r\n"), []byte("5\nhello\n0\n\n")}
		hammer.Run(t, seeds, words, func(t *testing.T, in []byte) bool { return tryChunks(t, in, 1+len(in)%7) })
	})
}

func BenchmarkChunks(b *testing.B) {
	in := []byte("400\r\n" + strings.Repeat("x", 1024) + "\r\n400\r\n" + strings.Repeat("x", 1024) + "\r\n0\r\n\r\n")
	var c chunks
	var trailer filter.Header
	rules := testRules()
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		c.reset(rules)
		for at := 0; c.part != ended; {
			n, _, r := c.next(in[at:], &trailer)
			if r != nil {
				b.Fatal(r)
			}
			at += n
		}
	}
}
