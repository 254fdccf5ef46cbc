package listen

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/crypto/ocsp"
)

// staple is what the issuer of a certificate says of it, that clients are shown with it so that they need not ask.
// spec: RFC 6960, RFC 6066 §8
type staple struct {
	der   []byte    // empty: nothing is known
	until time.Time // it is believed
	due   time.Time // when the issuer is asked anew
}

const (
	stapleEvery  = time.Minute // what is due is looked for
	stapleAgain  = 10 * time.Minute
	stapleWithin = 10 * time.Second
	stapleLength = 64 << 10
	stapleSkew   = 5 * time.Minute // that clocks may differ by
)

// Staple asks the issuers of certificates that offer OCSP what they say of them, and has clients shown that, until ctx ends.
func (s *Certificates) Staple(ctx context.Context) error {
	tick := time.NewTicker(stapleEvery)
	defer tick.Stop()
	for {
		s.ask(ctx, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ask asks the issuers of all certificates for which that is due, and takes what they say into use.
func (s *Certificates) ask(ctx context.Context, now time.Time) {
	changed := false
	known := map[[sha256.Size]byte]bool{}
	for _, c := range s.set.Load().all {
		key := sha256.Sum256(c.Leaf.Raw)
		if known[key] || len(c.Leaf.OCSPServer) == 0 {
			continue
		}
		known[key] = true
		s.mu.Lock()
		was := s.staples[key]
		s.mu.Unlock()
		if now.Before(was.due) {
			continue
		}
		is, err := query(ctx, s.client, c, now)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Warn("the issuer of a certificate does not vouch for it; it is asked again", "names", c.Leaf.DNSNames, "issuer", c.Leaf.OCSPServer[0], "err", err)
			is = staple{due: now.Add(stapleAgain)}
			if over := was.until.Add(-2 * stapleEvery); !errors.Is(err, errRevoked) && now.Before(over) {
				is.der, is.until = was.der, was.until
				if over.Before(is.due) { // nothing is shown beyond its time
					is.due = over
				}
			}
		}
		changed = changed || !bytes.Equal(is.der, was.der)
		s.mu.Lock()
		s.staples[key] = is
		s.mu.Unlock()
	}
	s.mu.Lock()
	for key := range s.staples {
		if !known[key] {
			delete(s.staples, key)
		}
	}
	s.mu.Unlock()
	if changed {
		if err := s.load(); err != nil {
			s.log.Warn("new certificates refused, the old ones stay", "err", err)
		}
	}
}

var errRevoked = errors.New("it is revoked: clients that check refuse it; put another in its place")

// query asks the issuer of a certificate about it.
func query(ctx context.Context, client *http.Client, c *tls.Certificate, now time.Time) (staple, error) {
	if len(c.Certificate) < 2 {
		return staple{}, errors.New("the file lacks the issuer's certificate, without which it cannot be asked")
	}
	issuer, err := x509.ParseCertificate(c.Certificate[1])
	if err != nil {
		return staple{}, fmt.Errorf("the issuer's certificate: %w", err)
	}
	question, err := ocsp.CreateRequest(c.Leaf, issuer, nil)
	if err != nil {
		return staple{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, stapleWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Leaf.OCSPServer[0], bytes.NewReader(question))
	if err != nil {
		return staple{}, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	resp, err := client.Do(req)
	if err != nil {
		return staple{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // it is only read
	der, err := io.ReadAll(io.LimitReader(resp.Body, stapleLength))
	if err != nil || resp.StatusCode != http.StatusOK {
		return staple{}, fmt.Errorf("it answers %s (%v)", resp.Status, err)
	}
	said, err := ocsp.ParseResponseForCert(der, c.Leaf, issuer)
	switch {
	case err != nil:
		return staple{}, err
	case said.Status == ocsp.Revoked:
		return staple{}, errRevoked
	case said.Status != ocsp.Good:
		return staple{}, errors.New("it does not know the certificate")
	case now.Before(said.ThisUpdate.Add(-stapleSkew)), !now.Before(said.NextUpdate): // without a next one it says nothing of how long that holds
		return staple{}, fmt.Errorf("what it says holds from %v to %v", said.ThisUpdate, said.NextUpdate)
	}
	half := said.NextUpdate.Sub(said.ThisUpdate) / 2
	due := said.ThisUpdate.Add(half)
	if due.Before(now) { // it tells an old answer, which others may have still
		due = now.Add(min(stapleAgain, said.NextUpdate.Sub(now)/2))
	}
	return staple{der: der, until: said.NextUpdate, due: due}, nil
}
