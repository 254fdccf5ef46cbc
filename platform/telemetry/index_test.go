package telemetry

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed/platform/telemetry/asl"
)

func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// TestIndexFindsWhatTheQueryMeans holds the index against a plain list of tags while series come and go.
func TestIndexFindsWhatTheQueryMeans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := newIndex()
		model := map[uint32]map[string]string{}
		text := rapid.SampledFrom([]string{"aa", "ab", "ba", "name", "c1", "c2"})
		query := func() string {
			q := rapid.SampledFrom([]string{"%s,:has", "%s,%s,:eq", "%s,%s,:lt", "%s,%s,:le", "%s,%s,:gt", "%s,%s,:ge", "%s,%s,:re", "%s,%s,:reic",
				"%s,(,%s,aa,c1,),:in", "%s,%s,:contains", "%s,%s,:starts", "%s,%s,:ends", ":true", ":false"}).Draw(t, "query")
			args := make([]any, strings.Count(q, "%s"))
			for i := range args {
				args[i] = text.Draw(t, "text")
			}
			return fmt.Sprintf(q, args...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				tags := rapid.MapOfN(text, text, 1, 4).Draw(t, "tags")
				p, slot := x.find(sorted(tags))
				n := uint32(slices.Index(x.pages, p)*pageSize + slot)
				if have, ok := model[n]; ok && fmt.Sprint(have) != fmt.Sprint(tags) {
					t.Fatalf("series %d is %v and %v", n, have, tags)
				}
				model[n] = tags
			},
			"remove": func(t *rapid.T) {
				var gone []uint32
				for n := range model {
					if rapid.Bool().Draw(t, "gone") {
						gone = append(gone, n)
						delete(model, n)
					}
				}
				slices.Sort(gone)
				x.remove(gone)
			},
			"": func(t *rapid.T) {
				p := query()
				for range rapid.IntRange(0, 3).Draw(t, "more") {
					switch rapid.IntRange(0, 2).Draw(t, "how") {
					case 0:
						p += ",:not"
					case 1:
						p += "," + query() + ",:and"
					case 2:
						p += "," + query() + ",:or"
					}
				}
				q, err := asl.ParseQuery(p)
				if err != nil {
					t.Fatal(err)
				}
				var want []uint32
				for n, tags := range model {
					if q.Match(tags) {
						want = append(want, n)
					}
				}
				slices.Sort(want)
				if got := x.match(q); !slices.Equal(got, want) {
					t.Fatalf("%s: got %v, want %v of %v", p, got, want, model)
				}
			},
		})
	})
}

func TestQueriesAndPublishesGoOnTogether(t *testing.T) {
	s := New(Config{})
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := range 60 {
				var points []string
				for j := range 40 {
					points = append(points, fmt.Sprintf("name=metric%d i=%d -> 1", j, i%20))
				}
				code, answer := post(t, s, strings.ReplaceAll(body(fmt.Sprintf("nf.node=n%d", g), time.Now(), points...), `"i"`, `"ii"`))
				if code != 200 {
					t.Errorf("publish: got %d %s", code, answer)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 40 {
				for _, q := range []string{":true,(,nf.node,),:by", "name,metric1.*,:re,:max", "name,metric3,:eq,:all"} {
					if code, answer := get(t, s, "/api/v1/graph?step=5s&s=e-5m&q="+url.QueryEscape(q)); code != 200 {
						t.Errorf("%s: got %d %s", q, code, answer)
					}
				}
				s.tidy(time.Now().Add(2 * time.Minute))
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			s.tidy(time.Now().Add(time.Duration(i%2) * 7 * time.Hour)) // everything goes, and comes back
		}
	})
	wg.Wait()
}

func FuzzPublish(f *testing.F) {
	f.Add([]byte(body("nf.app=web", time.UnixMilli(1700000040000), "name=hits status=200 -> 1.5", "name=x -> 2")))
	f.Add([]byte(`{"metrics":[{"tags":{"name":"a\u0041","x":null},"start":1,"values":["NaN",{}]}],"tags":null,"y":[[[1e5]]]}`))
	f.Add([]byte(`{"metrics":[{"tags":{"name":"inf","name":"twice"},"timestamp":1700000000000,"value":"-Infinity"}]}`))
	f.Add([]byte(`[1,2,3]`))
	s := New(Config{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var p payload
		err := parsePayload(b, &p)
		if err == nil && !json.Valid(b) {
			t.Fatalf("accepted what is not JSON: %q", b)
		}
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		at := time.UnixMilli(max(p.metrics[0].timestamp, 600_000))
		reasons, bad := s.accept(&p, at)
		if bad > len(p.metrics) || len(reasons) > min(bad, maxReasons) || bad > 0 && len(reasons) == 0 {
			t.Errorf("%q: %d of %d bad, reasons %v", b, bad, len(p.metrics), reasons)
		}
	})
}

// TestEachCutOfABodyIsRefused cuts a good body at every byte.
func TestEachCutOfABodyIsRefused(t *testing.T) {
	b := []byte(`{"tags":{"nf.app":"w\u0065b"},"metrics":[{"tags":{"name":"hits"},"timestamp":1700000040000,"value":-1.5e-3,"x":[true,null]}]}`)
	var p payload
	if err := parsePayload(b, &p); err != nil || p.metrics[0].value != -1.5e-3 || p.metrics[0].timestamp != 1700000040000 {
		t.Fatalf("whole: got %v, %+v", err, p)
	}
	for i := range b {
		if err := parsePayload(b[:i], &p); err == nil {
			t.Errorf("cut at %d: got nil, want an error: %s", i, b[:i])
		}
	}
}

