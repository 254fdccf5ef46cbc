package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/ipc"
)

// road is a platform without anything on it, and the processes beside it.
type road struct {
	t      *testing.T
	binary string
	offset int
	cmd    *exec.Cmd // of the platform
}

// newRoad starts a platform; flags are those of `roadbed up`.
func newRoad(t *testing.T, flags ...string) *road {
	t.Helper()
	return newRoadOf(t, built(t), flags...)
}

// newRoadOf starts one of another program than roadbed as it is.
func newRoadOf(t *testing.T, binary string, flags ...string) *road {
	t.Helper()
	r := &road{t: t, binary: binary, offset: freeOffset(t)}
	r.cmd = r.begin("platform ready", append([]string{"up", "--data", t.TempDir(), "--port-offset", fmt.Sprint(r.offset)}, flags...)...)
	r.set("string", "edge.priority.load", "* / 1") // nobody is refused, however busy this machine is
	return r
}

func (r *road) at(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port+r.offset) }

// begin starts roadbed and waits until it says so.
func (r *road) begin(until string, args ...string) *exec.Cmd {
	r.t.Helper()
	said := new(lockedBuffer)
	cmd := exec.Command(r.binary, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = said, said, filepath.Dir(r.binary)
	begin(r.t, cmd)
	r.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // it may have ended
		cmd.Wait()                          //nolint:errcheck // what it said tells more
		if r.t.Failed() {
			r.t.Logf("roadbed %s said:\n%s", args[0], said)
		}
	})
	for began := time.Now(); !strings.Contains(said.String(), until); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > patience {
			r.t.Fatalf("roadbed %q did not say %q within %v, but:\n%s", args, until, patience, said)
		}
	}
	return cmd
}

// sidecar starts one and returns where it calls out.
func (r *road) sidecar(args ...string) (at string, cmd *exec.Cmd) {
	r.t.Helper()
	port := freePort(r.t)
	cmd = r.begin("registered", append([]string{"sidecar", "-p", port, "--registry", r.at(8761), "--config-url", r.at(8761), "--telemetry", r.at(7101)}, args...)...)
	return "127.0.0.1:" + port, cmd
}

// peak is the most memory that a process ever had, in MiB.
func peak(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("no VmHWM in %s", text)
	}
	kb, _ := strconv.Atoi(string(m[1]))
	return kb >> 10
}

