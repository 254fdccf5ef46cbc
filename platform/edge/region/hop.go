package region

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cespare/xxhash/v2"
)

// HopHeader says which region has sent a request to another one. A request that has it is not sent on again.
const HopHeader = "X-Edge-Hop"

// A hop is
//
//	east; to=west; at=1767225600; sig=sqEBfcA3rTbUWcxSXZ0bsw
//
// from, to, when in seconds, and the first half of the HMAC-SHA256 of what stands before the signature.
const (
	hopLife = time.Minute // and as long before its time: clocks differ
	maxHop  = 256         // bytes
)

var (
	errHopMalformed   = errors.New("it is no hop")
	errHopForged      = errors.New("its signature is not of the key that is in force")
	errHopStale       = errors.New("its time is over")
	errHopUncertified = errors.New("it comes without the certificate of its region's edges")
	errHopElsewhere   = errors.New("it is for another region")
)

// mistrust is the last request that said it came from a region there is, and was not believed.
type mistrust struct {
	from string
	why  error
	at   time.Time
}

// mistrustFor is how long it is a problem.
const mistrustFor = time.Minute

// doubted takes note of a hop that is not believed, if it says it is from a region there is.
func (r *Regions) doubted(p *picture, hop string, why error, now time.Time) {
	from, _, _ := strings.Cut(hop, ";")
	g := p.find(from)
	if g == nil || errors.Is(why, errHopMalformed) {
		return // no edge wrote that
	}
	if m := r.mistrusted.Load(); m == nil || m.from != g.name || !errors.Is(m.why, why) || now.Sub(m.at) > time.Second {
		r.mistrusted.Store(&mistrust{g.name, why, now})
	}
}

// problem says what is wrong between this region and one whose requests are not believed; empty if nothing is.
func (m *mistrust) problem(now time.Time) string {
	if m == nil || now.Sub(m.at) > mistrustFor {
		return ""
	}
	why := "another key; give all regions the same edge.regions.key"
	switch {
	case errors.Is(m.why, errHopStale):
		why = "its clock is more than a minute off; set both clocks"
	case errors.Is(m.why, errHopUncertified):
		why = "no certificate for its identity; see edge.regions.tls.certs there"
	case errors.Is(m.why, errHopElsewhere):
		why = "it asks for another region; its edges are not these"
	}
	return "who says to be " + m.from + " is not believed: " + why
}

// sign returns the hop of a request that goes from a region to another.
func sign(key string, from, to string, at time.Time) string {
	body := from + "; to=" + to + "; at=" + strconv.FormatInt(at.Unix(), 10)
	return body + "; sig=" + signature(key, body)
}

func signature(key string, body string) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(HopHeader + ": " + body)) // with its name, lest the key's other uses make one
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

// verify returns which region a hop to this one is from, and when its time is over. The signature is looked at before
// anything else is.
func verify(key string, own, hop string, now time.Time) (from string, until time.Time, err error) {
	if len(hop) > maxHop {
		return "", until, errHopMalformed
	}
	i := strings.LastIndex(hop, "; sig=")
	if i < 0 {
		return "", until, errHopMalformed
	}
	if len(key) == 0 || subtle.ConstantTimeCompare([]byte(hop[i+len("; sig="):]), []byte(signature(key, hop[:i]))) != 1 {
		return "", until, errHopForged
	}
	from, rest, ok := strings.Cut(hop[:i], "; to=")
	to, second, also := strings.Cut(rest, "; at=")
	n, err := strconv.ParseInt(second, 10, 64)
	if !ok || !also || err != nil || n < 0 || n > 1<<40 || !validName(from) || !validName(to) {
		return "", until, errHopMalformed
	}
	at := time.Unix(n, 0)
	switch {
	case to != own:
		return "", until, errHopElsewhere
	case now.Sub(at) > hopLife || at.Sub(now) > hopLife:
		return "", until, errHopStale
	}
	return from, at.Add(hopLife), nil
}

// seen are hops that were verified, so that one that comes again, as an edge's do for a second, costs little.
type seen [32]atomic.Pointer[verified]

type verified struct {
	key, hop, from string
	until          int64 // seconds
}

// from returns which region a hop is from; empty if it is not valid.
//
// hot path: 0 allocs, BenchmarkArrived
func (s *seen) from(key string, own, hop string, now int64) (string, error) {
	if len(hop) > maxHop {
		return "", errHopMalformed
	}
	slot := &s[xxhash.Sum64String(hop)%uint64(len(s))]
	if v := slot.Load(); v != nil && now <= v.until && v.key == key && len(v.hop) == len(hop) && constantSame(v.hop, hop) {
		return v.from, nil
	}
	from, until, err := verify(key, own, hop, time.Unix(now, 0))
	if err != nil {
		return "", err
	}
	hop = strings.Clone(hop)
	slot.Store(&verified{key, hop, hop[:len(from)], until.Unix()})
	return hop[:len(from)], nil
}

// constantSame compares strings of one length in a time that does not tell where they differ.
func constantSame(a, b string) bool {
	var diff byte
	for i := range len(a) {
		diff |= a[i] ^ b[i]
	}
	return diff == 0
}

// stamp is the hop that an edge signs for one target. It is made anew each second.
type stamp struct{ now atomic.Pointer[stamped] }

type stamped struct {
	at  int64
	key string
	hop string
}

func (s *stamp) hop(key string, from, to string, now int64) string {
	if h := s.now.Load(); h != nil && h.at == now && h.key == key {
		return h.hop
	}
	h := &stamped{now, key, sign(key, from, to, time.Unix(now, 0))}
	s.now.Store(h)
	return h.hop
}
