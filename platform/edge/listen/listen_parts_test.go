package listen

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair writes a certificate for the names and its key to dir.
func pair(t *testing.T, dir, file string, names ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: file}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: names}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, file+".crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, file+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// connected returns both ends of a TCP connection. A net.Pipe holds nothing, so that two who both write wait for ever.
func connected(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// shown returns the first name of the certificate that a client gets who asks for name.
func shown(t *testing.T, c *tls.Config, name string) string {
	t.Helper()
	near, far := connected(t)
	go func() {
		tls.Server(far, c).Handshake() //nolint:errcheck // the client's error is the one that is looked at
	}()
	client := tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatalf("handshake for %q: %v", name, err)
	}
	return client.ConnectionState().PeerCertificates[0].DNSNames[0]
}

func TestEachNameGetsItsCertificate(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "a", "shop.example", "www.shop.example")
	pair(t, dir, "b", "*.tv.example")
	pair(t, dir, "c", "x.tv.example")
	certs, err := NewCertificates(CertificatesConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	c, err := certs.TLS(ClientAuth{})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"shop.example": "shop.example", "WWW.shop.example": "shop.example", "a.tv.example": "*.tv.example", "x.tv.example": "x.tv.example",
		"a.b.tv.example": "shop.example", "nobody.example": "shop.example", "": "shop.example",
	} {
		if got := shown(t, c, name); got != want {
			t.Errorf("%q: got the certificate of %s, want that of %s", name, got, want)
		}
	}
}

func TestChangedCertificatesAreTakenWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "a", "one.example")
	certs, err := NewCertificates(CertificatesConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := certs.TLS(ClientAuth{})
	if err != nil {
		t.Fatal(err)
	}
	pair(t, dir, "b", "two.example")
	write(t, filepath.Join(dir, "c.crt"), []byte("nonsense"))
	if err := certs.reload(); err == nil || !strings.Contains(err.Error(), "c.crt") {
		t.Errorf("a file of nonsense: got %v, want an error that names it", err)
	}
	if got := shown(t, c, "two.example"); got != "one.example" {
		t.Errorf("with a mistake beside it %s is in use already", got)
	}
	if err := os.Remove(filepath.Join(dir, "c.crt")); err != nil {
		t.Fatal(err)
	}
	if err := certs.reload(); err != nil {
		t.Error(err)
	}
	if got := shown(t, c, "two.example"); got != "two.example" {
		t.Errorf("after the mistake is gone: got %s, want two.example", got)
	}
}

