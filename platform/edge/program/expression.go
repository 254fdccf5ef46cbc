package program

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/route"
)

const (
	maxExpression  = 8 << 10 // bytes of an expression's text
	expressionCost = 10_000  // units that one evaluation may cost
)

// Expressions compiles expressions in CEL, the Common Expression Language. What one may name:
//
//	req.method req.scheme req.host req.path req.user         text; host without port, in small letters
//	req.headers["name"] req.query["name"] req.cookies["name"] the first value of that name; headers in any letter case
//	client.ip                                                 the address of who asks, as trusted proxies have it
//	tls.version tls.sni tls.alpn tls.identity                 "" without TLS
//	jwt.claims["name"]                                        of a token that was verified
//	ctx["name"]                                               what filters have kept on the exchange
//	region zone route priority                                this edge's; of the request as far as it is known
//	resp.status resp.headers["name"]                          on the way out
//	bucket(key) bucket(key, salt)                             0 to 9999, the same for the same user, client, header:NAME, cookie:NAME, query:NAME
//	cidr(ip, "10.0.0.0/8") cidr(ip, [...])                    whether the address is in one of these networks
//	glob(text, "a*") re(text, "^a")                           the pattern must be a literal; * stops at /, ** does not
//	prop("key") now()                                         a property's text, "" if it is not set; the time
//
// and all of CEL's standard functions and macros. A key that is not there makes the whole expression false, unless another
// side of an || decides.
type Expressions struct {
	env          *cel.Env
	region, zone string
	views        sync.Pool
}

// NewExpressions returns a compiler for an edge in that region and zone.
func NewExpressions(props *config.Properties, region, zone string) (*Expressions, error) {
	e := &Expressions{region: region, zone: zone}
	e.views.New = func() any { return newView(e) }
	text := cel.MapType(cel.StringType, cel.StringType)
	options := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(maxExpression), cel.ParserRecursionLimit(64), cel.ExpressionNestingDepthLimit(64), cel.RegexProgramSizeLimit(2000),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals(), cel.ValidateComprehensionNestingLimit(2)),
		cel.Macros(append(cel.StandardMacros,
			cel.GlobalMacro("bucket", 1, ofRequest("bucket")), cel.GlobalMacro("bucket", 2, ofRequest("bucket")),
			cel.GlobalMacro("re", 2, matches(func(s string) string { return s })), cel.GlobalMacro("glob", 2, matches(globPattern)))...),
		cel.Variable("req", requestType),
		cel.Function("bucket",
			cel.MemberOverload("request_bucket", []*cel.Type{requestType, cel.StringType}, cel.IntType, cel.BinaryBinding(func(q, key ref.Val) ref.Val { return bucketOf(q, key, types.String("")) })),
			cel.MemberOverload("request_bucket_salt", []*cel.Type{requestType, cel.StringType, cel.StringType}, cel.IntType, cel.FunctionBinding(func(args ...ref.Val) ref.Val { return bucketOf(args[0], args[1], args[2]) }))),
		cel.Function("cidr",
			cel.Overload("cidr_text", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType, cel.BinaryBinding(inNetwork)),
			cel.Overload("cidr_list", []*cel.Type{cel.StringType, cel.ListType(cel.StringType)}, cel.BoolType, cel.BinaryBinding(inNetworks))),
		cel.Function("prop", cel.Overload("prop_text", []*cel.Type{cel.StringType}, cel.StringType, cel.UnaryBinding(func(key ref.Val) ref.Val {
			s, _ := props.Lookup(string(key.(types.String)))
			return types.String(s)
		}))),
		cel.Function("now", cel.Overload("now", nil, cel.TimestampType, cel.FunctionBinding(func(...ref.Val) ref.Val { return types.Timestamp{Time: time.Now()} }))),
	}
	for _, name := range []string{"req.method", "req.scheme", "req.host", "req.path", "req.user", "client.ip", "tls.version", "tls.sni", "tls.alpn", "tls.identity", "region", "zone", "route"} {
		options = append(options, cel.Variable(name, cel.StringType))
	}
	for _, name := range []string{"req.headers", "req.query", "req.cookies", "resp.headers"} {
		options = append(options, cel.Variable(name, text))
	}
	for _, name := range []string{"jwt.claims", "ctx"} {
		options = append(options, cel.Variable(name, cel.MapType(cel.StringType, cel.DynType)))
	}
	options = append(options, cel.Variable("priority", cel.IntType), cel.Variable("resp.status", cel.IntType))
	var err error
	if e.env, err = cel.NewEnv(options...); err != nil {
		return nil, fmt.Errorf("edge: the language of expressions: %w", err)
	}
	return e, nil
}

