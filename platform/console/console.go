// Package console is roadbed's face in a browser: the live picture of who calls whom, the services and their
// instances, the edge with its routes and origins, the registry with its leases and overrides, dynamic properties and
// who gets which, what was changed by whom, the graphs of each service, and the faults that are being injected. At
// Netflix this was Vizceral, with the pages of Eureka, Archaius, Asgard and Atlas around it.
//
// The console owns no facts. It asks the other rooms through their HTTP API, as any client would, and so works the
// same wherever those rooms run. Once a second, and only while somebody looks, one poller asks all of them and
// gives every viewer the same [Overview]: whole at first, then what changed of it. What only one page shows (graphs,
// logs, leases) the browser asks for itself while that page is open, and what a person does in the console (kill an
// instance, disable a server group, add a fault) it sends straight to the room concerned, with who and why.
//
//	c := console.New(console.Config{API: "http://127.0.0.1:7070"})
//	c.Mount(surface) // or http.Serve(listener, c.Handler())
//	err := c.Run(ctx)
//
// The pages are TypeScript in web, bundled into dist by the command in build, committed and embedded: building
// roadbed needs no Node.
//
// # What it promises
//   - A room that does not answer empties no page: its last data stays, named as old, beside the rooms that answer.
//   - A slow room delays no other.
//   - Nobody watching costs nothing: no room is asked.
//   - Many watching cost little: an overview is encoded once for all of them, and one who reads slowly skips some.
//   - The browser asks nobody but this origin.
//
// # What it does not
//   - It keeps no history: what it shows is what the rooms know now, and a graph is as old as telemetry's memory.
//   - It checks no permissions: the API does.
//   - It serves no crowd: 64 may watch at once, and an overview lists the first 1,000 rows of each list of instances.
package console

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/platform/api"
)

//go:embed dist
var dist embed.FS

// Config says whose rooms are shown.
type Config struct {
	API string       // base URL of the platform's API, e.g. "http://127.0.0.1:7070"
	Log *slog.Logger // slog.Default() when nil
}

// Console serves the pages and the overview behind them. Its methods may be called from many goroutines.
type Console struct {
	log   *slog.Logger
	api   string
	http  *http.Client
	rooms []*room // touched by Run only

	mu      sync.Mutex
	viewers map[chan struct{}]bool // each is a bell that tells its viewer of a new frame; guarded by mu, like all here
	newest  *frame                 // nil when nothing is fresh
	frames  uint64                 // how many there were

	woken chan struct{} // somebody began to watch
	done  chan struct{} // closed when Run has returned
}

// New returns a console that shows nothing new until [Console.Run] runs.
func New(c Config) *Console {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil // the platform is on this machine
	return &Console{
		log:     c.Log,
		api:     strings.TrimSuffix(c.API, "/"),
		http:    &http.Client{Transport: transport, Timeout: answerWithin},
		rooms:   newRooms(),
		viewers: make(map[chan struct{}]bool),
		woken:   make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
}

// Run asks the rooms while somebody watches. It returns nil when ctx ends, after which every viewer's stream has
// ended; it may be called once.
func (c *Console) Run(ctx context.Context) error {
	defer c.http.CloseIdleConnections()
	defer close(c.done)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-c.woken:
			c.poll(ctx)
		}
	}
}

// Handler serves the pages at / and the overview at /api/v1/overview/stream.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	c.routes(mux)
	return mux
}

// Mount puts the same on the platform's API.
func (c *Console) Mount(s *api.Surface) { c.routes(s.Mux) }

func (c *Console) routes(mux *http.ServeMux) {
	names, err := fs.Glob(dist, "dist/*")
	if err != nil {
		panic(err) // the pattern is constant
	}
	for _, name := range names {
		content, err := dist.ReadFile(name)
		if err != nil {
			panic(err) // it was embedded
		}
		at := "/" + path.Base(name)
		if at == "/index.html" {
			at = "/{$}"
		}
		mux.Handle("GET "+at, newPage(path.Base(name), content))
	}
	mux.HandleFunc("GET /api/v1/overview/stream", c.stream) // viewers.go
}

// page is one embedded file as it is served.
type page struct {
	name, etag, mime string
	content          []byte
}

// mimes are given here because those of the machine may be wrong, and nosniff makes a wrong one fatal.
var mimes = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
	".txt":  "text/plain; charset=utf-8",
}

func newPage(name string, content []byte) page {
	sum := sha256.Sum256(content)
	return page{name: name, etag: `"` + hex.EncodeToString(sum[:16]) + `"`, mime: mimes[path.Ext(name)], content: content}
}

// policy lets a page load from this origin only, run no inline script, and be framed by nobody.
const policy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", p.mime)
	h.Set("ETag", p.etag)
	h.Set("Cache-Control", "no-cache") // ask each time; the answer is nearly always 304
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	http.ServeContent(w, r, p.name, time.Time{}, strings.NewReader(string(p.content)))
}
