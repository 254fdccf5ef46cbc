package http2

import (
	"encoding/binary"
	"fmt"
)

// preface begins what a client sends. spec: RFC 9113 §3.4
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Types of frames. spec: RFC 9113 §6
const (
	frameData         = 0
	frameHeaders      = 1
	framePriority     = 2
	frameReset        = 3
	frameSettings     = 4
	framePushPromise  = 5
	framePing         = 6
	frameGoAway       = 7
	frameWindowUpdate = 8
	frameContinuation = 9
)

// Flags of frames.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings. spec: RFC 9113 §6.5.2, RFC 8441 §3, RFC 9218 §2.1
const (
	settingTableSize      = 1
	settingEnablePush     = 2
	settingMaxStreams     = 3
	settingInitialWindow  = 4
	settingMaxFrame       = 5
	settingMaxHeaderList  = 6
	settingExtendedMethod = 8
	settingNoPriorities   = 9
)

const (
	frameHead  = 9
	frameMost  = 16 << 10 // bytes of a payload, either way
	windowMost = 1<<31 - 1
	idMost     = 1<<31 - 1
)

// code says why a stream or a connection ends. spec: RFC 9113 §7
type code uint32

const (
	noError          code = 0x0
	protocolError    code = 0x1
	internalError    code = 0x2
	flowControlError code = 0x3
	streamClosed     code = 0x5
	frameSizeError   code = 0x6
	refusedStream    code = 0x7
	cancelled        code = 0x8
	compressionError code = 0x9
	enhanceYourCalm  code = 0xb
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM",
	"CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

// String returns the code's name.
func (c code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("error %#x", uint32(c))
}

// connError ends a connection.
type connError struct {
	code code
	why  string
}

// Error says why.
func (e *connError) Error() string { return "http2: " + e.code.String() + ": " + e.why }

func broken(c code, why string) error { return &connError{c, why} }

// frame is the head of one.
type frame struct {
	length int
	kind   byte
	flags  byte
	id     uint32
}

func readFrame(b []byte) frame {
	return frame{int(b[0])<<16 | int(b[1])<<8 | int(b[2]), b[3], b[4], binary.BigEndian.Uint32(b[5:]) & idMost}
}

func (f *frame) has(flag byte) bool { return f.flags&flag != 0 }

func appendFrame(b []byte, length int, kind, flags byte, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), kind, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendReset(b []byte, id uint32, why code) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameReset, 0, id), uint32(why))
}

func appendWindowUpdate(b []byte, id uint32, more int) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameWindowUpdate, 0, id), uint32(more))
}

func appendGoAway(b []byte, last uint32, why code, text string) []byte {
	b = binary.BigEndian.AppendUint32(appendFrame(b, 8+len(text), frameGoAway, 0, 0), last)
	return append(binary.BigEndian.AppendUint32(b, uint32(why)), text...)
}

func appendPing(b []byte, flags byte, data []byte) []byte {
	return append(appendFrame(b, 8, framePing, flags, 0), data...)
}

func appendSettings(b []byte, pairs ...[2]uint32) []byte {
	b = appendFrame(b, 6*len(pairs), frameSettings, 0, 0)
	for _, p := range pairs {
		b = binary.BigEndian.AppendUint16(b, uint16(p[0]))
		b = binary.BigEndian.AppendUint32(b, p[1])
	}
	return b
}

// unpadded returns what of a payload is not padding.
func unpadded(f frame, p []byte) ([]byte, error) {
	if !f.has(flagPadded) {
		return p, nil
	}
	if len(p) == 0 {
		return nil, broken(frameSizeError, "a padded frame is empty")
	}
	n := int(p[0])
	if n >= len(p) {
		return nil, broken(protocolError, "a frame's padding is longer than the frame")
	}
	return p[1 : len(p)-n], nil
}
