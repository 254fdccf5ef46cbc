package registry

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/api"
)

// Preservation is what a registry does when many instances fall silent at once.
type Preservation uint8

const (
	AdaptivePreservation Preservation = iota // tells a cut network from dead instances, and holds no longer than that needs
	ComparedPreservation                     // Eureka's rule: renewals of the last minute against a share of those expected
	NoPreservation                           // whoever is silent goes
)

// Settings are what operators of Eureka servers know to set, by [Settings.Set]. The zero value is every default.
type Settings struct {
	// Leases.
	Preservation          Preservation
	RenewalShare          float64       // of the renewals expected, below which Eureka's rule preserves; 0 means 0.85
	RenewalShareUpdates   time.Duration // how often Eureka's rule counts anew whom it expects; 0 means 15 min
	ExpectedRenewal       time.Duration // between the renewals of one instance, by Eureka's rule; 0 means 30 s
	PreservationHold      time.Duration // how long adaptive preservation holds at most; 0 means 15 min, less than 0 for ever
	NoProbe               bool          // silent instances are not asked whether they live before they go
	EvictionInterval      time.Duration // how often leases are looked at; 0 means 1 s
	LeaseExpiryMultiplier float64       // lease durations without a renewal after which an instance is silent; 0 means 1
	DeltaRetention        time.Duration // how long deltas tell of a change; 0 means 3 min, and up to 15 while they are small
	NoDelta               bool          // whoever asks for a delta gets 403
	ReadOnlyCache         bool          // readers see a copy that is made now and then, as Eureka's do
	ReadOnlyCacheUpdates  time.Duration // how often; 0 means 30 s
	ClientStatusWins      bool          // a newer registration's word on its status counts, whatever its old one was
	NoTimestampSync       bool          // a renewal that tells of a newer record than is known is as any other

	// Peers.
	Peers              map[string][]string // base URLs by zone; a+http, srv+http and txt+http have the host looked up
	NoSelfRegistration bool                // peers are not told of this node as an instance
	HostName           string              // of this node in the URL by which peers know it
	MyURL              string              // the URL by which peers know this node
	AppName            string              // this node's own app; "" means EUREKA
	SyncWait           time.Duration       // to open without a copy from a peer; 0 means 30 s, less than 0 not at all
	SyncRetries        int                 // to copy from a peer; 0 means 5, less than 0 none
	SyncRetryWait      time.Duration       // between them; 0 means 1 s
	PeerUpdates        time.Duration       // how often peers' names are resolved anew; 0 means 5 s
	PeerConnectTimeout time.Duration       // 0 means 1 s
	PeerReadTimeout    time.Duration       // 0 means 5 s
	ReplicationTime    time.Duration       // after which an operation is no more worth telling; 0 means 30 s
	MimicUserAgent     bool                // peers are told that this is a Java client
	LeastPeers         int                 // reachable ones below which this node calls itself unhealthy

	// Other regions.
	RemoteRegions        map[string]string   // base URL by name
	RemoteApps           map[string][]string // what is shown of a region, see [Settings.RemoteWhitelist]
	RemoteFetch          time.Duration       // how often; 0 means 30 s
	RemoteConnectTimeout time.Duration       // 0 means 2 s
	RemoteReadTimeout    time.Duration       // 0 means 5 s
	NoRemoteFallback     bool                // apps that only another region has are shown to those alone who name it
	NoRemoteDelta        bool                // everything is fetched each time

	// Requests.
	Environment   string   // as the status page names it; "" means roadbed
	Prefixes      []string // further ones under which Eureka's paths answer, such as /discovery
	EnforceGzip   bool     // lists are compressed for all who do not refuse it, and refused to those
	StrictIDs     bool     // Amazon instances must bring their instance-id
	ASG           bool     // groups may be disabled by PUT /asg
	LargeAnswers  int      // answers above 1 MiB that are written at once per CPU; 0 means 64
	RateLimit     bool     // of lists, deltas and apps
	LimitStandard bool     // also to Netflix's own clients and servers
	Privileged    []string // clients that are never limited, by DiscoveryIdentity-Name
	Burst         int      // above the rate; 0 means 10
	FetchRate     int      // lists, deltas and apps per second; 0 means 500
	FullFetchRate int      // lists of everything per second; 0 means 100
}

// ErrNoSetting is of a key that no Eureka server has.
var ErrNoSetting = errors.New("no key of a Eureka server")

