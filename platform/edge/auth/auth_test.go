package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"golang.org/x/crypto/bcrypt"
)

// gate is a chain of the filters in front of an origin that notes what it gets.
type gate struct {
	looked func() // at the clock; nil: nobody is told
	*Auth
	chain *filter.Chain
	asked atomic.Int32
	now   time.Time
}

func newGate(t testing.TB, document string) *gate {
	t.Helper()
	g := &gate{now: time.Unix(1_800_000_000, 0)}
	p := config.New(config.Options{Log: slog.New(slog.DiscardHandler)})
	g.Auth = New(Config{Properties: p, Meter: meter.New(nil), Instance: "edge-1"})
	t.Cleanup(g.Close)
	g.kit.now = func() time.Time {
		if g.looked != nil {
			g.looked()
		}
		return g.now
	}
	k, err := g.kit.parse([]byte(document))
	if err != nil {
		t.Fatalf("%s: %v", document, err)
	}
	g.all.Store(k)
	g.chain, err = filter.NewChain(filter.ChainConfig{
		Filters: append(g.Filters(), &filter.Filter{Name: "Routes", Order: -100, Quick: true, Apply: func(x *filter.Exchange) error { x.Plan = plan; return nil }}),
		Proxy: &filter.Filter{Name: "ProxyEndpoint", Kind: filter.Endpoint, Quick: true, Apply: func(x *filter.Exchange) error {
			g.asked.Add(1)
			x.Answer(200, "")
			return nil
		}},
		Properties: p, Meter: meter.New(nil), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

var (
	plan   = &filter.Plan{Route: "shop"}
	client = &filter.Client{Remote: netip.MustParseAddrPort("192.0.2.1:1")}
)

func request(fields ...string) *filter.Exchange {
	x := &filter.Exchange{Client: client, From: client.Remote.Addr()}
	x.Request = filter.Request{Method: "GET", Scheme: "https", Host: "shop.example.com", Path: "/cart", RawQuery: "a=b", Proto: 11}
	for i := 0; i < len(fields); i += 2 {
		x.Request.Header.Add(fields[i], fields[i+1])
	}
	return x
}

func (g *gate) run(x *filter.Exchange) *filter.Exchange { g.chain.Run(x); return x }

func body(x *filter.Exchange) string {
	if x.Response.Body == nil {
		return ""
	}
	b, _ := io.ReadAll(x.Response.Body)
	return string(b)
}

var (
	rsaKey    = must(rsa.GenerateKey(rand.Reader, 2048))
	otherRSA  = must(rsa.GenerateKey(rand.Reader, 2048))
	ecKey     = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey  = keyPair()
	secret    = []byte("a secret of thirty-two bytes, no less")
	every     = set(jwkOf("rsa", &rsaKey.PublicKey), jwkOf("ec", &ecKey.PublicKey), jwkOf("ed", edKey.Public()), jwkOf("hs", secret))
	publicSet = set(jwkOf("rsa", &rsaKey.PublicKey))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func keyPair() (ed25519.PublicKey, ed25519.PrivateKey) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return pub, priv
}

func jwkOf(kid string, key any) string {
	b := base64.RawURLEncoding.EncodeToString
	switch k := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf(`{"kty":"RSA","kid":%q,"use":"sig","n":%q,"e":%q}`, kid, b(k.N.Bytes()), b(big.NewInt(int64(k.E)).Bytes()))
	case *ecdsa.PublicKey:
		p := must(k.Bytes())
		return fmt.Sprintf(`{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q}`, kid, b(p[1:33]), b(p[33:]))
	case ed25519.PublicKey:
		return fmt.Sprintf(`{"kty":"OKP","crv":"Ed25519","kid":%q,"x":%q}`, kid, b(k))
	case crypto.PublicKey:
		if e, ok := k.(ed25519.PublicKey); ok {
			return jwkOf(kid, e)
		}
	}
	return fmt.Sprintf(`{"kty":"oct","kid":%q,"k":%q}`, kid, b(key.([]byte)))
}

func set(keys ...string) string { return `{"keys":[` + strings.Join(keys, ",") + `]}` }

// sign returns a token. now is that of gates.
func sign(method jwt.SigningMethod, kid string, key any, claims jwt.MapClaims) string {
	all := jwt.MapClaims{"sub": "ana", "iss": "https://login.example.com", "aud": "shop", "exp": 1_800_000_600}
	for k, v := range claims {
		if all[k] = v; v == nil {
			delete(all, k)
		}
	}
	t := jwt.NewWithClaims(method, all)
	if kid != "" {
		t.Header["kid"] = kid
	}
	return must(t.SignedString(key))
}

func doc(keys, more string) string {
	return `{"jwt": {"issuer": "https://login.example.com", "audience": ["shop", "till"], "algorithms": ["RS256", "ES256", "EdDSA", "HS256"], "keys": ` + keys + more + `}}`
}

func TestATokenIsAcceptedIfEverythingAboutItIsRight(t *testing.T) {
	header := func(tok *jwt.Token, key any) string { return must(tok.SignedString(key)) }
	pem := must(x509.MarshalPKIXPublicKey(&rsaKey.PublicKey))
	good := sign(jwt.SigningMethodRS256, "rsa", rsaKey, nil)
	none := jwt.NewWithClaims(jwt.SigningMethodNone, jwt.MapClaims{"sub": "ana", "iss": "https://login.example.com", "aud": "shop", "exp": 1_800_000_600})
	crit := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"sub": "ana", "iss": "https://login.example.com", "aud": "shop", "exp": 1_800_000_600})
	crit.Header["crit"] = []string{"b64"}
	for _, c := range []struct {
		name, token string
		want        int
		says        string
	}{
		{"RS256", good, 200, ""},
		{"ES256", sign(jwt.SigningMethodES256, "ec", ecKey, nil), 200, ""},
		{"EdDSA", sign(jwt.SigningMethodEdDSA, "ed", edKey, nil), 200, ""},
		{"HS256", sign(jwt.SigningMethodHS256, "hs", secret, nil), 200, ""},
		{"no key id", sign(jwt.SigningMethodRS256, "", rsaKey, nil), 200, ""},
		{"a list of audiences", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"aud": []string{"x", "till"}}), 200, ""},
		{"expired within the skew", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"exp": 1_800_000_000 - 29}), 200, ""},
		{"expired", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"exp": 1_800_000_000 - 31}), 401, "expired"},
		{"without an end", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"exp": nil}), 401, "not valid"},
		{"not valid yet", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"nbf": 1_800_000_100}), 401, "not valid"},
		{"another issuer", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"iss": "https://evil.example.com"}), 401, "not valid"},
		{"another audience", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"aud": "bank"}), 401, "not valid"},
		{"no audience", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"aud": nil}), 401, "not valid"},
		{"another issuer, expired", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"iss": "https://evil.example.com", "exp": 1}), 401, "not valid"},
		{"another's key", sign(jwt.SigningMethodRS256, "rsa", otherRSA, nil), 401, "not valid"},
		{"an unknown key id", sign(jwt.SigningMethodRS256, "no", rsaKey, nil), 401, "not valid"},
		{"a key of another kind", sign(jwt.SigningMethodES256, "rsa", ecKey, nil), 401, "not valid"},
		{"the public key as a secret", sign(jwt.SigningMethodHS256, "rsa", pem, nil), 401, "not valid"},
		{"RS512, which is not listed", sign(jwt.SigningMethodRS512, "rsa", rsaKey, nil), 401, "not valid"},
		{"no signature", header(none, jwt.UnsafeAllowNoneSignatureType), 401, "not valid"},
		{"critical extensions", header(crit, rsaKey), 401, "not valid"},
		{"no user", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"sub": nil}), 401, "not valid"},
		{"a user that no field may hold", sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"sub": "a\r\nX-Admin: 1"}), 401, "not valid"},
		{"a changed signature", good[:len(good)-8] + "AAAAAAAA", 401, "not valid"},
		{"rubbish", "x.y.z", 401, "not valid"},
		{"too long", strings.Repeat("x", longestToken+1), 401, "not valid"},
	} {
		g := newGate(t, doc(every, ""))
		x := g.run(request("Authorization", "bearer "+c.token))
		says := body(x)
		if x.Response.Status != c.want || !strings.Contains(says, c.says) {
			t.Errorf("%s: got %d %q, want %d with %q", c.name, x.Response.Status, says, c.want, c.says)
		}
		if ch := x.Response.Header.Get("WWW-Authenticate"); c.want == 401 && (g.asked.Load() != 0 || !strings.Contains(ch, `error="invalid_token"`)) {
			t.Errorf("%s: WWW-Authenticate is %q with %d origins asked; want invalid_token with none", c.name, ch, g.asked.Load())
		}
	}
}

