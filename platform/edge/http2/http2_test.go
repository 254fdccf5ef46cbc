package http2

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	xhttp2 "golang.org/x/net/http2"
)

// mirror answers with what was asked, and the body with its length and its trailers.
func mirror(x *filter.Exchange) {
	q := &x.Request
	h := sha256.New()
	n, err := int64(0), error(nil)
	if q.Body != nil {
		n, err = io.Copy(h, q.Body)
	}
	x.Answer(200, fmt.Sprintf("%s %s %s %s?%s %d %d %x %v %s", q.Method, q.Scheme, q.Host, q.Path, q.RawQuery, q.Proto, n, h.Sum(nil)[:4], err, q.Trailer.Get("x-t")))
	x.Response.Header.Add("X-Cookie", q.Header.Get("Cookie"))
}

func TestARequestArrivesWholeAndItsAnswerToo(t *testing.T) {
	var done told
	addr, _ := front(t, Config{Serve: mirror, Finished: done.finished})
	c := goClient(t)
	req, _ := http.NewRequest("PUT", "http://"+addr+"/a%2Fb/../c?d=e", struct{ io.Reader }{strings.NewReader("hello")})
	req.Host = "shop.example:99"
	req.Trailer = http.Header{"X-T": {"end"}}
	req.Header["Cookie"] = []string{"a=b; c=d"}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	sum := sha256.Sum256([]byte("hello"))
	if want := fmt.Sprintf("PUT http shop.example:99 /c?d=e 20 5 %x <nil> end", sum[:4]); string(body) != want || err != nil {
		t.Errorf("got  %q, %v\nwant %q", body, err, want)
	}
	if resp.Header.Get("X-Cookie") != "a=b; c=d" || resp.ContentLength != int64(len(body)) || resp.Header.Get("Date") == "" {
		t.Errorf("the head is %v, %d", resp.Header, resp.ContentLength)
	}
	if got := done.wait(1); len(got) != 1 || !strings.HasPrefix(got[0], "PUT /c 200") {
		t.Errorf("finished: %q", got)
	}
}

