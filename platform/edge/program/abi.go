package program

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/tetratelabs/wazero/api"
)

// status is what host functions return, proxy_status_t.
type status uint32

const (
	statusOK            status = 0
	statusNotFound      status = 1
	statusBadArgument   status = 2
	statusParseFailure  status = 4
	statusInvalidMemory status = 6
	statusCASMismatch   status = 8
	statusInternal      status = 10
	statusNotOffered    status = 12 // UNIMPLEMENTED in the ABI
)

// call is one call of a host function.
type call struct {
	ctx context.Context
	w   *worker
	mem api.Memory
	a   []uint64
}

// u returns parameter i.
func (c *call) u(i int) uint32 { return uint32(c.a[i]) }

// text returns the bytes that parameters i and i+1 point to; ok is false if they point elsewhere.
func (c *call) text(i int) (s string, ok bool) {
	b, ok := c.mem.Read(c.u(i), c.u(i+1))
	return string(b), ok
}

// give puts value into memory of the module's, and where it is to where parameters i and i+1 point.
func (c *call) give(i int, value string) status {
	at, ok := uint32(0), true
	if value != "" {
		if at, ok = c.allocate(uint32(len(value))); !ok {
			return statusInternal
		}
		if !c.mem.WriteString(at, value) {
			return statusInvalidMemory
		}
	}
	if !c.mem.WriteUint32Le(c.u(i), at) || !c.mem.WriteUint32Le(c.u(i+1), uint32(len(value))) {
		return statusInvalidMemory
	}
	return statusOK
}

// allocate asks the module for memory. An allocator that asks for some itself, by way of the host, gets none.
func (c *call) allocate(n uint32) (uint32, bool) {
	w := c.w
	if w.alloc || w.inst == nil {
		return 0, false
	}
	f := w.inst.ExportedFunction("proxy_on_memory_allocate")
	if f == nil {
		f = w.inst.ExportedFunction("malloc")
	}
	w.alloc = true
	defer func() { w.alloc = false }()
	out, err := f.Call(c.ctx, uint64(n))
	if err != nil {
		panic(err) // the module trapped; so does its call
	}
	return uint32(out[0]), uint32(out[0]) != 0
}

