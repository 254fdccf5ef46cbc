package interop

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// soak asks for the long forms of the tests that have one.
var soak = flag.Bool("soak", false, "run each test that has one in its long form")

// needJava ends the test unless the Java programs are built.
func needJava(t *testing.T) {
	t.Helper()
	need(t, "java", "apt-get install default-jdk-headless")
	if _, err := os.Stat("java/target/built"); err != nil {
		t.Fatal("the Java programs are not built; run ./interop/install.sh")
	}
}

// spring is a stock Eureka server of Spring Cloud Netflix, in a process of its own. Servers that are peers need
// addresses of their own within 127.0.0.0/8, for they tell each other apart by host alone.
type spring struct {
	t    *testing.T
	base string // of Eureka's API, http://HOST:PORT/eureka/
	args []string
	cmd  *exec.Cmd
	said *lockedBuffer
	done chan struct{} // closed when the process has ended
}

// quick are settings under which a server acts as one that has run for long, and tells what it knows at once. It waits
// longer for its peers than the usual 0.2 s, and holds on to what they did not take for longer than half a minute: on a
// machine that has as many JVMs as this and two cores, it would give up an operation for good.
var quick = []string{
	"--eureka.server.useReadOnlyResponseCache=false",
	"--eureka.server.peerEurekaNodesUpdateIntervalMs=1000",
	"--eureka.server.peerNodeReadTimeoutMs=2000",
	"--eureka.server.maxTimeForReplication=180000",
	"--eureka.server.enableSelfPreservation=false",
	"--eureka.server.evictionIntervalTimerInMs=1000",
	"--eureka.instance.leaseRenewalIntervalInSeconds=5",
	"--eureka.client.registryFetchIntervalSeconds=5",
	"--eureka.client.initialInstanceInfoReplicationIntervalSeconds=1",
}

// newSpring starts a server at an address. peers are the base URLs of the servers it replicates to, itself among them
// or not. Extra arguments are properties, --name=value.
func newSpring(t *testing.T, addr string, peers []string, args ...string) *spring {
	t.Helper()
	needJava(t)
	s := &spring{t: t, base: baseAt(addr)}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	clustered := fmt.Sprint(len(peers) > 0)
	if len(peers) == 0 {
		peers = []string{s.base}
	}
	s.args = append([]string{
		"server", "Server", "--server.address=" + host, "--server.port=" + port, "--spring.application.name=eureka",
		"--eureka.instance.hostname=" + host, "--eureka.client.serviceUrl.defaultZone=" + strings.Join(peers, ","),
		"--eureka.client.registerWithEureka=" + clustered, "--eureka.client.fetchRegistry=" + clustered,
		"--spring.main.banner-mode=off",
	}, args...)
	s.launch()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", s.base, withoutTraces(s.said))
		}
	})
	return s
}

// baseAt is the base URL of Eureka's API at an address, as Spring has it.
func baseAt(addr string) string { return "http://" + addr + "/eureka/" }

// launch starts the process without waiting for it; ready waits.
func (s *spring) launch() {
	s.t.Helper()
	s.said = new(lockedBuffer)
	s.cmd = exec.Command("java/run", s.args...)
	s.cmd.Stdout, s.cmd.Stderr = s.said, s.said
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { defer close(done); cmd.Wait() }() //nolint:errcheck // what it said tells more
}

// ready waits until the server answers reads.
func (s *spring) ready() {
	s.t.Helper()
	for began := time.Now(); time.Since(began) < 3*patience; time.Sleep(100 * time.Millisecond) {
		select {
		case <-s.done:
			s.t.Fatalf("%s ended before it was ready:\n%s", s.base, s.said)
		default:
		}
		resp, err := http.Get(s.base + "apps/")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
	s.t.Fatalf("%s is not ready after %v:\n%s", s.base, 3*patience, s.said)
}

func (s *spring) kill() {
	s.cmd.Process.Kill() //nolint:errcheck // it may have ended
	<-s.done
}

// withoutTraces leaves out the places in the code that Java lists below each exception.
func withoutTraces(said *lockedBuffer) string {
	var b strings.Builder
	for line := range strings.Lines(said.String()) {
		if !strings.HasPrefix(strings.TrimSpace(line), "at ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// wireInstance is what the tests read of an instance in Eureka's JSON.
type wireInstance struct {
	InstanceID       string            `json:"instanceId"`
	App              string            `json:"app"`
	Status           string            `json:"status"`
	OverriddenStatus string            `json:"overriddenStatus"`
	Metadata         map[string]string `json:"metadata"`
}

// instances reads the instances of an app, or of all apps if it is empty, from the Eureka API at base.
func instances(base, app string) ([]wireInstance, error) {
	req, err := http.NewRequest(http.MethodGet, base+"apps/"+app, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if app != "" && resp.StatusCode == http.StatusNotFound {
		return nil, nil
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %sapps/%s: status %d", base, app, resp.StatusCode)
	}
	type application struct{ Instance []wireInstance }
	var doc struct {
		Application  application
		Applications struct{ Application []application }
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		return nil, fmt.Errorf("GET %sapps/%s: %w", base, app, err)
	}
	list := doc.Application.Instance
	for _, a := range doc.Applications.Application {
		list = append(list, a.Instance...)
	}
	return list, nil
}

// held says what the Eureka API at base has of an app, as APP/id/STATUS.
func held(t *testing.T, base, app string) []string {
	t.Helper()
	list, err := instances(base, app)
	if err != nil {
		t.Fatal(err)
	}
	return named(list, false)
}

// named lists instances as APP/id/STATUS and, with metadata, their entry n.
func named(list []wireInstance, metadata bool) []string {
	var out []string
	for _, i := range list {
		s := i.App + "/" + i.InstanceID + "/" + i.Status
		if n := i.Metadata["n"]; metadata && n != "" {
			s += "/" + n
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}
