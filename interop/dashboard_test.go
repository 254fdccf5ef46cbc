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
	addr := freeAddr(t, "127.0.0.1")
	app := newCallerAt(t, addr)
	b := openDashboard(t, app.URL+"/hystrix.stream")
	b.until("the page is there", `document.querySelector('#dependencies_0 .loading')`)
	const window = 11 * time.Second // after which what was counted counts no more

	time.Sleep(idle)
	if b.eval(`document.querySelector('.loading.failed') !== null`) == true {
		t.Errorf("after %v without a single command the page says: %s", idle, b.eval(`document.body.innerText`))
	}
	n, recs := 0, ""
	tries(t, 0, func() (wrong []string) {
		n++
		var users string
		recs, users = fmt.Sprint("GetRecs", n), fmt.Sprint("GetUser", n)
		app.obey(t, recs+" THREAD success well 40")
		app.obey(t, users+" SEMAPHORE failure none 10")
		if took := b.until("circles appear", circle(recs)+" > 0 && "+circle(users)+" > 0"); took > 2*time.Second {
			wrong = append(wrong, fmt.Sprintf("circles appeared %v after the calls, want at most 2 s", took))
		}
		if _, is := b.comes(5*time.Second, counted(recs)+` === '40'`); !is {
			wrong = append(wrong, fmt.Sprintf("of 40 calls the page counts %v", b.eval(counted(recs))))
		}
		return wrong
	})
	b.until("the pool is there", fmt.Sprintf(`document.querySelector('#THREAD_POOL_Group%s_0 circle')`, recs))
	b.shot("hystrix dashboard")
	listens := func(when string, calls int) {
		t.Helper()
		tries(t, window, func() (wrong []string) {
			app.obey(t, fmt.Sprint(recs, " THREAD success well ", calls))
			if _, is := b.comes(8*time.Second, fmt.Sprintf(`%s === '%d'`, counted(recs), calls)); !is {
				wrong = append(wrong, fmt.Sprintf("%s the page counts %v of %d calls", when, b.eval(counted(recs)), calls))
			}
			return wrong
		})
	}
	time.Sleep(idle)
	listens("after "+idle.String()+" without calls", 7)

	app.stop()
	app = newCallerAt(t, addr)
	listens("after the app's restart", 3)
	if got, want := b.eval(`document.querySelectorAll('#dependencies_0 circle').length`), float64(2*n); got != want {
		t.Errorf("after the restart the page has %v circles, want the %v of before", got, want)
	}
	for _, c := range b.complaints() {
		if !strings.Contains(c, "favicon.ico") {
			t.Errorf("the browser complains: %s", c)
		}
	}
}
