package program

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// assembly is a WASM module that is put together by hand: it imports what it names from env, has 2 pages of memory (of at
// most 1000), an allocator that gives out what lies from 65536 on, and the texts of data from address 1024 on.
type assembly struct {
	imports []string // name:params, as i and I
	exports []export
	data    []byte
	least   int // pages; 0: 2
}

type export struct {
	name   string
	params int
	result bool
	code   []byte
}

func leb(n int) (b []byte) {
	for {
		c := byte(n & 0x7f)
		n >>= 7
		if n == 0 && c&0x40 == 0 || n == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func uleb(n int) (b []byte) {
	for n >= 0x80 {
		b = append(b, byte(n)|0x80)
		n >>= 7
	}
	return append(b, byte(n))
}

func vec(items ...[]byte) []byte {
	b := uleb(len(items))
	for _, i := range items {
		b = append(b, i...)
	}
	return b
}

func sized(b []byte) []byte { return append(uleb(len(b)), b...) }

func section(id byte, b []byte) []byte { return append([]byte{id}, sized(b)...) }

func signatureOf(params string, result bool) []byte {
	b := []byte{0x60}
	b = append(b, uleb(len(params))...)
	for _, p := range params {
		if p == 'I' {
			b = append(b, 0x7e)
		} else {
			b = append(b, 0x7f)
		}
	}
	if result {
		return append(b, 1, 0x7f)
	}
	return append(b, 0)
}

// i32 pushes a number.
func i32(n int) []byte { return append([]byte{0x41}, leb(n)...) }

func i64(n int) []byte { return append([]byte{0x42}, leb(n)...) }

// text puts s into the data and returns code that pushes its address and length.
func (a *assembly) text(s string) []byte {
	at := 1024 + len(a.data)
	a.data = append(a.data, s...)
	return append(i32(at), i32(len(s))...)
}

// call calls an import with what args push, and drops its status.
func (a *assembly) call(name, params string, args ...[]byte) []byte {
	full := name + ":" + params
	i := slices.Index(a.imports, full)
	if i < 0 {
		panic("import " + full + " first")
	}
	code := slices.Concat(args...)
	return append(append(append(code, 0x10), uleb(i)...), 0x1a)
}

func (a *assembly) add(name string, params int, result bool, code ...[]byte) {
	a.exports = append(a.exports, export{name, params, result, slices.Concat(code...)})
}

func (a *assembly) bytes() []byte {
	all := append([]export{
		{"proxy_abi_version_0_2_1", 0, false, nil},
		{"proxy_on_memory_allocate", 1, true, slices.Concat([]byte{0x23, 0, 0x23, 0, 0x20, 0, 0x6a, 0x24, 0})}, // returns the global, and adds to it
	}, a.exports...)
	var types, imports, funcs, exports, codes [][]byte
	for i, imp := range a.imports {
		name, params, _ := strings.Cut(imp, ":")
		types = append(types, signatureOf(params, true))
		imports = append(imports, slices.Concat(sized([]byte("env")), sized([]byte(name)), []byte{0}, uleb(i)))
	}
	for i, e := range all {
		types = append(types, signatureOf(strings.Repeat("i", e.params), e.result))
		funcs = append(funcs, uleb(len(a.imports)+i))
		exports = append(exports, slices.Concat(sized([]byte(e.name)), []byte{0}, uleb(len(a.imports)+i)))
		codes = append(codes, sized(slices.Concat([]byte{0}, e.code, []byte{0x0b})))
	}
	exports = append(exports, slices.Concat(sized([]byte("memory")), []byte{2, 0}))
	least := a.least
	if least == 0 {
		least = 2
	}
	return slices.Concat([]byte("\x00asm\x01\x00\x00\x00"), section(1, vec(types...)), section(2, vec(imports...)), section(3, vec(funcs...)),
		section(5, slices.Concat([]byte{1, 1}, uleb(least), uleb(1000))), section(6, slices.Concat([]byte{1, 0x7f, 1}, i32(65536), []byte{0x0b})),
		section(7, vec(exports...)), section(10, vec(codes...)),
		section(11, slices.Concat([]byte{1, 0}, i32(1024), []byte{0x0b}, sized(a.data))))
}

func wasmDoc(code []byte, more string) string {
	return fmt.Sprintf(`{"kind":"wasm","global":true,"base64":%q%s}`, base64.StdEncoding.EncodeToString(code), more)
}

// local pushes parameter i.
func local(i int) []byte { return append([]byte{0x20}, uleb(i)...) }

func TestAModuleChangesHeadersAndBodies(t *testing.T) {
	a := &assembly{imports: []string{"proxy_replace_header_map_value:iiiii", "proxy_add_header_map_value:iiiii", "proxy_remove_header_map_value:iii",
		"proxy_set_buffer_bytes:iiiii", "proxy_log:iii", "proxy_get_header_map_value:iiiii", "proxy_get_buffer_bytes:iiiii", "proxy_get_property:iiii", "proxy_set_property:iiii"}}
	give := append(i32(0), i32(4)...)                                              // where values come to be
	got := slices.Concat([]byte{0x41, 0, 0x28, 2, 0}, []byte{0x41, 4, 0x28, 2, 0}) // pushes what lies there
	a.add("proxy_on_request_headers", 3, true,
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-Wasm"), a.text("yes")),
		a.call("proxy_add_header_map_value", "iiiii", i32(0), a.text("X-Wasm"), a.text("again")),
		a.call("proxy_remove_header_map_value", "iii", i32(0), a.text("x-device")),
		a.call("proxy_remove_header_map_value", "iii", i32(0), a.text("content-length")), // nothing to do
		a.call("proxy_get_header_map_value", "iiiii", i32(0), a.text("content-length"), give),
		a.call("proxy_set_property", "iiii", a.text("length"), got),
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text(":path"), a.text("/moved?x=1")),
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("Content-Length"), a.text("0")), // refused
		a.call("proxy_get_property", "iiii", a.text("request\x00method"), give),
		a.call("proxy_set_property", "iiii", a.text("was"), got),
		i32(1)) // waits for the body
	a.add("proxy_on_request_body", 3, true,
		a.call("proxy_get_buffer_bytes", "iiiii", i32(0), i32(0), i32(3), give),
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-Body"), got),
		a.call("proxy_set_buffer_bytes", "iiiii", i32(0), i32(0), i32(3), a.text("HEY")), i32(0))
	a.add("proxy_on_response_headers", 3, true,
		a.call("proxy_get_buffer_bytes", "iiiii", i32(7), i32(0), i32(100), give),
		a.call("proxy_replace_header_map_value", "iiiii", i32(2), a.text("X-Config"), got),
		a.call("proxy_get_header_map_value", "iiiii", i32(0), a.text("x-wasm"), give),
		a.call("proxy_add_header_map_value", "iiiii", i32(2), a.text("X-Was"), got), i32(0))
	a.add("proxy_on_response_body", 3, true,
		a.call("proxy_set_buffer_bytes", "iiiii", i32(1), i32(1<<30), i32(0), a.text("!")), i32(0)) // appends
	r, _ := registry(t, wasmDoc(a.bytes(), `,"body":true,"config":"hello"`))
	if v := r.List()[0]; v.Refused != "" {
		t.Fatal(v.Refused)
	}
	var sent string
	c, err := filter.NewChain(filter.ChainConfig{Filters: r.Filters(), Proxy: &filter.Filter{Name: "P", Kind: filter.Endpoint, Apply: func(x *filter.Exchange) error {
		b, _ := io.ReadAll(x.Request.Body)
		sent = string(b)
		x.Answer(200, "pong")
		return nil
	}}})
	if err != nil {
		t.Fatal(err)
	}
	x := request()
	x.Response = filter.Response{}
	x.Request.Body, x.Request.ContentLength = filter.Text("heyho"), 5
	c.Run(x)
	b, _ := io.ReadAll(x.Response.Body)
	q, p := &x.Request.Header, &x.Response.Header
	if len(x.Failed) > 0 || q.Get("X-Wasm") != "yes" || q.Count("X-Wasm") != 2 || q.Has("X-Device") || x.Path != "/moved" || x.Request.RawQuery != "x=1" || q.Has("Content-Length") {
		t.Errorf("failed %v, header %v, path %s?%s", x.Failed, q.Fields(), x.Path, x.Request.RawQuery)
	}
	if sent != "HEYho" || q.Get("X-Body") != "hey" || x.Value("was") != "GET" || x.Value("length") != "5" {
		t.Errorf("sent %q, header %v, kept %v, %v", sent, q.Fields(), x.Value("was"), x.Value("length"))
	}
	if string(b) != "pong!" || p.Get("X-Config") != "hello" || p.Get("X-Was") != "yes" || x.Response.ContentLength != 5 {
		t.Errorf("got %q of %d, header %v", b, x.Response.ContentLength, p.Fields())
	}
	x.End()
}

