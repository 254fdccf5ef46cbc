package auth

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"golang.org/x/crypto/bcrypt"
)

// Document says how requests are authenticated.
type Document struct {
	JWT     *Tokens     `json:"jwt"`
	OIDC    *Tokens     `json:"oidc"` // keys are found by the issuer's /.well-known/openid-configuration
	APIKey  *APIKeys    `json:"apiKey"`
	Basic   *Basic      `json:"basic"`
	MTLS    *MTLS       `json:"mtls"`
	Login   *Login      `json:"login"`
	Forward *ForwardDoc `json:"forwardAuth"`

	Optional bool `json:"optional"` // who brings no credentials goes on, unknown; wrong ones are refused all the same
}

// Tokens is how signed tokens are checked.
type Tokens struct {
	Issuer     string            `json:"issuer"`     // of the token; needed for oidc
	Audience   []string          `json:"audience"`   // one of which the token must be for; needed for oidc; none: any
	Algorithms []string          `json:"algorithms"` // RS256, ES256, EdDSA unless said; HS256 is for keys given here alone
	JWKS       string            `json:"jwks"`       // URL of the keys
	Keys       json.RawMessage   `json:"keys"`       // the keys themselves, as a JWK set
	Skew       string            `json:"skew"`       // that clocks may differ by, 0s to 10m; 30s
	Header     string            `json:"header"`     // with the token, after Bearer if there is a space; Authorization
	Cookie     string            `json:"cookie"`     // with the token, where the field is absent
	UserClaim  string            `json:"userClaim"`  // that names the user; sub
	Claims     map[string]string `json:"claims"`     // further ones that services learn: field, and claim
}

// APIKeys are keys of callers that are programs.
type APIKeys struct {
	Header string            `json:"header"` // with the key; X-API-Key
	Query  string            `json:"query"`  // the parameter with the key, where the field is absent; empty: none
	Keys   map[string]string `json:"keys"`   // SHA-256 of the key in hexadecimal, by user
}

// Basic is users with passwords.
type Basic struct {
	Realm string            `json:"realm"` // edge
	Users map[string]string `json:"users"` // by name: bcrypt's hash, as htpasswd -B makes it, or SHA-256 in hexadecimal of a long random password
}

// MTLS is who may come by client certificate.
type MTLS struct {
	Identities []string `json:"identities"` // SPIFFE ids or common names; a * at the end stands for any rest; none: every verified one
}

// ForwardDoc is a service that is asked.
type ForwardDoc struct {
	URL             string   `json:"url"`             // http, https, or vip://app/path
	Timeout         string   `json:"timeout"`         // 1ms to 1m; 1s
	RequestHeaders  []string `json:"requestHeaders"`  // that it gets; none: all
	ResponseHeaders []string `json:"responseHeaders"` // of its answer that the origin gets in place of what the client sent
	UserHeader      string   `json:"userHeader"`      // of its answer that names the user; X-Forwarded-User
}

// checker is a document in force.
type checker struct {
	methods   []method
	forward   *forward
	login     *login
	optional  bool
	challenge []string
	clears    []string // fields that services learn who asks by, beside the usual ones
	taken     []string // fields that only forward may set
	counts    map[counted]*meter.Counter
}

