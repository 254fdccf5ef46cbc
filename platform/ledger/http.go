package ledger

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
)

// Mount puts the ledger on the API: GET /api/v1/changes, newest first by pages, and GET /api/v1/changes/stream, the
// entries after an id and then each new one as the server-sent event "change" whose id is the entry's.
func (l *Ledger) Mount(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "list-changes",
		Method:      http.MethodGet,
		Path:        "/api/v1/changes",
		Summary:     "List changes",
		Description: "Who did what to which resource, when and why; newest first.",
		Tags:        []string{"ledger"},
	}, l.list)
	s.Mux.HandleFunc("GET /api/v1/changes/stream", l.stream)
}

type listInput struct {
	Limit    int       `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many."`
	Cursor   string    `query:"cursor" doc:"The cursor of the page before; absent for the newest."`
	Actor    string    `query:"actor" doc:"Only changes by this actor."`
	Action   string    `query:"action" doc:"Only this action; serverGroup.* for all that start so."`
	Resource string    `query:"resource" doc:"Only resources that start so, e.g. serverGroup:api-v003."`
	Since    time.Time `query:"since" doc:"Only changes of that time or later (RFC 3339)."`
}

type listOutput struct {
	Body Page
}

// Page is one page of changes.
type Page struct {
	Changes []roadbed.Change `json:"changes" nullable:"false"`
	Cursor  string           `json:"cursor,omitempty" doc:"Ask with it for the next page; absent on the last."`
}

func (l *Ledger) list(ctx context.Context, in *listInput) (*listOutput, error) {
	q := Query{Limit: in.Limit, Actor: in.Actor, Action: in.Action, Resource: in.Resource, Since: in.Since}
	if in.Cursor != "" {
		before, err := strconv.ParseUint(in.Cursor, 10, 64)
		if err != nil || before == 0 {
			return nil, api.Problem(http.StatusBadRequest, "cursor %q was not given by this API; leave it away for the first page", in.Cursor)
		}
		q.Before = before
	}
	changes, err := l.List(ctx, q)
	if err != nil {
		return nil, api.Problem(http.StatusServiceUnavailable, "%v", err)
	}
	out := &listOutput{Body: Page{Changes: changes}}
	if len(changes) == in.Limit && changes[len(changes)-1].ID > 1 {
		out.Body.Cursor = strconv.FormatUint(changes[len(changes)-1].ID, 10)
	}
	return out, nil
}

// stream starts after ?after=ID, or after the last event a browser that reconnects has seen, or now.
func (l *Ledger) stream(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	after := l.last
	l.mu.Unlock()
	given := r.Header.Get("Last-Event-ID")
	if given == "" {
		given = r.URL.Query().Get("after")
	}
	if given != "" {
		n, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			api.WriteProblem(w, r, api.Problem(http.StatusBadRequest, "after=%q is not the id of a change", given))
			return
		}
		after = n
	}
	ctx, cancel := context.WithCancel(r.Context())
	events := make(chan api.Event)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(events)
		l.Follow(ctx, after, func(c roadbed.Change) error { //nolint:errcheck // it ends with the request or the engine, and so does the stream
			select {
			case events <- api.Event{ID: strconv.FormatUint(c.ID, 10), Name: "change", Data: c}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	err := api.Stream(ctx, w, events)
	cancel()
	<-done
	if err != nil {
		l.e.Log().Debug("stream of changes ended", "err", err)
	}
}
