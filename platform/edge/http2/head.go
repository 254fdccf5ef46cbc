package http2

import (
	"encoding/binary"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/http1"
	"golang.org/x/net/http2/hpack"
)

// The pseudo fields of a request, as bits.
const (
	pseudoMethod = 1 << iota
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoProtocol
)

// head is the fields of a request, or its trailers, that a connection is reading.
type head struct {
	c      *conn
	id     uint32  // of the stream; 0: none is under way
	st     *stream // of a new request; nil: of an old one, or nobody wants it
	why    code    // the stream is to be reset for, once the fields were read
	tail   bool    // these are trailers
	end    bool    // the client's side of the stream ends with them
	bytes  int     // of blocks
	blocks int     // beyond the first

	rules   *http1.Rules
	size    int // as SETTINGS_MAX_HEADER_LIST_SIZE counts
	count   int
	pseudo  uint8
	fields  bool           // a field came that is not pseudo
	bad     *malformed     // the first thing that is wrong
	refused *http1.Refusal // the first rule that is broken, if nothing is wrong

	method, scheme, authority, path, protocol string
	host                                      string
	hosts, lengths, expects                   int
	length                                    int64
	te                                        bool
	cookies                                   []string
	trailer                                   filter.Header
	joined                                    []byte
}

// malformed is a request that RFC 9113 section 8 says is none. Its stream is reset.
type malformed struct{ what string }

// Error says what is wrong.
func (m *malformed) Error() string { return "http2: the request is malformed: " + m.what }

var (
	badPseudo      = &malformed{"a field that begins with a colon is unknown, or not of a request"}
	twicePseudo    = &malformed{"a field that begins with a colon is there twice"}
	latePseudo     = &malformed{"a field that begins with a colon comes behind others"}
	missingPseudo  = &malformed{":method, :scheme and :path are not all there"}
	tailPseudo     = &malformed{"a field that begins with a colon is among the trailers"}
	upperCase      = &malformed{"a field's name is in upper case"}
	badField       = &malformed{"a field's name is no token, or its value has a control character"}
	spaceAround    = &malformed{"a field's value begins or ends with white space"}
	connectionOnly = &malformed{"it has a field that HTTP/1.1 has for its connections"}
	badTE          = &malformed{"te is something else than trailers"}
	badMethod      = &malformed{":method is no token"}
	badScheme      = &malformed{":scheme is neither http nor https"}
	badPath        = &malformed{":path does not begin with a slash"}
	otherHost      = &malformed{":authority and host differ, or host is there twice"}
	badLength      = &malformed{"content-length is there twice, or no number"}
	wrongLength    = &malformed{"the body is not as long as content-length says"}
	badConnect     = &malformed{"CONNECT has :scheme or :path without :protocol, or no authority, or a length; or :protocol is of another method"}
)

// headers understands a HEADERS frame.
func (c *conn) headers(f frame, p []byte) error {
	if f.id == 0 || f.id%2 == 0 {
		return broken(protocolError, "HEADERS is of a stream that a client cannot open")
	}
	p, err := unpadded(f, p)
	if err != nil {
		return err
	}
	h := &c.head
	own := false
	if f.has(flagPriority) {
		if len(p) < 5 {
			return broken(frameSizeError, "HEADERS is too short for its priority")
		}
		own = binary.BigEndian.Uint32(p)&idMost == f.id
		p = p[5:]
	}
	set := c.s.settings.Load()
	h.begin(&set.Rules, f)
	c.mu.Lock()
	err = c.place(f)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if own {
		h.why = protocolError
	}
	c.dec.SetEmitEnabled(h.wanted())
	return c.block(f, p)
}

// wanted reports whether somebody wants to know the fields.
func (h *head) wanted() bool { return h.why == noError && (h.st != nil || h.tail) }

