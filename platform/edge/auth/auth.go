// Package auth finds out who asks, and refuses who may not: by signed tokens (JWT, OpenID Connect), API keys, passwords,
// client certificates, a login with an issuer of OpenID Connect, or by asking a service of yours. At Netflix the edge did this so
// that services need not.
//
//	{"oidc": {"issuer": "https://login.example.com", "audience": ["shop"]}, "apiKey": {"keys": {"batch": "<sha-256, hex>"}}}
//
// The property edge.auth holds such a document for all requests; routes have their own by [Auth.Route]. Of several methods
// in a document one must accept: the first whose credentials a request brings decides, in the order jwt, oidc, apiKey, basic,
// mtls, login; without any, forwardAuth is asked if there is one, or a browser is led to the login. What a document says is in
// [Document].
//
// Services learn who asks by X-Forwarded-User, -Email, -Groups and -Preferred-Username, as oauth2-proxy has them, and by
// X-Forwarded-Client-Cert, as Envoy has it.
//
// # What it promises
//   - What clients send in these fields reaches no service: it is taken out wherever authentication is asked for, and
//     everywhere unless the peer is trusted; X-Forwarded-Client-Cert always.
//   - A token is accepted if its signature, its times, its issuer and its audience are right, by an algorithm that the
//     document lists, and by a key that fits the algorithm.
//   - A token that was seen before takes no memory; it is believed for 5 minutes at most, and no longer than it is valid.
//   - A refusal says nothing but that credentials are missing, wrong or expired.
//   - If keys or a service that decides cannot be had, the answer is 503: nobody is let in unchecked.
//   - Of a login no edge keeps anything: it is in the browser's cookies, encrypted and signed by the property
//     edge.auth.sessionSecret, 32 characters or more, that all edges share. Several with commas between: the first seals, all open.
//     Without it each edge makes one of its own, which ends with it. What a secret sealed is not believed any more from the moment
//     that it is removed. These cookies reach no service, whatever its route.
//   - No page of another host can log a user out: who may come from there is asked first.
//   - Where a login leads to afterwards is a path of the host where it began, and nowhere else.
//
// # What it does not
//   - It shows no page of its own but that question: people log in at the issuer's.
//   - It does not ask an issuer whether a token was revoked. A login ends when the issuer renews its tokens no more, or with its
//     lifetime; whoever has copied a session's cookies before it was logged out can use them until then.
//   - Two edges that renew a session's tokens in the same moment ask twice. If the issuer takes the second time for a theft, the
//     user has to log in again.
package auth

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config says what authentication needs to know. All of it may be empty.
type Config struct {
	Properties *config.Properties
	Meter      *meter.Registry
	Log        *slog.Logger      // nil: slog.Default()
	Instance   string            // of this edge, By in X-Forwarded-Client-Cert
	Apps       http.RoundTripper // takes names of apps for hosts: asked for URLs vip://app/path; nil: there are none
}

// Auth makes filters that find out who asks.
type Auth struct {
	all      atomic.Pointer[checker] // nil: nobody is asked
	instance string
	certs    *cache[string]
	kit      kit
}

// kit is what all checkers share.
type kit struct {
	direct, apps *http.Client     // apps is nil without any
	secrets      func() *[]string // that sessions are sealed with: the first one; the others open those of before. Others are at another place
	results      func(method, result string) *meter.Counter
	now          func() time.Time
	panics       *filter.Panics

	life  context.Context // of what is done aside
	end   context.CancelFunc
	mu    sync.Mutex     // held while something is begun, or life ends
	parts sync.WaitGroup // counts what is done aside
}

// aside has something done that no request waits for by itself; at once, and with a context that has ended, if the edge has.
func (k *kit) aside(where string, do func(context.Context)) {
	k.mu.Lock()
	over := k.life.Err() != nil
	if !over {
		k.parts.Go(func() {
			defer k.panics.Catch(where, nil)
			do(k.life)
		})
	}
	k.mu.Unlock()
	if over {
		do(k.life)
	}
}

const asking = 5 * time.Second // for keys

// New returns the filters' maker. It follows the property edge.auth; a document with a mistake is refused whole, and the one
// before it stays in force.
func New(c Config) *Auth {
	a := &Auth{instance: c.Instance, certs: newCache[string](1000)}
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	direct := http.DefaultTransport.(*http.Transport).Clone()
	direct.MaxIdleConnsPerHost = 64
	life, end := context.WithCancel(context.Background())
	a.kit = kit{
		direct: &http.Client{CheckRedirect: stay, Transport: direct}, now: time.Now, panics: filter.NewPanics(c.Meter, c.Log), life: life, end: end,
		results: func(method, result string) *meter.Counter {
			return c.Meter.Counter("edge.auth", "edge.method", method, "edge.result", result)
		},
	}
	if c.Apps != nil {
		a.kit.apps = &http.Client{CheckRedirect: stay, Transport: c.Apps}
	}
	a.kit.secrets = secrets(c.Properties)
	text := c.Properties.String("edge.auth", "")
	set := func(_, text string) {
		if strings.TrimSpace(text) == "" {
			a.all.Store(nil)
			return
		}
		k, err := a.kit.parse([]byte(text))
		if err != nil {
			c.Properties.Refuse("edge.auth", text, err)
			return
		}
		a.all.Store(k)
	}
	text.OnChange(set)
	set("", text.Get())
	return a
}

