// Package vouch is whom the edge believes over TLS and what it shows: certificates, those who vouch for others', and their lists of
// what they revoked. All of it is read from files that may change while it is used.
//
//	o, err := vouch.NewOutgoing(vouch.Config{CA: "/etc/roadbed/ca.pem", CRL: "/etc/roadbed/ca.crl", Dir: "/etc/roadbed/edge"})
//	secure, err := o.Handshake(ctx, conn, "west.example.com", "spiffe://example.com/edge", "h2")
//
// [Outgoing] is for connections that the edge opens, [Vouchers] for those that it is asked by.
//
// # What it promises
//   - Files that changed are taken into use all together or not at all.
//   - With lists of revoked certificates, nobody is believed whom one of them names, nor anybody whose issuer, or one of those above
//     but the last, has no list there, or none that is in force: who cannot be checked is refused.
//   - An error says whose certificate it is, and what is wrong with it or with which file.
//
// # What it does not
//   - It fetches nothing: lists come into the files by somebody else, as a rule by the clock.
//   - It takes whole lists alone, of the one who issued: none of parts, changes, or on behalf of others (RFC 5280 §5.2.4, §5.2.5).
//   - A connection that is open when its certificate is revoked stays open.
package vouch

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Vouchers are those who vouch for others, and what they revoked. They never change.
type Vouchers struct {
	Roots   *x509.CertPool // nil: those that this machine trusts
	revoked *revoked       // nil: nobody looks
}

// Refusal is why somebody's certificate is not believed.
type Refusal struct{ why error }

// Error says why.
func (r *Refusal) Error() string { return r.why.Error() }

// Unwrap returns why.
func (r *Refusal) Unwrap() error { return r.why }

// ReadVouchers reads a file of certificates in PEM that vouch for somebody (empty: those of this machine do), and a file or directory
// of lists of revoked certificates in PEM or DER (empty: nobody looks). whom is told in errors, such as clients.
func ReadVouchers(ca, crl, whom string) (*Vouchers, error) {
	v := &Vouchers{}
	if ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read those who vouch for %s: %w", whom, err)
		}
		v.Roots = x509.NewCertPool()
		if !v.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate in PEM", ca)
		}
	}
	if crl != "" {
		var err error
		if v.revoked, err = readRevoked(crl); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Check is tls.Config.VerifyConnection for certificates that were verified already: it refuses those that were revoked. Sessions that
// are resumed are checked, too.
func (v *Vouchers) Check(state tls.ConnectionState) error {
	if v.revoked == nil || len(state.VerifiedChains) == 0 {
		return nil
	}
	if err := v.revoked.check(state.VerifiedChains, time.Now()); err != nil {
		return &Refusal{err}
	}
	return nil
}

// Pairs returns the certificates of dir: NAME.crt with NAME.key, or NAME.pem with both. Hidden files are left out.
func Pairs(dir string) ([]*tls.Certificate, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for certificates: %w", err)
	}
	var all []*tls.Certificate
	for _, f := range files {
		name := f.Name()
		var key string
		switch {
		case name[0] == '.':
			continue
		case filepath.Ext(name) == ".crt":
			key = strings.TrimSuffix(name, ".crt") + ".key"
		case filepath.Ext(name) == ".pem":
			key = name
		default:
			continue
		}
		c, err := tls.LoadX509KeyPair(filepath.Join(dir, name), filepath.Join(dir, key))
		if err != nil {
			return nil, fmt.Errorf("certificate %s with key %s: %w", filepath.Join(dir, name), key, err)
		}
		all = append(all, &c)
	}
	return all, nil
}

// Looks tells what files look like, and those in directories: names, sizes and times. Empty names are left out.
func Looks(paths ...string) (string, error) {
	var b strings.Builder
	for _, p := range paths {
		if p == "" {
			continue
		}
		st, err := os.Stat(p) // follows the links by which secrets are mounted
		if err != nil {
			return "", fmt.Errorf("look for certificates: %w", err)
		}
		if !st.IsDir() {
			fmt.Fprintf(&b, "%s %d %d\n", p, st.Size(), st.ModTime().UnixNano())
			continue
		}
		files, err := os.ReadDir(p)
		if err != nil {
			return "", fmt.Errorf("look for certificates: %w", err)
		}
		for _, f := range files {
			st, err := os.Stat(filepath.Join(p, f.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return "", fmt.Errorf("look for certificates: %w", err)
			}
			fmt.Fprintf(&b, "%s/%s %d %d\n", p, f.Name(), st.Size(), st.ModTime().UnixNano())
		}
	}
	return b.String(), nil
}

// Lasts says why a certificate cannot be used at a time; nil if it can.
func Lasts(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("ended on %s", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("begins on %s", c.NotBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// named says whom a certificate is for.
func named(c *x509.Certificate) string {
	var names []string
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	names = append(names, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = append(names, always(c.Subject.CommonName))
	}
	return strings.Join(slices.Compact(names), ", ")
}

func always(s string) string {
	if s == "" {
		return "nobody"
	}
	return s
}
