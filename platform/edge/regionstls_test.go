package edge

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/region"
)

// authority issues certificates for tests.
type authority struct {
	t    testing.TB
	file string // its own, in PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	a.key = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := must(x509.CreateCertificate(rand.Reader, c, c, a.key.Public(), a.key))
	a.cert = must(x509.ParseCertificate(der))
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// issue has the directory's one certificate be for a SPIFFE id and 127.0.0.1, until a time.
func (a *authority) issue(dir, id string, until time.Time) {
	a.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "an edge"}, NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{must(url.Parse(id))}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der := must(x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key))
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})...)
	file := filepath.Join(dir, "edge.pem")
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		a.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		a.t.Fatal(err)
	}
}

const (
	idOfEast = "spiffe://example.com/edge/east"
	idOfWest = "spiffe://example.com/edge/west"
)

// secured is east and west, of which west's edge is reached over TLS and asks for certificates, and east is evacuated.
type secured struct {
	*world
	ca       *authority
	east     *house
	eastDir  string // of the certificate that east shows
	westDir  string
	override map[string]string
}

func newSecured(t *testing.T, override map[string]string) *secured {
	t.Helper()
	s := &secured{ca: newAuthority(t, "a company"), eastDir: t.TempDir(), westDir: t.TempDir(), override: unhurried(nil)}
	s.ca.issue(s.eastDir, idOfEast, time.Now().Add(time.Hour))
	s.ca.issue(s.westDir, idOfWest, time.Now().Add(time.Hour))
	s.override["edge.regions.tls.certs"], s.override["edge.regions.tls.ca"] = s.eastDir, s.ca.file
	for k, v := range override {
		s.override[k] = v
	}
	s.world = newWorld(t, s.override, "east", "west")
	s.east = s.regions["east"]
	west := openTLS(t, s.regions["west"].Gateway, TLSConfig{Dir: s.westDir, ClientCA: s.ca.file, ClientOptional: true})
	s.docs["west"] = region.RegionDocument{State: region.Serving, Edges: []string{"https://" + west}, Identity: idOfWest}
	d := evacuated(map[string]int{"west": 100}, "https://127.0.0.1:1")
	d.Identity = idOfEast
	s.docs["east"] = d
	s.set()
	return s
}

