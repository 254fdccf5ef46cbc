package route

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// withCors is a config whose cors filters keep what they were given.
var withCors = Config{
	Filters: map[string]func(json.RawMessage) ([]*filter.Filter, error){"cors": func(raw json.RawMessage) ([]*filter.Filter, error) {
		return []*filter.Filter{{Name: "cors" + string(raw), Kind: filter.Inbound}}, nil
	}},
	Program: func(name string) ([]*filter.Filter, error) {
		return []*filter.Filter{{Name: "program." + name, Kind: filter.Inbound}}, nil
	},
}

const gatewayYAML = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: front, namespace: infra}
spec:
  gatewayClassName: roadbed
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: https, port: 443, protocol: HTTPS, hostname: "*.example.com", tls: {mode: Terminate}, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure, namespace: shop, creationTimestamp: "2024-01-01T00:00:00Z"}
spec:
  parentRefs: [{name: front, namespace: infra, sectionName: http}]
  hostnames: [shop.example.com]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: infra, sectionName: https}]
  hostnames: [shop.example.com, shop.example.org]
  rules:
  - matches:
    - path: {type: PathPrefix, value: /cart}
      headers: [{name: X-V, value: "2"}, {name: x-v, value: "3"}]
      queryParams: [{name: q, type: RegularExpression, value: "[a-z]+"}]
      method: POST
    - path: {value: /basket}
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: a}], add: [{name: X-B, value: b}], remove: [X-C]}}
    - {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /api}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: shadow, port: 80}, fraction: {numerator: 1, denominator: 8}}}
    backendRefs: [{name: cart, port: 8080, weight: 9}, {name: cart-next, port: 8080}]
    timeouts: {request: 10s, backendRequest: 2s}
    retry: {attempts: 2, codes: [502, 503]}
  - matches: [{path: {value: /static}}]
    filters:
    - {type: CORS, cors: {allowOrigins: ["https://app.example.com"], allowMethods: [GET], maxAge: 60}}
    - {type: ExtensionRef, extensionRef: {group: roadbed, kind: Program, name: stamp}}
    backendRefs: [{name: files, namespace: assets, port: 80}, {name: secret, namespace: assets, port: 80}, {kind: Bucket, group: x.io, name: b, weight: 2}]
  - matches: [{path: {value: /nobody}}]
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: files, namespace: assets}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]
  to: [{group: "", kind: Service, name: files}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: rpc, namespace: shop}
spec:
  parentRefs: [{name: front, namespace: infra}]
  rules:
  - matches: [{method: {service: shop.Cart, method: Add}}, {method: {service: shop.Stock}}, {method: {method: Ping}}]
    backendRefs: [{name: cart-rpc, port: 9000}]
