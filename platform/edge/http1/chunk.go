package http1

import (
	"strconv"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// parts that a chunked body's reader has come to.
const (
	sizeFirst = iota // a digit of the size must come
	sizeMore         // a digit, an extension or the line's end
	extension
	sizeLF
	data
	dataCR
	dataLF
	trailers
	ended
)

// chunks takes the chunked transfer coding off a body (RFC 9112 section 7.1). It sees each byte once, wherever they are split.
type chunks struct {
	rules *Rules
	part  uint8
	left  int64 // of the chunk's data
	line  int   // length of the size's line so far
	digit int
	ext   int  // length of all extensions so far
	tail  head // parses the trailers
}

func (c *chunks) reset(rules *Rules) {
	tail := c.tail
	*c = chunks{rules: rules}
	tail.reset(rules)
	c.tail = tail
}

// next reads on in b: it returns how many bytes of b it has done with, and the data that lies at their end. Done is
// reported by part being ended; trailers that were allowed are in to then. While the trailers are not whole it takes none of
// their bytes: it wants to be given them again with more behind them.
//
// hot path: 0 allocs, BenchmarkChunks
func (c *chunks) next(b []byte, to *filter.Header) (n int, found []byte, r *Refusal) {
	for n < len(b) {
		switch c.part {
		case sizeFirst, sizeMore:
			x := b[n]
			if d := hex(x); d < 16 {
				if c.digit == 15 {
					return n, nil, chunkSize
				}
				c.left = c.left<<4 | int64(d)
				c.digit++
				c.part = sizeMore
			} else if c.part == sizeFirst {
				return n, nil, sizeMisfit(x)
			} else if x == ';' {
				c.part = extension
				c.ext++
			} else if x == '\r' {
				c.part = sizeLF
			} else {
				return n, nil, sizeMisfit(x)
			}
			n++
			if c.line++; c.line > c.rules.Limits.Chunk {
				return n, nil, chunkLine
			}
		case extension:
			x := b[n]
			n++
			switch {
			case x == '\r':
				c.part = sizeLF
			case x == '\n':
				return n, nil, bareLF
			case x < 0x20 && x != '\t' || x == 0x7f:
				return n, nil, control
			default:
				if c.ext++; c.ext > c.rules.Limits.Chunks {
					return n, nil, chunkExt
				}
			}
			if c.line++; c.line > c.rules.Limits.Chunk {
				return n, nil, chunkLine
			}
		case sizeLF:
			if b[n] != '\n' {
				return n, nil, bareCR
			}
			n++
			c.part = data
			if c.left == 0 {
				c.part = trailers
				c.tail.part = atFields
			}
		case data:
			k := int(min(int64(len(b)-n), c.left))
			c.left -= int64(k)
			if c.left == 0 {
				c.part = dataCR
			}
			return n + k, b[n : n+k], nil
		case dataCR:
			if b[n] != '\r' {
				return n, nil, chunkEnd
			}
			n++
			c.part = dataLF
		case dataLF:
			if b[n] != '\n' {
				return n, nil, chunkEnd
			}
			n++
			c.part, c.digit, c.line = sizeFirst, 0, 0
		case trailers:
			if r := c.tail.fields(b[n:], to, c.rules.Limits.Trailer, trailerSize); r != nil {
				return n, nil, r
			}
			if c.tail.part != atEnd {
				return n, nil, nil
			}
			to.DelFunc(func(f *filter.Field) bool { return forbiddenTrailer(f.Name) })
			c.part = ended
			return n + c.tail.at, nil, nil
		case ended:
			return n, nil, nil
		}
	}
	return n, nil, nil
}

func sizeMisfit(x byte) *Refusal {
	if x == '\n' {
		return bareLF
	}
	return chunkSize
}

// forbiddenTrailer reports whether a field has no business in a trailer: it frames, routes or authorises, or had to be known
// before the body (RFC 9110 section 6.5.1). Whoever adds trailers to the fields would believe what is said of the client and
// between services, too. What is the connection's own is left out already.
func forbiddenTrailer(name string) bool {
	for _, p := range [...]string{"x-forwarded-", "x-edge-", "x-ipc-"} {
		if len(name) >= len(p) && filter.Same(name[:len(p)], p) {
			return true
		}
	}
	for _, f := range [...]string{"trailer", "authorization", "cookie", "set-cookie", "content-encoding", "content-type", "content-range", "connection", "forwarded", "x-real-ip", "x-fit"} {
		if filter.Same(name, f) {
			return true
		}
	}
	return false
}

// chunkHead is room for what appendChunkSize makes of what is in memory.
const chunkHead = 8 + 2

// appendChunkSize begins a chunk of n bytes. The data and CR LF follow.
func appendChunkSize(b []byte, n int) []byte {
	b = strconv.AppendUint(b, uint64(n), 16)
	return append(b, '\r', '\n')
}

// appendLastChunk ends a chunked body.
func appendLastChunk(b []byte, trailer *filter.Header) []byte {
	b = append(b, "0\r\n"...)
	if trailer != nil {
		for _, f := range trailer.Fields() {
			if !forbiddenTrailer(f.Name) && !framingField(f.Name) {
				b = appendField(b, f.Name, f.Value)
			}
		}
	}
	return append(b, '\r', '\n')
}
