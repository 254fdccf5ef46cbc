package ipcgrpc_test

import (
	"context"
	"fmt"
	"net"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	ipcgrpc "github.com/roadbed/roadbed/ipc/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// greeter answers with a name.
type greeter struct {
	pb.UnimplementedTestServiceServer
}

func (greeter) UnaryCall(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Username: "playback"}, nil
}

func Example() {
	// The callee: each request's context has deadline, criticality, id and faults.
	own := ipc.New(ipc.Options{App: "playback"})
	defer own.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer(ipcgrpc.Serve(own)...)
	pb.RegisterTestServiceServer(server, greeter{})
	go server.Serve(listener)
	defer server.Stop()

	// The caller. Lists is usually a discovery client, as service.Start makes one.
	at := listener.Addr().(*net.TCPAddr)
	calls := ipc.New(ipc.Options{App: "api", Lists: ipc.Static{
		"playback": {{ID: "playback-1", Host: "127.0.0.1", Port: at.Port, Status: roadbed.Up}},
	}})
	defer calls.Close()
	conn, err := grpc.NewClient("vip:///playback", append(ipcgrpc.Dial(calls), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	reply, err := pb.NewTestServiceClient(conn).UnaryCall(context.Background(), &pb.SimpleRequest{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(reply.Username)
	// Output: playback
}