func TestAModuleAnswers(t *testing.T) {
	a := &assembly{imports: []string{"proxy_send_local_response:iiiiiiii"}}
	pairs := serialize([]filter.Field{{Name: "x-why", Value: "because"}})
	a.add("proxy_on_request_headers", 3, true, a.call("proxy_send_local_response", "iiiiiiii", i32(403), a.text("details"), a.text("no"), a.text(pairs), i32(-1)), i32(1))
	r, _ := registry(t, wasmDoc(a.bytes(), ""))
	x := &filter.Exchange{}
	chain(t, r, nil)(x)
	b, _ := io.ReadAll(x.Response.Body)
	if x.Response.Status != 403 || string(b) != "no" || x.Response.Header.Get("X-Why") != "because" || len(x.Failed) > 0 {
		t.Errorf("got %d %q %v, failed %v", x.Response.Status, b, x.Response.Header.Fields(), x.Failed)
	}
	x.End()
}

func TestAModuleCountsAndShares(t *testing.T) {
	a := &assembly{imports: []string{"proxy_define_metric:iiii", "proxy_increment_metric:iI", "proxy_set_shared_data:iiiii", "proxy_get_shared_data:iiiii", "proxy_replace_header_map_value:iiiii", "proxy_http_call:iiiiiiiiii", "proxy_done:"}}
	a.add("proxy_on_configure", 2, true, a.call("proxy_define_metric", "iiii", i32(0), a.text("hits"), i32(16)),
		a.call("proxy_set_shared_data", "iiiii", a.text("key"), a.text("value"), i32(0)), i32(1))
	a.add("proxy_on_request_headers", 3, true, a.call("proxy_increment_metric", "iI", []byte{0x41, 16, 0x28, 2, 0}, i64(3)),
		a.call("proxy_get_shared_data", "iiiii", a.text("key"), i32(0), i32(4), i32(8)),
		a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-Shared"), []byte{0x41, 0, 0x28, 2, 0}, []byte{0x41, 4, 0x28, 2, 0}),
		a.call("proxy_set_shared_data", "iiiii", a.text("key"), a.text("none"), i32(99)), // another has it at another version
		a.call("proxy_http_call", "iiiiiiiiii", i32(0), i32(0), i32(0), i32(0), i32(0), i32(0), i32(0), i32(0), i32(0), i32(0)), a.call("proxy_done", ""), i32(0))
	r, _ := registry(t, wasmDoc(a.bytes(), ""))
	run := chain(t, r, nil)
	for range 4 {
		x := &filter.Exchange{}
		if run(x); x.Request.Header.Get("X-Shared") != "value" || len(x.Failed) > 0 {
			t.Fatalf("header %v, failed %v", x.Request.Header.Fields(), x.Failed)
		}
		x.End()
	}
	if n := r.meter.Counter("edge.program.counter", "program", "p0", "id", "hits").Count(); n != 12 {
		t.Errorf("counted %d, want 12", n)
	}
}

