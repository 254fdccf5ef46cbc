// Package chaos breaks things on purpose, for a while, and puts them back. At Netflix this was FIT's control plane, in
// the house of the Simian Army; monkeys and experiments come later.
//
// A [Fault], also called a scenario, says what happens ([fault] rules) to whose requests, where, until when. It is kept as the property
// fault.scenario.<id>, so that it reaches every edge within milliseconds of being added; the edge signs the rules into
// requests in scope, and services obey the signature. The key they share is the sensitive property fault.key. Setting
// the property ipc.fit.enabled to false stops all injection at once, in every process; [Chaos.StopAll] does, and ends
// all scenarios.
//
//	POST /api/v1/faults {"rules":"server:ratings=error(503)@25","who":{"percent":10},"expires":"..."}
//
// [OnlyCritical] is an experiment: it tries, on a sample of members and on synthetic ones, whether they can live without
// everything that says it is not critical, stops itself when they cannot, and tells which service is critical in secret.
//
// [Recipes] are templates of rules with names and parameters: "fail everything that is not critical", "lose a zone".
//
// Several scenarios may be in force at once. A request that several concern gets the rules of all: their delays add up,
// and the error of the oldest counts. Those of an experiment tolerate no other beside them.
//
// # What it promises
//   - Every fault ends by itself, ten minutes after it was added unless told otherwise, and never after more than a day.
//   - Rules that services would not understand, or that do not fit a request's header, are refused.
//   - Adding, altering, removing and expiring are in the ledger, the last by the actor "chaos".
//   - If this room is away faults still end: edges and services look at the time themselves.
//   - While injection is switched off no fault can be added, so that nothing begins by surprise when it is on again.
//
// # What it does not
//   - It does not stop a fault because customers suffer; that is for whoever added it. Experiments stop themselves.
package chaos

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/ledger"
	"github.com/roadbed/roadbed/platform/properties"
)

// Config says where faults are kept and recorded.
type Config struct {
	Properties *properties.Store
	Ledger     *ledger.Ledger
	Log        *slog.Logger
}

// Bounds of a fault.
const (
	DefaultLease = 10 * time.Minute
	MaxLease     = 24 * time.Hour
	MaxActive    = 100 // faults at once
)

// Names of the properties that are this room's.
const (
	scenarios = "fault.scenario."
	keyName   = "fault.key"

	switchName = "ipc.fit.enabled"
)

// Fault is what shall happen to whose requests until when.
type Fault struct {
	ID          string    `json:"id,omitempty" doc:"Letters, digits, '-' and '_', at most 64. Made up when absent."`
	Description string    `json:"description,omitempty" doc:"What it is for, in a few words." maxLength:"1024"`
	Rules       string    `json:"rules" doc:"What happens: point:glob=action[@percent], separated by semicolons." example:"server:ratings=error(503)@25"`
	Who         Who       `json:"who,omitzero" required:"false" doc:"To whose requests."`
	Where       Where     `json:"where,omitzero" required:"false" doc:"In which processes, and on which routes. Everywhere when absent."`
	Experiment  string    `json:"experiment,omitempty" doc:"The experiment it belongs to: it tolerates no fault beside it that is not of the same." maxLength:"64"`
	Owner       string    `json:"owner,omitempty" doc:"Who answers for it; whoever added it when absent." maxLength:"128"`
	Expires     time.Time `json:"expires,omitzero" required:"false" doc:"When it ends by itself: at most 24 hours from now, in 10 minutes when absent."`
	Actor       string    `json:"actor,omitempty" doc:"Who added it. Given by the platform."`
	Why         string    `json:"why,omitempty" doc:"Their reason. Given by the platform from the header Roadbed-Why."`
	Created     time.Time `json:"created,omitzero" required:"false" doc:"When it was added. Given by the platform."`
}

// Who selects requests. All that is given must hold: the request's user is one of Users and its device one of Devices,
// it carries every Header, and its user, or its own id if it names none, falls among the Percent. The zero Who is
// everybody, as is one without a Percent; 0 % is nobody.
type Who struct {
	Percent *float64          `json:"percent,omitempty" doc:"Of users, stable per user: 0 is nobody; 100 when absent." minimum:"0" maximum:"100"`
	Users   []string          `json:"users,omitempty" doc:"These users."`
	Devices []string          `json:"devices,omitempty" doc:"These devices, as the header X-Device names them."`
	Header  map[string]string `json:"header,omitempty" doc:"Requests that carry all of these."`
}