// TestWhatIsMalformedIsResetAndToldOf has one rule after the other broken, on one connection each.
func TestWhatIsMalformedIsResetAndToldOf(t *testing.T) {
	const malformed = "RST PROTOCOL_ERROR"
	no := func(name string) func([]field) []field {
		return func(all []field) []field {
			return slices.DeleteFunc(all, func(f field) bool { return f.Name == name })
		}
	}
	late := func(f field) func([]field) []field {
		return func(all []field) []field { return append(no(f.Name)(all), field{Name: "x-a", Value: "b"}, f) }
	}
	twice := func(f field) func([]field) []field {
		return func(all []field) []field { return slices.Insert(all, 4, f) }
	}
	with := func(more ...field) func([]field) []field {
		return func([]field) []field { return usual(more...) }
	}
	for _, tt := range []struct {
		name string
		how  func([]field) []field
		want string
	}{
		{"nothing", with(), "200"},
		{"no :method", no(":method"), malformed},
		{"no :scheme", no(":scheme"), malformed},
		{"no :path", no(":path"), malformed},
		{"no :authority, and no host", no(":authority"), "400"},
		{"host in place of :authority", func(all []field) []field { return append(no(":authority")(all), field{Name: "host", Value: "x"}) }, "200"},
		{":path behind a field", late(field{Name: ":path", Value: "/"}), malformed},
		{":method twice", twice(field{Name: ":method", Value: "GET"}), malformed},
		{":status", twice(field{Name: ":status", Value: "200"}), malformed},
		{"a pseudo field that is none", twice(field{Name: ":other", Value: "x"}), malformed},
		{"a method with a space", with(field{Name: ":method", Value: "GET /x"}), malformed},
		{"a method that is empty", with(field{Name: ":method", Value: ""}), malformed},
		{"a path without a slash", with(field{Name: ":path", Value: "a"}), malformed},
		{"* of GET", with(field{Name: ":path", Value: "*"}), malformed},
		{"* of OPTIONS", with(field{Name: ":path", Value: "*"}, field{Name: ":method", Value: "OPTIONS"}), "200"},
		{"a path with a space", with(field{Name: ":path", Value: "/a b"}), "400"},
		{"a path with a fragment", with(field{Name: ":path", Value: "/a#b"}), "400"},
		{"a path with %zz", with(field{Name: ":path", Value: "/%zz"}), "400"},
		{"a scheme that is neither http nor https", with(field{Name: ":scheme", Value: "ftp"}), malformed},
		{"an authority with a path", with(field{Name: ":authority", Value: "a/b"}), "400"},
		{"an authority with a user", with(field{Name: ":authority", Value: "u@a"}), "400"},
		{"host beside another authority", with(field{Name: "host", Value: "b"}), malformed},
		{"host twice", with(field{Name: "host", Value: "shop.example"}, field{Name: "host", Value: "shop.example"}), malformed},
		{"a name in upper case", with(field{Name: "X-A", Value: "b"}), malformed},
		{"a name with a colon", with(field{Name: "x:a", Value: "b"}), malformed},
		{"a name that is empty", with(field{Name: "", Value: "b"}), malformed},
		{"a value with a line end", with(field{Name: "x-a", Value: "b\r\nc: d"}), malformed},
		{"a value with NUL", with(field{Name: "x-a", Value: "b\x00"}), malformed},
		{"a value that ends in a space", with(field{Name: "x-a", Value: "b "}), malformed},
		{"connection", with(field{Name: "connection", Value: "close"}), malformed},
		{"keep-alive", with(field{Name: "keep-alive", Value: "5"}), malformed},
		{"proxy-connection", with(field{Name: "proxy-connection", Value: "close"}), malformed},
		{"transfer-encoding", with(field{Name: "transfer-encoding", Value: "chunked"}), malformed},
		{"upgrade", with(field{Name: "upgrade", Value: "h2c"}), malformed},
		{"te: gzip", with(field{Name: "te", Value: "gzip"}), malformed},
		{"te: trailers", with(field{Name: "te", Value: "trailers"}), "200"},
		{"expect of something else", with(field{Name: "expect", Value: "wonders"}), "417"},
		{"a length of what does not come", with(field{Name: "content-length", Value: "5"}), malformed},
		{"a length with a sign", with(field{Name: "content-length", Value: "+0"}), malformed},
		{"a length twice", with(field{Name: "content-length", Value: "0"}, field{Name: "content-length", Value: "0"}), malformed},
		{"fields that are too long", with(field{Name: "x-a", Value: strings.Repeat("a", 20<<10)}, field{Name: "x-b", Value: strings.Repeat("b", 20<<10)}), "431"},
		{"a name with an underscore is left out", with(field{Name: "x_a", Value: "b"}), "200"},
		{"CONNECT", func([]field) []field {
			return []field{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: "a:443"}}
		}, "405"},
		{"CONNECT with a path", with(field{Name: ":method", Value: "CONNECT"}), malformed},
		{":protocol of GET", twice(field{Name: ":protocol", Value: "websocket"}), malformed},
		{"a protocol that nobody speaks", func([]field) []field {
			return slices.Insert(usual(field{Name: ":method", Value: "CONNECT"}), 4, field{Name: ":protocol", Value: "chat"})
		}, "501"},
	} {
		var done told
		addr, _ := front(t, Config{Serve: func(x *filter.Exchange) {
			if x.Request.Header.Has("x_a") {
				x.Answer(500, "")
				return
			}
			x.Answer(200, "")
		}, Finished: done.finished})
		p := play(t, addr)
		fields := tt.how(usual())
		block := slices.Clone(p.encode(fields))
		first := min(len(block), 16<<10)
		p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:first], EndHeaders: first == len(block), EndStream: true})
		for at := first; at < len(block); {
			n := min(len(block)-at, 16<<10)
			p.fr.WriteContinuation(1, at+n == len(block), block[at:at+n])
			at += n
		}
		if got := p.await(1); got.String() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.name, got, tt.want)
		}
		p.ask(3, true, usual())
		if got := p.await(3); got.String() != "200" {
			t.Errorf("%s: the next request got %v, want 200", tt.name, got)
		}
		if got := done.wait(2); len(got) != 2 || strings.Contains(tt.want, "RST") && !strings.Contains(got[0], "400 FAILURE_CLIENT_BAD_REQUEST") {
			t.Errorf("%s: finished %q, want two, the first with 400", tt.name, got)
		}
	}
}

