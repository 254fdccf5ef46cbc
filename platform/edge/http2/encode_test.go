package http2

import (
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
	"pgregory.net/rapid"
)

func TestEveryNameOfTheStaticTableIsFound(t *testing.T) {
	for i, name := range staticNames {
		if name == "" || name[0] == ':' {
			continue
		}
		for _, n := range []string{name, strings.ToUpper(name)} {
			if got := staticIndex(n); got != i {
				t.Errorf("%s: got index %d, want %d", n, got, i)
			}
		}
		// The table is what hpack has, too.
		all, err := hpack.NewDecoder(4096, nil).DecodeFull(appendLiteral(nil, notIndexed, i, name, "v"))
		if err != nil || len(all) != 1 || all[0].Name != name {
			t.Errorf("index %d is %v, %v to hpack, want %s", i, all, err, name)
		}
	}
}

// TestFieldsAreDecodedAsTheyWereMeant writes heads one after the other, over a table whose size the other side changes, and
// from one buffer that is used again, and has hpack read them.
func TestFieldsAreDecodedAsTheyWereMeant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := &encoder{most: tableSize}
		dec := hpack.NewDecoder(4096, nil)
		names := rapid.SampledFrom([]string{"Content-Type", "server", "x-a", "X-Request-Id", "set-cookie", "Date", "vary", "x-b", "cache-control"})
		values := rapid.OneOf(rapid.SampledFrom([]string{"", "a", "text/html", "max-age=60"}), rapid.StringMatching(`[ -~]{0,40}`), rapid.Just(strings.Repeat("v", 300)))
		var mem []byte
		for range rapid.IntRange(1, 60).Draw(t, "heads") {
			if rapid.IntRange(0, 9).Draw(t, "resize") == 0 {
				for range rapid.IntRange(1, 2).Draw(t, "times") {
					e.limit(rapid.SampledFrom([]int{0, 64, 100, 500, 4096, 9000}).Draw(t, "size"))
				}
				dec.SetAllowedMaxDynamicTableSize(4096)
			}
			b := e.begin(nil)
			status := rapid.SampledFrom([]int{200, 204, 206, 304, 400, 404, 500, 103, 503}).Draw(t, "status")
			b = e.status(b, status)
			var want []string
			mem = mem[:0]
			for range rapid.IntRange(0, 8).Draw(t, "fields") {
				name, value := names.Draw(t, "name"), values.Draw(t, "value")
				mem = append(append(mem[:0], name...), value...)
				b = e.field(b, view(mem[:len(name)]), view(mem[len(name):]))
				want = append(want, strings.ToLower(name)+": "+value)
				for i := range mem {
					mem[i] = '!' // nobody may look there any more
				}
			}
			b = e.length(b, int64(len(want)))
			all, err := dec.DecodeFull(b)
			if err != nil {
				t.Fatalf("% x: %v", b, err)
			}
			var got []string
			for _, f := range all[1 : len(all)-1] {
				got = append(got, f.Name+": "+f.Value)
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") || len(all[0].Value) != 3 || all[len(all)-1].Name != "content-length" {
				t.Fatalf("got %q %q, want %q", all[0], got, want)
			}
		}
	})
}

func TestWhatRepeatsTakesAByte(t *testing.T) {
	e := &encoder{most: tableSize}
	for i := range 3 {
		b := e.field(nil, "X-Long-Name", "a long value")
		if i == 2 && len(b) != 1 {
			t.Errorf("the third time it takes %d bytes, want 1", len(b))
		}
	}
	for range 5 {
		if b := e.field(nil, "Set-Cookie", "session=secret"); b[0]&0xf0 != neverIndexed {
			t.Errorf("a cookie is % x, want it never indexed", b)
		}
	}
}

func TestAFieldThatCannotBeReadIsLeftOut(t *testing.T) {
	e := &encoder{most: tableSize}
	for _, f := range [][2]string{{"", "v"}, {"a b", "v"}, {"a", "v\r\nb: c"}, {"a", "\x00"}} {
		if b := e.field(nil, f[0], f[1]); len(b) != 0 {
			t.Errorf("%q: %q was written", f[0], f[1])
		}
	}
}