// Where limits faults to some places. All that is given must hold.
type Where struct {
	Zones    []string `json:"zones,omitempty" doc:"Only in processes of these zones."`
	Clusters []string `json:"clusters,omitempty" doc:"Only in processes of these clusters, e.g. api-prod."`
	Routes   []string `json:"routes,omitempty" doc:"Only requests that take one of these routes of the edge."`
}

// Why a call did not do what was asked. Those below ErrInvalid are also ErrInvalid.
var (
	ErrNotFound = errors.New("no such fault")
	ErrExists   = errors.New("the fault exists already")
	ErrInvalid  = errors.New("refused")
	ErrPercent  = fmt.Errorf("%w: the percentage makes no sense", ErrInvalid)
	ErrPast     = fmt.Errorf("%w: its time is over already", ErrInvalid)
	ErrLease    = fmt.Errorf("%w: it would last too long", ErrInvalid)
	ErrRules    = fmt.Errorf("%w: its rules cannot be used", ErrInvalid)
	ErrTooMany  = fmt.Errorf("%w: too many faults are in force", ErrInvalid)
	ErrOverlap  = fmt.Errorf("%w: it would overlap another fault", ErrInvalid)
	ErrOff      = fmt.Errorf("%w: injection is switched off", ErrInvalid)
)

// Chaos keeps the faults. Its methods may be called from many goroutines.
type Chaos struct {
	props  *properties.Store
	ledger *ledger.Ledger
	log    *slog.Logger
	adding sync.Mutex // held from looking for others until the fault is there
}

// New returns the room. It makes the signing key if there is none yet and properties can be written; if they cannot,
// [Chaos.Run] goes on trying.
func New(ctx context.Context, c Config) (*Chaos, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	x := &Chaos{props: c.Properties, ledger: c.Ledger, log: c.Log}
	if err := x.makeKey(ctx); err != nil && !errors.Is(err, properties.ErrUnavailable) && !errors.Is(err, properties.ErrLoading) {
		return nil, fmt.Errorf("chaos: make the signing key: %w", err)
	}
	return x, nil
}

// makeKey makes the signing key, once in the platform's life.
func (x *Chaos) makeKey(ctx context.Context) error {
	known, err := x.props.Resolve(config.Scope{})
	if err != nil {
		return err // not loaded: there may be a key
	}
	if known.Properties[keyName] != "" {
		return nil
	}
	var secret [32]byte
	rand.Read(secret[:]) // never fails
	_, err = x.props.Set(api.As(ctx, "chaos", "first start"), properties.Property{
		Key: keyName, Value: hex.EncodeToString(secret[:]), Sensitive: true, Source: "chaos",
		Description: "signs the faults that travel with requests; delete it to have another made",
	}, properties.Absent)
	if errors.Is(err, properties.ErrExists) || errors.Is(err, properties.ErrConflict) {
		return nil // another process was faster
	}
	return err
}

// Run removes faults whose time is over, until ctx ends, and then returns nil.
func (x *Chaos) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	reported := "" // what the log was last told
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := errors.Join(x.makeKey(ctx), x.reap(ctx, time.Now())); err == nil {
				reported = ""
			} else if reported != err.Error() && ctx.Err() == nil {
				reported = err.Error()
				x.log.Warn("faults cannot be kept in order; trying on", "err", err)
			}
		}
	}
}

// reap removes what has expired, and what is no fault at all.
func (x *Chaos) reap(ctx context.Context, now time.Time) error {
	var errs []error
	for _, p := range x.stored() {
		f, err := decode(p)
		why := "its time was over"
		if err != nil {
			why = "it is not a fault: " + err.Error()
		} else if now.Before(f.Expires) {
			continue
		}
		errs = append(errs, x.remove(api.As(ctx, "chaos", why), "fault.expire", p))
	}
	return errors.Join(errs...)
}

// Add begins a fault for whoever asked in ctx, and returns it completed. It fails with [ErrInvalid] or [ErrExists], or
// with what [properties.Store.Set] fails with.
func (x *Chaos) Add(ctx context.Context, f Fault) (Fault, error) {
	if f.ID == "" {
		f.ID = newID("f-")
	}
	if x.off() {
		return Fault{}, fmt.Errorf("%w; `roadbed fit enable` switches it on", ErrOff)
	}
	if n := len(x.stored()); n >= MaxActive {
		return Fault{}, fmt.Errorf("%w: %d, as many as may be; remove one first", ErrTooMany, n)
	}
	change := api.Change(ctx, "fault.add", "fault:"+f.ID)
	f.Actor, f.Why, f.Created = change.Actor, change.Why, time.Now().UTC()
	return x.put(ctx, change, f, properties.Absent)
}