func TestServicesLearnWhoAsks(t *testing.T) {
	g := newGate(t, doc(publicSet, `, "claims": {"X-Tenant": "tenant"}`))
	tok := sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"email": "ana@example.com", "groups": []any{"dev", "a,admin", 3, "ops"}, "preferred_username": "Ana", "tenant": "t1"})
	x := g.run(request("Authorization", "Bearer "+tok, "X-Forwarded-User", "root", "X-Forwarded-Groups", "admin", "X-Tenant", "t2", "x-forwarded-access-token", "x"))
	if x.User != "ana" {
		t.Errorf("user %q, want ana", x.User)
	}
	h := &x.Request.Header
	for name, want := range map[string]string{"X-Forwarded-User": "ana", "X-Forwarded-Email": "ana@example.com", "X-Forwarded-Groups": "dev,ops",
		"X-Forwarded-Preferred-Username": "Ana", "X-Tenant": "t1", "X-Forwarded-Access-Token": ""} {
		if got := h.Get(name); got != want || h.Count(name) > 1 {
			t.Errorf("the origin gets %s: %q (%d times), want %q", name, got, h.Count(name), want)
		}
	}
}

func TestWhoBringsNothingIsToldHowToAsk(t *testing.T) {
	g := newGate(t, `{"jwt": {"keys": `+publicSet+`}, "basic": {"realm": "till", "users": {"ana": "`+sum([]byte("x"))+`"}}, "apiKey": {"keys": {"batch": "`+sum([]byte("k"))+`"}}}`)
	x := g.run(request("X-Forwarded-User", "root"))
	var got []string
	for v := range x.Response.Header.Values("WWW-Authenticate") {
		got = append(got, v)
	}
	want := `Bearer realm="edge" | ApiKey realm="edge" | Basic realm="till", charset="UTF-8"`
	if x.Response.Status != 401 || strings.Join(got, " | ") != want {
		t.Errorf("got %d %v, want 401 with %s", x.Response.Status, got, want)
	}
}

