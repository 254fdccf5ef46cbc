// Package connect lets Go's HTTP/2 server offer extended CONNECT, by which browsers open WebSockets over HTTP/2 (RFC 8441).
//
// net/http offers it only if the environment's GODEBUG says http2xconnect=1 when it is initialised, and a //go:debug line
// does not count. A package that imports nothing but os is initialised before net/http, by the order that the language
// gives packages; so this one says it.
package connect

import (
	"os"
	"strings"
)

const wish = "http2xconnect="

func init() {
	is := os.Getenv("GODEBUG")
	if strings.Contains(is, wish) {
		return // somebody has decided
	}
	if is != "" {
		is += ","
	}
	os.Setenv("GODEBUG", is+wish+"1") //nolint:errcheck // then WebSockets come by HTTP/1.1, as they would without us
}
