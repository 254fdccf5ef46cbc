package bench

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/afex/hystrix-go/hystrix"
	ebreaker "github.com/eapache/go-resiliency/breaker"
	"github.com/eapache/go-resiliency/deadline"
	"github.com/eapache/go-resiliency/retrier"
	"github.com/eapache/go-resiliency/semaphore"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/sony/gobreaker/v2"
)

var (
	errDown = errors.New("down")
	sink    int
	quiet   = slog.New(slog.NewTextHandler(io.Discard, nil))
)

func work(context.Context) (int, error) { return 1, nil }

func newEngine(b *testing.B, o ipc.Options) *ipc.Engine {
	o.Log = quiet
	e := ipc.New(o)
	b.Cleanup(e.Close)
	return e
}

// must fails the benchmark if what it measures is not what it says.
func must(b *testing.B, got, want error) {
	if !errors.Is(got, want) {
		b.Fatalf("got %v, want %v", got, want)
	}
}

// BenchmarkAllowed is a call that is let through and does nothing. "full" has breaker, bulkhead, timeout and retry
// policy in each library that has them; "breaker" is that library's breaker alone, with nothing else.
func BenchmarkAllowed(b *testing.B) {
	ctx := context.Background()
	b.Run("roadbed/full", func(b *testing.B) { // and fault check and statistics
		c := newEngine(b, ipc.Options{}).Command("x", ipc.Settings{Idempotent: true})
		defer cpu(b)()
		for b.Loop() {
			sink, _ = ipc.Call(ctx, c, work)
		}
	})
	b.Run("roadbed/full+meter", func(b *testing.B) {
		c := newEngine(b, ipc.Options{Meter: meter.New(nil)}).Command("x", ipc.Settings{Idempotent: true})
		defer cpu(b)()
		for b.Loop() {
			sink, _ = ipc.Call(ctx, c, work)
		}
	})
	b.Run("roadbed/no-timeout", func(b *testing.B) {
		c := newEngine(b, ipc.Options{}).Command("x", ipc.Settings{Idempotent: true, Timeout: -1})
		defer cpu(b)()
		for b.Loop() {
			sink, _ = ipc.Call(ctx, c, work)
		}
	})
	b.Run("failsafe-go/full", func(b *testing.B) {
		ex := failsafeFull()
		defer cpu(b)()
		for b.Loop() {
			sink, _ = ex.GetWithExecution(func(failsafe.Execution[int]) (int, error) { return 1, nil })
		}
	})
	b.Run("failsafe-go/breaker", func(b *testing.B) {
		ex := failsafe.With[int](circuitbreaker.NewBuilder[int]().WithFailureRateThreshold(0.5, 20, 10*time.Second).Build())
		defer cpu(b)()
		for b.Loop() {
			sink, _ = ex.Get(func() (int, error) { return 1, nil })
		}
	})
	b.Run("gobreaker/breaker", func(b *testing.B) { // it has nothing else
		cb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: 500 * time.Millisecond})
		defer cpu(b)()
		for b.Loop() {
			sink, _ = cb.Execute(func() (int, error) { return 1, nil })
		}
	})
	b.Run("hystrix-go/full", func(b *testing.B) { // breaker, bulkhead, timeout; it has no retries
		hystrix.ConfigureCommand("allowed", hystrix.CommandConfig{Timeout: 1000, MaxConcurrentRequests: 100_000}) // its tickets come back late
		defer cpu(b)()
		for b.Loop() {
			if err := hystrix.Do("allowed", func() error { sink = 1; return nil }, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go-resiliency/full", func(b *testing.B) {
		br, sem := ebreaker.New(20, 1, 5*time.Second), semaphore.New(200, time.Second)
		dl, re := deadline.New(time.Second), retrier.New(retrier.ConstantBackoff(2, time.Millisecond), nil)
		defer cpu(b)()
		for b.Loop() {
			err := br.Run(func() error {
				if err := sem.Acquire(); err != nil {
					return err
				}
				defer sem.Release()
				return re.Run(func() error {
					return dl.Run(func(<-chan struct{}) error { sink = 1; return nil })
				})
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go-resiliency/breaker", func(b *testing.B) { // consecutive errors only: no window, no statistics
		br := ebreaker.New(20, 1, 5*time.Second)
		defer cpu(b)()
		for b.Loop() {
			if err := br.Run(func() error { sink = 1; return nil }); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func failsafeFull() failsafe.Executor[int] {
	return failsafe.With[int](
		retrypolicy.NewBuilder[int]().WithMaxRetries(2).Build(),
		circuitbreaker.NewBuilder[int]().WithFailureRateThreshold(0.5, 20, 10*time.Second).Build(),
		bulkhead.New[int](200),
		timeout.New[int](time.Second),
	)
}

// BenchmarkAllowedParallel is BenchmarkAllowed from all cores at once.
func BenchmarkAllowedParallel(b *testing.B) {
	ctx := context.Background()
	b.Run("roadbed/full", func(b *testing.B) {
		c := newEngine(b, ipc.Options{}).Command("x", ipc.Settings{Idempotent: true})
		defer cpu(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				ipc.Call(ctx, c, work)
			}
		})
	})
	b.Run("roadbed/apart", func(b *testing.B) { // an engine for each goroutine: what the cores can do if nothing is shared
		defer cpu(b)()
		b.RunParallel(func(pb *testing.PB) {
			c := newEngine(b, ipc.Options{}).Command("x", ipc.Settings{Idempotent: true})
			for pb.Next() {
				ipc.Call(ctx, c, work)
			}
		})
	})
	b.Run("failsafe-go/full", func(b *testing.B) {
		ex := failsafeFull()
		defer cpu(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				ex.GetWithExecution(func(failsafe.Execution[int]) (int, error) { return 1, nil })
			}
		})
	})
	b.Run("gobreaker/breaker", func(b *testing.B) {
		cb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: 500 * time.Millisecond})
		defer cpu(b)()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				cb.Execute(func() (int, error) { return 1, nil })
			}
		})
	})
}

