package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// peer is another registry that is told what clients tell this one.
type peer struct {
	base   *url.URL // with user and password, if it wants any; its path ends in "/"
	s      *state
	box    *outbox
	log    *slog.Logger
	client *http.Client
	me     string // for DiscoveryIdentity-Id

	agent string // for User-Agent

	node  atomic.Pointer[string] // of the registry of our kind that it is connected to as, nil while it is not
	self  atomic.Bool            // whether it is this registry by another name
	stage atomic.Int32           // how far it was asked what it knows

	answerWithin time.Duration
	expires      time.Duration // what it could not be told for so long, renewals apart, it is told no more
	up           atomic.Bool   // whether the last exchange with it worked
	tried        atomic.Bool   // whether there was one
}

// name is the peer's URL without what nobody else must read.
func (p *peer) name() string { return nameOf(p.base) }

func nameOf(u *url.URL) string {
	plain := *u
	plain.User = nil
	return plain.String()
}

// What Settings leaves open; Eureka's own.
const (
	defaultConnectTimeout = time.Second
	defaultReadTimeout    = 5 * time.Second
)

func newPeer(base *url.URL, s *state, log *slog.Logger, c Config, me string) *peer {
	p := &peer{base: base, s: s, box: newOutbox(), log: log.With("peer", nameOf(base)), me: me}
	p.answerWithin = cmp.Or(c.Settings.PeerReadTimeout, defaultReadTimeout)
	p.expires = cmp.Or(c.Settings.ReplicationTime, defaultExpiry)
	p.agent = "roadbed-registry"
	if c.Settings.MimicUserAgent {
		p.agent = "Java-EurekaClient-Replication"
	}
	dial := c.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: cmp.Or(c.Settings.PeerConnectTimeout, defaultConnectTimeout)}).DialContext
	}
	p.client = &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dial, MaxIdleConnsPerHost: lanes + 1, IdleConnTimeout: 30 * time.Second,
			TLSHandshakeTimeout: p.answerWithin, ResponseHeaderTimeout: p.answerWithin,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return p
}

// request makes a request to the peer, for what is at an escaped path, in the name of a server of Eureka's.
func (p *peer) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	u, err := p.base.Parse(path)
	if err != nil {
		return nil, err
	}
	u.User = nil
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if who := p.base.User; who != nil {
		password, _ := who.Password()
		req.SetBasicAuth(who.Username(), password)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", p.agent)
	req.Header.Set("DiscoveryIdentity-Name", "DefaultServer")
	req.Header.Set("DiscoveryIdentity-Version", "1.0")
	req.Header.Set("DiscoveryIdentity-Id", p.me)
	return req, nil
}

// How far a peer was asked what it knows.
const (
	unasked   int32 = iota
	triedOnce       // in vain so far
	young           // it has just started too, and knows nothing yet
	copied
)

// run keeps up with the peer until ctx ends.
func (p *peer) run(ctx context.Context, ps *peers) {
	defer p.client.CloseIdleConnections()
	for failures := 0; ctx.Err() == nil; failures++ {
		node, err := p.greet(ctx)
		switch {
		case err != nil:
		case node == ps.node:
			p.self.Store(true)
			ps.rebuild()
			ps.tell()
			<-ctx.Done()
		case node == "":
			p.asEureka(ctx, ps, true)
			failures = 0
		default:
			began := time.Now()
			if err = p.asOurs(ctx, node, ps); errors.Is(err, errNoUpgrade) {
				p.log.Warn("a peer is told in Eureka's way", "why", err)
				p.asEureka(ctx, ps, false)
			}
			if time.Since(began) > latestAgain {
				failures = 0
			}
		}
		if err != nil && ctx.Err() == nil {
			p.failed(err)
			p.became(triedOnce, ps)
			d := min(soonestAgain<<min(failures, 16), latestAgain)
			pause(ctx, d/2+rand.N(d/2+1))
		}
	}
}

