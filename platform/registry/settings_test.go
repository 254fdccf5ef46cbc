package registry

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEachSpellingOfAKeySetsTheSame(t *testing.T) {
	tests := []struct {
		keys  []string
		value string
		want  Settings
	}{
		{[]string{
			"eureka.enableSelfPreservation", "eureka.server.enableSelfPreservation", "eureka.server.enable-self-preservation",
			"Eureka.Server.ENABLE_SELF_PRESERVATION", "EUREKA_SERVER_ENABLESELFPRESERVATION", "server.enableSelfPreservation", "enableSelfPreservation",
		}, "false", Settings{Preservation: NoPreservation}},
		{[]string{"eureka.preservation.mode"}, "compat", Settings{Preservation: ComparedPreservation}},
		{[]string{"eureka.preservation.maxHold"}, "0", Settings{PreservationHold: -1}},
		{[]string{"eureka.server.renewal-percent-threshold"}, "0.49", Settings{RenewalShare: 0.49}},
		{[]string{"eureka.evictionIntervalTimerInMs", "EUREKA_SERVER_EVICTION_INTERVAL_TIMER_IN_MS"}, "5000", Settings{EvictionInterval: 5 * time.Second}},
		{[]string{"eureka.server.waitTimeInMsWhenSyncEmpty"}, "0", Settings{SyncWait: -1}},
		{[]string{"eureka.numberRegistrySyncRetries", "eureka.server.registry-sync-retries"}, "0", Settings{SyncRetries: -1}},
		{[]string{"eureka.shouldUseReadOnlyResponseCache", "eureka.server.use-read-only-response-cache"}, "TRUE", Settings{ReadOnlyCache: true}},
		{[]string{"eureka.syncWhenTimestampDiffers"}, "false", Settings{NoTimestampSync: true}},
		{[]string{"eureka.rateLimiter.privilegedClients", "eureka.server.rate-limiter-privileged-clients"}, "a, b,", Settings{Privileged: []string{"a", "b"}}},
		{[]string{"eureka.client.serviceUrl.defaultZone", "eureka.client.service-url.defaultZone", "EUREKA_CLIENT_SERVICEURL_DEFAULTZONE", "eureka.serviceUrl.defaultzone"},
			"http://a:8761/eureka/,http://u:p@b:8761/eureka/", Settings{Peers: map[string][]string{"defaultzone": {"http://a:8761/eureka/", "http://u:p@b:8761/eureka/"}}}},
		{[]string{"eureka.remoteRegionUrlsWithName"}, "us-west-2;http://h/eureka/,eu;http://i/eureka/",
			Settings{RemoteRegions: map[string]string{"us-west-2": "http://h/eureka/", "eu": "http://i/eureka/"}}},
		{[]string{"eureka.server.remote-region-urls-with-name.us-west-2"}, "http://h/eureka/", Settings{RemoteRegions: map[string]string{"us-west-2": "http://h/eureka/"}}},
		{[]string{"eureka.remoteRegion.us-west-2.appWhiteList", "eureka.server.remote-region-app-whitelist.us-west-2", "EUREKA_SERVER_REMOTEREGIONAPPWHITELIST_US_WEST_2"},
			"A,B", Settings{RemoteApps: map[string][]string{"uswest2": {"A", "B"}}}},
		{[]string{"eureka.remoteRegion.registryFetchIntervalInSeconds", "eureka.server.remoteRegionRegistryFetchInterval"}, "7", Settings{RemoteFetch: 7 * time.Second}},
		{[]string{"eureka.experimental.registration.validation.dataCenterInfoId"}, "true", Settings{StrictIDs: true}},
		{[]string{"eureka.instance.appname", "eureka.name"}, "registry", Settings{AppName: "REGISTRY"}},
	}
	for _, tt := range tests {
		for _, key := range tt.keys {
			var got Settings
			idle, err := got.Set(key, tt.value)
			if d := cmp.Diff(tt.want, got); err != nil || idle != "" || d != "" {
				t.Errorf("%s = %s: %v, idle %q (-want +got):\n%s", key, tt.value, err, idle, d)
			}
		}
	}
}

