package region

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/vouch"
)

// certificates are what this edge shows to those of other regions, and whom it believes there. The zero value shows nothing and
// believes whom the machine does.
type certificates struct {
	now atomic.Pointer[vouch.Outgoing]
	why atomic.Pointer[string] // what the properties ask for is not in force; nil: it is

	mu sync.Mutex // held while files are read
}

// follow takes into force what the properties ask for, and reads files again that have changed. What cannot be used leaves
// everything as it was.
func (c *certificates) follow(set *settings, props *config.Properties, log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	want := vouch.Config{Dir: set.Certs, CA: set.CA, CRL: set.CRL}
	old := c.now.Load()
	var err error
	if old == nil || old.Config() != want {
		var next *vouch.Outgoing
		if next, err = vouch.NewOutgoing(want); err == nil {
			c.now.Store(next)
		}
	} else {
		_, err = old.Reload()
	}
	if err == nil {
		c.why.Store(nil)
		return
	}
	why := fmt.Sprintf("the certificates for other regions' edges (edge.regions.tls.certs %q, edge.regions.tls.ca %q, edge.regions.tls.crl %q) cannot be used, and what was there before stays: %v", set.Certs, set.CA, set.CRL, err)
	if said := c.why.Swap(&why); said != nil && *said == why {
		return
	}
	log.Warn(why)
	for name, value := range map[string]string{"edge.regions.tls.certs": set.Certs, "edge.regions.tls.ca": set.CA, "edge.regions.tls.crl": set.CRL} {
		if value != "" {
			props.Refuse(name, value, err)
		}
	}
}

// problem says why what the properties ask for is not in force; empty if it is.
func (c *certificates) problem() string {
	if why := c.why.Load(); why != nil {
		return *why
	}
	return ""
}

// handshake makes a connection to an edge of another region one over TLS.
func (r *Regions) handshake(ctx context.Context, c net.Conn, addr string, http2 bool) (*tls.Conn, error) {
	out := r.certs.now.Load()
	if out == nil {
		return nil, fmt.Errorf("the edge at %s cannot be asked over TLS: %s", addr, r.certs.problem())
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	identity, whose := "", "a region that is gone"
	if p := r.now.Load(); p != nil {
		if g := p.edges[addr]; g != nil {
			identity, whose = g.doc.Identity, g.name
		}
	}
	protocol := "http/1.1"
	if http2 {
		protocol = "h2"
	}
	t, err := out.Handshake(ctx, c, host, identity, protocol)
	if err != nil {
		return nil, fmt.Errorf("the edge at %s of %s cannot be asked over TLS: %w", addr, whose, err)
	}
	return t, nil
}
