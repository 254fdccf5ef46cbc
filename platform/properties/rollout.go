package properties

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/roadbed/roadbed/config"
)

// Rollout brings one or several changes to few instances, then to more, then to all, and takes them back by itself if
// those instances suffer. It is one document, so that its changes come and go together.
//
// Whoever it has reached sees what everybody will see when it is done: a change in place of the record it replaces, as
// specific as that record is. Stored records are not touched until the end.
type Rollout struct {
	ID    string `json:"id"` // ascending in time; given by the store
	Title string `json:"title,omitempty"`

	Changes []Edit `json:"changes"` // at least one; no two of the same record
	Steps   []Step `json:"steps"`   // the last is for all
	Guards  Guards `json:"guards,omitzero"`

	// Where it stands. Given by the store.
	State  State     `json:"state"`
	Phase  Phase     `json:"phase,omitempty"`
	Step   int       `json:"step"`             // index in Steps of the last one applied; -1 = none
	Since  time.Time `json:"since"`            // when it got there
	Reason string    `json:"reason,omitempty"` // why it is there
	Chosen []string  `json:"chosen,omitempty"` // instances that steps chose one by one, in lower case, sorted

	Created time.Time `json:"created"`
	Actor   string    `json:"actor"`             // who made it
	Why     string    `json:"why,omitempty"`     // and why
	Starter string    `json:"starter,omitempty"` // who started it: in whose name the records are written in the end
	History []Passage `json:"history,omitempty"` // how it got where it stands, oldest first, the last 100

	Rev uint64 `json:"rev,omitempty"` // of the document; grows with each passage

	Status *Status `json:"status,omitempty"` // how it does now, while it is active; never stored
}

// Status is how a roll-out does.
type Status struct {
	Reached int `json:"reached"` // instances the registry knows, UP since the step began, that see it
	Lost    int `json:"lost"`    // of them that left UP, restarted or vanished
	Others  int `json:"others"`  // that it concerns and that do not see it
	Missed  int `json:"missed"`  // of the others that left UP, restarted or vanished

	Readers int          `json:"readers"` // that see it and acknowledge what they take
	Acked   int          `json:"acked"`   // of them that did
	Flaws   []ReaderFlaw `json:"flaws,omitempty"`

	Waiting string    `json:"waiting,omitempty"` // for what
	Until   time.Time `json:"until,omitzero"`    // when the step has baked
}

// ReaderFlaw is a property that a reader could not use.
type ReaderFlaw struct {
	Instance string `json:"serverId"`
	config.Flaw
}

// Edit is one change of a roll-out: of the record of Record's key and scope.
type Edit struct {
	Op     Op        `json:"op"`               // set when empty
	Record Property  `json:"record"`           // to delete one, key and scope are enough
	Exact  bool      `json:"exact,omitempty"`  // Record is taken as it is; else what it leaves empty stays as it was
	Before *Property `json:"before,omitempty"` // what it replaces; absent when nothing is there. Given by the store
}

// Op is what an [Edit] does.
type Op string

// What an Edit does.
const (
	SetOp    Op = "set"
	DeleteOp Op = "delete"
)

// Step is whom a roll-out reaches next, and what must hold before it goes on.
type Step struct {
	Selector Selector  `json:"selector"`
	Bake     *Duration `json:"bake,omitempty"`    // how long it is watched; 10 minutes when absent
	NeedAck  *float64  `json:"needAck,omitempty"` // share, 0 to 1, of its readers that must say they took it, within a minute; 0.95 when absent
	Approval Approval  `json:"approval,omitempty"`
}

// Approval says who lets a roll-out take a step.
type Approval string

// NoApproval lets it go by itself, ManualApproval waits until a person approves.
const (
	NoApproval     Approval = "none"
	ManualApproval Approval = "manual"
)

// Defaults of a [Step].
const (
	defaultBake    = 10 * time.Minute
	defaultNeedAck = 0.95
)

