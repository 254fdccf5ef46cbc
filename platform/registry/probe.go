package registry

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Before an instance is evicted for its silence, and when the connection of one of ours breaks, the registry tries to
// connect to it. A refusal proves that nobody serves there any more; whoever accepts is alive enough to be waited for.

const (
	probeWithin  = 500 * time.Millisecond
	probesAtOnce = 200              // a second
	probeWait    = 10 * time.Second // after which an instance that could not be probed yet is evicted without
)

// finding is what came of a probe.
type finding uint8

const (
	unprobed finding = iota
	probing
	refused  // nobody listens there
	accepted // somebody does
	noAnswer
	unfit // it has no address that may be probed
)

// dialer connects, as [net.Dialer.DialContext] does.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// probe tries to connect to address.
func (d dialer) probe(ctx context.Context, address string) finding {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	conn, err := d(ctx, "tcp", address)
	switch {
	case err == nil:
		conn.Close() //nolint:errcheck // nothing was said on it
		return accepted
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET):
		return refused
	}
	return noAnswer
}

// probeAddress is where r can be probed, empty if it must not be. Only addresses of this machine and of private
// networks are: nobody shall have a registry knock at doors elsewhere by registering them.
func (r *record) probeAddress() string {
	ip, err := netip.ParseAddr(r.ip)
	if err != nil || !ip.IsLoopback() && !ip.IsPrivate() {
		return ""
	}
	p := r.port
	if !p.on {
		p = r.secure
	}
	if !p.on || p.number <= 0 || p.number > 65535 {
		return ""
	}
	return netip.AddrPortFrom(ip, uint16(p.number)).String()
}

// suspect takes an instance out of traffic: it is DOWN until it renews or registers, whatever it said.
func (s *state) suspect(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.lease.hasEnded() || e.rec.suspected || e.rec.status == down {
		return
	}
	r := *e.rec
	r.suspected, r.before, r.status = true, r.status, down
	s.replace(e, &r)
}

// standing is the status that counts, suspicion aside.
func (r *record) standing() status {
	if r.suspected {
		return r.before
	}
	return r.status
}
