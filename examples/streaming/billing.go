package streaming

import (
	"net/http"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Plan is what a member pays for.
type Plan struct {
	Name      string `json:"name"`
	State     string `json:"state"` // "active"; "grace": the last payment failed, playing goes on; "lapsed": it does not
	RenewsDay int    `json:"renewsDay,omitempty"`
}

// assumedPlan is what everybody has while billing is away: better a few free films than members locked out.
var assumedPlan = Plan{Name: "standard", State: "active"}

// newBilling serves plans.
//
//	GET /members/{member}  Plan
func newBilling(_ *ipc.Engine, props *config.Properties) http.Handler {
	settings := live(props, billingDefaults())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /members/{member}", handle(func(r *http.Request) (Plan, error) {
		id := r.PathValue("member")
		n, ok := memberNumber(id)
		if !ok {
			return Plan{}, noMember(id)
		}
		h := hash(id, "plan")
		p := Plan{Name: [...]string{"basic", "standard", "premium"}[h%3], State: "active", RenewsDay: 1 + int(h>>8%28)}
		switch now := settings.Get(); {
		case now.FreeWeekend:
		case n > payingCount:
			p.State = "lapsed"
		case int(h>>16%100) < now.GracePercent:
			p.State = "grace"
		}
		return p, nil
	}))
	return mux
}
