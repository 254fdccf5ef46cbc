package region

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
)

// Mount puts the API on s. Proposals are properties, and approved and refused as such.
func (w *Watch) Mount(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "watch-regions", Method: http.MethodGet, Path: "/api/v1/regions",
		Summary: "How regions do, and whether DNS follows", Description: "What of each is expected, and what it does; and how the telling of weights goes.",
	}, func(context.Context, *struct{}) (*struct{ Body View }, error) {
		return &struct{ Body View }{w.View()}, nil
	})
}
