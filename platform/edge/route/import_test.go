package route

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// imported returns the table of what text becomes, and its notes.
func imported(t testing.TB, name, text string) (*Table, *Imported) {
	t.Helper()
	out, err := Import([]Text{{name, text}}, "")
	if err != nil {
		t.Fatal(err)
	}
	// What is written must be what the edge takes.
	doc, err := Format(out.Routes)
	if err != nil {
		t.Fatal(err)
	}
	table, err := NewTable(withCors, parsed(t, string(doc)))
	if err != nil {
		t.Fatal(err)
	}
	return table, out
}

// goes tells where a request goes: the route's app, address and path, or the answer.
func goes(t testing.TB, table *Table, method, url string, fields ...string) string {
	t.Helper()
	x := asked(method, url, fields...)
	if !table.Match(x) {
		return "nowhere"
	}
	if e := x.Plan.Endpoint; e != nil {
		if err := e.Apply(x); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(fmt.Sprintf("%d %s", x.Response.Status, x.Response.Header.Get("Location")))
	}
	to := x.App
	if x.Addr != "" && x.Addr != x.App {
		to += "@" + x.Addr
	}
	path := x.Path
	if path == "" {
		path = x.Request.Path
	}
	return to + " " + path
}

// noted fails if no note is about line and holds every one of the texts.
func noted(t testing.TB, out *Imported, line int, texts ...string) {
	t.Helper()
	for _, n := range out.Notes {
		all := n.What + " " + n.Why + " " + n.Do
		if n.Line == line && !slices.ContainsFunc(texts, func(s string) bool { return !strings.Contains(all, s) }) {
			return
		}
	}
	t.Errorf("no note on line %d has %q; there are %+v", line, texts, out.Notes)
}

const nginxConf = `user nginx;
worker_processes auto;
events { worker_connections 1024; }
http {
    include mime.types;
    client_max_body_size 10m;
    proxy_set_header Host $host;
    upstream cart { least_conn; server 10.0.0.1:8080 weight=3; server 10.0.0.2:8080; server 10.0.0.3:8080 down; keepalive 32; }
    upstream api { ip_hash; server api.internal; server unix:/tmp/x.sock; server 10.0.0.9:81 backup; }
    limit_req_zone $binary_remote_addr zone=one:10m rate=1r/s;
    server {
        listen 80 default_server;
        server_name shop.example.com www.shop.example.com;
        return 301 https://$host$request_uri;
    }
    server {
        listen 443 ssl http2;
        server_name shop.example.com .shop.example.org "~^s[0-9]+\.example\.com$";
        ssl_certificate /etc/x.pem;
        add_header X-Frame-Options "DENY, or \"else\"" always;
        location / { proxy_pass http://cart; proxy_set_header X-Tier gold; proxy_set_header X-Real-IP $remote_addr; proxy_set_header Accept ""; }
        location = /health { return 200 "ok\n"; }
        location /api/ { # the slash at the end takes /api/ away
            proxy_pass http://api/;
            proxy_read_timeout 90s;
            client_max_body_size 0;
            proxy_next_upstream error http_502 http_503 non_idempotent;
            proxy_next_upstream_tries 3;
            limit_req zone=one;
        }
        location /v1 { proxy_pass http://127.0.0.1:9000/v2; add_header X-A b; proxy_hide_header X-Powered-By; }
        location ~ \.php$ { fastcgi_pass unix:/run/php.sock; }
        location ~* ^/img/(.+)\.(jpg|png)$ { rewrite ^/img/(.+)$ /pictures/$1 break; proxy_pass http://10.1.1.1; }
        location ~ ^/u/[0-9]{3}/ { proxy_pass http://10.1.1.2; }
        location /old { return 302 /new; }
        location /moved/ { rewrite ^/moved/(.*)$ https://other.example.com/$1 permanent; }
        location /static/ { root /var/www; try_files $uri =404; }
        location /ws/ { proxy_pass http://cart; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade"; }
        location /var { proxy_pass http://$backend; }
        location ~ ^/(?!x) { proxy_pass http://10.1.1.3; }
        location /grpc.Service/ { grpc_pass grpc://127.0.0.1:50051; }
        location /lua { content_by_lua_block { ngx.say("}") } }
        if ($request_method = POST) { return 405; }
    }
}
`

