package api_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/api"
)

func TestALineGoesOnAfterItsHandlerHasReturnedAndEndsWithItsClient(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		lines := make(chan *api.Line, 1)
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Here", "yes")
			l, err := api.OpenLine(w, r)
			if err != nil {
				t.Error(err)
				return
			}
			if !l.Write([]byte("data: 1\n\n")) {
				t.Error("the first event cannot be written")
			}
			lines <- l
			if !l.Free() {
				<-l.Gone()
			}
		}))
		srv.EnableHTTP2 = http2
		srv.StartTLS()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		l := <-lines
		if h := resp.Header; resp.StatusCode != 200 || h.Get("Content-Type") != "text/event-stream" || h.Get("X-Here") != "yes" || h.Get("Date") == "" || l.Free() == http2 {
			t.Errorf("HTTP/2 %v: got %s with %v, free %v; want 200, a stream with the handler's header, free unless it is HTTP/2", http2, resp.Status, h, l.Free())
		}
		if !http2 && !l.Write([]byte("data: 2\n\n")) {
			t.Error("an event cannot be written after the handler has returned")
		}
		in := bufio.NewReader(resp.Body)
		want := "data: 1\n\ndata: 2\n\n"
		if http2 {
			want = "data: 1\n\n"
		}
		var got strings.Builder
		for got.Len() < len(want) {
			text, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			got.WriteString(text)
		}
		if got.String() != want {
			t.Errorf("HTTP/2 %v: got %q, want %q", http2, got.String(), want)
		}
		resp.Body.Close()
		select {
		case <-l.Gone():
		case <-time.After(10 * time.Second):
			t.Errorf("HTTP/2 %v: the client left and the line does not say so", http2)
		}
		l.Close()
		srv.Close()
	}
}
