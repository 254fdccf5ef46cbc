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

	mu    sync.Mutex // held while it is asked
	now   *addresses
	at    time.Time // of now
	tried time.Time
	why   error // of the last try
}

// addresses are what an issuer says of itself. spec: OpenID Connect Discovery 1.0 §3
type addresses struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	EndSession    string   `json:"end_session_endpoint"`
	Methods       []string `json:"token_endpoint_auth_methods_supported"`
}

const addressesFor = time.Hour

// about returns the issuer's addresses; those of before if it cannot be asked.
func (p *provider) about(ctx context.Context) (*addresses, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.source.clock()
	if p.now != nil && now.Sub(p.at) < addressesFor {
		return p.now, nil
	}
	if p.tried.IsZero() || now.Sub(p.tried) >= askAgain {
		p.tried = now
		a, err := p.ask(context.WithoutCancel(ctx))
		if p.why = err; err == nil {
			p.now, p.at = a, now
		}
	}
	if p.now != nil {
		return p.now, nil
	}
	return nil, p.why
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
