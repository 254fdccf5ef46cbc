package properties

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
)

// StaleHeader is set on answers given while the engine is away, with for how many seconds it has been.
const StaleHeader = "X-Config-Stale"

// Handler answers /config/... with the platform's conventions, for the listener where services ask.
func (s *Store) Handler() http.Handler {
	surface := api.New("roadbed properties", "1")
	s.Mount(surface)
	return surface
}

// Mount puts the properties on an API, under /config/v1, and beside it what other systems' clients ask for:
//
//	GET    resolve     what a caller sees, by scope and ?prefix=; what is for edges other apps see if the prefix begins with
//	                   edge., but with ?explain=true, which says why one sees what without; with ?interpolate=true with
//	                   every ${reference} replaced, with ?scopeOrder=platform|netflix in that order of precedence;
//	                   with ?index=rev&wait=5m once it differs from what it was at that revision, or the time is over
//	GET    watch       the same as server-sent events: snapshot, change, hash
//	GET    properties  records, by ?filter=, ?key=, ?prefix= and ?q= (words in what a person sees); at most ?limit=
//	POST   properties  set one, by key and scope; If-Match: "rev", or If-None-Match: * for a new one; ?confirm=global
//	                   for one that names a zone, region or stack but no app
//	DELETE properties  every record that ?filter= selects; a large deletion needs ?confirm=
//	GET, PUT, DELETE properties/{id}
//	GET    properties/{app}.properties  what a caller sees, as a Java properties file: Archaius 1 polls it
//	GET    history     versions, by ?id= or ?key=; or by ?app=, ?prefix=, ?filter=, ?since= and ?until=, the newest ?limit=
//	GET    diff        what differs between ?from= and ?to=: a revision, a time, how long ago, or now
//	POST   rollback    a [Restore]: makes things what they were, as a roll-out; a large deletion needs ?confirm=
//	POST   validate    a [Proposal], which is not made: what is wrong with it, and whom it would concern; see [Validation]
//	POST   ack         a reader's [config.Ack]: what it has taken, and what it cannot use
//	POST   rollouts    a [Proposal]; with "start":true it starts at once, else it waits for its start
//	GET    rollouts    those there are, newest first, by ?state= (active, or one), ?app= and ?key=; each is a [Rollout]; of those
//	                   that are over at most ?limit=
//	GET    rollouts/watch       as server-sent events "rollout": all of them, then each that changes
//	GET    rollouts/{id}        one, with its status while it is active
//	GET    rollouts/{id}/watch  one, as events
//	POST   rollouts/{id}/start, pause, resume, advance, approve, abort  body {"reason":"..."} or none
//	GET    /config/archaius2  the records that ?filter= selects, for the persisted-properties reader of Archaius 2
//	GET    /config/spring/{application}/{profiles}[/{label}]  what a caller sees, for Spring Cloud Config clients
//	GET    /config/spring[/{label}]/{application}-{profile}.properties, .yml or .json
//	POST   /config/mahe/properties/create, upsert; GET find, prop; DELETE delete: Spinnaker's fast properties
//
// Changes take ?breakGlass=true while they are frozen, with a reason in the header Roadbed-Why or in the body.
func (s *Store) Mount(surface *api.Surface) {
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /config/v1/resolve":            s.getResolve,
		"GET /config/v1/watch":              s.getWatch,
		"GET /config/v1/properties":         s.getList,
		"POST /config/v1/properties":        s.post,
		"DELETE /config/v1/properties":      s.deleteMany,
		"GET /config/v1/properties/{id}":    s.getOne,
		"PUT /config/v1/properties/{id}":    s.put,
		"DELETE /config/v1/properties/{id}": s.deleteOne,
		"GET /config/v1/history":            s.getHistory,
		"GET /config/archaius2":             s.getPersisted,
		"GET " + springPrefix:               s.getSpring,
		"POST " + mahePrefix + "create":     s.postMahe,
		"POST " + mahePrefix + "upsert":     s.postMahe,
		"GET " + mahePrefix + "find":        s.findMahe,
		"GET " + mahePrefix + "prop":        s.getMahe,
		"DELETE " + mahePrefix + "delete":   s.deleteMahe,

		"GET /config/v1/diff":                     s.getDiff,
		"POST /config/v1/rollback":                s.postRollback,
		"POST /config/v1/validate":                s.postValidate,
		"POST /config/v1/ack":                     s.postAck,
		"POST /config/v1/rollouts":                s.postRollout,
		"GET /config/v1/rollouts":                 s.getRollouts,
		"GET /config/v1/rollouts/watch":           s.watchRollouts,
		"GET /config/v1/rollouts/{id}":            s.getRollout,
		"GET /config/v1/rollouts/{id}/watch":      s.watchRollouts,
		"POST /config/v1/rollouts/{id}/{command}": s.commandRollout,
	} {
		surface.Mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if since := s.stale.Load(); since != 0 {
				w.Header().Set(StaleHeader, strconv.Itoa(int(time.Since(time.Unix(0, since)).Seconds())))
			}
			if err := h(w, r); err != nil {
				api.WriteProblem(w, r, problem(err))
			}
		})
	}
}

