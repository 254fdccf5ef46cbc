package program

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// What a WASM module may use.
const (
	modulePages = 256                   // of 64 KiB: 16 MiB of memory for each instance
	maxCall     = 20 * time.Millisecond // of one callback, and what it calls
	maxStart    = 2 * time.Second       // of an instance's start, its configuration included
	maxWorkers  = 16                    // instances, one for each processor
	maxLines    = 16                    // of log in one callback
	maxLine     = 1 << 10               // bytes of one
	maxMetrics  = 64
	maxShared   = 1 << 20 // bytes of keys and values that a module's instances share
)

// module is a WASM module that speaks proxy-wasm's ABI 0.2.1, with an instance for each worker.
type module struct {
	name    string
	config  string
	log     *slog.Logger
	meter   *meter.Registry
	wasm    wazero.Runtime
	code    wazero.CompiledModule
	workers []*worker
	turn    atomic.Uint32
	apps    http.RoundTripper // reaches apps by their names; nil: HTTP calls are not offered
	room    chan struct{}     // a place for each call under way
	loose   *sync.WaitGroup   // calls that no request waits for; the registry's, for they may outlast the module
	panics  *filter.Panics
	within  time.Duration // of a callback, by the clock

	users   atomic.Int64 // who runs, and exchanges that have a stream here
	retired atomic.Bool
	closed  sync.Once

	mu      sync.Mutex // guards what follows
	shared  map[string]shared
	size    int // of shared
	metrics []*metric
}

type shared struct {
	value string
	cas   uint32
}

// metric is one that the module has defined.
type metric struct {
	name    string
	kind    uint32
	counter *meter.Counter
	gauge   *meter.Gauge
	summary *meter.Summary
	value   int64 // guarded by the module's mu
}

// worker is an instance of the module. One callback runs in it at a time.
type worker struct {
	m  *module
	mu sync.Mutex // guards what follows, and is held while the module runs

	inst   api.Module // nil: not started, or ended by a trap
	alive  uint32     // which start this is; streams of an earlier one are gone
	nextID uint32

	x      *filter.Exchange // whose stream is served
	kind   filter.Kind
	body   bool // x.Whole is the body of kind
	id     uint32
	alloc  bool // the module's allocator is running
	lines  int
	answer bool // the module has answered

	calls     []callout // that the module wants, and that were not begun yet
	token     uint32    // of the last one
	effective uint32    // the context that the module says it is in
	resumed   bool      // the module has the request go on
	reply     *reply    // of the call that it is told of; nil: none
}

// stream is what an exchange has in a module.
type stream struct {
	w     *worker
	alive uint32
	id    uint32
}

type workerKey struct{}

