package registry

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"sync"
	"sync/atomic"
)

// Documents are compressed application by application, each with the text before it as its dictionary, so that all of
// them together are as small as if they had been compressed in one go. Runs of deflate blocks that end at a byte border
// can be joined, RFC 1951 §3.2.4, so whatever has the same text before it as in the last document is taken from there:
// a change costs the application it is in, and what the next 32 KiB of text are.

// zipped is a document as one gzip member.
type zipped struct {
	data  []byte
	head  int // bytes before the first application
	units []unit
}

// unit is one application in a zipped document, with the comma before it.
type unit struct {
	v    *view
	end  int // of its bytes in data
	size int // of its text
	crc  uint32
}

// zips are the last compressed form of each codec.
type zips [codecs]atomic.Pointer[zipped]

const (
	window = 32 << 10 // bytes of text that a deflate block may refer to, RFC 1951 §2

	// Lists are read far more often than made, and what a reader costs is their size: a fifth less than with usualEffort.
	// But lists are made anew whenever the times in them are stale, and very long ones would take seconds.
	mostEffort  = 9
	usualEffort = 5
	longList    = 25_000 // instances
)

var gzipHead = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255} // RFC 1952 §2.3: no time, no word on effort, unknown system

// gzipped returns the document as one gzip member.
func (d *document) gzipped(c codec) []byte {
	z := &d.zipped[c]
	z.once.Do(func() {
		z.z = d.zip(c)
		if d.past != nil {
			d.past[c].Store(z.z)
		}
		if d.weighed != nil {
			d.weighed(len(z.z.data))
		}
	})
	return z.z.data
}

func (d *document) zip(c codec) *zipped {
	old := &zipped{}
	if d.past != nil {
		if z := d.past[c].Load(); z != nil {
			old = z
		}
	}
	z := &zipped{data: make([]byte, 0, len(old.data)+len(old.data)/16+1024), units: make([]unit, 0, len(d.views))}
	effort := mostEffort
	if d.count() > longList {
		effort = usualEffort
	}
	p := getPacker(effort)
	defer p.free()

	head := d.head(c)
	p.begin()
	z.data = p.pack(append(z.data, gzipHead...), head)
	z.head = len(z.data)
	sum, size := crc32.ChecksumIEEE(head), len(head)

	place := -1    // of the application before in old, if it is there and unchanged
	same := 0      // bytes of text before this application that are before it in old, too
	whole := true  // whether they reach back to the first application
	ready := false // whether p has read what is before this application
	at := 0
	for i, v := range d.views {
		for at < len(old.units) && old.units[at].v.name < v.name {
			at++
		}
		kept := at < len(old.units) && old.units[at].v == v
		if place < 0 || at != place+1 {
			same, whole = 0, i == 0 && at == 0
		}
		var u unit
		if kept && (whole || same >= window) {
			u = old.units[at]
			z.data = append(z.data, old.bytes(at)...)
			ready = false
		} else {
			if !ready {
				p.begin()
				p.learn(d, c, z.units)
				ready = true
			}
			text := p.text(d, c, i)
			z.data = p.pack(z.data, text)
			u = unit{v: v, size: len(text), crc: crc32.ChecksumIEEE(text)}
		}
		u.end = len(z.data)
		z.units = append(z.units, u)
		sum, size = crcJoin(sum, u.crc, u.size), size+u.size
		if place = -1; kept {
			place = at
			same += u.size
		}
	}

	tail := d.tail(c)
	p.begin()
	z.data = append(p.pack(z.data, tail), 3, 0) // an empty last block with fixed codes, RFC 1951 §3.2.6
	sum, size = crcJoin(sum, crc32.ChecksumIEEE(tail), len(tail)), size+len(tail)
	z.data = binary.LittleEndian.AppendUint32(z.data, sum)
	z.data = binary.LittleEndian.AppendUint32(z.data, uint32(size))
	return z
}

