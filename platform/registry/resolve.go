package registry

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// resolver finds the URLs that an entry of the list of peers stands for.
type resolver struct {
	addrs   func(ctx context.Context, host string) ([]string, error)
	srv     func(ctx context.Context, name string) ([]*net.SRV, error)
	txt     func(ctx context.Context, name string) ([]string, error)
	isLocal func(host string) bool // whether it is an address of this machine
}

const lookUpWithin = 2 * time.Second

func netResolver() resolver {
	r := net.DefaultResolver
	return resolver{
		addrs: r.LookupHost,
		srv: func(ctx context.Context, name string) ([]*net.SRV, error) {
			_, list, err := r.LookupSRV(ctx, "", "", name)
			return list, err
		},
		txt:     r.LookupTXT,
		isLocal: isLocal,
	}
}

// isLocal reports whether host is an IP address of this machine, loopback excepted: every machine has that.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	if ip == nil || ip.IsLoopback() {
		return false
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return true
		}
	}
	return false
}

// parseSpec reads an entry of the list of peers. The look-up it asks for stays in its scheme.
func parseSpec(s string) (*url.URL, error) {
	kind, rest := "", strings.TrimSpace(s)
	for _, k := range []string{"a+", "srv+", "txt+"} {
		if strings.HasPrefix(rest, k) {
			kind, rest = k, rest[len(k):]
		}
	}
	u, err := parsePeerURL(rest)
	if err != nil {
		return nil, err
	}
	if kind == "srv+" && u.Port() != "" {
		return nil, badPeer(s, "SRV records name the ports")
	}
	u.Scheme = kind + u.Scheme
	return u, nil
}

// expand returns the URLs for which spec stands.
func (r *resolver) expand(ctx context.Context, spec *url.URL) ([]*url.URL, error) {
	kind, scheme, found := strings.Cut(spec.Scheme, "+")
	if !found {
		return []*url.URL{spec}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookUpWithin)
	defer cancel()
	var list []*url.URL
	add := func(host, port string) {
		u := *spec
		u.Scheme, u.Host = scheme, host
		if strings.Contains(host, ":") {
			u.Host = "[" + host + "]"
		}
		if port != "" {
			u.Host = net.JoinHostPort(host, port)
		}
		list = append(list, &u)
	}
	switch kind {
	case "a":
		addrs, err := r.addrs(ctx, spec.Hostname())
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			add(a, spec.Port())
		}
	case "srv":
		records, err := r.srv(ctx, spec.Hostname())
		if err != nil {
			return nil, err
		}
		for _, rec := range records {
			add(strings.TrimSuffix(rec.Target, "."), strconv.Itoa(int(rec.Port)))
		}
	case "txt":
		zones, err := r.words(ctx, "txt."+spec.Hostname())
		if err != nil {
			return nil, err
		}
		for _, zone := range zones {
			hosts, err := r.words(ctx, "txt."+zone)
			if err != nil {
				return nil, err
			}
			for _, host := range hosts {
				add(host, spec.Port())
			}
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there are no %s records of %s", strings.ToUpper(kind), spec.Hostname())
	}
	return list, nil
}

// words returns what is in a TXT record, which may hold several names.
func (r *resolver) words(ctx context.Context, name string) (list []string, err error) {
	records, err := r.txt(ctx, name)
	for _, rec := range records {
		list = append(list, strings.Fields(rec)...)
	}
	return list, err
}
