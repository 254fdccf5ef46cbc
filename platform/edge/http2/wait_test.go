package http2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	xhttp2 "golang.org/x/net/http2"
)

// slowly serves one connection, whose writes take so long once the client says, within a bubble of synctest. The client's
// windows are wide open.
func slowly(t *testing.T, takes time.Duration, c Config, client func(slower func(), p *player)) {
	synctest.Test(t, func(t *testing.T) {
		c.Log = slog.New(slog.DiscardHandler)
		s := NewServer(c)
		near, far := pipe()
		nc := &slow{Conn: far}
		var all sync.WaitGroup
		all.Go(func() { s.ServeConn(nc, &filter.Client{}, nil) })
		p := playOn(t, near)
		p.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 1 << 30})
		p.fr.WriteWindowUpdate(0, 1<<30)
		synctest.Wait()
		client(func() { nc.takes.Store(int64(takes)) }, p)
		near.Close()
		time.Sleep(2 * takes) // who writes still finds it closed
		all.Wait()
		s.Drain(context.Background())
	})
}

func TestTheEndOfASmallRequestDoesNotWaitForALargeAnswer(t *testing.T) {
	const size = 10 << 20
	var release chan struct{}
	var small, large time.Time
	slowly(t, time.Second, Config{
		Serve: func(x *filter.Exchange) {
			if x.Request.Path != "/large" {
				x.Answer(200, "")
				return
			}
			<-release
			x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, size, io.NopCloser(zeros{})
		},
		Finished: func(x *filter.Exchange) {
			if x.Request.Path == "/large" {
				large = time.Now()
			} else {
				small = time.Now()
			}
		},
	}, func(slower func(), p *player) {
		release = make(chan struct{})
		p.ask(1, true, usual(field{Name: ":path", Value: "/large"}))
		synctest.Wait()
		slower()
		p.ask(3, true, usual())
		synctest.Wait() // who serves that one is writing
		close(release)
		began := time.Now()
		if got := p.await(1); got.String() != "200" || len(got.body) != size {
			t.Fatalf("the large answer: got %v and %d bytes, want 200 and %d", got, len(got.body), size)
		}
		synctest.Wait()
		if s, l := small.Sub(began), large.Sub(began); s > 10*time.Second || l < 30*time.Second {
			t.Errorf("the small request was over after %v, the large one after %v, want the small one's within 10s, and the other long behind", s, l)
		}
	})
}

