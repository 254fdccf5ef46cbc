package balance

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Settings are one balancer's. [Defaults] gives them as documented; [Resolve] reads them from properties.
type Settings struct {
	// Outlier ejection. An endpoint leaves after so many failures in a row (0 is never): any answer of 500 and more,
	// answers 502, 503 and 504, attempts that broke or reached nobody. The Enforce fields are the percentage of cases
	// in which it really leaves.
	Consecutive5xx, ConsecutiveGateway, ConsecutiveLocal int
	Enforce5xx, EnforceGateway, EnforceLocal             int

	// Every Interval endpoints are compared: those leave whose success rate is below the mean less Factor standard
	// deviations, and those that failed FailurePercent and more of their attempts. Endpoints with fewer attempts than
	// Requests do not count, and with fewer than Hosts that do nobody leaves.
	Interval             time.Duration
	SuccessRateHosts     int
	SuccessRateRequests  int
	SuccessRateFactor    float64
	EnforceSuccessRate   int
	FailurePercent       int
	FailureHosts         int
	FailureRequests      int
	EnforceFailure       int
	BaseEjection         time.Duration // of the first ejection; twice that of the second in a row, and so on
	MaxEjection          time.Duration
	EjectionJitter       time.Duration // at most so much is added, at random
	MaxEjectedPercent    int           // of those that are UP; of three and more one may always leave
	PanicPercent         int           // with fewer fit endpoints health does not count; 0 is never
	WarmUp               time.Duration // over which a new endpoint's share grows
	ZoneRouting          bool          // prefer the own zone
	ZoneMinimumEndpoints int           // with fewer there is no preference, and zones that do badly are avoided
	SubsetSize           int           // use at least so many endpoints and not all; 0 is all

	Ribbon
	Client
}

// Defaults returns the settings that hold when nothing is said.
func Defaults() Settings {
	return Settings{
		Consecutive5xx: 5, ConsecutiveGateway: 5, ConsecutiveLocal: 5,
		Enforce5xx: 100, EnforceGateway: 0, EnforceLocal: 100,
		Interval: 10 * time.Second, SuccessRateHosts: 5, SuccessRateRequests: 100, SuccessRateFactor: 1.9, EnforceSuccessRate: 100,
		FailurePercent: 85, FailureHosts: 5, FailureRequests: 50, EnforceFailure: 100,
		BaseEjection: 30 * time.Second, MaxEjection: 300 * time.Second, MaxEjectedPercent: 10,
		PanicPercent: 50, WarmUp: 90 * time.Second, ZoneRouting: true, ZoneMinimumEndpoints: 6,
		Ribbon: ribbonDefaults(), Client: clientDefaults(),
	}
}

// Ribbon are the settings of Ribbon's rules, filters and pings. They count once a client's properties name a rule or a
// balancer of Ribbon's.
type Ribbon struct {
	Rule          Rule // P2C unless a rule or a balancer is named
	ZoneAware     bool // choose a zone first, as ZoneAwareLoadBalancer does
	Filter        Filter
	ZoneAffinity  bool // keep the own zone's endpoints only, as long as it does well
	ZoneExclusive bool // keep them in any case

	FailureThreshold int           // failed connections in a row that trip an endpoint
	TripFactor       time.Duration // the first blackout
	TripMax          time.Duration // the longest
	ActiveWindow     time.Duration // requests in flight that did not change for so long do not count
	FilterTripped    bool          // AvailabilityFilteringRule skips the tripped
	ActiveLimit      int           // and those with so many requests in flight; -1 is no limit
	WeightInterval   time.Duration // WeightedResponseTimeRule's weights are that old at most

	ZoneAvoidance    bool    // ZoneAvoidanceRule drops zones
	ZoneTripPercent  float64 // whose part tripped is that much (0 to 1)
	ZoneLoad         float64 // or the worst, if its requests in flight per endpoint reach this
	AffinityLoad     float64 // the own zone does badly with so many requests in flight per endpoint
	AffinityTripped  float64 // or with that part tripped
	AffinityMinimum  int     // or with fewer endpoints than this that are not
	KeepSize         int     // ServerListSubsetFilter: endpoints to use
	KeepEliminate    float64 // the part of them that is replaced at least
	KeepFailures     int     // who failed more often in the last second is replaced
	KeepConnections  int     // and who has more requests in flight
	RetryRuleTime    time.Duration
	PingInterval     time.Duration
	PingBudget       time.Duration // in which all must have answered
	Ping             Ping
	PingPath         string // of PingUrl
	PingExpect       string // the whole body PingUrl wants; empty is any
	RefreshInterval  time.Duration
	ListClass        ListClass
	Servers          string // listOfServers
	VIPs             string // comma-separated; empty: the client's name
	PrioritizeVIPs   bool   // the first VIP that has any instance is the only one
	Region           string // instances of this region only; empty: any
	SecureOnly       bool
	Port, SecurePort int // used instead of the registered one if ForcePort
	ForcePort        bool
}