func TestADirectiveIsNotedByTheLongestOfTheNamesThatItBeginsWith(t *testing.T) {
	_, out := imported(t, "nginx.conf", "http {\nset_real_ip_from 10.0.0.0/8;\nssl_protocols TLSv1.3;\nauth_basic x;\nallow 10.0.0.0/8;\nsettle x;\n}\n")
	noted(t, out, 2, "set_real_ip_from", "trusted proxies")
	noted(t, out, 3, "ssl_protocols", "listeners")
	noted(t, out, 4, "auth_basic", "{auth: ...}")
	noted(t, out, 5, "allow", "cidr(client.ip, [...])")
	noted(t, out, 6, "settle", "no route can say so")
}

func TestNginxConfigurationsBecomeRoutes(t *testing.T) {
	table, out := imported(t, "nginx.conf", nginxConf)
	const at = "https://shop.example.com"
	for _, tt := range []struct{ url, want string }{
		{"http://shop.example.com/a?b=c", "301 https://shop.example.com/a?b=c"},
		{"http://anything.else/a", "301 https://anything.else/a"}, // the default server
		{at + "/health", "200"},
		{at + "/api/users/1", "api@api.internal:80 /users/1"},
		{at + "/v1/x", "127.0.0.1:9000 /v2/x"},
		{at + "/v1", "127.0.0.1:9000 /v2"},
		{at + "/img/a/b.PNG", "10.1.1.1:80 /pictures/a/b.PNG"},
		{at + "/u/123/x", "10.1.1.2:80 /u/123/x"},
		{at + "/old/x", "302 https://shop.example.com/new"},
		{at + "/grpc.Service/Do", "127.0.0.1:50051 /grpc.Service/Do"},
		{"https://a.b.shop.example.org/v1", "127.0.0.1:9000 /v2"},
		{"https://shop.example.org/v1", "127.0.0.1:9000 /v2"},
		{"https://nobody.example.com/v1", "nowhere"},
	} {
		if got := goes(t, table, "GET", tt.url); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.url, got, tt.want)
		}
	}
	shares := map[string]int{}
	for range 10_000 {
		shares[goes(t, table, "GET", at+"/else")]++
	}
	if n := shares["cart@10.0.0.1:8080 /else"]; len(shares) != 2 || n < 7200 || n > 7800 {
		t.Errorf("upstream cart is shared %v, want 3:1", shares)
	}
	x := asked("GET", at+"/api/x", "Accept: a")
	table.Match(x)
	if p := x.Plan; p.Timeout.String() != "1m30s" || p.MaxBody != 0 || !p.RetryUnsafe || p.Retries != 2 || fmt.Sprint(p.RetryStatuses) != "[502 503]" {
		t.Errorf("/api/ has the plan %+v", p)
	}
	x = asked("GET", at+"/", "Accept: a")
	table.Match(x)
	for _, f := range append(slices.Clone(x.Plan.Inbound), x.Plan.Outbound...) {
		if err := f.Apply(x); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(x.Request.Header.Fields(), x.Response.Header.Fields(), x.Plan.MaxBody); got != `[{X-Tier gold}] [{X-Frame-Options DENY, or "else"}] 10485760` {
		t.Errorf("headers of / become %s", got)
	}
	noted(t, out, 5, "include mime.types", "name the included file")
	noted(t, out, 9, "unix:/tmp/x.sock")
	noted(t, out, 9, "backup", "no backups")
	noted(t, out, 10, "limit_req_zone", "rateLimit")
	noted(t, out, 18, "server_name ~")
	noted(t, out, 19, "ssl_certificate", "listeners")
	noted(t, out, 21, "X-Real-IP", "X-Forwarded-For")
	noted(t, out, 29, "limit_req zone=one", "rateLimit")
	noted(t, out, 31, "location /v1", "whole segments")
	noted(t, out, 32, "fastcgi_pass", "HTTP alone")
	noted(t, out, 36, "rewrite", "write a redirect")
	noted(t, out, 37, "try_files", "serves no files")
	noted(t, out, 39, "http://$backend", "no variables")
	noted(t, out, 40, "lookahead")
	noted(t, out, 42, "content_by_lua_block", "no Lua")
	noted(t, out, 43, "if", "a route of its own")
}

