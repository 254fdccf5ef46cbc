package ipcgrpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	v3orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/balance"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"
)

// balancerName is how a service config names the balancer.
const balancerName = "ipc_p2c"

func init() { balancer.Register(p2cBuilder{}) } // the only way that grpc-go has

// p2cBuilder makes balancers.
type p2cBuilder struct{}

// Name is the name for service configs.
func (p2cBuilder) Name() string { return balancerName }

// Build makes a balancer for one connection.
func (p2cBuilder) Build(cc balancer.ClientConn, _ balancer.BuildOptions) balancer.Balancer {
	return &p2c{cc: cc, began: time.Now(), conns: map[string]*subConn{}}
}

// p2cConfig is the balancer's config, which has no members.
type p2cConfig struct {
	serviceconfig.LoadBalancingConfig `json:"-"`
}

// ParseConfig refuses what nobody would heed.
func (p2cBuilder) ParseConfig(js json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	d := json.NewDecoder(bytes.NewReader(js))
	d.DisallowUnknownFields()
	c := &p2cConfig{}
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("%s takes no settings, write {}: %w", balancerName, err)
	}
	return c, nil
}

// p2c keeps one connection to each instance and lets package balance choose among those that are ready. grpc-go calls
// its methods and listeners one at a time; only picks come at any time.
type p2c struct {
	cc    balancer.ClientConn
	began time.Time
	app   *app // nil with a resolver that is not ours
	bal   *balance.Balancer
	conns map[string]*subConn // by address
	empty error               // why there is no instance; nil if there is one
	last  error               // the last failure to connect
	stop  func()              // following the balancer's settings; nil with a resolver that is not ours
}

// subConn is the connection to one instance.
type subConn struct {
	balancer.SubConn
	instance roadbed.Instance
	state    connectivity.State
}

// now is the time on the balancer's clock, on which 0 never occurs.
func (b *p2c) now() int64 { return b.at(time.Now()) }

func (b *p2c) at(t time.Time) int64 { return int64(t.Sub(b.began)) + 1 }

// UpdateClientConnState takes a new list of instances.
func (b *p2c) UpdateClientConnState(s balancer.ClientConnState) error {
	if b.bal == nil {
		zone := ""
		if b.app, _ = s.ResolverState.Attributes.Value(appKey{}).(*app); b.app != nil {
			zone = b.app.engine.Zone()
		}
		b.bal = balance.New(balance.Config{Zone: zone, At: b.at})
		if b.app != nil {
			b.stop = b.app.engine.Balancing(b.app.name, func(s balance.Settings) { b.bal.Configure(s, b.now()) })
		}
	}
	seen := map[string]bool{}
	for _, a := range s.ResolverState.Addresses {
		seen[a.Addr] = true
		i := instanceOf(a)
		if c := b.conns[a.Addr]; c != nil {
			c.instance = i
			continue
		}
		c := &subConn{instance: i, state: connectivity.Idle}
		sub, err := b.cc.NewSubConn([]resolver.Address{a}, balancer.NewSubConnOptions{
			StateListener: func(st balancer.SubConnState) { b.changed(c, st) },
		})
		if err != nil {
			return fmt.Errorf("ipcgrpc: connect to %s: %w", a.Addr, err)
		}
		c.SubConn = sub
		b.conns[a.Addr] = c
		sub.Connect()
	}
	for addr, c := range b.conns {
		if !seen[addr] {
			delete(b.conns, addr)
			c.Shutdown()
		}
	}
	b.empty = nil
	if len(b.conns) == 0 {
		b.empty = b.noEndpoint(ipc.ErrNoEndpoint)
	}
	b.tell()
	return nil
}

func (b *p2c) noEndpoint(cause error) error {
	if b.app == nil {
		return status.Error(codes.Unavailable, cause.Error())
	}
	return status.Error(codes.Unavailable, "call "+b.app.name+": "+cause.Error())
}

// instanceOf returns the instance at a; if the resolver said none, one that is known by its address alone.
func instanceOf(a resolver.Address) roadbed.Instance {
	if i, ok := a.BalancerAttributes.Value(instanceKey{}).(*instance); ok {
		return i.Instance
	}
	i := roadbed.Instance{ID: a.Addr, Host: a.Addr, Status: roadbed.Up}
	if host, port, err := net.SplitHostPort(a.Addr); err == nil {
		if n, err := strconv.Atoi(port); err == nil {
			i.Host, i.Port = host, n
		}
	}
	return i
}

// ResolverError notes why there are no instances.
func (b *p2c) ResolverError(err error) {
	if len(b.conns) == 0 {
		b.empty = b.noEndpoint(err)
		b.tell()
	}
}

