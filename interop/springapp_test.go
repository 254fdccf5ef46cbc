package interop

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
)

// process is a Java program that is driven by HTTP.
type process struct {
	t    *testing.T
	url  string
	cmd  *exec.Cmd
	said *lockedBuffer
	done chan struct{} // closed when it has ended
}

// newApp starts the Spring Boot service at a free port and waits until it answers. args are properties, --name=value.
func newApp(t *testing.T, args ...string) *process {
	t.Helper()
	needJava(t)
	addr := freeAddr(t, "127.0.0.1")
	port := addr[strings.LastIndex(addr, ":")+1:]
	p := &process{t: t, url: "http://" + addr, said: new(lockedBuffer), done: make(chan struct{})}
	p.cmd = exec.Command("java/run", append([]string{
		"app", "App", "--server.address=127.0.0.1", "--server.port=" + port, "--spring.application.name=bootapp",
		"--eureka.instance.hostname=127.0.0.1", "--eureka.instance.ipAddress=127.0.0.1",
		"--eureka.instance.instanceId=127.0.0.1:bootapp:" + port, "--spring.main.banner-mode=off", "--management.endpoints.web.exposure.include=*",
	}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = p.said, p.said
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.done); p.cmd.Wait() }() //nolint:errcheck // what it said tells more
	t.Cleanup(func() {
		p.cmd.Process.Kill() //nolint:errcheck // it may have ended
		<-p.done
		if t.Failed() {
			t.Logf("the Spring Boot service said:\n%s", withoutTraces(p.said))
		}
	})
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if resp, err := http.Get(p.url + "/hello"); err == nil {
			resp.Body.Close()
			return p
		}
		select {
		case <-p.done:
			t.Fatal("the Spring Boot service ended before it answered")
		default:
		}
		if time.Since(began) > 3*patience {
			t.Fatalf("the Spring Boot service does not answer after %v", 3*patience)
		}
	}
}

// get fetches a path of the process and returns what it answered, or the error in words.
func (p *process) get(path string) string {
	p.t.Helper()
	resp, err := http.Get(p.url + path)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("%d %s", resp.StatusCode, body)
	}
	return string(body)
}

