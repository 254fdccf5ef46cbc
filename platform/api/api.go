// Package api holds the conventions of the platform's HTTP API, once for all rooms: routes described in OpenAPI 3.1,
// RFC 9457 problem details, server-sent events for whatever is watched, idempotency keys, who is asking and why, and
// the door through which a listener may be reached.
//
// A room mounts its operations on a [Surface]:
//
//	func (f *Fleet) Mount(s *api.Surface) {
//		huma.Get(s.API, "/api/v1/clusters", f.listClusters)
//		s.Mux.HandleFunc("GET /api/v1/clusters/stream", f.streamClusters)
//	}
//
// Faces that follow somebody else's wire format to the byte (Eureka, Atlas) have their own handlers and use only
// [Door.Listen], [Door.Authenticate] and [SameSite].
//
// # What it promises
//   - Every error body is a problem detail that says what failed, why and what to do.
//   - A page in somebody's browser cannot alter the platform: cross-origin mutations and foreign Host names are refused.
//   - Nothing but loopback reaches a listener without TLS and a token.
package api

import (
	"net"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// Surface is one HTTP API: operations with an OpenAPI description on API, everything else on Mux.
type Surface struct {
	Mux *http.ServeMux
	API huma.API

	handler http.Handler
}

// New returns an empty surface that describes itself at /api/v1/openapi.json and .yaml.
func New(title, version string) *Surface {
	cfg := huma.DefaultConfig(title, version)
	cfg.OpenAPIPath = "/api/v1/openapi"
	cfg.DocsPath = ""     // huma's page loads its viewer from a foreign host
	cfg.SchemasPath = ""  // no $schema members in bodies
	cfg.CreateHooks = nil // nor Link headers to them
	mux := http.NewServeMux()
	s := &Surface{Mux: mux, API: humago.New(mux, cfg)}
	s.handler = SameSite(identify(idempotent(notFoundAsProblem(mux))))
	return s
}

// ServeHTTP answers one request.
func (s *Surface) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// notFoundAsProblem gives the mux's own 404 and 405 the body that every other error has.
func notFoundAsProblem(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := headerOnly{header: make(http.Header)}
		mux.ServeHTTP(&probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", probe.header.Get("Allow"))
			WriteProblem(w, r, Problem(probe.status, "%s does not take %s; it takes %s", r.URL.Path, r.Method, probe.header.Get("Allow")))
			return
		}
		WriteProblem(w, r, Problem(http.StatusNotFound, "there is nothing at %s; /api/v1/openapi.json lists what there is", r.URL.Path))
	})
}

type headerOnly struct {
	header http.Header
	status int
}

func (h *headerOnly) Header() http.Header         { return h.header }
func (h *headerOnly) WriteHeader(status int)      { h.status = status }
func (h *headerOnly) Write(b []byte) (int, error) { return len(b), nil }

// SameSite refuses what a hostile web page could make a browser send: mutations from another origin, and requests by
// a name that resolves to loopback without being a loopback name (DNS rebinding). A [Surface] has it; a listener with
// a handler of its own needs it too.
func SameSite(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		WriteProblem(w, r, Problem(http.StatusForbidden, "a page of another origin may not alter the platform; use the console or the CLI"))
	}))
	guarded := origin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil && !loopbackName(r.Host) && !address(r.Host) {
			WriteProblem(w, r, Problem(http.StatusForbidden, "the name %q is not this machine; ask for http://localhost", r.Host))
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// hostOf returns the name or address in "host:port" or "host".
func hostOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	return strings.TrimSuffix(strings.Trim(host, "[]"), ".")
}

// address reports whether hostport holds a literal address, which no foreign name server can make up.
func address(hostport string) bool { return net.ParseIP(hostOf(hostport)) != nil }

func loopbackName(hostport string) bool {
	host := hostOf(hostport)
	if strings.EqualFold(host, "localhost") || strings.HasSuffix(strings.ToLower(host), ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
