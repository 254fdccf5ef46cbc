package region

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/route"
)

// source is where in a request something is told: header:NAME or cookie:NAME. The zero value is nowhere.
type source struct {
	cookie bool
	name   string
}

// UnmarshalText reads header:NAME, cookie:NAME, or nothing.
func (s *source) UnmarshalText(b []byte) error {
	kind, name, _ := strings.Cut(string(b), ":")
	switch {
	case len(b) == 0:
		*s = source{}
	case (kind == "header" || kind == "cookie") && filter.Token(name):
		*s = source{kind == "cookie", name}
	default:
		return fmt.Errorf("%q: use header:NAME or cookie:NAME", b)
	}
	return nil
}

func (s *source) of(h *filter.Header) string {
	switch {
	case s.name == "":
		return ""
	case s.cookie:
		v, _ := route.Cookie(h, s.name)
		return v
	}
	return h.Get(s.name)
}

// user is who asks, as far as can be told: a name, or else an address.
type user struct {
	name string
	addr [16]byte
}

// userOf returns who asks: whom the edge has authenticated, else what named says, else the client's address, of IPv6 its
// first 64 bits, for the rest changes from day to day.
func userOf(x *filter.Exchange, named *source) (u user) {
	if u.name = x.User; u.name == "" {
		u.name = named.of(&x.Request.Header)
	}
	if u.name == "" {
		u.addr = addressOf(x.From)
	}
	return u
}

func addressOf(a netip.Addr) [16]byte {
	if a.Is6() && !a.Is4In6() {
		b := a.As16()
		clear(b[8:])
		return b
	}
	return a.As16()
}

// hash returns a number that is always the same for a user, and another for each salt.
func (u *user) hash(salt, more string) uint64 {
	var d xxhash.Digest
	d.Reset()
	d.WriteString(salt)   //nolint:errcheck // never fails
	d.WriteString("\x00") //nolint:errcheck // as above
	d.WriteString(more)   //nolint:errcheck // as above
	d.WriteString("\x00") //nolint:errcheck // as above
	d.WriteString(u.name) //nolint:errcheck // as above
	if u.name == "" {
		d.Write(u.addr[:]) //nolint:errcheck // as above
	}
	return d.Sum64()
}

// buckets is how finely users are divided.
const buckets = 1 << 32

// moved reports whether a user of a region is among the share, of buckets, that is served elsewhere. Who is stays so while
// the share grows, and who is back stays back while it falls.
func (u *user) moved(home string, share uint64) bool { return u.hash(home, "")>>32 < share }

// pick returns the index of the target that a user of home goes to; -1 if there is none. Of two targets with weights 60 and
// 40, 60 % of users get the first; one that is taken away moves only the users that it had. Those in skip, a bit for each,
// count as taken away.
//
// Source: highest random weight, Thaler and Ravishankar 1998, with weights as in Schindelhauer and Schomaker 2005.
func (u *user) pick(home string, to []target, skip uint64) (best int) {
	best = -1
	least := math.Inf(1)
	for i := range to {
		if skip>>i&1 != 0 {
			continue
		}
		f := (float64(u.hash(home, to[i].name)>>11) + 0.5) / (1 << 53) // above 0, below 1
		if cost := -math.Log(f) / float64(to[i].weight); cost < least {
			best, least = i, cost
		}
	}
	return best
}

// target is a region that users go to.
type target struct {
	name   string
	weight int
	*tunnel
}