// newModule compiles a module and starts its instances, so that no request waits for that and a module that cannot start is refused.
func newModule(name string, code []byte, config string, log *slog.Logger, reg *meter.Registry, apps http.RoundTripper, loose *sync.WaitGroup, within time.Duration) (m *module, err error) {
	ctx := context.Background()
	m = &module{name: name, config: config, log: log, meter: reg, apps: apps, room: make(chan struct{}, maxCallouts), loose: loose, panics: filter.NewPanics(reg, log), within: within, shared: make(map[string]shared)}
	m.wasm = wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithMemoryLimitPages(modulePages).WithCloseOnContextDone(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the module cannot be compiled: %v", v)
		}
		if err != nil {
			m.wasm.Close(ctx) //nolint:errcheck // it is given up
			m = nil
		}
	}()
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, m.wasm); err != nil {
		return m, err
	}
	if err := m.host(ctx); err != nil {
		return m, err
	}
	if m.code, err = m.wasm.CompileModule(ctx, code); err != nil {
		return m, fmt.Errorf("the module cannot be compiled: %w", err)
	}
	exports := m.code.ExportedFunctions()
	if exports["proxy_abi_version_0_2_1"] == nil && exports["proxy_abi_version_0_2_0"] == nil {
		return m, errors.New("the module exports neither proxy_abi_version_0_2_1 nor proxy_abi_version_0_2_0; build it with a proxy-wasm SDK")
	}
	if exports["proxy_on_memory_allocate"] == nil && exports["malloc"] == nil {
		return m, errors.New("the module exports neither proxy_on_memory_allocate nor malloc")
	}
	for _, name := range []string{"proxy_on_memory_allocate", "malloc", "proxy_on_context_create", "proxy_on_vm_start", "proxy_on_configure",
		"proxy_on_request_headers", "proxy_on_request_body", "proxy_on_response_headers", "proxy_on_response_body", "proxy_on_done", "proxy_on_log", "proxy_on_delete", "proxy_on_http_call_response"} {
		if f := exports[name]; f != nil {
			if err := signature(name, f); err != nil {
				return m, err
			}
		}
	}
	for range min(maxWorkers, runtime.GOMAXPROCS(0)) {
		m.workers = append(m.workers, &worker{m: m})
	}
	for _, w := range m.workers {
		w.mu.Lock()
		err = w.start()
		w.mu.Unlock()
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// params is how many parameters a callback has, and whether it returns something.
var params = map[string]struct {
	n      int
	result bool
}{
	"proxy_on_memory_allocate": {1, true}, "malloc": {1, true}, "proxy_on_context_create": {2, false}, "proxy_on_vm_start": {2, true}, "proxy_on_configure": {2, true},
	"proxy_on_request_headers": {3, true}, "proxy_on_request_body": {3, true}, "proxy_on_response_headers": {3, true}, "proxy_on_response_body": {3, true},
	"proxy_on_done": {1, true}, "proxy_on_log": {1, false}, "proxy_on_delete": {1, false},
	"proxy_on_http_call_response": {5, false},
}

func signature(name string, f api.FunctionDefinition) error {
	want := params[name]
	got := f.ParamTypes()
	ok := len(got) == want.n && len(f.ResultTypes()) == 0 != want.result
	for _, t := range append(append([]api.ValueType{}, got...), f.ResultTypes()...) {
		ok = ok && t == api.ValueTypeI32
	}
	if !ok {
		return fmt.Errorf("the module's %s does not have the parameters of proxy-wasm 0.2.1", name)
	}
	return nil
}

// retire closes the module once no exchange runs in it or has a stream there.
func (m *module) retire() {
	m.users.Add(1)
	m.retired.Store(true)
	m.leave()
}

// leave is for who has added itself to the users.
func (m *module) leave() {
	if m.users.Add(-1) == 0 && m.retired.Load() {
		m.close()
	}
}

// errReplaced is the error of a module that another one has taken the place of.
var errReplaced = errors.New("the module was replaced")

// serves reports whether the module has something to do for that kind of filter.
func (m *module) serves(k filter.Kind, body bool) bool {
	part := "request"
	if k == filter.Outbound {
		part = "response"
	}
	exports := m.code.ExportedFunctions()
	return exports["proxy_on_"+part+"_headers"] != nil || body && exports["proxy_on_"+part+"_body"] != nil
}

func (m *module) close() {
	m.closed.Do(func() {
		m.wasm.Close(context.Background()) //nolint:errcheck // nothing of it is left
	})
}

// start makes an instance. Call it with mu held.
func (w *worker) start() error {
	w.alive++
	w.nextID, w.x, w.effective = 1, nil, 1
	w.drop()
	ctx, cancel := w.context(maxStart)
	defer cancel()
	exports := w.m.code.ExportedFunctions()
	config := wazero.NewModuleConfig().WithName("").WithSysWalltime().WithSysNanotime().WithRandSource(rand.Reader).
		WithStdout(logWriter{w, slog.LevelInfo}).WithStderr(logWriter{w, slog.LevelError})
	if exports["_initialize"] != nil {
		config = config.WithStartFunctions("_initialize")
	}
	inst, err := w.m.wasm.InstantiateModule(ctx, w.m.code, config)
	if err != nil {
		return fmt.Errorf("the module cannot start: %w", short(err))
	}
	w.inst = inst
	if f := exports["main"]; exports["_initialize"] != nil && f != nil && len(f.ParamTypes()) == 2 {
		if _, err := w.call(ctx, "main", 0, 0); err != nil {
			return err
		}
	}
	if _, err := w.call(ctx, "proxy_on_context_create", 1, 0); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		size int
	}{{"proxy_on_vm_start", 0}, {"proxy_on_configure", len(w.m.config)}} {
		if exports[step.name] == nil {
			continue
		}
		ok, err := w.call(ctx, step.name, 1, uint64(step.size))
		if err != nil {
			return err
		}
		if uint32(ok) == 0 {
			w.stop()
			return fmt.Errorf("the module refused its configuration: %s returned false", step.name)
		}
	}
	return nil
}

// stop ends the instance. Call it with mu held.
func (w *worker) stop() {
	if w.inst != nil {
		w.inst.Close(context.Background()) //nolint:errcheck // nothing of it is left
		w.inst = nil
	}
}

func (w *worker) context(limit time.Duration) (context.Context, context.CancelFunc) {
	w.lines = 0
	return context.WithTimeout(context.WithValue(context.Background(), workerKey{}, w), limit)
}

// call runs a callback, if the module has it. After a trap the instance is gone.
func (w *worker) call(ctx context.Context, name string, args ...uint64) (result uint64, err error) {
	f := w.inst.ExportedFunction(name)
	if f == nil {
		return 0, nil
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%s panicked: %v", name, v)
		}
		if err != nil {
			w.stop()
		}
	}()
	out, err := f.Call(ctx, args...)
	if err != nil {
		if ctx.Err() != nil {
			return 0, fmt.Errorf("%s was stopped: it took too long", name)
		}
		return 0, fmt.Errorf("%s: %w", name, short(err))
	}
	if len(out) > 0 {
		result = out[0]
	}
	return result, nil
}