func TestABodyIsAsLongAsItSays(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length string
		sent   []string
		tail   []field
		want   string
	}{
		{"as long", "5", []string{"he", "llo"}, nil, "200"},
		{"none", "", []string{"hello"}, nil, "200"},
		{"shorter", "9", []string{"hello"}, nil, "RST PROTOCOL_ERROR"},
		{"longer", "3", []string{"hello"}, nil, "RST PROTOCOL_ERROR"},
		{"longer, later", "5", []string{"hello", "x"}, nil, "RST PROTOCOL_ERROR"},
		{"with trailers", "5", []string{"hello"}, []field{{Name: "x-t", Value: "1"}}, "200"},
		{"shorter, with trailers", "6", []string{"hello"}, []field{{Name: "x-t", Value: "1"}}, "RST PROTOCOL_ERROR"},
		{"a pseudo field among the trailers", "5", []string{"hello"}, []field{{Name: ":path", Value: "/"}}, "RST PROTOCOL_ERROR"},
		{"a trailer that frames is left out", "5", []string{"hello"}, []field{{Name: "content-length", Value: "7"}}, "200"},
	} {
		addr, _ := front(t, Config{Serve: func(x *filter.Exchange) {
			if x.Request.Body == nil {
				x.Answer(500, "no body")
				return
			}
			b, err := io.ReadAll(x.Request.Body)
			if err == nil && string(b) != "hello" || x.Request.Trailer.Has("content-length") {
				x.Answer(500, string(b))
				return
			}
			x.Answer(200, "")
		}})
		p := play(t, addr)
		fields := usual(field{Name: ":method", Value: "POST"})
		if tt.length != "" {
			fields = append(fields, field{Name: "content-length", Value: tt.length})
		}
		p.ask(1, false, fields)
		for i, s := range tt.sent {
			p.fr.WriteData(1, i == len(tt.sent)-1 && tt.tail == nil, []byte(s))
		}
		if tt.tail != nil {
			p.ask(1, true, tt.tail)
		}
		if got := p.await(1); got.String() != tt.want {
			t.Errorf("%s: got %v %q, want %s", tt.name, got, got.body, tt.want)
		}
	}
}

