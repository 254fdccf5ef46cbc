package interop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is one of HTTP/2, as it is on the wire: whatever its name and value hold.
type h2Field struct{ name, value string }

// ask2 sends one request in frames by h2c, and returns its status, or 0 and how it was refused instead.
func ask2(addr string, fields []h2Field, data string) (int, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // it never fails on a new connection
	io.WriteString(conn, http2.ClientPreface)  //nolint:errcheck // what follows tells
	fr := http2.NewFramer(conn, conn)
	fr.AllowIllegalWrites = true
	fr.WriteSettings() //nolint:errcheck // what follows tells
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range fields {
		enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}) //nolint:errcheck // a buffer takes everything
	}
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: data == ""}) //nolint:errcheck // what follows tells
	if data != "" {
		fr.WriteData(1, true, []byte(data)) //nolint:errcheck // what follows tells
	}
	dec := hpack.NewDecoder(4096, nil)
	status := 0
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return status, fmt.Errorf("the connection ended: %w", err)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				fr.WriteSettingsAck() //nolint:errcheck // what follows tells
			}
		case *http2.HeadersFrame:
			all, err := dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				return 0, err
			}
			for _, h := range all {
				if h.Name == ":status" {
					status, _ = strconv.Atoi(h.Value)
				}
			}
			if f.StreamEnded() {
				return status, nil
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return status, nil
			}
		case *http2.RSTStreamFrame:
			return status, fmt.Errorf("the stream was reset: %v", f.ErrCode)
		case *http2.GoAwayFrame:
			return status, fmt.Errorf("GOAWAY: %v", f.ErrCode)
		}
	}
}