// problem gives an error its status.
func problem(err error) error {
	var se huma.StatusError
	if errors.As(err, &se) {
		return se
	}
	var unconfirmed *Unconfirmed
	if errors.As(err, &unconfirmed) {
		return huma.NewError(http.StatusPreconditionRequired, err.Error(), &huma.ErrorDetail{Message: "the token", Location: "query.confirm", Value: unconfirmed.Token})
	}
	status := http.StatusInternalServerError
	for sentinel, code := range map[error]int{
		ErrNotFound: http.StatusNotFound, ErrExists: http.StatusConflict, ErrConflict: http.StatusConflict,
		ErrInvalid: http.StatusUnprocessableEntity, ErrUnavailable: http.StatusServiceUnavailable, ErrLoading: http.StatusServiceUnavailable,
		ErrNoRollout: http.StatusNotFound, ErrBusy: http.StatusConflict, ErrState: http.StatusConflict, ErrFrozen: http.StatusLocked,
	} {
		if errors.Is(err, sentinel) {
			status = code
		}
	}
	return api.Problem(status, "%v", err)
}

// scopeOf reads a caller, or a record's scope, from a query.
func scopeOf(r *http.Request) config.Scope {
	q := r.URL.Query()
	return config.Scope{Env: q.Get("env"), App: q.Get("appId"), Stack: q.Get("stack"), Region: q.Get("region"), Zone: q.Get("zone"),
		Cluster: q.Get("cluster"), Group: q.Get("asg"), AMI: q.Get("ami"), Instance: q.Get("serverId"), Countries: q.Get("countries")}
}

// orderOf reads ?scopeOrder=.
func (s *Store) orderOf(r *http.Request) (Order, error) {
	text := r.URL.Query().Get("scopeOrder")
	if text == "" {
		return s.order, nil
	}
	order, err := ParseOrder(text)
	if err != nil {
		return order, api.Problem(http.StatusBadRequest, "scopeOrder: %v", err)
	}
	return order, nil
}

// flag reads a parameter that is true or absent; anything but what means true is no.
func flag(r *http.Request, name string) bool {
	v, err := strconv.ParseBool(r.URL.Query().Get(name))
	return err == nil && v
}

// Resolved is the answer to resolve. Explain has every record of every key, if it was asked for.
type Resolved struct {
	config.Snapshot
	Explain map[string][]Candidate `json:"explain,omitempty"`
}

