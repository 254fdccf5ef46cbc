package config

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// ackSpread is within what time a reader says that it took a revision, so that thousands do not say so at once.
	// What it could not use it says immediately.
	ackSpread = time.Second

	ackWithin = 10 * time.Second // for the server to answer
	maxFlaws  = 100              // told at once
)

// tell tells the server what was taken, until ctx ends. A server that does not listen is told again, ever less often.
func (p *Properties) tell(ctx context.Context) {
	if p.opts.Scope.Instance == "" {
		return // nobody would know who speaks
	}
	var told Ack
	wait := firstWait
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.news:
		}
		now, ok := p.ack()
		if !ok || now.Rev == told.Rev && slices.Equal(now.Errors, told.Errors) {
			continue
		}
		if slices.Equal(now.Errors, told.Errors) {
			p.linger(ctx, told.Errors)
			now, _ = p.ack()
		}
		err := p.post(ctx, now)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			told, wait = now, firstWait
		default:
			p.log.Debug("the config server did not hear what was taken", "url", p.shown, "err", err)
			pause := time.NewTimer(wait/2 + rand.N(wait))
			select {
			case <-ctx.Done():
				pause.Stop()
				return
			case <-pause.C:
			}
			wait = min(2*wait, lastWait)
			signal(p.news)
		}
	}
}

// linger waits a moment, or until there is an error that was not told.
func (p *Properties) linger(ctx context.Context, told []Flaw) {
	moment := time.NewTimer(rand.N(ackSpread))
	defer moment.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-moment.C:
			return
		case <-p.news:
			if now, _ := p.ack(); !slices.Equal(now.Errors, told) {
				return
			}
		}
	}
}

// ack returns what was taken, or false if the server has told nothing yet.
func (p *Properties) ack() (Ack, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := Ack{Instance: p.opts.Scope.Instance, Rev: p.rev}
	add := func(f flaw) {
		if f.text != "" { // it may be a secret, and the server knows it
			f.why = strings.ReplaceAll(f.why, strconv.Quote(f.text), "its value")
		}
		a.Errors = append(a.Errors, Flaw{f.key, f.why})
	}
	for _, h := range p.handles {
		for _, f := range h.bad() {
			add(f)
		}
	}
	for key, f := range p.refused {
		if text, ok := lookup(p.seen, key); ok && (text == f.text || p.seen[key] == f.text) {
			add(f)
		} else {
			delete(p.refused, key)
		}
	}
	slices.SortFunc(a.Errors, func(x, y Flaw) int { return cmp.Or(strings.Compare(x.Key, y.Key), strings.Compare(x.Error, y.Error)) })
	a.Errors = slices.Compact(a.Errors)
	a.Errors = a.Errors[:min(len(a.Errors), maxFlaws)]
	return a, p.heard && p.rev != 0
}

func (p *Properties) post(ctx context.Context, a Ack) error {
	ctx, cancel := context.WithTimeout(ctx, ackWithin)
	defer cancel()
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(p.opts.URL, "/")+"/config/v1/ack", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.opts.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 300)) // to the end, so that the connection may be used again
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("it answered %s: %s", resp.Status, bytes.TrimSpace(text))
	}
	return nil
}
