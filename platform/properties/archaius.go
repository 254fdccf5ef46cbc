package properties

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
)

// propertiesFile ends the path of what Archaius 1, and whatever else reads a Java properties file from a URL, polls:
// /config/v1/properties/{app}.properties?{context}.
const propertiesFile = ".properties"

// getPropertiesFile answers with everything that a caller sees. A key that is missing is deleted at the reader, so the
// answer is whole or no 200: while nothing is loaded it is 503, and its length is told in advance.
func (s *Store) getPropertiesFile(w http.ResponseWriter, r *http.Request, app string) error {
	if !s.loaded.Load() {
		return ErrLoading
	}
	order, err := s.orderOf(r)
	if err != nil {
		return err
	}
	scope := scopeOf(r)
	scope.App = app
	seen := s.index.Load().resolve(asCaller(s.known(scope), order), "")
	writeWhole(w, r, "text/plain;charset=ISO-8859-1", javaProperties(seen.Properties))
	return nil
}

// persisted is the answer to the persisted-properties reader of Archaius 2.
type persisted struct {
	List []persistedProperty `json:"propertiesList"`
}

// persistedProperty is a record as that reader knows it: every member is a string, a scope that is missing is any.
type persistedProperty struct {
	ID    string `json:"propertyId"`
	Key   string `json:"key"`
	Value string `json:"value"`
	config.Scope
}

// getPersisted answers /config/archaius2?skipPropsWithExtraScopes={bool}&filter={expression}: every record that the
// filter selects, for the reader to choose from by its own order of scopes. It takes a record only for one that names
// a scope where the one before names none, so of records that are equal to it the first wins: here the last written,
// as everywhere.
func (s *Store) getPersisted(w http.ResponseWriter, r *http.Request) error {
	if !s.loaded.Load() {
		return ErrLoading
	}
	f, err := ParseFilter(r.URL.Query().Get("filter"))
	if err != nil {
		return api.Problem(http.StatusBadRequest, "%v", err)
	}
	if r.URL.Query().Get("skipPropsWithExtraScopes") == "true" {
		f = f.WithoutExtraScopes()
	}
	ix := s.index.Load()
	asked := fmt.Sprint(takesGzip(r.Header.Get("Accept-Encoding")), r.URL.RawQuery)
	steady := !s.staging() // else the answer follows the instances there are as well
	if tag, ok := s.polls.last(asked, ix.rev); ok && steady && has(r, tag) {
		unchanged(w, r, tag)
		return nil
	}
	apps, ok := f.apps()
	selected := s.expanded(ix, Netflix, apps, ok, f.prefix())
	selected = slices.DeleteFunc(selected, func(rec *record) bool { return !f.Match(rec.Property) })
	slices.SortFunc(selected, func(a, b *record) int { return cmp.Or(strings.Compare(a.Key, b.Key), byPrecedence(b, a)) })
	answer := persisted{List: make([]persistedProperty, len(selected))}
	for i, rec := range selected {
		answer.List[i] = persistedProperty{rec.ID, rec.Key, rec.Value, rec.Scope}
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("encode the properties: %w", err)
	}
	if tag := writeWhole(w, r, "application/json", body); steady {
		s.polls.note(asked, ix.rev, tag)
	}
	return nil
}

// polls remembers how pollers were answered. One who has that answer and asks again while nothing has changed, as nearly
// all do nearly always, is told so without making the answer anew.
type polls struct {
	mu   sync.Mutex
	tags map[string]answered // by what was asked; guarded by mu
}

// answered is an answer's ETag, and of which revision of the index it was.
type answered struct {
	rev uint64
	tag string
}

// Bounds of what is remembered of pollers.
const (
	maxPolls = 20_000
	maxAsked = 2 << 10 // bytes
)

func (p *polls) last(asked string, rev uint64) (tag string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.tags[asked]
	return a.tag, ok && a.rev == rev
}

func (p *polls) note(asked string, rev uint64, tag string) {
	if len(asked) > maxAsked {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tags == nil || len(p.tags) >= maxPolls {
		p.tags = map[string]answered{}
	}
	p.tags[asked] = answered{rev, tag}
}

// gzipFrom is the size in bytes from which compressing a body pays.
const gzipFrom = 256

// writeWhole answers with a body that a reader polls again and again: its length tells a reader whether it is whole,
// its ETag, which it returns, spares sending it twice, and it is compressed for who can read that.
func writeWhole(w http.ResponseWriter, r *http.Request, contentType string, body []byte) (tag string) {
	h := w.Header()
	h.Set("Vary", "Accept, Accept-Encoding")
	tag = fmt.Sprintf(`"%016x"`, xxhash.Sum64(body))
	zip := len(body) >= gzipFrom && takesGzip(r.Header.Get("Accept-Encoding"))
	if zip {
		tag = strings.TrimSuffix(tag, `"`) + `-gzip"` // RFC 9110 §8.8.3: another encoding, another tag
	}
	if unchanged(w, r, tag) {
		return tag
	}
	if zip {
		var z bytes.Buffer
		gz, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
		if err == nil {
			_, err = gz.Write(body)
		}
		if err == nil {
			err = gz.Close()
		}
		if err != nil { // neither a level that exists nor a buffer in memory fails
			panic(err)
		}
		h.Set("Content-Encoding", "gzip")
		body = z.Bytes()
	}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body) //nolint:errcheck // the client is gone if this fails
	return tag
}

// takesGzip reads an Accept-Encoding.
func takesGzip(accept string) bool {
	for coding := range strings.SplitSeq(accept, ",") {
		name, quality, _ := strings.Cut(coding, ";")
		if name = strings.TrimSpace(name); strings.EqualFold(name, "gzip") || strings.EqualFold(name, "x-gzip") {
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.ReplaceAll(quality, " ", ""), "q="), 64)
			return err != nil || q > 0
		}
	}
	return false
}
