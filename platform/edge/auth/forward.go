package auth

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

const largestAnswer = 1 << 20 // bytes, of a service that says no

// forward is a service that decides.
type forward struct {
	client     *http.Client
	url        string
	timeout    time.Duration
	send, take []string
	user       string
}

// hop are fields that belong to one connection, or to a body that is not sent.
var hop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host", "Expect", "Proxy-Authenticate", "Proxy-Authorization"}

// forbidden reports whether a field is none that a service may set in a request, or that travels at all.
func forbidden(name string) bool {
	return slices.ContainsFunc(hop, func(h string) bool { return filter.Same(h, name) })
}

// ask has the service decide about x.
func (f *forward) ask(x *filter.Exchange, c *checker) error {
	ctx, cancel := context.WithTimeout(x.Context(), f.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url, nil)
	if err != nil {
		return fmt.Errorf("forwardAuth: %w", err)
	}
	for _, h := range x.Request.Header.Fields() {
		if !forbidden(h.Name) && !strings.HasPrefix(strings.ToLower(h.Name), "x-forwarded-") &&
			(len(f.send) == 0 || slices.ContainsFunc(f.send, func(s string) bool { return filter.Same(s, h.Name) })) {
			value := h.Value
			if filter.Same(h.Name, "Cookie") {
				if value = others(value); value == "" {
					continue
				}
			}
			req.Header.Add(strings.Clone(h.Name), strings.Clone(value))
		}
	}
	uri := x.Request.Path
	if x.Request.RawQuery != "" {
		uri += "?" + x.Request.RawQuery
	}
	h := req.Header
	h.Set("X-Forwarded-Method", strings.Clone(x.Request.Method))
	h.Set("X-Forwarded-Proto", strings.Clone(x.Request.Scheme))
	h.Set("X-Forwarded-Host", strings.Clone(x.Request.Host))
	h.Set("X-Forwarded-Uri", strings.Clone(uri))
	if x.From.IsValid() {
		h.Set("X-Forwarded-For", x.From.String())
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return c.refuse(x, "forwardAuth", fmt.Errorf("forwardAuth: %w", err))
	}
	defer resp.Body.Close() //nolint:errcheck // it is only read
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		io.CopyN(io.Discard, resp.Body, 64<<10) //nolint:errcheck // so that the connection is used again
		c.count("forwardAuth", "accepted")
		for _, name := range f.take {
			x.Request.Header.Del(name)
			for _, v := range resp.Header[name] {
				x.Request.Header.Add(name, v)
			}
		}
		if u := resp.Header.Get(f.user); fit(u) {
			x.User = u
			x.Request.Header.Set("X-Forwarded-User", u)
		}
		return nil
	}
	if resp.StatusCode < 200 || resp.StatusCode >= 500 {
		return c.refuse(x, "forwardAuth", fmt.Errorf("forwardAuth: %s answers %s", f.url, resp.Status))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, largestAnswer+1))
	if err != nil || len(body) > largestAnswer {
		return c.refuse(x, "forwardAuth", fmt.Errorf("forwardAuth: the answer of %s breaks off, or is larger than %d bytes (%v)", f.url, largestAnswer, err))
	}
	c.count("forwardAuth", "refused")
	x.Answer(resp.StatusCode, "")
	out := &x.Response
	for name, values := range resp.Header {
		for _, v := range values {
			if !forbidden(name) {
				out.Header.Add(name, v)
			}
		}
	}
	if len(body) > 0 {
		out.Body, out.ContentLength = filter.Text(string(body)), int64(len(body))
	}
	x.SetCategory(filter.FailureBadRequest, "the service that decides who may ask says no")
	return nil
}
