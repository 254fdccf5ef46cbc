package registry

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/roadbed/roadbed"
)

// status is one of Eureka's five, small enough to count by.
type status uint8

// The order is that of their names, which is the order in which the hash code lists them.
const (
	down status = iota
	outOfService
	starting
	unknown
	up
	statuses // how many there are
)

var statusNames = [statuses]string{"DOWN", "OUT_OF_SERVICE", "STARTING", "UNKNOWN", "UP"}

func (s status) String() string { return statusNames[s] }

// swayed reports whether decisions count more than an instance of this status: one that says that it is DOWN is.
func (s status) swayed() bool { return s == up || s == outOfService }

// word is the status as the rest of the platform spells it.
func (s status) word() roadbed.Status { return roadbed.Status(statusNames[s]) }

// parseStatus reads a status in any letter case; ok says whether it is one of the five.
func parseStatus(s string) (st status, ok bool) {
	s = strings.TrimSpace(s)
	for i, n := range statusNames {
		if strings.EqualFold(n, s) {
			return status(i), true
		}
	}
	return unknown, false
}

// action is how an instance last changed, as deltas tell it.
type action uint8

const (
	added action = iota
	modified
	deleted
)

var actionNames = [...]string{"ADDED", "MODIFIED", "DELETED"}

// Eureka's defaults for what a registration leaves out.
const (
	defaultPort       = 7001
	defaultSecurePort = 7002
	defaultRenewal    = 30 // seconds
	defaultDuration   = 90 // seconds
)

// port is a number that may be switched off.
type port struct {
	number int32
	on     bool
}

// members is a set of the members that an instance may lack. Eureka tells absent ones from empty ones.
type members uint8

const (
	appGroupMember members = 1 << iota
	homeMember
	statusPageMember
	healthMember
	secureHealthMember
	vipMember
	svipMember
	asgMember
)

// pair is one entry of a string map; maps of a handful of entries are cheaper as slices, sorted by key.
type pair struct{ key, value string }

func get(ps []pair, key string) string {
	for _, p := range ps {
		if p.key == key {
			return p.value
		}
	}
	return ""
}

// upper is s in upper case as Java makes it: some letters become two.
func upper(s string) string {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return doubled.Replace(strings.ToUpper(s))
		}
	}
	return strings.ToUpper(s)
}

// doubled are the letters of living Latin scripts without an upper case of their own (Unicode's SpecialCasing.txt).
var doubled = strings.NewReplacer("ß", "SS", "ŉ", "ʼN", "ǰ", "J̌", "ﬀ", "FF", "ﬁ", "FI", "ﬂ", "FL", "ﬃ", "FFI", "ﬄ", "FFL", "ﬅ", "ST", "ﬆ", "ST")

// key names an instance. App is in upper case.
type key struct{ app, id string }

// record is what one instance registered, and what the registry made of it. A record is never altered once it is in
// the registry: each change makes another.
type record struct {
	id       string // effective: what was sent, else the cloud's, else the host name
	sentID   bool   // whether the id was sent; documents show it only then
	app      string // upper case
	appGroup string
	host, ip string
	sid      string

	own       status // what the instance last said of itself
	status    status // what counts, after overrides
	override  status // unknown means none
	base      status // what would count without override and group; with both, it makes status
	before    status // what counted before this registry began to suspect it
	action    action
	dcAmazon  bool
	dcNetflix bool // the third name is MyOwn
	dcSent    bool // whether dataCenterInfo was sent, and a name in it; only validation asks
	dcName    bool
	dcNoID    bool // whether Amazon's instance-id was made up here

	// suspected says that the instance is DOWN only because this registry, which has not heard of it, found reason to
	// think so. It ends when the instance is heard again. Peers are not told.
	suspected bool

	port, secure port
	country      int32
	renewal      int32 // seconds between the renewals the instance promises
	duration     int32 // seconds without a renewal after which its lease ends

	dcMeta []pair // of Amazon instances only
	meta   []pair

	home, statusPage, health, secureHealth string
	vip, svip                              string
	asg                                    string
	blank                                  members // which of the optional ones were sent as ""

	dirty      int64 // ms since 1970; when the instance last changed itself: the version of the record
	updated    int64 // ms since 1970; when the registry last accepted a change
	registered int64 // ms since 1970
	serviceUp  int64 // ms since 1970; first time UP
	evicted    int64 // ms since 1970; when it was removed

	stamp uint64 // of registries of our kind: which of two that differ at the same version counts
	sum   uint64 // what digest returned, 0 before; atomic
}

