package vouch

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority signs certificates and lists. The zero value signs what signs itself.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// sign has a signed c, writes it with its key to file, and returns it.
func (a *authority) sign(t testing.TB, file string, c *x509.Certificate) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if c.SerialNumber == nil {
		if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100)); err != nil {
			t.Fatal(err)
		}
	}
	c.BasicConstraintsValid = true
	if c.IsCA {
		c.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	}
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{out, key}
}

// revokes returns a list in DER.
func (a *authority) revokes(t testing.TB, now time.Time, lasts time.Duration, extensions []pkix.Extension, serials ...int64) []byte {
	t.Helper()
	rl := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now, NextUpdate: now.Add(lasts), ExtraExtensions: extensions}
	for _, s := range serials {
		rl.RevokedCertificateEntries = append(rl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: now})
	}
	der, err := x509.CreateRevocationList(rand.Reader, rl, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func asPEM(der ...[]byte) []byte {
	var text []byte
	for _, d := range der {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: d})...)
	}
	return text
}

func write(t testing.TB, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWhoWasRevokedOrCannotBeCheckedIsRefused(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	named := func(name string) pkix.Name { return pkix.Name{CommonName: name} }
	root := new(authority).sign(t, at("root"), &x509.Certificate{Subject: named("root"), IsCA: true})
	between := root.sign(t, at("between"), &x509.Certificate{Subject: named("between"), IsCA: true, SerialNumber: big.NewInt(2)})
	leaf := between.sign(t, at("leaf"), &x509.Certificate{Subject: named("leaf"), SerialNumber: big.NewInt(3)})
	below := root.sign(t, at("below"), &x509.Certificate{Subject: named("below"), SerialNumber: big.NewInt(4)})
	namesake := new(authority).sign(t, at("namesake"), &x509.Certificate{Subject: named("root"), IsCA: true})
	now := time.Now()
	list := func(a *authority, age time.Duration, serials ...int64) []byte {
		return a.revokes(t, now.Add(-age), time.Hour, nil, serials...)
	}
	long := []*x509.Certificate{leaf.cert, between.cert, root.cert}
	short := []*x509.Certificate{below.cert, root.cert}
	for _, tt := range []struct {
		what  string
		chain []*x509.Certificate
		lists [][]byte
		want  string // empty: it is believed
	}{
		{"nobody was revoked", short, [][]byte{list(root, 0)}, ""},
		{"somebody else was", short, [][]byte{list(root, 0, 5, 6)}, ""},
		{"it was", short, [][]byte{list(root, 0, 5, 4)}, "for below, was revoked by CN=root on "},
		{"its issuer has none", short, [][]byte{list(between, 0)}, "no list of revoked certificates in "},
		{"it is one of somebody of the same name", short, [][]byte{list(namesake, 0)}, "no list of revoked certificates in "},
		{"so it is, and there is the right one", short, [][]byte{list(namesake, 0, 4), list(root, time.Minute)}, ""},
		{"a newer list has it no more", short, [][]byte{list(root, time.Minute, 4), list(root, 0)}, ""},
		{"an older list does not have it yet", short, [][]byte{list(root, 0, 4), list(root, time.Minute)}, "was revoked by"},
		{"the list has ended", short, [][]byte{list(root, 2*time.Hour)}, "ended on "},
		{"a chain", long, [][]byte{list(root, 0), list(between, 0)}, ""},
		{"a chain whose first was revoked", long, [][]byte{list(root, 0), list(between, 0, 3)}, "for leaf, was revoked by CN=between"},
		{"a chain whose second was revoked", long, [][]byte{list(root, 0, 2), list(between, 0)}, "for between, was revoked by CN=root"},
		{"a chain without the first's list", long, [][]byte{list(root, 0)}, "issued by CN=between, of whom there is no list"},
		{"a chain without the second's list", long, [][]byte{list(between, 0)}, "issued by CN=root, of whom there is no list"},
		{"one that is believed by itself", long[2:], [][]byte{list(between, 0)}, ""},
	} {
		file := filepath.Join(t.TempDir(), "lists.pem")
		write(t, file, asPEM(tt.lists...))
		v, err := ReadVouchers("", file, "clients")
		if err != nil {
			t.Fatalf("%s: %v", tt.what, err)
		}
		for range 2 { // the second time it is known who has signed
			err := v.Check(tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{tt.chain}})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want %q", tt.what, err, tt.want)
			}
		}
	}
	file := at("one.crl")
	write(t, file, list(root, 0, 4)) // in DER
	v, err := ReadVouchers("", file, "clients")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Check(tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{short, {below.cert}}}); err != nil {
		t.Errorf("one of two chains holds: got %v", err)
	}
	if err := v.Check(tls.ConnectionState{}); err != nil {
		t.Errorf("nobody has shown anything: got %v", err)
	}
}

