package discovery

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed"
)

// wire is a network of one registry that a test plays: it answers each request by a function, within a bubble.
type wire func(*http.Request) (*http.Response, error)

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	return w(r)
}

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// streaming answers a watch with a stream that the test writes to.
func streaming(r *http.Request) (*http.Response, *io.PipeWriter) {
	in, out := io.Pipe()
	context.AfterFunc(r.Context(), func() { out.CloseWithError(r.Context().Err()) })
	resp := answer(200, "")
	resp.Header.Set("Content-Type", "text/event-stream")
	resp.Body = in
	return resp, out
}

// running starts a client on w and stops it with the test.
func running(t *testing.T, w wire, urls ...string) *Client {
	if urls == nil {
		urls = []string{"http://registry:8761"}
	}
	c := New(Config{Registry: urls, HTTP: &http.Client{Transport: w}, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

var errAway = errors.New("connection refused")

func TestReconnectsWithGrowingJitteredPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		running(t, func(*http.Request) (*http.Response, error) {
			at = append(at, time.Now())
			return nil, errAway
		})
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if len(at) < 15 || len(at) > 40 {
			t.Errorf("in a minute: got %d attempts, want 15 to 40", len(at))
		}
		most := 100 * time.Millisecond
		distinct := map[time.Duration]bool{}
		for i := 1; i < len(at); i++ {
			pause := at[i].Sub(at[i-1])
			if pause < most/2 || pause > most {
				t.Errorf("pause %d: got %v, want %v to %v", i, pause, most/2, most)
			}
			distinct[pause] = true
			most = min(2*most, 5*time.Second)
		}
		if len(distinct) < len(at)/2 {
			t.Errorf("pauses: got %d distinct of %d, want jitter", len(distinct), len(at))
		}
	})
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var streams []*io.PipeWriter
		c := running(t, func(r *http.Request) (*http.Response, error) {
			resp, out := streaming(r)
			streams = append(streams, out)
			return resp, nil
		})
		synctest.Wait()
		for range 5 { // comments keep it alive
			io.WriteString(streams[0], ": beat\n\n") //nolint:errcheck // the test sees what follows
			time.Sleep(20 * time.Second)
			synctest.Wait()
		}
		if len(streams) != 1 {
			t.Fatalf("with a comment every 20 s: got %d streams, want 1", len(streams))
		}
		io.WriteString(streams[0], "id: x-7\nevent: snapshot\ndata: {\"instances\":[{\"id\":\"1\",\"app\":\"a\"}]}\n\n") //nolint:errcheck // as above
		time.Sleep(26 * time.Second)
		synctest.Wait()
		if len(streams) != 2 || len(c.Instances("a")) != 1 {
			t.Errorf("after 26 s of silence: got %d streams and %d instances, want a second stream and the 1 instance", len(streams), len(c.Instances("a")))
		}
	})
}

func TestHashThatDoesNotAddUpAsksForEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids []string
		var out *io.PipeWriter
		c := running(t, func(r *http.Request) (resp *http.Response, err error) {
			ids = append(ids, r.Header.Get("Last-Event-ID"))
			resp, out = streaming(r)
			return resp, nil
		})
		synctest.Wait()
		send := func(s string) {
			io.WriteString(out, s) //nolint:errcheck // the test sees what follows
			synctest.Wait()
		}
		send("id: x-1\nevent: snapshot\ndata: {\"warming\":true,\"instances\":[{\"id\":\"1\",\"app\":\"a\",\"status\":\"UP\"}]}\n\n")
		send("id: x-2\nevent: hash\ndata: {\"hash\":\"UP_9_\",\"warming\":true}\n\n") // counts say nothing yet
		send("id: x-3\nevent: put\ndata: {\"instance\":{\"id\":\"2\",\"app\":\"a\",\"status\":\"DOWN\"}}\n\n")
		send("id: x-4\nevent: hash\ndata: {\"hash\":\"DOWN_1_UP_1_\",\"warming\":false}\n\n")
		send("event: news\ndata: of a later version\n\n")
		if len(ids) != 1 {
			t.Fatalf("while the counts add up: got %d streams, want 1", len(ids))
		}
		out.CloseWithError(errAway)
		time.Sleep(time.Second)
		synctest.Wait()
		send("id: x-5\nevent: hash\ndata: {\"hash\":\"UP_5_\",\"warming\":false}\n\n")
		time.Sleep(time.Second)
		synctest.Wait()
		if want := []string{"", "x-4", ""}; !slices.Equal(ids, want) {
			t.Errorf("Last-Event-ID of the streams: got %q, want %q", ids, want)
		}
		if got := len(c.Instances("a")); got != 2 {
			t.Errorf("meanwhile: got %d instances, want the 2 last known", got)
		}
	})
}