// Bounds of a roll-out.
const (
	maxEdits     = 1000
	maxSteps     = 50
	maxChosen    = 1000
	maxBake      = 30 * 24 * time.Hour
	maxDocument  = 256 << 10
	keptPassages = 100
)

// Selector says which instances a step reaches: all that everything given fits. Written as text, e.g. "instances:1",
// "percent:5,zone:zone-a", "asg:api-prod-v042" or "all". The zone or region "first" is that of the first instance that
// the roll-out chose.
type Selector struct {
	Instances int     // this many of the UP ones, chosen once; alone
	Percent   float64 // the share of instances whose [Bucket] is below it, including those that start later
	Zone      string
	Region    string
	Group     string // server group
	All       bool   // alone
}

// first stands for the place of the first chosen instance.
const first = "first"

var (
	_ encoding.TextMarshaler   = Selector{}
	_ encoding.TextUnmarshaler = (*Selector)(nil)
)

// String returns the text of a selector.
func (s Selector) String() string {
	if s.All {
		return "all"
	}
	var parts []string
	if s.Instances > 0 {
		parts = append(parts, "instances:"+strconv.Itoa(s.Instances))
	}
	if s.Percent > 0 {
		parts = append(parts, "percent:"+strconv.FormatFloat(s.Percent, 'g', -1, 64))
	}
	for _, f := range []struct{ name, value string }{{"zone", s.Zone}, {"region", s.Region}, {"asg", s.Group}} {
		if f.value != "" {
			parts = append(parts, f.name+":"+f.value)
		}
	}
	return strings.Join(parts, ",")
}

// MarshalText writes the text of a selector.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the text of a selector.
func (s *Selector) UnmarshalText(b []byte) error {
	text := strings.TrimSpace(string(b))
	out := Selector{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), ":")
		value = strings.TrimSpace(value)
		field := map[string]*string{"zone": &out.Zone, "region": &out.Region, "asg": &out.Group}[name]
		var err error
		switch {
		case name == "all" && value == "" && !out.All:
			out.All = true
		case name == "instances" && out.Instances == 0:
			if out.Instances, err = strconv.Atoi(value); err == nil && (out.Instances < 1 || out.Instances > maxChosen) {
				err = fmt.Errorf("use 1 to %d", maxChosen)
			}
		case name == "percent" && out.Percent == 0:
			if out.Percent, err = strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64); err == nil && !(out.Percent > 0 && out.Percent <= 100) {
				err = fmt.Errorf("use more than 0, at most 100")
			}
		case field != nil && *field == "" && value != "":
			*field = value
		default:
			err = fmt.Errorf("write all, instances:N, percent:P, zone:Z, region:R or asg:A, several of the last four joined by commas")
		}
		if err != nil {
			return fmt.Errorf("selector %q: %q: %w", text, part, err)
		}
	}
	if (out.All || out.Instances > 0) && strings.Contains(text, ",") {
		return fmt.Errorf("selector %q: all and instances stand alone", text)
	}
	*s = out
	return nil
}

// Bucket is where an instance stands in a roll-out, 0 to 9999: those below 100 times the percentage are in it. It is
// the same wherever and whenever it is computed: XXH64 of both ids, the instance's in lower case, modulo 10000.
func Bucket(rollout, instance string) int {
	var d xxhash.Digest
	d.Reset()
	d.WriteString(rollout)                   //nolint:errcheck // a hash takes everything
	d.WriteString(strings.ToLower(instance)) //nolint:errcheck // as above
	return int(d.Sum64() % 10000)
}

// fits reports whether a step's selector takes c in. Chosen instances are looked at elsewhere.
func (s Selector) fits(rollout string, c *caller) bool {
	if s.All || s == (Selector{}) {
		return s.All
	}
	if s.Instances > 0 || s.Percent > 0 && (c.field[instanceField] == "" || float64(Bucket(rollout, c.field[instanceField])) >= s.Percent*100) {
		return false
	}
	for _, f := range []struct {
		want string
		have int
	}{{s.Zone, zoneField}, {s.Region, regionField}, {s.Group, groupField}} {
		if f.want != "" && !strings.EqualFold(f.want, c.field[f.have]) {
			return false
		}
	}
	return true
}