// Predicate compiles an expression that is true or false. The error names line, column and reason. The function may be
// called from many goroutines; it is false if the evaluation fails, lacks a key or costs more than 10,000 units.
func (e *Expressions) Predicate(text string) (func(*filter.Exchange) bool, error) {
	p, out, err := e.compileText(text)
	if err != nil {
		return nil, err
	}
	if !out.IsExactType(cel.BoolType) && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("line 1, column 1: the expression is of type %s; it must be true or false", cel.FormatCELType(out))
	}
	return func(x *filter.Exchange) bool {
		v, err := e.eval(p, x)
		return err == nil && v == types.True
	}, nil
}

func (e *Expressions) compileText(text string) (cel.Program, *cel.Type, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil, errors.New("line 1, column 1: there is no expression")
	}
	if len(text) > maxExpression {
		return nil, nil, fmt.Errorf("the expression has %d bytes; at most %d are allowed", len(text), maxExpression)
	}
	tree, issues := e.env.Compile(text)
	if issues != nil && issues.Err() != nil {
		list := issues.Errors()
		if len(list) == 0 {
			return nil, nil, issues.Err()
		}
		first := list[0]
		why := strings.TrimPrefix(first.Message, "Syntax error: ")
		if strings.Contains(why, "edge.Request") && strings.Contains(why, "field selection") {
			why = "req has no such field; there are method, scheme, host, path, user, headers, query and cookies"
		}
		return nil, nil, fmt.Errorf("line %d, column %d: %s", max(1, first.Location.Line()), first.Location.Column()+1, why)
	}
	p, err := e.env.Program(tree, cel.EvalOptions(cel.OptOptimize), cel.CostLimit(expressionCost))
	if err != nil {
		return nil, nil, fmt.Errorf("line 1, column 1: %w", err)
	}
	return p, tree.OutputType(), nil
}

// eval evaluates p for x. A panic is an error.
func (e *Expressions) eval(p cel.Program, x *filter.Exchange) (v ref.Val, err error) {
	a := e.views.Get().(*view)
	a.x = x
	defer func() {
		a.x = nil
		e.views.Put(a)
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("the expression panicked: %v", r)
		}
	}()
	v, _, err = p.Eval(a)
	return v, err
}

// ofRequest makes name(args) a method of the request.
func ofRequest(name string) cel.MacroFactory {
	return func(f cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
		return f.NewMemberCall(name, f.NewIdent("req"), args...), nil
	}
}

// matches makes name(text, pattern) a match with a regular expression, which is compiled once as it must be a literal.
func matches(pattern func(string) string) cel.MacroFactory {
	return func(f cel.MacroExprFactory, _ ast.Expr, args []ast.Expr) (ast.Expr, *cel.Error) {
		if args[1].Kind() != ast.LiteralKind {
			return nil, f.NewError(args[1].ID(), "the pattern must be written out between quotes")
		}
		s, ok := args[1].AsLiteral().(types.String)
		if !ok {
			return nil, f.NewError(args[1].ID(), "the pattern must be text")
		}
		p := pattern(string(s))
		if _, err := regexp.Compile(p); err != nil {
			return nil, f.NewError(args[1].ID(), err.Error())
		}
		return f.NewMemberCall("matches", args[0], f.NewLiteral(types.String(p))), nil
	}
}

// globPattern returns the regular expression of a glob: ? is one byte but /, * any of these, ** anything.
func globPattern(glob string) string {
	var b strings.Builder
	b.WriteString(`^(?s:`)
	for i := 0; i < len(glob); i++ {
		switch {
		case strings.HasPrefix(glob[i:], "**"):
			b.WriteString(".*")
			i++
		case glob[i] == '*':
			b.WriteString("[^/]*")
		case glob[i] == '?':
			b.WriteString("[^/]")
		default:
			b.WriteString(regexp.QuoteMeta(glob[i : i+1]))
		}
	}
	b.WriteString(`)$`)
	return b.String()
}

func bucketOf(q, key, salt ref.Val) ref.Val {
	r, ok := q.(*requestVal)
	if !ok {
		return types.NewErr("bucket is of req")
	}
	n, _, err := route.Bucket(r.x, string(salt.(types.String)), string(key.(types.String)))
	if err != nil {
		return types.NewErr("bucket: %v", err)
	}
	return types.Int(n)
}

