package registry

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"
)

// A registry that knows its own URL is an instance like others, under the application of the cluster's registries:
// that is how Eureka's servers tell which of their peers are available.

const defaultApp = "EUREKA"

// join gives a registry that knows its own URL the id that Spring's servers would have.
func (r *Registry) join() {
	if r.peers.own != nil && !r.c.Settings.NoSelfRegistration {
		r.c.Self = r.ownID()
		r.s.self = r.c.Self
	}
	r.s.peers, r.peers.node = r.peers.boxes, r.incarnation
}

func (r *Registry) ownApp() string {
	return cmp.Or(strings.ToUpper(r.c.Settings.AppName), defaultApp)
}

func (r *Registry) ownID() string {
	u := r.peers.own
	return u.Hostname() + ":" + strings.ToLower(r.ownApp()) + ":" + portOfURL(u)
}

// ownRecord is what the registry registers itself as.
func (r *Registry) ownRecord(ip string, own status) *record {
	u, app := r.peers.own, r.ownApp()
	number, _ := strconv.ParseUint(portOfURL(u), 10, 16) // net/url has seen to it that it is a number
	rec := &record{
		id: r.ownID(), sentID: true, app: app, host: u.Hostname(), ip: ip, own: own, status: own, override: unknown,
		port: port{int32(number), true}, secure: port{443, false}, country: 1, renewal: defaultRenewal, duration: defaultDuration,
		home: nameOf(u), vip: strings.ToLower(app), svip: strings.ToLower(app), dcSent: true, dcName: true,
	}
	if u.Scheme == "https" {
		rec.port, rec.secure = port{80, false}, port{int32(number), true}
	}
	if z := r.c.Location.Zone; z != "" {
		rec.meta = []pair{{"zone", z}}
	}
	return rec
}

// beThere keeps this registry registered until ctx ends: STARTING until its lists are worth reading, then UP.
func (r *Registry) beThere(ctx context.Context) {
	if r.peers.own == nil || r.c.Settings.NoSelfRegistration {
		<-ctx.Done()
		return
	}
	ours := origin{native: true}
	<-r.peers.found
	k, ip := key{r.ownApp(), r.ownID()}, r.ownIP(ctx)
	r.s.register(r.ownRecord(ip, starting), ours)
	defer func() { r.s.cancel(k) }()
	select {
	case <-r.peers.opened:
	case <-ctx.Done():
		return
	}
	r.s.register(r.ownRecord(ip, up), ours)
	for pause(ctx, defaultRenewal*time.Second) {
		if res, _ := r.s.renew(k, ours, 0, unknown); res == notFound {
			r.s.register(r.ownRecord(ip, up), ours)
		}
	}
}

func (r *Registry) ownIP(ctx context.Context) string {
	host := r.peers.own.Hostname()
	ctx, cancel := context.WithTimeout(ctx, lookUpWithin)
	defer cancel()
	if addrs, err := r.peers.names.addrs(ctx, host); err == nil && len(addrs) > 0 {
		return addrs[0]
	}
	return host
}