// Duration is a duration that is text in JSON: "5m", "90s", or a number of milliseconds.
type Duration time.Duration

// MarshalText writes a duration as Go does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalJSON reads "5m", or a number of milliseconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		text = string(b)
	}
	v, err := config.ParseDuration(text)
	*d = Duration(v)
	return err
}

func lasting(d time.Duration) *Duration { return (*Duration)(&d) }

// Guards say what makes a roll-out go back by itself, beyond a reader that reports an error in one of its properties.
type Guards struct {
	Health  HealthGuard  `json:"health,omitzero"`
	Metrics []MetricRule `json:"metrics,omitempty"` // at most 20
	Pass    float64      `json:"pass,omitempty"`    // least score, 0 to 100, at the end of a step; 80 when absent
	// Marginal is the score, at least Pass, below which a person must look at it first. Pass when absent.
	Marginal float64 `json:"marginal,omitempty"`
}

// HealthGuard compares how many instances left UP, restarted or vanished since a step began: among those it reached,
// and among the others. It strikes when so many more did than the others' share explains, by number and by percentage.
type HealthGuard struct {
	Instances int     `json:"instances,omitempty"` // 1 when absent
	Points    float64 `json:"points,omitempty"`    // of the instances reached, in percent; 1 when absent
	Off       bool    `json:"off,omitempty"`
}

// MetricRule strikes when what a query says of the instances reached compares so with a threshold.
type MetricRule struct {
	Query     string  `json:"query"`              // in the Atlas stack language, of one line
	Compare   string  `json:"compare"`            // ">" or "<"
	Threshold float64 `json:"threshold"`          // of the value, or of its ratio to the control group's
	Relative  bool    `json:"relative,omitempty"` // the value divided by that of as many instances not reached
}

// State is where a roll-out stands.
type State string

// Phase tells more about a state.
type Phase string

// The states of a roll-out, and the phases of those that have some.
const (
	Draft      State = "DRAFT"     // being put together; never stored
	Validated  State = "VALIDATED" // it may start
	Running    State = "RUNNING"
	Paused     State = "PAUSED"      // whoever it reached keeps it; it reaches nobody else
	Folding    State = "FOLDING"     // everybody has it; the records are being written
	Unfolding  State = "UNFOLDING"   // nobody has it any more; what Folding wrote is being put back
	Done       State = "DONE"        // the records are written; the end
	RolledBack State = "ROLLED_BACK" // everything is as it was; the end

	Applying  Phase = "APPLYING"          // of Running: its readers are told
	Baking    Phase = "BAKING"            // of Running: it is watched
	Analysing Phase = "ANALYSING"         // of Running: it is judged, or waits while changes are frozen
	Awaiting  Phase = "AWAITING_APPROVAL" // of Paused: of the next step
	Conflict  Phase = "CONFLICT"          // of Paused: a record changed since; to go on is to overwrite it
)

// stage is a state with its phase.
type stage struct {
	State
	Phase
}

func (r *Rollout) stage() stage { return stage{r.State, r.Phase} }

// Passage is one transition of a roll-out.
type Passage struct {
	At    time.Time `json:"at"`
	Event string    `json:"event"`
	State State     `json:"state"` // it led to
	Phase Phase     `json:"phase,omitempty"`
	Step  int       `json:"step"`
	Actor string    `json:"actor"`
	Why   string    `json:"why,omitempty"`
}

// event is what happens to a roll-out.
type event string

