package edge

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/http1"
	"github.com/roadbed/roadbed/platform/edge/listen"
)

// DoorConfig says what one listener of the edge speaks. Without TLS it is HTTP/1.1, and HTTP/2 with those who begin with
// its preface.
type DoorConfig struct {
	Name          string // told in logs and metrics
	ProxyProtocol string // off, on, or optional: whether a balancer tells who the client is
	TLS           *TLSConfig
}

// TLSConfig says which certificates a listener shows and wants.
type TLSConfig struct {
	Dir        string // of pairs NAME.crt and NAME.key, or NAME.pem
	SelfSigned string // a directory to keep a certificate in that nobody vouches for, for trying things out

	ACMEHosts     []string // names to get certificates for
	ACMEEmail     string
	ACMEDirectory string // URL of the authority; empty: Let's Encrypt
	ACMEDir       string // where they are kept

	ClientCA       string // a file of those who vouch for clients; empty: clients need no certificates
	ClientCRL      string // a file or directory of lists of what they revoked; empty: nobody looks
	ClientOptional bool
}

// Door is one listener of the edge.
type Door struct {
	g      *Gateway
	server *listen.Server
	certs  *listen.Certificates
	acme   *listen.ACME
}

// Door returns a listener's server. [Door.Run] serves.
func (g *Gateway) Door(c DoorConfig) (*Door, error) {
	d := &Door{g: g}
	proxy, err := listen.ParseProxyProtocol(c.ProxyProtocol)
	if err != nil {
		return nil, err
	}
	var secure *tls.Config
	if t := c.TLS; t != nil {
		if len(t.ACMEHosts) > 0 {
			if d.acme, err = listen.NewACME(listen.ACMEConfig{Hosts: t.ACMEHosts, Email: t.ACMEEmail, Directory: t.ACMEDirectory, Dir: t.ACMEDir, Log: g.log}); err != nil {
				return nil, err
			}
		}
		tickets := config.Must(config.Bind(g.props, "edge.tls.", tickets{}))
		if d.certs, err = listen.NewCertificates(listen.CertificatesConfig{Dir: t.Dir, SelfSigned: t.SelfSigned, ACME: d.acme, TicketSecret: func() string { return tickets.Get().Secret }, Log: g.log}); err != nil {
			return nil, err
		}
		if secure, err = d.certs.TLS(listen.ClientAuth{CA: t.ClientCA, CRL: t.ClientCRL, Optional: t.ClientOptional}); err != nil {
			return nil, err
		}
	}
	d.server = listen.New(listen.Config{
		Name: c.Name, TLS: secure, Proxy: proxy, Serve: g.Serve, Finished: g.Finished,
		HTTP1: http1.Config{Meter: g.meter, Settings: g.limits.settings(), Grace: idleGrace}, Log: g.log,
	})
	return d, nil
}

// idleGrace is how long connections without a request stay open when the edge ends: a client that asks at least so often is
// told that its connection ends, and never finds it closed.
const idleGrace = time.Second

// tickets is what edges share to resume each other's sessions of TLS.
type tickets struct {
	Secret string `config:"ticketSecret"`
}

// Validate keeps what could be guessed out of force.
func (t *tickets) Validate() error {
	if t.Secret != "" && len(t.Secret) < 32 {
		return errors.New("edge.tls.ticketSecret has 32 characters or more; until it has, each edge makes keys of its own")
	}
	return nil
}

