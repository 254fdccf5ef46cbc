package region

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Headers of what is told.
const (
	TimestampHeader = "X-Roadbed-Timestamp" // seconds since 1970
	SignatureHeader = "X-Roadbed-Signature" // sha256=, and the HMAC-SHA256 of the timestamp, a dot and the body, in hexadecimal digits
)

// Weights are what whoever leads clients to regions is told, by PUT.
type Weights struct {
	At      time.Time                 `json:"at"`
	Weights map[string]map[string]int `json:"weights" doc:"for the clients of each region, where to send them, in percents that add up to 100"`
}

// WeightsState is how the telling goes.
type WeightsState struct {
	URL      string     `json:"url" doc:"without password and query"`
	Accepted *time.Time `json:"accepted,omitempty" doc:"when what is current was accepted"`
	Failing  string     `json:"failing,omitempty" doc:"why it was not"`
	Attempts int        `json:"attempts,omitempty" doc:"that failed in a row"`
	Again    *time.Time `json:"again,omitempty" doc:"when it is tried next"`
	Weights  any        `json:"weights,omitempty" doc:"that are current"`
}

const (
	putWithin  = 10 * time.Second
	againFirst = 2 * time.Second
	againMost  = time.Minute
	tellAnyway = 10 * time.Minute // what was accepted is told again, for it may have been forgotten
)

// teller tells weights to a URL while [teller.run] runs, so that who has something to tell never waits. Its methods may be used from
// many goroutines.
type teller struct {
	client *http.Client
	woken  chan struct{} // there may be something to do

	mu       sync.Mutex // guards what follows
	want     wish
	accepted time.Time // zero: what is wanted is not
	why      string
	failed   int
	last     time.Time // when it was put last
	again    time.Time // not before
	cut      context.CancelFunc
}

// wish is what is to be told, and to whom.
type wish struct {
	at, secret string // URL; empty: nobody is told
	text       string // JSON of the weights
	weights    map[string]map[string]int
}

func newTeller() *teller {
	return &teller{woken: make(chan struct{}, 1),
		client: &http.Client{Timeout: putWithin, Transport: &http.Transport{IdleConnTimeout: 30 * time.Second, Proxy: http.ProxyFromEnvironment},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// tell has weights put to at, in place of those before, unless they were accepted there. With another URL or key nothing that has failed
// counts any more, and what is under way is given up.
func (t *teller) tell(at, secret string, weights map[string]map[string]int) {
	text, err := json.Marshal(weights)
	if err != nil {
		panic(err) // names and numbers
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.want
	t.want = wish{at, secret, string(text), weights}
	switch {
	case at != was.at || secret != was.secret:
		t.forget()
	case t.want.text != was.text:
		t.accepted = time.Time{}
	default:
		return
	}
	select {
	case t.woken <- struct{}{}:
	default:
	}
}

// forget has it begin anew with what is wanted. The caller holds mu.
func (t *teller) forget() {
	t.accepted, t.why, t.failed, t.last, t.again = time.Time{}, "", 0, time.Time{}, time.Time{}
	if t.cut != nil {
		t.cut()
	}
}

// run puts what is wanted, the newest of it, until it is accepted, and until ctx ends.
func (t *teller) run(ctx context.Context) {
	defer t.client.CloseIdleConnections()
	for ctx.Err() == nil {
		t.mu.Lock()
		w, due := t.want, t.due()
		if wait := time.Until(due); w.at == "" || wait > 0 {
			t.mu.Unlock()
			var later <-chan time.Time // never, while nobody is to be told
			if w.at != "" {
				later = time.After(wait)
			}
			select {
			case <-ctx.Done():
			case <-t.woken:
			case <-later:
			}
			continue
		}
		putting, cut := context.WithCancel(ctx)
		began := time.Now()
		t.cut, t.last = cut, began
		t.mu.Unlock()
		err := t.put(putting, w.at, w.secret, Weights{began.UTC(), w.weights})
		t.mu.Lock()
		t.cut = nil
		if putting.Err() == nil { // else it was given up
			t.heard(w, err)
		}
		t.mu.Unlock()
		cut()
	}
}

// due is when what is wanted is to be put. The caller holds mu.
func (t *teller) due() time.Time {
	next := t.last.Add(tellEvery)
	if !t.accepted.IsZero() {
		next = t.accepted.Add(tellAnyway)
	}
	if t.failed > 0 {
		next = t.again
	}
	return next
}

// heard takes note of what became of w. The caller holds mu.
func (t *teller) heard(w wish, err error) {
	now := time.Now()
	if err != nil {
		t.why, t.again = err.Error(), now.Add(min(againMost, againFirst<<min(t.failed, 10)))
		t.failed++
		return
	}
	if t.why, t.failed = "", 0; t.want.text == w.text {
		t.accepted = now
	}
}

func (t *teller) put(ctx context.Context, at, secret string, w Weights) error {
	body, err := json.Marshal(w)
	if err != nil {
		panic(err) // as above
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, at, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("edge.regions.weights.url is no URL: use one such as https://dns.example.com/weights")
	}
	req.Header.Set("Content-Type", "application/json")
	if secret != "" {
		stamp := strconv.FormatInt(w.At.Unix(), 10)
		req.Header.Set(TimestampHeader, stamp)
		req.Header.Set(SignatureHeader, "sha256="+sign(secret, stamp, body))
	}
	resp, err := t.client.Do(req)
	if err != nil {
		if e, ok := err.(*url.Error); ok { //nolint:errorlint // it is what Do returns; its text has the URL, which may have a password
			err = e.Err
		}
		return fmt.Errorf("it cannot be asked: %w", err)
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("it answers %s: %s", resp.Status, strings.TrimSpace(strings.ToValidUTF8(string(said), "")))
	}
	return nil
}

// sign returns the signature of a body.
func sign(secret, stamp string, body []byte) string {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(stamp + "."))
	m.Write(body)
	return hex.EncodeToString(m.Sum(nil))
}

// state tells how it goes; nil if nobody is to be told.
func (t *teller) state() *WeightsState {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.want.at == "" {
		return nil
	}
	s := &WeightsState{URL: bare(t.want.at), Failing: t.why, Attempts: t.failed, Weights: t.want.weights}
	if !t.accepted.IsZero() {
		at := t.accepted
		s.Accepted = &at
	}
	if t.failed > 0 {
		again := t.again
		s.Again = &again
	}
	return s
}

// bare returns a URL without what may be secret.
func bare(at string) string {
	u, err := url.Parse(at)
	if err != nil {
		return "(no URL)"
	}
	u.User, u.RawQuery = nil, ""
	return u.String()
}
