package standard

import (
	"crypto/subtle"
	"fmt"
	"net/netip"
	"strings"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// trust says whom the edge lets speak for others.
type trust struct {
	When     when     `config:"allowProxyHeadersWhen"`
	CIDRs    prefixes `config:"trusted.cidrs"`
	Profile  string   `config:"profile"`
	Mode     string   `config:"headers.xforwarded.mode"`
	Token    string   `config:"debug.token"`
	Original bool     `config:"headers.originatingUrl"`
}

// Validate keeps what cannot be meant out of force.
func (t *trust) Validate() error {
	if t.Mode != "" && t.Mode != "append" && t.Mode != "absent" {
		return fmt.Errorf("edge.headers.xforwarded.mode is %q; it is append or absent", t.Mode)
	}
	if t.Profile != "" && t.Profile != "zuul" {
		return fmt.Errorf("edge.profile is %q; it is empty or zuul", t.Profile)
	}
	if t.Token != "" && len(t.Token) < 16 {
		return fmt.Errorf("edge.debug.token has %d characters; at least 16 keep it from being guessed", len(t.Token))
	}
	return nil
}

// when is when forwarding fields are believed.
type when string

// UnmarshalText reads one of Zuul's words, or ours.
func (w *when) UnmarshalText(b []byte) error {
	switch s := when(b); s {
	case "ALWAYS", "MUTUAL_SSL_AUTH", "NEVER", "TRUSTED_CIDRS":
		*w = s
		return nil
	}
	return fmt.Errorf("%q is none of ALWAYS, MUTUAL_SSL_AUTH, NEVER, TRUSTED_CIDRS", b)
}

// prefixes is a list of networks.
type prefixes []netip.Prefix

// UnmarshalText reads networks and addresses with commas between.
func (p *prefixes) UnmarshalText(b []byte) error {
	items, err := config.ParseList(string(b))
	if err != nil {
		return err
	}
	var list prefixes
	for _, s := range items {
		n, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil {
			n, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("%q is neither a network such as 10.0.0.0/8 nor an address", s)
		}
		if a := n.Addr(); a.Is4In6() && n.Bits() >= 96 {
			n = netip.PrefixFrom(a.Unmap(), n.Bits()-96)
		}
		list = append(list, n.Masked())
	}
	*p = list
	return nil
}

func (p prefixes) contains(a netip.Addr) bool {
	for _, n := range p {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func (t *trust) zuul() bool { return t.Profile == "zuul" }

// when returns what holds: the profile's word where the property says nothing.
func (t *trust) when() when {
	switch {
	case t.When != "":
		return t.When
	case t.zuul():
		return "ALWAYS"
	}
	return "TRUSTED_CIDRS"
}

// believes reports whether the other end of x's connection may speak for others.
func (t *trust) believes(x *filter.Exchange) bool {
	switch t.when() {
	case "ALWAYS":
		return true
	case "MUTUAL_SSL_AUTH":
		return x.Client.Identity != ""
	case "TRUSTED_CIDRS":
		return len(t.CIDRs) > 0 && t.CIDRs.contains(x.Client.Remote.Addr().Unmap())
	}
	return false
}

// fieldKind is whether a client may send a field as it likes.
type fieldKind uint8

const (
	ordinary  fieldKind = iota
	forwarded           // proxies speak for others by it; believed of trusted peers. Source: Zuul 2, StripUntrustedProxyHeadersHandler
	internal            // spoken between services only
)

// kindOf sorts a field by its name.
func kindOf(name string) fieldKind {
	if name == "" {
		return ordinary
	}
	switch name[0] | 0x20 {
	case 'x':
		if strings.IndexByte(name, '_') >= 0 { // where edge.headers.underscores lets it pass: many servers read it as -
			name = strings.ReplaceAll(name, "_", "-")
		}
		if len(name) < 5 || name[1] != '-' {
			return ordinary
		}
		switch name[2] | 0x20 {
		case 'f':
			if filter.Same(name, "X-Fit") || filter.Same(name, "X-Forwarded-Client-Cert") {
				return internal
			}
			if hasPrefix(name, "X-Forwarded-") {
				return forwarded
			}
		case 'e':
			if hasPrefix(name, "X-Edge-") {
				return forwarded
			}
			if filter.Same(name, "X-Envoy-Expected-Rq-Timeout-Ms") || filter.Same(name, "X-Envoy-Attempt-Count") {
				return internal
			}
		case 'i':
			if hasPrefix(name, "X-Ipc-") {
				return internal
			}
		case 'n':
			if filter.Same(name, "X-Netflix.server.utilization") {
				return internal
			}
		case 'o': // which frameworks and services that decide about requests take for what is asked for
			if hasPrefix(name, "X-Original-") || filter.Same(name, "X-Originating-URL") {
				return forwarded
			}
		case 'r':
			if filter.Same(name, "X-Real-IP") || filter.Same(name, "X-Rewrite-URL") {
				return forwarded
			}
		}
	case 'f':
		if filter.Same(name, "Forwarded") {
			return forwarded
		}
	case 'e':
		if filter.Same(name, "Endpoint-Load-Metrics") {
			return internal
		}
	}
	return ordinary
}

func hasPrefix(name, prefix string) bool {
	return len(name) >= len(prefix) && filter.Same(name[:len(prefix)], prefix)
}

// connectionInfo finds out who asks, takes out of the request what the peer may not send, and tells the origin by
// X-Forwarded-For, -Host, -Port and -Proto.
//
// Deadlines that strangers send are taken out, too: services give up in time for them and count those they called as
// late, so that anybody who sends a millisecond could open breakers for everybody.
func connectionInfo(p *config.Properties) *filter.Filter {
	settings := config.Must(config.Bind(p, "edge.", trust{}))
	overwrite := p.Bool("zuul.headers.xforwarded.overwrite", false)
	denied := p.List("zuul.proxy.headers.host.blacklist", nil)
	return &filter.Filter{Name: "ConnectionInfo", Kind: filter.Inbound, Order: -1000, Quick: true, Guard: true, Apply: func(x *filter.Exchange) error {
		t := settings.Get()
		q := &x.Request
		peer := x.Client.Remote.Addr().Unmap()
		x.From = peer
		believed := t.believes(x)
		if hosts := denied.Get(); believed && len(hosts) > 0 {
			host, _ := splitHost(q.Host)
			for _, h := range hosts {
				believed = believed && !strings.EqualFold(h, host)
			}
		}
		believed = believed || x.Hop != "" // an edge of ours, which has kept out what its client may not say
		x.Trusted = believed
		if debug := q.Header.Get("X-Edge-Debug"); debug != "" {
			x.Debug = believed && debug != "0" || t.Token != "" && subtle.ConstantTimeCompare([]byte(debug), []byte(t.Token)) == 1
		}
		q.Header.DelFunc(func(f *filter.Field) bool {
			switch kindOf(f.Name) {
			case internal:
				return true
			case forwarded:
				return !believed || filter.Same(f.Name, "X-Edge-Debug")
			}
			return false
		})
		if believed {
			x.From = clientOf(&q.Header, peer, t)
		}
		forward(x, peer, t, overwrite.Get())
		return nil
	}}
}

// clientOf returns the address that X-Forwarded-For gives as the client's: the last one that no trusted proxy has, if
// these are known by address, the first one if all are to be believed, the last one if the peer alone is.
func clientOf(h *filter.Header, peer netip.Addr, t *trust) netip.Addr {
	from, when := peer, t.when()
	list := h.Fields()
	for i := len(list) - 1; i >= 0; i-- {
		if !filter.Same(list[i].Name, "X-Forwarded-For") {
			continue
		}
		for rest := list[i].Value; rest != ""; {
			item := rest
			if c := strings.LastIndexByte(rest, ','); c >= 0 {
				rest, item = rest[:c], rest[c+1:]
			} else {
				rest = ""
			}
			a, ok := parseAddr(strings.Trim(item, " \t"))
			if !ok {
				return from // what stands before that is nobody's word
			}
			from = a
			if when != "ALWAYS" && !(when == "TRUSTED_CIDRS" && t.CIDRs.contains(a)) {
				return from
			}
		}
	}
	return from
}

// parseAddr reads an address of X-Forwarded-For, which may have a port.
func parseAddr(s string) (a netip.Addr, ok bool) {
	if s == "" || len(s) > 64 {
		return a, false
	}
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 || end+1 < len(s) && s[end+1] != ':' {
			return a, false
		}
		s = s[1:end]
	} else if c := strings.IndexByte(s, ':'); c >= 0 && strings.IndexByte(s[c+1:], ':') < 0 {
		s = s[:c]
	}
	a, err := netip.ParseAddr(s)
	return a.Unmap().WithZone(""), err == nil
}

// splitHost returns an authority's host and port, without checking either.
func splitHost(authority string) (host, port string) {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && strings.IndexByte(authority[i:], ']') < 0 {
		return authority[:i], authority[i+1:]
	}
	return authority, ""
}

// forward tells the origin who asked for what.
func forward(x *filter.Exchange, peer netip.Addr, t *trust, overwrite bool) {
	h := &x.Request.Header
	put := func(name, value string) {
		if value != "" && (overwrite || !h.Has(name)) {
			h.Set(name, value)
		}
	}
	if peer.IsValid() {
		var mem [512]byte
		b := mem[:0]
		appending := t.Mode == "append" || t.Mode == "" && !t.zuul()
		has := h.Has("X-Forwarded-For")
		if appending && has {
			for _, f := range h.Fields() {
				if filter.Same(f.Name, "X-Forwarded-For") {
					b = append(b, f.Value...)
					b = append(b, ", "...)
				}
			}
		}
		if b = peer.AppendTo(b); appending || overwrite || !has {
			h.Set("X-Forwarded-For", x.Keep(b))
		}
	}
	put("X-Forwarded-Host", x.Request.Host)
	_, port := splitHost(x.Request.Host)
	switch {
	case port != "":
	case x.Request.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	put("X-Forwarded-Port", port)
	put("X-Forwarded-Proto", x.Request.Scheme)
}
