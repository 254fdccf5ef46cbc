package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unsafe"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"golang.org/x/crypto/bcrypt"
)

// Identity is who asks.
type Identity struct {
	User, Email, Groups, Preferred string
	more                           []filter.Field // further claims
	claims                         map[string]any // all of a token
}

// method is one way to show who one is.
type method interface {
	// identify returns who asks. found is false if the request brings no credentials of this method, whatever else is returned.
	identify(x *filter.Exchange) (id *Identity, found bool, err error)

	id() string       // for metrics
	fields() []string // that services learn by it, beside the usual ones
}

// wrong is an error that the client is told.
type wrong string

// Error returns what is wrong.
func (w wrong) Error() string { return string(w) }

const (
	notValid = wrong("the credentials are not valid here")
	expired  = wrong("the token has expired")
)

// told are the fields by which services learn who asks.
var told = []string{"X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token"}

// check lets x pass if it may.
//
// hot path: 0 allocs, BenchmarkKnownToken
func (c *checker) check(x *filter.Exchange) error {
	h := &x.Request.Header
	for _, f := range told {
		h.Del(f)
	}
	for _, f := range c.clears {
		h.Del(f)
	}
	x.User = ""
	if c.login != nil {
		if is, err := c.login.own(x, c); is {
			return err
		}
	}
	if h.Count("Authorization") > 1 { // spec: RFC 9110 §11.6.2. The service might believe another than the one that is checked here
		return c.refuse(x, "none", wrong("Authorization is there more than once; send one"))
	}
	var before error // what another kind of token than is accepted here, perhaps, has come to
	for i, m := range c.methods {
		_, isToken := m.(*tokens)
		if before != nil && !isToken {
			break
		}
		id, found, err := m.identify(x)
		if !found {
			continue
		}
		if err != nil {
			if next := i + 1; isToken && next < len(c.methods) && before == nil {
				if _, also := c.methods[next].(*tokens); also {
					before = err
					continue
				}
			}
			return c.refuse(x, m.id(), err)
		}
		c.count(m.id(), "accepted")
		c.clear(x)
		id.tell(x)
		return nil
	}
	switch {
	case before != nil:
		return c.refuse(x, "jwt", before)
	case c.forward != nil:
		return c.forward.ask(x, c)
	case c.optional:
		c.clear(x)
		return nil
	case c.login != nil && navigates(x):
		to := x.Request.Path
		if x.Request.RawQuery != "" {
			to += "?" + x.Request.RawQuery
		}
		return c.login.begin(x, c, to)
	case c.login != nil:
		return c.refuse(x, "none", wrong("who asks must be known here; send credentials, or log in at "+c.login.doc.Path+"/start"))
	}
	return c.refuse(x, "none", wrong("who asks must be known here; send credentials"))
}

// clear takes out what only the service that is asked could have set.
func (c *checker) clear(x *filter.Exchange) {
	for _, f := range c.taken {
		x.Request.Header.Del(f)
	}
}

// claimsKey is where the claims of a verified token are on an exchange.
const claimsKey = "jwt.claims"

// tell has x and the origin know who asks.
func (id *Identity) tell(x *filter.Exchange) {
	x.User = id.User
	if id.claims != nil || x.Value(claimsKey) != nil {
		x.Set(claimsKey, id.claims) // for programs and expressions
	}
	h := &x.Request.Header
	for i, v := range [...]string{id.User, id.Email, id.Groups, id.Preferred} {
		if v != "" {
			h.Add(told[i], v)
		}
	}
	for _, f := range id.more {
		h.Add(f.Name, f.Value)
	}
}

// refuse answers 401, or fails with what stands in the way of deciding.
func (c *checker) refuse(x *filter.Exchange, by string, err error) error {
	why, ok := errors.AsType[wrong](err)
	if !ok {
		c.count(by, "unavailable")
		if e, ok := errors.AsType[*filter.Error](err); ok {
			return e
		}
		return &filter.Error{Status: http.StatusServiceUnavailable, Category: filter.FailureLocal, Reason: "it cannot be checked now who asks; try again", Err: err, RetryAfter: 5 * time.Second}
	}
	c.count(by, "refused")
	x.Answer(http.StatusUnauthorized, string(why)+"\n")
	h := &x.Response.Header
	for _, ch := range c.challenge {
		if by != "none" && strings.HasPrefix(ch, "Bearer") && (by == "jwt" || by == "oidc") {
			ch += `, error="invalid_token", error_description="` + string(why) + `"` // spec: RFC 6750 §3
		}
		h.Add("WWW-Authenticate", ch)
	}
	h.Add("Cache-Control", "no-store")
	x.SetCategory(filter.FailureBadRequest, string(why))
	return nil
}

