package listen

import (
	"crypto/tls"
	"testing"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/http1"
)

func TestAPanicInAHandshakeCostsThatConnectionAlone(t *testing.T) {
	good := secure(t, ClientAuth{})
	bad := good.Clone()
	bad.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if h.ServerName == "bad.example.com" {
			panic("a certificate with a fault")
		}
		return nil, nil
	}
	m := meter.New(nil)
	addr, _ := opened(t, Config{TLS: bad, HTTP1: http1.Config{Meter: m}})
	if c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: "bad.example.com"}); err == nil {
		c.Close()
		t.Error("the handshake whose certificate panicked has succeeded")
	}
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: "good.example.com"})
	if err != nil {
		t.Fatalf("the next connection: %v", err)
	}
	c.Close()
	if got := m.Counter("edge.panics", "where", "handshake").Count(); got != 1 {
		t.Errorf("edge.panics of handshakes: got %v, want 1", got)
	}
}
