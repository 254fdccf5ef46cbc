package push

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// serveWebSocket answers the opening handshake. spec: RFC 6455 §4.2
func (p *Push) serveWebSocket(x *filter.Exchange) {
	h := &x.Request.Header
	key := h.Get("Sec-WebSocket-Key")
	switch {
	case !filter.Same(x.Request.Upgrade, "websocket"):
		x.Answer(http.StatusUpgradeRequired, "this is for WebSockets; server-sent events are at /sse\n")
		x.Response.Header.Add("Upgrade", "websocket")
		x.SetCategory(filter.FailureBadRequest, "no WebSocket handshake")
		return
	case x.Request.Method != http.MethodGet: // which engines make of an extended CONNECT, too
		x.Answer(http.StatusMethodNotAllowed, "a WebSocket is asked for by GET\n")
		x.Response.Header.Add("Allow", http.MethodGet)
		x.SetCategory(filter.FailureBadRequest, "no WebSocket handshake")
		return
	case h.Get("Sec-WebSocket-Version") != "13":
		x.Answer(http.StatusUpgradeRequired, "this edge speaks version 13 of the WebSocket protocol\n")
		x.Response.Header.Add("Sec-WebSocket-Version", "13")
		x.SetCategory(filter.FailureBadRequest, "another version of the WebSocket protocol")
		return
	case x.Request.Proto < 20 && !validKey(key):
		x.Answer(http.StatusBadRequest, "the Sec-WebSocket-Key is not 16 bytes in base64\n")
		x.SetCategory(filter.FailureBadRequest, "no valid Sec-WebSocket-Key")
		return
	}
	id := p.identify(x)
	token := strings.Clone(h.Get(tokenHeader))
	x.Response.Header.Reset()
	x.Response.Status, x.Response.ContentLength = http.StatusSwitchingProtocols, 0
	x.Response.Header.Add("Connection", "Upgrade")
	x.Response.Header.Add("Upgrade", "websocket")
	if x.Request.Proto < 20 {
		x.Response.Header.Add("Sec-WebSocket-Accept", accept(key))
	}
	x.SetCategory(filter.Success, "")
	x.Response.Takeover = func(nc net.Conn, early []byte) {
		if id == "" {
			nc.Write(closeFrame(1008, "Auth failed")) //nolint:errcheck // it is closed in any case
			return
		}
		if len(early) > 0 {
			nc = &preread{nc, early}
		}
		p.attach(x, &conn{id: id, token: token, net: nc})
	}
}

// preread is a connection of which something was read already.
type preread struct {
	net.Conn
	early []byte
}

// Read reads what was read already, then on.
func (p *preread) Read(b []byte) (int, error) {
	if len(p.early) > 0 {
		n := copy(b, p.early)
		if p.early = p.early[n:]; len(p.early) == 0 {
			p.early = nil
		}
		return n, nil
	}
	return p.Conn.Read(b)
}

func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
}

// accept returns what proves to the client that its handshake was understood. spec: RFC 6455 §4.2.2
func accept(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

const (
	final = 0x80

	opContinuation = 0
	opText         = 1
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// textFrame returns a message as the one frame it is sent in.
func textFrame(payload []byte) []byte {
	b := make([]byte, 0, len(payload)+10)
	b = append(b, opText|final)
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = append(b, 126, byte(n>>8), byte(n))
	default:
		b = append(b, 127)
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return append(b, payload...)
}

// controlFrame returns a frame of at most 125 bytes.
func controlFrame(op byte, payload []byte) []byte {
	payload = payload[:min(len(payload), 125)]
	return append([]byte{op | final, byte(len(payload))}, payload...)
}

func closeFrame(code int, reason string) []byte {
	return controlFrame(opClose, append([]byte{byte(code >> 8), byte(code)}, reason...))
}

const (
	readBuffer = 128      // clients send pongs and little else
	maxMessage = 64 << 10 // bytes of a message that nobody wants
)

// readFrames reads a client's frames until the connection ends (code 0), or is to be closed with code and reason.
// spec: RFC 6455 §5
func readFrames(from io.Reader, pong func([]byte) error) (code int, reason string) {
	r := bufio.NewReaderSize(from, readBuffer)
	var head [8]byte
	message := -1 // bytes of a fragmented message so far; -1: there is none
	for {
		if _, err := io.ReadFull(r, head[:2]); err != nil {
			return 0, ""
		}
		fin, op, masked, n := head[0]&final != 0, head[0]&0xf, head[1]&0x80 != 0, uint64(head[1]&0x7f)
		switch {
		case head[0]&0x70 != 0:
			return 1002, "reserved bits are set"
		case !masked:
			return 1002, "a client masks what it sends"
		}
		if n >= 126 {
			size := 2
			if n == 127 {
				size = 8
			}
			if _, err := io.ReadFull(r, head[:size]); err != nil {
				return 0, ""
			}
			if size == 2 {
				n = uint64(binary.BigEndian.Uint16(head[:2]))
			} else {
				n = binary.BigEndian.Uint64(head[:8])
			}
		}
		var mask [4]byte
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, ""
		}
		if op >= opClose {
			if !fin || n > 125 {
				return 1002, "a control frame is short and whole"
			}
			var payload [125]byte
			if _, err := io.ReadFull(r, payload[:n]); err != nil {
				return 0, ""
			}
			for i := range payload[:n] {
				payload[i] ^= mask[i%4]
			}
			switch op {
			case opClose:
				return closing(payload[:n])
			case opPing:
				if pong(payload[:n]) != nil {
					return 0, ""
				}
			case opPong:
			default:
				return 1002, "there is no such frame"
			}
			continue
		}
		switch {
		case op > opBinary:
			return 1002, "there is no such frame"
		case (op == opContinuation) != (message >= 0):
			return 1002, "the fragments of a message are out of order"
		}
		message = max(message, 0)
		if n > maxMessage || message+int(n) > maxMessage {
			return 1009, "nothing so long is read here"
		}
		message += int(n)
		if _, err := r.Discard(int(n)); err != nil {
			return 0, ""
		}
		if fin {
			message = -1
		}
	}
}

// closing answers a client's close frame with its own code, if that is one that may be sent. spec: RFC 6455 §7.4
func closing(payload []byte) (code int, reason string) {
	if len(payload) == 0 {
		return 1000, ""
	}
	if len(payload) == 1 {
		return 1002, "a close frame has no code"
	}
	code = int(payload[0])<<8 | int(payload[1])
	if code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999 {
		return code, ""
	}
	return 1002, "there is no such code"
}
