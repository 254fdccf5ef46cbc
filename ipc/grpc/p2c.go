package ipcgrpc

import (
	"bytes"
	"context"
	"encoding/json"
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
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
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
func (p2cBuilder) Build(cc balancer.ClientConn, o balancer.BuildOptions) balancer.Balancer {
	b := &p2c{ClientConn: cc, began: time.Now()}
	b.connections = endpointsharding.NewBalancer(b, o, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return b
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

// p2c lets package balance choose among the instances that are connected. grpc-go keeps the connections, one to each,
// and calls its methods one at a time; only picks come at any time.
type p2c struct {
	balancer.ClientConn // of the channel; UpdateState is what its connections tell
	connections         balancer.Balancer

	began time.Time
	app   *app // nil with a resolver that is not ours
	bal   *balance.Balancer
	stop  func() // following the balancer's settings; nil with a resolver that is not ours
	why   error  // what the resolver said last, if that was no list
}

// now is the time on the balancer's clock, on which 0 never occurs.
func (b *p2c) now() int64 { return b.at(time.Now()) }

func (b *p2c) at(t time.Time) int64 { return int64(t.Sub(b.began)) + 1 }

// UpdateClientConnState takes a new list of instances.
func (b *p2c) UpdateClientConnState(s balancer.ClientConnState) error {
	b.why = nil
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
	return b.connections.UpdateClientConnState(balancer.ClientConnState{ResolverState: s.ResolverState})
}

// ResolverError tells calls why there are no instances.
func (b *p2c) ResolverError(err error) {
	b.why = err
	b.connections.ResolverError(err)
}

// UpdateSubConnState is never called: every connection has a listener.
func (b *p2c) UpdateSubConnState(balancer.SubConn, balancer.SubConnState) {}

// ExitIdle connects what is idle.
func (b *p2c) ExitIdle() { b.connections.ExitIdle() }

// Close closes all connections.
func (b *p2c) Close() {
	b.connections.Close()
	if b.stop != nil {
		b.stop()
	}
}

// UpdateState takes the news of the connections, and gives gRPC a picker for them.
func (b *p2c) UpdateState(s balancer.State) {
	var ready []roadbed.Instance
	by := map[string]balancer.Picker{}
	all := endpointsharding.ChildStatesFromPicker(s.Picker)
	for _, c := range all {
		if c.State.ConnectivityState == connectivity.Ready {
			i := instanceOf(c.Endpoint)
			ready = append(ready, i)
			by[i.Addr()] = c.State.Picker
		}
	}
	if b.bal != nil {
		b.bal.Update(ready, b.now())
	}
	switch {
	case len(ready) > 0:
		s.Picker = &picker{b, by}
	case len(all) == 0:
		s.Picker = failing{b.noEndpoint()}
	} // else gRPC's own picker waits for a connection, or says why there is none
	b.ClientConn.UpdateState(s)
}

// noEndpoint is the error of calls while no instance is listed.
func (b *p2c) noEndpoint() error {
	switch {
	case b.why != nil:
		return status.Errorf(codes.Unavailable, "%v: %v", ipc.ErrNoEndpoint, b.why)
	case b.app == nil:
		return status.Error(codes.Unavailable, ipc.ErrNoEndpoint.Error())
	}
	return status.Errorf(codes.Unavailable, "call %s: %v; see whether one is registered under this name and UP", b.app.name, ipc.ErrNoEndpoint)
}

// instanceOf returns the instance at an endpoint; if the resolver said none, one that is known by its address alone.
func instanceOf(e resolver.Endpoint) roadbed.Instance {
	if i, ok := e.Attributes.Value(instanceKey{}).(*instance); ok {
		return i.Instance
	}
	addr := e.Addresses[0].Addr
	i := roadbed.Instance{ID: addr, Host: addr, Status: roadbed.Up}
	if host, port, err := net.SplitHostPort(addr); err == nil {
		if n, err := strconv.Atoi(port); err == nil {
			i.Host, i.Port = host, n
		}
	}
	return i
}

// failing is the picker while there is no instance.
type failing struct{ err error }

// Pick fails.
func (f failing) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{}, f.err
}

// picker chooses among the connections that are ready. It never changes.
type picker struct {
	b  *p2c
	by map[string]balancer.Picker // of one connection each, by address
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
	one := p.by[ep.Addr]
	if one == nil { // the list is newer than this picker; gRPC asks again with the next
		return balancer.PickResult{}, balancer.ErrNoSubConnAvailable
	}
	r, err := one.Pick(info)
	if err != nil {
		return r, err
	}
	ep.Begin()
	done := r.Done
	r.Done = func(d balancer.DoneInfo) {
		if done != nil {
			done(d)
		}
		ep.End()
		now := p.b.now()
		took := now - start
		if first, ok := info.Ctx.Value(firstKey{}).(*atomic.Int64); ok && first.Load() != 0 {
			took = p.b.at(time.Unix(0, first.Load())) - start
		}
		v := verdict(d, info.Ctx)
		if v != balance.Answered && ipc.Hasty(info.Ctx, time.Duration(now-start)) {
			v = balance.Abandoned
		}
		ep.Done(v, now, took)
		if load, ok := loadOf(d.ServerLoad); ok {
			ep.Report(load, now)
		}
	}
	return r, nil
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
	case codes.ResourceExhausted:
		return balance.Declined
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return balance.Erred
	}
	return balance.Answered
}