// spectator is what one process with 300 series publishes.
func spectator(node int, at time.Time) []byte {
	var points []string
	for vip := range 8 {
		for _, stat := range []string{"count", "totalTime", "totalOfSquares", "max"} {
			points = append(points, fmt.Sprintf("name=ipc.client.call ipc.vip=service%d ipc.result=success ipc.cause=none statistic=%s atlas.dstype=rate -> %v", vip, stat, float64(vip)/5))
		}
		for b := range 33 {
			points = append(points, fmt.Sprintf("name=ipc.client.call ipc.vip=service%d ipc.result=success ipc.cause=none statistic=percentile percentile=T%04X atlas.dstype=rate -> %v", vip, 60+b, float64(b%5)/5))
		}
	}
	return []byte(body(fmt.Sprintf("nf.app=app%d nf.cluster=app%d nf.asg=app%d-v000 nf.node=app%d-v000-%d nf.zone=zone-a nf.region=local", node%8, node%8, node%8, node%8, node), at, points...))
}

func BenchmarkPublish(b *testing.B) {
	s := New(Config{})
	now := time.Now()
	bodies := make([][]byte, 20)
	points := 0
	for i := range bodies {
		bodies[i] = spectator(i, now)
	}
	var p payload
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := parsePayload(bodies[i%20], &p); err != nil {
			b.Fatal(err)
		}
		if _, bad := s.accept(&p, now); bad > 0 {
			b.Fatal("refused")
		}
		points += len(p.metrics)
		i++
	}
	b.ReportMetric(float64(points)/b.Elapsed().Seconds(), "points/s")
}

func BenchmarkNewSeries(b *testing.B) {
	s := New(Config{})
	now := time.Now()
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		if i%150_000 == 0 {
			s = New(Config{})
		}
		own := fmt.Appendf(nil, `{"name":"metric","status":"200","id":"%d"}`, i)
		at, reason := s.learn([]byte(`{"nf.app":"web","nf.zone":"zone-a"}`), own, uint64(i))
		if reason != "" {
			b.Fatal(reason)
		}
		s.write(at, now.UnixMilli(), 1)
		i++
	}
}

func BenchmarkSumBy10kSeries(b *testing.B) {
	s := New(Config{})
	now := time.Now().Truncate(5 * time.Second)
	for i := range 10_000 {
		at, _ := s.learn(nil, fmt.Appendf(nil, `{"name":"requests","cluster":"c%d","node":"n%d"}`, i%100, i), uint64(i))
		for j := range int64(60) {
			s.write(at, now.UnixMilli()-j*5000, 1.2)
		}
	}
	for _, state := range []string{"open", "sealed"} {
		if state == "sealed" {
			s.tidy(now.Add(20 * time.Minute))
		}
		b.Run(state, func(b *testing.B) {
			lines, err := asl.Parse("name,requests,:eq,:sum,(,cluster,),:by")
			if err != nil {
				b.Fatal(err)
			}
			w := asl.Window{Start: now.UnixMilli() - 59*5000, Step: 5000, Points: 60}
			b.ReportAllocs()
			for b.Loop() {
				out, err := lines[0].Eval(b.Context(), w, s.fetchFrom(liveTier, false))
				if err != nil || len(out) != 100 || math.Abs(out[0].Values[30]-120) > 1e-9 {
					b.Fatal(len(out), err, out[0].Values)
				}
			}
		})
	}
}

// TestMemoryStaysSmallUnderTheDemosLoad publishes what 20 processes do in three quarters of an hour.
func TestMemoryStaysSmallUnderTheDemosLoad(t *testing.T) {
	s := New(Config{})
	before := heap()
	start := time.Now().Truncate(time.Hour)
	var payloads [20]payload
	for i := range payloads {
		if err := parsePayload(spectator(i, start), &payloads[i]); err != nil {
			t.Fatal(err)
		}
	}
	for at := start; at.Before(start.Add(45 * time.Minute)); at = at.Add(5 * time.Second) {
		for i := range payloads {
			for j := range payloads[i].metrics {
				payloads[i].metrics[j].timestamp = at.UnixMilli()
				payloads[i].metrics[j].value = float64((j+int(at.Unix()))%9) / 5
			}
			if _, bad := s.accept(&payloads[i], at); bad > 0 {
				t.Fatal("refused")
			}
		}
		if at.Unix()%15 == 0 {
			s.tidy(at)
		}
	}
	used := heap() - before
	t.Logf("%d series of 45 minutes: %.1f MB, %.0f bytes a series", s.index.size(), float64(used)/1e6, float64(used)/float64(s.index.size()))
	if used > 25e6 {
		t.Errorf("got %.1f MB for %d series, want at most 25", float64(used)/1e6, s.index.size())
	}
	runtime.KeepAlive(s)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func BenchmarkTraffic(b *testing.B) {
	s := New(Config{})
	now := time.Now().Truncate(5 * time.Second)
	for i := range 20 {
		var p payload
		if err := parsePayload(spectator(i, now), &p); err != nil {
			b.Fatal(err)
		}
		s.accept(&p, now)
	}
	b.ReportAllocs()
	for b.Loop() {
		t, err := s.draw(b.Context(), now.UnixMilli())
		if err != nil || len(t.Nodes) != 1 || len(t.Nodes[0].Connections) != 64 {
			b.Fatal(err, len(t.Nodes[0].Connections))
		}
		t.finish(0)
	}
}
