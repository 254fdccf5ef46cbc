package origin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// voucher signs certificates.
type voucher struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	made int64
}

func newVoucher(t *testing.T) *voucher {
	v := &voucher{t: t, dir: t.TempDir()}
	v.cert, v.key = v.sign("ca", &x509.Certificate{IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, Subject: pkix.Name{CommonName: "those who vouch"}})
	return v
}

// sign makes a certificate, and NAME.pem with it and its key.
func (v *voucher) sign(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	v.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		v.t.Fatal(err)
	}
	v.made++
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(v.made), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if v.cert != nil {
		parent, signer = v.cert, v.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		v.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		v.t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(v.file(name), text, 0o600); err != nil {
		v.t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		v.t.Fatal(err)
	}
	return out, key
}

func (v *voucher) file(name string) string { return filepath.Join(v.dir, name+".pem") }

// serve starts an instance of the app that shows that certificate, wants one, and tells whose it got.
func (v *voucher) serve(name string) string {
	v.t.Helper()
	c, err := tls.LoadX509KeyPair(v.file(name), v.file(name))
	if err != nil {
		v.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(v.cert)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "%s, by HTTP/%d", q.TLS.PeerCertificates[0].Subject.CommonName, q.ProtoMajor)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{c}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	s.EnableHTTP2 = true
	s.StartTLS()
	v.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func spiffe(ids ...string) (out []*url.URL) {
	for _, id := range ids {
		u, err := url.Parse(id)
		if err != nil {
			panic(err)
		}
		out = append(out, u)
	}
	return out
}

func TestAnOriginIsKnownByItsCertificateAndKnowsTheEdgeByIts(t *testing.T) {
	v := newVoucher(t)
	v.sign("edge", &x509.Certificate{Subject: pkix.Name{CommonName: "the edge"}})
	app, _ := v.sign("app", &x509.Certificate{URIs: spiffe("spiffe://prod/ns/shop/app"), DNSNames: []string{"app.internal"}})
	host, _ := v.sign("host", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	v.sign("two", &x509.Certificate{URIs: spiffe("spiffe://prod/ns/shop/app", "spiffe://prod/ns/shop/other")})
	stranger := newVoucher(t)
	stranger.sign("app", &x509.Certificate{URIs: spiffe("spiffe://prod/ns/shop/app")})
	if text, err := os.ReadFile(stranger.file("app")); err != nil || os.WriteFile(v.file("stranger"), text, 0o600) != nil {
		t.Fatal(err)
	}
	both := fmt.Sprintf(`"ca": %q, "cert": %q`, v.file("ca"), v.file("edge"))
	revoked := func(serial int64) string {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: time.Now()}}}, v.cert, v.key)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "ca.crl")
		if err := os.WriteFile(file, der, 0o600); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`%s, "crl": %q`, both, file)
	}
	for _, c := range []struct {
		name, shows, document string
		want                  int
	}{
		{"its SPIFFE id", "app", both + `, "ids": ["spiffe://prod/ns/shop/{app}"]`, 200},
		{"an id of many", "app", both + `, "ids": ["spiffe://test/*", "spiffe://prod/*"]`, 200},
		{"another app's id", "app", both + `, "ids": ["spiffe://prod/ns/shop/other"]`, 502},
		{"two ids in one certificate", "two", both + `, "ids": ["spiffe://prod/*"]`, 502},
		{"the right id, of somebody whom nobody vouches for", "stranger", both + `, "ids": ["spiffe://prod/*"]`, 502},
		{"the host", "host", both, 200},
		{"another host", "app", both, 502},
		{"a name", "app", both + `, "name": "app.internal"`, 200},
		{"another name", "app", both + `, "name": "other.internal"`, 502},
		{"its SPIFFE id, and another was revoked", "app", revoked(1000) + `, "ids": ["spiffe://prod/*"]`, 200},
		{"its SPIFFE id, and it was revoked", "app", revoked(app.SerialNumber.Int64()) + `, "ids": ["spiffe://prod/*"]`, 502},
		{"the host, and another was revoked", "host", revoked(1000), 200},
		{"the host, and it was revoked", "host", revoked(host.SerialNumber.Int64()), 502},
		{"nobody vouches for it", "app", fmt.Sprintf(`"cert": %q, "ids": ["spiffe://prod/*"]`, v.file("edge")), 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := instance("app", v.serve(c.shows))
			i.Secure = true
			r := newRigOf(t, map[string]string{"edge.origin.default.tls": "{" + c.document + "}"}, byApp{"app": {i}})
			for protocol, want := range map[string]string{"": "the edge, by HTTP/1", "h2": "the edge, by HTTP/2"} {
				r.route(&filter.Plan{Protocol: protocol})
				code, body, _ := r.ask("GET", "/", "")
				if code != c.want || code == 200 && body != want {
					t.Errorf("protocol %q: got %d %q, want %d %q: %v", protocol, code, body, c.want, want, r.last().err)
				}
			}
		})
	}
}

func TestChangedCertificatesForOriginsAreTakenOrTheOldOnesStay(t *testing.T) {
	v := newVoucher(t)
	v.sign("edge", &x509.Certificate{Subject: pkix.Name{CommonName: "the edge"}})
	s, err := newTrust("app", fmt.Sprintf(`{"ca": %q, "cert": %q}`, v.file("ca"), v.file("edge")), silent)
	if err != nil {
		t.Fatal(err)
	}
	base := new(http.Transport)
	later := func() *http.Transport {
		s.mu.Lock()
		s.looked = time.Now().Add(-lookEvery)
		s.mu.Unlock()
		return s.like(base)
	}
	first := s.like(base)
	if later() != first {
		t.Error("nothing has changed, and connections are not used again")
	}
	if err := os.WriteFile(v.file("edge"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if later() != first {
		t.Error("a file that is no certificate has taken the place of one")
	}
	v.sign("edge", &x509.Certificate{Subject: pkix.Name{CommonName: "the edge, anew"}})
	if now := later(); now == first || now.TLSClientConfig.Certificates[0].Leaf.Subject.CommonName != "the edge, anew" {
		t.Error("the new certificate is not shown")
	}
}

func TestTLSOfAnOriginThatCannotBeMeantIsRefusedWithASentence(t *testing.T) {
	v := newVoucher(t)
	for text, want := range map[string]string{
		`nonsense`:                             "such as",
		`{"roots": "x"}`:                       "such as",
		`{} {}`:                                "follows",
		`{"ca": "/nowhere.pem"}`:               "/nowhere.pem",
		`{"key": "/nowhere.pem"}`:              "cert",
		`{"ids": ["app.internal"]}`:            "SPIFFE",
		`{"ids": ["spiffe://a"], "name": "b"}`: "keep one",
		fmt.Sprintf(`{"cert": %q, "key": %q}`, v.file("ca"), filepath.Join(v.dir, "none")): "none",
	} {
		if _, err := newTrust("app", text, silent); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error that says %q", text, err, want)
		}
	}
}
