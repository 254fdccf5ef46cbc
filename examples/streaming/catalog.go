package streaming

import (
	"net/http"
	"strings"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Shelves is what a home page needs of catalog, in one call.
type Shelves struct {
	Rows   []Shelf `json:"rows"`
	Titles []Card  `json:"titles"` // those asked for by id that exist and fit the age, in the order asked
}

// newCatalog serves titles and rows.
//
//	GET /titles/{title}                                     one Title
//	GET /rows/{row}?maturity=18&offset=0&limit=20           one Shelf
//	GET /shelves?rows=popular,new&titles=a,b&maturity=18&limit=8  Shelves
func newCatalog(_ *ipc.Engine, props *config.Properties) http.Handler {
	films := newCatalogue()
	settings := live(props, catalogDefaults())
	shelf := func(row string, maturity, offset, limit int) (Shelf, bool) {
		now := settings.Get()
		s, ok := films.shelf(row, maturity, offset, min(limit, now.MaxTitles))
		if name := now.RowNames[row]; ok && name != "" {
			s.Name = name
		}
		return s, ok
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /titles/{title}", handle(func(r *http.Request) (Title, error) {
		t, ok := films.title(r.PathValue("title"))
		if !ok {
			return Title{}, refuse(http.StatusNotFound, "there is no title %q", r.PathValue("title"))
		}
		return t, nil
	}))
	mux.HandleFunc("GET /rows/{row}", handle(func(r *http.Request) (Shelf, error) {
		maturity, err := whole(r, "maturity", 18, 0, 18)
		if err != nil {
			return Shelf{}, err
		}
		offset, err := whole(r, "offset", 0, 0, titleCount)
		if err != nil {
			return Shelf{}, err
		}
		limit, err := whole(r, "limit", 20, 1, 100)
		if err != nil {
			return Shelf{}, err
		}
		s, ok := shelf(r.PathValue("row"), maturity, offset, limit)
		if !ok {
			return Shelf{}, refuse(http.StatusNotFound, "there is no row %q; there are %s", r.PathValue("row"), strings.Join(films.order, ", "))
		}
		return s, nil
	}))
	mux.HandleFunc("GET /shelves", handle(func(r *http.Request) (Shelves, error) {
		maturity, err := whole(r, "maturity", 18, 0, 18)
		if err != nil {
			return Shelves{}, err
		}
		limit, err := whole(r, "limit", 8, 1, 100)
		if err != nil {
			return Shelves{}, err
		}
		out := Shelves{Rows: []Shelf{}, Titles: []Card{}}
		q := r.URL.Query()
		for row := range strings.SplitSeq(q.Get("rows"), ",") {
			if s, ok := shelf(row, maturity, 0, limit); ok {
				out.Rows = append(out.Rows, s)
			}
		}
		for id := range strings.SplitSeq(q.Get("titles"), ",") {
			if t, ok := films.title(id); ok && t.Maturity <= maturity {
				out.Titles = append(out.Titles, t.Card)
			}
		}
		return out, nil
	}))
	return mux
}
