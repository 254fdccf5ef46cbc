package program

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
)

// CheckedProgram is the answer of POST /api/v1/edge/programs/check.
type CheckedProgram struct {
	Version string `json:"version" doc:"that it would be"`
	Kind    string `json:"kind"`
	Phase   string `json:"phase"`
}

// Mount puts the programs' API on s. It shows and checks; programs are set as properties, so that the ledger has them.
func (r *Registry) Mount(s *api.Surface) {
	huma.Register(s.API, huma.Operation{
		OperationID: "list-edge-programs", Method: http.MethodGet, Path: "/api/v1/edge/programs",
		Summary: "Programs at this edge", Description: "What runs of the properties edge.program.NAME, how often it ran and failed, and what was refused.",
	}, func(context.Context, *struct{}) (*struct{ Body []ProgramView }, error) {
		return &struct{ Body []ProgramView }{r.List()}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "check-edge-program", Method: http.MethodPost, Path: "/api/v1/edge/programs/check",
		Summary: "Check a program", Description: "Compiles a document as it would stand in a property edge.program.NAME, in JSON or YAML, and changes nothing.",
	}, func(ctx context.Context, in *struct {
		Body struct {
			Name     string `json:"name,omitempty" default:"program"`
			Document string `json:"document" maxLength:"1048576" doc:"JSON or YAML"`
		}
	}) (*struct{ Body CheckedProgram }, error) {
		d, err := r.Check(ctx, in.Body.Name, in.Body.Document)
		if err != nil {
			return nil, api.Problem(http.StatusUnprocessableEntity, "%v", err)
		}
		return &struct{ Body CheckedProgram }{CheckedProgram{d.Version(), d.Kind, d.Phase}}, nil
	})
}
