package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Before a registry believes that many instances died at once it asks its peers how long ago they heard of them.

// heardLimit is how many instances a peer may be asked about in one request.
const heardLimit = 10_000

// named is an instance as registries write it to each other.
type named struct {
	App string `json:"app"`
	ID  string `json:"id"`
}

// heard answers POST native/heard, a list of instances, with one number for each: how many milliseconds ago it renewed
// here by itself, or -1 if it never did.
func (h *eureka) heard(w http.ResponseWriter, r *http.Request) {
	body, status, err := readBody(w, r, bodyLimit)
	if err != nil {
		w.WriteHeader(status)
		return
	}
	var list []named
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) > heardLimit {
		answerText(w, r, fmt.Sprintf(`send a list of at most %d instances, as in [{"app":"WEB","id":"h:web:80"}]`, heardLimit))
		return
	}
	ages := make([]int64, len(list))
	now := h.s.now()
	h.s.mu.RLock()
	for i, n := range list {
		ages[i] = -1
		if e := h.s.find(key{upper(n.App), n.ID}); e != nil {
			if age, ok := e.lease.directAge(now); ok {
				ages[i] = age.Milliseconds()
			}
		}
	}
	h.s.mu.RUnlock()
	out, err := json.Marshal(ages)
	if err != nil {
		panic("registry: numbers cannot be written as JSON: " + err.Error())
	}
	answer(w, r, http.StatusOK, "application/json", out)
}

// testimonies asks all peers about instances, at the same time.
func (ps *peers) testimonies(ctx context.Context, silent []key) []testimony {
	list := ps.others()
	said := make([]testimony, len(list))
	var wg sync.WaitGroup
	for i, p := range list {
		wg.Go(func() {
			t := testimony{peer: p.name(), ages: make(map[key]time.Duration)}
			ask := p.heardInEurekasWay
			if p.node.Load() != nil {
				ask = p.heard
			}
			t.reachable = ask(ctx, silent, t.ages) == nil
			said[i] = t
		})
	}
	wg.Wait()
	return said
}

// heard asks a registry of our kind when it heard from instances, and enters what it says in ages.
func (p *peer) heard(ctx context.Context, ks []key, ages map[key]time.Duration) error {
	list := make([]named, len(ks))
	for i, k := range ks {
		list[i] = named{k.app, k.id}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	req, err := p.request(ctx, http.MethodPost, "native/heard", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var said []int64
	switch {
	case resp.StatusCode != http.StatusOK:
		return refusal{resp.StatusCode}
	case json.NewDecoder(resp.Body).Decode(&said) != nil || len(said) != len(ks):
		return fmt.Errorf("%w: it was asked about %d instances and told of %d", errFrame, len(ks), len(said))
	}
	for i, ms := range said {
		if ms >= 0 {
			ages[ks[i]] = time.Duration(ms) * time.Millisecond
		}
	}
	return nil
}

// askAtOnce is how many requests a server of Eureka's gets at a time when it is asked about instances one by one.
const askAtOnce = 8

// heardInEurekasWay asks a server of Eureka's about each instance by itself.
func (p *peer) heardInEurekasWay(ctx context.Context, ks []key, ages map[key]time.Duration) error {
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	next := make(chan key)
	for range min(askAtOnce, len(ks)) {
		wg.Go(func() {
			for k := range next {
				age, known, err := p.lastRenewal(ctx, k)
				mu.Lock()
				if err != nil {
					failed = err
				} else if known {
					ages[k] = age
				}
				mu.Unlock()
			}
		})
	}
	for _, k := range ks {
		mu.Lock()
		stop := failed != nil
		mu.Unlock()
		if stop {
			break
		}
		next <- k
	}
	close(next)
	wg.Wait()
	return failed
}

// lastRenewal asks a server of Eureka's how long ago an instance renewed, by the server's own clock.
func (p *peer) lastRenewal(ctx context.Context, k key) (age time.Duration, known bool, err error) {
	req, err := p.request(ctx, http.MethodGet, "apps/"+url.PathEscape(k.app)+"/"+url.PathEscape(k.id), nil)
	if err != nil {
		return 0, false, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return 0, false, nil
	case resp.StatusCode != http.StatusOK:
		return 0, false, refusal{resp.StatusCode}
	}
	var doc struct {
		Instance struct {
			LeaseInfo struct {
				LastRenewalTimestamp, DurationInSecs int64
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		return 0, false, nil //nolint:nilerr // it knows the instance in a way that we do not understand
	}
	wall := time.Now()
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		wall = date
	}
	l := doc.Instance.LeaseInfo
	age = wall.Sub(time.UnixMilli(l.LastRenewalTimestamp))
	if age < -time.Second {
		// Eureka's servers add the lease's duration when it is renewed.
		age += time.Duration(l.DurationInSecs) * time.Second
	}
	return max(age, 0), true, nil
}
