package interop

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// TestEdgeConsole looks at the edge's page of the real demo with a real browser.
func TestEdgeConsole(t *testing.T) {
	b := openBrowser(t)
	d := newDemo(t)
	d.cli("config", "set", "zuul.passport.log.request.time.threshold", "25ms", "--why", "interop test")
	b.size(1280, 800)
	b.scheme("light")
	b.open(d.url() + "/#/edge")

	b.until("the demo's route is listed with where it leads", `/demo\s+any\s+\/…\s+any[^]*\bapi\b[^]*1800ms/.test(`+text("route-demo")+`)`)
	b.until("apps are reachable under their names", `/\/catalog\//.test(`+text("edge-routes")+`)`)
	origin := `document.querySelector('[data-testid="origin-api"]')`
	b.until("the origin api has its instances, with scores and idle connections", origin+`?.querySelectorAll('[data-testid^="origin-instance-api-"]').length >= 2 && [...`+origin+`.querySelectorAll('[data-testid^="origin-instance-"]')].every(r => r.querySelector('.status.up') && parseFloat(r.querySelector('[data-label="Score, ms"]').innerText) > 0 && parseInt(r.querySelector('[data-label="Requests"]').innerText) > 0)`)
	b.until("it leads to the service", origin+`.querySelector('a').hash === '#/services/api'`)
	b.until("who asks most is told", `/127\.0\.0\.1\s+[\d.]+/.test(`+text("edge-clients")+`) && /\/home/.test(`+text("edge-paths")+`)`)
	before := b.eval(origin + `.innerText`)
	b.until("figures move by themselves", fmt.Sprintf(`%s.innerText !== %q`, origin, before))
	b.until("filters are listed in their order", `(s => s.indexOf('ConnectionInfo') >= 0 && s.indexOf('ConnectionInfo') < s.indexOf('Routes') && s.indexOf('Routes') < s.indexOf('ProxyEndpoint'))(`+text("edge-filters")+`)`)

	for _, class := range []string{"CRITICAL", "DEGRADED", "BEST_EFFORT", "BULK"} {
		b.until("how many requests were shed is told for "+class, `/^[\d,]+$/.test(`+text("shed-"+class)+`.trim())`)
	}

	b.until("how to write a program is said, for there is none", `/There are no programs\.[^]*edge\.program\.NAME/.test(`+text("edge-programs")+`)`)

	if b.eval(`document.querySelector('[data-testid="edge-regions"]') !== null`) == true {
		t.Error("there is one region, and the page speaks of regions")
	}
	d.cli("region", "put", "local", "--edges", fmt.Sprintf("http://127.0.0.1:%d", 7000+d.offset))
	d.cli("region", "put", "west", "--edges", "http://127.0.0.1:1")
	b.until("regions are there once there are two", `/local here\s+serving\s+–/.test(`+text("region-local")+`)`)
	d.cli("region", "evacuate", "local", "--ramp", "0", "--reason", "interop test")
	b.until("one that is evacuated is seen, and why", `/draining\s+100[^]*west 100[^]*interop test/.test(`+text("region-local")+`)`)
	b.until("and that the other does not answer", `/does not answer/.test(`+text("region-west")+`)`)
	d.cli("region", "restore", "local", "--ramp", "0")
	b.until("and that it is back", `/serving\s+–/.test(`+text("region-local")+`)`)
	d.cli("config", "set", "edge.regions.proposal.local", `{"state":"OPEN","at":"2100-01-01T00:00:00Z","good":40,"expected":100,"sigma":5,"baseline":"the last hour","to":{"west":100}}`)
	b.until("what is proposed is told", `/local should be evacuated\.[^]*Its users would go to west 100/.test(`+text("proposal-local")+`)`)
	b.click("approve-local")
	b.until("who approves it is asked over how long, a minute if nobody says", `document.querySelector('[data-testid="ramp"]')?.value === '60'`)
	b.fill("ramp", "0")
	b.fill("why", "interop test, approved")
	b.settle()
	b.shot("edge approve")
	b.click("confirm")
	b.until("approved, users go at once", `/draining\s+100[^]*west 100[^]*interop test, approved/.test(`+text("region-local")+`)`)
	if said := d.cli("config", "get", "edge.region.local"); !strings.Contains(said, `"rampSeconds":0`) {
		t.Errorf("approved over 0 s, the region is %s", said)
	}
	d.cli("region", "restore", "local", "--ramp", "0")
	b.until("and back again", `/serving\s+–/.test(`+text("region-local")+`)`)

	b.fill("explain-url", "/api/home?x=1")
	b.click("explain-go")
	b.until("a URL is explained in a sentence", `/takes the route api, and api is asked for \/home\./.test(`+text("explain-sentence")+`)`)
	b.until("with the reason, and what lost", `/reachable under its name/.test(`+text("explain-table")+`) && /demo\s+yes\s+an app's own name/.test(`+text("explained")+`)`)
	b.fill("explain-headers", "not a field")
	b.click("explain-go")
	b.until("a field that is none is refused in a sentence", `/not a field/.test(document.querySelector('[data-testid="explained"] .problem')?.innerText)`)
	b.complaints() // the refusal is one
	b.fill("explain-headers", "X-Device: tv")
	b.fill("explain-url", "http://shop.example.com/browse/new")
	b.key("Enter")
	b.until("another is explained", `/takes the route demo, and api is asked for \/browse\/new\./.test(`+text("explain-sentence")+`)`)

	for n := range 40 { // each to an instance that may be slow
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/home?n=%d", 7000+d.offset, n))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	d.cli("fault", "add", "--rules", "client:catalog=delay(120ms)", "--for", "10m", "--why", "interop test")
	b.until("slow requests are drawn with what took so long", `/of it waiting for the origin/.test(`+text("edge-slow")+`) && document.querySelector('.way rect.way-wait')`)
	b.until("several of them", `document.querySelectorAll('.ways > li').length >= 6`)
	b.eval(`document.querySelector('.ways summary').click()`)
	b.until("their states can be read", `/IN_REQ_HEADERS_RECEIVED/.test(document.querySelector('.ways details[open]')?.innerText)`)

	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		for _, w := range []int{400, 1280} {
			b.size(w, 800)
			b.settle()
			b.fits(fmt.Sprintf("the edge at %d px, %s", w, scheme))
			b.size(w, int(b.eval(`Math.ceil(document.documentElement.scrollHeight)`).(float64)))
			b.settle()
			b.shot(fmt.Sprintf("edge %d %s", w, scheme))
		}
	}
	own, err := url.Parse(d.url())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range b.asked() {
		if !strings.HasPrefix(a, "http://"+own.Host+"/") {
			t.Errorf("the page asked for %s, want nothing but %s", a, own.Host)
		}
	}
	for _, w := range b.complaints() {
		t.Errorf("the browser complains: %s", w)
	}
}
