package listen

import (
	"context"
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
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

// responder is an issuer that says of its certificates what it is told to.
type responder struct {
	*httptest.Server
	key  *ecdsa.PrivateKey
	cert *x509.Certificate

	mu     sync.Mutex
	status int
	asked  int
	down   bool
	since  time.Time
	wrong  bool // it speaks of another certificate
}

func (r *responder) tell(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// newResponder starts one, and has it give dir a certificate for the name.
func newResponder(t *testing.T, dir, name string, whole bool) *responder {
	t.Helper()
	r := &responder{since: time.Now()}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked++
		text, err := io.ReadAll(q.Body)
		if err != nil || r.down {
			w.WriteHeader(500)
			return
		}
		asked, err := ocsp.ParseRequest(text)
		if err != nil {
			t.Errorf("asked for nonsense: %v", err)
			return
		}
		serial := asked.SerialNumber
		if r.wrong {
			serial = big.NewInt(77)
		}
		der, err := ocsp.CreateResponse(r.cert, r.cert, ocsp.Response{Status: r.status, SerialNumber: serial, ThisUpdate: r.since, NextUpdate: r.since.Add(4 * time.Hour), RevokedAt: r.since}, r.key)
		if err != nil {
			t.Error(err)
		}
		w.Write(der)
	}))
	t.Cleanup(r.Close)
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	make := func(c, parent *x509.Certificate, public, signer *ecdsa.PrivateKey) *x509.Certificate {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, public.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	r.key = key()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	r.cert = make(ca, ca, r.key, r.key)
	own := key()
	leaf := make(&x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, OCSPServer: []string{r.URL}}, r.cert, own, r.key)
	private, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw})...)
	if whole {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})...)
	}
	write(t, filepath.Join(dir, name+".pem"), text)
	return r
}

// stapledTo returns what a client is shown of what the issuer says.
func stapledTo(t *testing.T, s *Certificates, name string) []byte {
	t.Helper()
	c, err := s.TLS(ClientAuth{})
	if err != nil {
		t.Fatal(err)
	}
	near, far := connected(t)
	go tls.Server(far, c).Handshake() //nolint:errcheck // the client's error is the one that is looked at
	client := tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	return client.OCSPResponse()
}

func TestClientsAreShownWhatTheIssuerSaysOfACertificate(t *testing.T) {
	dir := t.TempDir()
	r := newResponder(t, dir, "one.example", true)
	pair(t, dir, "two", "two.example") // whose issuer says nothing
	s, err := NewCertificates(CertificatesConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.client = r.Client()
	if got := stapledTo(t, s, "one.example"); got != nil {
		t.Error("something is shown before the issuer was asked")
	}
	now := time.Now()
	s.ask(t.Context(), now)
	said, err := ocsp.ParseResponse(stapledTo(t, s, "one.example"), r.cert)
	if err != nil || said.Status != ocsp.Good || said.SerialNumber.Int64() != 2 {
		t.Fatalf("a client is shown %+v, %v; want that the certificate is good", said, err)
	}
	if got := stapledTo(t, s, "two.example"); got != nil {
		t.Errorf("a client is shown %x of a certificate whose issuer offers nothing", got)
	}
	write(t, filepath.Join(dir, "three.crt"), nil)
	if err := s.reload(); err == nil {
		t.Fatal("an empty file is a certificate")
	}
	pair(t, dir, "three", "three.example")
	if err := s.reload(); err != nil {
		t.Fatal(err)
	}
	if got := stapledTo(t, s, "one.example"); got == nil {
		t.Error("after other files have changed nothing is shown any more")
	}
	s.ask(t.Context(), now.Add(time.Hour))
	if r.asked != 1 {
		t.Errorf("the issuer was asked %d times in the first half of its word's time, want once", r.asked)
	}
	r.tell(func() { r.down = true })
	s.ask(t.Context(), now.Add(2*time.Hour+time.Minute))
	if got := stapledTo(t, s, "one.example"); got == nil || r.asked != 2 {
		t.Errorf("the issuer is away, asked %d times: %d bytes are shown; want what it said before", r.asked, len(got))
	}
	s.ask(t.Context(), now.Add(2*time.Hour+2*time.Minute))
	if r.asked != 2 {
		t.Errorf("the issuer, which is away, is asked again at once")
	}
	s.ask(t.Context(), now.Add(4*time.Hour-5*time.Minute))
	if got := stapledTo(t, s, "one.example"); got == nil {
		t.Error("what the issuer said is shown no more, five minutes before its time ends")
	}
	s.ask(t.Context(), now.Add(4*time.Hour-2*time.Minute)) // though the issuer was asked a moment ago
	if got := stapledTo(t, s, "one.example"); got != nil {
		t.Error("what the issuer said is shown beyond its time")
	}
	r.tell(func() { r.down, r.since = false, now.Add(6*time.Hour) })
	s.ask(t.Context(), now.Add(6*time.Hour))
	if got := stapledTo(t, s, "one.example"); got == nil {
		t.Error("the issuer is back, and nothing is shown")
	}
	r.tell(func() { r.status, r.since = ocsp.Revoked, now.Add(9*time.Hour) })
	s.ask(t.Context(), now.Add(9*time.Hour))
	if got := stapledTo(t, s, "one.example"); got != nil {
		t.Error("a certificate that is revoked is said to be good")
	}
}

func TestWhatAnIssuerSaysOfAnotherCertificateIsNotShown(t *testing.T) {
	for name, set := range map[string]func(*responder){
		"another certificate": func(r *responder) { r.wrong = true },
		"unknown":             func(r *responder) { r.status = ocsp.Unknown },
		"long ago":            func(r *responder) { r.since = time.Now().Add(-5 * time.Hour) },
		"another issuer's": func(r *responder) {
			r.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		},
	} {
		dir := t.TempDir()
		r := newResponder(t, dir, "one.example", true)
		r.tell(func() { set(r) })
		s, err := NewCertificates(CertificatesConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		s.client = r.Client()
		s.ask(t.Context(), time.Now())
		if got := stapledTo(t, s, "one.example"); got != nil || r.asked != 1 {
			t.Errorf("%s: %d bytes are shown after %d questions, want none after one", name, len(got), r.asked)
		}
	}
	dir := t.TempDir()
	r := newResponder(t, dir, "one.example", false)
	s, err := NewCertificates(CertificatesConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.ask(t.Context(), time.Now())
	if r.asked != 0 {
		t.Error("an issuer was asked whose certificate is not there to check its word")
	}
}

func TestIssuersAreAskedWhileCertificatesAreServed(t *testing.T) {
	dir := t.TempDir()
	r := newResponder(t, dir, "one.example", true)
	s, err := NewCertificates(CertificatesConfig{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.client = r.Client()
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- s.Staple(ctx) }()
	for began := time.Now(); stapledTo(t, s, "one.example") == nil; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("nothing is shown after 20 s")
		}
	}
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
}
