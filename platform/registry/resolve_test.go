package registry

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeNames answers look-ups from tables.
func fakeNames() resolver {
	return resolver{
		addrs: func(_ context.Context, host string) ([]string, error) {
			return map[string][]string{"reg.example": {"10.0.0.1", "fd00::2"}}[host], nil
		},
		srv: func(_ context.Context, name string) ([]*net.SRV, error) {
			if name != "_eureka._tcp.example" {
				return nil, errors.New("no such host")
			}
			return []*net.SRV{{Target: "a.example.", Port: 1111}, {Target: "b.example.", Port: 2222}}, nil
		},
		txt: func(_ context.Context, name string) ([]string, error) {
			return map[string][]string{
				"txt.eu.example": {"eu-1a.example eu-1b.example"}, "txt.eu-1a.example": {"h1.example", "h2.example"}, "txt.eu-1b.example": {"h3.example"},
			}[name], nil
		},
		isLocal: func(host string) bool { return host == "10.0.0.1" },
	}
}

func TestEntriesStandForTheURLsThatTheDNSKnows(t *testing.T) {
	tests := []struct{ entry, want string }{
		{"http://h:1/eureka", "http://h:1/eureka/"},
		{" https://u:p@h/ ", "https://u:p@h/"},
		{"a+http://u:p@reg.example:8761/eureka/", "http://u:p@10.0.0.1:8761/eureka/ http://u:p@[fd00::2]:8761/eureka/"},
		{"a+https://reg.example/eureka/", "https://10.0.0.1/eureka/ https://[fd00::2]/eureka/"},
		{"a+http://none.example/eureka/", "there are no A records of none.example"},
		{"srv+https://_eureka._tcp.example/eureka/v2", "https://a.example:1111/eureka/v2/ https://b.example:2222/eureka/v2/"},
		{"srv+http://other.example/", "no such host"},
		{"txt+http://eu.example:7001/eureka/v2/", "http://h1.example:7001/eureka/v2/ http://h2.example:7001/eureka/v2/ http://h3.example:7001/eureka/v2/"},
		{"srv+http://h:1/", "SRV records name the ports"},
		{"h:8761", "begins with neither"},
		{"ftp://h/", "begins with neither"},
		{"http:///eureka", "names no host"},
		{"http://h/?a=b", "has a query"},
		{"http://h:port/", "is no URL"},
		{"", "begins with neither"},
	}
	for _, tt := range tests {
		r := fakeNames()
		u, err := parseSpec(tt.entry)
		var list []*url.URL
		if err == nil {
			list, err = r.expand(t.Context(), u)
		}
		var got []string
		for _, u := range list {
			got = append(got, u.String())
		}
		if text := strings.Join(got, " "); err == nil && text != tt.want || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %q and error %v, want %q", tt.entry, text, err, tt.want)
		}
	}
}

func TestRegistryKnowsItselfByHostAndPort(t *testing.T) {
	tests := []struct {
		own, hostName, url string
		want               bool
	}{
		{"http://a:8761/eureka/", "", "http://a:8761/eureka/v2/", true},
		{"http://a:8761/eureka/", "", "http://A:8761/", true},
		{"http://a:8761/eureka/", "", "http://a:8762/eureka/", false},
		{"http://a:8761/eureka/", "", "http://b:8761/eureka/", false},
		{"http://a/eureka/", "", "http://a:80/eureka/", true},
		{"https://a/eureka/", "", "http://a/eureka/", false},
		{"http://a:8761/eureka/", "peer1", "http://peer1:8761/eureka/", true},
		{"http://127.0.0.1:8761/eureka/", "", "http://localhost:8761/eureka/", true},
		{"http://127.0.0.1:8761/eureka/", "", "http://localhost:8762/eureka/", false},
		{"http://a:8761/eureka/", "", "http://10.0.0.1:8761/eureka/", true}, // an address of this machine
		{"http://a:8761/eureka/", "", "http://10.0.0.2:8761/eureka/", false},
		{"", "", "http://a:8761/eureka/", false},
	}
	for _, tt := range tests {
		ps, err := newPeers(Config{Settings: Settings{MyURL: tt.own, HostName: tt.hostName}}, newState(""), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ps.names = fakeNames()
		u, err := parsePeerURL(tt.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := ps.isMe(u); got != tt.want {
			t.Errorf("%s to %s, host name %q: got %v, want %v", tt.url, tt.own, tt.hostName, got, tt.want)
		}
	}
}

func TestPeersComeAndGoWithTheDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		var mu sync.Mutex
		var found []string
		var broken error
		n := m.start("n", func(n *node, c *Config) {
			c.Settings.Peers["defaultzone"] = []string{"a+http://all:8761/eureka/"}
			n.addrs = func(_ context.Context, host string) ([]string, error) {
				mu.Lock()
				defer mu.Unlock()
				if host != "all" {
					return []string{host}, nil
				}
				return found, broken
			}
		}, "n")
		a, b := m.start("a", netflix), m.start("b", netflix)
		a.do("POST", "apps/A", registrationOf("i", 10))
		for _, step := range []struct {
			found  []string
			broken error
			want   []string
			open   bool
		}{
			{nil, errors.New("server misbehaving"), nil, false}, // for all that is known there may be peers
			{[]string{"n", "a"}, nil, []string{"a"}, true},
			{nil, errors.New("server misbehaving"), []string{"a"}, true},
			{[]string{"n", "a", "b"}, nil, []string{"a", "b"}, true},
			{[]string{"n", "b"}, nil, []string{"b"}, true},
		} {
			mu.Lock()
			found, broken = step.found, step.broken
			mu.Unlock()
			pass(6 * time.Second)
			var got []string
			for _, p := range *n.peers.list.Load() {
				got = append(got, p.base.Hostname())
			}
			if !slices.Equal(got, step.want) || n.peers.isOpen() != step.open {
				t.Errorf("the DNS says %v, %v: got peers %v, open %v; want %v, %v", step.found, step.broken, got, n.peers.isOpen(), step.want, step.open)
			}
		}
		n.do("POST", "apps/A", registrationOf("j", 10))
		pass(time.Second)
		if a.is("j") != "gone" || b.is("j") != "UP/-/10/ADDED" || n.is("i") != "UP/-/10/ADDED" {
			t.Errorf("told: j at a is %s, at b %s; i at n is %s; want it told to b alone, and i copied", a.is("j"), b.is("j"), n.is("i"))
		}
	})
}
