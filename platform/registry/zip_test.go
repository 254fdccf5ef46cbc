package registry

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// sameAsPlain checks that d is, compressed, one gzip member with the text that parts have.
func sameAsPlain(t interface{ Fatalf(string, ...any) }, d *document, c codec) {
	plain := document{version: d.version, hash: d.hash}
	for _, v := range d.views { // nothing that was rendered before
		plain.views = append(plain.views, &view{name: v.name, recs: v.recs, self: v.self, region: v.region})
	}
	want := bytes.Join(plain.parts(c), nil)
	in := bytes.NewReader(d.gzipped(c))
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatalf("codec %d: %v", c, err)
	}
	z.Multistream(false)
	got, err := io.ReadAll(z) // checks sum and size
	if err != nil || !bytes.Equal(got, want) || in.Len() != 0 {
		t.Fatalf("codec %d: inflated %d bytes of %d, %d left over, err %v", c, len(got), len(want), in.Len(), err)
	}
}

// crowded is an application of n instances that no other is like.
func crowded(name string, n, salt int) *view {
	v := &view{name: name}
	for i := range n {
		r := shop()
		r.app, r.home = name, fmt.Sprintf("http://%d-%d.internal/", salt, i*i)
		v.recs = append(v.recs, shown{r, int64(salt)})
	}
	return v
}

func TestDocumentsAreOneGzipMemberWhateverTheLastOneWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var past zips
		var views []*view
		salt := 0
		draw := func(name string) *view {
			salt++
			return crowded(name, rapid.SampledFrom([]int{0, 1, 2, 9, 40}).Draw(t, "instances"), salt)
		}
		for round := range rapid.IntRange(1, 5).Draw(t, "rounds") {
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				name := rapid.StringMatching(`[A-D]{1,2}`).Draw(t, "name")
				at, there := slices.BinarySearchFunc(views, name, func(v *view, n string) int { return strings.Compare(v.name, n) })
				views = slices.Clone(views)
				switch {
				case !there:
					views = slices.Insert(views, at, draw(name))
				case rapid.Bool().Draw(t, "gone"):
					views = slices.Delete(views, at, at+1)
				default:
					views[at] = draw(name)
				}
			}
			d := &document{version: 1, hash: fmt.Sprintf("UP_%d_", round), views: views, past: &past}
			for _, c := range []codec{jsonFull, jsonCompact, xmlFull, xmlCompact} {
				sameAsPlain(t, d, c)
			}
		}
	})
}

func TestAChangeCompressesOnlyWhatIsNearIt(t *testing.T) {
	var past zips
	var views []*view
	for i := range 20 {
		views = append(views, crowded(fmt.Sprintf("APP%02d", i), 12, i)) // 12 KB each
	}
	(&document{views: views, past: &past}).gzipped(jsonFull)

	views = slices.Clone(views)
	views[7] = crowded("APP07", 12, 99)
	d := &document{views: views, past: &past}
	want := bytes.Join(d.parts(jsonFull), nil)
	for i, v := range views { // whoever renders these anew gives something else
		v.blocks = [codecs]block{}
		if i < 3 || i > 11 {
			v.recs = nil
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(d.gzipped(jsonFull)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, want) {
		t.Errorf("err %v; got %d bytes, want the %d of before with one application changed", err, len(got), len(want))
	}
}

func TestDocumentsAreAsSmallAsIfCompressedInOneGo(t *testing.T) {
	d := &document{past: &zips{}}
	for i := range 50 {
		d.views = append(d.views, crowded(fmt.Sprintf("APP%02d", i), 5, i))
	}
	var whole bytes.Buffer
	z, err := gzip.NewWriterLevel(&whole, mostEffort)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(bytes.Join(d.parts(jsonFull), nil)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	const border = 150 // bytes that it may cost that each application can be taken out
	if got := len(d.gzipped(jsonFull)); got > whole.Len()+border*len(d.views) {
		t.Errorf("got %d bytes, want at most %d and %d for each of %d applications", got, whole.Len(), border, len(d.views))
	}
}
