package http2

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"golang.org/x/net/http2/hpack"
)

// asker is a client that asks the same again and again, many streams at once, and looks at nothing but the ends of answers.
type asker struct {
	nc    net.Conn
	block []byte
	next  uint32
	out   []byte
	in    []byte
	have  int
}

func newAsker(t testing.TB, addr string) *asker {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	a := &asker{nc: nc, next: 1, in: make([]byte, 64<<10)}
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for range 2 { // the second one takes a few bytes, as of a client that has asked before
		b.Reset()
		for _, f := range usual(field{Name: "user-agent", Value: "bench/1.0"}, field{Name: "accept", Value: "*/*"}) {
			enc.WriteField(f)
		}
		if a.block == nil {
			a.out = append(append(append(a.out, preface...), appendSettings(nil)...), appendWindowUpdate(nil, 0, 1<<30)...)
			a.out = append(appendFrame(a.out, b.Len(), frameHeaders, flagEndHeaders|flagEndStream, 1), b.Bytes()...)
		}
		a.block = append([]byte(nil), b.Bytes()...)
	}
	a.next = 3
	a.flush(t)
	a.await(t, 1)
	return a
}

func (a *asker) flush(t testing.TB) {
	if _, err := a.nc.Write(a.out); err != nil {
		t.Fatal(err)
	}
	a.out = a.out[:0]
}

func (a *asker) ask() {
	a.out = append(appendFrame(a.out, len(a.block), frameHeaders, flagEndHeaders|flagEndStream, a.next), a.block...)
	a.next += 2
}

// await reads until n streams have ended.
func (a *asker) await(t testing.TB, n int) {
	for n > 0 {
		k, err := a.nc.Read(a.in[a.have:])
		if err != nil {
			t.Fatal(err)
		}
		b := a.in[:a.have+k]
		for len(b) >= frameHead {
			f := readFrame(b)
			if len(b) < frameHead+f.length {
				break
			}
			if f.kind <= frameHeaders && f.has(flagEndStream) {
				n--
			}
			b = b[frameHead+f.length:]
		}
		a.have = copy(a.in, b)
	}
}

func answer(x *filter.Exchange) {
	x.Answer(200, "hello, world\n")
	x.Response.Header.Add("Server", "roadbed")
	x.Response.Header.Add("Cache-Control", "no-cache")
	x.Response.Header.Add("X-Request-Id", "0123456789abcdef")
}

func forever() Config {
	c := Config{Serve: answer}
	c.Requests = 1 << 30
	return c
}

func TestARequestCostsNoAllocation(t *testing.T) {
	if raceEnabled {
		return
	}
	addr, _ := front(t, forever())
	a := newAsker(t, addr)
	for _, streams := range []int{1, 10} {
		round := func() {
			for range streams {
				a.ask()
			}
			a.flush(t)
			a.await(t, streams)
		}
		for range 200 {
			round()
		}
		if n := testing.AllocsPerRun(500, round); n > 0.5 {
			t.Errorf("%d streams at once: %.2f allocations, want none", streams, n)
		}
	}
}

// BenchmarkServer is one request after the other on one connection.
func BenchmarkServer(b *testing.B) { benchmark(b, 1) }

// BenchmarkServerTen is ten streams at once.
func BenchmarkServerTen(b *testing.B) { benchmark(b, 10) }

func benchmark(b *testing.B, streams int) {
	addr, _ := front(b, forever())
	a := newAsker(b, addr)
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; done += streams {
		for range streams {
			a.ask()
		}
		a.flush(b)
		a.await(b, streams)
	}
}

// BenchmarkUpload is a body of 1 MiB, which is read.
func BenchmarkUpload(b *testing.B) {
	c := forever()
	c.Serve = func(x *filter.Exchange) {
		io.Copy(io.Discard, x.Request.Body)
		x.Answer(200, "")
	}
	addr, _ := front(b, c)
	client := goClient(b)
	body := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	for b.Loop() {
		req, err := http.NewRequest("POST", "http://"+addr, bytes.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		resp.Body.Close()
	}
}
