package main

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge"
	"github.com/roadbed/roadbed/platform/properties"
)

// twoRegions is two edges in east and one in west, each a process of its own, that follow one platform's properties.
type twoRegions struct {
	t       *testing.T
	dir     string
	control *testPlatform
	offsets map[string]int // of the edges
	client  *http.Client
	west    *testPlatform
	serving edge.RegionDocument // what east is told at first
}

func startRegions(t *testing.T) *twoRegions {
	t.Helper()
	r := &twoRegions{t: t, dir: t.TempDir(), offsets: map[string]int{}, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}}
	t.Cleanup(r.client.CloseIdleConnections)
	r.control = r.start("control", freeOffset(t), "--roles", "engine,registry,properties")
	r.edge("east-a", "east")
	r.edge("east-b", "east")
	r.west = r.edge("west-a", "west")
	r.set("edge.routes", `
- {id: east, match: {path: {exact: /where}, when: 'region == "east"'}, filters: [{answer: {status: 200, body: east}}]}
- {id: west, match: {path: {exact: /where}, when: 'region == "west"'}, filters: [{answer: {status: 200, body: west}}]}`)
	r.serving = edge.RegionDocument{State: edge.RegionServing, Edges: []string{r.at("east-a"), r.at("east-b")}}
	r.put("east", r.serving)
	r.put("west", edge.RegionDocument{State: edge.RegionServing, Edges: []string{r.at("west-a")}})
	r.both("ana", "east")
	return r
}

func (r *twoRegions) start(name string, offset int, args ...string) *testPlatform {
	r.t.Helper()
	p, err := startPlatform(filepath.Join(r.dir, name), offset, append([]string{"serve"}, args...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if err := p.stop(); err != nil {
			r.t.Error(err)
		}
	})
	return p
}

// edge starts one, at the same ports each time.
func (r *twoRegions) edge(name, region string) *testPlatform {
	r.t.Helper()
	if r.offsets[name] == 0 {
		r.offsets[name] = freeOffset(r.t)
	}
	return r.start(name, r.offsets[name], "--roles", "edge", "--region", region, "--zones", name, "--registry-url", fmt.Sprintf("http://127.0.0.1:%d", 8761+r.control.offset))
}

func (r *twoRegions) at(name string) string {
	return fmt.Sprintf("http://127.0.0.1:%d", 7000+r.offsets[name])
}

func (r *twoRegions) set(key, value string) {
	r.t.Helper()
	if err := r.control.client.Do(r.t.Context(), http.MethodPost, "/config/v1/properties", properties.Property{Key: key, Value: value}, nil); err != nil {
		r.t.Fatalf("set %s: %v", key, err)
	}
}

func (r *twoRegions) put(name string, d edge.RegionDocument) {
	r.t.Helper()
	r.set(edge.RegionProperty+name, d.Text())
}

// where returns in which region a user is served who asks an edge.
func (r *twoRegions) where(edge, user string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, r.at(edge)+"/where", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("X-Member", user)
	resp, err := r.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return string(b), err
}

// both waits until both edges of east serve a user where it is wanted, and returns how long that took.
func (r *twoRegions) both(user, want string) time.Duration {
	r.t.Helper()
	began := time.Now()
	for _, e := range []string{"east-a", "east-b"} {
		for {
			got, err := r.where(e, user)
			if got == want {
				break
			}
			if time.Since(began) > time.Minute {
				r.t.Fatalf("after a minute %s serves %s in %q, %v; want in %s", e, user, got, err, want)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	r.t.Logf("both edges of east serve %s in %s after %v", user, want, time.Since(began).Round(time.Millisecond))
	return time.Since(began)
}

// TestSeenRegionsObeyWithinASecond evacuates east and restores it, three times.
func TestSeenRegionsObeyWithinASecond(t *testing.T) {
	r := startRegions(t)
	// yardstick is what this machine needs just now to write a property and to ask both edges, whatever they obey.
	yardstick := func() time.Duration {
		t.Helper()
		began := time.Now()
		r.set("edge.test.yardstick", began.String())
		for _, e := range []string{"east-a", "east-b"} {
			if _, err := r.where(e, "ana"); err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(began)
	}
	var took, plain []time.Duration
	for range 3 {
		plain = append(plain, yardstick())
		r.put("east", edge.RegionDocument{State: edge.RegionEvacuated, To: map[string]int{"west": 100}, Edges: r.serving.Edges})
		took = append(took, r.both("ana", "west"))
		r.put("east", r.serving)
		took = append(took, r.both("ana", "east"))
	}
	slices.Sort(took)
	slices.Sort(plain)
	if median, busy := took[len(took)/2], plain[len(plain)/2]; median > time.Second+10*busy {
		t.Errorf("of six changes half took longer than %v to be obeyed by both edges, on a machine that needs %v to write a property and ask both; they are promised within a second", median, busy)
	}
}

// TestRegionsOfRealProcesses evacuates east under load; the one edge of west is killed meanwhile, and comes back.
func TestRegionsOfRealProcesses(t *testing.T) {
	r := startRegions(t)
	var failed, all atomic.Int64
	var first atomic.Pointer[error]
	stop := make(chan struct{})
	var load sync.WaitGroup
	defer load.Wait()
	over := sync.OnceFunc(func() { close(stop) })
	defer over()
	for i := range 4 {
		load.Go(func() {
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				_, err := r.where([]string{"east-a", "east-b"}[n%2], fmt.Sprint("user-", n%100))
				if all.Add(1); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	seconds := 3
	r.put("east", edge.RegionDocument{State: edge.RegionDraining, To: map[string]int{"west": 100}, RampSeconds: &seconds, Since: time.Now(), Edges: r.serving.Edges})
	moved := func(least float64) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			var v edge.RegionView
			api := *r.control.client
			api.Base = fmt.Sprintf("http://127.0.0.1:%d", 7070+r.offsets["east-a"])
			err := api.Do(t.Context(), http.MethodGet, regionsAt+"/east", nil, &v)
			if err == nil && v.Moved >= least {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("after a minute: %v, %+v; want %v %% moved", err, v, least)
			}
		}
	}
	moved(30)
	r.west.crash()
	r.put("east", edge.RegionDocument{State: edge.RegionEvacuated, To: map[string]int{"west": 100}, Edges: r.serving.Edges})
	moved(100)
	r.both("ana", "east") // as nobody is in west
	r.edge("west-a", "west")
	r.both("ana", "west")
	over()
	load.Wait()
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of %d GETs failed, the first with: %v; want none", n, all.Load(), *first.Load())
	}
	t.Logf("%d GETs", all.Load())
}