// host defines the functions that modules may import. All of proxy-wasm 0.2.1 are there, so that every module links; those
// of gRPC, queues, timers and foreign functions are not offered: the module gets the ABI's status for that, 12.
func (m *module) host(ctx context.Context) error {
	b := m.wasm.NewHostModuleBuilder("env")
	define := func(name, params string, fn func(c *call) status) {
		types := make([]api.ValueType, len(params))
		for i, p := range params {
			if types[i] = api.ValueTypeI32; p == 'I' {
				types[i] = api.ValueTypeI64
			}
		}
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
			c := call{ctx: ctx, w: ctx.Value(workerKey{}).(*worker), mem: mod.Memory(), a: stack}
			if c.mem == nil {
				stack[0] = uint64(statusInvalidMemory)
				return
			}
			stack[0] = uint64(fn(&c))
		}), types, []api.ValueType{api.ValueTypeI32}).Export(name)
	}
	define("proxy_log", "iii", proxyLog)
	define("proxy_get_log_level", "i", func(c *call) status { return c.number(0, 2) })
	define("proxy_get_current_time_nanoseconds", "i", func(c *call) status {
		if !c.mem.WriteUint64Le(c.u(0), uint64(time.Now().UnixNano())) {
			return statusInvalidMemory
		}
		return statusOK
	})
	define("proxy_get_header_map_size", "ii", func(c *call) status {
		pairs, s := c.pairs()
		if s != statusOK {
			return s
		}
		return c.number(1, uint32(len(serialize(pairs))))
	})
	define("proxy_get_header_map_pairs", "iii", func(c *call) status {
		pairs, s := c.pairs()
		if s != statusOK {
			return s
		}
		return c.give(1, serialize(pairs))
	})
	define("proxy_set_header_map_pairs", "iii", setPairs)
	define("proxy_get_header_map_value", "iiiii", getValue)
	define("proxy_add_header_map_value", "iiiii", func(c *call) status { return c.change(true) })
	define("proxy_replace_header_map_value", "iiiii", func(c *call) status { return c.change(false) })
	define("proxy_remove_header_map_value", "iii", removeValue)
	define("proxy_get_buffer_bytes", "iiiii", getBuffer)
	define("proxy_set_buffer_bytes", "iiiii", setBuffer)
	define("proxy_get_buffer_status", "iii", func(c *call) status {
		b, s := c.buffer()
		if s != statusOK {
			return s
		}
		if s := c.number(1, uint32(len(b))); s != statusOK {
			return s
		}
		return c.number(2, 0)
	})
	define("proxy_send_local_response", "iiiiiiii", sendLocalResponse)
	define("proxy_get_property", "iiii", getProperty)
	define("proxy_set_property", "iiii", setProperty)
	define("proxy_get_shared_data", "iiiii", getShared)
	define("proxy_set_shared_data", "iiiii", setShared)
	define("proxy_define_metric", "iiii", defineMetric)
	define("proxy_increment_metric", "iI", func(c *call) status {
		return c.metric(func(x *metric) { x.value += int64(c.a[1]) }, int64(c.a[1]), true)
	})
	define("proxy_record_metric", "iI", func(c *call) status {
		return c.metric(func(x *metric) { x.value = int64(c.a[1]) }, int64(c.a[1]), false)
	})
	define("proxy_get_metric", "ii", getMetric)
	define("proxy_continue_stream", "i", func(c *call) status {
		c.w.resumed = true
		return inRange(c.u(0), 1)
	})
	define("proxy_http_call", "iiiiiiiiii", httpCall)
	define("proxy_close_stream", "i", func(*call) status { return statusNotOffered })
	define("proxy_set_effective_context", "i", func(c *call) status {
		if id := c.u(0); id != 1 && id != c.w.id {
			return statusBadArgument
		}
		c.w.effective = c.u(0)
		return statusOK
	})
	define("proxy_done", "", func(*call) status { return statusOK }) // contexts end with their request
	for name, params := range map[string]string{
		"proxy_set_tick_period_milliseconds": "i", "proxy_get_status": "iii",
		"proxy_grpc_call": "iiiiiiiiiiii", "proxy_grpc_stream": "iiiiiiiii", "proxy_grpc_send": "iiii", "proxy_grpc_cancel": "i", "proxy_grpc_close": "i",
		"proxy_register_shared_queue": "iii", "proxy_resolve_shared_queue": "iiiii", "proxy_enqueue_shared_queue": "iii", "proxy_dequeue_shared_queue": "iii",
		"proxy_call_foreign_function": "iiiiii",
	} {
		define(name, params, func(*call) status { return statusNotOffered })
	}
	_, err := b.Instantiate(ctx)
	return err
}

func inRange(n, most uint32) status {
	if n > most {
		return statusBadArgument
	}
	return statusOK
}

// number writes n to where parameter i points.
func (c *call) number(i int, n uint32) status {
	if !c.mem.WriteUint32Le(c.u(i), n) {
		return statusInvalidMemory
	}
	return statusOK
}

func proxyLog(c *call) status {
	line, ok := c.text(1)
	if !ok {
		return statusInvalidMemory
	}
	levels := []slog.Level{slog.LevelDebug - 4, slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError, slog.LevelError + 4}
	if s := inRange(c.u(0), 5); s != statusOK {
		return s
	}
	c.w.say(levels[c.u(0)], line)
	return statusOK
}

// header returns the header that parameter 0 names.
func (c *call) header() (*filter.Header, status) {
	x, which := c.w.x, c.u(0)
	switch {
	case which == 0 && x != nil:
		return &x.Request.Header, statusOK
	case which == 2 && x != nil:
		return &x.Response.Header, statusOK
	case which == 6 && c.w.reply != nil:
		return &c.w.reply.header, statusOK
	case which == 7 && c.w.reply != nil:
		return &c.w.reply.trailer, statusOK
	case which <= 7:
		return nil, statusNotFound
	}
	return nil, statusBadArgument
}

