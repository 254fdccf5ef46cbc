package edge

import "github.com/roadbed/roadbed/platform/edge/route"

// What the API tells and takes of routes, for those who call it.
type (
	RoutesView       = route.RoutesView      // of GET /api/v1/edge/routes
	RouteChange      = route.RoutesChange    // of PUT and DELETE /api/v1/edge/routes
	WrittenRoutes    = route.WrittenDocument // of GET /api/v1/edge/routes/document
	RouteExplanation = route.Explanation     // of GET /api/v1/edge/explain
	RouteDocument    = route.DocumentView    // one property that holds routes
	RouteObject      = route.Object          // of the Gateway API
	RouteCondition   = route.Condition       // of such an object
	RouteNote        = route.Note            // on what could not be carried
	RouteOutcome     = route.Outcome         // of POST /api/v1/edge/routes/test
	RouteValue       = route.Value           // that a header must have
	RouteText        = route.Text            // a document, and where it stands
	ImportedRoutes   = route.Imported        // of ImportRoutes
	SurgicalRule     = route.Rule            // of POST /api/v1/edge/surgical/ID/check
	SurgicalView     = route.SurgicalView    // of GET /api/v1/edge/surgical
)

// The properties that hold routes and surgical rules.
const (
	RoutesProperty   = route.RoutesProperty
	SurgicalProperty = route.SurgicalProperty
)

// ImportRoutes turns files of another system into routes: from says nginx, zuul or gateway; empty: as each file looks.
func ImportRoutes(files []RouteText, from string) (*ImportedRoutes, error) {
	return route.Import(files, from)
}
