package sidecar

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
)

// Headers by which the neighbour alters one call. They end here.
const (
	headerCommand    = "X-Ipc-Command"
	headerIdempotent = "X-Ipc-Idempotent"
	headerError      = "X-Ipc-Error" // in an answer: the kind of failure
	headerPassed     = "X-Ipc-Passed"
)

// maxPassages is how often a request may come through the same sidecar: more means that it is led back here for ever.
const maxPassages = 3

// call is one request of the neighbour on its way out.
type call struct {
	app   string // empty: a host that is called as it is
	host  string // of the onward URL
	url   url.URL
	prana bool // failures are told as Prana did
}

type callKey struct{}

func newToken() string { return rand.Text()[:12] }

// ownNames returns what Host is when the sidecar itself is meant.
func ownNames(at net.Addr) map[string]bool {
	own := map[string]bool{"": true}
	tcp, ok := at.(*net.TCPAddr)
	if !ok { // nobody else is reached by a socket
		own["localhost"], own["127.0.0.1"], own["unix"] = true, true, true
		return own
	}
	port := strconv.Itoa(tcp.Port)
	for _, host := range []string{"localhost", "127.0.0.1", "::1", tcp.IP.String()} {
		own[net.JoinHostPort(host, port)] = true
	}
	return own
}

// serve answers everything that the neighbour asks.
func (s *Sidecar) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		s.tunnels.open(w, r)
	case r.URL.Scheme != "" && r.URL.Scheme != "http" && r.URL.Scheme != "https":
		refuse(w, http.StatusBadRequest, "badrequest", fmt.Sprintf("the sidecar passes on http, not %q", r.URL.Scheme))
	case r.URL.Scheme != "" && r.URL.Host == "":
		refuse(w, http.StatusBadRequest, "badrequest", "the request's target has no host")
	case s.own[strings.ToLower(r.Host)]:
		if crossSite.Check(r) != nil {
			refuse(w, http.StatusForbidden, "badrequest", "a page of another site asks for this; if it is the neighbour who copied the fields Origin and Sec-Fetch-Site, leave them out")
			return
		}
		s.api.ServeHTTP(w, r)
	default:
		s.pass(w, r, r.Host, &call{url: *r.URL})
	}
}

// pass sends the request to host, by c.url's path.
func (s *Sidecar) pass(w http.ResponseWriter, r *http.Request, host string, c *call) {
	if passages(r.Header, s.token) >= maxPassages {
		refuse(w, http.StatusLoopDetected, "loop", fmt.Sprintf("the request came through this sidecar %d times; an instance of %s leads back to it", maxPassages, host))
		return
	}
	why := s.names.resolve(host, c)
	if why != "" {
		refuse(w, http.StatusBadRequest, "badrequest", why)
		return
	}
	if c.app == "" && c.host == "" {
		w.Header().Set("Retry-After", "1")
		s.tell(w, c, http.StatusServiceUnavailable, ipc.NoEndpoint.String(), fmt.Sprintf(
			"no instance of %q is known; `roadbed instance list --service %s` shows what is registered", host, host))
		return
	}
	ctx := r.Context()
	if c.app != "" {
		within := s.inflight.find(r.Header)
		o, why := s.override(r, c, within)
		if why != "" {
			refuse(w, http.StatusBadRequest, "badrequest", why)
			return
		}
		var parent context.Context
		if within != nil {
			parent = within.ctx
		}
		adopted, cancel, ok := s.calls.Adopt(ctx, r.Header, parent)
		defer cancel()
		if !ok {
			s.tell(w, c, http.StatusGatewayTimeout, ipc.TimedOut.String(), "no time was left for the call to "+c.app+" when it was asked for; it was not made")
			return
		}
		ctx = ipc.WithOverride(adopted, o)
		if t := o.Command.Timeout(); r.ContentLength != 0 && o.Timeout == 0 && t > 0 {
			bound, cancel := context.WithTimeout(ctx, t) // for the client's part too
			defer cancel()
			ctx = bound
		}
	}
	s.out.ServeHTTP(w, r.WithContext(context.WithValue(ctx, callKey{}, c)))
}

// passages returns how often a request came through the sidecar of that token.
func passages(h http.Header, token string) (n int) {
	for _, v := range h[headerPassed] {
		n += strings.Count(v, token)
	}
	return n
}

// override reads what the neighbour wants to be different for this one call. A header that it only copied from the
// request it serves is none of its wishes.
func (s *Sidecar) override(r *http.Request, c *call, within *flight) (o ipc.Override, why string) {
	h := r.Header
	wish := func(name string) string {
		v := h[name]
		if len(v) == 0 || within != nil && len(within.header[name]) > 0 && within.header[name][0] == v[0] {
			return ""
		}
		return v[0]
	}
	if v := wish(ipc.HeaderTimeout); v != "" {
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return o, fmt.Sprintf("%s: %q is no number of milliseconds", ipc.HeaderTimeout, v)
		}
		o.Timeout = -1 // the context has it
	}
	if endless(r) {
		o.Timeout = -1
	}
	if v := wish(ipc.HeaderCriticality); v != "" {
		if _, err := roadbed.ParseCriticality(v); err != nil {
			return o, fmt.Sprintf("%s: %v", ipc.HeaderCriticality, err)
		}
	}
	if v := wish(headerIdempotent); v != "" {
		yes, err := strconv.ParseBool(v)
		if err != nil {
			return o, fmt.Sprintf("%s: %q is neither true nor false", headerIdempotent, v)
		}
		o.Idempotent = yes
	}
	name := wish(headerCommand)
	if len(name) > maxCommand || strings.Contains(name, "\\") {
		return o, fmt.Sprintf("%s: a command's name has up to %d characters and no backslash", headerCommand, maxCommand)
	}
	o.Command = s.names.command(c.app, c.url.Path, name)
	return o, ""
}