// writable is header, provided that it is that of what is under way.
func (c *call) writable() (*filter.Header, status) {
	h, s := c.header()
	if s == statusOK && (c.u(0) > 2 || (c.u(0) == 0) != (c.w.kind == filter.Inbound)) {
		return nil, statusBadArgument
	}
	return h, s
}

// pseudo are the names under which proxy-wasm shows what is no header field.
func (c *call) pseudo() []filter.Field {
	x := c.w.x
	switch c.u(0) {
	case 6:
		return c.w.reply.pseudo()
	case 7:
		return nil
	}
	if c.u(0) == 2 {
		return []filter.Field{{Name: ":status", Value: strconv.Itoa(x.Response.Status)}}
	}
	path := x.Request.Path
	if x.Path != "" {
		path = x.Path
	}
	if x.Request.RawQuery != "" {
		path += "?" + x.Request.RawQuery
	}
	return []filter.Field{{Name: ":authority", Value: x.Request.Host}, {Name: ":path", Value: path}, {Name: ":method", Value: x.Request.Method}, {Name: ":scheme", Value: x.Request.Scheme}}
}

func (c *call) pairs() ([]filter.Field, status) {
	h, s := c.header()
	if s == statusNotFound {
		return nil, statusOK
	}
	if s != statusOK {
		return nil, s
	}
	return lowered(c.pseudo(), h), statusOK
}

// serialize writes fields as proxy-wasm has them: how many, the lengths of each, then names and values with a 0 after each.
func serialize(fields []filter.Field) string {
	if len(fields) == 0 {
		return ""
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(fields)))
	for _, f := range fields {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Name)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Value)))
	}
	for _, f := range fields {
		b = append(b, f.Name...)
		b = append(b, 0)
		b = append(b, f.Value...)
		b = append(b, 0)
	}
	return string(b)
}

var errPairs = errors.New("the pairs break off")

// deserialize is serialize's opposite.
func deserialize(s string) ([]filter.Field, error) {
	if s == "" || s == "\x00" {
		return nil, nil
	}
	if len(s) < 4 {
		return nil, errPairs
	}
	n := int(binary.LittleEndian.Uint32([]byte(s[:4])))
	if n > (len(s)-4)/10 { // two lengths and two zeros each
		return nil, errPairs
	}
	sizes, rest := s[4:4+8*n], s[4+8*n:]
	fields := make([]filter.Field, n)
	take := func(size string) (string, bool) {
		l := int(binary.LittleEndian.Uint32([]byte(size)))
		if l >= len(rest) || rest[l] != 0 {
			return "", false
		}
		v := rest[:l]
		rest = rest[l+1:]
		return v, true
	}
	for i := range fields {
		var ok, also bool
		fields[i].Name, ok = take(sizes[8*i : 8*i+4])
		fields[i].Value, also = take(sizes[8*i+4 : 8*i+8])
		if !ok || !also {
			return nil, errPairs
		}
	}
	return fields, nil
}

// put adds or replaces a field, or one of the pseudo ones.
func (c *call) put(h *filter.Header, name, value string, add bool) status {
	if strings.HasPrefix(name, ":") {
		return c.putPseudo(name, value)
	}
	if fit(name, value) != nil {
		return statusBadArgument
	}
	if add {
		h.Add(name, value)
	} else {
		h.Set(name, value)
	}
	return statusOK
}

func (c *call) putPseudo(name, value string) status {
	x := c.w.x
	switch {
	case c.u(0) == 0 && name == ":path":
		if setPath(x, value) != nil {
			return statusBadArgument
		}
	case c.u(0) == 0 && name == ":authority":
		if !label(value) {
			return statusBadArgument
		}
		x.Host = value
	case c.u(0) == 2 && name == ":status":
		n, err := strconv.Atoi(value)
		if err != nil || n < 200 || n > 599 {
			return statusBadArgument
		}
		x.Response.Status = n
	default:
		return statusBadArgument
	}
	return statusOK
}

