package auth

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// session is what a cookie tells of someone who has logged in.
type session struct {
	Claims  jwt.MapClaims `json:"c"`
	Access  string        `json:"a,omitempty"`
	Refresh string        `json:"r,omitempty"`
	Hint    string        `json:"h,omitempty"` // the ID token, by which the issuer knows whom to log out
	Began   int64         `json:"b"`           // Unix time of the login
	Until   int64         `json:"u"`           // Unix time from which its tokens are renewed

	who *Identity
	by  *[]string // the secrets that opened it
}

// attempt is a login that is under way.
type attempt struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	To       string `json:"t"`
	At       int64  `json:"a"` // Unix time
}

// A cookie has some 4 KiB at most, its name included; what is longer is in several. Source: RFC 6265 §6.1
const (
	chunkSize   = 3800
	mostChunks  = 5
	mostSession = 256 << 10 // bytes, unpacked
	mostHint    = 2 << 10
)

// context is what a sealed text is for. One that is for something else is not opened.
func (l *login) context(purpose string) string {
	return strings.Join([]string{"roadbed edge login", purpose, l.doc.Issuer, l.doc.ClientID, l.doc.Cookie}, "\n")
}

// mark begins the value of each cookie that the edge seals, which it knows by that on routes that no login guards.
const mark = "roadbed."

// seal returns v packed, encrypted and signed by the newest secret, for that context.
func (k *kit) seal(context string, v any) (string, error) {
	var packed bytes.Buffer
	z, err := flate.NewWriter(&packed, flate.BestSpeed)
	if err != nil {
		return "", err
	}
	if err := errors.Join(json.NewEncoder(z).Encode(v), z.Close()); err != nil {
		return "", err
	}
	g, err := aead((*k.secrets())[0], context)
	if err != nil {
		return "", err
	}
	nonce := make([]byte, g.NonceSize(), g.NonceSize()+packed.Len()+g.Overhead())
	rand.Read(nonce) // never fails
	return base64.RawURLEncoding.EncodeToString(g.Seal(nonce, nonce, packed.Bytes(), nil)), nil
}

var errNotOurs = errors.New("it was not sealed here, for this")

// open reads what seal has made by one of the secrets into v.
func open(secrets []string, context, sealed string, v any) error {
	b, err := base64.RawURLEncoding.DecodeString(sealed)
	if err != nil {
		return errNotOurs
	}
	for _, secret := range secrets {
		g, err := aead(secret, context)
		if err != nil {
			return err
		}
		if len(b) < g.NonceSize() {
			return errNotOurs
		}
		packed, err := g.Open(nil, b[:g.NonceSize()], b[g.NonceSize():], nil)
		if err != nil {
			continue
		}
		return json.NewDecoder(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), mostSession)).Decode(v)
	}
	return errNotOurs
}

