//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/bench/process"
)

// platform is ours: the edge in a process of its own, and another with what it takes routes and instances from.
type platform struct {
	proxy
	rest *process.Process
	base string // of the registry and of configuration
	api  string // of the edge

	serve func(name, ready string, args ...string) (*process.Process, error) // starts one more process beside them
}

// crowded starts the origin and ours before it, ready for a crowd; stop ends both.
func (b *bench) crowded() (ours *platform, origin netip.AddrPort, stop func(), err error) {
	behind, origin, err := b.startOrigin()
	if err != nil {
		return nil, origin, nil, err
	}
	if ours, err = b.startRoadbed(origin); err != nil {
		behind.Stop()
		return nil, origin, nil, err
	}
	stop = func() { ours.Stop(); behind.Stop() }
	if err := ours.crowd(); err != nil {
		stop()
		return nil, origin, nil, err
	}
	return ours, origin, stop, nil
}

func (p *platform) Stop() {
	p.proxy.Stop()
	p.rest.Stop()
}

// startRoadbed starts a platform that has the origin in its registry, and an edge with b.routes routes.
func (b *bench) startRoadbed(origin netip.AddrPort) (*platform, error) {
	dir, err := b.folder("roadbed")
	if err != nil {
		return nil, err
	}
	binary := filepath.Join(b.dir, "roadbed")
	if err := process.Build(b.root, "./cmd/roadbed", binary); err != nil {
		return nil, err
	}
	ports, err := process.FreePorts(6)
	if err != nil {
		return nil, err
	}
	var port [6]string
	for i, n := range ports {
		port[i] = strconv.Itoa(n)
	}
	engine, registry, restAPI, edgeAPI, edge, secure := port[0], port[1], port[2], port[3], port[4], port[5]
	p := &platform{base: "http://127.0.0.1:" + registry, api: "http://127.0.0.1:" + edgeAPI}
	p.serve = func(name, ready string, args ...string) (*process.Process, error) {
		cmd := exec.Command(binary, append([]string{"serve", "--data", filepath.Join(dir, "state"), "--engine-port", engine, "--eureka-port", registry}, args...)...)
		cmd.Dir = dir // away from anybody's roadbed.yaml
		return process.Start(name, filepath.Join(dir, name+".log"), ready, cmd)
	}
	if p.rest, err = p.serve("rest", p.base+"/eureka/apps/delta", "--roles", "engine,registry,properties", "--api-port", restAPI); err != nil {
		return nil, err
	}
	if err := p.prepare(origin, b.routes); err != nil {
		p.rest.Stop()
		return nil, err
	}
	p.url, p.secure = "http://127.0.0.1:"+edge+path, "https://127.0.0.1:"+secure+path
	if p.Process, err = p.serve("roadbed", p.url, "--roles", "edge", "--edge-port", edge, "--api-port", edgeAPI, "--edge-tls-port", secure, "--edge-certs", filepath.Join(b.dir, "certs")); err != nil {
		p.rest.Stop()
		return nil, err
	}
	if err := errors.Join(passes(p.url), p.inForce(b.routes)); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// another starts one more edge of the same platform, which has as many routes.
func (p *platform) another(name string, routes int) (*platform, error) {
	ports, err := process.FreePorts(2)
	if err != nil {
		return nil, err
	}
	api, edge := strconv.Itoa(ports[0]), strconv.Itoa(ports[1])
	more := &platform{rest: p.rest, base: p.base, api: "http://127.0.0.1:" + api}
	more.url = "http://127.0.0.1:" + edge + path
	if more.Process, err = p.serve(name, more.url, "--roles", "edge", "--edge-port", edge, "--api-port", api); err != nil {
		return nil, err
	}
	if err := more.inForce(routes); err != nil {
		more.proxy.Stop()
		return nil, err
	}
	return more, nil
}

// inForce waits until the edge has all routes.
func (p *platform) inForce(want int) error {
	var seen struct {
		Routes  []struct{ ID string }
		Refused string
	}
	for range 100 {
		resp, err := caller.Get(p.api + "/api/v1/edge/routes")
		if err != nil {
			return err
		}
		err = json.NewDecoder(resp.Body).Decode(&seen)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			return fmt.Errorf("read the edge's routes: %w", err)
		}
		if len(seen.Routes) == want {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return fmt.Errorf("the edge has %d routes after ten seconds, want %d; %s", len(seen.Routes), want, seen.Refused)
}

// prepare registers the origin, for an hour, and sets the routes.
func (p *platform) prepare(origin netip.AddrPort, routes int) error {
	host := origin.Addr().String()
	instance := map[string]any{
		"instanceId": "shop-1", "app": "SHOP", "vipAddress": "shop", "hostName": host, "ipAddr": host, "status": "UP",
		"port":           map[string]any{"$": int(origin.Port()), "@enabled": "true"},
		"dataCenterInfo": map[string]any{"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"},
		"leaseInfo":      map[string]any{"renewalIntervalInSecs": 30, "durationInSecs": 3600},
	}
	if err := post(p.base+"/eureka/apps/SHOP", map[string]any{"instance": instance}); err != nil {
		return fmt.Errorf("register the origin: %w", err)
	}
	docs, err := documents(manyRoutes(routes))
	if err != nil {
		return err
	}
	for i, text := range docs {
		if err := p.set(fmt.Sprintf("edge.routes.part%d", i+1), text); err != nil {
			return err
		}
	}
	return nil
}

// crowd lifts the bounds that a thousand clients on one address, asking one server all at once, run into, and those that
// have connections renewed now and then; nginx and HAProxy are set up without them, too.
func (p *platform) crowd() error {
	return p.setAll(map[string]string{
		"hystrix.command.shop.execution.isolation.semaphore.maxConcurrentRequests": "4096",
		"zuul.origin.shop.concurrency.max.requests":                                "4096",
		"shop.ribbon.MaxConnectionsPerHost":                                        "4096",
		"shop.ribbon.PerServerWaterline":                                           "2048",
		"shop.ribbon.MaxRequestsPerConnection":                                     "1000000000",
		"maxRequestsPerConnection":                                                 "1000000000",
		"edge.connections.perip":                                                   "4096",
		// None of these is refused however busy this machine is: nobody else refuses any.
		"edge.priority.bench": "* /shop/500 1",
	})
}

// setAll sets properties, and waits until the edge has heard of them.
func (p *platform) setAll(all map[string]string) error {
	for key, value := range all {
		if err := p.set(key, value); err != nil {
			return err
		}
	}
	time.Sleep(2 * time.Second)
	return nil
}

// set sets a property.
func (p *platform) set(key, value string) error {
	if err := post(p.base+"/config/v1/properties", map[string]any{"key": key, "value": value}); err != nil {
		return fmt.Errorf("set %s: %w", key, err)
	}
	return nil
}

// documents are routes as JSON, in pieces that each fit into one property.
func documents(routes []map[string]any) (docs []string, err error) {
	const most = 60 << 10 // of 64 KiB
	var piece []string
	size := 0
	for i, r := range routes {
		text, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		piece, size = append(piece, string(text)), size+len(text)+2
		if size > most || i == len(routes)-1 {
			docs = append(docs, "["+strings.Join(piece, ",\n")+"]")
			piece, size = nil, 0
		}
	}
	return docs, nil
}

// manyRoutes are as many, all to the same service and alike but for their paths; the one that is asked for has ten
// filters.
func manyRoutes(n int) []map[string]any {
	routes := make([]map[string]any, n)
	for i := range routes {
		prefix := fmt.Sprintf("/shop/%d", i)
		routes[i] = map[string]any{"id": strconv.Itoa(i), "match": map[string]any{"path": map[string]any{"prefix": prefix}}, "backends": []map[string]any{{"vip": "shop"}}}
		if strings.HasPrefix(path, prefix+"/") {
			filters := []map[string]any{{"stripPrefix": 1}}
			for len(filters) < 10 {
				filters = append(filters, map[string]any{"stripPrefix": 0})
			}
			routes[i]["filters"] = filters
		}
	}
	return routes
}

var caller = &http.Client{Timeout: 30 * time.Second}

// post sends JSON; anything but success is an error.
func post(url string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := caller.Post(url, "application/json", bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if said, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s %v: %.500s", url, resp.Status, err, said)
	}
	return nil
}
