// Package properties is the server of dynamic configuration: it keeps properties with their scopes, decides which one
// wins for whom, and pushes changes to those they concern. At Netflix this was the server side of Archaius.
//
// A [Property] is a key, a value and a scope: the app, region, server group and so on it is for, or nothing for
// everybody. Of all records of one key whose scope fits a caller, the most specific wins: instance before server
// group, image, cluster, zone, region, stack, app, env, countries. So
//
//	timeout=1000
//	timeout=900   appId=api
//	timeout=800   appId=api region=eu
//	timeout=700   appId=api region=eu asg=api-prod-v042
//
// is 900 for the api in the US, 800 in Europe, 700 in that one server group, and 1000 for every other app. Package
// [config] is the client.
//
// A write is checked against the property's type and constraint, recorded in the ledger, stored in the engine, and
// then acknowledged. Reads come from an immutable index in memory.
//
// # Roll-outs
//
// A [Rollout] brings changes to one instance first, then to 5 % of its zone, to that zone, to that region, to all, unless
// it names other steps:
//
//	POST /config/v1/rollouts {"changes":[{"record":{"key":"timeout","value":"900","appId":"api"}}],"start":true}
//
// Those it has reached see what everybody will see in the end. Each step waits until its readers have taken it, is
// watched for a while and judged. It goes back by itself, with one write, when a reader reports that it cannot use a
// value, when instances it has reached leave UP more than others do, or when a metric rule strikes. At the end the
// records are written, and nobody notices. A person can pause, resume, advance, approve and abort; everything it goes
// through is in the ledger. The life of a roll-out:
//
//	VALIDATED -> RUNNING (APPLYING -> BAKING -> ANALYSING, per step) -> FOLDING -> DONE
//	RUNNING <-> PAUSED, both -> ROLLED_BACK; FOLDING -> PAUSED (CONFLICT) -> UNFOLDING -> ROLLED_BACK
//
// The property cfg.freeze.<env>=true, or cfg.freeze.all=true, stops every change of that env, and every step of
// roll-outs, but for those who break the glass with a reason.
//
// # What it promises
//   - An acknowledged write is durable, in the ledger, and seen by the next read.
//   - A value that breaks its type or constraint is refused with the rule it breaks.
//   - With a revision given, a write succeeds only if nobody wrote in between.
//   - Reads and watches go on while the engine is away, marked with X-Config-Stale; writes are refused.
//   - A watcher hears only what changes for it, and after a break resumes without a full copy if nothing did.
//   - What is for edges, a key edge.* whose record says not whose it is, goes to other apps only if they ask for it by name.
//   - A sensitive value leaves only by what processes read, to those who use it; never by list, history or the ledger.
//   - Deleting many properties at once needs a confirmation that names exactly those.
//   - A roll-out reaches nobody less until it is rolled back, whoever steers it: one node does, another takes over within
//     ten seconds, and without any it stays where it is. Any node can abort it.
//   - The changes of a roll-out come together and go together.
//   - One roll-out at a time changes a key of an app and env.
//
// # What it does not
//   - It does not authenticate readers: whoever may reach the listener may resolve.
//   - Scopes are a caller's claim, not its proven identity.
//   - It keeps 64 versions of a property, and the 500 newest roll-outs that are over.
//   - A reader that does not acknowledge is not waited for.
package properties

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
)

// Config says where a store keeps its properties.
type Config struct {
	Engine *engine.Engine
	Ledger *ledger.Ledger
	Order  Order // of precedence, for those who ask for no other
	Log    *slog.Logger

	// Discovery tells of the instances that roll-outs reach; without it none is chosen one by one, and nobody's health
	// is watched.
	Discovery *discovery.Client

	// Measure returns the newest value of a query, in the Atlas stack language, of one line, over the instances of these
	// ids; NaN when there is no data. Without it roll-outs with metric rules do not get past their first step.
	Measure func(ctx context.Context, query string, instances []string) (float64, error)
}

// tableName is the engine's table; history is how many versions of a property it keeps.
const (
	tableName   = "properties"
	history     = 64
	reportsName = "rollout-reports"
)

// How many records there may be, and how many that name one app.
const (
	MaxRecords = 1_000_000
	MaxPerApp  = 10_000
)

