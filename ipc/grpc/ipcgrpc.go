// Package ipcgrpc gives gRPC calls what package ipc gives HTTP calls: instances found by name and chosen by how they do,
// a breaker, a bulkhead and a timeout for each method, and deadline, criticality, request id and injected faults that
// travel on. At Netflix this was the company's own set of gRPC interceptors beside Ribbon and Hystrix.
//
// A client names the app it wants:
//
//	conn, err := grpc.NewClient("vip:///playback", append(ipcgrpc.Dial(calls),
//		grpc.WithTransportCredentials(insecure.NewCredentials()))...)
//
// and a server opens the context of each request:
//
//	server := grpc.NewServer(ipcgrpc.Serve(calls)...)
//
// # Names and ports
//
// vip:///NAME and eureka:///NAME stand for the app's instances that are UP, as they come and go. An instance whose
// gRPC port is not its port says so in its metadata, as Spring's services do: gRPC_port, or grpc.port.
//
// # Choosing
//
// The balancer is ipc_p2c: of two ready instances drawn at random the cheaper is likely to get the call, where cost is
// time to answer, calls in flight, failures, and the load that the server itself reports (ORCA, per call). It is the
// default; grpc-go's own, round_robin or, imported, weighted_round_robin, work as well, chosen by a service config:
//
//	grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`)
//
// # Commands
//
// Each method is a command named /package.Service/Method, with the properties every command has. These codes count
// against the health of the callee: UNAVAILABLE, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNKNOWN, DATA_LOSS.
// The others are the caller's own doing. A call that was refused here fails with UNAVAILABLE (breaker open, no
// instance), RESOURCE_EXHAUSTED (bulkhead full) or DEADLINE_EXCEEDED (no time left), and errors.Is finds ipc's reasons.
//
// Where a method's settings say Hedge, a call that takes long gets a second attempt at another instance, within a budget,
// and the first answer counts. [ipc.Settings] has both; so have the properties ipc.command./package.Service/Method.….
//
// A stream asks breaker and bulkhead when it opens, holds its permit until it ends, has no timeout but the caller's, and
// succeeds when it ends with OK or is cancelled by the caller.
//
// # What it promises
//   - A call waits no longer than the caller's deadline or the command's timeout, whichever is earlier.
//   - An error of the callee reaches the caller as it came: code, message, details and text.
//   - A request whose time was up when it arrived does not reach the handler.
//
// # What it does not
//   - What provably did not reach the callee grpc-go itself sends again. The rest is tried again if the method's settings
//     say Idempotent, within the budget of all retries; or, where a service config has a retryPolicy for the method, by
//     grpc-go alone, within the retryThrottling of that config.
//   - An overloaded server refuses a request when its message has been read. gRPC's tap could do it before, but cannot send
//     the pushback without which callers would try again.
//   - Of the actions on bodies (partial, corrupt, slow) none applies; delay, error, reset and hang do.
package ipcgrpc

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/ipc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/status"
)

