package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/registry"
)

// serve mounts the fleet's operations beside those of its neighbours, as the platform does.
func (l *lab) serve() *api.Client {
	l.t.Helper()
	s := api.New("test", "0")
	l.f.Mount(s)
	l.ledger.Mount(s)
	registry.New(registry.Config{Location: roadbed.Location{Region: "local", Zone: "zone-a"}}).Mount(s)
	srv := httptest.NewServer(s)
	l.t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return &api.Client{Base: srv.URL, Actor: "ana", Why: "a test", HTTP: srv.Client()}
}

func TestHTTPWalksThroughTheLifeOfAServerGroup(t *testing.T) {
	l := newLab(t, labOptions{})
	c := l.serve()
	ctx := context.Background()
	call := func(method, path string, in, out any) {
		t.Helper()
		if err := c.Do(ctx, method, "/api/v1"+path, in, out); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	var clusters []ClusterView
	call("GET", "/clusters", nil, &clusters)
	if clusters == nil || len(clusters) != 0 {
		t.Errorf("clusters of an empty fleet: got %v, want []", clusters)
	}
	var g GroupView
	call("POST", "/server-groups", l.service("hello", 2), &g)
	if g.Name != "hello-v000" || g.Cluster != "hello" || g.Capacity.Desired != 2 || g.Moniker.App != "hello" {
		t.Errorf("created: got %+v", g)
	}
	l.settled(g.Name, 2, StateUp)
	var groups []GroupView
	call("GET", "/server-groups", nil, &groups)
	if len(groups) != 1 || groups[0].Healthy != 2 || groups[0].Instances != 2 {
		t.Errorf("groups: got %+v, want one with two healthy instances", groups)
	}
	call("GET", "/clusters", nil, &clusters)
	if len(clusters) != 1 || clusters[0].Name != "hello" || clusters[0].Desired != 2 || clusters[0].Healthy != 2 {
		t.Errorf("clusters: got %+v, want hello with two", clusters)
	}
	call("PUT", "/server-groups/hello-v000/capacity", map[string]any{"desired": 3}, &g)
	l.settled(g.Name, 3, StateUp)
	call("POST", "/server-groups/hello-v000/disable", nil, &g)
	if !g.Disabled {
		t.Error("after disable: the group is not disabled")
	}
	call("POST", "/server-groups/hello-v000/enable", nil, &g)
	if g.Disabled {
		t.Error("after enable: the group is disabled")
	}
	var is []InstanceView
	call("GET", "/instances?group=hello-v000", nil, &is)
	if len(is) != 3 || is[0].PID == 0 || is[0].Health != "GET /healthcheck answers 200" {
		t.Fatalf("instances: got %+v, want three healthy ones", is)
	}
	var killed InstanceView
	call("DELETE", "/instances/"+is[0].ID+"?signal=KILL&reason=drill", nil, &killed)
	if killed.ID != is[0].ID {
		t.Errorf("killed: got %s, want %s", killed.ID, is[0].ID)
	}
	l.until("the next life", func() bool {
		v := l.f.groups[g.Name].slots[0].view
		return v.ID != killed.ID && v.State == StateUp
	})
	call("DELETE", "/server-groups/hello-v000?reason=done", nil, nil)
	l.settled(g.Name, 0, "")

	var actions []string
	cs := l.changes("")
	for i := len(cs) - 1; i >= 0; i-- {
		actions = append(actions, cs[i].Actor+" "+cs[i].Action)
	}
	want := "ana serverGroup.create, ana serverGroup.resize, ana serverGroup.disable, ana serverGroup.enable, ana instance.kill, fleet instance.restart, ana serverGroup.destroy"
	if got := strings.Join(actions, ", "); got != want {
		t.Errorf("ledger:\ngot  %s\nwant %s", got, want)
	}
}

func TestHTTPErrorsSayWhatToDo(t *testing.T) {
	l := newLab(t, labOptions{})
	c := l.serve()
	l.create(Spec{Name: "catalog", Command: []string{"sleep", "1000"}})
	l.create(Spec{Name: "billing", Command: []string{"sleep", "1000"}})
	for _, x := range []struct {
		method, path string
		in           any
		status       int
		says         string
	}{
		{"GET", "/server-groups/catalogue-v000", nil, 404, `there is no server group "catalogue-v000"; near: catalog-v000, billing-v000`},
		{"GET", "/server-groups/cata", nil, 404, `near: catalog-v000`},
		{"DELETE", "/server-groups/nope", nil, 404, "there is no server group"},
		{"PUT", "/server-groups/nope/capacity", Resize{Desired: new(1)}, 404, "there is no server group"},
		{"PUT", "/server-groups/catalog-v000/capacity", Resize{Desired: new(-2)}, 422, "need 0 <= min <= desired <= max"},
		{"POST", "/server-groups", Spec{Name: "catalog", Command: []string{"true"}}, 409, "catalog runs already, as catalog-v000"},
		{"POST", "/server-groups", Spec{Name: "x", Command: []string{"no-such-program-anywhere"}}, 422, `there is no program "no-such-program-anywhere" on PATH`},
		{"POST", "/server-groups", Spec{Name: "x y", Command: []string{"true"}}, 422, "only letters, digits"},
		{"POST", "/server-groups", Spec{Name: "x-v001", Command: []string{"true"}}, 422, "name the cluster"},
		{"POST", "/server-groups", Spec{Name: "x", Command: []string{"true"}, Zones: []string{"zone-x"}}, 422, `there is no zone "zone-x"; there are zone-a, zone-b, zone-c`},
		{"POST", "/server-groups", map[string]any{"name": "x", "command": []string{"true"}, "instanses": 3}, 422, "unexpected property"},
		{"POST", "/server-groups", map[string]any{"name": "x", "command": []string{"true"}, "criticality": "HIGH"}, 422, "HIGH"},
		{"DELETE", "/instances/catalog-v000-0?signal=BOO", nil, 422, `"BOO" is not a signal; use one of TERM`},
		{"DELETE", "/instances/catalog-v000-7", nil, 404, "near: catalog-v000-0"},
		{"GET", "/instances/catalog-v000-7/logs", nil, 404, "near: catalog-v000-0"},
		{"GET", "/instances/catalog-v000-0/logs?tail=x", nil, 422, "must be a number of lines"},
		{"GET", "/instances/catalog-v000-0/logs?follow=x", nil, 422, "must be true or false"},
		{"GET", "/instances/..%2F..%2Fsecret-0-aaaa/logs", nil, 404, "there is no instance"},
	} {
		err := c.Do(context.Background(), x.method, "/api/v1"+x.path, x.in, nil)
		var e *api.Error
		if !errors.As(err, &e) || e.Status != x.status || !strings.Contains(e.Error(), x.says) {
			t.Errorf("%s %s %+v:\ngot  %v\nwant %d with %q", x.method, x.path, x.in, err, x.status, x.says)
		}
	}
}

func TestLogsAreTailedAndFollowedToTheEndOfTheInstance(t *testing.T) {
	l := newLab(t, labOptions{})
	c := l.serve()
	g := l.create(Spec{Name: "talk", Command: []string{"sh", "-c", "echo one; echo two >&2; exec " + self(t) + " service >&2"}})
	l.until("it talks", func() bool {
		s := l.f.groups[g.Name].slots[0]
		return s != nil && s.log != nil && s.view.State == StateUp
	})
	id := l.f.Instances("")[0].ID
	var got struct {
		Instance string
		Lines    []string
	}
	if err := c.Do(context.Background(), "GET", "/api/v1/instances/"+g.Name+"-0/logs?tail=2", nil, &got); err != nil {
		t.Fatal(err)
	}
	if got.Instance != id || len(got.Lines) != 2 || got.Lines[0] != "two" {
		t.Errorf("tail=2: got %+v, want the last two lines of %s", got, id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var lines []string
	ended := errors.New("ended")
	err := c.Follow(ctx, "/api/v1/instances/"+id+"/logs?follow=true", func(name string, data []byte) error {
		var line Line
		if err := json.Unmarshal(data, &line); err != nil {
			return err
		}
		if name == "end" {
			return ended
		}
		listening := strings.HasPrefix(line.Text, "listening")
		if !listening {
			lines = append(lines, line.Text)
		}
		if listening {
			_, err := l.f.Kill(ana(), id, "", "")
			return err
		}
		return nil
	})
	if !errors.Is(err, ended) || fmt.Sprint(lines) != "[one two bye]" {
		t.Errorf("follow: got %v, then %v; want [one two bye], then the end", lines, err)
	}
	// The log of the last life is kept beside the present one's.
	if err := c.Do(context.Background(), "GET", "/api/v1/instances/"+id+"/logs", nil, &got); err != nil || len(got.Lines) != 4 || got.Lines[3] != "bye" {
		t.Errorf("the log of the last life: got %v, %v", got.Lines, err)
	}
}
