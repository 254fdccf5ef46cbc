package registry

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// following makes a node follow other regions, by name and host.
func following(regions map[string]string, more ...func(*Settings)) func(*node, *Config) {
	return func(_ *node, c *Config) {
		c.Settings.RemoteRegions = map[string]string{}
		for name, host := range regions {
			c.Settings.RemoteRegions[name] = urlOf(host)
		}
		for _, f := range more {
			f(&c.Settings)
		}
	}
}

func (n *node) put(app, id string, st status) {
	r := &record{id: id, sentID: true, app: app, host: id, ip: "10.0.0.1", own: st, status: st, override: unknown, renewal: 30, duration: 3600, vip: strings.ToLower(app), dcName: true, dcSent: true}
	n.s.register(r, origin{})
}

// apps lists what a client sees: status, then app/id of every instance in order.
func (n *node) apps(t *testing.T, path string) (int, []string) {
	t.Helper()
	req := httptest.NewRequest("GET", "/eureka"+path, nil)
	req.Header.Set("Accept", "application/json")
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, req)
	list := []string{}
	if w.Code != http.StatusOK {
		return w.Code, list
	}
	if _, err := readApplications(w.Body, func(r *record) { list = append(list, r.app+"/"+r.id) }); err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	slices.Sort(list)
	return w.Code, list
}

func (n *node) sees(t *testing.T, path string, want ...string) {
	t.Helper()
	if code, got := n.apps(t, path); code != http.StatusOK || !slices.Equal(got, want) {
		t.Errorf("GET %s: got %d %v, want %v", path, code, got, want)
	}
}

func TestReadersSeeOtherRegionsWhenTheyNameThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		eu, us := m.start("eu", nil), m.start("us", nil)
		eu.put("SHOP", "shop-eu", up)
		eu.put("TAX", "tax-eu", up)
		us.put("MAPS", "maps-us", up)
		m.cut("early", "eu", true)
		early := m.start("early", following(map[string]string{"EU": "eu"}))
		if code, _ := early.apps(t, "/apps?regions=eu"); code != http.StatusForbidden {
			t.Errorf("a list with a region that was not read yet: got %d, want 403", code)
		}
		here := m.start("here", following(map[string]string{"EU": "eu", "us-west-2": "us"}))
		here.put("SHOP", "shop-1", up)
		time.Sleep(time.Second)
		here.sees(t, "/apps", "MAPS/maps-us", "SHOP/shop-1", "TAX/tax-eu") // no foreign SHOP: there is one here
		here.sees(t, "/apps?regions=EU", "SHOP/shop-1", "SHOP/shop-eu", "TAX/tax-eu")
		here.sees(t, "/apps?regions=us-west-2,eu", "MAPS/maps-us", "SHOP/shop-1", "SHOP/shop-eu", "TAX/tax-eu")
		here.sees(t, "/apps?regions=moon", "SHOP/shop-1")
		here.sees(t, "/vips/tax", "TAX/tax-eu")
		w := httptest.NewRecorder()
		here.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/eureka/apps/MAPS/maps-us", nil))
		if w.Code != http.StatusOK {
			t.Errorf("an instance that only another region has: got %d, want 200", w.Code)
		}
		req := httptest.NewRequest("GET", "/eureka/apps", nil)
		req.Header.Set(regionsHeader, ownRegionOnly)
		w = httptest.NewRecorder()
		here.Handler().ServeHTTP(w, req)
		if strings.Contains(w.Body.String(), "MAPS") {
			t.Errorf("a registry that asks for this region's alone sees another's: %s", w.Body)
		}
	})
}

