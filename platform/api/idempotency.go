package api

import (
	"bytes"
	"container/list"
	"crypto/sha256"
	"io"
	"net/http"
	"sync"
	"time"
)

// Answers to requests with an Idempotency-Key are kept so that a client which lost the first one may ask again.
const (
	keptAnswers   = 1000
	keptFor       = 24 * time.Hour
	keptBodyLimit = 1 << 20
)

// idempotent answers a repeated mutation with what the first one was answered. A key used with another body is
// refused; a repetition while the first still runs waits for it. Answers of 5xx are not kept: those may be retried.
func idempotent(next http.Handler) http.Handler {
	kept := answers{byKey: make(map[string]*list.Element), order: list.New()}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		if key == "" || r.Method == http.MethodGet || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, keptBodyLimit))
		if err != nil {
			WriteProblem(w, r, Problem(http.StatusRequestEntityTooLarge, "a request with an Idempotency-Key may have at most %d bytes", keptBodyLimit))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		sum := sha256.Sum256(body)
		a, first := kept.claim(r.Method + " " + r.URL.Path + "\x00" + key)
		if !first {
			a.wait.Lock() // held by the first until it has answered
			defer a.wait.Unlock()
			switch {
			case a.status == 0: // the first failed; this one is the first now
			case a.sum != sum:
				WriteProblem(w, r, Problem(http.StatusUnprocessableEntity, "Idempotency-Key %q was used with another body; use a new key", key))
				return
			default:
				a.replay(w)
				return
			}
		} else {
			defer a.wait.Unlock()
		}
		rec := recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(&rec, r)
		if rec.status < 500 {
			a.sum, a.status, a.header, a.body = sum, rec.status, w.Header().Clone(), rec.body.Bytes()
		}
	})
}

type answers struct {
	mu    sync.Mutex
	byKey map[string]*list.Element
	order *list.List // of *answer, oldest first
}

type answer struct {
	key    string
	at     time.Time
	wait   sync.Mutex // held while the first request runs; guards what follows
	sum    [sha256.Size]byte
	status int
	header http.Header
	body   []byte
}

// claim returns the answer of key and whether the caller is the first to ask, in which case it holds wait.
func (as *answers) claim(key string) (*answer, bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	for e := as.order.Front(); e != nil; e = as.order.Front() {
		old := e.Value.(*answer)
		if as.order.Len() <= keptAnswers && time.Since(old.at) < keptFor {
			break
		}
		as.order.Remove(e)
		delete(as.byKey, old.key)
	}
	if e, ok := as.byKey[key]; ok {
		return e.Value.(*answer), false
	}
	a := &answer{key: key, at: time.Now()}
	a.wait.Lock()
	as.byKey[key] = as.order.PushBack(a)
	return a, true
}

func (a *answer) replay(w http.ResponseWriter) {
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.Header().Set("Idempotency-Replayed", "true")
	w.WriteHeader(a.status)
	w.Write(a.body) //nolint:errcheck // the client is gone if this fails
}

type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.body.Write(b)
	return r.ResponseWriter.Write(b)
}

func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