// A settingKey is a key as Netflix spells it. Spring's differ in dots, dashes and letter case, or are listed too.
type settingKey struct {
	name string
	set  func(*Settings, string) error
}

var settingKeys = []settingKey{
	{"enableSelfPreservation", setPreservation},
	{"preservation.mode", setPreservationMode},
	{"preservation.maxHold", setPreservationHold},
	{"probe.enabled", func(s *Settings, v string) error { return setNot(&s.NoProbe, v) }},
	{"renewalPercentThreshold", func(s *Settings, v string) error { return setFloat(&s.RenewalShare, v, 0.01, 1) }},
	{"renewalThresholdUpdateIntervalMs", func(s *Settings, v string) error { return setMS(&s.RenewalShareUpdates, v) }},
	{"expectedClientRenewalIntervalSeconds", func(s *Settings, v string) error { return setSeconds(&s.ExpectedRenewal, v) }},
	{"evictionIntervalTimerInMs", func(s *Settings, v string) error { return setMS(&s.EvictionInterval, v) }},
	{"leaseExpiryMultiplier", func(s *Settings, v string) error { return setFloat(&s.LeaseExpiryMultiplier, v, 0.1, 100) }},
	{"retentionTimeInMSInDeltaQueue", func(s *Settings, v string) error { return setMS(&s.DeltaRetention, v) }},
	{"disableDelta", func(s *Settings, v string) error { return setBool(&s.NoDelta, v) }},
	{"useReadOnlyResponseCache", func(s *Settings, v string) error { return setBool(&s.ReadOnlyCache, v) }},
	{"shouldUseReadOnlyResponseCache", func(s *Settings, v string) error { return setBool(&s.ReadOnlyCache, v) }},
	{"responseCacheUpdateIntervalMs", func(s *Settings, v string) error { return setMS(&s.ReadOnlyCacheUpdates, v) }},
	{"clientStatusWins", func(s *Settings, v string) error { return setBool(&s.ClientStatusWins, v) }},
	{"syncWhenTimestampDiffers", func(s *Settings, v string) error { return setNot(&s.NoTimestampSync, v) }},

	{"client.registerWithEureka", func(s *Settings, v string) error { return setNot(&s.NoSelfRegistration, v) }},
	{"registration.enabled", func(s *Settings, v string) error { return setNot(&s.NoSelfRegistration, v) }},
	{"instance.hostname", func(s *Settings, v string) error { s.HostName = v; return nil }},
	{"hostname", func(s *Settings, v string) error { s.HostName = v; return nil }},
	{"instance.appname", func(s *Settings, v string) error { s.AppName = upper(v); return nil }},
	{"name", func(s *Settings, v string) error { s.AppName = upper(v); return nil }},
	{"myUrl", func(s *Settings, v string) error { s.MyURL = v; return checkURL(v) }},
	{"waitTimeInMsWhenSyncEmpty", setSyncWait},
	{"numberRegistrySyncRetries", setSyncRetries},
	{"registrySyncRetries", setSyncRetries},
	{"registrySyncRetryWaitMs", func(s *Settings, v string) error { return setMS(&s.SyncRetryWait, v) }},
	{"peerEurekaNodesUpdateIntervalMs", func(s *Settings, v string) error { return setMS(&s.PeerUpdates, v) }},
	{"peerNodeConnectTimeoutMs", func(s *Settings, v string) error { return setMS(&s.PeerConnectTimeout, v) }},
	{"peerNodeReadTimeoutMs", func(s *Settings, v string) error { return setMS(&s.PeerReadTimeout, v) }},
	{"maxTimeForReplication", func(s *Settings, v string) error { return setMS(&s.ReplicationTime, v) }},
	{"peer.mimicUserAgent", func(s *Settings, v string) error { return setBool(&s.MimicUserAgent, v) }},
	{"minAvailableInstancesForPeerReplication", func(s *Settings, v string) error { return setInt(&s.LeastPeers, v, -1) }},

	{"remoteRegionUrlsWithName", setRemoteRegions},
	{"remoteRegion.registryFetchIntervalInSeconds", func(s *Settings, v string) error { return setSeconds(&s.RemoteFetch, v) }},
	{"remoteRegionRegistryFetchInterval", func(s *Settings, v string) error { return setSeconds(&s.RemoteFetch, v) }},
	{"remoteRegionConnectTimeoutMs", func(s *Settings, v string) error { return setMS(&s.RemoteConnectTimeout, v) }},
	{"remoteRegionReadTimeoutMs", func(s *Settings, v string) error { return setMS(&s.RemoteReadTimeout, v) }},
	{"remoteRegion.disable.transparent.fallback", func(s *Settings, v string) error { return setBool(&s.NoRemoteFallback, v) }},
	{"disableTransparentFallbackToOtherRegion", func(s *Settings, v string) error { return setBool(&s.NoRemoteFallback, v) }},
	{"disableDeltaForRemoteRegions", func(s *Settings, v string) error { return setBool(&s.NoRemoteDelta, v) }},

	{"environment", func(s *Settings, v string) error { s.Environment = v; return nil }},
	{"prefixes", setPrefixes},
	{"enforceGzip", func(s *Settings, v string) error { return setBool(&s.EnforceGzip, v) }},
	{"experimental.registration.validation.dataCenterInfoId", func(s *Settings, v string) error { return setBool(&s.StrictIDs, v) }},
	{"shouldUseAwsAsgApi", func(s *Settings, v string) error { return setBool(&s.ASG, v) }},
	{"largeAnswersPerCpu", func(s *Settings, v string) error { return setInt(&s.LargeAnswers, v, 1) }},
	{"rateLimiter.enabled", func(s *Settings, v string) error { return setBool(&s.RateLimit, v) }},
	{"rateLimiter.throttleStandardClients", func(s *Settings, v string) error { return setBool(&s.LimitStandard, v) }},
	{"rateLimiter.privilegedClients", func(s *Settings, v string) error { s.Privileged = splitList(v); return nil }},
	{"rateLimiter.burstSize", func(s *Settings, v string) error { return setInt(&s.Burst, v, 1) }},
	{"rateLimiter.registryFetchAverageRate", func(s *Settings, v string) error { return setInt(&s.FetchRate, v, 1) }},
	{"rateLimiter.fullFetchAverageRate", func(s *Settings, v string) error { return setInt(&s.FullFetchRate, v, 1) }},
}