// Why a write or a look-up did not happen.
var (
	ErrNotFound    = errors.New("no such property")
	ErrExists      = errors.New("the property exists already")
	ErrConflict    = errors.New("somebody else changed the property")
	ErrInvalid     = errors.New("refused")
	ErrUnavailable = errors.New("properties cannot be written now")
	ErrUnconfirmed = errors.New("it must be confirmed")
	ErrLoading     = errors.New("the properties are not loaded yet")
)

// Revisions with a meaning of their own for [Store.Set] and [Store.Delete].
const (
	Any    uint64 = 0         // whatever is there
	Absent uint64 = 1<<64 - 1 // nothing may be there
)

// Store keeps the properties. Its methods may be called from many goroutines.
type Store struct {
	engine *engine.Engine
	ledger *ledger.Ledger
	table  *engine.Table[stored]
	order  Order
	log    *slog.Logger

	writing sync.Mutex // held while a write runs, so that the ledger's Before is what the write replaced

	mu    sync.Mutex            // held while the index is replaced
	index atomic.Pointer[index] // never nil; what it points to never changes
	steps []passed              // the last ones, oldest first; guarded by mu
	live  map[string]*record    // what index holds, by id; guarded by mu

	rollouts    map[string]*overlay // by id in the table; guarded by mu
	rolloutNews chan struct{}       // closed when rollouts change; guarded by mu

	readersMu sync.Mutex
	readers   map[string]*reader        // by id in lower case; guarded by readersMu
	acks      chan struct{}             // holds a token when a reader has acknowledged
	fleet     atomic.Pointer[seenFleet] // as it was last told or asked for; never nil
	following atomic.Bool               // it is told of every change
	fleetNews chan struct{}             // holds a token when fleet was replaced
	discovery *discovery.Client         // nil = there is none

	node      string                          // who this is among the nodes
	leading   atomic.Pointer[context.Context] // ends when this node leads no more; nil = it does not
	steering  sync.Mutex                      // held while it steers
	tidied    time.Time                       // when it last tidied up; guarded by steering
	reports   *engine.Table[report]
	measure   func(ctx context.Context, query string, instances []string) (float64, error)
	judge     func(r *Rollout, s Status) float64 // 0 to 100
	watchMu   sync.Mutex
	observers map[string]*observer // by roll-out; guarded by watchMu
	reported  map[string]time.Time // when this node told what, by key of reports; only of tend
	heard     map[string]heard     // of all nodes, by key of reports; only of tend
	wg        sync.WaitGroup       // of what tend starts

	polls polls

	linesMu sync.Mutex
	lines   sync.WaitGroup // watches that go on without net/http; guarded by linesMu but for Wait
	ended   chan struct{}  // closed when Run has ended; guarded by linesMu

	perApp map[string]int // how many of them name an app, in lower case; guarded by mu

	loaded atomic.Bool  // the table was read to its end once
	stale  atomic.Int64 // since when the engine refuses writes, Unix nanoseconds; 0 = it does not
}

// New opens the properties in c.Engine. Reads and writes work when it returns, provided the engine or a snapshot of it
// was there; [Store.Run] brings what other processes write and tells when the engine is away.
func New(ctx context.Context, c Config) (*Store, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	table, err := engine.OpenTable[stored](ctx, c.Engine, tableName, history)
	if err != nil {
		return nil, fmt.Errorf("properties: %w", err)
	}
	reports, err := engine.OpenTable[report](ctx, c.Engine, reportsName, 1)
	if err != nil {
		return nil, fmt.Errorf("properties: %w", err)
	}
	s := &Store{engine: c.Engine, ledger: c.Ledger, table: table, order: c.Order, log: c.Log, live: map[string]*record{}, perApp: map[string]int{},
		rollouts: map[string]*overlay{}, rolloutNews: make(chan struct{}),
		discovery: c.Discovery, node: nodeName(), reports: reports, measure: c.Measure, observers: map[string]*observer{},
		reported: map[string]time.Time{}, heard: map[string]heard{},
		judge:   func(_ *Rollout, s Status) float64 { return compare(s) },
		readers: map[string]*reader{}, acks: make(chan struct{}, 1), fleetNews: make(chan struct{}, 1), ended: make(chan struct{})}
	s.fleet.Store(&seenFleet{})
	s.index.Store(&index{step: newStep()})
	s.load()
	return s, nil
}

// load brings everything that the table has into the index, once the table is known to have everything.
func (s *Store) load() {
	if s.loaded.Load() || s.table.Known().IsZero() {
		return
	}
	var ids []string
	for _, e := range s.table.List("") {
		ids = append(ids, e.Key)
	}
	s.refresh(ids...)
	s.loaded.Store(true)
}