// endless reports whether the request asks for an answer without an end: an upgrade, an event stream and nothing else,
// or gRPC, whose clients say themselves how long they wait.
func endless(r *http.Request) bool {
	h := r.Header
	if ipc.IsGRPC(h) {
		return true
	}
	return r.Method == http.MethodGet && (h.Get("Accept") == "text/event-stream" ||
		h.Get("Upgrade") != "" && strings.Contains(strings.ToLower(h.Get("Connection")), "upgrade"))
}

// address makes the onward request.
func (s *Sidecar) address(out, in *http.Request) {
	c := in.Context().Value(callKey{}).(*call)
	out.URL = &c.url
	c.url.User = nil
	c.url.Host = c.host
	if c.url.Scheme == "" || c.app != "" {
		c.url.Scheme = "http"
	}
	h := out.Header
	delete(h, headerCommand)
	delete(h, headerIdempotent)
	if old := h[headerPassed]; len(old) > 0 {
		h[headerPassed] = []string{strings.Join(old, ",") + "," + s.token}
	} else {
		h[headerPassed] = []string{s.token}
	}
	if c.app != "" {
		if c.prana {
			out.Host = c.app
		}
		forwarded(h, in)
	} else {
		delete(h, headerPassed)
		if c.prana {
			out.Host = c.host
		}
	}
}

// forwarded adds where the request came from.
func forwarded(h http.Header, in *http.Request) {
	if host, _, err := net.SplitHostPort(in.RemoteAddr); err == nil {
		if old := h["X-Forwarded-For"]; len(old) > 0 {
			host = strings.Join(old, ", ") + ", " + host
		}
		h["X-Forwarded-For"] = []string{host}
	}
	if len(h["X-Forwarded-Host"]) == 0 && in.Host != "" {
		h["X-Forwarded-Host"] = []string{in.Host}
	}
	if len(h["X-Forwarded-Proto"]) == 0 {
		h["X-Forwarded-Proto"] = inClear
	}
}

var inClear = []string{"http"} // never altered

// failed answers for a call that has no answer.
func (s *Sidecar) failed(w http.ResponseWriter, r *http.Request, err error) {
	c := r.Context().Value(callKey{}).(*call)
	who := c.app
	if who == "" {
		who = c.host
	}
	kind := ipc.Failed
	if e := (*ipc.Error)(nil); errors.As(err, &e) {
		kind = e.Kind
	} else if errors.Is(err, context.DeadlineExceeded) {
		kind = ipc.TimedOut
	}
	switch kind {
	case ipc.Cancelled:
		w.WriteHeader(statusClientGone)
	case ipc.TimedOut:
		s.tell(w, c, http.StatusGatewayTimeout, kind.String(), who+" did not answer in time; X-Ipc-Timeout-Ms or the property "+
			"hystrix.command."+who+".execution.isolation.thread.timeoutInMilliseconds give it more")
	case ipc.NoEndpoint:
		w.Header().Set("Retry-After", "1")
		s.tell(w, c, http.StatusServiceUnavailable, kind.String(), "no instance of "+who+" is up; `roadbed instance list --service "+who+"` shows why")
	case ipc.Open, ipc.Rejected, ipc.Limited, ipc.Shed:
		w.Header().Set("Retry-After", "1")
		s.tell(w, c, http.StatusServiceUnavailable, kind.String(), err.Error()+"; it is left alone for a moment")
	default:
		if errors.Is(err, ipc.ErrBodySent) {
			s.tell(w, c, http.StatusBadGateway, kind.String(), who+" broke off after the body was sent, which is not kept for another try; send it again if that does no harm")
			return
		}
		s.log.Debug("a call of the neighbour failed", "to", who, "err", err)
		s.tell(w, c, http.StatusBadGateway, kind.String(), err.Error())
	}
}

// statusClientGone is what nobody receives.
const statusClientGone = 499

// tell answers for a call that failed, as Prana did where that is wanted.
func (s *Sidecar) tell(w http.ResponseWriter, c *call, status int, kind, text string) {
	if c.prana && s.c.Prana {
		w.Header().Set(headerError, kind)
		w.Header().Set("Content-Type", "application/xml")
		w.Write([]byte("<status><status_code>500</status_code><message>Error forwarding request to origin</message></status>")) //nolint:errcheck // the client is gone if this fails
		return
	}
	refuse(w, status, kind, text)
}

// refuse answers for the sidecar itself.
func refuse(w http.ResponseWriter, status int, kind, text string) {
	h := w.Header()
	h.Set(headerError, kind)
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%d %s: %s\n", status, http.StatusText(status), text)
}

// split takes a host apart. Port 80 is none: clients leave it out in one place and write it in another.
func split(host string) (name, port string) {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && strings.IndexByte(host, ']') < i {
		name, port = host[:i], host[i+1:]
		if port == "80" {
			port = ""
		}
		return name, port
	}
	return host, ""
}

// isAddress reports whether a host without a port is an address or this machine.
func isAddress(name string) bool {
	if name == "localhost" || strings.HasPrefix(name, "[") {
		return true
	}
	_, err := netip.ParseAddr(name)
	return err == nil
}