func TestNginxLocationsInsideOthersAreImportedToo(t *testing.T) {
	table, _ := imported(t, "x.conf", `upstream a.b { hash $cookie_session consistent; server one:1; server two:2; }
	server { listen 8080; server_name _;
	  location /a/ { proxy_pass http://a.b; location /a/deep/ { proxy_pass http://deep; } location =/a/exact { return 204; } }
	  location = /one { proxy_pass http://127.0.0.1:1/other; }
	}`)
	for url, want := range map[string]string{
		"http://h/a/deep/x": "deep:80 /a/deep/x", "http://h/a/exact": "204", "http://h/one": "127.0.0.1:1 /other",
	} {
		if got := goes(t, table, "GET", url); got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
	first := goes(t, table, "GET", "http://h/a/x", "Cookie: session=7")
	for range 20 {
		if got := goes(t, table, "GET", "http://h/a/x", "Cookie: session=7"); got != first {
			t.Errorf("one session went to %s and to %s", first, got)
		}
	}
}

func TestUpstreamsOfOneNginxFileServeAnother(t *testing.T) {
	out, err := Import([]Text{{"a.conf", "include conf.d/*.conf; server { location / { proxy_pass http://x; } }"}, {"/etc/nginx/conf.d/b.conf", "upstream x { server 10.0.0.1:1; }"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Routes) != 1 || !reflect.DeepEqual(out.Routes[0].Backends, []Backend{{VIP: "x", Addr: "10.0.0.1:1", Weight: 1}}) {
		t.Errorf("got %+v", out.Routes)
	}
	if slices.ContainsFunc(out.Notes, func(n Note) bool { return strings.Contains(n.What, "include") }) {
		t.Errorf("a file that is imported as well is noted as missing: %+v", out.Notes)
	}
}

func TestABrokenNginxConfigurationIsRefusedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"server {\n listen 80;\n":    "x.conf:3: it ends inside a block",
		"server {\n listen 80\n}":    "x.conf:3: listen has no ;",
		"}":                          "x.conf:1: there is a } without",
		"a b;\n;":                    "x.conf:2: there is a ; without a directive",
		"a \"b;\n\n":                 "x.conf:1: a quote has no end",
		strings.Repeat("a {", 200):   "deeper than",
		"x_by_lua_block {\n {\n }\n": "x.conf:4: it ends inside",
	} {
		_, err := Import([]Text{{"x.conf", text}}, "")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error saying %q", text, err, want)
		}
	}
}

const zuulYAML = `
server: {port: 8080}
zuul:
  prefix: /api
  sensitive-headers: Cookie,X-Secret
  ignored-patterns: ["/**/admin/**"]
  ignored-services: '*'
  host: {connect-timeout-millis: 500}
  routes:
    users: /users/**
    books:
      path: /books/**
      serviceId: book-service
      strip-prefix: false
      sensitiveHeaders:
      retryable: false
    legacy:
      path: /legacy/**
      url: http://legacy.internal:8081/app
    shallow: {path: /one/*, serviceId: one}
    exact: {path: /exact, serviceId: exact}
    local: {path: /local/**, url: "forward:/x"}
    rest: /**
    never: /never/**
users:
  ribbon:
    listOfServers: u1:80, http://u2
ribbon: {ReadTimeout: 3000}
hystrix.command.users.execution.isolation.thread.timeoutInMilliseconds: 700
`

