package origin

import (
	"io"
	"net/http"
	"testing"
)

func TestTrailersOfAnAnswerPassWhateverTheirNames(t *testing.T) {
	s := scripts(t, act{raw: "HTTP/1.1 200 OK\r\nX_head: 1\r\nTransfer-Encoding: chunked\r\nTrailer: x_trail, X-Trail\r\n\r\n2\r\nok\r\n0\r\nx_trail: 2\r\nX-Trail: 3\r\n\r\n"})
	r := newRig(t, nil, s.addr())
	req, err := http.NewRequest("GET", r.oneURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("TE", "trailers")
	resp, err := r.one.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if string(b) != "ok" || err != nil {
		t.Fatalf("got %q, %v", b, err)
	}
	if got := resp.Header.Get("X_head"); got != "1" {
		t.Errorf("X_head: got %q, want 1", got)
	}
	for name, want := range map[string]string{"X_trail": "2", "X-Trail": "3"} {
		if got := resp.Trailer.Get(name); got != want {
			t.Errorf("trailer %s: got %q, want %q; all: %v", name, got, want, resp.Trailer)
		}
	}
}
