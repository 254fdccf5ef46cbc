package program

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.starlark.net/resolve"
	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/route"
)

// maxScript is how long a script's text may be, in bytes.
const maxScript = 64 << 10

// script is a filter in Starlark.
type script struct {
	name  string
	apply starlark.Callable
	limit time.Duration // of one run
}

// newScript compiles a script, runs its top level, and freezes what that leaves.
func newScript(name, text string, limit time.Duration) (s *script, err error) {
	if len(text) > maxScript {
		return nil, fmt.Errorf("the script has %d bytes; at most %d are allowed", len(text), maxScript)
	}
	defer func() {
		if v := recover(); v != nil {
			s, err = nil, fmt.Errorf("line 1, column 1: the script cannot be compiled: %v", v)
		}
	}()
	options := &syntax.FileOptions{Set: true, TopLevelControl: true}
	f, err := options.Parse(name, text, 0)
	if err != nil {
		return nil, scriptError(err)
	}
	var w rewriter
	w.block(f.Stmts)
	if w.err != nil {
		return nil, scriptError(w.err)
	}
	p, err := starlark.FileProgram(f, universe.Has)
	if err != nil {
		return nil, scriptError(err)
	}
	globals, err := p.Init(newThread(name, limit), universe)
	if err != nil {
		return nil, scriptError(err)
	}
	globals.Freeze()
	fn, ok := globals["apply"].(*starlark.Function)
	if !ok {
		return nil, errors.New("line 1, column 1: the script has no function apply(req, ctx)")
	}
	if fn.NumParams() != 2 {
		p := fn.Position()
		return nil, fmt.Errorf("line %d, column %d: apply takes %d parameters; it must take two, req and ctx", p.Line, p.Col, fn.NumParams())
	}
	return &script{name: name, apply: fn, limit: limit}, nil
}

// scriptError returns err with the line and column of the script where it is.
func scriptError(err error) error {
	at := func(p syntax.Position, why string) error {
		return fmt.Errorf("line %d, column %d: %s", max(1, p.Line), max(1, p.Col), why)
	}
	if e, ok := errors.AsType[syntax.Error](err); ok {
		return at(e.Pos, e.Msg)
	}
	if list, ok := errors.AsType[resolve.ErrorList](err); ok && len(list) > 0 {
		return at(list[0].Pos, list[0].Msg)
	}
	if e, ok := errors.AsType[*starlark.EvalError](err); ok {
		for _, frame := range slices.Backward(e.CallStack) {
			if frame.Pos.Line > 0 {
				return at(frame.Pos, e.Msg)
			}
		}
	}
	return err
}

