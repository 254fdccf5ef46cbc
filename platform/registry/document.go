package registry

import (
	"strconv"
	"sync"
	"sync/atomic"
)

// document is a list of applications as clients fetch it. It is put together of blocks, so that a change in one
// application leaves the others as they were rendered, and compressed, before.
type document struct {
	version uint64
	hash    string
	views   []*view
	weighed func(compressed int) // is told what it needs, if set

	past *zips // what was compressed before this document, to be built on; nil builds on nothing

	zipped [codecs]struct {
		once sync.Once
		z    *zipped
	}
}

// block is one rendered application, made when first asked for.
type block struct {
	once  sync.Once
	plain atomic.Pointer[[]byte]
}

var (
	comma      = []byte(",")
	jsonEnd    = []byte("]}}")
	compactEnd = []byte("}}")
	xmlEnd     = []byte("</applications>\n")
)

// parts returns the document in pieces, in order.
func (d *document) parts(c codec) [][]byte {
	out := make([][]byte, 0, 2*len(d.views)+2)
	out = append(out, d.head(c))
	for i, v := range d.views {
		if i > 0 && c.isJSON() {
			out = append(out, comma)
		}
		out = append(out, v.block(c))
	}
	return append(out, d.tail(c))
}

// large reports whether the document is worth compressing. A single instance is.
func (d *document) large() bool { return len(d.views) > 0 }

// count is how many instances are in it.
func (d *document) count() (n int) {
	for _, v := range d.views {
		n += len(v.recs)
	}
	return n
}

// head is what comes before the applications.
func (d *document) head(c codec) []byte {
	if !c.isJSON() {
		x := xmlWriter{}
		x.open("applications", "")
		x.leaf("versions__delta", strconv.FormatUint(d.version, 10))
		x.leaf("apps__hashcode", d.hash)
		return x.b
	}
	b := []byte(`{"applications":{`)
	if !c.compact() {
		b = append(d.appendVersion(b), ',')
	}
	return append(b, `"application":[`...)
}

// tail is what comes after them.
func (d *document) tail(c codec) []byte {
	switch {
	case !c.isJSON():
		return xmlEnd
	case c.compact():
		return append(d.appendVersion([]byte("],")), compactEnd...)
	}
	return jsonEnd
}

func (d *document) appendVersion(b []byte) []byte {
	b = append(b, `"versions__delta":"`...)
	b = strconv.AppendUint(b, d.version, 10)
	b = append(b, `","apps__hashcode":"`...)
	return append(append(b, d.hash...), '"')
}
