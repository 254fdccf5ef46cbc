package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// stamp is a program of an edge.
const stamp = `def apply(req, ctx):
    req.headers["X-Stamp"] = "%d"
`

// TestNoRacesUnderEverythingAtOnce builds roadbed with Go's race detector, and has clients of all protocols come, and go in the
// midst, while routes, programs, regions, faults and instances change, and an edge is replaced. The detector finds nothing.
func TestNoRacesUnderEverythingAtOnce(t *testing.T) {
	needNPM(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "roadbed")
	build := exec.Command("go", "build", "-race", "-o", binary, "./cmd/roadbed")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building roadbed with -race: %v\n%s", err, out)
	}
	built(t) // what the CLI is called by is there before time counts
	t.Setenv("GORACE", "log_path="+filepath.Join(dir, "race"))
	lasts := 15 * time.Second
	if *soak {
		lasts = 2 * time.Minute
	}
	chat := freeAddr(t, "127.0.0.1")
	run(t, chat, "node", "websocket.js", "serve", strings.TrimPrefix(chat, "127.0.0.1:"))
	calls, _ := serveCalls(t)
	bin, _ := serveBinAndRaw(t)

	r := newRoadOf(t, binary, "--edge-tls-port", "7443", "--edge-http3")
	for key, value := range map[string]string{"edge.push.enabled": "true", "edge.push.identity": "header:X-Member", "edge.drain.timeout": "3s", "edge.connections.perip": "10000", "ipc.command.httpbin.hedge.delay": "5ms"} {
		r.set("string", key, value)
	}
	r.register("chat", chat)
	r.register("calls", calls)
	r.register("httpbin", bin)
	r.set("json", "edge.routes", `[{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"httpbin"}],"filters":[{"mirror":{"vip":"httpbin","percent":5}}]},
		{"id":"calls","match":{"path":{"prefix":"/shop.Calls/"}},"backends":[{"vip":"calls"}]},{"id":"chat","match":{"path":{"prefix":"/chat"}},"backends":[{"vip":"chat"}]}]`)
	e := r.newEdge(t)
	for _, addr := range []string{r.edgeAddr(), e.addr} {
		eventually(t, addr+" leads to httpbin", func() []string {
			resp, err := http.Get("http://" + addr + "/status/218")
			if err != nil {
				return []string{err.Error()}
			}
			resp.Body.Close()
			return []string{fmt.Sprint(resp.StatusCode)}
		}, "218")
	}
	sockets := newTalk(t, r.edgeAddr(), 20, 100*time.Millisecond)
	moved := newTalk(t, e.addr, 20, 100*time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	var wg sync.WaitGroup
	answered := make(map[string]*atomic.Int64)
	client := func(name string, tr *http.Transport, base string) {
		n := new(atomic.Int64)
		answered[name] = n
		for range 2 {
			wg.Go(func() {
				for ctx.Err() == nil {
					if askAnything(ctx, &http.Client{Transport: tr}, base) {
						n.Add(1)
					}
				}
				tr.CloseIdleConnections()
			})
		}
	}
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	secure := strings.Replace(r.at(7443), "http:", "https:", 1)
	client("HTTP/1.1", &http.Transport{}, r.at(7000))
	client("new connections", &http.Transport{DisableKeepAlives: true}, r.at(7000))
	client("h2c", &http.Transport{Protocols: &h2c}, r.at(7000))
	client("TLS, HTTP/1.1", &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, secure)
	client("TLS, HTTP/2", &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}, secure)
	client("the edge that is replaced", &http.Transport{}, "http://"+e.addr)
	client("the edge that is replaced, h2c", &http.Transport{Protocols: &h2c}, "http://"+e.addr)
	repeat := func(pause time.Duration, do func(n int)) {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				do(n)
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	cli := func(args ...string) {
		out, err := exec.CommandContext(ctx, built(t), append(args, "--api", r.at(7070))...).CombinedOutput()
		if err != nil && ctx.Err() == nil {
			t.Errorf("roadbed %q: %v\n%s", args, err, out)
		}
	}
	program := filepath.Join(dir, "stamp.star")
	repeat(300*time.Millisecond, func(n int) {
		cli("config", "set", "--type", "json", "edge.routes.changing", fmt.Sprintf(`[{"id":"changing","match":{"path":{"prefix":"/changing/%d"}},"backends":[{"vip":"httpbin"}]}]`, n))
	})
	repeat(time.Second, func(n int) {
		if err := os.WriteFile(program, fmt.Appendf(nil, stamp, n), 0o600); err != nil {
			t.Error(err)
		}
		cli("edge", "program", "put", "stamp", program, "--global", "--canary", "20")
	})
	repeat(500*time.Millisecond, func(n int) {
		cli("fault", "add", "--rules", "client:httpbin=delay(1ms)", "--for", "1m", "--why", "a test")
		cli("fault", "remove", "--all")
	})
	cli("region", "put", "local", "--edges", r.at(7000))
	cli("region", "put", "west", "--edges", "http://"+e.addr)
	repeat(2*time.Second, func(n int) {
		cli("region", "evacuate", "local", "--ramp", "1s", "--to", "west=100", "--reason", "a test")
		cli("region", "restore", "local", "--ramp", "0")
	})
	repeat(100*time.Millisecond, func(n int) { // another instance comes and goes
		body := strings.NewReplacer("ID", "httpbin-2", "PORT", bin[strings.LastIndex(bin, ":")+1:]).Replace(`{"instance":{"instanceId":"ID","hostName":"localhost","app":"httpbin","ipAddr":"127.0.0.1","status":"UP","port":{"$":PORT,"@enabled":"true"},"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"vipAddress":"httpbin"}}`)
		send(ctx, http.MethodPost, r.at(8761)+"/eureka/apps/httpbin", body, http.StatusNoContent)                         //nolint:errcheck // the requests tell
		send(ctx, http.MethodDelete, r.at(8761)+"/eureka/apps/httpbin/httpbin-2", "", http.StatusOK, http.StatusNotFound) //nolint:errcheck // as above
	})
	repeat(50*time.Millisecond, func(n int) {
		for _, path := range []string{"filters", "origins", "programs", "regions", "requests", "shed", "top"} {
			ask(ctx, http.MethodGet, r.at(7070)+"/api/v1/edge/"+path, "") //nolint:errcheck // it only has to read
		}
	})
	var pushed atomic.Int64
	for i := range 4 { // who listens to what is pushed, for a moment each time
		repeat(0, func(int) {
			for_, stop := context.WithTimeout(ctx, time.Second)
			defer stop()
			req, _ := http.NewRequestWithContext(for_, http.MethodGet, r.at(7000)+"/sse", nil)
			req.Header.Set("X-Member", fmt.Sprint("member", i))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			n, _ := io.Copy(io.Discard, resp.Body) //nolint:errcheck // it ends with the time
			pushed.Add(n)
			resp.Body.Close()
		})
		repeat(20*time.Millisecond, func(n int) {
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.at(7070)+"/push", strings.NewReader("hello"))
			req.Header.Set("X-CUSTOMER_ID", fmt.Sprint("member", i))
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	runs := func(cmd *exec.Cmd) { // to its end, good or bad: another test holds it to what it says
		out, err := cmd.CombinedOutput()
		var ended *exec.ExitError
		if ctx.Err() == nil && (err != nil && !errors.As(err, &ended) || bytes.Contains(out, []byte("Cannot find module")) || bytes.Contains(out, []byte("No module named"))) {
			t.Errorf("%q did not run: %v\n%s", cmd.Args, err, out)
		}
	}
	repeat(5*time.Second, func(n int) {
		how := [][]string{{r.edgeAddr(), "plain"}, {strings.TrimPrefix(r.at(7443), "http://"), "tls"}}[n%2]
		runs(exec.CommandContext(ctx, "node", append([]string{"grpc.js"}, how...)...))
	})
	repeat(10*time.Second, func(n int) {
		runs(exec.CommandContext(ctx, "env", append(python(t, "-B", "h3.py"), strings.TrimPrefix(r.at(7443), "http://"))...))
	})
	repeat(4*time.Second, func(n int) {
		if n == 0 {
			return
		}
		for _, pid := range group(t, e.cmd.Process.Pid) {
			syscall.Kill(pid, syscall.SIGUSR2) //nolint:errcheck // one that ends does not hear it
		}
	})
	wg.Wait()
	for name, n := range answered {
		t.Logf("%s: %d requests answered", name, n.Load())
		if n.Load() < 20 {
			t.Errorf("%s: %d requests answered, want more", name, n.Load())
		}
	}
	if pushed.Load() == 0 {
		t.Error("nothing was pushed to anybody")
	}
	if n := strings.Count(e.said.String(), "serving edge"); n < 2 {
		t.Errorf("%d edges served in turn, want some", n)
	} else {
		t.Logf("%d edges served in turn", n)
	}
	t.Logf("%d bytes pushed; WebSockets: %+v and %+v", pushed.Load(), sockets.end(), moved.end())
	syscall.Kill(-e.cmd.Process.Pid, syscall.SIGTERM) //nolint:errcheck // it, and who took its place
	r.cmd.Process.Signal(syscall.SIGTERM)             //nolint:errcheck // it runs
	r.cmd.Wait()                                      //nolint:errcheck // what it said tells more
	e.cmd.Wait()                                      //nolint:errcheck // as above
	reports, err := filepath.Glob(filepath.Join(dir, "race.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, report := range reports {
		text, _ := os.ReadFile(report) //nolint:errcheck // it is there
		t.Errorf("%.10000s", text)
	}
}

// askAnything makes a request of some kind, and gives it up in the midst now and then. It says whether it was answered with 200.
func askAnything(ctx context.Context, client *http.Client, base string) bool {
	if rand.IntN(5) == 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, time.Duration(rand.IntN(50))*time.Millisecond)
		defer stop()
	}
	method, path, body := http.MethodGet, "/bytes/100?seed=1", io.Reader(nil)
	switch rand.IntN(8) {
	case 0:
		path = "/drip?duration=0.1&numbytes=20&delay=0"
	case 1:
		path = "/stream-bytes/200000?seed=1"
	case 2:
		method, path, body = http.MethodPost, "/post", strings.NewReader(strings.Repeat("0123456789", rand.IntN(20_000)))
	case 3:
		method, path, body = http.MethodPost, "/raw", io.LimitReader(slowly{}, 50_000) // without a length
	case 4:
		path = "/slow"
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, 100*time.Millisecond)
		defer stop()
	case 5:
		path = "/changing/1/get"
	}
	req, err := http.NewRequestWithContext(ctx, method, base+path, body)
	if err != nil {
		return false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if rand.IntN(10) == 0 {
		return false // what is left of the body is not read
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK
}

// slowly is a body that comes in pieces.
type slowly struct{}

func (slowly) Read(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return min(len(p), 5000), nil
}
