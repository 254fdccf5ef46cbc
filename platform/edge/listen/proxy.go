package listen

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// ProxyProtocol says whether a balancer before us tells in the PROXY protocol, version 1 or 2, who the client is.
// Source: HAProxy, "The PROXY protocol".
type ProxyProtocol uint8

// The ways to take the PROXY protocol.
const (
	ProxyOff      ProxyProtocol = iota
	ProxyRequired               // a connection without it is closed
	ProxyOptional               // who can reach the listener can claim any address: only where that is a balancer
)

// ParseProxyProtocol reads off, on or optional.
func ParseProxyProtocol(s string) (ProxyProtocol, error) {
	switch s {
	case "", "off":
		return ProxyOff, nil
	case "on":
		return ProxyRequired, nil
	case "optional":
		return ProxyOptional, nil
	}
	return 0, fmt.Errorf("proxy protocol %q: write off, on or optional", s)
}

const (
	proxyHeaderMost   = 4 << 10 // bytes; version 2 allows more, for values that nobody sends
	proxyHeaderWithin = 5 * time.Second
)

var errNoProxyHeader = errors.New("the connection does not begin with the PROXY protocol, which this listener requires")

// readProxy reads the header that p asks for from c, notes in client what it tells, and returns what was read beyond it.
func readProxy(c net.Conn, p ProxyProtocol, client *filter.Client) (early []byte, err error) {
	if err := c.SetReadDeadline(time.Now().Add(proxyHeaderWithin)); err != nil {
		return nil, err
	}
	defer c.SetReadDeadline(time.Time{}) //nolint:errcheck // a broken connection shows when it is read
	buf := make([]byte, 0, 512)
	for {
		if len(buf) == cap(buf) {
			if cap(buf) >= proxyHeaderMost {
				return nil, fmt.Errorf("the PROXY protocol's header is longer than %d bytes", proxyHeaderMost)
			}
			buf = append(make([]byte, 0, proxyHeaderMost), buf...)
		}
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		length, known := proxyLength(buf)
		switch {
		case known && length == 0:
			if p == ProxyOptional {
				return buf, nil
			}
			return nil, errNoProxyHeader
		case known && length > proxyHeaderMost:
			return nil, fmt.Errorf("the PROXY protocol's header is longer than %d bytes", proxyHeaderMost)
		case known && len(buf) >= length:
			h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(buf[:length])))
			if err != nil {
				return nil, fmt.Errorf("the PROXY protocol's header cannot be read: %w", err)
			}
			if err := note(h, client); err != nil {
				return nil, err
			}
			return buf[length:], nil
		}
		if err != nil {
			return nil, err
		}
	}
}

var proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n")

// proxyLength returns how long the header at the beginning of b is. known is false while b is too short to tell; length
// is 0 if there is none.
func proxyLength(b []byte) (length int, known bool) {
	n := min(len(b), len(proxySignature))
	switch {
	case bytes.Equal(b[:n], proxySignature[:n]):
		if len(b) < 16 {
			return 0, false
		}
		return 16 + int(b[14])<<8 + int(b[15]), true
	case bytes.Equal(b[:min(len(b), 6)], []byte("PROXY ")[:min(len(b), 6)]):
		if i := bytes.Index(b, []byte("\r\n")); i >= 0 {
			return i + 2, true
		}
		return 0, len(b) > 107 // the longest line there is, and then it is none
	}
	return 0, true
}

// note takes what h tells into client.
func note(h *proxyproto.Header, client *filter.Client) error {
	if h.Command.IsLocal() {
		return nil // the balancer's own connection, such as a health check
	}
	src, dst, ok := h.TCPAddrs()
	if !ok {
		return nil // unknown or unix: it is the balancer that is known
	}
	client.Remote = unmapped(src.AddrPort())
	client.Local = unmapped(dst.AddrPort())
	tlvs, err := h.TLVs()
	if err != nil {
		return fmt.Errorf("the PROXY protocol's header cannot be read: %w", err)
	}
	told := map[string]string{}
	for _, t := range tlvs {
		switch t.Type {
		case proxyproto.PP2_TYPE_ALPN:
			told["ALPN"] = string(t.Value)
		case proxyproto.PP2_TYPE_AUTHORITY:
			told["AUTHORITY"] = string(t.Value)
		case proxyproto.PP2_TYPE_SSL:
			if ssl, err := tlvparse.SSL(t); err == nil {
				if v, ok := ssl.SSLVersion(); ok {
					told["SSL"] = v
				}
			}
		}
		if tlvparse.IsAWSVPCEndpointID(t) {
			if id, err := tlvparse.AWSVPCEndpointID(t); err == nil {
				told["VPCE"] = id
			}
		}
	}
	if len(told) > 0 {
		client.Proxied = told
	}
	return nil
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
