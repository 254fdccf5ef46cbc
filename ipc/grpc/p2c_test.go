package ipcgrpc

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	v3orcapb "github.com/cncf/xds/go/xds/data/orca/v3"
	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc/balance"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// connection is one that is ready.
type connection struct{ balancer.SubConn }

// Pick chooses it.
func (c *connection) Pick(balancer.PickInfo) (balancer.PickResult, error) {
	return balancer.PickResult{SubConn: c}, nil
}

func TestTheLoadThatAnInstanceReportsCounts(t *testing.T) {
	synctest.Test(t, reportsCount) // where every call takes no time, so that only the reports differ
}

func reportsCount(t *testing.T) {
	b := &p2c{began: time.Now(), bal: balance.New(balance.Config{})}
	b.bal.Update([]roadbed.Instance{{ID: "a", Host: "a", Port: 1, Status: roadbed.Up}, {ID: "b", Host: "b", Port: 1, Status: roadbed.Up}}, b.now())
	a := &connection{}
	p := &picker{b, map[string]balancer.Picker{"a:1": a, "b:1": &connection{}}}
	picked := func(n int) (ofA int) {
		for range n {
			r, err := p.Pick(balancer.PickInfo{Ctx: context.Background()})
			if err != nil {
				t.Fatal(err)
			}
			report := any(&v3orcapb.OrcaLoadReport{ApplicationUtilization: 0.05, CpuUtilization: 0.9})
			if r.SubConn == a {
				ofA++
				report = &v3orcapb.OrcaLoadReport{CpuUtilization: 0.95}
			}
			r.Done(balancer.DoneInfo{ServerLoad: report})
		}
		return ofA
	}
	picked(10)
	if n := picked(1000); n > 300 {
		t.Errorf("the instance at 95 %% of its load got %d of 1000 calls, that at 5 %% the others; want at most 300", n)
	}
}

// TestASlowInstanceGetsLittle makes calls of which those to one of four instances take long, where nothing else takes time.
func TestASlowInstanceGetsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &p2c{began: time.Now(), bal: balance.New(balance.Config{})}
		var list []roadbed.Instance
		ready := map[string]balancer.Picker{}
		took := map[balancer.SubConn]time.Duration{}
		calls := map[balancer.SubConn]int{}
		for i, d := range []time.Duration{50 * time.Millisecond, time.Millisecond, time.Millisecond, time.Millisecond} {
			id, c := fmt.Sprint(i), &connection{}
			list = append(list, roadbed.Instance{ID: id, Host: id, Port: 1, Status: roadbed.Up})
			ready[id+":1"], took[c] = c, d
		}
		b.bal.Update(list, b.now())
		p := &picker{b, ready}
		for range 400 {
			r, err := p.Pick(balancer.PickInfo{Ctx: context.Background()})
			if err != nil {
				t.Fatal(err)
			}
			calls[r.SubConn]++
			time.Sleep(took[r.SubConn])
			r.Done(balancer.DoneInfo{BytesReceived: true})
		}
		for c, n := range calls {
			switch {
			case took[c] > time.Millisecond && n > 50:
				t.Errorf("the slow instance got %d of 400 calls; want at most half of its share, 50", n)
			case took[c] == time.Millisecond && n < 60:
				t.Errorf("a fast instance got %d of 400 calls; want at least 60", n)
			}
		}
		if len(calls) < 3 {
			t.Errorf("%d instances got calls, want the three fast ones at least", len(calls))
		}
	})
}

func TestReportsOfLoad(t *testing.T) {
	for _, tc := range []struct {
		report any
		load   float64
		ok     bool
	}{
		{nil, 0, false},
		{(*v3orcapb.OrcaLoadReport)(nil), 0, false},
		{"nonsense", 0, false},
		{&v3orcapb.OrcaLoadReport{}, 0, false},
		{&v3orcapb.OrcaLoadReport{CpuUtilization: 0.5}, 0.5, true},
		{&v3orcapb.OrcaLoadReport{CpuUtilization: 0.5, ApplicationUtilization: 1.5}, 1.5, true},
	} {
		if load, ok := loadOf(tc.report); load != tc.load || ok != tc.ok {
			t.Errorf("%v: got %v, %v; want %v, %v", tc.report, load, ok, tc.load, tc.ok)
		}
	}
}

func TestWhatAStatusSaysOfTheInstance(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	for _, tc := range []struct {
		code     codes.Code
		received bool
		ctx      context.Context
		want     balance.Verdict
	}{
		{codes.OK, true, context.Background(), balance.Answered},
		{codes.NotFound, true, context.Background(), balance.Answered},
		{codes.Internal, true, context.Background(), balance.Erred},
		{codes.Unavailable, true, context.Background(), balance.Erred},
		{codes.Unavailable, false, context.Background(), balance.Broken},
		{codes.Unavailable, false, gone, balance.Abandoned},
		{codes.DeadlineExceeded, false, context.Background(), balance.Broken},
		{codes.ResourceExhausted, true, context.Background(), balance.Declined},
		{codes.Canceled, false, gone, balance.Abandoned},
	} {
		if got := verdict(balancer.DoneInfo{Err: status.Error(tc.code, ""), BytesReceived: tc.received}, tc.ctx); got != tc.want {
			t.Errorf("%v, bytes received %v, caller gone %v: got %v, want %v", tc.code, tc.received, tc.ctx == gone, got, tc.want)
		}
	}
}