// BenchmarkRefused is a call that an open breaker refuses.
func BenchmarkRefused(b *testing.B) {
	ctx := context.Background()
	b.Run("roadbed", func(b *testing.B) {
		c := newEngine(b, ipc.Options{}).Command("x", ipc.Settings{SleepWindow: time.Hour})
		for range 30 {
			ipc.Call(ctx, c, func(context.Context) (int, error) { return 0, errDown })
		}
		time.Sleep(1100 * time.Millisecond) // two ticks of the breaker's window
		_, err := ipc.Call(ctx, c, work)
		must(b, err, ipc.ErrOpen)
		defer cpu(b)()
		for b.Loop() {
			_, err = ipc.Call(ctx, c, work)
		}
		must(b, err, ipc.ErrOpen)
	})
	b.Run("failsafe-go", func(b *testing.B) {
		cb := circuitbreaker.NewBuilder[int]().WithDelay(time.Hour).Build()
		cb.Open()
		ex := failsafe.With[int](cb)
		var err error
		defer cpu(b)()
		for b.Loop() {
			_, err = ex.Get(func() (int, error) { return 1, nil })
		}
		must(b, err, circuitbreaker.ErrOpen)
	})
	b.Run("gobreaker", func(b *testing.B) {
		cb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Timeout: time.Hour})
		for range 30 {
			cb.Execute(func() (int, error) { return 0, errDown })
		}
		var err error
		defer cpu(b)()
		for b.Loop() {
			_, err = cb.Execute(func() (int, error) { return 1, nil })
		}
		must(b, err, gobreaker.ErrOpenState)
	})
	b.Run("hystrix-go", func(b *testing.B) {
		hystrix.ConfigureCommand("refused", hystrix.CommandConfig{SleepWindow: 3600_000, RequestVolumeThreshold: 5})
		var err error
		for range 100 {
			err = hystrix.Do("refused", func() error { return errDown }, nil)
			time.Sleep(time.Millisecond)
		}
		must(b, err, hystrix.ErrCircuitOpen)
		defer cpu(b)()
		for b.Loop() {
			err = hystrix.Do("refused", func() error { return nil }, nil)
		}
		must(b, err, hystrix.ErrCircuitOpen)
	})
	b.Run("go-resiliency", func(b *testing.B) {
		br := ebreaker.New(5, 1, time.Hour)
		for range 10 {
			br.Run(func() error { return errDown })
		}
		var err error
		defer cpu(b)()
		for b.Loop() {
			err = br.Run(func() error { return nil })
		}
		must(b, err, ebreaker.ErrBreakerOpen)
	})
}

// instant is a network that answers at once, so that what is left is the price of the RoundTripper.
type instant struct{}

