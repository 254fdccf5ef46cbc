package balance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
)

func resolve(t *testing.T, before Settings, props map[string]string) (Settings, string) {
	t.Helper()
	var refused []string
	s := Resolve("movies", props, before, func(key, text string, err error) {
		refused = append(refused, fmt.Sprintf("%s=%s: %v", key, text, err))
	})
	return s, strings.Join(refused, "; ")
}

func TestPropertiesOfTheClientComeBeforeThoseOfAll(t *testing.T) {
	for _, tc := range []struct {
		props string
		want  func(*Settings)
	}{
		{"", func(*Settings) {}},
		{"ipc.lb.default.panicThresholdPercent=10", func(s *Settings) { s.PanicPercent = 10 }},
		{"ipc.lb.default.panicThresholdPercent=10 ipc.lb.movies.panicThresholdPercent=20 ipc.lb.other.panicThresholdPercent=30", func(s *Settings) { s.PanicPercent = 20 }},
		{"ipc.lb.movies.outlier.baseEjectionTimeInMilliseconds=500", func(s *Settings) { s.BaseEjection = 500 * time.Millisecond }},
		{"ipc.lb.movies.outlier.successRateStdevFactor=2.5", func(s *Settings) { s.SuccessRateFactor = 2.5 }},
		{"ribbon.NFLoadBalancerRuleClassName=com.netflix.loadbalancer.RandomRule", func(s *Settings) { s.Rule = RandomRule }},
		{"ribbon.NFLoadBalancerRuleClassName=com.netflix.loadbalancer.RandomRule movies.ribbon.NFLoadBalancerRuleClassName=BestAvailableRule", func(s *Settings) { s.Rule = BestAvailableRule }},
		{"ipc.lb.default.rule=roundrobin ipc.lb.movies.rule=leastreq", func(s *Settings) { s.Rule = BestAvailableRule }},
		{"ipc.lb.default.rule=roundrobin movies.ribbon.NFLoadBalancerRuleClassName=RandomRule", func(s *Settings) { s.Rule = RoundRobinRule }},
		{"ipc.lb.movies.rule=p2c ribbon.NFLoadBalancerRuleClassName=RandomRule", func(*Settings) {}},
		{"movies.ribbon.NFLoadBalancerRuleClassName=com.netflix.loadbalancer.ResponseTimeWeightedRule", func(s *Settings) { s.Rule = WeightedResponseTimeRule }},
		{"movies.ribbon.NFLoadBalancerClassName=com.netflix.loadbalancer.ZoneAwareLoadBalancer", func(s *Settings) { s.Rule = AvailabilityFilteringRule }},
		{"movies.ribbon.NFLoadBalancerClassName=com.netflix.loadbalancer.BaseLoadBalancer movies.ribbon.NFLoadBalancerRuleClassName=RoundRobinRule", func(s *Settings) { s.Rule, s.ZoneAware = RoundRobinRule, false }},
		{"ZoneAwareNIWSDiscoveryLoadBalancer.enabled=false", func(s *Settings) { s.ZoneAware = false }},
		{"movies.ribbon.zoneAffinity.maxBlackOutServersPercentage=0.5", func(s *Settings) { s.AffinityTripped = 0.5 }},
		{"movies.ribbon.zoneAffinity.maxBlackOutServersPercentage=0.5 movies.ribbon.zoneAffinity.maxBlackOutServesrPercentage=0.7", func(s *Settings) { s.AffinityTripped = 0.7 }},
		{"ribbon.zoneAffinity.maxBlackOutServesrPercentage=0.7 movies.ribbon.zoneAffinity.maxBlackOutServersPercentage=0.5", func(s *Settings) { s.AffinityTripped = 0.5 }},
		{"ZoneAwareNIWSDiscoveryLoadBalancer.movies.avoidZoneWithBlackoutPercetage=0.9", func(s *Settings) { s.ZoneTripPercent = 0.9 }},
		{"ZoneAwareNIWSDiscoveryLoadBalancer.movies.avoidZoneWithBlackoutPercentage=0.8", func(s *Settings) { s.ZoneTripPercent = 0.8 }},
		{"movies.ribbon.ServerListSubsetFilter.eliminationFailureThresold=2 movies.ribbon.ServerListSubsetFilter.eliminationConnectionThreshold=3", func(s *Settings) { s.KeepFailures, s.KeepConnections = 2, 3 }},
		{"niws.loadbalancer.default.connectionFailureCountThreshold=4 niws.loadbalancer.movies.circuitTripMaxTimeoutSeconds=60", func(s *Settings) { s.FailureThreshold, s.TripMax = 4, time.Minute }},
		{"niws.loadbalancer.availabilityFilteringRule.activeConnectionsLimit=9", func(s *Settings) { s.ActiveLimit = 9 }},
		{"niws.loadbalancer.availabilityFilteringRule.activeConnectionsLimit=9 movies.ribbon.ActiveConnectionsLimit=5", func(s *Settings) { s.ActiveLimit = 5 }},
		{"movies.ribbon.VipAddress=a movies.ribbon.DeploymentContextBasedVipAddresses=b,c", func(s *Settings) { s.VIPs = "b,c" }},
		{"movies.ribbon.listOfServers=h:1,h2", func(s *Settings) { s.Servers = "h:1,h2" }},
		{"movies.ribbon.NFLoadBalancerPingInterval=5 movies.ribbon.NFLoadBalancerPingClassName=com.netflix.loadbalancer.PingUrl", func(s *Settings) { s.PingInterval, s.Ping = 5*time.Second, URLPing }},
	} {
		want := Defaults()
		want.ZoneAware = true
		tc.want(&want)
		props := map[string]string{}
		for _, f := range strings.Fields(tc.props) {
			k, v, _ := strings.Cut(f, "=")
			props[k] = v
		}
		if got, refused := resolve(t, Defaults(), props); got != want || refused != "" {
			t.Errorf("%s:\ngot  %+v\nwant %+v\nrefused %q", tc.props, got, want, refused)
		}
	}
}

