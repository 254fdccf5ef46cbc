package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	mostKeys   = 100
	largestSet = 1 << 20          // bytes
	freshFor   = 10 * time.Minute // after which keys are asked for anew
	askAgain   = 10 * time.Second // not sooner, whoever comes with a key that is not known
)

// jwk is one key of a set. spec: RFC 7517, RFC 7518 §6, RFC 8037
type jwk struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	ID        string `json:"kid"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv"`
	N         string `json:"n"`
	E         string `json:"e"`
	X         string `json:"x"`
	Y         string `json:"y"`
	K         string `json:"k"`

	key  jwt.VerificationKey
	algs []string // that it can be used by
}

// parseKeys reads a JWK set. Keys that are for something else, or of a kind that is not known here, are left out; a weak or
// broken one makes the set an error, and so does one without any key.
func parseKeys(text []byte) ([]jwk, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("it is no JWK set: %w", err)
	}
	if len(set.Keys) > mostKeys {
		return nil, fmt.Errorf("it has %d keys; %d are the most", len(set.Keys), mostKeys)
	}
	var out []jwk
	for i, k := range set.Keys {
		if k.Use != "" && k.Use != "sig" {
			continue
		}
		if err := k.read(); err != nil {
			return nil, fmt.Errorf("key %d: %w", i+1, err)
		}
		if k.key != nil {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("it has no key that can check signatures")
	}
	return out, nil
}

// read makes the key of its parts. It stays nil if its kind is not known.
func (k *jwk) read() error {
	var broken error
	part := func(name, s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
		if err != nil || len(b) == 0 {
			broken = fmt.Errorf("%s: it is no base64url", name)
		}
		return b
	}
	switch {
	case k.Type == "RSA":
		n, e := new(big.Int).SetBytes(part("n", k.N)), new(big.Int).SetBytes(part("e", k.E))
		if broken == nil && (n.BitLen() < 2048 || n.BitLen() > 8192 || n.Bit(0) == 0) {
			return fmt.Errorf("n has %d bits; RSA keys of 2048 to 8192 are taken", n.BitLen())
		}
		if broken == nil && (!e.IsInt64() || e.Int64() < 3 || e.Int64() > 1<<31-1 || e.Bit(0) == 0) {
			return errors.New("e is no exponent of RSA")
		}
		k.key, k.algs = &rsa.PublicKey{N: n, E: int(e.Int64())}, []string{"RS256"}
	case k.Type == "EC" && k.Curve == "P-256":
		x, y := part("x", k.X), part("y", k.Y)
		if broken != nil {
			return broken
		}
		if len(x) != 32 || len(y) != 32 {
			return errors.New("x and y of P-256 have 32 bytes each")
		}
		p, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil {
			return fmt.Errorf("x and y are no point of P-256: %w", err)
		}
		k.key, k.algs = p, []string{"ES256"}
	case k.Type == "OKP" && k.Curve == "Ed25519":
		x := part("x", k.X)
		if broken == nil && len(x) != ed25519.PublicKeySize {
			return errors.New("x of Ed25519 has 32 bytes")
		}
		k.key, k.algs = ed25519.PublicKey(x), []string{"EdDSA"}
	case k.Type == "oct":
		b := part("k", k.K)
		if broken == nil && len(b) < 32 {
			return fmt.Errorf("k has %d bytes; HS256 takes 32 at least", len(b))
		}
		k.key, k.algs = b, []string{"HS256"}
	}
	if broken != nil {
		k.key = nil
	}
	return broken
}

// keySet is keys as they were had.
type keySet struct {
	keys []jwk
	at   time.Time
}

// source is where keys come from.
type source struct {
	fixed       bool
	client      *http.Client
	clock       func() time.Time
	changed     func() // what was believed by the keys before must be checked anew
	url, issuer string // one of both; the issuer tells where its keys are
	now         atomic.Pointer[keySet]

	mu    sync.Mutex // held while keys are asked for
	tried time.Time
	why   error // of the last try
	text  string
}

// find returns the keys that a token of that key id and algorithm may be signed by.
func (s *source) find(ctx context.Context, kid, alg string) ([]jwt.VerificationKey, error) {
	set := s.now.Load()
	keys := set.fit(kid, alg)
	if s.fixed || len(keys) > 0 && s.clock().Sub(set.at) < freshFor {
		return keys, nil
	}
	if len(keys) > 0 { // they are old; one request asks, the others go on
		if s.mu.TryLock() {
			s.ask(ctx)
			s.mu.Unlock()
		}
		return s.now.Load().fit(kid, alg), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now.Load() == set {
		s.ask(ctx)
	}
	if set = s.now.Load(); set == nil {
		return nil, s.why
	}
	return set.fit(kid, alg), nil
}

func (s *keySet) fit(kid, alg string) (out []jwt.VerificationKey) {
	if s == nil {
		return nil
	}
	for i := range s.keys {
		if s.keys[i].suits(kid, alg) {
			out = append(out, s.keys[i].key)
		}
	}
	return out
}

// ask gets the keys anew, if that was not tried just now. The caller holds mu. What there is stays if it fails.
func (s *source) ask(ctx context.Context) {
	now := s.clock()
	if !s.tried.IsZero() && now.Sub(s.tried) < askAgain {
		return
	}
	s.tried = now
	text, err := s.fetch(context.WithoutCancel(ctx))
	if err != nil {
		s.why = err
		return
	}
	if set := s.now.Load(); set != nil && text == s.text { // the usual case
		s.now.Store(&keySet{set.keys, now})
		return
	}
	keys, err := parseKeys([]byte(text))
	if err != nil {
		s.why = fmt.Errorf("keys of %s: %w", s.url+s.issuer, err)
		return
	}
	s.text = text
	s.now.Store(&keySet{keys, now})
	s.changed()
}

// fetch gets the text of the keys.
func (s *source) fetch(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	url := s.url
	if s.issuer != "" {
		text, err := s.get(ctx, strings.TrimRight(s.issuer, "/")+"/.well-known/openid-configuration")
		if err != nil {
			return "", err
		}
		var about struct {
			Issuer string `json:"issuer"`
			JWKS   string `json:"jwks_uri"`
		}
		if err := json.Unmarshal([]byte(text), &about); err != nil {
			return "", fmt.Errorf("what %s says of itself is no JSON: %w", s.issuer, err)
		}
		if about.Issuer != s.issuer { // spec: OpenID Connect Discovery 1.0 §4.3
			return "", fmt.Errorf("%s says that it is %q; give the issuer as it names itself", s.issuer, about.Issuer)
		}
		if err := webURL(about.JWKS); err != nil {
			return "", fmt.Errorf("%s has its keys at no good place: %w", s.issuer, err)
		}
		url = about.JWKS
	}
	return s.get(ctx, url)
}

func (s *source) get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // it is only read
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s", url, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, largestSet+1))
	if err != nil {
		return "", fmt.Errorf("%s breaks off: %w", url, err)
	}
	if len(b) > largestSet {
		return "", fmt.Errorf("%s answers with more than %d bytes", url, largestSet)
	}
	return string(b), nil
}