func inNetwork(ip, network ref.Val) ref.Val {
	a, err := netip.ParseAddr(string(ip.(types.String)))
	if err != nil {
		return types.False
	}
	p, err := netip.ParsePrefix(string(network.(types.String)))
	if err != nil {
		return types.NewErr("cidr: %q is no network; write 10.0.0.0/8", string(network.(types.String)))
	}
	return types.Bool(p.Contains(a.Unmap()))
}

func inNetworks(ip, list ref.Val) ref.Val {
	for it := list.(traits.Lister).Iterator(); it.HasNext() == types.True; {
		n, ok := it.Next().(types.String)
		if !ok {
			return types.NewErr("cidr: the list must hold text only")
		}
		if v := inNetwork(ip, n); v != types.False {
			return v
		}
	}
	return types.False
}

// requestType is the type of req itself, which has nothing but methods.
var requestType = cel.OpaqueType("edge.Request")

// requestVal is req.
type requestVal struct{ *view }

// ConvertToNative implements ref.Val.
func (requestVal) ConvertToNative(reflect.Type) (any, error) {
	return nil, errors.New("req is no value; name one of its fields")
}

// ConvertToType implements ref.Val.
func (requestVal) ConvertToType(ref.Type) ref.Val {
	return types.NewErr("req is no value; name one of its fields")
}

// Equal implements ref.Val.
func (requestVal) Equal(ref.Val) ref.Val { return types.False }

// Type implements ref.Val.
func (requestVal) Type() ref.Type { return requestType }

// Value implements ref.Val.
func (requestVal) Value() any { return nil }

// view shows an exchange to an expression, which reads only what it names.
type view struct {
	e                         *Expressions
	x                         *filter.Exchange
	req                       requestVal
	headers, query, cookies   fields
	answered, claims, context fields
}

func newView(e *Expressions) *view {
	v := &view{e: e}
	v.req.view = v
	header := func(h func() *filter.Header) fields {
		return fields{find: func(name string) (ref.Val, bool) {
			if h := h(); h.Has(name) {
				return types.String(h.Get(name)), true
			}
			return nil, false
		}, all: func() map[string]any {
			all := make(map[string]any)
			for _, f := range h().Fields() {
				if n := strings.ToLower(f.Name); all[n] == nil {
					all[n] = f.Value
				}
			}
			return all
		}}
	}
	v.headers = header(func() *filter.Header { return &v.x.Request.Header })
	v.answered = header(func() *filter.Header { return &v.x.Response.Header })
	v.query = fields{find: func(name string) (ref.Val, bool) {
		s, has := route.QueryValue(v.x.Request.RawQuery, name)
		return types.String(s), has
	}, all: func() map[string]any {
		all := make(map[string]any)
		q, _ := url.ParseQuery(v.x.Request.RawQuery) //nolint:errcheck // what can be read of it
		for n, values := range q {
			all[n] = values[0]
		}
		return all
	}}
	v.cookies = fields{find: func(name string) (ref.Val, bool) {
		s, has := route.Cookie(&v.x.Request.Header, name)
		return types.String(s), has
	}, all: func() map[string]any {
		all := make(map[string]any)
		for line := range v.x.Request.Header.Values("Cookie") {
			for pair := range strings.SplitSeq(line, ";") {
				if n, s, ok := strings.Cut(strings.Trim(pair, " \t"), "="); ok && all[n] == nil {
					all[n] = s
				}
			}
		}
		return all
	}}
	v.claims = fields{find: func(name string) (ref.Val, bool) {
		c, has := Claims(v.x)[name]
		return types.DefaultTypeAdapter.NativeToValue(c), has
	}, all: func() map[string]any { return Claims(v.x) }}
	v.context = fields{find: func(name string) (ref.Val, bool) {
		c := v.x.Value(name)
		return shown(c), c != nil
	}, all: func() map[string]any {
		all := make(map[string]any)
		v.x.Values(func(key string, val any) { all[key] = shown(val) })
		return all
	}}
	return v
}

// ClaimsKey is where the claims of a verified token are kept on an exchange, as a map[string]any.
const ClaimsKey = "jwt.claims"