func TestBadPropertiesAreRefusedAndTheOldValueStays(t *testing.T) {
	before := Defaults()
	before.Rule, before.PanicPercent, before.Servers = RandomRule, 33, "h:1"
	for prop, says := range map[string]string{
		"movies.ribbon.NFLoadBalancerRuleClassName=com.acme.MyRule":    "com.acme.MyRule is no rule that is built in; see the list in docs/calls.md",
		"movies.ribbon.NFLoadBalancerPingClassName=com.acme.MyPing":    "com.acme.MyPing is no ping that is built in",
		"movies.ribbon.NIWSServerListClassName=com.acme.List":          "com.acme.List is no server list that is built in",
		"movies.ribbon.NIWSServerListFilterClassName=com.acme.F":       "com.acme.F is no filter that is built in",
		"movies.ribbon.NFLoadBalancerClassName=com.acme.LB":            "com.acme.LB is no balancer that is built in",
		"movies.ribbon.listOfServers=h:99999":                          `server "h:99999": the port must be from 1 to 65535`,
		"ipc.lb.movies.panicThresholdPercent=101":                      "use a whole number from 0 to 100",
		"ipc.lb.movies.outlier.successRateStdevFactor=NaN":             "use a number from 0 to 100",
		"ipc.lb.movies.rule=best":                                      "use one of availability, fastest, leastreq, p2c",
		"ipc.lb.movies.zone.routing=perhaps":                           "use true or false",
		"ipc.lb.movies.outlier.intervalInMilliseconds=0":               "use a whole number from 100 to 86400000",
		"niws.loadbalancer.movies.connectionFailureCountThreshold=0.5": "use a whole number from 1 to 1000000",
	} {
		k, v, _ := strings.Cut(prop, "=")
		got, refused := resolve(t, before, map[string]string{k: v})
		if !strings.Contains(refused, k) || !strings.Contains(refused, says) {
			t.Errorf("%s: refused %q, want it to say %q", prop, refused, says)
		}
		if strings.Contains(k, "RuleClassName") && got.Rule != RandomRule || strings.Contains(k, "panic") && got.PanicPercent != 33 || strings.Contains(k, "listOf") && got.Servers != "h:1" {
			t.Errorf("%s: the old value is lost: %+v", prop, got)
		}
	}
}

