package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

const (
	askEvery      = time.Second            // how often a watched room is asked, and an overview shown
	patience      = 300 * time.Millisecond // how long an overview waits for slow rooms before it shows the others
	answerWithin  = 3 * time.Second        // a room that takes longer does not answer
	answerLimit   = 16 << 20               // bytes
	shownChanges  = 50                     // newest first
	shownRollouts = 30                     // newest first, of those that are over
	shownRows     = 1000                   // of a list of instances
)

// Overview is what a viewer sees, once a second: the answers of the rooms as they gave them. A part is absent when
// its room has never answered. Parts whose room does not answer now are named in Unreachable, and are as old as that
// says. Of parts that are too long only the first rows are here; Truncated says how many more there are.
type Overview struct {
	Time        time.Time       `json:"time"`
	Platform    json.RawMessage `json:"platform,omitempty"`  // GET /api/v1/health
	Traffic     json.RawMessage `json:"traffic,omitempty"`   // GET /api/v1/traffic
	Members     json.RawMessage `json:"members,omitempty"`   // its metadata.members: what members experience
	Services    json.RawMessage `json:"services,omitempty"`  // GET /api/v1/services
	Registry    json.RawMessage `json:"registry,omitempty"`  // GET /api/v1/registry/instances
	Instances   json.RawMessage `json:"instances,omitempty"` // GET /api/v1/instances: the fleet's
	Clusters    json.RawMessage `json:"clusters,omitempty"`  // GET /api/v1/clusters
	Changes     json.RawMessage `json:"changes,omitempty"`   // GET /api/v1/changes: the last 50, newest first, as a list
	Faults      json.RawMessage `json:"faults,omitempty"`    // GET /api/v1/faults
	Node        json.RawMessage `json:"node,omitempty"`      // GET /api/v1/registry/status: the registry itself
	Rollouts    json.RawMessage `json:"rollouts,omitempty"`  // GET /config/v1/rollouts: those under way, and the newest 30 that are over
	Unreachable []Unreachable   `json:"unreachable"`
	Truncated   map[string]int  `json:"truncated"` // rows left out, by part, e.g. "registry": 2000
}

func (o *Overview) parts() map[string]*json.RawMessage {
	return map[string]*json.RawMessage{
		"platform": &o.Platform, "traffic": &o.Traffic, "members": &o.Members, "services": &o.Services, "registry": &o.Registry,
		"instances": &o.Instances, "clusters": &o.Clusters, "changes": &o.Changes, "faults": &o.Faults, "node": &o.Node,
		"rollouts": &o.Rollouts,
	}
}

// since returns o without the parts that are as they were in before. A part that has gone is null.
func (o Overview) since(before Overview) Overview {
	old := before.parts()
	for name, part := range o.parts() {
		was := *old[name]
		switch {
		case bytes.Equal(*part, was):
			*part = nil
		case len(*part) == 0:
			*part = json.RawMessage("null")
		}
	}
	return o
}

// Unreachable is a part of the overview that could not be read just now.
type Unreachable struct {
	Room  string    `json:"room"`           // who did not answer, e.g. "fleet"
	Part  string    `json:"part"`           // what of the overview is concerned, e.g. "clusters"
	Error string    `json:"error"`          // why
	Since time.Time `json:"since,omitzero"` // when the part shown was read; absent when it never was
}

// room is one question and its newest answer.
type room struct {
	name, part, path string
	rows             int // how many of its answer's rows are shown at most; 0 = all, for it is no long list

	asking bool
	data   json.RawMessage // the last good answer, or its first rows
	left   int             // rows left out of it
	at     time.Time       // when it came
	err    error           // why the last question went unanswered
}

func newRooms() []*room {
	return []*room{
		{name: "platform", part: "platform", path: "/api/v1/health"},
		{name: "telemetry", part: "traffic", path: "/api/v1/traffic"},
		{name: "registry", part: "services", path: "/api/v1/services"},
		{name: "registry", part: "registry", path: "/api/v1/registry/instances", rows: shownRows},
		{name: "registry", part: "node", path: "/api/v1/registry/status"},
		{name: "fleet", part: "instances", path: "/api/v1/instances", rows: shownRows},
		{name: "fleet", part: "clusters", path: "/api/v1/clusters"},
		{name: "ledger", part: "changes", path: fmt.Sprintf("/api/v1/changes?limit=%d", shownChanges)},
		{name: "chaos", part: "faults", path: "/api/v1/faults"},
		{name: "properties", part: "rollouts", path: fmt.Sprintf("/config/v1/rollouts?limit=%d", shownRollouts)},
	}
}

type answer struct {
	room  *room
	round int // in which second it was asked for
	data  json.RawMessage
	err   error
}