func ribbonDefaults() Ribbon {
	return Ribbon{
		Rule: P2C, FailureThreshold: 3, TripFactor: 10 * time.Second, TripMax: 30 * time.Second, ActiveWindow: 600 * time.Second,
		FilterTripped: true, ActiveLimit: -1, WeightInterval: 30 * time.Second,
		ZoneAvoidance: true, ZoneTripPercent: 0.99999, ZoneLoad: 0.2,
		AffinityLoad: 0.6, AffinityTripped: 0.8, AffinityMinimum: 2,
		KeepSize: 20, KeepEliminate: 0.1, RetryRuleTime: 500 * time.Millisecond,
		PingInterval: 30 * time.Second, PingBudget: 2 * time.Second, PingPath: "/", RefreshInterval: 30 * time.Second,
		PrioritizeVIPs: true, Port: 7001, SecurePort: 7001,
	}
}

// The names by which Ribbon's properties choose classes: the last elements of the classes' paths.
type (
	// Rule chooses among endpoints.
	Rule string
	// Filter narrows a list before rules see it.
	Filter string
	// Ping finds out who lives.
	Ping string
	// ListClass says where a client's list comes from.
	ListClass string
)

// P2C is no rule of Ribbon's: two at random, of which the cheaper is likely to win.
const P2C Rule = "p2c"

// Ribbon's rules.
const (
	RoundRobinRule            Rule = "RoundRobinRule"
	RandomRule                Rule = "RandomRule"
	AvailabilityFilteringRule Rule = "AvailabilityFilteringRule"
	BestAvailableRule         Rule = "BestAvailableRule"
	WeightedResponseTimeRule  Rule = "WeightedResponseTimeRule"
	ZoneAvoidanceRule         Rule = "ZoneAvoidanceRule"
	RetryRule                 Rule = "RetryRule"
)

// Ribbon's filters, pings and lists.
const (
	SubsetFilter  Filter    = "ServerListSubsetFilter"
	DummyPing     Ping      = "DummyPing"
	DiscoveryPing Ping      = "NIWSDiscoveryPing"
	URLPing       Ping      = "PingUrl"
	ConstantPing  Ping      = "PingConstant"
	FromConfig    ListClass = "ConfigurationBasedServerList"
	FromDiscovery ListClass = "DiscoveryEnabledNIWSServerList"
)

// key is one setting as a property.
type key struct {
	levels []string // names, the first that is set counts; "*" stands for the client
	set    func(s *Settings, text string) error
	keep   func(s, from *Settings) // copies it
}

const maxTime = 24 * time.Hour

func own(name string) []string { return []string{"ipc.lb.*." + name, "ipc.lb.default." + name} }

// ribbon returns the names of a Ribbon key, and of its other spellings; those of the client come before those of all.
func ribbon(names ...string) (out []string) {
	for _, prefix := range []string{"*.ribbon.", "ribbon."} {
		for _, n := range names {
			out = append(out, prefix+n)
		}
	}
	return out
}

func field[T any](levels []string, parse func(string) (T, error), at func(*Settings) *T) key {
	return key{levels,
		func(s *Settings, text string) error {
			v, err := parse(strings.TrimSpace(text))
			if err == nil {
				*at(s) = v
			}
			return err
		},
		func(s, from *Settings) { *at(s) = *at(from) },
	}
}

func whole(lo, hi int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < lo || n > hi {
			return 0, fmt.Errorf("use a whole number from %d to %d", lo, hi)
		}
		return n, nil
	}
}

func number(lo, hi float64) func(string) (float64, error) {
	return func(text string) (float64, error) {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || f < lo || f > hi {
			return 0, fmt.Errorf("use a number from %g to %g", lo, hi)
		}
		return f, nil
	}
}

// times reads a whole number of units from lo up to a day.
func times(unit time.Duration, lo int) func(string) (time.Duration, error) {
	n := whole(lo, int(maxTime/unit))
	return func(text string) (time.Duration, error) {
		v, err := n(text)
		return time.Duration(v) * unit, err
	}
}

func truth(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("use true or false")
}

