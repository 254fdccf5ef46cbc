// Package ratelimit refuses requests of who asks too often: 429.
//
// A limit is a rate, how many requests may come at once beyond it, and what it is counted by:
//
//	{"rate": "100rps", "burst": 50, "key": "client"}
//
// Rates are per second, minute or hour: 100rps, 100/s, 30/m, 1000/h. Keys:
//
//	client       the address of who asks, as trusted proxies tell it; of IPv6 the first 64 bits
//	user         who asks, as authentication has it; without, the client
//	apiKey       the field X-API-Key; without, the client
//	header:NAME  that field; without, the client
//	route        the route
//	all          all requests together
//
// The property edge.ratelimit holds one limit, or a list, for all requests; routes have their own by [Limits.Route].
//
// Tokens come in evenly and are counted by the time at which a key will have all of them again, one number for each key.
// Source: the generic cell rate algorithm, ITU-T I.371.
//
// # What it promises
//   - In any span of time no key gets more than burst + rate × span requests through one edge.
//   - A key that never exceeds its rate is never refused.
//   - A request takes no memory, unless its key is new.
//
// # What it does not
//   - Each edge counts on its own: with n edges behind a balancer, a key that uses all gets n times as much.
//   - It holds 100,000 keys for each limit. For a new one it forgets one that has all its tokens, else one of those that
//     miss fewest, which then has all at once.
//   - A limit that changes starts anew.
package ratelimit

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Limit is a limit as properties and routes have it.
type Limit struct {
	Rate  string `json:"rate"`            // 100rps, 100/s, 30/m, 1000/h
	Burst int    `json:"burst,omitempty"` // 1 to 1,000,000 at once; 0 is as many as a second brings, and at least 1
	Key   string `json:"key,omitempty"`   // empty is client
}

const (
	shards    = 64
	mostKeys  = 100_000
	mostBurst = 1_000_000
	maxSpan   = 365 * 24 * time.Hour // in which the burst comes back
)

// counted is what a limit is counted by.
type counted uint8

const (
	byClient counted = iota
	byUser
	byHeader
	byRoute
	byAll
)

// limiter is a limit in force.
type limiter struct {
	text   string
	by     counted
	header string
	gap    int64 // ns in which one token comes
	burst  int64
	seed   maphash.Seed
	most   int // keys in one shard
	parts  [shards]shard

	refused *meter.Counter
}

// shard is some of the keys.
type shard struct {
	mu   sync.Mutex
	full map[uint64]int64 // by key, when it will have all its tokens
	_    [48]byte
}

// newLimiter makes l. Its errors say what is wrong with it.
func newLimiter(l Limit, m *meter.Registry) (*limiter, error) {
	gap, err := parseRate(l.Rate)
	if err != nil {
		return nil, err
	}
	burst := int64(l.Burst)
	if burst == 0 {
		burst = max(1, int64(time.Second)/gap)
		burst = min(burst, mostBurst)
	}
	if burst < 1 || burst > mostBurst {
		return nil, fmt.Errorf("burst %d: use 1 to %d", l.Burst, mostBurst)
	}
	if gap > int64(maxSpan)/burst {
		return nil, fmt.Errorf("at %s a burst of %d takes more than a year to come back; use a higher rate or a smaller burst", l.Rate, burst)
	}
	r := &limiter{gap: gap, burst: burst, seed: maphash.MakeSeed(), most: mostKeys / shards}
	name, header, _ := strings.Cut(l.Key, ":")
	switch {
	case l.Key == "" || l.Key == "client":
		r.by, name = byClient, "client"
	case l.Key == "user":
		r.by = byUser
	case l.Key == "apiKey":
		r.by, r.header = byHeader, "X-API-Key"
	case name == "header" && filter.Token(header):
		r.by, r.header = byHeader, header
	case l.Key == "route":
		r.by = byRoute
	case l.Key == "all":
		r.by = byAll
	default:
		return nil, fmt.Errorf("key %q: use client, user, apiKey, header:NAME, route or all", l.Key)
	}
	r.text = strconv.FormatInt(burst, 10)
	r.refused = m.Counter("edge.ratelimit.refused", "edge.key", name)
	return r, nil
}