// aead returns the cipher of a secret for a context.
func aead(secret, context string) (cipher.AEAD, error) {
	mac := hmac.New(sha256.New, []byte(secret))
	io.WriteString(mac, context) //nolint:errcheck // never fails
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// cookieName is the session's. Over TLS no other host of the domain can set it. Source: RFC 6265bis, __Host-
func (l *login) cookieName(scheme string) string {
	if scheme == "https" {
		return l.secureName
	}
	return l.doc.Cookie
}

// attemptName is the name of an attempt's cookie: each its own, for several pages may be opened at once. Its path is not that
// of all the host, so that it cannot be __Host-.
func (l *login) attemptName(scheme, state string) string {
	name := l.doc.Cookie + "-login-" + state[:min(len(state), 8)]
	if scheme == "https" {
		return "__Secure-" + name
	}
	return name
}

func chunkName(name string, i int) string {
	if i == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(i)
}

// cookie is the field that sets one; a lifetime below 0 takes it back.
func (l *login) cookie(name, value, path, scheme string, lifetime time.Duration) string {
	secure := ""
	if scheme == "https" {
		secure = "; Secure"
	}
	return name + "=" + value + "; Path=" + path + "; Max-Age=" + strconv.Itoa(int(max(lifetime, 0)/time.Second)) + "; HttpOnly; SameSite=Lax" + secure
}

// bake returns the fields that set a session's cookies.
func (l *login) bake(s *session, scheme string) ([]string, error) {
	sealed, err := l.kit.seal(l.context("session"), s)
	if err != nil {
		return nil, err
	}
	n := (len(sealed) + chunkSize - 1) / chunkSize
	if n > mostChunks {
		return nil, fmt.Errorf("login: what the issuer tells takes %d bytes; %d are the most that cookies hold; ask it for less by scopes", len(sealed), mostChunks*chunkSize)
	}
	left := l.lifetime - l.kit.now().Sub(time.Unix(s.Began, 0))
	var out []string
	for i := range n {
		part := sealed[i*chunkSize : min(len(sealed), (i+1)*chunkSize)]
		if i == 0 {
			part = strconv.Itoa(n) + "." + part
		}
		out = append(out, l.cookie(chunkName(l.cookieName(scheme), i), mark+part, "/", scheme, left))
	}
	return out, nil
}

// session returns the one that the request's cookies tell; nil if there is none, and an error if it is not ours.
//
// hot path: 0 allocs, BenchmarkKnownSession
func (l *login) session(h *filter.Header, scheme string) (*session, error) {
	name := l.cookieName(scheme)
	first, ok := strings.CutPrefix(cookie(h, name), mark)
	if !ok || len(first) < 2 || first[1] != '.' || first[0] < '1' || first[0] > '0'+mostChunks {
		return nil, nil
	}
	sealed := first[2:]
	for i := 1; i < int(first[0]-'0'); i++ {
		sealed += strings.TrimPrefix(cookie(h, chunkName(name, i)), mark)
	}
	now, secrets := l.kit.now(), l.kit.secrets()
	if s, ok := l.seen.get(sealed, now.UnixNano()); ok && s.by == secrets {
		return s, nil
	}
	s := &session{by: secrets}
	if err := open(*secrets, l.context("session"), sealed, s); err != nil {
		return nil, err
	}
	if s.who = l.ids.identity(s.Claims); s.who == nil {
		return nil, errNotOurs
	}
	l.seen.put(sealed, s, now.Add(remembered).UnixNano())
	return s, nil
}

// attempt returns the one that the request's cookie tells for a state.
func (l *login) attempt(h *filter.Header, scheme, state string) (a attempt, ok bool) {
	if state == "" || len(state) > mostParam {
		return a, false
	}
	err := open(*l.kit.secrets(), l.context("attempt"), strings.TrimPrefix(cookie(h, l.attemptName(scheme, state)), mark), &a)
	return a, err == nil && a.State == state && local(a.To)
}

// unseal is the filter that takes the edge's own cookies out of a request, whatever its route, once all who read them have: a
// service could use them in its user's name.
//
// hot path: 0 allocs without any, BenchmarkNoSession
func unseal() *filter.Filter {
	return &filter.Filter{Name: "LoginCookies", Kind: filter.Inbound, Quick: true, Guard: true,
		If: func(x *filter.Exchange) bool {
			h := &x.Request.Header
			if !h.Has("Cookie") {
				return false
			}
			for i := range h.Fields() {
				if f := &h.Fields()[i]; filter.Same(f.Name, "Cookie") && strings.Contains(f.Value, mark) {
					return true
				}
			}
			return false
		},
		Apply: func(x *filter.Exchange) error {
			x.Request.Header.DelFunc(func(f *filter.Field) bool {
				if !filter.Same(f.Name, "Cookie") {
					return false
				}
				f.Value = others(f.Value)
				return f.Value == ""
			})
			return nil
		}}
}

// others returns the cookies of a field that are not the edge's own.
func others(field string) string {
	if !strings.Contains(field, mark) {
		return field
	}
	var kept []string
	for pair := range strings.SplitSeq(field, ";") {
		pair = strings.TrimSpace(pair)
		if _, v, _ := strings.Cut(pair, "="); pair != "" && !strings.HasPrefix(strings.Trim(v, `" `), mark) {
			kept = append(kept, pair)
		}
	}
	return strings.Join(kept, "; ")
}
