package interop

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// apart is an edge in a process of its own, beside a platform that has the rest.
type apart struct {
	cmd  *exec.Cmd
	said *lockedBuffer
	addr string
}

// newEdge starts an edge of r's platform at a port of its own.
func (r *road) newEdge(t *testing.T) *apart {
	t.Helper()
	port := freePort(t)
	e := &apart{said: new(lockedBuffer), addr: "127.0.0.1:" + port}
	e.cmd = exec.Command(r.binary, "serve", "--roles", "edge", "--data", filepath.Join(t.TempDir(), "edge"), "--engine-port", fmt.Sprint(7100+r.offset), "--eureka-port", fmt.Sprint(8761+r.offset), "--edge-port", port, "--api-port", freePort(t))
	e.cmd.Stdout, e.cmd.Stderr, e.cmd.Dir = e.said, e.said, filepath.Dir(r.binary)
	begin(t, e.cmd)
	t.Cleanup(func() {
		syscall.Kill(-e.cmd.Process.Pid, syscall.SIGTERM) //nolint:errcheck // it, and who took its place
		e.cmd.Wait()                                      //nolint:errcheck // what it said tells more
		if t.Failed() {
			t.Logf("the edge said:\n%s", e.said)
		}
	})
	return e
}

// TestARestartOfTheEdgeDropsNobody has the edge replaced three times while clients ask by HTTP/1.1 and HTTP/2, and WebSockets
// talk, which the old edge lets go on until its time is over.
func TestARestartOfTheEdgeDropsNobody(t *testing.T) {
	needNPM(t)
	chat := freeAddr(t, "127.0.0.1")
	run(t, chat, "node", "websocket.js", "serve", strings.TrimPrefix(chat, "127.0.0.1:"))
	r := newRoad(t)
	r.register("chat", chat)
	r.register("httpbin", serveBin(t))
	r.set("json", "edge.routes", `[{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"httpbin"}]},{"id":"chat","match":{"path":{"prefix":"/chat"}},"backends":[{"vip":"chat"}]}]`)
	r.set("duration", "edge.drain.timeout", "15s")
	e := r.newEdge(t)
	eventually(t, "the edge leads to httpbin", func() []string {
		resp, err := http.Get("http://" + e.addr + "/status/218")
		if err != nil {
			return []string{err.Error()}
		}
		resp.Body.Close()
		return []string{fmt.Sprint(resp.StatusCode)}
	}, "218")
	sockets := newTalk(t, e.addr, 50, 200*time.Millisecond)

	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	clients := map[string]*http.Transport{ // who comes anew all the time is never told to leave
		"new connections": {DisableKeepAlives: true}, "HTTP/1.1": {}, "HTTP/2": {Protocols: &h2c},
	}
	asked := make(map[string]*atomic.Int64)
	var why sync.Map
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for name, tr := range clients {
		client, n := &http.Client{Transport: tr, Timeout: patience}, new(atomic.Int64)
		asked[name] = n
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(5 * time.Millisecond):
					}
					n.Add(1)
					resp, err := client.Get("http://" + e.addr + "/bytes/100?seed=1")
					if err == nil {
						if _, err = io.Copy(io.Discard, resp.Body); err == nil && resp.StatusCode != http.StatusOK {
							err = errors.New(resp.Status)
						}
						resp.Body.Close()
					}
					if err != nil {
						why.Store(name+": "+err.Error(), true)
					}
				}
			})
		}
		defer tr.CloseIdleConnections()
	}
	pids := map[int]bool{e.cmd.Process.Pid: true}
	pid := e.cmd.Process.Pid
	for i := range 3 {
		if err := syscall.Kill(pid, syscall.SIGUSR2); err != nil {
			t.Fatalf("restart %d: %v", i, err)
		}
		eventually(t, "the new edge is there", func() []string {
			for _, p := range group(t, e.cmd.Process.Pid) {
				if !pids[p] {
					pid = p
					return []string{"yes"}
				}
			}
			return []string{"no"}
		}, "yes")
		pids[pid] = true
		for name, n := range asked { // by clients that come now, and those that were there
			until := n.Load() + 300
			eventually(t, name+" is answered", func() []string { return []string{fmt.Sprint(n.Load() >= until)} }, "true")
		}
		if i == 0 {
			until := sockets.now().Sent + 50*5
			eventually(t, "WebSockets go on with the old edge", func() []string { return []string{fmt.Sprint(sockets.now().Sent >= until)} }, "true")
			if said := sockets.now(); said.Closed != 0 {
				t.Errorf("WebSockets when each has said five things more: %+v; want none closed", said)
			}
		}
	}
	eventually(t, "the time of the first edge is over, and of its sockets", func() []string { return []string{fmt.Sprint(sockets.now().Closed)} }, "50")
	close(stop)
	wg.Wait()
	for name, n := range asked {
		t.Logf("%s: %d requests during three restarts", name, n.Load())
	}
	why.Range(func(k, _ any) bool { t.Errorf("a request failed: %v", k); return true })
	said := sockets.end()
	t.Logf("WebSockets: %+v", said)
	if said.Open != 50 || said.Wrong != 0 || said.Echoed < said.Sent-50 {
		t.Errorf("WebSockets: %+v; want 50 that were answered what they said, but for the last message of each", said)
	}
}

