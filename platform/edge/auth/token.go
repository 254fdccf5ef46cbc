package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

const longestToken = 16 << 10 // bytes

// tokens is how signed tokens are checked.
type tokens struct {
	name   string
	doc    Tokens
	skew   time.Duration
	keys   *source
	parser *jwt.Parser
	seen   atomic.Pointer[cache[*Identity]] // what was found by the keys there are
	kit    *kit
}

func newParser(algs []string, t *Tokens, skew time.Duration, now func() time.Time) *jwt.Parser {
	o := []jwt.ParserOption{jwt.WithValidMethods(algs), jwt.WithLeeway(skew), jwt.WithExpirationRequired(), jwt.WithTimeFunc(now)}
	if t.Issuer != "" {
		o = append(o, jwt.WithIssuer(t.Issuer))
	}
	if len(t.Audience) > 0 {
		o = append(o, jwt.WithAudience(t.Audience...))
	}
	return jwt.NewParser(o...)
}

func (t *tokens) id() string { return t.name }

func (t *tokens) fields() []string { return keysOf(t.doc.Claims) }

func (t *tokens) identify(x *filter.Exchange) (*Identity, bool, error) {
	raw := t.of(&x.Request.Header)
	if raw == "" {
		return nil, false, nil
	}
	now := t.kit.now()
	seen := t.seen.Load() // if keys change meanwhile, nobody looks at what is put there
	if id, ok := seen.get(raw, now.UnixNano()); ok {
		return id, true, nil
	}
	ctx, cancel := context.WithTimeout(x.Context(), asking)
	defer cancel()
	id, until, err := t.verify(ctx, raw)
	if err != nil {
		return nil, true, err
	}
	if latest := now.Add(remembered); latest.Before(until) {
		until = latest
	}
	seen.put(raw, id, until.UnixNano())
	return id, true, nil
}

// forget has every token checked anew.
func (t *tokens) forget() { t.seen.Store(newCache[*Identity](10_000)) }

// of returns the token that a request brings.
func (t *tokens) of(h *filter.Header) string {
	v := h.Get(t.doc.Header)
	if raw, ok := scheme(v, "Bearer "); ok {
		return raw
	}
	if v != "" && !filter.Same(t.doc.Header, "Authorization") && strings.IndexByte(v, ' ') < 0 {
		return v
	}
	if t.doc.Cookie != "" {
		return cookie(h, t.doc.Cookie)
	}
	return ""
}

// verify returns whom a token names and until when it is valid.
func (t *tokens) verify(ctx context.Context, raw string) (*Identity, time.Time, error) {
	claims, until, err := t.claims(ctx, raw)
	if err != nil {
		return nil, time.Time{}, err
	}
	id := t.identity(claims)
	if id == nil {
		return nil, time.Time{}, notValid
	}
	return id, until, nil
}

// claims returns what a token says and until when it is valid.
func (t *tokens) claims(ctx context.Context, raw string) (jwt.MapClaims, time.Time, error) {
	if len(raw) > longestToken {
		return nil, time.Time{}, notValid
	}
	var unknown error // why there are no keys
	claims := jwt.MapClaims{}
	_, err := t.parser.ParseWithClaims(raw, claims, func(tok *jwt.Token) (any, error) {
		if _, has := tok.Header["crit"]; has { // spec: RFC 7515 §4.1.11
			return nil, errors.New("it has extensions that must be understood")
		}
		kid, _ := tok.Header["kid"].(string)
		keys, err := t.keys.find(ctx, kid, tok.Method.Alg())
		if err != nil {
			unknown = err
			return nil, err
		}
		if len(keys) == 0 {
			return nil, errors.New("no key fits")
		}
		return jwt.VerificationKeySet{Keys: keys}, nil
	})
	switch {
	case unknown != nil:
		return nil, time.Time{}, fmt.Errorf("%s: keys: %w", t.name, unknown)
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenInvalidIssuer) && !errors.Is(err, jwt.ErrTokenInvalidAudience):
		return nil, time.Time{}, expired
	case err != nil:
		return nil, time.Time{}, notValid
	}
	until, err := claims.GetExpirationTime()
	if err != nil || until == nil {
		return nil, time.Time{}, notValid
	}
	return claims, until.Add(t.skew), nil
}

// identity returns whom claims name; nil if the one is not there that names the user.
func (t *tokens) identity(claims jwt.MapClaims) *Identity {
	user := text(claims[t.doc.UserClaim])
	if user == "" {
		return nil
	}
	id := &Identity{User: user, Email: text(claims["email"]), Groups: text(claims["groups"]), Preferred: text(claims["preferred_username"]), claims: claims}
	for _, f := range keysOf(t.doc.Claims) {
		if v := text(claims[t.doc.Claims[f]]); v != "" {
			id.more = append(id.more, filter.Field{Name: f, Value: v})
		}
	}
	return id
}

// text returns a claim as a field may hold it, of a list its items with commas between; "" if it cannot. An item with a
// comma would look like two and is left out.
func text(claim any) string {
	switch v := claim.(type) {
	case string:
		if fit(v) {
			return v
		}
	case bool, float64:
		return fmt.Sprint(v)
	case []any:
		var items []string
		for _, e := range v {
			if s, ok := e.(string); ok && fit(s) && strings.IndexByte(s, ',') < 0 {
				items = append(items, s)
			}
		}
		if s := strings.Join(items, ","); fit(s) {
			return s
		}
	}
	return ""
}

// suits reports whether a key may be used by an algorithm, as far as its set says.
func (k *jwk) suits(kid, alg string) bool {
	return (kid == "" || k.ID == "" || k.ID == kid) && (k.Algorithm == "" || k.Algorithm == alg) && slices.Contains(k.algs, alg)
}