func text(s string) (string, error) { return s, nil }

// class reads a Java class name by the last element of its path.
func class[T any](what string, known map[string]T) func(string) (T, error) {
	return func(text string) (T, error) {
		v, ok := known[text[strings.LastIndexByte(text, '.')+1:]]
		if !ok {
			return v, fmt.Errorf("%s is no %s that is built in; see the list in docs/calls.md", text, what)
		}
		return v, nil
	}
}

// rules are the rules by names that are not Ribbon's.
var rules = map[string]Rule{
	"p2c": P2C, "roundrobin": RoundRobinRule, "random": RandomRule, "leastreq": BestAvailableRule, "fastest": WeightedResponseTimeRule,
	"availability": AvailabilityFilteringRule, "zoneavoidance": ZoneAvoidanceRule,
}

func ruleOf(text string) (Rule, error) {
	r, ok := rules[text]
	if !ok {
		return r, fmt.Errorf("use one of %s", strings.Join(slices.Sorted(maps.Keys(rules)), ", "))
	}
	return r, nil
}

// keys returns every property, in the order in which they are applied.
func keys() []key {
	ms, sec := time.Millisecond, time.Second
	percent := whole(0, 100)
	niws := func(name string) []string {
		return []string{"niws.loadbalancer.*." + name, "niws.loadbalancer.default." + name}
	}
	zoneKey := func(names ...string) (out []string) {
		for _, c := range []string{"*", "default"} {
			for _, n := range names {
				out = append(out, "ZoneAwareNIWSDiscoveryLoadBalancer."+c+"."+n)
			}
		}
		return out
	}
	return append(clientKeys(), []key{
		field(own("outlier.consecutive5xx"), whole(0, 1e6), func(s *Settings) *int { return &s.Consecutive5xx }),
		field(own("outlier.consecutiveGatewayFailure"), whole(0, 1e6), func(s *Settings) *int { return &s.ConsecutiveGateway }),
		field(own("outlier.consecutiveLocalOriginFailure"), whole(0, 1e6), func(s *Settings) *int { return &s.ConsecutiveLocal }),
		field(own("outlier.enforcingConsecutive5xx"), percent, func(s *Settings) *int { return &s.Enforce5xx }),
		field(own("outlier.enforcingConsecutiveGatewayFailure"), percent, func(s *Settings) *int { return &s.EnforceGateway }),
		field(own("outlier.enforcingConsecutiveLocalOriginFailure"), percent, func(s *Settings) *int { return &s.EnforceLocal }),
		field(own("outlier.intervalInMilliseconds"), times(ms, 100), func(s *Settings) *time.Duration { return &s.Interval }),
		field(own("outlier.baseEjectionTimeInMilliseconds"), times(ms, 1), func(s *Settings) *time.Duration { return &s.BaseEjection }),
		field(own("outlier.maxEjectionTimeInMilliseconds"), times(ms, 1), func(s *Settings) *time.Duration { return &s.MaxEjection }),
		field(own("outlier.maxEjectionTimeJitterInMilliseconds"), times(ms, 0), func(s *Settings) *time.Duration { return &s.EjectionJitter }),
		field(own("outlier.maxEjectionPercent"), percent, func(s *Settings) *int { return &s.MaxEjectedPercent }),
		field(own("outlier.successRateMinimumHosts"), whole(2, 1e6), func(s *Settings) *int { return &s.SuccessRateHosts }),
		field(own("outlier.successRateRequestVolume"), whole(1, 1e9), func(s *Settings) *int { return &s.SuccessRateRequests }),
		field(own("outlier.successRateStdevFactor"), number(0, 100), func(s *Settings) *float64 { return &s.SuccessRateFactor }),
		field(own("outlier.enforcingSuccessRate"), percent, func(s *Settings) *int { return &s.EnforceSuccessRate }),
		field(own("outlier.failurePercentageThreshold"), whole(1, 100), func(s *Settings) *int { return &s.FailurePercent }),
		field(own("outlier.failurePercentageMinimumHosts"), whole(1, 1e6), func(s *Settings) *int { return &s.FailureHosts }),
		field(own("outlier.failurePercentageRequestVolume"), whole(1, 1e9), func(s *Settings) *int { return &s.FailureRequests }),
		field(own("outlier.enforcingFailurePercentage"), percent, func(s *Settings) *int { return &s.EnforceFailure }),
		field(own("panicThresholdPercent"), percent, func(s *Settings) *int { return &s.PanicPercent }),
		field(own("warmUpInMilliseconds"), times(ms, 0), func(s *Settings) *time.Duration { return &s.WarmUp }),
		field(own("zone.routing"), truth, func(s *Settings) *bool { return &s.ZoneRouting }),
		field(own("zone.minimumEndpoints"), whole(0, 1e6), func(s *Settings) *int { return &s.ZoneMinimumEndpoints }),
		field(own("subset.size"), whole(0, 1e6), func(s *Settings) *int { return &s.SubsetSize }),
		field(own("ping.path"), text, func(s *Settings) *string { return &s.PingPath }),
		field(own("ping.expect"), text, func(s *Settings) *string { return &s.PingExpect }),

		{ribbon("NFLoadBalancerClassName"), setBalancerClass, func(s, from *Settings) { s.Rule, s.ZoneAware = from.Rule, from.ZoneAware }},
		field(ribbon("NFLoadBalancerRuleClassName"), class("rule", map[string]Rule{
			"RoundRobinRule": RoundRobinRule, "RandomRule": RandomRule, "AvailabilityFilteringRule": AvailabilityFilteringRule,
			"BestAvailableRule": BestAvailableRule, "WeightedResponseTimeRule": WeightedResponseTimeRule,
			"ResponseTimeWeightedRule": WeightedResponseTimeRule, "ZoneAvoidanceRule": ZoneAvoidanceRule, "RetryRule": RetryRule,
		}), func(s *Settings) *Rule { return &s.Rule }),
		field(own("rule"), ruleOf, func(s *Settings) *Rule { return &s.Rule }),
		field(ribbon("NFLoadBalancerPingClassName"), class("ping", map[string]Ping{
			"DummyPing": DummyPing, "NoOpPing": DummyPing, "NIWSDiscoveryPing": DiscoveryPing, "PingUrl": URLPing, "PingConstant": ConstantPing,
		}), func(s *Settings) *Ping { return &s.Ping }),
		field(ribbon("NIWSServerListClassName"), class("server list", map[string]ListClass{
			"ConfigurationBasedServerList": FromConfig, "DiscoveryEnabledNIWSServerList": FromDiscovery,
		}), func(s *Settings) *ListClass { return &s.ListClass }),
		field(ribbon("NIWSServerListFilterClassName"), class("filter", map[string]Filter{
			"ZoneAffinityServerListFilter": "", "ServerListSubsetFilter": SubsetFilter,
		}), func(s *Settings) *Filter { return &s.Filter }),
		field(ribbon("listOfServers"), servers, func(s *Settings) *string { return &s.Servers }),
		field(ribbon("DeploymentContextBasedVipAddresses", "VipAddress"), text, func(s *Settings) *string { return &s.VIPs }),
		field(ribbon("ServerListRefreshInterval"), times(ms, 100), func(s *Settings) *time.Duration { return &s.RefreshInterval }),
		field(ribbon("NFLoadBalancerPingInterval"), times(sec, 1), func(s *Settings) *time.Duration { return &s.PingInterval }),
		field(ribbon("NFLoadBalancerMaxTotalPingTime"), times(sec, 1), func(s *Settings) *time.Duration { return &s.PingBudget }),
		field(ribbon("IsSecure"), truth, func(s *Settings) *bool { return &s.SecureOnly }),
		field(ribbon("Port"), whole(1, 65535), func(s *Settings) *int { return &s.Port }),
		field(ribbon("SecurePort"), whole(1, 65535), func(s *Settings) *int { return &s.SecurePort }),
		field(ribbon("ForceClientPortConfiguration"), truth, func(s *Settings) *bool { return &s.ForcePort }),
		field(ribbon("EnableZoneAffinity"), truth, func(s *Settings) *bool { return &s.ZoneAffinity }),
		field(ribbon("EnableZoneExclusivity"), truth, func(s *Settings) *bool { return &s.ZoneExclusive }),
		field(ribbon("PrioritizeVipAddressBasedServers"), truth, func(s *Settings) *bool { return &s.PrioritizeVIPs }),
		field(ribbon("TargetRegion"), text, func(s *Settings) *string { return &s.Region }),
		field(ribbon("zoneAffinity.maxLoadPerServer"), number(0, 1e6), func(s *Settings) *float64 { return &s.AffinityLoad }),
		field(ribbon("zoneAffinity.maxBlackOutServesrPercentage", "zoneAffinity.maxBlackOutServersPercentage"), number(0, 1), func(s *Settings) *float64 { return &s.AffinityTripped }),
		field(ribbon("zoneAffinity.minAvailableServers"), whole(0, 1e6), func(s *Settings) *int { return &s.AffinityMinimum }),
		field(ribbon("ServerListSubsetFilter.size"), whole(1, 1e6), func(s *Settings) *int { return &s.KeepSize }),
		field(ribbon("ServerListSubsetFilter.forceEliminatePercent"), number(0, 1), func(s *Settings) *float64 { return &s.KeepEliminate }),
		field(ribbon("ServerListSubsetFilter.eliminationFailureThresold", "ServerListSubsetFilter.eliminationFailureThreshold"), whole(0, 1e6), func(s *Settings) *int { return &s.KeepFailures }),
		field(ribbon("ServerListSubsetFilter.eliminationConnectionThresold", "ServerListSubsetFilter.eliminationConnectionThreshold"), whole(0, 1e6), func(s *Settings) *int { return &s.KeepConnections }),
		field(ribbon("ServerWeightTaskTimerInterval"), times(ms, 100), func(s *Settings) *time.Duration { return &s.WeightInterval }),

		field(niws("connectionFailureCountThreshold"), whole(1, 1e6), func(s *Settings) *int { return &s.FailureThreshold }),
		field(niws("circuitTripTimeoutFactorSeconds"), times(sec, 0), func(s *Settings) *time.Duration { return &s.TripFactor }),
		field(niws("circuitTripMaxTimeoutSeconds"), times(sec, 0), func(s *Settings) *time.Duration { return &s.TripMax }),
		field([]string{"niws.loadbalancer.serverStats.activeRequestsCount.effectiveWindowSeconds"}, times(sec, 1), func(s *Settings) *time.Duration { return &s.ActiveWindow }),
		field([]string{"niws.loadbalancer.availabilityFilteringRule.filterCircuitTripped"}, truth, func(s *Settings) *bool { return &s.FilterTripped }),
		field(append(ribbon("ActiveConnectionsLimit"), "niws.loadbalancer.availabilityFilteringRule.activeConnectionsLimit"), whole(-1, math.MaxInt32), func(s *Settings) *int { return &s.ActiveLimit }),
		field([]string{"niws.loadbalancer.zoneAvoidanceRule.enabled"}, truth, func(s *Settings) *bool { return &s.ZoneAvoidance }),
		field(zoneKey("triggeringLoadPerServerThreshold"), number(0, 1e6), func(s *Settings) *float64 { return &s.ZoneLoad }),
		field(zoneKey("avoidZoneWithBlackoutPercetage", "avoidZoneWithBlackoutPercentage"), number(0, 1), func(s *Settings) *float64 { return &s.ZoneTripPercent }),
		{[]string{"ZoneAwareNIWSDiscoveryLoadBalancer.enabled"},
			func(s *Settings, text string) error {
				on, err := truth(strings.TrimSpace(text))
				s.ZoneAware = s.ZoneAware && (on || err != nil)
				return err
			},
			func(s, from *Settings) { s.ZoneAware = from.ZoneAware },
		},
	}...)
}

