package fleet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startTicks returns when the kernel started pid, in clock ticks since boot. Together with the pid it names a process
// for as long as the machine runs.
func startTicks(pid int) (uint64, error) {
	st, err := readStat(pid)
	return st.ticks, err
}

// nowTicks returns the present in the unit of startTicks.
func nowTicks() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // a kernel without the clock has no process that started before 0 either
	}
	return uint64(time.Duration(ts.Nano()) / (time.Second / userHZ))
}

// userHZ is the unit of /proc, 100 on every architecture Go runs on.
const userHZ = 100

// bootID changes with each start of the machine.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// stat is what the fleet needs of /proc/PID/stat.
type stat struct {
	pid, group, session int
	state               byte
	ticks               uint64
}

func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat reads one line of proc_pid_stat(5). The second field is the program's name in parentheses and may hold
// spaces and parentheses itself, so the fields are counted from the last one.
func parseStat(b []byte) (stat, error) {
	var st stat
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return st, fmt.Errorf("%q is no line of /proc/PID/stat", b)
	}
	rest := strings.Fields(string(b[end+1:]))
	const state, pgrp, session, starttime = 3, 5, 6, 22 // field numbers of the manual page
	if len(rest) < starttime-2 || len(rest[state-3]) != 1 {
		return st, fmt.Errorf("/proc/PID/stat has %d fields, want %d at least", len(rest)+2, starttime)
	}
	st.state = rest[state-3][0]
	var err error
	for _, f := range []struct {
		to   *int
		text string
	}{{&st.pid, strings.TrimSpace(string(b[:open]))}, {&st.group, rest[pgrp-3]}, {&st.session, rest[session-3]}} {
		if *f.to, err = strconv.Atoi(f.text); err != nil {
			return st, fmt.Errorf("/proc/PID/stat: %w", err)
		}
	}
	if st.ticks, err = strconv.ParseUint(rest[starttime-3], 10, 64); err != nil {
		return st, fmt.Errorf("/proc/PID/stat: %w", err)
	}
	return st, nil
}

// pids lists every process there is.
func pids() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	out := make([]int, 0, len(names))
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// owner is the instance and the data directory that a process's environment names.
type owner struct{ data, instance string }

// ownerOf reads the marks that the fleet put into a process's environment; they are inherited by its descendants.
func ownerOf(pid int) owner {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return owner{}
	}
	return parseOwner(b)
}

func parseOwner(environ []byte) owner {
	var o owner
	for kv := range bytes.SplitSeq(environ, []byte{0}) {
		if v, ok := bytes.CutPrefix(kv, []byte(dataMark+"=")); ok {
			o.data = string(v)
		} else if v, ok := bytes.CutPrefix(kv, []byte(instanceMark+"=")); ok {
			o.instance = string(v)
		}
	}
	return o
}

// slay kills with SIGKILL every process that verify accepts, and returns the pids. The process is held by a
// descriptor while it is verified, so that its pid cannot become another's in between.
func slay(verify func(pid int) bool) []int {
	self := os.Getpid()
	var killed []int
	for _, pid := range pids() {
		if pid <= 1 || pid == self || !verify(pid) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		switch {
		case err == unix.ESRCH:
			continue
		case err != nil: // a kernel before 5.3: without the descriptor the moment between the two calls remains
			if verify(pid) && syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed = append(killed, pid)
			}
			continue
		}
		if verify(pid) && unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil {
			killed = append(killed, pid)
		}
		unix.Close(fd)
	}
	return killed
}

// slayInstances kills what carries the marks of one of the instances of data and started no earlier than the record
// of it. Nothing else is touched.
func slayInstances(data string, records map[string]pidRecord) []int {
	return slay(func(pid int) bool {
		o := ownerOf(pid)
		if o.data != data || o.instance == "" {
			return false
		}
		r, ok := records[o.instance]
		if !ok {
			return false
		}
		st, err := readStat(pid)
		if err != nil || st.state == 'Z' {
			return false
		}
		if pid == r.PID && r.Ticks != 0 && st.ticks != r.Ticks {
			return false // the pid is another process's by now
		}
		return st.ticks >= r.Since
	})
}

// slayGroups kills the members of the groups that are still the ones recorded.
func slayGroups(groups map[int]guarded) {
	slay(func(pid int) bool {
		st, err := readStat(pid)
		if err != nil || st.state == 'Z' {
			return false
		}
		g, ok := groups[st.group]
		if !ok {
			g, ok = groups[st.session]
		}
		if !ok || st.ticks < g.ticks {
			return false
		}
		return pid != g.pgid || st.ticks == g.ticks
	})
}

// listening returns the TCP ports on which processes of the group listen, ascending.
func listening(pgid int) []int {
	members := make([]int, 0, 4)
	for _, pid := range pids() {
		if st, err := readStat(pid); err == nil && (st.group == pgid || st.session == pgid) {
			members = append(members, pid)
		}
	}
	if len(members) == 0 {
		return nil
	}
	byInode := make(map[uint64]int)
	for _, name := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", members[0], name))
		if err == nil {
			parseNetTCP(b, byInode)
		}
	}
	var ports []int
	for _, pid := range members {
		for _, inode := range socketInodes(pid) {
			if port, ok := byInode[inode]; ok && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return ports
}

// portHolder says which process listens on port, e.g. "python3 (pid 4711)"; empty if that cannot be seen.
func portHolder(port int) string {
	byInode := make(map[uint64]int)
	for _, name := range []string{"tcp", "tcp6"} {
		if b, err := os.ReadFile("/proc/self/net/" + name); err == nil {
			parseNetTCP(b, byInode)
		}
	}
	for _, pid := range pids() {
		for _, inode := range socketInodes(pid) {
			if byInode[inode] == port {
				comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
				if err != nil {
					return fmt.Sprintf("pid %d", pid)
				}
				return fmt.Sprintf("%s (pid %d)", strings.TrimSpace(string(comm)), pid)
			}
		}
	}
	return ""
}

func socketInodes(pid int) []uint64 {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var out []uint64
	for _, n := range names {
		link, err := os.Readlink(filepath.Join(dir, n))
		if err != nil {
			continue
		}
		if inode, ok := parseSocketLink(link); ok {
			out = append(out, inode)
		}
	}
	return out
}

// parseSocketLink reads "socket:[12345]".
func parseSocketLink(link string) (uint64, bool) {
	s, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	if s, ok = strings.CutSuffix(s, "]"); !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// parseNetTCP adds the listening sockets of /proc/net/tcp or tcp6 to byInode, from inode to port. Lines it does not
// understand are passed over. Format: proc_net_tcp, "sl local_address rem_address st ... uid timeout inode".
func parseNetTCP(b []byte, byInode map[uint64]int) {
	const listen = "0A"
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 10 || f[3] != listen {
			continue
		}
		_, hexPort, ok := strings.Cut(f[1], ":")
		if !ok {
			continue
		}
		port, err := strconv.ParseUint(hexPort, 16, 16)
		if err != nil {
			continue
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if err != nil || inode == 0 {
			continue
		}
		byInode[inode] = int(port)
	}
}
