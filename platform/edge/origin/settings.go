package origin

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
)

// general are the properties of all origins.
type general struct {
	Profile     string        `config:"profile"` // "zuul": as Zuul has it
	RetryBuffer int           `config:"retry.buffer"`
	EarlyHints  bool          `config:"http.earlyhints"`
	UpgradeIdle time.Duration `config:"upgrade.idle"`
	Upgrades    []string      `config:"upgrade.allowed"`
	Utilization string        `config:"origin.utilization.header"`
	Share       float64       `config:"origin.client.share"`
	Stall       time.Duration `config:"origin.client.stall"`
}

// Validate refuses what cannot be meant.
func (g *general) Validate() error {
	if g.Profile != "" && g.Profile != "zuul" {
		return fmt.Errorf("edge.profile is %q; it is empty or zuul", g.Profile)
	}
	if err := config.Between("edge.retry.buffer", g.RetryBuffer, 0, 16<<20); err != nil {
		return err
	}
	return errors.Join(config.Between("edge.upgrade.idle", g.UpgradeIdle, time.Second, 24*time.Hour), config.Between("edge.origin.client.share", g.Share, 0.01, 1),
		config.Between("edge.origin.client.stall", g.Stall, 100*time.Millisecond, 24*time.Hour))
}

func (g *general) zuul() bool { return g.Profile == "zuul" }

var usual = general{RetryBuffer: 64 << 10, UpgradeIdle: 5 * time.Minute, Upgrades: []string{"websocket"}, Share: 0.75, Stall: 5 * time.Second}

// settings are one origin's. They never change; new ones take their place.
type settings struct {
	perHost     int // connections to one server; 0: none said; -1: any number
	waterline   int // idle connections kept per server and processor; -1: none said
	maxRequests int // over one connection
	keepAlive   bool
	delay       bool // Nagle's algorithm is on
	receive     int  // buffer sizes; 0: the system's
	send        int
	concurrent  int    // requests in flight; 0: as ipc has it; -1: any number
	protocol    string // "", h2, h2c
	gradient    bool
	nextServer  int // MaxAutoRetriesNextServer
	streams     int // that last as long as both ends want, beside requests in flight; -1: any number

	closeOnBreaker bool
	trust          *trust // nil: TLS as the system has it
}

const (
	defaultMaxRequests = 1000
	defaultPerHost     = 200 // as many as may be in flight by default
	zuulPerHost        = 50
	zuulWaterline      = 4 // per processor
	defaultWaterline   = 32
	edgesWaterline     = 256
	defaultConnect     = 500 * time.Millisecond
	defaultIdle        = time.Minute
	defaultStreams     = 10_000
)

// limits returns how many connections a server may have, and how many idle ones are kept.
func (p *Proxy) limits(s *settings) (perHost, waterline int) {
	zuul := p.general.Get().zuul()
	perHost, waterline = s.perHost, s.waterline
	if perHost == 0 {
		switch perHost = defaultPerHost; {
		case p.edges:
			perHost = -1
		case zuul:
			perHost = zuulPerHost
		}
	}
	if waterline < 0 {
		switch waterline = defaultWaterline; {
		case p.edges:
			waterline = edgesWaterline
		case zuul:
			waterline = zuulWaterline
		}
	}
	return perHost, waterline * int(p.processors.Load())
}

// follow keeps apply told of an app's settings, until stop is called.
func follow(p *config.Properties, app string, log *slog.Logger, apply func(*settings)) (stop func()) {
	last := &settings{maxRequests: defaultMaxRequests, waterline: -1, closeOnBreaker: true, streams: defaultStreams}
	return p.Prefixes([]string{app + ".ribbon.", "ribbon.", "zuul.origin." + app + ".", "edge.origin." + app + ".", "edge.origin.default."}, func(props map[string]string) {
		last = read(app, props, last, log, p.Refuse)
		apply(last)
	})
}

