package interop

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	ipcgrpc "github.com/roadbed/roadbed/ipc/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cases "google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// allCases runs the interoperability cases that every gRPC implementation is tried by. One that fails ends the process and
// says why.
func allCases(ctx context.Context, conn *grpc.ClientConn) {
	client := pb.NewTestServiceClient(conn)
	cases.DoEmptyUnaryCall(ctx, client)
	cases.DoLargeUnaryCall(ctx, client)
	cases.DoClientStreaming(ctx, client)
	cases.DoServerStreaming(ctx, client)
	cases.DoPingPong(ctx, client)
	cases.DoEmptyStream(ctx, client)
	cases.DoTimeoutOnSleepingServer(ctx, client)
	cases.DoCancelAfterBegin(ctx, client)
	cases.DoCancelAfterFirstResponse(ctx, client)
	cases.DoCustomMetadata(ctx, client)
	cases.DoStatusCodeAndMessage(ctx, client)
	cases.DoSpecialStatusMessage(ctx, client)
	cases.DoUnimplementedService(ctx, pb.NewUnimplementedServiceClient(conn))
	cases.DoUnimplementedMethod(ctx, conn)
}

// With grpc-go's own server and client code, and our resolver, balancer and interceptors between them.
func TestGRPCsOwnCasesPassThroughOurBalancer(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	served := ipc.New(ipc.Options{App: "testservice", Log: quiet})
	defer served.Close()
	var list []roadbed.Instance
	for _, id := range []string{"a", "b", "c"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(ipcgrpc.Serve(served)...)
		pb.RegisterTestServiceServer(s, cases.NewTestServer())
		go s.Serve(l) // ends with Stop; what fails before fails the calls
		defer s.Stop()
		list = append(list, roadbed.Instance{ID: id, App: "testservice", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, Status: roadbed.Up})
	}
	calls := ipc.New(ipc.Options{App: "tester", Lists: ipc.Static{"testservice": list}, Log: quiet})
	defer calls.Close()
	conn, err := grpc.NewClient("vip:///testservice", append(ipcgrpc.Dial(calls), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for range 3 { // so that each instance is met
		allCases(ctx, conn)
	}
	for _, c := range calls.Snapshot() {
		if c.InFlight != 0 {
			t.Errorf("%s: %d calls are still in flight", c.Name, c.InFlight)
		}
	}
	var answered int
	for _, c := range calls.Snapshot() {
		answered += int(c.Counts["success"])
	}
	if answered < 3*9 {
		t.Errorf("%d calls were counted as successes, want at least %d", answered, 3*9)
	}
}
