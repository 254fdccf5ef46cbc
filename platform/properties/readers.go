package properties

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
)

// Bounds of what is remembered of readers.
const (
	maxReaders  = 100_000
	readerLife  = 10 * time.Minute // after it was last heard of
	maxFlaws    = 100              // of one reader
	maxFlawText = 512
)

// reader is an instance that reads properties here.
type reader struct {
	scope    config.Scope
	watching int // watches open now
	seen     time.Time

	speaks bool   // it acknowledges
	acked  uint64 // the revision it has taken
	flaws  map[string]string
}

// meet notes that an instance reads properties. A watch is open until left is called.
func (s *Store) meet(scope config.Scope, watching bool) (left func()) {
	id := strings.ToLower(scope.Instance)
	if id == "" {
		return func() {}
	}
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	r := s.reader(id)
	if r == nil {
		return func() {}
	}
	r.scope, r.seen = scope, time.Now()
	if !watching {
		return func() {}
	}
	r.watching++
	return func() {
		s.readersMu.Lock()
		defer s.readersMu.Unlock()
		r.watching--
		r.seen = time.Now()
	}
}

// reader returns what is known of an instance, new if need be; nil when there are too many. The caller holds readersMu.
func (s *Store) reader(id string) *reader {
	r := s.readers[id]
	if r == nil {
		if len(s.readers) >= maxReaders {
			return nil
		}
		r = &reader{}
		s.readers[id] = r
	}
	return r
}

// forgetReaders drops those not heard of for long.
func (s *Store) forgetReaders(now time.Time) {
	s.readersMu.Lock()
	defer s.readersMu.Unlock()
	maps.DeleteFunc(s.readers, func(_ string, r *reader) bool { return r.watching == 0 && now.Sub(r.seen) > readerLife })
}

// Ack takes a reader's word that it has taken a revision, and what it could not read there.
func (s *Store) Ack(a config.Ack) error {
	id := strings.ToLower(strings.TrimSpace(a.Instance))
	switch {
	case id == "" || len(id) > 512:
		return invalid("serverId has %d bytes; use 1 to 512", len(id))
	case len(a.Errors) > maxFlaws:
		return invalid("it reports %d errors; %d are allowed", len(a.Errors), maxFlaws)
	}
	flaws := map[string]string{}
	for _, f := range a.Errors {
		flaws[f.Key] = f.Error[:min(len(f.Error), maxFlawText)]
	}
	s.readersMu.Lock()
	r := s.reader(id)
	if r != nil {
		if r.scope.Instance == "" {
			r.scope.Instance = a.Instance
		}
		r.seen, r.speaks, r.acked, r.flaws = time.Now(), true, a.Rev, flaws
	}
	s.readersMu.Unlock()
	wake(s.acks)
	return nil
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fleet is who the registry knows, by id in lower case. It never changes.
type fleet map[string]roadbed.Instance

// fleetAge is how old a fleet may be that is asked for while no roll-out is active.
const fleetAge = time.Second

// seenFleet is a fleet as it was at a time. It never changes.
type seenFleet struct {
	of fleet
	at time.Time
}

// setFleet takes the registry's list.
func (s *Store) setFleet(list []roadbed.Instance) {
	s.takeFleet(list)
	wake(s.fleetNews)
}

func (s *Store) takeFleet(list []roadbed.Instance) fleet {
	f := make(fleet, len(list))
	for _, i := range list {
		f[strings.ToLower(i.ID)] = i
	}
	s.fleet.Store(&seenFleet{f, time.Now()})
	return f
}

// follow has the registry's news brought while a roll-out is active. In a large platform they cost much, and otherwise it
// is enough to ask now and then. What stops that, nil if nothing does, is passed from call to call.
func (s *Store) follow(stop func()) func() {
	switch staging := s.staging(); {
	case s.discovery == nil:
	case staging && stop == nil:
		stop = s.discovery.Watch("", s.setFleet)
		s.following.Store(true)
	case !staging && stop != nil:
		s.following.Store(false)
		stop()
		stop = nil
	case !staging && time.Since(s.fleet.Load().at) > time.Minute:
		s.fleet.Store(&seenFleet{})
	}
	return stop
}

// fleetNow returns who the registry knows.
func (s *Store) fleetNow() fleet {
	if f := s.fleet.Load(); s.discovery == nil || s.following.Load() || time.Since(f.at) < fleetAge {
		return f.of
	}
	return s.takeFleet(s.discovery.Instances(""))
}

// registered returns what the registry says of a caller, of that app if it says which.
func (s *Store) registered(caller config.Scope) (roadbed.Instance, bool) {
	if s.discovery != nil && caller.App != "" { // at once, whenever it registered
		list := s.discovery.Instances(caller.App)
		if i, ok := slices.BinarySearchFunc(list, caller.Instance, func(i roadbed.Instance, id string) int { return strings.Compare(i.ID, id) }); ok {
			return list[i], true
		}
		if caller.Zone != "" && caller.Region != "" {
			return roadbed.Instance{}, false // it lacks too little to go through everybody for it
		}
	}
	i, ok := s.fleetNow()[strings.ToLower(caller.Instance)]
	return i, ok
}

// known fills in what a caller leaves out and its server group, or else the registry, tells.
func (s *Store) known(caller config.Scope) config.Scope {
	caller = derive(caller)
	if caller.Instance == "" {
		return caller
	}
	i, ok := s.registered(caller)
	if !ok {
		return caller
	}
	return derive(over(caller, asRegistered(i)))
}

// over returns a with the fields that it leaves out from b.
func over(a, b config.Scope) config.Scope {
	for _, f := range []struct {
		field *string
		value string
	}{
		{&a.Env, b.Env}, {&a.App, b.App}, {&a.Stack, b.Stack}, {&a.Region, b.Region}, {&a.Zone, b.Zone}, {&a.Cluster, b.Cluster},
		{&a.Group, b.Group}, {&a.AMI, b.AMI}, {&a.Instance, b.Instance}, {&a.Countries, b.Countries},
	} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
	return a
}

// instances returns every instance that the registry knows or that reads here, as it says it is itself, else as the
// registry says, by id.
func (s *Store) instances(order Order) []*caller {
	scopes := map[string]config.Scope{}
	for id, i := range s.fleetNow() {
		scopes[id] = asRegistered(i)
	}
	s.readersMu.Lock()
	for id, r := range s.readers {
		scopes[id] = over(r.scope, scopes[id])
	}
	s.readersMu.Unlock()
	out := make([]*caller, 0, len(scopes))
	for _, id := range slices.Sorted(maps.Keys(scopes)) {
		out = append(out, asCaller(derive(scopes[id]), order))
	}
	return out
}

// population returns the UP instances that r changes something for, those first that a percentage reaches first.
func (s *Store) population(r *Rollout) []*caller {
	f := s.fleetNow()
	var out []*caller
	for _, c := range s.instances(s.order) {
		if i, ok := f[c.field[instanceField]]; ok && i.Status == roadbed.Up && r.concerns(c) {
			out = append(out, c)
		}
	}
	slices.SortStableFunc(out, func(a, b *caller) int {
		return cmp.Compare(Bucket(r.ID, a.field[instanceField]), Bucket(r.ID, b.field[instanceField]))
	})
	return out
}
