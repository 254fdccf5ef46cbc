package sidecar

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/ipc"
)

const (
	maxParts    = 32  // commands of one app; calls of further parts run as the app
	maxNamed    = 512 // commands that the neighbour named itself; calls of further ones run as the app
	maxCommand  = 128 // bytes of a command's name
	maxSegment  = 32  // bytes of a path's segment that is no id
	appsAtStart = 16
	indexFor    = time.Second // the least time between two looks at everybody's VIPs
)

// names knows which apps and commands the neighbour calls. The zero value with calls knows none yet.
type names struct {
	calls *ipc.Engine
	found *discovery.Client // nil without a registry

	mu    sync.RWMutex
	apps  map[string]string // what the neighbour calls it, in lower case -> app; guarded by mu
	parts map[part]*ipc.Command
	count map[string]int // parts by app
	named map[string]*ipc.Command

	byvip   map[string]string  // VIP, with and without a port -> app
	all     []roadbed.Instance // of which byvip was made
	indexed time.Time          // when
}

type part struct{ app, segment string }

// resolve fills in where c goes. Neither app nor host: nobody of that name is known. It returns what is wrong with
// host, empty if nothing is.
func (n *names) resolve(host string, c *call) (why string) {
	name, port := split(host)
	switch {
	case !isHost(name) || port != "" && !isPort(port):
		return fmt.Sprintf("the host %q is none", host)
	case port != "":
		c.host = host
		return ""
	case isAddress(name):
		c.host = name + n.defaultPort(c)
		return ""
	}
	if app, ok := n.app(name); ok {
		c.app, c.host = app, app
	} else if strings.Contains(name, ".") {
		c.host = name + n.defaultPort(c)
	}
	return ""
}

func isHost(name string) bool {
	if in, ok := strings.CutPrefix(name, "["); ok {
		in, ok = strings.CutSuffix(in, "]")
		_, err := netip.ParseAddr(in)
		return ok && err == nil
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`/\?#@%<>":[]`, c) >= 0 {
			return false
		}
	}
	return name != ""
}

func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0
}

func (n *names) defaultPort(c *call) string {
	if c.url.Scheme == "https" {
		return ":443"
	}
	return ":80"
}

// app returns the app that is called by its name or by a VIP. Only what was once registered is one.
func (n *names) app(name string) (string, bool) {
	n.mu.RLock()
	app, ok := n.apps[name]
	n.mu.RUnlock()
	if ok {
		return app, true
	}
	low := strings.ToLower(name)
	if n.found == nil {
		return "", false
	}
	if len(n.found.Instances(low)) > 0 {
		app, ok = low, true
	} else {
		app, ok = n.byVIP(low)
	}
	if !ok || len(name) > maxCommand {
		return "", false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.apps == nil {
		n.apps = make(map[string]string, appsAtStart)
	}
	n.apps[low] = app
	return app, true
}

// byVIP returns an app that has instances of that VIP, as it was known a second ago.
func (n *names) byVIP(vip string) (app string, ok bool) {
	all := n.found.Instances("") // the same slice until something changes
	now := time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if now.Sub(n.indexed) > indexFor && (len(all) != len(n.all) || len(all) > 0 && &all[0] != &n.all[0]) {
		n.all, n.indexed, n.byvip = all, now, make(map[string]string)
		for _, i := range all {
			if i.VIP == i.App || i.Status != roadbed.Up {
				continue
			}
			for v := range strings.SplitSeq(i.VIP, ",") {
				v = strings.ToLower(strings.TrimSpace(v))
				host, _, _ := strings.Cut(v, ":")
				n.byvip[v], n.byvip[host] = i.App, i.App
			}
		}
	}
	app, ok = n.byvip[vip]
	return app, ok
}

// command returns the command that a call of app at path runs as. wish is what the neighbour calls it, if it says so.
func (n *names) command(app, path, wish string) *ipc.Command {
	if wish != "" {
		return n.wished(app, wish)
	}
	segment := strings.TrimPrefix(path, "/")
	if i := strings.IndexByte(segment, '/'); i >= 0 {
		segment = segment[:i]
	}
	key := part{app, segment}
	n.mu.RLock()
	c := n.parts[key]
	n.mu.RUnlock()
	if c != nil {
		return c
	}
	if !isWord(segment) {
		return n.calls.Command(app, ipc.Settings{})
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.parts == nil {
		n.parts, n.count = map[part]*ipc.Command{}, map[string]int{}
	}
	if n.count[app] >= maxParts {
		return n.calls.Command(app, ipc.Settings{})
	}
	if c = n.parts[key]; c == nil {
		c = n.calls.Command(app+"/"+segment, ipc.Settings{})
		n.parts[part{app, strings.Clone(segment)}] = c
		n.count[app]++
	}
	return c
}

func (n *names) wished(app, wish string) *ipc.Command {
	n.mu.RLock()
	c, many := n.named[wish], len(n.named) >= maxNamed
	n.mu.RUnlock()
	if c != nil {
		return c
	}
	if many {
		return n.calls.Command(app, ipc.Settings{})
	}
	c = n.calls.Command(wish, ipc.Settings{})
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.named == nil {
		n.named = map[string]*ipc.Command{}
	}
	n.named[strings.Clone(wish)] = c
	return c
}

// isWord reports whether a path's segment names a kind of thing rather than one of them: it is short, of letters,
// digits and ".-_", and has no more digits than letters.
func isWord(segment string) bool {
	if segment == "" || len(segment) > maxSegment {
		return false
	}
	letters, digits := 0, 0
	for _, c := range []byte(segment) {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			letters++
		case c >= '0' && c <= '9':
			digits++
		case c != '.' && c != '-' && c != '_':
			return false
		}
	}
	return letters > 0 && digits <= letters
}
