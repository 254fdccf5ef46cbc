package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// demo is the real binary, running the streaming service on ports and state of its own.
type demo struct {
	t      *testing.T
	binary string
	state  string
	offset int
	cmd    *exec.Cmd
	said   *lockedBuffer
	ended  chan struct{}
}

// lockedBuffer is written by a process while a test reads it.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newDemo(t *testing.T) *demo {
	t.Helper()
	d := &demo{t: t, binary: built(t), state: t.TempDir(), offset: freeOffset(t)}
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("roadbed said:\n%s", d.said)
		}
	})
	d.start()
	return d
}

func (d *demo) start() {
	d.t.Helper()
	d.said = new(lockedBuffer)
	d.cmd = exec.Command(d.binary, "up", "--demo", "--data", d.state, "--port-offset", fmt.Sprint(d.offset))
	d.cmd.Stdout, d.cmd.Stderr = d.said, d.said
	begin(d.t, d.cmd)
	ended := make(chan struct{})
	d.ended = ended
	go func() {
		defer close(ended)
		d.cmd.Wait() //nolint:errcheck // what it said tells more
	}()
	for began := time.Now(); !strings.Contains(d.said.String(), "all healthy"); time.Sleep(50 * time.Millisecond) {
		select {
		case <-ended:
			d.t.Fatalf("roadbed up ended:\n%s", d.said)
		default:
		}
		if time.Since(began) > 2*patience {
			d.t.Fatalf("the demo is not healthy within %v:\n%s", 2*patience, d.said)
		}
	}
}

// stop ends the platform as Ctrl-C does.
func (d *demo) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		d.t.Error(err)
	}
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Errorf("roadbed up did not end within %v of SIGTERM:\n%s", patience, d.said)
		d.cmd.Process.Kill() //nolint:errcheck // it may end just now
		<-d.ended
	}
}

func (d *demo) url() string { return fmt.Sprintf("http://127.0.0.1:%d", 7070+d.offset) }