func TestListOfServers(t *testing.T) {
	for _, tc := range []struct {
		text, want string // "" for an error
	}{
		{"a", "a:80"}, {"a:8080, b ,", "a:8080 b:80"}, {"https://a,http://b:1/", "a:443+ b:1"}, {"[::1]:5,[::2]", "[::1]:5 [::2]:80"}, {" , ", "-"},
		{"a:0", ""}, {"a:x", ""}, {"a:", ""}, {"ftp://a", ""}, {"a/b", ""}, {"u@a", ""}, {"a:70000", ""}, {":80", ""},
	} {
		list, err := ParseServers(tc.text)
		var got []string
		for _, i := range list {
			s := i.Addr()
			if i.Secure {
				s += "+"
			}
			got = append(got, s)
		}
		want := tc.want
		if want == "-" {
			want = ""
		}
		if (err != nil) != (tc.want == "") || strings.Join(got, " ") != want {
			t.Errorf("%q: got %v, %v; want %s", tc.text, got, err, tc.want)
		}
	}
}

func FuzzServers(f *testing.F) {
	for _, s := range []string{"a:80,b", "[::1]:80", "https://x", "a:b:c", "//", "%zz", "a?b", "http://"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		list, err := ParseServers(s)
		for _, i := range list {
			if i.Host == "" || i.Port < 1 || i.Port > 65535 || err != nil {
				t.Errorf("%q: got %+v, %v", s, i, err)
			}
		}
	})
}

func TestInstancesOfVIPs(t *testing.T) {
	in := func(id, app, vip, region string, status roadbed.Status, secure bool) roadbed.Instance {
		return roadbed.Instance{ID: id, App: app, VIP: vip, Port: 1, Host: "h", Status: status, Secure: secure, Location: roadbed.Location{Region: region}}
	}
	all := []roadbed.Instance{
		in("1", "a", "", "r1", roadbed.Up, false), in("2", "b", "x, y", "r1", roadbed.Up, false), in("3", "b", "x", "r2", roadbed.Up, true),
		in("4", "c", "z", "r1", roadbed.Down, false), in("5", "d", "w", "r1", roadbed.Up, true),
	}
	for _, tc := range []struct {
		set  func(*Ribbon)
		want string
	}{
		{func(*Ribbon) {}, "1:1 2:1 3:1+ 4:1 5:1+"},
		{func(r *Ribbon) { r.VIPs = "X" }, "2:1 3:1+"},
		{func(r *Ribbon) { r.VIPs = "none,y,a" }, "2:1"},
		{func(r *Ribbon) { r.VIPs, r.PrioritizeVIPs = "y,x,a", false }, "2:1 3:1+ 1:1"},
		{func(r *Ribbon) { r.VIPs = "z,a" }, "4:1 1:1"}, // nobody of z is UP
		{func(r *Ribbon) { r.VIPs, r.Region = "x", "R2" }, "3:1+"},
		{func(r *Ribbon) { r.SecureOnly = true }, "3:1+ 5:1+"},
		{func(r *Ribbon) { r.VIPs, r.ForcePort = "x", true }, "2:7001 3:7001+"},
		{func(r *Ribbon) { r.VIPs, r.ForcePort, r.SecureOnly, r.SecurePort = "a", true, true, 8443 }, "1:8443+"},
	} {
		r := Defaults().Ribbon
		tc.set(&r)
		var got []string
		for _, i := range Select(all, &r) {
			s := fmt.Sprintf("%s:%d", i.ID, i.Port)
			if i.Secure {
				s += "+"
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%+v: got %v, want %s", r, got, tc.want)
		}
	}
}
