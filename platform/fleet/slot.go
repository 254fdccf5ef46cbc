package fleet

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/roadbed/roadbed"
)

// State is where an instance is in its life, as the fleet sees it.
type State string

// The states. UP and DOWN are what the last probes said, whether or not the group takes traffic.
const (
	StateStarting  State = "STARTING"   // started, not yet well
	StateUp        State = "UP"         // well
	StateDown      State = "DOWN"       // was well and answers badly or not at all
	StateStopping  State = "STOPPING"   // on its way out
	StateWaiting   State = "WAITING"    // not running: about to be started, or prevented; Health says why
	StateCrashLoop State = "CRASH_LOOP" // not running: lost several times in a row; Health says why
)

var states = [...]State{StateStarting, StateUp, StateDown, StateStopping, StateWaiting, StateCrashLoop}

// InstanceView is one slot of a server group and its current, or last, life.
type InstanceView struct {
	ID           string     `json:"id" doc:"as in the registry; new with each life"`
	Group        string     `json:"group"`
	Cluster      string     `json:"cluster"`
	App          string     `json:"app"`
	Slot         int        `json:"slot"`
	Zone         string     `json:"zone"`
	Port         int        `json:"port" doc:"0 before it has one"`
	PID          int        `json:"pid" doc:"0 when it does not run"`
	State        State      `json:"state" enum:"STARTING,UP,DOWN,STOPPING,WAITING,CRASH_LOOP"`
	OutOfService bool       `json:"outOfService" doc:"its group is disabled and the registry knows"`
	Health       string     `json:"health" doc:"what the last probe found, or why it does not run"`
	Since        time.Time  `json:"since" doc:"when it came into its state"`
	Restarts     int        `json:"restarts" doc:"of the slot, since the platform started"`
	Next         *time.Time `json:"next,omitempty" doc:"when the next life begins"`
	LastExit     *Exit      `json:"lastExit,omitempty" doc:"how the slot's previous life ended"`
}

// group is a server group as it runs here. Its fields are guarded by Fleet.mu.
type group struct {
	name   string
	rec    record
	ending bool // not in the table any more
	slots  map[int]*slot
}

// healthy reports whether every slot that should be there is UP; Fleet.mu is held.
func (g *group) healthy() bool {
	for n := range g.rec.Group.Capacity.Desired {
		if s := g.slots[n]; s == nil || s.stopping || s.view.State != StateUp {
			return false
		}
	}
	return true
}

// slot keeps one instance of a server group running. One goroutine owns it; what others see is guarded by Fleet.mu.
type slot struct {
	f       *Fleet
	g       *group
	n       int
	name    string // "hello-v000-0"
	zone    string
	moniker roadbed.Moniker
	app     string // as the registry spells it
	spec    Spec   // never changes
	cancel  context.CancelFunc
	ctx     context.Context // ends when the slot should
	done    chan struct{}   // closed when its instance is gone
	poke    chan struct{}   // something about the group changed
	backoff backoff
	pending *roadbed.Change // told once the next life has begun

	// Guarded by Fleet.mu.
	stopping bool
	view     InstanceView
	proc     *process
	log      *logFile
	restart  string // why the current life should end gracefully and another begin
	killed   bool   // somebody asked for the current life's end: it is no crash
}

