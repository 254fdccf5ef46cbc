package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/registry"
)

// certificate writes one of this machine, signed by itself, and its key.
func certificate(t *testing.T, dir, name string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, cert, public)
	write(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(public)
	return cert, key, pool
}

func write(t *testing.T, file string, b []byte) {
	t.Helper()
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRegistriesWithTLSAndAPasswordReplicateAndRefuseOthers has two registries that ask everybody for a password and
// speak TLS to each other, clients of theirs with discovery, and strangers.
func TestRegistriesWithTLSAndAPasswordReplicateAndRefuseOthers(t *testing.T) {
	const password, wrong = "0123456789abcdef", "fedcba9876543210"
	dir := t.TempDir()
	cert, key, pool := certificate(t, dir, "ours")
	tokenFile := filepath.Join(dir, "token")
	write(t, tokenFile, []byte(password+"\n"))
	offsets := []int{freeOffset(t), freeOffset(t), freeOffset(t)}
	url := func(node int, password string) string {
		return fmt.Sprintf("https://any:%s@localhost:%d/eureka/", password, 8761+offsets[node])
	}
	start := func(node int, args ...string) *testPlatform {
		t.Helper()
		p, err := startPlatform(filepath.Join(dir, fmt.Sprint(node)), offsets[node], append([]string{"serve", "--roles", "engine,registry"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.stop(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	status := func(p *testPlatform) (s registry.Status) {
		if err := p.get(t.Context(), "/api/v1/registry/status", &s); err != nil {
			t.Logf("status: %v", err)
		}
		return s
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("after a minute: %s", what)
			}
		}
	}

	t.Setenv("SSL_CERT_FILE", cert) // whom the processes trust
	var nodes []*testPlatform
	for i := range 2 {
		p := start(i, "--tls-cert", cert, "--tls-key", key, "--token-file", tokenFile, "--require-token",
			"--eureka-url", url(i, password), "--eureka-peers", url(0, password)+","+url(1, password))
		p.client.Token = password
		nodes = append(nodes, p)
	}
	until("two nodes have no connection to each other", func() bool {
		for _, p := range nodes {
			s := status(p)
			if len(s.Peers) != 1 || !s.Peers[0].Reachable || !s.Peers[0].Native {
				return false
			}
		}
		return true
	})
	for i, p := range nodes {
		if strings.Contains(p.out.String(), "Eureka's way") || strings.Contains(p.out.String(), password) {
			t.Errorf("node %d speaks to its peer in Eureka's way, or says the password:\n%s", i, p.out)
		}
	}

	// Clients of the two, by HTTP/2 and HTTP/1.1.
	var clients []*discovery.Client
	for i := range 2 {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: i == 0}
		c := discovery.New(discovery.Config{Registry: []string{url(i, password)}, HTTP: &http.Client{Transport: tr}})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			tr.CloseIdleConnections()
		})
		clients = append(clients, c)
	}
	clients[0].Register(roadbed.Instance{ID: "web-1", App: "web", Host: "127.0.0.1", Port: 80, Status: roadbed.Up})
	for i, c := range clients {
		until(fmt.Sprintf("the client of node %d does not know what was registered at node 0", i), func() bool { return len(c.Instances("web")) == 1 })
	}

	// Strangers: without a password, with a wrong one, in clear.
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer hc.CloseIdleConnections()
	for _, scheme := range []string{"http", "https"} {
		for _, given := range []string{"", wrong} {
			for _, ask := range []string{"GET apps/", "GET native/hello", "GET native/stream", "POST peerreplication/batch/", "POST native/heard", "POST apps/WEB", "DELETE apps/WEB/web-1"} {
				method, path, _ := strings.Cut(ask, " ")
				req, err := http.NewRequest(method, fmt.Sprintf("%s://localhost:%d/eureka/%s", scheme, 8761+offsets[0], path), nil)
				if err != nil {
					t.Fatal(err)
				}
				if path == "native/stream" {
					req.Header.Set("Connection", "Upgrade")
					req.Header.Set("Upgrade", "roadbed-p2")
				}
				if given != "" {
					req.SetBasicAuth("any", given)
				}
				resp, err := hc.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusUnauthorized || len(body) > 0 || err != nil {
					t.Errorf("%s %s with password %q by %s: got %d with %d bytes, %v; want 401 without a body", method, path, given, scheme, resp.StatusCode, len(body), err)
				}
			}
		}
	}
	stranger := discovery.New(discovery.Config{Registry: []string{url(0, wrong)}, HTTP: hc, Log: slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil))})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := stranger.Remove(ctx, "web", "web-1"); err == nil || strings.Contains(err.Error(), wrong) {
		t.Errorf("an operation with a wrong password: got %v, want an error that does not say the password", err)
	}

	// A third node that has the wrong password, and trusts nobody.
	other, _, _ := certificate(t, dir, "other")
	t.Setenv("SSL_CERT_FILE", other)
	third := start(2, "--eureka-url", fmt.Sprintf("http://localhost:%d/eureka/", 8761+offsets[2]), "--eureka-peers", url(0, wrong))
	until("the third node does not say why it does not reach its peer: "+third.out.String(), func() bool { return strings.Contains(third.out.String(), "certificate") })
	t.Setenv("SSL_CERT_FILE", cert)
	third.crash()
	third = start(2, "--eureka-url", fmt.Sprintf("http://localhost:%d/eureka/", 8761+offsets[2]), "--eureka-peers", url(0, wrong))
	until("the third node does not say why it does not reach its peer", func() bool { return strings.Contains(third.out.String(), "401") })
	if s := status(third); len(s.Peers) != 1 || s.Peers[0].Reachable || strings.Contains(third.out.String(), wrong) {
		t.Errorf("the third node: got peers %+v and\n%s\nwant one that it does not reach, and no password", s.Peers, third.out)
	}
	if s := status(nodes[0]); s.Instances != 3 {
		t.Errorf("node 0 knows %d instances, want the two nodes and web-1", s.Instances)
	}
}