func (instant) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// BenchmarkRoundTrip compares with the same exchange made without the engine, over no network and over loopback.
func BenchmarkRoundTrip(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	b.Cleanup(srv.Close)
	host, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		b.Fatal(err)
	}
	var list []roadbed.Instance
	for _, id := range []string{"a", "b", "c", "d"} {
		list = append(list, roadbed.Instance{ID: id, App: "app", Host: host, Port: n, Status: roadbed.Up})
	}
	base := &http.Transport{MaxIdleConnsPerHost: 8, DisableCompression: true}
	b.Cleanup(base.CloseIdleConnections)
	run := func(b *testing.B, rt http.RoundTripper, url string, timeout time.Duration) {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			b.Fatal(err)
		}
		cancel := func() {}
		defer cpu(b)()
		for b.Loop() {
			r := req
			if timeout > 0 {
				var ctx context.Context
				ctx, cancel = context.WithTimeout(context.Background(), timeout)
				r = req.WithContext(ctx)
			}
			resp, err := rt.RoundTrip(r)
			if err != nil {
				b.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			cancel()
		}
	}
	lists := ipc.Static{"app": list}
	b.Run("no-network/bare", func(b *testing.B) { run(b, instant{}, "http://app/x", 0) })
	b.Run("no-network/roadbed", func(b *testing.B) {
		run(b, newEngine(b, ipc.Options{App: "api", Lists: lists, Transport: instant{}}).Transport(), "http://app/x", 0)
	})
	b.Run("loopback/bare", func(b *testing.B) { run(b, base, srv.URL+"/x", 0) })
	b.Run("loopback/bare+timeout", func(b *testing.B) { run(b, base, srv.URL+"/x", time.Second) })
	b.Run("loopback/roadbed", func(b *testing.B) {
		run(b, newEngine(b, ipc.Options{App: "api", Lists: lists, Transport: base}).Transport(), "http://app/x", 0)
	})
}

// nowhere is a response's writer that costs nothing.
type nowhere struct{ h http.Header }

func (n *nowhere) Header() http.Header         { return n.h }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

// BenchmarkHandler is what [ipc.Engine.Handler] adds to a handler that does nothing, for a request as the HTTP client
// sends it, and what a refusal under overload costs in all.
func BenchmarkHandler(b *testing.B) {
	fine := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200) })
	request := func(extra ...string) *http.Request {
		r := httptest.NewRequest("GET", "http://app/x", nil)
		headers := append([]string{
			ipc.HeaderRequestID, "01j8x3y4z5a6b7c8d9e0f1g2", ipc.HeaderTimeout, "900", ipc.HeaderAttempt, "1", ipc.HeaderCaller, "api",
			ipc.HeaderCriticality, "CRITICAL", "Accept", "*/*", "User-Agent", "Go-http-client/1.1",
		}, extra...)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		ctx, cancel := context.WithCancel(context.Background()) // as a server's requests have it
		b.Cleanup(cancel)
		return r.WithContext(ctx)
	}
	run := func(b *testing.B, h http.Handler, r *http.Request) {
		w := &nowhere{http.Header{}}
		defer cpu(b)()
		for b.Loop() {
			clear(w.h)
			h.ServeHTTP(w, r)
		}
	}
	b.Run("bare", func(b *testing.B) { run(b, fine, request()) })
	b.Run("roadbed", func(b *testing.B) { run(b, newEngine(b, ipc.Options{App: "app"}).Handler(fine), request()) })
	b.Run("roadbed+meter", func(b *testing.B) {
		run(b, newEngine(b, ipc.Options{App: "app", Meter: meter.New(nil)}).Handler(fine), request())
	})
	b.Run("roadbed/refused", func(b *testing.B) {
		e := newEngine(b, ipc.Options{App: "app", Meter: meter.New(nil), Server: ipc.ServerSettings{Limit: ipc.LimitFixed, InitialLimit: 1, MaxLimit: 1}})
		hold, held := make(chan struct{}), make(chan struct{})
		h := e.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { close(held); <-hold }))
		go h.ServeHTTP(&nowhere{http.Header{}}, request())
		<-held
		b.Cleanup(func() { close(hold) })
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, request(ipc.HeaderCriticality, "BULK")); w.Code != 503 {
			b.Fatalf("got %d, want 503", w.Code)
		}
		run(b, h, request(ipc.HeaderCriticality, "BULK"))
	})
}
