package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/config"
)

// The properties of Prana that say how to ask for the neighbour's health.
const (
	healthURL     = "prana.host.healthcheck.url"
	healthTimeout = "prana.host.healthcheck.timeout"
)

// prober asks the neighbour for its health.
type prober struct {
	client *http.Client
	to     string
	url    string // of the configuration; empty: the usual ones are tried
	plain  atomic.Bool
	props  *config.Properties
	within *config.Value[int] // milliseconds
}

func newProber(c Config) *prober {
	return &prober{
		to: c.To, url: c.Health,
		client: &http.Client{
			// A server that handles one connection at a time must not be held by an idle one.
			Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (p *prober) follow(props *config.Properties) {
	p.props, p.within = props, props.Int(healthTimeout, 2000)
}

func validHealth(text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("the health URL %q is none; write it as http://127.0.0.1:3000/health", text)
	}
	return nil
}

// ask reports why the neighbour is not well, nil if it is.
func (p *prober) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(min(max(p.within.Get(), 1), 60_000))*time.Millisecond)
	defer cancel()
	at := p.url
	if text, ok := p.props.Lookup(healthURL); ok {
		if text == "" {
			return nil
		}
		if err := validHealth(text); err != nil {
			p.props.Refuse(healthURL, text, err)
		} else {
			at = text
		}
	}
	if at != "" {
		status, err := p.get(ctx, at)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("GET %s answers %d, not 200", at, status)
		}
		return err
	}
	if !p.plain.Load() {
		status, err := p.get(ctx, "http://"+p.to+"/healthcheck")
		switch {
		case err != nil || status < 300:
			return err
		case status >= 500 && status != http.StatusNotImplemented:
			return fmt.Errorf("GET /healthcheck answers %d", status)
		}
		p.plain.Store(true) // it has none
	}
	status, err := p.get(ctx, "http://"+p.to+"/")
	if err == nil && status >= 500 {
		err = fmt.Errorf("GET / answers %d", status)
	}
	return err
}

func (p *prober) get(ctx context.Context, at string) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "roadbed-sidecar")
	resp, err := p.client.Do(req)
	if err != nil {
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			err = inner.Err
		}
		return 0, fmt.Errorf("the neighbour does not answer at %s: %w", at, err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10)) //nolint:errcheck // the status is the answer
	return resp.StatusCode, nil
}
