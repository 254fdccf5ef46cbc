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
	ownShare    = 0.5 // of the processor's soft limit, below which others are to blame for waits
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
	delay := r.delay
	near := max(r.cpu, r.lately) >= ownShare*cpu.Soft
	if !near {
		delay = 0 // it is others who keep the processors busy, and to do less here would not stop them
	}
	flight := 0.0
	if near && all.Slow() {
		flight = float64(all.InFlight()) / held(all)
	}
	list := []Signal{
		cpu,
		signal("delay", delay.Seconds(), 0.005, 0.050, false),
		signal("in-flight", flight, 1, 1.5, false),
		signal("memory", r.memory, 0.80, 0.95, true),
	}
	if most > 0 {
		list = append(list, signal("connections", float64(open)/float64(most), 0.80, 0.98, true))
	}
	return list
}

// held returns how many requests may be in flight while they are slow: what was proven to do no harm, and somewhat more
// than the rate at which requests end would need.
func held(l *limit.Limiter) float64 {
	proven, needed := l.Proven(), l.Needed()
	lowest := max(proven, needed, 10)
	if needed == 0 {
		return float64(max(lowest, l.Limit()))
	}
	return float64(min(max(lowest, l.Limit()), max(lowest, int(math.Ceil(1.1*float64(needed)))+1)))
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