// TestNoHTTP2RequestIsReadDifferentlyBehindTheEdge has requests in frames that mean something else, or two things, in the
// HTTP/1.1 that the server gets.
func TestNoHTTP2RequestIsReadDifferentlyBehindTheEdge(t *testing.T) {
	w := newWire(t, serveEcho(t))
	r := newRoad(t)
	r.lead(map[string]string{"two": w.addr})
	const smuggled = "GET /{id}/smuggled HTTP/1.1\r\nHost: two.test\r\n\r\n"
	type test struct {
		name   string
		fields []h2Field // beside and instead of the usual ones; one without a name takes those of that value away
		data   string
		body   string // that the server gets, if the request passes
		passes bool
		may    bool // it may pass
	}
	var all []test
	bad := func(name string, data string, fields ...h2Field) {
		all = append(all, test{name: name, fields: fields, data: data})
	}
	all = append(all,
		test{name: "plain", passes: true},
		test{name: "a body", fields: []h2Field{{":method", "POST"}}, data: "hello", body: "hello", passes: true},
		test{name: "a body with its length", fields: []h2Field{{":method", "POST"}, {"content-length", "5"}}, data: "hello", body: "hello", passes: true},
		test{name: "te: trailers", fields: []h2Field{{"te", "trailers"}}, passes: true},
		test{name: "a request as the body of GET", data: smuggled, body: smuggled, passes: true},
		test{name: "cookies apart", fields: []h2Field{{"cookie", "a=b"}, {"cookie", "c=d"}}, passes: true},
	)
	post := h2Field{":method", "POST"}
	bad("length too small", "hello"+smuggled, post, h2Field{"content-length", "5"})
	all = append(all, test{name: "length 0 with a body", fields: []h2Field{post, {"content-length", "0"}}, data: smuggled, may: true}) // it has begun when the body comes
	bad("length too large", "hello", post, h2Field{"content-length", "50"})
	bad("length of nothing that comes", "", post, h2Field{"content-length", "5"})
	bad("length twice, different", "hello", post, h2Field{"content-length", "5"}, h2Field{"content-length", "6"})
	for _, v := range []string{"+5", "-5", "0x5", "5 ", " 5", "5,5", "five", "5\x00", "5_0", "99999999999999999999"} {
		bad("length "+strconv.Quote(v), "hello", post, h2Field{"content-length", v})
	}
	for _, f := range []h2Field{
		{"transfer-encoding", "chunked"}, {"transfer-encoding", "identity"}, {"connection", "close"}, {"connection", "content-length"}, {"proxy-connection", "keep-alive"}, {"keep-alive", "timeout=5"},
		{"upgrade", "h2c"}, {"te", "chunked"}, {"te", "trailers, chunked"}, {"transfer-encoding ", "chunked"}, {"Transfer-Encoding", "chunked"}, {"transfer-encoding\x00", "chunked"},
	} {
		bad(fmt.Sprintf("field %q: %q", f.name, f.value), "5\r\nhello\r\n0\r\n\r\n"+smuggled, post, f)
	}
	for _, v := range []string{"b\r\nX-Other: c", "b\nX-Other: c", "b\rc", "b\r\n\r\n" + smuggled, "b\x00c", "b\x01", "b\x7f", "b\r\nTransfer-Encoding: chunked", "b\r\nContent-Length: 0", "b\nHost: other.test"} {
		bad("value "+strconv.Quote(v), "", h2Field{"x-a", v})
		bad("cookie "+strconv.Quote(v), "", h2Field{"cookie", v})
	}
	for _, n := range []string{"x-a\r\nx-b", "x-a: b\r\nx-b", "x a", "x-a:", ":x", "X-A", "x\x00a", "", "x-a\n", "(x)", "x\xffa", "content-length:5\r\nx", "host: other.test\r\nx"} {
		bad("name "+strconv.Quote(n), "", h2Field{n, "v"})
	}
	for _, p := range []string{
		"", "{id}", "/{id} HTTP/1.1\r\nX: y", "/{id}\r\nX: y", "/{id} /x", "/{id}\nX: y", "/{id}\x00", "/{id}#x", "/{id}\xff", "/{id}\x7f", "*", "http://other.test/{id}", "/{id} HTTP/1.1\r\nHost: two.test\r\n\r\n" + smuggled, "/{id}\t", " /{id}",
	} {
		bad("path "+strconv.Quote(p), "", h2Field{":path", p})
	}
	for _, m := range []string{"GET /{id}/smuggled HTTP/1.1\r\nX: y", "GET ", " GET", "GET\r\n", "G ET", "G\x00T", "", "GET\n/", "G(T", "CONNECT"} {
		bad("method "+strconv.Quote(m), "", h2Field{":method", m})
	}
	for _, a := range []string{"two.test\r\nX: y", "two.test/x", "user@two.test", "two.test other.test", "two.test,other.test", "two.test\x00", "two.test#x", "two.test:port", "\\two.test", "two.test\nHost: x"} {
		bad("authority "+strconv.Quote(a), "", h2Field{":authority", a})
	}
	bad("authority and another host", "", h2Field{"host", "other.test"})
	bad("host twice", "", h2Field{"", ":authority"}, h2Field{"host", "two.test"}, h2Field{"host", "other.test"})
	for _, s := range []string{"http://x", "http\r\nX: y", "", "ht tp", "file", "http:"} {
		bad("scheme "+strconv.Quote(s), "", h2Field{":scheme", s})
	}
	for _, name := range []string{":method", ":path", ":scheme"} {
		bad("without "+name, "", h2Field{"", name})
	}
	for _, name := range []string{":method", ":path", ":scheme", ":authority"} {
		bad(name+" twice", "", h2Field{"+" + name, map[string]string{":method": "POST", ":path": "/{id}/smuggled", ":scheme": "https", ":authority": "other.test"}[name]})
		bad(name+" behind a field", "", h2Field{"x-a", "b"}, h2Field{"", name}, h2Field{"+" + name, map[string]string{":method": "GET", ":path": "/{id}", ":scheme": "http", ":authority": "two.test"}[name]})
	}
	bad("a pseudo field that is none", "", h2Field{":other", "x"})
	bad(":status of a request", "", h2Field{":status", "200"})
	bad(":protocol that nobody knows", "", h2Field{":protocol", "chat"})

	for i, c := range all {
		id := fmt.Sprintf("c%04d", i+1)
		fill := func(s string) string { return strings.ReplaceAll(s, "{id}", id) }
		fields := []h2Field{{":method", "GET"}, {":scheme", "http"}, {":authority", "two.test"}, {":path", "/{id}"}}
		var more []h2Field
		for _, f := range c.fields {
			at := -1
			for k := range fields {
				if fields[k].name == f.name || f.name == "" && fields[k].name == f.value {
					at = k
				}
			}
			switch added, isAdded := strings.CutPrefix(f.name, "+"); {
			case isAdded:
				more = append(more, h2Field{added, f.value})
			case f.name == "" && at >= 0 && f.value != "v":
				fields = append(fields[:at:at], fields[at+1:]...)
			case at >= 0:
				fields[at].value = f.value
			default:
				more = append(more, f)
			}
		}
		fields = append(fields, more...)
		for k := range fields {
			fields[k].value = fill(fields[k].value)
		}
		status, err := ask2(r.edgeAddr(), fields, fill(c.data))
		var timeout net.Error
		switch {
		case c.passes && (status != 200 || err != nil):
			t.Errorf("%s %s: got %d, %v; want 200", id, c.name, status, err)
		case !c.passes && !c.may && status > 0 && status < 400:
			t.Errorf("%s %s: got %d, %v; want a refusal", id, c.name, status, err)
		case errors.As(err, &timeout) && timeout.Timeout():
			t.Errorf("%s %s: no answer within %v", id, c.name, patience)
		}
		all[i].name = id + " " + c.name
	}
	seen, wrong := w.seen()
	for i, c := range all {
		id := fmt.Sprintf("c%04d", i+1)
		got := seen[id]
		for _, what := range wrong[id] {
			t.Errorf("%s: %s", c.name, what)
		}
		body := strings.ReplaceAll(c.body, "{id}", id)
		if c.passes && (len(got) != 1 || got[0].Target != "/"+id || got[0].Host != "two.test" || got[0].Body != body || got[0].Echo == nil || *got[0].Echo != got[0].Request) {
			t.Errorf("%s: the server received %v, want one request, with %q", c.name, requestsOf(got), body)
		}
		if !c.passes && len(got) > 0 && !(c.may && len(got) == 1 && got[0].Body == body) {
			t.Errorf("%s: the server received %v, want nothing", c.name, requestsOf(got))
		}
	}
	for _, what := range wrong["none"] {
		t.Errorf("of no case: %s", what)
	}
	t.Logf("%d requests in frames", len(all))
}
