package program

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// apps are apps that modules ask.
type apps func(*http.Request) (*http.Response, error)

func (a apps) RoundTrip(r *http.Request) (*http.Response, error) { return a(r) }

// asking is a module that asks the app auth about each request, and has it wait for what then does, or not if that is nil; and
// its chain.
func asking(t *testing.T, reach http.RoundTripper, pairs []filter.Field, ms int, then func(a *assembly, got []byte) [][]byte) (r *Registry, run func(*filter.Exchange)) {
	t.Helper()
	a := &assembly{imports: []string{"proxy_http_call:iiiiiiiiii", "proxy_get_header_map_value:iiiii", "proxy_get_buffer_bytes:iiiii", "proxy_replace_header_map_value:iiiii",
		"proxy_continue_stream:i", "proxy_send_local_response:iiiiiiii", "proxy_set_property:iiii"}}
	got := []byte{0x41, 0, 0x28, 2, 0, 0x41, 4, 0x28, 2, 0} // pushes what lies where values come to be
	ask := a.call("proxy_http_call", "iiiiiiiiii", a.text("auth"), a.text(serialize(pairs)), a.text("who?"), i32(0), i32(0), i32(ms), i32(8))
	wait := 1
	if then == nil {
		wait = 0
		then = func(*assembly, []byte) [][]byte { return nil }
	}
	a.add("proxy_on_request_headers", 3, true, ask, i32(wait))
	a.add("proxy_on_http_call_response", 5, false, then(a, got)...)
	var err error
	if r, err = New(Config{Properties: config.New(config.Options{}), Meter: meter.New(nil), Apps: reach}); err != nil {
		t.Fatal(err)
	}
	unhurried(r)
	put(r, wasmDoc(a.bytes(), ""))
	t.Cleanup(func() { r.Set(nil) })
	if v := r.List()[0]; v.Refused != "" {
		t.Fatal(v.Refused)
	}
	return r, chain(t, r, nil)
}

var whois = []filter.Field{{Name: ":method", Value: "POST"}, {Name: ":path", Value: "/who?x=1"}, {Name: ":authority", Value: "auth.example.com"}, {Name: "x-key", Value: "k"}}

// goOn sets the fields of the request to what came, and has it go on.
func goOn(a *assembly, got []byte) [][]byte {
	give := append(i32(0), i32(4)...)
	return [][]byte{
		a.call("proxy_get_header_map_value", "iiiii", i32(6), a.text(":status"), give),
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-Status"), got),
		a.call("proxy_get_header_map_value", "iiiii", i32(6), a.text("x-user"), give),
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-User"), got),
		a.call("proxy_get_buffer_bytes", "iiiii", i32(4), i32(0), i32(100), give),
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-Said"), got),
		a.call("proxy_replace_header_map_value", "iiiii", i32(6), a.text("X-User"), a.text("me")), // refused: it is no header of the request's
		a.call("proxy_continue_stream", "i", i32(0)),
	}
}

func TestAModuleAsksAnAppAndTheRequestWaits(t *testing.T) {
	var mu sync.Mutex
	asked := ""
	_, run := asking(t, apps(func(q *http.Request) (*http.Response, error) {
		b, _ := io.ReadAll(q.Body)
		mu.Lock()
		asked = strings.Join([]string{q.Method, q.URL.String(), q.Host, q.Header.Get("X-Key"), string(b)}, " ")
		mu.Unlock()
		return &http.Response{StatusCode: 203, Header: http.Header{"X-User": {"ana"}}, Body: io.NopCloser(strings.NewReader("welcome"))}, nil
	}), whois, 5000, goOn)
	x := request()
	run(x)
	if h := &x.Request.Header; len(x.Failed) > 0 || x.Response.Status != 200 || h.Get("X-Status") != "203" || h.Get("X-User") != "ana" || h.Get("X-Said") != "welcome" {
		t.Errorf("failed %v, status %d, header %v; want 200, and what the app said", x.Failed, x.Response.Status, x.Request.Header.Fields())
	}
	if want := "POST http://auth/who?x=1 auth.example.com k who?"; asked != want {
		t.Errorf("the app was asked %q, want %q", asked, want)
	}
	x.End()
}

func TestAModuleRefusesByWhatAnAppSays(t *testing.T) {
	_, run := asking(t, apps(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 401, Header: http.Header{}, Body: http.NoBody}, nil
	}), whois, 1000, func(a *assembly, _ []byte) [][]byte {
		return [][]byte{a.call("proxy_send_local_response", "iiiiiiii", i32(403), i32(0), i32(0), a.text("not you"), i32(0), i32(0), i32(-1))}
	})
	x := request()
	run(x)
	if b, _ := io.ReadAll(x.Response.Body); x.Response.Status != 403 || string(b) != "not you" || len(x.Failed) > 0 {
		t.Errorf("got %d %q, failed %v; want 403 not you", x.Response.Status, b, x.Failed)
	}
	x.End()
}