// place finds out what a HEADERS frame is to its stream. The caller holds mu.
func (c *conn) place(f frame) error {
	h := &c.head
	if st := c.find(f.id); st != nil {
		switch {
		case st.ended:
			h.why = streamClosed
		case !f.has(flagEndStream):
			h.why = protocolError
		default:
			h.tail = true
		}
		return nil
	}
	if f.id <= c.last {
		switch was, early := c.recall(f.id); {
		case early:
			return nil // it was on its way when we ended the stream
		case was:
			return broken(streamClosed, "HEADERS is of a stream that is over")
		}
		return broken(protocolError, "HEADERS is of a stream that lies before others")
	}
	if c.parts == leaving { // the client was told that it is not looked at
		return nil
	}
	c.last = f.id
	c.calm.turn(filter.Now())
	c.calm.streams++
	if len(c.opened) >= streamsMost || c.serving >= requestsMost {
		h.why = refusedStream
		c.s.c.Meter.Counter("edge.http2.refused", "listener", c.s.c.Listener, "rule", "streams").Inc()
		return nil
	}
	h.st = newStream(c, f.id)
	return nil
}

func (h *head) begin(rules *http1.Rules, f frame) {
	clear(h.cookies)
	*h = head{c: h.c, id: f.id, end: f.has(flagEndStream), rules: rules, cookies: h.cookies[:0], trailer: h.trailer, joined: h.joined[:0]}
	h.trailer.Reset()
}

// continuation understands a CONTINUATION frame.
func (c *conn) continuation(f frame, p []byte) error {
	h := &c.head
	if h.id == 0 {
		return broken(protocolError, "CONTINUATION continues nothing")
	}
	if h.blocks++; h.blocks > continuationsMost {
		return tooMuch("CONTINUATION frames in a row", continuationsMost)
	}
	return c.block(f, p)
}

// block decodes some of a head's fields.
func (c *conn) block(f frame, p []byte) error {
	h := &c.head
	if h.bytes += len(p); h.bytes > 4*h.rules.Limits.Fields+frameMost {
		return broken(enhanceYourCalm, "a head is far longer than allowed")
	}
	if _, err := c.dec.Write(p); err != nil {
		return broken(compressionError, err.Error())
	}
	if !f.has(flagEndHeaders) {
		return nil
	}
	if err := c.dec.Close(); err != nil {
		return broken(compressionError, err.Error())
	}
	err := h.whole()
	h.id, h.st = 0, nil
	return err
}

// field takes in a field.
//
// hot path: 0 allocs, BenchmarkServer
func (h *head) field(f hpack.HeaderField) {
	limits := &h.rules.Limits
	if h.size += len(f.Name) + len(f.Value) + overhead; h.size > limits.Fields {
		h.refuse(http1.LargeHead)
		h.c.dec.SetEmitEnabled(false)
		return
	}
	if h.count++; h.count > limits.Count {
		h.refuse(http1.ManyFields)
		return
	}
	if len(f.Name) > 0 && f.Name[0] == ':' {
		h.first(f.Name, f.Value)
		return
	}
	h.fields = true
	for i := range len(f.Name) {
		if c := f.Name[i]; c >= 'A' && c <= 'Z' {
			h.wrong(upperCase)
			return
		}
	}
	drop, why := h.rules.Fit(f.Name, f.Value)
	if why != nil && why.Rule != "underscore" {
		h.wrong(badField)
		return
	}
	if why != nil {
		h.refuse(why)
	}
	if v := f.Value; v != "" && (v[0] == ' ' || v[0] == '\t' || v[len(v)-1] == ' ' || v[len(v)-1] == '\t') {
		h.wrong(spaceAround)
		return
	}
	if drop || h.own(f.Name, f.Value) {
		return
	}
	if h.tail {
		if !http1.NoTrailer(f.Name) {
			h.trailer.Add(f.Name, f.Value)
		}
		return
	}
	h.st.x.Request.Header.Add(f.Name, f.Value)
}

func (h *head) wrong(m *malformed) {
	if h.bad == nil {
		h.bad = m
	}
}

func (h *head) refuse(r *http1.Refusal) {
	if h.refused == nil {
		h.refused = r
	}
}