func TestWhoWaitsForRoomIsWokenUpByWhatEndsTheWait(t *testing.T) {
	var stuck, gave chan struct{}
	var wrote error
	takeover := func(do func(c net.Conn)) func(x *filter.Exchange) {
		return func(x *filter.Exchange) {
			x.Response.Status = 101
			x.Response.Takeover = func(c net.Conn, _ []byte) {
				<-stuck
				do(c)
				_, wrote = c.Write(make([]byte, 1<<20))
				close(gave)
			}
		}
	}
	for _, tt := range []struct {
		name  string
		serve func(x *filter.Exchange)
		end   func(p *player)
		want  error
	}{
		{"an answer's stream is reset", nil, func(p *player) { p.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, errReset},
		{"a WebSocket's stream is reset", takeover(func(net.Conn) {}), func(p *player) { p.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel) }, errReset},
		{"a deadline comes", takeover(func(c net.Conn) { c.SetWriteDeadline(time.Now().Add(time.Second)) }), func(*player) {}, os.ErrDeadlineExceeded},
		{"it is closed", takeover(func(c net.Conn) { time.AfterFunc(time.Second, func() { c.Close() }) }), func(*player) {}, net.ErrClosed},
	} {
		slowly(t, time.Hour, Config{
			Serve: func(x *filter.Exchange) {
				switch {
				case x.Request.Path == "/first":
					x.Answer(200, "")
				case tt.serve != nil:
					tt.serve(x)
				default:
					<-stuck
					x.Response.Status, x.Response.ContentLength, x.Response.Body = 200, 1<<30, io.NopCloser(zeros{})
				}
			},
			Finished: func(x *filter.Exchange) {
				if x.Request.Path != "/first" && tt.serve == nil {
					wrote = x.Err
					close(gave)
				}
			},
		}, func(slower func(), p *player) {
			stuck, gave = make(chan struct{}), make(chan struct{})
			fields := usual()
			if tt.serve != nil {
				fields = append([]field{{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"}}, fields[1:]...)
			}
			p.ask(1, tt.serve == nil, fields)
			synctest.Wait()
			slower()
			p.ask(3, true, usual(field{Name: ":path", Value: "/first"}))
			synctest.Wait() // its answer is being written
			close(stuck)
			synctest.Wait()
			tt.end(p)
			select {
			case <-gave:
				if !errors.Is(wrote, tt.want) {
					t.Errorf("%s: got %v, want %v", tt.name, wrote, tt.want)
				}
			case <-time.After(5 * time.Second):
				t.Errorf("%s: who writes waits on after 5s", tt.name)
			}
		})
	}
}

func TestInformationalAnswersAreDroppedOnceMuchWaitsToBeWritten(t *testing.T) {
	const each, n = 20 << 10, 100
	var release chan struct{}
	slowly(t, 5*time.Second, Config{Serve: func(x *filter.Exchange) {
		if x.Request.Path == "/first" {
			x.Answer(200, "")
			return
		}
		<-release
		var h filter.Header
		h.Add("Link", string(bytes.Repeat([]byte("x"), each)))
		for range n {
			x.Interim(103, &h)
		}
		x.Answer(200, "")
	}}, func(slower func(), p *player) {
		release = make(chan struct{})
		p.ask(1, true, usual())
		synctest.Wait()
		slower()
		p.ask(3, true, usual(field{Name: ":path", Value: "/first"}))
		synctest.Wait()
		close(release)
		got := p.await(1)
		if got.String() != "200" || len(got.interim) == 0 || len(got.interim) > outHigh/each+1 {
			t.Errorf("got %v behind %d informational answers, want 200 behind 1 to %d", got, len(got.interim), outHigh/each+1)
		}
	})
}

func TestWhoPassesAnInformationalAnswerOnDoesNotWaitForTheClient(t *testing.T) {
	var release chan struct{}
	var took time.Duration
	slowly(t, 5*time.Second, Config{Serve: func(x *filter.Exchange) {
		<-release
		var h filter.Header
		h.Add("Link", "</a.css>; rel=preload")
		began := time.Now()
		x.Interim(103, &h)
		took = time.Since(began)
		x.Answer(200, "")
	}}, func(slower func(), p *player) {
		release = make(chan struct{})
		p.ask(1, true, usual())
		synctest.Wait()
		slower()
		close(release)
		if got := p.await(1); got.String() != "200" || len(got.interim) != 1 || took != 0 {
			t.Errorf("got %v behind %v, which took %v, want 200 behind 103, which took no time", got, got.interim, took)
		}
	})
}

func TestAnAnswerWhoseStatusIsNotFinalIs502(t *testing.T) {
	for _, status := range []int{101, 103} {
		addr, _ := front(t, Config{Serve: func(x *filter.Exchange) { x.Response.Status = status }})
		p := play(t, addr)
		p.ask(1, true, usual())
		if got := p.await(1); got.String() != "502" || len(got.interim) > 0 {
			t.Errorf("%d: got %v and %v, want 502", status, got, got.interim)
		}
	}
}

func TestWhoDoesNotKnowYetHowManyStreamsAreTooManyIsNotCutOff(t *testing.T) {
	for _, tt := range []struct {
		name string
		know func(p *player)
	}{
		{"SETTINGS are acknowledged", func(p *player) { p.fr.WriteSettingsAck() }},
		{"they should have been", func(*player) { time.Sleep(heardWithin + time.Second) }},
	} {
		var release chan struct{}
		bubble(t, Config{Serve: func(x *filter.Exchange) { <-release; x.Answer(200, "") }}, func(_ *Server, p *player) {
			release = make(chan struct{})
			id := uint32(1)
			beyond := func() (last string) {
				for range streamsMost + faultsMost + 100 {
					p.ask(id, true, usual())
					id += 2
				}
				synctest.Wait()
				for last = ""; ; {
					f, err := p.fr.ReadFrame()
					if err != nil {
						return err.Error()
					}
					switch f := f.(type) {
					case *xhttp2.GoAwayFrame:
						return f.ErrCode.String()
					case *xhttp2.RSTStreamFrame:
						if f.StreamID == id-2 {
							return f.ErrCode.String()
						}
					}
				}
			}
			if got := beyond(); got != "REFUSED_STREAM" {
				t.Errorf("before %s: got %s, want REFUSED_STREAM", tt.name, got)
			}
			tt.know(p)
			if got := beyond(); got != "ENHANCE_YOUR_CALM" {
				t.Errorf("once %s: got %s, want ENHANCE_YOUR_CALM", tt.name, got)
			}
			close(release)
		})
	}
}
