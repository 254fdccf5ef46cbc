package registry

import (
	"strings"
	"testing"
	"testing/iotest"
)

func TestBodiesAreReadToTheirEndWhateverTheySayOfTheirLength(t *testing.T) {
	want := strings.Repeat("0123456789", 1000)
	for _, hint := range []int64{-1, 0, 10_000, 20_000} {
		got, err := readAll(iotest.OneByteReader(strings.NewReader(want)), hint)
		if err != nil || string(got) != want {
			t.Errorf("hint %d: got %d bytes, err %v; want %d", hint, len(got), err, len(want))
		}
	}
	if got := testing.AllocsPerRun(10, func() { readAll(strings.NewReader(want), 10_000) }); got > 2 {
		t.Errorf("reading what is announced allocates %v times, want once, and once for the reader", got)
	}
}
