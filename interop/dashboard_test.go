package interop

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// openDashboard starts Hystrix's dashboard, in a process of its own, and a browser with its page for the stream at an
// address. The page loads one script from cdnjs, which npm brought.
func openDashboard(t *testing.T, stream string) *browser {
	t.Helper()
	needJava(t)
	needNPM(t)
	files := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/underscore-min.js") {
			http.NotFound(w, r)
			return
		}
		http.ServeFile(w, r, "node_modules/underscore/underscore-umd-min.js")
	}))
	t.Cleanup(files.Close)
	jetty := start(t, "java/run", "hystrix", "Dashboard", "java/hystrix/target/dashboard").await("ready")[0]
	b := openBrowser(t, "--ignore-certificate-errors", "--host-resolver-rules=MAP cdnjs.cloudflare.com "+strings.TrimPrefix(files.URL, "https://"))
	b.size(1280, 800)
	b.open(jetty + "/monitor/monitor.html?title=shop&stream=" + url.QueryEscape(stream))
	return b
}

// circle is the radius of a command's circle on the page, as the page computes it; 0 without one.
func circle(name string) string {
	return fmt.Sprintf(`(c => c ? parseFloat(c.getAttribute('r')) || 0 : 0)(document.querySelector('#CIRCUIT_%s_0 circle'))`, name)
}

// counted is what the page says of a command's successes.
func counted(name string) string {
	return fmt.Sprintf(`(e => e ? e.innerText.trim() : '')(document.querySelector('#CIRCUIT_%s_0 a.success'))`, name)
}

// TestHystrixsDashboardKeepsItsCirclesInABrowser leaves the page idle for longer than the ten seconds after which the
// dashboard's proxy gives up on a silent stream; a minute in its long form.
func TestHystrixsDashboardKeepsItsCirclesInABrowser(t *testing.T) {
	t.Parallel()
	idle := 12 * time.Second
	if *soak {
		idle = time.Minute
	}
	app := newCaller(t)
	addr := app.Listener.Addr().String()
	b := openDashboard(t, app.URL+"/hystrix.stream")
	b.until(20*time.Second, "the page is there", `document.querySelector('#dependencies_0 .loading')`)

	time.Sleep(idle)
	if b.eval(`document.querySelector('.loading.failed') !== null`) == true {
		t.Errorf("after %v without a single command the page says: %s", idle, b.eval(`document.body.innerText`))
	}
	app.obey(t, "GetRecs THREAD success well 40")
	app.obey(t, "GetUser SEMAPHORE failure none 10")
	took := b.until(5*time.Second, "circles appear", circle("GetRecs")+" > 0 && "+circle("GetUser")+" > 0")
	if took > 2*time.Second {
		t.Errorf("circles appeared %v after the calls, want at most 2 s", took)
	}
	b.until(3*time.Second, "the page counts the calls", counted("GetRecs")+` === '40'`)
	b.until(3*time.Second, "the pool is there", `document.querySelector('#THREAD_POOL_GroupGetRecs_0 circle')`)
	b.shot("hystrix dashboard")

	time.Sleep(idle)
	app.obey(t, "GetRecs THREAD success well 7")
	b.until(3*time.Second, "the page still listens after "+idle.String()+" without calls", counted("GetRecs")+` === '7'`)

	app.stop()
	app = newCallerAt(t, addr)
	app.obey(t, "GetRecs THREAD success well 3")
	b.until(15*time.Second, "the page listens to the app that was restarted", counted("GetRecs")+` === '3'`)
	if n := b.eval(`document.querySelectorAll('#dependencies_0 circle').length`); n != 2.0 {
		t.Errorf("after the restart the page has %v circles, want the 2 of before", n)
	}
	for _, c := range b.complaints() {
		if !strings.Contains(c, "favicon.ico") {
			t.Errorf("the browser complains: %s", c)
		}
	}
}