// idleKeys are those that other Eureka servers heed and this one has no use for, by the reason why.
var idleKeys = []struct {
	why   string
	names []string
}{
	{"nothing here calls Amazon", []string{
		"awsAccessId", "awsSecretKey", "useAwsSdkV2Key", "eipBindRebindRetries", "eipBindRebindRetryIntervalMs",
		"eipBindRebindRetryIntervalMsWhenUnbound", "eipBindingRetryIntervalMs", "eipBindingRetryIntervalMsWhenUnbound",
		"asgQueryTimeoutMs", "asgUpdateIntervalMs", "asgCacheExpiryTimeoutMs", "primeAwsReplicaConnections",
		"listAutoScalingGroupsRoleName", "route53BindRebindRetries", "route53BindRebindRetryIntervalMs",
		"route53BindingRetryIntervalMs", "route53DomainTTL", "awsBindingStrategy", "bindingStrategy",
	}},
	{"documents are made anew when something changes, and deltas trimmed when they are read", []string{
		"responseCacheAutoExpirationInSeconds", "initialCapacityOfResponseCache", "deltaRetentionTimerIntervalInMs",
	}},
	{"what peers are still to be told is one entry for each instance, sent in batches over few connections", []string{
		"peerNodeTotalConnections", "peerNodeTotalConnectionsPerHost", "peerNodeConnectionIdleTimeoutSeconds",
		"maxElementsInPeerReplicationPool", "maxElementsInStatusReplicationPool", "minThreadsForStatusReplication",
		"maxThreadsForStatusReplication", "maxIdleThreadAgeInMinutesForStatusReplication",
		"maxIdleThreadInMinutesAgeForStatusReplication", "minThreadsForPeerReplication", "maxThreadsForPeerReplication",
		"maxIdleThreadAgeInMinutesForPeerReplication", "numberOfReplicationRetries", "shouldBatchReplication",
		"batchReplication", "peerEurekaStatusRefreshTimeIntervalMs", "enableReplicatedRequestCompression",
	}},
	{"remote regions are fetched compressed, over one connection each", []string{
		"remoteRegionTotalConnections", "remoteRegionTotalConnectionsPerHost", "remoteRegionConnectionIdleTimeoutSeconds",
		"remoteRegion.gzipContent", "gzipContentFromRemoteRegion", "remoteRegion.fetchThreadPoolSize",
	}},
	{"remote regions need names, as remoteRegionUrlsWithName gives them", []string{"remoteRegionUrls"}},
	{"certificates are those that this machine trusts", []string{
		"remoteRegion.trustStoreFileName", "remoteRegion.trustStorePassword", "remoteRegionTrustStore",
	}},
	{"there is one codec for each form of answer", []string{"jsonCodecName", "xmlCodecName"}},
	{"identities are counted, not logged", []string{"auth.shouldLogIdentityHeaders", "logIdentityHeaders"}},
	{"the status page is at / and needs no templates", []string{"dashboard.path", "dashboard.enabled", "server.dashboard.path"}},
	{"a node copies from its peers whenever it has some", []string{"client.fetchRegistry", "shouldFetchRegistry", "serviceUrlPollIntervalMs"}},
	{"it is for a client of Eureka, which this is not", []string{
		"vipAddress", "preferSameZone", "shouldUseDns", "eurekaServer.domainName", "eurekaServer.port", "eurekaServer.context",
		"lease.renewalInterval", "lease.duration", "appinfo.replicate.interval",
	}},
	{"roadbed has flags for it: --region, --zones, --eureka-port", []string{"region", "port", "datacenter", "client.region"}},
}

