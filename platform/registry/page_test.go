package registry

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// page asks for a page as a browser does, or for its JSON.
func page(t *testing.T, r *Registry, path, accept string) (body string, header map[string][]string) {
	t.Helper()
	req := httptest.NewRequest("GET", path, nil)
	req.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, req)
	if w.Code != 200 {
		t.Fatalf("GET %s: got %d, want 200", path, w.Code)
	}
	return w.Body.String(), w.Header()
}

// words are the text of a page, without its marks.
func words(html string) string {
	_, html, _ = strings.Cut(html, "<body>")
	return strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(html, " ")), " ")
}

func TestPageShowsWhatUsersOfEurekaKnow(t *testing.T) {
	r := New(Config{Self: "registry-a", Settings: Settings{Environment: "prod"}})
	for i, st := range []status{up, up, down} {
		rec := shop()
		rec.id, rec.own, rec.status = fmt.Sprintf("web-%d", i), st, st
		rec.meta, rec.statusPage = []pair{{"zone", "zone-" + string(rune('a'+i%2))}}, "http://web/info"
		r.s.register(rec, origin{})
	}
	cloud := shop()
	cloud.app, cloud.id, cloud.dcAmazon = "CLOUD", "i-1", true
	cloud.dcMeta = []pair{{"ami-id", "ami-7"}, {"availability-zone", "us-east-1c"}, {"instance-id", "i-1"}}
	r.s.register(cloud, origin{})
	for _, path := range []string{"/", "/eureka", "/eureka/", "/eureka/v2/"} {
		html, header := page(t, r, path, "text/html,*/*;q=0.8")
		got := words(html)
		for _, want := range []string{
			"roadbed registry registry-a", "prod · up 0 days 00:00", "Instances currently registered with Eureka",
			"SHOP n/a (3) zone-a (2) , zone-b (1) UP (2): web-0 , web-1 DOWN (1): web-2", "CLOUD ami-7 (1) us-east-1c (1) UP (1): i-1",
			"General info server-uptime 0 days 00:00", "DS replicas This node works alone: it has no peers.", "Self-preservation mode normal",
			"This node has just started, and may not have heard of everybody yet.", "Last 1000 since startup",
		} {
			if !strings.Contains(strings.ReplaceAll(got, " ,", ","), strings.ReplaceAll(want, " ,", ",")) {
				t.Errorf("%s: got %s\nwant it to hold %q", path, got, want)
			}
		}
		if strings.Contains(html, "<script") || regexp.MustCompile(`(?:src|@import|url\()`).MatchString(html) {
			t.Errorf("%s fetches something", path)
		}
		for name, want := range map[string]string{"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
			if got := header[name]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if csp := fmt.Sprint(header["Content-Security-Policy"]); !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("%s: policy %s, want none but its own style", path, csp)
		}
	}
	body, _ := page(t, r, "/eureka/", "application/json")
	var doc nodePage
	if err := json.Unmarshal([]byte(body), &doc); err != nil || len(doc.Apps) != 2 || doc.Apps[1].Statuses[0].Count != 2 || doc.Preservation.Mode != Normal {
		t.Errorf("as JSON: got %s, %v", body, err)
	}
}

func TestPageBelievesNobodysMarks(t *testing.T) {
	r := New(Config{})
	evil := shop()
	evil.app, evil.id, evil.statusPage = "<SCRIPT>", `"><img src=x onerror=alert(1)>`, "javascript:alert(1)"
	evil.meta = []pair{{"zone", "</td><script>"}}
	r.s.register(evil, origin{})
	also := shop()
	also.id, also.statusPage = "also", `http://h/"onmouseover="x`
	r.s.register(also, origin{})
	for _, path := range []string{"/", "/eureka/lastn"} {
		html, _ := page(t, r, path, "text/html")
		for _, bad := range []string{"<SCRIPT>", "<script", "<img", "javascript:", `"onmouseover`} {
			if strings.Contains(html, bad) {
				t.Errorf("%s holds %q as it was registered", path, bad)
			}
		}
	}
}

func TestPageOfManyStaysSmall(t *testing.T) {
	r := New(Config{})
	for i := range 30_000 {
		rec := reg(fmt.Sprintf("APP%d", i%1000), fmt.Sprint(i), up, 1)
		r.s.register(rec, origin{})
	}
	html, _ := page(t, r, "/", "text/html")
	if len(html) > 1<<20 || !strings.Contains(html, "and 500 more applications") || !strings.Contains(html, "more</span>") {
		t.Errorf("page of 30,000 instances in 1000 apps: got %d bytes, want at most 1 MiB and how many more there are", len(html))
	}
	html, _ = page(t, r, "/eureka/lastn", "text/html")
	if got := strings.Count(html, "<tr><td>"); got != rememberedLeases {
		t.Errorf("last leases: got %d, want %d", got, rememberedLeases)
	}
}

func TestLastLeasesAreListedNewestFirst(t *testing.T) {
	r := New(Config{})
	r.s.register(reg("WEB", "1", up, 1), origin{})
	r.s.register(reg("WEB", "2", up, 1), origin{})
	r.s.register(reg("WEB", "1", up, 2), origin{}) // it is there already
	r.s.cancel(key{"WEB", "1"})
	body, _ := page(t, r, "/eureka/lastn", "application/json")
	var doc lastLeases
	if err := json.Unmarshal([]byte(body), &doc); err != nil || len(doc.Registered) != 2 || len(doc.Cancelled) != 1 ||
		doc.Registered[0].Lease != "WEB(2)" || doc.Cancelled[0].Lease != "WEB(1)" || doc.Cancelled[0].Time.IsZero() {
		t.Errorf("got %s, %v; want WEB(2) and WEB(1) registered, WEB(1) cancelled", body, err)
	}
}

func TestRecentKeepsTheNewestThousand(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q recent
		n := rapid.IntRange(0, 3*rememberedLeases).Draw(t, "leases")
		for i := range n {
			q.add(key{"A", fmt.Sprint(i)}, int64(i))
		}
		got := q.list()
		if len(got) != min(n, rememberedLeases) {
			t.Fatalf("of %d: got %d", n, len(got))
		}
		for i, m := range got {
			if want := fmt.Sprintf("A(%d)", n-1-i); m.Lease != want {
				t.Fatalf("of %d, the %d-th: got %s, want %s", n, i, m.Lease, want)
			}
		}
	})
}
