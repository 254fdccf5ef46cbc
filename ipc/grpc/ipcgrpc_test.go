package ipcgrpc_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/fault"
	"github.com/roadbed/roadbed/ipc"
	ipcgrpc "github.com/roadbed/roadbed/ipc/grpc"
	"github.com/roadbed/roadbed/meter"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/weightedroundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = fault.Key("secret")

// callee is a server whose answers a test decides.
type callee struct {
	pb.UnimplementedTestServiceServer
	unary  func(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error)
	stream func(pb.TestService_FullDuplexCallServer) error
	calls  atomic.Int64
}

func (c *callee) UnaryCall(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	c.calls.Add(1)
	if c.unary == nil {
		return &pb.SimpleResponse{}, nil
	}
	return c.unary(ctx, req)
}

func (c *callee) FullDuplexCall(s pb.TestService_FullDuplexCallServer) error {
	c.calls.Add(1)
	return c.stream(s)
}

func engine(t *testing.T, o ipc.Options) *ipc.Engine {
	t.Helper()
	o.Log = slog.New(slog.DiscardHandler)
	o.FaultKey = func() fault.Key { return key }
	e := ipc.New(o)
	t.Cleanup(e.Close)
	return e
}

// serve starts c and returns the instance that it is.
func (c *callee) serve(t *testing.T, id string, e *ipc.Engine) roadbed.Instance {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(ipcgrpc.Serve(e)...)
	pb.RegisterTestServiceServer(s, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return instanceAt(id, l.Addr().(*net.TCPAddr).Port)
}

func instanceAt(id string, port int) roadbed.Instance {
	return roadbed.Instance{ID: id, App: "playback", Host: "127.0.0.1", Port: port, Status: roadbed.Up}
}

func dial(t *testing.T, e *ipc.Engine, target string, more ...grpc.DialOption) pb.TestServiceClient {
	t.Helper()
	o := append(ipcgrpc.Dial(e), grpc.WithTransportCredentials(insecure.NewCredentials()))
	conn, err := grpc.NewClient(target, append(o, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pb.NewTestServiceClient(conn)
}

const method = "/grpc.testing.TestService/UnaryCall"

func counts(e *ipc.Engine, name string) map[string]uint32 {
	for _, c := range e.Snapshot() {
		if c.Name == name {
			return c.Counts
		}
	}
	return nil
}

// inFlight is how many calls of a command are under way, -1 if it is not known.
func inFlight(e *ipc.Engine, name string) int64 {
	for _, c := range e.Snapshot() {
		if c.Name == name {
			return c.InFlight
		}
	}
	return -1
}

func TestACallFindsAnInstanceByNameAndHandsOnWhatItsRequestBrought(t *testing.T) {
	leafEngine := engine(t, ipc.Options{App: "leaf"})
	var got struct{ id, caller, crit string }
	leaf := &callee{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		got.id, got.caller, got.crit = ipc.RequestID(ctx), ipc.CallerOf(ctx), ipc.CriticalityOf(ctx).String()
		if f := fault.From(ctx); f == nil || f.ID() != "exp" {
			return nil, status.Errorf(codes.Internal, "faults did not travel: %v", f)
		}
		if d, ok := ctx.Deadline(); !ok || time.Until(d) > time.Minute {
			return nil, status.Errorf(codes.Internal, "deadline %v did not travel", d)
		}
		return &pb.SimpleResponse{Username: "leaf"}, nil
	}}
	other := &callee{}
	midEngine := engine(t, ipc.Options{App: "mid", Lists: ipc.Static{"leaf": {leaf.serve(t, "leaf-1", leafEngine)}}})
	toLeaf := dial(t, midEngine, "eureka:///LEAF")
	mid := &callee{unary: func(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return toLeaf.UnaryCall(ctx, req)
	}}
	down := other.serve(t, "down-1", midEngine)
	down.Status = roadbed.OutOfService
	front := engine(t, ipc.Options{App: "front", Lists: ipc.Static{"playback": {mid.serve(t, "mid-1", midEngine), down}}})

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rules := fault.Sign(key, "exp", time.Now().Add(time.Minute), "db:nothing=reset")
	ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", "r-1")
	// The front has no request of its own, so it starts one as the edge does.
	f, err := fault.Parse(key, rules, "r-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// No command has a time limit, so that there is no deadline but the caller's.
	front.Command(method, ipc.Settings{Criticality: roadbed.BestEffort, Timeout: -1})
	midEngine.Command(method, ipc.Settings{Timeout: -1})
	for range 10 {
		reply, err := dial(t, front, "vip:///playback").UnaryCall(fault.With(ctx, f), &pb.SimpleRequest{})
		if err != nil || reply.Username != "leaf" {
			t.Fatalf("got %v, %v; want an answer of leaf", reply, err)
		}
	}
	if got.id != "r-1" || got.caller != "mid" || got.crit != roadbed.BestEffort.String() {
		t.Errorf("leaf saw %+v; want request r-1 of mid, best effort", got)
	}
	if n := other.calls.Load(); n != 0 {
		t.Errorf("an instance out of service got %d calls", n)
	}
}

func TestStatusesReachTheCallerAndCountAsTheyShould(t *testing.T) {
	var code atomic.Uint32
	c := &callee{unary: func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		st, err := status.New(codes.Code(code.Load()), "said so").WithDetails(&pb.Payload{Body: []byte("detail")})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	client := dial(t, e, "vip:///playback")
	bad := map[codes.Code]bool{codes.Unknown: true, codes.Internal: true, codes.Unavailable: true, codes.DataLoss: true, codes.ResourceExhausted: true, codes.DeadlineExceeded: true, codes.Canceled: true}
	e.Command(method, ipc.Settings{BreakerOff: true})
	for k := codes.Canceled; k <= codes.Unauthenticated; k++ {
		code.Store(uint32(k))
		before := counts(e, method)
		_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
		st, ok := status.FromError(err)
		if !ok || st.Code() != k || !strings.HasSuffix(st.Message(), "said so") || len(st.Details()) != 1 {
			t.Errorf("%v: caller got %v with %v", k, err, st.Details())
		}
		after := counts(e, method)
		failed := after["failure"] + after["timeout"] - before["failure"] - before["timeout"]
		if wrong := after["badRequest"] - before["badRequest"]; (failed == 1) != bad[k] || failed+wrong != 1 {
			t.Errorf("%v: counted %d failures and %d bad requests", k, failed, wrong)
		}
	}
}

func TestRefusalsHaveCodesThatSayWhatTheyAre(t *testing.T) {
	block := make(chan struct{})
	c := &callee{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		select {
		case <-block:
		case <-ctx.Done():
		}
		return &pb.SimpleResponse{}, nil
	}}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	client := dial(t, e, "vip:///playback")
	try := func(s ipc.Settings, target string, want codes.Code, reason error) {
		t.Helper()
		e.Command(method, s)
		cl := client
		if target != "" {
			cl = dial(t, e, target)
		}
		_, err := cl.UnaryCall(t.Context(), &pb.SimpleRequest{})
		if status.Code(err) != want || reason != nil && !errors.Is(err, reason) {
			t.Errorf("%+v: got %v (%v), want %v because %v", s, err, status.Code(err), want, reason)
		}
	}
	try(ipc.Settings{Timeout: 50 * time.Millisecond}, "", codes.DeadlineExceeded, context.DeadlineExceeded)
	try(ipc.Settings{ForceOpen: true}, "", codes.Unavailable, ipc.ErrOpen)
	try(ipc.Settings{Timeout: time.Second}, "vip:///nobody", codes.Unavailable, nil)
	e.Command(method, ipc.Settings{MaxConcurrent: 1, Timeout: time.Minute})
	started := make(chan error, 1)
	go func() {
		_, err := client.UnaryCall(context.Background(), &pb.SimpleRequest{})
		started <- err
	}()
	for inFlight(e, method) != 1 {
		time.Sleep(time.Millisecond)
	}
	try(ipc.Settings{MaxConcurrent: 1, Timeout: time.Minute}, "", codes.ResourceExhausted, ipc.ErrRejected)
	close(block)
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestATargetWithoutANameIsRefused(t *testing.T) {
	e := engine(t, ipc.Options{})
	for _, target := range []string{"vip:///", "vip:///a/b", "vip:///a:80"} {
		conn, err := grpc.NewClient(target, append(ipcgrpc.Dial(e), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err == nil {
			defer conn.Close()
			err = conn.Invoke(t.Context(), method, &pb.SimpleRequest{}, &pb.SimpleResponse{})
		}
		if err == nil || !strings.Contains(err.Error(), "names no app") {
			t.Errorf("%s: got %v, want an error that says what to write", target, err)
		}
	}
}

func TestAnInstanceMaySpeakGRPCOnAPortOfItsOwn(t *testing.T) {
	for _, name := range []string{"gRPC_port", "grpc.port"} {
		c := &callee{}
		i := c.serve(t, "a", engine(t, ipc.Options{}))
		i.Metadata = map[string]string{name: strconv.Itoa(i.Port)}
		i.Port = 1
		e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {i}}})
		if _, err := dial(t, e, "vip:///playback").UnaryCall(t.Context(), &pb.SimpleRequest{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFaultsAreInjectedAtClientAndServer(t *testing.T) {
	c := &callee{}
	props := config.New(config.Options{Override: map[string]string{"ipc.fit.maxActive": "10"}})
	e := engine(t, ipc.Options{App: "front", Config: props, Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{App: "playback"}))}}})
	client := dial(t, e, "vip:///playback")
	e.Command(method, ipc.Settings{Timeout: time.Minute})
	for rule, want := range map[string]struct {
		code    codes.Code
		reaches int64
	}{
		"client:playback=error(503)":                         {codes.Unavailable, 0},
		"server:playback=error(503)":                         {codes.Unavailable, 0},
		"server:playback=reset":                              {codes.Unavailable, 0},
		"command:/grpc.testing.TestService/*=error(503)":     {codes.Unavailable, 0},
		"server:playback=delay(20ms)":                        {codes.OK, 1},
		"server:playback=hang":                               {codes.DeadlineExceeded, 0},
		"client:other=error(503);server:front=error(503)":    {codes.OK, 1},
		"command:/grpc.testing.TestService/Empty=error(503)": {codes.OK, 1},
	} {
		f, err := fault.Parse(key, fault.Sign(key, "e", time.Now().Add(time.Minute), rule), "r", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		before, start := c.calls.Load(), time.Now()
		within := time.Minute
		if strings.HasSuffix(rule, "hang") {
			within = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(fault.With(t.Context(), f), within)
		_, err = client.UnaryCall(ctx, &pb.SimpleRequest{})
		cancel()
		if status.Code(err) != want.code || c.calls.Load()-before != want.reaches {
			t.Errorf("%s: got %v, and %d calls; want %v and %d", rule, err, c.calls.Load()-before, want.code, want.reaches)
		}
		if strings.Contains(rule, "delay") && time.Since(start) < 20*time.Millisecond {
			t.Errorf("%s: took %s", rule, time.Since(start))
		}
	}
}

func TestAStreamHoldsItsPermitUntilItEnds(t *testing.T) {
	c := &callee{stream: func(s pb.TestService_FullDuplexCallServer) error {
		for {
			req, err := s.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if req.ResponseStatus != nil {
				return status.Error(codes.Code(req.ResponseStatus.Code), req.ResponseStatus.Message)
			}
			if err := s.Send(&pb.StreamingOutputCallResponse{}); err != nil {
				return err
			}
		}
	}}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	client := dial(t, e, "vip:///playback")
	const name = "/grpc.testing.TestService/FullDuplexCall"
	e.Command(name, ipc.Settings{MaxConcurrent: 1, Timeout: 20 * time.Millisecond})
	echo := func(s pb.TestService_FullDuplexCallClient) {
		t.Helper()
		if err := s.Send(&pb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	first, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	echo(first)
	time.Sleep(30 * time.Millisecond) // the command's timeout is not the stream's
	echo(first)
	if _, err := client.FullDuplexCall(t.Context()); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a second stream where one is allowed: got %v", err)
	}
	if err := first.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); err != io.EOF {
		t.Fatalf("got %v, want the end", err)
	}
	if n := inFlight(e, name); n != 0 {
		t.Errorf("after its end %d are in flight", n)
	}

	ctx, cancel := context.WithCancel(t.Context())
	second, err := client.FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	echo(second)
	cancel() // and never reads again
	for start := time.Now(); inFlight(e, name) != 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatal("a cancelled stream keeps its permit")
		}
	}
	third, err := client.FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := third.Send(&pb.StreamingOutputCallRequest{ResponseStatus: &pb.EchoStatus{Code: int32(codes.Internal), Message: "broken"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := third.Recv(); status.Code(err) != codes.Internal {
		t.Fatalf("got %v, want INTERNAL", err)
	}
	got := counts(e, name)
	if got["success"] != 2 || got["failure"] != 1 {
		t.Errorf("counted %v; want 2 successes (one ended, one cancelled) and 1 failure", got)
	}
}

func TestADeadInstanceGetsNothing(t *testing.T) {
	serverEngine := engine(t, ipc.Options{})
	list := []roadbed.Instance{instanceAt("dead", 1)}
	var alive []*callee
	for i := range 3 {
		alive = append(alive, &callee{})
		list = append(list, alive[i].serve(t, strconv.Itoa(i), serverEngine))
	}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": list}})
	client := dial(t, e, "vip:///playback")
	for range 400 {
		if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	all := int64(0)
	for _, c := range alive {
		all += c.calls.Load()
	}
	if all != 400 {
		t.Errorf("those who live got %d of 400 calls; want all", all)
	}
}

func TestOtherBalancersWorkAsWell(t *testing.T) {
	for _, cfg := range []string{
		`{"loadBalancingConfig":[{"round_robin":{}}]}`,
		`{"loadBalancingConfig":[{"weighted_round_robin":{}}]}`,
	} {
		a, b := &callee{}, &callee{}
		e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {a.serve(t, "a", engine(t, ipc.Options{})), b.serve(t, "b", engine(t, ipc.Options{}))}}})
		client := dial(t, e, "vip:///playback", grpc.WithDefaultServiceConfig(cfg))
		for start := time.Now(); a.calls.Load() < 5 || b.calls.Load() < 5; {
			if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); err != nil {
				t.Fatalf("%s: %v", cfg, err)
			}
			if time.Since(start) > time.Minute {
				t.Fatalf("%s: a got %d calls, b %d", cfg, a.calls.Load(), b.calls.Load())
			}
		}
	}
}

func TestASettingOfTheBalancerIsAnError(t *testing.T) {
	_, err := grpc.NewClient("vip:///x", append(ipcgrpc.Dial(engine(t, ipc.Options{})), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"ipc_p2c":{"choices":3}}]}`))...)
	if err == nil || !strings.Contains(err.Error(), "takes no settings") {
		t.Errorf("got %v, want an error that says that there are none", err)
	}
}

// lists is a list of instances that a test changes.
type lists struct {
	now []roadbed.Instance
	fn  func([]roadbed.Instance)
}

func (l *lists) Watch(app string, fn func([]roadbed.Instance)) func() {
	if app == "playback" {
		l.fn = fn
		fn(l.now)
	} else {
		fn(nil)
	}
	return func() {}
}

func TestInstancesComeAndGo(t *testing.T) {
	a, b := &callee{}, &callee{}
	l := &lists{now: nil}
	e := engine(t, ipc.Options{Lists: l})
	client := dial(t, e, "vip:///playback")
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), ipc.ErrNoEndpoint.Error()) {
		t.Errorf("without an instance: got %v; want UNAVAILABLE that says so", err)
	}
	first, second := a.serve(t, "a", engine(t, ipc.Options{})), b.serve(t, "b", engine(t, ipc.Options{}))
	l.fn([]roadbed.Instance{first})
	wait := grpc.WaitForReady(true)
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}, wait); err != nil || a.calls.Load() != 1 {
		t.Errorf("after the first came: got %v, %d calls", err, a.calls.Load())
	}
	l.fn([]roadbed.Instance{second})
	for range 5 {
		if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}, wait); err != nil {
			t.Error(err)
		}
	}
	if a.calls.Load() != 1 || b.calls.Load() != 5 {
		t.Errorf("the one that is gone got %d calls, the one that is there %d; want 1 and 5", a.calls.Load(), b.calls.Load())
	}
	second.Status = roadbed.OutOfService
	l.fn([]roadbed.Instance{second})
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("after all are gone: got %v, want UNAVAILABLE", err)
	}
}

func TestPushbackStopsRetriesUpstream(t *testing.T) {
	leaf := &callee{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		if err := grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1")); err != nil {
			return nil, err
		}
		return nil, status.Error(codes.Unavailable, "busy")
	}}
	midEngine := engine(t, ipc.Options{App: "mid", Lists: ipc.Static{"leaf": {leaf.serve(t, "leaf-1", engine(t, ipc.Options{}))}}})
	toLeaf := dial(t, midEngine, "vip:///leaf")
	mid := &callee{unary: func(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		return toLeaf.UnaryCall(ctx, req)
	}}
	front := engine(t, ipc.Options{Lists: ipc.Static{"playback": {mid.serve(t, "mid-1", midEngine)}}})
	client := dial(t, front, "vip:///playback", grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"ipc_p2c":{}}],
		"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.001s","maxBackoff":"0.001s","backoffMultiplier":1,"retryableStatusCodes":["UNAVAILABLE"]}}]}`))
	if _, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{}); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v, want UNAVAILABLE", err)
	}
	if m, l := mid.calls.Load(), leaf.calls.Load(); m != 1 || l != 1 {
		t.Errorf("mid was called %d times and leaf %d; want once each, for leaf asked to be left alone", m, l)
	}
}

