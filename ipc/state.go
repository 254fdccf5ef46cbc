package ipc

import (
	"net/http"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc/balance"
)

// CommandState is what one command does now. Counts and times are of the last ten seconds or somewhat more.
type CommandState struct {
	Name         string            `json:"name"`
	Breaker      string            `json:"breaker"` // CLOSED, OPEN or HALF_OPEN
	OpenedAt     *time.Time        `json:"openedAt,omitempty"`
	ErrorPercent int               `json:"errorPercent"`
	Requests     uint32            `json:"requests"` // that say something about health
	Counts       map[string]uint32 `json:"counts"`   // by event, those above 0; hasty timeouts, which say nothing about health, apart from the others
	InFlight     int64             `json:"inFlight"`
	Abandoned    int64             `json:"abandoned,omitempty"` // of these, those whose caller has gone
	Fallbacks    int64             `json:"fallbacksInFlight"`
	P50          float64           `json:"p50Seconds"`
	P99          float64           `json:"p99Seconds"`
	Settings     SettingsState     `json:"settings"`
	App          *AppState         `json:"app,omitempty"` // of the app of the same name, if the HTTP client calls it
}

// SettingsState are the settings in force.
type SettingsState struct {
	Timeout       float64 `json:"timeoutSeconds"` // below 0: none
	MaxConcurrent int     `json:"maxConcurrent"`
	MaxFallbacks  int     `json:"maxFallbacks"`
	RequestVolume int     `json:"requestVolume"`
	ErrorPercent  int     `json:"errorPercent"`
	SleepWindow   float64 `json:"sleepWindowSeconds"`
	Retries       int     `json:"retries"`
	ForceOpen     bool    `json:"forceOpen,omitempty"`
	ForceClosed   bool    `json:"forceClosed,omitempty"`
	BreakerOff    bool    `json:"breakerOff,omitempty"`
}

// AppState is what the balancer knows of an app.
type AppState struct {
	Panic      bool            `json:"panic"`      // too few instances are healthy, so all are tried
	LocalShare float64         `json:"localShare"` // of the traffic that the own zone should take
	Endpoints  []EndpointState `json:"endpoints"`
	Budget     BudgetState     `json:"retryBudget"`
}

// EndpointState is one instance and what its choice depends on.
type EndpointState struct {
	ID           string         `json:"id"`
	Addr         string         `json:"addr"`
	Zone         string         `json:"zone"`
	Status       roadbed.Status `json:"status"`
	Eligible     bool           `json:"eligible"`
	Why          string         `json:"why,omitempty"`          // it is not eligible
	EjectedUntil *time.Time     `json:"ejectedUntil,omitempty"` // after failures in a row
	RefusedUntil *time.Time     `json:"refusedUntil,omitempty"` // after a refused connection
	Requests     uint64         `json:"requests"`               // attempts ever
	Failures     uint64         `json:"failures"`
	balance.Inputs
}

// BudgetState tells how many further attempts the last ten seconds allow.
type BudgetState struct {
	Allowed float64 `json:"allowed"`
	Used    int64   `json:"used"`
	Denied  int64   `json:"denied"` // ever
}

var eventNames = [events]string{
	success: "success", failure: "failure", timeout: "timeout", hasty: "hasty", poolRejected: "poolRejected", rejected: "rejected",
	shortCircuited: "shortCircuited", badRequests: "badRequest", cancelled: "cancelled", unanswered: "unanswered",
	fallbackSuccess: "fallbackSuccess", fallbackFailure: "fallbackFailure", fallbackRejected: "fallbackRejected",
	fallbackDisabled: "fallbackDisabled", fallbackMissing: "fallbackMissing", fromCache: "fromCache", collapsed: "collapsed", slowCalls: "slow",
}

// Snapshot returns the state of all commands, by name.
func (e *Engine) Snapshot() []CommandState {
	out := make([]CommandState, 0, len(*e.commands.Load()))
	for _, n := range e.commandNames() {
		out = append(out, (*e.commands.Load())[n].snapshot())
	}
	return out
}

func (c *Command) snapshot() CommandState {
	set := c.set.Load()
	s := CommandState{
		Name: c.name, Breaker: c.breaker.name(set), InFlight: c.inFlight(), Abandoned: c.abandoned.Load(), Fallbacks: c.fallbacks.Load(), Counts: map[string]uint32{},
		Settings: SettingsState{
			Timeout: set.Timeout.Seconds(), MaxConcurrent: set.MaxConcurrent, MaxFallbacks: set.MaxFallbacks, RequestVolume: set.RequestVolume,
			ErrorPercent: set.ErrorPercent, SleepWindow: set.SleepWindow.Seconds(), Retries: max(0, set.Retries),
			ForceOpen: set.ForceOpen, ForceClosed: set.ForceClosed, BreakerOff: set.BreakerOff,
		},
	}
	if at := c.breaker.openedAt.Load(); at >= 0 {
		t := c.clock.time(at)
		s.OpenedAt = &t
	}
	st := c.stats(set)
	s.Requests, s.ErrorPercent = st.now.total, st.now.percent()
	for i, n := range st.rolled {
		if n > 0 {
			s.Counts[eventNames[i]] = n
		}
	}
	s.P50, s.P99 = st.Execute.Percentiles[2].Seconds(), st.Execute.Percentiles[6].Seconds()
	if cl := (*c.engine.clusters.Load())[c.name]; cl != nil {
		s.App = cl.snapshot()
	}
	return s
}

func (cl *cluster) snapshot() *AppState {
	now := cl.engine.clock.now()
	st := cl.lb.State(now)
	allowed, used := cl.budget.limit(cl.cmd.set.Load())
	out := &AppState{Panic: st.Panic, LocalShare: st.LocalShare, Endpoints: []EndpointState{}, Budget: BudgetState{Allowed: allowed, Used: used, Denied: cl.budget.denied.Load()}}
	until := func(ns int64) *time.Time {
		if ns == 0 {
			return nil
		}
		t := cl.engine.clock.time(ns)
		return &t
	}
	for _, ep := range st.Endpoints {
		out.Endpoints = append(out.Endpoints, EndpointState{
			ID: ep.ID, Addr: ep.Addr, Zone: ep.Zone, Status: ep.Status, Eligible: ep.Eligible, Why: ep.Why,
			EjectedUntil: until(ep.Ejected), RefusedUntil: until(ep.Refused), Requests: ep.Requests, Failures: ep.Failures, Inputs: ep.Inputs,
		})
	}
	return out
}

// StateHandler answers with the state of all commands as JSON; services serve it at /ipc/state.
func (e *Engine) StateHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, map[string]any{"app": e.app, "instance": e.instance, "zone": e.zone, "server": e.Load(), "commands": e.Snapshot()})
	})
}
