package ipc

import (
	"context"
	"io"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc/balance"
)

// Balancing gives apply the settings of app's balancer, as the properties ipc.lb.… and Ribbon's say: before it returns,
// and again after each change. It is for those who balance connections of their own, as the gRPC adapter does.
func (e *Engine) Balancing(app string, apply func(balance.Settings)) (stop func()) {
	set := balance.Defaults()
	return e.config.Prefixes(balance.Prefixes(app), func(props map[string]string) {
		e.mu.Lock()
		set = balance.Resolve(app, props, set, e.refuse)
		e.mu.Unlock()
		apply(set)
	})
}

// source is what of a cluster's settings decides where its list comes from.
type source struct {
	servers, vips, region     string
	class                     balance.ListClass
	prioritize, secure, force bool
	port, securePort          int
}

func sourceOf(s *balance.Settings) source {
	return source{s.Servers, s.VIPs, s.Region, s.ListClass, s.PrioritizeVIPs, s.SecureOnly, s.ForcePort, s.Port, s.SecurePort}
}

// configure takes new settings. Calls do not overlap.
func (cl *cluster) configure(l Lists, s balance.Settings) {
	clk := cl.engine.clock
	cl.connect(s.Client)
	cl.lb.Configure(s, clk.now())
	if src := sourceOf(&s); cl.stop == nil || src != cl.source {
		cl.source = src
		if cl.stop != nil {
			cl.stop()
		}
		cl.stop = cl.list(l, s)
	}
	if cl.stopPeers(); s.SubsetSize > 0 && cl.engine.app != "" && cl.engine.instance != "" {
		cl.stopPeers = l.Watch(cl.engine.app, cl.peers)
	} else {
		cl.stopPeers = func() {}
		cl.lb.SetCallers(0, 0, clk.now())
	}
	url := ""
	if s.Ping == balance.URLPing {
		url = s.PingPath + "\x00" + s.PingExpect + "\x00" + s.PingInterval.String() + s.PingBudget.String()
	}
	if url != cl.pinging {
		cl.pinging = url
		cl.stopPings()
		cl.stopPings = func() {}
		if url == "" {
			cl.lb.SetAlive(func(*balance.Endpoint) bool { return true }, clk.now())
		} else {
			cl.stopPings = cl.ping(s)
		}
	}
}

// peers takes the list of the own app, from which follows which instances are this one's to call.
func (cl *cluster) peers(list []roadbed.Instance) {
	ordinal, callers, known := 0, 0, false
	for _, i := range list {
		if i.Status != roadbed.Up {
			continue
		}
		callers++
		known = known || i.ID == cl.engine.instance
		if i.ID < cl.engine.instance {
			ordinal++
		}
	}
	if !known {
		callers = 0
	}
	cl.lb.SetCallers(ordinal, callers, cl.engine.clock.now())
}

// list follows the list that the settings name.
func (cl *cluster) list(l Lists, s balance.Settings) (stop func()) {
	update := func(list []roadbed.Instance) { cl.lb.Update(list, cl.engine.clock.now()) }
	switch {
	case s.ListClass == balance.FromConfig || s.Servers != "" && s.ListClass == "":
		list, _ := balance.ParseServers(s.Servers) // it was checked as a property
		update(list)
		return func() {}
	case s.VIPs != "":
		return l.Watch("", func(all []roadbed.Instance) { update(balance.Select(all, &s.Ribbon)) })
	}
	return l.Watch(cl.name, func(all []roadbed.Instance) { update(balance.Select(all, &s.Ribbon)) })
}

// ping asks every endpoint each interval whether it lives, until it is stopped.
func (cl *cluster) ping(s balance.Settings) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(s.PingInterval)
		defer tick.Stop()
		for {
			cl.pingAll(ctx, &s)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// pingAll asks all at once; who has not answered when the time is over is dead.
func (cl *cluster) pingAll(ctx context.Context, s *balance.Settings) {
	within, cancel := context.WithTimeout(ctx, s.PingBudget)
	defer cancel()
	var mu sync.Mutex
	alive := map[*balance.Endpoint]bool{}
	var wg sync.WaitGroup
	for _, ep := range cl.lb.Endpoints() {
		wg.Go(func() {
			ok := cl.answers(within, ep, s)
			mu.Lock()
			alive[ep] = ok
			mu.Unlock()
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return
	}
	cl.lb.SetAlive(func(ep *balance.Endpoint) bool {
		ok, asked := alive[ep]
		return ok || !asked // who was listed meanwhile is asked next time
	}, cl.engine.clock.now())
}

const pingBody = 64 << 10 // of an answer, at most

func (cl *cluster) answers(ctx context.Context, ep *balance.Endpoint, s *balance.Settings) (alive bool) {
	defer func() { // the transport may be the application's
		if v := recover(); v != nil {
			cl.engine.log.Error("ipc: asking an instance whether it lives panicked; it counts as dead", "app", cl.name, "instance", ep.ID, "panic", v, "stack", string(debug.Stack()))
			alive = false
		}
	}()
	scheme := "http://"
	if ep.Secure {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+ep.Addr+s.PingPath, nil)
	if err != nil {
		return false
	}
	resp, err := cl.engine.base.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, pingBody))
	return err == nil && resp.StatusCode == http.StatusOK && (s.PingExpect == "" || string(body) == s.PingExpect)
}
