package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Login has people log in with an issuer of OpenID Connect by their browsers, by the authorization code flow with PKCE, and
// keeps who they are in a cookie that only edges can read. Three paths are the edge's own: /callback, /start and /logout below
// Path.
type Login struct {
	Issuer           string            `json:"issuer"`
	ClientID         string            `json:"clientId"`         // that the issuer knows this edge by
	ClientSecret     string            `json:"clientSecret"`     // none: a public client
	ClientSecretFile string            `json:"clientSecretFile"` // that holds it at every edge, in place of clientSecret
	Scopes           []string          `json:"scopes"`           // openid, profile, email
	Parameters       map[string]string `json:"parameters"`       // further ones of the request for a login
	Path             string            `json:"path"`             // /oauth2
	Cookie           string            `json:"cookie"`           // its name; roadbed_session
	Lifetime         string            `json:"lifetime"`         // of a login, 1m to 30d; 12h
	AfterLogout      string            `json:"afterLogout"`      // a path, or an address that the issuer knows; /
	Algorithms       []string          `json:"algorithms"`       // as for tokens, and so the following
	Skew             string            `json:"skew"`
	UserClaim        string            `json:"userClaim"`
	Claims           map[string]string `json:"claims"`
	AccessToken      bool              `json:"accessToken"` // services get the access token in X-Forwarded-Access-Token
	Bearer           bool              `json:"bearer"`      // they get it in Authorization
}

// login is a [Login] in force.
type login struct {
	doc      Login
	kit      *kit
	issuer   *provider
	ids      *tokens // how ID tokens are checked
	lifetime time.Duration
	seen     *cache[*session] // by the cookie

	secureName string // of the session's cookie, over TLS

	mu       sync.Mutex
	renewals map[[sha256.Size]byte]*renewal // by scheme and refresh token that is spent; guarded by mu
}

const (
	loginWithin  = 10 * time.Minute // from being sent to the issuer to being back
	mostRenewals = 10_000
	renewedFor   = time.Minute // requests that bring the cookie of before get the same new one
	renewBefore  = 30 * time.Second
	mostParam    = 2048 // bytes of a code, a state, or a path to go on to
)