func TestOptionalLetsStrangersInButNoLiars(t *testing.T) {
	g := newGate(t, `{"jwt": {"keys": `+publicSet+`, "cookie": "token"}, "optional": true}`)
	if x := g.run(request("X-Forwarded-User", "root")); x.Response.Status != 200 || x.User != "" || x.Request.Header.Has("X-Forwarded-User") {
		t.Errorf("a stranger: got %d as %q with %v; want 200 as nobody", x.Response.Status, x.User, x.Request.Header.Fields())
	}
	if x := g.run(request("Authorization", "Bearer x.y.z")); x.Response.Status != 401 {
		t.Errorf("a wrong token: got %d, want 401", x.Response.Status)
	}
	if x := g.run(request("Cookie", "a=b; token="+sign(jwt.SigningMethodRS256, "rsa", rsaKey, nil))); x.Response.Status != 200 || x.User != "ana" || x.Value("jwt.claims").(map[string]any)["sub"] != "ana" {
		t.Errorf("a token in a cookie: got %d as %q, want 200 as ana", x.Response.Status, x.User)
	}
}

func TestTwoAuthorizationsAreNone(t *testing.T) {
	good := "Bearer " + sign(jwt.SigningMethodRS256, "rsa", rsaKey, nil)
	for _, second := range []string{"Bearer x.y.z", "Basic cm9vdDpyb290", good} {
		g := newGate(t, `{"jwt": {"keys": `+publicSet+`}, "optional": true}`)
		if x := g.run(request("Authorization", good, "Authorization", second)); x.Response.Status != 401 || x.User != "" {
			t.Errorf("a good token and %.20s: got %d as %q, want 401 as nobody: the service may look at the other one", second, x.Response.Status, x.User)
		}
	}
}

func TestATokenIsBelievedNoLongerThanItIsValid(t *testing.T) {
	g := newGate(t, doc(publicSet, ""))
	tok := sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"exp": 1_800_000_060})
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 200}, {89 * time.Second, 200}, {91 * time.Second, 401}} {
		g.now = time.Unix(1_800_000_000, 0).Add(c.after)
		if x := g.run(request("Authorization", "Bearer "+tok)); x.Response.Status != c.want {
			t.Errorf("after %s, with 60 s to live and a skew of 30 s: got %d, want %d", c.after, x.Response.Status, c.want)
		}
	}
}

