package edge

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/origin"
)

// Origin is an app that this edge has asked, and how it does. Requests and times are of the last ten seconds or somewhat
// more.
type Origin struct {
	App          string         `json:"app"`
	Breaker      string         `json:"breaker" doc:"of the circuit to it: CLOSED, OPEN or HALF_OPEN"`
	InFlight     int64          `json:"inFlight" doc:"requests that were let in and whose answers are not at their end"`
	Stalled      int            `json:"stalled" doc:"of these, those whose clients keep their answers waiting just now"`
	Limit        int            `json:"limit" doc:"of requests in flight; -1 is any number"`
	Requests     uint32         `json:"requests" doc:"that say something about its health"`
	ErrorPercent int            `json:"errorPercent" doc:"of these, those that failed"`
	P50          float64        `json:"p50Seconds"`
	P99          float64        `json:"p99Seconds"`
	Panic        bool           `json:"panic,omitempty" doc:"too few instances are healthy, so that all are tried"`
	Retries      Retries        `json:"retries"`
	Protocol     string         `json:"protocol" doc:"http1, h2 or h2c; gRPC is always one of the latter"`
	PerInstance  int            `json:"maxConnectionsPerHost" doc:"HTTP/1.1 connections to one instance; -1 is any number"`
	Keeps        int            `json:"idleConnectionsPerHost" doc:"so many idle ones are kept to an instance"`
	Instances    []OriginMember `json:"instances" doc:"by id; those that are listed no more stay as long as connections to them do"`
}

// Retries are the further attempts that the last ten seconds allow.
type Retries struct {
	Allowed float64 `json:"allowed"`
	Used    int64   `json:"used"`
}

// OriginMember is one instance of an origin, and what its choice depends on.
type OriginMember struct {
	ID          string     `json:"id" doc:"empty if it is listed no more"`
	Address     string     `json:"address"`
	Zone        string     `json:"zone"`
	Status      string     `json:"status" doc:"as the registry lists it"`
	Eligible    bool       `json:"eligible" doc:"requests may be sent there"`
	Why         string     `json:"why,omitempty" doc:"it is not eligible"`
	Ejected     *time.Time `json:"ejectedUntil,omitempty" doc:"after failures in a row"`
	Refused     *time.Time `json:"refusedUntil,omitempty" doc:"after it refused a connection"`
	Score       float64    `json:"scoreSeconds" doc:"what one more request would cost there: the wait that is expected, made longer by load, failures and coldness. Of two instances the one with the lower score is asked"`
	Active      int64      `json:"active" doc:"attempts in flight there"`
	RTT         float64    `json:"rttSeconds" doc:"until an answer begins, the latest counting most; that of the others if unknown"`
	Utilization float64    `json:"utilization" doc:"that it reports, 1 being as much as it wants; 1 if it reports none"`
	ErrorRate   float64    `json:"errorRate" doc:"share of attempts that failed, 0 to 1, the latest counting most"`
	Warm        float64    `json:"warm" doc:"from 0.1, just started, to 1: how much of its share it gets"`
	Requests    uint64     `json:"requests" doc:"attempts since this edge began"`
	Failures    uint64     `json:"failures" doc:"of these, those that failed"`
	Idle        int        `json:"idle" doc:"HTTP/1.1 connections that wait for a request"`
	InUse       int        `json:"inUse" doc:"HTTP/1.1 connections with a request, or being opened"`
}

// Origins tells of every app that was asked for since this edge began, in the order of their names.
func (g *Gateway) Origins() []Origin {
	commands := make(map[string]ipc.CommandState)
	for _, c := range g.calls.Snapshot() {
		commands[c.Name] = c
	}
	out := []Origin{}
	for _, o := range g.origins.Origins() {
		c := commands[strings.ToLower(o.App)]
		out = append(out, Origin{
			App: o.App, Breaker: cmp.Or(c.Breaker, "CLOSED"), InFlight: o.InFlight, Stalled: o.Stalled, Limit: cmp.Or(o.Limit, c.Settings.MaxConcurrent),
			Requests: c.Requests, ErrorPercent: c.ErrorPercent, P50: c.P50, P99: c.P99,
			Protocol: o.Protocol, PerInstance: o.PerServer, Keeps: o.Keeps, Instances: members(c.App, o.Servers),
		})
		if c.App != nil {
			last := &out[len(out)-1]
			last.Panic, last.Retries = c.App.Panic, Retries{c.App.Budget.Allowed, c.App.Budget.Used}
		}
	}
	return out
}

// members joins what the balancer knows of instances with the connections to them, by address.
func members(known *ipc.AppState, servers []origin.ServerState) []OriginMember {
	out := []OriginMember{}
	at := make(map[string]int)
	if known != nil {
		for _, e := range known.Endpoints {
			at[e.Addr] = len(out)
			out = append(out, OriginMember{
				ID: e.ID, Address: e.Addr, Zone: e.Zone, Status: string(e.Status), Eligible: e.Eligible, Why: e.Why, Ejected: e.EjectedUntil, Refused: e.RefusedUntil,
				Score: e.Cost, Active: e.Active, RTT: e.RTT, Utilization: e.Load, ErrorRate: e.Error, Warm: e.Warm, Requests: e.Requests, Failures: e.Failures,
			})
		}
	}
	for _, s := range servers {
		i, listed := at[s.Addr]
		if !listed {
			if s.Idle+s.InUse == 0 {
				continue
			}
			i = len(out)
			out = append(out, OriginMember{Address: s.Addr, Why: "the registry lists it no more"})
		}
		out[i].Idle, out[i].InUse = s.Idle, s.InUse
	}
	slices.SortStableFunc(out, func(a, b OriginMember) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Address, b.Address)) })
	return out
}

// mountStanding puts on s what tells how this edge does.
func (g *Gateway) mountStanding(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "list-edge-filters", Method: http.MethodGet, Path: "/api/v1/edge/filters",
		Summary: "The edge's filters, in the order they run in", Description: "Endpoints stand between inbound and outbound ones. Those of single routes are not among them.",
	}, func(context.Context, *struct{}) (*struct{ Body []filter.Standing }, error) {
		return &struct{ Body []filter.Standing }{g.chain.Load().Standings()}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "list-edge-origins", Method: http.MethodGet, Path: "/api/v1/edge/origins",
		Summary: "The apps that this edge has asked, and their instances with scores", Description: "Apps that nobody has asked for yet are not among them.",
	}, func(context.Context, *struct{}) (*struct{ Body []Origin }, error) {
		return &struct{ Body []Origin }{g.Origins()}, nil
	})
}
