package registry

import (
	"net/url"
	"slices"
	"strings"
)

// resource is what a path under one of Eureka's prefixes names.
type resource uint8

const (
	nothing resource = iota
	allApps
	deltaApps
	oneApp
	oneInstance // of an app
	instanceStatus
	instanceMetadata
	anyInstance // by id alone
	vip
	svip
	serverStatus
	overrideList
	asgStatus // of a group; id holds its name
	peerBatch
	nodePages // the page of this node, and
	lastPages // that of the last leases
	peerHello
	peerStream
	peerHeard
	watch
	nativeApp
	nativeInstances
	nativeRenew
)

// methods are those that a resource answers.
func (what resource) methods() string {
	switch what {
	case oneApp:
		return "GET, HEAD, POST"
	case oneInstance:
		return "GET, HEAD, PUT, DELETE"
	case instanceStatus:
		return "PUT, DELETE"
	case instanceMetadata, asgStatus, nativeRenew:
		return "PUT"
	case peerBatch, nativeInstances, peerHeard:
		return "POST"
	}
	return "GET, HEAD"
}

func (what resource) readable() bool { return strings.HasPrefix(what.methods(), "GET") }

// list reports whether r is one of the lists by which clients find others.
func (what resource) list() bool {
	switch what {
	case allApps, deltaApps, oneApp, vip, svip:
		return true
	}
	return false
}

// target is a resource and the names in its path, decoded; app is in upper case.
type target struct {
	what    resource
	app, id string // id also holds the VIP
}

// prefixes are the paths under which Eureka's answer besides /eureka, each as its segments.
type prefixes [][]string

func newPrefixes(paths []string) (ps prefixes) {
	for _, p := range paths {
		ps = append(ps, strings.FieldsFunc(p, func(c rune) bool { return c == '/' }))
	}
	return ps
}

// parse reads an escaped path. Empty segments do not count: clients join base URLs that end in "/" with paths that
// begin with it. The prefix is /eureka or another one, with or without /v1 or /v2, or one of these alone.
//
// hot path: 0 allocs for what needs no decoding, BenchmarkParsePath
func (ps prefixes) parse(escaped string) target {
	var segs [8]string
	n := 0
	for rest := escaped; rest != ""; {
		var seg string
		seg, rest, _ = strings.Cut(rest, "/")
		if seg == "" {
			continue
		}
		if n == len(segs) {
			return target{}
		}
		if strings.IndexByte(seg, '%') >= 0 {
			u, err := url.PathUnescape(seg)
			if err != nil {
				return target{}
			}
			seg = u
		}
		segs[n] = clean(seg)
		n++
	}
	s := segs[:n]
	if n > 2 && s[0] == "registry" && s[1] == "v1" {
		return nativeTarget(s[2:])
	}
	prefixed := false
	if len(s) > 0 && s[0] == "eureka" {
		s, prefixed = s[1:], true
	}
	for _, p := range ps {
		if !prefixed && len(s) >= len(p) && slices.Equal(s[:len(p)], p) {
			s, prefixed = s[len(p):], true
		}
	}
	if len(s) > 0 && (s[0] == "v2" || s[0] == "v1") {
		s, prefixed = s[1:], true
	}
	if len(s) == 0 {
		return target{what: nodePages}
	}
	if s[0] == "serverinfo" && len(s) == 2 && s[1] == "statusoverrides" {
		return target{what: overrideList}
	}
	if !prefixed {
		return target{}
	}
	switch s[0] {
	case "apps":
		switch {
		case len(s) == 1:
			return target{what: allApps}
		case len(s) == 2 && s[1] == "delta":
			return target{what: deltaApps}
		}
		t := target{app: upper(s[1])}
		switch {
		case len(s) == 2:
			t.what = oneApp
		case len(s) == 3:
			t.what, t.id = oneInstance, s[2]
		case len(s) == 4 && s[3] == "status":
			t.what, t.id = instanceStatus, s[2]
		case len(s) == 4 && s[3] == "metadata":
			t.what, t.id = instanceMetadata, s[2]
		}
		return t
	case "instances":
		if len(s) == 2 {
			return target{what: anyInstance, id: s[1]}
		}
	case "vips":
		if len(s) == 2 {
			return target{what: vip, id: s[1]}
		}
	case "svips":
		if len(s) == 2 {
			return target{what: svip, id: s[1]}
		}
	case "status":
		if len(s) == 1 {
			return target{what: serverStatus}
		}
	case "lastn":
		if len(s) == 1 {
			return target{what: lastPages}
		}
	case "asg":
		if len(s) == 3 && s[2] == "status" {
			return target{what: asgStatus, id: s[1]}
		}
	case "native":
		switch {
		case len(s) != 2:
		case s[1] == "hello":
			return target{what: peerHello}
		case s[1] == "stream":
			return target{what: peerStream}
		case s[1] == "heard":
			return target{what: peerHeard}
		}
	case "peerreplication":
		if len(s) == 2 && s[1] == "batch" {
			return target{what: peerBatch}
		}
	}
	return target{}
}

// nativeTarget reads what follows /registry/v1.
func nativeTarget(s []string) target {
	switch {
	case len(s) == 1 && s[0] == "watch":
		return target{what: watch}
	case len(s) == 1 && s[0] == "instances":
		return target{what: nativeInstances}
	case len(s) == 1 && s[0] == "renew":
		return target{what: nativeRenew}
	case len(s) == 2 && s[0] == "apps":
		return target{what: nativeApp, app: upper(s[1])}
	}
	return target{}
}

// regionsOf returns the regions that a query names, in lower case and in order.
func regionsOf(rawQuery string) []string {
	if rawQuery == "" {
		return nil
	}
	list := splitList(strings.ToLower(queryValue(rawQuery, "regions")))
	slices.Sort(list)
	return slices.Compact(list)
}

// queryValue returns the first value of name in a raw query, without making a map of the rest.
func queryValue(raw, name string) string {
	for raw != "" {
		var p string
		p, raw, _ = strings.Cut(raw, "&")
		k, v, _ := strings.Cut(p, "=")
		if k != name {
			continue
		}
		if u, err := url.QueryUnescape(v); err == nil {
			return u
		}
		return v
	}
	return ""
}