// openTLS has a door of g serve over TLS, until the test ends, and returns its address.
func openTLS(t *testing.T, g *Gateway, c TLSConfig) string {
	t.Helper()
	d, err := g.Door(DoorConfig{Name: "https", TLS: &c})
	if err != nil {
		t.Fatal(err)
	}
	g.begun.Do(func() { close(g.ready) }) // as Run does
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// why is why the tunnel to west failed last.
func (s *secured) why() string { return s.east.regions.View().Regions[1].Tunnel.LastFailure }

func TestEdgesOfRegionsKnowEachOtherByCertificates(t *testing.T) {
	s := newSecured(t, nil)
	for range 3 {
		resp, body := s.east.get(t, "/hello/a?b=c", "X-Member", "ana", "X-Forwarded-Client-Cert", "Hash=1")
		if resp.StatusCode != 200 || resp.Header.Get("X-Served-In") != "west" {
			t.Fatalf("got %d %q, served in %q; want 200 in west; the tunnel says %q", resp.StatusCode, body, resp.Header.Get("X-Served-In"), s.why())
		}
		e := echoed(t, body)
		if got := e.Header.Values("Via"); e.URI != "/a?b=c" || strings.Join(got, ",") != "1.1 roadbed-edge,2.0 roadbed-edge" {
			t.Errorf("west's app was asked for %s, Via %q; want /a?b=c, over HTTP/2 between the edges", e.URI, got)
		}
		if got := e.Header.Get("X-Forwarded-Client-Cert"); got != "" {
			t.Errorf("west's app sees a client certificate %q: that of the edge, which is not the client's", got)
		}
	}
	v := s.regions["west"].regions.View()
	if v.Visitors.Taken != 3 || v.Visitors.Forged != 0 {
		t.Errorf("west took %d visitors and found %d forged, want 3 and none", v.Visitors.Taken, v.Visitors.Forged)
	}

	c, err := net.Dial("tcp", s.east.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second)) //nolint:errcheck // it can be set
	fmt.Fprintf(c, "GET /hello/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	r := bufio.NewReader(c)
	up, err := http.ReadResponse(r, nil)
	if err != nil || up.StatusCode != 101 || up.Header.Get("X-Served-In") != "west" {
		t.Fatalf("upgrade: got %v %v, want 101 of west; the tunnel says %q", up, err, s.why())
	}
	fmt.Fprint(c, "hello\n")
	if line, err := r.ReadString('\n'); line != "hello\n" {
		t.Errorf("through the tunnel: got %q %v, want hello back", line, err)
	}
}

func TestACertificateThatIsNotAsItMustBeIsToldAndNobodyIsLost(t *testing.T) {
	other := newAuthority(t, "another company")
	for what, tt := range map[string]struct {
		spoil func(s *secured)
		want  string
	}{
		"nobody vouches for west's": {func(s *secured) { other.issue(s.westDir, idOfWest, time.Now().Add(time.Hour)) },
			"was issued by CN=another company, and nobody who is believed here vouches for it"},
		"west's has ended": {func(s *secured) { s.ca.issue(s.westDir, idOfWest, time.Now().Add(-time.Minute)) }, "ended on "},
		"west's is for somebody else": {func(s *secured) { s.ca.issue(s.westDir, idOfEast, time.Now().Add(time.Hour)) },
			"its certificate is for " + idOfEast + ", and not for " + idOfWest},
		"west's is for another host": {func(s *secured) {
			d := s.docs["west"]
			d.Identity, d.Edges[0] = "", strings.Replace(d.Edges[0], "127.0.0.1", "localhost", 1)
			s.docs["west"] = d
		}, "127.0.0.1, and not for localhost"},
		"east's has ended":           {func(s *secured) { s.ca.issue(s.eastDir, idOfEast, time.Now().Add(-time.Minute)) }, "none of the certificates that this edge has will do"},
		"nobody vouches for east's":  {func(s *secured) { other.issue(s.eastDir, idOfEast, time.Now().Add(time.Hour)) }, "none of the certificates that this edge has will do"},
		"east's files are not there": {func(s *secured) { s.override["edge.regions.tls.certs"] = filepath.Join(s.eastDir, "none") }, "cannot be used"},
	} {
		t.Run(what, func(t *testing.T) {
			s := newSecured(t, nil)
			tt.spoil(s)
			// Both read their files when they begin.
			s.regions["west"] = newHouseIn(t, "west", config.New(config.Options{Override: s.override}), map[string]http.Handler{"hello": inRegion("west")})
			west := openTLS(t, s.regions["west"].Gateway, TLSConfig{Dir: s.westDir, ClientCA: s.ca.file, ClientOptional: true})
			d := s.docs["west"]
			host, _, _ := net.SplitHostPort(strings.TrimPrefix(d.Edges[0], "https://"))
			_, port, _ := net.SplitHostPort(west)
			d.Edges = []string{"https://" + net.JoinHostPort(host, port)}
			s.docs["west"] = d
			s.east = newHouseIn(t, "east", config.New(config.Options{Override: s.override}), map[string]http.Handler{"hello": inRegion("east")})
			s.regions["east"] = s.east
			s.set()
			resp, body := s.east.get(t, "/hello/a")
			if resp.StatusCode != 200 || resp.Header.Get("X-Served-In") != "east" {
				t.Errorf("got %d %q, served in %q; want 200 in east", resp.StatusCode, body, resp.Header.Get("X-Served-In"))
			}
			if got := s.why(); !strings.Contains(got, tt.want) || !strings.Contains(got, west[strings.LastIndex(west, ":"):]) {
				t.Errorf("the tunnel says %q; want it to name the edge, and %q", got, tt.want)
			}
		})
	}
}

func TestAHopWithoutItsRegionsCertificateIsNotBelieved(t *testing.T) {
	s := newSecured(t, map[string]string{"edge.regions.tls.certs": ""})
	for range 2 {
		if resp, _ := s.east.get(t, "/hello/a", "X-Forwarded-For", "203.0.113.9"); resp.StatusCode != 200 {
			t.Errorf("got %d, want 200: who is not believed is served as anybody is", resp.StatusCode)
		}
	}
	if v := s.regions["west"].regions.View(); v.Visitors.Taken != 0 || v.Visitors.Forged != 2 {
		t.Errorf("west took %d visitors and found %d forged, want none and 2: east shows no certificate", v.Visitors.Taken, v.Visitors.Forged)
	}
}