func (p *process) post(path string) {
	p.t.Helper()
	resp, err := http.Post(p.url+path, "", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode/100 != 2 { //nolint:errcheck // only to say more
		p.t.Fatalf("POST %s: status %d %s", path, resp.StatusCode, body)
	}
}

// answers lists what several calls got, each answer once.
func answers(n int, call func() string) func() []string {
	return func() []string {
		var out []string
		for range n {
			out = append(out, call())
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
}

func TestSpringBootRegistersAndCallsOursByName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		args []string
		uses string
		zone bool // whether it keeps to its own zone, and the registry wants a token
	}{
		{"by RestTemplate", nil, "RestTemplateTransportClientFactories", false},
		{"by RestClient", []string{"--eureka.client.restclient.enabled=true", "--spring.cloud.loadbalancer.configurations=zone-preference"}, "RestClientTransportClientFactories", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t)
			if tt.zone {
				s = newGuarded(t, "secret")
			}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer wg.Wait()
			defer cancel()
			ours := discovery.New(discovery.Config{Registry: []string{s.base()}, Location: roadbed.Location{Region: "local"}, Log: slog.New(slog.DiscardHandler)})
			wg.Go(func() { ours.Run(ctx) }) //nolint:errcheck // it always ends with nil
			for _, zone := range []string{"a", "b"} {
				shop := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "shop of zone "+zone+" at "+r.URL.Path) //nolint:errcheck // the client says what it got
				}))
				defer shop.Close()
				var port int
				if _, err := fmt.Sscanf(shop.URL, "http://127.0.0.1:%d", &port); err != nil {
					t.Fatal(err)
				}
				ours.Register(roadbed.Instance{
					ID: "shop-" + zone, App: "shop", VIP: "shop", Host: "127.0.0.1", Port: port, Status: roadbed.Up, Location: roadbed.Location{Region: "local", Zone: zone},
				})
			}
			eventually(t, "ours are registered", func() []string { return s.held("shop") }, "SHOP/shop-a/UP", "SHOP/shop-b/UP")

			app := newApp(t, append([]string{
				"--eureka.client.serviceUrl.defaultZone=" + s.base(), "--eureka.client.registryFetchIntervalSeconds=1",
				"--eureka.client.instanceInfoReplicationIntervalSeconds=1", "--eureka.instance.leaseRenewalIntervalInSeconds=1",
				"--eureka.client.healthcheck.enabled=true", "--eureka.instance.metadataMap.zone=b", "--spring.cloud.loadbalancer.zone=b",
				"--spring.cloud.loadbalancer.cache.enabled=false", "--spring.cloud.config.enabled=false",
				"--spring.cloud.gateway.server.webmvc.routes[0].id=shop", "--spring.cloud.gateway.server.webmvc.routes[0].uri=lb://shop",
				"--spring.cloud.gateway.server.webmvc.routes[0].predicates[0]=Path=/shop/**",
			}, tt.args...)...)
			if got := app.get("/transport"); got != tt.uses {
				t.Errorf("it speaks to the registry by %s, want %s", got, tt.uses)
			}
			me := "BOOTAPP/127.0.0.1:bootapp:" + app.url[strings.LastIndex(app.url, ":")+1:] + "/"
			eventually(t, "it registers, UP by its health check", func() []string { return s.held("bootapp") }, me+"UP")
			eventually(t, "it finds ours", func() []string { return strings.Split(app.get("/instances?of=shop"), ",") }, `["shop-a"`, `"shop-b"]`)

			from := func(path string, zones ...string) (want []string) {
				for _, z := range zones {
					want = append(want, "shop of zone "+z+" at "+path)
				}
				return want
			}
			byName := func() string { return app.get("/call?url=http://shop/hello") }
			byRoute := func() string { return app.get("/shop/hello") }
			if tt.zone {
				eventually(t, "it calls ours in its own zone", answers(6, byName), from("/hello", "b")...)
				eventually(t, "its gateway's lb://shop reaches the one in its own zone", answers(6, byRoute), from("/shop/hello", "b")...)
			} else {
				eventually(t, "it calls each of ours by name", answers(6, byName), from("/hello", "a", "b")...)
				eventually(t, "its gateway's lb://shop reaches each of ours", answers(6, byRoute), from("/shop/hello", "a", "b")...)
			}
			if err := ours.SetOverride(ctx, "shop", "shop-b", roadbed.OutOfService); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it no longer calls the one out of service", answers(6, byName), from("/hello", "a")...)
			eventually(t, "nor does its gateway", answers(6, byRoute), from("/shop/hello", "a")...)

			var it []roadbed.Instance
			eventually(t, "ours find it", func() []string {
				it = ours.Instances("bootapp")
				return []string{fmt.Sprint(len(it))}
			}, "1")
			if resp, err := http.Get("http://" + it[0].Addr() + "/hello"); err != nil || resp.StatusCode != http.StatusOK || it[0].Location.Zone != "b" {
				t.Errorf("calling it at %+v: got %v %v, want 200 in zone b", it[0], resp, err)
			} else {
				resp.Body.Close()
			}

			app.post("/healthy?is=false")
			eventually(t, "what fails its health check is DOWN", func() []string { return s.held("bootapp") }, me+"DOWN")
			app.post("/healthy?is=true")
			eventually(t, "and UP again", func() []string { return s.held("bootapp") }, me+"UP")
			if err := ours.SetOverride(ctx, "bootapp", strings.Split(me, "/")[1], roadbed.OutOfService); err != nil {
				t.Fatal(err)
			}
			eventually(t, "an operator takes it out", func() []string { return s.held("bootapp") }, me+"OUT_OF_SERVICE")
			if err := ours.ClearOverride(ctx, "bootapp", strings.Split(me, "/")[1]); err != nil {
				t.Fatal(err)
			}
			eventually(t, "and back in", func() []string { return s.held("bootapp") }, me+"UP")

			s.stop()
			s.start() // it has lost its memory
			eventually(t, "it registers again by itself", func() []string { return s.held("bootapp") }, me+"UP")
			app.cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // what is tested next tells
			eventually(t, "it leaves when it is stopped", func() []string { return s.held("bootapp") })
		})
	}
}