// parse makes a document a checker, or says what is wrong with it.
func (k *kit) parse(text []byte) (*checker, error) {
	var d Document
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf(`it is no document of authentication: %w; write such as {"jwt": {"jwks": "https://..."}}`, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows the document")
	}
	c := &checker{optional: d.Optional}
	if d.JWT != nil {
		t, err := k.tokens("jwt", d.JWT)
		if err != nil {
			return nil, fmt.Errorf("jwt: %w", err)
		}
		c.methods = append(c.methods, t)
		c.challenge = append(c.challenge, `Bearer realm="edge"`)
	}
	if d.OIDC != nil {
		t, err := k.tokens("oidc", d.OIDC)
		if err != nil {
			return nil, fmt.Errorf("oidc: %w", err)
		}
		c.methods = append(c.methods, t)
		if d.JWT == nil {
			c.challenge = append(c.challenge, `Bearer realm="edge"`)
		}
	}
	if d.APIKey != nil {
		p, err := newAPIKeys(d.APIKey)
		if err != nil {
			return nil, fmt.Errorf("apiKey: %w", err)
		}
		c.methods = append(c.methods, p)
		c.challenge = append(c.challenge, `ApiKey realm="edge"`)
	}
	if d.Basic != nil {
		p, err := newPasswords(d.Basic, k.now)
		if err != nil {
			return nil, fmt.Errorf("basic: %w", err)
		}
		c.methods = append(c.methods, p)
		c.challenge = append(c.challenge, `Basic realm="`+p.realm+`", charset="UTF-8"`)
	}
	if d.MTLS != nil {
		c.methods = append(c.methods, &certified{d.MTLS.Identities})
	}
	if d.Login != nil {
		if d.Forward != nil {
			return nil, errors.New("login and forwardAuth: who brings no credentials is led to one of them; keep one")
		}
		l, err := k.logins(d.Login)
		if err != nil {
			return nil, fmt.Errorf("login: %w", err)
		}
		c.login, c.methods = l, append(c.methods, l)
	}
	if d.Forward != nil {
		f, err := k.forwards(d.Forward)
		if err != nil {
			return nil, fmt.Errorf("forwardAuth: %w", err)
		}
		c.forward = f
	}
	if len(c.methods) == 0 && c.forward == nil {
		return nil, errors.New("it names no method; use jwt, oidc, apiKey, basic, mtls, login or forwardAuth")
	}
	for _, m := range c.methods {
		c.clears = append(c.clears, m.fields()...)
	}
	if c.forward != nil {
		for _, f := range c.forward.take {
			if f != "Authorization" && f != "Cookie" {
				c.taken = append(c.taken, f)
			}
		}
	}
	c.counts = make(map[counted]*meter.Counter)
	for _, m := range []string{"jwt", "oidc", "apiKey", "basic", "mtls", "login", "forwardAuth", "none"} {
		for _, r := range []string{"accepted", "refused", "unavailable", "begun", "ended"} {
			c.counts[counted{m, r}] = k.results(m, r)
		}
	}
	return c, nil
}

// counted is what a counter is for.
type counted struct{ method, result string }

func (c *checker) count(method, result string) { c.counts[counted{method, result}].Inc() }

var algorithms = []string{"RS256", "ES256", "EdDSA", "HS256"}

// tokens makes the method of t.
func (k *kit) tokens(name string, t *Tokens) (*tokens, error) {
	skew := 30 * time.Second
	if t.Skew != "" {
		var err error
		if skew, err = config.ParseDuration(t.Skew); err != nil {
			return nil, fmt.Errorf("skew: %w", err)
		}
	}
	if skew < 0 || skew > 10*time.Minute {
		return nil, fmt.Errorf("skew %s: use 0s to 10m", t.Skew)
	}
	algs := t.Algorithms
	if len(algs) == 0 {
		algs = algorithms[:3]
	}
	for _, a := range algs {
		if !slices.Contains(algorithms, a) {
			return nil, fmt.Errorf("algorithm %q: use %s", a, strings.Join(algorithms, ", "))
		}
	}
	for _, f := range append([]string{t.Header}, keysOf(t.Claims)...) {
		if f != "" && !filter.Token(f) {
			return nil, fmt.Errorf("%q is no name of a field", f)
		}
	}
	out := &tokens{name: name, doc: *t, skew: skew, kit: k}
	out.forget()
	if out.doc.Header == "" {
		out.doc.Header = "Authorization"
	}
	if out.doc.UserClaim == "" {
		out.doc.UserClaim = "sub"
	}
	sources := 0
	for _, has := range []bool{t.JWKS != "", len(t.Keys) > 0, name == "oidc"} {
		if has {
			sources++
		}
	}
	switch {
	case sources == 0:
		return nil, errors.New("give the keys: jwks, a URL, or keys, a JWK set")
	case sources > 1:
		return nil, errors.New("give one source of keys: jwks, keys, or oidc's issuer")
	case name == "oidc" && (len(t.Audience) == 0 || t.Issuer == ""):
		return nil, errors.New("give issuer and audience; without, a token for anybody would be good here")
	}
	if len(t.Keys) > 0 {
		keys, err := parseKeys(t.Keys)
		if err != nil {
			return nil, fmt.Errorf("keys: %w", err)
		}
		out.keys = &source{fixed: true}
		out.keys.now.Store(&keySet{keys: keys})
	} else {
		if slices.Contains(algs, "HS256") {
			return nil, errors.New("HS256 is for keys given in the document; a secret is in no public set")
		}
		out.keys = &source{client: k.direct, clock: k.now, changed: out.forget, url: t.JWKS}
		if name == "oidc" {
			out.keys.url, out.keys.issuer = "", t.Issuer
		}
		if err := webURL(out.keys.url + out.keys.issuer); err != nil {
			return nil, err
		}
	}
	out.parser = newParser(algs, t, skew, k.now)
	return out, nil
}

