package ipcgrpc

import (
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	"google.golang.org/grpc/attributes"
	"google.golang.org/grpc/resolver"
)

// builder resolves the names of one scheme through an engine.
type builder struct {
	engine *ipc.Engine
	scheme string
}

// Scheme is the scheme.
func (b builder) Scheme() string { return b.scheme }

// Build follows the app that target names.
func (b builder) Build(target resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	name := strings.ToLower(target.Endpoint())
	if name == "" || strings.ContainsAny(name, "/:") {
		return nil, fmt.Errorf("ipcgrpc: target %q names no app; write %s:///playback", target.URL.String(), b.scheme)
	}
	f := &follower{engine: b.engine, name: name, cc: cc}
	stop := b.engine.Watch(name, f.update)
	f.mu.Lock()
	f.stop = stop
	f.mu.Unlock()
	return f, nil
}

// follower tells gRPC of the instances of one app.
type follower struct {
	engine *ipc.Engine
	name   string
	cc     resolver.ClientConn

	mu     sync.Mutex
	stop   func()
	closed bool
}

// update takes a new list.
func (f *follower) update(list []roadbed.Instance) {
	var endpoints []resolver.Endpoint
	for _, i := range list {
		if i.Status == roadbed.Up {
			i = atGRPC(i)
			endpoints = append(endpoints, resolver.Endpoint{
				Addresses:  []resolver.Address{{Addr: i.Addr()}},
				Attributes: attributes.New(instanceKey{}, &instance{i}),
			})
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	// Its error only says that the balancer wants other addresses; there are none but these.
	_ = f.cc.UpdateState(resolver.State{Endpoints: endpoints, Attributes: attributes.New(appKey{}, &app{f.engine, f.name})})
}

// ResolveNow does nothing: changes are pushed.
func (f *follower) ResolveNow(resolver.ResolveNowOptions) {}

// Close stops following.
func (f *follower) Close() {
	f.mu.Lock()
	f.closed = true
	stop := f.stop
	f.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// The balancer finds the app, and each instance, in the attributes of what was resolved.
type (
	appKey      struct{}
	instanceKey struct{}
	app         struct {
		engine *ipc.Engine
		name   string
	}
	instance struct{ roadbed.Instance }
)

// Equal tells gRPC whether two addresses are the same instance.
func (i *instance) Equal(o any) bool {
	other, ok := o.(*instance)
	return ok && other.ID == i.ID && other.Since.Equal(i.Since) && other.Location == i.Location
}

// Equal tells gRPC whether two states are of the same app.
func (a *app) Equal(o any) bool {
	other, ok := o.(*app)
	return ok && *other == *a
}

// atGRPC returns i at the port at which it speaks gRPC.
func atGRPC(i roadbed.Instance) roadbed.Instance {
	for _, key := range [...]string{"gRPC_port", "grpc.port"} {
		if p, err := strconv.ParseUint(i.Metadata[key], 10, 16); err == nil && p > 0 {
			i.Port = int(p)
		}
	}
	return i
}
