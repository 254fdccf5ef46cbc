package fleet

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestStatOfAProgramWithAStrangeName(t *testing.T) {
	line := "4711 (a) R (b c) S 1 4700 4600 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 123456 1000 1 18446744073709551615 0\n"
	got, err := parseStat([]byte(line))
	if want := (stat{pid: 4711, group: 4700, session: 4600, state: 'S', ticks: 123456}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestOwnPortsAreSeen(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Logf("%s: %v", addr, err)
			continue
		}
		port := l.Addr().(*net.TCPAddr).Port
		st, err := readStat(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if got := listening(st.group); !slices.Contains(got, port) {
			t.Errorf("listening on %s: got %v, want %d among them", l.Addr(), got, port)
		}
		if got, want := portHolder(port), fmt.Sprintf("(pid %d)", os.Getpid()); !strings.Contains(got, want) {
			t.Errorf("holder of %d: got %q, want %q", port, got, want)
		}
		l.Close()
	}
}

func FuzzParseStat(f *testing.F) {
	if b, err := os.ReadFile("/proc/self/stat"); err == nil {
		f.Add(b)
	}
	f.Add([]byte("1 () S"))
	f.Add([]byte(")("))
	f.Add([]byte("1 (x)) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20"))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStat(b)
		if err == nil && st.state == 0 {
			t.Errorf("%q: accepted without a state", b)
		}
	})
}

func FuzzParseNetTCP(f *testing.F) {
	for _, name := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b[:min(len(b), 2000)])
		}
	}
	f.Add([]byte("   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := make(map[uint64]int)
		parseNetTCP(b, m)
		for inode, port := range m {
			if inode == 0 || port < 0 || port > 65535 {
				t.Errorf("%q: got inode %d, port %d", b, inode, port)
			}
		}
	})
}

func FuzzParseSocketLink(f *testing.F) {
	for _, s := range []string{"socket:[1]", "socket:[]", "socket:[18446744073709551616]", "pipe:[1]", "socket:[1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, ok := parseSocketLink(s); ok && !strings.HasPrefix(s, "socket:[") {
			t.Errorf("%q: got %d", s, n)
		}
	})
}

func FuzzParseOwner(f *testing.F) {
	f.Add([]byte("A=b\x00ROADBED_DATA=/x\x00ROADBED_INSTANCE=i\x00"))
	f.Add([]byte("XROADBED_DATA=/x\x00ROADBED_DATA\x00ROADBED_DATA="))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := parseOwner(b)
		if o.data != "" && !strings.Contains("\x00"+string(b), "\x00"+dataMark+"="+o.data) {
			t.Errorf("%q: got data %q", b, o.data)
		}
		if o.instance != "" && !strings.Contains("\x00"+string(b), "\x00"+instanceMark+"="+o.instance) {
			t.Errorf("%q: got instance %q", b, o.instance)
		}
	})
}
