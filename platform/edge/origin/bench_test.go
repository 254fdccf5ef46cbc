package origin

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// echo is an origin that answers every request without a body alike, and allocates nothing.
func echo(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				t.Cleanup(func() { c.Close() })
				answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\nServer: test\r\n\r\n"), bytes.Repeat([]byte("x"), 1024)...)
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// proxied returns what has one GET proxied.
func proxied(t testing.TB) func() {
	e := ipc.New(ipc.Options{App: "edge", Lists: byApp{"app": {instance("app", echo(t))}}, Log: silent, Meter: meter.New(nil)})
	t.Cleanup(e.Close)
	p := New(Config{Calls: e, Properties: config.New(config.Options{Log: silent}), Meter: meter.New(nil), Log: silent})
	t.Cleanup(p.Close)
	x := &filter.Exchange{Client: &filter.Client{}}
	plan := &filter.Plan{Route: "r"}
	return func() {
		q := &x.Request
		q.Method, q.Target, q.Path, q.Host, q.Scheme, q.Proto = "GET", "/titles/popular?country=FR", "/titles/popular", "shop.example", "http", 11
		q.RawQuery = "country=FR"
		for _, f := range [...]filter.Field{
			{Name: "Accept", Value: "*/*"}, {Name: "Accept-Encoding", Value: "gzip"}, {Name: "User-Agent", Value: "wrk"}, {Name: "Cookie", Value: "a=b; c=d"},
			{Name: "Accept-Language", Value: "fr"}, {Name: "X-Forwarded-For", Value: "192.0.2.1"}, {Name: "X-Forwarded-Proto", Value: "http"}, {Name: "X-Request-Id", Value: "01j8x3y4z5a6b7c8d9e0f1g2"},
		} {
			q.Header.Add(f.Name, f.Value)
		}
		x.ID, x.App, x.Plan, x.Deadline = "01j8x3y4z5a6b7c8d9e0f1g2", "app", plan, filter.Now()+int64(time.Minute)
		if err := p.Apply(x); err != nil {
			t.Fatal(err)
		}
		if b := x.Response.Body.(interface{ Buffered() []byte }).Buffered(); x.Response.Status != 200 || len(b) != 1024 {
			t.Fatalf("got %d with %d bytes", x.Response.Status, len(b))
		}
		x.End()
		x.Reset()
	}
}

func TestAPlainRequestOverAKeptConnectionAllocatesNothing(t *testing.T) {
	once := proxied(t)
	for range 300 {
		once()
	}
	if got := testing.AllocsPerRun(500, once); got != 0 && !raceEnabled {
		t.Errorf("a proxied GET allocates %v times, want 0", got)
	}
}

func BenchmarkApply(b *testing.B) {
	once := proxied(b)
	for range 300 {
		once()
	}
	b.ReportAllocs()
	for b.Loop() {
		once()
	}
}
