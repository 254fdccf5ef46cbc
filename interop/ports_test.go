package interop

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// taken are the ports that were given to a test, for good: a program that is told its port listens there a moment later.
var taken = struct {
	sync.Mutex
	ports map[int]bool
}{ports: make(map[int]bool)}

// take gives ports of a host to a test if nobody has or had one of them.
func take(host string, ports ...int) bool {
	taken.Lock()
	defer taken.Unlock()
	for _, p := range ports {
		if taken.ports[p] {
			return false
		}
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(p)))
		if err != nil {
			return false
		}
		l.Close()
	}
	for _, p := range ports {
		taken.ports[p] = true
	}
	return true
}

// freeAddr finds a port of host that is free, and stays so: the kernel gives those above 32767 to clients, and platforms of
// other tests have those below 31000.
func freeAddr(t *testing.T, host string) string {
	t.Helper()
	for range 1000 {
		if port := 31_000 + rand.IntN(1700); take(host, port) {
			return net.JoinHostPort(host, strconv.Itoa(port))
		}
	}
	t.Fatalf("no free port of %s found in 1000 tries", host)
	return ""
}

func freePort(t *testing.T) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(freeAddr(t, "127.0.0.1"))
	return port
}

// freeOffset finds a --port-offset at which the platform's ports and those of its instances are free, and stay so.
func freeOffset(t *testing.T) int {
	t.Helper()
	for range 1000 {
		offset := 100 + rand.IntN(10_800)
		ports := []int{7000 + offset, 7070 + offset, 7100 + offset, 7101 + offset, 7443 + offset, 8761 + offset}
		for p := 20_000; p < 20_040; p++ {
			ports = append(ports, p+offset)
		}
		if take("127.0.0.1", ports...) {
			return offset
		}
	}
	t.Fatal("no --port-offset with 46 free ports found in 1000 tries")
	return 0
}
