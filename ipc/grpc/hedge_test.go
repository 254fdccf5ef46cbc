package ipcgrpc_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestACallThatTakesLongGetsASecondAttemptElsewhere(t *testing.T) {
	var cancelled atomic.Int64
	var warm atomic.Bool // while all answer at once
	warm.Store(true)
	var slow atomic.Pointer[string] // the instance that is slow: that of the first attempt
	begun := make(chan struct{})    // it is known
	var list []roadbed.Instance
	var all []*callee
	for _, id := range []string{"a", "b"} {
		c := &callee{}
		c.unary = func(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			if err := grpc.SetHeader(ctx, metadata.Pairs("from", id)); err != nil {
				return nil, err
			}
			if err := grpc.SetTrailer(ctx, metadata.Pairs("too", id)); err != nil {
				return nil, err
			}
			if warm.Load() {
				return &pb.SimpleResponse{}, nil
			}
			md, _ := metadata.FromIncomingContext(ctx)
			attempt := md.Get("x-ipc-attempt")[0]
			if attempt == "1" {
				slow.Store(&id)
				close(begun)
				<-ctx.Done()
				cancelled.Add(1)
				return nil, ctx.Err()
			}
			<-begun // on a busy machine the second attempt may be the first to arrive
			return &pb.SimpleResponse{Username: id, Hostname: attempt}, nil
		}
		list, all = append(list, c.serve(t, id, engine(t, ipc.Options{}))), append(all, c)
	}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": list}})
	client := dial(t, e, "vip:///playback")
	for all[0].calls.Load() == 0 || all[1].calls.Load() == 0 { // until both are connected
		if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	warm.Store(false)
	before, asked := counts(e, method), [2]int64{all[0].calls.Load(), all[1].calls.Load()}
	e.Command(method, ipc.Settings{Hedge: true, HedgeDelay: 20 * time.Millisecond, HedgePercent: 100, Timeout: time.Minute})
	var header, trailer metadata.MD
	var from peer.Peer
	reply, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&from))
	if err != nil {
		t.Fatal(err)
	}
	fast := map[string]string{"a": "b", "b": "a"}[*slow.Load()]
	if reply.Username != fast || reply.Hostname != "2" {
		t.Errorf("%s answered attempt %s; want %s, attempt 2", reply.Username, reply.Hostname, fast)
	}
	port := strconv.Itoa(map[string]roadbed.Instance{"a": list[0], "b": list[1]}[fast].Port)
	if h, tr := header.Get("from"), trailer.Get("too"); len(h) != 1 || h[0] != fast || len(tr) != 1 || tr[0] != fast || from.Addr.String() != "127.0.0.1:"+port {
		t.Errorf("header %v, trailer %v, peer %v; want those of %s at port %s", h, tr, from.Addr, fast, port)
	}
	for start := time.Now(); cancelled.Load() != 1; time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("the slower attempt was not cancelled")
		}
	}
	if got := counts(e, method); got["success"]-before["success"] != 1 || got["failure"]+got["timeout"]+got["cancelled"] != 0 {
		t.Errorf("counted %v; want one success and nothing else", got)
	}
	if a, b := all[0].calls.Load()-asked[0], all[1].calls.Load()-asked[1]; a != 1 || b != 1 {
		t.Errorf("instances were asked %d and %d times, want once each", a, b)
	}
}

func TestASecondAttemptDoesNotGoWhereTheFirstIs(t *testing.T) {
	c := &callee{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		time.Sleep(50 * time.Millisecond)
		return &pb.SimpleResponse{}, nil
	}}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	client := dial(t, e, "vip:///playback")
	e.Command(method, ipc.Settings{Hedge: true, HedgeDelay: 5 * time.Millisecond, HedgePercent: 100, Timeout: time.Minute})
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if n := c.calls.Load(); n != 1 {
		t.Errorf("the only instance was asked %d times, want once", n)
	}
}

