package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// provider is where people log in.
type provider struct {
	source *source // of its keys, which knows how it is asked
	login  *login

	mu    sync.Mutex // guards what follows
	now   *addresses
	at    time.Time // of now
	tried time.Time
	why   error         // of the last try
	asked chan struct{} // closed once it has answered, or not; nil: it is not being asked
}

// addresses are what an issuer says of itself. spec: OpenID Connect Discovery 1.0 §3
type addresses struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	EndSession    string   `json:"end_session_endpoint"`
	Methods       []string `json:"token_endpoint_auth_methods_supported"`
	TellsIssuer   bool     `json:"authorization_response_iss_parameter_supported"` // spec: RFC 9207 §3
}

const addressesFor = time.Hour

// about returns the issuer's addresses. Those of before go on while it is asked for them anew, and if it cannot be; without any
// all who need them wait for the same answer.
func (p *provider) about(ctx context.Context) (*addresses, error) {
	p.mu.Lock()
	now, have := p.source.clock(), p.now
	old := have == nil || now.Sub(p.at) >= addressesFor
	mine := old && p.asked == nil && (p.tried.IsZero() || now.Sub(p.tried) >= askAgain)
	if mine {
		p.tried, p.asked = now, make(chan struct{})
	}
	asked, why := p.asked, p.why
	p.mu.Unlock()
	if mine {
		p.login.kit.aside("login", func(ctx context.Context) { p.renew(ctx, now) })
	}
	switch {
	case have != nil:
		return have, nil
	case asked == nil:
		return nil, why
	}
	select {
	case <-asked:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil {
		return nil, p.why
	}
	return p.now, nil
}

// renew asks the issuer, on behalf of all.
func (p *provider) renew(ctx context.Context, now time.Time) {
	a, err := (*addresses)(nil), errPanicked
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.why = err; err == nil {
			p.now, p.at = a, now
		}
		close(p.asked)
		p.asked = nil
	}()
	a, err = p.ask(ctx)
}

func (p *provider) ask(ctx context.Context) (*addresses, error) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	name := p.login.doc.Issuer
	text, err := p.source.get(ctx, strings.TrimRight(name, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	a := new(addresses)
	if err := json.Unmarshal([]byte(text), a); err != nil {
		return nil, fmt.Errorf("what %s says of itself is no JSON: %w", name, err)
	}
	if a.Issuer != name {
		return nil, fmt.Errorf("%s says that it is %q; give the issuer as it names itself", name, a.Issuer)
	}
	for what, u := range map[string]*string{"authorization_endpoint": &a.Authorization, "token_endpoint": &a.Token, "userinfo_endpoint": &a.UserInfo, "end_session_endpoint": &a.EndSession} {
		if *u == "" && u != &a.Authorization && u != &a.Token {
			continue
		}
		if err := webURL(*u); err != nil {
			return nil, fmt.Errorf("%s has no good %s: %w", name, what, err)
		}
	}
	return a, nil
}

// issued is what a token endpoint gives.
type issued struct {
	Access    string `json:"access_token"`
	Refresh   string `json:"refresh_token"`
	ID        string `json:"id_token"`
	Type      string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"` // seconds; 0: not told
}

// tokens asks the token endpoint. An error that is [wrong] is its no. spec: RFC 6749 §4.1.3, §6
func (p *provider) tokens(ctx context.Context, about *addresses, form url.Values) (*issued, error) {
	secret, err := p.login.secret()
	if err != nil {
		return nil, err
	}
	id := p.login.doc.ClientID
	inBody := secret == "" || len(about.Methods) > 0 && !slices.Contains(about.Methods, "client_secret_basic") && slices.Contains(about.Methods, "client_secret_post")
	if inBody {
		form.Set("client_id", id)
		if secret != "" {
			form.Set("client_secret", secret)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, about.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if !inBody {
		req.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret)) // spec: RFC 6749 §2.3.1
	}
	text, status, err := p.fetch(req)
	if err != nil {
		return nil, err
	}
	if status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden {
		var no struct {
			Error string `json:"error"`
		}
		json.Unmarshal(text, &no) //nolint:errcheck // then it says nothing
		if no.Error == "invalid_grant" || no.Error == "access_denied" {
			return nil, wrong("the issuer says " + no.Error)
		}
		return nil, fmt.Errorf("%s answers %d %q; do clientId and clientSecret, and the redirect URI that it knows, fit?", about.Token, status, no.Error)
	}
	t := new(issued)
	if status != http.StatusOK || json.Unmarshal(text, t) != nil {
		return nil, fmt.Errorf("%s answers %d, and no tokens", about.Token, status)
	}
	if t.Access != "" && !strings.EqualFold(t.Type, "Bearer") || !fitLong(t.Access) || len(t.Refresh) > longestToken || t.ExpiresIn < 0 || t.ExpiresIn > 1<<31 {
		return nil, fmt.Errorf("%s gives tokens that cannot be used here, of type %.20q", about.Token, t.Type)
	}
	return t, nil
}

// fitLong reports whether a field may hold a token, or none.
func fitLong(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) <= longestToken
}

// userInfo asks for what the issuer knows of whom an access token is for.
func (p *provider) userInfo(ctx context.Context, about *addresses, access string) (jwt.MapClaims, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, about.UserInfo, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+access)
	req.Header.Set("Accept", "application/json")
	text, status, err := p.fetch(req)
	if err != nil {
		return nil, err
	}
	claims := jwt.MapClaims{}
	if status != http.StatusOK || json.Unmarshal(text, &claims) != nil {
		return nil, fmt.Errorf("%s answers %d, and no claims", about.UserInfo, status)
	}
	return claims, nil
}

func (p *provider) fetch(req *http.Request) (text []byte, status int, err error) {
	resp, err := p.source.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // it is only read
	text, err = io.ReadAll(io.LimitReader(resp.Body, largestSet+1))
	if err == nil && len(text) > largestSet {
		err = errors.New("it answers with too much")
	}
	return text, resp.StatusCode, err
}
