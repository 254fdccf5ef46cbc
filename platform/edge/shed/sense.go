package shed

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/limit"
)

const (
	shortWait   = 0.002 // seconds for a processor, from which its time counts in full
	fewestHeld  = 25    // requests in flight that are no overload, however slow they are
	slack       = 2.5   // times what the rate needs; refusing begins at four fifths of it
	roomy       = 1.5   // times what is proven, on the mean
	memoryEvery = time.Second
)

// Signal is one measure of overload.
type Signal struct {
	Name  string  `json:"name"`
	Value float64 `json:"value" doc:"as measured: a share, or seconds for delay"`
	Soft  float64 `json:"soft" doc:"up to which there is no overload"`
	Hard  float64 `json:"hard" doc:"from which overload is 1"`
	X     float64 `json:"x" doc:"overload by this signal alone, 0 to 1"`

	firm bool // it does not lag, and what it is short of cannot be had
}

func signal(name string, value, soft, hard float64, firm bool) Signal {
	return Signal{Name: name, Value: value, Soft: soft, Hard: hard, X: overload(value, soft, hard), firm: firm}
}

// reading is what one look at the process has shown.
type reading struct {
	cpu, lately float64
	delay       time.Duration
	memory      float64 // share of the limit that is in use; 0 if there is none
}

// signals makes signals of what was read, of requests in flight, and of open connections.
func (r *reading) signals(all *limit.Limiter, open, most int) []Signal {
	cpu := signal("cpu", r.cpu, 0.75, 0.95, false)
	delay := signal("delay", r.delay.Seconds(), 0.005, 0.050, false)
	flight := signal("in-flight", 0, 1, 1.5, false)
	// A processor that is busy while nobody waits for it is well used; and if it is others who keep it busy, to do less here
	// would not stop them.
	cpu.X *= min(1, delay.Value/shortWait)
	if max(r.cpu, r.lately) < cpu.Soft {
		delay.X = 0
	} else if all.Slow() {
		flight = signal("in-flight", float64(all.InFlight())/held(all), 1, 1.5, false)
	}
	list := []Signal{cpu, delay, flight, signal("memory", r.memory, 0.80, 0.95, true)}
	if most > 0 {
		list = append(list, signal("connections", float64(open)/float64(most), 0.80, 0.98, true))
	}
	return list
}

// held returns how many requests may be in flight while they are slow: so many that each takes more than twice as long as
// usual, as the rate tells at which they end, or as many as were proven to do no harm.
func held(l *limit.Limiter) float64 {
	if l.Needed() == 0 {
		return math.Inf(1) // nothing is known yet
	}
	return max(fewestHeld, slack*float64(l.Needed()), roomy*float64(l.Proven()))
}

// sense reads the process's state. One goroutine uses it.
type sense struct {
	gauge  *ipc.Gauge
	files  fs.FS // the machine's, from the root
	limit  int64 // of memory; 0: none
	looked time.Time
	memory float64
	sample []metrics.Sample
}

func (s *sense) init() {
	s.gauge, s.files = ipc.NewGauge(), os.DirFS("/")
	for _, name := range []string{
		"/memory/classes/total:bytes", "/memory/classes/heap/released:bytes", "/memory/classes/heap/free:bytes",
		"/memory/classes/heap/objects:bytes", "/gc/heap/live:bytes",
	} {
		s.sample = append(s.sample, metrics.Sample{Name: name})
	}
}

func (s *sense) read(now time.Time) reading {
	r := reading{}
	r.cpu, r.lately, r.delay = s.gauge.Read(now)
	if s.looked.IsZero() || now.Sub(s.looked) >= memoryEvery {
		s.looked, s.limit = now, memoryLimit(s.files)
		s.memory = s.used()
	}
	r.memory = s.memory
	return r
}

// used returns the share of the memory limit that would be in use after a garbage collection; garbage is no load.
func (s *sense) used() float64 {
	if s.limit == 0 {
		return 0
	}
	metrics.Read(s.sample)
	var v [5]int64
	for i := range v {
		if s.sample[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		v[i] = int64(s.sample[i].Value.Uint64())
	}
	total, released, free, objects, live := v[0], v[1], v[2], v[3], v[4]
	return float64(total-released-free-max(0, objects-live)) / float64(s.limit)
}

// memoryLimit returns the tightest of GOMEMLIMIT and the limits of the control groups that the process is in; 0: none.
func memoryLimit(files fs.FS) int64 {
	most := debug.SetMemoryLimit(-1)
	text, _ := fs.ReadFile(files, "proc/self/cgroup") //nolint:errcheck // no such thing: no such limit
	for line := range strings.Lines(string(text)) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), ":")
		names, dir, _ := strings.Cut(line, ":")
		root, file := "sys/fs/cgroup", "memory.max"
		if names != "" {
			if !strings.Contains(names, "memory") {
				continue
			}
			root, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for dir = path.Clean("/" + dir); ; dir = path.Dir(dir) {
			b, _ := fs.ReadFile(files, path.Join(root, dir, file)) //nolint:errcheck // as above
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				most = min(most, n)
			}
			if dir == "/" {
				break
			}
		}
	}
	if most > math.MaxInt64/2 {
		return 0
	}
	return most
}
