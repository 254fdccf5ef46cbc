package listen

import (
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
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

// company vouches for clients.
type company struct {
	t    *testing.T
	dir  string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCompany(t *testing.T) *company {
	t.Helper()
	a := &company{t: t, dir: t.TempDir()}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a company"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	key, der := a.sign(c, nil)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.key = key
	write(t, a.file("ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func (a *company) file(name string) string { return filepath.Join(a.dir, name) }

func (a *company) sign(c, parent *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	signer := a.key
	if parent == nil {
		parent, signer = c, key
	}
	c.BasicConstraintsValid, c.NotBefore, c.NotAfter = true, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, der
}

// client returns a certificate of a client.
func (a *company) client(serial int64, name string) *tls.Certificate {
	a.t.Helper()
	key, der := a.sign(&x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// revokes writes a list.
func (a *company) revokes(at time.Time, serials ...int64) {
	a.t.Helper()
	rl := &x509.RevocationList{Number: big.NewInt(at.UnixNano()), ThisUpdate: at, NextUpdate: at.Add(time.Hour)}
	for _, s := range serials {
		rl.RevokedCertificateEntries = append(rl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: at})
	}
	der, err := x509.CreateRevocationList(rand.Reader, rl, a.cert, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	write(a.t, a.file("ca.crl"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

func TestARevokedClientIsRefusedThoughItResumesASession(t *testing.T) {
	a := newCompany(t)
	a.revokes(time.Now().Add(-time.Minute))
	certs, err := NewCertificates(CertificatesConfig{SelfSigned: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c, err := certs.TLS(ClientAuth{CA: a.file("ca.pem"), CRL: a.file("ca.crl"), Optional: true})
	if err != nil {
		t.Fatal(err)
	}
	addr, s := opened(t, Config{TLS: c, Serve: func(x *filter.Exchange) { x.Answer(200, "is "+x.Client.Identity) }})
	quic := openedQUIC(t, s)
	sessions := tls.NewLRUClientSessionCache(0)
	ask := func(own *tls.Certificate) (one, three string) {
		t.Helper()
		cl := client(t, func(p *http.Protocols) { p.SetHTTP1(true) })
		conf := &tls.Config{InsecureSkipVerify: true, ClientSessionCache: sessions, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }}
		if own.Certificate == nil {
			conf.ClientSessionCache = nil
		}
		cl.Transport.(*http.Transport).TLSClientConfig = conf
		defer cl.CloseIdleConnections()
		tr := &http3.Transport{TLSClientConfig: conf.Clone()}
		defer tr.Close()
		return get(t, cl, "https://"+addr), get(t, &http.Client{Transport: tr, Timeout: time.Minute}, "https://"+quic)
	}
	ana := a.client(7, "ana")
	is := func(what string, own *tls.Certificate, want string) {
		t.Helper()
		if one, three := ask(own); (one == want) != (want != "") || (three == want) != (want != "") || want == "" && (strings.HasPrefix(one, "is") || strings.HasPrefix(three, "is")) {
			t.Errorf("%s: got %q, over HTTP/3 %q; want %q, or that it is refused if that is empty", what, one, three, want)
		}
	}
	is("at first", ana, "is ana")
	is("nobody", new(tls.Certificate), "is ")
	write(t, a.file("ca.crl"), []byte("nonsense"))
	certs.turn()
	is("while the list is nonsense", ana, "is ana")
	a.revokes(time.Now(), 7)
	certs.turn()
	is("once revoked", ana, "")
	is("another", a.client(8, "ben"), "is ben")
	is("nobody, still", new(tls.Certificate), "is ")
	if _, err := certs.TLS(ClientAuth{CRL: a.file("ca.crl")}); err == nil || !strings.Contains(err.Error(), "vouch for clients") {
		t.Errorf("lists without those who vouch: got %v, want an error that says who is missing", err)
	}
}

func TestTheSecretOfTicketsThatIsTakenBackResumesNothing(t *testing.T) {
	secret := strings.Repeat("s", 32)
	certs, err := NewCertificates(CertificatesConfig{SelfSigned: t.TempDir(), TicketSecret: func() string { return secret }})
	if err != nil {
		t.Fatal(err)
	}
	server, err := certs.TLS(ClientAuth{})
	if err != nil {
		t.Fatal(err)
	}
	cache := tls.NewLRUClientSessionCache(4)
	resumed := func(what string, want bool) {
		t.Helper()
		near, far := connected(t)
		go func() {
			c := tls.Server(far, server)
			c.Write([]byte("x")) //nolint:errcheck // the client's error is the one that is looked at
		}()
		c := tls.Client(near, &tls.Config{ServerName: "localhost", InsecureSkipVerify: true, ClientSessionCache: cache})
		if _, err := c.Read(make([]byte, 1)); err != nil { // the ticket comes before the first byte
			t.Fatal(err)
		}
		if got := c.ConnectionState().DidResume; got != want {
			t.Errorf("%s: resumed %v, want %v", what, got, want)
		}
	}
	resumed("the first", false)
	resumed("the second", true)
	secret = ""
	first := certs.ownTurn
	turned := func(turns int64) {
		certs.mu.Lock()
		defer certs.mu.Unlock()
		certs.tickets(server, first+turns)
	}
	turned(0)
	resumed("after the secret was taken back", false)
	resumed("and again", true)
	turned(1)
	resumed("by the keys of the turn before", true)
	turned(2)
	turned(3)
	resumed("two turns later", false)
}

func TestOfSeveralCertificatesOfANameOneThatHoldsIsShown(t *testing.T) {
	made := func(from, to time.Time) *tls.Certificate {
		c := &x509.Certificate{NotBefore: from, NotAfter: to, DNSNames: []string{"shop.example"}}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.SerialNumber = big.NewInt(1)
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		if c, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: c}
	}
	now := time.Now()
	old, good, next := made(now.Add(-48*time.Hour), now.Add(-24*time.Hour)), made(now.Add(-time.Hour), now.Add(time.Hour)), made(now.Add(time.Hour), now.Add(2*time.Hour))
	hello := &tls.ClientHelloInfo{ServerName: "shop.example", SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256}}
	for what, tt := range map[string]struct {
		of   []*tls.Certificate
		want *tls.Certificate
	}{"one that ended before": {[]*tls.Certificate{old, good}, good}, "one that begins later": {[]*tls.Certificate{next, good, old}, good}, "none that holds": {[]*tls.Certificate{old, next}, old}, "one alone": {[]*tls.Certificate{old}, old}} {
		if got := usable(tt.of, hello); got != tt.want {
			t.Errorf("%s: got the one to %v, want the one to %v", what, got.Leaf.NotAfter, tt.want.Leaf.NotAfter)
		}
	}
}

func TestAnAuthoritysChallengeNeedsNoCertificateAndIsServedNothing(t *testing.T) {
	a := newCompany(t)
	acme, err := NewACME(ACMEConfig{Hosts: []string{"shop.example"}, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(acme.cache.Stop)
	certs, err := NewCertificates(CertificatesConfig{SelfSigned: t.TempDir(), ACME: acme})
	if err != nil {
		t.Fatal(err)
	}
	c, err := certs.TLS(ClientAuth{CA: a.file("ca.pem")})
	if err != nil {
		t.Fatal(err)
	}
	addr, _ := opened(t, Config{TLS: c})
	for what, tt := range map[string]struct {
		protocols []string
		shakes    bool
	}{"a challenge": {[]string{acmeProtocol}, true}, "who would have more": {[]string{acmeProtocol, "x"}, false}, "a client": {[]string{"http/1.1"}, false}} {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: tt.protocols, MaxVersion: tls.VersionTLS12}) // by which a client learns at once that it is refused
		if (err == nil) != tt.shakes {
			t.Errorf("%s: got %v, want a handshake: %v", what, err, tt.shakes)
		}
		if err != nil {
			continue
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") //nolint:errcheck // it may be closed already
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%s is answered %q, want nothing", what, b)
		}
		c.Close()
	}
}

func TestTheListenersOwnPortIsWhereTheAuthoritysChallengeIsAnswered(t *testing.T) {
	for _, tt := range []struct {
		at   net.TCPAddr
		host string
	}{{net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 7443}, "10.0.0.1"}, {net.TCPAddr{IP: net.IPv6zero, Port: 8443}, ""}, {net.TCPAddr{IP: net.IPv6loopback, Port: 443}, "::1"}} {
		acme, err := NewACME(ACMEConfig{Hosts: []string{"shop.example"}, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(acme.cache.Stop)
		acme.answerAt(&tt.at)
		if i := acme.issuer; i.ListenHost != tt.host || i.AltTLSALPNPort != tt.at.Port || !i.DisableHTTPChallenge || i.DisableTLSALPNChallenge {
			t.Errorf("of a listener at %v: the challenge is to be answered at %q, port %d, over HTTP %v, over TLS %v; want it there, over TLS alone", &tt.at, i.ListenHost, i.AltTLSALPNPort, !i.DisableHTTPChallenge, !i.DisableTLSALPNChallenge)
		}
	}
}

func TestWhoNeverShakesHandsCountsAmongAnAddresssConnections(t *testing.T) {
	addr, s := opened(t, Config{TLS: secure(t, ClientAuth{}), shake: time.Hour, HTTP1: http1.Config{Settings: http1.Settings{PerAddress: 2}}})
	waits := func(n int) {
		for is := -1; is != n; time.Sleep(time.Millisecond) {
			s.mu.Lock()
			if is = len(s.shaking); is == 0 && len(s.from) > 0 {
				t.Errorf("nobody shakes hands, and %v are counted", s.from)
			}
			s.mu.Unlock()
		}
	}
	var silent []net.Conn
	for i := range 3 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if silent = append(silent, c); i < 2 {
			waits(i + 1)
		}
	}
	silent[2].SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := silent[2].Read(make([]byte, 1)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the third connection: got %v, want it closed at once", err)
	}
	silent[0].Close()
	waits(1)
	if got := get(t, client(t, func(p *http.Protocols) { p.SetHTTP1(true) }), "https://"+addr+"/a"); !strings.HasPrefix(got, "GET https /a") {
		t.Errorf("after one has gone: got %q", got)
	}
	silent[1].Close()
	waits(0)
}
