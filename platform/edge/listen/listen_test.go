package listen

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// tell answers with what is known of the client.
func tell(x *filter.Exchange) {
	if x.Request.Upgrade == "websocket" {
		x.Response.Status = 101
		x.Response.Header.Add("Upgrade", "websocket")
		x.Response.Takeover = func(c net.Conn, early []byte) {
			c.Write(early)
			io.Copy(c, c)
		}
		return
	}
	c := x.Client
	x.Answer(200, fmt.Sprintf("%s %s %s %d from %s by %s", x.Request.Method, x.Request.Scheme, x.Request.Path, x.Request.Proto, c.Remote.Addr(), c.Listener))
}

// opened is a server on a port of its own that ends with the test.
func opened(t *testing.T, c Config) (addr string, s *Server) {
	t.Helper()
	c.Name, c.Log = "test", slog.New(slog.DiscardHandler)
	if c.Serve == nil {
		c.Serve = tell
	}
	s = New(c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Drain(ctx)
		wg.Wait()
	})
	return l.Addr().String(), s
}

func secure(t *testing.T, auth ClientAuth) *tls.Config {
	t.Helper()
	certs, err := NewCertificates(CertificatesConfig{SelfSigned: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c, err := certs.TLS(auth)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// client speaks one protocol only.
func client(t *testing.T, set func(*http.Protocols)) *http.Client {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: new(http.Protocols)}
	set(tr.Protocols)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

func get(t *testing.T, c *http.Client, url string) string {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestEachProtocolReachesItsEngine(t *testing.T) {
	one := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	two := client(t, func(p *http.Protocols) { p.SetHTTP2(true); p.SetUnencryptedHTTP2(true) })
	plain, _ := opened(t, Config{})
	safe, _ := opened(t, Config{TLS: secure(t, ClientAuth{})})
	for _, tt := range []struct {
		name   string
		client *http.Client
		url    string
		want   string
	}{
		{"HTTP/1.1 in clear", one, "http://" + plain + "/a", "GET http /a 11 from 127.0.0.1 by test"},
		{"HTTP/2 in clear", two, "http://" + plain + "/a", "GET http /a 20 from 127.0.0.1 by test"},
		{"HTTP/1.1 over TLS", one, "https://" + safe + "/a", "GET https /a 11 from 127.0.0.1 by test"},
		{"HTTP/2 over TLS", two, "https://" + safe + "/a", "GET https /a 20 from 127.0.0.1 by test"},
	} {
		for range 2 {
			if got := get(t, tt.client, tt.url); got != tt.want {
				t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
			}
		}
	}
}

func TestWhoSpeaksHTTPInClearToAListenerOfTLSIsToldSo(t *testing.T) {
	addr, _ := opened(t, Config{TLS: secure(t, ClientAuth{})})
	one := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
		req, err := http.NewRequest(method, "http://"+addr+"/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := one.Do(req)
		if err != nil {
			t.Errorf("%s: %v", method, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if want := "this port speaks HTTPS"; resp.StatusCode != 400 || method != "HEAD" && !strings.HasPrefix(string(body), want) {
			t.Errorf("%s: got %d %q %v, want 400 %q...", method, resp.StatusCode, body, err, want)
		}
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "neither TLS nor HTTP"); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); len(got) > 0 {
		t.Errorf("who speaks neither: got %q %v, want nothing", got, err)
	}
}

func TestWhateverTheProtocolPathsAndNamesAreTheSame(t *testing.T) {
	one := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	two := client(t, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	addr, s := opened(t, Config{Serve: func(x *filter.Exchange) {
		x.Answer(200, fmt.Sprintf("%s %v", x.Request.Path, x.Request.Header.Has("X_Forwarded_User")))
	}})
	ask := func(path, want string) {
		t.Helper()
		for _, c := range []*http.Client{one, two} {
			req, err := http.NewRequest("GET", "http://"+addr+"/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.URL.Opaque = path
			req.Header["X_Forwarded_User"] = []string{"root"}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if got := string(b); err != nil || !strings.Contains(got, want) {
				t.Errorf("%s by %s: got %d %q, want %q", path, resp.Proto, resp.StatusCode, got, want)
			}
		}
	}
	ask("/a/../%61dmin/%2e", "/admin/ false")
	ask("/a//%2f", "/a//%2F false")
	ask("/a/..;/b", "has a parameter")
	ask("/%00", "has %00")
	s.Change(http1.Settings{Rules: http1.Rules{MergeSlashes: true, Underscores: http1.Keep}})
	ask("/a//b", "/a/b true")
	s.Change(http1.Settings{Rules: http1.Rules{EncodedSlash: http1.Reject}})
	ask("/a%2fb", "edge.path.encodedslash")
	s.Change(http1.Settings{Rules: http1.Rules{Underscores: http1.Reject}})
	ask("/a", "edge.headers.underscores")
}

func TestHTTP3IsServedBesideTLS(t *testing.T) {
	addr, s := opened(t, Config{TLS: secure(t, ClientAuth{})})
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.ServeQUIC(p) }()
	tr := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if got := get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "https://"+p.LocalAddr().String()+"/a"); got != "GET https /a 30 from 127.0.0.1 by test" {
		t.Errorf("got %q", got)
	}
	tr.Close()
	resp, err := client(t, func(p *http.Protocols) { p.SetHTTP1(true) }).Get("https://" + addr)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if want := fmt.Sprintf(`h3=":%d"; ma=86400`, p.LocalAddr().(*net.UDPAddr).Port); resp.Header.Get("Alt-Svc") != want {
		t.Errorf("over TLS the answer tells of %q, want %q", resp.Header.Get("Alt-Svc"), want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s.drainQUIC(ctx)
	if err := <-served; err != nil {
		t.Error(err)
	}
	p.Close()
}

func TestBehindABalancerTheClientIsTheOneItTells(t *testing.T) {
	for _, safe := range []bool{false, true} {
		c := Config{Proxy: ProxyRequired}
		if safe {
			c.TLS = secure(t, ClientAuth{})
		}
		addr, _ := opened(t, c)
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "PROXY TCP4 10.1.2.3 10.9.9.9 4000 443\r\n")
		if safe {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		}
		io.WriteString(conn, "GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if !strings.Contains(string(b), "from 10.1.2.3 ") {
			t.Errorf("TLS %v: got %q, want the client of the PROXY protocol", safe, b)
		}
		if got := get(t, client(t, func(p *http.Protocols) { p.SetHTTP1(true) }), "http://"+addr); !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") {
			t.Errorf("TLS %v: without the PROXY protocol the answer was %q, want the connection closed", safe, got)
		}
	}
}

func TestClientsMustShowCertificatesWhereTheyAreWanted(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "ca", "client.example")
	addr, s := opened(t, Config{TLS: secure(t, ClientAuth{CA: dir + "/ca.crt"}), Serve: func(x *filter.Exchange) { x.Answer(200, "is "+x.Client.Identity) }})
	without := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	if got := get(t, without, "https://"+addr); !strings.Contains(got, "certificate required") {
		t.Errorf("without a certificate: got %q", got)
	}
	own, err := tls.LoadX509KeyPair(dir+"/ca.crt", dir+"/ca.key")
	if err != nil {
		t.Fatal(err)
	}
	with := client(t, func(p *http.Protocols) { p.SetHTTP2(true) })
	with.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{own}
	if got := get(t, with, "https://"+addr); got != "is ca" {
		t.Errorf("with a certificate: got %q, want is ca", got)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	served := make(chan error, 1)
	go func() { served <- s.ServeQUIC(p) }()
	tr := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{own}}}
	if got := get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "https://"+p.LocalAddr().String()); got != "is ca" {
		t.Errorf("with a certificate over HTTP/3: got %q, want is ca", got)
	}
	tr.Close()
	s.drainQUIC(t.Context())
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// openedQUIC has a server speak HTTP/3 until the test ends, and returns where.
func openedQUIC(t *testing.T, s *Server) string {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- s.ServeQUIC(p) }()
	t.Cleanup(func() {
		s.drainQUIC(context.Background())
		if err := <-over; err != nil {
			t.Error(err)
		}
		p.Close()
	})
	return p.LocalAddr().String()
}

func TestWhoVouchesForClientsMayChangeWhileTheyAreServed(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "old", "client.example")
	pair(t, dir, "new", "client.example")
	move := func(name string, text []byte) {
		t.Helper()
		if text == nil {
			var err error
			if text, err = os.ReadFile(dir + "/" + name + ".crt"); err != nil {
				t.Fatal(err)
			}
		}
		write(t, dir+"/ca.pem", text)
	}
	move("old", nil)
	certs, err := NewCertificates(CertificatesConfig{SelfSigned: t.TempDir(), TicketSecret: func() string { return strings.Repeat("s", 32) }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := certs.TLS(ClientAuth{CA: dir + "/ca.pem"})
	if err != nil {
		t.Fatal(err)
	}
	addr, s := opened(t, Config{TLS: c, Serve: func(x *filter.Exchange) { x.Answer(200, "is "+x.Client.Identity) }})
	quic := openedQUIC(t, s)
	sessions := map[string]tls.ClientSessionCache{"old": tls.NewLRUClientSessionCache(0), "new": tls.NewLRUClientSessionCache(0)}
	ask := func(name string) (one, three string) {
		t.Helper()
		own, err := tls.LoadX509KeyPair(dir+"/"+name+".crt", dir+"/"+name+".key")
		if err != nil {
			t.Fatal(err)
		}
		cl := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
		conf := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: sessions[name], GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }}
		cl.Transport.(*http.Transport).TLSClientConfig = conf
		defer cl.CloseIdleConnections()
		tr := &http3.Transport{TLSClientConfig: conf.Clone()}
		defer tr.Close()
		return get(t, cl, "https://"+addr), get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "https://"+quic)
	}
	want := func(name, is string) {
		t.Helper()
		if one, three := ask(name); (one == "is "+name) != (is == "in") || (three == "is "+name) != (is == "in") {
			t.Errorf("%s: got %q, over HTTP/3 %q; want that it is %s", name, one, three, is)
		}
	}
	want("old", "in")
	want("new", "out")
	move("", []byte("nonsense"))
	certs.turn()
	want("old", "in")
	move("new", nil)
	certs.turn()
	want("old", "out") // though it has a session that it could resume
	want("new", "in")
}

func TestTicketKeysTurnForHTTP3Too(t *testing.T) {
	c := secure(t, ClientAuth{})
	s := New(Config{TLS: c, Serve: tell})
	defer s.Drain(t.Context())
	used, err := s.h3.TLSConfig.GetConfigForClient(&tls.ClientHelloInfo{})
	if err != nil || used != c {
		t.Errorf("a handshake over QUIC uses %p, %v; want the configuration whose keys turn, %p", used, err, c)
	}
}

// A browser opens WebSockets over the HTTP/2 connection it has, if the server says that it may. spec: RFC 8441
func TestAWebSocketOverHTTP2IsAnUpgrade(t *testing.T) {
	addr, _ := opened(t, Config{})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.WriteSettings()
	offered := false
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, h := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/chat"}, {":authority", "x"}, {"sec-websocket-version", "13"}} {
		enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	var got bytes.Buffer
	for got.Len() < len("hello") {
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%v; extended CONNECT was offered: %v", err, offered)
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if fr.IsAck() {
				continue
			}
			v, ok := fr.Value(http2.SettingEnableConnectProtocol)
			offered = ok && v == 1
			f.WriteSettingsAck()
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true})
		case *http2.MetaHeadersFrame:
			if s := fr.PseudoValue("status"); s != "200" {
				t.Fatalf("got status %s, want 200", s)
			}
			f.WriteData(1, false, []byte("hello"))
		case *http2.DataFrame:
			got.Write(fr.Data())
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			t.Fatalf("got %v; extended CONNECT was offered: %v", fr, offered)
		}
	}
	if got.String() != "hello" {
		t.Errorf("got %q", got.String())
	}
}

