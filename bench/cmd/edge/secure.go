//go:build linux

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// secure compares with nginx what TLS and HTTP/2 add at the front; behind it is HTTP/1.1.
func (b *bench) secure() error {
	ours, at, stop, err := b.crowded()
	if err != nil {
		return err
	}
	defer stop()
	theirs, err := b.startPeer("nginx", at)
	if err != nil {
		return err
	}
	defer theirs.Stop()
	all := []*proxy{&ours.proxy, theirs}
	for _, p := range all {
		if _, err := h2load(p.secure, 64, 10, warmOthers); err != nil {
			return err
		}
	}
	h2, err := b.turns(all, func(p *proxy) (report, error) { return h2load(p.secure, 64, 10, b.phase) })
	if err != nil {
		return err
	}
	b.table.compare("CPU time of a request, µs, TLS and HTTP/2, 64 connections of 10 streams", h2.micros, map[string]float64{"nginx": 1.3})
	b.table.tell("requests a second, TLS and HTTP/2, 64 connections of 10 streams", h2.rate)
	h1, err := b.turns(all, func(p *proxy) (report, error) { return wrk(p.secure, 64, b.phase) })
	if err != nil {
		return err
	}
	b.table.compare("CPU time of a request, µs, TLS and HTTP/1.1, 64 connections", h1.micros, nil)
	b.table.compare("p99, ms, TLS and HTTP/1.1, 64 connections", h1.p99, nil)
	b.table.tell("requests a second, TLS and HTTP/1.1, 64 connections", h1.rate)
	return nil
}

// certify puts a certificate for this machine, and its key, into the directory certs of dir, as edge.crt and edge.key.
func certify(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	text := func(kind string, der []byte) []byte {
		var out bytes.Buffer
		err = errors.Join(err, pem.Encode(&out, &pem.Block{Type: kind, Bytes: der}))
		return out.Bytes()
	}
	public, secret := text("CERTIFICATE", der), text("PRIVATE KEY", private)
	certs := filepath.Join(dir, "certs")
	return errors.Join(err, os.MkdirAll(certs, 0o755), os.WriteFile(filepath.Join(certs, "edge.crt"), public, 0o644), os.WriteFile(filepath.Join(certs, "edge.key"), secret, 0o600))
}
