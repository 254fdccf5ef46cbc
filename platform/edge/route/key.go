package route

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// key is what of a request stands for whoever sends it, for choices that shall stay the same.
type key struct {
	kind keyKind
	name string
}

type keyKind uint8

const (
	byUser keyKind = iota
	byClient
	byHeader
	byCookie
	byQuery
)

// parseKey reads user, client, header:NAME, cookie:NAME or query:NAME. acct is another word for user.
func parseKey(s string) (key, error) {
	kind, name, named := strings.Cut(s, ":")
	switch {
	case (s == "user" || s == "acct") && !named:
		return key{kind: byUser}, nil
	case s == "client" && !named:
		return key{kind: byClient}, nil
	case kind == "header" && fieldName(name):
		return key{byHeader, name}, nil
	case kind == "cookie" && fieldName(name):
		return key{byCookie, name}, nil
	case kind == "query" && name != "":
		return key{byQuery, name}, nil
	}
	return key{}, fmt.Errorf("%q: use user, client, header:NAME, cookie:NAME or query:NAME", s)
}

// of returns the key's value in x, and whether there is one.
func (k key) of(x *filter.Exchange, buf *[64]byte) ([]byte, bool) {
	var s string
	switch k.kind {
	case byUser:
		s = x.User
	case byClient:
		a := x.From // what a trusted proxy says, or another region, and not their own address
		if !a.IsValid() && x.Client != nil {
			a = x.Client.Remote.Addr()
		}
		if a == (netip.Addr{}) {
			return nil, false
		}
		return a.AppendTo(buf[:0]), true
	case byHeader:
		s = x.Request.Header.Get(k.name)
	case byCookie:
		s, _ = cookie(&x.Request.Header, k.name)
	case byQuery:
		for v := range queryValues(x.Request.RawQuery, k.name) {
			s = v
			break
		}
	}
	return append(buf[:0], s...), s != ""
}

// bucket returns where the request falls among 10,000, always the same for one salt and key; by chance if it has none.
//
// hot path: 0 allocs, BenchmarkMatchSticky
func (k key) bucket(x *filter.Exchange, salt string) (n int, has bool) {
	var buf [64]byte
	v, has := k.of(x, &buf)
	if !has {
		return rand.IntN(buckets), false
	}
	return bucketOf(salt, v), true
}

// buckets is how finely a stable choice divides.
const buckets = 10_000

// bucketOf is xxhash64(salt + key) mod 10000.
func bucketOf(salt string, key []byte) int {
	var d xxhash.Digest
	d.Reset()
	d.WriteString(salt) //nolint:errcheck // never fails
	d.Write(key)        //nolint:errcheck // never fails
	return int(d.Sum64() % buckets)
}

// cookie returns the value of the first cookie of that name.
func cookie(h *filter.Header, name string) (value string, has bool) {
	for v := range cookies(h, name) {
		return v, true
	}
	return "", false
}

// cookies yields the values of the cookies of that name. spec: RFC 6265 §4.2
func cookies(h *filter.Header, name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for line := range h.Values("Cookie") {
			for line != "" {
				var pair string
				pair, line, _ = strings.Cut(line, ";")
				pair = strings.Trim(pair, " \t")
				if len(pair) > len(name) && pair[len(name)] == '=' && pair[:len(name)] == name && !yield(pair[len(name)+1:]) {
					return
				}
			}
		}
	}
}

// queryValues yields the values of the parameters of that name, unescaped as forms are. One whose escapes are broken is
// yielded as it is.
func queryValues(raw, name string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for raw != "" {
			var pair string
			pair, raw, _ = strings.Cut(raw, "&")
			if pair == "" {
				continue
			}
			k, v, _ := strings.Cut(pair, "=")
			if plain(k) == name && !yield(plain(v)) {
				return
			}
		}
	}
}

// plain unescapes a part of a query. It allocates only if there is something to unescape.
func plain(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}