func setPairs(c *call) status {
	text, ok := c.text(1)
	if !ok {
		return statusInvalidMemory
	}
	h, s := c.writable()
	if s != statusOK {
		return s
	}
	fields, err := deserialize(text)
	if err != nil {
		return statusParseFailure
	}
	had := make(map[filter.Field]bool)
	for _, f := range append(c.pseudo(), h.Fields()...) {
		had[filter.Field{Name: strings.ToLower(f.Name), Value: f.Value}] = true
	}
	for _, f := range fields { // those that were there may stay, whatever they are
		if !had[filter.Field{Name: strings.ToLower(f.Name), Value: f.Value}] && !strings.HasPrefix(f.Name, ":") && fit(f.Name, f.Value) != nil {
			return statusBadArgument
		}
	}
	h.DelFunc(func(f *filter.Field) bool { return fit(f.Name, "") == nil })
	for _, f := range fields {
		switch {
		case strings.HasPrefix(f.Name, ":"):
			if !had[f] {
				if s := c.putPseudo(f.Name, f.Value); s != statusOK {
					return s
				}
			}
		case fit(f.Name, f.Value) == nil:
			h.Add(f.Name, f.Value)
		}
	}
	return statusOK
}

// length is how long the body is that goes with the header; -1 if that is unknown.
func (c *call) length() int64 {
	switch c.u(0) {
	case 2:
		return c.w.x.Response.ContentLength
	case 6, 7:
		return -1
	}
	return c.w.x.Request.ContentLength
}

func getValue(c *call) status {
	name, ok := c.text(1)
	if !ok {
		return statusInvalidMemory
	}
	h, s := c.header()
	if s != statusOK {
		return s
	}
	if strings.HasPrefix(name, ":") {
		for _, f := range c.pseudo() {
			if f.Name == name {
				return c.give(3, f.Value)
			}
		}
		return statusNotFound
	}
	if !h.Has(name) {
		if n := c.length(); n > 0 && filter.Same(name, "content-length") {
			return c.give(3, strconv.FormatInt(n, 10))
		}
		return statusNotFound
	}
	return c.give(3, h.Get(name))
}

func (c *call) change(add bool) status {
	name, ok := c.text(1)
	value, also := c.text(3)
	if !ok || !also {
		return statusInvalidMemory
	}
	h, s := c.writable()
	if s != statusOK {
		return s
	}
	return c.put(h, name, value, add)
}

func removeValue(c *call) status {
	name, ok := c.text(1)
	if !ok {
		return statusInvalidMemory
	}
	h, s := c.writable()
	if s != statusOK {
		return s
	}
	if filter.Same(name, "content-length") {
		return statusOK // modules that change a body take it out; it follows the body anyway
	}
	if fit(name, "") != nil {
		return statusBadArgument
	}
	h.Del(name)
	return statusOK
}

// buffer returns the bytes that parameter 0 names.
func (c *call) buffer() ([]byte, status) {
	w := c.w
	switch c.u(0) {
	case 0:
		if w.x != nil && w.body && w.kind != filter.Outbound {
			return w.x.Whole, statusOK
		}
	case 1:
		if w.x != nil && w.body && w.kind == filter.Outbound {
			return w.x.Whole, statusOK
		}
	case 6:
		return nil, statusOK
	case 7:
		return []byte(w.m.config), statusOK
	case 4:
		if w.reply != nil {
			return w.reply.body, statusOK
		}
	case 2, 3, 5, 8:
	default:
		return nil, statusBadArgument
	}
	return nil, statusNotFound
}

func getBuffer(c *call) status {
	b, s := c.buffer()
	if s != statusOK {
		return s
	}
	start, n := uint64(c.u(1)), uint64(c.u(2))
	if start > uint64(len(b)) {
		return statusBadArgument
	}
	return c.give(3, string(b[start:min(start+n, uint64(len(b)))]))
}