// Claims returns the claims of the token that x was sent with and that was verified; nil if there was none.
func Claims(x *filter.Exchange) map[string]any {
	c, _ := x.Value(ClaimsKey).(map[string]any)
	return c
}

// shown returns a kept value as expressions see it: what they have no type for is its text.
func shown(v any) ref.Val {
	switch v.(type) {
	case nil, bool, string, int, int64, uint64, float64, []string, map[string]string, map[string]any, []any:
		return types.DefaultTypeAdapter.NativeToValue(v)
	}
	return types.String(fmt.Sprint(v))
}

// Parent implements interpreter.Activation.
func (v *view) Parent() interpreter.Activation { return nil }

// ResolveName implements interpreter.Activation.
func (v *view) ResolveName(name string) (any, bool) {
	q, x := &v.x.Request, v.x
	switch name {
	case "req":
		return &v.req, true
	case "req.method":
		return types.String(q.Method), true
	case "req.scheme":
		return types.String(q.Scheme), true
	case "req.host":
		return types.String(hostname(q.Host)), true
	case "req.path":
		return types.String(q.Path), true
	case "req.user":
		return types.String(x.User), true
	case "req.headers":
		return &v.headers, true
	case "req.query":
		return &v.query, true
	case "req.cookies":
		return &v.cookies, true
	case "client.ip":
		return types.String(clientIP(x)), true
	case "tls.version", "tls.sni", "tls.alpn", "tls.identity":
		return types.String(ofTLS(x, name[len("tls."):])), true
	case "jwt.claims":
		return &v.claims, true
	case "ctx":
		return &v.context, true
	case "region":
		return types.String(v.e.region), true
	case "zone":
		return types.String(v.e.zone), true
	case "route":
		return types.String(routeOf(x)), true
	case "priority":
		return types.Int(x.Priority), true
	case "resp.status":
		return types.Int(x.Response.Status), true
	case "resp.headers":
		return &v.answered, true
	}
	return nil, false
}

// hostname returns a host without its port, in small letters.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// clientIP returns the address of who asks; "" if it is unknown.
func clientIP(x *filter.Exchange) string {
	switch {
	case x.From.IsValid():
		return x.From.Unmap().String()
	case x.Client != nil && x.Client.Remote.IsValid():
		return x.Client.Remote.Addr().Unmap().String()
	}
	return ""
}

func ofTLS(x *filter.Exchange, what string) string {
	if x.Client == nil || x.Client.TLS == nil {
		return ""
	}
	switch what {
	case "version":
		return strings.TrimPrefix(tls.VersionName(x.Client.TLS.Version), "TLS ")
	case "sni":
		return x.Client.TLS.ServerName
	case "alpn":
		return x.Client.TLS.NegotiatedProtocol
	}
	return x.Identity()
}

func routeOf(x *filter.Exchange) string {
	if x.Plan == nil {
		return ""
	}
	return x.Plan.Route
}

// fields is a map that finds a key where it lies. Only what asks for all of it has it made.
type fields struct {
	find func(name string) (ref.Val, bool)
	all  func() map[string]any
}

func (f *fields) whole() traits.Mapper {
	return types.NewStringInterfaceMap(types.DefaultTypeAdapter, f.all())
}

// Find implements traits.Mapper.
func (f *fields) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	return f.find(string(name))
}

// Get implements traits.Indexer.
func (f *fields) Get(key ref.Val) ref.Val {
	if v, ok := f.Find(key); ok {
		return v
	}
	return types.NewErr("no such key: %v", key)
}

// Contains implements traits.Container.
func (f *fields) Contains(key ref.Val) ref.Val {
	_, ok := f.Find(key)
	return types.Bool(ok)
}

// Size implements traits.Sizer.
func (f *fields) Size() ref.Val { return f.whole().Size() }

// Iterator implements traits.Iterable.
func (f *fields) Iterator() traits.Iterator { return f.whole().Iterator() }

// ConvertToNative implements ref.Val.
func (f *fields) ConvertToNative(t reflect.Type) (any, error) { return f.whole().ConvertToNative(t) }

// ConvertToType implements ref.Val.
func (f *fields) ConvertToType(t ref.Type) ref.Val { return f.whole().ConvertToType(t) }

// Equal implements ref.Val.
func (f *fields) Equal(other ref.Val) ref.Val { return f.whole().Equal(other) }

// Type implements ref.Val.
func (f *fields) Type() ref.Type { return types.MapType }

// Value implements ref.Val.
func (f *fields) Value() any { return f.all() }
