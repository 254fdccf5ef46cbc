package interop

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip" // which clients ask for
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// bytesCodec has messages be bytes.
type bytesCodec struct{}

func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (bytesCodec) Name() string { return "bytes" }

// serveCalls starts grpc-go with what grpc.js and GrpcCaller.java call. held is how many calls hold on until they are ended.
func serveCalls(t *testing.T) (addr string, held *atomic.Int64) {
	t.Helper()
	held = new(atomic.Int64)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		name, _ := grpc.MethodFromServerStream(stream)
		return called(strings.TrimPrefix(name, "/shop.Calls/"), stream, held)
	}))
	go s.Serve(l) //nolint:errcheck // it ends with Stop; what fails before fails the calls
	t.Cleanup(s.Stop)
	return l.Addr().String(), held
}

// failed is how calls fail.
var failed, _ = status.New(codes.FailedPrecondition, "größe: 100 % 世界").WithDetails(wrapperspb.String("the detail"))

func called(method string, stream grpc.ServerStream, held *atomic.Int64) error {
	var in []byte
	say := func(format string, args ...any) error {
		out := []byte(fmt.Sprintf(format, args...))
		return stream.SendMsg(&out)
	}
	switch method {
	case "Echo":
		md, _ := metadata.FromIncomingContext(stream.Context())
		for _, to := range []struct {
			name string
			set  func(metadata.MD)
		}{{"x-heard", func(m metadata.MD) { stream.SetHeader(m) }}, {"x-after", stream.SetTrailer}} { //nolint:errcheck // it was not sent yet
			to.set(metadata.MD{to.name: md["x-said"], to.name + "-bin": md["x-said-bin"]})
		}
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		return stream.SendMsg(&in)
	case "Count":
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		most, _ := strconv.Atoi(string(in))
		for n := range most {
			if err := say("%d", n+1); err != nil {
				return err
			}
		}
		return nil
	case "Sum":
		for sum := 0; ; {
			if err := stream.RecvMsg(&in); err == io.EOF {
				return say("%d", sum)
			} else if err != nil {
				return err
			}
			n, _ := strconv.Atoi(string(in))
			sum += n
		}
	case "Chat":
		held.Add(1)
		defer held.Add(-1)
		for {
			if err := stream.RecvMsg(&in); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			if err := say("heard %s", in); err != nil {
				return err
			}
		}
	case "Sleep":
		held.Add(1)
		defer held.Add(-1)
		<-stream.Context().Done()
		return stream.Context().Err()
	case "Fail":
		if err := stream.RecvMsg(&in); err != nil {
			return err
		}
		most, _ := strconv.Atoi(string(in))
		for n := range most {
			if err := say("%d", n+1); err != nil {
				return err
			}
		}
		return failed.Err()
	}
	return status.Error(codes.Unimplemented, "there is no such method")
}

// TestGRPCClientsOfNodeAndJavaGetThroughTheEdgeWhatTheyGetDirectly has them make calls of all kinds, with metadata, deadlines,
// cancellation and errors with details, with TLS and without.
func TestGRPCClientsOfNodeAndJavaGetThroughTheEdgeWhatTheyGetDirectly(t *testing.T) {
	needNPM(t)
	needJava(t)
	addr, held := serveCalls(t)
	r := newRoad(t, "--edge-tls-port", "7443")
	r.once("calls", addr)
	r.set("json", "edge.routes", `[{"id":"all","match":{"path":{"prefix":"/"}},"backends":[{"vip":"calls"}],"timeouts":{"request":"60s"}}]`)
	conn, err := grpc.NewClient(r.edgeAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(bytesCodec{})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, "a first call passes", func() []string {
		in, out := []byte("hello"), []byte(nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		err := conn.Invoke(ctx, "/shop.Calls/Echo", &in, &out)
		return []string{string(out), fmt.Sprint(err)}
	}, "hello", "<nil>")
	details, err := proto.Marshal(failed.Proto())
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(`unary hello 0
metadata one|two 0001feff one|two 0001feff
large true 0
packed true 0
empty 0 0
server streaming 100 100 0
client streaming 5050
both ways 50 heard say 50 0
deadline 4
cancel 1 1
status 0 9 größe: 100 % 世界
details DETAILS
status after messages 3 9 größe: 100 % 世界
no such method 12
many at once 50
`, "DETAILS", hex.EncodeToString(details), 1)
	for client, command := range map[string][]string{"grpc-js": {"node", "grpc.js"}, "grpc-java": {"java/run", "edge", "GrpcCaller"}} {
		for how, args := range map[string][]string{"directly": {addr, "plain"}, "h2c": {r.edgeAddr(), "plain"}, "TLS": {strings.TrimPrefix(r.at(7443), "http://"), "tls"}} {
			t.Run(client+", "+how, func(t *testing.T) {
				began := time.Now()
				var said strings.Builder
				cmd := exec.CommandContext(t.Context(), command[0], append(command[1:len(command):len(command)], args...)...)
				cmd.Stderr = &said
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%q %q: %v\n%s%s", command, args, err, out, &said)
				}
				if string(out) != want {
					t.Errorf("%s says\n%swant\n%s", client, out, want)
				}
				eventually(t, "what the client gave up is given up at the server", func() []string { return []string{fmt.Sprint(held.Load())} }, "0")
				t.Logf("took %v", time.Since(began).Round(time.Millisecond))
			})
		}
	}
}