const (
	evValidate event = "validate"
	evStart    event = "start"
	evApplied  event = "applied"  // its readers took it
	evBaked    event = "baked"    // its time is over
	evPassed   event = "passed"   // the judge is content
	evDoubt    event = "doubt"    // the judge is not sure
	evStall    event = "stall"    // readers do not take it
	evFail     event = "fail"     // a guard struck
	evPause    event = "pause"    // a person
	evResume   event = "resume"   // a person
	evAdvance  event = "advance"  // a person does not want to wait
	evApprove  event = "approve"  // a person
	evAbort    event = "abort"    // a person
	evConflict event = "conflict" // a record is not what it was
	evFolded   event = "folded"
	evUnfolded event = "unfolded"
)

// events are all of them.
var events = []event{evValidate, evStart, evApplied, evBaked, evPassed, evDoubt, evStall, evFail, evPause, evResume, evAdvance, evApprove, evAbort, evConflict, evFolded, evUnfolded}

// move is what an event does.
type move int

const (
	refused  move = iota
	validate      // to VALIDATED
	next          // to the next step; from the last to FOLDING; to AWAITING_APPROVAL if a person must approve first
	enter         // to the next step, approved
	again         // to the step it is in, from its beginning
	bake
	analyse
	pause
	disagree // to CONFLICT
	fold
	unfold
	finish
	undo // to ROLLED_BACK
)

// transitions is the life of a roll-out. What is not in it is refused.
var transitions = map[stage]map[event]move{
	{Draft, ""}:          {evValidate: validate},
	{Validated, ""}:      {evStart: next, evAbort: undo},
	{Running, Applying}:  {evApplied: bake, evStall: pause, evFail: undo, evPause: pause, evAdvance: next, evAbort: undo},
	{Running, Baking}:    {evBaked: analyse, evFail: undo, evPause: pause, evAdvance: next, evAbort: undo},
	{Running, Analysing}: {evPassed: next, evDoubt: pause, evFail: undo, evPause: pause, evAdvance: next, evAbort: undo},
	{Paused, ""}:         {evFail: undo, evResume: again, evAdvance: next, evAbort: undo},
	{Paused, Awaiting}:   {evFail: undo, evApprove: enter, evAbort: undo},
	{Paused, Conflict}:   {evResume: fold, evAbort: unfold},
	{Folding, ""}:        {evConflict: disagree, evFolded: finish, evAbort: unfold},
	{Unfolding, ""}:      {evUnfolded: undo},
	{Done, ""}:           {},
	{RolledBack, ""}:     {},
}

// pass makes r what ev makes of it, at a time, by somebody, for a reason. It fails with [ErrState].
func (r *Rollout) pass(ev event, now time.Time, actor, why string) error {
	m := transitions[r.stage()][ev]
	if m == next && r.Step+1 == len(r.Steps) {
		m = fold
	}
	to := stage{Running, Applying}
	step := r.Step
	switch m {
	case refused:
		return fmt.Errorf("%w: roll-out %s is %s, and %s", ErrState, r.ID, r.stage(), r.advice())
	case validate:
		to = stage{Validated, ""}
	case next:
		if r.Steps[step+1].Approval == ManualApproval {
			to = stage{Paused, Awaiting}
		} else {
			step++
		}
	case enter:
		step++
	case again:
	case bake:
		to = stage{Running, Baking}
	case analyse:
		to = stage{Running, Analysing}
	case pause:
		to = stage{Paused, ""}
	case disagree:
		to = stage{Paused, Conflict}
	case fold:
		to = stage{Folding, ""}
	case unfold:
		to = stage{Unfolding, ""}
	case finish:
		to = stage{Done, ""}
	case undo:
		to = stage{RolledBack, ""}
	}
	r.State, r.Phase, r.Step, r.Since, r.Reason = to.State, to.Phase, step, now, why
	r.History = append(r.History[:len(r.History):len(r.History)], Passage{At: now, Event: string(ev), State: to.State, Phase: to.Phase, Step: step, Actor: actor, Why: why})
	if n := len(r.History); n > keptPassages {
		r.History = r.History[n-keptPassages:]
	}
	return nil
}