func TestDrainingEndsWhatIsUnderWayAndAcceptsNoMore(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{}, 2)
	c := Config{Serve: func(x *filter.Exchange) {
		begun <- struct{}{}
		<-release
		x.Answer(200, "done")
	}}
	addr, s := opened(t, c)
	answers := make(chan string, 2)
	for _, set := range []func(*http.Protocols){func(p *http.Protocols) { p.SetHTTP1(true) }, func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }} {
		cl := client(t, set)
		go func() { answers <- get(t, cl, "http://"+addr) }()
		<-begun
	}
	drained := make(chan struct{})
	go func() { s.Drain(t.Context()); close(drained) }()
	for {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	for range 2 {
		if got := <-answers; got != "done" {
			t.Errorf("a request under way got %q", got)
		}
	}
	<-drained
}

func TestAConnectionThatNeverShakesHandsIsCutOffWhenDraining(t *testing.T) {
	addr, s := opened(t, Config{TLS: secure(t, ClientAuth{})})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := 0; n == 0; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		n = len(s.shaking)
		s.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	s.Drain(ctx)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the connection is still there: %v", err)
	}
}

func TestDrainingDoesNotWaitForEverForWhoDoesNotComeBack(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{})
	addr, s := opened(t, Config{TLS: secure(t, ClientAuth{}), Serve: func(x *filter.Exchange) {
		close(begun)
		<-release
		x.Answer(200, "too late")
	}})
	defer close(release)
	cl := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	answer := make(chan string, 1)
	go func() { answer <- get(t, cl, "https://"+addr) }()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	drained := make(chan struct{})
	go func() { s.Drain(ctx); close(drained) }()
	select {
	case <-drained:
	case <-time.After(20 * time.Second):
		t.Error("draining waits still, 20 s after its context ended")
	}
	if got := <-answer; got == "too late" {
		t.Errorf("the client got %q of a connection that was cut off", got)
	}
}

