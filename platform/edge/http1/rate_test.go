package http1

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// overPipe serves one connection in memory with those settings, and returns the client's end.
func overPipe(t *testing.T, set Settings, serve func(*filter.Exchange)) net.Conn {
	t.Helper()
	s := NewServer(Config{Serve: serve, Settings: set, Log: slog.New(slog.DiscardHandler)})
	near, far := net.Pipe()
	go func() {
		s.ServeConn(far, nil, nil)
		s.Drain(t.Context())
	}()
	return near
}

func TestAClientThatTakesItsAnswerTooSlowlyIsCutOff(t *testing.T) {
	for _, tt := range []struct {
		rate   int // allowed
		takes  int // a second
		cutOff bool
	}{{0, 100, true}, {0, 500, false}, {1000, 100, true}, {50, 100, false}} {
		synctest.Test(t, func(t *testing.T) {
			const size = 64 << 10
			c := overPipe(t, Settings{AnswerRate: tt.rate}, func(x *filter.Exchange) { x.Answer(200, strings.Repeat("x", size)) })
			defer c.Close()
			go io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			got, b := 0, make([]byte, tt.takes)
			var err error
			for got < size && err == nil {
				time.Sleep(time.Second)
				var n int
				n, err = c.Read(b)
				got += n
			}
			if cut := got < size; cut != tt.cutOff {
				t.Errorf("at least %d bytes a second, %d are taken: got %d of %d bytes, cut off: %t, want %t", max(tt.rate, minRate*(1-min(1, tt.rate))), tt.takes, got, size, cut, tt.cutOff)
			}
		})
	}
}

func TestABodyThatComesTooSlowlyIsRefused(t *testing.T) {
	for _, tt := range []struct {
		rate, sends, status int
	}{{0, 100, 408}, {0, 300, 200}, {1000, 300, 408}, {50, 100, 200}} {
		synctest.Test(t, func(t *testing.T) {
			c := overPipe(t, Settings{BodyRate: tt.rate}, func(x *filter.Exchange) {
				io.Copy(io.Discard, x.Request.Body)
				x.Answer(200, "")
			})
			var sending sync.WaitGroup
			defer sending.Wait()
			defer c.Close()
			sending.Go(func() {
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9000\r\n\r\n")
				part := strings.Repeat("x", tt.sends)
				for range 9000 / tt.sends {
					time.Sleep(time.Second)
					if _, err := io.WriteString(c, part); err != nil {
						return
					}
				}
			})
			b := make([]byte, 12)
			io.ReadFull(c, b)
			if got, want := string(b[9:]), map[int]string{200: "200", 408: "408"}[tt.status]; got != want {
				t.Errorf("at least %d bytes a second (0: 240), %d come: got %q, want %s", tt.rate, tt.sends, b, want)
			}
		})
	}
}

func TestABodyMayPauseOnceItsAnswerHasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := overPipe(t, Settings{}, func(x *filter.Exchange) { // it echoes
			x.Response = filter.Response{Status: 200, ContentLength: -1, Body: x.Request.Body}
		})
		defer c.Close()
		rd := bufio.NewReader(c)
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n")
		resp, err := http.ReadResponse(rd, nil)
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 5)
		for i := range 4 {
			time.Sleep(time.Minute)
			io.WriteString(c, "part\n")
			if _, err := io.ReadFull(resp.Body, part); string(part) != "part\n" {
				t.Fatalf("the %d. part after a minute's pause: got %q, %v", i+1, part, err)
			}
		}
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("at the end: got %q, %v", rest, err)
		}
	})
}

func TestAnAnswerThatIsDroppedOnceItIsWholeIsTheLastOfItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		served := 0
		var s *Server
		s = NewServer(Config{
			Serve: func(x *filter.Exchange) {
				served++
				x.Answer(200, "whole")
			},
			Finished: func(*filter.Exchange) {
				s.mu.Lock()
				defer s.mu.Unlock()
				for c := range s.conns {
					c.Drop()
				}
			},
			Log: slog.New(slog.DiscardHandler),
		})
		c, far := net.Pipe()
		defer c.Close()
		go func() {
			s.ServeConn(far, nil, nil)
			s.Drain(t.Context())
		}()
		go func() {
			for range 2 {
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			}
		}()
		got, err := io.ReadAll(c)
		if !strings.HasSuffix(string(got), "whole") || served != 1 {
			t.Errorf("got %q, %v and %d requests served; want one whole answer, and no request taken whose answer could not be written", got, err, served)
		}
	})
}
