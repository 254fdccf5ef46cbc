package ipc

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
)

// nameServer answers over UDP with the records a test gives it; a name that has none does not exist.
type nameServer struct {
	mu      sync.Mutex
	records map[string][]string // "name type" -> "1.2.3.4", "::1" or "priority weight port target"
	broken  bool                // answers SERVFAIL
}

func (s *nameServer) set(broken bool, records map[string][]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken, s.records = broken, records
}

const (
	typeA    = 1
	typeAAAA = 28
	typeSRV  = 33
)

// wireName writes a name as RFC 1035 has it.
func wireName(name string) (out []byte) {
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label != "" {
			out = append(append(out, byte(len(label))), label...)
		}
	}
	return append(out, 0)
}

func (s *nameServer) answer(q []byte) []byte {
	end, name := 12, ""
	for q[end] != 0 {
		name += string(q[end+1:end+1+int(q[end])]) + "."
		end += 1 + int(q[end])
	}
	end += 5
	kind := binary.BigEndian.Uint16(q[end-4:])
	s.mu.Lock()
	defer s.mu.Unlock()
	exists := false
	for k := range s.records {
		exists = exists || strings.HasPrefix(k, name+" ")
	}
	list := s.records[fmt.Sprint(name, " ", kind)]
	out := append([]byte(nil), q[:end]...)
	out[2], out[3] = 0x85, 0x80
	switch {
	case s.broken:
		out[3] |= 2
		list = nil
	case !exists:
		out[3] |= 3
	}
	binary.BigEndian.PutUint16(out[6:], uint16(len(list)))
	binary.BigEndian.PutUint32(out[8:], 0)
	for _, r := range list {
		var data []byte
		if kind == typeSRV {
			var p, w, port uint16
			var target string
			fmt.Sscan(r, &p, &w, &port, &target)
			for _, n := range []uint16{p, w, port} {
				data = binary.BigEndian.AppendUint16(data, n)
			}
			data = append(data, wireName(target)...)
		} else {
			data = netip.MustParseAddr(r).AsSlice()
		}
		out = append(out, 0xc0, 12)
		out = binary.BigEndian.AppendUint16(out, kind)
		out = append(out, 0, 1, 0, 0, 0, 0)
		out = binary.BigEndian.AppendUint16(out, uint16(len(data)))
		out = append(out, data...)
	}
	return out
}

// resolver starts the server and returns who asks it.
func (s *nameServer) resolver(t *testing.T) *net.Resolver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(s.answer(b[:n]), from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func TestInstancesComeFromDNS(t *testing.T) {
	s := &nameServer{}
	r := s.resolver(t)
	for _, tc := range []struct {
		name    string
		records map[string][]string
		want    string
	}{
		{"web.example:8080", map[string][]string{"web.example. 1": {"10.0.0.2", "10.0.0.1"}, "web.example. 28": {"fd00::1"}}, "10.0.0.1:8080 10.0.0.2:8080 [fd00::1]:8080"},
		{"web.example", map[string][]string{"web.example. 1": {"10.0.0.1"}}, "10.0.0.1:80"},
		{"_http._tcp.web.example", map[string][]string{"_http._tcp.web.example. 33": {"1 10 8001 a.example.", "1 10 8002 b.example.", "2 10 8003 backup.example."}}, "a.example:8001 b.example:8002"},
		{"_http._tcp.web.example", map[string][]string{"_http._tcp.web.example. 33": {"1 10 8001 a.example.", "1 40 8002 b.example.", "1 0 8003 c.example."}}, "a.example:8001 0.25 b.example:8002 1 c.example:8003 0.01"},
		{"_http._tcp.web.example", map[string][]string{"_http._tcp.web.example. 33": {"0 0 0 ."}}, ""},
		{"nobody.example", nil, ""},
		{"web.example:0", map[string][]string{"web.example. 1": {"10.0.0.1"}}, ""},
		{"10.9.8.7:99", nil, "10.9.8.7:99"},
	} {
		s.set(false, tc.records)
		var got []string
		calls := 0
		d := &DNS{Names: map[string]string{"web": tc.name}, Resolver: r, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		stop := d.Watch("web", func(list []roadbed.Instance) {
			calls++
			for _, i := range list {
				if got = append(got, i.Addr()); i.Metadata["weight"] != "" {
					got = append(got, i.Metadata["weight"])
				}
				if i.Status != roadbed.Up || i.ID != i.Addr() || i.App != "web" {
					t.Errorf("%s: got %+v", tc.name, i)
				}
			}
		})
		stop()
		if strings.Join(got, " ") != tc.want || calls != 1 {
			t.Errorf("%s with %v: got %v in %d calls, want %s in one", tc.name, tc.records, got, calls, tc.want)
		}
	}
}

func TestDNSKeepsItsListUnlessTwoAnswersAreEmpty(t *testing.T) {
	s := &nameServer{}
	r := s.resolver(t)
	one, two := map[string][]string{"web.example. 1": {"10.0.0.1"}}, map[string][]string{"web.example. 1": {"10.0.0.1", "10.0.0.2"}}
	lists := []int{}
	d := &DNS{Names: map[string]string{"web": "web.example"}, Resolver: r, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	w := dnsWatch{dns: d, app: "web", name: "web.example", fn: func(l []roadbed.Instance) { lists = append(lists, len(l)) }}
	for _, step := range []struct {
		broken  bool
		records map[string][]string
		want    string // the lengths of all lists so far
	}{
		{false, one, "[1]"}, {false, one, "[1]"}, {true, nil, "[1]"}, {false, nil, "[1]"}, {true, nil, "[1]"}, {false, two, "[1 2]"},
		{false, nil, "[1 2]"}, {false, nil, "[1 2 0]"}, {false, nil, "[1 2 0]"}, {false, one, "[1 2 0 1]"},
	} {
		s.set(step.broken, step.records)
		w.look(t.Context())
		if got := fmt.Sprint(lists); got != step.want {
			t.Errorf("after broken %v, %v: lists of %s, want %s", step.broken, step.records, got, step.want)
		}
	}
}

func TestDNSAsksAgainAndLeavesOthersToTheNext(t *testing.T) {
	s := &nameServer{}
	s.set(false, map[string][]string{"web.example. 1": {"10.0.0.1"}})
	d := &DNS{Names: map[string]string{"web": "web.example"}, Resolver: s.resolver(t), Every: time.Millisecond, Next: Static{"app": instances("", 1)}}
	got := make(chan int, 10)
	stop := d.Watch("web", func(l []roadbed.Instance) { got <- len(l) })
	defer stop()
	if n := <-got; n != 1 {
		t.Errorf("got %d instances, want 1", n)
	}
	s.set(false, map[string][]string{"web.example. 1": {"10.0.0.1", "10.0.0.2"}})
	if n := <-got; n != 2 {
		t.Errorf("got %d instances after a change, want 2", n)
	}
	d.Watch("app", func(l []roadbed.Instance) { got <- len(l) })()
	if n := <-got; n != 1 {
		t.Errorf("got %d instances of the next list, want 1", n)
	}
}
