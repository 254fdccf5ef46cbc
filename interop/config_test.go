package interop

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// element is the element with a test id, in JavaScript.
func element(testid string) string {
	return fmt.Sprintf(`document.querySelector('[data-testid=%q]')`, testid)
}

// click clicks an element once it is there and can be clicked.
func (b *browser) click(testid string) {
	b.t.Helper()
	b.until(testid+" can be clicked", element(testid)+` && !`+element(testid)+`.disabled`)
	b.eval(element(testid) + `.click()`)
}

// fill puts text in place of what an input holds, as typing does.
func (b *browser) fill(testid, text string) {
	b.t.Helper()
	b.until(testid+" can be typed into", fmt.Sprintf(`(e => { e?.focus(); e?.select(); return e && document.activeElement === e })(%s)`, element(testid)))
	if text == "" {
		b.eval(fmt.Sprintf(`(() => { const e = %s; e.value = ''; e.dispatchEvent(new Event('input', { bubbles: true })) })()`, element(testid)))
		return
	}
	b.do("Input.insertText", map[string]any{"text": text}, nil)
}

// confirm gives the open dialog a reason and presses its button.
func (b *browser) confirm(why string) {
	b.t.Helper()
	b.fill("why", why)
	b.click("confirm")
}

// closed waits until the dialog has gone, from the page too: until then nothing else can be opened.
func (b *browser) closed() {
	b.t.Helper()
	b.until("the dialog is closed", `!document.querySelector('dialog')`)
}

// problem waits until the open dialog says why it could not be.
func (b *browser) problem(says string) {
	b.t.Helper()
	b.until("the dialog says "+says, fmt.Sprintf(`document.querySelector('dialog [role="alert"]')?.innerText.includes(%q)`, says))
}

// expected forgets complaints about answers that a test provoked.
func (b *browser) expected(status string) {
	b.t.Helper()
	for _, c := range b.complaints() {
		if !strings.Contains(c, "status of "+status) {
			b.t.Errorf("the browser complains: %s", c)
		}
	}
}