`

func TestGatewayAPIDocumentsBecomeRoutes(t *testing.T) {
	doc, err := Parse("k8s.yaml", gatewayYAML)
	if err != nil {
		t.Fatal(err)
	}
	table, err := NewTable(withCors, doc.Routes)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, url string
		fields      []string
		want        string
	}{
		{"GET", "http://shop.example.com/cart", nil, "shop.secure.00.00"},
		{"POST", "https://shop.example.com/cart/1?q=abc", []string{"X-V: 2"}, "shop.shop.00.00"},
		{"POST", "https://shop.example.com/cart/1?q=abc", []string{"X-V: 3"}, ""},
		{"POST", "https://shop.example.com/cart/1?q=1", []string{"X-V: 2"}, ""},
		{"GET", "https://shop.example.com/basket", nil, "shop.shop.00.01"},
		{"GET", "https://shop.example.org/basket", nil, ""}, // no listener for https has it
		{"GET", "https://shop.example.com/static/x", nil, "shop.shop.01.00"},
		{"POST", "http://any/shop.Cart/Add", nil, "shop.rpc.00.00"},
		{"POST", "http://any/shop.Stock/Count", nil, "shop.rpc.00.01"},
		{"POST", "https://x.example.com/any.Service/Ping", nil, "shop.rpc.00.02"},
	} {
		if got := routeOf(table, asked(tt.method, tt.url, tt.fields...)); got != tt.want {
			t.Errorf("%s %s %v: got %q, want %q", tt.method, tt.url, tt.fields, got, tt.want)
		}
	}
	x := asked("POST", "https://shop.example.com/cart/1?q=abc", "X-V: 2")
	table.Match(x)
	p := x.Plan
	if x.Path != "/api/1" || x.Host != "inner.example" || fmt.Sprint(p.Mirrors) != "[{shadow 12.5}]" || p.Retries != 2 ||
		fmt.Sprint(p.RetryStatuses, p.Timeout, p.AttemptTimeout) != "[502 503] 10s 2s" || len(p.Inbound) != 1 {
		t.Errorf("path %q host %q plan %+v", x.Path, x.Host, p)
	}
	x = asked("GET", "https://shop.example.com/static/x")
	e := table.Explain(x, nil)
	if got := fmt.Sprint(e.Shares, e.Inbound); got != `[{files 25  false} {status 500 25  false} {status 500 50  false}] [cors{"origins":["https://app.example.com"],"methods":["GET"],"maxAge":"60s"} program.stamp]` {
		t.Errorf("/static is shared %s", got)
	}
	x = asked("GET", "https://shop.example.com/nobody")
	if table.Match(x); x.Plan.Endpoint == nil || x.Plan.Endpoint.Apply(x) != nil || x.Response.Status != 500 {
		t.Errorf("a rule without backends answers %d, want 500", x.Response.Status)
	}
	conditions := map[string]string{}
	for _, o := range doc.Objects {
		var c []string
		for _, k := range o.Conditions {
			c = append(c, k.Type+"="+k.Status+" "+k.Reason)
		}
		conditions[o.Kind+" "+o.Name] = strings.Join(c, ", ")
	}
	for object, want := range map[string]string{
		"Gateway front":    "Accepted=True Accepted, Programmed=True Programmed",
		"HTTPRoute secure": "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, Programmed=True Programmed",
		"HTTPRoute shop":   "Accepted=True Accepted, ResolvedRefs=False RefNotPermitted, Programmed=True Programmed",
		"GRPCRoute rpc":    "Accepted=True Accepted, ResolvedRefs=True ResolvedRefs, Programmed=True Programmed",
	} {
		if conditions[object] != want {
			t.Errorf("%s: got %s, want %s", object, conditions[object], want)
		}
	}
}

func TestGatewayAPIConditionsSayWhatIsWrong(t *testing.T) {
	route := func(spec string) string {
		return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"r"},"spec":` + spec + `}`
	}
	gateway := func(listener string) string {
		return `{"apiVersion":"gateway.networking.k8s.io/v1","kind":"Gateway","metadata":{"name":"g"},"spec":{"listeners":[` + listener + `]}}`
	}
	list := func(items ...string) string {
		return `{"apiVersion":"v1","kind":"List","items":[` + strings.Join(items, ",") + `]}`
	}
	selected := func(selector string) string {
		return `{"name":"http","port":80,"protocol":"HTTP","allowedRoutes":{"namespaces":{"from":"Selector","selector":{` + selector + `}}}}`
	}
	const namespace = `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"default","labels":{"team":"web"}}}`
	const http = `{"name":"http","port":80,"protocol":"HTTP"}`
	for _, tt := range []struct{ text, condition, reason string }{
		{list(route(`{"parentRefs":[{"name":"g"}]}`), gateway(http)), "Accepted", "Accepted"},
		{list(route(`{"parentRefs":[{"name":"other"}]}`), gateway(http)), "Accepted", "NoMatchingParent"},
		{list(route(`{"parentRefs":[{"name":"g","sectionName":"tls"}]}`), gateway(http)), "Accepted", "NoMatchingParent"},
		{list(route(`{"parentRefs":[{"name":"g","port":81}]}`), gateway(http)), "Accepted", "NoMatchingParent"},
		{list(route(`{"parentRefs":[{"name":"g"}],"hostnames":["a.com"]}`), gateway(`{"name":"h","port":80,"protocol":"HTTP","hostname":"b.com"}`)), "Accepted", "NoMatchingListenerHostname"},
		{list(route(`{"parentRefs":[{"name":"g"}]}`), gateway(`{"name":"h","port":80,"protocol":"HTTP","allowedRoutes":{"kinds":[{"kind":"GRPCRoute"}]}}`)), "Accepted", "NotAllowedByListeners"},
		{list(route(`{"parentRefs":[{"name":"g"}]}`), gateway(selected(`"matchLabels":{"team":"web"}`)), namespace), "Accepted", "Accepted"},
		{list(route(`{"parentRefs":[{"name":"g"}]}`), gateway(selected(`"matchLabels":{"team":"app"}`)), namespace), "Accepted", "NotAllowedByListeners"},
		{list(route(`{"parentRefs":[{"name":"g"}]}`), gateway(selected(`"matchExpressions":[{"key":"kubernetes.io/metadata.name","operator":"In","values":["default"]}]`))), "Accepted", "Accepted"},
		{list(route(`{"parentRefs":[{"name":"g"}]}`), gateway(selected(`"matchExpressions":[{"key":"team","operator":"DoesNotExist"}]`)), namespace), "Accepted", "NotAllowedByListeners"},
		{list(gateway(`{"name":"t","port":80,"protocol":"TCP"}`)), "Accepted", "ListenersNotValid"},
		{route(`{"rules":[{"filters":[{"type":"Magic"}]}]}`), "Accepted", "UnsupportedValue"},
		{route(`{"rules":[{"backendRefs":[{"name":"a","filters":[{"type":"URLRewrite","urlRewrite":{"hostname":"x"}}]}]}]}`), "Accepted", "UnsupportedValue"},
		{route(`{"rules":[{"backendRefs":[{"name":"a","kind":"Bucket"}]}]}`), "ResolvedRefs", "InvalidKind"},
		{route(`{"rules":[{"backendRefs":[{"name":"a","namespace":"b"}]}]}`), "ResolvedRefs", "RefNotPermitted"},
		{route(`{"rules":[{"filters":[{"type":"ExtensionRef","extensionRef":{"kind":"Thing","name":"x"}}]}]}`), "ResolvedRefs", "InvalidKind"},
		{strings.ReplaceAll(route(`{}`), "HTTPRoute", "TCPRoute"), "Accepted", "UnsupportedKind"},
	} {
		doc, err := Parse("k", tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		o := doc.Objects[0]
		if !slices.ContainsFunc(o.Conditions, func(c Condition) bool { return c.Type == tt.condition && c.Reason == tt.reason }) {
			t.Errorf("%s: got %+v, want %s %s", tt.text, o.Conditions, tt.condition, tt.reason)
		}
		if !o.is("Accepted") && len(doc.Routes) > 0 {
			t.Errorf("%s is not accepted, and has routes", tt.text)
		}
		if _, err := NewTable(withCors, doc.Routes); err != nil {
			t.Errorf("%s: %v", tt.text, err)
		}
	}
	for text, says := range map[string]string{
		route(`{"rulez":[]}`): `k:1: route "r": HTTPRoute's spec has no "rulez"; did you mean rules?`,
		route(`{"rules":[{"matches":[{"path":{"type":"Glob"}}]}]}`):                                  "use Exact, PathPrefix or RegularExpression",
		route(`{"rules":[{"matches":[{"path":{"value":"x"}}],"backendRefs":[{"name":"a"}]}]}`):       "starts with /",
		route(`{"hostnames":["a:80"]}`):                                                              `host "a:80"`,
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute","metadata":{"name":"a/b"}}`: "is no name",
		`{"apiVersion":"gateway.networking.k8s.io/v1","kind":"HTTPRoute"}`:                           "is no name",
	} {
		doc, err := Parse("k", text)
		if err != nil || len(doc.Routes) != 0 || len(doc.Objects) != 1 {
			t.Errorf("%s: got %+v, %v, want no route, and the object", text, doc, err)
			continue
		}
		o := doc.Objects[0]
		if o.is("Accepted") || !strings.Contains(fmt.Sprint(o.Conditions), says) || !strings.Contains(errors.Join(doc.Mistaken()...).Error(), says) {
			t.Errorf("%s: got %v, want that it is not accepted, saying %q", text, o.Conditions, says)
		}
	}
}

