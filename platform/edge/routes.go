package edge

import routes "github.com/roadbed/roadbed/platform/edge/route"

// What the API tells and takes of routes, for those who call it.
type (
	RouteTable       = routes.View         // of GET /api/v1/edge/routes
	RouteChange      = routes.Change       // of PUT /api/v1/edge/routes
	RouteExplanation = routes.Explanation  // of GET /api/v1/edge/explain
	RouteDocument    = routes.DocumentView // one property that holds routes
	RouteObject      = routes.Object       // of the Gateway API
	RouteNote        = routes.Note         // on what could not be carried
	RouteValue       = routes.Value        // that a header must have
	RouteText        = routes.Text         // a document, and where it stands
	ImportedRoutes   = routes.Imported     // of ImportRoutes
	SurgicalRule     = routes.Rule         // of PUT /api/v1/edge/surgical/ID
	SurgicalView     = routes.SurgicalView // of GET /api/v1/edge/surgical
)

// The properties that hold routes and surgical rules.
const (
	RoutesProperty   = routes.RoutesProperty
	SurgicalProperty = routes.SurgicalProperty
)

// ImportRoutes turns files of another system into routes: from says nginx, zuul or gateway; empty: as each file looks.
func ImportRoutes(files []RouteText, from string) (*ImportedRoutes, error) {
	return routes.Import(files, from)
}
