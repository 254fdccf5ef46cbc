package streaming

import (
	"net/http"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Cells says in which cell of each running test a member is.
type Cells struct {
	Home    string `json:"home"`    // "control", or "explore": recommendations stray further from a member's tastes
	Artwork string `json:"artwork"` // "poster" or "wide"
}

// defaultCells are what members see when nobody knows their cells.
var defaultCells = Cells{Home: "control", Artwork: "poster"}

// newABTest allocates members to cells: the same member is always in the same cell, without anything stored.
//
//	GET /members/{member}  Cells
func newABTest(_ *ipc.Engine, props *config.Properties) http.Handler {
	settings := live(props, abtestDefaults())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /members/{member}", handle(func(r *http.Request) (Cells, error) {
		id := r.PathValue("member")
		if _, ok := memberNumber(id); !ok {
			return Cells{}, noMember(id)
		}
		c, now := defaultCells, settings.Get()
		if int(hash(id, "test:home")%100) < now.ExplorePercent {
			c.Home = "explore"
		}
		if int(hash(id, "test:artwork")%100) < now.WidePercent {
			c.Artwork = "wide"
		}
		return c, nil
	}))
	return mux
}
