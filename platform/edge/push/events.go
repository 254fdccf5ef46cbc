package push

import (
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// serveEvents opens a stream of server-sent events. The answer ends with the connection, so that nothing stands between
// a message and its client.
func (p *Push) serveEvents(x *filter.Exchange) {
	if x.Request.Method != http.MethodGet {
		x.Answer(http.StatusMethodNotAllowed, "ask for a stream of events by GET\n")
		x.Response.Header.Add("Allow", "GET")
		x.SetCategory(filter.FailureBadRequest, "no GET")
		return
	}
	id := p.identify(x)
	if id == "" {
		x.Answer(http.StatusUnauthorized, "it is not known who you are; log in first\n")
		x.SetCategory(filter.FailureBadRequest, "no identity")
		return
	}
	token := strings.Clone(x.Request.Header.Get(tokenHeader))
	x.Response.Header.Reset()
	x.Response.Status, x.Response.ContentLength = http.StatusOK, -1
	x.Response.Header.Add("Content-Type", "text/event-stream")
	x.Response.Header.Add("Cache-Control", "no-cache")
	x.Response.Header.Add("X-Accel-Buffering", "no")
	if x.Request.Proto < 20 {
		x.Response.Header.Add("Connection", "close")
	}
	x.SetCategory(filter.Success, "")
	x.Response.Takeover = func(nc net.Conn, _ []byte) { // what came early is another request, which this stream ends
		p.attach(x, &conn{id: id, token: token, net: nc, events: true})
	}
}

// event returns one event. A payload of several lines has as many fields. Source: HTML, server-sent events; Zuul's form.
func event(name, data string) []byte {
	var b strings.Builder
	b.WriteString("event: " + name + "\r\n")
	data = strings.ReplaceAll(strings.ReplaceAll(data, "\r\n", "\n"), "\r", "\n")
	for line := range strings.SplitSeq(data, "\n") {
		b.WriteString("data: " + line + "\r\n")
	}
	b.WriteString("\r\n")
	return []byte(b.String())
}

func closeEvent(code int, reason string) []byte {
	return event("close", strconv.Itoa(code)+" "+reason)
}