func TestAnAppThatDoesNotAnswerIsToldAsNoAnswer(t *testing.T) {
	for name, reach := range map[string]apps{
		"fails":          func(*http.Request) (*http.Response, error) { return nil, errors.New("nobody is there") },
		"panics":         func(*http.Request) (*http.Response, error) { panic("a transport with a fault") },
		"takes too long": func(q *http.Request) (*http.Response, error) { <-q.Context().Done(); return nil, q.Context().Err() },
		"answers endless": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(io.LimitReader(endless{}, maxReply+1))}, nil
		},
	} {
		_, run := asking(t, reach, whois, 20, func(a *assembly, _ []byte) [][]byte {
			// as many fields and bytes as there are, which is none: 403 + params 2 + 3
			return [][]byte{i32(403), local(2), {0x6a}, local(3), {0x6a}, {0x21, 4}, a.call("proxy_send_local_response", "iiiiiiii", local(4), i32(0), i32(0), i32(0), i32(0), i32(0), i32(0), i32(-1))}
		})
		x := request()
		run(x)
		if x.Response.Status != 403 || len(x.Failed) > 0 {
			t.Errorf("the app %s: got %d, failed %v; want 403: no fields and no body", name, x.Response.Status, x.Failed)
		}
		x.End()
	}
}

// endless is bytes without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestARequestThatNobodyHasGoOnFails(t *testing.T) {
	_, run := asking(t, apps(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
	}), whois, 1000, func(*assembly, []byte) [][]byte { return nil })
	x := request()
	run(x)
	if len(x.Failed) != 1 || !strings.Contains(x.Failed[0].Err.Error(), "paused the request") || x.Response.Status != 200 {
		t.Errorf("failed %v, status %d; want the program to fail, and the request to go on without it", x.Failed, x.Response.Status)
	}
	x.End()
}

func TestCallsThatCannotBeMeantAreRefused(t *testing.T) {
	reach := apps(func(*http.Request) (*http.Response, error) { t.Error("the app was asked"); return nil, io.EOF })
	for name, pairs := range map[string][]filter.Field{
		"no method": whois[1:], "no path": {whois[0], whois[2]}, "no host": whois[:2],
		"a path that is none": {whois[0], {Name: ":path", Value: "who"}, whois[2]},
		"our own field":       append([]filter.Field{{Name: "X-Fit", Value: "1"}}, whois...),
		"two lines":           append([]filter.Field{{Name: "X-A", Value: "1\r\nX-B: 2"}}, whois...),
	} {
		_, run := asking(t, reach, pairs, 1000, goOn)
		x := request()
		run(x)
		if len(x.Failed) != 1 {
			t.Errorf("%s: failed %v, want that it waits for nothing", name, x.Failed)
		}
		x.End()
	}
}

func TestWhileOneRequestWaitsOthersUseTheModule(t *testing.T) {
	const n = 40 // more than there are instances
	let, waiting := make(chan struct{}), make(chan struct{}, n)
	_, run := asking(t, apps(func(*http.Request) (*http.Response, error) {
		waiting <- struct{}{}
		<-let
		return &http.Response{StatusCode: 200, Header: http.Header{"X-User": {"ana"}}, Body: http.NoBody}, nil
	}), whois, 5000, goOn)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			x := request()
			run(x)
			if len(x.Failed) > 0 || x.Request.Header.Get("X-User") != "ana" {
				t.Errorf("failed %v, header %v", x.Failed, x.Request.Header.Fields())
			}
			x.End()
		})
	}
	for range n {
		<-waiting // all of them, before any is answered
	}
	close(let)
	wg.Wait()
}

func TestACallThatNoRequestWaitsForIsMadeThoughItsModuleGoes(t *testing.T) {
	let, told := make(chan struct{}), make(chan struct{}, 1)
	r, run := asking(t, apps(func(q *http.Request) (*http.Response, error) {
		<-let
		if err := q.Context().Err(); err != nil {
			t.Errorf("the call was given up: %v", err)
		}
		told <- struct{}{}
		return &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody}, nil
	}), whois, 5000, nil)
	x := request()
	run(x)
	if len(x.Failed) > 0 || x.Response.Status != 200 {
		t.Errorf("failed %v, status %d; want that the request does not wait", x.Failed, x.Response.Status)
	}
	x.End()
	r.Set(nil) // the module goes
	close(let)
	r.Wait()
	select {
	case <-told:
	default:
		t.Error("Wait came back before the app was told")
	}
}

func FuzzCallout(f *testing.F) {
	f.Add("auth", serialize(whois), "body")
	f.Add("AUTH", serialize(whois[:3]), "")
	f.Fuzz(func(t *testing.T, app, pairs, body string) {
		fields, err := deserialize(pairs)
		if err != nil {
			return
		}
		req, err := calloutRequest(app, fields, body)
		if err != nil {
			return
		}
		if req.URL.Host != strings.ToLower(app) || req.URL.Scheme != "http" || !filter.Token(req.Method) || !strings.HasPrefix(req.URL.Path, "/") || strings.ContainsAny(req.Host, "/@ ") {
			t.Errorf("%q, %v became %s %s for %q", app, fields, req.Method, req.URL, req.Host)
		}
		for name, values := range req.Header {
			if !filter.Token(name) || strings.ContainsAny(strings.Join(values, ""), "\r\n") {
				t.Errorf("%v became the field %q: %q", fields, name, values)
			}
		}
	})
}