func TestWhatAResolverSaysReachesTheCaller(t *testing.T) {
	r := manual.NewBuilderWithScheme("odd")
	r.BuildCallback = func(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) {
		cc.ReportError(errors.New("the zone file is gone"))
	}
	client := dial(t, engine(t, ipc.Options{}), "odd:///playback", grpc.WithResolvers(r))
	_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the zone file is gone") {
		t.Errorf("got %v, want UNAVAILABLE that says what the resolver said", err)
	}
}

func TestARefusalInjectedLooksLikeOne(t *testing.T) {
	c := &callee{}
	e := engine(t, ipc.Options{Lists: ipc.Static{"playback": {c.serve(t, "a", engine(t, ipc.Options{}))}}})
	f, err := fault.Parse(key, fault.Sign(key, "e", time.Now().Add(time.Minute), "client:playback=reject"), "r", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, err = dial(t, e, "vip:///playback").UnaryCall(fault.With(t.Context(), f), &pb.SimpleRequest{})
	if status.Code(err) != codes.ResourceExhausted || !errors.Is(err, ipc.ErrRejected) || !errors.Is(err, ipc.ErrInjected) || c.calls.Load() != 0 {
		t.Errorf("got %v after %d calls, want RESOURCE_EXHAUSTED without one, as of a full bulkhead", err, c.calls.Load())
	}
}

func TestACallerInAHurryOpensNoBreakerForOthers(t *testing.T) {
	answered := make(chan struct{})
	slow := &callee{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		select {
		case <-answered: // it takes what it usually takes
		case <-time.After(30 * time.Millisecond):
		case <-ctx.Done():
		}
		return &pb.SimpleResponse{}, nil
	}}
	e := engine(t, ipc.Options{App: "edge", Meter: meter.New(nil), Lists: ipc.Static{"playback": {slow.serve(t, "one", engine(t, ipc.Options{}))}}})
	e.Command(method, ipc.Settings{InstantOpen: true})
	client := dial(t, e, "vip:///playback")
	many := func(left time.Duration, want codes.Code) {
		t.Helper()
		var all sync.WaitGroup
		for range 40 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), left)
				defer cancel()
				if _, err := client.UnaryCall(ctx, &pb.SimpleRequest{}); status.Code(err) != want {
					t.Errorf("a call with %s: got %v, want %s", left, err, want)
				}
			})
		}
		all.Wait()
	}
	many(10*time.Second, codes.OK)
	many(5*time.Millisecond, codes.DeadlineExceeded)
	if n := counts(e, method); n["hasty"] == 0 || n["hasty"]+n["unanswered"] != 40 { // unanswered: its time was up before it began
		t.Errorf("counted %v, want 40 hasty and no other timeouts", n)
	}
	close(answered)
	many(10*time.Second, codes.OK)
}
