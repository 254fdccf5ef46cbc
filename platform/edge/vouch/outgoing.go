package vouch

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config says how this machine meets others over TLS. The zero value believes whom the machine trusts, and shows nothing.
type Config struct {
	Dir  string // of certificates to show to who asks for one, as [Pairs] has them; empty: none
	Cert string // a file with one more, and those between, in PEM; empty: none
	Key  string // a file with its key; empty: it is in Cert
	CA   string // a file of certificates in PEM that vouch for others; empty: those that this machine trusts
	CRL  string // a file or directory of lists of revoked certificates; empty: nobody looks
}

// Outgoing opens connections over TLS to others. It may be used by many goroutines.
type Outgoing struct {
	c   Config
	now atomic.Pointer[outgoing]

	mu   sync.Mutex // held while files are read
	seen string     // what they looked like
}

// outgoing never changes.
type outgoing struct {
	*Vouchers
	show     []*tls.Certificate
	sessions tls.ClientSessionCache
}

// NewOutgoing reads the files. It fails if one cannot be used, and says which.
func NewOutgoing(c Config) (*Outgoing, error) {
	o := &Outgoing{c: c}
	_, err := o.Reload()
	return o, err
}

// Config returns what o was made of.
func (o *Outgoing) Config() Config { return o.c }

// Reload reads the files again if they have changed, all of them or none, and reports whether it has taken others into use. It fails,
// and everything stays as it was, if one cannot be used. Connections that are open stay as they are.
func (o *Outgoing) Reload() (changed bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen, err := Looks(o.c.Dir, o.c.Cert, o.c.Key, o.c.CA, o.c.CRL)
	if err != nil {
		return false, err
	}
	if o.now.Load() != nil && seen == o.seen {
		return false, nil
	}
	next := &outgoing{sessions: tls.NewLRUClientSessionCache(0)}
	if o.c.Dir != "" {
		if next.show, err = Pairs(o.c.Dir); err != nil {
			return false, err
		}
		if len(next.show) == 0 {
			return false, fmt.Errorf("there are no certificates in %s: put NAME.crt and NAME.key there, or NAME.pem with both", o.c.Dir)
		}
	}
	if o.c.Cert != "" {
		own, err := tls.LoadX509KeyPair(o.c.Cert, cmp.Or(o.c.Key, o.c.Cert))
		if err != nil {
			return false, fmt.Errorf("certificate %s: %w", o.c.Cert, err)
		}
		next.show = append(next.show, &own)
	}
	if next.Vouchers, err = ReadVouchers(o.c.CA, o.c.CRL, "others"); err != nil {
		return false, err
	}
	o.seen = seen
	o.now.Store(next)
	return true, nil
}

// Client returns the configuration of connections whose other end must show a certificate for one of the SPIFFE ids, in which * at the
// end stands for any rest; without any, one for name; without that, one for the host that is connected to. Its files are those of now.
func (o *Outgoing) Client(name string, ids []string) *tls.Config {
	s := o.now.Load()
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: name, RootCAs: s.Roots, VerifyConnection: s.Check}
	for _, own := range s.show {
		c.Certificates = append(c.Certificates, *own)
	}
	if len(ids) > 0 {
		c.InsecureSkipVerify = true // an id is no host's name; VerifyConnection does all of it
		c.VerifyConnection = func(state tls.ConnectionState) error {
			return s.verify(state.PeerCertificates, func(leaf *x509.Certificate) error { return oneOf(leaf, ids) })
		}
	}
	return c
}

// oneOf returns an error unless a certificate is for one of the ids.
func oneOf(leaf *x509.Certificate, ids []string) error {
	if len(leaf.URIs) != 1 { // spec: SPIFFE X.509-SVID §2
		return fmt.Errorf("its certificate, for %s, has %d URIs; one is its SPIFFE id", named(leaf), len(leaf.URIs))
	}
	id := leaf.URIs[0].String()
	for _, want := range ids {
		if rest, open := strings.CutSuffix(want, "*"); id == want || open && strings.HasPrefix(id, rest) {
			return nil
		}
	}
	return fmt.Errorf("its certificate is for %s, and not for %s", id, strings.Join(ids, " or "))
}

// Handshake makes c, which leads to host, a connection over TLS 1.2 or 1.3 that speaks protocol. The other end must show a certificate
// that holds, and that is for identity as [filter.Identity] has it, or for the host if identity is empty. It does not close c.
func (o *Outgoing) Handshake(ctx context.Context, c net.Conn, host, identity, protocol string) (*tls.Conn, error) {
	s := o.now.Load()
	t := tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: host, NextProtos: []string{protocol}, ClientSessionCache: s.sessions,
		InsecureSkipVerify: true, // VerifyConnection does all of it, and says what is wrong
		VerifyConnection: func(cs tls.ConnectionState) error {
			return s.verify(cs.PeerCertificates, func(leaf *x509.Certificate) error { return isFor(leaf, host, identity) })
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
			err = Lasts(c.Leaf, time.Now())
		}
		if err == nil {
			return c, nil
		}
		why = append(why, fmt.Errorf("that for %s: %w", named(c.Leaf), err))
	}
	return nil, fmt.Errorf("none of the certificates that this edge has will do: %w", errors.Join(why...))
}

// verify returns a [Refusal] unless a chain that somebody shows is to be believed, and its first certificate is for whom it should be.
func (s *outgoing) verify(chain []*x509.Certificate, is func(leaf *x509.Certificate) error) error {
	if err := s.believe(chain); err != nil {
		return &Refusal{err}
	}
	if err := is(chain[0]); err != nil {
		return &Refusal{err}
	}
	return nil
}

// believe says why a chain is not to be believed; nil if it is.
func (s *outgoing) believe(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("it shows no certificate")
	}
	leaf, now := chain[0], time.Now()
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if err := Lasts(leaf, now); err != nil {
		return fmt.Errorf("its certificate, for %s, %w", named(leaf), err)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: s.Roots, Intermediates: between})
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return fmt.Errorf("its certificate, for %s, was issued by %s, and nobody who is believed here vouches for it: %w", named(leaf), always(leaf.Issuer.String()), err)
	}
	if err != nil {
		return fmt.Errorf("its certificate, for %s, does not hold: %w", named(leaf), err)
	}
	if s.revoked != nil {
		return s.revoked.check(chains, now)
	}
	return nil
}

// isFor says why a certificate is not for identity, or for host if that is empty; nil if it is.
func isFor(leaf *x509.Certificate, host, identity string) error {
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
