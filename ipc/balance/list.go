package balance

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
)

// ParseServers reads a listOfServers: "host[:port]" separated by commas, "http://" or "https://" before it if wanted;
// the port is 80 if none is said, 443 with https. The instances are UP, and have their addresses for ids.
func ParseServers(text string) (out []roadbed.Instance, err error) {
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		i := roadbed.Instance{Status: roadbed.Up, Port: 80}
		rest := item
		if scheme, after, ok := strings.Cut(item, "://"); ok {
			switch strings.ToLower(scheme) {
			case "http":
			case "https":
				i.Secure, i.Port = true, 443
			default:
				return nil, fmt.Errorf("server %q: use http or https, or no scheme", item)
			}
			rest = strings.TrimSuffix(after, "/")
		}
		u, err := url.Parse("//" + rest)
		if err != nil || u.Hostname() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
			return nil, fmt.Errorf("server %q: use host or host:port, an IPv6 address in brackets", item)
		}
		i.Host = u.Hostname()
		if p := u.Port(); p != "" || strings.HasSuffix(rest, ":") {
			if i.Port, err = strconv.Atoi(p); err != nil || i.Port < 1 || i.Port > 65535 {
				return nil, fmt.Errorf("server %q: the port must be from 1 to 65535", item)
			}
		}
		i.ID = i.Addr()
		out = append(out, i)
	}
	return out, nil
}

// Select takes a client's instances from a list as its Ribbon settings say: those of the VIPs named there, if any are,
// in the target region, at the port wanted. The first VIP that has an instance which is UP is the only one, unless
// PrioritizeVIPs is false.
func Select(list []roadbed.Instance, r *Ribbon) (out []roadbed.Instance) {
	if r.VIPs == "" {
		return ofVIP(nil, list, "", r)
	}
	for vip := range strings.SplitSeq(r.VIPs, ",") {
		if vip = strings.TrimSpace(vip); vip == "" {
			continue
		}
		out = ofVIP(out, list, vip, r)
		if r.PrioritizeVIPs && slices.ContainsFunc(out, func(i roadbed.Instance) bool { return i.Status == roadbed.Up }) {
			break
		}
	}
	return out
}

// ofVIP appends the instances of one VIP, or of all, that are not there yet.
func ofVIP(out, list []roadbed.Instance, vip string, r *Ribbon) []roadbed.Instance {
	before := len(out)
	for _, i := range list {
		switch {
		case vip != "" && !serves(i, vip):
		case r.Region != "" && !strings.EqualFold(i.Location.Region, r.Region):
		case r.SecureOnly && !i.Secure && !r.ForcePort:
		case slices.ContainsFunc(out[:before], func(o roadbed.Instance) bool { return o.ID == i.ID }):
		default:
			out = append(out, shape(i, r))
		}
	}
	return out
}

// serves reports whether the instance is found under the VIP.
func serves(i roadbed.Instance, vip string) bool {
	if i.VIP == "" {
		return strings.EqualFold(i.App, vip)
	}
	for name := range strings.SplitSeq(i.VIP, ",") {
		if strings.EqualFold(strings.TrimSpace(name), vip) {
			return true
		}
	}
	return false
}

// shape sets the port that is wanted.
func shape(i roadbed.Instance, r *Ribbon) roadbed.Instance {
	if r.SecureOnly {
		i.Secure = true
	}
	if r.ForcePort {
		i.Port = r.Port
		if i.Secure {
			i.Port = r.SecurePort
		}
	}
	return i
}
