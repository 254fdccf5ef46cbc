package ipc

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// loadReader measures how busy this process is. One goroutine uses it.
type loadReader struct {
	files   fs.FS // the machine's, from the root
	spent   func() time.Duration
	cpus    func() float64 // that the process may use
	group   group          // of processes that share a quota
	at      time.Time      // of the last reading
	own     time.Duration  // processor time spent until then
	grouped time.Duration  // by the group
	looked  time.Time      // when the group was last looked for
	cpu     float64        // moving average
	sample  []metrics.Sample
	before  []uint64 // how many goroutines had waited, by time
	longest uint64   // one in so many goroutines waits for delay, or longer
}

// reading is one measurement.
type reading struct {
	cpu    float64       // of the processor time that may be used, 0 to 1, on a mean of the last second
	lately float64       // the same, since the last reading
	delay  time.Duration // that a tenth of all goroutines, or another share, waited for a processor, or longer
}

const (
	cpuTau      = time.Second
	lookAgain   = 5 * time.Second
	delayMetric = "/sched/latencies:seconds"
	fewWaits    = 50 // of goroutines say nothing
)

func newLoadReader() *loadReader {
	return &loadReader{
		files: os.DirFS("/"), spent: ownCPU, cpus: func() float64 { return float64(runtime.GOMAXPROCS(0)) },
		sample: []metrics.Sample{{Name: delayMetric}}, longest: 10,
	}
}

// Gauge measures how busy this process is, for servers whose requests do not come by [Engine.Handler]. It is for one
// goroutine, which reads it every 100 ms or so.
type Gauge struct{ r *loadReader }

// NewGauge returns a gauge. Its first reading tells nothing.
func NewGauge() *Gauge {
	r := newLoadReader()
	r.longest = 100
	return &Gauge{r}
}

// Read returns the share of the processor time that the process may use which it used, on a mean of the last second and
// since the last reading, and the time that one in a hundred goroutines waited for a processor, or longer. A container's
// quota counts as what the process may use.
func (g *Gauge) Read(now time.Time) (cpu, lately float64, delay time.Duration) {
	r := g.r.read(now)
	return r.cpu, r.lately, r.delay
}

// ownCPU returns the processor time that the process has spent.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // then nothing is known of it
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// read measures what passed since the last reading. The first one tells nothing.
func (r *loadReader) read(now time.Time) reading {
	if r.looked.IsZero() || now.Sub(r.looked) >= lookAgain {
		r.group, r.looked = findGroup(r.files), now
	}
	own, grouped := r.spent(), r.group.spent()
	level := 0.0
	if dt := now.Sub(r.at); !r.at.IsZero() && dt > 0 {
		allowed := r.cpus()
		if r.group.quota > 0 {
			allowed = min(allowed, r.group.quota)
		}
		level = share(own-r.own, dt, allowed)
		// What the group spends matters to one that spends the most of it. The others would not help by doing less.
		if all := grouped - r.grouped; r.group.quota > 0 && own-r.own >= all/2 {
			level = max(level, share(all, dt, r.group.quota))
		}
		r.cpu += (level - r.cpu) * (1 - math.Exp(-float64(dt)/float64(cpuTau)))
	}
	r.at, r.own, r.grouped = now, own, grouped
	return reading{cpu: r.cpu, lately: level, delay: r.waited()}
}

func share(spent, of time.Duration, cpus float64) float64 {
	return min(1, max(0, float64(spent)/(float64(of)*cpus)))
}

// waited returns the time that one in r.longest of the goroutines which got a processor since the last reading had waited
// for it, or longer.
func (r *loadReader) waited() time.Duration {
	metrics.Read(r.sample)
	if r.sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return 0
	}
	h := r.sample[0].Value.Float64Histogram()
	if len(r.before) != len(h.Counts) {
		r.before = make([]uint64, len(h.Counts))
		copy(r.before, h.Counts)
		return 0
	}
	total := uint64(0)
	for i, n := range h.Counts {
		r.before[i], total = n-r.before[i], total+n-r.before[i]
	}
	wait := 0.0
	if total >= fewWaits {
		seen := uint64(0)
		for i, n := range r.before {
			if seen += n; seen*r.longest >= total*(r.longest-1) {
				wait = h.Buckets[i] // the bucket's lower end
				break
			}
		}
	}
	copy(r.before, h.Counts)
	if math.IsInf(wait, 0) || wait < 0 {
		wait = 0
	}
	return time.Duration(wait * float64(time.Second))
}

// group is a group of processes with a quota of processor time: a container. The zero group has none.
type group struct {
	files fs.FS
	usage string        // the file that tells what the group has spent
	field string        // in that file; empty: the file is one number
	unit  time.Duration // of that number
	quota float64       // processors
}

// spent returns the processor time that the group has spent.
func (g *group) spent() time.Duration {
	if g.usage == "" {
		return 0
	}
	text := readText(g.files, g.usage)
	if g.field != "" {
		_, text, _ = strings.Cut("\n"+text, "\n"+g.field+" ")
		text, _, _ = strings.Cut(text, "\n")
	}
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0
	}
	return time.Duration(n) * g.unit
}

// findGroup returns the group that this process is in, if it has a quota: of cgroup v2, or of v1. The tightest quota up
// to the root counts.
func findGroup(files fs.FS) group {
	best := group{}
	for line := range strings.Lines(readText(files, "proc/self/cgroup")) {
		_, line, _ = strings.Cut(strings.TrimSpace(line), ":")
		names, dir, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		switch {
		case names == "":
			for d := range upwards("sys/fs/cgroup", dir) {
				quota, period, ok := strings.Cut(strings.TrimSpace(readText(files, path.Join(d, "cpu.max"))), " ")
				if ok {
					best.tighten(group{files: files, usage: path.Join(d, "cpu.stat"), field: "usage_usec", unit: time.Microsecond, quota: ratioOf(quota, period)})
				}
			}
		case hasWord(names, "cpu"):
			for d := range upwards("sys/fs/cgroup/cpu", dir) {
				q := ratioOf(readText(files, path.Join(d, "cpu.cfs_quota_us")), readText(files, path.Join(d, "cpu.cfs_period_us")))
				usage := path.Join("sys/fs/cgroup/cpuacct", strings.TrimPrefix(d, "sys/fs/cgroup/cpu"), "cpuacct.usage")
				best.tighten(group{files: files, usage: usage, unit: 1, quota: q})
			}
		}
	}
	return best
}

func (g *group) tighten(o group) {
	if o.quota > 0 && (g.quota == 0 || o.quota < g.quota) {
		*g = o
	}
}

// upwards yields dir under mount, and every one above it. In a container without a view of its own, what
// /proc/self/cgroup names is not there, but the mount is the container's.
func upwards(mount, dir string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for dir = path.Clean("/" + dir); yield(path.Join(mount, dir)) && dir != "/"; {
			dir = path.Dir(dir)
		}
	}
}

// ratioOf returns quota in units of period; 0 if there is none.
func ratioOf(quota, period string) float64 {
	q, err := strconv.ParseFloat(strings.TrimSpace(quota), 64)
	p, perr := strconv.ParseFloat(strings.TrimSpace(period), 64)
	if err != nil || perr != nil || !(q > 0 && p > 0) || math.IsInf(q/p, 0) {
		return 0 // "max" and -1 are none
	}
	return q / p
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, ",") {
		if w == word {
			return true
		}
	}
	return false
}

// readText returns a small file, empty if it is not there.
func readText(files fs.FS, name string) string {
	b, err := fs.ReadFile(files, name)
	if err != nil {
		return ""
	}
	return string(b)
}
