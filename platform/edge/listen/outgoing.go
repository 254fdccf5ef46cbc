package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// OutgoingConfig says how this machine meets others over TLS. The zero value believes whom the machine trusts, and shows nothing.
type OutgoingConfig struct {
	Dir string // of certificates to show to who asks for one, as in [CertificatesConfig]; empty: none
	CA  string // a file of certificates in PEM that vouch for others; empty: those that this machine trusts
}

// Outgoing opens connections over TLS to others. It may be used by many goroutines.
type Outgoing struct {
	c   OutgoingConfig
	now atomic.Pointer[outgoing]

	mu   sync.Mutex // held while files are read
	seen string     // what they looked like
}

// outgoing never changes.
type outgoing struct {
	show     []*tls.Certificate
	roots    *x509.CertPool // nil: the machine's
	sessions tls.ClientSessionCache
}

// NewOutgoing reads the files. It fails if one cannot be used, and says which.
func NewOutgoing(c OutgoingConfig) (*Outgoing, error) {
	o := &Outgoing{c: c}
	return o, o.Reload()
}

// Config returns what o was made of.
func (o *Outgoing) Config() OutgoingConfig { return o.c }

// Reload reads the files again if they have changed, all of them or none. It fails, and everything stays as it was, if one
// cannot be used. Connections that are open stay as they are.
func (o *Outgoing) Reload() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var seen string
	var err error
	if o.c.Dir != "" {
		if seen, err = looks([]string{o.c.Dir}); err != nil {
			return err
		}
	}
	if o.c.CA != "" {
		st, err := os.Stat(o.c.CA)
		if err != nil {
			return fmt.Errorf("read those who vouch for others: %w", err)
		}
		seen += fmt.Sprintf("%d %d", st.Size(), st.ModTime().UnixNano())
	}
	if o.now.Load() != nil && seen == o.seen {
		return nil
	}
	next := &outgoing{sessions: tls.NewLRUClientSessionCache(0)}
	if o.c.Dir != "" {
		set := &certSet{exact: map[string][]*tls.Certificate{}, suffix: map[string][]*tls.Certificate{}}
		if err := set.read(o.c.Dir); err != nil {
			return err
		}
		if next.show = set.all; len(next.show) == 0 {
			return fmt.Errorf("there are no certificates in %s: put NAME.crt and NAME.key there, or NAME.pem with both", o.c.Dir)
		}
	}
	if o.c.CA != "" {
		if next.roots, err = readCA(o.c.CA, "others"); err != nil {
			return err
		}
	}
	o.seen = seen
	o.now.Store(next)
	return nil
}

// readCA reads a file of those who vouch for somebody.
func readCA(file, whom string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read those who vouch for %s: %w", whom, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return pool, nil
}

// Handshake makes c, which leads to host, a connection over TLS 1.2 or 1.3 that speaks protocol. The other end must show a certificate
// that holds, and that is for identity as [filter.Identity] has it, or for the host if identity is empty. It does not close c.
func (o *Outgoing) Handshake(ctx context.Context, c net.Conn, host, identity, protocol string) (*tls.Conn, error) {
	s := o.now.Load()
	t := tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, NextProtos: []string{protocol}, ClientSessionCache: s.sessions,
		InsecureSkipVerify: true, // VerifyConnection does all of it, and says what is wrong
		VerifyConnection: func(cs tls.ConnectionState) error {
			return s.verify(cs.PeerCertificates, host, identity)
		},
		GetClientCertificate: s.shown,
	})
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// shown returns the certificate that the other end wants to see; none if there are none at all.
func (s *outgoing) shown(wanted *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if len(s.show) == 0 {
		return new(tls.Certificate), nil
	}
	var why []error
	for _, c := range s.show {
		err := wanted.SupportsCertificate(c)
		if err == nil {
			err = lasts(c.Leaf, time.Now())
		}
		if err == nil {
			return c, nil
		}
		why = append(why, fmt.Errorf("that for %s: %w", named(c.Leaf), err))
	}
	return nil, fmt.Errorf("none of the certificates that this edge has will do: %w", errors.Join(why...))
}

// verify says why a certificate is not one of identity, or of host if that is empty; nil if it is.
func (s *outgoing) verify(chain []*x509.Certificate, host, identity string) error {
	if len(chain) == 0 {
		return errors.New("it shows no certificate")
	}
	leaf := chain[0]
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if err := lasts(leaf, time.Now()); err != nil {
		return fmt.Errorf("its certificate, for %s, %w", named(leaf), err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: between}); err != nil {
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
			return fmt.Errorf("its certificate, for %s, was issued by %s, and nobody who is believed here vouches for it: %w", named(leaf), always(leaf.Issuer.String()), err)
		}
		return fmt.Errorf("its certificate, for %s, does not hold: %w", named(leaf), err)
	}
	if identity == "" {
		if err := leaf.VerifyHostname(host); err != nil {
			return fmt.Errorf("its certificate is for %s, and not for %s", named(leaf), host)
		}
		return nil
	}
	if got := filter.IdentityOf(leaf); got != identity {
		return fmt.Errorf("its certificate is for %s, and not for %s", always(got), identity)
	}
	return nil
}

// lasts says why a certificate cannot be used at a time; nil if it can.
func lasts(c *x509.Certificate, now time.Time) error {
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