// nodeName is a name that no other process has.
func nodeName() string { return fmt.Sprintf("%d-%s", os.Getpid(), strings.ToLower(rand.Text()[:8])) }

// Run follows the engine and tends roll-outs until ctx ends, then returns nil.
func (s *Store) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer s.endLines()
	s.wg.Go(func() { s.lead(ctx) })
	s.wg.Go(func() { s.tend(ctx) })
	defer s.wg.Wait()
	events := s.table.Watch(ctx, "")
	defer func() {
		cancel()
		for range events { // the watch ends when its channel is read to the end
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-events:
			if !ok {
				<-ctx.Done() // the engine closed first; reads go on
				return nil
			}
			ids := []string{ev.Entry.Key}
			for more := true; more && ok && len(ids) < 10_000; { // a burst of events is one new index
				select {
				case ev, ok = <-events:
					ids = append(ids, ev.Entry.Key)
				default:
					more = false
				}
			}
			s.refresh(ids...)
		case <-tick.C:
			if err := s.engine.Health(); err == nil {
				if s.stale.Swap(0) != 0 {
					s.log.Info("properties can be written again")
				}
			} else {
				since := s.table.Known()
				if since.IsZero() {
					since = time.Now()
				}
				if s.stale.CompareAndSwap(0, since.UnixNano()) {
					s.log.Warn("properties cannot be written; reads go on", "err", err)
				}
			}
		}
		s.load()
	}
}

// Set stores p under its key and scope, provided it is at revision rev: [Any] is whatever is there, [Absent] nothing. The
// actor is taken from ctx, as [api.As] put it there. It returns p as it is stored now.
//
// Type, constraint and description that p leaves empty stay as they were; a new record takes type and constraint from
// the other records of its key. A property that was sensitive once stays so until it is deleted.
//
// It fails with [ErrInvalid] if p breaks a rule, [ErrConflict] or [ErrExists] if rev is not what is there, and
// [ErrUnavailable] if the engine or the ledger refuses writes.
func (s *Store) Set(ctx context.Context, p Property, rev uint64) (Property, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	p.Scope = canonical(p.Scope)
	p.ID = ID(p.Key, p.Scope)
	before, exists := s.current(p.ID)
	switch {
	case rev == Absent && exists:
		return before, fmt.Errorf("%w: %s at revision %d", ErrExists, p.name(), before.Rev)
	case rev != Absent && rev != Any && !exists:
		return Property{}, fmt.Errorf("%w: %s was deleted", ErrConflict, p.name())
	case rev != Absent && rev != Any && before.Rev != rev:
		return before, fmt.Errorf("%w: %s is at revision %d, not %d; read it again", ErrConflict, p.name(), before.Rev, rev)
	}
	s.inherit(&p, before, exists)
	if err := p.check(); err != nil {
		return Property{}, err
	}
	if err := s.admit(ctx, p, exists); err != nil {
		return Property{}, err
	}
	mark, err := s.brake(ctx, p)
	if err != nil {
		return Property{}, err
	}
	change := api.Change(ctx, "property.set", "property:"+p.Key)
	change.Why = mark + change.Why
	p.RolloutID = ""
	return s.write(ctx, change, p, before)
}

// write stores p over before, which is absent if its Rev is 0, with an entry in the ledger.
func (s *Store) write(ctx context.Context, change roadbed.Change, p, before Property) (Property, error) {
	p.UpdatedBy, p.TS, p.Rev, p.Deleted = change.Actor, max(time.Now().UnixMilli(), before.TS+1), 0, false
	if before.Rev != 0 && !before.Deleted {
		change.Before = before.audit()
	}
	change.After = p.audit()
	err := s.apply(ctx, change, func(ctx context.Context) error {
		next, err := s.table.Update(ctx, p.ID, stored{Property: p}, before.Rev)
		p.Rev = next
		return err
	})
	s.refresh(p.ID)
	if err != nil {
		return Property{}, s.explain(p, err)
	}
	return p, nil
}

// Recorded returns a context in which writes make no ledger entry of their own: a room that keeps its own resources as
// properties has recorded the change in its own words, with [ledger.Ledger.Apply] around the write.
func Recorded(ctx context.Context) context.Context {
	return context.WithValue(ctx, recordedKey{}, true)
}

type recordedKey struct{}