// run runs the script for x. Whatever it does ends as an error.
func (s *script) run(x *filter.Exchange) (err error) {
	q := &requestValue{x: x}
	defer func() {
		q.x = nil // nothing that the script has kept leads to the exchange any more
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	if _, err := starlark.Call(newThread(s.name, s.limit), s.apply, starlark.Tuple{q, contextValue{q}}, nil); err != nil {
		return scriptError(err)
	}
	return nil
}

// panicked is the error of a script that panicked. Where it was in our code is for the log alone.
type panicked struct {
	value any
	stack []byte
}

// Error says what was given to panic.
func (p *panicked) Error() string { return fmt.Sprintf("the script panicked: %v", p.value) }

var errOver = errors.New("the request is over")

// requestValue is req: the request, and by req.response what is answered.
type requestValue struct{ x *filter.Exchange }

// String implements starlark.Value.
func (q *requestValue) String() string { return "req" }

// Type implements starlark.Value.
func (q *requestValue) Type() string { return "request" }

// Freeze implements starlark.Value.
func (q *requestValue) Freeze() {}

// Truth implements starlark.Value.
func (q *requestValue) Truth() starlark.Bool { return true }

// Hash implements starlark.Value.
func (q *requestValue) Hash() (uint32, error) { return 0, errors.New("unhashable: request") }

var requestNames = []string{"answer", "app", "bucket", "client_ip", "cookies", "group", "headers", "host", "instance", "method", "path", "priority", "query", "raw_query", "response", "route", "scheme", "tls_identity", "tls_sni", "tls_version", "user"}

// AttrNames implements starlark.HasAttrs.
func (q *requestValue) AttrNames() []string { return requestNames }

// Attr implements starlark.HasAttrs.
func (q *requestValue) Attr(name string) (starlark.Value, error) {
	x := q.x
	if x == nil {
		return nil, errOver
	}
	switch name {
	case "method":
		return starlark.String(x.Request.Method), nil
	case "scheme":
		return starlark.String(x.Request.Scheme), nil
	case "host":
		return starlark.String(hostname(x.Request.Host)), nil
	case "path":
		if x.Path != "" {
			return starlark.String(x.Path), nil
		}
		return starlark.String(x.Request.Path), nil
	case "raw_query":
		return starlark.String(x.Request.RawQuery), nil
	case "user":
		return starlark.String(x.User), nil
	case "client_ip":
		return starlark.String(clientIP(x)), nil
	case "tls_version", "tls_sni", "tls_identity":
		return starlark.String(ofTLS(x, name[len("tls_"):])), nil
	case "route":
		return starlark.String(routeOf(x)), nil
	case "app":
		return starlark.String(x.App), nil
	case "group":
		return starlark.String(x.Group), nil
	case "instance":
		return starlark.String(x.Instance), nil
	case "priority":
		return starlark.MakeInt(int(x.Priority)), nil
	case "headers":
		return headersValue{q, false}, nil
	case "query":
		return lookupValue{"query", q, func(x *filter.Exchange, name string) (string, bool) {
			return route.QueryValue(x.Request.RawQuery, name)
		}}, nil
	case "cookies":
		return lookupValue{"cookies", q, func(x *filter.Exchange, name string) (string, bool) {
			return route.Cookie(&x.Request.Header, name)
		}}, nil
	case "response":
		return responseValue{q}, nil
	case "answer":
		return starlark.NewBuiltin("answer", q.answer), nil
	case "bucket":
		return starlark.NewBuiltin("bucket", q.bucket), nil
	}
	return nil, nil
}

// SetField implements starlark.HasSetField.
func (q *requestValue) SetField(name string, v starlark.Value) error {
	x := q.x
	if x == nil {
		return errOver
	}
	if name == "priority" {
		n, err := starlark.AsInt32(v)
		if err != nil || n < 1 || n > 100 {
			return fmt.Errorf("priority is %s; it must be a number from 1 to 100", v)
		}
		x.Priority = uint8(n)
		return nil
	}
	s, ok := starlark.AsString(v)
	if !ok {
		return fmt.Errorf("req.%s is text, not %s", name, v.Type())
	}
	switch name {
	case "path":
		return setPath(x, s)
	case "app", "group", "instance":
		if !label(s) {
			return fmt.Errorf("%s %q: it may have letters, digits and the signs -._: only", name, s)
		}
		switch name {
		case "app":
			setApp(x, s)
		case "group":
			x.Group = s
		default:
			x.Instance = s
		}
		return nil
	}
	return fmt.Errorf("req.%s cannot be set; path, app, group, instance and priority can", name)
}

// byProgram is the plan of a request that only a program has found an app for.
var byProgram = &filter.Plan{Route: "program", Upgrades: true}

// setApp has app answer.
func setApp(x *filter.Exchange, app string) {
	x.App = app
	if x.Plan == nil {
		x.Plan = byProgram
	}
}

// setPath makes path what the origin is asked for, and what follows a ? its query.
func setPath(x *filter.Exchange, path string) error {
	if !strings.HasPrefix(path, "/") {
		return fmt.Errorf("path %q does not begin with /", path)
	}
	for i := range len(path) {
		if c := path[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return fmt.Errorf("path %q has a byte that must be escaped", path)
		}
	}
	path, query, has := strings.Cut(path, "?")
	x.Path = path
	if has {
		x.Request.RawQuery = query
	}
	return nil
}

func label(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._:", c) >= 0) {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// answer is req.answer(status, body="", headers={}).
func (q *requestValue) answer(_ *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var status int
	var body string
	var headers *starlark.Dict
	if err := starlark.UnpackArgs("answer", args, kwargs, "status", &status, "body?", &body, "headers?", &headers); err != nil {
		return nil, err
	}
	if q.x == nil {
		return nil, errOver
	}
	if status < 200 || status > 599 {
		return nil, fmt.Errorf("status %d: use 200 to 599", status)
	}
	var fields []filter.Field
	if headers != nil {
		for _, kv := range headers.Items() {
			name, _ := starlark.AsString(kv[0])
			value, ok := starlark.AsString(kv[1])
			if !ok {
				return nil, fmt.Errorf("header %s is %s; it must be text", name, kv[1].Type())
			}
			if err := fit(name, value); err != nil {
				return nil, err
			}
			fields = append(fields, filter.Field{Name: name, Value: value})
		}
	}
	q.x.Answer(status, body)
	for _, f := range fields {
		q.x.Response.Header.Set(f.Name, f.Value)
	}
	q.x.SetCategory(filter.SuccessLocalUnset, "")
	return starlark.None, nil
}

// bucket is req.bucket(key, salt="").
func (q *requestValue) bucket(_ *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	var key, salt string
	if err := starlark.UnpackArgs("bucket", args, kwargs, "key", &key, "salt?", &salt); err != nil {
		return nil, err
	}
	if q.x == nil {
		return nil, errOver
	}
	n, _, err := route.Bucket(q.x, salt, key)
	return starlark.MakeInt(n), err
}

// responseValue is req.response.
type responseValue struct{ q *requestValue }

// String implements starlark.Value.
func (r responseValue) String() string { return "req.response" }

// Type implements starlark.Value.
func (r responseValue) Type() string { return "response" }

// Freeze implements starlark.Value.
func (r responseValue) Freeze() {}

// Truth implements starlark.Value.
func (r responseValue) Truth() starlark.Bool { return r.q.x != nil && r.q.x.Response.Status != 0 }

// Hash implements starlark.Value.
func (r responseValue) Hash() (uint32, error) { return 0, errors.New("unhashable: response") }

// AttrNames implements starlark.HasAttrs.
func (r responseValue) AttrNames() []string { return []string{"headers", "status"} }

// Attr implements starlark.HasAttrs.
func (r responseValue) Attr(name string) (starlark.Value, error) {
	if r.q.x == nil {
		return nil, errOver
	}
	switch name {
	case "status":
		return starlark.MakeInt(r.q.x.Response.Status), nil
	case "headers":
		return headersValue{r.q, true}, nil
	}
	return nil, nil
}

// SetField implements starlark.HasSetField.
func (r responseValue) SetField(name string, v starlark.Value) error {
	if r.q.x == nil {
		return errOver
	}
	n, err := starlark.AsInt32(v)
	if name != "status" {
		return fmt.Errorf("response.%s cannot be set; status can", name)
	}
	if err != nil || n < 200 || n > 599 {
		return fmt.Errorf("status %s: use 200 to 599", v)
	}
	if r.q.x.Response.Status == 0 {
		return errors.New("there is no response yet; req.answer makes one")
	}
	r.q.x.Response.Status = n
	return nil
}

// lookupValue is a map that can only be asked for a name.
type lookupValue struct {
	name string
	q    *requestValue
	find func(x *filter.Exchange, name string) (string, bool)
}

// String implements starlark.Value.
func (l lookupValue) String() string { return "req." + l.name }

// Type implements starlark.Value.
func (l lookupValue) Type() string { return l.name }

// Freeze implements starlark.Value.
func (l lookupValue) Freeze() {}

// Truth implements starlark.Value.
func (l lookupValue) Truth() starlark.Bool { return true }

// Hash implements starlark.Value.
func (l lookupValue) Hash() (uint32, error) { return 0, errors.New("unhashable: " + l.name) }

// Get implements starlark.Mapping.
func (l lookupValue) Get(k starlark.Value) (starlark.Value, bool, error) {
	name, ok := starlark.AsString(k)
	if !ok {
		return nil, false, fmt.Errorf("%s go by text, not %s", l.name, k.Type())
	}
	if l.q.x == nil {
		return nil, false, errOver
	}
	v, has := l.find(l.q.x, name)
	if !has {
		return nil, false, nil
	}
	return starlark.String(v), true, nil
}

// AttrNames implements starlark.HasAttrs.
func (l lookupValue) AttrNames() []string { return []string{"get"} }

// Attr implements starlark.HasAttrs.
func (l lookupValue) Attr(name string) (starlark.Value, error) {
	if name != "get" {
		return nil, nil
	}
	return getOf(l), nil
}

// getOf is the method get(key, default=None) of a map.
func getOf(m starlark.Mapping) starlark.Value {
	return starlark.NewBuiltin("get", func(_ *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		var key, or starlark.Value = nil, starlark.None
		if err := starlark.UnpackArgs("get", args, kwargs, "key", &key, "default?", &or); err != nil {
			return nil, err
		}
		v, has, err := m.Get(key)
		if err != nil || !has {
			return or, err
		}
		return v, nil
	})
}

// headersValue is the header of the request or of the response.
type headersValue struct {
	q        *requestValue
	response bool
}

func (h headersValue) header() (*filter.Header, error) {
	switch {
	case h.q.x == nil:
		return nil, errOver
	case h.response:
		return &h.q.x.Response.Header, nil
	}
	return &h.q.x.Request.Header, nil
}

// String implements starlark.Value.
func (h headersValue) String() string { return "headers" }

// Type implements starlark.Value.
func (h headersValue) Type() string { return "headers" }

// Freeze implements starlark.Value.
func (h headersValue) Freeze() {}

// Truth implements starlark.Value.
func (h headersValue) Truth() starlark.Bool { return true }

// Hash implements starlark.Value.
func (h headersValue) Hash() (uint32, error) { return 0, errors.New("unhashable: headers") }

// Get implements starlark.Mapping.
func (h headersValue) Get(k starlark.Value) (starlark.Value, bool, error) {
	name, ok := starlark.AsString(k)
	if !ok {
		return nil, false, fmt.Errorf("headers go by text, not %s", k.Type())
	}
	all, err := h.header()
	if err != nil || !all.Has(name) {
		return nil, false, err
	}
	return starlark.String(all.Get(name)), true, nil
}

// SetKey implements starlark.HasSetKey.
func (h headersValue) SetKey(k, v starlark.Value) error {
	name, _ := starlark.AsString(k)
	value, ok := starlark.AsString(v)
	if !ok {
		return fmt.Errorf("header %s is text, not %s", k, v.Type())
	}
	all, err := h.header()
	if err != nil {
		return err
	}
	if err := fit(name, value); err != nil {
		return err
	}
	all.Set(name, value)
	return nil
}

// AttrNames implements starlark.HasAttrs.
func (h headersValue) AttrNames() []string {
	return []string{"add", "get", "names", "remove", "values"}
}

// Attr implements starlark.HasAttrs.
func (h headersValue) Attr(name string) (starlark.Value, error) {
	method := func(fn func(all *filter.Header, name, value string) (starlark.Value, error), params ...string) starlark.Value {
		return starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			var text [2]string
			var pairs []any
			for i, p := range params {
				pairs = append(pairs, p, &text[i])
			}
			if err := starlark.UnpackArgs(name, args, kwargs, pairs...); err != nil {
				return nil, err
			}
			all, err := h.header()
			if err != nil {
				return nil, err
			}
			if err := charge(t, 16*all.Len()); err != nil {
				return nil, err
			}
			return fn(all, text[0], text[1])
		})
	}
	switch name {
	case "get":
		return getOf(h), nil
	case "add":
		return method(func(all *filter.Header, name, value string) (starlark.Value, error) {
			if err := fit(name, value); err != nil {
				return nil, err
			}
			all.Add(name, value)
			return starlark.None, nil
		}, "name", "value"), nil
	case "remove":
		return method(func(all *filter.Header, name, _ string) (starlark.Value, error) {
			if err := fit(name, ""); err != nil {
				return nil, err
			}
			all.Del(name)
			return starlark.None, nil
		}, "name"), nil
	case "values":
		return method(func(all *filter.Header, name, _ string) (starlark.Value, error) {
			var list []starlark.Value
			for v := range all.Values(name) {
				list = append(list, starlark.String(v))
			}
			return starlark.NewList(list), nil
		}, "name"), nil
	case "names":
		return method(func(all *filter.Header, _, _ string) (starlark.Value, error) {
			var list []starlark.Value
			for _, f := range all.Fields() {
				list = append(list, starlark.String(strings.ToLower(f.Name)))
			}
			return starlark.NewList(list), nil
		}), nil
	}
	return nil, nil
}