func setBuffer(c *call) status {
	value, ok := c.text(3)
	if !ok {
		return statusInvalidMemory
	}
	b, s := c.buffer()
	if s != statusOK {
		return s
	}
	if c.u(0) > 1 {
		return statusBadArgument
	}
	start := min(uint64(c.u(1)), uint64(len(b)))
	end := min(start+uint64(c.u(2)), uint64(len(b)))
	if uint64(len(b))+uint64(len(value)) > modulePages<<16 {
		return statusBadArgument
	}
	next := make([]byte, 0, len(b)+len(value))
	next = append(append(append(next, b[:start]...), value...), b[end:]...)
	c.w.x.Whole = next
	return statusOK
}

func sendLocalResponse(c *call) status {
	code := int(c.u(0))
	body, ok := c.text(3)
	pairs, also := c.text(5)
	if !ok || !also {
		return statusInvalidMemory
	}
	x := c.w.x
	if x == nil || code < 200 || code > 599 {
		return statusBadArgument
	}
	fields, err := deserialize(pairs)
	if err != nil {
		return statusParseFailure
	}
	for _, f := range fields {
		if fit(f.Name, f.Value) != nil {
			return statusBadArgument
		}
	}
	x.Answer(code, body)
	for _, f := range fields {
		if filter.Same(f.Name, "Content-Type") {
			x.Response.Header.Set(f.Name, f.Value)
		} else {
			x.Response.Header.Add(f.Name, f.Value)
		}
	}
	if grpc := int32(c.u(7)); grpc >= 0 && filter.Same(x.Request.Header.Get("Content-Type"), "application/grpc") {
		x.Response.Header.Set("Grpc-Status", strconv.Itoa(int(grpc)))
	}
	c.w.answer = true
	return statusOK
}