func TestWarmingRegistryTakesNothingAwayUntilItIsWarm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out *io.PipeWriter
		c := running(t, func(r *http.Request) (resp *http.Response, err error) {
			resp, out = streaming(r)
			return resp, nil
		})
		synctest.Wait()
		steps := []struct{ name, event, want string }{
			{"all", `snapshot {"warming":false,"instances":[{"id":"1","app":"a"},{"id":"2","app":"a"},{"id":"3","app":"b"}]}`, "1 2 3"},
			{"restarted and empty", `snapshot {"warming":true,"instances":[]}`, "1 2 3"},
			{"one is back", `put {"instance":{"id":"1","app":"a","port":7}}`, "1 2 3"},
			{"one is removed by name", `remove {"app":"a","id":"2"}`, "1 3"},
			{"still warming", `snapshot {"warming":true,"instances":[{"id":"1","app":"a","port":7}]}`, "1 3"},
			{"warm", `snapshot {"warming":false,"instances":[{"id":"1","app":"a","port":7}]}`, "1"},
		}
		for _, st := range steps {
			name, data, _ := strings.Cut(st.event, " ")
			fmt.Fprintf(out, "event: %s\ndata: %s\n\n", name, data) //nolint:errcheck // the test sees what follows
			synctest.Wait()
			var ids []string
			for _, i := range c.Instances("") {
				ids = append(ids, i.ID)
			}
			if got := strings.Join(ids, " "); got != st.want {
				t.Errorf("%s: got instances %s, want %s", st.name, got, st.want)
			}
		}
		if got := c.Instances("a")[0].Port; got != 7 {
			t.Errorf("the one that is back: got port %d, want the new 7", got)
		}
	})
}

func TestWhoeverHasTheAddressNowDisplacesWhoHasNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out *io.PipeWriter
		c := running(t, func(r *http.Request) (resp *http.Response, err error) {
			resp, out = streaming(r)
			return resp, nil
		})
		synctest.Wait()
		steps := []struct{ name, event, want string }{
			{"all", `snapshot {"warming":false,"instances":[{"id":"1","app":"a","host":"h","port":1},{"id":"2","app":"a","host":"h","port":2},{"id":"3","app":"b","host":"h","port":3}]}`, "1 2 3"},
			{"restarted, with another at the address of 1", `snapshot {"warming":true,"instances":[{"id":"4","app":"B","host":"h","port":1}]}`, "2 3 4"},
			{"another at the address of 2", `put {"instance":{"id":"5","app":"a","host":"h","port":2}}`, "3 4 5"},
			{"3 is back", `put {"instance":{"id":"3","app":"B","host":"h","port":3}}`, "3 4 5"},
			{"one at the address of 3, which is there itself", `put {"instance":{"id":"6","app":"c","host":"h","port":3}}`, "3 4 5 6"},
			{"another host", `put {"instance":{"id":"7","app":"c","host":"g","port":2}}`, "3 4 5 6 7"},
		}
		for _, st := range steps {
			kind, data, _ := strings.Cut(st.event, " ")
			fmt.Fprintf(out, "event: %s\ndata: %s\n\n", kind, data) //nolint:errcheck // the test sees what follows
			synctest.Wait()
			var ids []string
			for _, i := range c.Instances("") {
				ids = append(ids, i.ID)
			}
			slices.Sort(ids)
			if got := strings.Join(ids, " "); got != st.want {
				t.Errorf("%s: got instances %s, want %s", st.name, got, st.want)
			}
		}
	})
}

