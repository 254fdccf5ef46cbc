package ipcgrpc

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"time"

	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/ipc/balance"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// errOutrun is why the slower of two attempts is cancelled.
var errOutrun = errors.New("another attempt of the same call answered first")

// errNobodyElse is why there is no second attempt: it would go where the first is.
var errNobodyElse = status.Error(codes.Unavailable, "there is no other instance to send a second attempt to")

// pairKey finds the pair of attempts that a call belongs to, so that the second goes to another instance.
type pairKey struct{}

// pair remembers where the first attempt went. A nil pair remembers nothing.
type pair struct {
	mu    sync.Mutex
	first *balance.Endpoint
}

func (p *pair) taken() *balance.Endpoint {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}

func (p *pair) take(ep *balance.Endpoint) {
	if p != nil {
		p.mu.Lock()
		p.first = ep
		p.mu.Unlock()
	}
}

// runner is one of two attempts, with a reply and metadata of its own.
type runner struct {
	reply   any
	header  metadata.MD
	trailer metadata.MD
	peer    peer.Peer
	cancel  context.CancelCauseFunc
	err     error
}

// hedge makes a call, and one more at another instance if it takes long; what is answered first counts. It returns when
// both have ended, which the one that lost does as soon as it is cancelled.
func hedge(ctx context.Context, h ipc.Hedging, attempt int, reply any, opts []grpc.CallOption, send func(context.Context, int, any, []grpc.CallOption) error) error {
	ctx = context.WithValue(ctx, pairKey{}, &pair{})
	back := make(chan *runner, 2)
	start := time.Now()
	run := func(attempt int) *runner {
		r := &runner{reply: reflect.New(reflect.TypeOf(reply).Elem()).Interface()}
		ctx, cancel := context.WithCancelCause(ctx)
		r.cancel = cancel
		go func() {
			r.err = send(ctx, attempt, r.reply, r.options(opts))
			back <- r
		}()
		return r
	}
	first := run(attempt)
	var second, won *runner
	running := 1
	var late <-chan time.Time
	if after := h.After(); after > 0 {
		timer := time.NewTimer(after)
		defer timer.Stop()
		late = timer.C
	}
	for won == nil {
		select {
		case r := <-back:
			running--
			if final := r.err == nil || isTheCallers(r.err); final || running == 0 && !errors.Is(r.err, errNobodyElse) {
				won = r
			} else if running == 0 {
				won = first
			}
		case <-late:
			late = nil
			if ctx.Err() == nil && h.Take() {
				second = run(attempt + 1)
				running++
			}
		}
	}
	for _, r := range [...]*runner{first, second} {
		if r != nil {
			r.cancel(errOutrun)
		}
	}
	if won == second || first.err == nil {
		h.Took(time.Since(start))
	}
	for ; running > 0; running-- {
		<-back
	}
	if second != nil {
		h.Won(won == second)
	}
	won.give(reply, opts)
	return won.err
}

// isTheCallers reports whether err would be the same wherever the request went.
func isTheCallers(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded, codes.Canceled:
		return false
	}
	return true
}

// options are those of the call, with the runner's own places for what a call brings back.
func (r *runner) options(opts []grpc.CallOption) []grpc.CallOption {
	out := make([]grpc.CallOption, 0, len(opts)+1)
	for _, o := range opts {
		switch o.(type) {
		case grpc.HeaderCallOption:
			o = grpc.Header(&r.header)
		case grpc.TrailerCallOption:
			o = grpc.Trailer(&r.trailer)
		case grpc.PeerCallOption:
			o = grpc.Peer(&r.peer)
		}
		out = append(out, o)
	}
	return out
}

// give hands the caller what the runner brought back.
func (r *runner) give(reply any, opts []grpc.CallOption) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = r.header
		case grpc.TrailerCallOption:
			*o.TrailerAddr = r.trailer
		case grpc.PeerCallOption:
			*o.PeerAddr = r.peer
		}
	}
	if r.err != nil {
		return
	}
	if to, ok := reply.(proto.Message); ok {
		proto.Reset(to)
		proto.Merge(to, r.reply.(proto.Message))
		return
	}
	reflect.ValueOf(reply).Elem().Set(reflect.ValueOf(r.reply).Elem())
}