// first takes in a pseudo field.
func (h *head) first(name, value string) {
	var which uint8
	var to *string
	switch name {
	case ":method":
		which, to = pseudoMethod, &h.method
	case ":scheme":
		which, to = pseudoScheme, &h.scheme
	case ":authority":
		which, to = pseudoAuthority, &h.authority
	case ":path":
		which, to = pseudoPath, &h.path
	case ":protocol":
		which, to = pseudoProtocol, &h.protocol
	}
	switch {
	case h.tail:
		h.wrong(tailPseudo)
	case to == nil:
		h.wrong(badPseudo)
	case h.fields:
		h.wrong(latePseudo)
	case h.pseudo&which != 0:
		h.wrong(twicePseudo)
	default:
		h.pseudo |= which
		*to = value
	}
}

// own takes in a field that is the engine's business. It reports whether the field was one.
func (h *head) own(name, value string) bool {
	switch name {
	case "te":
		h.te = true
		if !filter.Same(value, "trailers") {
			h.wrong(badTE)
		}
	case "host":
		h.hosts++
		h.host = value
	case "cookie":
		if !h.tail {
			h.cookies = append(h.cookies, value)
		}
	case "expect":
		h.expects++
		if !filter.Same(value, "100-continue") {
			h.refuse(http1.BadExpect)
		}
	case "content-length":
		h.lengths++
		if h.length = http1.Length(value); h.length < 0 || h.lengths > 1 {
			h.wrong(badLength)
		}
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		h.wrong(connectionOnly)
	case "http2-settings":
	default:
		return false
	}
	return true
}

// whole is called when all fields were read.
func (h *head) whole() error {
	c := h.c
	c.dec.SetEmitEnabled(true)
	switch {
	case h.why != noError:
		return c.notTaken(h)
	case h.tail:
		return c.trailers(h)
	case h.st == nil:
		return nil
	}
	st := h.st
	h.request(&st.x)
	if h.bad == nil {
		c.accept(st)
		return nil
	}
	c.mu.Lock()
	c.urgent = true
	c.out = appendReset(c.out, h.id, protocolError)
	c.remember(h.id, !h.end)
	c.mu.Unlock()
	st.reject(h.bad)
	return c.calm.fault(filter.Now())
}

// notTaken resets the stream of a head that nobody looks at.
func (c *conn) notTaken(h *head) error {
	if st := h.st; st != nil {
		st.recycle()
	}
	c.mu.Lock()
	st := c.find(h.id)
	if h.why != refusedStream {
		return c.atFault(h.id, st, h.why)
	}
	most := len(c.opened) >= streamsMost && (c.heard || filter.Now()-c.started > int64(heardWithin)) // which the client knows
	c.urgent = true
	c.out = appendReset(c.out, h.id, refusedStream)
	c.remember(h.id, !h.end)
	c.mu.Unlock()
	if most {
		return c.calm.fault(filter.Now())
	}
	return nil
}

// trailers ends a request's body with these.
func (c *conn) trailers(h *head) error {
	c.mu.Lock()
	st := c.find(h.id)
	if st == nil { // it was ended meanwhile
		c.mu.Unlock()
		return nil
	}
	bad := h.bad
	if bad == nil && h.refused != nil { // too much of them
		bad = badField
	}
	if bad == nil && st.left > 0 {
		bad = wrongLength
	}
	if bad != nil {
		st.refuse(bad)
		return c.atFault(h.id, st, protocolError)
	}
	if !st.shut {
		for _, f := range h.trailer.Fields() {
			st.x.Request.Trailer.Add(f.Name, f.Value)
		}
	}
	st.ended = true
	st.cond.Broadcast()
	c.mu.Unlock()
	return nil
}

