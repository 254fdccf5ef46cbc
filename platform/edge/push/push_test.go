package push

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/nethttp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newPush(props map[string]string, peers ...string) *Push {
	all := map[string]string{"edge.push.enabled": "true", "edge.push.identity": "header:X-Member"}
	for k, v := range props {
		all[k] = v
	}
	return New(Config{
		Properties: config.New(config.Options{Override: all}), Meter: meter.New(nil), Log: slog.New(slog.DiscardHandler),
		Peers: func() []string { return peers },
	})
}

// join connects a client in memory, and returns its end.
func join(t *testing.T, p *Push, id string, events bool) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	x := &filter.Exchange{MayDetach: true}
	x.Request.Header.Add("X-Member", id)
	x.Request.Path, x.Request.Method, x.Request.Proto = "/ws", "GET", 11
	if events {
		x.Request.Path = "/sse"
	} else {
		x.Request.Upgrade = "websocket"
		x.Request.Header.Add("Sec-WebSocket-Version", "13")
		x.Request.Header.Add("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	}
	if !p.Wants(x) {
		t.Fatal("push does not want its own request")
	}
	if err := p.Endpoint().Apply(x); err != nil || x.Response.Takeover == nil {
		t.Fatalf("got %v and %+v", err, x.Response)
	}
	if !events && x.Response.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" { // the example of RFC 6455
		t.Errorf("the handshake's proof is %q", x.Response.Header.Get("Sec-WebSocket-Accept"))
	}
	x.Response.Takeover(far, nil)
	return near
}

// next returns what the client is sent next: the opcode and payload of a frame.
func next(t *testing.T, c net.Conn) string {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err.Error()
	}
	n := int(head[1])
	if n == 126 {
		var more [2]byte
		io.ReadFull(c, more[:])
		n = int(binary.BigEndian.Uint16(more[:]))
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		return err.Error()
	}
	switch head[0] & 0xf {
	case opClose:
		return fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(b), b[2:])
	case opPing:
		return "ping"
	case opPong:
		return "pong " + string(b)
	}
	return "text " + string(b)
}

// masked is a frame as clients send it.
func masked(op byte, payload string) []byte {
	b := []byte{op, 0x80 | byte(len(payload)), 1, 2, 3, 4}
	if len(payload) > 125 {
		b = []byte{op, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload)), 1, 2, 3, 4}
	}
	for i := range len(payload) {
		b = append(b, payload[i]^byte(i%4+1))
	}
	return b
}

func running(t *testing.T, p *Push) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	return func() { cancel(); wg.Wait() }
}

func TestAConnectionIsPingedAskedToGoAndCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(map[string]string{"zuul.push.reconnect.dither.seconds": "0"})
		defer running(t, p)()
		began := time.Now()
		c := join(t, p, "alice", false)
		defer c.Close()
		for i := 1; i <= 9; i++ {
			if got := next(t, c); got != "ping" {
				t.Fatalf("message %d: got %q, want a ping", i, got)
			}
			if at := time.Since(began); at < time.Duration(i)*180*time.Second || at > time.Duration(i)*182*time.Second {
				t.Fatalf("ping %d came after %s, want one each 180 s", i, at)
			}
		}
		if got, at := next(t, c), time.Since(began); got != "text _CLOSE_" || at < 1796*time.Second || at > 1798*time.Second {
			t.Errorf("got %q after %s, want to be asked to go after 1796 s", got, at)
		}
		if got, at := next(t, c), time.Since(began); got != "close 1000 Server closed connection" || at < 1800*time.Second || at > 1803*time.Second {
			t.Errorf("got %q after %s, want to be cut off after 1800 s", got, at)
		}
		synctest.Wait()
		if p.Open() != 0 || p.find("alice") != nil {
			t.Errorf("%d connections are left, and alice is %v", p.Open(), p.find("alice"))
		}
	})
}

func TestAStreamOfEventsLivesAsLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(map[string]string{"zuul.push.reconnect.dither.seconds": "0", "zuul.push.registry.ttl.seconds": "300"})
		defer running(t, p)()
		c := join(t, p, "alice", true)
		defer c.Close()
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { p.find("alice").send([]byte("one\ntwo")) })
		all, err := io.ReadAll(c)
		wg.Wait()
		want := "event: push\r\ndata: one\r\ndata: two\r\n\r\nevent: ping\r\ndata: ping\r\n\r\nevent: goaway\r\ndata: _CLOSE_\r\n\r\nevent: close\r\ndata: 1000 Server closed connection\r\n\r\n"
		if string(all) != want || err != nil {
			t.Errorf("got %q, %v\nwant %q", all, err, want)
		}
	})
}

func TestTheNewerConnectionOfAClientGetsTheMessagesAndTheOldOneTakesNothingWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		defer running(t, p)()
		old := join(t, p, "alice", false)
		newer := join(t, p, "alice", false)
		defer newer.Close()
		old.Close()
		synctest.Wait()
		if p.Open() != 1 {
			t.Errorf("%d connections, want 1", p.Open())
		}
		go p.find("alice").send([]byte("hi"))
		if got := next(t, newer); got != "text hi" {
			t.Errorf("the newer connection got %q", got)
		}
	})
}

func TestEndingAsksEveryoneToGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		stop := running(t, p)
		c := join(t, p, "alice", false)
		defer c.Close()
		go stop()
		if a, b := next(t, c), next(t, c); a != "text _CLOSE_" || b != "close 1001 Server going away" {
			t.Errorf("got %q and %q", a, b)
		}
		synctest.Wait()
	})
}

func TestEndingAsksThoseToGoWhoAreBeingPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		stop := running(t, p)
		c := join(t, p, "alice", false)
		defer c.Close()
		time.Sleep(182 * time.Second) // the ping is being written, and alice does not read yet
		go stop()
		synctest.Wait()
		if a, b, d := next(t, c), next(t, c), next(t, c); a != "ping" || b != "text _CLOSE_" || d != "close 1001 Server going away" {
			t.Errorf("got %q, %q and %q", a, b, d)
		}
		synctest.Wait()
		if p.Open() != 0 {
			t.Errorf("%d connections are left", p.Open())
		}
	})
}

func TestAClientThatDoesNotReadIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		defer running(t, p)()
		stuck, fine := join(t, p, "stuck", false), join(t, p, "fine", false)
		defer stuck.Close()
		defer fine.Close()
		if got := next(t, fine); got != "ping" {
			t.Errorf("got %q", got)
		}
		time.Sleep(writeWithin + time.Second)
		synctest.Wait()
		if p.find("stuck") != nil || p.find("fine") == nil {
			t.Errorf("stuck is %v, fine is %v", p.find("stuck"), p.find("fine"))
		}
	})
}

func TestWhatClientsSendIsReadByTheRules(t *testing.T) {
	long := strings.Repeat("x", 300)
	tests := []struct {
		name string
		sent []byte
		code int
		pong string
	}{
		{"the connection ends", nil, 0, ""},
		{"text is dropped", masked(final|opText, "hello"), 0, ""},
		{"long text is dropped", append(masked(final|opBinary, long), masked(final|opPing, "a")...), 0, "a"},
		{"a ping", masked(final|opPing, "abc"), 0, "abc"},
		{"a ping amid fragments", bytes.Join([][]byte{masked(opText, "a"), masked(final|opPing, "b"), masked(opContinuation, "c"), masked(final|opContinuation, "d"), masked(final|opPing, "e")}, nil), 0, "be"},
		{"a close without a code", masked(final|opClose, ""), 1000, ""},
		{"a close", masked(final|opClose, "\x03\xe9gone"), 1001, ""},
		{"a close with a code that may not be sent", masked(final|opClose, "\x03\xee"), 1002, ""},
		{"a close with half a code", masked(final|opClose, "\x03"), 1002, ""},
		{"not masked", []byte{final | opText, 1, 'x'}, 1002, ""},
		{"reserved bits", masked(final|0x40|opText, "x"), 1002, ""},
		{"an unknown frame", masked(final|3, "x"), 1002, ""},
		{"an unknown control frame", masked(final|11, "x"), 1002, ""},
		{"a fragmented ping", masked(opPing, "x"), 1002, ""},
		{"a long ping", masked(final|opPing, long), 1002, ""},
		{"a fragment of nothing", masked(final|opContinuation, "x"), 1002, ""},
		{"a message within a message", append(masked(opText, "x"), masked(final|opText, "x")...), 1002, ""},
		{"too long", []byte{final | opBinary, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4}, 1009, ""},
		{"absurdly long", []byte{final | opBinary, 0x80 | 127, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4}, 1009, ""},
	}
	for _, tt := range tests {
		for split := 1; split <= max(1, len(tt.sent)); split++ {
			var pong string
			code, _ := readFrames(&pieces{tt.sent, split}, func(b []byte) error { pong += string(b); return nil })
			if code != tt.code || pong != tt.pong {
				t.Errorf("%s, %d bytes a time: got %d and pong %q, want %d and %q", tt.name, split, code, pong, tt.code, tt.pong)
			}
		}
	}
}