func (s *Store) getResolve(w http.ResponseWriter, r *http.Request) error {
	if !s.loaded.Load() {
		return ErrLoading
	}
	order, err := s.orderOf(r)
	if err != nil {
		return err
	}
	ix, scope, prefix := s.index.Load(), s.known(scopeOf(r)), r.URL.Query().Get("prefix")
	s.meet(scope, false)
	c := asCaller(scope, order)
	if !flag(r, "explain") { // which tells what a process gets that asks for everything
		c = c.asking(prefix)
	}
	if r.URL.Query().Has("index") {
		if err := s.longPoll(r, c, prefix); err != nil {
			return err
		}
		ix = s.index.Load()
	}
	answer := Resolved{Snapshot: ix.resolve(c, prefix)}
	if flag(r, "interpolate") {
		if prefix != "" { // what the values name may be elsewhere
			whole := config.Interpolate(ix.resolve(c, "").Properties)
			for key := range answer.Properties {
				answer.Properties[key] = whole[key]
			}
		} else {
			answer.Properties = config.Interpolate(answer.Properties)
		}
	}
	if flag(r, "explain") {
		answer.Explain = map[string][]Candidate{}
		ix.all(prefix, func(rec *record) bool {
			if _, done := answer.Explain[rec.Key]; !done {
				answer.Explain[rec.Key] = ix.explain(rec.Key, scope, order)
			}
			return true
		})
		// An explanation is for people, who are not shown secrets.
		for key, all := range answer.Explain {
			for _, c := range all {
				if c.Wins && c.Sensitive {
					answer.Properties[key] = Mask
				}
			}
		}
		api.WriteJSON(w, answer)
		return nil
	}
	tag := strconv.Quote(config.EventID(answer.Rev, answer.Properties))
	if unchanged(w, r, tag) {
		return nil
	}
	api.WriteJSON(w, answer)
	return nil
}

// Bounds of how long a request with ?index= waits.
const (
	defaultWait = 5 * time.Minute
	mostWait    = 10 * time.Minute
)

// longPoll waits until something that c sees differs from what it was at the revision ?index=, or for ?wait= and up to a
// sixteenth more, so that readers that began together do not come back together. It does not wait if that revision is so
// old, or of another store, that it is not known.
func (s *Store) longPoll(r *http.Request, c *caller, prefix string) error {
	q := r.URL.Query()
	rev, err := strconv.ParseUint(q.Get("index"), 10, 64)
	if err != nil {
		return api.Problem(http.StatusBadRequest, "index is %q; want the rev of an earlier answer", q.Get("index"))
	}
	wait := defaultWait
	if text := q.Get("wait"); text != "" {
		if wait, err = config.ParseDuration(text); err != nil || wait < 0 {
			return api.Problem(http.StatusBadRequest, "wait is %q; want a duration such as 5m, at most %v", text, mostWait)
		}
	}
	wait = min(wait, mostWait)
	wait += rand.N(wait/16 + 1)
	if flag(r, "interpolate") {
		prefix = "" // what the values name may be elsewhere
	}
	at := s.stepFrom(rev)
	if at == nil {
		return nil
	}
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for {
		select {
		case <-at.done:
			for _, m := range at.moves {
				if _, concerns := m.forCaller(c, prefix); concerns {
					return nil
				}
			}
			at = at.next
		case <-limit.C:
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// stepFrom returns the step that led on from the index of a revision, nil if it is not remembered.
func (s *Store) stepFrom(rev uint64) *step {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ix := s.index.Load(); ix.rev == rev {
		return ix.step
	}
	if i, ok := slices.BinarySearchFunc(s.steps, rev, func(p passed, rev uint64) int { return cmp.Compare(p.from, rev) }); ok {
		return s.steps[i].step
	}
	return nil
}

// unchanged sets the ETag, and answers 304 if the client has it already.
func unchanged(w http.ResponseWriter, r *http.Request, tag string) bool {
	w.Header().Set("ETag", tag)
	if has(r, tag) {
		w.WriteHeader(http.StatusNotModified)
		return true
	}
	return false
}

// has reports whether the client says that it has the answer of that ETag.
func has(r *http.Request, tag string) bool {
	for have := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(have), "W/") == tag {
			return true
		}
	}
	return false
}

// filterOf reads ?filter=, ?key=, ?prefix=, ?q= and ?skipPropsWithExtraScopes=.
func filterOf(r *http.Request) (Filter, error) {
	q := r.URL.Query()
	f, err := ParseFilter(q.Get("filter"))
	if err != nil {
		return Filter{}, api.Problem(http.StatusBadRequest, "%v", err)
	}
	for _, name := range []string{"key", "prefix", "q"} {
		if v := q.Get(name); v != "" {
			f.all = append(f.all, []atom{{name, v}})
		}
	}
	if q.Get("skipPropsWithExtraScopes") == "true" {
		f = f.WithoutExtraScopes()
	}
	return f, nil
}

// Listing is the answer to a search. More is how many records it leaves out, because a limit was given.
type Listing struct {
	Properties []Property `json:"properties"`
	More       int        `json:"more,omitempty"`
}

func (s *Store) getList(w http.ResponseWriter, r *http.Request) error {
	f, err := filterOf(r)
	if err != nil {
		return err
	}
	limit := 0
	if text := r.URL.Query().Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return api.Problem(http.StatusBadRequest, "limit is %q; want how many records at most, 1 or more", text)
		}
	}
	if !s.loaded.Load() {
		return ErrLoading
	}
	if unchanged(w, r, fmt.Sprintf(`"%d-%x"`, s.index.Load().rev, r.URL.RawQuery)) {
		return nil
	}
	found := Listing{Properties: s.List(f)}
	if limit > 0 && len(found.Properties) > limit {
		found.Properties, found.More = found.Properties[:limit], len(found.Properties)-limit
	}
	api.WriteJSON(w, found)
	return nil
}

