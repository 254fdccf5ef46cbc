package streaming

import (
	"net/http"
	"slices"
	"strings"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Pick is a recommended row; its titles are ids, for catalog knows the rest.
type Pick struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	More   string   `json:"more"`
	Titles []string `json:"titles"`
}

// newRecommendations ranks the whole catalogue for a member.
//
//	GET /members/{member}?tastes=drama,crime&maturity=18&cell=control&limit=8  []Pick, the best row first
func newRecommendations(_ *ipc.Engine, props *config.Properties) http.Handler {
	settings := live(props, recommendationsDefaults())
	films := newCatalogue()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /members/{member}", handle(func(r *http.Request) ([]Pick, error) {
		id := r.PathValue("member")
		if _, ok := memberNumber(id); !ok {
			return nil, noMember(id)
		}
		maturity, err := whole(r, "maturity", 18, 0, 18)
		if err != nil {
			return nil, err
		}
		limit, err := whole(r, "limit", 8, 1, 50)
		if err != nil {
			return nil, err
		}
		q := r.URL.Query()
		tastes := strings.Split(q.Get("tastes"), ",")
		if films.names[tastes[0]] == "" {
			tastes = []string{"popular"}
		}
		whim := settings.Get().Whim
		if q.Get("cell") == "explore" {
			whim = settings.Get().ExploreWhim
		}
		best := rank(films, id, tastes, maturity, whim, 2*limit)
		cut := min(limit, len(best))
		return []Pick{
			{ID: "picks", Name: "Top picks for you", More: tastes[0], Titles: best[:cut]},
			{ID: "more-like-" + tastes[0], Name: "Because you watch " + films.names[tastes[0]], More: tastes[0], Titles: best[cut:]},
		}, nil
	}))
	return mux
}

// rank returns the ids of the n titles that suit a member best: popular ones, of genres the member likes, and by whim.
func rank(films *catalogue, id string, tastes []string, maturity int, whim float64, n int) []string {
	type scored struct {
		score float64
		id    string
	}
	seed := hash(id, "rank")
	best := make([]scored, 0, n+1)
	for i := range films.titles {
		t := &films.titles[i]
		if t.Maturity > maturity {
			continue
		}
		score := float64(titleCount - i)
		if k := slices.Index(tastes, t.row); k >= 0 {
			score += 300 / float64(k+1)
		}
		seed = seed*6364136223846793005 + 1442695040888963407 // Knuth's MMIX generator
		score += whim * float64(seed>>40) / (1 << 24)
		if len(best) == n && score <= best[n-1].score {
			continue
		}
		at, _ := slices.BinarySearchFunc(best, score, func(s scored, want float64) int {
			if s.score > want {
				return -1
			}
			return 1
		})
		best = slices.Insert(best, at, scored{score, t.ID})
		best = best[:min(len(best), n)]
	}
	ids := make([]string, len(best))
	for i, s := range best {
		ids[i] = s.id
	}
	return ids
}
