package route

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// WrittenDocument is the answer of GET /api/v1/edge/routes/document: a document as it is stored, in force or not.
type WrittenDocument struct {
	Document  string `json:"document" doc:"the property that holds it"`
	Text      string `json:"text" doc:"JSON or YAML, as it was written"`
	Rev       uint64 `json:"rev" doc:"of the property, for If-Match"`
	UpdatedBy string `json:"updatedBy,omitempty" doc:"who wrote it"`
	TS        int64  `json:"ts,omitempty" doc:"when, in Unix milliseconds"`
}

// stored is a property as its API tells it.
type stored struct {
	ID        string `json:"propertyId,omitempty"`
	Key       string `json:"key"`
	Value     string `json:"value"`
	Type      string `json:"type,omitempty"`
	Source    string `json:"sourceOfUpdate,omitempty"`
	Rev       uint64 `json:"rev,omitempty"`
	UpdatedBy string `json:"updatedBy,omitempty"`
	TS        int64  `json:"ts,omitempty"`
	Deleted   bool   `json:"deleted,omitempty"`
	config.Scope
}

// maxBody bounds a document in a request: JSON may write each of its bytes as six.
const maxBody = 2 * maxBytes

// patience is how long a change is waited for at this edge.
const patience = 5 * time.Second

// DocumentChange is what a request for a change of a document says beside the document.
type DocumentChange struct {
	Name  string `query:"name" doc:"of a document beside the first, such as shop"`
	Dry   bool   `query:"dryRun" doc:"only check it, and tell what would be different"`
	Glass bool   `query:"breakGlass" doc:"also while changes are frozen; needs a reason, and the change log says so"`
	Match string `header:"If-Match" doc:"the rev of the document that is to be replaced, in quotes; 409 if it is another by now"`
	None  string `header:"If-None-Match" doc:"*: only if there is none; else 409"`
}

type documentChanged struct {
	ETag string `header:"ETag" doc:"the document's rev"`
	Body RoutesChange
}

// mountDocuments puts on s what reads and changes documents of routes.
func (c *Control) mountDocuments(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "put-edge-routes", Method: http.MethodPut, Path: "/api/v1/edge/routes", MaxBodyBytes: maxBody,
		Summary: "Put a document of routes into force", Description: "The body is the document, JSON or YAML, or {\"text\": document}. It is checked with all others, and then becomes the property " + RoutesProperty + ", or " + RoutesProperty + ".NAME: in force as a whole, or 422 with line and reason, and nothing is changed.",
	}, func(ctx context.Context, in *struct {
		DocumentChange
		RawBody []byte
	}) (*documentChanged, error) {
		text := textOf(in.RawBody)
		return c.change(ctx, &in.DocumentChange, &text)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "delete-edge-routes", Method: http.MethodDelete, Path: "/api/v1/edge/routes",
		Summary: "Remove a document of routes", Description: "The others are checked without it. 404 if there is none of that name.",
	}, func(ctx context.Context, in *DocumentChange) (*documentChanged, error) {
		return c.change(ctx, in, nil)
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "get-edge-routes-document", Method: http.MethodGet, Path: "/api/v1/edge/routes/document",
		Summary: "A document of routes as it was written", Description: "In force or not. With rev as it was at that revision; 64 are kept.",
	}, func(ctx context.Context, in *struct {
		Name string `query:"name" doc:"of a document beside the first"`
		Rev  uint64 `query:"rev" doc:"an earlier revision; the present one if absent"`
	}) (*struct {
		ETag string `header:"ETag"`
		Body WrittenDocument
	}, error) {
		key, err := documentKey(in.Name)
		if err != nil {
			return nil, err
		}
		p, err := c.stored(ctx, key, in.Rev)
		if err != nil {
			return nil, err
		}
		out := &struct {
			ETag string `header:"ETag"`
			Body WrittenDocument
		}{tag(p.Rev), WrittenDocument{key, p.Value, p.Rev, p.UpdatedBy, p.TS}}
		if config.Packed(p.Value) {
			if text, err := config.Unpack(p.Value); err == nil {
				out.Body.Text = text
			}
		}
		return out, nil
	})
}

// documentKey returns the property that holds the document of a name.
func documentKey(name string) (string, error) {
	if name == "" {
		return RoutesProperty, nil
	}
	if !filter.Plain(name) {
		return "", api.Problem(http.StatusUnprocessableEntity, "a document's name has letters, digits and -._ alone; got %q", name)
	}
	return RoutesProperty + "." + name, nil
}

func tag(rev uint64) string { return strconv.Quote(strconv.FormatUint(rev, 10)) }