// webURL returns an error unless s is an address of http or https.
func webURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("%q is no address such as https://login.example.com", s)
	}
	return nil
}

func keysOf(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// isDigest reports whether s is SHA-256 in hexadecimal.
func isDigest(s string) ([]byte, bool) {
	b, err := hex.DecodeString(s)
	return b, err == nil && len(b) == 32
}

// newAPIKeys makes the method of d.
func newAPIKeys(d *APIKeys) (*apiKeys, error) {
	a := &apiKeys{header: d.Header, query: d.Query, byDigest: make(map[[32]byte]*apiKey)}
	if a.header == "" {
		a.header = "X-API-Key"
	}
	if !filter.Token(a.header) {
		return nil, fmt.Errorf("%q is no name of a field", a.header)
	}
	if len(d.Keys) == 0 {
		return nil, errors.New("it has no keys; nobody could come in")
	}
	for _, user := range keysOf(d.Keys) {
		b, ok := isDigest(d.Keys[user])
		if !ok || !fit(user) {
			return nil, fmt.Errorf("key of %q: give SHA-256 of the key as 64 hexadecimal digits, as sha256sum does", user)
		}
		a.byDigest[[32]byte(b)] = &apiKey{[32]byte(b), &Identity{User: user}}
	}
	return a, nil
}

// newPasswords makes the method of d.
func newPasswords(d *Basic, now func() time.Time) (*passwords, error) {
	p := &passwords{realm: d.Realm, users: d.Users, seen: newCache[*Identity](10_000), busy: make(chan struct{}, 2), now: now}
	if p.realm == "" {
		p.realm = "edge"
	}
	if !fit(p.realm) || strings.ContainsAny(p.realm, `"\`) {
		return nil, fmt.Errorf("realm %q: use letters, digits and spaces", p.realm)
	}
	if len(d.Users) == 0 {
		return nil, errors.New("it has no users; nobody could come in")
	}
	for _, user := range keysOf(d.Users) {
		cost, err := bcrypt.Cost([]byte(d.Users[user]))
		if _, ok := isDigest(d.Users[user]); !ok && err != nil || !fit(user) || strings.Contains(user, ":") {
			return nil, fmt.Errorf("password of %q: give bcrypt's hash, as htpasswd -B makes it, or SHA-256 as 64 hexadecimal digits", user)
		}
		if err == nil {
			p.slow = d.Users[user]
		}
		if cost > 14 {
			return nil, fmt.Errorf("password of %q: bcrypt with cost %d takes seconds each time; use 14 at most", user, cost)
		}
	}
	return p, nil
}

// forwards makes the service of d.
func (k *kit) forwards(d *ForwardDoc) (*forward, error) {
	f := &forward{client: k.direct, url: d.URL, timeout: time.Second, send: d.RequestHeaders, take: d.ResponseHeaders, user: d.UserHeader}
	if rest, ok := strings.CutPrefix(d.URL, "vip://"); ok {
		if k.apps == nil {
			return nil, errors.New("this edge knows no apps; use http or https")
		}
		f.client, f.url = k.apps, "http://"+rest
	}
	if err := webURL(f.url); err != nil {
		return nil, err
	}
	if d.Timeout != "" {
		var err error
		if f.timeout, err = config.ParseDuration(d.Timeout); err != nil {
			return nil, fmt.Errorf("timeout: %w", err)
		}
	}
	if err := config.Between("timeout", f.timeout, time.Millisecond, time.Minute); err != nil {
		return nil, err
	}
	if f.user == "" {
		f.user = "X-Forwarded-User"
	}
	for _, h := range slices.Concat(f.send, f.take, []string{f.user}) {
		if !filter.Token(h) {
			return nil, fmt.Errorf("%q is no name of a field", h)
		}
	}
	for i, h := range f.take {
		if f.take[i] = http.CanonicalHeaderKey(h); forbidden(h) {
			return nil, fmt.Errorf("responseHeaders: %s is not the service's to set", h)
		}
	}
	return f, nil
}