// issuer is a server with keys.
type issuer struct {
	*httptest.Server
	mu    sync.Mutex
	keys  string
	name  string // that it says is its own; empty: its URL
	down  bool
	asked atomic.Int64
}

func newIssuer(t testing.TB, keys string) *issuer {
	i := &issuer{keys: keys}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.mu.Lock()
		defer i.mu.Unlock()
		switch {
		case i.down:
			w.WriteHeader(500)
		case r.URL.Path == "/.well-known/openid-configuration":
			name := i.name
			if name == "" {
				name = i.URL
			}
			json.NewEncoder(w).Encode(map[string]string{"issuer": name, "jwks_uri": i.URL + "/keys"})
		case r.URL.Path == "/keys":
			i.asked.Add(1)
			io.WriteString(w, i.keys)
		default:
			w.WriteHeader(404)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) set(keys string, down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys, i.down = keys, down
}

func TestKeysAreFoundByTheIssuerAndFollowItsChanges(t *testing.T) {
	i := newIssuer(t, publicSet)
	g := newGate(t, `{"oidc": {"issuer": "`+i.URL+`", "audience": ["shop"]}}`)
	ask := func(kid string, key any) int {
		return g.run(request("Authorization", "Bearer "+sign(jwt.SigningMethodRS256, kid, key, jwt.MapClaims{"iss": i.URL, "jti": g.now.Unix()}))).Response.Status
	}
	if got := ask("rsa", rsaKey); got != 200 || i.asked.Load() != 1 {
		t.Fatalf("the first token: got %d with keys asked for %d times, want 200 with 1", got, i.asked.Load())
	}
	i.set(set(jwkOf("new", &otherRSA.PublicKey)), false)
	if got := ask("new", otherRSA); got != 401 || i.asked.Load() != 1 {
		t.Errorf("an unknown key at once: got %d with keys asked for %d times, want 401 with 1: strangers could make it ask all the time", got, i.asked.Load())
	}
	g.now = g.now.Add(askAgain)
	if got := ask("new", otherRSA); got != 200 || i.asked.Load() != 2 {
		t.Errorf("a new key 10 s later: got %d with keys asked for %d times, want 200 with 2", got, i.asked.Load())
	}
	g.now = g.now.Add(askAgain)
	if got := ask("rsa", rsaKey); got != 401 {
		t.Errorf("a token by a key that was withdrawn: got %d, want 401", got)
	}
	i.set("", true)
	g.now = g.now.Add(freshFor)
	g.all.Load().methods[0].(*tokens).forget()
	x := g.run(request("Authorization", "Bearer "+sign(jwt.SigningMethodRS256, "new", otherRSA, jwt.MapClaims{"iss": i.URL, "exp": g.now.Unix() + 60})))
	if x.Response.Status != 200 {
		t.Errorf("while the issuer is down: got %d, want 200 by the keys that were had", x.Response.Status)
	}
}

func TestATokenIsCheckedAnewWhenKeysChange(t *testing.T) {
	i := newIssuer(t, set(jwkOf("rsa", &rsaKey.PublicKey), jwkOf("other", &otherRSA.PublicKey)))
	g := newGate(t, `{"jwt": {"jwks": "`+i.URL+`/keys"}}`)
	tok := sign(jwt.SigningMethodRS256, "rsa", rsaKey, nil)
	g.run(request("Authorization", "Bearer "+tok))
	i.set(set(jwkOf("other", &otherRSA.PublicKey)), false)
	g.now = g.now.Add(askAgain)
	g.run(request("Authorization", "Bearer "+sign(jwt.SigningMethodRS256, "newer", otherRSA, nil))) // makes it ask
	if x := g.run(request("Authorization", "Bearer "+tok)); x.Response.Status != 401 {
		t.Errorf("a token that was believed, by a key that was withdrawn: got %d, want 401", x.Response.Status)
	}
}

func TestATokenThatIsCheckedWhileKeysChangeIsCheckedAnew(t *testing.T) {
	i := newIssuer(t, set(jwkOf("rsa", &rsaKey.PublicKey), jwkOf("other", &otherRSA.PublicKey)))
	g := newGate(t, `{"jwt": {"jwks": "`+i.URL+`/keys"}}`)
	g.run(request("Authorization", "Bearer "+sign(jwt.SigningMethodRS256, "other", otherRSA, nil))) // has it ask
	tok := sign(jwt.SigningMethodRS256, "rsa", rsaKey, nil)
	looks := 0
	g.looked = func() {
		if looks++; looks < 3 { // at the third the signature was found right, and the times of the token are looked at
			return
		}
		g.looked = nil
		i.set(set(jwkOf("other", &otherRSA.PublicKey)), false)
		g.now = g.now.Add(askAgain)
		g.run(request("Authorization", "Bearer "+sign(jwt.SigningMethodRS256, "newer", otherRSA, nil)))
	}
	if x := g.run(request("Authorization", "Bearer "+tok)); x.Response.Status != 200 || g.looked != nil {
		t.Fatalf("a token whose key is withdrawn while it is checked: got %d, want 200 once", x.Response.Status)
	}
	if x := g.run(request("Authorization", "Bearer "+tok)); x.Response.Status != 401 {
		t.Errorf("it comes again: got %d, want 401", x.Response.Status)
	}
}

func TestNobodyIsLetInUnchecked(t *testing.T) {
	down := newIssuer(t, publicSet)
	down.set("", true)
	liar := newIssuer(t, publicSet)
	liar.name = "https://login.example.com"
	broken := newIssuer(t, "nonsense")
	for name, d := range map[string]string{
		"an issuer that is down": `{"oidc": {"issuer": "` + down.URL + `", "audience": ["shop"]}}`,
		"one of another name":    `{"oidc": {"issuer": "` + liar.URL + `", "audience": ["shop"]}}`,
		"keys that are nonsense": `{"jwt": {"jwks": "` + broken.URL + `/keys"}}`,
		"a service that is down": `{"forwardAuth": {"url": "` + down.URL + `"}}`,
		"nobody there":           `{"forwardAuth": {"url": "http://127.0.0.1:1/"}}`,
		"an app without edge":    `{"forwardAuth": {"url": "http://127.0.0.1:1/", "timeout": "10ms"}, "optional": true}`,
	} {
		g := newGate(t, d)
		x := g.run(request("Authorization", "Bearer "+sign(jwt.SigningMethodRS256, "rsa", rsaKey, nil)))
		if x.Response.Status != 503 || g.asked.Load() != 0 {
			t.Errorf("%s: got %d with %d origins asked, want 503 with none", name, x.Response.Status, g.asked.Load())
		}
	}
}

func TestAPIKeysAndPasswords(t *testing.T) {
	hash := string(must(bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)))
	g := newGate(t, `{"apiKey": {"query": "key", "keys": {"batch": "`+sum([]byte("k 1"))+`"}}, "basic": {"users": {"ana": "`+hash+`", "bob": "`+sum([]byte("long: and random"))+`"}}}`)
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, c := range []struct {
		name, field, value, query string
		want                      int
		user                      string
	}{
		{"a key", "X-API-Key", "k 1", "", 200, "batch"},
		{"a key as a parameter", "", "", "a=b&key=k+1", 200, "batch"},
		{"a wrong key", "X-API-Key", "k2", "", 401, ""},
		{"a bcrypt password", "Authorization", basic("ana:secret"), "", 200, "ana"},
		{"the same again", "Authorization", basic("ana:secret"), "", 200, "ana"},
		{"a SHA-256 password with a colon", "Authorization", basic("bob:long: and random"), "", 200, "bob"},
		{"a wrong password", "Authorization", basic("ana:Secret"), "", 401, ""},
		{"an unknown user", "Authorization", basic("eve:secret"), "", 401, ""},
		{"no colon", "Authorization", basic("ana"), "", 401, ""},
		{"no base64", "Authorization", "Basic !", "", 401, ""},
		{"a password too long for bcrypt", "Authorization", basic("ana:" + strings.Repeat("x", 73)), "", 401, ""},
	} {
		x := request()
		if c.field != "" {
			x.Request.Header.Add(c.field, c.value)
		}
		x.Request.RawQuery = c.query
		if g.run(x); x.Response.Status != c.want || x.User != c.user {
			t.Errorf("%s: got %d as %q, want %d as %q", c.name, x.Response.Status, x.User, c.want, c.user)
		}
	}
}

