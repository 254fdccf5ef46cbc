package interop

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// door is another way into a server's registry, which counts who comes through and can be told to lie.
type door struct {
	base string // of Eureka's API
	lie  atomic.Bool

	mu   sync.Mutex
	came map[string]int // by method and path below base
}

func newDoor(t *testing.T, s *server) *door {
	d := &door{came: make(map[string]int)}
	inner := s.reg.Handler()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.came[r.Method+" "+strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/eureka"), "/")]++
		d.mu.Unlock()
		if !d.lie.Load() || !strings.HasSuffix(r.URL.Path, "/delta") {
			inner.ServeHTTP(w, r)
			return
		}
		r.Header.Del("Accept-Encoding")
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		body := rec.Body.String()
		for _, name := range []string{`apps__hashcode":"`, `<apps__hashcode>`} {
			body = strings.Replace(body, name, name+"DOWN_9999_", 1)
		}
		w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
		w.WriteHeader(rec.Code)
		w.Write([]byte(body)) //nolint:errcheck // the client is gone if this fails
	}))
	t.Cleanup(srv.Close)
	d.base = srv.URL + "/eureka/"
	return d
}

func (d *door) count(method, path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.came[method+" "+path]
}