// logins makes the login of d.
func (k *kit) logins(d *Login) (*login, error) {
	l := &login{doc: *d, kit: k, lifetime: 12 * time.Hour, seen: newCache[*session](10_000), renewals: map[[sha256.Size]byte]*renewal{}}
	d = &l.doc
	if d.Issuer == "" || d.ClientID == "" {
		return nil, errors.New("give issuer and clientId")
	}
	if d.ClientSecret != "" && d.ClientSecretFile != "" {
		return nil, errors.New("give clientSecret or clientSecretFile")
	}
	if len(d.Scopes) == 0 {
		d.Scopes = []string{"openid", "profile", "email"}
	}
	if !slices.Contains(d.Scopes, "openid") {
		return nil, errors.New("scopes: openid is needed, for the issuer tells who it is by an ID token")
	}
	for name := range d.Parameters {
		if slices.Contains([]string{"response_type", "response_mode", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method"}, name) {
			return nil, fmt.Errorf("parameters: %s is the edge's to set", name)
		}
	}
	if d.Path == "" {
		d.Path = "/oauth2"
	}
	if u, err := url.Parse(d.Path); err != nil || u.EscapedPath() != d.Path || u.RawPath != "" || d.Path[0] != '/' || strings.HasSuffix(d.Path, "/") || strings.ContainsAny(d.Path, ";, ") {
		return nil, fmt.Errorf("path %q: write such as /oauth2; /callback, /start and /logout below it are the edge's", d.Path)
	}
	if d.Cookie == "" {
		d.Cookie = "roadbed_session"
	}
	if !filter.Token(d.Cookie) || len(d.Cookie) > 64 {
		return nil, fmt.Errorf("cookie %q is no name of a cookie", d.Cookie)
	}
	l.secureName = "__Host-" + d.Cookie
	if d.Lifetime != "" {
		var err error
		if l.lifetime, err = config.ParseDuration(d.Lifetime); err != nil {
			return nil, fmt.Errorf("lifetime: %w", err)
		}
	}
	if err := config.Between("lifetime", l.lifetime, time.Minute, 30*24*time.Hour); err != nil {
		return nil, err
	}
	if d.AfterLogout == "" {
		d.AfterLogout = "/"
	}
	if !local(d.AfterLogout) {
		if err := webURL(d.AfterLogout); err != nil {
			return nil, fmt.Errorf("afterLogout: %w; or write a path", err)
		}
	}
	var err error
	if l.ids, err = k.tokens("oidc", &Tokens{Issuer: d.Issuer, Audience: []string{d.ClientID}, Algorithms: d.Algorithms, Skew: d.Skew, UserClaim: d.UserClaim, Claims: d.Claims}); err != nil {
		return nil, err
	}
	l.issuer = &provider{source: l.ids.keys, login: l}
	return l, nil
}

// secret returns what proves to the issuer that it is this client.
func (l *login) secret() (string, error) {
	if l.doc.ClientSecretFile == "" {
		return l.doc.ClientSecret, nil
	}
	b, err := os.ReadFile(l.doc.ClientSecretFile) // each time, for it may be a new one
	if err != nil {
		return "", fmt.Errorf("clientSecretFile: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// local reports whether s is a path of this host, whatever a browser makes of it.
func local(s string) bool {
	return strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") && !strings.ContainsAny(s, "\\\t\r\n")
}

// base is where the client is, as it sees that: scheme://host.
func base(x *filter.Exchange) (scheme, host string) {
	host = x.Request.Host
	if h := x.Request.Header.Get("X-Forwarded-Host"); h != "" && !strings.ContainsAny(h, ", /\\@?#") {
		host = h
	}
	return schemeOf(x), strings.Clone(host)
}

// schemeOf is http or https, as the client sees it.
func schemeOf(x *filter.Exchange) string {
	scheme := x.Request.Scheme
	if p := x.Request.Header.Get("X-Forwarded-Proto"); p == "http" || p == "https" { // set here, or by who is trusted
		scheme = p
	}
	if scheme == "https" {
		return "https"
	}
	return "http"
}

// own answers x, or fails, if it is for one of the paths that are the edge's.
func (l *login) own(x *filter.Exchange, c *checker) (is bool, err error) {
	rest, ok := strings.CutPrefix(x.Request.Path, l.doc.Path)
	if !ok || rest != "/callback" && rest != "/start" && rest != "/logout" {
		return false, nil
	}
	switch m := x.Request.Method; {
	case rest == "/logout" && (m == http.MethodGet || m == http.MethodPost):
		if scheme, host := base(x); meant(x, host) {
			l.logout(x, c, scheme, host)
		} else {
			l.confirm(x, c)
		}
	case rest == "/logout":
		x.Answer(http.StatusMethodNotAllowed, "ask by GET or POST\n")
		x.Response.Header.Add("Allow", "GET, POST")
		x.SetCategory(filter.FailureBadRequest, "neither GET nor POST")
	case m != http.MethodGet:
		x.Answer(http.StatusMethodNotAllowed, "ask by GET\n")
		x.Response.Header.Add("Allow", "GET")
		x.SetCategory(filter.FailureBadRequest, "no GET")
	case rest == "/callback":
		err = l.callback(x, c)
	default:
		err = l.begin(x, c, parameter(x.Request.RawQuery, "to"))
	}
	return true, err
}

// navigates reports whether x is a person's going to a page, who can be led to another; scripts and programs cannot.
func navigates(x *filter.Exchange) bool {
	h := &x.Request.Header
	mode := h.Get("Sec-Fetch-Mode")
	return x.Request.Method == http.MethodGet && x.Request.Upgrade == "" && (mode == "" || mode == "navigate") && strings.Contains(h.Get("Accept"), "text/html")
}

// begin leads the client to the issuer, from where it is to come back and go on to the path to; to / if that is none of this
// host, or longer than a cookie holds.
func (l *login) begin(x *filter.Exchange, c *checker, to string) error {
	if !local(to) || len(to) > mostParam {
		to = "/"
	}
	ctx, cancel := context.WithTimeout(x.Context(), asking)
	defer cancel()
	about, err := l.issuer.about(ctx)
	if err != nil {
		return c.refuse(x, "login", fmt.Errorf("login: %w", err))
	}
	a := attempt{State: random(), Nonce: random(), Verifier: random() + random(), To: to, At: l.kit.now().Unix()}
	sealed, err := l.kit.seal(l.context("attempt"), &a)
	if err != nil {
		return c.refuse(x, "login", err)
	}
	challenge := sha256.Sum256([]byte(a.Verifier)) // spec: RFC 7636 §4.2
	scheme, host := base(x)
	q := url.Values{}
	for name, v := range l.doc.Parameters {
		q.Set(name, v)
	}
	for name, v := range map[string]string{
		"response_type": "code", "client_id": l.doc.ClientID, "redirect_uri": scheme + "://" + host + l.doc.Path + "/callback", "scope": strings.Join(l.doc.Scopes, " "),
		"state": a.State, "nonce": a.Nonce, "code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256",
	} {
		q.Set(name, v)
	}
	c.count("login", "begun")
	l.lead(x, withQuery(about.Authorization, q))
	x.Response.Header.Add("Set-Cookie", l.cookie(l.attemptName(scheme, a.State), mark+sealed, l.doc.Path+"/callback", scheme, loginWithin))
	return nil
}

// withQuery returns the address with q added to its query.
func withQuery(address string, q url.Values) string {
	if strings.Contains(address, "?") {
		return address + "&" + q.Encode()
	}
	return address + "?" + q.Encode()
}

// lead answers x with a way to go on.
func (l *login) lead(x *filter.Exchange, to string) {
	x.Answer(http.StatusFound, "")
	h := &x.Response.Header
	h.Add("Location", to)
	h.Add("Cache-Control", "no-store")
	x.SetCategory(filter.Success, "")
}

// say answers x with a sentence for a person.
func say(x *filter.Exchange, c *checker, status int, text string) {
	c.count("login", "refused")
	x.Answer(status, text+"\n")
	x.Response.Header.Add("Cache-Control", "no-store")
	x.SetCategory(filter.FailureBadRequest, text)
}

// callback takes in what the issuer says of a client that it has sent back. spec: OpenID Connect Core 1.0 §3.1.2.5, RFC 9207
func (l *login) callback(x *filter.Exchange, c *checker) error {
	q := x.Request.RawQuery
	state := parameter(q, "state")
	scheme, host := base(x)
	a, ok := l.attempt(&x.Request.Header, scheme, state)
	if !ok || l.kit.now().Sub(time.Unix(a.At, 0)) > loginWithin {
		say(x, c, http.StatusBadRequest, "this login was not begun here, or took more than 10 minutes; go back to where you wanted to go, and try again (cookies are needed)")
		return nil
	}
	s, err := l.arrive(x, a, scheme+"://"+host)
	var cookies []string
	if err == nil {
		cookies, err = l.bake(s, scheme)
	}
	if why, ok := errors.AsType[wrong](err); ok {
		say(x, c, http.StatusForbidden, "the login failed: "+string(why))
	} else if err != nil {
		return c.refuse(x, "login", fmt.Errorf("login: %w", err))
	} else {
		c.count("login", "accepted")
		l.lead(x, a.To)
	}
	for _, k := range append(cookies, l.cookie(l.attemptName(scheme, state), "", l.doc.Path+"/callback", scheme, -1)) { // the attempt is spent
		x.Response.Header.Add("Set-Cookie", k)
	}
	return nil
}

// arrive makes what a client brings back from the issuer a session. An error that is [wrong] is for the client.
func (l *login) arrive(x *filter.Exchange, a attempt, here string) (*session, error) {
	q, err := url.ParseQuery(x.Request.RawQuery)
	if err != nil {
		return nil, wrong("what the issuer says cannot be read")
	}
	for _, name := range []string{"state", "iss", "error", "code"} {
		if len(q[name]) > 1 { // spec: RFC 6749 §3.1
			return nil, wrong("it comes back with " + name + " more than once")
		}
	}
	ctx, cancel := context.WithTimeout(x.Context(), 2*asking)
	defer cancel()
	about, err := l.issuer.about(ctx)
	if err != nil {
		return nil, err
	}
	if q.Has("iss") && q.Get("iss") != l.doc.Issuer {
		return nil, wrong("it comes back from another issuer than it was sent to")
	}
	if about.TellsIssuer && !q.Has("iss") { // spec: RFC 9207 §2.4
		return nil, wrong("it does not say that it comes back from the issuer, which always does")
	}
	code := q.Get("code")
	if no := q.Get("error"); no != "" || code == "" || len(code) > mostParam {
		if !filter.Token(no) || len(no) > 64 {
			no = "no code"
		}
		return nil, wrong("the issuer says " + no)
	}
	return l.exchange(ctx, url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {here + l.doc.Path + "/callback"}, "code_verifier": {a.Verifier}}, nil, a.Nonce)
}

// meant reports whether a page of this host, or the user by hand, wants x, and not another's page: browsers tell that, and let
// no page tell it otherwise. Those of before, and all that come by http, tell less. spec: Fetch Metadata Request Headers §2, RFC
// 6454 §7
func meant(x *filter.Exchange, host string) bool {
	h := &x.Request.Header
	post := x.Request.Method == http.MethodPost
	if !post && (h.Has("Sec-Purpose") || h.Has("Purpose")) {
		return false // it is fetched in case that somebody wants it
	}
	if site := h.Get("Sec-Fetch-Site"); site != "" {
		return (site == "same-origin" || site == "none") && (post || h.Get("Sec-Fetch-Mode") == "navigate")
	}
	from := cmp.Or(h.Get("Origin"), h.Get("Referer"))
	if from == "" {
		return post // of no browser, which would say so
	}
	u, err := url.Parse(from)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// confirm asks whether to log out who may be led here by another's page.
func (l *login) confirm(x *filter.Exchange, c *checker) {
	if !strings.Contains(x.Request.Header.Get("Accept"), "text/html") {
		say(x, c, http.StatusForbidden, "log out by a link of this host's own pages, or by POST")
		return
	}
	x.Answer(http.StatusOK, confirmation)
	h := &x.Response.Header
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Add("Cache-Control", "no-store")
	h.Add("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'")
	h.Add("X-Frame-Options", "DENY")
	h.Add("Referrer-Policy", "same-origin") // or the browser would not say where the form was sent from
	x.SetCategory(filter.Success, "")
}

// confirmation is sent to where it is asked for.
const confirmation = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Log out</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color-scheme:light dark}</style>
<form method="post"><p>Do you want to log out?</p><button>Log out</button></form></html>
`

// logout ends a login here and, if the issuer can that, there.
func (l *login) logout(x *filter.Exchange, c *checker, scheme, host string) {
	to := l.doc.AfterLogout
	ctx, cancel := context.WithTimeout(x.Context(), asking)
	defer cancel()
	if about, err := l.issuer.about(ctx); err == nil && about.EndSession != "" {
		back := to
		if local(to) {
			back = scheme + "://" + host + to
		}
		q := url.Values{"client_id": {l.doc.ClientID}, "post_logout_redirect_uri": {back}} // spec: OpenID Connect RP-Initiated Logout 1.0 §2
		if s, err := l.session(&x.Request.Header, scheme); err == nil && s != nil && s.Hint != "" {
			q.Set("id_token_hint", s.Hint)
		}
		to = withQuery(about.EndSession, q)
	}
	c.count("login", "ended")
	l.lead(x, to)
	for i := range mostChunks {
		x.Response.Header.Add("Set-Cookie", l.cookie(chunkName(l.cookieName(scheme), i), "", "/", scheme, -1))
	}
}

func (l *login) id() string       { return "login" }
func (l *login) fields() []string { return keysOf(l.doc.Claims) }

// identify returns who has logged in. It is a [method] like the others.
func (l *login) identify(x *filter.Exchange) (*Identity, bool, error) {
	scheme := schemeOf(x)
	h := &x.Request.Header
	s, err := l.session(h, scheme)
	if s == nil || err != nil {
		return nil, false, nil
	}
	now := l.kit.now()
	if now.Sub(time.Unix(s.Began, 0)) >= l.lifetime {
		return nil, false, nil
	}
	if now.Unix() >= s.Until {
		if s, err = l.renew(x, s, scheme); err != nil {
			_, over := errors.AsType[wrong](err)
			return nil, !over, err
		}
	}
	if l.doc.AccessToken && s.Access != "" {
		h.Set("X-Forwarded-Access-Token", s.Access)
	}
	if l.doc.Bearer && s.Access != "" {
		h.Set("Authorization", "Bearer "+s.Access)
	}
	return s.who, true, nil
}

// renewal is a session that takes the place of another.
type renewal struct {
	done    chan struct{} // closed when what follows is there
	session *session
	cookies []string // the same for all who wait: of two sets a browser could keep a part of each
	err     error
	at      time.Time
}

// renew gets new tokens for s, whose are spent. Of requests that come at once with the same cookie one asks the issuer, for a
// refresh token may be good for one time only. An error that is [wrong] means that the login is over.
func (l *login) renew(x *filter.Exchange, s *session, scheme string) (*session, error) {
	if s.Refresh == "" {
		return nil, expired
	}
	key := sha256.Sum256([]byte(scheme + " " + s.Refresh))
	now := l.kit.now()
	l.mu.Lock()
	r := l.renewals[key]
	mine := r == nil
	if mine {
		full := len(l.renewals) >= mostRenewals // then only those that are under way are kept
		for k, old := range l.renewals {
			if !old.at.IsZero() && (full || now.Sub(old.at) > renewedFor) {
				delete(l.renewals, k)
			}
		}
		if len(l.renewals) >= mostRenewals {
			l.mu.Unlock()
			return nil, errors.New("login: too many sessions are being renewed")
		}
		r = &renewal{done: make(chan struct{})}
		l.renewals[key] = r
	}
	l.mu.Unlock()
	if mine {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.Context()), 2*asking) // others wait for it, too
		r.err = errPanicked
		func() {
			defer cancel()
			defer func() {
				l.mu.Lock()
				r.at = now
				if _, over := errors.AsType[wrong](r.err); r.err != nil && !over {
					delete(l.renewals, key) // the next one tries again
				}
				l.mu.Unlock()
				close(r.done)
			}()
			r.session, r.err = l.exchange(ctx, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.Refresh}}, s, "")
			if r.err == nil {
				r.cookies, r.err = l.bake(r.session, scheme)
			}
		}()
	}
	select {
	case <-r.done:
	case <-x.Context().Done():
		return nil, x.Context().Err()
	}
	if r.err != nil {
		return nil, r.err
	}
	x.Set(bakedKey, r.cookies)
	return r.session, nil
}

var errPanicked = errors.New("login: asking the issuer panicked")

// bakedKey is where cookies for the answer are on an exchange.
const bakedKey = "login.cookies"

// bring puts cookies of renewed sessions into the answer, which no cache keeps then: it would give them to others.
func bring() *filter.Filter {
	return &filter.Filter{Name: "LoginCookies", Kind: filter.Outbound, Order: -310, Quick: true, Always: true,
		If: func(x *filter.Exchange) bool { return x.Value(bakedKey) != nil },
		Apply: func(x *filter.Exchange) error {
			cookies, _ := x.Value(bakedKey).([]string)
			for _, c := range cookies {
				x.Response.Header.Add("Set-Cookie", c)
			}
			x.Response.Header.Set("Cache-Control", "no-store")
			return nil
		}}
}

// exchange gets tokens from the issuer by form, and makes them a session, of which before is the one that it goes on from. An
// error that is [wrong] is the issuer's no.
func (l *login) exchange(ctx context.Context, form url.Values, before *session, nonce string) (*session, error) {
	about, err := l.issuer.about(ctx)
	if err != nil {
		return nil, err
	}
	t, err := l.issuer.tokens(ctx, about, form)
	if err != nil {
		return nil, err
	}
	now := l.kit.now()
	s := &session{Access: t.Access, Refresh: t.Refresh, Began: now.Unix()}
	if before != nil {
		s.Began, s.Claims, s.Hint = before.Began, before.Claims, before.Hint
		if s.Refresh == "" {
			s.Refresh = before.Refresh
		}
	}
	until := now.Add(time.Duration(t.ExpiresIn) * time.Second)
	if t.ExpiresIn <= 0 {
		until = now.Add(remembered) // nobody tells, unless an ID token does
	}
	if t.ID != "" || before == nil {
		claims, valid, err := l.ids.claims(ctx, t.ID)
		if err != nil {
			return nil, err
		}
		told, _ := claims["nonce"].(string)
		sub, _ := claims["sub"].(string)
		party, several := claims["azp"].(string)
		switch {
		case sub == "": // spec: OpenID Connect Core 1.0 §2
			return nil, notValid
		case before == nil && subtle.ConstantTimeCompare([]byte(told), []byte(nonce)) != 1, several && party != l.doc.ClientID:
			return nil, notValid
		case before != nil && before.Claims["sub"] != sub: // spec: OpenID Connect Core 1.0 §12.2
			return nil, notValid
		}
		if t.ExpiresIn <= 0 {
			until = valid
		}
		if err := l.complete(ctx, about, t.Access, claims); err != nil {
			return nil, err
		}
		for _, name := range []string{"nonce", "at_hash", "c_hash", "aud", "azp", "iss"} {
			delete(claims, name)
		}
		s.Claims = claims
		if len(t.ID) <= mostHint {
			s.Hint = t.ID
		}
	}
	early := min(renewBefore, until.Sub(now)/4)
	s.Until = until.Add(-early).Unix()
	if s.who = l.ids.identity(s.Claims); s.who == nil {
		return nil, wrong("the issuer does not tell the claim that names the user, " + l.ids.doc.UserClaim)
	}
	return s, nil
}

// complete asks the issuer for claims that are wanted and that its ID token does not have.
func (l *login) complete(ctx context.Context, about *addresses, access string, claims jwt.MapClaims) error {
	lacks := func(name string) bool { return claims[name] == nil }
	if about.UserInfo == "" || access == "" || !lacks(l.ids.doc.UserClaim) && !(slices.Contains(l.doc.Scopes, "email") && lacks("email")) && !(slices.Contains(l.doc.Scopes, "profile") && lacks("preferred_username") && lacks("name")) &&
		!slices.ContainsFunc(keysOf(l.doc.Claims), func(f string) bool { return lacks(l.doc.Claims[f]) }) {
		return nil
	}
	more, err := l.issuer.userInfo(ctx, about, access)
	if err != nil {
		return err
	}
	if sub, _ := more["sub"].(string); claims["sub"] != sub { // spec: OpenID Connect Core 1.0 §5.3.2
		return notValid
	}
	for name, v := range more {
		if lacks(name) {
			claims[name] = v
		}
	}
	return nil
}

// random returns 128 bits of chance as text.
func random() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}