// Dial returns the options with which grpc.NewClient resolves names through e, balances, and makes each call a
// command. Options given after them win.
func Dial(e *ipc.Engine) []grpc.DialOption {
	c := client{e}
	return []grpc.DialOption{
		grpc.WithResolvers(builder{e, "vip"}, builder{e, "eureka"}),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"` + balancerName + `":{}}]}`),
		grpc.WithChainUnaryInterceptor(c.unary),
		grpc.WithChainStreamInterceptor(c.stream),
	}
}

// client makes calls for an engine.
type client struct{ engine *ipc.Engine }

// lower are the names of carried headers as gRPC wants them.
var lower = func() map[string]string {
	m := map[string]string{}
	for _, name := range ipc.Carried {
		m[name] = strings.ToLower(name)
	}
	return m
}()

const (
	pushback         = "grpc-retry-pushback-ms"     // in trailers; negative: do not retry
	previousAttempts = "grpc-previous-rpc-attempts" // from grpc-go's own retries
)

func (c client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	cmd := c.engine.Command(method, ipc.Settings{})
	attempts := 0
	_, err := ipc.Call(ctx, cmd, func(run context.Context) (struct{}, error) {
		attempts++
		send := func(ctx context.Context, attempt int, reply any, opts []grpc.CallOption) error {
			if err := c.engine.Inject(ctx, "client", appOf(cc)); err != nil {
				return err
			}
			var trailer metadata.MD
			err := judge(ctx, invoke(c.outgoing(ctx, cmd, attempt), method, req, reply, cc, append(opts[:len(opts):len(opts)], grpc.Trailer(&trailer))...))
			switch {
			case err == nil:
			case pushedBack(trailer):
				ipc.RefuseRetries(ctx)
				return ipc.Final(err)
			case retriesItself(cc, method):
				return ipc.Final(err)
			}
			return err
		}
		if h, ok := cmd.Hedging(); ok && !retriesItself(cc, method) {
			return struct{}{}, hedge(run, h, attempts, reply, opts, send)
		}
		return struct{}{}, send(run, attempts, reply, opts)
	})
	return asStatus(err)
}

// outgoing adds what the call hands on.
func (c client) outgoing(ctx context.Context, cmd *ipc.Command, attempt int) context.Context {
	pairs := make([]string, 0, 2*len(ipc.Carried))
	c.engine.Carry(ctx, cmd, attempt, func(name, value string) { pairs = append(pairs, lower[name], value) })
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

// retriesItself reports whether a service config has grpc-go retry the method. Then nobody else does, so that attempts do
// not multiply and its retryThrottling holds for all of them. It is known once the first call of cc is under way.
func retriesItself(cc *grpc.ClientConn, method string) bool {
	return cc.GetMethodConfig(method).RetryPolicy != nil
}

// pushedBack reports whether the callee wants no retries.
func pushedBack(trailer metadata.MD) bool {
	for _, v := range trailer.Get(pushback) {
		if n, err := strconv.ParseInt(v, 10, 32); err != nil || n < 0 {
			return true
		}
	}
	return false
}

// appOf returns the name of the app that cc calls: the last part of its target.
func appOf(cc *grpc.ClientConn) string {
	t := cc.Target()
	return t[strings.LastIndexByte(t, '/')+1:]
}

// judge tells package ipc what a status says about the callee.
func judge(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.DataLoss:
		return err
	case codes.DeadlineExceeded:
		return &late{err}
	case codes.Canceled:
		if ctx.Err() != nil {
			return &gone{err}
		}
		return err
	}
	return ipc.BadRequest(err)
}

// late is a status that is a deadline's end, whichever side saw it.
type late struct{ error }

func (l *late) Unwrap() []error { return []error{l.error, context.DeadlineExceeded} }

// gone is a status that is the caller's own cancellation.
type gone struct{ error }

func (g *gone) Unwrap() []error { return []error{g.error, context.Canceled} }

// failure is a failed call: to gRPC it is a status, to errors.Is and errors.As what package ipc says of it.
type failure struct {
	status *status.Status
	cause  error
}

// Error is what grpc-go says of the status.
func (f *failure) Error() string { return f.status.Err().Error() }

func (f *failure) Unwrap() error { return f.cause }

// GRPCStatus is how package status finds the code, the message and the details.
func (f *failure) GRPCStatus() *status.Status { return f.status }

// asStatus returns the callee's own status if there is one, as it came, and otherwise one that says why there is none.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	var has interface{ GRPCStatus() *status.Status }
	if errors.As(err, &has) {
		return &failure{has.GRPCStatus(), err}
	}
	return &failure{status.New(codeOf(err), err.Error()), err}
}

// codeOf is the code of a failure that no callee gave one.
func codeOf(err error) codes.Code {
	var e *ipc.Error
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ipc.ErrDeadlineSpent):
		return codes.DeadlineExceeded
	case errors.Is(err, ipc.ErrRejected):
		return codes.ResourceExhausted
	case errors.As(err, &e) && e.Kind == ipc.Cancelled:
		return codes.Canceled
	}
	return codes.Unavailable // breaker open, no instance, fault injected
}

func (c client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cmd := c.engine.Command(method, ipc.Settings{})
	ticket, err := cmd.Begin(ctx)
	if err != nil {
		return nil, asStatus(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{desc: desc, ticket: ticket, cancel: cancel}
	s.ctx = context.WithValue(ctx, firstKey{}, &s.first)
	for _, p := range [...][2]string{{"command", method}, {"client", appOf(cc)}} {
		if err := c.engine.Inject(ctx, p[0], p[1]); err != nil {
			s.end(err)
			return nil, asStatus(err)
		}
	}
	if s.ClientStream, err = open(c.outgoing(s.ctx, cmd, 1), desc, cc, method, opts...); err != nil {
		s.end(judge(ctx, err))
		return nil, err
	}
	context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) }) // the caller may go away without reading to the end
	return s, nil
}

// stream is a stream of a client whose end ends the call.
type stream struct {
	grpc.ClientStream
	desc   *grpc.StreamDesc
	ticket *ipc.Ticket
	ctx    context.Context
	cancel context.CancelFunc
	first  atomic.Int64 // when the first message came, see firstKey
	once   sync.Once
}

// RecvMsg receives, and notices the end.
func (s *stream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if s.first.Load() == 0 {
		s.first.Store(time.Now().UnixNano())
	}
	switch {
	case err == io.EOF || err == nil && !s.desc.ServerStreams:
		s.end(nil)
	case err != nil:
		if pushedBack(s.Trailer()) {
			ipc.RefuseRetries(s.ctx)
		}
		s.end(judge(s.ctx, err))
	}
	return err
}

func (s *stream) end(err error) {
	s.once.Do(func() {
		if errors.Is(err, context.Canceled) {
			err = nil // the caller had what it wanted
		}
		s.ticket.Done(s.ctx, err)
		s.cancel()
	})
}

// Serve returns the options of a server whose requests take part: deadline, criticality, id and faults reach the
// handler's context, and each call is metered.
func Serve(e *ipc.Engine) []grpc.ServerOption {
	s := server{e}
	return []grpc.ServerOption{
		orca.CallMetricsServerOption(reporter{e}), // first, so that the others run within it
		grpc.ChainUnaryInterceptor(s.unary), grpc.ChainStreamInterceptor(s.stream),
	}
}

type server struct{ engine *ipc.Engine }

// reporter tells callers how busy the server is, at the end of each call.
type reporter struct{ engine *ipc.Engine }

// ServerMetrics returns the load in the terms of ORCA, the open request cost aggregation.
func (r reporter) ServerMetrics() *orca.ServerMetrics {
	l := r.engine.Load()
	return &orca.ServerMetrics{AppUtilization: l.Utilization, CPUUtilization: l.CPU, QPS: l.RPS, EPS: l.EPS, MemUtilization: -1}
}

func (s server) unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (reply any, err error) {
	err = s.serve(ctx, grpc.ServerTransportStreamFromContext(ctx), false, func(ctx context.Context) error {
		reply, err = handle(ctx, req)
		return err
	})
	return reply, err
}

func (s server) stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return s.serve(ss.Context(), grpc.ServerTransportStreamFromContext(ss.Context()), true, func(ctx context.Context) error {
		return handle(srv, &served{ss, ctx})
	})
}

// served is a stream of a server with the request's context.
type served struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the request's context.
func (s *served) Context() context.Context { return s.ctx }

func (s server) serve(ctx context.Context, t grpc.ServerTransportStream, streams bool, handle func(context.Context) error) (err error) {
	orca.CallMetricsRecorderFromContext(ctx) // a report is sent only where somebody asked for the recorder
	ctx, r, err := s.engine.Receive(ctx, headers(ctx))
	if err == nil && streams {
		r.Streams()
	}
	panicked := true
	defer func() {
		if panicked {
			err = status.Error(codes.Internal, "the handler panicked")
		}
		r.End(httpStatus(status.Code(err)))
	}()
	if err == nil {
		err = s.engine.Inject(ctx, "server", s.engine.App())
	}
	if err != nil {
		err = asStatus(err)
	} else {
		err = handle(ctx)
	}
	panicked = false
	if err != nil && r.NoRetry() && t != nil {
		if terr := t.SetTrailer(metadata.Pairs(pushback, "-1")); terr != nil {
			return errors.Join(err, terr)
		}
	}
	return err
}

// headers returns what the request carries, under HTTP's names.
func headers(ctx context.Context) http.Header {
	md, _ := metadata.FromIncomingContext(ctx)
	h := make(http.Header, len(ipc.Carried))
	for name, low := range lower {
		if v := md[low]; len(v) > 0 {
			h[name] = v
		}
	}
	if v := md[previousAttempts]; len(v) > 0 {
		// grpc-go's own retries count as well: they are the only attempts that the interceptor does not see.
		if n, err := strconv.Atoi(v[0]); err == nil && n > 0 && n < 1000 {
			h[ipc.HeaderAttempt] = []string{strconv.Itoa(n + 1)}
		}
	}
	return h
}

// httpStatus is the HTTP status of a code, by google.rpc.Code's own list.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Canceled:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}