// contextValue is ctx: what filters have kept on the exchange. A script may keep text, numbers and truth values.
type contextValue struct{ q *requestValue }

// String implements starlark.Value.
func (c contextValue) String() string { return "ctx" }

// Type implements starlark.Value.
func (c contextValue) Type() string { return "context" }

// Freeze implements starlark.Value.
func (c contextValue) Freeze() {}

// Truth implements starlark.Value.
func (c contextValue) Truth() starlark.Bool { return true }

// Hash implements starlark.Value.
func (c contextValue) Hash() (uint32, error) { return 0, errors.New("unhashable: context") }

// Get implements starlark.Mapping.
func (c contextValue) Get(k starlark.Value) (starlark.Value, bool, error) {
	name, ok := starlark.AsString(k)
	if !ok {
		return nil, false, fmt.Errorf("ctx goes by text, not %s", k.Type())
	}
	if c.q.x == nil {
		return nil, false, errOver
	}
	v := c.q.x.Value(name)
	if v == nil {
		return nil, false, nil
	}
	return starlarkOf(v, 0), true, nil
}

// SetKey implements starlark.HasSetKey.
func (c contextValue) SetKey(k, v starlark.Value) error {
	name, ok := starlark.AsString(k)
	if !ok {
		return fmt.Errorf("ctx goes by text, not %s", k.Type())
	}
	if c.q.x == nil {
		return errOver
	}
	if name == ClaimsKey {
		return fmt.Errorf("ctx[%q] is what a token proves; it cannot be set", name)
	}
	switch v := v.(type) {
	case starlark.String:
		c.q.x.Set(name, string(v))
	case starlark.Bool:
		c.q.x.Set(name, bool(v))
	case starlark.Float:
		c.q.x.Set(name, float64(v))
	case starlark.Int:
		n, ok := v.Int64()
		if !ok {
			return fmt.Errorf("ctx[%q]: the number is larger than 64 bits", name)
		}
		c.q.x.Set(name, n)
	default:
		return fmt.Errorf("ctx[%q] cannot be %s; keep text, numbers, True or False", name, v.Type())
	}
	return nil
}