// property returns what a path names, in the words of Envoy's attributes.
func (w *worker) property(path []string) (string, bool) {
	x := w.x
	name := strings.Join(path, ".")
	switch name {
	case "plugin_name", "plugin_root_id":
		return w.m.name, true
	}
	if x == nil {
		return "", false
	}
	if len(path) == 3 && path[1] == "headers" {
		h := &x.Request.Header
		if path[0] == "response" {
			h = &x.Response.Header
		}
		return h.Get(path[2]), h.Has(path[2])
	}
	integer := func(n int64) (string, bool) {
		return string(binary.LittleEndian.AppendUint64(nil, uint64(n))), true
	}
	address := func(a netip.AddrPort) (string, bool) { return a.String(), a.IsValid() }
	switch name {
	case "request.path":
		if x.Request.RawQuery != "" {
			return x.Request.Path + "?" + x.Request.RawQuery, true
		}
		return x.Request.Path, true
	case "request.url_path":
		return x.Request.Path, true
	case "request.query":
		return x.Request.RawQuery, true
	case "request.host":
		return x.Request.Host, true
	case "request.scheme":
		return x.Request.Scheme, true
	case "request.method":
		return x.Request.Method, true
	case "request.id":
		return x.ID, x.ID != ""
	case "request.protocol":
		return map[int]string{10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2", 30: "HTTP/3"}[x.Request.Proto], true
	case "request.size":
		return integer(max(0, x.Request.ContentLength))
	case "response.code":
		return integer(int64(x.Response.Status))
	case "source.address":
		if x.Client == nil {
			return "", false
		}
		return address(x.Client.Remote)
	case "source.port":
		if x.Client == nil {
			return "", false
		}
		return integer(int64(x.Client.Remote.Port()))
	case "destination.address":
		if x.Client == nil {
			return "", false
		}
		return address(x.Client.Local)
	case "connection.requested_server_name":
		return ofTLS(x, "sni"), x.Client != nil && x.Client.TLS != nil
	case "connection.tls_version":
		return ofTLS(x, "version"), x.Client != nil && x.Client.TLS != nil
	case "connection.mtls":
		return string([]byte{byte(truth(x.Identity() != ""))}), true
	case "route_name", "xds.route_name":
		return routeOf(x), true
	case "cluster_name", "xds.cluster_name":
		return x.App, true
	}
	v := x.Value(name)
	if v == nil {
		return "", false
	}
	if s, ok := v.(string); ok {
		return s, true
	}
	return fmt.Sprint(v), true
}

func splitPath(s string) []string { return strings.Split(strings.TrimSuffix(s, "\x00"), "\x00") }

func getProperty(c *call) status {
	path, ok := c.text(0)
	if !ok {
		return statusInvalidMemory
	}
	v, has := c.w.property(splitPath(path))
	if !has {
		return statusNotFound
	}
	return c.give(2, v)
}

// maxProperties is how many properties modules may set for one request; together they have at most maxShared bytes.
const maxProperties = 256

func setProperty(c *call) status {
	path, ok := c.text(0)
	value, also := c.text(2)
	if !ok || !also {
		return statusInvalidMemory
	}
	name := strings.Join(splitPath(path), ".")
	if c.w.x == nil || name == ClaimsKey || strings.HasPrefix(name, "wasm:") || len(name)+len(value) > maxShared {
		return statusBadArgument
	}
	n, held := 0, len(name)+len(value)
	c.w.x.Values(func(key string, v any) {
		if s, ok := v.(string); ok && key != name {
			n, held = n+1, held+len(key)+len(s)
		}
	})
	if n >= maxProperties || held > maxShared {
		return statusBadArgument
	}
	c.w.x.Set(name, value)
	return statusOK
}

func getShared(c *call) status {
	key, ok := c.text(0)
	if !ok {
		return statusInvalidMemory
	}
	m := c.w.m
	m.mu.Lock()
	v, has := m.shared[key]
	m.mu.Unlock()
	if !has {
		return statusNotFound
	}
	if s := c.give(2, v.value); s != statusOK {
		return s
	}
	return c.number(4, v.cas)
}

func setShared(c *call) status {
	key, ok := c.text(0)
	value, also := c.text(2)
	if !ok || !also {
		return statusInvalidMemory
	}
	m := c.w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	was, has := m.shared[key]
	if cas := c.u(4); cas != 0 && cas != was.cas {
		return statusCASMismatch
	}
	size := m.size + len(value) - len(was.value)
	if !has {
		size += len(key) + 64
	}
	if size > maxShared {
		return statusInternal
	}
	m.size = size
	m.shared[key] = shared{value, was.cas + 1}
	return statusOK
}

func defineMetric(c *call) status {
	name, ok := c.text(1)
	if !ok {
		return statusInvalidMemory
	}
	kind := c.u(0)
	if kind > 2 || name == "" || len(name) > 128 {
		return statusBadArgument
	}
	m := c.w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, x := range m.metrics { // each instance defines its own; they are the same
		if x.name == name && x.kind == kind {
			return c.number(3, uint32(i+1))
		}
	}
	if len(m.metrics) >= maxMetrics {
		return statusInternal
	}
	x := &metric{name: name, kind: kind}
	switch kind {
	case 0:
		x.counter = m.meter.Counter("edge.program.counter", "program", m.name, "id", name)
	case 1:
		x.gauge = m.meter.Gauge("edge.program.gauge", "program", m.name, "id", name)
	case 2:
		x.summary = m.meter.Summary("edge.program.histogram", "program", m.name, "id", name)
	}
	m.metrics = append(m.metrics, x)
	return c.number(3, uint32(len(m.metrics)))
}

// metric changes the metric of parameter 0 by fn, and tells the meter.
func (c *call) metric(fn func(x *metric), n int64, increment bool) status {
	m := c.w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	id := int(c.u(0))
	if id < 1 || id > len(m.metrics) {
		return statusNotFound
	}
	x := m.metrics[id-1]
	switch {
	case x.kind == 0 && (!increment || n < 0), x.kind == 2 && increment:
		return statusBadArgument
	}
	fn(x)
	switch x.kind {
	case 0:
		x.counter.Add(n)
	case 1:
		x.gauge.Set(float64(x.value))
	case 2:
		x.summary.Record(n)
	}
	return statusOK
}

func getMetric(c *call) status {
	m := c.w.m
	m.mu.Lock()
	defer m.mu.Unlock()
	id := int(c.u(0))
	if id < 1 || id > len(m.metrics) {
		return statusNotFound
	}
	if !c.mem.WriteUint64Le(c.u(1), uint64(m.metrics[id-1].value)) {
		return statusInvalidMemory
	}
	return statusOK
}