// Close ends what is done for no request alone, and gives idle connections to services that are asked back.
func (a *Auth) Close() {
	a.kit.mu.Lock()
	a.kit.end()
	a.kit.mu.Unlock()
	a.kit.parts.Wait()
	a.kit.direct.CloseIdleConnections()
}

// Filters returns the filters of all requests.
func (a *Auth) Filters() []*filter.Filter {
	return []*filter.Filter{
		{Name: "Misdirected", Kind: filter.Inbound, Order: -985, Quick: true, Guard: true,
			If: (*filter.Exchange).Certified, Apply: misdirected},
		{Name: "ClientCert", Kind: filter.Inbound, Order: -310, Quick: true, Guard: true,
			If: (*filter.Exchange).Certified, Apply: a.clientCert},
		{Name: "Auth", Kind: filter.Inbound, Order: -300, Guard: true,
			If: func(*filter.Exchange) bool { return a.all.Load() != nil },
			Apply: func(x *filter.Exchange) error {
				if k := a.all.Load(); k != nil {
					return k.check(x)
				}
				return nil
			}},
		unseal(), bring(),
	}
}

// secrets returns those that sessions are sealed with, as the property has them now.
func secrets(p *config.Properties) func() *[]string {
	own := []string{random() + random()}
	var now atomic.Pointer[[]string]
	set := func(_, text string) {
		list, err := config.ParseList(text)
		for _, s := range list {
			if err == nil && len(s) < 32 {
				err = errors.New("a secret has 32 characters or more")
			}
		}
		if err != nil {
			p.Refuse("edge.auth.sessionSecret", text, err)
			return
		}
		if len(list) == 0 {
			list = own
		}
		now.Store(&list)
	}
	now.Store(&own)
	text := p.String("edge.auth.sessionSecret", "")
	text.OnChange(set)
	set("", text.Get())
	return now.Load
}

// Route makes the filter of a route's auth from a [Document].
func (a *Auth) Route(with json.RawMessage) ([]*filter.Filter, error) {
	k, err := a.kit.parse(with)
	if err != nil {
		return nil, err
	}
	return []*filter.Filter{{Name: "RouteAuth", Kind: filter.Inbound, Guard: true, Apply: k.check}}, nil
}

// misdirected refuses what a client certificate was not shown for: a connection that was made for one name, and now asks
// for another, which may want another certificate. spec: RFC 9110 §15.5.20
func misdirected(x *filter.Exchange) error {
	host := x.Request.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if sni := x.Client.TLS.ServerName; sni != "" && !strings.EqualFold(strings.TrimSuffix(sni, "."), strings.TrimSuffix(host, ".")) {
		return &filter.Error{Status: http.StatusMisdirectedRequest, Category: filter.FailureBadRequest,
			Reason: "this connection was made, and its client certificate shown, for another host; open one for this host"}
	}
	return nil
}

// clientCert tells the origin whose certificate was shown.
func (a *Auth) clientCert(x *filter.Exchange) error {
	leaf := x.Client.TLS.PeerCertificates[0]
	key := string(leaf.Raw)
	text, ok := a.certs.get(key, 0)
	if !ok {
		text = certText(a.instance, x.Client.TLS)
		a.certs.put(key, text, 1)
	}
	x.Request.Header.Set("X-Forwarded-Client-Cert", text)
	return nil
}

// certText is a certificate as X-Forwarded-Client-Cert has it. Source: Envoy, HTTP headers, x-forwarded-client-cert.
func certText(by string, state *tls.ConnectionState) string {
	leaf := state.PeerCertificates[0]
	var b strings.Builder
	if by != "" {
		fmt.Fprintf(&b, "By=%s;", quoted(by))
	}
	fmt.Fprintf(&b, "Hash=%s;Subject=%s", sum(leaf.Raw), always(quoted(leaf.Subject.String())))
	for _, u := range leaf.URIs {
		fmt.Fprintf(&b, ";URI=%s", quoted(u.String()))
	}
	return b.String()
}

// quoted returns s as a value of the field: in quotes if it has a character that means something there, and without what no
// field may hold.
func quoted(s string) string {
	var b strings.Builder
	special := false
	for _, r := range s {
		switch {
		case r < ' ' || r == 0x7f:
			continue
		case r == '"' || r == '\\':
			special = true
			b.WriteByte('\\')
		case r == ',' || r == ';' || r == '=':
			special = true
		}
		b.WriteRune(r)
	}
	if special {
		return `"` + b.String() + `"`
	}
	return b.String()
}

// always puts s in quotes if it is not.
func always(s string) string {
	if strings.HasPrefix(s, `"`) {
		return s
	}
	return `"` + s + `"`
}
