package ipc

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
)

// configured makes an engine with properties, written "key=value" each.
func configured(t *testing.T, o Options, props ...string) *Engine {
	over := map[string]string{}
	for _, p := range props {
		k, v, _ := strings.Cut(p, "=")
		over[k] = v
	}
	o.Config = config.New(config.Options{Override: over})
	return newTestEngine(t, o)
}

// everybody answers 200 at every address.
func everybody() *network {
	n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){}}
	for p := range 20 {
		n.hosts[addr(p)] = answer(200)
	}
	return n
}

func TestRibbonPropertiesChooseRuleListAndPort(t *testing.T) {
	vip := instances("", 1, 2, 3)
	for i := range vip {
		vip[i].App, vip[i].VIP = "other", "movies.prod"
	}
	for _, tc := range []struct {
		props []string
		want  string // who was called
	}{
		{[]string{"app.ribbon.NFLoadBalancerRuleClassName=com.netflix.loadbalancer.RoundRobinRule"}, "10.0.0.1:7 10.0.0.1:8 10.0.0.1:7 10.0.0.1:8"},
		{[]string{"ribbon.NFLoadBalancerRuleClassName=BestAvailableRule"}, "10.0.0.1:7 10.0.0.1:7 10.0.0.1:7 10.0.0.1:7"},
		{[]string{"app.ribbon.listOfServers=10.0.0.1:11,10.0.0.1:12", "ribbon.NFLoadBalancerRuleClassName=RoundRobinRule"}, "10.0.0.1:11 10.0.0.1:12 10.0.0.1:11 10.0.0.1:12"},
		{[]string{"app.ribbon.DeploymentContextBasedVipAddresses=none,movies.prod", "ribbon.NFLoadBalancerRuleClassName=RoundRobinRule"}, "10.0.0.1:1 10.0.0.1:2 10.0.0.1:3 10.0.0.1:1"},
		{[]string{"ribbon.ForceClientPortConfiguration=true", "ribbon.Port=9"}, "10.0.0.1:9 10.0.0.1:9 10.0.0.1:9 10.0.0.1:9"},
	} {
		n := everybody()
		e := configured(t, Options{Lists: Static{"app": instances("", 7, 8), "other": vip}, Transport: n}, tc.props...)
		for range 4 {
			if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 {
				t.Fatalf("%v: got %d, %v", tc.props, status, err)
			}
		}
		var hosts []string
		for _, r := range n.seen {
			hosts = append(hosts, r.URL.Host)
		}
		if got := strings.Join(hosts, " "); got != tc.want {
			t.Errorf("%v: called %s, want %s", tc.props, got, tc.want)
		}
	}
}

func TestNoEndpointSaysWhatToDo(t *testing.T) {
	down := instances("", 1)
	down[0].Status = roadbed.OutOfService
	e := newTestEngine(t, Options{Lists: Static{"app": down}, Transport: everybody()})
	for app, says := range map[string]string{
		"nobody": "ipc: call nobody: no instance of it is known that may take traffic: the list of instances is empty; see whether it has registered under this name",
		"app":    "1 instance is listed, and it is OUT_OF_SERVICE; put one back in service",
	} {
		_, err := get(e, t.Context(), "GET", "http://"+app+"/")
		if !errors.Is(err, ErrNoEndpoint) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an ErrNoEndpoint that says %q", app, err, says)
		}
	}
}

func TestRetryRuleWaitsForSomebody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lists{}
		e := configured(t, Options{Lists: l, Transport: everybody()}, "app.ribbon.NFLoadBalancerRuleClassName=RetryRule")
		start := time.Now()
		if _, err := get(e, t.Context(), "GET", "http://app/"); !errors.Is(err, ErrNoEndpoint) || time.Since(start) < 500*time.Millisecond || time.Since(start) > 510*time.Millisecond {
			t.Errorf("nobody came: got %v after %s, want ErrNoEndpoint after 500 ms", err, time.Since(start))
		}
		time.AfterFunc(200*time.Millisecond, func() { l.set(instances("", 1)) })
		start = time.Now()
		if status, err := get(e, t.Context(), "GET", "http://app/"); status != 200 || time.Since(start) > 210*time.Millisecond {
			t.Errorf("somebody came after 200 ms: got %d, %v after %s, want 200 at once", status, err, time.Since(start))
		}
		l.set(nil)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start = time.Now()
		if _, err := get(e, ctx, "GET", "http://app/"); err == nil || time.Since(start) > 110*time.Millisecond {
			t.Errorf("a caller with 100 ms got %v after %s", err, time.Since(start))
		}
	})
}

func TestPingURLTakesOutWhoDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := everybody()
		var pings, status atomic.Int64
		status.Store(200)
		n.hosts[addr(1)] = func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/healthcheck" {
				pings.Add(1)
				return answer(int(status.Load()))(r)
			}
			return answer(200)(r)
		}
		n.hosts[addr(3)] = func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/healthcheck" {
				return hangs(r)
			}
			return answer(200)(r)
		}
		e := configured(t, Options{Lists: Static{"app": instances("", 1, 2, 3)}, Transport: n},
			"ribbon.NFLoadBalancerPingClassName=com.netflix.loadbalancer.PingUrl", "ipc.lb.app.ping.path=/healthcheck", "ipc.lb.app.ping.expect=ok", "ribbon.NFLoadBalancerPingInterval=10")
		get(e, t.Context(), "GET", "http://app/")
		time.Sleep(3 * time.Second)
		if got := eligible(e); got != 2 {
			t.Errorf("one hangs: %d are eligible, want 2", got)
		}
		status.Store(500)
		time.Sleep(10 * time.Second)
		if got := eligible(e); got != 1 {
			t.Errorf("another answers 500: %d are eligible, want 1", got)
		}
		status.Store(200)
		time.Sleep(10 * time.Second)
		if got := eligible(e); got != 2 {
			t.Errorf("it is well again: %d are eligible, want 2", got)
		}
		if got := pings.Load(); got != 3 {
			t.Errorf("it was pinged %d times in 23 s, want 3", got)
		}
	})
}

func TestCalleesReportTheirLoad(t *testing.T) {
	for header, want := range map[string]float64{
		"X-Netflix.server.utilization: 30, target=60":         0.5,
		"Endpoint-Load-Metrics: TEXT cpu=0.3":                 0.3,
		`Endpoint-Load-Metrics: JSON {"cpuUtilization": 0.4}`: 0.4,
		"X-Netflix.server.utilization: nonsense":              1,
	} {
		name, value, _ := strings.Cut(header, ": ")
		n := &network{hosts: map[string]func(*http.Request) (*http.Response, error){addr(1): answer(200, name, value)}}
		e := newTestEngine(t, Options{Lists: Static{"app": instances("", 1)}, Transport: n})
		get(e, t.Context(), "GET", "http://app/")
		if got := e.cluster("app").lb.State(e.clock.now()).Endpoints[0].Load; got != want {
			t.Errorf("%s: the load is %g, want %g", header, got, want)
		}
	}
}

func TestGatewayErrorsEjectWhenEnforced(t *testing.T) {
	n := everybody()
	n.hosts[addr(1)] = answer(503)
	e := configured(t, Options{Lists: Static{"app": instances("", 1, 2, 3)}, Transport: n},
		"ipc.lb.app.outlier.enforcingConsecutiveGatewayFailure=100", "ipc.lb.app.outlier.consecutiveGatewayFailure=2", "ipc.lb.app.outlier.enforcingConsecutive5xx=0")
	for range 100 {
		get(e, t.Context(), "GET", "http://app/")
	}
	if got := eligible(e); got != 2 {
		t.Errorf("%d are eligible, want the 2 that do not answer 503", got)
	}
}

func TestSubsetFollowsThePlaceAmongTheCallers(t *testing.T) {
	callers := instances("", 31, 32, 33, 34)
	for i := range callers {
		callers[i].App = "web"
	}
	callers[0].Status = roadbed.Down
	var servers []int
	for p := range 12 {
		servers = append(servers, 100+p)
	}
	used := map[string]int{}
	for _, me := range callers[1:] {
		e := configured(t, Options{App: "web", Instance: me.ID, Lists: Static{"web": callers, "app": instances("", servers...)}}, "ipc.lb.app.subset.size=4")
		n := 0
		for _, ep := range e.cluster("app").lb.State(e.clock.now()).Endpoints {
			if ep.Eligible {
				used[ep.ID]++
				n++
			}
		}
		if n != 4 {
			t.Errorf("%s uses %d of 12 instances, want 4", me.ID, n)
		}
	}
	if len(used) != 12 {
		t.Errorf("three callers use %d of 12 instances, want each to be somebody's: %v", len(used), used)
	}
}

func TestAPingThatPanicsTakesOutItsInstanceAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := everybody()
		n.hosts[addr(1)] = func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/healthcheck" {
				panic("a transport with a fault")
			}
			return answer(200)(r)
		}
		e := configured(t, Options{Lists: Static{"app": instances("", 1, 2, 3)}, Transport: n},
			"ribbon.NFLoadBalancerPingClassName=com.netflix.loadbalancer.PingUrl", "ipc.lb.app.ping.path=/healthcheck", "ribbon.NFLoadBalancerPingInterval=10")
		get(e, t.Context(), "GET", "http://app/")
		time.Sleep(3 * time.Second)
		if got := eligible(e); got != 2 {
			t.Errorf("one of three pings panics: %d are eligible, want 2", got)
		}
	})
}