// sum is SHA-256 in hexadecimal.
func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// fit reports whether a field may hold s.
func fit(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= 4096 && strings.TrimSpace(s) == s
}

func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// apiKeys is callers that are programs.
type apiKeys struct {
	header, query string
	byDigest      map[[sha256.Size]byte]*apiKey
}

// apiKey is one key.
type apiKey struct {
	digest [sha256.Size]byte
	*Identity
}

func (a *apiKeys) id() string       { return "apiKey" }
func (a *apiKeys) fields() []string { return nil }

// identify looks the key's digest up. That takes as long as the digest has it, of which who tries keys learns nothing about
// keys; the last comparison takes the same time for all.
func (a *apiKeys) identify(x *filter.Exchange) (*Identity, bool, error) {
	key := x.Request.Header.Get(a.header)
	if key == "" && a.query != "" {
		key = parameter(x.Request.RawQuery, a.query)
	}
	if key == "" {
		return nil, false, nil
	}
	digest := sha256.Sum256(bytesOf(key))
	k := a.byDigest[digest]
	if k == nil || subtle.ConstantTimeCompare(k.digest[:], digest[:]) != 1 {
		return nil, true, notValid
	}
	return k.Identity, true, nil
}

// parameter returns the first value of a query's parameter.
func parameter(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k == name {
			v, err := url.QueryUnescape(v)
			if err != nil {
				return ""
			}
			return v
		}
	}
	return ""
}

// cookie returns the value of the first cookie of that name.
func cookie(h *filter.Header, name string) string {
	for line := range h.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == name {
				return strings.Trim(v, `"`)
			}
		}
	}
	return ""
}

// passwords is users with passwords.
type passwords struct {
	realm string
	users map[string]string
	slow  string            // some user's bcrypt hash; empty: none has one
	seen  *cache[*Identity] // by the field
	busy  chan struct{}     // holds one for each comparison that goes on, for each takes 50 ms of a processor
	now   func() time.Time
}

func (p *passwords) id() string       { return "basic" }
func (p *passwords) fields() []string { return nil }

// remembered is how long a password or a token is believed without checking it again.
const remembered = 5 * time.Minute

func (p *passwords) identify(x *filter.Exchange) (*Identity, bool, error) {
	v := x.Request.Header.Get("Authorization")
	text, ok := scheme(v, "Basic ")
	if !ok {
		return nil, false, nil
	}
	if len(text) > 4096 {
		return nil, true, notValid
	}
	now := p.now()
	if id, ok := p.seen.get(text, now.UnixNano()); ok {
		return id, true, nil
	}
	pair, err := base64.StdEncoding.DecodeString(text)
	user, password, ok := strings.Cut(string(pair), ":")
	if err != nil || !ok {
		return nil, true, notValid
	}
	hash, known := p.users[user]
	if !known {
		hash = p.slow // an unknown user takes as long as a wrong password
	}
	right := false
	if digest, ok := isDigest(hash); ok {
		got := sha256.Sum256([]byte(password))
		right = subtle.ConstantTimeCompare(got[:], digest) == 1
	} else if hash != "" {
		wait := time.NewTimer(time.Second)
		defer wait.Stop()
		select {
		case p.busy <- struct{}{}:
		case <-wait.C:
			return nil, true, errors.New("too many passwords are being checked")
		}
		right = len(password) <= 72 && bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
		<-p.busy
	}
	if !right || !known {
		return nil, true, notValid
	}
	id := &Identity{User: user}
	p.seen.put(text, id, now.Add(remembered).UnixNano())
	return id, true, nil
}

// scheme returns what follows a scheme of authentication, which compares without case.
func scheme(field, name string) (rest string, ok bool) {
	if len(field) < len(name) || !filter.Same(field[:len(name)], name) {
		return "", false
	}
	return strings.TrimLeft(field[len(name):], " "), true
}

// certified is who comes by client certificate.
type certified struct{ identities []string }

func (c *certified) id() string       { return "mtls" }
func (c *certified) fields() []string { return nil }

func (c *certified) identify(x *filter.Exchange) (*Identity, bool, error) {
	who := x.Identity()
	if who == "" {
		return nil, false, nil
	}
	ok := len(c.identities) == 0
	for _, want := range c.identities {
		rest, open := strings.CutSuffix(want, "*")
		ok = ok || want == who || open && strings.HasPrefix(who, rest)
	}
	if !ok || !fit(who) {
		return nil, true, &filter.Error{Status: http.StatusForbidden, Category: filter.FailureBadRequest, Reason: "this client certificate is not for this"}
	}
	return &Identity{User: who}, true, nil
}
