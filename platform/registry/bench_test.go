package registry

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// filled returns a registry of n instances like the reference one, 20 to an application.
func filled(tb testing.TB, n int) *Registry {
	tb.Helper()
	r := New(Config{})
	for i := range n {
		rec, err := decodeJSON(golden(tb, "instance.json"))
		if err != nil {
			tb.Fatal(err)
		}
		rec.app, rec.id = fmt.Sprintf("APP%d", i/20), fmt.Sprintf("web-%d.internal:shop:8080", i)
		r.s.register(rec, origin{})
	}
	return r
}

// blackhole takes an answer and keeps nothing.
type blackhole struct {
	header http.Header
	status int
	bytes  int
}

func (b *blackhole) Header() http.Header         { return b.header }
func (b *blackhole) WriteHeader(status int)      { b.status = status }
func (b *blackhole) Write(p []byte) (int, error) { b.bytes += len(p); return len(p), nil }

func serve(b *testing.B, h http.Handler, req *http.Request, want int) int {
	w := &blackhole{header: make(http.Header, 8)}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		w.bytes = 0
		h.ServeHTTP(w, req)
	}
	if w.status != want {
		b.Fatalf("status: got %d, want %d", w.status, want)
	}
	return w.bytes
}

func BenchmarkRenew(b *testing.B) {
	r := filled(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if res, _ := r.s.renew(key{"APP7", "web-141.internal:shop:8080"}, origin{}, 0, unknown); res != done {
			b.Fatal(res)
		}
	}
}

// BenchmarkLook is a second of 100,000 instances that all renew: what the keeper does in it.
func BenchmarkLook(b *testing.B) {
	r := filled(b, 100_000)
	k := r.keep
	var all []*entry
	for _, a := range r.s.apps {
		all = append(all, a.order...)
	}
	now := int64(0)
	for i, e := range all { // renewals spread over 30 s
		e.lease.renewed.Store(int64(i%30) * int64(time.Second))
		r.s.wheel.put(e, e.lease.lateAt())
	}
	b.ReportAllocs()
	for b.Loop() {
		now += int64(time.Second)
		for i := int(now/int64(time.Second)) % 30; i < len(all); i += 30 {
			all[i].lease.renew(now, true)
		}
		if k.gather(now); len(k.silent) > 0 {
			b.Fatalf("%d are silent", len(k.silent))
		}
	}
}

func BenchmarkHeartbeatRequest(b *testing.B) {
	r := filled(b, 10_000)
	req := httptest.NewRequest("PUT", "/eureka/v2/apps/APP7/web-141.internal:shop:8080?status=UP&lastDirtyTimestamp=1759999999000", nil)
	serve(b, r.Handler(), req, 200)
}

func BenchmarkParsePath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if prefixes(nil).parse("/eureka/v2/apps/APP7/web-141.internal:shop:8080").what != oneInstance {
			b.Fatal("not understood")
		}
	}
}

func BenchmarkFullFetchOf10000(b *testing.B) {
	r := filled(b, 10_000)
	for _, enc := range []string{"", "gzip"} {
		b.Run("unchanged"+enc, func(b *testing.B) {
			req := httptest.NewRequest("GET", "/eureka/v2/apps/", nil)
			req.Header.Set("Accept", "application/json")
			req.Header.Set("Accept-Encoding", enc)
			b.SetBytes(int64(serve(b, r.Handler(), req, 200)))
		})
		b.Run("one change before each"+enc, func(b *testing.B) {
			req := httptest.NewRequest("GET", "/eureka/v2/apps/", nil)
			req.Header.Set("Accept", "application/json")
			req.Header.Set("Accept-Encoding", enc)
			w := &blackhole{header: make(http.Header, 8)}
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				r.s.setOverride(key{"APP7", "web-141.internal:shop:8080"}, []status{down, up}[n%2], 0, origin{})
				r.Handler().ServeHTTP(w, req)
			}
			b.SetBytes(int64(w.bytes / b.N))
		})
	}
}

func BenchmarkRegister(b *testing.B) {
	r := filled(b, 10_000)
	body := golden(b, "instance.json")
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		rec, err := decodeJSON(body)
		if err != nil {
			b.Fatal(err)
		}
		rec.app, rec.id = "NEW", "i"
		rec.home = []string{"a", "b"}[n%2]
		r.s.register(rec, origin{})
	}
}

func BenchmarkRender(b *testing.B) {
	r := shop()
	for name, fn := range map[string]func([]byte) []byte{
		"JSON":   func(buf []byte) []byte { return r.appendJSON(buf, shopTimes, false) },
		"XML":    func(buf []byte) []byte { return r.appendXML(buf, shopTimes, false, 0) },
		"native": func(buf []byte) []byte { return r.appendNative(buf, "eu") },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf = fn(buf[:0])
			}
			b.SetBytes(int64(len(buf)))
		})
	}
}

// BenchmarkMemoryPerInstance reports the resident bytes of one instance, without and with the rendered JSON.
func BenchmarkMemoryPerInstance(b *testing.B) {
	const n = 50_000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		r := filled(b, n)
		r.s.log = newChangeLog() // as when nothing changed for three minutes
		bare := heap()
		sn := r.s.current("")
		sn.full.parts(jsonFull)
		shown := heap()
		sn.full.gzipped(jsonFull)
		zipped := heap()
		b.ReportMetric(float64(bare-before)/n, "B/instance")
		b.ReportMetric(float64(shown-before)/n, "B/instance+json")
		b.ReportMetric(float64(zipped-before)/n, "B/instance+json+gzip")
		runtime.KeepAlive(r)
	}
}

func BenchmarkReadHead(b *testing.B) {
	in := []byte(beat)
	b.ReportAllocs()
	for b.Loop() {
		if _, what := readHead(in); what != plain {
			b.Fatal(what)
		}
	}
}

// BenchmarkOverLoopback is a client and the server on the same machine: what both need for one request.
func BenchmarkOverLoopback(b *testing.B) {
	r := filled(b, 10_000)
	heartbeat := strings.Replace(beat, "/WEB/h:web:80", "/APP7/web-141.internal:shop:8080", 1)
	delta := strings.Replace(look, "/apps/", "/apps/delta", 1)
	changed := New(Config{})
	changed.s.register(shop(), origin{})
	for _, bench := range []struct {
		name, request string
		r             *Registry
		fronted       bool
	}{
		{"heartbeat", heartbeat, r, true}, {"heartbeat by net/http", heartbeat, r, false},
		{"delta", delta, changed, true}, {"delta by net/http", delta, changed, false},
		{"list of 10000", look, r, true}, {"list of 10000 by net/http", look, r, false},
	} {
		b.Run(bench.name, func(b *testing.B) {
			srv := &http.Server{Handler: bench.r.Handler()}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			addr := l.Addr().String()
			if bench.fronted {
				l = bench.r.Front(srv, l, func(string, string) bool { return true })
			}
			done := make(chan error, 1)
			go func() { done <- srv.Serve(l) }()
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				in := bufio.NewReader(c)
				for pb.Next() {
					if _, err := c.Write([]byte(bench.request)); err != nil {
						b.Error(err)
						return
					}
					if err := readAnswer(in); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			srv.Close()
			<-done
		})
	}
}

// readAnswer reads one answer of status 200 whose length is said.
func readAnswer(in *bufio.Reader) error {
	length, first := 0, true
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("got %q", line)
		}
		first = false
		if n, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(n))); err != nil {
				return err
			}
		}
		if len(line) == 2 {
			_, err := in.Discard(length)
			return err
		}
	}
}
