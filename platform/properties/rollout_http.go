package properties

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
)

// Proposal is the body of POST /config/v1/rollouts. Changes are enough: the default steps go from one instance over 5 %
// of its zone, that zone and that region to all.
type Proposal struct {
	Title   string `json:"title,omitempty"`
	Changes []Edit `json:"changes"`
	Steps   []Step `json:"steps,omitempty"`
	Guards  Guards `json:"guards,omitzero"`
	Start   bool   `json:"start,omitempty"` // at once
}

// RolloutList is the answer to GET /config/v1/rollouts, newest first. More is how many it leaves out that are over,
// because a limit was given.
type RolloutList struct {
	Rollouts []Rollout `json:"rollouts"`
	More     int       `json:"more,omitempty"`
}

// Rollout returns one roll-out as it is now, with its Status while it is active; sensitive values are masked. It fails
// with [ErrNoRollout].
func (s *Store) Rollout(id string) (Rollout, error) {
	r, err := s.document(id)
	if err != nil {
		return r, err
	}
	return s.shown(&r), nil
}

// Rollouts returns the roll-outs, newest first, as Rollout does.
func (s *Store) Rollouts() []Rollout {
	out := []Rollout{}
	for _, r := range s.documents() {
		out = append(out, s.shown(r))
	}
	return out
}

func (s *Store) shown(r *Rollout) Rollout {
	out := r.mask()
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	if o := s.observers[r.ID]; o != nil && r.State.active() && o.step == r.Step {
		status := o.status
		status.Flaws = slices.Clone(status.Flaws)
		out.Status = &status
	}
	return out
}

// body decodes a JSON body into v. A member it does not know is an error. An empty body is one only if needed.
func body(w http.ResponseWriter, r *http.Request, most int64, needed bool, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return api.Problem(http.StatusRequestEntityTooLarge, "read the body: %v", err)
	}
	if len(bytes.TrimSpace(b)) == 0 && !needed {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	err = d.Decode(v)
	if err == nil && d.More() {
		err = errors.New("something follows it")
	}
	if err != nil {
		return api.Problem(http.StatusBadRequest, "the body is not what this takes: %v", err)
	}
	return nil
}

// allowed returns the request's context with what its parameters allow.
func allowed(r *http.Request) context.Context {
	ctx := r.Context()
	if slices.Contains(r.URL.Query()["confirm"], "global") {
		ctx = AllowGlobal(ctx)
	}
	if flag(r, "breakGlass") {
		ctx = BreakGlass(ctx)
	}
	return ctx
}

func (s *Store) postRollout(w http.ResponseWriter, r *http.Request) error {
	var in Proposal
	if err := body(w, r, 4*maxDocument, true, &in); err != nil {
		return err
	}
	out, err := s.Propose(allowed(r), Rollout{Title: in.Title, Changes: in.Changes, Steps: in.Steps, Guards: in.Guards}, r.URL.Query()["confirm"]...)
	if err == nil && in.Start {
		out, err = s.Command(allowed(r), out.ID, string(evStart))
	}
	if err != nil {
		return err
	}
	return s.created(w, out)
}

func (s *Store) created(w http.ResponseWriter, r Rollout) error {
	b, err := json.Marshal(s.shown(&r))
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/config/v1/rollouts/"+r.ID)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	w.Write(b) //nolint:errcheck // the client is gone if this fails
	return nil
}

func (s *Store) getRollouts(w http.ResponseWriter, r *http.Request) error {
	if !s.loaded.Load() {
		return ErrLoading
	}
	q := r.URL.Query()
	most := -1
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return api.Problem(http.StatusBadRequest, "limit is %q; want how many that are over at most, 1 or more", text)
		}
		most = n
	}
	out := RolloutList{Rollouts: []Rollout{}}
	for _, r := range s.documents() {
		switch {
		case !r.selected(q.Get("state"), q.Get("app"), q.Get("key")):
			continue
		case !r.State.Over():
		case most == 0:
			out.More++
			continue
		default:
			most--
		}
		out.Rollouts = append(out.Rollouts, s.shown(r))
	}
	api.WriteJSON(w, out)
	return nil
}

// selected reports whether r is in a state ("active" is any that has not ended), and changes something of an app and of
// a key; what is empty is not asked for.
func (r *Rollout) selected(state, app, key string) bool {
	if state != "" && !strings.EqualFold(state, string(r.State)) && !(strings.EqualFold(state, "active") && !r.State.Over()) {
		return false
	}
	return slices.ContainsFunc(r.Changes, func(e Edit) bool {
		return (app == "" || slices.Contains(orAny(e.Record.App), strings.ToLower(app))) && (key == "" || e.Record.Key == key)
	})
}

func (s *Store) getRollout(w http.ResponseWriter, r *http.Request) error {
	out, err := s.Rollout(r.PathValue("id"))
	if err != nil {
		return err
	}
	w.Header().Set("ETag", tagOf(out.Rev))
	api.WriteJSON(w, out)
	return nil
}

// reasoned is the body that a command may have.
type reasoned struct {
	Reason string `json:"reason"`
}

func (s *Store) commandRollout(w http.ResponseWriter, r *http.Request) error {
	var in reasoned
	if err := body(w, r, 16<<10, false, &in); err != nil {
		return err
	}
	ctx := allowed(r)
	if in.Reason != "" {
		if len(in.Reason) > 2048 {
			return invalid("the reason has %d bytes; 2048 are allowed", len(in.Reason))
		}
		ctx = api.As(ctx, api.Change(ctx, "", "").Actor, in.Reason)
	}
	command := r.PathValue("command")
	if !slices.Contains(Commands(), command) {
		return api.Problem(http.StatusNotFound, "there is no command %q; there are %s", command, strings.Join(Commands(), ", "))
	}
	out, err := s.Command(ctx, r.PathValue("id"), command)
	if err != nil {
		return err
	}
	api.WriteJSON(w, s.shown(&out))
	return nil
}

// watchRollouts sends the roll-outs, or one of them, and then each one again that changes, once a second at most.
func (s *Store) watchRollouts(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	if id != "" {
		if _, err := s.document(id); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(r.Context())
	events, done := make(chan api.Event), make(chan struct{})
	go func() {
		defer close(done)
		s.tellRollouts(ctx, id, events)
	}()
	err := api.Stream(ctx, w, events)
	cancel()
	<-done
	if err != nil {
		s.log.Debug("a watch of roll-outs broke", "err", err)
	}
	return nil // the answer has begun
}

func (s *Store) tellRollouts(ctx context.Context, id string, events chan<- api.Event) {
	told := map[string][]byte{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		s.mu.Lock()
		news := s.rolloutNews
		s.mu.Unlock()
		all := s.Rollouts()
		for _, r := range slices.Backward(all) {
			if id != "" && r.ID != id {
				continue
			}
			b, err := json.Marshal(r)
			if err != nil || bytes.Equal(b, told[r.ID]) {
				continue
			}
			told[r.ID] = b
			select {
			case events <- api.Event{ID: strconv.FormatUint(r.Rev, 10), Name: "rollout", Data: json.RawMessage(b)}:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-tick.C:
		}
	}
}

func (s *Store) postAck(w http.ResponseWriter, r *http.Request) error {
	var a config.Ack
	if err := body(w, r, 256<<10, true, &a); err != nil {
		return err
	}
	if err := s.Ack(a); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