// pieces is a reader of a few bytes at a time.
type pieces struct {
	left []byte
	most int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.most)], p.left)
	p.left = p.left[n:]
	return n, nil
}

func FuzzReadFrames(f *testing.F) {
	f.Add(masked(final|opPing, "abc"))
	f.Add(append(masked(opText, "a"), masked(final|opContinuation, "b")...))
	f.Add(masked(final|opClose, "\x03\xe9gone"))
	f.Fuzz(func(t *testing.T, b []byte) {
		run := func(most int) (int, string, int) {
			pongs := 0
			code, why := readFrames(&pieces{b, most}, func(p []byte) error {
				if len(p) > 125 {
					t.Errorf("a pong of %d bytes", len(p))
				}
				pongs++
				return nil
			})
			return code, why, pongs
		}
		c1, w1, p1 := run(1)
		c2, w2, p2 := run(4096)
		if c1 != c2 || w1 != w2 || p1 != p2 {
			t.Errorf("%x: byte by byte %d %q %d, at once %d %q %d", b, c1, w1, p1, c2, w2, p2)
		}
	})
}

// sender is an edge's API for senders, and clients that take what they are sent.
func sender(t *testing.T, p *Push) (send func(method, path, id, token, body string) (int, string), url string) {
	t.Helper()
	srv := httptest.NewServer(p.Handler())
	t.Cleanup(srv.Close)
	return func(method, path, id, token, body string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if id != "" {
			req.Header.Set("X-CUSTOMER_ID", id)
		}
		if token != "" {
			req.Header.Set(tokenHeader, token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}, srv.URL
}

func TestSendersAreTold(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	p := newPush(map[string]string{"zuul.push.tokenBucket.window.millis": "3600000"}) // however long this takes
	send, _ := sender(t, p)
	c := join(t, p, "alice", false)
	defer c.Close()
	got := make(chan string, 8)
	go func() {
		for {
			m := next(t, c)
			got <- m
			if !strings.HasPrefix(m, "text") {
				return
			}
		}
	}()
	tests := []struct {
		method, path, id, token, body string
		status                        int
	}{
		{"PUT", "/push", "alice", "", "x", 405},
		{"POST", "/pull", "alice", "", "x", 404},
		{"POST", "/push", "", "", "x", 401},
		{"POST", "/push", strings.Repeat("a", 600), "", "x", 401},
		{"GET", "/push", "alice", "", "", 200},
		{"GET", "/push", "bob", "", "", 404},
		{"POST", "/push", "bob", "", "x", 404},
		{"POST", "/push", "alice", "wrong", "x", 403},
		{"POST", "/push", "alice", "", "", 204},
		{"POST", "/push", "alice", "", strings.Repeat("x", maxPayload+1), 413},
		{"POST", "/push", "alice", "", "1", 200},
		{"POST", "/push", "alice", "", "2", 200},
		{"POST", "/push", "alice", "", "3", 200},
		{"POST", "/push", "alice", "", "4", 503},
	}
	for _, tt := range tests {
		if status, body := send(tt.method, tt.path, tt.id, tt.token, tt.body); status != tt.status {
			t.Errorf("%s %s to %.10q with token %q: got %d %q, want %d", tt.method, tt.path, tt.id, tt.token, status, body, tt.status)
		}
	}
	for _, want := range []string{"text 1", "text 2", "text 3"} {
		if m := <-got; m != want {
			t.Errorf("the client got %q, want %q", m, want)
		}
	}
	c.Close()
	<-got
	for p.find("alice") != nil {
		time.Sleep(time.Millisecond)
	}
}

func TestAnyEdgeReachesAClientOfAnother(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	far := newPush(nil)
	_, url := sender(t, far)
	none := newPush(nil)
	_, other := sender(t, none)
	barred := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) })) // an API that wants a token
	defer barred.Close()
	near := newPush(nil, barred.URL, other, "http://127.0.0.1:1", url)
	defer near.client.CloseIdleConnections()
	send, _ := sender(t, near)
	c := join(t, far, "alice", false)
	defer c.Close()
	got := make(chan string, 1)
	go func() { got <- next(t, c) }()
	if status, body := send("POST", "/push", "alice", "", "hi"); status != 200 {
		t.Errorf("got %d %s, want 200 of the other edge", status, body)
	}
	if m := <-got; m != "text hi" {
		t.Errorf("the client got %q", m)
	}
	if status, _ := send("POST", "/push", "bob", "", "hi"); status != 404 {
		t.Errorf("nobody knows bob: got %d, want 404", status)
	}
	go func() { got <- next(t, c) }()
	if status, body := send("POST", "/push/broker", "", "", `{"ids":["alice"],"payload":"later","ttl":5}`); status != 202 {
		t.Errorf("the broker: got %d %s", status, body)
	}
	if m := <-got; m != "text later" {
		t.Errorf("by the broker the client got %q", m)
	}
	c.Close()
	for far.find("alice") != nil {
		time.Sleep(time.Millisecond)
	}
}

