package porttest_test

import (
	"net"
	"testing"

	"github.com/roadbed/roadbed/platform/api/porttest"
)

func TestAHeldPortRefusesIsListenedOnAgainAndAgainAndGivenToNobodyElse(t *testing.T) {
	addr := porttest.Hold(t)
	for range 3 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Fatalf("somebody listens on %s", addr)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("it cannot be listened on: %v", err)
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("its listener is not reached: %v", err)
		}
		c.Close()
		l.Close()
	}
	for range 500 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if l.Addr().String() == addr {
			t.Fatalf("%s was given to somebody else", addr)
		}
	}
}