func TestAGatewayAPIObjectWithAMistakeIsNotAcceptedAndAllOthersAreServed(t *testing.T) {
	const object = "---\napiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n"
	text := fmt.Sprintf(object, "Gateway", "front", `{listeners: [{name: good, port: 80, protocol: HTTP}, {name: bad, port: 80, protocol: HTTP, hostname: "a:80"}]}`) +
		fmt.Sprintf(object, "HTTPRoute", "good", `{parentRefs: [{name: front}], rules: [{matches: [{path: {value: /good}}], backendRefs: [{name: a}]}]}`) +
		fmt.Sprintf(object, "HTTPRoute", "misspelled", `{parentRefs: [{name: front}], rules: [{matches: [{path: {value: /b}}], bakendRefs: []}, {backendRefs: [{name: a}]}]}`) +
		fmt.Sprintf(object, "HTTPRoute", "no-regex", `{parentRefs: [{name: front}], rules: [{matches: [{path: {type: RegularExpression, value: "/("}}], backendRefs: [{name: a}]}]}`) +
		fmt.Sprintf(object, "HTTPRoute", "good", `{parentRefs: [{name: front}], rules: [{backendRefs: [{name: other}]}]}`) +
		fmt.Sprintf(object, "ReferenceGrant", "half", `{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: x}], to: [{kind: Service, nam: a}]}`)
	doc, err := Parse("k", text)
	if err != nil {
		t.Fatal(err)
	}
	table, err := doc.Table(withCors)
	if err != nil {
		t.Fatal(err)
	}
	if ids := fmt.Sprint(len(table.Routes()), table.Routes()[0].ID); ids != "1default.good.00.00" {
		t.Errorf("got routes %s, want that of the good one alone", ids)
	}
	var got []string
	for _, o := range doc.Objects {
		for _, c := range o.Conditions {
			if c.Type == "Accepted" {
				got = append(got, strings.Join([]string{o.Kind, o.Name, c.Status, c.Reason, c.Message}, " "))
			}
		}
	}
	for i, want := range []string{
		`Gateway front False Invalid k:5: listener bad: host "a:80": write a name`,
		"HTTPRoute good True Accepted ",
		`HTTPRoute misspelled False UnsupportedValue k:15: route "misspelled": a rule has no "bakendRefs"; did you mean backendRefs?`,
		`HTTPRoute no-regex False UnsupportedValue k:20: route "default.no-regex.00.00": path.regex`,
		"HTTPRoute good False UnsupportedValue k:22: there is another HTTPRoute default/good in k on line 7",
		`ReferenceGrant half False UnsupportedValue k:30: to has no "nam"; did you mean name?`,
	} {
		if i >= len(got) || !strings.HasPrefix(got[i], want) {
			t.Errorf("condition %d: got %q, want %q", i, append(got, make([]string, 6)...)[i], want)
		}
	}
	if len(doc.Objects[0].Routes)+len(doc.Objects[3].Routes) != 0 {
		t.Errorf("an object that is not accepted has routes: %v", doc.Objects)
	}
	// Routes of roadbed's own beside them are refused as ever.
	doc, err = ParseAll([]Text{{"k", text}, {"own", "- {id: x, match: {path: {regex: (}}, backends: [{vip: a}]}"}})
	if err != nil {
		t.Fatal(err)
	}
	if table, err := doc.Table(withCors); err == nil || !slices.Contains(Mistaken(err), "own") {
		t.Errorf("a route of one's own that cannot be: got %v, %v; want it refused", table, err)
	}
}

