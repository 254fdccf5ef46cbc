package telemetry

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Points are kept in pages of pageSize series. A page keeps, for each tier, a ring of blocks of blockPoints points for
// each of its series. The blocks that still change are arrays; the older ones are sealed into as few bytes as their
// values need. A series that has no point in a block costs one byte there, a page without any costs nothing.
const (
	pageSize    = 64
	blockPoints = 60
	ringBlocks  = 8 // 40 minutes of live points, 8 hours of history: more than is promised by one block
)

// A tier is a resolution: times are rounded up to step, milliseconds.
type tier struct{ step int64 }

var (
	liveTier    = tier{5_000}
	historyTier = tier{60_000}
)

// The windows that are promised to be kept.
const (
	liveWindow    = 30 * 60_000
	historyWindow = 6 * 3600_000
)

func (t tier) span() int64 { return t.step * blockPoints }

// ceil rounds a time up to the tier's step: points carry the end of what they describe.
func (t tier) ceil(ms int64) int64 { return (ms + t.step - 1) / t.step * t.step }

// block returns the number of the block of a rounded time, and its place in it. A time on the border of two blocks
// belongs to the one that ends there.
func (t tier) block(ms int64) (no int64, at int) {
	return (ms - 1) / t.span(), int((ms - 1) % t.span() / t.step)
}

type row = [blockPoints]float64

type openBlock = [pageSize]row

var emptyRow = func() (r row) {
	for i := range r {
		r[i] = math.NaN()
	}
	return r
}()

// block is blockPoints points of a page's series: open, sealed or, with neither, empty.
type block struct {
	no     int64
	open   *openBlock
	sealed []byte
}

type ring struct{ blocks [ringBlocks]block }

func newOpen() *openBlock {
	b := new(openBlock)
	for i := range b {
		b[i] = emptyRow
	}
	return b
}

// point returns where the value of a rounded time is kept, or nil if that time is older than what the ring holds.
func (r *ring) point(t tier, ms int64, slot int) *float64 {
	no, at := t.block(ms)
	b := &r.blocks[no%ringBlocks]
	switch {
	case b.no > no:
		return nil
	case b.no < no:
		*b = block{no: no}
	}
	if b.open == nil {
		b.open = newOpen()
		if b.sealed != nil {
			unseal(b.sealed, t.step, b.open)
			b.sealed = nil
		}
	}
	return &b.open[slot][at]
}

// read returns the points of one block and series; nil means there are none. scratch is used for sealed ones.
func (r *ring) read(t tier, no int64, slot int, scratch *row) *row {
	b := &r.blocks[no%ringBlocks]
	switch {
	case b.no != no:
		return nil
	case b.open != nil:
		return &b.open[slot]
	case b.sealed == nil || b.sealed[slot] == codeEmpty:
		return nil
	}
	at := pageSize
	for _, c := range b.sealed[:slot] {
		at += codeSize(c)
	}
	decode(b.sealed[slot], b.sealed[at:], t.step, scratch)
	return scratch
}

// settle seals what no longer changes at a time before which everything has been written, and drops what is older
// than the ring. It reports whether anything is left.
func (r *ring) settle(t tier, before int64) (any bool) {
	oldest := (before-1)/t.span() - ringBlocks + 1
	for i := range r.blocks {
		b := &r.blocks[i]
		if b.no < oldest {
			*b = block{}
			continue
		}
		if b.open != nil && (b.no+1)*t.span() < before {
			if b.sealed = seal(b.open, t.step); b.sealed == nil {
				*b = block{}
				continue
			}
			b.open = nil
		}
		any = true
	}
	return any
}

// Codes of a sealed row. A code from codeCounts on means whole numbers, as they are or, with scaledBit, after
// multiplication with the step in seconds, which rates are: a bit for each point that is there, the least number,
// and what each point has more, in 0, 1, 2, 4, 8, 16 or 32 bits.
const (
	codeEmpty    byte = 0
	codeConstant byte = 1
	codeRaw      byte = 2
	codeCounts   byte = 8 // plus the index in widths
	scaledBit    byte = 64
)

var widths = [...]int{0, 1, 2, 4, 8, 16, 32}

