//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	mostByPush   = 6.0 // KiB
	clientsByIP  = 900 // connections from one address; an edge lets 1,000 in
	filesApart   = 500 // files that a process opens for other things
	warmClients  = 200
	sampledPush  = 200
	settlingPush = 5 * time.Second
)

// clientsEnv makes this program hold connections for push: where the edge is, the number of the first, and how many.
const clientsEnv = "ROADBED_BENCH_CLIENTS"

// pushed lets clients hold idle WebSockets at as many edges as it takes, for a process may open only so many files, and
// watches their memory. Each edge knows the others, so that any of them says of any client that it is there.
func (b *bench) pushed() error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	number, share, err := spread(b.clients, limit.Max)
	if err != nil {
		return err
	}
	origin, at, err := b.startOrigin()
	if err != nil {
		return err
	}
	defer origin.Stop()
	ours, err := b.startRoadbed(at)
	if err != nil {
		return err
	}
	defer ours.Stop()
	edges, peers := []*platform{ours}, []string{ours.api}
	for i := 1; i < number; i++ {
		more, err := ours.another(fmt.Sprintf("edge%d", i+1), b.routes)
		if err != nil {
			return err
		}
		defer more.proxy.Stop()
		edges, peers = append(edges, more), append(peers, more.api)
	}
	if err := ours.setAll(map[string]string{"edge.push.enabled": "true", "edge.push.identity": "header:X-Who", "edge.push.peers": strings.Join(peers, ","), "maxConnections": fmt.Sprint(share + filesApart)}); err != nil {
		return err
	}
	began, grown, n := time.Now(), uint64(0), 0
	for i, e := range edges {
		edge := strings.TrimSuffix(strings.TrimPrefix(e.url, "http://"), path)
		some, err := holdClients(edge, i*share, warmClients)
		if err != nil {
			return err
		}
		defer some.leave()
		before, err := e.Resident()
		if err != nil {
			return err
		}
		most, err := holdClients(edge, i*share+warmClients, share-warmClients)
		if err != nil {
			return err
		}
		defer most.leave()
		time.Sleep(settlingPush)
		after, err := e.Resident()
		if err != nil {
			return err
		}
		grown += uint64(max(0, int64(after)-int64(before)))
		n += share - warmClients
	}
	log.Printf("%d clients came to %d edges in %v", share*number, number, time.Since(began).Round(time.Millisecond))
	for i := range sampledPush {
		who := name(i * (share*number - 1) / (sampledPush - 1))
		if err := present(edges[i%number].api, who); err != nil {
			return err
		}
	}
	b.table.keep(fmt.Sprintf("KiB that each of %d idle WebSockets for push costs, at %d edges", share*number, number), float64(grown)/1024/float64(n), mostByPush)
	return nil
}

// spread returns how many edges it takes to hold so many clients, and how many each holds, where a process may open so many
// files.
func spread(clients int, files uint64) (edges, each int, err error) {
	can := int(min(files, 1<<30)) - filesApart
	if can <= warmClients {
		return 0, 0, fmt.Errorf("a process may open %d files, which is too few to hold clients: more than %d are needed; raise the hard limit (ulimit -Hn)", files, filesApart+warmClients)
	}
	if clients <= warmClients {
		return 0, 0, fmt.Errorf("%d clients are too few to tell what one costs: ask for more than %d", clients, warmClients)
	}
	edges = (clients + can - 1) / can
	if each = (clients + edges - 1) / edges; each <= warmClients {
		return 0, 0, fmt.Errorf("%d clients at %d edges are too few for each: ask for more than %d", clients, edges, edges*warmClients)
	}
	return edges, each, nil
}

func name(i int) string { return fmt.Sprintf("client-%06d", i) }

// present checks that a client holds a connection.
func present(api, who string) error {
	req, err := http.NewRequest(http.MethodGet, api+"/push", nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-CUSTOMER_ID", who)
	resp, err := caller.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s is not connected: %s", who, resp.Status)
	}
	return nil
}

// holder is a process that holds connections.
type holder struct {
	cmd *exec.Cmd
	end io.Closer
}

func (h *holder) leave() {
	h.end.Close() //nolint:errcheck // it is gone already if this fails
	h.cmd.Wait()  //nolint:errcheck // as above
}

// holdClients starts a process that holds count connections, and waits until they are there.
func holdClients(edge string, first, count int) (*holder, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", clientsEnv, edge, first, count))
	var said bytes.Buffer
	cmd.Stderr = &said
	end, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		return nil, err
	}
	h := &holder{cmd, end}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		h.leave()
		return nil, fmt.Errorf("%d clients from %s on could not all connect: %q %v\n%s", count, name(first), line, err, said.String())
	}
	return h, nil
}

// serveClients is such a process. It holds its connections until its input ends.
func serveClients(what string) error {
	var edge string
	var first, count int
	if _, err := fmt.Sscanf(what, "%s %d %d", &edge, &first, &count); err != nil {
		return fmt.Errorf("%s=%q: %w", clientsEnv, what, err)
	}
	at, err := netip.ParseAddrPort(edge)
	if err != nil {
		return err
	}
	for i := first; i < first+count; i++ {
		if _, err := holdClient(at, i); err != nil {
			return fmt.Errorf("%s: %w", name(i), err)
		}
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// holdClient opens a WebSocket and leaves it open, from one of many addresses of this machine. It is a bare socket, so that
// a hundred thousand cost nothing here.
func holdClient(at netip.AddrPort, i int) (fd int, err error) {
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	from := i/clientsByIP + 1
	const addressFirst = 24 // IP_BIND_ADDRESS_NO_PORT: the port is chosen when the other end is known
	if err := errors.Join(
		syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, addressFirst, 1),
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 10}),
		syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 1, byte(from >> 8), byte(from)}}),
		syscall.Connect(fd, &syscall.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}),
	); err != nil {
		return 0, err
	}
	hello := fmt.Appendf(nil, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Who: %s\r\n\r\n", at, name(i))
	if _, err := again(func() (int, error) { return syscall.Write(fd, hello) }); err != nil {
		return 0, err
	}
	var buf [4096]byte
	n, err := again(func() (int, error) { return syscall.Read(fd, buf[:]) })
	if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(buf[:n], []byte("HTTP/1.1 101 ")) {
		return 0, fmt.Errorf("the edge says %.300q", buf[:n])
	}
	return fd, nil
}

// again repeats a system call that a signal, such as the runtime's own, interrupted.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