func TestEveryKeyIsSpelledOnceAndSetsSomething(t *testing.T) {
	seen := make(map[string]string)
	for _, k := range settingKeys {
		seen[plainKey(k.name)] += "set " + k.name + ". "
		moved := false
		for _, v := range []string{"true", "false", "1", "compat", "1s", "http://h/", "r;http://h/", "/x"} {
			var s Settings
			_, err := s.Set("eureka."+k.name, v)
			moved = moved || err == nil && !cmp.Equal(s, Settings{})
		}
		if !moved {
			t.Errorf("%s: no value that was tried sets anything", k.name)
		}
	}
	for _, group := range idleKeys {
		for _, name := range group.names {
			seen[plainKey(name)] += "idle " + name + ". "
			var s Settings
			if idle, err := s.Set("eureka.server."+name, "1"); err != nil || idle != group.why || !cmp.Equal(s, Settings{}) {
				t.Errorf("%s: got %q, %v and %+v; want %q and no effect", name, idle, err, s, group.why)
			}
		}
	}
	for plain, names := range seen {
		if strings.Count(names, ". ") > 1 {
			t.Errorf("the key %s is there more than once: %s", plain, names)
		}
	}
}

func TestWrongKeysAndValuesAreRefusedWithASuggestion(t *testing.T) {
	for key, want := range map[string]string{
		"eureka.server.enableSelfPreservatoin":   "did you mean eureka.enableSelfPreservation?",
		"eureka.server.nothing-like-it":          "no key of a Eureka server",
		"eureka":                                 "no key of a Eureka server",
		"":                                       "no key of a Eureka server",
		"eureka.server.remoteRegionAppWhitelist": "no key of a Eureka server",
	} {
		var s Settings
		if _, err := s.Set(key, "true"); !errors.Is(err, ErrNoSetting) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v, want ErrNoSetting with %q", key, err, want)
		}
	}
	for key, value := range map[string]string{
		"enableSelfPreservation": "yes", "renewalPercentThreshold": "85", "evictionIntervalTimerInMs": "1m", "preservation.mode": "on",
		"peerNodeReadTimeoutMs": "0", "rateLimiter.burstSize": "-1", "client.serviceUrl.defaultZone": "h:8761", "myUrl": "ftp://h/",
		"remoteRegionUrlsWithName": "http://h/eureka/", "prefixes": "discovery", "leaseExpiryMultiplier": "NaN", "preservation.maxHold": "-1s",
		"waitTimeInMsWhenSyncEmpty": "99999999999",
	} {
		var s Settings
		if _, err := s.Set(key, value); err == nil || errors.Is(err, ErrNoSetting) || !strings.Contains(err.Error(), value) {
			t.Errorf("%s = %s: got error %v, want one that names the value", key, value, err)
		}
	}
}

func TestWhitelistOfARegionGoesBeforeTheGlobalOne(t *testing.T) {
	var s Settings
	if _, all := s.RemoteWhitelist("us-west-2"); !all {
		t.Error("no whitelist: got some apps, want all")
	}
	s.Set("eureka.remoteRegion.global.appWhiteList", "G")    //nolint:errcheck // seen below
	s.Set("eureka.remoteRegion.US-west-2.appWhiteList", "W") //nolint:errcheck // as above
	for region, want := range map[string]string{"us-west-2": "W", "eu": "G"} {
		if apps, all := s.RemoteWhitelist(region); all || len(apps) != 1 || apps[0] != want {
			t.Errorf("whitelist of %s: got %v, all %v; want %s", region, apps, all, want)
		}
	}
}

func FuzzSettingKey(f *testing.F) {
	f.Add("eureka.server.remote-region-app-whitelist.us-west-2", "a")
	f.Add("eureka.remoteRegion..appWhiteList", "a")
	f.Fuzz(func(t *testing.T, key, value string) {
		var s Settings
		s.Set(key, value) //nolint:errcheck // any answer will do
	})
}