func (s *Store) apply(ctx context.Context, change roadbed.Change, do func(context.Context) error) error {
	if ctx.Value(recordedKey{}) != nil {
		return do(ctx)
	}
	return s.ledger.Apply(ctx, change, do)
}

// AllowGlobal returns a context in which a record may be written that names a zone, region or stack but no app, and so
// overrides what every app has there. Whoever calls it has asked, or knows, that this is meant.
func AllowGlobal(ctx context.Context) context.Context {
	return context.WithValue(ctx, globalKey{}, true)
}

type globalKey struct{}

// brake refuses a change of p while changes are frozen, as thaw does; but not what other rooms keep as properties, and
// not the letting go of the brake.
func (s *Store) brake(ctx context.Context, p Property) (mark string, err error) {
	if ctx.Value(recordedKey{}) != nil || strings.HasPrefix(p.Key, freezePrefix) {
		return "", nil
	}
	return s.thaw(ctx, p.Env)
}

// admit refuses what is too much, and what needs a confirmation.
func (s *Store) admit(ctx context.Context, p Property, exists bool) error {
	if p.App == "" && (p.Zone != "" || p.Region != "" || p.Stack != "") && ctx.Value(globalKey{}) == nil {
		return &Unconfirmed{Count: 1, Token: "global", What: p.name() + " would override it for every app there"}
	}
	if exists {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.live) >= MaxRecords {
		return invalid("there are %d properties, as many as may be; delete some", MaxRecords)
	}
	for _, app := range values(strings.ToLower(p.App)) {
		if s.perApp[app] >= MaxPerApp {
			return invalid("app %s has %d properties, as many as may be; delete some", app, MaxPerApp)
		}
	}
	return nil
}

// inherit gives p what it leaves to the record it replaces, or to the other records of its key.
func (s *Store) inherit(p *Property, before Property, exists bool) {
	if !exists {
		for _, r := range s.index.Load().keys.get(p.Key) {
			if r.via != nil {
				continue
			}
			p.Sensitive = p.Sensitive || r.Sensitive
			if p.Type == "" {
				p.Type = r.Type
				if p.Constraint == nil {
					p.Constraint = r.Constraint
				}
			}
		}
		return
	}
	p.Sensitive = p.Sensitive || before.Sensitive
	if p.Type == "" {
		p.Type = before.Type
	}
	if p.Constraint == nil && p.Type == before.Type {
		p.Constraint = before.Constraint
	}
	if p.Description == "" {
		p.Description = before.Description
	}
}

// Delete removes the property of that id, provided it is at revision rev; [Any] is whatever it is at. Its history
// stays, with who deleted it. It fails as Set does, and with [ErrNotFound].
func (s *Store) Delete(ctx context.Context, id string, rev uint64) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.delete(ctx, id, rev)
}

