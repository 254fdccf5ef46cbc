package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

// pace is how often an instance is asked, and how patiently. Tests shorten it.
type pace struct {
	probeFirst   time.Duration // between probes in the first seconds
	probeEarly   time.Duration // until healthy, and while failing
	probeLate    time.Duration // later
	firstFor     time.Duration // how long probeFirst holds
	probeTimeout time.Duration
	downAfter    int           // failures in a row
	deadAfter    int           // probes without any answer in a row: restart
	startGrace   time.Duration // never healthy for this long: restart
	drain        time.Duration // between leaving the registry and SIGTERM
	killWait     time.Duration // between SIGTERM and SIGKILL
	registryWait time.Duration // for one call to the registry
}

func usualPace() pace {
	return pace{
		probeFirst: 100 * time.Millisecond, probeEarly: time.Second, probeLate: 5 * time.Second, firstFor: 3 * time.Second,
		probeTimeout: 2 * time.Second, downAfter: 2, deadAfter: 6, startGrace: 5 * time.Minute,
		drain: 500 * time.Millisecond, killWait: 10 * time.Second, registryWait: time.Second,
	}
}

// verdict is what one probe found.
type verdict struct {
	ok       bool
	answered bool // the process did something on the port: it lives, well or not
	refused  bool // nobody listens
	text     string
}

// prober asks one instance. It is used by one goroutine at a time.
type prober struct {
	client *http.Client
	addr   string
	health *HealthCheck
	plain  bool // there is no /healthcheck: "/" is asked from now on
}

// newProbeClient returns a client that opens a connection for each probe: a server that handles one connection at a
// time must not be held by an idle one, and that it accepts is part of the question.
func newProbeClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives:      true,
			DisableCompression:     true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// probe asks once.
func (p *prober) probe(ctx context.Context) verdict {
	if p.health != nil && p.health.Path == "" {
		return p.dial(ctx)
	}
	if p.health != nil {
		v, _ := p.get(ctx, p.health.Path, 300)
		return v
	}
	if !p.plain {
		v, status := p.get(ctx, "/healthcheck", 300)
		if status < 300 || status >= 500 && status != http.StatusNotImplemented {
			return v
		}
		p.plain = true
	}
	v, _ := p.get(ctx, "/", 500)
	return v
}

func (p *prober) dial(ctx context.Context) verdict {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return p.failed("connect", err)
	}
	c.Close()
	return verdict{ok: true, answered: true, text: "accepts connections"}
}

// get asks for path; a status below limit is well. Status 0 means there was none.
func (p *prober) get(ctx context.Context, path string, limit int) (verdict, int) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+path, nil)
	if err != nil {
		return verdict{text: fmt.Sprintf("health path %q: %v", path, err)}, 0
	}
	req.Header.Set("User-Agent", "roadbed-fleet")
	resp, err := p.client.Do(req)
	if err != nil {
		return p.failed("GET "+path, err), 0
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) //nolint:errcheck // the status is the answer
	return verdict{ok: resp.StatusCode < limit, answered: true, text: "GET " + path + " answers " + strconv.Itoa(resp.StatusCode)}, resp.StatusCode
}

func (p *prober) failed(what string, err error) verdict {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return verdict{refused: true, text: what + ": nothing listens on " + p.addr}
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout():
		return verdict{text: what + ": no answer in time"}
	}
	// Bytes that are no HTTP, or a connection closed early: somebody is there.
	return verdict{answered: !errors.Is(err, context.Canceled), text: fmt.Sprintf("%s: %v", what, err)}
}
