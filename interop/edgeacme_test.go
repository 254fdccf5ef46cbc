package interop

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority is pebble, with which Let's Encrypt has ACME clients tried, and a server of names by which all are here.
type authority struct {
	directory, management string
	cmd                   *exec.Cmd
	client                *http.Client
}

const certLasts = 30 * time.Second

// newAuthority starts one that comes to the edge at its ports, and gives nobody a certificate for refused.test. Who runs in
// this test trusts it.
func newAuthority(t *testing.T, plain, secure string) *authority {
	t.Helper()
	for _, tool := range []string{"pebble", "pebble-challtestsrv"} {
		if _, err := os.Stat("tools/" + tool); err != nil {
			t.Fatalf("%s is missing; run ./interop/install.sh", tool)
		}
	}
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(public)
	api, management, names := freeAddr(t, "127.0.0.1"), freeAddr(t, "127.0.0.1"), freeAddr(t, "127.0.0.1")
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": api, "managementListenAddress": management, "certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": port(t, plain), "tlsPort": port(t, secure), "domainBlocklist": []string{"refused.test"}, "keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "short", "validityPeriod": int(certLasts.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"cert.pem": public, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), "pebble.json": config} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "cert.pem"))
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	listening := freeAddr(t, "127.0.0.1")
	run(t, listening, "./tools/pebble-challtestsrv", "-dnsserver", names, "-management", listening, "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "", "-defaultIPv6", "")
	a := &authority{directory: "https://" + api + "/dir", management: "https://" + management, client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}, Timeout: patience}}
	a.cmd = run(t, api, "./tools/pebble", "-config", filepath.Join(dir, "pebble.json"), "-dnsserver", names)
	return a
}

func port(t *testing.T, addr string) (n int) {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Sscan(p, &n) //nolint:errcheck // a port is a number
	return n
}

// roots are who vouches for what the authority signs.
func (a *authority) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	resp, err := a.client.Get(a.management + "/roots/0")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		t.Fatalf("the authority's root is %q, %v", text, err)
	}
	return pool
}

// shown returns the certificate that the edge shows to who asks for a name and trusts roots, be it too old.
func shown(addr, name string, roots *x509.CertPool) (*x509.Certificate, error) {
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: name, VerifyConnection: func(s tls.ConnectionState) error {
		all := x509.VerifyOptions{Roots: roots, DNSName: name, Intermediates: x509.NewCertPool(), CurrentTime: s.PeerCertificates[0].NotBefore}
		for _, c := range s.PeerCertificates[1:] {
			all.Intermediates.AddCert(c)
		}
		_, err := s.PeerCertificates[0].Verify(all)
		return err
	}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

// TestCertificatesAreGotRenewedAndKept has pebble give the edge a certificate and refuse another, lets the first grow old,
// and goes away.
func TestCertificatesAreGotRenewedAndKept(t *testing.T) {
	offset := freeOffset(t)
	plain, secure := fmt.Sprintf("127.0.0.1:%d", 7000+offset), fmt.Sprintf("127.0.0.1:%d", 7443+offset)
	a := newAuthority(t, plain, secure)
	data := t.TempDir()
	said := new(lockedBuffer)
	var edge *exec.Cmd
	start := func() {
		t.Helper()
		edge = exec.Command(built(t), "up", "--data", filepath.Join(data, "state"), "--port-offset", fmt.Sprint(offset), "--edge-tls-port", "7443", "--edge-acme", "shop.test,refused.test", "--edge-acme-directory", a.directory)
		edge.Stdout, edge.Stderr, edge.Dir = said, said, data
		begin(t, edge)
	}
	end := func() {
		edge.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		edge.Wait()                          //nolint:errcheck // what it said tells more
	}
	start()
	t.Cleanup(func() {
		end()
		if t.Failed() {
			t.Logf("roadbed said:\n%s", said)
		}
	})
	roots := a.roots(t)
	var first *x509.Certificate
	got := func() []string {
		c, err := shown(secure, "shop.test", roots)
		if err != nil {
			return []string{err.Error()}
		}
		first = c
		return c.DNSNames
	}
	eventually(t, "the edge has a certificate", got, "shop.test")
	if now := time.Now(); now.Before(first.NotBefore) || now.After(first.NotAfter) {
		t.Errorf("at %v the edge shows a certificate of %v to %v", now, first.NotBefore, first.NotAfter)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "shop.test"}}}
	resp, err := client.Get("https://" + secure + "/healthcheck")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("by TLS /healthcheck is answered %s, want 200", resp.Status)
	}

	// What the authority refuses is told, and hinders nobody else.
	eventually(t, "the edge says what it did not get", func() []string {
		return []string{fmt.Sprint(strings.Contains(said.String(), "no certificate could be got") && strings.Contains(said.String(), "refused.test"))}
	}, "true")
	if c, err := shown(secure, "refused.test", roots); err == nil {
		t.Errorf("for refused.test the edge shows a certificate of %q that the authority vouches for", c.DNSNames)
	}

	// An edge that comes back when two thirds of a certificate's time are over gets a new one.
	time.Sleep(time.Until(first.NotBefore.Add(certLasts * 3 / 4)))
	end()
	old := first
	start()
	eventually(t, "the edge has a new certificate", func() []string {
		names := got()
		return append(names, fmt.Sprint(bytes.Equal(first.Raw, old.Raw)))
	}, "shop.test", "false")

	// While the authority is away it goes on with what it has.
	syscall.Kill(-a.cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it is there
	end()
	start()
	eventually(t, "the edge has the certificate that it had", func() []string {
		was := first
		return append(got(), fmt.Sprint(bytes.Equal(first.Raw, was.Raw)))
	}, "shop.test", "true")
}