// Run serves l, and HTTP/3 on p unless that is nil, until ctx ends. Then it accepts no more, has clients told that their
// connections end, and waits for what is under way, for as long as edge.drain.timeout says.
//
// Nobody is let in before [Gateway.Run] has taken in what is known of routes and apps; who comes sooner waits.
func (d *Door) Run(ctx context.Context, l net.Listener, p net.PacketConn) error {
	select {
	case <-d.g.ready:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		d.server.Drain(ctx)
		err := l.Close()
		if p != nil {
			err = errors.Join(err, p.Close())
		}
		return err
	}
	defer d.g.limits.follow(d.server.Change)()
	d.g.opened(d, true)
	defer d.g.opened(d, false)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	failed := make(chan error, 5)
	part := func(run func() error) {
		parts.Go(func() {
			if err := d.g.panics.Loop(ctx, "listener", run); err != nil {
				failed <- err
				cancel()
			}
		})
	}
	part(func() error { return d.server.Serve(l) })
	if p != nil {
		part(func() error { return d.server.ServeQUIC(p) })
	}
	if d.certs != nil {
		part(func() error { return d.certs.Run(ctx) })
		part(func() error { return d.certs.Staple(ctx) })
	}
	if d.acme != nil {
		part(func() error { return d.acme.Run(ctx, l.Addr()) })
	}
	<-ctx.Done()
	end, done := context.WithTimeout(context.WithoutCancel(ctx), d.g.limits.drain.Get())
	defer done()
	d.server.Drain(end)
	if p != nil {
		p.Close() //nolint:errcheck // it is drained
	}
	parts.Wait()
	close(failed)
	var err error
	for e := range failed {
		err = errors.Join(err, e)
	}
	return err
}

// opened notes that a listener is open, or no longer.
func (g *Gateway) opened(d *Door, yes bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if delete(g.doors, d); yes {
		g.doors[d] = true
	}
	if len(g.doors) == 0 && g.allShut != nil {
		close(g.allShut)
		g.allShut = nil
	}
}

// shut waits until no listener is open any more, as long as they may take for that.
func (g *Gateway) shut() {
	g.mu.Lock()
	if len(g.doors) == 0 {
		g.mu.Unlock()
		return
	}
	if g.allShut == nil {
		g.allShut = make(chan struct{})
	}
	all := g.allShut
	g.mu.Unlock()
	most := time.NewTimer(g.limits.drain.Get() + 5*time.Second) // listeners cut off what is left by then
	defer most.Stop()
	select {
	case <-all:
	case <-most.C:
	}
}

// connections returns how many connections the fullest listener has, and how many it may have.
func (g *Gateway) connections() (open, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for d := range g.doors {
		if n := d.server.Open(); n >= open {
			open, most = n, d.server.Most()
		}
	}
	return open, most
}

// limits are the properties that bound what a client may take, of every listener:
//
//	server.http.decoder.maxInitialLineLength      16384  bytes
//	server.http.decoder.maxHeaderSize             32768  bytes
//	edge.http.maxHeaders                          200    fields
//	server.http.request.headers.read.timeout      10000  ms from the first byte of a head to its last
//	edge.http.request.firstbyte.timeout           65000  ms of a new connection
//	httpRequestReadTimeout                        5000   ms between bytes of a body
//	edge.http.body.minrate                        240    bytes a second of a body that must come
//	edge.http.response.minrate                    240    bytes a second of an answer that must be taken
//	idleTimeout                                   65000  ms between requests
//	maxConnections                                20000, or 90 % of the files that the process may open if that is less
//	edge.connections.perip                        1000
//	maxRequestsPerConnection                      4000
//	connectionExpiry                              1200000  ms
//	server.connection.expiry.delta                20000  ms
//	edge.headers.underscores                      drop   or allow, reject
//	edge.path.encodedslash                        keep   or reject
//	edge.path.mergeslashes                        false
//	edge.http1.pipelining                         serve  or reject
//	edge.drain.timeout                            30s
type limits struct {
	props  *config.Properties
	drain  *config.Value[time.Duration]
	number map[string]*config.Value[int]
	word   map[string]*config.Value[string]
	merge  *config.Value[bool]
	files  uint64 // that the process may have open, at least 2
}

var (
	numbers = []string{
		"server.http.decoder.maxInitialLineLength", "server.http.decoder.maxHeaderSize", "edge.http.maxHeaders", "server.http.request.headers.read.timeout",
		"edge.http.request.firstbyte.timeout", "httpRequestReadTimeout", "idleTimeout", "maxConnections", "edge.connections.perip", "maxRequestsPerConnection",
		"connectionExpiry", "server.connection.expiry.delta", "edge.http.body.minrate", "edge.http.response.minrate",
	}
	words = map[string]string{"edge.headers.underscores": "drop", "edge.path.encodedslash": "keep", "edge.http1.pipelining": "serve"}
)

