package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attacker asks from addresses of this machine, and reads no answers.
type attacker struct {
	to      string
	asked   atomic.Int64
	begun   atomic.Int64 // answers
	running sync.WaitGroup
}

func (a *attacker) dial(from string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", a.to)
	if err == nil {
		c.(*net.TCPConn).SetReadBuffer(4 << 10) //nolint:errcheck // a wish
	}
	return c, err
}

// byHTTP1 asks again and again from an address, on a connection each, and on another one once that was cut.
func (a *attacker) byHTTP1(ctx context.Context, from string, conns int) {
	for range conns {
		a.running.Go(func() {
			for ctx.Err() == nil {
				c, err := a.dial(from)
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				end := context.AfterFunc(ctx, func() { c.Close() })
				io.WriteString(c, "GET /hello/large HTTP/1.1\r\nHost: edge\r\n\r\n") //nolint:errcheck // it shows when it is read
				a.asked.Add(1)
				head := make([]byte, 12)
				if _, err := io.ReadFull(c, head); err == nil && string(head) == "HTTP/1.1 200" {
					a.begun.Add(1)
					for ctx.Err() == nil { // until it is cut
						time.Sleep(50 * time.Millisecond)
						if _, err := c.Write([]byte("\r\n")[:1]); err != nil {
							break
						}
					}
				}
				end()
				c.Close()
				time.Sleep(20 * time.Millisecond) // else all there is of the processor would go into this
			}
		})
	}
}

// byHTTP2 asks for as many streams as it may at once, with windows of nothing, and for another one whenever one ends.
func (a *attacker) byHTTP2(ctx context.Context, from string, streams int) {
	a.running.Go(func() {
		for ctx.Err() == nil {
			c, err := a.dial(from)
			if err != nil {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			end := context.AfterFunc(ctx, func() { c.Close() })
			io.WriteString(c, xhttp2.ClientPreface) //nolint:errcheck // it shows when it is read
			fr := xhttp2.NewFramer(c, c)
			fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 0}) //nolint:errcheck // as above
			var block bytes.Buffer
			enc, id := hpack.NewEncoder(&block), uint32(1)
			ask := func() {
				block.Reset()
				for _, f := range []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "edge"}, {Name: ":path", Value: "/hello/large"}} {
					enc.WriteField(f) //nolint:errcheck // to memory
				}
				fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}) //nolint:errcheck // as above
				a.asked.Add(1)
				id += 2
			}
			for range streams {
				ask()
			}
			for {
				f, err := fr.ReadFrame()
				if err != nil {
					break
				}
				switch f := f.(type) {
				case *xhttp2.RSTStreamFrame:
					ask()
				case *xhttp2.HeadersFrame:
					if f.StreamEnded() {
						ask()
					} else {
						a.begun.Add(1)
					}
				case *xhttp2.DataFrame:
					if f.StreamEnded() {
						ask()
					}
				case *xhttp2.SettingsFrame:
					if !f.IsAck() {
						fr.WriteSettingsAck() //nolint:errcheck // as above
					}
				}
			}
			end()
			c.Close()
		}
	})
}

// Ten addresses that read nothing ask for as much as they can, by HTTP/1.1 and by HTTP/2, and again whenever they are cut off.
func TestAHealthyClientIsServedWhileTenAddressesThatReadNothingHoldAllPlaces(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		t.Run(protocol, func(t *testing.T) {
			const places = 50
			props := config.New(config.Options{Log: slog.New(slog.DiscardHandler), Override: map[string]string{
				"zuul.origin.hello.concurrency.max.requests": fmt.Sprint(places), "hello.ribbon.ReceiveBufferSize": "16384", "hello.ribbon.ConnectTimeout": "30000", "edge.timeouts.request": "1m",
				"edge.shed.enabled": "false", "edge.priority.vital": "GET /hello/small CRITICAL",
			}})
			part := make([]byte, 64<<10)
			h := newHouseWith(t, props, map[string]http.Handler{"hello": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/large" {
					io.WriteString(w, "fine") //nolint:errcheck // the client's business
					return
				}
				for {
					if _, err := w.Write(part); err != nil {
						return
					}
				}
			})})
			d, err := h.Door(DoorConfig{Name: "http"})
			if err != nil {
				t.Fatal(err)
			}
			h.begun.Do(func() { close(h.ready) })
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var door sync.WaitGroup
			door.Go(func() { d.Run(ctx, l, nil) }) //nolint:errcheck // it tells of what is cut
			a := &attacker{to: l.Addr().String()}
			attack, stop := context.WithCancel(context.Background())
			t.Cleanup(func() { stop(); a.running.Wait(); cancel(); door.Wait() })
			for i := range 10 {
				from := fmt.Sprintf("127.0.0.%d", 10+i)
				if protocol == "HTTP/2" {
					a.byHTTP2(attack, from, 10)
				} else {
					a.byHTTP1(attack, from, 10)
				}
			}
			stalled := func() int {
				for _, o := range h.origins.Origins() {
					if o.App == "hello" {
						return o.Stalled
					}
				}
				return 0
			}
			for end := time.Now().Add(time.Minute); stalled() < places*9/10; time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%d of %d answers have begun and keep waiting, want %d", stalled(), a.begun.Load(), places)
				}
			}
			protocols := new(http.Protocols)
			protocols.SetHTTP1(true)
			if protocol == "HTTP/2" {
				protocols.SetHTTP1(false)
				protocols.SetUnencryptedHTTP2(true)
			}
			client := &http.Client{Transport: &http.Transport{Protocols: protocols}, Timeout: time.Minute}
			defer client.CloseIdleConnections()
			url, slowest := "http://"+l.Addr().String()+"/hello/small", time.Duration(0)
			for i := range 30 {
				began := time.Now()
				resp, err := client.Get(url)
				if err != nil {
					t.Fatalf("request %d of a healthy client: %v", i+1, err)
				}
				body, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "fine" {
					t.Fatalf("request %d of a healthy client: got %d %q, want 200 fine; breaker %s", i+1, resp.StatusCode, body, h.Origins()[0].Breaker)
				}
				slowest = max(slowest, time.Since(began))
			}
			stop()
			a.running.Wait()
			t.Logf("the slowest of 30 healthy requests took %v, beside %d of ten attackers", slowest.Round(time.Millisecond), a.asked.Load())
			if got := h.Origins()[0].Breaker; got != "CLOSED" {
				t.Errorf("the breaker is %s, want CLOSED: what finds no place is no failure of the app's", got)
			}
			if got := h.meter.Counter("edge.origin.client.stalled", "id", "hello").Count(); got == 0 {
				t.Error("edge.origin.client.stalled: got 0, want the answers that were ended")
			}
			why, _ := h.calls.Why("hello", 1000)
			if !slices.ContainsFunc(why.Calls, func(c ipc.Explanation) bool { return strings.Contains(c.Broke, "others wanted its place") }) {
				t.Error("why tells of none of the answers that were ended")
			}
			said := false
			for _, line := range h.access.Latest(512) {
				var l struct{ Category, Error string }
				if err := json.Unmarshal(line, &l); err != nil {
					t.Fatal(err)
				}
				said = said || l.Category == "FAILURE_CLIENT_STALLED" && strings.Contains(l.Error, "others wanted its place")
			}
			if !said {
				t.Error("no line of the access log has FAILURE_CLIENT_STALLED and says why")
			}
		})
	}
}
