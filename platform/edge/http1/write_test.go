package http1

import (
	"fmt"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

func TestAWrittenRequestIsReadAgain(t *testing.T) {
	var h filter.Header
	h.Add("Accept", "*/*")
	h.Add("Content-Length", "99")          // not the filters' to say
	h.Add("Transfer-Encoding", "identity") // neither
	h.Add("X-Split", "a\r\nX-Evil: b")     // must not become two
	h.Add("X Evil", "b")
	for _, c := range []struct {
		o       Outgoing
		upgrade string
		want    string
	}{
		{Outgoing{Method: "GET", Host: "a:80", Target: "/x?y", Header: &h}, "", `GET "a:80" "/x" "y" 11 0 [{Accept */*}]`},
		{Outgoing{Method: "POST", Host: "a", Target: "/", Header: &h, ContentLength: 3}, "", `POST "a" "/" "" 11 3 [{Accept */*}]`},
		{Outgoing{Method: "POST", Host: "a", Target: "/", Header: &h}, "", `POST "a" "/" "" 11 0 [{Accept */*}]`},
		{Outgoing{Method: "DELETE", Host: "a", Target: "/", Header: &h, ContentLength: -1}, "", `DELETE "a" "/" "" 11 -1 [{Accept */*}]`},
		{Outgoing{Method: "GET", Host: "a", Target: "/", Header: &h}, "websocket", `GET "a" "/" "" 11 0 [{Accept */*}]`},
	} {
		b := appendRequest(nil, &c.o, c.upgrade)
		x, _, n, r := parseRequest(string(b), testRules())
		if got := describe(x); r != nil || n != len(b) || got != c.want || x.Request.Upgrade != c.upgrade {
			t.Errorf("%q: got %s, %v, want %s", b, got, r, c.want)
		}
	}
}

func TestAStatusIsReadAgain(t *testing.T) {
	for status := 200; status < 1000; status++ {
		b := append(appendStatus(nil, status), "\r\n"...)
		if p, _, n, r := parseResponse(string(b), false); r != nil || n != len(b) || p.Status != status {
			t.Errorf("%q: got %d, %v", b, p.Status, r)
		}
	}
}

func TestWrittenChunksAreReadAgain(t *testing.T) {
	var trailer filter.Header
	trailer.Add("Grpc-Status", "0")
	trailer.Add("Content-Length", "5")
	b := append(appendChunkSize(nil, 26), "abcdefghijklmnopqrstuvwxyz\r\n"...)
	b = append(append(appendChunkSize(b, 1), 'x'), "\r\n"...)
	b = appendLastChunk(b, &trailer)
	body, got, rest, err := readChunks(b, testRules(), len(b))
	if string(body) != "abcdefghijklmnopqrstuvwxyzx" || fmt.Sprint(got.Fields()) != "[{Grpc-Status 0}]" || rest != 0 || err != nil {
		t.Errorf("%q: got %q, %v, %d, %v", b, body, got.Fields(), rest, err)
	}
}

func TestAFieldIsWrittenOnlyIfItIsReadAsOne(t *testing.T) {
	for c := range 256 {
		for _, at := range []int{0, 1, 6, 7, 8, 11, 15} {
			text := []byte("abcdefghijklmnop")
			text[at] = byte(c)
			for _, n := range []int{at + 1, 16} {
				if want := c > 0x20 && c < 0x7f && c != ':'; nameFit(string(text[:n])) && !want {
					t.Errorf("the name %q is written", text[:n])
				}
				if got, want := valueFit(string(text[:n])), c >= 0x20 && c != 0x7f || c == '\t'; got != want {
					t.Errorf("the value %q: written %v, want %v", text[:n], got, want)
				}
			}
		}
	}
	for c := range 256 {
		if name := "x" + string([]byte{byte(c)}) + "-abcdefghij"; class[c]&token != 0 && !nameFit(name) {
			t.Errorf("the name %q is not written", name)
		}
	}
}
