package interop

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/engine"
)

// place is a platform that is a region.
type place struct {
	*road
	name string
}

// newPlace starts a region whose edge shows the certificates in certs/NAME to whom asks it and to other regions', and believes those that
// certs/ca.pem vouches for, as docs/regions.md says.
func newPlace(t *testing.T, name, data, certs string) *place {
	t.Helper()
	p := &place{newRoad(t, "--region", name, "--data", data, "--edge-tls-port", "7443", "--edge-certs", filepath.Join(certs, name), "--edge-client-ca", filepath.Join(certs, "ca.pem"), "--edge-client-optional"), name}
	p.cli("config", "set", "edge.regions.key", "a key of both, thirty-two letters", "--sensitive")
	p.cli("config", "set", "edge.regions.tls.certs", filepath.Join(certs, name))
	p.cli("config", "set", "edge.regions.tls.ca", filepath.Join(certs, "ca.pem"))
	p.set("json", "edge.routes", fmt.Sprintf(`[{"id":"where","match":{"path":{"exact":"/where"}},"filters":[{"answer":{"status":200,"body":%q}}]}]`, name))
	return p
}

func identityOf(region string) string { return "spiffe://example.com/edge/" + region }

// cli runs a command of roadbed against the region and returns what it printed.
func (p *place) cli(args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, p.binary, append(args, "--api", p.at(7070))...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("in %s: roadbed %s: %v\n%s", p.name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// get reads what the region's API answers.
func (p *place) get(path string, to any) {
	p.t.Helper()
	resp, err := http.Get(p.at(7070) + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(to); err != nil || resp.StatusCode != http.StatusOK {
		p.t.Fatalf("in %s: %s answers %s, %v", p.name, path, resp.Status, err)
	}
}

// makeCerts writes the certificates of edges of regions, and of who vouches for them, and returns their directory.
func makeCerts(t *testing.T, regions ...string) string {
	t.Helper()
	dir := t.TempDir()
	write := func(file, kind string, der []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var ca *x509.Certificate
	var caKey *ecdsa.PrivateKey
	make := func(c *x509.Certificate, file string) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
		by, byKey := ca, caKey
		if by == nil {
			by, byKey = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, key.Public(), byKey)
		if err != nil {
			t.Fatal(err)
		}
		if ca == nil {
			if ca, err = x509.ParseCertificate(der); err != nil {
				t.Fatal(err)
			}
			caKey = key
			write(file+".pem", "CERTIFICATE", der)
			return
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(file+".crt", "CERTIFICATE", der)
		write(file+".key", "PRIVATE KEY", secret)
	}
	make(&x509.Certificate{Subject: pkix.Name{CommonName: "edges"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, "ca")
	for _, region := range regions {
		if err := os.Mkdir(filepath.Join(dir, region), 0o700); err != nil {
			t.Fatal(err)
		}
		id, err := url.Parse(identityOf(region))
		if err != nil {
			t.Fatal(err)
		}
		make(&x509.Certificate{Subject: pkix.Name{CommonName: "edge"}, URIs: []*url.URL{id}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, filepath.Join(region, "edge"))
	}
	return dir
}

// lastWeek has the region that will have its state in data know that a week ago it gave so many good answers a second, for the hours
// around now, as it would if it had run then.
func lastWeek(t *testing.T, data, region string, rate float64) {
	t.Helper()
	e, err := engine.Open(t.Context(), engine.Config{Dir: filepath.Join(data, "engine"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	past, err := engine.OpenTable[[60]float64](t.Context(), e, "regions-past", 1)
	if err != nil {
		t.Fatal(err)
	}
	var minutes [60]float64
	for i := range minutes {
		minutes[i] = rate
	}
	hour := time.Now().Unix()/3600 - 7*24
	for at := hour - 1; at <= hour+1; at++ {
		if _, err := past.Put(t.Context(), fmt.Sprintf("%s.%d", region, at), minutes); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// audience is users who ask one edge where they are served, again and again.
type audience struct {
	t     *testing.T
	at    string
	pause atomic.Int64 // of each worker after each answer, ns

	mu     sync.Mutex
	failed []string
	heard  []served
}

// served is one answer that a user had.
type served struct {
	user, where string
	asked, had  time.Time
}

const (
	usersOfEast = 40
	workers     = 10
)

// ask has the users ask until the returned function is called.
func (c *audience) ask() (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	hc := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for n := i; ; n += 3 { // so that each worker asks for each user
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Duration(c.pause.Load())):
					c.once(hc, fmt.Sprintf("user-%d", n%usersOfEast))
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		hc.CloseIdleConnections()
	}
}

func (c *audience) once(hc *http.Client, user string) {
	a := served{user: user, asked: time.Now()}
	req, err := http.NewRequest(http.MethodGet, c.at+"/where", nil)
	if err != nil {
		panic(err) // it is one
	}
	req.Header.Set("X-Member", user)
	resp, err := hc.Do(req)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, body)
		}
	}
	a.where, a.had = string(body), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.failed = append(c.failed, err.Error())
		return
	}
	c.heard = append(c.heard, a)
}

// all waits until each user was served there, asked from now on.
func (c *audience) all(where string) {
	c.t.Helper()
	since := time.Now()
	eventually(c.t, "all users are served in "+where, func() []string {
		c.mu.Lock()
		defer c.mu.Unlock()
		last := map[string]string{}
		for _, a := range c.heard {
			if a.asked.After(since) {
				last[a.user] = a.where
			}
		}
		n := 0
		for _, w := range last {
			if w == where {
				n++
			}
		}
		return []string{fmt.Sprint(n)}
	}, fmt.Sprint(usersOfEast))
}

// TestTwoRegionsOverTLS has two platforms, each a region, whose edges know each other by certificates. The traffic of east falls far
// below what a week ago lets expect, which is proposed; somebody approves it, and all users move to west while they ask, bit by bit, each
// once, and back.
func TestTwoRegionsOverTLS(t *testing.T) {
	certs := makeCerts(t, "east", "west")
	data := t.TempDir()
	lastWeek(t, data, "east", 150)
	east, west := newPlace(t, "east", data, certs), newPlace(t, "west", t.TempDir(), certs)
	for _, p := range []*place{east, west} {
		for _, to := range []*place{east, west} {
			p.cli("region", "put", to.name, "--edges", strings.Replace(to.at(7443), "http:", "https:", 1), "--identity", identityOf(to.name))
		}
	}
	east.cli("config", "set", "edge.regions.judge.for", "10s")
	east.cli("config", "set", "edge.regions.judge.settle", "0s")

	c := &audience{t: t, at: east.at(7000)}
	c.pause.Store(int64(20 * time.Millisecond)) // some 400 a second
	defer c.ask()()
	c.all("east")
	var watch struct {
		Regions []struct {
			Region         string
			Good, Expected *float64
			Baseline       string
		}
	}
	eventually(t, "east is judged by what it did a week ago", func() []string {
		east.get("/api/v1/regions", &watch)
		for _, r := range watch.Regions {
			if r.Region == "east" && r.Good != nil && *r.Good > 0 && r.Expected != nil {
				return []string{fmt.Sprint(*r.Expected), r.Baseline}
			}
		}
		return nil
	}, "150", "the same time last week")

	c.pause.Store(int64(time.Second)) // ten a second
	var region struct {
		Document struct {
			State string
			Since time.Time
		}
		Moved    float64
		Proposal *struct {
			State    string
			Expected float64
			Baseline string
			To       map[string]int
		}
	}
	eventually(t, "that it falls is proposed to be a reason", func() []string {
		if east.get("/api/v1/edge/regions/east", &region); region.Proposal == nil {
			return nil
		}
		return []string{region.Proposal.State, fmt.Sprint(region.Proposal.To["west"]), region.Document.State}
	}, "OPEN", "100", "SERVING")
	if said := east.cli("region", "show", "east"); !strings.Contains(said, "for 10 seconds good answers were at ") || !strings.Contains(said, "roadbed region approve east") {
		t.Errorf("region show east does not say why, and how it is approved:\n%s", said)
	}

	if said := east.cli("region", "approve", "east", "--ramp", "10s"); !strings.Contains(said, "approved: east is DRAINING, its users go to west 100 %, all of them within 10s") {
		t.Errorf("region approve says %q", said)
	}
	c.pause.Store(int64(20 * time.Millisecond)) // not before, or east could be well again by then
	eventually(t, "the edge has begun to move them", func() []string {
		east.get("/api/v1/edge/regions/east", &region)
		return []string{fmt.Sprint(region.Moved > 0)}
	}, "true")
	began := region.Document.Since
	late := time.Since(began) > 6*time.Second
	c.all("west")
	eventually(t, "all of them are said to be", func() []string {
		east.get("/api/v1/edge/regions/east", &region)
		return []string{fmt.Sprint(region.Moved)}
	}, "100")
	var visited struct {
		Visitors struct{ Taken, Forged int64 }
		Kept     int64
	}
	if west.get("/api/v1/edge/regions", &visited); visited.Visitors.Taken == 0 || visited.Visitors.Forged != 0 {
		t.Errorf("west has seen %+v; want visitors, all of whom it believes by their certificate", visited.Visitors)
	}
	east.get("/api/v1/edge/regions", &visited)
	c.mu.Lock()
	away, failed := c.heard, c.failed
	c.mu.Unlock()
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first with: %s", len(failed), len(failed)+len(away), failed[0])
	}
	left := map[string]served{} // the first that each user had from west
	early, moved := map[string]bool{}, 0
	for _, a := range away {
		if first, ok := left[a.user]; a.where == "west" && (!ok || a.had.Before(first.had)) {
			left[a.user] = a
		}
		if a.asked.Sub(began) > 6*time.Second && a.had.Sub(began) < 9*time.Second && !early[a.user] {
			if early[a.user] = true; a.where == "west" {
				moved++
			}
		}
	}
	for _, a := range away {
		if first, ok := left[a.user]; a.where == "east" && ok && a.asked.After(first.had) && visited.Kept == 0 {
			t.Errorf("%s was served in west, and %v later in east", a.user, a.asked.Sub(first.had))
		}
	}
	if !late && len(early) == usersOfEast && (moved == 0 || moved == usersOfEast) {
		t.Errorf("between six and nine of the ramp's ten seconds %d of %d users were in west, want some", moved, usersOfEast)
	}
	t.Logf("%d requests; between six and nine of the ramp's ten seconds %d of %d users were in west; %d that were to go stayed", len(away), moved, len(early), visited.Kept)

	if said := east.cli("region", "restore", "east", "--ramp", "0"); !strings.Contains(said, "all come back at once") {
		t.Errorf("region restore says %q", said)
	}
	c.all("east")
	eventually(t, "the change log tells of the proposal", func() []string {
		said := east.cli("changes", "--resource", "region:east")
		return []string{fmt.Sprint(strings.Contains(said, "region.proposed")), fmt.Sprint(strings.Contains(said, "region.withdrawn"))}
	}, "true", "true")
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first with: %s", len(c.failed), len(c.failed)+len(c.heard), c.failed[0])
	}
}
