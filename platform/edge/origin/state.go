package origin

import (
	"cmp"
	"slices"
	"strings"
)

// State is what can be told of an origin.
type State struct {
	App       string        `json:"app"`
	InFlight  int64         `json:"inFlight" doc:"Requests that were let in and whose answers are not at their end."`
	Stalled   int           `json:"stalled" doc:"Of these, those whose clients keep their answers waiting just now."`
	Limit     int           `json:"limit,omitempty" doc:"Of requests in flight by zuul.origin.APP.concurrency.max.requests; -1 is any number, absent as ipc has it."`
	Protocol  string        `json:"protocol" doc:"http1, h2 or h2c; gRPC is always one of the latter."`
	PerServer int           `json:"maxConnectionsPerHost" doc:"-1 is any number."`
	Keeps     int           `json:"idleConnectionsPerHost" doc:"So many idle connections are kept to an instance."`
	Servers   []ServerState `json:"servers" doc:"Where HTTP/1.1 connections lead."`
}

// ServerState is what can be told of the connections to an instance.
type ServerState struct {
	Addr  string `json:"addr"`
	Idle  int    `json:"idle"`
	InUse int    `json:"inUse" doc:"Those that are being opened included."`
}

// Origins tells of every app that was asked for, in the order of their names.
func (p *Proxy) Origins() []State {
	out := []State{}
	for _, o := range *p.origins.Load() {
		set := o.set.Load()
		s := State{App: o.app, InFlight: o.inFlight.Load(), Stalled: o.room.Stalled(), Limit: set.concurrent, Protocol: cmp.Or(set.protocol, "http1"), Servers: []ServerState{}}
		s.PerServer, s.Keeps = p.limits(set)
		for _, srv := range *o.servers.Load() {
			srv.mu.Lock()
			idle := len(srv.idle)
			srv.mu.Unlock()
			s.Servers = append(s.Servers, ServerState{srv.addr, idle, max(0, int(srv.open.Load())-idle)})
		}
		slices.SortFunc(s.Servers, func(a, b ServerState) int { return strings.Compare(a.Addr, b.Addr) })
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b State) int { return strings.Compare(a.App, b.App) })
	return out
}