// request makes x the request, unless something is wrong with it.
//
// hot path: 0 allocs, BenchmarkServer
func (h *head) request(x *filter.Exchange) {
	q := &x.Request
	now := filter.Now()
	x.Start, x.Client, q.Proto = now, h.c.client, 20
	x.Passport.AddAt(filter.InReqHeadersReceived, now)
	q.Scheme = "http"
	if h.c.client.TLS != nil {
		q.Scheme = "https"
	}
	q.Method, q.Target = h.method, h.path
	if h.size > h.rules.Limits.Fields { // not all of it was looked at
		if !filter.Token(q.Method) {
			q.Method = ""
		}
		q.Path, q.Host = "/", h.authority
		return
	}
	const target = pseudoScheme | pseudoPath
	extended := h.pseudo&pseudoProtocol != 0
	switch {
	case h.pseudo&pseudoMethod == 0:
		h.wrong(missingPseudo)
	case !filter.Token(h.method):
		h.wrong(badMethod)
	case extended:
		if h.method != "CONNECT" || h.pseudo&(target|pseudoAuthority) != target|pseudoAuthority || h.lengths > 0 || !filter.Token(h.protocol) {
			h.wrong(badConnect)
		}
	case h.method == "CONNECT":
		if h.pseudo&target != 0 || h.authority == "" {
			h.wrong(badConnect)
		}
	case h.pseudo&target != target:
		h.wrong(missingPseudo)
	}
	if h.hosts > 1 || h.hosts == 1 && h.pseudo&pseudoAuthority != 0 && !filter.Same(h.host, h.authority) {
		h.wrong(otherHost)
	}
	if h.pseudo&pseudoScheme != 0 && h.scheme != "http" && h.scheme != "https" {
		h.wrong(badScheme)
	}
	if h.pseudo&pseudoPath != 0 && (h.path == "" || h.path[0] != '/' && !(h.path == "*" && h.method == "OPTIONS")) {
		h.wrong(badPath)
	}
	if h.end && h.length > 0 {
		h.wrong(wrongLength)
	}
	if h.bad != nil {
		return
	}
	if q.Host = h.authority; h.pseudo&pseudoAuthority == 0 {
		q.Host = h.host
	}
	if !http1.ValidHost(q.Host) {
		h.refuse(http1.BadHost)
	}
	if extended {
		q.Upgrade = h.protocol
		q.Method = "GET" // as the HTTP/1.1 request that means the same; spec: RFC 8441 §5
	}
	aim := h.path
	if h.pseudo&pseudoPath == 0 {
		aim = h.authority // of a tunnel, which Aim refuses
	}
	if r := h.rules.Aim(x, aim); r != nil {
		h.refuse(r)
	}
	h.joinCookies(x)
	if h.te {
		q.Header.Add("TE", "trailers")
	}
	if !h.end && q.Upgrade == "" {
		if q.ContentLength = -1; h.lengths > 0 {
			q.ContentLength = h.length
		}
	}
}

// joinCookies makes the crumbs of a cookie, as they may come, one field. spec: RFC 9113 §8.2.3
func (h *head) joinCookies(x *filter.Exchange) {
	switch len(h.cookies) {
	case 0:
		return
	case 1:
		x.Request.Header.Add("cookie", h.cookies[0])
		return
	}
	for i, v := range h.cookies {
		if i > 0 {
			h.joined = append(h.joined, "; "...)
		}
		h.joined = append(h.joined, v...)
	}
	x.Request.Header.Add("cookie", x.Keep(h.joined))
}

// accept has a request served once what was read is understood.
//
// hot path: 0 allocs, BenchmarkServer
func (c *conn) accept(st *stream) {
	h, q := &c.head, &st.x.Request
	st.refused = h.refused
	st.extended = q.Upgrade != ""
	st.patient = strings.HasPrefix(q.Header.Get("content-type"), "application/grpc")
	st.ended, st.left = h.end, -1
	if h.lengths > 0 {
		st.left = h.length
	}
	st.expects = h.expects > 0 && !h.end
	if q.ContentLength != 0 {
		q.Body = &st.body
	}
	c.mu.Lock()
	st.window, st.credit, st.wide = c.initial, streamWindow, streamWindow
	c.opened = append(c.opened, st)
	c.serving++
	c.served++
	set := c.s.settings.Load()
	if c.served >= set.Requests || c.expires != 0 && st.x.Start > c.expires {
		c.goAway()
		c.urgent = true
	}
	c.mu.Unlock()
	c.streams.Add(1)
	c.ready = append(c.ready, st)
}