// group lists the processes of a group.
func group(t *testing.T, leader int) (pids []int) {
	t.Helper()
	out, err := exec.Command("pgrep", "-g", fmt.Sprint(leader)).Output()
	if err != nil {
		t.Fatalf("pgrep: %v", err)
	}
	for _, f := range strings.Fields(string(out)) {
		var p int
		fmt.Sscan(f, &p) //nolint:errcheck // it prints numbers
		pids = append(pids, p)
	}
	return pids
}

// TestWhoLosesAServerOfThreeNoticesNothing kills one under load with SIGKILL; one retry at another is allowed.
func TestWhoLosesAServerOfThreeNoticesNothing(t *testing.T) {
	need(t, "h2load", "apt-get install nghttp2-client")
	need(t, "node", "apt-get install nodejs")
	r := newRoad(t)
	var servers []*exec.Cmd
	for i := range 3 {
		addr := freeAddr(t, "127.0.0.1")
		servers = append(servers, run(t, addr, "node", "echo.js", strings.TrimPrefix(addr, "127.0.0.1:")))
		r.registerAs("shop", fmt.Sprintf("shop-%d", i+1), addr)
	}
	r.set("int", "shop.ribbon.MaxAutoRetriesNextServer", "1")
	eventually(t, "the edge leads to all of them", func() []string {
		resp, err := http.Get(r.at(7000) + "/shop/")
		if err != nil {
			return []string{err.Error()}
		}
		resp.Body.Close()
		return []string{fmt.Sprint(resp.StatusCode)}
	}, "200")
	var killed sync.WaitGroup
	ended := make(chan struct{})
	killed.Go(func() {
		for r.served("shop-1") < 200 {
			select {
			case <-ended:
				t.Errorf("the server that was to be killed served %d requests", r.served("shop-1"))
			case <-time.After(20 * time.Millisecond):
				continue
			}
			break
		}
		syscall.Kill(-servers[0].Process.Pid, syscall.SIGKILL) //nolint:errcheck // it is there
	})
	l, err := h2load(t.Context(), filepath.Join(t.TempDir(), "log"), []string{"--h1", "-c", "20", "-n", "2400", "--rps", "20", r.at(7000) + "/shop/x"})
	if err != nil {
		t.Error(err)
	}
	close(ended)
	killed.Wait()
	t.Logf("%d requests, none failed", len(l))
}

// served is how many requests an instance got from the edge, as it says itself.
func (r *road) served(id string) int {
	resp, err := http.Get(r.at(7070) + "/api/v1/edge/origins")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var origins []struct {
		Instances []struct {
			ID       string
			Requests int
		}
	}
	json.NewDecoder(resp.Body).Decode(&origins) //nolint:errcheck // it is asked again
	for _, o := range origins {
		for _, i := range o.Instances {
			if i.ID == id {
				return i.Requests
			}
		}
	}
	return 0
}