func TestServicesInPythonAndNodeStandOnTheRoadBySidecars(t *testing.T) {
	needNPM(t)
	needPython(t)

	r := newRoad(t)
	pyPort, pyIn, nodePort, grpcPort, grpcIn := freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)
	pyOut, pySidecar := r.sidecar("--app", "pyshop", "--port", pyPort, "--inbound", pyIn)
	nodeOut, nodeSidecar := r.sidecar("--app", "noderecs", "--port", nodePort)
	r.sidecar("--app", "greeter", "--port", grpcPort, "--inbound", grpcIn, "--health", "http://127.0.0.1:"+nodePort+"/healthcheck")
	py := start(t, "env", python(t, "sidecar.py", pyPort, pyOut)...)
	node := start(t, "node", "sidecar.js", nodePort, grpcPort, nodeOut)
	py.await("ready")
	node.await("ready")

	// Go calls them by name, and customers through the edge.
	found := discovery.New(discovery.Config{Registry: []string{r.at(8761)}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- found.Run(ctx) }()
	calls := ipc.New(ipc.Options{App: "gopher", Lists: found, Log: slog.New(slog.DiscardHandler)})
	defer func() {
		cancel()
		<-ended
		calls.Close()
	}()
	up := func() (out []string) {
		for _, app := range []string{"greeter", "noderecs", "pyshop"} {
			for _, i := range found.Instances(app) {
				if i.Status == roadbed.Up {
					out = append(out, app)
				}
			}
		}
		return out
	}
	eventually(t, "all three are up", up, "greeter", "noderecs", "pyshop")
	for url, want := range map[string]string{"http://pyshop/": "python says hello", "http://noderecs/": "node says hello"} {
		eventually(t, "Go asks "+url, func() []string { return []string{body(calls.HTTPClient(), url)} }, want)
		eventually(t, "through the edge, "+url, func() []string {
			return []string{body(http.DefaultClient, r.at(7000)+strings.TrimPrefix(url, "http:/"))}
		}, want)
	}

	// They call each other, with content codings as they came.
	for _, c := range []struct {
		who  *puppet
		url  string
		want []string
	}{
		{py, "http://noderecs/packed", []string{"200", "gzip", "node says hello"}},
		{node, "http://noderecs/packed", []string{"200", "gzip", "node says hello"}},
		{node, "http://pyshop/", []string{"200", "null", "python says hello"}},
	} {
		if got := c.who.order("get "+c.url, "got"); !slices.Equal(got, c.want) {
			t.Errorf("GET %s: got %q, want %q", c.url, got, c.want)
		}
	}
	if got := py.order("get http://nobody/", "got"); got[0] != "503" || !strings.Contains(got[2], "no instance") {
		t.Errorf("GET http://nobody/: got %q", got)
	}

	// Python copies nothing but the request's id; the rest of the context goes on all the same.
	req, _ := http.NewRequest(http.MethodGet, r.at(7000)+"/pyshop/relay", nil)
	req.Header.Set("X-Request-Id", "request-number-17")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	var h map[string]string
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if left, err := strconv.Atoi(h["x-ipc-timeout-ms"]); err != nil || left < 1 || left > 1000 || h["x-request-id"] != "request-number-17" || h["x-ipc-caller"] != "pyshop" ||
		h["x-ipc-criticality"] != "CRITICAL" || h["x-forwarded-host"] != "noderecs" {
		t.Errorf("after edge, sidecar, Python and sidecar, Node got %v", h)
	}

	// A GiB without a length, in constant memory.
	const size = 1 << 30
	for name, c := range map[string]struct {
		who *puppet
		pid int
	}{"requests": {py, pySidecar.Process.Pid}, "fetch": {node, nodeSidecar.Process.Pid}} {
		before := peak(t, c.pid)
		if got := c.who.order(fmt.Sprintf("upload http://noderecs/upload %d", size), "uploaded"); !slices.Equal(got, []string{"200", fmt.Sprint(size) + " chunked"}) {
			t.Errorf("%s uploads: got %q", name, got)
		}
		if grown := peak(t, c.pid) - before; grown >= 32 {
			t.Errorf("%s uploads 1 GiB: the sidecar grew by %d MiB, want less than 32", name, grown)
		} else {
			t.Logf("%s uploads 1 GiB: the sidecar's peak grew from %d by %d MiB", name, before, grown)
		}
	}

	// gRPC, by authority and by tunnel.
	for _, how := range []string{"host", "tunnel"} {
		if got := node.order("grpc "+how+" world", "greeted"); !slices.Equal(got, []string{"0", "hello world"}) {
			t.Errorf("gRPC by %s: got %q", how, got)
		}
		if got := node.order("grpc "+how+" nobody", "greeted"); !slices.Equal(got, []string{"5", "who is that"}) {
			t.Errorf("gRPC by %s, an error: got %q, want NOT_FOUND as it is", how, got)
		}
	}
	if got := node.order("stream 3", "counted"); !slices.Equal(got, []string{"1:x", "2:x", "3:x"}) {
		t.Errorf("a stream both ways: got %q", got)
	}

	// A service that ends without a word is out within its health check; until then callers are told how it is.
	py.in.(io.Closer).Close()
	<-py.ended
	if got := node.order("get http://pyshop/", "got"); got[0] != "502" && got[0] != "503" {
		t.Errorf("a service whose process is gone: got %q, want 502 or 503", got)
	}
	eventually(t, "the others are up", up, "greeter", "noderecs")
}