func TestWhoIsShakingHandsWhenDrainingBeginsIsServed(t *testing.T) {
	addr, s := opened(t, Config{TLS: secure(t, ClientAuth{}), HTTP1: http1.Config{Grace: time.Minute}})
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	seen := func(what func() bool) {
		for is := false; !is; time.Sleep(time.Millisecond) {
			s.mu.Lock()
			is = what()
			s.mu.Unlock()
		}
	}
	seen(func() bool { return len(s.shaking) == 1 })
	drained := make(chan struct{})
	go func() { s.Drain(t.Context()); close(drained) }()
	seen(func() bool { return s.closing })
	cl := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	cl.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return c, nil }
	if got := get(t, cl, "https://"+addr+"/a"); got != "GET https /a 11 from 127.0.0.1 by test" {
		t.Errorf("got %q", got)
	}
	cl.CloseIdleConnections()
	<-drained
}

func TestTheLimitsOfConnectionsHoldForAllProtocolsTogether(t *testing.T) {
	addr, s := opened(t, Config{TLS: secure(t, ClientAuth{}), HTTP1: http1.Config{Settings: http1.Settings{PerAddress: 2}}})
	one := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
	two := client(t, func(p *http.Protocols) { p.SetHTTP2(true) })
	for _, c := range []*http.Client{one, two} {
		if got := get(t, c, "https://"+addr+"/a"); !strings.Contains(got, "GET https /a") {
			t.Errorf("got %q", got)
		}
	}
	if n := s.Open(); n != 2 {
		t.Errorf("%d connections are counted, want 2", n)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.ServeQUIC(p) }()
	tr := &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if got := get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "https://"+p.LocalAddr().String()+"/a"); strings.HasPrefix(got, "GET https") {
		t.Errorf("a third connection, of HTTP/3: got %q, want it refused", got)
	}
	if got := get(t, client(t, func(p *http.Protocols) { p.SetHTTP2(true) }), "https://"+addr+"/a"); strings.HasPrefix(got, "GET https") {
		t.Errorf("a third connection, of HTTP/2: got %q, want it refused", got)
	}
	two.CloseIdleConnections()
	for s.Open() != 1 {
		time.Sleep(time.Millisecond)
	}
	tr.Close()
	tr = &http3.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if got := get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "https://"+p.LocalAddr().String()+"/a"); got != "GET https /a 30 from 127.0.0.1 by test" {
		t.Errorf("after another has gone: got %q", got)
	}
	tr.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	s.drainQUIC(ctx)
	if err := <-served; err != nil {
		t.Error(err)
	}
	p.Close()
}
