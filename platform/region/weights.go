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

// teller tells weights to a URL. Only one goroutine uses it, but for state.
type teller struct {
	client *http.Client

	mu       sync.Mutex // guards what follows
	at       string     // URL
	current  string     // JSON of the weights
	weights  map[string]map[string]int
	accepted time.Time // zero: what is current is not
	why      string
	failed   int
	again    time.Time
}

func newTeller() *teller {
	return &teller{client: &http.Client{Timeout: putWithin, Transport: &http.Transport{IdleConnTimeout: 30 * time.Second, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// tell puts weights to at, unless they were accepted there, or it is not time to try again.
func (t *teller) tell(ctx context.Context, at, secret string, weights map[string]map[string]int, now time.Time) {
	text, err := json.Marshal(weights)
	if err != nil {
		panic(err) // names and numbers
	}
	t.mu.Lock()
	if at != t.at || string(text) != t.current {
		if at != t.at {
			t.why, t.failed, t.again = "", 0, time.Time{}
		}
		t.at, t.current, t.weights, t.accepted = at, string(text), weights, time.Time{}
	}
	due := !now.Before(t.again) && (t.accepted.IsZero() || now.Sub(t.accepted) >= tellAnyway)
	t.mu.Unlock()
	if at == "" || !due {
		return
	}
	err = t.put(ctx, at, secret, Weights{now.UTC(), weights})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.accepted, t.why, t.failed, t.again = now, "", 0, time.Time{}
		return
	}
	t.why = err.Error()
	t.again = now.Add(min(againMost, againFirst<<min(t.failed, 10)))
	t.failed++
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
	if t.at == "" {
		return nil
	}
	s := &WeightsState{URL: bare(t.at), Failing: t.why, Attempts: t.failed, Weights: t.weights}
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
