package ipcgrpc

import (
	"context"
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