// AttrNames implements starlark.HasAttrs.
func (c contextValue) AttrNames() []string { return []string{"get"} }

// Attr implements starlark.HasAttrs.
func (c contextValue) Attr(name string) (starlark.Value, error) {
	if name != "get" {
		return nil, nil
	}
	return getOf(c), nil
}

// starlarkOf returns a kept value as scripts see it: what they have no type for is its text.
func starlarkOf(v any, depth int) starlark.Value {
	if depth > 8 {
		return starlark.String(fmt.Sprint(v))
	}
	switch v := v.(type) {
	case nil:
		return starlark.None
	case string:
		return starlark.String(v)
	case bool:
		return starlark.Bool(v)
	case int:
		return starlark.MakeInt(v)
	case int64:
		return starlark.MakeInt64(v)
	case float64:
		return starlark.Float(v)
	case []string:
		list := make([]starlark.Value, len(v))
		for i, s := range v {
			list[i] = starlark.String(s)
		}
		return starlark.NewList(list)
	case []any:
		list := make([]starlark.Value, len(v))
		for i, e := range v {
			list[i] = starlarkOf(e, depth+1)
		}
		return starlark.NewList(list)
	case map[string]any:
		d := starlark.NewDict(len(v))
		for k, e := range v {
			d.SetKey(starlark.String(k), starlarkOf(e, depth+1)) //nolint:errcheck // text can be a key
		}
		return d
	}
	return starlark.String(fmt.Sprint(v))
}

// forbidden are fields that belong to a connection or to the platform; a program that could set them could have two
// servers see different requests, or speak in another's name.
var forbidden = []string{"Connection", "Content-Length", "Host", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
	"X-Fit", "X-Edge-Identity", "X-Request-Id"}

// fit reports why a program may not set, add or remove that field; nil if it may.
func fit(name, value string) error {
	if name == "" || len(name) > 256 {
		return fmt.Errorf("%.40q is no header's name", name)
	}
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return fmt.Errorf("%.40q is no header's name", name)
		}
	}
	if slices.ContainsFunc(forbidden, func(f string) bool { return filter.Same(f, name) }) || len(name) >= 6 && filter.Same(name[:6], "X-Ipc-") {
		return fmt.Errorf("header %s is the edge's own; programs leave it as it is", name)
	}
	if len(value) > 32<<10 {
		return fmt.Errorf("header %s would have %d bytes; at most %d are allowed", name, len(value), 32<<10)
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("header %s would have a control character", name)
		}
	}
	return nil
}