func codeSize(c byte) int {
	switch c {
	case codeEmpty:
		return 0
	case codeConstant:
		return 8
	case codeRaw:
		return 8 * blockPoints
	}
	return 16 + (widths[c&^scaledBit-codeCounts]*blockPoints+7)/8
}

// seal codes all rows, exactly; nil if all are empty.
func seal(b *openBlock, step int64) []byte {
	out := make([]byte, pageSize, 4096)
	for i := range b {
		var code byte
		code, out = encode(&b[i], step, out) // may move out
		out[i] = code
	}
	for _, c := range out[:pageSize] {
		if c != codeEmpty {
			return append([]byte(nil), out...) // no larger than need be
		}
	}
	return nil
}

func unseal(sealed []byte, step int64, into *openBlock) {
	at := pageSize
	for i, c := range sealed[:pageSize] {
		decode(c, sealed[at:], step, &into[i])
		at += codeSize(c)
	}
}

func encode(r *row, step int64, to []byte) (byte, []byte) {
	first, constant, present := r[0], true, uint64(0)
	for i, v := range r {
		if v == v {
			present |= 1 << i
		}
		if math.Float64bits(v) != math.Float64bits(first) {
			constant = false
		}
	}
	if present == 0 {
		return codeEmpty, to
	}
	if constant {
		return codeConstant, binary.LittleEndian.AppendUint64(to, math.Float64bits(first))
	}
	if out, code, ok := encodeCounts(r, present, float64(step)/1000, to); ok {
		return code | scaledBit, out
	}
	if out, code, ok := encodeCounts(r, present, 1, to); ok {
		return code, out
	}
	for _, v := range r {
		to = binary.LittleEndian.AppendUint64(to, math.Float64bits(v))
	}
	return codeRaw, to
}

func encodeCounts(r *row, present uint64, scale float64, to []byte) ([]byte, byte, bool) {
	var counts [blockPoints]int64
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for i, v := range r {
		if v != v {
			continue
		}
		c := math.Round(v * scale)
		// Bit for bit, so that a negative zero is not taken for zero.
		if math.Abs(c) > 1<<52 || math.Float64bits(c/scale) != math.Float64bits(v) {
			return to, 0, false
		}
		counts[i] = int64(c)
		least, most = min(least, counts[i]), max(most, counts[i])
	}
	need := bits.Len64(uint64(most - least))
	w := 0
	for w < len(widths) && widths[w] < need {
		w++
	}
	if w == len(widths) {
		return to, 0, false
	}
	to = binary.LittleEndian.AppendUint64(to, present)
	to = binary.LittleEndian.AppendUint64(to, uint64(least))
	at, width := len(to), widths[w]
	to = append(to, make([]byte, (width*blockPoints+7)/8)...)
	for i := range counts {
		if present&(1<<i) == 0 {
			continue
		}
		more := uint64(counts[i] - least)
		for b := 0; b < width; b += 8 { // widths divide or are whole bytes, so that no number straddles one
			bit := i*width + b
			to[at+bit/8] |= byte(more>>b) << (bit % 8)
		}
	}
	return to, codeCounts + byte(w), true
}

func decode(code byte, from []byte, step int64, into *row) {
	switch code {
	case codeEmpty:
		*into = emptyRow
		return
	case codeConstant:
		v := math.Float64frombits(binary.LittleEndian.Uint64(from))
		for i := range into {
			into[i] = v
		}
		return
	case codeRaw:
		for i := range into {
			into[i] = math.Float64frombits(binary.LittleEndian.Uint64(from[8*i:]))
		}
		return
	}
	scale := 1.0
	if code&scaledBit != 0 {
		scale = float64(step) / 1000
	}
	width := widths[code&^scaledBit-codeCounts]
	present, least := binary.LittleEndian.Uint64(from), int64(binary.LittleEndian.Uint64(from[8:]))
	from = from[16:]
	mask := uint64(1)<<width - 1
	for i := range into {
		if present&(1<<i) == 0 {
			into[i] = math.NaN()
			continue
		}
		var more uint64
		bit := i * width
		switch {
		case width >= 8:
			for b := 0; b < width; b += 8 {
				more |= uint64(from[(bit+b)/8]) << b
			}
		case width > 0:
			more = uint64(from[bit/8]) >> (bit % 8) & mask
		}
		into[i] = float64(least+int64(more)) / scale
	}
}
