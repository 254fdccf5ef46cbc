package listen

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/vouch"
)

// CertificatesConfig says where certificates come from. One of Dir and SelfSigned is needed, or ACME.
type CertificatesConfig struct {
	// Dir holds pairs NAME.crt and NAME.key, or NAME.pem with both, in PEM. Which names a certificate is for stands in
	// it. The files are read again when they change.
	Dir string

	// SelfSigned is a directory where a certificate for this machine is kept that nobody else vouches for. It is made if
	// it is not there, and anew before it ends.
	SelfSigned string

	// ACME gets certificates that none of the others has; nil: none.
	ACME *ACME

	// TicketSecret, of 32 characters or more, lets all edges that share it resume each other's sessions; nil or empty: each has its
	// own. It may change while requests are served: sessions of before are not resumed then.
	TicketSecret func() string

	Log *slog.Logger // nil: slog.Default()
}

// Certificates answers clients with the certificate for the name they ask for. It may be used by many goroutines.
type Certificates struct {
	c      CertificatesConfig
	log    *slog.Logger
	set    atomic.Pointer[certSet]
	client *http.Client // that issuers are asked by

	mu      sync.Mutex                   // guards what follows
	seen    string                       // what the files looked like when set was read
	all     []*served                    // what TLS has made
	staples map[[sha256.Size]byte]staple // by the certificate's digest
	own     [2][32]byte                  // ticket keys by chance, of this turn and the one before, while no secret is shared
	ownTurn int64                        // of the first
}

// certSet never changes.
type certSet struct {
	exact  map[string][]*tls.Certificate
	suffix map[string][]*tls.Certificate // of *.suffix
	first  *tls.Certificate              // for clients that name nobody
	all    []*tls.Certificate
}

// NewCertificates reads the certificates. It fails if one cannot be used, and says which.
func NewCertificates(c CertificatesConfig) (*Certificates, error) {
	s := &Certificates{c: c, log: c.Log, client: &http.Client{Transport: http.DefaultTransport}, staples: map[[sha256.Size]byte]staple{}}
	if s.log == nil {
		s.log = slog.Default()
	}
	for i := range s.own {
		rand.Read(s.own[i][:]) // never fails
	}
	s.ownTurn = turnOf(time.Now())
	if c.Dir == "" && c.SelfSigned == "" && c.ACME == nil {
		return nil, errors.New("TLS needs certificates: name a directory that has them, or let them be got by ACME, or have one made that is signed by itself")
	}
	if c.SelfSigned != "" {
		if err := selfSign(c.SelfSigned, time.Now()); err != nil {
			return nil, err
		}
	}
	if err := s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// lookEvery is how often files are looked at, which costs some microseconds each.
const lookEvery = 5 * time.Second

// Run reads files again when they change, renews what is signed by itself and turns ticket keys, until ctx ends.
func (s *Certificates) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var complained string
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if s.c.SelfSigned != "" {
			if err := selfSign(s.c.SelfSigned, time.Now()); err != nil {
				s.log.Warn("the certificate signed by itself cannot be renewed", "err", err)
			}
		}
		if err := s.reload(); err != nil && err.Error() != complained {
			complained = err.Error()
			s.log.Warn("new certificates refused, the old ones stay", "err", err)
		} else if err == nil {
			complained = ""
		}
		s.turn()
	}
}

// turn has listeners use the ticket keys of now, and those who vouch for clients now.
func (s *Certificates) turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.all {
		if err := t.reload(); err != nil && err.Error() != t.complained {
			t.complained = err.Error()
			s.log.Warn("new certificates of those who vouch for clients refused, the old ones stay", "err", err)
		} else if err == nil {
			t.complained = ""
		}
		s.tickets(t.config, turnOf(time.Now()))
		if now := t.now.Load(); now != nil {
			s.tickets(now, turnOf(time.Now()))
		}
	}
}

// served is the TLS of a listener. Its Certificates' mu guards it.
type served struct {
	config     *tls.Config
	now        atomic.Pointer[tls.Config] // in place of it, once there are others who vouch for clients; nil: none
	auth       ClientAuth
	seen       string // what its files looked like when they were read
	complained string
}