func TestRegistrationIsRenewedAndMadeAgainWhenForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var heard []string
		status := map[string]int{"POST": 204, "PUT": 200, "DELETE": 200}
		away := false
		c := running(t, func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if r.Method == "GET" || away {
				return nil, errAway
			}
			heard = append(heard, r.Method)
			return answer(status[r.Method], ""), nil
		})
		take := func() string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			s := strings.Join(heard, " ")
			heard = nil
			return s
		}
		set := func(method string, st int, gone bool) {
			mu.Lock()
			defer mu.Unlock()
			status[method], away = st, gone
		}
		reg := c.Register(roadbed.Instance{ID: "1", App: "a", Host: "h", Port: 1})
		if got := take(); got != "POST" {
			t.Errorf("at first: got %q, want POST", got)
		}
		time.Sleep(34 * time.Second)
		if got := take(); got != "PUT PUT PUT" {
			t.Errorf("in 34 s: got %q, want three renewals", got)
		}
		set("PUT", 404, false)
		time.Sleep(11 * time.Second)
		if got := take(); got != "PUT POST" {
			t.Errorf("forgotten: got %q, want PUT and at once POST", got)
		}
		set("PUT", 200, true)
		time.Sleep(5 * time.Minute)
		take()
		set("PUT", 200, false)
		time.Sleep(6 * time.Second)
		if got := take(); !strings.HasPrefix(got, "PUT") {
			t.Errorf("6 s after five minutes away: got %q, want a renewal", got)
		}
		reg.SetStatus(roadbed.Down)
		if got := take(); got != "POST" {
			t.Errorf("a new status: got %q, want POST at once", got)
		}
		set("DELETE", 404, false) // it may be gone already
		if err := reg.Cancel(context.Background()); err != nil {
			t.Errorf("Cancel: %v", err)
		}
		time.Sleep(time.Minute)
		if got := take(); got != "DELETE" {
			t.Errorf("cancelled: got %q, want DELETE and nothing after it", got)
		}
	})
}

func TestPolledServerThatLostItsMemoryEmptiesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := func(ids ...string) string {
			var recs []string
			for _, id := range ids {
				recs = append(recs, `{"instanceId":"`+id+`","app":"A","ipAddr":"127.0.0.1","status":"UP","port":{"$":80,"@enabled":"true"}}`)
			}
			hash := ""
			if len(ids) > 0 {
				hash = fmt.Sprintf("UP_%d_", len(ids))
			}
			return `{"applications":{"apps__hashcode":"` + hash + `","application":[{"name":"A","instance":[` + strings.Join(recs, ",") + `]}]}}`
		}
		var mu sync.Mutex
		full, delta := list("1", "2", "3"), `{"applications":{"apps__hashcode":"UP_3_","application":[]}}`
		set := func(f, d string) { mu.Lock(); full, delta = f, d; mu.Unlock() }
		c := running(t, func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case strings.HasSuffix(r.URL.Path, "/watch"):
				return answer(404, ""), nil
			case strings.HasSuffix(r.URL.Path, "/delta"):
				if delta == "" {
					return answer(403, ""), nil
				}
				return answer(200, delta), nil
			}
			return answer(200, full), nil
		})
		check := func(when string, wait time.Duration, want int) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if got := len(c.Instances("a")); got != want {
				t.Errorf("%s: got %d instances, want %d", when, got, want)
			}
		}
		check("at first", time.Second, 3)
		set(list(), `{"applications":{"apps__hashcode":"","application":[]}}`)
		check("an hour of an empty server", time.Hour, 3)
		set(list("1", "2"), "")
		check("two are back, the third missing for the first time", 35*time.Second, 3)
		check("the third stays missing", 2*time.Minute, 2)
		set(list("1"), `{"applications":{"apps__hashcode":"UP_1_","application":[{"name":"A","instance":[{"instanceId":"2","app":"A","actionType":"DELETED"}]}]}}`)
		check("the second deleted by name", 35*time.Second, 1)
	})
}

func TestOneStreamServesAllWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := 0
		var out *io.PipeWriter
		c := running(t, func(r *http.Request) (resp *http.Response, err error) {
			streams++
			resp, out = streaming(r)
			return resp, nil
		})
		calls := map[string]int{}
		var mu sync.Mutex
		for _, app := range []string{"a", "b", ""} {
			defer c.Watch(app, func([]roadbed.Instance) { mu.Lock(); calls[app]++; mu.Unlock() })()
		}
		synctest.Wait()
		io.WriteString(out, "event: put\ndata: {\"instance\":{\"id\":\"1\",\"app\":\"a\"}}\n\n") //nolint:errcheck // the test sees what follows
		io.WriteString(out, "event: put\ndata: {\"instance\":{\"id\":\"1\",\"app\":\"a\"}}\n\n") //nolint:errcheck // no news
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if streams != 1 || calls["a"] != 2 || calls["b"] != 1 || calls[""] != 2 {
			t.Errorf("after one change in a: got %d streams and calls %v, want 1 stream; a and all called again, b not", streams, calls)
		}
	})
}

func TestEventsAreReadWhereverTheStreamIsCut(t *testing.T) {
	const in = ": hello\n\nid: i-1\r\nevent: put\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nevent: gone\n\ndata:x\n\n"
	for cut := range len(in) {
		r := eventReader{r: bufio.NewReaderSize(io.MultiReader(strings.NewReader(in[:cut]), strings.NewReader(in[cut:])), 16), alive: func() {}}
		var got []string
		for {
			ev, err := r.next()
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("cut at %d: %v", cut, err)
				}
				break
			}
			got = append(got, ev.id+"|"+ev.name+"|"+string(ev.data))
		}
		if want := []string{"i-1|put|{\"a\":\n1}", "||x"}; !slices.Equal(got, want) {
			t.Errorf("cut at %d: got %q, want %q", cut, got, want)
		}
	}
}

func FuzzEvents(f *testing.F) {
	f.Add([]byte("id: 1\nevent: put\ndata: {\"instance\":{\"id\":\"1\",\"app\":\"a\"}}\n\n"))
	f.Add([]byte("event: snapshot\ndata: {\"instances\":[{\"id\":\"1\",\"app\":\"a\",\"since\":\"2020-01-01T00:00:00Z\"}]}\n\n: x\n\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := New(Config{Log: slog.New(slog.DiscardHandler)})
		st := streamer{c: c}
		in := eventReader{r: bufio.NewReaderSize(bytes.NewReader(raw), 16), alive: func() {}}
		for {
			ev, err := in.next()
			if err != nil {
				break
			}
			if err := st.apply(ev); err != nil {
				break
			}
		}
		n := 0
		for _, app := range c.Apps() {
			if len(c.Instances(app)) == 0 {
				t.Fatalf("app %q has no instances", app)
			}
			n += len(c.Instances(app))
		}
		if all := len(c.Instances("")); all != n {
			t.Fatalf("%d instances in all, %d by app", all, n)
		}
	})
}