// poll asks every room each second and shows the answers, until nobody watches or ctx ends.
func (c *Console) poll(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan answer, len(c.rooms)) // each room has at most one question open
	var asking sync.WaitGroup
	defer func() {
		cancel()
		asking.Wait()
		for _, r := range c.rooms {
			r.asking = false
		}
	}()
	defer c.forget()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for round := 0; c.watched(); round++ {
		open := 0 // questions of this round that an overview waits for
		for _, r := range c.rooms {
			if r.asking {
				continue // it still has an older question, for which nothing waits
			}
			r.asking = true
			open++
			asking.Go(func() {
				data, err := c.ask(ctx, r.path)
				answers <- answer{r, round, data, err}
			})
		}
		enough := time.After(patience)
		for shown, next := false, false; !next; {
			if open == 0 && !shown {
				c.show(c.overview())
				shown = true
			}
			select {
			case a := <-answers:
				c.take(a)
				if a.round == round && open > 0 {
					open--
				}
			case <-enough:
				open = 0
			case <-tick.C:
				next = true
			case <-ctx.Done():
				return
			}
		}
	}
}

// take keeps an answer. It logs only when a room begins or ceases to answer.
func (c *Console) take(a answer) {
	r := a.room
	r.asking = false
	if errors.Is(a.err, context.Canceled) {
		return // we stopped asking
	}
	switch {
	case a.err != nil && r.err == nil:
		c.log.Warn("console: a room does not answer; its last data is shown", "room", r.name, "part", r.part, "error", a.err)
	case a.err == nil && r.err != nil:
		c.log.Info("console: a room answers again", "room", r.name, "part", r.part)
	}
	r.err = a.err
	if a.err == nil {
		r.data, r.left = firstRows(a.data, r.rows)
		r.at = time.Now()
	}
}

func (c *Console) overview() Overview {
	o := Overview{Time: time.Now(), Unreachable: []Unreachable{}, Truncated: map[string]int{}}
	parts := o.parts()
	for _, r := range c.rooms {
		*parts[r.part] = r.data
		if r.left > 0 {
			o.Truncated[r.part] = r.left
		}
		err := r.err
		if err == nil && r.asking && o.Time.Sub(r.at) > 2*askEvery {
			err = errors.New("it has not answered yet")
		}
		if err != nil {
			o.Unreachable = append(o.Unreachable, Unreachable{Room: r.name, Part: r.part, Error: err.Error(), Since: r.at})
		}
	}
	o.Members = membersOf(o.Traffic)
	o.Changes = listOf(o.Changes)
	return o
}

// ask reads one JSON document from the API. The error is a clause for a person, without our address in it.
func (c *Console) ask(ctx context.Context, path string) (json.RawMessage, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.api+path, nil)
	if err != nil {
		return nil, fmt.Errorf("the API's address %q is no URL: %w", c.api, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, plainly(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	switch {
	case err != nil:
		return nil, plainly(ctx, err)
	case resp.StatusCode == http.StatusNotFound:
		return nil, errors.New("this platform does not run it")
	case resp.StatusCode == http.StatusServiceUnavailable && path == "/api/v1/health" && json.Valid(body):
		return body, nil // the platform says that it is unwell: an answer
	case resp.StatusCode != http.StatusOK:
		var problem struct{ Detail, Title string }
		if json.Unmarshal(body, &problem) == nil && problem.Detail != "" {
			return nil, fmt.Errorf("it answers %d: %s", resp.StatusCode, problem.Detail)
		}
		return nil, fmt.Errorf("it answers %s", resp.Status)
	case len(body) > answerLimit:
		return nil, fmt.Errorf("its answer is longer than %d MB", answerLimit>>20)
	case !json.Valid(body):
		return nil, errors.New("its answer is not JSON")
	}
	return body, nil
}

func plainly(ctx context.Context, err error) error {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return context.Canceled
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("nothing listens where it should")
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("it did not answer within %v", answerWithin)
	}
	return err
}

// firstRows returns the list raw without what is beyond its first most rows, and how many rows that is. What is no
// list, and any list when most is 0, is returned whole.
func firstRows(raw json.RawMessage, most int) (json.RawMessage, int) {
	var rows []json.RawMessage
	if most == 0 || json.Unmarshal(raw, &rows) != nil || len(rows) <= most {
		return raw, 0
	}
	left := len(rows) - most
	short, err := json.Marshal(rows[:most])
	if err != nil {
		return raw, 0 // cannot be: each row was read as JSON
	}
	return short, left
}

// membersOf takes what members experience out of the traffic picture. It is null when the picture does not say.
func membersOf(traffic json.RawMessage) json.RawMessage {
	var t struct {
		Metadata struct {
			Members json.RawMessage `json:"members"`
		} `json:"metadata"`
	}
	if len(traffic) == 0 || json.Unmarshal(traffic, &t) != nil {
		return nil
	}
	return t.Metadata.Members
}

// listOf returns the changes of a page {"changes": [...], "next": cursor}, or raw when it is a list already.
func listOf(raw json.RawMessage) json.RawMessage {
	var page struct {
		Changes json.RawMessage `json:"changes"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &page) != nil || page.Changes == nil {
		return raw
	}
	return page.Changes
}