// TestAModuleIsStopped is what a module may try to hold the process up or to end it.
func TestAModuleIsStopped(t *testing.T) {
	loop := []byte{0x03, 0x40, 0x0c, 0, 0x0b}
	for _, tt := range []struct {
		what, want string
		build      func(a *assembly)
	}{
		{"loops", "it took too long", func(a *assembly) { a.add("proxy_on_request_headers", 3, true, loop, i32(0)) }},
		{"traps", "unreachable", func(a *assembly) { a.add("proxy_on_request_headers", 3, true, []byte{0x00}) }},
		{"recurses", "proxy_on_request_headers", func(a *assembly) {
			a.add("proxy_on_request_headers", 3, true, local(0), local(1), local(2), []byte{0x10, byte(len(a.imports) + 2)})
		}},
		{"reads beyond its memory", "out of bounds", func(a *assembly) { a.add("proxy_on_request_headers", 3, true, i32(-1), []byte{0x28, 2, 0}) }},
		{"takes all memory", "proxy_on_request_headers", func(a *assembly) { // grows by 16 pages until that fails, then traps; else it would loop until it is stopped
			a.add("proxy_on_request_headers", 3, true, []byte{0x03, 0x40}, i32(16), []byte{0x40, 0}, i32(-1), []byte{0x46, 0x04, 0x40, 0x00, 0x0b, 0x0c, 0, 0x0b}, i32(0))
		}},
		{"allocates in its allocator", "it took too long", func(a *assembly) {
			a.add("proxy_on_request_headers", 3, true, []byte{0x03, 0x40}, a.call("proxy_get_property", "iiii", a.text("request\x00method"), i32(0), i32(4)), []byte{0x0c, 0, 0x0b}, i32(0))
		}},
		{"pauses for ever", "paused the request", func(a *assembly) { a.add("proxy_on_request_headers", 3, true, i32(1)) }},
	} {
		t.Run(tt.what, func(t *testing.T) {
			a := &assembly{imports: []string{"proxy_get_property:iiii"}}
			tt.build(a)
			r, told := registry(t)
			if strings.Contains(tt.want, "long") {
				r.perCall = maxCall
			}
			put(r, wasmDoc(a.bytes(), ""))
			run := chain(t, r, nil)
			x := &filter.Exchange{}
			if run(x); x.Response.Status != 200 || len(x.Failed) != 1 || !strings.Contains(x.Failed[0].Err.Error(), tt.want) {
				t.Errorf("got %d, failed %v; want 200 and %q", x.Response.Status, x.Failed, tt.want)
			}
			x.End()
			if strings.Contains(tt.want, "long") || tt.what == "recurses" || tt.what == "takes all memory" {
				return // a hundred of these would take seconds
			}
			for range 99 {
				x := &filter.Exchange{}
				run(x)
				x.End()
			}
			if len(*told) != 1 || !strings.HasPrefix((*told)[0], "p0 DISABLED 100 of 100 runs failed") {
				t.Errorf("told %v", *told)
			}
		})
	}
}

