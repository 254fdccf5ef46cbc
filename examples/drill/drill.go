// Package drill is what `roadbed demo storm`, `roadbed demo overload` and `roadbed demo slow` put on a running platform, load
// through its edge, and break: three lessons in what a failure does to those who did not fail.
//
//	storm     edge -> drillhop1 -> drillhop2 -> drillleaf, three tries at each hop; the leaf answers 503 for a while
//	overload  edge -> drilltill, whose instances serve so many requests at once and no more, asked for five times that
//	slow      edge -> drilltile, ten instances, of which one takes fifty times as long as the others for a while
//
// Each service is a process of its own on the road ([service.Start]), as any other: what holds here is what the edge and
// [ipc] do without being told. What is broken is a dynamic property, so the same can be done by hand:
//
//	roadbed config set drill.leaf.dead true --type bool --app drillleaf
//	roadbed config set drill.tile.wait 500ms --type duration --app drilltile --instance ID
//
// # What it promises
//   - A load comes at random moments and does not wait for answers, and a request is timed from when it was due.
//   - Instances count what reaches them, so that a retry is seen where it hurts.
//
// # What it does not
//   - It does not judge; the commands do.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/service"
)

// The services, by name.
const (
	Hop1 = "drillhop1" // asks Hop2
	Hop2 = "drillhop2" // asks Leaf
	Leaf = "drillleaf"
	Till = "drilltill"
	Tile = "drilltile"
)

// Properties that break a service.
const (
	LeafDead = "drill.leaf.dead" // bool, false: Leaf answers 503
	TileWait = "drill.tile.wait" // duration, [TileTakes]: what Tile takes for a request
)

// What requests take, and how many of them an instance of Till serves at once.
const (
	LeafTakes  = 2 * time.Millisecond
	TileTakes  = 10 * time.Millisecond
	TillTakes  = 50 * time.Millisecond
	TillPlaces = 8
)

// Arrived is where Leaf and Tile tell how many requests have reached the instance, as a number.
const Arrived = "/arrived"

// makers make the handlers, by service.
var makers = map[string]func(*service.Service) http.Handler{
	Hop1: func(s *service.Service) http.Handler { return passOn(s, Hop2) },
	Hop2: func(s *service.Service) http.Handler { return passOn(s, Leaf) },
	Leaf: newLeaf,
	Till: newTill,
	Tile: newTile,
}

// Serve runs the service called name until ctx ends or the process is told to stop. [ErrNoService] if there is none.
func Serve(ctx context.Context, name string) error {
	build, ok := makers[name]
	if !ok {
		return ErrNoService
	}
	c := service.Config{Name: name, Criticality: roadbed.Critical, Version: "1", Build: func(s *service.Service) (http.Handler, error) { return build(s), nil }}
	if name == Till {
		// Its bottleneck are its places and not the processor, so the limit has to hold while that is idle.
		c.Properties = map[string]string{"ipc.server.limit.holdWhileIdle": "true"}
	}
	s, err := service.Start(ctx, c)
	if err != nil {
		return err
	}
	return s.Wait()
}

// ErrNoService says that no service of a drill has that name.
var ErrNoService = errors.New("drill: there is no such service")

// passOn is a service that needs the next one to answer.
func passOn(s *service.Service, next string) http.Handler {
	client := s.Calls().HTTPClient()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+next+"/", nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		resp, err := client.Do(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		io.Copy(w, resp.Body) //nolint:errcheck // the caller has gone
	})
}

// counted serves work at / and how many requests have come there at [Arrived].
func counted(work http.HandlerFunc) http.Handler {
	var n atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Arrived, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, n.Load()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		work(w, r)
	})
	return mux
}

func newLeaf(s *service.Service) http.Handler {
	dead := s.Properties().Bool(LeafDead, false)
	return counted(func(w http.ResponseWriter, r *http.Request) {
		if dead.Get() {
			http.Error(w, "drillleaf is dead: "+LeafDead+" is true", http.StatusServiceUnavailable)
			return
		}
		spend(w, r, LeafTakes)
	})
}

func newTile(s *service.Service) http.Handler {
	wait := s.Properties().Duration(TileWait, TileTakes)
	return counted(func(w http.ResponseWriter, r *http.Request) { spend(w, r, wait.Get()) })
}

// newTill serves any path, TillPlaces requests at once; the others wait for a place.
func newTill(*service.Service) http.Handler {
	places := make(chan struct{}, TillPlaces)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			spend(w, r, TillTakes)
		case <-r.Context().Done():
			w.WriteHeader(http.StatusGatewayTimeout)
		}
	})
}

// spend takes that long, or as long as the caller waits, and answers.
func spend(w http.ResponseWriter, r *http.Request, d time.Duration) {
	select {
	case <-time.After(d):
		io.Copy(w, strings.NewReader("well\n")) //nolint:errcheck // the caller has gone
	case <-r.Context().Done():
		w.WriteHeader(http.StatusGatewayTimeout)
	}
}