// plainKey is a key without what the spellings differ in.
func plainKey(key string) string {
	return strings.NewReplacer(".", "", "-", "", "_", "").Replace(strings.ToLower(key))
}

// Set sets what a key of Eureka means: eureka.server.enable-self-preservation as Spring spells it,
// eureka.enableSelfPreservation as Netflix does, or EUREKA_SERVER_ENABLESELFPRESERVATION as an environment has it. For a
// key that other servers heed and this one has no use for it returns why that is so. A key that it does not know is
// [ErrNoSetting].
func (s *Settings) Set(key, value string) (idle string, err error) {
	value = strings.TrimSpace(value)
	rest := after(key, "eureka")
	rest = after(rest, "server")
	plain := plainKey(rest)
	for _, k := range settingKeys {
		if plainKey(k.name) == plain {
			if err := k.set(s, value); err != nil {
				return "", fmt.Errorf("eureka.%s: %q cannot be used: %w", k.name, value, err)
			}
			return "", nil
		}
	}
	for _, group := range idleKeys {
		for _, name := range group.names {
			if plainKey(name) == plain {
				return group.why, nil
			}
		}
	}
	if known, err := s.setNamed(rest, plain, value); known || err != nil {
		if err != nil {
			err = fmt.Errorf("%s: %q cannot be used: %w", key, value, err)
		}
		return "", err
	}
	if strings.HasPrefix(plain, "client") || strings.HasPrefix(plain, "instance") {
		return "it is for a client of Eureka, which this is not", nil
	}
	return "", fmt.Errorf("%s is %w%s", key, ErrNoSetting, nearestKey(plain))
}

// setNamed sets what has a zone's or a region's name in its key.
func (s *Settings) setNamed(rest, plain, value string) (known bool, err error) {
	for _, p := range []string{"clientserviceurl", "serviceurl"} {
		if zone := strings.TrimPrefix(plain, p); zone != plain && zone != "" {
			list := splitList(value)
			for _, u := range list {
				if _, err := parseSpec(u); err != nil {
					return true, err
				}
			}
			if s.Peers == nil {
				s.Peers = make(map[string][]string)
			}
			s.Peers[zone] = list
			return true, nil
		}
	}
	if region := after(rest, "remoteregionurlswithname"); region != rest {
		return true, s.setRemoteRegion(region, value)
	}
	region := after(rest, "remoteregionappwhitelist")
	if region == rest && strings.HasSuffix(plain, "appwhitelist") {
		if r := after(rest, "remoteregion"); r != rest {
			region = strings.TrimRight(r[:len(r)-len("appwhitelist")], "._-")
		}
	}
	if region == rest || region == "" {
		return false, nil
	}
	if s.RemoteApps == nil {
		s.RemoteApps = make(map[string][]string)
	}
	s.RemoteApps[plainKey(region)] = splitList(value)
	return true, nil
}

// RemoteWhitelist returns the apps that are shown of a region, as they were written; all is true if every app is.
func (s *Settings) RemoteWhitelist(region string) (apps []string, all bool) {
	if apps, ok := s.RemoteApps[plainKey(region)]; ok {
		return apps, false
	}
	apps, ok := s.RemoteApps["global"]
	return apps, !ok
}