func TestNoCertificatesIsAnErrorThatSaysWhatToDo(t *testing.T) {
	for _, c := range []CertificatesConfig{{}, {Dir: t.TempDir()}} {
		if _, err := NewCertificates(c); err == nil || !strings.Contains(err.Error(), "certificates") {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

func TestACertificateSignedByItselfIsMadeOnceAndRenewedInTime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	now := time.Now()
	read := func(after time.Duration) string {
		t.Helper()
		if err := selfSign(dir, now.Add(after)); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "self-signed.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first := read(0)
	if read(selfSignedFor-renewBefore-time.Hour) != first {
		t.Error("it was made anew although it lasts")
	}
	if read(selfSignedFor-renewBefore+time.Hour) == first {
		t.Error("it was not renewed before its end")
	}
	if st, err := os.Stat(filepath.Join(dir, "self-signed.pem")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v; want 0600: it has a key", st.Mode(), err)
	}
}

func TestEdgesThatShareASecretResumeEachOthersSessions(t *testing.T) {
	dir := t.TempDir()
	pair(t, dir, "a", "one.example")
	edge := func(secret string) *tls.Config {
		t.Helper()
		certs, err := NewCertificates(CertificatesConfig{Dir: dir, TicketSecret: func() string { return secret }})
		if err != nil {
			t.Fatal(err)
		}
		c, err := certs.TLS(ClientAuth{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	secret := strings.Repeat("s", 32)
	first, second, stranger := edge(secret), edge(secret), edge(strings.Repeat("t", 32))
	cache := tls.NewLRUClientSessionCache(4)
	resumed := func(server *tls.Config) bool {
		t.Helper()
		near, far := connected(t)
		go func() {
			c := tls.Server(far, server)
			c.Write([]byte("x")) //nolint:errcheck // the client's error is the one that is looked at
		}()
		client := tls.Client(near, &tls.Config{ServerName: "one.example", InsecureSkipVerify: true, ClientSessionCache: cache})
		if _, err := client.Read(make([]byte, 1)); err != nil { // the ticket comes before the first byte
			t.Fatal(err)
		}
		return client.ConnectionState().DidResume
	}
	if resumed(first) {
		t.Error("the first session was resumed from nothing")
	}
	if !resumed(second) {
		t.Error("the edge beside did not resume the session")
	}
	if resumed(stranger) {
		t.Error("an edge with another secret resumed the session")
	}
}

func proxied(t *testing.T, h *proxyproto.Header) []byte {
	t.Helper()
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestThePROXYProtocolTellsTheClientHoweverItArrives(t *testing.T) {
	two := &proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4,
		SourceAddr: &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 4000}, DestinationAddr: &net.TCPAddr{IP: net.IPv4(10, 9, 9, 9), Port: 443}}
	if err := two.SetTLVs([]proxyproto.TLV{
		{Type: proxyproto.PP2_TYPE_ALPN, Value: []byte("h2")}, {Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("shop.example")},
		{Type: 0xEA, Value: append([]byte{1}, "vpce-0123456789abcdef0"...)},
	}); err != nil {
		t.Fatal(err)
	}
	local := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	tests := []struct {
		name   string
		header []byte
		remote string
		told   map[string]string
	}{
		{"version 1", []byte("PROXY TCP4 10.1.2.3 10.9.9.9 4000 443\r\n"), "10.1.2.3:4000", nil},
		{"version 1, IPv6", []byte("PROXY TCP6 2001:db8::1 2001:db8::2 4000 443\r\n"), "[2001:db8::1]:4000", nil},
		{"version 1, unknown", []byte("PROXY UNKNOWN\r\n"), "192.0.2.7:9", nil},
		{"version 2", proxied(t, two), "10.1.2.3:4000", map[string]string{"ALPN": "h2", "AUTHORITY": "shop.example", "VPCE": "vpce-0123456789abcdef0"}},
		{"version 2, the balancer itself", proxied(t, local), "192.0.2.7:9", nil},
	}
	const after = "GET / HTTP/1.1\r\n\r\n"
	for _, tt := range tests {
		all := append(bytes.Clone(tt.header), after...)
		for split := range len(all) + 1 {
			near, far := net.Pipe()
			go func() {
				near.Write(all[:split]) //nolint:errcheck // the reader's error is looked at
				near.Write(all[split:]) //nolint:errcheck // as above
				near.Close()
			}()
			client := &filter.Client{Remote: netip.MustParseAddrPort("192.0.2.7:9")}
			early, err := readProxy(far, ProxyRequired, client)
			rest, _ := io.ReadAll(far)
			far.Close()
			if err != nil || client.Remote.String() != tt.remote || string(early)+string(rest) != after {
				t.Fatalf("%s, split at %d: got %v, %v, then %q; want %s, then %q", tt.name, split, client.Remote, err, string(early)+string(rest), tt.remote, after)
			}
			for k, want := range tt.told {
				if client.Proxied[k] != want {
					t.Errorf("%s: it told %s %q, want %q", tt.name, k, client.Proxied[k], want)
				}
			}
		}
	}
}

func TestAConnectionWithoutThePROXYProtocolIsRefusedUnlessItIsOptional(t *testing.T) {
	for _, sent := range []string{"GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PROXY TCP4 nonsense\r\n", "PROXY " + strings.Repeat("x", 200), "\x16\x03\x01", ""} {
		for _, p := range []ProxyProtocol{ProxyRequired, ProxyOptional} {
			near, far := net.Pipe()
			go func() {
				io.WriteString(near, sent) //nolint:errcheck // the reader's error is looked at
				near.Close()
			}()
			early, err := readProxy(far, p, &filter.Client{})
			far.Close()
			refused := p == ProxyRequired || sent == "" || strings.HasPrefix(sent, "PROXY TCP4 n")
			if refused != (err != nil) || err == nil && !strings.HasPrefix(sent, string(early)) {
				t.Errorf("%q with %d: got %q, %v; want it refused: %v", sent, p, early, err, refused)
			}
		}
	}
}

func FuzzReadProxy(f *testing.F) {
	f.Add([]byte("PROXY TCP4 10.1.2.3 10.9.9.9 4000 443\r\nGET"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x01\x02\x03\x0a\x09\x09\x09\x0f\xa0\x01\xbbGET"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range []ProxyProtocol{ProxyRequired, ProxyOptional} {
			client := &filter.Client{}
			early, err := readProxy(&scripted{in: bytes.NewReader(b)}, p, client)
			if err == nil && !bytes.Contains(b, early) {
				t.Errorf("%q: what is left, %q, was never sent", b, early)
			}
		}
	})
}

// scripted is a connection that yields what it is given and notes what is written.
type scripted struct {
	net.Conn
	in     io.Reader
	out    bytes.Buffer
	closed bool
}

func (s *scripted) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *scripted) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *scripted) Close() error                     { s.closed = true; return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }
