package streaming

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/roadbed/roadbed/ipc"
)

// caller calls one other service.
type caller struct {
	name    string
	client  *http.Client
	command *ipc.Command
}

// newCaller returns what from calls to by, with the limits that [commands] lists.
func newCaller(calls *ipc.Engine, from, to string) *caller {
	for _, c := range commands() {
		if c.from == from && c.to == to {
			return &caller{name: to, client: calls.HTTPClient(), command: calls.Command(to, c.Settings)}
		}
	}
	panic(fmt.Sprintf("streaming: %s calls %s, which commands does not list", from, to))
}

// get asks a service without which the caller cannot go on.
func get[T any](ctx context.Context, c *caller, url string) (T, error) {
	v, err := ipc.Call(ctx, c.command, func(ctx context.Context) (T, error) { return send[T](ctx, c, http.MethodGet, url) })
	return v, blame(c, err)
}

// getOr asks a service and makes do with instead when it does not answer.
func getOr[T any](ctx context.Context, c *caller, parts *fallbacks, url string, instead T) T {
	return sendOr(ctx, c, parts, http.MethodGet, url, instead)
}

// sendOr is getOr with a method.
func sendOr[T any](ctx context.Context, c *caller, parts *fallbacks, method, url string, instead T) T {
	v, err := ipc.CallOr(ctx, c.command, func(ctx context.Context) (T, error) { return send[T](ctx, c, method, url) },
		func(context.Context, error) (T, error) {
			parts.add(c.name)
			return instead, nil
		})
	if err != nil { // the fallback did not run: the member has gone, or a fault forbids it
		parts.add(c.name)
		return instead
	}
	return v
}

func send[T any](ctx context.Context, c *caller, method, url string) (v T, err error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return v, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return v, err
	}
	v, err = read[T](resp)
	// An answer that is the asker's fault says nothing about the health of who gave it.
	if p := (*problem)(nil); errors.As(err, &p) && p.Status < 500 {
		err = ipc.BadRequest(err)
	}
	return v, err
}

// blame turns the failure of a call into what the caller answers: the same refusal, or that c does not answer.
func blame(c *caller, err error) error {
	if err == nil {
		return nil
	}
	if p := (*problem)(nil); errors.As(err, &p) && p.Status < 500 {
		return p
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return refuse(http.StatusGatewayTimeout, "%s did not answer in time: %v", c.name, err)
	}
	return refuse(http.StatusServiceUnavailable, "%s does not answer: %v", c.name, err)
}
