package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// request makes a request to the peer in the name of a server of Eureka's.
func (p *peer) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	u := *p.base
	u.User = nil
	u.Path += path
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

// run tells the peer what happens until ctx ends.
func (p *peer) run(ctx context.Context) {
	defer p.client.CloseIdleConnections()
	var wg sync.WaitGroup
	for i := range p.box.lanes {
		wg.Go(func() { p.tellLane(ctx, &p.box.lanes[i]) })
	}
	wg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainedWithin)
	defer cancel()
	for i := range p.box.lanes {
		l := &p.box.lanes[i]
		for _, waits := l.oldest(); waits && p.up.Load(); _, waits = l.oldest() {
			if p.tellSome(last, l) != nil {
				return
			}
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
		if since, ok := p.box.lanes[i].oldest(); ok {
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
