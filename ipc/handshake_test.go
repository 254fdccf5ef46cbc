package ipc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/ipc"
)

func TestCallsOverTLSMakeTheHandshakeThatTheyAreGiven(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })) //nolint:errcheck // a test's
	defer srv.Close()
	addr := srv.Listener.Addr().String()
	host, port, _ := net.SplitHostPort(addr)
	var refuse bool
	var asked string
	i := roadbed.Instance{ID: "s1", App: "shop", Host: host, Port: must(net.LookupPort("tcp", port)), Secure: true, Status: roadbed.Up}
	e := ipc.New(ipc.Options{App: "test", Lists: ipc.Static{"shop": {i}}, Handshake: func(ctx context.Context, c net.Conn, addr string, http2 bool) (*tls.Conn, error) {
		if asked = addr; refuse {
			return nil, errors.New("not this one")
		}
		conf := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		conf.ServerName, conf.NextProtos = "example.com", []string{"http/1.1"}
		t := tls.Client(c, conf)
		return t, t.HandshakeContext(ctx)
	}})
	defer e.Close()
	get := func() (string, error) {
		resp, err := e.HTTPClient().Get("http://shop/")
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if got, err := get(); err != nil || got != "HTTP/1.1" || asked != addr {
		t.Errorf("got %q, %v, the handshake was with %s; want HTTP/1.1 of %s", got, err, asked, addr)
	}
	srv.CloseClientConnections()
	refuse = true
	if _, err := get(); err == nil || !strings.Contains(err.Error(), "not this one") {
		t.Errorf("where the handshake fails: got %v, want its error", err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
