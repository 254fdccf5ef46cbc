package vouch

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// handshakes has an outgoing connection meet a server that shows the certificate of dir and wants one, and returns the serial number of
// what it was shown.
func handshakes(t *testing.T, o *Outgoing, dir, host, identity string) (shown string, err error) {
	t.Helper()
	file := filepath.Join(dir, "self-signed.pem")
	pair, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	saw := make(chan []*x509.Certificate, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(saw)
			return
		}
		defer c.Close()
		srv := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2"}})
		srv.Handshake() //nolint:errcheck // the client tells
		saw <- srv.ConnectionState().PeerCertificates
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = o.Handshake(t.Context(), c, host, identity, "h2")
	c.Close()
	if certs := <-saw; len(certs) > 0 {
		shown = certs[0].SerialNumber.String()
	}
	return shown, err
}

// selfSign writes a certificate of this machine that nobody else vouches for to dir.
func selfSign(t *testing.T, dir string, now time.Time) {
	t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: "the edge"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	new(authority).sign(t, filepath.Join(dir, "self-signed.pem"), c)
}

func selfSigned(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	selfSign(t, dir, time.Now())
	return dir
}

func serial(t *testing.T, dir string) string {
	t.Helper()
	file := filepath.Join(dir, "self-signed.pem")
	c, err := tls.LoadX509KeyPair(file, file)
	if err != nil {
		t.Fatal(err)
	}
	return c.Leaf.SerialNumber.String()
}

func TestWhoIsConnectedToMustShowACertificateThatHolds(t *testing.T) {
	server, stranger, old := selfSigned(t), selfSigned(t), t.TempDir()
	selfSign(t, old, time.Now().Add(-48*time.Hour))
	ca := func(dir string) string { return filepath.Join(dir, "self-signed.pem") }
	for what, tt := range map[string]struct{ dir, ca, host, identity, want string }{
		"its host":         {server, ca(server), "localhost", "", ""},
		"its address":      {server, ca(server), "127.0.0.1", "", ""},
		"its identity":     {server, ca(server), "elsewhere.example.com", "the edge", ""},
		"another host":     {server, ca(server), "elsewhere.example.com", "", "and not for elsewhere.example.com"},
		"another identity": {server, ca(server), "localhost", "spiffe://example.com/x", "its certificate is for the edge, and not for spiffe://example.com/x"},
		"another issuer":   {server, ca(stranger), "localhost", "", "nobody who is believed here vouches for it"},
		"the machine's":    {server, "", "localhost", "", "nobody who is believed here vouches for it"},
		"ended":            {old, ca(old), "localhost", "", "ended on "},
	} {
		o, err := NewOutgoing(Config{CA: tt.ca})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := handshakes(t, o, tt.dir, tt.host, tt.identity); (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", what, err, tt.want)
		}
	}
}

func TestCertificatesForOthersAreReadAgainWhenTheyChange(t *testing.T) {
	server, show := selfSigned(t), selfSigned(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	copyFile := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(filepath.Join(server, "self-signed.pem"), ca)
	o, err := NewOutgoing(Config{Dir: show, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	is := func(when, want string) {
		t.Helper()
		if got, err := handshakes(t, o, server, "localhost", ""); err != nil || got != want {
			t.Errorf("%s: it shows %s, %v; want %s", when, got, err, want)
		}
	}
	first := serial(t, show)
	is("at first", first)
	if err := os.Remove(filepath.Join(show, "self-signed.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Reload(); err == nil || !strings.Contains(err.Error(), "there are no certificates in "+show) {
		t.Errorf("without a file: got %v, want it to say that there is none", err)
	}
	is("without a file", first)
	selfSign(t, show, time.Now())
	if changed, err := o.Reload(); err != nil || !changed {
		t.Fatal(changed, err)
	}
	second := serial(t, show)
	is("with a new one", second)
	if first == second {
		t.Fatal("the new one is the old one")
	}
	copyFile(filepath.Join(show, "self-signed.pem"), ca)
	if changed, err := o.Reload(); err != nil || !changed {
		t.Fatal(err)
	}
	if _, err := handshakes(t, o, server, "localhost", ""); err == nil || !strings.Contains(err.Error(), "nobody who is believed here vouches for it") {
		t.Errorf("with another one who vouches: got %v, want the server refused", err)
	}
}

func TestACertificateThatHasEndedIsNotShown(t *testing.T) {
	server, old := selfSigned(t), t.TempDir()
	selfSign(t, old, time.Now().Add(-48*time.Hour))
	o, err := NewOutgoing(Config{Dir: old, CA: filepath.Join(server, "self-signed.pem")})
	if err != nil {
		t.Fatal(err)
	}
	if shown, err := handshakes(t, o, server, "localhost", ""); err == nil || shown != "" || !strings.Contains(err.Error(), "none of the certificates that this edge has will do") || !strings.Contains(err.Error(), "ended on ") {
		t.Errorf("got %v, shown %q; want an error that says when it ended, and nothing shown", err, shown)
	}
}