// TestListsAgreeWithAPlainMap drives the lists and a map alike.
func TestListsAgreeWithAPlainMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLists()
		model := map[name]roadbed.Instance{}
		inst := rapid.Custom(func(t *rapid.T) roadbed.Instance {
			return roadbed.Instance{ID: rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "id"), App: rapid.SampledFrom([]string{"a", "B"}).Draw(t, "app"),
				Port: rapid.IntRange(1, 2).Draw(t, "port"), Status: rapid.SampledFrom([]roadbed.Status{roadbed.Up, roadbed.Down}).Draw(t, "status")}
		})
		put := func(i roadbed.Instance) {
			i.App = strings.ToLower(i.App)
			model[name{i.App, i.ID}] = i
		}
		_, gen := l.list("")
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) { i := inst.Draw(t, "i"); l.put(i); put(i) },
			"remove": func(t *rapid.T) {
				i := inst.Draw(t, "i")
				_, want := model[name{strings.ToLower(i.App), i.ID}]
				if got := l.remove(i.App, i.ID); got != want {
					t.Fatalf("remove %s: got %v, want %v", i.ID, got, want)
				}
				delete(model, name{strings.ToLower(i.App), i.ID})
			},
			"replace": func(t *rapid.T) {
				is := rapid.SliceOfN(inst, 0, 4).Draw(t, "is")
				l.replace(is)
				clear(model)
				for _, i := range is {
					put(i)
				}
			},
			"": func(t *rapid.T) {
				all, now := l.list("")
				if len(all) != len(model) {
					t.Fatalf("got %d instances, want %d", len(all), len(model))
				}
				for _, i := range all {
					if !same(i, model[name{i.App, i.ID}]) {
						t.Fatalf("got %+v, want %+v", i, model[name{i.App, i.ID}])
					}
				}
				if now < gen {
					t.Fatalf("generation went back from %d to %d", gen, now)
				}
				gen = now
			},
		})
	})
}

func TestBaseURLsAreUnderstoodOrRefused(t *testing.T) {
	for in, want := range map[string]base{
		"http://h:8761":             {"http://h:8761/eureka", "http://h:8761/registry/v1/watch", "http://h:8761/eureka", nil},
		" http://h:8761/ ":          {"http://h:8761/eureka", "http://h:8761/registry/v1/watch", "http://h:8761/eureka", nil},
		"https://h/eureka/v2/":      {"https://h/eureka/v2", "https://h/registry/v1/watch", "https://h/eureka/v2", nil},
		"http://u:p@h:1/eureka?a=b": {"http://u:p@h:1/eureka", "http://u:p@h:1/registry/v1/watch", "http://u:xxxxx@h:1/eureka", nil},
		"h:8761":                    {}, "": {}, "ftp://h": {},
	} {
		got, err := parseBase(in)
		if got != want || (err == nil) != (want != base{}) {
			t.Errorf("base %q: got %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestCancelArrivesAfterARegistrationUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var heard []string
		c := running(t, func(r *http.Request) (*http.Response, error) {
			if r.Method == "GET" {
				return nil, errAway
			}
			if r.Method == "POST" {
				time.Sleep(3 * time.Second) // a slow registry
			}
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, r.Method)
			return answer(200, ""), nil
		})
		reg := c.Register(roadbed.Instance{ID: "1", App: "a", Host: "h", Port: 1})
		time.Sleep(time.Second)
		if err := reg.Cancel(context.Background()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if want := []string{"POST", "DELETE"}; !slices.Equal(heard, want) {
			t.Errorf("the registry heard %q, want %q", heard, want)
		}
	})
}

// redirecting answers as a server that sends everybody to another, whatever is asked.
func redirecting(r *http.Request, to string) *http.Response {
	resp := answer(http.StatusFound, "")
	resp.Request = r
	resp.Header.Set("Location", to+r.URL.RequestURI())
	return resp
}

func TestRedirectedClientStaysWhereItWasSentUntilThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var heard []string
		away := false
		c := running(t, func(r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, r.Method+" "+r.URL.Host+r.URL.Path)
			switch {
			case r.URL.Host == "first:1" && r.URL.Path == "/registry/v1/watch":
				return answer(404, ""), nil
			case r.URL.Host == "first:1":
				return redirecting(r, "http://second:2"), nil
			case away:
				return nil, errAway
			case r.Method == "POST":
				return answer(204, ""), nil
			case r.Method == "GET":
				return answer(200, `{"applications":{"apps__hashcode":"UP_1_","application":[{"name":"A","instance":[{"instanceId":"x","app":"A","ipAddr":"h","status":"UP"}]}]}}`), nil
			}
			return answer(200, ""), nil
		}, "http://first:1/v2")
		count := func() map[string]int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			n := map[string]int{}
			for _, h := range heard {
				n[h]++
			}
			heard = nil
			return n
		}
		reg := c.Register(roadbed.Instance{ID: "1", App: "a", Host: "h", Port: 1})
		time.Sleep(65 * time.Second)
		got := count()
		if got["POST second:2/v2/apps/A"] == 0 || got["PUT second:2/v2/apps/A/1"] < 4 || got["GET second:2/v2/apps/delta"] != 2 || len(c.Instances("a")) != 1 {
			t.Errorf("in 65 s: got %v, want the registration, its renewals and the lists at the second server", got)
		}
		if n := got["POST first:1/v2/apps/A"] + got["PUT first:1/v2/apps/A/1"] + got["GET first:1/v2/apps/"] + got["GET first:1/v2/apps/delta"]; n > 3 {
			t.Errorf("in 65 s: got %d requests at the first server in %v, want only those before it was known where to go", n, got)
		}
		mu.Lock()
		away = true
		mu.Unlock()
		time.Sleep(15 * time.Second)
		if got := count(); got["PUT first:1/v2/apps/A/1"]+got["POST first:1/v2/apps/A"] == 0 {
			t.Errorf("when the second server is away: got %v, want the first one asked again", got)
		}
		mu.Lock()
		away = false
		mu.Unlock()
		if err := reg.Cancel(context.Background()); err != nil {
			t.Error(err)
		}
		if got := count(); got["DELETE second:2/v2/apps/A/1"] != 1 {
			t.Errorf("cancelled: got %v, want a DELETE at the second server", got)
		}
	})
}