// parseRate returns the nanoseconds between two requests of a rate.
func parseRate(s string) (gap int64, err error) {
	number, unit, per := s, "", time.Second
	if n, ok := strings.CutSuffix(s, "rps"); ok {
		number = n
	} else if number, unit, ok = strings.Cut(s, "/"); ok {
		switch unit {
		case "s":
		case "m":
			per = time.Minute
		case "h":
			per = time.Hour
		default:
			number = ""
		}
	} else {
		number = ""
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(n > 0) || n > 1e9 {
		return 0, fmt.Errorf("rate %q: write a number up to 1e9 and rps, /s, /m or /h, such as 100rps or 30/m", s)
	}
	g := float64(per) / n
	if g < 1 || g > float64(maxSpan) {
		return 0, fmt.Errorf("rate %q: use one request a year to 1e9 a second", s)
	}
	return int64(g), nil
}

// key returns a number for who is counted. Numbers of different ones are the same for nobody who could arrange it: the
// seed is not known.
func (l *limiter) key(x *filter.Exchange) uint64 {
	switch l.by {
	case byUser:
		if x.User != "" {
			return maphash.String(l.seed, x.User)
		}
	case byHeader:
		if v := x.Request.Header.Get(l.header); v != "" {
			return maphash.String(l.seed, v)
		}
	case byRoute:
		if x.Plan != nil {
			return maphash.String(l.seed, x.Plan.Route)
		}
		return 0
	case byAll:
		return 0
	}
	return x.ClientKey(l.seed)
}

// take takes a token of key at now. It returns how many are left and when the key has all, and, if it had none, how long
// until it has one.
//
// hot path: 0 allocs, BenchmarkTake
func (l *limiter) take(key uint64, now int64) (left int64, full, wait int64) {
	p := &l.parts[key%shards]
	p.mu.Lock()
	defer p.mu.Unlock()
	had, known := p.full[key]
	full = max(had, now) + l.gap
	if wait = full - now - l.burst*l.gap; wait > 0 {
		return 0, had, wait
	}
	if !known {
		p.room(now, l.most)
	}
	p.full[key] = full
	return (l.burst*l.gap - (full - now)) / l.gap, full, 0
}

// room makes room for one more key: of those that have all tokens, else of one of a few that misses the fewest.
func (p *shard) room(now int64, most int) {
	if p.full == nil {
		p.full = make(map[uint64]int64)
	}
	if len(p.full) < most {
		return
	}
	looked, least, when := 0, uint64(0), int64(0)
	for k, full := range p.full {
		if looked++; full <= now {
			delete(p.full, k)
		} else if when == 0 || full < when {
			least, when = k, full
		}
		if looked >= 16 { // every newcomer looks at some, so that none waits for all
			break
		}
	}
	if len(p.full) >= most {
		delete(p.full, least)
	}
}

// apply answers x with 429 if its key has no token.
func (l *limiter) apply(x *filter.Exchange) error {
	now := filter.Now()
	_, full, wait := l.take(l.key(x), now)
	if wait <= 0 {
		return nil
	}
	l.refused.Inc()
	x.Answer(http.StatusTooManyRequests, "you ask too often; try again after as many seconds as Retry-After says\n")
	h := &x.Response.Header
	var mem [20]byte
	h.Add("Retry-After", x.Keep(strconv.AppendInt(mem[:0], seconds(wait), 10)))
	h.Add("RateLimit-Limit", l.text)
	h.Add("RateLimit-Remaining", "0")
	h.Add("RateLimit-Reset", x.Keep(strconv.AppendInt(mem[:0], seconds(full-now), 10)))
	h.Add("Cache-Control", "no-store")
	x.SetCategory(filter.FailureRateLimited, "it asked more often than edge.ratelimit or its route allow")
	return nil
}

// seconds rounds up.
func seconds(ns int64) int64 { return (ns + int64(time.Second) - 1) / int64(time.Second) }

// Limits is the limits of all requests, by the property edge.ratelimit, and makes those of routes.
type Limits struct {
	meter  *meter.Registry
	stages [3]atomic.Pointer[[]*limiter]
}

// stage returns when the key of a limit is known: before authentication, after it, or after routing.
func (l *limiter) stage() int {
	switch l.by {
	case byUser:
		return 1
	case byRoute:
		return 2
	}
	return 0
}

// New returns the limits. They follow the property edge.ratelimit; a value with a mistake is refused whole, and the limits
// before it stay.
func New(p *config.Properties, m *meter.Registry) *Limits {
	l := &Limits{meter: m}
	none := []*limiter{}
	for i := range l.stages {
		l.stages[i].Store(&none)
	}
	text := p.String("edge.ratelimit", "")
	set := func(_, text string) {
		list, err := l.parse(text)
		if err != nil {
			p.Refuse("edge.ratelimit", text, err)
			return
		}
		var by [len(l.stages)][]*limiter
		for _, r := range list {
			by[r.stage()] = append(by[r.stage()], r)
		}
		for i := range by {
			l.stages[i].Store(&by[i])
		}
	}
	text.OnChange(set)
	set("", text.Get())
	return l
}

// parse reads a limit or a list of them.
func (l *Limits) parse(text string) ([]*limiter, error) {
	text = strings.TrimSpace(text)
	var list []Limit
	switch {
	case text == "":
		return nil, nil
	case text[0] == '[':
		if err := decode(text, &list); err != nil {
			return nil, err
		}
	default:
		list = make([]Limit, 1)
		if err := decode(text, &list[0]); err != nil {
			return nil, err
		}
	}
	out := make([]*limiter, len(list))
	for i, one := range list {
		var err error
		if out[i], err = newLimiter(one, l.meter); err != nil {
			return nil, fmt.Errorf("limit %d: %w", i+1, err)
		}
	}
	return out, nil
}

func decode(text string, into any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf(`it is no limit: %w; write {"rate": "100rps", "burst": 50, "key": "client"}`, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the limits; write a list")
	}
	return nil
}

// Filters returns the filters that hold all requests to edge.ratelimit.
func (l *Limits) Filters() []*filter.Filter {
	at := func(name string, order int, list *atomic.Pointer[[]*limiter]) *filter.Filter {
		return &filter.Filter{Name: name, Kind: filter.Inbound, Order: order, Quick: true, Guard: true,
			If: func(*filter.Exchange) bool { return len(*list.Load()) > 0 },
			Apply: func(x *filter.Exchange) error {
				for _, r := range *list.Load() {
					if r.apply(x); x.Answered() {
						return nil
					}
				}
				return nil
			}}
	}
	return []*filter.Filter{
		at("RateLimit", -400, &l.stages[0]), at("RateLimitByUser", -250, &l.stages[1]), at("RateLimitByRoute", -84, &l.stages[2]),
	}
}

// Route makes the filter of a route's rateLimit: a limit, or a list of them.
func (l *Limits) Route(with json.RawMessage) ([]*filter.Filter, error) {
	list, err := l.parse(string(with))
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New(`it has no limit; write {"rate": "100rps", "burst": 50, "key": "client"}`)
	}
	var out []*filter.Filter
	for _, r := range list {
		out = append(out, &filter.Filter{Name: "RouteRateLimit", Kind: filter.Inbound, Quick: true, Guard: true, Apply: r.apply})
	}
	return out, nil
}