// short returns err without the module's stack.
func short(err error) error {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(strings.TrimSuffix(line, " (recovered by wazero)"))
}

// worker returns one that is free, with mu held, or else waits for the next in turn.
func (m *module) worker() *worker {
	at := m.turn.Add(1)
	for i := range uint32(len(m.workers)) {
		if w := m.workers[(at+i)%uint32(len(m.workers))]; w.mu.TryLock() {
			return w
		}
	}
	w := m.workers[at%uint32(len(m.workers))]
	w.mu.Lock()
	return w
}

// run passes x through the callbacks of one kind. With body, x.Whole is the whole body.
func (m *module) run(x *filter.Exchange, k filter.Kind, body bool) error {
	m.users.Add(1) // before it is asked whether it is retired
	defer m.leave()
	if m.retired.Load() {
		return errReplaced
	}
	key := "wasm:" + m.name
	s, _ := x.Value(key).(*stream)
	var w *worker
	if s != nil && s.w.m == m {
		w = s.w
		w.mu.Lock()
	} else {
		s, w = nil, m.worker()
	}
	defer w.mu.Unlock()
	if w.inst == nil || w.inst.IsClosed() {
		if err := w.start(); err != nil {
			return err
		}
	}
	ctx, cancel := w.context(w.m.within)
	defer cancel()
	w.x, w.kind, w.body, w.answer, w.resumed = x, k, body, false, false
	defer func() { w.x = nil }()
	defer w.drop()
	if s == nil || s.alive != w.alive {
		w.nextID++
		fresh := s == nil
		s = &stream{w: w, alive: w.alive, id: w.nextID}
		x.Set(key, s)
		if fresh {
			m.users.Add(1)
			x.OnEnd(m.end)
		}
		if _, err := w.call(ctx, "proxy_on_context_create", uint64(s.id), 1); err != nil {
			return err
		}
	}
	w.id, w.effective = s.id, s.id
	names := [2]string{"proxy_on_request_headers", "proxy_on_request_body"}
	n, end := x.Request.Header.Len(), x.Request.Body == nil
	if k == filter.Outbound {
		names = [2]string{"proxy_on_response_headers", "proxy_on_response_body"}
		n, end = x.Response.Header.Len(), x.Response.Body == nil
	}
	if body {
		end = len(x.Whole) == 0
	}
	waits, err := w.step(ctx, s, names[0], uint64(s.id), uint64(n), truth(end))
	if err != nil || w.answer {
		return err
	}
	if body && !end {
		fresh, done := w.context(w.m.within) // the one before may have waited
		defer done()
		waits, err = w.step(fresh, s, names[1], uint64(s.id), uint64(len(x.Whole)), 1)
		if err != nil || w.answer {
			return err
		}
	}
	if waits {
		return errors.New("the module paused the request, and there is nothing that could have it go on")
	}
	return nil
}

// step runs a callback that may have the request wait, and makes the calls that it wants. It reports whether the request still is
// to wait.
func (w *worker) step(ctx context.Context, s *stream, name string, args ...uint64) (waits bool, err error) {
	w.resumed = false
	paused, err := w.call(ctx, name, args...)
	if err != nil || w.answer || len(w.calls) == 0 {
		return uint32(paused) != 0 && !w.resumed, err
	}
	return w.resume(s, uint32(paused) != 0 && !w.resumed)
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// end tells the module that a request is over.
func (m *module) end(x *filter.Exchange) {
	defer m.leave()
	s, _ := x.Value("wasm:" + m.name).(*stream)
	if s == nil || s.w.m != m {
		return
	}
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.inst == nil || w.inst.IsClosed() || s.alive != w.alive {
		return
	}
	ctx, cancel := w.context(w.m.within)
	defer cancel()
	w.x, w.kind, w.body, w.id = x, filter.Outbound, false, s.id
	defer func() { w.x = nil }()
	for _, name := range []string{"proxy_on_done", "proxy_on_log", "proxy_on_delete"} {
		if _, err := w.call(ctx, name, uint64(s.id)); err != nil {
			m.log.Warn("program failed at a request's end", "program", m.name, "err", err)
			return
		}
	}
}

// logWriter is a module's standard output or error.
type logWriter struct {
	w     *worker
	level slog.Level
}

// Write logs p.
func (l logWriter) Write(p []byte) (int, error) {
	l.w.say(l.level, string(p))
	return len(p), nil
}

// say logs a line of the module's, unless it has said too much in this callback.
func (w *worker) say(level slog.Level, line string) {
	if w.lines++; w.lines > maxLines {
		return
	}
	if len(line) > maxLine {
		line = line[:maxLine]
	}
	w.m.log.Log(context.Background(), level, strings.ToValidUTF8(strings.TrimRight(line, "\n"), "\ufffd"), "program", w.m.name)
}
