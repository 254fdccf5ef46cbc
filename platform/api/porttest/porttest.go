// Package porttest keeps a port of this machine for a test.
//
// A test that closes a listener and comes back to its address, or that needs an address at which nobody is, must not find
// another process there, such as a test of another package that was given the port meanwhile.
package porttest

import "testing"

// Hold returns an address of the loopback interface, as "127.0.0.1:4711", at which nobody listens. Until the test ends it is
// given to nobody who does not ask for it: who connects to it is refused, and who listens on it, again and again, may.
//
// That is so on Linux. Elsewhere it is an address that was free a moment ago.
func Hold(t testing.TB) string {
	t.Helper()
	addr, release, err := hold()
	if err != nil {
		t.Fatalf("no port can be had on the loopback interface: %v", err)
	}
	t.Cleanup(release)
	return addr
}
