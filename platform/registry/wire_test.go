package registry

import (
	"bytes"
	"testing"
)

func FuzzWireRecord(f *testing.F) {
	r := shop()
	r.stamp, r.base = 7, up
	f.Add(r.appendWire(nil))
	r.dcAmazon, r.dcMeta, r.meta, r.blank = true, []pair{{"instance-id", "i"}}, []pair{{"a", "1"}, {"zone", "z"}}, vipMember
	f.Add(r.appendWire(nil))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := wireReader{b: b}
		r, err := w.record()
		if err != nil {
			return
		}
		again := r.appendWire(nil)
		w = wireReader{b: again}
		back, err := w.record()
		if err != nil || len(w.b) != 0 || !bytes.Equal(back.appendWire(nil), again) || back.digest() != r.digest() {
			t.Errorf("record %+v written and read again: got %+v, %v", r, back, err)
		}
		s := newState("")
		s.merge(r, 0)
		checkState(t, s)
	})
}

func TestRecordsThatCannotBeAreRefusedOnTheWire(t *testing.T) {
	good := func() *record { r := shop(); r.base, r.stamp = up, 1; return r }
	w := wireReader{b: good().appendWire(nil)}
	if r, err := w.record(); err != nil || r.key() != shop().key() {
		t.Fatalf("a good record: got %+v, %v", r, err)
	}
	for name, alter := range map[string]func(*record){
		"no id":            func(r *record) { r.id = "" },
		"no host":          func(r *record) { r.host = "" },
		"no version":       func(r *record) { r.dirty = 0 },
		"no lease":         func(r *record) { r.duration = 0 },
		"port 70000":       func(r *record) { r.port.number = 70000 },
		"a status unknown": func(r *record) { r.base = 9 },
		"unsorted":         func(r *record) { r.meta = []pair{{"b", ""}, {"a", ""}} },
		"not UTF-8":        func(r *record) { r.home = "\xff" },
		"control in id":    func(r *record) { r.id = "a\nb" },
	} {
		r := good()
		alter(r)
		w := wireReader{b: r.appendWire(nil)}
		if got, err := w.record(); err == nil {
			t.Errorf("%s: got %+v, want it refused", name, got)
		}
	}
	for n := range good().appendWire(nil) {
		w := wireReader{b: good().appendWire(nil)[:n]}
		if got, err := w.record(); err == nil {
			t.Errorf("cut after %d bytes: got %+v, want it refused", n, got)
		}
	}
}

func BenchmarkWireRecord(b *testing.B) {
	r := shop()
	r.base = up
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = r.appendWire(buf[:0])
		w := wireReader{b: buf}
		if _, err := w.record(); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(buf)))
}