func TestTheBrokerKeepsMessagesForClientsThatComeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(nil)
		defer running(t, p)()
		post := func(body string) int {
			w := httptest.NewRecorder()
			p.Handler().ServeHTTP(w, httptest.NewRequest("POST", "/push/broker", strings.NewReader(body)))
			return w.Code
		}
		if got := post(`{"ids":["alice","bob"],"payload":"hello","ttl":10}`); got != 202 {
			t.Fatalf("got %d", got)
		}
		time.Sleep(5 * time.Second)
		c := join(t, p, "alice", false)
		defer c.Close()
		if got := next(t, c); got != "text hello" {
			t.Errorf("alice got %q", got)
		}
		time.Sleep(6 * time.Second)
		b := join(t, p, "bob", false)
		defer b.Close()
		if got := next(t, b); got != "ping" {
			t.Errorf("bob, who came too late, got %q", got)
		}
		for _, bad := range []string{"", "[]", `{"ids":[],"payload":"x"}`, `{"ids":["a"],"payload":""}`, `{"ids":["a"],"payload":"x","ttl":-1}`, `{"ids":[""],"payload":"x"}`, `{"ids":["a"],"payload":"x","tll":1}`} {
			if got := post(bad); got != 400 {
				t.Errorf("%s: got %d, want 400", bad, got)
			}
		}
		for i := range maxPerClient {
			if got := post(`{"ids":["carol"],"payload":"x","ttl":60}`); got != 202 {
				t.Fatalf("message %d: got %d", i, got)
			}
		}
		if got := post(`{"ids":["carol"],"payload":"x","ttl":60}`); got != 503 {
			t.Errorf("one more than a client may have waiting: got %d, want 503", got)
		}
		if got := post(`{"ids":["` + strings.Repeat("a", 2*maxPayload) + `"]}`); got != 413 {
			t.Errorf("an order of over %d bytes: got %d, want 413", 2*maxPayload, got)
		}
		if p.sent.Count() != 1 {
			t.Errorf("%d messages are counted as sent, want alice's", p.sent.Count())
		}
	})
}

