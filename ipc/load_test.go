package ipc

import (
	"fmt"
	"math"
	"testing"
	"testing/fstest"
	"time"
)

func files(kv ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = &fstest.MapFile{Data: []byte(kv[i+1])}
	}
	return m
}

func TestTheQuotaOfTheContainerIsFound(t *testing.T) {
	for _, tc := range []struct {
		what  string
		files fstest.MapFS
		quota float64
		spent time.Duration
	}{
		{"no cgroups at all", files(), 0, 0},
		{"v2, no quota", files("proc/self/cgroup", "0::/a\n", "sys/fs/cgroup/a/cpu.max", "max 100000\n", "sys/fs/cgroup/a/cpu.stat", "usage_usec 5\n"), 0, 0},
		{"v2, in a container", files("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/cpu.max", "150000 100000\n",
			"sys/fs/cgroup/cpu.stat", "nr_periods 1\nusage_usec 7000000\nuser_usec 3\n"), 1.5, 7 * time.Second},
		{"v2, a tighter one above", files("proc/self/cgroup", "0::/pods/p/c\n", "sys/fs/cgroup/pods/p/c/cpu.max", "400000 100000\n",
			"sys/fs/cgroup/pods/p/cpu.max", "200000 100000\n", "sys/fs/cgroup/pods/p/cpu.stat", "usage_usec 3\n"), 2, 3 * time.Microsecond},
		{"v1", files("proc/self/cgroup", "4:memory:/m\n2:cpuacct:/c\n1:cpu:/c\n0::/\n", "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "50000\n",
			"sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n", "sys/fs/cgroup/cpuacct/c/cpuacct.usage", "4000000000\n"), 0.5, 4 * time.Second},
		{"v1, both in one, in a container", files("proc/self/cgroup", "1:cpu,cpuacct:/docker/abc\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n", "sys/fs/cgroup/cpuacct/cpuacct.usage", "9\n"), 3, 9},
		{"v1, no quota", files("proc/self/cgroup", "1:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"), 0, 0},
		{"nonsense", files("proc/self/cgroup", "::\nx\n0::/../..\n1:cpu:\n", "sys/fs/cgroup/cpu.max", "1e400 0\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "NaN\n"), 0, 0},
	} {
		g := findGroup(tc.files)
		if g.quota != tc.quota || g.spent() != tc.spent {
			t.Errorf("%s: got %v processors and %s spent, want %v and %s", tc.what, g.quota, g.spent(), tc.quota, tc.spent)
		}
	}
}

func TestTheCPULevelIsWhatIsUsedOfWhatMayBe(t *testing.T) {
	usage := func(d time.Duration) string { return fmt.Sprintf("usage_usec %d\n", d.Microseconds()) }
	for _, tc := range []struct {
		what       string
		quota      string
		cpus       float64
		own, group time.Duration // spent per second
		want       float64
	}{
		{"no quota, half of two processors", "max 100000", 2, time.Second, 5 * time.Second, 0.5},
		{"a quota of one, used up alone", "100000 100000", 4, time.Second, time.Second, 1},
		{"a quota of two, mostly ours", "200000 100000", 4, 1200 * time.Millisecond, 1600 * time.Millisecond, 0.8},
		{"a quota of two, used up by others", "200000 100000", 4, 200 * time.Millisecond, 2 * time.Second, 0.1},
		{"more than there is", "max 100000", 1, 3 * time.Second, 0, 1},
	} {
		m := files("proc/self/cgroup", "0::/\n", "sys/fs/cgroup/cpu.max", tc.quota+"\n", "sys/fs/cgroup/cpu.stat", usage(0))
		r := newLoadReader()
		own, now := time.Duration(0), time.Now()
		r.files, r.spent, r.cpus = m, func() time.Duration { return own }, func() float64 { return tc.cpus }
		if got := r.read(now); got.cpu != 0 {
			t.Errorf("%s: the first reading is %v, want 0", tc.what, got.cpu)
		}
		for i := 1; i <= 100; i++ {
			now = now.Add(100 * time.Millisecond)
			own += tc.own / 10
			m["sys/fs/cgroup/cpu.stat"].Data = []byte(usage(time.Duration(i) * tc.group / 10))
			got := r.read(now)
			if i == 10 && math.Abs(got.cpu-tc.want*(1-1/math.E)) > 0.01 {
				t.Errorf("%s: after a second %v, want 63 %% of %v", tc.what, got.cpu, tc.want)
			}
			if i == 100 && math.Abs(got.cpu-tc.want) > 0.01 {
				t.Errorf("%s: after ten seconds %v, want %v", tc.what, got.cpu, tc.want)
			}
		}
	}
}

func TestTheRealReadingMakesSense(t *testing.T) {
	r := newLoadReader()
	r.read(time.Now())
	began := time.Now()
	for x := 0.0; time.Since(began) < 50*time.Millisecond; x++ { // what is measured is real
		math.Sqrt(x)
	}
	got := r.read(time.Now())
	if got.cpu <= 0 || got.cpu > 1 || got.delay < 0 || got.delay > time.Minute {
		t.Errorf("after 50ms of work: got %+v", got)
	}
}

func BenchmarkLoadReading(b *testing.B) {
	r := newLoadReader()
	b.ReportAllocs()
	for b.Loop() {
		r.read(time.Now())
	}
}