// read makes settings of properties. One that makes no sense leaves what was in force before.
func read(app string, props map[string]string, before *settings, log *slog.Logger, refuse func(key, text string, err error)) *settings {
	s := &settings{maxRequests: defaultMaxRequests, waterline: -1, streams: defaultStreams}
	take := func(keys []string, set func(text string) error, keep func()) {
		for _, k := range keys {
			if text, ok := props[k]; ok {
				if err := set(strings.TrimSpace(text)); err != nil {
					refuse(k, text, err)
					keep()
				}
				return
			}
		}
	}
	ribbon := func(name string) []string { return []string{app + ".ribbon." + name, "ribbon." + name} }
	number := func(keys []string, least, most int, at func(*settings) *int) {
		take(keys, func(text string) error {
			n, err := strconv.Atoi(text)
			if err != nil || n < least || n > most {
				return fmt.Errorf("use a whole number from %d to %d", least, most)
			}
			*at(s) = n
			return nil
		}, func() { *at(s) = *at(before) })
	}
	truth := func(keys []string, at func(*settings) *bool, is bool) {
		take(keys, func(text string) error {
			on, err := config.ParseBool(text)
			*at(s) = on == is
			return err
		}, func() { *at(s) = *at(before) })
	}
	number(ribbon("MaxConnectionsPerHost"), -1, 1e6, func(s *settings) *int { return &s.perHost })
	number(ribbon("PerServerWaterline"), 0, 1e6, func(s *settings) *int { return &s.waterline })
	number(ribbon("MaxRequestsPerConnection"), 1, 1e9, func(s *settings) *int { return &s.maxRequests })
	number(ribbon("MaxAutoRetriesNextServer"), 0, 9, func(s *settings) *int { return &s.nextServer })
	number(ribbon("ReceiveBufferSize"), 1, 1<<30, func(s *settings) *int { return &s.receive })
	number(ribbon("SendBufferSize"), 1, 1<<30, func(s *settings) *int { return &s.send })
	s.closeOnBreaker = true
	truth(ribbon("CloseOnCircuitBreaker"), func(s *settings) *bool { return &s.closeOnBreaker }, true)
	truth(ribbon("TcpKeepAlive"), func(s *settings) *bool { return &s.keepAlive }, true)
	truth(ribbon("TcpNoDelay"), func(s *settings) *bool { return &s.delay }, false)
	number([]string{"zuul.origin." + app + ".concurrency.max.requests"}, 1, 1e6, func(s *settings) *int { return &s.concurrent })
	number([]string{"edge.origin." + app + ".streams.max", "edge.origin.default.streams.max"}, -1, 1e6, func(s *settings) *int { return &s.streams })
	off := false
	take([]string{"zuul.origin." + app + ".concurrency.protect.enabled"}, func(text string) error {
		on, err := config.ParseBool(text)
		off = !on
		return err
	}, func() { off = before.concurrent < 0 })
	if off {
		s.concurrent = -1
	}
	take([]string{"edge.origin." + app + ".tls", "edge.origin.default.tls"}, func(text string) (err error) {
		switch {
		case text == "":
		case before.trust.same(app, text):
			s.trust = before.trust
		default:
			s.trust, err = newTrust(app, text, log)
		}
		return err
	}, func() { s.trust = before.trust })
	word := func(key string, words []string, set func(string), keep func()) {
		take([]string{"edge.origin." + app + "." + key}, func(text string) error {
			if !slices.Contains(words, text) {
				return fmt.Errorf("use one of %s", strings.Join(words, ", "))
			}
			set(text)
			return nil
		}, keep)
	}
	word("protocol", []string{"http1", "h2", "h2c"}, func(w string) { s.protocol = strings.TrimPrefix(w, "http1") }, func() { s.protocol = before.protocol })
	word("concurrency.mode", []string{"fixed", "gradient"}, func(w string) { s.gradient = w == "gradient" }, func() { s.gradient = before.gradient })
	return s
}