// String returns "RUNNING", or "RUNNING (BAKING)".
func (s stage) String() string {
	if s.Phase == "" {
		return string(s.State)
	}
	return fmt.Sprintf("%s (%s)", s.State, s.Phase)
}

// advice says what a person can do with r where it stands.
func (r *Rollout) advice() string {
	var can []string
	for _, ev := range []event{evStart, evApprove, evPause, evResume, evAdvance, evAbort} {
		if transitions[r.stage()][ev] != refused {
			can = append(can, string(ev))
		}
	}
	if len(can) == 0 {
		if r.State.Over() {
			return "its life is over"
		}
		return "it will end by itself"
	}
	return "you can " + strings.Join(can, ", ")
}

// Over reports whether a state is an end.
func (s State) Over() bool { return s == Done || s == RolledBack }

// active reports whether some callers see r's changes, or what they replaced, instead of what is stored.
func (s State) active() bool {
	return s == Running || s == Paused || s == Folding || s == Unfolding
}

// everyone reports whether r has reached all callers.
func (r *Rollout) everyone() bool {
	switch r.State {
	case Folding, Unfolding:
		return true
	case Running, Paused:
		return r.Phase == Conflict || r.Step >= 0 && r.Steps[r.Step].Selector.All
	}
	return false
}

// reaches reports whether r has reached a caller.
func (r *Rollout) reaches(c *caller) bool {
	if r.everyone() {
		return true
	}
	if _, chosen := slices.BinarySearch(r.Chosen, c.field[instanceField]); chosen && c.field[instanceField] != "" {
		return true
	}
	return slices.ContainsFunc(r.Steps[:r.Step+1], func(s Step) bool { return s.Selector.fits(r.ID, c) })
}

// defaultSteps are those of a roll-out that names none.
func defaultSteps() []Step {
	return []Step{
		{Selector: Selector{Instances: 1}, Bake: lasting(5 * time.Minute)},
		{Selector: Selector{Percent: 5, Zone: first}},
		{Selector: Selector{Zone: first}},
		{Selector: Selector{Region: first}, Bake: lasting(15 * time.Minute)},
		{Selector: Selector{All: true}},
	}
}

// blindSteps are those of a roll-out that names none and concerns no instance that the registry knows: readers may be
// there all the same.
func blindSteps() []Step {
	return []Step{
		{Selector: Selector{Percent: 1}, Bake: lasting(5 * time.Minute)},
		{Selector: Selector{Percent: 10}},
		{Selector: Selector{Percent: 50}, Bake: lasting(15 * time.Minute)},
		{Selector: Selector{All: true}},
	}
}

// complete fills in what r leaves to defaults.
func (r *Rollout) complete() {
	if len(r.Steps) == 0 {
		r.Steps = defaultSteps()
	}
	if !r.Steps[len(r.Steps)-1].Selector.All {
		r.Steps = append(r.Steps[:len(r.Steps):len(r.Steps)], Step{Selector: Selector{All: true}})
	}
	for i := range r.Steps {
		s := &r.Steps[i]
		if s.Bake == nil {
			s.Bake = lasting(defaultBake)
		}
		if s.NeedAck == nil {
			share := defaultNeedAck
			s.NeedAck = &share
		}
		if s.Approval == "" {
			s.Approval = NoApproval
		}
	}
	for i := range r.Changes {
		if r.Changes[i].Op == "" {
			r.Changes[i].Op = SetOp
		}
	}
	g := &r.Guards
	if g.Health.Instances == 0 {
		g.Health.Instances = 1
	}
	if g.Health.Points == 0 {
		g.Health.Points = 1
	}
	if g.Pass == 0 {
		g.Pass = 80
	}
	if g.Marginal == 0 {
		g.Marginal = g.Pass
	}
}