// shown returns the state of a connection by which a certificate was shown.
func shown(t testing.TB, name string, uris ...string) *tls.ConnectionState {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{`A "B", C`}}, NotAfter: time.Now().Add(time.Hour)}
	for _, u := range uris {
		c.URIs = append(c.URIs, must(url.Parse(u)))
	}
	leaf := must(x509.ParseCertificate(must(x509.CreateCertificate(rand.Reader, c, c, &ecKey.PublicKey, ecKey))))
	return &tls.ConnectionState{ServerName: "shop.example.com", PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
}

func TestClientCertificates(t *testing.T) {
	g := newGate(t, `{"mtls": {"identities": ["spiffe://example.org/shop/*", "till"]}}`)
	for _, c := range []struct {
		identity string
		want     int
	}{{"spiffe://example.org/shop/cart", 200}, {"till", 200}, {"till2", 403}, {"spiffe://example.org/bank", 403}, {"", 401}} {
		x := request()
		x.Client = &filter.Client{Remote: client.Remote, Identity: c.identity}
		if g.run(x); x.Response.Status != c.want || c.want == 200 && x.User != c.identity {
			t.Errorf("%q: got %d as %q, want %d", c.identity, x.Response.Status, x.User, c.want)
		}
	}
}

func TestServicesLearnWhoseCertificateWasShown(t *testing.T) {
	g := newGate(t, `{"mtls": {}}`)
	state := shown(t, "till", "spiffe://example.org/till", "https://example.org/a,b")
	for range 2 { // made, and remembered
		x := request("X-Forwarded-Client-Cert", "Hash=1")
		x.Client = &filter.Client{Remote: client.Remote, Identity: "spiffe://example.org/till", TLS: state}
		g.run(x)
		want := `By=edge-1;Hash=` + sum(state.PeerCertificates[0].Raw) + `;Subject="CN=till,O=A \\\"B\\\"\\, C";URI=spiffe://example.org/till;URI="https://example.org/a,b"`
		if got := x.Request.Header.Get("X-Forwarded-Client-Cert"); got != want || x.Request.Header.Count("X-Forwarded-Client-Cert") != 1 {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

func TestAConnectionWithACertificateIsForItsHostAlone(t *testing.T) {
	g := newGate(t, `{"mtls": {}}`)
	state := shown(t, "till")
	for _, c := range []struct {
		host, sni string
		want      int
	}{{"shop.example.com", "shop.example.com", 200}, {"SHOP.example.com:8443", "shop.example.com", 200}, {"bank.example.com", "shop.example.com", 421}, {"shop.example.com", "", 200}} {
		s := *state
		s.ServerName = c.sni
		x := request()
		x.Request.Host = c.host
		x.Client = &filter.Client{Remote: client.Remote, Identity: "till", TLS: &s}
		if g.run(x); x.Response.Status != c.want {
			t.Errorf("%s by a connection for %q: got %d, want %d", c.host, c.sni, x.Response.Status, c.want)
		}
	}
	x := request()
	x.Request.Host = "bank.example.com"
	x.Client = &filter.Client{Remote: client.Remote, TLS: &tls.ConnectionState{ServerName: "shop.example.com"}}
	if g.run(x); x.Response.Status == 421 {
		t.Error("a connection without a client certificate was refused for another host; HTTP/2 clients share connections")
	}
}

func TestAServiceDecides(t *testing.T) {
	var got http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		switch r.Header.Get("Authorization") {
		case "yes":
			w.Header().Set("X-Role", "admin")
			w.Header().Set("X-Secret", "not listed")
			w.Header().Set("X-Forwarded-User", "ana")
			w.WriteHeader(204)
		case "login":
			w.Header().Set("Location", "/login?next=/cart")
			w.Header().Set("Set-Cookie", "a=b")
			w.WriteHeader(302)
		default:
			w.Header().Set("X-Why", "no")
			w.WriteHeader(403)
			io.WriteString(w, "not you")
		}
	}))
	defer s.Close()
	g := newGate(t, `{"forwardAuth": {"url": "`+s.URL+`/check", "responseHeaders": ["x-role", "X-None"]}}`)
	x := request("Authorization", "yes", "X-Role", "root", "X-None", "1", "X-Forwarded-Uri", "/evil", "Connection", "x", "X-Mine", "1")
	x.Request.Method = "POST"
	g.run(x)
	h := &x.Request.Header
	if x.Response.Status != 200 || x.User != "ana" || h.Get("X-Role") != "admin" || h.Count("X-Role") != 1 || h.Has("X-None") || h.Has("X-Secret") || h.Get("X-Forwarded-User") != "ana" {
		t.Errorf("allowed: got %d as %q with %v", x.Response.Status, x.User, h.Fields())
	}
	for name, want := range map[string]string{"X-Forwarded-Method": "POST", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "shop.example.com",
		"X-Forwarded-Uri": "/cart?a=b", "X-Forwarded-For": "192.0.2.1", "X-Mine": "1", "Connection": ""} {
		if v := got.Get(name); v != want {
			t.Errorf("the service is told %s: %q, want %q", name, v, want)
		}
	}
	x = g.run(request("Authorization", "login"))
	if x.Response.Status != 302 || x.Response.Header.Get("Location") != "/login?next=/cart" || x.Response.Header.Get("Set-Cookie") != "a=b" {
		t.Errorf("a redirect: got %d %v, want it passed on", x.Response.Status, x.Response.Header.Fields())
	}
	x = g.run(request())
	if b := body(x); x.Response.Status != 403 || b != "not you" || x.Response.Header.Get("X-Why") != "no" || g.asked.Load() != 1 {
		t.Errorf("refused: got %d %q %v with %d origins asked, want the service's answer and 1", x.Response.Status, b, x.Response.Header.Fields(), g.asked.Load())
	}
}