func TestADocumentWithAWrongObjectIsNotPutAndOneThatStandsHindersNobody(t *testing.T) {
	w, at := writing(t)
	const wrong = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {rulez: []}\n"
	if status, body := tell(t, "PUT", at, wrong, nil); status != 422 || !strings.Contains(body, "edge.routes:4:") || len(w.at) != 0 {
		t.Errorf("got %d %s, want 422 by its line, and nothing written", status, body)
	}
	w.at["edge.routes.kube"] = stored{Key: "edge.routes.kube", Value: wrong, Rev: 1}
	var change RoutesChange
	if status, body := tell(t, "PUT", at+"?name=own", "- {id: a, backends: [{vip: a}]}", &change); status != 200 || !change.InForce || len(change.Objects) != 1 {
		t.Errorf("another document: got %d %s, want it in force", status, body)
	}
	if status, body := tell(t, "PUT", at+"?name=kube", wrong+"---\n"+wrong, nil); status != 422 {
		t.Errorf("the same wrong one again: got %d %s, want 422", status, body)
	}
}

func TestGatewayAPIObjectsOfSeveralFilesFindEachOther(t *testing.T) {
	docs := strings.Split(gatewayYAML, "---\n")
	texts := make([]Text, len(docs))
	for i, d := range docs {
		texts[len(docs)-1-i] = Text{fmt.Sprint(i, ".yaml"), d}
	}
	apart, err := ParseAll(texts)
	if err != nil {
		t.Fatal(err)
	}
	together, err := Parse("all.yaml", gatewayYAML)
	if err != nil {
		t.Fatal(err)
	}
	if len(apart.Routes) != len(together.Routes) || len(apart.Routes) == 0 {
		t.Fatalf("%d routes of several files, %d of one", len(apart.Routes), len(together.Routes))
	}
	for _, r := range apart.Routes {
		i := slices.IndexFunc(together.Routes, func(o Route) bool { return o.ID == r.ID })
		if i < 0 || !same(together.Routes[i], r) {
			t.Errorf("route %s of several files is another one than of one", r.ID)
		}
	}
}

