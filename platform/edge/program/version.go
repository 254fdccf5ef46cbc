package program

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// version is one text of a program, compiled.
type version struct {
	doc   *Document
	id    string
	run   func(x *filter.Exchange, k filter.Kind, body bool) error
	body  [3]bool // for which kinds it wants the whole body
	idle  [3]bool // for which kinds it has nothing to do
	close func()  // nil: nothing to close

	out      atomic.Bool // it failed too often, and is not run any more
	panicked atomic.Bool // the log has its first panic

	mu       sync.Mutex // guards what follows
	runs     int64
	failures int64
	row      int // failures without a success between
	took     time.Duration
	last     string // the last error
	slots    [slots]slot
}

// slot is what happened in one stretch of the window.
type slot struct {
	at             int64 // which stretch since boot
	runs, failures int64
}

// When a version is taken out: over 1 % of at least 100 runs within 60 s failed, or 100 in a row.
const (
	window    = 60 * time.Second
	slots     = 12
	stretch   = window / slots
	leastRuns = 100
	mostRow   = 100
)

// record notes a run that ended at now, by filter.Now. It returns why the version must be taken out, "" if it need not.
func (v *version) record(now int64, took time.Duration, err error) (why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	at := now / int64(stretch)
	s := &v.slots[at%slots]
	if s.at != at {
		*s = slot{at: at}
	}
	s.runs++
	v.runs++
	v.took += took
	if err == nil {
		v.row = 0
		return ""
	}
	s.failures++
	v.failures++
	v.row++
	v.last = err.Error()
	var runs, failures int64
	for i := range v.slots {
		if v.slots[i].at > at-slots {
			runs += v.slots[i].runs
			failures += v.slots[i].failures
		}
	}
	switch {
	case runs >= leastRuns && failures*100 > runs:
		return fmt.Sprintf("%d of %d runs failed within %v, the last one: %s", failures, runs, window, v.last)
	case v.row >= mostRow:
		return fmt.Sprintf("%d runs in a row failed, the last one: %s", v.row, v.last)
	}
	return ""
}

// wants reports whether the version runs with the whole body of x. What streams on as it comes is not held up.
func (v *version) wants(x *filter.Exchange, k filter.Kind) bool {
	return v.body[k] && !(k == filter.Outbound && (x.Response.Flush || x.Response.Takeover != nil))
}

// ProgramVersion is how one version of a program does at this edge.
type ProgramVersion struct {
	Version  string        `json:"version" doc:"first digits of a hash of what runs"`
	State    string        `json:"state" enum:"DRAFT,CANARY,ACTIVE,RETIRED,DISABLED" doc:"RETIRED does not run; DISABLED failed too often"`
	Kind     string        `json:"kind" enum:"cel,starlark,wasm"`
	Percent  float64       `json:"percent" doc:"of those who ask that get it"`
	Runs     int64         `json:"runs" doc:"since it is here"`
	Failures int64         `json:"failures"`
	Mean     time.Duration `json:"mean" doc:"of a run, in nanoseconds"`
	Last     string        `json:"lastError,omitempty"`
}

func (v *version) view(state string, percent float64) ProgramVersion {
	v.mu.Lock()
	defer v.mu.Unlock()
	w := ProgramVersion{Version: v.id, State: state, Kind: v.doc.Kind, Percent: percent, Runs: v.runs, Failures: v.failures, Last: v.last}
	if v.runs > 0 {
		w.Mean = v.took / time.Duration(v.runs)
	}
	return w
}