// after returns what follows prefix, which is a plain key, in key; key itself if it begins otherwise.
func after(key, prefix string) string {
	rest := key
	for i := 0; i < len(prefix); {
		if rest == "" {
			return key
		}
		c := rest[0]
		rest = rest[1:]
		switch {
		case c == '.' || c == '-' || c == '_':
		case c|0x20 == prefix[i]:
			i++
		default:
			return key
		}
	}
	return strings.TrimLeft(rest, "._-")
}

// nearestKey suggests what may have been meant.
func nearestKey(plain string) string {
	best, least := "", 4
	for _, k := range settingKeys {
		if d := api.Distance(plain, plainKey(k.name)); d < least {
			best, least = k.name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean eureka." + best + "?"
}

func setPreservation(s *Settings, v string) error {
	off := s.Preservation == NoPreservation
	if err := setNot(&off, v); err != nil {
		return err
	}
	switch {
	case off:
		s.Preservation = NoPreservation
	case s.Preservation == NoPreservation:
		s.Preservation = AdaptivePreservation
	}
	return nil
}

func setPreservationMode(s *Settings, v string) error {
	i := slices.Index([]string{"adaptive", "compat", "off"}, strings.ToLower(v))
	if i < 0 {
		return errors.New("use adaptive, compat (Eureka's rule) or off")
	}
	s.Preservation = Preservation(i)
	return nil
}

func setPreservationHold(s *Settings, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return errors.New("use a time such as 15m, or 0 for ever")
	}
	s.PreservationHold = orNever(d)
	return nil
}

func setSyncWait(s *Settings, v string) error {
	n, err := whole(v, 0, math.MaxInt32)
	s.SyncWait = orNever(time.Duration(n) * time.Millisecond)
	return err
}

func setSyncRetries(s *Settings, v string) error {
	n, err := whole(v, 0, math.MaxInt32)
	if n == 0 {
		n = -1
	}
	s.SyncRetries = int(n)
	return err
}

func setRemoteRegions(s *Settings, v string) error {
	s.RemoteRegions = nil
	for _, part := range splitList(v) {
		name, base, ok := strings.Cut(part, ";")
		if !ok {
			return errors.New("use a list like us-west-2;http://host:8761/eureka/,eu;http://other:8761/eureka/")
		}
		if err := s.setRemoteRegion(name, base); err != nil {
			return err
		}
	}
	return nil
}

func (s *Settings) setRemoteRegion(name, base string) error {
	if err := checkURL(base); err != nil {
		return err
	}
	if s.RemoteRegions == nil {
		s.RemoteRegions = make(map[string]string)
	}
	s.RemoteRegions[strings.TrimSpace(name)] = strings.TrimSpace(base)
	return nil
}

func setPrefixes(s *Settings, v string) error {
	s.Prefixes = splitList(v)
	for _, p := range s.Prefixes {
		if !strings.HasPrefix(p, "/") || strings.Trim(p, "/") == "" || strings.ContainsAny(p, "%?# ") {
			return errors.New("use paths such as /discovery")
		}
	}
	return nil
}

func checkURL(v string) error {
	u, err := url.Parse(strings.TrimSpace(v))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("use a URL such as http://host:8761/eureka/")
	}
	return nil
}

func setBool(at *bool, v string) error {
	switch strings.ToLower(v) {
	case "true":
		*at = true
	case "false":
		*at = false
	default:
		return errors.New("use true or false")
	}
	return nil
}

func setNot(at *bool, v string) error {
	on := !*at
	err := setBool(&on, v)
	*at = !on
	return err
}

func setInt(at *int, v string, least int64) error {
	n, err := whole(v, least, math.MaxInt32)
	*at = int(n)
	return err
}

func setMS(at *time.Duration, v string) error {
	n, err := whole(v, 1, math.MaxInt32)
	*at = time.Duration(n) * time.Millisecond
	return err
}

func setSeconds(at *time.Duration, v string) error {
	n, err := whole(v, 1, math.MaxInt32)
	*at = time.Duration(n) * time.Second
	return err
}

func whole(v string, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("use a whole number from %d to %d", least, most)
	}
	return n, nil
}

func setFloat(at *float64, v string, least, most float64) error {
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || !(f >= least && f <= most) {
		return fmt.Errorf("use a number from %v to %v", least, most)
	}
	*at = f
	return nil
}

// orNever returns d, or less than 0 in place of 0, which means the default.
func orNever(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// splitList reads a comma list.
func splitList(v string) (list []string) {
	for s := range strings.SplitSeq(v, ",") {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	return list
}