func (s *Store) getOne(w http.ResponseWriter, r *http.Request) error {
	if app, ok := strings.CutSuffix(r.PathValue("id"), propertiesFile); ok {
		return s.getPropertiesFile(w, r, app)
	}
	p, ok := s.Get(r.PathValue("id"))
	if !ok {
		return fmt.Errorf("%w: %s", ErrNotFound, r.PathValue("id"))
	}
	w.Header().Set("ETag", tagOf(p.Rev))
	api.WriteJSON(w, p)
	return nil
}

// Answer is a property as it was just written, with what its writer should know.
type Answer struct {
	Property
	Warnings []string `json:"warnings,omitempty"`
}

func (s *Store) post(w http.ResponseWriter, r *http.Request) error {
	p, err := decode(w, r)
	if err != nil {
		return err
	}
	return s.set(w, r, p)
}

func (s *Store) put(w http.ResponseWriter, r *http.Request) error {
	p, err := decode(w, r)
	if err != nil {
		return err
	}
	if id := ID(p.Key, p.Scope); id != r.PathValue("id") {
		return api.Problem(http.StatusUnprocessableEntity, "key and scope of the body belong to %s, not to %s; key and scope of a property never change: delete it and create another", id, r.PathValue("id"))
	}
	return s.set(w, r, p)
}

func (s *Store) set(w http.ResponseWriter, r *http.Request, p Property) error {
	rev, err := revision(r)
	if err != nil {
		return err
	}
	_, existed := s.current(ID(p.Key, p.Scope))
	out, err := s.Set(allowed(r), p, rev)
	if err != nil {
		return s.conflicting(w, ID(p.Key, p.Scope), err)
	}
	answer := Answer{Property: out.mask()}
	for _, rival := range s.index.Load().rivals(out) {
		answer.Warnings = append(answer.Warnings, "it is exactly as specific as "+rival+"; where both fit, the later one written wins")
	}
	for _, x := range s.documents() {
		if x.State.active() && slices.ContainsFunc(x.Changes, func(e Edit) bool { return e.Record.ID == out.ID }) {
			answer.Warnings = append(answer.Warnings, "roll-out "+x.ID+" of "+x.Actor+" is changing it: those it has reached do not see this, and it will stop before it overwrites it")
		}
	}
	w.Header().Set("ETag", tagOf(out.Rev))
	if !existed {
		w.Header().Set("Location", "/config/v1/properties/"+out.ID)
	}
	api.WriteJSON(w, answer)
	return nil
}

