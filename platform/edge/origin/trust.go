package origin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/edge/vouch"
)

// trustDoc is how an app's instances are spoken to that speak TLS, as the property edge.origin.APP.tls holds it.
type trustDoc struct {
	CA   string   `json:"ca"`   // a file of those who vouch for the app, in PEM; empty: those the system trusts
	CRL  string   `json:"crl"`  // a file or directory of lists of what they revoked, in PEM or DER; empty: nobody looks
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
	out       *vouch.Outgoing

	mu         sync.Mutex
	looked     time.Time
	complained string
	over       map[*http.Transport]*http.Transport // with the files as they are, by the one that each is like
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
	if s.out, err = vouch.NewOutgoing(vouch.Config{CA: s.doc.CA, CRL: s.doc.CRL, Cert: s.doc.Cert, Key: s.doc.Key}); err != nil {
		return nil, err
	}
	s.looked = time.Now()
	return s, nil
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
		own.TLSClientConfig = s.out.Client(s.doc.Name, s.doc.IDs)
		s.over[t] = own
	}
	return own
}

// reload reads the files if they have changed. What cannot be used leaves what was there. The caller holds mu.
func (s *trust) reload() {
	changed, err := s.out.Reload()
	if err != nil && err.Error() != s.complained {
		s.complained = err.Error()
		s.log.Warn("new certificates for an origin refused, the old ones stay", "app", s.app, "err", err)
	} else if err == nil {
		s.complained = ""
	}
	if changed {
		s.empty()
	}
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