func TestTheCallersMistakeIsNotTriedTwice(t *testing.T) {
	c := &callee{unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return nil, status.Error(codes.NotFound, "no such title")
	}}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	client := dial(t, e, "vip:///playback")
	e.Command(method, ipc.Settings{Idempotent: true, Retries: 3, Hedge: true, HedgeDelay: time.Minute})
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); status.Code(err) != codes.NotFound {
		t.Fatalf("got %v, want NOT_FOUND", err)
	}
	if n := c.calls.Load(); n != 1 {
		t.Errorf("it was asked %d times, want once", n)
	}
}

func TestAMethodThatIsIdempotentIsTriedAgainUnlessTheCalleeWantsNone(t *testing.T) {
	var refuse atomic.Bool
	var seen []string
	c := &callee{}
	c.unary = func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		seen = append(seen, md.Get("x-ipc-attempt")...)
		if refuse.Load() {
			if err := grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1")); err != nil {
				return nil, err
			}
		}
		if len(seen) < 3 {
			return nil, status.Error(codes.Unavailable, "not yet")
		}
		return &pb.SimpleResponse{}, nil
	}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	client := dial(t, e, "vip:///playback")
	e.Command(method, ipc.Settings{Idempotent: true, Retries: 3, Timeout: time.Minute})
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); err != nil || len(seen) != 3 || seen[2] != "3" {
		t.Errorf("got %v after attempts %v; want an answer of the third", err, seen)
	}
	seen = nil
	refuse.Store(true)
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); status.Code(err) != codes.Unavailable || len(seen) != 1 {
		t.Errorf("got %v after attempts %v; want UNAVAILABLE after one, as the callee wants to be left alone", err, seen)
	}
}

func TestAServiceConfigThatRetriesDoesSoAloneAndWithinItsThrottle(t *testing.T) {
	const retries = `"loadBalancingConfig":[{"ipc_p2c":{}}],"methodConfig":[{"name":[{"service":"grpc.testing.TestService"}],
		"retryPolicy":{"maxAttempts":3,"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]`
	for _, tc := range []struct {
		name, config string
		want         int64 // attempts of ten calls
	}{
		{"no throttle", "{" + retries + "}", 30},
		{"throttle", `{"retryThrottling":{"maxTokens":4,"tokenRatio":0.1},` + retries + "}", 11}, // the second failure leaves half of the tokens
	} {
		bad := &callee{unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			return nil, status.Error(codes.Unavailable, "down")
		}}
		e := engine(t, ipc.Options{App: "edge", Lists: ipc.Static{"playback": {bad.serve(t, "one", engine(t, ipc.Options{})), bad.serve(t, "two", engine(t, ipc.Options{}))}}})
		e.Command(method, ipc.Settings{Idempotent: true, BreakerOff: true, Hedge: true, HedgePercent: 100, HedgeDelay: time.Nanosecond})
		client := dial(t, e, "vip:///playback", grpc.WithDefaultServiceConfig(tc.config))
		if _, err := client.EmptyCall(t.Context(), &pb.Empty{}); status.Code(err) != codes.Unimplemented { // the config comes with the first call
			t.Errorf("%s: got %v, want UNIMPLEMENTED", tc.name, err)
		}
		for range 10 {
			if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); status.Code(err) != codes.Unavailable {
				t.Errorf("%s: got %v, want the callee's UNAVAILABLE", tc.name, err)
			}
		}
		if got := bad.calls.Load(); got != tc.want {
			t.Errorf("%s: %d attempts of ten calls, want %d", tc.name, got, tc.want)
		}
	}
}

func TestServersReportTheirLoadWithEachCall(t *testing.T) {
	c := &callee{}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	var trailer metadata.MD
	if _, err := dial(t, e, "vip:///playback").UnaryCall(t.Context(), &pb.SimpleRequest{}, grpc.Trailer(&trailer)); err != nil {
		t.Fatal(err)
	}
	if got := trailer.Get("endpoint-load-metrics-bin"); len(got) != 1 {
		t.Errorf("got trailer %v, want one report", trailer)
	}
}