func newLimits(p *config.Properties) *limits {
	l := &limits{
		props: p, drain: p.Duration("edge.drain.timeout", 30*time.Second), merge: p.Bool("edge.path.mergeslashes", false),
		number: map[string]*config.Value[int]{}, word: map[string]*config.Value[string]{}, files: openFiles(),
	}
	for _, n := range numbers {
		l.number[n] = p.Int(n, 0)
	}
	for w, def := range words {
		l.word[w] = p.String(w, def)
	}
	return l
}

// settings returns what is in force. A number that makes no sense is refused, and the default holds.
func (l *limits) settings() http1.Settings {
	n := func(name string) int {
		v := l.number[name].Get()
		if v < 0 || v > 1<<30 {
			l.props.Refuse(name, fmt.Sprint(v), errors.New("use a number from 1 to 1073741824; 0 is the default"))
			return 0
		}
		return v
	}
	ms := func(name string) time.Duration { return time.Duration(n(name)) * time.Millisecond }
	choice := func(name string, of map[string]http1.Choice) http1.Choice {
		text := l.word[name].Get()
		c, ok := of[text]
		if !ok {
			l.props.Refuse(name, text, fmt.Errorf("there is no such choice; use %s", strings.Join(slices.Sorted(maps.Keys(of)), ", ")))
		}
		return c
	}
	return http1.Settings{
		Rules: http1.Rules{
			Limits: http1.Limits{
				Line: n("server.http.decoder.maxInitialLineLength"), Fields: n("server.http.decoder.maxHeaderSize"), Count: n("edge.http.maxHeaders"),
			},
			Underscores:  choice("edge.headers.underscores", map[string]http1.Choice{"drop": http1.Drop, "allow": http1.Keep, "reject": http1.Reject}),
			EncodedSlash: choice("edge.path.encodedslash", map[string]http1.Choice{"keep": http1.Keep, "reject": http1.Reject}),
			MergeSlashes: l.merge.Get(),
		},
		FirstByte: ms("edge.http.request.firstbyte.timeout"), Idle: ms("idleTimeout"), Head: ms("server.http.request.headers.read.timeout"), BodyIdle: ms("httpRequestReadTimeout"),
		BodyRate: n("edge.http.body.minrate"), AnswerRate: n("edge.http.response.minrate"),
		Connections: l.connections(n("maxConnections")), PerAddress: n("edge.connections.perip"), Requests: n("maxRequestsPerConnection"),
		Expiry: ms("connectionExpiry"), Jitter: ms("server.connection.expiry.delta"),
		RejectPipelining: choice("edge.http1.pipelining", map[string]http1.Choice{"serve": http1.Keep, "reject": http1.Reject}) == http1.Reject,
	}
}

// usualConnections are how many connections clients have at most if no property says so.
const usualConnections = 20_000

// connections returns how many connections clients may have at one listener: as many as wanted, or as usual if that is 0, but no more than leave a
// tenth of the files that the process may open, 64 at least, for those to origins and for the platform's own.
func (l *limits) connections(wanted int) int {
	most := int(l.files - min(max(l.files/10, 64), l.files-1))
	if wanted > most {
		l.props.Refuse("maxConnections", fmt.Sprint(wanted), fmt.Errorf("this process may have %d files open, so %d hold; raise that first (ulimit -n, or LimitNOFILE of systemd)", l.files, most))
	}
	return min(cmp.Or(wanted, usualConnections), most)
}

// openFiles returns how many files the process may have open; a great many if nothing tells.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt32
	}
	return min(max(limit.Cur, 2), math.MaxInt32)
}

// follow calls fn with the settings, and again after each change, until stop; never twice at once, and last with the newest.
func (l *limits) follow(fn func(http1.Settings)) (stop func()) {
	var mu sync.Mutex // else who has read what was in force before could be the last to tell
	tell := func() {
		mu.Lock()
		defer mu.Unlock()
		fn(l.settings())
	}
	var stops []func()
	for _, v := range l.number {
		stops = append(stops, v.OnChange(func(int, int) { tell() }))
	}
	for _, v := range l.word {
		stops = append(stops, v.OnChange(func(string, string) { tell() }))
	}
	stops = append(stops, l.merge.OnChange(func(bool, bool) { tell() }))
	tell() // what changed before anybody was told
	return func() {
		for _, s := range stops {
			s()
		}
	}
}