// body is what an address answers, or the error in words.
func body(c *http.Client, url string) string {
	resp, err := c.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// TestCurlFindsPranasEndpoints types what users of Prana type, in both modes.
func TestCurlFindsPranasEndpoints(t *testing.T) {
	need(t, "curl", "apt-get install curl")
	r := newRoad(t)
	shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		text, _ := io.ReadAll(q.Body)
		fmt.Fprintf(w, "%s %s %s", q.Method, q.URL, text)
	}))
	t.Cleanup(shop.Close)
	port := fmt.Sprint(shop.Listener.Addr().(*net.TCPAddr).Port)
	file := filepath.Join(t.TempDir(), "prana.properties")
	if err := os.WriteFile(file, []byte("eureka.name=shop\neureka.port="+port+"\neureka.vipAddress=shop.prod\nshop.rows=7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, _ := r.sidecar("--app", "shop", "--port", port)
	prana, _ := r.sidecar("-a", "shop", "-c", file, "--compat", "prana")
	curl := func(args ...string) string {
		out, err := exec.Command("curl", append([]string{"-s", "-w", " %{http_code} %{content_type}"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("curl %q: %v\n%s", args, err, out)
		}
		return string(out)
	}
	eventually(t, "the service is UP", func() []string { return []string{curl("http://" + prana + "/status")} }, `{"status":"UP"} 200 application/json`)
	eventually(t, "its host is known", func() []string { return []string{curl("http://" + plain + "/eureka/hosts?appName=shop")} }, `["127.0.0.1"] 200 application/json`)
	const failed = "<status><status_code>500</status_code><message>Error forwarding request to origin</message></status> 200 application/xml"
	for _, c := range []struct {
		args          []string
		plain, compat string
	}{
		{[]string{"/ping"}, "pong 200 text/plain", "pong 200 text/plain"},
		{[]string{"/healthcheck"}, "<health>ok</health> 200 application/xml", "<health>ok</health> 200 application/xml"},
		{[]string{"/eureka/hosts"}, `{"reason":"Bad Request","message":"appName has to be specified"} 400 application/json`, `{"reason":"Bad Request","message":"appName has to be specified"} 200 application/json`},
		{[]string{"/dynamicproperties?id=shop.rows&id=none"}, `{"none":null,"shop.rows":null} 200 application/json`, `{"none":null,"shop.rows":"7"} 200 application/json`},
		{[]string{"-d", "x=1", "/proxy?vip=shop&path=/buy%3Fn%3D2"}, "POST /buy?n=2 x=1 200 text/plain; charset=utf-8", "POST /buy?n=2 x=1 200 text/plain; charset=utf-8"},
		{[]string{"/proxy?vip=nobody&path=/"}, "503 Service Unavailable: no instance of", failed},
	} {
		for at, want := range map[string]string{plain: c.plain, prana: c.compat} {
			args := slices.Clone(c.args)
			args[len(args)-1] = "http://" + at + args[len(args)-1]
			if got := curl(args...); !strings.HasPrefix(got, want) {
				t.Errorf("curl %s: got %q, want %q", strings.Join(args, " "), got, want)
			}
		}
	}
	if got := curl("--proxy", "http://"+plain, "http://shop/by/proxy"); !strings.HasPrefix(got, "GET /by/proxy  200") {
		t.Errorf("curl --proxy: got %q", got)
	}
	if got := curl("--proxytunnel", "--proxy", "http://"+plain, "http://shop/by/tunnel"); !strings.HasPrefix(got, "GET /by/tunnel  200") {
		t.Errorf("curl --proxytunnel: got %q", got)
	}
	if got := curl("-H", "Host: shop", "http://"+plain+"/by/host"); !strings.HasPrefix(got, "GET /by/host  200") {
		t.Errorf("curl with a Host: got %q", got)
	}
}
