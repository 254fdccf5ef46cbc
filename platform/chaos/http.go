package chaos

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/properties"
)

// Mount puts the faults on the API, under /api/v1/faults.
func (x *Chaos) Mount(s *api.Surface) {
	op := func(id, method, path, summary, description string, status int) huma.Operation {
		return huma.Operation{OperationID: id, Method: method, Path: path, Summary: summary, Description: description, Tags: []string{"chaos"}, DefaultStatus: status}
	}
	type one struct{ Body Fault }
	type named struct {
		ID string `path:"id"`
	}
	huma.Register(s.API, op("list-faults", http.MethodGet, "/api/v1/faults", "List faults in force", "The one that ends first comes first.", 200),
		func(context.Context, *struct{}) (*struct{ Body []Fault }, error) {
			return &struct{ Body []Fault }{x.List()}, nil
		})
	huma.Register(s.API, op("get-fault", http.MethodGet, "/api/v1/faults/{id}", "Show a fault", "", 200),
		func(_ context.Context, in *named) (*one, error) {
			f, err := x.Get(in.ID)
			return &one{f}, problem(err)
		})
	huma.Register(s.API, op("add-fault", http.MethodPost, "/api/v1/faults", "Add a fault", "It begins at once and ends by itself.", 201),
		func(ctx context.Context, in *struct{ Body Fault }) (*one, error) {
			f, err := x.Add(ctx, in.Body)
			return &one{f}, problem(err)
		})
	huma.Register(s.API, op("alter-fault", http.MethodPut, "/api/v1/faults/{id}", "Alter a fault", "Replaces rules, scope, description and expiry.", 200),
		func(ctx context.Context, in *struct {
			ID   string `path:"id"`
			Body Fault
		}) (*one, error) {
			f, err := x.Alter(ctx, in.ID, in.Body)
			return &one{f}, problem(err)
		})
	huma.Register(s.API, op("stop-faults", http.MethodDelete, "/api/v1/faults", "Stop all injection", "Switches injection off in every process and ends all faults. Nothing can be added until it is enabled again.", 204),
		func(ctx context.Context, _ *struct{}) (*struct{}, error) { return nil, problem(x.StopAll(ctx)) })
	huma.Register(s.API, op("enable-faults", http.MethodPost, "/api/v1/faults/enable", "Allow injection again", "", 204),
		func(ctx context.Context, _ *struct{}) (*struct{}, error) { return nil, problem(x.Enable(ctx)) })
	huma.Register(s.API, op("conclude-experiment", http.MethodPost, "/api/v1/experiments/results", "Record what an experiment found", "It goes into the change log.", 204),
		func(ctx context.Context, in *struct{ Body Result }) (*struct{}, error) {
			return nil, problem(x.Conclude(ctx, in.Body))
		})
	huma.Register(s.API, op("list-recipes", http.MethodGet, "/api/v1/fault-recipes", "List recipes", "Templates of rules with names and parameters.", 200),
		func(context.Context, *struct{}) (*struct{ Body []Recipe }, error) {
			return &struct{ Body []Recipe }{Recipes()}, nil
		})
	huma.Register(s.API, op("remove-fault", http.MethodDelete, "/api/v1/faults/{id}", "End a fault now", "", 204),
		func(ctx context.Context, in *named) (*struct{}, error) { return nil, problem(x.Remove(ctx, in.ID)) })
}

// problem gives an error its status.
func problem(err error) error {
	status := http.StatusServiceUnavailable // the engine or the ledger refuses
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotFound), errors.Is(err, properties.ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrExists), errors.Is(err, ErrOverlap), errors.Is(err, ErrOff), errors.Is(err, properties.ErrConflict):
		status = http.StatusConflict
	case errors.Is(err, ErrInvalid), errors.Is(err, properties.ErrInvalid):
		status = http.StatusUnprocessableEntity
	}
	return api.Problem(status, "%v", err)
}