func (r *record) key() key { return key{r.app, r.id} }

// perHour is how often the instance means to renew.
func (r *record) perHour() int64 { return 3600 / max(1, int64(r.renewal)) }

func (r *record) dcNameText() string {
	switch {
	case r.dcAmazon:
		return "Amazon"
	case r.dcNetflix:
		return "Netflix"
	}
	return "MyOwn"
}

func (r *record) zone() string {
	if r.dcAmazon {
		if z := get(r.dcMeta, "availability-zone"); z != "" {
			return z
		}
	}
	if z := get(r.meta, "zone"); z != "" {
		return z
	}
	return "default"
}

// same reports whether nobody who watches would see a difference between r and o: all but times and the action.
func (r *record) same(o *record) bool {
	a, b := *r, *o
	for _, x := range []*record{&a, &b} {
		x.dirty, x.updated, x.registered, x.action, x.evicted, x.own = 0, 0, 0, 0, 0, 0
		x.meta, x.dcMeta = nil, nil
	}
	return samePairs(r.meta, o.meta) && samePairs(r.dcMeta, o.dcMeta) && sameFields(&a, &b)
}

func samePairs(a, b []pair) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func sameFields(a, b *record) bool {
	return a.id == b.id && a.sentID == b.sentID && a.app == b.app && a.appGroup == b.appGroup && a.host == b.host &&
		a.ip == b.ip && a.sid == b.sid && a.status == b.status && a.override == b.override && a.dcAmazon == b.dcAmazon &&
		a.dcNetflix == b.dcNetflix && a.port == b.port && a.secure == b.secure && a.country == b.country &&
		a.renewal == b.renewal && a.duration == b.duration && a.home == b.home && a.statusPage == b.statusPage &&
		a.health == b.health && a.secureHealth == b.secureHealth && a.vip == b.vip && a.svip == b.svip &&
		a.asg == b.asg && a.blank == b.blank && a.serviceUp == b.serviceUp
}

// instance is the record in the platform's words.
func (r *record) instance(region string) roadbed.Instance {
	i := roadbed.Instance{
		ID: r.id, App: strings.ToLower(r.app), Group: r.asg, VIP: r.vip, Host: r.ip,
		Port: int(r.port.number), Location: roadbed.Location{Region: region, Zone: r.zone()}, Status: r.status.word(),
	}
	if i.Host == "" {
		i.Host = r.host
	}
	if !r.port.on && r.secure.on {
		i.Port, i.Secure = int(r.secure.number), true
		if i.VIP == "" {
			i.VIP = r.svip
		}
	}
	if z := get(r.meta, "region"); z != "" {
		i.Location.Region = z
	}
	if r.serviceUp > 0 {
		i.Since = time.UnixMilli(r.serviceUp).UTC()
	}
	if len(r.meta) > 0 {
		i.Metadata = make(map[string]string, len(r.meta))
		for _, p := range r.meta {
			i.Metadata[p.key] = p.value
		}
	}
	return i
}

// nameLimit is how many bytes the names of an instance may have.
const nameLimit = 1024

// invalid is the sentence with which Eureka refuses a registration under the app named in its path, empty if it is
// accepted. The order of the checks is Eureka's, which knows no limits. strict refuses Amazon instances without an
// instance-id, which otherwise get one.
func (r *record) invalid(pathApp string, strict bool) string {
	switch {
	case r.id == "":
		return "Missing instanceId"
	case r.host == "":
		return "Missing hostname"
	case r.ip == "":
		return "Missing ip address"
	case r.app == "":
		return "Missing appName"
	case r.app != pathApp:
		return "Mismatched appName, expecting " + pathApp + " but was " + r.app
	case !r.dcSent:
		return "Missing dataCenterInfo"
	case !r.dcName:
		return "Missing dataCenterInfo Name"
	case strict && r.dcNoID:
		return "DataCenterInfo of type class " + amazonClass + " must contain a valid id"
	}
	for _, f := range [...]pair{{"instanceId", r.id}, {"app", r.app}, {"hostName", r.host}, {"ipAddr", r.ip}} {
		if len(f.value) > nameLimit {
			return f.key + " has " + strconv.Itoa(len(f.value)) + " bytes; send at most " + strconv.Itoa(nameLimit)
		}
		if strings.ContainsFunc(f.value, unicode.IsControl) {
			return f.key + " holds control characters; send printable ones"
		}
	}
	return ""
}