// setBalancerClass takes NFLoadBalancerClassName: naming any of Ribbon's means its default rule.
func setBalancerClass(s *Settings, text string) error {
	aware, err := class("balancer", map[string]bool{"BaseLoadBalancer": false, "DynamicServerListLoadBalancer": false, "ZoneAwareLoadBalancer": true})(strings.TrimSpace(text))
	if err != nil {
		return err
	}
	s.ZoneAware = aware
	s.Rule = AvailabilityFilteringRule
	return nil
}

// servers checks a listOfServers.
func servers(s string) (string, error) {
	_, err := ParseServers(s)
	return s, err
}

// Resolve works out the settings of the client of that name from all properties. One that makes no sense is told to
// refuse and leaves what was in force before.
func Resolve(client string, props map[string]string, before Settings, refuse func(key, text string, err error)) Settings {
	s := Defaults()
	s.ZoneAware = true // Ribbon's own default, once a rule of Ribbon's is named
	for _, k := range keys() {
		for _, name := range k.levels {
			name = strings.Replace(name, "*", client, 1)
			text, ok := props[name]
			if !ok {
				continue
			}
			if err := k.set(&s, text); err != nil {
				refuse(name, text, err)
				k.keep(&s, &before)
			}
			break
		}
	}
	return s
}

// Prefixes returns the beginnings of all properties that may matter to the client.
func Prefixes(client string) []string {
	return []string{"ipc.lb.", client + ".ribbon.", "ribbon.", "niws.loadbalancer.", "ZoneAwareNIWSDiscoveryLoadBalancer."}
}
