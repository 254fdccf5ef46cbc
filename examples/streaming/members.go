package streaming

import (
	"net/http"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// newMembers serves profiles.
//
//	GET /members/{member}  one Member
func newMembers(_ *ipc.Engine, props *config.Properties) http.Handler {
	settings := live(props, membersDefaults())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /members/{member}", handle(func(r *http.Request) (Member, error) {
		m, ok := member(r.PathValue("member"))
		if !ok {
			return Member{}, noMember(r.PathValue("member"))
		}
		m.Maturity = min(m.Maturity, settings.Get().Maturity)
		return m, nil
	}))
	return mux
}

func noMember(id string) *problem {
	return refuse(http.StatusNotFound, "there is no member %q; members are %s to %s", id, memberID(1), memberID(memberCount))
}