// titlesPerRow is how long the longest row of a member's home page is, as whoever is at host serves it, but for the row of
// what the member has begun, which is as long as that.
func (d *demo) titlesPerRow(host string) int {
	d.t.Helper()
	resp, err := http.Get("http://" + host + "/home?member=m00042")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var home struct {
		Rows []struct {
			ID     string
			Titles []json.RawMessage
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&home); err != nil {
		d.t.Fatal(err)
	}
	most := 0
	for _, r := range home.Rows {
		if r.ID != "continue" {
			most = max(most, len(r.Titles))
		}
	}
	return most
}

// obeys waits until every instance of the api serves rows of n titles.
func (d *demo) obeys(n int) {
	d.t.Helper()
	edge := fmt.Sprintf("127.0.0.1:%d", 7000+d.offset)
	for began, right := time.Now(), 0; right < 9; { // the edge asks one of three instances each time
		if got := d.titlesPerRow(edge); got == n {
			right++
		} else if right = 0; time.Since(began) > patience {
			d.t.Fatalf("%v after the change a row has %d titles, want %d", patience, got, n)
		}
	}
}

// rows is how long the rows are that each instance of the api serves, shortest first.
func (d *demo) rows() []int {
	d.t.Helper()
	resp, err := http.Get(d.url() + "/api/v1/registry/leases?q=api-v000")
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	var found struct{ Leases []struct{ Address string } }
	if err := json.NewDecoder(resp.Body).Decode(&found); err != nil {
		d.t.Fatal(err)
	}
	var rows []int
	for _, l := range found.Leases {
		rows = append(rows, d.titlesPerRow(l.Address))
	}
	slices.Sort(rows)
	return rows
}

// TestRegistryAndConfigurationPages walks both pages of the real demo with a real browser. Its parts go on from one
// another.
func TestRegistryAndConfigurationPages(t *testing.T) {
	b := openBrowser(t)
	d := newDemo(t)
	part := func(name string, f func(t *testing.T)) {
		ok := t.Run(name, func(t *testing.T) {
			b.t, d.t = t, t
			f(t)
		})
		b.t, d.t = t, t
		if !ok {
			t.FailNow() // what follows would only fail for the same reason
		}
	}
	b.size(1280, 800)
	b.scheme("light")
	b.open(d.url() + "/#/registry")
	const key = "streaming.home.titlesPerRow"
	lease := ""

	part("the registry's page lists every instance with its status and lease", func(t *testing.T) {
		b.until("18 instances are up", `/18 instances: 18 up/.test(`+text("registry-counts")+`)`)
		b.until("each has a row", `document.querySelectorAll('[data-testid^="lease-"]').length === 18`)
		lease = strings.TrimPrefix(b.eval(`[...document.querySelectorAll('[data-testid^="lease-bookmarks-"]')][0].dataset.testid`).(string), "lease-")
		if row := b.eval(text("lease-" + lease)).(string); !strings.Contains(row, "up") || !strings.Contains(row, "zone-") || !strings.Contains(row, "127.0.0.1:") {
			t.Errorf("the row of %s says %q, want its zone, status and address", lease, row)
		}
		b.shot("registry 1280 light")
		b.fill("filter", "bookmarks zone-")
		b.until("a search narrows the list", `[...document.querySelectorAll('[data-testid^="lease-"]')].every(r => r.dataset.testid.startsWith('lease-bookmarks-')) && document.querySelectorAll('[data-testid^="lease-"]').length > 0`)
		b.fill("filter", "")
	})

	part("an instance is taken out of traffic and put back", func(t *testing.T) {
		b.click("take-out-" + lease)
		b.confirm("interop: its disk fails")
		b.closed()
		b.until("the page says so", fmt.Sprintf(`/out of service[^]*set, says up/.test(%s)`, text("lease-"+lease)))
		b.until("it is counted", `/17 up, 1 out of service/.test(`+text("registry-counts")+`)`)
		if listed := d.cli("registry", "leases", "out_of_service"); !strings.Contains(listed, lease) {
			t.Errorf("the CLI lists %q, want %s out of service", listed, lease)
		}
		if log := d.cli("changes", "--action", "instance.override"); !strings.Contains(log, "console") || !strings.Contains(log, "its disk fails") {
			t.Errorf("the change log says %q, want the console and the reason", log)
		}
		b.shot("registry 1280 out of service")
		b.click("put-back-" + lease)
		b.confirm("interop: it is repaired")
		b.closed()
		b.until("it is up again", `/18 instances: 18 up/.test(`+text("registry-counts")+`)`)
	})

	part("a search finds properties by key, value and scope, and never a secret", func(t *testing.T) {
		d.cli("config", "set", "interop.greeting", "hej", "--app", "api", "--description", "what to say")
		d.cli("config", "set", "interop.password", "sesame-open", "--sensitive")
		b.eval(`location.hash = '#/config'`)
		rows := `[...document.querySelectorAll('[data-testid="properties"] tbody th')].map(e => e.innerText.trim()).join()`
		for search, want := range map[string]string{"greeting": "interop.greeting", "HEJ": "interop.greeting", "interop app=api": "interop.greeting", "what to": "interop.greeting", "interop pass": "interop.password"} {
			b.fill("config-search", search)
			b.until("it finds "+want+" by "+search, rows+fmt.Sprintf(` === %q`, want))
		}
		b.fill("config-search", "sesame")
		b.until("a secret is not found", `/Nothing is found/.test(document.querySelector('main').innerText)`)
		b.fill("config-search", "interop")
		b.until("both are found", rows+` === 'interop.greeting,interop.password'`)
		if page := b.eval(`document.documentElement.innerHTML`).(string); strings.Contains(page, "sesame") {
			t.Error("the page holds the secret")
		}
		b.shot("config search")
		b.fill("config-search", "")
	})

	part("a value set on the page is obeyed by the services within moments", func(t *testing.T) {
		d.obeys(8) // the default in their code
		b.click("new-property")
		b.fill("edit-key", key)
		b.fill("edit-value", "3")
		b.eval(`(() => { const e = ` + element("edit-type") + `; e.value = 'int'; e.dispatchEvent(new Event('change', { bubbles: true })) })()`)
		b.fill("edit-app", "api")
		b.until("it says whom it would reach", `/^3 instances of \d+ would see it: api-v000-/.test(`+text("trial")+`)`)
		b.shot("config new property")
		b.confirm("interop: shorter rows")
		b.closed()
		d.obeys(3)
		b.until("the page lists it", element("property-"+key))
	})

	part("what the platform refuses is shown as it says it", func(t *testing.T) {
		b.complaints()
		b.eval(element("property-"+key) + `.querySelector('a').click()`)
		b.until("the property's page is open", `document.querySelector('h1').innerText.includes('titlesPerRow')`)
		b.click("change-app=api")
		b.fill("edit-value", "many")
		b.confirm("interop: a mistake")
		b.problem("is not a whole number")
		b.fill("edit-value", "5")
		b.click("confirm")
		b.closed()
		d.obeys(5)
		b.expected("422")
	})

	part("who was faster is told, and may be replaced knowingly", func(t *testing.T) {
		b.click("change-app=api")
		b.until("the value is there to edit", element("edit-value")+`?.value === '5'`)
		d.cli("config", "set", key, "6", "--app", "api", "--as", "bo")
		b.fill("edit-value", "4")
		b.confirm("interop: too late")
		b.problem("“6” now (bo")
		d.obeys(6) // nothing was overwritten
		b.click("confirm")
		b.closed()
		d.obeys(4)
		b.expected("409")
	})

	part("the page says who gets what and why", func(t *testing.T) {
		d.cli("config", "set", key, "9")
		b.until("nobody in particular gets what is for everybody", `/It gets\s*9\s*from the value for everybody/.test(`+text("verdict")+`)`)
		id := b.eval(`fetch('/api/v1/registry/leases?q=api-v000&limit=1').then(r => r.json()).then(j => j.leases[0].id)`).(string)
		b.fill("who-instance", id)
		b.until("an instance of the api gets what is for the api", `/It gets\s*4\s*from the value for app=api/.test(`+text("verdict")+`)`)
		b.until("the loser is explained", `/names no appId, which the winner does/.test(`+text("explain")+`)`)
	})

	part("history tells who and why, compares, and puts back", func(t *testing.T) {
		history := text("history")
		b.until("the reasons are there", `['interop: shorter rows', 'interop: too late', 'bo'].every(w => `+history+`.includes(w))`)
		pick := func(row, column string) {
			b.eval(fmt.Sprintf(`[...document.querySelectorAll('[data-testid="history"] tbody tr')].find(r => r.innerText.includes(%q)).querySelector('input[name=%s]').click()`, row, column))
		}
		pick("\tbo\t", "from")
		pick("interop: too late", "to")
		b.until("two versions are compared", `/value 6[^]*value 4/.test(`+text("diff")+`)`)
		b.shot("property 1280 light")
		b.eval(`[...document.querySelectorAll('[data-testid="history"] tbody tr')].find(r => r.innerText.includes('interop: shorter rows')).querySelector('button').click()`)
		b.confirm("interop: as it was")
		b.closed()
		d.obeys(3)
	})

	part("a large deletion is confirmed by number", func(t *testing.T) {
		b.complaints()
		for i := range 4 {
			d.cli("config", "set", fmt.Sprintf("old.feature%d", i), "on", "--app", "billing")
		}
		b.eval(`location.hash = '#/config'`)
		b.fill("config-search", "old.feature")
		b.until("four are found", `/4 records found/.test(`+text("found")+`)`)
		b.click("delete-found")
		b.confirm("interop: gone from the code")
		b.until("it asks again", element("typed"))
		b.shot("config mass delete")
		b.fill("typed", "4")
		b.click("confirm")
		b.closed()
		b.until("they are gone", `/Nothing is found/.test(document.querySelector('main').innerText)`)
		if listed := d.cli("config", "list", "--prefix", "old."); strings.Contains(listed, "old.") {
			t.Errorf("the CLI still lists %q", listed)
		}
		b.expected("428")
		b.fill("config-search", "")
	})

	part("a keyboard changes a value", func(t *testing.T) {
		b.eval(`location.hash = '#/config/key/` + key + `'`)
		b.until("the heading has the focus", `document.activeElement === document.querySelector('h1') && `+element("change-app=api"))
		for range 12 {
			b.key("Tab")
			if b.eval(`document.activeElement?.dataset?.testid`) == "change-app=api" {
				break
			}
		}
		if got := b.eval(`document.activeElement?.dataset?.testid`); got != "change-app=api" {
			t.Fatalf("12 times Tab ended at %v, want the button that changes the value for the api", got)
		}
		b.key("Enter")
		b.until("the value has the focus", `document.activeElement === `+element("edit-value"))
		b.key("Escape")
		b.closed()
		if got := b.eval(`document.activeElement?.dataset?.testid`); got != "change-app=api" {
			t.Errorf("after Escape the focus is on %v, want it back on the button", got)
		}
		b.key("Enter")
		b.until("the value has the focus again", `document.activeElement === `+element("edit-value"))
		b.eval(element("edit-value") + `.select()`)
		b.do("Input.insertText", map[string]any{"text": "7"}, nil)
		for b.eval(`document.activeElement?.dataset?.testid`) != "why" {
			b.key("Tab")
		}
		b.do("Input.insertText", map[string]any{"text": "interop: by keyboard"}, nil)
		b.key("Enter")
		b.closed()
		d.obeys(7)
	})

	rollout := ""
	choose := func(testid, value string) {
		b.until(testid+" is there", element(testid))
		b.eval(fmt.Sprintf(`(() => { const e = %s; e.value = %q; e.dispatchEvent(new Event('change', { bubbles: true })) })()`, element(testid), value))
	}
	part("a roll-out started on the page reaches one instance first", func(t *testing.T) {
		b.click("change-app=api")
		b.fill("edit-value", "2")
		choose("pace", "default") // minutes a step
		b.confirm("interop: very short rows")
		b.closed()
		b.until("its page is open and it is watched", `location.hash.startsWith('#/config/rollouts/') && /being watched/.test(`+text("standing")+`)`)
		rollout = strings.TrimPrefix(b.eval(`location.hash`).(string), "#/config/rollouts/")
		b.until("one instance sees it, two do not", `/that see it\s+1\s+0[^]*that do not yet\s+2\s+0/.test(`+text("fares")+`)`)
		if got := d.rows(); fmt.Sprint(got) != "[2 7 7]" {
			t.Errorf("the instances of the api serve rows of %v titles, want one of them 2, the others 7", got)
		}
		b.shot("rollout 1280 light")
	})

	part("the button stops it, and everybody has what was before", func(t *testing.T) {
		b.click("do-abort")
		b.confirm("interop: too short")
		b.closed()
		b.until("the page says so", `/rolled back/.test(`+text("standing")+`) && /interop: too short/.test(`+text("reason")+`)`)
		d.obeys(7)
		if shown := d.cli("rollout", "show", rollout); !strings.Contains(shown, "ROLLED_BACK") {
			t.Errorf("the CLI shows %q, want it rolled back", shown)
		}
		b.shot("rollout stopped")
	})

	part("a roll-out whose instance dies goes back by itself", func(t *testing.T) {
		b.eval(`location.hash = '#/config/key/` + key + `'`)
		b.click("change-app=api")
		b.fill("edit-value", "1")
		choose("pace", "default")
		b.confirm("interop: an instance will die of it")
		b.closed()
		b.until("it is watched", `location.hash.startsWith('#/config/rollouts/') && /being watched/.test(`+text("standing")+`)`)
		chosen := b.eval(text("steps") + `.match(/api-v000-\d-\w+/)[0]`).(string)
		d.cli("kill", chosen)
		took := b.until("the page says why", fmt.Sprintf(`/rolled back/.test(%s) && /left UP \(%s/.test(%s)`, text("standing"), chosen, text("reason")))
		t.Logf("rolled back, as the page shows, %v after the instance had been killed", took)
		d.obeys(7)
		b.shot("rollout rolled back")
	})

	part("a roll-out goes on by the button, to its end", func(t *testing.T) {
		b.eval(`location.hash = '#/config/key/` + key + `'`)
		b.click("change-app=api")
		b.fill("edit-value", "6")
		choose("pace", "quick")
		b.confirm("interop: rows of six")
		b.closed()
		for _, step := range []string{"1 instance", "50 % of all instances", "everybody"} {
			b.until("it has come to "+step, fmt.Sprintf(`document.querySelector('.steps [aria-current="step"]')?.innerText.includes(%q)`, step))
			b.click("do-advance")
			b.confirm("interop: on")
			b.closed()
		}
		b.until("it is done", `/done/.test(`+text("standing")+`)`)
		d.obeys(6)
		b.eval(`location.hash = '#/config/rollouts'`)
		b.until("the list has all three", `document.querySelectorAll('[data-testid="rollouts"] tbody tr').length === 3 && document.querySelectorAll('[data-testid="rollouts"] .standing.danger').length === 2`)
		b.shot("rollouts 1280 light")
	})

	part("the page tells what is different from then, and goes back", func(t *testing.T) {
		b.eval(`location.hash = '#/config/past'`)
		b.until("it lists what was set since", `/streaming\.home\.titlesPerRow[^]*api[^]*not set[^]*6/.test(`+text("differences")+`)`)
		b.shot("then and now 1280 light")
		time.Sleep(2 * time.Second) // so that there is a moment before the next change
		moment := b.eval(`new Date().toISOString()`).(string)
		d.cli("config", "set", "interop.greeting", "goddag", "--app", "api")
		choose("past-ago", "at")
		b.until("it asks when", element("past-at"))
		b.eval(fmt.Sprintf(`(() => { const e = %s; e.step = 'any'; e.value = new Date(new Date(%q).getTime() - new Date().getTimezoneOffset() * 60000 - 1000).toISOString().slice(0, 23); e.dispatchEvent(new Event('input', { bubbles: true })) })()`, element("past-at"), moment))
		b.until("one record differs from that moment", `document.querySelectorAll('[data-testid="differences"] tbody tr').length === 1 && /interop\.greeting[^]*hej[^]*goddag/.test(`+text("differences")+`)`)
		b.click("restore")
		b.confirm("interop: it was better so")
		b.closed()
		b.until("it is done", `location.hash.startsWith('#/config/rollouts/') && /done/.test(`+text("standing")+`)`)
		if got := strings.TrimSpace(d.cli("config", "get", "interop.greeting", "--app", "api")); got != "hej" {
			t.Errorf("after going back it is %q, want hej", got)
		}
		b.eval(`location.hash = '#/config/rollouts'`)
	})

	part("frozen changes are refused until somebody ends it", func(t *testing.T) {
		b.complaints()
		b.click("freeze")
		b.confirm("interop: an incident")
		b.closed()
		b.until("it is said", `/All changes are frozen/.test(`+text("frozen")+`)`)
		b.eval(`location.hash = '#/config/key/` + key + `'`)
		b.click("change-app=api")
		b.fill("edit-value", "9")
		b.confirm("interop: in vain")
		b.problem("frozen by cfg.freeze.all")
		b.key("Escape")
		b.closed()
		b.eval(`location.hash = '#/config'`)
		b.click("unfreeze")
		b.confirm("interop: it is over")
		b.closed()
		b.until("it is over", `!`+element("frozen"))
		d.obeys(6)
		b.expected("423")
	})

	part("every page fits 360 px in light and dark, without scrolling sideways", func(t *testing.T) {
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			for _, w := range []int{360, 1280} {
				b.size(w, 740)
				for _, page := range []string{"#/registry", "#/config", "#/config/key/" + key, "#/config/rollouts", "#/config/rollouts/" + rollout, "#/config/past"} {
					b.eval(fmt.Sprintf(`location.hash = %q`, page))
					b.until(page+" is shown", `document.querySelector('main').innerText.length > 200 && !document.querySelector('main .problem')`)
					b.settle()
					b.fits(fmt.Sprintf("%s at %d px, %s", page, w, scheme))
					b.shot(strings.NewReplacer("#/", "page-", "/", "-").Replace(page) + fmt.Sprintf(" %d %s", w, scheme))
				}
			}
		}
	})

	part("nothing foreign was asked and nothing went wrong", func(t *testing.T) {
		own, err := url.Parse(d.url())
		if err != nil {
			t.Fatal(err)
		}
		foreign := slices.DeleteFunc(b.asked(), func(a string) bool {
			u, err := url.Parse(a)
			return err == nil && (u.Host == own.Host || u.Scheme == "data") // the browser has its own picture of a calendar
		})
		if len(foreign) > 0 {
			t.Errorf("the pages asked for %v, want nothing but %s", foreign, own.Host)
		}
		for _, w := range b.complaints() {
			t.Errorf("the browser complains: %s", w)
		}
	})
}
