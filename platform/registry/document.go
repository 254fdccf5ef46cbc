package registry

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"strconv"
	"sync"
)

// document is a list of applications as clients fetch it. It is put together of blocks, so that a change in one
// application leaves the others as they were rendered, and compressed, before.
type document struct {
	version uint64
	hash    string
	views   []*view
	weighed func(compressed int) // is told what it needs, if set

	zipped [codecs]struct {
		once  sync.Once
		parts [][]byte
	}
}

// block is one rendered application, and its compressed form.
type block struct {
	once  sync.Once
	plain []byte

	zonce sync.Once
	z     deflated
}

var (
	comma      = []byte(",")
	jsonEnd    = []byte("]}}")
	compactEnd = []byte("}}")
	xmlEnd     = []byte("</applications>\n")

	commaZ = deflated{[]byte{0, 1, 0, 0xfe, 0xff, ',', 0, 0, 0, 0xff, 0xff}, 0xe0da836e, 1} // a stored block
)

// parts returns the document in pieces, in order.
func (d *document) parts(c codec) [][]byte {
	out := make([][]byte, 0, 2*len(d.views)+2)
	if !c.isJSON() {
		x := xmlWriter{}
		x.open("applications", "")
		x.leaf("versions__delta", strconv.FormatUint(d.version, 10))
		x.leaf("apps__hashcode", d.hash)
		out = append(out, x.b)
		for _, v := range d.views {
			out = append(out, v.block(c))
		}
		return append(out, xmlEnd)
	}
	head := []byte(`{"applications":{`)
	if !c.compact() {
		head = append(d.appendVersion(head), ',')
	}
	out = append(out, append(head, `"application":[`...))
	for i, v := range d.views {
		if i > 0 {
			out = append(out, comma)
		}
		out = append(out, v.block(c))
	}
	if c.compact() {
		end := d.appendVersion([]byte("],"))
		return append(out, append(end, compactEnd...))
	}
	return append(out, jsonEnd)
}

func (d *document) appendVersion(b []byte) []byte {
	b = append(b, `"versions__delta":"`...)
	b = strconv.AppendUint(b, d.version, 10)
	b = append(b, `","apps__hashcode":"`...)
	return append(append(b, d.hash...), '"')
}

// deflated is a run of deflate blocks that ends at a byte border, so that runs can be joined.
type deflated struct {
	data []byte
	crc  uint32
	size int // of the plain bytes
}

var flaters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic("registry: " + err.Error()) // cannot be: the level exists
	}
	return w
}}

func deflate(plain []byte) deflated {
	w := flaters.Get().(*flate.Writer)
	defer flaters.Put(w)
	var out bytes.Buffer
	w.Reset(&out)
	w.Write(plain) //nolint:errcheck // a buffer takes everything
	w.Flush()      //nolint:errcheck // as above
	return deflated{bytes.Clone(out.Bytes()), crc32.ChecksumIEEE(plain), len(plain)}
}

// compressed returns v's block deflated, once.
func (v *view) compressed(c codec) deflated {
	b := &v.blocks[c]
	b.zonce.Do(func() { b.z = deflate(v.block(c)) })
	return b.z
}

var gzipHead = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255} // RFC 1952 §2.3: no time, fastest, unknown system

// gzipped returns the document as one gzip member, in pieces. Blocks that did not change are not compressed again.
func (d *document) gzipped(c codec) [][]byte {
	z := &d.zipped[c]
	z.once.Do(func() {
		z.parts = d.gzip(c)
		if d.weighed != nil {
			d.weighed(sizeOf(z.parts))
		}
	})
	return z.parts
}

func (d *document) gzip(c codec) [][]byte {
	plain := d.parts(c)
	out := make([][]byte, 0, len(plain)+2)
	out = append(out, gzipHead)
	var sum uint32
	var size int
	next := 0
	for _, p := range plain {
		var z deflated
		if len(p) == 1 && p[0] == ',' {
			z = commaZ
		} else if next < len(d.views) && len(p) > 0 && &p[0] == &d.views[next].block(c)[0] {
			z = d.views[next].compressed(c)
			next++
		} else {
			z = deflate(p)
		}
		out = append(out, z.data)
		sum = crcJoin(sum, z.crc, z.size)
		size += z.size
	}
	end := []byte{3, 0} // an empty last block with fixed codes, RFC 1951 §3.2.6
	end = binary.LittleEndian.AppendUint32(end, sum)
	end = binary.LittleEndian.AppendUint32(end, uint32(size))
	return append(out, end)
}

// crcJoin is the CRC-32 of two strings of bytes, given those of each and the length of the second. Appending n zero
// bytes to the first is a linear map over GF(2), here raised to the n-th power by squaring, as zlib does.
func crcJoin(a, b uint32, n int) uint32 {
	if n == 0 {
		return a
	}
	var m [32]uint32 // one zero bit
	m[0] = crc32.IEEE
	for i := 1; i < 32; i++ {
		m[i] = 1 << (i - 1)
	}
	m = square(square(square(m))) // eight
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			a = apply(&m, a)
		}
		m = square(m)
	}
	return a ^ b
}

func apply(m *[32]uint32, v uint32) (sum uint32) {
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 == 1 {
			sum ^= m[i]
		}
	}
	return sum
}

func square(m [32]uint32) (s [32]uint32) {
	for i := range m {
		s[i] = apply(&m, m[i])
	}
	return s
}

// gzipParts compresses a document that nobody will ask for again.
func gzipParts(parts [][]byte) [][]byte {
	z := deflate(bytes.Join(parts, nil))
	end := binary.LittleEndian.AppendUint32([]byte{3, 0}, z.crc)
	return [][]byte{gzipHead, z.data, binary.LittleEndian.AppendUint32(end, uint32(z.size))}
}
