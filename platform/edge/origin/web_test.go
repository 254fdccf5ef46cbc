package origin

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"pgregory.net/rapid"
)

func TestTextOfGRPCWebIsReadHoweverItIsSplitAndPadded(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var want []byte
		text := ""
		for _, piece := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 9000)).Draw(rt, "pieces") { // each may be padded
			want = append(want, piece...)
			text += base64.StdEncoding.EncodeToString(piece)
		}
		var r io.Reader = strings.NewReader(text)
		if rapid.Bool().Draw(rt, "one by one") {
			r = iotest.OneByteReader(r)
		}
		if got, err := io.ReadAll(webText.decode(r)); err != nil || !bytes.Equal(got, want) {
			rt.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
		}
	})
	if _, err := io.ReadAll(webText.decode(strings.NewReader("AAAA="))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("text that breaks off: got %v", err)
	}
}

func FuzzWebText(f *testing.F) {
	f.Add([]byte("AAAAAANhYmM="))
	f.Add([]byte("AA==AAAA"))
	f.Add([]byte("A===!\r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		whole, err := io.ReadAll(webText.decode(bytes.NewReader(text)))
		split, serr := io.ReadAll(webText.decode(iotest.OneByteReader(bytes.NewReader(text))))
		if !bytes.Equal(whole, split) || (err == nil) != (serr == nil) {
			t.Errorf("%q: at once %q %v, byte by byte %q %v", text, whole, err, split, serr)
		}
		if err != nil {
			return
		}
		again, err := io.ReadAll(webText.decode(strings.NewReader(base64.StdEncoding.EncodeToString(whole))))
		if err != nil || !bytes.Equal(again, whole) {
			t.Errorf("%q: what was read, written again, is read as %q %v", text, again, err)
		}
	})
}

func TestConnectionTakesAwayWhatItNamesAndNoMore(t *testing.T) {
	for _, c := range []struct{ connection, left string }{
		{"close", "Host2,Cookie,X-Mine,X-Forwarded-For,X-Own"},
		{"x-mine", "Host2,Cookie,X-Forwarded-For,X-Own"},
		{"keep-alive, X-MINE ,x-own", "Host2,Cookie,X-Forwarded-For"},
		{"cookie, x-forwarded-for, content-length, host, authorization, via", "Host2,Cookie,X-Mine,X-Forwarded-For,X-Own"},
		{",, ,", "Host2,Cookie,X-Mine,X-Forwarded-For,X-Own"},
		{"host2", "Host2,Cookie,X-Mine,X-Forwarded-For,X-Own"}, // protected by property
	} {
		var h filter.Header
		h.Add("Connection", c.connection)
		for _, k := range []string{"Host2", "Cookie", "X-Mine", "X-Forwarded-For", "X-Own"} {
			h.Add(k, "1")
		}
		onward(&h, []string{"Host2"})
		var left []string
		for _, f := range h.Fields() {
			left = append(left, f.Name)
		}
		if got := strings.Join(left, ","); got != c.left {
			t.Errorf("Connection: %s: left are %s, want %s", c.connection, got, c.left)
		}
		if slices.Contains(left, "Connection") {
			t.Errorf("Connection: %s is passed on", c.connection)
		}
	}
}
