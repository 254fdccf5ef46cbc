package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// browser is a headless Chromium with one page, spoken to in the DevTools protocol over a pair of pipes.
// See https://chromedevtools.github.io/devtools-protocol/.
type browser struct {
	t       *testing.T
	in      *os.File
	session string

	mu       sync.Mutex
	last     int                  // id of the newest command
	waiting  map[int]chan message // by id
	requests []string             // URLs asked for since the start
	wrong    []string             // exceptions, console errors and failed loads since the last complaints
	ended    error                // why nothing comes any more
}

type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// openBrowser starts a browser with a new profile, which ends with the test. Further flags are Chromium's.
func openBrowser(t *testing.T, flags ...string) *browser {
	t.Helper()
	need(t, "chromium", "apt-get install chromium")
	profile, err := os.MkdirTemp("", "roadbed-interop-profile-")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(flags, func(f string) bool { return strings.Contains(f, "quic") }) {
		flags = append(flags, "--disable-quic")
	}
	cmd := exec.Command("chromium", append(flags, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--force-color-profile=srgb", "--user-data-dir="+profile, "--remote-debugging-pipe", "about:blank")...)
	theirs, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, answers, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second                  // a helper may keep stderr open
	cmd.ExtraFiles = []*os.File{theirs, answers} // 3 and 4, as --remote-debugging-pipe wants them
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	answers.Close()
	b := &browser{t: t, in: in, waiting: make(map[int]chan message)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(out)
	}()
	t.Cleanup(func() {
		in.Close()                                                      // it ends when nobody speaks to it
		gone := time.AfterFunc(patience, func() { cmd.Process.Kill() }) //nolint:errcheck // it may have ended
		cmd.Wait()                                                      //nolint:errcheck // how it ends says nothing
		gone.Stop()
		<-read
		out.Close()
		for began := time.Now(); time.Since(began) < patience; time.Sleep(100 * time.Millisecond) { // helpers of the browser end a moment after it
			if err = os.RemoveAll(profile); err == nil {
				return
			}
		}
		t.Errorf("removing the browser's profile: %v", err)
	})
	var target struct{ TargetID string }
	b.do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Network", "Log"} {
		b.do(domain+".enable", nil, nil)
	}
	return b
}

func (b *browser) read(out *os.File) {
	lines := bufio.NewReaderSize(out, 1<<20)
	for {
		raw, err := lines.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			b.ended = errors.New("the browser has ended")
			for id, w := range b.waiting {
				delete(b.waiting, id)
				close(w)
			}
			b.mu.Unlock()
			return
		}
		var m message
		if err := json.Unmarshal(raw[:len(raw)-1], &m); err != nil {
			b.complain(fmt.Sprintf("unreadable message from the browser: %v", err))
			continue
		}
		if m.ID == 0 {
			b.event(m)
			continue
		}
		b.mu.Lock()
		w := b.waiting[m.ID]
		delete(b.waiting, m.ID)
		b.mu.Unlock()
		if w != nil {
			w <- m
		}
	}
}

func (b *browser) event(m message) {
	var p struct {
		Request          struct{ URL string }
		URL              string // of a web socket
		Type             string
		Args             []struct{ Value, Description any }
		ExceptionDetails struct {
			Text      string
			Exception struct{ Description string }
		}
		Entry struct{ Level, Text, URL string }
	}
	if err := json.Unmarshal(m.Params, &p); err != nil {
		return // an event of another shape, which nothing here reads
	}
	switch m.Method {
	case "Network.requestWillBeSent", "Network.webSocketCreated":
		b.mu.Lock()
		b.requests = append(b.requests, p.Request.URL+p.URL)
		b.mu.Unlock()
	case "Runtime.exceptionThrown":
		b.complain("exception: " + p.ExceptionDetails.Text + " " + p.ExceptionDetails.Exception.Description)
	case "Runtime.consoleAPICalled":
		if p.Type == "error" || p.Type == "warning" || p.Type == "assert" {
			b.complain(fmt.Sprintf("console.%s: %v", p.Type, p.Args))
		}
	case "Log.entryAdded":
		if p.Entry.Level == "error" {
			b.complain("log: " + p.Entry.Text + " " + p.Entry.URL)
		}
	}
}

func (b *browser) complain(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrong = append(b.wrong, what)
}

// complaints returns what went wrong in the page since it was last asked.
func (b *browser) complaints() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	wrong := b.wrong
	b.wrong = nil
	return wrong
}

func (b *browser) asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.requests...)
}