// A service's name is compared with paths as they are sent, whatever letters it has, as a path of an HTTPRoute is.
func TestPathsOfGRPCRoutesAreSpelledAsTheyAreSent(t *testing.T) {
	d, err := Parse("t", "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: r}\nspec:\n  rules:\n"+
		"  - {matches: [{method: {service: \"caf\u00e9.Menu\"}}], backendRefs: [{name: a, port: 80}]}\n  - {matches: [{method: {service: \"caf\u00e9.Menu\", method: Order}}], backendRefs: [{name: b, port: 80}]}\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range d.Routes {
		got = append(got, r.Match.Path.Prefix+r.Match.Path.Exact)
	}
	if want := []string{"/caf%C3%A9.Menu", "/caf%C3%A9.Menu/Order"}; !slices.Equal(got, want) {
		t.Errorf("got paths %q, want %q", got, want)
	}
}

func TestANamespaceWithoutMetadataIsPassedOver(t *testing.T) {
	if doc, err := Parse("k", "apiVersion: v1\nkind: Namespace\n"); err != nil || len(doc.Routes)+len(doc.Objects) != 0 {
		t.Errorf("got %+v, %v; want nothing, and no mistake", doc, err)
	}
}

func TestFiltersOfOneBackendRefAreItsOwn(t *testing.T) {
	const ref = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {rules: [{backendRefs: [{name: a, filters: [%s]}, {name: b}]}]}\n"
	for filters, want := range map[string]string{
		`{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-To, value: a}]}}`:     "True Accepted [RouteRequestHeaders] []",
		`{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [X-To]}}`:                  "True Accepted [] [RouteResponseHeaders]",
		`{type: RequestRedirect, requestRedirect: {scheme: https}}`:                                 "False UnsupportedValue",
		`{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Host, value: a.com}]}}`: "False UnsupportedValue",
	} {
		doc, err := Parse("k", fmt.Sprintf(ref, filters))
		if err != nil {
			t.Fatal(err)
		}
		c := doc.Objects[0].Conditions[0]
		got := c.Status + " " + c.Reason
		if c.Status == "True" {
			table, err := doc.Table(Config{})
			if err != nil {
				t.Fatal(err)
			}
			for x := asked("GET", "http://h/"); ; x = asked("GET", "http://h/") { // b's turn is no endless one
				if table.Match(x); x.App == "a" {
					names := func(list []*filter.Filter) (all []string) {
						for _, f := range list {
							all = append(all, f.Name)
						}
						return all
					}
					got += fmt.Sprint(" ", names(x.Plan.Inbound), " ", names(x.Plan.Outbound))
					break
				}
			}
		}
		if got != want {
			t.Errorf("%s: got %s, want %s (%s)", filters, got, want, c.Message)
		}
	}
}