func TestWhatOnlyTheServiceMaySetIsTakenOutWhoeverAccepts(t *testing.T) {
	g := newGate(t, `{"apiKey": {"keys": {"batch": "`+sum([]byte("k"))+`"}}, "forwardAuth": {"url": "http://127.0.0.1:1/", "responseHeaders": ["X-Role"]}}`)
	x := g.run(request("X-API-Key", "k", "X-Role", "root"))
	if x.Response.Status != 200 || x.Request.Header.Has("X-Role") {
		t.Errorf("got %d with X-Role %q, want 200 without", x.Response.Status, x.Request.Header.Get("X-Role"))
	}
}

func TestAServiceMayBeAnApp(t *testing.T) {
	var asked string
	a := New(Config{Meter: meter.New(nil), Apps: transport(func(r *http.Request) (*http.Response, error) {
		asked = r.URL.String()
		return &http.Response{StatusCode: 200, Body: http.NoBody, Header: http.Header{}}, nil
	})})
	defer a.Close()
	fs, err := a.Route(json.RawMessage(`{"forwardAuth": {"url": "vip://gatekeeper/check?x=1"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := fs[0].Apply(request()); err != nil || asked != "http://gatekeeper/check?x=1" {
		t.Errorf("asked %q (%v), want the app", asked, err)
	}
}

func TestAServiceThatChangesProtocolsDecidesNothing(t *testing.T) {
	a := New(Config{Meter: meter.New(nil), Apps: transport(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusSwitchingProtocols, Body: http.NoBody, Header: http.Header{}}, nil
	})})
	defer a.Close()
	fs, err := a.Route(json.RawMessage(`{"forwardAuth": {"url": "vip://gatekeeper/check"}}`))
	if err != nil {
		t.Fatal(err)
	}
	x := request()
	if e, ok := errors.AsType[*filter.Error](fs[0].Apply(x)); !ok || e.Status != http.StatusServiceUnavailable {
		t.Errorf("a service that answers 101: got %v and %d, want 503", e, x.Response.Status)
	}
}

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func TestDocumentsWithMistakesAreRefusedWithASentence(t *testing.T) {
	a := New(Config{Meter: meter.New(nil)})
	defer a.Close()
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	for text, says := range map[string]string{
		``:                            "no document",
		`{}`:                          "names no method",
		`{"jwt":{}}`:                  "give the keys",
		`{"jwt":{"jwks":"ftp://x/"}}`: "no address",
		`{"jwt":{"jwks":"https://a/","keys":` + publicSet + `}}`:                   "one source",
		`{"jwt":{"jwks":"https://a/","algorithms":["HS256"]}}`:                     "HS256 is for keys",
		`{"jwt":{"jwks":"https://a/","algorithms":["none"]}}`:                      `"none"`,
		`{"jwt":{"keys":{"keys":[]}}}`:                                             "no key",
		`{"jwt":{"keys":` + set(jwkOf("w", &weak.PublicKey)) + `}}`:                "1024 bits",
		`{"jwt":{"keys":` + set(jwkOf("w", []byte("short"))) + `}}`:                "32 at least",
		`{"jwt":{"keys":` + publicSet + `,"skew":"1h"}}`:                           "skew",
		`{"jwt":{"keys":` + publicSet + `,"claims":{"X Y":"a"}}}`:                  "no name",
		`{"oidc":{"issuer":"https://a"}}`:                                          "audience",
		`{"apiKey":{"keys":{"a":"plain"}}}`:                                        "64 hexadecimal",
		`{"apiKey":{}}`:                                                            "no keys",
		`{"basic":{"users":{"a":"plain"}}}`:                                        "bcrypt",
		`{"basic":{}}`:                                                             "no users",
		`{"forwardAuth":{"url":"vip://x/"}}`:                                       "knows no apps",
		`{"forwardAuth":{"url":"http://x/","timeout":"1h"}}`:                       "timeout",
		`{"forwardAuth":{"url":"http://x/","responseHeaders":["Content-Length"]}}`: "not the service's",
		`{"jwt":{"jwks":"https://a/"},"typo":1}`:                                   "typo",
		`{"mtls":{}}}`:                                                             "something follows",
	} {
		if _, err := a.Route(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want an error with %q", text, err, says)
		}
	}
}

func TestTheCacheForgetsWhatWasNotUsed(t *testing.T) {
	c := newCache[int](320)
	c.put("used", 1, 10)
	for i := range 10_000 {
		c.put(fmt.Sprint(i), i, 10)
		if _, ok := c.get("used", 5); !ok {
			t.Fatalf("forgotten after %d others, though it is used all the time", i)
		}
	}
	held := 0
	for i := range c.parts {
		held += len(c.parts[i].young) + len(c.parts[i].old)
	}
	if held > 330 {
		t.Errorf("%d entries are held, want 320 at most", held)
	}
	if _, ok := c.get("used", 10); ok {
		t.Error("an entry is there at the end of its time")
	}
}

func TestAKnownTokenTakesNoMemory(t *testing.T) {
	if raceEnabled {
		return // it counts what the detector does
	}
	g, x := known(t)
	if n := testing.AllocsPerRun(1000, func() { again(g, x) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func known(t testing.TB) (*checker, *filter.Exchange) {
	g := newGate(t, doc(publicSet, ""))
	bearer = "Bearer " + sign(jwt.SigningMethodRS256, "rsa", rsaKey, jwt.MapClaims{"email": "ana@example.com"})
	return g.all.Load(), request()
}

var bearer string

func again(k *checker, x *filter.Exchange) {
	x.Reset()
	x.Client = client
	x.Request.Header.Add("Authorization", bearer)
	if err := k.check(x); err != nil || x.User != "ana" {
		panic(fmt.Sprint(err, x.User))
	}
}

func BenchmarkKnownToken(b *testing.B) {
	k, x := known(b)
	b.ReportAllocs()
	for b.Loop() {
		again(k, x)
	}
}

func BenchmarkNewToken(b *testing.B) {
	k, x := known(b)
	b.ReportAllocs()
	for b.Loop() {
		k.methods[0].(*tokens).forget()
		again(k, x)
	}
}

func FuzzToken(f *testing.F) {
	f.Add(sign(jwt.SigningMethodRS256, "rsa", otherRSA, nil))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	a := New(Config{Meter: meter.New(nil)})
	k, err := a.kit.parse([]byte(doc(every, "")))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		x := request("Authorization", "Bearer "+s, "Cookie", s)
		cookie(&x.Request.Header, s)
		parameter(s, "key")
		if err := k.check(x); err == nil && !x.Answered() {
			t.Errorf("%q was let in", s)
		}
	})
}

func FuzzDocument(f *testing.F) {
	for _, s := range []string{every, `{"keys":[{"kty":"RSA","n":"AQ","e":"AQ"}]}`, `{"keys":[{"kty":"EC","crv":"P-256","x":"","y":""}]}`, `{"jwt":{"keys":` + publicSet + `}}`,
		`{"basic":{"users":{"a":"$2a$05$......................"}}}`, `{"forwardAuth":{"url":"http://[::1]/"}}`} {
		f.Add(s)
	}
	a := New(Config{Meter: meter.New(nil)})
	f.Fuzz(func(t *testing.T, s string) {
		parseKeys([]byte(s))   //nolint:errcheck // only that it ends
		a.kit.parse([]byte(s)) //nolint:errcheck // as above
	})
}
