package accesslog

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
)

// Top is the answer of GET /api/v1/edge/top.
type Top struct {
	Clients []Talker `json:"clients" doc:"that ask most, by address"`
	Paths   []Talker `json:"paths" doc:"that are asked for most"`
}

// Mount puts the log's API on s.
func (l *Log) Mount(s *api.Surface) {
	type lines struct{ Body []json.RawMessage }
	type limit struct {
		Limit int `query:"limit" default:"50" minimum:"1" maximum:"512" doc:"how many at most"`
	}
	huma.Register(s.API, huma.Operation{
		OperationID: "list-edge-requests", Method: http.MethodGet, Path: "/api/v1/edge/requests",
		Summary: "Latest requests at this edge", Description: "As in the access log, the last one first.",
	}, func(_ context.Context, in *limit) (*lines, error) { return &lines{l.Latest(in.Limit)}, nil })
	huma.Register(s.API, huma.Operation{
		OperationID: "list-edge-passports", Method: http.MethodGet, Path: "/api/v1/edge/passport",
		Summary: "Slow requests with the way they took", Description: "Requests over the thresholds zuul.passport.log.request.time.threshold and zuul.passport.log.response.time.threshold, and debugged ones; the last one first.",
	}, func(_ context.Context, in *struct {
		Limit int  `query:"limit" default:"50" minimum:"1" maximum:"512" doc:"how many at most"`
		Slow  bool `query:"slow" default:"true" doc:"no others have passports"`
	}) (*lines, error) {
		if !in.Slow {
			return &lines{l.Latest(in.Limit)}, nil
		}
		return &lines{l.Slow(in.Limit)}, nil
	})
	huma.Register(s.API, huma.Operation{
		OperationID: "get-edge-top", Method: http.MethodGet, Path: "/api/v1/edge/top",
		Summary: "Who asks most, and what for", Description: "Of the last minute, the last seconds counting most.",
	}, func(_ context.Context, in *limit) (*struct{ Body Top }, error) {
		clients, paths := l.Top(in.Limit)
		return &struct{ Body Top }{Top{clients, paths}}, nil
	})
}
