package sidecar

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/roadbed/roadbed/ipc/limit"
)

const (
	maxLimits = 64          // limiters that the neighbour names
	maxTokens = 100_000     // held at once
	tokenFor  = time.Minute // after which a token that was not released counts as ignored
)

// limits are adaptive concurrency limits for the neighbour's own work. The zero value has none yet.
type limits struct {
	mu     sync.Mutex
	began  time.Time
	byName map[string]*limit.Limiter
	tokens map[string]*token
	oldest *token // in the order in which they run out
	newest *token
}

// token is a permit that the neighbour holds.
type token struct {
	id     string
	of     *limit.Limiter
	permit limit.Permit
	until  time.Time

	before, after *token
}

// grant is the answer to an acquire.
type grant struct {
	Token    string `json:"token,omitempty"`
	Limit    int    `json:"limit"`
	InFlight int    `json:"inFlight"`
}

// acquire lets a piece of work in, or not. It fails if there are too many limiters.
func (l *limits) acquire(name string, now time.Time) (g grant, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byName == nil {
		l.began, l.byName, l.tokens = now, map[string]*limit.Limiter{}, map[string]*token{}
	}
	l.expire(now)
	of := l.byName[name]
	if of == nil {
		if len(l.byName) >= maxLimits {
			return g, false, fmt.Errorf("there are %d limiters already; release and acquire under one of their names", maxLimits)
		}
		if of, err = limit.New(limit.Config{}); err != nil {
			return g, false, err
		}
		l.byName[name] = of
	}
	permit, ok := of.Acquire(int64(now.Sub(l.began)))
	g.Limit, g.InFlight = of.Limit(), of.InFlight()
	if !ok {
		return g, false, nil
	}
	if len(l.tokens) >= maxTokens {
		of.Ignore(permit)
		return g, false, nil
	}
	t := &token{id: rand.Text(), of: of, permit: permit, until: now.Add(tokenFor), before: l.newest}
	if l.newest == nil {
		l.oldest = t
	} else {
		l.newest.after = t
	}
	l.newest, l.tokens[t.id] = t, t
	g.Token = t.id
	return g, true, nil
}

// release ends a piece of work. It reports whether there was one of that id.
func (l *limits) release(id, result string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(now)
	t := l.tokens[id]
	if t == nil {
		return false
	}
	l.forget(t)
	switch at := int64(now.Sub(l.began)); result {
	case "ignore":
		t.of.Ignore(t.permit)
	case "drop":
		t.of.Drop(t.permit, at)
	default:
		t.of.Success(t.permit, at)
	}
	return true
}

// expire takes back what nobody released: its holder has died, or forgot. The caller holds mu.
func (l *limits) expire(now time.Time) {
	for t := l.oldest; t != nil && !t.until.After(now); t = l.oldest {
		l.forget(t)
		t.of.Ignore(t.permit)
	}
}

// forget takes a token out. The caller holds mu.
func (l *limits) forget(t *token) {
	delete(l.tokens, t.id)
	if t.before == nil {
		l.oldest = t.after
	} else {
		t.before.after = t.after
	}
	if t.after == nil {
		l.newest = t.before
	} else {
		t.after.before = t.before
	}
}

func (s *Sidecar) serveAcquire(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if name == "" {
		name = "inbound"
	}
	if len(name) > maxCommand {
		refuse(w, http.StatusBadRequest, "badrequest", fmt.Sprintf("a limiter's name has up to %d characters", maxCommand))
		return
	}
	g, ok, err := s.limits.acquire(name, time.Now())
	switch {
	case err != nil:
		refuse(w, http.StatusBadRequest, "badrequest", err.Error())
	case !ok:
		w.Header().Set(headerError, "limited")
		w.Header().Set("Retry-After", "1")
		answer(w, http.StatusTooManyRequests, g)
	default:
		answer(w, http.StatusOK, g)
	}
}

func (s *Sidecar) serveRelease(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	result := q.Get("result")
	switch result {
	case "", "success", "ignore", "drop":
	default:
		refuse(w, http.StatusBadRequest, "badrequest", fmt.Sprintf("result is success, ignore or drop, not %q", result))
		return
	}
	if !s.limits.release(q.Get("token"), result, time.Now()) {
		refuse(w, http.StatusNotFound, "notoken", "no such token is held; one ends when it is released, or a minute after it was acquired")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
