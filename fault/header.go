package fault

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Key signs and verifies headers. All services of one platform share it through config.
type Key []byte

// MaxHeader is the longest header value that [Parse] accepts, in bytes.
const MaxHeader = 2 << 10

// Why a header is not accepted. Such a header injects nothing; the request goes on as if it had none.
var (
	ErrMalformed = errors.New("the header is not of the form id=…; exp=…; r=\"…\"; sig=…")
	ErrUnsigned  = errors.New("the signature does not match; only the edge, which has the key, may make such headers")
	ErrExpired   = errors.New("the header has expired")
)

// Sign returns the header value that carries rules for the experiment id until expires. The rules must be what
// [ParseRules] accepts and id must be of letters, digits and ".-_"; else receivers ignore the header.
func Sign(k Key, id string, expires time.Time, rules string) string {
	rules = strings.Join(strings.Fields(rules), "") // no rule has blanks in it, and a header must not have line ends
	body := "id=" + id + "; exp=" + strconv.FormatInt(expires.Unix(), 10) + "; r=\"" + rules + "\""
	return body + "; sig=" + signature(k, body)
}

func signature(k Key, body string) string {
	m := hmac.New(sha256.New, k)
	m.Write([]byte(body)) // never fails
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

// Parse verifies a header value and returns its rules for the request with that id. An empty header is (nil, nil).
// Otherwise it fails with [ErrMalformed], [ErrUnsigned] or [ErrExpired]. The signature is checked before anything
// else is read.
func Parse(k Key, header, requestID string, now time.Time) (*Context, error) {
	if header == "" {
		return nil, nil
	}
	if len(header) > MaxHeader {
		return nil, fmt.Errorf("fault: header of %d bytes, more than %d: %w", len(header), MaxHeader, ErrMalformed)
	}
	i := strings.LastIndex(header, "; sig=")
	if i < 0 {
		return nil, fmt.Errorf("fault: no signature: %w", ErrMalformed)
	}
	body, sig := header[:i], header[i+len("; sig="):]
	if len(k) == 0 || !hmac.Equal([]byte(sig), []byte(signature(k, body))) {
		return nil, fmt.Errorf("fault: %w", ErrUnsigned)
	}
	rest, ok := strings.CutPrefix(body, "id=")
	if !ok {
		return nil, fmt.Errorf("fault: no id: %w", ErrMalformed)
	}
	id, rest, ok := strings.Cut(rest, "; exp=")
	if !ok || !validID(id) {
		return nil, fmt.Errorf("fault: bad id: %w", ErrMalformed)
	}
	exp, rest, ok := strings.Cut(rest, "; r=\"")
	unix, err := strconv.ParseInt(exp, 10, 64)
	if !ok || err != nil {
		return nil, fmt.Errorf("fault: bad expiry: %w", ErrMalformed)
	}
	text, ok := strings.CutSuffix(rest, "\"")
	if !ok {
		return nil, fmt.Errorf("fault: rules are not in quotes: %w", ErrMalformed)
	}
	if now.Unix() >= unix {
		return nil, fmt.Errorf("fault: experiment %s, at %s: %w", id, time.Unix(unix, 0).UTC().Format(time.RFC3339), ErrExpired)
	}
	rules, err := ParseRules(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	c := &Context{id: id, request: requestID, header: header, rules: rules, expires: time.Now().Add(time.Unix(unix, 0).Sub(now))}
	if slices.ContainsFunc(rules, func(r Rule) bool { return r.max > 0 }) {
		c.hits = make([]atomic.Int32, len(rules))
	}
	return c, nil
}

func validID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for _, c := range []byte(id) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}