func TestAModuleThatCannotStartIsRefused(t *testing.T) {
	good := &assembly{}
	trap := &assembly{}
	trap.add("_initialize", 0, false, []byte{0x00})
	loop := &assembly{}
	loop.add("proxy_on_context_create", 2, false, []byte{0x00})
	refuses := &assembly{}
	refuses.add("proxy_on_configure", 2, true, i32(0))
	wrong := &assembly{}
	wrong.add("proxy_on_request_headers", 1, true, i32(0))
	foreign := &assembly{imports: []string{"proxy_format_disk:i"}}
	for what, tt := range map[string]struct {
		code []byte
		want string
	}{
		"empty":             {nil, "either base64 or file"},
		"nonsense":          {[]byte("nonsense"), "cannot be compiled"},
		"cut":               {good.bytes()[:40], "cannot be compiled"},
		"no ABI":            {[]byte("\x00asm\x01\x00\x00\x00"), "build it with a proxy-wasm SDK"},
		"trap at start":     {trap.bytes(), "cannot start"},
		"trap at creation":  {loop.bytes(), "proxy_on_context_create"},
		"refuses":           {refuses.bytes(), "proxy_on_configure returned false"},
		"wrong parameters":  {wrong.bytes(), "does not have the parameters"},
		"too much memory":   {(&assembly{least: 300}).bytes(), "memory"},
		"unknown functions": {foreign.bytes(), "cannot start"},
	} {
		r, _ := registry(t, wasmDoc(tt.code, ""))
		if v := r.List()[0]; !strings.Contains(v.Refused, tt.want) {
			t.Errorf("%s: refused %q, want %q", what, v.Refused, tt.want)
		}
	}
}

