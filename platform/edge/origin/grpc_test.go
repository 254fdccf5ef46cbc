package origin

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
)

func TestRealGRPCPeersSpeakThroughTheProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var timeouts []string
	srv := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		if left, ok := ctx.Deadline(); ok {
			timeouts = append(timeouts, time.Until(left).Round(time.Minute).String())
		}
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-seen", strings.Join(md.Get("x-mine"), ","))); err != nil {
			t.Error(err)
		}
		return next(ctx, req)
	}))
	h := health.NewServer()
	h.SetServingStatus("up", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(srv, h)
	go srv.Serve(l) //nolint:errcheck // Stop ends it
	t.Cleanup(srv.Stop)

	r := newRig(t, nil, l.Addr().String())
	r.change(func(x *filter.Exchange) { x.Deadline = filter.Now() + int64(5*time.Minute) })
	roots := r.front.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	conn, err := grpc.NewClient(r.front.Listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "example.com"})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c := grpc_health_v1.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "x-mine", "1"), time.Minute)
	defer cancel()
	var trailer metadata.MD
	got, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "up"}, grpc.Trailer(&trailer))
	if err != nil || got.Status != grpc_health_v1.HealthCheckResponse_SERVING || strings.Join(trailer.Get("x-seen"), "") != "1" {
		t.Errorf("a call: got %v %v, trailers %v", got, err, trailer)
	}
	if len(timeouts) != 1 || timeouts[0] != "5m0s" {
		t.Errorf("the callee believes it has %v, want the 5m that are left", timeouts)
	}
	if _, err := c.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "none"}); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("a call that fails: got %v, want NotFound", err)
	}
	r.change(func(x *filter.Exchange) { x.Deadline = 0 })
	watch, err := c.Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "up"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING} {
		if i > 0 {
			h.SetServingStatus("up", want)
		}
		if got, err := watch.Recv(); err != nil || got.Status != want {
			t.Errorf("message %d of a stream: got %v %v, want %v", i, got, err, want)
		}
	}
}

func TestBodiesStreamInConstantMemory(t *testing.T) {
	const size = 64 << 20
	addr := serving(t, func(w http.ResponseWriter, q *http.Request) {
		n, err := io.Copy(io.Discard, q.Body)
		if q.Method == "PUT" && (n != size || err != nil) {
			t.Errorf("the origin got %d bytes, %v", n, err)
		}
		if q.Method == "GET" {
			chunk := bytes.Repeat([]byte("x"), 32<<10)
			for range size / len(chunk) {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}
	})
	engines(t, func(t *testing.T, fast bool) {
		r := newRig(t, nil, addr)
		r.fast = fast
		r.change(func(x *filter.Exchange) { x.Deadline = filter.Now() + int64(5*time.Minute) })
		client, url := r.client()
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, most := heap(), uint64(0)
		for _, method := range []string{"GET", "PUT"} {
			var body io.Reader
			if method == "PUT" {
				body = io.LimitReader(zeros{}, size)
			}
			req, err := http.NewRequest(method, url, body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			buf, n := make([]byte, 64<<10), 0
			for {
				k, err := resp.Body.Read(buf)
				if n/(16<<20) != (n+k)/(16<<20) {
					most = max(most, heap())
				}
				if n += k; err != nil {
					break
				}
			}
			resp.Body.Close()
			if method == "GET" && n != size {
				t.Errorf("got %d bytes, want %d", n, size)
			}
		}
		if most = max(most, heap()); most > before+8<<20 {
			t.Errorf("the heap grew from %d to %d KiB", before>>10, most>>10)
		}
	})
}

// zeros is a body without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