func TestChangesInAnotherRegionArriveByDelta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		eu := m.start("eu", nil)
		eu.put("TAX", "tax-1", up)
		var whole atomic.Int32
		m.serve("counted", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/apps/") {
				whole.Add(1)
			}
			eu.Handler().ServeHTTP(w, r)
		}))
		here := m.start("here", following(map[string]string{"eu": "counted"}))
		time.Sleep(time.Second)
		eu.put("TAX", "tax-2", up)
		eu.put("TAX", "tax-1", down)
		eu.put("NEW", "new-1", up)
		time.Sleep(31 * time.Second)
		here.sees(t, "/apps", "NEW/new-1", "TAX/tax-1", "TAX/tax-2")
		eu.s.cancel(key{"TAX", "tax-1"})
		time.Sleep(31 * time.Second)
		here.sees(t, "/apps", "NEW/new-1", "TAX/tax-2")
		full, delta := here.hashes(t)
		if full != delta || full != "UP_2_" {
			t.Errorf("hash of the list and of the delta: got %s and %s, want UP_2_ twice", full, delta)
		}
		if got := whole.Load(); got != 1 {
			t.Errorf("whole lists fetched: got %d, want only the first", got)
		}
	})
}

// hashes are what the list and the delta say that there is.
func (n *node) hashes(t *testing.T) (full, delta string) {
	t.Helper()
	var got [2]string
	for i, path := range []string{"/eureka/apps", "/eureka/apps/delta"} {
		req := httptest.NewRequest("GET", path, nil)
		req.Header.Set("Accept", "application/json")
		w := httptest.NewRecorder()
		n.Handler().ServeHTTP(w, req)
		hash, err := readApplications(w.Body, func(*record) {})
		if err != nil {
			t.Fatalf("GET %s: %v", path, err)
		}
		got[i] = hash
	}
	return got[0], got[1]
}

func TestWhatARegionShowsMayBeLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		eu := m.start("eu", nil)
		eu.put("TAX", "tax-1", up)
		eu.put("PAY", "pay-1", up)
		here := m.start("here", following(map[string]string{"eu": "eu"}, func(s *Settings) { s.RemoteApps = map[string][]string{"eu": {"tax"}} }))
		alone := m.start("alone", following(map[string]string{"eu": "eu"}, func(s *Settings) { s.NoRemoteFallback = true }))
		time.Sleep(time.Second)
		here.sees(t, "/apps", "TAX/tax-1")
		here.sees(t, "/apps?regions=eu", "TAX/tax-1")
		alone.sees(t, "/apps")
		alone.sees(t, "/apps?regions=eu", "PAY/pay-1", "TAX/tax-1")
	})
}

func TestARegionThatIsAwayOrForgetfulStaysKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		eu := m.start("eu", nil)
		eu.put("TAX", "tax-1", up)
		here := m.start("here", following(map[string]string{"eu": "eu"}))
		time.Sleep(time.Second)
		eu.stop()
		time.Sleep(5 * time.Minute)
		here.sees(t, "/apps", "TAX/tax-1")
		if got := here.Status().Regions; len(got) != 1 || got[0].Name != "eu" || !got[0].Ready || got[0].Instances != 1 || got[0].Age < 270 {
			t.Errorf("status of a region that was away for five minutes: got %+v", got)
		}
		eu = m.start("eu", nil) // it knows nobody yet
		time.Sleep(31 * time.Second)
		here.sees(t, "/apps", "TAX/tax-1")
		eu.put("TAX", "tax-2", up)
		time.Sleep(31 * time.Second)
		here.sees(t, "/apps", "TAX/tax-2")
	})
}

func TestRegionsThatFollowEachOtherForgetWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		a := m.start("a", following(map[string]string{"b": "b"}))
		b := m.start("b", following(map[string]string{"a": "a"}))
		a.put("X", "x-1", up)
		b.put("Y", "y-1", up)
		time.Sleep(time.Minute)
		b.sees(t, "/apps", "X/x-1", "Y/y-1")
		a.s.cancel(key{"X", "x-1"})
		time.Sleep(time.Minute)
		b.sees(t, "/apps", "Y/y-1")
		a.sees(t, "/apps", "Y/y-1")
	})
}

func TestARegionAtNoURLIsRefused(t *testing.T) {
	r := New(Config{Settings: Settings{RemoteRegions: map[string]string{"eu": "ftp://eu"}}})
	if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "region eu") {
		t.Errorf("Run with a region at ftp://eu: got %v, want an error that names the region", err)
	}
}