// startSlot begins to keep slot n of g running, after old has ended if there is one. Fleet.mu is held.
func (f *Fleet) startSlot(g *group, n int, old *slot) *slot {
	grp := g.rec.Group
	s := &slot{
		f: f, g: g, n: n, name: fmt.Sprintf("%s-%d", g.name, n), zone: zoneOf(grp.Zones, n),
		moniker: grp.Moniker, app: strings.ToLower(grp.Moniker.App), spec: g.rec.Spec,
		done: make(chan struct{}), poke: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.view = InstanceView{
		ID: s.name, Group: g.name, Cluster: grp.Moniker.Cluster(), App: s.app, Slot: n, Zone: s.zone,
		State: StateWaiting, Health: "about to be started", Since: time.Now(),
	}
	var after <-chan struct{}
	if old != nil {
		after = old.done
	}
	f.slots.Go(func() { s.keep(after) })
	return s
}

// stop asks the slot to end; Fleet.mu is held.
func (s *slot) stop() {
	s.stopping = true
	s.cancel()
}

func (s *slot) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// set changes what others see.
func (s *slot) set(change func(v *InstanceView)) {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	was := s.view.State
	change(&s.view)
	if s.view.State != was {
		s.view.Since = time.Now()
	}
	s.f.broadcast()
}

// keep lives one life after the other until the slot should end.
func (s *slot) keep(after <-chan struct{}) {
	defer s.finish()
	if after != nil {
		<-after
	}
	for s.ctx.Err() == nil {
		l := s.live()
		if s.ctx.Err() != nil {
			return
		}
		wait := s.lost(l)
		select {
		case <-s.ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (s *slot) finish() {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ports[s.view.Port] == s.name {
		delete(f.ports, s.view.Port)
	}
	if s.log != nil {
		s.log.close()
	}
	if s.g.slots[s.n] == s {
		delete(s.g.slots, s.n)
	}
	close(s.done)
	f.settle(s.g)
	f.broadcast()
}

// loss is how a life ended, or why none began.
type loss struct {
	id      string
	exit    *Exit         // nil if no process was started
	why     string        // a sentence without the slot's name
	healthy time.Duration // the longest time it was well without a break
	asked   bool          // somebody asked for it
}

// lost shows and records a loss, and returns how long to wait before the next life.
func (s *slot) lost(l loss) time.Duration {
	if l.asked {
		s.backoff = backoff{}
		s.pending = s.restarted(l)
		s.set(func(v *InstanceView) {
			v.State, v.PID, v.Health, v.LastExit = StateWaiting, 0, l.why+"; starting another", l.exit
			v.Restarts++
		})
		return 0
	}
	wait := s.backoff.lost(l.healthy)
	next := time.Now().Add(wait)
	text := s.name + " " + l.why
	state := StateWaiting
	if l.exit != nil && s.backoff.looping() {
		state = StateCrashLoop
		text = fmt.Sprintf("%s was lost %d times in a row; it %s", s.name, s.backoff.losses, l.why)
	}
	if wait > 0 {
		text += fmt.Sprintf("; next start in %v", wait)
	}
	if l.exit != nil && len(l.exit.Log) > 0 {
		text += "; its last lines: " + strings.Join(l.exit.Log, " | ")
	}
	s.set(func(v *InstanceView) {
		v.State, v.PID, v.Health, v.LastExit = state, 0, text, l.exit
		v.OutOfService = false
		if wait > 0 {
			v.Next = &next
		}
		if l.exit != nil {
			v.Restarts++
		}
	})
	s.f.log.Warn("instance lost", "instance", l.id, "losses", s.backoff.losses, "why", text)
	switch {
	case !s.backoff.worthTelling():
	case l.exit == nil:
		s.f.say(roadbed.Change{Action: "instance.blocked", Resource: "instance:" + s.name, Why: text})
	case state == StateCrashLoop:
		s.f.say(roadbed.Change{Action: "instance.crashLoop", Resource: "instance:" + l.id, Why: text, Before: asJSON(l.exit)})
	default:
		s.pending = s.restarted(l)
	}
	return wait
}

func (s *slot) restarted(l loss) *roadbed.Change {
	before := struct {
		ID   string `json:"id"`
		Exit *Exit  `json:"exit,omitempty"`
	}{l.id, l.exit}
	return &roadbed.Change{Action: "instance.restart", Why: l.id + " " + l.why, Before: asJSON(before)}
}

// asJSON encodes what is known to be encodable.
func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		b, _ = json.Marshal(err.Error())
	}
	return b
}

// live starts one instance and stays with it to its end.
func (s *slot) live() loss {
	f := s.f
	id := s.name + "-" + suffix()
	port, err := s.takePort()
	if err != nil {
		return loss{id: s.name, why: "cannot be started: " + err.Error()}
	}
	env := s.environment(id, port)
	argv := make([]string, len(s.spec.Command))
	for i, a := range s.spec.Command {
		argv[i] = expand(a, port, s.n, s.zone, f.c.Self)
	}
	path, err := findProgram(argv[0], s.spec.Dir, lookup(env, "PATH"))
	if err != nil {
		return loss{id: s.name, why: "cannot be started: " + err.Error()}
	}
	p, out, err := s.begin(id, launch{path: path, argv: argv, env: env, dir: s.spec.Dir})
	if err != nil {
		return loss{id: s.name, why: "cannot be started: " + err.Error()}
	}
	in := f.newPresence(roadbed.Instance{
		ID: id, App: s.app, Group: s.g.name, VIP: s.app, Host: "127.0.0.1", Port: port,
		Location: roadbed.Location{Region: f.c.Region, Zone: s.zone}, Status: roadbed.Starting,
		Metadata: map[string]string{"zone": s.zone, "criticality": s.spec.Criticality.String(), "driver": "process"},
	}, s.spec.Register == RegisterSelf)
	s.set(func(v *InstanceView) {
		v.ID, v.PID, v.Port, v.State, v.Health = id, p.pid, port, StateStarting, "started, not asked yet"
		v.OutOfService, v.Next, v.Since = false, nil, p.started
	})
	if s.pending != nil {
		s.pending.Resource = "instance:" + id
		s.pending.After = asJSON(struct {
			ID   string `json:"id"`
			PID  int    `json:"pid"`
			Port int    `json:"port"`
		}{id, p.pid, port})
		f.say(*s.pending)
		s.pending = nil
	}
	f.slots.Go(func() { s.mourn(p, id, out, in) })
	l := s.mind(p, id, port, in)
	<-p.exited
	l.id, l.exit = id, &p.exit
	if l.why == "" {
		l.why = p.exit.Why
	}
	f.mu.Lock()
	l.asked = s.killed
	s.proc, s.killed, s.restart = nil, false, ""
	f.mu.Unlock()
	return l
}

// begin opens the log, leaves the record by which the next run would find the process, and starts it.
func (s *slot) begin(id string, l launch) (*process, *os.File, error) {
	f := s.f
	if err := f.logs.prune(s.g.name, s.n, 1); err != nil {
		f.log.Warn("cannot remove old logs", "slot", s.name, "err", err)
	}
	log, err := createLog(f.logs.file(id), f.maxLog, f.log)
	if err != nil {
		return nil, nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		log.close()
		return nil, nil, err
	}
	defer w.Close()
	l.out = w
	rec := pidRecord{ID: id, Since: nowTicks(), Boot: bootID()}
	err = f.pids.write(rec)
	var p *process
	if err == nil {
		p, err = f.spawn.start(l)
	}
	if err != nil {
		r.Close()
		log.close()
		return nil, nil, errors.Join(err, f.pids.remove(id), os.Remove(f.logs.file(id)))
	}
	f.guard.add(p, id)
	rec.PID, rec.Ticks = p.pid, p.ticks
	if err := f.pids.write(rec); err != nil {
		f.log.Warn("cannot remember an instance; if the platform and its guard are killed it may stay", "instance", id, "err", err)
	}
	f.mu.Lock()
	old := s.log
	s.proc, s.log = p, log
	f.mu.Unlock()
	if old != nil {
		old.close()
	}
	return p, r, nil
}

// mourn waits for the process's end and cleans up after it. The first thing it does is to take it out of traffic.
func (s *slot) mourn(p *process, id string, out *os.File, in *presence) {
	f := s.f
	copied := make(chan struct{})
	go func() { defer close(copied); s.log.copyFrom(out) }()
	if err := p.wait(in.leave); err != nil {
		f.log.Warn("waiting for an instance", "instance", id, "err", err)
	}
	// What left the group but not the family goes too; it may hold the port and the log.
	if pids := slayInstances(f.c.Dir, map[string]pidRecord{id: {ID: id, PID: p.pid, Ticks: p.ticks, Since: p.ticks}}); len(pids) > 0 {
		f.log.Warn("killed processes that had left their instance's process group", "instance", id, "pids", pids)
	}
	f.guard.remove(p)
	if err := f.pids.remove(id); err != nil {
		f.log.Warn("cannot forget an instance; the next start will", "instance", id, "err", err)
	}
	out.SetReadDeadline(time.Now().Add(time.Second)) //nolint:errcheck // a pipe takes deadlines; without one the end still comes
	<-copied
	out.Close()
	s.log.end()
	p.exit.Log, _ = s.log.tail(5)
	ran := time.Duration(p.exit.Ran * float64(time.Second)).Round(time.Millisecond)
	if ran > 10*time.Second {
		ran = ran.Round(time.Second)
	}
	switch {
	case p.exit.Signal != "":
		p.exit.Why = fmt.Sprintf("was ended by signal %s after %v", p.exit.Signal, ran)
	case p.exit.Code == 0:
		p.exit.Why = fmt.Sprintf("exited with code 0 after %v; a service must not end, and must stay in the foreground", ran)
	default:
		p.exit.Why = fmt.Sprintf("exited with code %d after %v", p.exit.Code, ran)
	}
	close(p.exited)
}

// mind asks after the process until it exits, or must be stopped, and stops it then.
func (s *slot) mind(p *process, id string, port int, in *presence) (l loss) {
	f, pace := s.f, s.f.pace
	probing, stopProbing := context.WithCancel(context.Background())
	ask := prober{client: f.prober, addr: net.JoinHostPort("127.0.0.1", fmt.Sprint(port)), health: s.spec.Health}
	answers := make(chan verdict, 1)
	asking := false
	defer func() {
		stopProbing()
		if asking {
			<-answers
		}
	}()
	probe := func() {
		asking = true
		go func() {
			ctx, cancel := context.WithTimeout(probing, pace.probeTimeout)
			defer cancel()
			answers <- ask.probe(ctx)
		}()
	}
	timer := time.NewTimer(pace.probeFirst / 2)
	defer timer.Stop()

	var (
		well, ever  bool
		wellSince   time.Time
		failures    int // in a row
		unanswered  int // in a row
		outApplied  bool
		isRetry     <-chan time.Time
		stop        = s.ctx.Done()
		wellFor     = func() { l.healthy = max(l.healthy, time.Since(wellSince)) }
		statusNow   = roadbed.Starting
		applyStatus = func() {
			// A disabled group's instance must not be UP for a moment: first the override, then the status.
			if s.disabled() && !outApplied {
				return
			}
			in.status(statusNow)
		}
		refusedSince time.Time // of the registry, to set the override
		complained   bool
	)
	applyOverride := func() {
		isRetry = nil
		want := s.disabled()
		if want == outApplied {
			return
		}
		if err := in.override(want); err != nil {
			// At first this is usual: the registry has not heard of the instance yet.
			if refusedSince.IsZero() {
				refusedSince = time.Now()
			}
			if !complained && time.Since(refusedSince) > 3*time.Second {
				complained = true
				f.log.Warn("cannot tell the registry about an instance of a disabled group; trying on", "instance", id, "disabled", want, "err", err)
			}
			isRetry = time.After(pace.probeFirst)
			return
		}
		refusedSince, complained = time.Time{}, false
		outApplied = want
		s.set(func(v *InstanceView) { v.OutOfService = want })
		applyStatus()
	}
	applyOverride()
	for {
		select {
		case <-p.exited:
			if well {
				wellFor()
			}
			return l
		case <-stop:
			s.terminate(p, in, well)
			return l
		case <-s.poke:
			applyOverride()
			f.mu.Lock()
			why := s.restart
			f.mu.Unlock()
			if why != "" {
				s.terminate(p, in, well)
				l.why = why
				return l
			}
		case <-isRetry:
			applyOverride()
		case <-timer.C:
			probe()
		case v := <-answers:
			asking = false
			running := time.Since(p.started)
			switch {
			case v.ok:
				failures, unanswered = 0, 0
				if !well {
					well, ever, wellSince = true, true, time.Now()
					statusNow = roadbed.Up
					applyStatus()
					s.set(func(i *InstanceView) { i.State = StateUp })
				}
				if time.Since(wellSince) >= backoffReset {
					s.backoff = backoff{}
				}
			default:
				failures++
				if unanswered++; v.answered {
					unanswered = 0
				}
				if well && failures >= pace.downAfter {
					wellFor()
					well = false
					statusNow = roadbed.Down
					applyStatus()
					s.set(func(i *InstanceView) { i.State = StateDown })
				}
			}
			text := v.text
			if v.refused && running > pace.probeEarly {
				text = s.whereElse(p, port, text)
			}
			s.set(func(i *InstanceView) { i.Health = text })
			switch {
			case ever && unanswered >= pace.deadAfter:
				l.why = fmt.Sprintf("did not answer %d times in a row (%s) and was restarted", unanswered, v.text)
			case !ever && running > pace.startGrace:
				l.why = fmt.Sprintf("was not well within %v of its start (%s) and was restarted", pace.startGrace, v.text)
			}
			if l.why != "" {
				s.terminate(p, in, well)
				return l
			}
			switch {
			case well && failures == 0:
				timer.Reset(pace.probeLate)
			case running < pace.firstFor:
				timer.Reset(pace.probeFirst)
			default:
				timer.Reset(pace.probeEarly)
			}
		}
	}
}

// whereElse says where a process listens that does not on its port.
func (s *slot) whereElse(p *process, port int, otherwise string) string {
	ports := listening(p.pid)
	switch {
	case len(ports) == 0:
		return otherwise
	case slices.Contains(ports, port):
		return fmt.Sprintf("%s listens on port %d but not at 127.0.0.1; let it listen at 127.0.0.1 or 0.0.0.0", s.name, port)
	}
	list := make([]string, len(ports))
	for i, x := range ports {
		list[i] = fmt.Sprint(x)
	}
	return fmt.Sprintf("%s does not answer on port %d but listens on %s; pass {port} or read $PORT", s.name, port, strings.Join(list, ", "))
}

// terminate stops the process gracefully: out of traffic, a pause, SIGTERM, patience, SIGKILL. It returns when it is
// gone.
func (s *slot) terminate(p *process, in *presence, traffic bool) {
	pace := s.f.pace
	s.set(func(v *InstanceView) { v.State, v.Health = StateStopping, "being stopped" })
	if in.retire() && traffic {
		select {
		case <-p.exited:
			return
		case <-time.After(pace.drain):
		}
	}
	// A process that was stopped by a signal hears SIGTERM only when it goes on.
	err := errors.Join(p.signal(syscall.SIGTERM), p.signal(syscall.SIGCONT))
	select {
	case <-p.exited:
		return
	case <-time.After(pace.killWait):
	}
	s.f.log.Warn("an instance did not end when asked; killing it", "slot", s.name, "pid", p.pid, "waited", pace.killWait)
	if err = errors.Join(err, p.signal(syscall.SIGKILL)); err != nil {
		s.f.log.Error("cannot signal an instance", "slot", s.name, "pid", p.pid, "err", err)
	}
	<-p.exited
}

func (s *slot) disabled() bool {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	return s.g.rec.Group.Disabled
}

// takePort returns the port of this life: the one asked for, or one of the range that nobody listens on, the slot's
// last one if possible.
func (s *slot) takePort() (int, error) {
	f := s.f
	if s.spec.Port > 0 {
		port := s.spec.Port + s.n
		if by := s.claim(port); by != "" {
			return 0, fmt.Errorf("port %d belongs to %s; destroy that, or choose another port", port, by)
		}
		if err := portFree(port); err != nil {
			return 0, explainPort(port, err)
		}
		return port, nil
	}
	f.mu.Lock()
	last := s.view.Port
	f.mu.Unlock()
	if last != 0 && s.claim(last) == "" && portFree(last) == nil {
		return last, nil
	}
	for port := f.c.Ports.First; port <= f.c.Ports.Last; port++ {
		if s.claim(port) == "" && portFree(port) == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port from %d to %d is free", f.c.Ports.First, f.c.Ports.Last)
}

// claim makes port the slot's only one, unless another slot has it, whose name it returns.
func (s *slot) claim(port int) (by string) {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if by := f.ports[port]; by != "" && by != s.name {
		return by
	}
	if f.ports[s.view.Port] == s.name {
		delete(f.ports, s.view.Port)
	}
	f.ports[port] = s.name
	s.view.Port = port
	return ""
}

// portFree returns nil if a process could listen on port at 127.0.0.1 now, or why not.
func portFree(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

// explainPort says what to do about an error of portFree.
func explainPort(port int, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		by := portHolder(port)
		if by == "" {
			by = "another process"
		}
		return fmt.Errorf("port %d is taken by %s; stop that, or choose another port", port, by)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("port %d is reserved for the system; choose one from 1024 on", port)
	}
	return fmt.Errorf("port %d cannot be used: %w", port, err)
}

// suffix returns four random characters that make an instance id unique.
func suffix() string {
	var b [3]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))[:4]
}

func (s *slot) cacheDir() string { return filepath.Join(s.f.c.Dir, "cache", s.name) }