// check returns the first rule that a complete r breaks, other than by what is stored.
func (r *Rollout) check() error {
	switch {
	case len(r.Changes) == 0:
		return invalid("the roll-out has no changes")
	case len(r.Changes) > maxEdits:
		return invalid("the roll-out has %d changes; %d are allowed", len(r.Changes), maxEdits)
	case len(r.Steps) > maxSteps:
		return invalid("the roll-out has %d steps; %d are allowed", len(r.Steps), maxSteps)
	case len(r.Title) > 1024:
		return invalid("the title has %d bytes; 1024 are allowed", len(r.Title))
	case len(r.Guards.Metrics) > 20:
		return invalid("the roll-out has %d metric rules; 20 are allowed", len(r.Guards.Metrics))
	case !(r.Guards.Pass >= 0 && r.Guards.Pass <= 100) || !(r.Guards.Marginal >= r.Guards.Pass && r.Guards.Marginal <= 100):
		return invalid("pass %v and marginal %v: use 0 to 100, and marginal not below pass", r.Guards.Pass, r.Guards.Marginal)
	case r.Guards.Health.Instances < 1 || !(r.Guards.Health.Points > 0 && r.Guards.Health.Points <= 100):
		return invalid("the health guard's instances and points must be more than 0; to switch it off set off")
	}
	for i, s := range r.Steps {
		switch {
		case s.Selector == Selector{}:
			return invalid("step %d selects nobody; write all, instances:N, percent:P, zone:Z, region:R or asg:A", i+1)
		case s.Selector.All && i < len(r.Steps)-1:
			return invalid("step %d is for all already; nothing may follow", i+1)
		case *s.Bake < 0 || time.Duration(*s.Bake) > maxBake:
			return invalid("step %d bakes for %v; use 0s to %v", i+1, time.Duration(*s.Bake), maxBake)
		case !(*s.NeedAck >= 0 && *s.NeedAck <= 1):
			return invalid("step %d needs the word of %v of its readers; use 0 to 1", i+1, *s.NeedAck)
		case s.Approval != NoApproval && s.Approval != ManualApproval:
			return invalid("step %d wants approval %q; use none or manual", i+1, s.Approval)
		}
	}
	for _, m := range r.Guards.Metrics {
		switch {
		case m.Query == "" || len(m.Query) > 4096:
			return invalid("a metric rule's query has %d bytes; use 1 to 4096", len(m.Query))
		case m.Compare != ">" && m.Compare != "<":
			return invalid("metric rule %q compares by %q; use > or <", m.Query, m.Compare)
		case math.IsNaN(m.Threshold) || math.IsInf(m.Threshold, 0):
			return invalid("metric rule %q has no threshold", m.Query)
		}
	}
	seen := map[string]bool{}
	for _, e := range r.Changes {
		if e.Op != SetOp && e.Op != DeleteOp {
			return invalid("op %q of %s: use set or delete", e.Op, e.Record.name())
		}
		if seen[e.Record.ID] {
			return invalid("%s is changed twice", e.Record.name())
		}
		seen[e.Record.ID] = true
	}
	return nil
}

// mask returns r without values that nobody may see.
func (r Rollout) mask() Rollout {
	r.Changes = slices.Clone(r.Changes)
	for i := range r.Changes {
		e := &r.Changes[i]
		e.Record = e.Record.mask()
		if e.Before != nil {
			before := e.Before.mask()
			e.Before = &before
		}
	}
	return r
}

// parties are the (env, app, key) that r changes: only one active roll-out may change each.
func (r *Rollout) parties() []string {
	var out []string
	for _, e := range r.Changes {
		for _, env := range orAny(e.Record.Env) {
			for _, app := range orAny(e.Record.App) {
				out = append(out, env+"\x00"+app+"\x00"+e.Record.Key)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func orAny(list string) []string {
	if list == "" {
		return []string{""}
	}
	return values(strings.ToLower(list))
}
