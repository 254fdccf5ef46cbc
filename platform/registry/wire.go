package registry

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// Records as registries of our kind send them to each other: numbers as varints, strings with their length before
// them. What the instance said of itself and what was made of it comes first, and is what digest sums up; its version
// and times follow.

// The bits of a record's first number.
const (
	wireSentID = 1 << iota
	wireAmazon
	wireNetflix
	wireNoID
	wirePort
	wireSecure
	wireAll = 1<<iota - 1
)

// texts are the strings of a record in the order in which they are sent.
func (r *record) texts() [13]*string {
	return [...]*string{
		&r.app, &r.id, &r.appGroup, &r.host, &r.ip, &r.sid, &r.home, &r.statusPage, &r.health, &r.secureHealth, &r.vip, &r.svip, &r.asg,
	}
}

// appendSaid appends all of the record that does not change with time.
func (r *record) appendSaid(b []byte) []byte {
	flags := uint64(0)
	for i, on := range [...]bool{r.sentID, r.dcAmazon, r.dcNetflix, r.dcNoID, r.port.on, r.secure.on} {
		if on {
			flags |= 1 << i
		}
	}
	b = binary.AppendUvarint(b, flags)
	b = append(b, byte(r.own), byte(r.base), byte(r.blank))
	for _, n := range [...]int32{r.port.number, r.secure.number, r.country, r.renewal, r.duration} {
		b = binary.AppendVarint(b, int64(n))
	}
	for _, s := range r.texts() {
		b = appendText(b, *s)
	}
	for _, ps := range [...][]pair{r.dcMeta, r.meta} {
		b = binary.AppendUvarint(b, uint64(len(ps)))
		for _, p := range ps {
			b = appendText(appendText(b, p.key), p.value)
		}
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendWire appends the whole record.
func (r *record) appendWire(b []byte) []byte {
	b = r.appendSaid(b)
	b = binary.AppendVarint(b, r.dirty)
	b = binary.AppendUvarint(b, r.stamp)
	b = binary.AppendVarint(b, r.registered)
	return binary.AppendVarint(b, r.serviceUp)
}

var errWire = errors.New("it ends too early or holds what nobody sends")

// wireReader takes values from the front of what it holds. After a mistake all it returns is zero.
type wireReader struct {
	b   []byte
	bad bool
}

func (w *wireReader) uint() uint64 {
	n, size := binary.Uvarint(w.b)
	if size <= 0 {
		w.b, w.bad = nil, true
		return 0
	}
	w.b = w.b[size:]
	return n
}

func (w *wireReader) int() int64 {
	n, size := binary.Varint(w.b)
	if size <= 0 {
		w.b, w.bad = nil, true
		return 0
	}
	w.b = w.b[size:]
	return n
}

// int32 reads an integer from least to most.
func (w *wireReader) int32(least, most int32) int32 {
	n := w.int()
	if n < int64(least) || n > int64(most) {
		w.b, w.bad = nil, true
		return least
	}
	return int32(n)
}

func (w *wireReader) byte() byte {
	if len(w.b) == 0 {
		w.bad = true
		return 0
	}
	c := w.b[0]
	w.b = w.b[1:]
	return c
}

func (w *wireReader) status() status {
	st := status(w.byte())
	if st >= statuses {
		w.b, w.bad = nil, true
		return unknown
	}
	return st
}

// bytes reads a text without copying it.
func (w *wireReader) bytes() []byte {
	n := w.uint()
	if n > uint64(len(w.b)) {
		w.b, w.bad = nil, true
		return nil
	}
	t := w.b[:n]
	w.b = w.b[n:]
	if !utf8.Valid(t) {
		w.b, w.bad = nil, true
		return nil
	}
	return t
}

func (w *wireReader) text() string { return string(w.bytes()) }

func (w *wireReader) key() key { return key{w.text(), w.text()} }

func (w *wireReader) pairs() []pair {
	n := w.uint()
	if n > uint64(len(w.b)/2) { // each is two lengths at least
		w.b, w.bad = nil, true
		return nil
	}
	if n == 0 {
		return nil
	}
	ps := make([]pair, n)
	for i := range ps {
		ps[i] = pair{w.text(), w.text()}
		if i > 0 && ps[i].key <= ps[i-1].key {
			w.bad = true
		}
	}
	return ps
}

// record reads a record, which is then one that could have been registered.
func (w *wireReader) record() (*record, error) {
	r := &record{override: unknown, dcSent: true, dcName: true}
	flags := w.uint()
	r.sentID, r.dcAmazon, r.dcNetflix = flags&wireSentID != 0, flags&wireAmazon != 0, flags&wireNetflix != 0
	r.dcNoID, r.port.on, r.secure.on = flags&wireNoID != 0, flags&wirePort != 0, flags&wireSecure != 0
	r.own, r.base, r.blank = w.status(), w.status(), members(w.byte())
	r.port.number, r.secure.number = w.int32(0, math.MaxUint16), w.int32(0, math.MaxUint16)
	r.country = w.int32(math.MinInt32, math.MaxInt32)
	r.renewal, r.duration = w.int32(1, math.MaxInt32), w.int32(1, math.MaxInt32)
	for _, s := range r.texts() {
		*s = w.text()
	}
	r.dcMeta, r.meta = w.pairs(), w.pairs()
	r.dirty, r.stamp, r.registered, r.serviceUp = w.int(), w.uint(), w.int(), w.int()
	r.status = r.base
	if flags > wireAll || w.bad || r.dirty <= 0 || r.registered < 0 || r.serviceUp < 0 || r.app != upper(r.app) || r.invalid(r.app, false) != "" {
		w.b, w.bad = nil, true
		return nil, errWire
	}
	return r, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var scratch = sync.Pool{New: func() any { return new([]byte) }}

// digest sums up what the record says, its version and times apart.
func (r *record) digest() uint64 {
	if d := atomic.LoadUint64(&r.sum); d != 0 {
		return d
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	*buf = r.appendSaid((*buf)[:0])
	d := max(mix(uint64(crc32.ChecksumIEEE(*buf))<<32|uint64(crc32.Checksum(*buf, castagnoli))), 1)
	atomic.StoreUint64(&r.sum, d)
	return d
}

// mix spreads n over all bits (the finaliser of Steele, Lea and Flood's SplitMix, 2014).
func mix(n uint64) uint64 {
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}