func (s *Store) delete(ctx context.Context, id string, rev uint64) error {
	before, exists := s.current(id)
	if !exists {
		return fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if rev != Any && before.Rev != rev {
		return fmt.Errorf("%w: %s is at revision %d, not %d; read it again", ErrConflict, before.name(), before.Rev, rev)
	}
	mark, err := s.brake(ctx, before)
	if err != nil {
		return err
	}
	change := api.Change(ctx, "property.delete", "property:"+before.Key)
	change.Why = mark + change.Why
	return s.remove(ctx, change, before, "")
}

// remove deletes before, on behalf of a roll-out perhaps, with an entry in the ledger.
func (s *Store) remove(ctx context.Context, change roadbed.Change, before Property, rollout string) error {
	change.Before = before.audit()
	mark := before
	mark.Value, mark.Deleted, mark.UpdatedBy, mark.TS, mark.Rev, mark.RolloutID = "", true, change.Actor, time.Now().UnixMilli(), 0, rollout
	err := s.apply(ctx, change, func(ctx context.Context) error {
		// The mark stays in the history and says who deleted; readers skip it should the second write not happen.
		marked, err := s.table.Update(ctx, before.ID, stored{Property: mark}, before.Rev)
		if err != nil {
			return err
		}
		return s.table.Delete(ctx, before.ID, marked)
	})
	s.refresh(before.ID)
	return s.explain(before, err)
}

// A deletion of more than one property needs a confirmation when it takes more than guardCount, or more than one
// guardShare-th of an app's.
const (
	guardCount = 50
	guardShare = 5
)

// DeleteAll removes every property that filter selects and returns them. Above 50, or a fifth of an app's properties,
// it fails with an [*Unconfirmed], whose Token must be given as confirm in a second call; the token is valid as long
// as exactly the same properties in the same revisions are selected.
func (s *Store) DeleteAll(ctx context.Context, filter Filter, confirm string) ([]Property, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	var out []Property
	s.index.Load().all(filter.prefix(), func(r *record) bool {
		if filter.Match(r.Property) {
			out = append(out, r.Property)
		}
		return true
	})
	if n := s.guarded(out); n > 0 && confirmation(out) != confirm {
		return nil, &Unconfirmed{Count: n, Token: confirmation(out), What: fmt.Sprintf("%d properties would go", n)}
	}
	for i, p := range out {
		if err := s.delete(ctx, p.ID, p.Rev); err != nil {
			return masked(out[:i]), fmt.Errorf("%d of %d properties are deleted: %w", i, len(out), err)
		}
	}
	return masked(out), nil
}

// guarded returns how many of these properties a deletion of all of them takes, if that needs a confirmation, else 0.
func (s *Store) guarded(gone []Property) int {
	mine := map[string]int{}
	for _, p := range gone {
		for _, app := range orAny(p.App) {
			mine[app]++
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ask := len(gone) > guardCount
	for app, n := range mine {
		ask = ask || len(gone) > 1 && n*guardShare > s.perApp[app]
	}
	if !ask {
		return 0
	}
	return len(gone)
}

// Unconfirmed is a change that needs a confirmation. It is an [ErrUnconfirmed].
type Unconfirmed struct {
	Count int    // how many properties it is about
	Token string // confirms it
	What  string // would happen
}

// Error says what to repeat.
func (u *Unconfirmed) Error() string {
	return fmt.Sprintf("%v: %s; repeat it with confirm=%s", ErrUnconfirmed, u.What, u.Token)
}

// Unwrap returns [ErrUnconfirmed].
func (u *Unconfirmed) Unwrap() error { return ErrUnconfirmed }

// Get returns the property of that id, its value masked if it is sensitive.
func (s *Store) Get(id string) (Property, bool) {
	p, ok := s.current(id)
	if !ok {
		return Property{}, false
	}
	return p.mask(), true
}

// List returns the properties that filter selects, by key and then by how general they are; sensitive values are
// masked.
func (s *Store) List(filter Filter) []Property {
	out := []Property{}
	s.index.Load().all(filter.prefix(), func(r *record) bool {
		if filter.Match(r.Property) {
			out = append(out, r.mask())
		}
		return true
	})
	return out
}

// History returns the versions of the property of that id, oldest first, at most 64; sensitive values are masked. The
// last version of a deleted one is Deleted and says by whom. It fails with [ErrNotFound] if there never was one.
func (s *Store) History(ctx context.Context, id string) ([]Property, error) {
	if isRollout(id) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	revs, err := s.table.History(ctx, id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w: %w", id, ErrUnavailable, err)
	}
	var out []Property
	for _, r := range revs {
		if r.Deleted {
			continue // the mark before it says who
		}
		p := r.Value.Property
		p.Rev = r.Rev
		out = append(out, p.mask())
	}
	return out, nil
}

// Resolve returns what a caller sees: the winning value of every key. Sensitive values are in clear. It fails with
// [ErrLoading] when the store never saw its data.
func (s *Store) Resolve(caller config.Scope) (config.Snapshot, error) {
	if !s.loaded.Load() {
		return config.Snapshot{}, ErrLoading
	}
	return s.index.Load().resolve(asCaller(s.known(caller), s.order), ""), nil
}

// Value returns the winning value of one key for a caller.
func (s *Store) Value(caller config.Scope, key string) (string, bool) {
	r := s.index.Load().winner(key, asCaller(s.known(caller), s.order).asking(key))
	if r == nil {
		return "", false
	}
	return r.Value, true
}

// current returns the record of id with its revision, straight from the table, so that one of another process is seen.
func (s *Store) current(id string) (Property, bool) {
	e, ok := s.table.Get(id)
	if !ok || e.Value.Rollout != nil {
		return Property{}, false
	}
	p := e.Value.Property
	p.ID, p.Rev = id, e.Rev
	return p, !p.Deleted
}

// explain makes an engine's or ledger's error one of this package's.
func (s *Store) explain(p Property, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrConflict), errors.Is(err, engine.ErrExists), errors.Is(err, engine.ErrNotFound):
		return fmt.Errorf("%w: %s; read it again: %w", ErrConflict, p.name(), err)
	default:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}
