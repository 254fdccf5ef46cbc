package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// Client calls a platform's API as the CLI does: JSON in and out, problems as errors.
type Client struct {
	Base  string // e.g. "http://127.0.0.1:7070"; it may hold a password
	Token string // sent as a bearer token when not empty
	Actor string // who asks
	Why   string // and why, for the ledger

	Header http.Header // sent with every request
	HTTP   *http.Client
}

// Error is a problem detail as the server sent it.
type Error struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
		Value    any    `json:"value"`
	} `json:"errors"`
}

// Token returns what must be given as ?confirm= when the same is asked again, if the server wants it confirmed; else "".
func (e *Error) Token() string {
	for _, x := range e.Errors {
		if token, ok := x.Value.(string); ok && x.Location == "query.confirm" {
			return token
		}
	}
	return ""
}

// Error returns the detail, or the title when there is none, with every member of Errors.
func (e *Error) Error() string {
	msg := e.Detail
	if msg == "" {
		msg = e.Title
	}
	for _, x := range e.Errors {
		msg += "; " + x.Message
		if x.Location != "" {
			msg += " (" + x.Location + ")"
		}
	}
	return msg
}

// Do sends in as JSON, unless nil, and decodes the answer into out, unless nil. It fails with an [*Error] when the
// server answered with a problem.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("%s %s: read answer: %w", method, path, err)
	}
	return nil
}

// Follow reads the event stream at path and gives each event's name and data to fn until fn fails, the stream ends or
// ctx does. It returns fn's error, or io.ErrUnexpectedEOF when the server went away.
func (c *Client) Follow(ctx context.Context, path string, fn func(name string, data []byte) error) error {
	resp, err := c.send(ctx, http.MethodGet, path, nil, http.Header{"Accept": {"text/event-stream"}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	var name string
	var data []byte
	for lines.Scan() {
		line := lines.Bytes()
		switch {
		case len(line) == 0:
			if data != nil {
				if err := fn(name, data); err != nil {
					return err
				}
			}
			name, data = "", nil
		case bytes.HasPrefix(line, []byte("event: ")):
			name = string(line[len("event: "):])
		case bytes.HasPrefix(line, []byte("data: ")):
			data = append(data, line[len("data: "):]...)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("follow %s: %w", path, err)
	}
	return fmt.Errorf("follow %s: the platform ended the stream: %w", path, io.ErrUnexpectedEOF)
}

// Download returns the body at path, which the caller closes.
func (c *Client) Download(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := c.send(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// shown is Base as it may be told: without a password.
func (c *Client) shown() string {
	if u, err := url.Parse(c.Base); err == nil {
		return u.Redacted()
	}
	return c.Base
}

func (c *Client) send(ctx context.Context, method, path string, in any, header http.Header) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("%s %s: encode request: %w", method, path, err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.Base, "/")+path, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	maps.Copy(req.Header, c.Header)
	maps.Copy(req.Header, header)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	if c.Actor != "" {
		req.Header.Set(ActorHeader, c.Actor)
	}
	if c.Why != "" {
		req.Header.Set(WhyHeader, url.PathEscape(c.Why))
	}
	hc := c.HTTP
	if hc == nil {
		hc = http.DefaultClient
	}
	resp, err := hc.Do(req)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no platform answers at %s; start one with `roadbed up`, or name another with --api", c.shown())
	}
	if errors.As(err, new(x509.UnknownAuthorityError)) {
		return nil, fmt.Errorf("the certificate of %s is signed by nobody this machine knows; if it is your own, name its file in SSL_CERT_FILE", c.shown())
	}
	if err != nil {
		return nil, fmt.Errorf("ask the platform at %s: %w", c.shown(), errors.Unwrap(err))
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s %s: %s, and its body broke off: %w", method, path, resp.Status, err)
	}
	if resp.StatusCode == http.StatusUnauthorized {
		return nil, &Error{Status: resp.StatusCode, Title: resp.Status, Detail: "the platform wants a token; give it with --token-file or ROADBED_TOKEN"}
	}
	p := &Error{Status: resp.StatusCode, Title: resp.Status}
	if resp.StatusCode == http.StatusNotFound && !strings.Contains(resp.Header.Get("Content-Type"), "problem") {
		p.Detail = fmt.Sprintf("what answers at %s is not a platform's API, whose port is the console's; name it with --api", c.shown())
		return nil, p
	}
	if strings.Contains(resp.Header.Get("Content-Type"), "json") && json.Unmarshal(raw, p) == nil && p.Status != 0 {
		return nil, p
	}
	p.Detail = fmt.Sprintf("%s %s: %s", method, path, resp.Status)
	return nil, p
}