func TestHandshakesThatAreNoneAreAnswered(t *testing.T) {
	tests := []struct {
		name   string
		change func(*filter.Exchange)
		status int
		closed string
	}{
		{"no upgrade", func(x *filter.Exchange) { x.Request.Upgrade = "" }, 426, ""},
		{"another method", func(x *filter.Exchange) { x.Request.Method = "POST" }, 405, ""},
		{"another version", func(x *filter.Exchange) { x.Request.Header.Set("Sec-WebSocket-Version", "8") }, 426, ""},
		{"a short key", func(x *filter.Exchange) { x.Request.Header.Set("Sec-WebSocket-Key", "AAAA") }, 400, ""},
		{"nobody", func(x *filter.Exchange) { x.Request.Header.Del("X-Member") }, 101, "close 1008 Auth failed"},
		{"events by POST", func(x *filter.Exchange) { x.Request.Path, x.Request.Method = "/sse", "POST" }, 405, ""},
		{"events for nobody", func(x *filter.Exchange) { x.Request.Path = "/sse"; x.Request.Header.Del("X-Member") }, 401, ""},
	}
	for _, tt := range tests {
		p := newPush(nil)
		x := &filter.Exchange{MayDetach: true}
		x.Request.Path, x.Request.Method, x.Request.Proto, x.Request.Upgrade = "/ws", "GET", 11, "websocket"
		for k, v := range map[string]string{"X-Member": "a", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="} {
			x.Request.Header.Add(k, v)
		}
		tt.change(x)
		if err := p.Endpoint().Apply(x); err != nil || x.Response.Status != tt.status {
			t.Errorf("%s: got %d, %v; want %d", tt.name, x.Response.Status, err, tt.status)
		}
		if tt.closed == "" {
			continue
		}
		near, far := net.Pipe()
		go func() { x.Response.Takeover(far, nil); far.Close() }()
		if got := next(t, near); got != tt.closed {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.closed)
		}
		near.Close()
	}
}

// Over net/http, which does not give connections away, the request lasts as long as the connection.
func TestPushWorksOverOtherEngines(t *testing.T) {
	p := newPush(nil)
	apply := p.Endpoint().Apply
	srv := httptest.NewServer(&nethttp.Handler{Serve: func(x *filter.Exchange) {
		if err := apply(x); err != nil {
			t.Error(err)
		}
	}, Log: slog.New(slog.DiscardHandler)})
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /sse HTTP/1.1\r\nHost: x\r\nX-Member: alice\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("got %v, %v", resp, err)
	}
	for p.find("alice") == nil {
		time.Sleep(time.Millisecond)
	}
	if err := p.find("alice").send([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len("event: push\r\ndata: hi\r\n\r\n"))
	if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != "event: push\r\ndata: hi\r\n\r\n" {
		t.Errorf("got %q, %v", b, err)
	}
	c.Close()
	for p.find("alice") != nil {
		time.Sleep(time.Millisecond)
	}
}

func TestClientsThatAreToMoveAreAskedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPush(map[string]string{"zuul.push.keepalive.interval.seconds": "0"})
		defer running(t, p)()
		began := time.Now()
		moved, stays := join(t, p, "alice", false), join(t, p, "bob", false)
		defer moved.Close()
		defer stays.Close()
		time.Sleep(10 * time.Second)
		isAlice := func(id string) bool { return id == "alice" }
		if n := p.Move(isAlice, 20*time.Second); n != 1 {
			t.Errorf("asked to move: %d clients, want 1", n)
		}
		if n := p.Move(isAlice, 20*time.Second); n != 0 {
			t.Errorf("asked once more: %d clients, want none", n)
		}
		if got, at := next(t, moved), time.Since(began); got != "text _CLOSE_" || at < 10*time.Second || at > 32*time.Second {
			t.Errorf("alice got %q after %v, want _CLOSE_ from 10 s to 31 s", got, at)
		}
		asked := time.Since(began)
		if got := next(t, moved); !strings.HasPrefix(got, "close 1000") {
			t.Errorf("then alice got %q, want to be cut off", got)
		}
		if at := time.Since(began); at-asked > 6*time.Second {
			t.Errorf("alice was cut off after %v, want within seconds of %v", at, asked)
		}
		if got, at := next(t, stays), time.Since(began); got != "text _CLOSE_" || at < 20*time.Minute {
			t.Errorf("bob got %q after %v, want _CLOSE_ after half an hour, less three minutes at most", got, at)
		}
	})
}