func TestAModuleMayLieInAFile(t *testing.T) {
	code := (&assembly{}).bytes()
	file := filepath.Join(t.TempDir(), "m.wasm")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(code)
	name, _ := json.Marshal(file)
	r, _ := registry(t, fmt.Sprintf(`{"kind":"wasm","file":%s,"sha256":"%s"}`, name, hex.EncodeToString(sum[:])), fmt.Sprintf(`{"kind":"wasm","file":%s,"sha256":"%064d"}`, name, 0))
	if v := r.List(); v[0].Refused != "" || v[0].Phase != "both" || !strings.Contains(v[1].Refused, "bring the same file to every edge") {
		t.Errorf("got %+v", v)
	}
}

func TestModulesAreReplacedWhileRequestsRun(t *testing.T) {
	a := &assembly{imports: []string{"proxy_replace_header_map_value:iiiii"}}
	a.add("proxy_on_request_headers", 3, true, a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-A"), a.text("b")), i32(0))
	a.add("proxy_on_done", 1, true, i32(1))
	docs := []string{wasmDoc(a.bytes(), ""), wasmDoc(a.bytes(), `,"config":"other"`)}
	r, _ := registry(t, docs[0])
	run := chain(t, r, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 200 {
				x := &filter.Exchange{}
				run(x)
				if x.Response.Status != 200 || len(x.Failed) > 0 || x.Request.Header.Get("X-A") != "b" {
					t.Errorf("got %d, failed %v", x.Response.Status, x.Failed)
				}
				x.End()
			}
		})
	}
	for i := range 10 {
		put(r, docs[i%2])
	}
	all.Wait()
}

func TestPairsAreReadAsTheyAreWritten(t *testing.T) {
	fields := []filter.Field{{Name: "a", Value: "1"}, {Name: "", Value: ""}, {Name: "b\x00", Value: "\x00"}}
	got, err := deserialize(serialize(fields))
	if err != nil || !slices.Equal(got, fields) {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzPairs(f *testing.F) {
	f.Add(serialize([]filter.Field{{Name: "a", Value: "1"}, {Name: "b", Value: ""}}))
	f.Add("\xff\xff\xff\xff\x00\x00\x00\x00")
	f.Fuzz(func(t *testing.T, s string) {
		fields, err := deserialize(s)
		if err != nil || len(fields) == 0 {
			return
		}
		again, err := deserialize(serialize(fields))
		if err != nil || !slices.Equal(again, fields) {
			t.Errorf("%q: %v became %v, %v", s, fields, again, err)
		}
	})
}

func BenchmarkModule(b *testing.B) {
	a := &assembly{imports: []string{"proxy_replace_header_map_value:iiiii"}}
	a.add("proxy_on_request_headers", 3, true, a.call("proxy_replace_header_map_value", "iiiii", i32(0), a.text("X-A"), a.text("b")), i32(0))
	r, _ := registry(b, wasmDoc(a.bytes(), ""))
	run := chain(b, r, &filter.Plan{})
	var x filter.Exchange
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
		run(&x)
		x.End()
	}
}

func TestPropertiesThatModulesSetAreBounded(t *testing.T) {
	a := &assembly{imports: []string{"proxy_set_property:iiii"}}
	a.add("proxy_on_request_headers", 3, true, a.call("proxy_set_property", "iiii", a.text("mine"), a.text("value")), i32(0))
	r, _ := registry(t, wasmDoc(a.bytes(), ""))
	for _, tt := range []struct {
		name string
		held func(x *filter.Exchange)
		want any
	}{
		{"nothing else is set", func(*filter.Exchange) {}, "value"},
		{"it is set already", func(x *filter.Exchange) { x.Set("mine", strings.Repeat("x", maxShared)) }, "value"},
		{"there is no room", func(x *filter.Exchange) { x.Set("other", strings.Repeat("x", maxShared-10)) }, nil},
		{"there are too many", func(x *filter.Exchange) {
			for i := range maxProperties {
				x.Set(fmt.Sprint(i), "")
			}
		}, nil},
	} {
		x := request()
		tt.held(x)
		for _, f := range r.Filters() {
			if f.Kind == filter.Inbound && !f.Body {
				if err := f.Apply(x); err != nil {
					t.Fatalf("%s: %v", tt.name, err)
				}
			}
		}
		if got := x.Value("mine"); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		x.End()
	}
}
