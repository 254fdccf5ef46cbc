package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// HTTP calls of modules: one asks an app, has its request wait (Action::Pause), and is told the answer by
// proxy_on_http_call_response, in which it has the request go on (proxy_continue_stream), or answers it.
const (
	maxCallouts   = 64              // of a module at once
	calloutsOfOne = 4               // that one request may have under way
	maxCallout    = 5 * time.Second // of one
	maxReply      = 1 << 20         // bytes of an answer's body
)

// callout is one HTTP call.
type callout struct {
	token   uint32
	context uint32 // of the module's, whose call it is
	req     *http.Request
	timeout time.Duration
}

// reply is what came of one. status 0: nothing came.
type reply struct {
	callout
	status  int
	header  filter.Header
	body    []byte
	trailer filter.Header
}

// pseudo is what proxy-wasm shows of an answer beside its fields.
func (r *reply) pseudo() []filter.Field {
	if r.status == 0 {
		return nil
	}
	return []filter.Field{{Name: ":status", Value: strconv.Itoa(r.status)}}
}

// httpCall is proxy_http_call: upstream, header, body, trailer, ms, and where the token goes.
func httpCall(c *call) status {
	w := c.w
	if w.m.apps == nil || w.x == nil {
		return statusNotOffered
	}
	app, ok1 := c.text(0)
	pairs, ok2 := c.text(2)
	body, ok3 := c.text(4)
	if !ok1 || !ok2 || !ok3 {
		return statusInvalidMemory
	}
	fields, err := deserialize(pairs)
	if err != nil {
		return statusParseFailure
	}
	req, err := calloutRequest(app, fields, body)
	if err != nil || len(w.calls) >= calloutsOfOne {
		return statusBadArgument
	}
	select {
	case w.m.room <- struct{}{}:
	default:
		return statusInternal
	}
	w.token++
	w.calls = append(w.calls, callout{w.token, w.effective, req, min(max(time.Duration(c.u(8))*time.Millisecond, time.Millisecond), maxCallout)})
	return c.number(9, w.token)
}

// calloutRequest makes the request that a module wants sent to an app.
func calloutRequest(app string, fields []filter.Field, body string) (*http.Request, error) {
	if !filter.Plain(app) {
		return nil, fmt.Errorf("%q is no app", app)
	}
	req := &http.Request{Header: http.Header{}, URL: &url.URL{Scheme: "http", Host: strings.ToLower(app)}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	for _, f := range fields {
		switch f.Name {
		case ":method":
			req.Method = f.Value
		case ":path":
			u, err := url.ParseRequestURI(f.Value)
			if err != nil || !strings.HasPrefix(f.Value, "/") {
				return nil, fmt.Errorf("%q is no path", f.Value)
			}
			u.Scheme, u.Host = req.URL.Scheme, req.URL.Host
			req.URL = u
		case ":authority":
			if !label(f.Value) {
				return nil, fmt.Errorf("%q is no host", f.Value)
			}
			req.Host = f.Value
		case ":scheme":
		default:
			if strings.HasPrefix(f.Name, ":") {
				return nil, fmt.Errorf("%s is no field", f.Name)
			}
			if filter.Same(f.Name, "content-length") {
				continue // it follows from the body
			}
			if err := fit(f.Name, f.Value); err != nil {
				return nil, err
			}
			req.Header.Add(f.Name, f.Value)
		}
	}
	if !filter.Token(req.Method) || req.URL.Path == "" || req.Host == "" {
		return nil, errors.New(":method, :path and :authority are needed")
	}
	if body != "" {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil }
	}
	return req, nil
}

// ask makes a call.
func (m *module) ask(ctx context.Context, o callout) (r *reply) {
	defer func() { <-m.room }()
	defer m.panics.Catch("program "+m.name, func(error) { r = &reply{callout: o} })
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	none := &reply{callout: o}
	resp, err := m.apps.RoundTrip(o.req.WithContext(ctx))
	if err != nil {
		m.log.Debug("program's HTTP call failed", "program", m.name, "app", o.req.URL.Host, "err", err)
		return none
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
	if err != nil || len(body) > maxReply {
		m.log.Debug("program's HTTP call has no whole answer, or one over 1 MiB", "program", m.name, "app", o.req.URL.Host, "err", err)
		return none
	}
	r = &reply{callout: o, status: resp.StatusCode, body: body}
	for h, from := range map[*filter.Header]http.Header{&r.header: resp.Header, &r.trailer: resp.Trailer} {
		for name, values := range from {
			for _, v := range values {
				h.Add(name, v)
			}
		}
	}
	return r
}

// resume makes the calls that the module wants for the stream s, and has it look at their answers, until it has the request go
// on or answers it. Others use the instance while it waits. It reports whether the module still has the request wait. w.mu is
// held.
func (w *worker) resume(s *stream, paused bool) (waits bool, err error) {
	m, x, kind, body := w.m, w.x, w.kind, w.body
	if !paused { // it does not wait for the answers, and nobody tells it of them
		for _, o := range w.calls {
			m.loose.Go(func() { m.ask(context.Background(), o) })
		}
		w.calls = nil
		return false, nil
	}
	ctx, cancel := context.WithCancel(x.Context())
	defer cancel()
	if x.Deadline != 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(x.Deadline-filter.Now()))
		defer cancel()
	}
	replies := make(chan *reply, maxCallouts)
	open, made := 0, 0
	for {
		if made += len(w.calls); made > maxCallouts {
			w.drop()
			return false, fmt.Errorf("the module wants more than %d HTTP calls for one request", maxCallouts)
		}
		for _, o := range w.calls {
			open++
			go func() { replies <- m.ask(ctx, o) }()
		}
		w.calls = nil
		if open == 0 {
			return true, nil
		}
		w.mu.Unlock()
		r := <-replies // each ends in time
		w.mu.Lock()
		open--
		if w.inst == nil || w.inst.IsClosed() || s.alive != w.alive {
			return false, errors.New("the module was started anew while it waited for an HTTP call")
		}
		w.x, w.kind, w.body, w.id, w.effective, w.answer, w.resumed, w.reply = x, kind, body, s.id, s.id, false, false, r
		n := r.header.Len() + len(r.pseudo())
		callback, done := w.context(w.m.within)
		_, err := w.call(callback, "proxy_on_http_call_response", uint64(r.context), uint64(r.token), uint64(n), uint64(len(r.body)), uint64(r.trailer.Len()))
		done()
		w.reply = nil
		if err != nil {
			w.drop()
			return false, err
		}
		if w.answer || w.resumed {
			w.drop()
			return false, nil
		}
	}
}

// drop forgets calls that were wanted and not made.
func (w *worker) drop() {
	for range w.calls {
		<-w.m.room
	}
	w.calls = nil
}

// lowered returns fields with their names in lower case, as proxy-wasm has them, behind first.
func lowered(first []filter.Field, h *filter.Header) []filter.Field {
	list := slices.Clone(first)
	for _, f := range h.Fields() {
		list = append(list, filter.Field{Name: strings.ToLower(f.Name), Value: f.Value})
	}
	return list
}