// change checks all documents with another text of one, or without it, and has that written.
func (c *Control) change(ctx context.Context, in *DocumentChange, text *string) (*documentChanged, error) {
	key, err := documentKey(in.Name)
	if err != nil {
		return nil, err
	}
	out := &documentChanged{}
	written, objects, _ := c.Written()
	now := maps.Clone(written)
	if now == nil {
		now = make(Settings)
	}
	var p stored
	if text != nil {
		p = stored{Key: key, Value: *text, Type: "string", Source: "edge"} // whatever type it had: YAML is not JSON
		if len(*text) > config.MaxValue {
			p.Value, p.Type = config.Pack(*text), "gzip"
		}
		if len(p.Value) > config.MaxPacked {
			return nil, api.Problem(http.StatusUnprocessableEntity, "the document has %d bytes, %d when it is packed; at most %d of these are allowed: make it several documents, with names", len(*text), len(p.Value), config.MaxPacked)
		}
		now[key] = p.Value
	} else {
		if p, err = c.stored(ctx, key, 0); err != nil {
			return nil, err
		}
		delete(now, key)
	}
	if out.Body, err = c.check(key, now, objects); err != nil || in.Dry {
		return out, err
	}
	store := c.store(ctx)
	store.Header = http.Header{}
	for name, value := range map[string]string{"If-Match": in.Match, "If-None-Match": in.None} {
		if value != "" {
			store.Header.Set(name, value)
		}
	}
	q := url.Values{}
	if in.Glass {
		q.Set("breakGlass", "true")
	}
	if text != nil {
		err = store.Do(ctx, http.MethodPost, "/config/v1/properties?"+q.Encode(), p, &p)
		out.Body.Rev, out.ETag = p.Rev, tag(p.Rev)
	} else {
		err = store.Do(ctx, http.MethodDelete, "/config/v1/properties/"+url.PathEscape(p.ID)+"?"+q.Encode(), nil, nil)
	}
	if err != nil {
		return nil, passed(err)
	}
	out.Body.InForce, out.Body.Refused = c.taken(ctx, key, now)
	return out, nil
}

// taken waits until this edge has heard of a document, and tells whether it is in force, or why not.
func (c *Control) taken(ctx context.Context, key string, want Settings) (inForce bool, refused string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		now, _, refused := c.Written()
		text, has := now[key]
		wanted, wants := want[key]
		if has == wants && text == wanted {
			return refused == "", refused
		}
		select {
		case <-ctx.Done():
			return false, ""
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// store is the API that has the properties, asked in the name of who asks in ctx.
func (c *Control) store(ctx context.Context) *api.Client {
	store, by := c.Store, api.Change(ctx, "", "")
	store.Actor, store.Why = by.Actor, by.Why
	return &store
}

// stored returns the property of a document, for everybody, as it is, or as it was at a revision.
func (c *Control) stored(ctx context.Context, key string, rev uint64) (stored, error) {
	var all struct {
		Properties, History []stored
	}
	path := "/config/v1/properties?key="
	if rev != 0 {
		path = "/config/v1/history?key="
	}
	err := c.store(ctx).Do(ctx, http.MethodGet, path+url.QueryEscape(key), nil, &all)
	var problem *api.Error
	if err != nil && !(errors.As(err, &problem) && problem.Status == http.StatusNotFound) {
		return stored{}, passed(err)
	}
	for _, p := range slices.Concat(all.Properties, all.History) {
		if p.Scope == (config.Scope{}) && !p.Deleted && (rev == 0 || p.Rev == rev) {
			return p, nil
		}
	}
	if rev != 0 {
		return stored{}, api.Problem(http.StatusNotFound, "%s has no revision %d; `roadbed config history %[1]s` lists those that are kept", key, rev)
	}
	return stored{}, api.Problem(http.StatusNotFound, "there is no document %s; `roadbed edge route status` lists those there are", key)
}

// passed is an error of the API that has the properties, as one of this.
func passed(err error) error {
	var problem *api.Error
	if errors.As(err, &problem) {
		return api.Problem(problem.Status, "%v", problem)
	}
	return api.Problem(http.StatusServiceUnavailable, "the properties, which hold the routes, cannot be reached: %v", err)
}

// check says what would be different with documents in place of those in force, of which key is new. Objects of the Gateway
// API must have no mistakes in that one, and no others in the rest than they have now.
func (c *Control) check(key string, now Settings, objects []Object) (RoutesChange, error) {
	doc, err := c.Reader.ParseAll(now.Texts())
	if err != nil {
		return RoutesChange{}, api.Problem(http.StatusUnprocessableEntity, "%v", err)
	}
	with := c.Config()
	with.Former = nil // a check takes nothing over
	table, err := doc.Table(with)
	if err == nil {
		err = table.Hold(doc.Tests)
	}
	if err == nil {
		before := (&Document{Objects: objects}).Mistaken()
		err = errors.Join(slices.DeleteFunc(doc.Mistaken(), func(e error) bool {
			return !slices.Contains(Mistaken(e), key) && slices.ContainsFunc(before, func(b error) bool { return b.Error() == e.Error() })
		})...)
	}
	if err != nil {
		return RoutesChange{}, api.Problem(http.StatusUnprocessableEntity, "%v", err)
	}
	out := diff(c.Table().Routes(), doc.Routes)
	out.Document, out.Objects, out.Notes = key, doc.Objects, doc.Notes
	return *out, nil
}

// diff says what is different between two lists of routes.
func diff(before, after []Route) *RoutesChange {
	c := &RoutesChange{Routes: len(after)}
	old := make(map[string]*Route, len(before))
	for i := range before {
		old[before[i].ID] = &before[i]
	}
	for i := range after {
		r := &after[i]
		switch was := old[r.ID]; {
		case was == nil:
			c.Added = append(c.Added, r.ID)
		case !same(*was, *r):
			c.Changed = append(c.Changed, r.ID)
		}
		delete(old, r.ID)
	}
	c.Removed = slices.Sorted(maps.Keys(old))
	slices.Sort(c.Added)
	slices.Sort(c.Changed)
	return c
}
