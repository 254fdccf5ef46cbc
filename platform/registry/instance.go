package registry

import (
	"slices"
	"strings"
	"unsafe"
)

// Programs write registrations in few shapes, too: those of Java's clients, whole or with what they leave out. These
// are read in one pass. A document with anything else in it is read again from its start, by encoding/json and
// toRecord, which decide what a registration means; what is read here they would read alike.

// scanInstance reads {"instance":{...}} or the inner object alone. The strings of the record are parts of the body.
//
// hot path: BenchmarkRegister
func scanInstance(body string) (*record, bool) {
	c := cursor{s: body}
	wrapped := cursor{s: body}
	if wrapped.next('{') {
		if name, ok := wrapped.word(); ok && name == "instance" && wrapped.next(':') {
			r, ok := wrapped.instance()
			return r, ok && wrapped.next('}') && wrapped.end()
		}
	}
	r, ok := c.instance()
	return r, ok && c.end()
}

// members calls one for each member of an object, with the cursor before its value; one returns a bit of its own for
// each name, 0 for one that is not plain. No member may occur twice.
func (c *cursor) members(one func(name string) (bit uint32, ok bool)) bool {
	if !c.next('{') {
		return false
	}
	if c.next('}') {
		return true
	}
	for seen := uint32(0); ; {
		name, ok := c.word()
		if !ok || !c.next(':') {
			return false
		}
		bit, ok := one(name)
		if !ok || bit == 0 || seen&bit != 0 {
			return false
		}
		seen |= bit
		if c.next('}') {
			return true
		}
		if !c.next(',') {
			return false
		}
	}
}

// digits reads a natural number, as such or as a string, or null as "".
func (c *cursor) digits() (string, bool) {
	c.space()
	if c.i < len(c.s) && (c.s[c.i] == '"' || c.s[c.i] == 'n') {
		return c.wordOrNull()
	}
	from := c.i
	_, ok := c.integer()
	return c.s[from:c.i], ok
}

func (c *cursor) instance() (*record, bool) {
	r := &record{
		port: port{defaultPort, true}, secure: port{defaultSecurePort, false}, country: 1,
		renewal: defaultRenewal, duration: defaultDuration, override: unknown, own: up,
	}
	var override [2]string
	ok := c.members(func(name string) (bit uint32, ok bool) {
		str := func(into *string, may members) bool {
			*into, ok = c.wordOrNull()
			if ok && *into == "" && c.s[c.i-1] == '"' { // not null
				r.blank |= may
			}
			return ok
		}
		n := int64(0)
		switch name {
		case "instanceId":
			return 1, str(&r.id, 0)
		case "app":
			return 1 << 1, str(&r.app, 0)
		case "appGroupName":
			return 1 << 2, str(&r.appGroup, appGroupMember)
		case "hostName":
			return 1 << 3, str(&r.host, 0)
		case "ipAddr":
			return 1 << 4, str(&r.ip, 0)
		case "sid":
			return 1 << 5, str(&r.sid, 0)
		case "homePageUrl":
			return 1 << 6, str(&r.home, homeMember)
		case "statusPageUrl":
			return 1 << 7, str(&r.statusPage, statusPageMember)
		case "healthCheckUrl":
			return 1 << 8, str(&r.health, healthMember)
		case "secureHealthCheckUrl":
			return 1 << 9, str(&r.secureHealth, secureHealthMember)
		case "vipAddress":
			return 1 << 10, str(&r.vip, vipMember)
		case "secureVipAddress":
			return 1 << 11, str(&r.svip, svipMember)
		case "asgName":
			return 1 << 12, str(&r.asg, asgMember)
		case "status":
			var s string
			if ok = str(&s, 0); s != "" {
				r.own, _ = parseStatus(s)
			}
			return 1 << 13, ok
		case "overriddenStatus":
			return 1 << 14, str(&override[0], 0)
		case "overriddenstatus":
			return 1 << 15, str(&override[1], 0)
		case "port":
			return 1 << 16, c.port(&r.port)
		case "securePort":
			return 1 << 17, c.port(&r.secure)
		case "countryId":
			n, ok = c.among(int64(r.country))
			r.country = int32(n)
			return 1 << 18, ok
		case "lastDirtyTimestamp":
			s, ok := c.digits()
			r.dirty = numberOf(s, 0)
			return 1 << 19, ok
		case "leaseInfo":
			return 1 << 20, c.null() || c.leaseInfo(r)
		case "dataCenterInfo":
			return 1 << 21, c.null() || c.dataCenter(r)
		case "metadata":
			if !c.null() {
				r.meta, ok = c.pairs()
				return 1 << 22, ok
			}
			return 1 << 22, true
		case "isCoordinatingDiscoveryServer":
			return 1 << 23, c.value(0)
		case "lastUpdatedTimestamp":
			return 1 << 24, c.value(0)
		case "actionType":
			from := c.i
			ok := c.value(0)
			r.setAction(strings.Trim(c.s[from:c.i], "\" "))
			return 1 << 25, ok
		}
		return 0, false
	})
	if !ok {
		return nil, false
	}
	r.app, r.appGroup = upper(r.app), upper(r.appGroup)
	for _, s := range override {
		if o, ok := parseStatus(s); ok && o != unknown {
			r.override = o
			break
		}
	}
	r.complete()
	return r, true
}