func TestZuulsRoutesInSpringsYAMLBecomeRoutes(t *testing.T) {
	table, out := imported(t, "application.yml", zuulYAML)
	for url, want := range map[string]string{
		"http://h/api/books/1":     "book-service /books/1",
		"http://h/api/legacy/a/b":  "legacy.internal:8081 /app/a/b",
		"http://h/api/legacy":      "legacy.internal:8081 /app",
		"http://h/api/one/x":       "one /x",
		"http://h/api/one/x/y":     "rest /one/x/y", // * is one segment
		"http://h/api/exact":       "exact /exact",
		"http://h/api/what/ever":   "rest /what/ever",
		"http://h/api/x/admin/y":   "404",
		"http://h/api/users/admin": "404",
		"http://h/other":           "nowhere",
		"http://h/api/local/x":     "rest /local/x",
	} {
		if got := goes(t, table, "GET", url); got != want {
			t.Errorf("%s: got %s, want %s", url, got, want)
		}
	}
	if got := goes(t, table, "GET", "http://h/api/users/1"); got != "users@u1:80 /1" && got != "users@u2:80 /1" {
		t.Errorf("/api/users/1: got %s", got)
	}
	x := asked("GET", "http://h/api/books/1", "Cookie: a=b")
	if table.Match(x); x.Plan.Retries != -1 || len(x.Plan.Inbound) != 0 {
		t.Errorf("books has the plan %+v", x.Plan)
	}
	x = asked("GET", "http://h/api/users/1", "Cookie: a=b", "X-Secret: c", "Authorization: d")
	x.Response.Header.Add("X-Secret", "e")
	table.Match(x)
	for _, f := range append(slices.Clone(x.Plan.Inbound), x.Plan.Outbound...) {
		if err := f.Apply(x); err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(x.Request.Header.Fields(), x.Response.Header.Fields()); got != "[{Authorization d}] []" {
		t.Errorf("headers of users become %s", got)
	}
	noted(t, out, 8, "zuul.host.connect-timeout-millis=500")
	noted(t, out, 22, "forward:/x")
	noted(t, out, 24, "zuul.routes.never", "asked rest first")
	noted(t, out, 27, "users.ribbon.listOfServers")
	noted(t, out, 28, "roadbed config set ribbon.ReadTimeout 3000")
	noted(t, out, 0, "zuul.ignored-services", "roadbed config set zuul.ignoredServices '*'")
}

func TestZuulsPrefixAndStripPrefixAreKeptAsZuulHasThem(t *testing.T) {
	for _, tt := range []struct{ global, route, want string }{
		{"true", "true", "users /1"},
		{"true", "false", "users /users/1"},
		{"false", "true", "users /api/1"},
		{"false", "false", "users /api/users/1"},
	} {
		table, _ := imported(t, "zuul.properties", "# comment\nzuul.prefix=/api\nzuul.stripPrefix = "+tt.global+"\nzuul.routes.users.path: /users/**\nzuul.routes.users.service\\\n  Id users\nzuul.routes.users.stripPrefix="+tt.route+"\n")
		if got := goes(t, table, "GET", "http://h/api/users/1"); got != tt.want {
			t.Errorf("strip %s of the prefix and %s of the route: got %s, want %s", tt.global, tt.route, got, tt.want)
		}
	}
}

func TestPropertiesAreReadAsJavaReadsThem(t *testing.T) {
	got := readProperties("a=1\n b : 2 \n\n#c=3\n!d=4\ne 5\nf\\:g=h\\u0041\\t\nlong=x,\\\n   y\nempty=\nalone\nend=\\\n")
	want := []setting{{"a", "1", 1}, {"b", "2 ", 2}, {"e", "5", 6}, {"f:g", "hA\t", 7}, {"long", "x,y", 8}, {"empty", "", 10}, {"alone", "", 11}, {"end", "", 12}}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestGatewayAPIFilesAreImportedWithWhatTheyCouldNotCarry(t *testing.T) {
	_, out := imported(t, "k8s.yaml", gatewayYAML+"---\napiVersion: v1\nkind: Service\nmetadata: {name: cart}\nspec: {}\n---\napiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: db}\n")
	if len(out.Routes) != 8 || len(out.Objects) != 6 {
		t.Errorf("got %d routes of %d objects", len(out.Routes), len(out.Objects))
	}
	lines := strings.Count(gatewayYAML, "\n")
	noted(t, out, lines+2, "Service cart", "roadbed run")
	noted(t, out, lines+7, "TCPRoute db", "HTTP and gRPC alone")
	noted(t, out, 20, "HTTPRoute shop", "RefNotPermitted")
}

func TestWhatAFileIsIsSeenByItsText(t *testing.T) {
	for text, want := range map[string]string{
		nginxConf: "nginx", "server { listen 80; }": "nginx", zuulYAML: "zuul", "zuul.routes.a=/a/**\n": "zuul", gatewayYAML: "gateway",
		`[{"id":"a"}]`: "gateway", "": "nginx",
	} {
		if got := looksLike(Text{"stdin", text}); got != want {
			t.Errorf("%.40q: got %s, want %s", text, got, want)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add(nginxConf, "nginx")
	f.Add(`server { location ~ ^/a{2}$ { proxy_pass http://${x}/; } location =/b { return 302 http://c:1/d?e; } }`, "nginx")
	f.Add(zuulYAML, "zuul")
	f.Add("zuul.routes.a.path=/a/?/*/**/b\nzuul.routes.a.url=http://[::1]/x\nzuul.prefix=x\nzuul.ignoredPatterns=/**\n", "zuul")
	f.Add(gatewayYAML, "gateway")
	f.Fuzz(func(t *testing.T, text, from string) {
		out, err := Import([]Text{{"fuzz", text}}, from)
		if err != nil {
			return
		}
		doc, err := Format(out.Routes)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Parse("again", string(doc))
		if err != nil {
			t.Fatalf("%s became %s, which is refused: %v", text, doc, err)
		}
		table, err := NewTable(lenient, d.Routes)
		if err != nil {
			t.Fatalf("%s became %s, which is refused: %v", text, doc, err)
		}
		for _, url := range []string{"http://h/a/b/c", "https://shop.example.com/"} {
			if x := asked("GET", url); table.Match(x) && x.Plan.Endpoint != nil {
				x.Plan.Endpoint.Apply(x) //nolint:errcheck // only a panic is of interest
			}
		}
	})
}

func TestALocationOfNginxIsAsOpenAsItWasAndNoMore(t *testing.T) {
	const top = "upstream app { server 10.0.0.1:80; }\nserver {\n  auth_basic off;\n"
	for body, want := range map[string]string{
		"location /a/ { proxy_pass http://app; }":                                                                          "any_a open",
		"location /a/ { auth_basic x; proxy_pass http://app; }":                                                            "any_a disabled, any_a.closed 403",
		"location /a/ { auth_request /who; proxy_pass http://app; }\nlocation = /who { internal; proxy_pass http://app; }": "any_a disabled, any_a.closed 403",
		"location /a/ { allow 10.0.0.0/8; allow ::1; deny all; proxy_pass http://app; }":                                   `any_a cidr(client.ip, ["10.0.0.0/8","::1"]), any_a.closed 403`,
		"location /a/ { deny 10.0.0.7; proxy_pass http://app; }":                                                           `any_a open, any_a.closed cidr(client.ip, ["10.0.0.7"]) 403`,
		"location /a/ { deny 10.0.0.7; allow 10.0.0.0/8; deny all; proxy_pass http://app; }":                               "any_a disabled, any_a.closed 403",
		"location /a/ { deny unix:; proxy_pass http://app; }":                                                              "any_a disabled, any_a.closed 403",
		"location /a/ { allow all; proxy_pass http://app; }":                                                               "any_a open",
		"location /a/ { deny all; root /srv; }":                                                                            "any_a 403",
		"location /a/ { deny all; return 204; }":                                                                           "any_a open",
		"location /a/ { limit_except GET { deny all; } proxy_pass http://app; }":                                           "any_a disabled, any_a.closed 403",
		"deny 10.0.0.7;\nlocation /a/ { proxy_pass http://app; location /a/b/ { allow all; proxy_pass http://app; } }":     `any_a-b open, any_a open, any_a.closed cidr(client.ip, ["10.0.0.7"]) 403`,
		"location /a/ { try_files $uri @app; }\nlocation @app { proxy_set_header X-A b; proxy_pass http://app; }":          "any_a open",
	} {
		out, err := Import([]Text{{"nginx.conf", top + body + "\n}\n"}}, "")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range out.Routes {
			s := r.ID
			if r.Match.When != "" {
				s += " " + r.Match.When
			}
			switch {
			case r.Disabled:
				s += " disabled"
			case len(r.Filters) > 0 && r.Filters[0].Answer != nil && r.Filters[0].Answer.Status == 403:
				s += " 403"
			case r.Match.When == "":
				s += " open"
			}
			got = append(got, s)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("%s\n got %s\nwant %s\n%v", body, strings.Join(got, ", "), want, out.Notes)
		}
		if strings.Contains(want, "disabled") && !slices.ContainsFunc(out.Notes, func(n Note) bool { return strings.Contains(n.Why, "disabled") }) {
			t.Errorf("%s: no note says that the route is disabled: %v", body, out.Notes)
		}
	}
	out, err := Import([]Text{{"site.conf", "allow 192.0.2.0/24;\ndeny all;\nserver { location /a/ { proxy_pass http://10.0.0.1; } location /t { default_type application/json; return 200 \"a\\tb\\n\"; } }\n"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Routes) != 3 || out.Routes[0].Match.When != `cidr(client.ip, ["192.0.2.0/24"])` {
		t.Errorf("what stands around the servers of a file does not count: %+v", out.Routes)
	}
	if a := out.Routes[2].Filters[0].Answer; a.Body != "a\tb\n" || a.Headers["Content-Type"] != "application/json" {
		t.Errorf("an answer is %+v, want its escapes and its type as in nginx", a)
	}
}

func TestRoutesOfSpringCloudGatewayAreRefusedInWords(t *testing.T) {
	const text = "spring:\n  cloud:\n    gateway:\n      routes:\n      - {id: a, uri: lb://A, predicates: [Path=/a/**]}\n"
	if out, err := Import([]Text{{"application.yml", text}}, ""); err == nil || !strings.Contains(err.Error(), "application.yml has routes of Spring Cloud Gateway") {
		t.Errorf("got %+v, %v; want an error that says what it is, and what to do", out, err)
	}
}
