package origin

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// trustDoc is how an app's instances are spoken to that speak TLS, as the property edge.origin.APP.tls holds it.
type trustDoc struct {
	CA   string   `json:"ca"`   // a file of those who vouch for the app, in PEM; empty: those the system trusts
	Cert string   `json:"cert"` // a file with the edge's certificate and those between, in PEM; empty: it shows none
	Key  string   `json:"key"`  // a file with its key; empty: it is in cert
	Name string   `json:"name"` // that the app's certificate must be for, in place of the instance's host
	IDs  []string `json:"ids"`  // SPIFFE ids, one of which it must be for instead; {app} is the app, * at the end any rest
}

// trust is a [trustDoc] in force for one app. Its files are read again when they change.
type trust struct {
	text, app string
	doc       trustDoc
	log       *slog.Logger

	mu     sync.Mutex
	looked time.Time
	stamp  string                              // what the files looked like when config was made
	config *tls.Config                         // never changes; another takes its place
	over   map[*http.Transport]*http.Transport // of config, by the one that each is like
}

const (
	lookEvery    = 5 * time.Second
	mostCarriers = 4
	trustExample = `{"ca": "/etc/roadbed/origins/ca.pem", "cert": "/etc/roadbed/origins/edge.pem", "ids": ["spiffe://example.com/{app}"]}`
)

// newTrust reads a document, and the files that it names.
func newTrust(app, text string, log *slog.Logger) (*trust, error) {
	s := &trust{text: text, app: app, log: cmp.Or(log, slog.Default()), over: map[*http.Transport]*http.Transport{}}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s.doc); err != nil {
		return nil, fmt.Errorf("it is not such as %s: %w", trustExample, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the document")
	}
	if s.doc.Key != "" && s.doc.Cert == "" {
		return nil, errors.New("key goes with cert")
	}
	if s.doc.Name != "" && len(s.doc.IDs) > 0 {
		return nil, errors.New("name and ids: the app's certificate is known by one of them; keep one")
	}
	for i, id := range s.doc.IDs {
		if !strings.HasPrefix(id, "spiffe://") {
			return nil, fmt.Errorf("ids: %q is no SPIFFE id such as spiffe://example.com/{app}", id)
		}
		s.doc.IDs[i] = strings.ReplaceAll(id, "{app}", app)
	}
	var err error
	if s.stamp, err = s.look(); err != nil {
		return nil, err
	}
	s.looked = time.Now()
	if s.config, err = s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// look tells what the files look like.
func (s *trust) look() (string, error) {
	var b strings.Builder
	for _, f := range []string{s.doc.CA, s.doc.Cert, s.doc.Key} {
		if f == "" {
			continue
		}
		st, err := os.Stat(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%s %d %d\n", f, st.Size(), st.ModTime().UnixNano())
	}
	return b.String(), nil
}

// load reads the files.
func (s *trust) load() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.doc.Name}
	if s.doc.CA != "" {
		text, err := os.ReadFile(s.doc.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s has no certificate in PEM", s.doc.CA)
		}
	}
	if s.doc.Cert != "" {
		own, err := tls.LoadX509KeyPair(s.doc.Cert, cmp.Or(s.doc.Key, s.doc.Cert))
		if err != nil {
			return nil, fmt.Errorf("certificate %s: %w", s.doc.Cert, err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	if len(s.doc.IDs) > 0 {
		c.InsecureSkipVerify = true // a SPIFFE id is no host's name; all else is checked here
		c.VerifyConnection = func(state tls.ConnectionState) error { return s.verify(c.RootCAs, state.PeerCertificates) }
	}
	return c, nil
}

// verify returns an error unless somebody of roots vouches for the certificate, and it is for one of the ids.
func (s *trust) verify(roots *x509.CertPool, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("x509: the origin shows no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		return err
	}
	if len(chain[0].URIs) != 1 { // spec: SPIFFE X.509-SVID §2
		return fmt.Errorf("x509: the origin's certificate has %d URIs; one is its SPIFFE id", len(chain[0].URIs))
	}
	id := chain[0].URIs[0].String()
	for _, want := range s.doc.IDs {
		if rest, open := strings.CutSuffix(want, "*"); id == want || open && strings.HasPrefix(id, rest) {
			return nil
		}
	}
	return fmt.Errorf("x509: the origin's certificate is for %s, which is none of edge.origin.%s.tls's ids", id, s.app)
}

// like returns a transport that speaks to the app as t would, but for TLS.
func (s *trust) like(t *http.Transport) *http.Transport {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.Sub(s.looked) >= lookEvery {
		s.looked = now
		s.reload()
	}
	own := s.over[t]
	if own == nil {
		if len(s.over) >= mostCarriers { // t has taken the place of another
			s.empty()
		}
		own = t.Clone()
		own.TLSClientConfig = s.config.Clone()
		s.over[t] = own
	}
	return own
}

// reload reads the files if they have changed. What cannot be used leaves what was there. The caller holds mu.
func (s *trust) reload() {
	stamp, err := s.look()
	if err == nil && stamp == s.stamp {
		return
	}
	var config *tls.Config
	if err == nil {
		s.stamp = stamp
		config, err = s.load()
	}
	if err != nil {
		s.log.Warn("new certificates for an origin refused, the old ones stay", "app", s.app, "err", err)
		return
	}
	s.config = config
	s.empty()
}

// empty lets the transports go. Requests under way go on. The caller holds mu.
func (s *trust) empty() {
	for _, t := range s.over {
		t.CloseIdleConnections()
	}
	clear(s.over)
}

// close closes what is idle.
func (s *trust) close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.empty()
}

// carrier returns what carries the request to an instance by net/http: with the app's own TLS, if it has any.
func (c *call) carrier(t http.RoundTripper, tls bool) http.RoundTripper {
	if s := c.set.trust; s != nil && tls {
		if t, ok := t.(*http.Transport); ok {
			return s.like(t)
		}
	}
	return t
}

// same reports whether the document says the same.
func (s *trust) same(app, text string) bool {
	return s != nil && s.app == app && s.text == text
}
