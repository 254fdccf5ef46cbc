package discovery

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	pollEvery = 30 * time.Second
	retryPush = 20 // polls after which the registry is asked again whether it has a stream by now

	// missingFor is how long an instance must be missing from full lists before it is taken out. A Eureka server that
	// was restarted knows nobody until everybody has renewed.
	missingFor = 35 * time.Second
)

// poller follows a Eureka server that has no stream.
type poller struct {
	c       *Client
	b       base
	missing map[name]time.Time // known to us, and since when not to the server
}

// poll follows b as Eureka's own clients do, until it stops answering. heard says whether it answered at all.
func (c *Client) poll(ctx context.Context, b base) (heard bool, err error) {
	p := poller{c: c, b: b, missing: make(map[name]time.Time)}
	full := true
	for range retryPush {
		if full {
			err = p.full(ctx)
			full = err != nil
		} else {
			full, err = p.delta(ctx)
			if err == nil && full {
				err = p.full(ctx)
				full = false
			}
		}
		if err != nil {
			return heard, err
		}
		if !heard {
			heard = true
			c.log.Info("following the registry by polling, for it has no stream", "url", b.shown, "every", pollEvery)
			c.reregister()
		}
		t := time.NewTimer(pollEvery - pollEvery/20 + rand.N(pollEvery/10))
		select {
		case <-ctx.Done():
			t.Stop()
			return heard, ctx.Err()
		case <-t.C:
		}
	}
	return heard, nil
}

// full takes over a whole list. What is missing in it is taken out only when it stays missing.
func (p *poller) full(ctx context.Context) error {
	doc, status, err := p.fetch(ctx, "/apps/")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("fetch %s/apps/: the registry answered %d", p.b.shown, status)
	}
	now := time.Now()
	list := doc.instances(p.c.cfg.Location.Region)
	p.c.mu.Lock()
	changed := p.c.known.merge(list)
	gone := p.c.known.missing(list)
	was := p.missing
	p.missing = make(map[name]time.Time, len(gone))
	for _, k := range gone {
		since, ok := was[k]
		if !ok {
			since = now
		}
		if now.Sub(since) < missingFor || len(list) == 0 { // an empty registry is one that lost its memory
			p.missing[k] = since
			continue
		}
		changed = p.c.known.remove(k.app, k.id) || changed
	}
	p.c.mu.Unlock()
	if changed {
		p.c.changed()
	}
	return nil
}

// delta applies the latest changes. It asks for a full list if there is no delta or it does not add up.
func (p *poller) delta(ctx context.Context) (full bool, err error) {
	doc, status, err := p.fetch(ctx, "/apps/delta")
	if err != nil {
		return false, err
	}
	switch {
	case status == http.StatusForbidden || status == http.StatusNotFound:
		return true, nil
	case status != http.StatusOK:
		return false, fmt.Errorf("fetch %s/apps/delta: the registry answered %d", p.b.shown, status)
	}
	p.c.mu.Lock()
	changed := false
	for _, a := range doc.Applications.Application {
		for _, w := range a.Instance {
			i := w.instance(p.c.cfg.Location.Region)
			if w.ActionType == "DELETED" {
				changed = p.c.known.remove(i.App, i.ID) || changed
			} else {
				changed = p.c.known.put(i) || changed
			}
		}
	}
	full = p.c.known.hash() != doc.Applications.Hash
	p.c.mu.Unlock()
	if changed {
		p.c.changed()
	}
	return full, nil
}

func (p *poller) fetch(ctx context.Context, path string) (doc applications, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	h := http.Header{"Accept": {"application/json"}}
	if p.c.cfg.Compact {
		h.Set("X-Eureka-Accept", "compact")
	}
	resp, err := p.c.send(ctx, p.b, http.MethodGet, path, nil, h)
	if err != nil {
		return doc, 0, fmt.Errorf("fetch %s%s: %w", p.b.shown, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) //nolint:errcheck // only to keep the connection
		return doc, resp.StatusCode, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, eventLimit)).Decode(&doc); err != nil {
		return doc, 0, fmt.Errorf("fetch %s%s: %w", p.b.shown, path, err)
	}
	return doc, http.StatusOK, nil
}