// bytes are those of the i-th application.
func (z *zipped) bytes(i int) []byte {
	from := z.head
	if i > 0 {
		from = z.units[i-1].end
	}
	return z.data[from:z.units[i].end]
}

// packer compresses.
type packer struct {
	effort int
	w      *flate.Writer
	out    bytes.Buffer // holds nothing between two calls
	buf    []byte
}

var packers [mostEffort + 1]sync.Pool // by effort

func getPacker(effort int) *packer {
	if p, ok := packers[effort].Get().(*packer); ok {
		return p
	}
	w, err := flate.NewWriter(nil, effort)
	if err != nil {
		panic("registry: " + err.Error()) // cannot be: the level exists
	}
	return &packer{effort: effort, w: w}
}

// free lets others use p.
func (p *packer) free() { packers[p.effort].Put(p) }

// begin forgets all text.
func (p *packer) begin() { p.w.Reset(&p.out) }

// pack appends text to b, compressed, up to a byte border.
func (p *packer) pack(b, text []byte) []byte {
	p.w.Write(text) //nolint:errcheck // a buffer takes everything
	p.w.Flush()     //nolint:errcheck // as above
	b = append(b, p.out.Bytes()...)
	p.out.Reset()
	return b
}

// learn reads the text of the last of the applications before the one that is to be packed.
func (p *packer) learn(d *document, c codec, before []unit) {
	first := len(before)
	for size := 0; first > 0 && size < window; {
		first--
		size += before[first].size
	}
	for i := first; i < len(before); i++ {
		p.w.Write(p.text(d, c, i)) //nolint:errcheck // a buffer takes everything
	}
	p.w.Flush() //nolint:errcheck // as above
	p.out.Reset()
}

// text is the i-th application with the comma before it. It is valid until the next call.
func (p *packer) text(d *document, c codec, i int) []byte {
	p.buf = p.buf[:0]
	if i > 0 && c.isJSON() {
		p.buf = append(p.buf, ',')
	}
	p.buf = d.views[i].appendBlock(p.buf, c)
	return p.buf
}

// gzipParts compresses a document that nobody will ask for again.
func gzipParts(parts [][]byte) [][]byte {
	p := getPacker(usualEffort)
	defer p.free()
	p.begin()
	var sum uint32
	size := 0
	for _, b := range parts {
		p.w.Write(b) //nolint:errcheck // a buffer takes everything
		sum, size = crc32.Update(sum, crc32.IEEETable, b), size+len(b)
	}
	z := append(p.pack(bytes.Clone(gzipHead), nil), 3, 0)
	z = binary.LittleEndian.AppendUint32(z, sum)
	return [][]byte{binary.LittleEndian.AppendUint32(z, uint32(size))}
}

// crcJoin is the CRC-32 of two strings of bytes, given those of each and the length of the second. A CRC is the text
// as a polynomial over GF(2), modulo another one: n bytes more multiply it by x to the power of 8n. As in zlib,
// that is put together from powers of two.
func crcJoin(a, b uint32, n int) uint32 {
	for i := 3; n > 0; i, n = i+1, n>>1 { // 3: eight bits
		if n&1 == 1 {
			a = product(a, powers[i%len(powers)])
		}
	}
	return a ^ b
}

// powers are x to the power of 2 to the i, modulo the polynomial of CRC-32. They repeat after 32, because x to the power
// of 2 to the 32 is x: the polynomial is primitive.
var powers = func() (p [32]uint32) {
	p[0] = 1 << 30 // x; the highest bit is that of the lowest power
	for i := 1; i < len(p); i++ {
		p[i] = product(p[i-1], p[i-1])
	}
	return p
}()

// product multiplies two polynomials, modulo that of CRC-32.
func product(a, b uint32) (p uint32) {
	for bit := uint32(1 << 31); bit != 0; bit >>= 1 {
		if a&bit != 0 {
			p ^= b
		}
		if b&1 == 1 {
			b = b>>1 ^ crc32.IEEE
		} else {
			b >>= 1
		}
	}
	return p
}