// do sends a command and reads its answer into result, unless that is nil.
func (b *browser) do(method string, params, result any) {
	b.t.Helper()
	b.mu.Lock()
	b.last++
	id := b.last
	w := make(chan message, 1)
	b.waiting[id] = w
	ended := b.ended
	b.mu.Unlock()
	if ended != nil {
		b.t.Fatalf("%s: %v", method, ended)
	}
	if params == nil {
		params = map[string]any{}
	}
	command := map[string]any{"id": id, "method": method, "params": params}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	raw, err := json.Marshal(command)
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	if _, err := b.in.Write(append(raw, 0)); err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case m, ok := <-w:
		switch {
		case !ok:
			b.t.Fatalf("%s: the browser has ended", method)
		case m.Error != nil:
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		case result != nil:
			if err := json.Unmarshal(m.Result, result); err != nil {
				b.t.Fatalf("%s: %v in %s", method, err, m.Result)
			}
		}
	case <-time.After(patience):
		b.t.Fatalf("%s: no answer within %v", method, patience)
	}
}

func (b *browser) open(url string) {
	b.t.Helper()
	var r struct{ ErrorText string }
	b.do("Page.navigate", map[string]any{"url": url}, &r)
	if r.ErrorText != "" {
		b.t.Fatalf("open %s: %s", url, r.ErrorText)
	}
}

// eval evaluates a JavaScript expression, awaits it, and returns its value as JSON gives it.
func (b *browser) eval(expression string) any {
	b.t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	b.do("Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s %s", expression, r.ExceptionDetails.Text, r.ExceptionDetails.Exception.Description)
	}
	return r.Result.Value
}

// comes waits for a JavaScript expression to be true, at most for a limit, and says whether it is, and after how long.
func (b *browser) comes(limit time.Duration, expression string) (took time.Duration, is bool) {
	b.t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		is = b.eval("!!("+expression+")") == true
		if took = time.Since(began).Round(time.Millisecond); is || took > limit {
			return took, is
		}
	}
}

// within waits as until does, but for at most limit.
func (b *browser) within(limit time.Duration, claim, expression string) time.Duration {
	b.t.Helper()
	took, is := b.comes(limit, expression)
	if !is {
		b.shot("until")
		b.t.Fatalf("%s: not so within %v; the page says:\n%s", claim, limit, b.eval("document.body.innerText"))
	}
	return took
}

// until waits for a JavaScript expression to be true, and says how long it took.
func (b *browser) until(claim, expression string) time.Duration {
	b.t.Helper()
	return b.within(patience, claim, expression)
}

// fits waits until the page, as it has settled, is no wider than the window.
func (b *browser) fits(what string) {
	b.t.Helper()
	if _, is := b.comes(patience, `document.documentElement.scrollWidth <= innerWidth`); !is {
		b.t.Errorf("%s: %v px too wide: %v", what, b.eval(`document.documentElement.scrollWidth - innerWidth`), b.eval(`[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + '.' + e.className + ' ' + Math.round(e.getBoundingClientRect().right)).slice(0, 12).join('; ')`))
	}
}

// settle waits until the page has been drawn as it is now.
func (b *browser) settle() {
	b.t.Helper()
	b.eval(`new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(() => drawn(true), 100))))`)
}

func (b *browser) size(w, h int) {
	b.t.Helper()
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": w, "height": h, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// scheme makes the page see a preference of "light" or "dark".
func (b *browser) scheme(s string) {
	b.t.Helper()
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": s}}}, nil)
}

// key presses and releases a key, such as "Tab" or "Enter".
func (b *browser) key(name string) {
	b.t.Helper()
	code := map[string]int{"Tab": 9, "Enter": 13, "Escape": 27}[name]
	text := map[string]string{"Enter": "\r"}[name]
	for _, kind := range []string{"keyDown", "keyUp"} {
		p := map[string]any{"type": kind, "key": name, "code": name, "windowsVirtualKeyCode": code}
		if kind == "keyDown" && text != "" {
			p["text"] = text
		}
		b.do("Input.dispatchKeyEvent", p, nil)
	}
}

// shot returns the page as a PNG, and keeps it as NAME.png if CONSOLE_SHOTS names a directory.
func (b *browser) shot(name string) []byte {
	b.t.Helper()
	var r struct{ Data []byte }
	b.do("Page.captureScreenshot", nil, &r)
	if dir := os.Getenv("CONSOLE_SHOTS"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".png"), r.Data, 0o644); err != nil {
			b.t.Error(err)
		}
	}
	return r.Data
}