// among reads a number that fits 32 bits; def if there is none.
func (c *cursor) among(def int64) (int64, bool) {
	s, ok := c.digits()
	return int64(number32Of(s, int32(def))), ok
}

// port reads {"$":80,"@enabled":"true"}, or null.
func (c *cursor) port(p *port) bool {
	if c.null() {
		return true
	}
	absent := *p
	ok := c.members(func(name string) (uint32, bool) {
		switch name {
		case "$":
			n, ok := c.among(int64(absent.number))
			p.number = int32(n)
			return 1, ok
		case "@enabled":
			c.space()
			switch {
			case c.literal("true"):
				p.on = true
				return 2, true
			case c.literal("false"):
				p.on = false
				return 2, true
			}
			s, ok := c.wordOrNull()
			p.on = truthOf(s, absent.on)
			return 2, ok
		}
		return 0, false
	})
	*p = portRange(*p, absent)
	return ok
}

func (c *cursor) leaseInfo(r *record) bool {
	return c.members(func(name string) (bit uint32, ok bool) {
		n := int64(0)
		switch name {
		case "renewalIntervalInSecs":
			if n, ok = c.among(0); n > 0 {
				r.renewal = int32(n)
			}
			return 1, ok
		case "durationInSecs":
			if n, ok = c.among(0); n > 0 {
				r.duration = int32(n)
			}
			return 1 << 1, ok
		case "registrationTimestamp":
			return 1 << 2, c.value(0)
		case "lastRenewalTimestamp":
			return 1 << 3, c.value(0)
		case "evictionTimestamp":
			return 1 << 4, c.value(0)
		case "serviceUpTimestamp":
			return 1 << 5, c.value(0)
		}
		return 0, false
	})
}

func (c *cursor) dataCenter(r *record) bool {
	var name string
	var meta []pair
	r.dcSent = true
	ok := c.members(func(member string) (bit uint32, ok bool) {
		switch member {
		case "@class":
			_, ok = c.wordOrNull()
			return 1, ok
		case "name":
			name, ok = c.wordOrNull()
			return 2, ok
		case "metadata":
			if !c.null() {
				meta, ok = c.pairs()
				return 4, ok
			}
			return 4, true
		}
		return 0, false
	})
	r.setDataCenter(name, meta)
	return ok
}

// pairs reads a map of strings.
func (c *cursor) pairs() (ps []pair, ok bool) {
	if !c.next('{') {
		return nil, false
	}
	if c.next('}') {
		return nil, true
	}
	for {
		k, ok := c.word()
		if !ok || !c.next(':') {
			return nil, false
		}
		c.space()
		null := c.i < len(c.s) && c.s[c.i] == 'n'
		v, ok := c.wordOrNull()
		if !ok {
			return nil, false
		}
		if !null && !marksJavaMap(k, v) {
			ps = append(ps, pair{k, v})
		}
		if c.next('}') {
			break
		}
		if !c.next(',') {
			return nil, false
		}
	}
	slices.SortFunc(ps, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	for i := 1; i < len(ps); i++ {
		if ps[i].key == ps[i-1].key {
			return nil, false
		}
	}
	return ps, true
}

// pack moves the strings of r that are its own into one, in which those that are part of others have no room of their
// own: host names are in ids and URLs. What they were part of before is no longer held.
func (r *record) pack() {
	own := [...]*string{&r.id, &r.statusPage, &r.health, &r.secureHealth, &r.home, &r.host, &r.ip}
	var buf [512]byte
	all := buf[:0]
	var from [len(own)]int
	for i, s := range own {
		if from[i] = strings.Index(unsafe.String(unsafe.SliceData(all), len(all)), *s); from[i] < 0 { // the string is gone before all grows
			from[i] = len(all)
			all = append(all, *s...)
		}
	}
	packed := string(all)
	for i, s := range own {
		*s = packed[from[i] : from[i]+len(*s)]
	}
}