// changed takes the news of a connection.
func (b *p2c) changed(c *subConn, s balancer.SubConnState) {
	if c.SubConn == nil || b.conns[c.instance.Addr()] != c {
		return // it was shut down
	}
	switch {
	case s.ConnectivityState == connectivity.Idle:
		c.Connect() // instances that are listed are kept connected
	case s.ConnectivityState == connectivity.TransientFailure:
		b.last = s.ConnectionError
	}
	// Who failed to connect has failed until it succeeds, however often it tries meanwhile.
	if c.state != connectivity.TransientFailure || s.ConnectivityState == connectivity.Ready {
		c.state = s.ConnectivityState
	}
	b.tell()
}

// tell gives gRPC a new picker.
func (b *p2c) tell() {
	var ready []roadbed.Instance
	subs := map[string]balancer.SubConn{}
	trying := false
	for addr, c := range b.conns {
		switch c.state {
		case connectivity.Ready:
			ready = append(ready, c.instance)
			subs[addr] = c.SubConn
		case connectivity.Idle, connectivity.Connecting:
			trying = true
		}
	}
	b.bal.Update(ready, b.now())
	next := balancer.State{ConnectivityState: connectivity.Ready, Picker: &picker{b, subs}}
	switch {
	case len(ready) > 0:
	case b.empty != nil:
		next = balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: failing{b.empty}}
	case trying:
		next = balancer.State{ConnectivityState: connectivity.Connecting, Picker: failing{balancer.ErrNoSubConnAvailable}}
	default:
		next = balancer.State{ConnectivityState: connectivity.TransientFailure, Picker: failing{b.noEndpoint(errors.Join(errors.New("no instance can be connected to"), b.last))}}
	}
	b.cc.UpdateState(next)
}

// UpdateSubConnState is never called: every connection has a listener.
func (b *p2c) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// ExitIdle connects what is idle.
func (b *p2c) ExitIdle() {
	for _, c := range b.conns {
		if c.state == connectivity.Idle {
			c.Connect()
		}
	}
}

// Close closes all connections.
func (b *p2c) Close() {
	for _, c := range b.conns {
		c.Shutdown()
	}
	clear(b.conns)
	if b.stop != nil {
		b.stop()
	}
}

// failing is the picker while no connection is ready.
type failing struct{ err error }

// Pick fails.
func (f failing) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, f.err
}

// picker chooses among the connections that are ready. It never changes.
type picker struct {
	b    *p2c
	subs map[string]balancer.SubConn // by address
}

// Pick chooses an instance, and sees to it that its statistics learn how the call went.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	bal, start := p.b.bal, p.b.now()
	pair, _ := info.Ctx.Value(pairKey{}).(*pair)
	var ep *balance.Endpoint
	if first := pair.taken(); first != nil {
		if ep = bal.Apart(start, first); ep == nil {
			return balancer.PickResult{}, errNobodyElse
		}
	} else {
		ep = bal.Pick(start)
	}
	if ep == nil {
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	pair.take(ep)
	sub := p.subs[ep.Addr]
	if sub == nil { // the list is newer than this picker; gRPC asks again with the next
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	ep.Begin()
	return balancer.PickResult{SubConn: sub, Done: func(d balancer.DoneInfo) {
		ep.End()
		now := p.b.now()
		took := now - start
		if first, ok := info.Ctx.Value(firstKey{}).(*atomic.Int64); ok && first.Load() != 0 {
			took = p.b.at(time.Unix(0, first.Load())) - start
		}
		ep.Done(verdict(d, info.Ctx), now, took)
		if load, ok := loadOf(d.ServerLoad); ok {
			ep.Report(load, now)
		}
	}}, nil
}

// loadOf returns what a callee's report says of its load, as ORCA's consumers read it: what the application says, or else
// how busy the processor is.
func loadOf(report any) (load float64, ok bool) {
	r, ok := report.(*v3orcapb.OrcaLoadReport)
	switch {
	case !ok || r == nil:
		return 0, false
	case r.ApplicationUtilization > 0:
		return r.ApplicationUtilization, true
	}
	return r.CpuUtilization, r.CpuUtilization > 0
}

// firstKey finds when a stream's first message came, in nanoseconds since 1970: what a stream takes as a whole says
// nothing about how fast its callee is.
type firstKey struct{}

// verdict says what the end of a call says about the instance.
func verdict(d balancer.DoneInfo, ctx context.Context) balance.Verdict {
	switch status.Code(d.Err) {
	case codes.Canceled:
		return balance.Abandoned
	case codes.Unavailable, codes.DeadlineExceeded:
		switch {
		case d.Err != nil && ctx.Err() == context.Canceled:
			return balance.Abandoned
		case d.BytesReceived:
			return balance.Erred
		}
		return balance.Broken
	case codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.DataLoss:
		return balance.Erred
	}
	return balance.Answered
}
