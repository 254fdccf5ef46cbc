package registry

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// What registries of our kind send each other once they are connected: frames, each a length of four bytes, little
// endian, then its kind and what belongs to it. Numbers are varints.

type frameKind byte

const (
	putFrame     frameKind = iota + 1 // ms since the instance was heard, its record
	verdictFrame                      // an instance, a stamp, and 0 or 1 + the status that is decided
	endFrame                          // an instance, the version of it that was cancelled
	bindFrame                         // a number, an instance: what the number stands for from now on; 0 forgets those before
	renewFrame                        // ms since they renewed, how many, their numbers, each as the distance from the last
	digestFrame                       // of each bucket, 8 bytes
	bucketFrame                       // a bucket, how many summaries, they, how many endings, they
	wantFrame                         // how many, instances of which the other is to tell
	markFrame                         // a number: send it back when all that was asked before is answered
	markedFrame                       // that number, 1 if lists may be read at the sender
	beatFrame                         // nothing: the sender is there
)

const (
	frameLimit = 8 << 20 // bytes of a frame
	frameFull  = 64 << 10
)

var errFrame = errors.New("a peer sent what is no frame of ours")

// frameWriter writes frames into a buffer.
type frameWriter struct {
	out  *bufio.Writer
	body []byte
	err  error
}

func (f *frameWriter) begin(k frameKind) { f.body = append(f.body[:0], 0, 0, 0, 0, byte(k)) }

func (f *frameWriter) end() {
	if f.err != nil {
		return
	}
	binary.LittleEndian.PutUint32(f.body, uint32(len(f.body)-4))
	_, f.err = f.out.Write(f.body)
}

func (f *frameWriter) uint(n uint64) { f.body = binary.AppendUvarint(f.body, n) }
func (f *frameWriter) int(n int64)   { f.body = binary.AppendVarint(f.body, n) }
func (f *frameWriter) key(k key)     { f.body = appendText(appendText(f.body, k.app), k.id) }

func (f *frameWriter) age(d time.Duration) { f.uint(uint64(max(d, 0) / time.Millisecond)) }

func (f *frameWriter) verdict(v verdict) {
	f.uint(v.stamp)
	if v.set {
		f.body = append(f.body, 1+byte(v.status))
	} else {
		f.body = append(f.body, 0)
	}
}

func (f *frameWriter) put(r *record, age time.Duration) {
	f.begin(putFrame)
	f.age(age)
	f.body = r.appendWire(f.body)
	f.end()
}

func (f *frameWriter) decided(k key, v verdict) {
	f.begin(verdictFrame)
	f.key(k)
	f.verdict(v)
	f.end()
}

func (f *frameWriter) ended(k key, dirty int64) {
	f.begin(endFrame)
	f.key(k)
	f.int(dirty)
	f.end()
}

func (f *frameWriter) bind(n uint32, k key) {
	f.begin(bindFrame)
	f.uint(uint64(n))
	f.key(k)
	f.end()
}

// renewed tells of renewals that happened age ago. It sorts numbers.
func (f *frameWriter) renewed(age time.Duration, numbers []uint32) {
	slices.Sort(numbers)
	f.begin(renewFrame)
	f.age(age)
	f.uint(uint64(len(numbers)))
	last := uint32(0)
	for _, n := range numbers {
		f.uint(uint64(n - last))
		last = n
	}
	f.end()
}

func (f *frameWriter) digest(d *digests) {
	f.begin(digestFrame)
	for _, h := range d {
		f.body = binary.LittleEndian.AppendUint64(f.body, h)
	}
	f.end()
}

func (f *frameWriter) bucket(b int, list []summary, ended []ending) {
	f.begin(bucketFrame)
	f.uint(uint64(b))
	f.uint(uint64(len(list)))
	for _, s := range list {
		f.key(s.key)
		f.int(s.dirty)
		f.uint(s.stamp)
		f.body = binary.LittleEndian.AppendUint64(f.body, s.digest)
		f.verdict(s.verdict)
		f.age(s.age)
	}
	f.uint(uint64(len(ended)))
	for _, e := range ended {
		f.key(e.key)
		f.int(e.dirty)
	}
	f.end()
}

func (f *frameWriter) want(ks []key) {
	f.begin(wantFrame)
	f.uint(uint64(len(ks)))
	for _, k := range ks {
		f.key(k)
	}
	f.end()
}

func (f *frameWriter) number(k frameKind, n uint64, open bool) {
	f.begin(k)
	f.uint(n)
	if k == markedFrame {
		f.body = append(f.body, map[bool]byte{true: 1}[open])
	}
	f.end()
}

func (f *frameWriter) beat() {
	f.begin(beatFrame)
	f.end()
}

// readFrame reads one frame into buf, which grows as needed. What comes back is valid until the next call.
func readFrame(in io.Reader, buf *[]byte) (frameKind, wireReader, error) {
	var head [4]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, wireReader{}, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > frameLimit {
		return 0, wireReader{}, fmt.Errorf("%w: it would have %d bytes", errFrame, n)
	}
	*buf = slices.Grow((*buf)[:0], int(min(n, frameFull)))
	for len(*buf) < int(n) { // memory follows what arrives, not what is announced
		part := min(int(n)-len(*buf), frameFull)
		*buf = slices.Grow(*buf, part)
		from := len(*buf)
		*buf = (*buf)[:from+part]
		if _, err := io.ReadFull(in, (*buf)[from:]); err != nil {
			return 0, wireReader{}, err
		}
	}
	return frameKind((*buf)[0]), wireReader{b: (*buf)[1:]}, nil
}

func (w *wireReader) age() time.Duration {
	const most = uint64(24 * time.Hour / time.Millisecond)
	return time.Duration(min(w.uint(), most)) * time.Millisecond
}

func (w *wireReader) fixed64() uint64 {
	if len(w.b) < 8 {
		w.b, w.bad = nil, true
		return 0
	}
	n := binary.LittleEndian.Uint64(w.b)
	w.b = w.b[8:]
	return n
}

func (w *wireReader) verdict() verdict {
	v := verdict{stamp: w.uint()}
	c := w.byte()
	switch {
	case c > byte(statuses):
		w.b, w.bad = nil, true
	case c > 0:
		v.set, v.status = true, status(c-1)
	}
	return v
}

// count reads how many follow of something that has so many bytes at least.
func (w *wireReader) count(least int) int {
	n := w.uint()
	if n > uint64(len(w.b)/least) {
		w.b, w.bad = nil, true
		return 0
	}
	return int(n)
}

// done reports whether all was read and was right.
func (w *wireReader) done() error {
	if w.bad || len(w.b) > 0 {
		return errFrame
	}
	return nil
}

func (w *wireReader) summaries() []summary {
	list := make([]summary, w.count(16))
	for i := range list {
		list[i] = summary{key: w.key(), dirty: w.int(), stamp: w.uint(), digest: w.fixed64(), verdict: w.verdict(), age: w.age()}
	}
	return list
}

func (w *wireReader) endings() []ending {
	list := make([]ending, w.count(3))
	for i := range list {
		list[i] = ending{w.key(), w.int()}
	}
	return list
}
