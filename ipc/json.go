package ipc

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

const maxJSON = 16 << 20

// StatusError is an HTTP answer that was not a success.
type StatusError struct {
	Status int
	URL    string
	Body   string // its first 512 bytes
	shed   bool
}

// Is makes the refusal of an overloaded server an [ErrShed].
func (e *StatusError) Is(target error) bool { return target == ErrShed && e.shed }

// Error returns a sentence.
func (e *StatusError) Error() string {
	return fmt.Sprintf("GET %s was answered with status %d: %.512s", e.URL, e.Status, e.Body)
}

// Get fetches JSON from url under c, normally the command named as the app in url. Any status but 2xx is a
// [*StatusError]; one below 500 does not count against the app's health.
func Get[T any](ctx context.Context, e *Engine, c *Command, url string) (T, error) {
	return Call(ctx, c, func(ctx context.Context) (v T, err error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return v, BadRequest(err)
		}
		req.Header.Set("Accept", "application/json")
		resp, err := e.HTTPClient().Do(req)
		if err != nil {
			return v, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxJSON))
		if err != nil {
			return v, fmt.Errorf("read the answer to GET %s: %w", url, err)
		}
		if resp.StatusCode/100 != 2 {
			err = &StatusError{Status: resp.StatusCode, URL: url, Body: string(body[:min(len(body), 512)]), shed: wasShed(resp)}
			if resp.StatusCode < 500 && !wasShed(resp) {
				err = BadRequest(err)
			}
			return v, err
		}
		if err := json.Unmarshal(body, &v); err != nil {
			return v, fmt.Errorf("understand the answer to GET %s: %w", url, err)
		}
		return v, nil
	})
}
