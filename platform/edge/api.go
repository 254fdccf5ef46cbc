package edge

import (
	"context"

	"github.com/danielgtaylor/huma/v2"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/edge/route"
)

// Mount puts the gateway's API on s.
func (g *Gateway) Mount(s *api.Surface) {
	g.access.Mount(s)
	g.programs.Mount(s)
	g.mountStanding(s)
	g.shed.Mount(s)
	g.regions.Mount(s)
	c := route.Control{
		Table: g.table.Load, Surgery: g.surgery.Load,
		Config: func() route.Config { return g.routes(nil) }, Reader: &g.reader, Store: g.store,
		Written: func() (route.Settings, []route.Object, string) {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.written, g.objects, g.refused
		},
	}
	c.Mount(s)
	huma.Get(s.API, "/api/v1/edge/faults", func(context.Context, *struct{}) (*struct{ Body []FaultCounts }, error) {
		return &struct{ Body []FaultCounts }{g.faults.Load().counted()}, nil
	})
}