func TestAnswersArriveAsTheyWereMeant(t *testing.T) {
	trailer := new(filter.Header)
	trailer.Add("X-Sum", "7")
	big := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	for _, tt := range []struct {
		name   string
		method string
		answer func(x *filter.Exchange)
		want   string
		body   string
		tail   string
	}{
		{"HEAD", "HEAD", func(x *filter.Exchange) {
			x.Response.Status, x.Response.Body, x.Response.ContentLength = 200, filter.Text(""), 5
		}, "200", "", ""},
		{"204", "GET", func(x *filter.Exchange) { x.Answer(204, "ignored") }, "204", "", ""},
		{"304", "GET", func(x *filter.Exchange) { x.Answer(304, "") }, "304", "", ""},
		{"no length", "GET", func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, io.NopCloser(strings.NewReader("hello"))
		}, "200", "hello", ""},
		{"trailers", "GET", func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength, x.Response.Body, x.Response.Trailer = 200, -1, io.NopCloser(strings.NewReader("hello")), trailer
		}, "200", "hello", "x-sum=7"},
		{"trailers of a body with a length", "GET", func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength, x.Response.Body, x.Response.Trailer = 200, 5, io.NopCloser(strings.NewReader("hello")), trailer
		}, "200", "hello", "x-sum=7"},
		{"trailers alone", "GET", func(x *filter.Exchange) { x.Response.Status, x.Response.Trailer = 200, trailer }, "200", "", "x-sum=7"},
		{"trailers that are none, of nothing", "GET", func(x *filter.Exchange) {
			x.Response.Status, x.Response.Body, x.Response.Trailer = 200, filter.Text(""), new(filter.Header)
		}, "200", "", ""},
		{"a large body at hand", "GET", func(x *filter.Exchange) { x.Answer(200, string(big)) }, "200", string(big), ""},
		{"a large body", "GET", func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, int64(len(big)), io.NopCloser(bytes.NewReader(big))
		}, "200", string(big), ""},
		{"a body that ends early", "GET", func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, 9, io.NopCloser(strings.NewReader("hello"))
		}, "RST INTERNAL_ERROR", "", ""},
		{"a body that breaks off", "GET", func(x *filter.Exchange) {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, -1, io.NopCloser(io.MultiReader(strings.NewReader("hello"), iotestErr{}))
		}, "RST INTERNAL_ERROR", "hello", ""},
		{"cut", "GET", func(x *filter.Exchange) { x.Response.Cut = true }, "RST INTERNAL_ERROR", "", ""},
		{"refused", "GET", func(x *filter.Exchange) { x.Answer(503, ""); x.Response.Refused = true }, "RST REFUSED_STREAM", "", ""},
		{"nothing", "GET", func(x *filter.Exchange) {}, "500", "the edge has no answer to this request\n", ""},
		{"panic", "GET", func(x *filter.Exchange) { panic("as the test wants it") }, "500", "the edge failed at this request; its log tells why\n", ""},
		{"a head of 60 KB", "GET", func(x *filter.Exchange) {
			x.Answer(200, "")
			for i := range 6 {
				x.Response.Header.Add(fmt.Sprint("X-", i), strings.Repeat("v", 10<<10))
			}
		}, "200", "", ""},
	} {
		addr, _ := front(t, Config{Serve: tt.answer})
		p := play(t, addr)
		p.fr.WriteWindowUpdate(0, 1<<20)
		p.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1 << 20})
		for id := uint32(1); id < 8; id += 2 { // so that the table of fields is in use
			p.ask(id, true, usual(field{Name: ":method", Value: tt.method}))
			got := p.await(id)
			tail := ""
			for _, f := range got.trailers {
				tail += f.Name + "=" + f.Value
			}
			if got.String() != tt.want || tt.body != "" && string(got.body) != tt.body || tt.body == "" && len(got.body) > 0 && got.status == "200" && !got.wasReset || tail != tt.tail {
				t.Errorf("%s: got %v, %d bytes, %q; want %s, %d bytes, %q", tt.name, got, len(got.body), tail, tt.want, len(tt.body), tt.tail)
			}
			if strings.HasPrefix(tt.name, "trailers that are none") && got.frames != 1 {
				t.Errorf("%s: the answer took %d frames, want it to end with its head", tt.name, got.frames)
			}
			if tt.method == "HEAD" && !slices.Contains(got.fields, field{Name: "content-length", Value: "5"}) {
				t.Errorf("HEAD: no length in %v", got.fields)
			}
			p.fr.WriteWindowUpdate(0, uint32(len(got.body)+1))
		}
	}
}

type iotestErr struct{}

// Read fails.
func (iotestErr) Read([]byte) (int, error) { return 0, errTest }

