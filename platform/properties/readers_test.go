package properties

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/discovery"
	"github.com/roadbed/roadbed/platform/api/bubbletest"
)

// pair is a struct of a service that can only use two numbers that are alike, and small.
type pair struct{ A, B int }

func (p *pair) Validate() error {
	if p.A != p.B {
		return errors.New("a and b differ")
	}
	return config.Between("a", p.A, 0, 10)
}

func TestARealReaderDecidesAboutARolloutOfTwoProperties(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		n := c.node(t)
		defer n.stop()
		n.setFleet([]roadbed.Instance{{ID: "i-1", App: "api", Status: roadbed.Up, Since: time.Unix(1, 0)}})
		p := config.New(config.Options{URL: "http://127.0.0.1", Scope: config.Scope{App: "api", Instance: "i-1"}, HTTP: &http.Client{Transport: bubbletest.Transport{Handler: n.Handler()}}, Log: quiet})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() { cancel(); wg.Wait() }()
		v, err := config.Bind(p, "x.", pair{})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		roll := func(value string) Rollout {
			t.Helper()
			edits := append(setTo("x.a", value, config.Scope{App: "api"}), setTo("x.b", value, config.Scope{App: "api"})...)
			r, err := n.Propose(as(t, "ana"), Rollout{Changes: edits, Steps: []Step{{Selector: Selector{Instances: 1}}, {Selector: Selector{All: true}}}})
			if err == nil {
				r, err = n.Command(as(t, "ana"), r.ID, "start")
			}
			if err != nil {
				t.Fatal(err)
			}
			for began := time.Now(); !n.over(t, r.ID, began); {
				time.Sleep(100 * time.Millisecond)
			}
			return n.state(t, r.ID)
		}
		// Were one seen before the other, the struct would refuse it, and that would end the roll-out.
		if end := roll("2"); end.State != Done || *v.Get() != (pair{2, 2}) {
			t.Errorf("two good values: got %s (%s) and %+v, want DONE and {2 2}", end.State, end.Reason, *v.Get())
		}
		// The store knows of no bound; the reader does.
		end := roll("11")
		if end.State != RolledBack || !strings.Contains(end.Reason, "a is 11; it must be from 0 to 10") {
			t.Errorf("values that the reader refuses: got %s (%s), want ROLLED_BACK for its reason", end.State, end.Reason)
		}
		if took := end.Since.Sub(end.Created); took > time.Second {
			t.Errorf("it was rolled back after %v, want within a second", took)
		}
		if got := *v.Get(); got != (pair{2, 2}) {
			t.Errorf("the reader has %+v, want the last good {2 2}", got)
		}
	})
}

func TestTheRegistryTellsWhatACallerLeavesOut(t *testing.T) {
	s := open(t, t.TempDir())
	s.setFleet([]roadbed.Instance{{ID: "i-1", App: "api", Group: "api-prod-v042", Location: roadbed.Location{Region: "eu", Zone: "eu-a"}, Metadata: map[string]string{"env": "test", "ami": "img-1"}}})
	for _, c := range []struct{ says, want config.Scope }{
		{config.Scope{Instance: "I-1"}, config.Scope{Env: "test", App: "api", Stack: "prod", Region: "eu", Zone: "eu-a", Cluster: "api-prod", Group: "api-prod-v042", AMI: "img-1", Instance: "I-1"}},
		{config.Scope{App: "api", Region: "us", Zone: "us-a", Instance: "i-1"}, config.Scope{Env: "test", App: "api", Stack: "prod", Region: "us", Zone: "us-a", Cluster: "api-prod", Group: "api-prod-v042", AMI: "img-1", Instance: "i-1"}},
		{config.Scope{Env: "prod", Group: "api-blue-v007", Instance: "i-1"}, config.Scope{Env: "prod", App: "api", Stack: "blue", Region: "eu", Zone: "eu-a", Cluster: "api-blue", Group: "api-blue-v007", AMI: "img-1", Instance: "i-1"}},
		{config.Scope{App: "api", Instance: "i-2"}, config.Scope{App: "api", Instance: "i-2"}},
		{config.Scope{App: "api"}, config.Scope{App: "api"}},
	} {
		if got := s.known(c.says); got != c.want {
			t.Errorf("one who says %+v: got %+v, want %+v", c.says, got, c.want)
		}
	}
	s.must(t, "k", "1", config.Scope{})
	s.must(t, "k", "2", config.Scope{Group: "api-prod-v042"})
	if got, _ := get(t, s.Handler(), "/config/v1/resolve?appId=api&region=eu&zone=eu-a&serverId=i-1"); !strings.Contains(got, `"k":"2"`) {
		t.Errorf("an instance that does not say its server group: got %s, want what is for that", got)
	}
}

func TestTheRegistrysNewsAreFollowedOnlyWhileARolloutIsActive(t *testing.T) {
	inBubble(t, func(t *testing.T, c cell) {
		s, err := New(t.Context(), Config{Engine: c.engine, Ledger: c.ledger, Log: quiet, Discovery: discovery.New(discovery.Config{Log: quiet})})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		n := &node{s, func() { cancel(); wg.Wait() }}
		defer n.stop()
		follows := func(when string, want bool) {
			t.Helper()
			time.Sleep(2 * lookEvery)
			synctest.Wait()
			if got := s.following.Load(); got != want {
				t.Errorf("%s: follows %v, want %v", when, got, want)
			}
		}
		follows("before", false)
		r := n.begin(t, Rollout{Steps: halfAndAll()})
		follows("while it is active", true)
		if _, err := n.Command(as(t, "ana"), r.ID, "abort"); err != nil {
			t.Fatal(err)
		}
		follows("when it is over", false)
	})
}