// became notes how far the peer was asked.
func (p *peer) became(stage int32, ps *peers) {
	if p.stage.Load() < stage {
		p.stage.Store(stage)
		ps.tell()
	}
}

// asEureka tells the peer what happens in Eureka's way until ctx ends or it turns out to be a registry of our kind, if
// that is asked.
func (p *peer) asEureka(ctx context.Context, ps *peers, ask bool) {
	var wg sync.WaitGroup
	here, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	p.box.heard.Store(math.MaxInt64)
	if p.stage.Load() != copied {
		wg.Go(func() { p.copyFrom(here, ps) })
	}
	var telling sync.WaitGroup
	for i := range p.box.lanes {
		telling.Go(func() { p.tellLane(here, &p.box.lanes[i]) })
	}
	for pause(here, helloAgain) {
		if node, err := p.greet(here); ask && err == nil && node != "" {
			cancel()
		}
	}
	telling.Wait()
	if ctx.Err() == nil {
		return
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), drainedWithin)
	defer done()
	for i := range p.box.lanes {
		l := &p.box.lanes[i]
		for _, waits := l.oldest(); waits && p.up.Load(); _, waits = l.oldest() {
			if p.tellSome(last, l) != nil {
				return
			}
		}
	}
}

// copyFrom copies what the peer knows, as Eureka's servers do when they start, unless that fails for long.
func (p *peer) copyFrom(ctx context.Context, ps *peers) {
	tries := cmp.Or(ps.c.Settings.SyncRetries, defaultSyncRetries)
	for n := 0; n < tries || tries > 0 && !ps.isOpen(); n++ {
		got, err := p.copyAll(ctx)
		switch {
		case err == nil:
			p.worked()
			p.log.Info("copied what a peer knows", "instances", got)
			p.became(copied, ps)
			return
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNotReady):
			p.worked()
			p.became(young, ps)
		default:
			p.failed(err)
			p.became(triedOnce, ps)
		}
		if !pause(ctx, cmp.Or(ps.c.Settings.SyncRetryWait, defaultSyncRetryWait)) {
			return
		}
	}
}

// worked notes that an exchange with the peer succeeded.
func (p *peer) worked() {
	if !p.up.Swap(true) && p.tried.Swap(true) {
		p.log.Info("a peer is reached again")
	}
}

// failed notes that an exchange with the peer did not succeed.
func (p *peer) failed(err error) {
	if first := !p.tried.Swap(true); p.up.Swap(false) || first {
		p.log.Warn("a peer cannot be told what happens here; trying on", "err", err)
	}
}

// lag is how long the oldest news has been waiting to be told.
func (p *peer) lag() time.Duration {
	now := p.s.now()
	least := now
	for i := range p.box.lanes {
		if since, ok := p.box.lanes[i].untold(); ok {
			least = min(least, since)
		}
	}
	return time.Duration(now - least)
}

var errNotReady = errors.New("it has just started itself")

// copyAll reads everything the peer has and registers it here, as Eureka's servers do when they start.
func (p *peer) copyAll(ctx context.Context) (n int, err error) {
	req, err := p.request(ctx, http.MethodGet, "apps/", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set(regionsHeader, ownRegionOnly)
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusForbidden:
		return 0, errNotReady
	default:
		return 0, refusal{resp.StatusCode}
	}
	_, err = readApplications(resp.Body, func(r *record) {
		if r.invalid(r.app, false) == "" {
			p.s.register(r, origin{replicated: true})
			n++
		}
	})
	return n, err
}

func badPeer(s, why string) error {
	return fmt.Errorf("%q is no base URL of a registry: %s; use one such as http://user:password@host:8761/eureka/", s, why)
}

// parsePeerURL reads the base URL of a registry, as in http://user:password@host:8761/eureka/.
func parsePeerURL(s string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil {
		return nil, badPeer(s, "it is no URL")
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, badPeer(s, "it begins with neither http:// nor https://")
	case u.Hostname() == "":
		return nil, badPeer(s, "it names no host")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, badPeer(s, "it has a query or a fragment")
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	return u, nil
}