// conflicting adds to the error of a write, if somebody else was faster, what is there now, so that whoever retries need not ask.
func (s *Store) conflicting(w http.ResponseWriter, id string, err error) error {
	if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrExists) {
		return err
	}
	now, ok := s.current(id)
	if !ok {
		return err
	}
	w.Header().Set("ETag", tagOf(now.Rev))
	return huma.NewError(http.StatusConflict, err.Error(), &huma.ErrorDetail{Message: "it was written by " + now.UpdatedBy, Location: "property", Value: now.audit()})
}

func decode(w http.ResponseWriter, r *http.Request) (Property, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2*MaxPacked))
	if err != nil {
		return Property{}, api.Problem(http.StatusRequestEntityTooLarge, "read the property: %v", err)
	}
	p, err := Decode(body)
	if err != nil {
		return Property{}, api.Problem(http.StatusBadRequest, "the body is not a property: %v", err)
	}
	return p, nil
}

// Decode reads a property from JSON. A member it does not know is an error, lest a mistyped scope make a property for
// everybody.
func Decode(body []byte) (Property, error) {
	var p Property
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Property{}, err
	}
	if _, err := d.Token(); err != io.EOF {
		return Property{}, errors.New("something follows it")
	}
	return p, nil
}

func tagOf(rev uint64) string { return strconv.Quote(strconv.FormatUint(rev, 10)) }

// revision reads the precondition of a write.
func revision(r *http.Request) (uint64, error) {
	if r.Header.Get("If-None-Match") == "*" {
		return Absent, nil
	}
	match := r.Header.Get("If-Match")
	if match == "" || match == "*" {
		return Any, nil
	}
	rev, err := strconv.ParseUint(strings.Trim(match, `"`), 10, 64)
	if err != nil || rev == Any || rev == Absent {
		return 0, api.Problem(http.StatusBadRequest, "If-Match is %s; want the rev of the property in quotes", match)
	}
	return rev, nil
}

func (s *Store) deleteOne(w http.ResponseWriter, r *http.Request) error {
	rev, err := revision(r)
	if err != nil {
		return err
	}
	if err := s.Delete(allowed(r), r.PathValue("id"), rev); err != nil {
		return s.conflicting(w, r.PathValue("id"), err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Store) deleteMany(w http.ResponseWriter, r *http.Request) error {
	f, err := filterOf(r)
	if err != nil {
		return err
	}
	if len(f.all) == 0 {
		return api.Problem(http.StatusBadRequest, "say which properties to delete, with filter, key, prefix or q")
	}
	gone, err := s.DeleteAll(allowed(r), f, r.URL.Query().Get("confirm"))
	if err != nil {
		return err
	}
	api.WriteJSON(w, Listing{Properties: gone})
	return nil
}

// Past is the answer to history: versions of records, each list oldest first.
type Past struct {
	History []Property `json:"history"`
}

func (s *Store) getHistory(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	key := q.Get("key")
	ids := []string{q.Get("id")}
	if ids[0] == "" {
		if key == "" || q.Has("since") || q.Has("until") || q.Has("app") {
			for _, name := range []string{"key", "app", "appId", "prefix", "filter", "q", "since", "until"} {
				if q.Get(name) != "" {
					return s.getVersions(w, r)
				}
			}
			return api.Problem(http.StatusBadRequest, "say whose history with key, and scope fields if it has any, or with id, app, prefix, filter or since")
		}
		scope := scopeOf(r)
		ids[0] = ID(key, scope) // it may be deleted, so that no index has it
		if scope == (config.Scope{}) {
			for _, rec := range s.index.Load().keys.get(key) {
				if rec.ID != ids[0] && rec.via == nil {
					ids = append(ids, rec.ID)
				}
			}
		}
	}
	past := Past{History: []Property{}}
	for _, id := range ids {
		versions, err := s.History(r.Context(), id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		past.History = append(past.History, versions...)
	}
	if len(past.History) == 0 {
		return fmt.Errorf("%w: nothing was ever stored under key %q, id %q", ErrNotFound, key, ids[0])
	}
	api.WriteJSON(w, past)
	return nil
}