func TestInformationalAnswersComeBeforeTheFinalOne(t *testing.T) {
	addr, _ := front(t, Config{Serve: func(x *filter.Exchange) {
		var h filter.Header
		h.Add("Link", "</a.css>")
		x.Interim(103, &h)
		b, _ := io.ReadAll(x.Request.Body)
		x.Answer(200, string(b))
	}})
	req, _ := http.NewRequest("POST", "http://"+addr, strings.NewReader("hello"))
	req.Header.Set("Expect", "100-continue")
	var mu sync.Mutex
	var seen []int
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, code)
		return nil
	}})
	tr := goClient(t)
	tr.Transport.(*http.Transport).ExpectContinueTimeout = 10 * time.Second
	resp, err := tr.Do(req.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(seen, []int{103, 100}) && !slices.Equal(seen, []int{103}) || string(b) != "hello" { // net/http keeps 100 to itself
		t.Errorf("got %v, then %q", seen, b)
	}
}

func TestAResetEndsWhatIsAskedForIt(t *testing.T) {
	var done told
	gone := make(chan struct{})
	begun := make(chan struct{})
	addr, _ := front(t, Config{Finished: done.finished, Serve: func(x *filter.Exchange) {
		stop := func() { close(gone) }
		x.Waiter.Wait(&stop)
		close(begun)
		<-gone
		x.Answer(200, "nobody hears it")
	}})
	p := play(t, addr)
	p.ask(1, true, usual())
	<-begun
	p.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel)
	<-gone
	p.nc.Close()
	if got := done.wait(1)[0]; !strings.Contains(got, "FAILURE_CLIENT_CANCELLED") {
		t.Errorf("finished as %s, want that the client went away", got)
	}
}

func TestManyRequestsOfAllKindsAtOnce(t *testing.T) {
	addr, _ := front(t, Config{Serve: func(x *filter.Exchange) {
		if x.Request.Path == "/echo" {
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, x.Request.ContentLength, x.Request.Body
			if x.Request.Body == nil {
				x.Response.ContentLength = 0
			}
			x.Request.Body = nil
			return
		}
		mirror(x)
	}})
	c := goClient(t)
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 7))
			for range 40 {
				body := make([]byte, []int{0, 1, 100, 5000, 70_000, 1 << 20}[r.IntN(6)])
				for i := range body {
					body[i] = byte(r.Uint32())
				}
				ctx, cancel := context.WithCancel(t.Context())
				var in io.Reader = bytes.NewReader(body)
				if r.IntN(2) == 0 {
					in = struct{ io.Reader }{in}
				}
				path := []string{"/echo", "/sum"}[r.IntN(2)]
				req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+addr+path, in)
				if r.IntN(8) == 0 {
					time.AfterFunc(time.Duration(r.IntN(2000))*time.Microsecond, cancel)
				}
				resp, err := c.Do(req)
				if err == nil {
					var got []byte
					got, err = io.ReadAll(resp.Body)
					resp.Body.Close()
					sum := sha256.Sum256(body)
					switch {
					case err != nil:
					case path == "/echo" && !bytes.Equal(got, body):
						t.Errorf("%d bytes came back as %d others", len(body), len(got))
					case path == "/sum" && !strings.Contains(string(got), fmt.Sprintf(" %d %x <nil>", len(body), sum[:4])):
						t.Errorf("%d bytes: got %q", len(body), got)
					}
				}
				if err != nil && ctx.Err() == nil {
					t.Errorf("%d bytes to %s: %v", len(body), path, err)
				}
				cancel()
			}
		})
	}
	all.Wait()
}

// TestAConnectionThatIsCutForgetsItsStreams has a request end between its connection's failure and when that turns to it: the
// memory of its stream may serve another connection by then.
func TestAConnectionThatIsCutForgetsItsStreams(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	var done told
	addr, s := front(t, Config{Finished: done.finished, Serve: func(x *filter.Exchange) { close(begun); <-release; x.Answer(200, "") }})
	p := play(t, addr)
	p.ask(1, true, usual())
	<-begun
	c := s.all()[0]
	c.mu.Lock()
	c.fail(errGone)
	c.mu.Unlock()
	close(release)
	done.wait(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.opened) != 0 {
		t.Errorf("%d streams are open still, want none: their requests are over", len(c.opened))
	}
}
