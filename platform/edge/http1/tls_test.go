package http1

import (
	"crypto/tls"
	"errors"
	"io"
	"net/http/httptest"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// secured returns the two ends of a TLS connection.
func secured(t *testing.T) (client, server *tls.Conn) {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	config := s.TLS
	s.Close()
	near, far := pair(t)
	client, server = tls.Client(near, &tls.Config{InsecureSkipVerify: true}), tls.Server(far, config)
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return client, server
}

func TestAnOriginIsAskedOverTLS(t *testing.T) {
	near, far := secured(t)
	origin(t, far, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nc")
	u := NewUpstream(near)
	for _, want := range []string{`200 1 [] "a"`, `200 1 [] "b"`, `200 1 [] "c"`} {
		if got, reusable, err := ask(u, "GET"); got != want || !reusable || err != nil {
			t.Errorf("got %s, reusable %v, %v, want %s", got, reusable, err, want)
		}
	}
	for !u.Stale() { // until its end has come
	}
}

// The bytes may have come with those of the answer before, and be in the hands of TLS already.
func TestBytesThatCameUnaskedOverTLSAreNoAnswer(t *testing.T) {
	near, far := secured(t)
	go func() {
		far.Read(make([]byte, 1000))
		io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
		io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
	}()
	u := NewUpstream(near)
	if got, _, err := ask(u, "GET"); got != `200 1 [] "a"` || err != nil {
		t.Fatal(got, err)
	}
	for !u.Stale() {
	}
	_, _, err := ask(u, "GET")
	var e *Error
	if !errors.As(err, &e) || e.Kind != Stale || e.Sent {
		t.Errorf("got %v, want a stale connection on which nothing was sent", err)
	}
}

func TestAClientIsServedOverTLS(t *testing.T) {
	client, server := secured(t)
	s := NewServer(Config{Serve: func(x *filter.Exchange) { x.Answer(200, x.Request.Scheme) }})
	state := server.ConnectionState()
	go s.ServeConn(server, &filter.Client{TLS: &state}, nil)
	in := make([]byte, 1000)
	for range 3 {
		io.WriteString(client, getA)
		n, err := client.Read(in)
		if got := string(in[:n]); err != nil || got[len(got)-5:] != "https" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	client.Close()
	if err := s.Drain(t.Context()); err != nil {
		t.Error(err)
	}
	if n := s.Open(); n != 0 {
		t.Errorf("%d connections are open", n)
	}
}