// cli runs a command of roadbed against the platform and returns what it printed.
func (d *demo) cli(args ...string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, d.binary, append(args, "--api", d.url())...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("roadbed %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// pid returns the process of an app's first instance.
func (d *demo) pid(app string) int {
	d.t.Helper()
	resp, err := http.Get(d.url() + "/api/v1/instances")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var instances []struct {
		App string
		PID int
	}
	if err := json.NewDecoder(resp.Body).Decode(&instances); err != nil {
		d.t.Fatal(err)
	}
	for _, i := range instances {
		if i.App == app && i.PID > 0 {
			return i.PID
		}
	}
	d.t.Fatalf("the fleet runs no instance of %s: %+v", app, instances)
	return 0
}

// services of the demo, as the picture shows them.
var demoServices = []string{"edge", "api", "catalog", "playback", "members", "recommendations", "bookmarks", "abtest", "billing"}

// withoutThem are those that members can do without.
var withoutThem = []string{"recommendations", "bookmarks", "abtest", "billing"}

func node(name string) string {
	return fmt.Sprintf(`document.querySelector('[data-testid="node-%s"]')`, name)
}

func text(testid string) string {
	return fmt.Sprintf(`(document.querySelector('[data-testid="%s"]')?.innerText ?? '')`, testid)
}

// TestConsole looks at the real demo with a real browser. Its parts go on from one another.
func TestConsole(t *testing.T) {
	b := openBrowser(t)
	d := newDemo(t)
	part := func(name string, f func(t *testing.T)) {
		if !t.Run(name, func(t *testing.T) {
			b.t, d.t = t, t
			defer func() { b.t, d.t = t, t }()
			f(t)
		}) {
			b.t, d.t = t, t
			t.FailNow() // what follows would only fail for the same reason
		}
		b.t, d.t = t, t
	}
	b.size(1280, 800)
	b.scheme("light")
	b.open(d.url())

	part("loads and says Live", func(t *testing.T) {
		b.until("the page is live", text("connection")+`.trim() === 'Live'`)
		for _, tile := range []string{"members", "requests", "success", "latency", "instances", "faults"} {
			b.until("the headline has a figure for "+tile, `/\d/.test(`+text("tile-"+tile)+`)`)
		}
		b.until("all instances are up", `/\b(\d+)\/\1\b/.test(`+text("tile-instances")+`)`)
	})

	part("the picture has every service with its rate, latency and zones, and its calls", func(t *testing.T) {
		b.until("requests come from outside", node("INTERNET"))
		for _, s := range demoServices {
			b.until(s+" has traffic and a latency", fmt.Sprintf(`/: [\d.,]*[1-9][\d.,k]* requests per second.* p99 [\d.]+/.test(%s?.getAttribute('aria-label'))`, node(s)))
			if s != "edge" {
				b.until(s+" shows its zones", node(s)+`.querySelectorAll('.zone .dot.up').length >= 2`)
			}
		}
		b.until("the load's own process stands beside the picture", node("population")+`.closest('.without')`)
		for _, call := range []string{"internet edge", "edge api", "api catalog", "playback catalog"} {
			from, to, _ := strings.Cut(call, " ")
			b.until("the table has "+call, fmt.Sprintf(`[...document.querySelectorAll('[data-testid="graph-table"] tbody tr')].some(r => r.cells[0].textContent === %q && r.cells[1].textContent === %q)`, from, to))
		}
		b.until("something is painted", `(() => { const c = document.querySelector('.graph canvas'); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v) })()`)
		b.shot("overview 1280 light")
	})

	part("an instance killed by the CLI is seen to come back, and the change is told", func(t *testing.T) {
		id := strings.TrimSpace(strings.TrimPrefix(d.cli("kill", "catalog", "--as", "ana", "--why", "interop test"), "killed "))
		ids := fmt.Sprintf(`[...%s.querySelectorAll('.zone')].map(z => z.title).join()`, node("catalog"))
		b.until(id+" is gone", fmt.Sprintf(`!%s.includes(%q)`, ids, id))
		b.until("its successor is up", `/ 2 of 2 instances up/.test(`+node("catalog")+`.getAttribute('aria-label'))`)
		b.until("the tile says that one came back", `/\b1 came back/.test(`+text("tile-instances")+`)`)
		b.until("which one is said", `document.querySelector('[data-testid^="back-catalog-"]')`)
		b.until("its dot differs", node("catalog")+`.querySelector('.zones .halo')`)
		b.until("the change is on the page", `/ana\s+killed instance[^]*catalog-v000[^]*interop test/.test(document.querySelector('.feed').innerText)`)
		b.shot("overview came back")
	})

	part("an instance that crashes again and again is missing until it is back", func(t *testing.T) {
		all := b.eval(text("tile-instances") + `.match(/\d+\/(\d+)/)[1]`).(string)
		missing := `/^(?!` + all + `\/)\d+\/` + all + `/m.test(` + text("tile-instances") + `)`
		for crash := 1; ; crash++ { // the first is made good at once, the next after a second, then two
			syscall.Kill(d.pid("billing"), syscall.SIGKILL) //nolint:errcheck // it may have ended
			began := time.Now()
			for b.eval(missing) != true && time.Since(began) < 4*time.Second {
				time.Sleep(50 * time.Millisecond)
			}
			if b.eval(missing) == true {
				break
			}
			if crash == 5 {
				t.Fatalf("after 5 crashes the tile says %q, want one less than %s", b.eval(text("tile-instances")), all)
			}
		}
		b.until("all instances are up again", `/\b(\d+)\/\1\b/.test(`+text("tile-instances")+`)`)
	})

	part("a blackout is in the picture within 15 s and leaves it when it is removed", func(t *testing.T) {
		d.cli("fault", "add", "--non-critical", "--error", "503", "--for", "2m", "--why", "interop test")
		began := time.Now()
		b.until("the fault is counted", `/\n1\b/.test(`+text("tile-faults")+`)`)
		for _, s := range withoutThem {
			b.within(15*time.Second-time.Since(began), s+" is not well", node(s)+`.matches('.warning, .danger')`)
		}
		t.Logf("in the picture after %v", time.Since(began).Round(100*time.Millisecond))
		b.until("members do not notice", `parseFloat(`+text("tile-members")+`.split('\n')[1]) > 95`)
		b.shot("overview 1280 blackout")
		d.cli("fault", "remove", "--all")
		began = time.Now()
		b.until("no fault is counted", `/\n0\b/.test(`+text("tile-faults")+`)`)
		for _, s := range withoutThem {
			b.until(s+" is well again", node(s)+`.matches('.normal')`)
		}
		t.Logf("out of the picture after %v", time.Since(began).Round(100*time.Millisecond))
	})

	part("a keyboard reaches a service and opens it", func(t *testing.T) {
		b.eval(`document.activeElement?.blur(); window.scrollTo(0, 0)`)
		for range 60 {
			b.key("Tab")
			if b.eval(`document.activeElement?.dataset?.testid`) == "node-catalog" {
				break
			}
		}
		if got := b.eval(`document.activeElement?.dataset?.testid`); got != "node-catalog" {
			t.Fatalf("60 times Tab ended at %v, want the service catalog", got)
		}
		b.key("Enter")
		b.until("its details are shown and have the focus", `document.querySelector('[data-testid="details"]')?.contains(document.activeElement)`)
		for range 10 {
			b.key("Tab")
			if b.eval(`document.activeElement?.dataset?.testid`) == "open-service" {
				break
			}
		}
		b.key("Enter")
		b.until("its page is open", `location.hash === '#/services/catalog' && document.querySelector('h1').textContent.endsWith('catalog')`)
	})

	part("a service's graphs, endpoints and logs come from the platform", func(t *testing.T) {
		for _, g := range []string{"Requests/s, by result|2xx", "Latency, as the service sees it|p50", "Latency, as the service sees it|p99", "Latency, as its callers see it|p99", "Breakers of its callers|closed", "Requests/s, by zone|zone-"} {
			title, has, _ := strings.Cut(g, "|")
			chart := fmt.Sprintf(`document.querySelector('section[aria-label=%q]')`, title)
			b.until(title+" says "+has, fmt.Sprintf(`%s?.querySelector('p.hidden').textContent.includes(%q) && %s.querySelector('canvas')`, chart, has, chart))
		}
		b.until("the log has lines", `/INFO/.test(`+text("log")+`)`)
		if n := b.eval(`document.querySelectorAll('.instances tbody tr').length`); n != 2.0 {
			t.Errorf("got %v endpoints, want 2", n)
		}
		b.shot("service 1280 light")
	})

	part("the page blacks out what members can do without, and ends it", func(t *testing.T) {
		answer := func(why string) {
			b.until("it asks why", `document.querySelector('dialog[open] [data-testid="why"]')`)
			b.eval(`document.querySelector('[data-testid="why"]').focus()`)
			b.do("Input.insertText", map[string]any{"text": why}, nil)
			b.eval(`document.querySelector('[data-testid="confirm"]').click()`)
		}
		b.eval(`location.hash = '#/faults'`)
		b.until("the button is there", `document.querySelector('[data-testid="blackout"]:enabled')`)
		b.eval(`document.querySelector('[data-testid="blackout"]').click()`)
		if said := b.eval(`document.querySelector('dialog').innerText`).(string); strings.Contains(said, "population") || !strings.Contains(said, "recommendations") {
			t.Errorf("the dialog says %q, want the services that members can do without and not their load", said)
		}
		answer("interop: from the page")
		b.until("the fault is listed", `/recommendations=error\(503\)[^]*console[^]*interop: from the page/.test(`+text("faults")+`)`)
		if listed := d.cli("fault", "list"); !strings.Contains(listed, "Non-critical services blacked out") {
			t.Errorf("the CLI lists %q, want what the page added", listed)
		}
		b.until("it says how many requests were hit", `parseInt(document.querySelector('[data-testid^="hit-"]').innerText.replace(/\D+/g, '')) > 0`)
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			for _, w := range []int{360, 1280} {
				b.size(w, 740)
				b.settle()
				b.fits(fmt.Sprintf("faults in force at %d px, %s", w, scheme))
				b.shot(fmt.Sprintf("faults in force %d %s", w, scheme))
			}
		}
		b.scheme("light")
		b.size(1280, 800)
		b.eval(`document.querySelector('[data-testid^="remove-"]').click()`)
		answer("interop: enough")
		b.until("it has ended", `/No fault is being injected/.test(document.querySelector('main').innerText)`)
		b.eval(`document.querySelector('[data-testid="stop-all"]').click()`)
		answer("interop: red button")
		b.until("injection is off", `/Injection is switched off/.test(document.querySelector('main').innerText) && document.querySelector('[data-testid="blackout"]:disabled')`)
		b.eval(`document.querySelector('[data-testid="enable"]').click()`)
		answer("interop: go on")
		b.until("injection is allowed again", `document.querySelector('[data-testid="blackout"]:enabled')`)
	})

	part("every page fits 360 px in light and dark, without scrolling sideways", func(t *testing.T) {
		ground := map[string]any{}
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			for _, w := range []int{360, 1280} {
				b.size(w, 740)
				for _, page := range []string{"#/", "#/services", "#/services/catalog", "#/changes", "#/faults"} {
					b.eval(fmt.Sprintf(`location.hash = %q`, page))
					b.until(page+" is shown", `document.querySelector('main').innerText.length > 80`)
					b.settle()
					b.fits(fmt.Sprintf("%s at %d px, %s", page, w, scheme))
					b.shot(strings.NewReplacer("#/", "page-", "/", "-").Replace(page) + fmt.Sprintf(" %d %s", w, scheme))
				}
			}
			ground[scheme] = b.eval(`getComputedStyle(document.body).backgroundColor`)
		}
		if ground["light"] == ground["dark"] {
			t.Errorf("light and dark have the same ground %v", ground["light"])
		}
		b.size(1280, 800)
		b.scheme("light")
		b.eval(`location.hash = '#/'`)
	})

	part("nothing foreign was asked and nothing went wrong", func(t *testing.T) {
		own, err := url.Parse(d.url())
		if err != nil {
			t.Fatal(err)
		}
		asked := b.asked()
		if len(asked) < 10 {
			t.Errorf("only %d requests seen: %v", len(asked), asked)
		}
		for _, a := range asked {
			if u, err := url.Parse(a); err != nil || u.Host != own.Host {
				t.Errorf("the page asked for %s, want nothing but %s", a, own.Host)
			}
		}
		for _, w := range b.complaints() {
			t.Errorf("the browser complains: %s", w)
		}
	})

	part("a stopped platform is said, its last picture stays, and a start is seen", func(t *testing.T) {
		d.stop()
		took := b.until("the loss is said", `/Connection lost/.test(`+text("lost")+`) && `+text("connection")+`.trim() === 'Lost'`)
		t.Logf("said %v after the end", took)
		if b.eval(node("catalog")) == nil {
			t.Error("the last picture is gone, want it to stay")
		}
		b.shot("overview lost")
		d.start()
		took = b.until("the page is live again", text("connection")+`.trim() === 'Live' && !document.querySelector('[data-testid="lost"]')`)
		t.Logf("live again %v after all were healthy", took)
		b.until("all instances are up", `/\b(\d+)\/\1\b/.test(`+text("tile-instances")+`)`)
		b.complaints() // that nothing answered is what this was about
	})
}