func newID(prefix string) string { return prefix + strings.ToLower(rand.Text()[:8]) }

// Alter replaces rules, scope, description and expiry of a fault. It fails as Add does, and with [ErrNotFound].
func (x *Chaos) Alter(ctx context.Context, id string, f Fault) (Fault, error) {
	old, p, err := x.find(id)
	if err != nil {
		return Fault{}, err
	}
	change := api.Change(ctx, "fault.alter", "fault:"+id)
	if change.Before, err = json.Marshal(old); err != nil {
		return Fault{}, err
	}
	f.ID, f.Actor, f.Why, f.Created, f.Owner = id, change.Actor, change.Why, old.Created, cmp.Or(f.Owner, old.Owner)
	return x.put(ctx, change, f, p.Rev)
}

func (x *Chaos) put(ctx context.Context, change roadbed.Change, f Fault, rev uint64) (Fault, error) {
	now := time.Now().UTC()
	if f.Expires.IsZero() {
		f.Expires = now.Add(DefaultLease)
	}
	f.Expires = f.Expires.UTC()
	if f.Who.Percent == nil {
		f.Who.Percent = new(100.0)
	}
	f.Owner = cmp.Or(f.Owner, f.Actor)
	if err := f.check(now); err != nil {
		return Fault{}, err
	}
	x.adding.Lock()
	defer x.adding.Unlock()
	for _, other := range x.List() {
		if other.ID != f.ID && f.Experiment != other.Experiment {
			return Fault{}, fmt.Errorf("%w: %s (%s), by %s, ends in %s, and one of the two is an experiment, which must be alone; wait, or remove it", ErrOverlap,
				other.ID, cmp.Or(other.Description, other.Rules), other.Owner, time.Until(other.Expires).Round(time.Second))
		}
	}
	value, err := json.Marshal(f)
	if err != nil {
		return Fault{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	change.After = value
	err = x.ledger.Apply(ctx, change, func(ctx context.Context) error {
		_, err := x.props.Set(properties.Recorded(ctx), properties.Property{
			Key: scenarios + f.ID, Value: string(value), Type: "json", Source: "chaos", Description: cmp.Or(f.Description, "a fault"),
		}, rev)
		return err
	})
	if errors.Is(err, properties.ErrExists) {
		return Fault{}, fmt.Errorf("%w: %s; choose another id, or none", ErrExists, f.ID)
	}
	return f, err
}

// Remove ends a fault. It fails with [ErrNotFound].
func (x *Chaos) Remove(ctx context.Context, id string) error {
	_, p, err := x.find(id)
	if err != nil {
		return err
	}
	return x.remove(ctx, "fault.remove", p)
}

func (x *Chaos) remove(ctx context.Context, action string, p properties.Property) error {
	change := api.Change(ctx, action, "fault:"+strings.TrimPrefix(p.Key, scenarios))
	if json.Valid([]byte(p.Value)) {
		change.Before = json.RawMessage(p.Value)
	}
	return x.ledger.Apply(ctx, change, func(ctx context.Context) error {
		return x.props.Delete(properties.Recorded(ctx), p.ID, p.Rev)
	})
}

// StopAll switches injection off in every process, and ends all faults. Nothing can be injected until [Chaos.Enable].
func (x *Chaos) StopAll(ctx context.Context) error {
	if err := x.turn(ctx, "fault.stop", "false"); err != nil {
		return err
	}
	var errs []error
	for _, p := range x.stored() {
		if err := x.remove(ctx, "fault.remove", p); err != nil && !errors.Is(err, properties.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Enable allows injection again after [Chaos.StopAll].
func (x *Chaos) Enable(ctx context.Context) error { return x.turn(ctx, "fault.enable", "true") }

// turn sets the switch.
func (x *Chaos) turn(ctx context.Context, action, to string) error {
	change := api.Change(ctx, action, "property:"+switchName)
	change.After = json.RawMessage(to)
	return x.ledger.Apply(ctx, change, func(ctx context.Context) error {
		_, err := x.props.Set(properties.Recorded(ctx), properties.Property{
			Key: switchName, Value: to, Type: "bool", Source: "chaos", Description: "whether faults are injected at all",
		}, properties.Any)
		return err
	})
}

// off reports whether one of the two switches is thrown for everybody.
func (x *Chaos) off() bool {
	for _, name := range []string{switchName, "fault.enabled"} {
		if text, ok := x.props.Value(config.Scope{}, name); ok {
			if on, err := config.ParseBool(text); err == nil && !on {
				return true
			}
		}
	}
	return false
}

// List returns the faults in force, the one that ends first first.
func (x *Chaos) List() []Fault {
	now := time.Now()
	out := []Fault{}
	for _, p := range x.stored() {
		if f, err := decode(p); err == nil && now.Before(f.Expires) {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Fault) int { return cmp.Or(a.Expires.Compare(b.Expires), strings.Compare(a.ID, b.ID)) })
	return out
}

// Get returns one fault in force. It fails with [ErrNotFound].
func (x *Chaos) Get(id string) (Fault, error) {
	f, _, err := x.find(id)
	return f, err
}

func (x *Chaos) find(id string) (Fault, properties.Property, error) {
	p, ok := x.props.Get(properties.ID(scenarios+id, config.Scope{}))
	if !ok {
		return Fault{}, p, fmt.Errorf("%w: %s; it may have expired", ErrNotFound, id)
	}
	f, err := decode(p)
	if err != nil || !time.Now().Before(f.Expires) {
		return Fault{}, p, fmt.Errorf("%w: %s has expired", ErrNotFound, id)
	}
	return f, p, nil
}

// stored returns the records that hold faults.
func (x *Chaos) stored() []properties.Property { return x.props.List(properties.Prefix(scenarios)) }

func decode(p properties.Property) (Fault, error) {
	var f Fault
	if err := json.Unmarshal([]byte(p.Value), &f); err != nil {
		return Fault{}, err
	}
	if f.ID != strings.TrimPrefix(p.Key, scenarios) {
		return Fault{}, fmt.Errorf("its id %q is not that of its key %q", f.ID, p.Key)
	}
	return f, nil
}

func (w Where) places() []string { return slices.Concat(w.Zones, w.Clusters, w.Routes) }

// check returns the first rule that f breaks.
func (f Fault) check(now time.Time) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	if f.ID == "" || len(f.ID) > 64 || strings.ContainsFunc(f.ID, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) {
		return refuse("id %q: use letters, digits, - and _, at most 64", f.ID)
	}
	places := f.Where.places()
	for _, p := range places {
		if p == "" || len(p) > 64 || strings.ContainsFunc(p, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`[]|;=@#"\`, r) }) {
			return refuse("%q is no name of a zone, a cluster or a route", p)
		}
	}
	if _, err := fault.ParseRules(f.Rules); err != nil {
		return fmt.Errorf("%w: %w", ErrRules, err)
	}
	rules := fault.Within(fault.Within(f.Rules, f.Where.Zones), f.Where.Clusters)
	if n := len(fault.Sign(nil, f.ID, f.Expires, rules)); n > fault.MaxHeader {
		return fmt.Errorf("%w: they make a header of %d bytes; %d are allowed: use globs, or several faults", ErrRules, n, fault.MaxHeader)
	}
	switch {
	case !f.Expires.After(now):
		return fmt.Errorf("%w: it expires at %s; give a time to come", ErrPast, f.Expires.Format(time.RFC3339))
	case f.Expires.After(now.Add(MaxLease + time.Minute)): // a minute for clocks that differ
		return fmt.Errorf("%w: until %s; at most %v from now is allowed", ErrLease, f.Expires.Format(time.RFC3339), MaxLease)
	case !(*f.Who.Percent >= 0 && *f.Who.Percent <= 100):
		return fmt.Errorf("%w: %v; use 0 to 100; 0 is nobody", ErrPercent, *f.Who.Percent)
	case len(f.Who.Users) > 1000 || len(f.Who.Devices) > 1000 || len(f.Who.Header) > 16 || len(places) > 64:
		return refuse("at most 1000 users, 1000 devices, 16 headers and 64 places")
	case len(f.Description) > 1024:
		return refuse("the description has %d bytes; 1024 are allowed", len(f.Description))
	}
	for name := range f.Who.Header {
		if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' }) {
			return refuse("header %q is not a name of a header", name)
		}
	}
	return nil
}