func TestListsThatSayOtherThanTheySeemAreRefused(t *testing.T) {
	dir := t.TempDir()
	root := new(authority).sign(t, filepath.Join(dir, "root.key"), &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true})
	part := []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0x03, 0x81, 0x01, 0xff}}}
	good := root.revokes(t, time.Now(), time.Hour, nil)
	for what, tt := range map[string]struct {
		text []byte
		want string
	}{
		"nonsense":          {[]byte("nonsense"), "no list of revoked certificates"},
		"nothing":           {nil, "no list of revoked certificates"},
		"nonsense in PEM":   {asPEM([]byte("nonsense")), "no list of revoked certificates"},
		"a certificate":     {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}), "X509 CRL"},
		"a part of one":     {root.revokes(t, time.Now(), time.Hour, part), "2.5.29.28"},
		"one and a bad one": {asPEM(good, good[:len(good)-1]), "no list of revoked certificates"},
		"one that is cut":   {good[:len(good)-1], "no list of revoked certificates"},
	} {
		file := filepath.Join(dir, "x.crl")
		write(t, file, tt.text)
		if _, err := ReadVouchers("", file, "clients"); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: got %v, want that %s: %s", what, err, file, tt.want)
		}
	}
	empty := t.TempDir()
	if _, err := ReadVouchers("", empty, "clients"); err == nil || !strings.Contains(err.Error(), "there are no lists of revoked certificates in "+empty) {
		t.Errorf("an empty directory: got %v", err)
	}
	if _, err := ReadVouchers("", filepath.Join(empty, "none"), "clients"); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("no file: got %v", err)
	}
	write(t, filepath.Join(empty, ".x.crl.swp"), []byte("nonsense"))
	write(t, filepath.Join(empty, "README"), []byte("nonsense"))
	write(t, filepath.Join(empty, "root.crl"), good)
	if _, err := ReadVouchers("", empty, "clients"); err != nil {
		t.Errorf("a directory with a list: got %v", err)
	}
}

func TestWhoIsConnectedToMustNotHaveBeenRevoked(t *testing.T) {
	dir, server := t.TempDir(), t.TempDir()
	root := new(authority).sign(t, filepath.Join(dir, "root.pem"), &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true})
	root.sign(t, filepath.Join(server, "self-signed.pem"), &x509.Certificate{Subject: pkix.Name{CommonName: "west"}, SerialNumber: big.NewInt(7), DNSNames: []string{"localhost"}})
	crl := filepath.Join(dir, "root.crl")
	write(t, crl, root.revokes(t, time.Now().Add(-time.Minute), time.Hour, nil))
	o, err := NewOutgoing(Config{CA: filepath.Join(dir, "root.pem"), CRL: crl})
	if err != nil {
		t.Fatal(err)
	}
	is := func(what, want string) {
		t.Helper()
		if _, err := handshakes(t, o, server, "localhost", ""); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", what, err, want)
		}
	}
	is("at first", "")
	write(t, crl, root.revokes(t, time.Now(), time.Hour, nil, 6, 7))
	if _, err := o.Reload(); err != nil {
		t.Fatal(err)
	}
	is("revoked", "for localhost, was revoked by CN=root on ")
	write(t, crl, []byte("nonsense"))
	if changed, err := o.Reload(); err == nil || changed || !strings.Contains(err.Error(), crl) {
		t.Errorf("nonsense: got %v, %v, want an error that names %s", changed, err, crl)
	}
	is("after nonsense", "was revoked by")
}

func FuzzLists(f *testing.F) {
	root := new(authority).sign(f, filepath.Join(f.TempDir(), "root.pem"), &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, IsCA: true})
	good := root.revokes(f, time.Now(), time.Hour, nil, 1, 200, 70_000)
	f.Add(good)
	f.Add(asPEM(good, good))
	f.Add([]byte("-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		lists, err := parseLists(text)
		if (err == nil) != (len(lists) > 0) {
			t.Errorf("got %d lists and %v", len(lists), err)
		}
		for _, l := range lists {
			if l.by(root.cert) && (len(l.on) != 3 || l.ThisUpdate.IsZero()) {
				t.Errorf("a list with %d certificates has the signature of one with 3", len(l.on))
			}
		}
	})
}