// reload reads those who vouch for clients, and what they revoked, if their files have changed. It fails, and they stay, if one
// cannot be used.
func (t *served) reload() error {
	if t.auth.CA == "" {
		return nil
	}
	seen, err := vouch.Looks(t.auth.CA, t.auth.CRL)
	if err != nil {
		return err
	}
	if seen == t.seen {
		return nil
	}
	who, err := vouch.ReadVouchers(t.auth.CA, t.auth.CRL, "clients")
	if err != nil {
		return err
	}
	if t.seen == "" { // nobody has used it yet
		t.config.ClientCAs, t.config.VerifyConnection = who.Roots, who.Check
	} else {
		next := t.config.Clone()
		next.GetConfigForClient, next.ClientCAs, next.VerifyConnection = nil, who.Roots, who.Check
		t.now.Store(next)
	}
	t.seen = seen
	return nil
}

func (s *Certificates) dirs() (dirs []string) {
	for _, d := range []string{s.c.Dir, s.c.SelfSigned} {
		if d != "" {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// reload loads if a file has changed.
func (s *Certificates) reload() error {
	seen, err := vouch.Looks(s.dirs()...)
	if err != nil {
		return err
	}
	s.mu.Lock()
	same := seen == s.seen
	s.mu.Unlock()
	if same {
		return nil
	}
	return s.load()
}

// load reads everything and takes it into use, or nothing of it.
func (s *Certificates) load() error {
	seen, err := vouch.Looks(s.dirs()...)
	if err != nil {
		return err
	}
	set := &certSet{exact: map[string][]*tls.Certificate{}, suffix: map[string][]*tls.Certificate{}}
	for _, d := range s.dirs() {
		pairs, err := vouch.Pairs(d)
		if err != nil {
			return err
		}
		for _, c := range pairs {
			set.add(c)
		}
	}
	if set.first == nil && s.c.ACME == nil {
		return fmt.Errorf("there are no certificates in %s: put NAME.crt and NAME.key there, or NAME.pem with both", strings.Join(s.dirs(), " and "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range set.all {
		if known := s.staples[sha256.Sum256(c.Leaf.Raw)]; time.Now().Before(known.until) {
			c.OCSPStaple = known.der
		}
	}
	s.seen = seen
	s.set.Store(set)
	return nil
}

func (set *certSet) add(c *tls.Certificate) {
	names := slices.Clone(c.Leaf.DNSNames)
	for _, ip := range c.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = append(names, c.Leaf.Subject.CommonName)
	}
	for _, n := range names {
		n = strings.ToLower(n)
		if rest, ok := strings.CutPrefix(n, "*."); ok {
			set.suffix[rest] = append(set.suffix[rest], c)
		} else {
			set.exact[n] = append(set.exact[n], c)
		}
	}
	if set.first == nil {
		set.first = c
	}
	set.all = append(set.all, c)
}

// find returns the certificate for a hello, nil if there is none. Of several for a name the first is taken that the client can use
// and that is in its time.
func (set *certSet) find(hello *tls.ClientHelloInfo) *tls.Certificate {
	name := strings.ToLower(strings.TrimSuffix(hello.ServerName, "."))
	if name == "" {
		if hello.Conn != nil {
			if host, _, err := net.SplitHostPort(hello.Conn.LocalAddr().String()); err == nil {
				if c := usable(set.exact[host], hello); c != nil {
					return c
				}
			}
		}
		return set.first
	}
	if c := usable(set.exact[name], hello); c != nil {
		return c
	}
	if _, rest, ok := strings.Cut(name, "."); ok {
		return usable(set.suffix[rest], hello)
	}
	return nil
}

func usable(of []*tls.Certificate, hello *tls.ClientHelloInfo) *tls.Certificate {
	var second *tls.Certificate // it would do, but for its time
	for _, c := range of {
		if hello.SupportsCertificate(c) != nil {
			continue
		}
		if len(of) == 1 || vouch.Lasts(c.Leaf, time.Now()) == nil {
			return c
		}
		if second == nil {
			second = c
		}
	}
	if second == nil && len(of) > 0 {
		return of[0] // the handshake tells better than we could what is wrong
	}
	return second
}

// get is tls.Config.GetCertificate.
func (s *Certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	set := s.set.Load()
	if c := set.find(hello); c != nil {
		return c, nil
	}
	if s.c.ACME != nil {
		if c, err := s.c.ACME.certificate(hello); c != nil || err != nil {
			return c, err
		}
	}
	if set.first != nil {
		return set.first, nil // the client refuses it, and can show to whom it has come
	}
	return nil, fmt.Errorf("there is no certificate for %q", hello.ServerName)
}

// ClientAuth says what is asked of clients' certificates.
type ClientAuth struct {
	CA       string // a file of certificates in PEM that vouch for clients, read again when it changes; empty: none are asked for
	CRL      string // a file or directory of lists of what these revoked, read again as well; empty: nobody looks
	Optional bool   // a client may have none
}

// TLS returns a server's configuration: TLS 1.2 with forward secrecy and authenticated encryption, or 1.3; HTTP/2 or
// HTTP/1.1.
func (s *Certificates) TLS(auth ClientAuth) (*tls.Config, error) {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: s.get,
		NextProtos:     []string{"h2", "http/1.1"},
		CipherSuites: []uint16{
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
			tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
	if s.c.ACME != nil {
		c.NextProtos = append(c.NextProtos, acmeProtocol)
	}
	t := &served{config: c, auth: auth}
	if auth.CRL != "" && auth.CA == "" {
		return nil, errors.New("lists of revoked certificates go with those who vouch for clients; say who these are")
	}
	if auth.CA != "" {
		challenged := c.Clone()
		challenged.NextProtos = []string{acmeProtocol}
		if err := t.reload(); err != nil {
			return nil, err
		}
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if slices.Equal(hello.SupportedProtos, []string{acmeProtocol}) && s.c.ACME != nil {
				return challenged, nil // an authority has no certificate; nothing is served on its connection
			}
			return t.now.Load(), nil
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
		if auth.Optional {
			c.ClientAuth = tls.VerifyClientCertIfGiven
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tickets(c, turnOf(time.Now()))
	s.all = append(s.all, t)
	return c, nil
}

// ticketTurn is how long one key for session tickets is in use. Those before and after it are known, too.
const ticketTurn = 12 * time.Hour

func turnOf(now time.Time) int64 { return now.Unix() / int64(ticketTurn/time.Second) }

// tickets gives c the ticket keys of a turn. Every edge that shares the secret derives them alike; without one they are by chance,
// and as good as gone after two turns. They are never left to Go, which would take those of before for good. The caller holds mu.
func (s *Certificates) tickets(c *tls.Config, turn int64) {
	var secret string
	if s.c.TicketSecret != nil {
		secret = s.c.TicketSecret()
	}
	if len(secret) < 32 {
		if s.ownTurn != turn {
			s.own[1], s.ownTurn = s.own[0], turn
			rand.Read(s.own[0][:]) // never fails
		}
		c.SetSessionTicketKeys(s.own[:])
		return
	}
	var keys [3][32]byte
	for i, at := range []int64{turn, turn - 1, turn + 1} {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte("roadbed session tickets"))    // never fails
		binary.Write(mac, binary.BigEndian, uint64(at)) //nolint:errcheck // never fails
		mac.Sum(keys[i][:0])
	}
	c.SetSessionTicketKeys(keys[:])
}

const (
	selfSignedFor = 90 * 24 * time.Hour
	renewBefore   = 14 * 24 * time.Hour
)

// selfSign makes a certificate for this machine in dir unless there is one that lasts.
func selfSign(dir string, now time.Time) error {
	file := filepath.Join(dir, "self-signed.pem")
	if c, err := tls.LoadX509KeyPair(file, file); err == nil && now.Before(c.Leaf.NotAfter.Add(-renewBefore)) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	names := []string{"localhost", "*.localhost"}
	if host, err := os.Hostname(); err == nil && host != "" && host != "localhost" {
		names = append(names, host)
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: cmp.Or(names[len(names)-1], "localhost"), Organization: []string{"roadbed, signed by itself"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(selfSignedFor),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
		DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make a certificate: %w", err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep a certificate: %w", err)
	}
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		return fmt.Errorf("keep a certificate: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("keep a certificate: %w", err)
	}
	return nil
}