func TestRedirectsThatLeadNowhereAreErrors(t *testing.T) {
	for name, to := range map[string]func(*http.Request) string{
		"to itself for ever": func(r *http.Request) string { return r.URL.String() },
		"to another page":    func(*http.Request) string { return "http://login/page" },
		"to another scheme":  func(r *http.Request) string { return "ftp://h" + r.URL.RequestURI() },
		"without a place":    func(*http.Request) string { return "" },
	} {
		n := 0
		c := New(Config{Registry: []string{"http://h:1"}, Log: slog.New(slog.DiscardHandler), HTTP: &http.Client{Transport: wire(func(r *http.Request) (*http.Response, error) {
			n++
			resp := answer(http.StatusFound, "")
			resp.Request = r
			if l := to(r); l != "" {
				resp.Header.Set("Location", l)
			}
			return resp, nil
		})}})
		err := c.SetOverride(t.Context(), "a", "1", roadbed.OutOfService)
		if err == nil || !strings.Contains(err.Error(), "redirects") || n > redirects {
			t.Errorf("redirected %s: got %v after %d requests, want an error that says so after at most %d", name, err, n, redirects)
		}
	}
}

func TestRegistrationsNameTheStreamByWhichThisProcessIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		names := map[string]bool{}
		streams := 0
		var out *io.PipeWriter
		c := running(t, func(r *http.Request) (resp *http.Response, err error) {
			mu.Lock()
			defer mu.Unlock()
			if r.Method == "GET" {
				resp, out = streaming(r)
				streams++
				resp.Header.Set("X-Registry-Stream", fmt.Sprint("s-", streams))
				return resp, nil
			}
			if r.Method == "POST" {
				names[r.Header.Get("X-Registry-Stream")] = true
			}
			return answer(204, ""), nil
		})
		c.Register(roadbed.Instance{ID: "1", App: "a", Host: "h", Port: 1})
		synctest.Wait()
		io.WriteString(out, "id: x-1\nevent: snapshot\ndata: {\"instances\":[]}\n\n") //nolint:errcheck // the test sees what follows
		time.Sleep(time.Second)
		out.CloseWithError(errAway)
		time.Sleep(time.Second)
		synctest.Wait()
		io.WriteString(out, "id: x-1\nevent: snapshot\ndata: {\"instances\":[]}\n\n") //nolint:errcheck // as above
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		if !names["s-1"] || !names["s-2"] {
			t.Errorf("streams named by registrations: got %v, want that of the first and of the second stream", names)
		}
	})
}

func TestSignsOfLifeMoveThePlaceToResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids []string
		var out *io.PipeWriter
		running(t, func(r *http.Request) (resp *http.Response, err error) {
			ids = append(ids, r.Header.Get("Last-Event-ID"))
			resp, out = streaming(r)
			return resp, nil
		})
		synctest.Wait()
		io.WriteString(out, "id: x-1\nevent: snapshot\ndata: {\"instances\":[]}\n\nid: x-9\n: beat\n\n: beat\n\n") //nolint:errcheck // the test sees what follows
		synctest.Wait()
		out.CloseWithError(errAway)
		time.Sleep(time.Second)
		synctest.Wait()
		if want := []string{"", "x-9"}; !slices.Equal(ids, want) {
			t.Errorf("Last-Event-ID of the streams: got %q, want %q", ids, want)
		}
	})
}

func TestCompactListsAreReadWhereAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var forms []string
		w := wire(func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/registry/v1/watch" {
				return answer(404, ""), nil
			}
			forms = append(forms, r.Header.Get("X-Eureka-Accept"))
			return answer(200, `{"applications":{"application":[{"name":"A","instance":[{"instanceId":"x","hostName":"n","app":"A","ipAddr":"10.0.0.1",
				"status":"UP","port":{"$":80,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},
				"dataCenterInfo":{"@class":"com.netflix.appinfo.AmazonInfo","name":"Amazon","metadata":{"availability-zone":"eu-1a"}},
				"lastUpdatedTimestamp":1760000000001,"actionType":"ADDED"}]}],"versions__delta":"1","apps__hashcode":"UP_1_"}}`), nil
		})
		c := New(Config{Registry: []string{"http://h:1"}, Compact: true, HTTP: &http.Client{Transport: w}, Log: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		time.Sleep(40 * time.Second)
		list := c.Instances("a")
		if len(list) != 1 || list[0].Addr() != "10.0.0.1:80" || list[0].Location.Zone != "eu-1a" || !slices.Equal(forms, []string{"compact", "compact"}) {
			t.Errorf("got %+v asked for as %q, want the one instance of a full list and a delta, both compact", list, forms)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNearInstancesComeFirstAndFarOnesOnlyWhenNeeded(t *testing.T) {
	list := []roadbed.Instance{
		{ID: "a-1", Status: roadbed.Up, Location: roadbed.Location{Region: "eu", Zone: "a"}},
		{ID: "a-2", Status: roadbed.Down, Location: roadbed.Location{Region: "eu", Zone: "a"}},
		{ID: "a-3", Status: roadbed.Up, Location: roadbed.Location{Region: "eu", Zone: "a"}},
		{ID: "b-1", Status: roadbed.Up, Location: roadbed.Location{Region: "eu", Zone: "b"}},
		{ID: "b-2", Status: roadbed.OutOfService, Location: roadbed.Location{Region: "eu", Zone: "b"}},
		{ID: "far", Status: roadbed.Up, Location: roadbed.Location{Region: "us", Zone: "a"}},
	}
	for _, tt := range []struct {
		here  string
		least int
		want  string
	}{
		{"eu/a", 0, "a-1 a-3"}, {"eu/a", 2, "a-1 a-3"}, {"eu/a", 3, "a-1 a-3 b-1"}, {"eu/a", 9, "a-1 a-3 b-1 far"},
		{"eu/b", 1, "b-1"}, {"eu/c", 0, "a-1 a-3 b-1"}, {"us/a", 1, "far"}, {"us/b", 1, "far"}, {"us/a", 2, "far a-1 a-3 b-1"},
		{"/", 1, "a-1 a-3 b-1 far"},
	} {
		region, zone, _ := strings.Cut(tt.here, "/")
		var got []string
		for _, i := range Near(list, roadbed.Location{Region: region, Zone: zone}, tt.least) {
			got = append(got, i.ID)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("near %s, at least %d: got %q, want %s", tt.here, tt.least, got, tt.want)
		}
	}
	if got := Near(nil, roadbed.Location{}, 1); len(got) != 0 {
		t.Errorf("near of nobody: got %v", got)
	}
}
