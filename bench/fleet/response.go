//go:build linux

package fleet

import (
	"bytes"
	"fmt"
	"strconv"
)

// response reads one HTTP/1.1 answer, in whatever pieces it comes.
type response struct {
	phase  phase
	line   []byte // head or chunk size that is not complete yet
	status int
	left   int64 // bytes of the body, or of the chunk, that are still to come
	closes bool  // the server closes the connection after this answer
	gzip   bool
	size   int64 // bytes of the body so far
	sink   func([]byte)
}

type phase uint8

const (
	inHead phase = iota
	inBody
	inUntilClose
	inChunkSize
	inChunk
	inChunkEnd
	inTrailer
	whole
)

const maxHead = 16 << 10

// reset makes ready for the next answer; sink is given the body and may be nil.
func (r *response) reset(sink func([]byte)) {
	*r = response{line: r.line[:0], sink: sink}
}

// feed takes the next bytes. It reports whether the answer is whole; what follows it is an error, because nothing was
// asked yet.
func (r *response) feed(b []byte) (done bool, err error) {
	for len(b) > 0 {
		switch r.phase {
		case inHead:
			if b, err = r.head(b); err != nil {
				return false, err
			}
		case inBody, inChunk:
			n := min(int64(len(b)), r.left)
			r.take(b[:n])
			b = b[n:]
			if r.left -= n; r.left == 0 {
				if r.phase == inBody {
					r.phase = whole
				} else {
					r.phase = inChunkEnd
				}
			}
		case inUntilClose:
			r.take(b)
			b = nil
		case inChunkEnd, inChunkSize, inTrailer:
			if b, err = r.chunkLine(b); err != nil {
				return false, err
			}
		case whole:
			return false, fmt.Errorf("%d bytes follow an answer: %.40q", len(b), b)
		}
	}
	return r.phase == whole, nil
}

func (r *response) take(b []byte) {
	r.size += int64(len(b))
	if r.sink != nil {
		r.sink(b)
	}
}

var headEnd = []byte("\r\n\r\n")

func (r *response) head(b []byte) (rest []byte, err error) {
	h := b
	if len(r.line) > 0 {
		r.line = append(r.line, b...)
		h = r.line
	}
	end := bytes.Index(h, headEnd)
	if end < 0 {
		if len(h) > maxHead {
			return nil, fmt.Errorf("a head of more than %d bytes", maxHead)
		}
		if len(r.line) == 0 {
			r.line = append(r.line, b...)
		}
		return nil, nil
	}
	rest = b[len(b)-(len(h)-end-len(headEnd)):]
	if err := r.parseHead(h[:end+2]); err != nil {
		return nil, err
	}
	r.line = r.line[:0]
	return rest, nil
}

func (r *response) parseHead(h []byte) error {
	first, h, _ := bytes.Cut(h, []byte("\r\n"))
	if len(first) < 12 || !bytes.HasPrefix(first, []byte("HTTP/1.")) {
		return fmt.Errorf("not an HTTP/1.1 answer: %.40q", first)
	}
	r.status = int(first[9]-'0')*100 + int(first[10]-'0')*10 + int(first[11]-'0')
	length, chunked := int64(-1), false
	for len(h) > 0 {
		var field []byte
		field, h, _ = bytes.Cut(h, []byte("\r\n"))
		name, value, _ := bytes.Cut(field, []byte(":"))
		value = bytes.TrimSpace(value)
		switch len(name) { // of the few names that matter
		case len("Connection"):
			r.closes = r.closes || bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close"))
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				n, err := strconv.ParseInt(string(value), 10, 64)
				if err != nil {
					return fmt.Errorf("Content-Length is %q", value)
				}
				length = n
			}
		case len("Content-Encoding"):
			r.gzip = r.gzip || bytes.EqualFold(name, []byte("Content-Encoding")) && bytes.EqualFold(value, []byte("gzip"))
		case len("Transfer-Encoding"):
			chunked = chunked || bytes.EqualFold(name, []byte("Transfer-Encoding")) && bytes.EqualFold(value, []byte("chunked"))
		}
	}
	switch {
	case r.status == 204 || r.status == 304 || length == 0:
		r.phase = whole
	case chunked:
		r.phase = inChunkSize
	case length > 0:
		r.phase, r.left = inBody, length
	case r.closes:
		r.phase = inUntilClose
	default:
		return fmt.Errorf("an answer %d without a length", r.status)
	}
	return nil
}

// chunkLine reads up to a line's end: the size of a chunk, or the empty line after one, or one of the trailer.
func (r *response) chunkLine(b []byte) (rest []byte, err error) {
	i := bytes.IndexByte(b, '\n')
	if i < 0 {
		if r.line = append(r.line, b...); len(r.line) > maxHead {
			return nil, fmt.Errorf("a chunk's size of more than %d bytes", maxHead)
		}
		return nil, nil
	}
	r.line = append(r.line, b[:i]...)
	line := bytes.TrimSuffix(r.line, []byte("\r"))
	r.line = r.line[:0]
	switch r.phase {
	case inChunkEnd:
		r.phase = inChunkSize
	case inTrailer:
		if len(line) == 0 {
			r.phase = whole
		}
	case inChunkSize:
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseInt(string(bytes.TrimSpace(size)), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("a chunk's size is %.20q", line)
		}
		r.phase, r.left = inChunk, n
		if n == 0 {
			r.phase = inTrailer
		}
	}
	return b[i+1:], nil
}
