package edge

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/api/porttest"
	"github.com/roadbed/roadbed/platform/edge/filter"
	"github.com/roadbed/roadbed/platform/edge/region"
)

// world is the gateways of several regions, each with the app hello, which says where it is and whom it sees.
type world struct {
	t       testing.TB
	regions map[string]*house
	docs    map[string]region.RegionDocument
}

func newWorld(t testing.TB, override map[string]string, names ...string) *world {
	t.Helper()
	w := &world{t: t, regions: map[string]*house{}, docs: map[string]region.RegionDocument{}}
	override = unhurried(override)
	override["edge.regions.key"] = "a key for tests, thirty-two long"
	for _, name := range names {
		h := newHouseIn(t, name, config.New(config.Options{Override: override}), map[string]http.Handler{"hello": inRegion(name)})
		w.regions[name] = h
		w.docs[name] = region.RegionDocument{State: region.Serving, Edges: []string{h.front.URL}}
	}
	w.set()
	return w
}

// held is closed when regions may answer what they are to hold.
var held atomic.Pointer[chan struct{}]

// busy counts how often an app was asked for what it answers with 503.
var busy atomic.Int64

// inRegion answers where it is, and what it was asked; and /echo as what it was told after an upgrade.
func inRegion(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Served-In", name)
		switch {
		case r.Header.Get("Upgrade") != "":
			c, buf, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Served-In: %s\r\n\r\n", r.Header.Get("Upgrade"), name)
			io.Copy(c, buf) //nolint:errcheck // a test's
		case strings.HasSuffix(r.URL.Path, "/busy"):
			busy.Add(1)
			http.Error(w, "as asked", http.StatusServiceUnavailable)
			return
		case strings.HasSuffix(r.URL.Path, "/held/"+name):
			if release := held.Load(); release != nil {
				<-*release
			}
		}
		body, _ := io.ReadAll(r.Body)
		json.NewEncoder(w).Encode(map[string]any{"method": r.Method, "uri": r.RequestURI, "host": r.Host, "body": string(body), "header": r.Header}) //nolint:errcheck // a test's
	})
}

// set has all regions take the documents as they are now.
func (w *world) set() {
	all := map[string]string{}
	for name, d := range w.docs {
		all[region.Prefix+name] = d.Text()
	}
	for _, h := range w.regions {
		h.setRegions(all)
	}
}

func evacuated(to map[string]int, edges ...string) region.RegionDocument {
	return region.RegionDocument{State: region.Evacuated, To: to, Edges: edges}
}

// echo is what the app hello was asked.
type echo struct {
	Method, URI, Host, Body string
	Header                  http.Header
}

func echoed(t testing.TB, body string) (e echo) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &e); err != nil {
		t.Fatalf("the answer was %q: %v", body, err)
	}
	return e
}

func TestAnEvacuatedRegionsUsersAreServedElsewhere(t *testing.T) {
	w := newWorld(t, nil, "east", "west")
	east := w.regions["east"]
	if resp, _ := east.get(t, "/hello/a?b=c"); resp.Header.Get("X-Served-In") != "east" {
		t.Fatalf("while all serve: served in %q, want east", resp.Header.Get("X-Served-In"))
	}
	w.docs["east"] = evacuated(map[string]int{"west": 100}, east.front.URL)
	w.set()
	resp, body := east.get(t, "/hello/a%2Fb?c=d", "X-Member", "ana", "X-Forwarded-For", "203.0.113.9", "X-Edge-Hop", "forged", "Accept-Encoding", "identity")
	if resp.StatusCode != 200 || resp.Header.Get("X-Served-In") != "west" {
		t.Fatalf("evacuated: got %d, served in %q; want 200 in west", resp.StatusCode, resp.Header.Get("X-Served-In"))
	}
	e := echoed(t, body)
	host := strings.TrimPrefix(east.front.URL, "http://")
	if e.URI != "/a%2Fb?c=d" || e.Host != host {
		t.Errorf("west's app was asked for %s of %s, want /a%%2Fb?c=d of %s as the client asked", e.URI, e.Host, host)
	}
	for name, want := range map[string]string{
		"X-Forwarded-For": "127.0.0.1, 127.0.0.1", "X-Forwarded-Host": host, "X-Forwarded-Proto": "http", "X-Member": "ana", "X-Forwarded-Prefix": "/hello",
		"X-Edge-Hop": "", "Via": "1.1 roadbed-edge,1.1 roadbed-edge",
	} {
		if got := strings.Join(e.Header.Values(name), ","); got != want {
			t.Errorf("west's app sees %s %q, want %q", name, got, want)
		}
	}
	if n := len(resp.Header.Values("X-Request-Id")); n != 1 {
		t.Errorf("the answer has %d request ids, want 1", n)
	}
	// What is not there here may be there.
	if resp, body := east.get(t, "/nowhere/"); resp.StatusCode != 404 || !strings.Contains(body, "no route leads to /nowhere/") {
		t.Errorf("a route that nobody has: got %d %q, want west's 404", resp.StatusCode, body)
	}
}

func TestBodiesAndUpgradesGoThroughTheTunnel(t *testing.T) {
	w := newWorld(t, nil, "east", "west")
	w.docs["east"] = evacuated(map[string]int{"west": 100})
	w.set()
	front := w.regions["east"].front
	body := strings.Repeat("0123456789", 50_000)
	resp, err := front.Client().Post(front.URL+"/hello/", "text/plain", io.NopCloser(strings.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.Header.Get("X-Served-In") != "west" || echoed(t, string(got)).Body != body {
		t.Errorf("POST of %d bytes: served in %q, err %v, got %d bytes of an answer; want them all back from west", len(body), resp.Header.Get("X-Served-In"), err, len(got))
	}

	c, err := net.Dial("tcp", front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second)) //nolint:errcheck // it can be set
	fmt.Fprintf(c, "GET /hello/echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
	r := bufio.NewReader(c)
	up, err := http.ReadResponse(r, nil)
	if err != nil || up.StatusCode != 101 || up.Header.Get("X-Served-In") != "west" {
		t.Fatalf("upgrade: got %v %v, want 101 of west", up, err)
	}
	fmt.Fprint(c, "hello\n")
	if line, err := r.ReadString('\n'); line != "hello\n" {
		t.Errorf("through the tunnel: got %q %v, want hello back", line, err)
	}
}

func TestWhatCannotBeReachedIsServedHere(t *testing.T) {
	w := newWorld(t, nil, "east", "west")
	east := w.regions["east"]
	w.docs["east"] = evacuated(map[string]int{"west": 100})
	w.docs["west"] = region.RegionDocument{State: region.Serving, Edges: []string{"http://" + porttest.Hold(t)}}
	w.set()
	for _, method := range []string{"GET", "POST", "PUT", "GET", "DELETE", "POST", "PATCH"} {
		req, _ := http.NewRequest(method, east.front.URL+"/hello/x", strings.NewReader("some body"))
		resp, err := east.front.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("X-Served-In") != "east" {
			t.Errorf("%s while nobody is in west: got %d in %q, want 200 in east", method, resp.StatusCode, resp.Header.Get("X-Served-In"))
			continue
		}
		e := echoed(t, string(body))
		if e.Method != method || e.URI != "/x" || e.Body != "some body" || e.Header.Get("X-Edge-Hop") != "" || len(e.Header.Values("Via")) != 1 || e.Header.Get("X-Forwarded-Prefix") != "/hello" {
			t.Errorf("%s: the app was asked %+v; want the request as it came", method, e)
		}
	}
	d := w.docs["east"]
	d.Strict = true
	w.docs["east"] = d
	w.set()
	if resp, body := east.get(t, "/hello/x"); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "another region, which cannot be reached") {
		t.Errorf("strict: got %d %q, Retry-After %q; want 503, a reason, and when to try again", resp.StatusCode, body, resp.Header.Get("Retry-After"))
	}
}

func TestARequestThatBrokeIsServedHereIfItMayBeSentTwice(t *testing.T) {
	breaks, err := net.Listen("tcp", "127.0.0.1:0") // takes a request, and dies of it
	if err != nil {
		t.Fatal(err)
	}
	defer breaks.Close()
	go func() {
		for {
			c, err := breaks.Accept()
			if err != nil {
				return
			}
			http.ReadRequest(bufio.NewReader(c)) //nolint:errcheck // whatever it was
			c.Close()
		}
	}()
	w := newWorld(t, nil, "east", "west")
	w.docs["east"] = evacuated(map[string]int{"west": 100})
	w.docs["west"] = region.RegionDocument{State: region.Serving, Edges: []string{"http://" + breaks.Addr().String()}}
	w.set()
	east := w.regions["east"]
	if resp, _ := east.get(t, "/hello/x"); resp.StatusCode != 200 || resp.Header.Get("X-Served-In") != "east" {
		t.Errorf("GET: got %d in %q, want 200 in east", resp.StatusCode, resp.Header.Get("X-Served-In"))
	}
	resp, err := east.front.Client().Post(east.front.URL+"/hello/x", "text/plain", strings.NewReader("once"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 504 {
		t.Errorf("POST, which west may have done: got %d, want 504", resp.StatusCode)
	}
}

func TestVisitorsBeyondTheHeadroomAreServedAtHome(t *testing.T) {
	w := newWorld(t, nil, "east", "west")
	const headroom, visitors = 4, 40
	w.docs["east"] = evacuated(map[string]int{"west": 100})
	d := w.docs["west"]
	d.Headroom = headroom
	w.docs["west"] = d
	w.set()
	release := make(chan struct{})
	held.Store(&release)
	defer held.Store(nil)
	answers := make(chan string, visitors)
	for range visitors {
		go func() {
			resp, err := http.Get(w.regions["east"].front.URL + "/hello/held/west")
			if err != nil {
				answers <- err.Error()
				return
			}
			defer resp.Body.Close()
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
				answers <- fmt.Sprint(resp.Status, " ", err)
				return
			}
			answers <- resp.Header.Get("X-Served-In")
		}()
	}
	// While west holds as many as it has room for, at most, all others are answered, at home.
	for i := range visitors - headroom {
		if at := <-answers; at != "east" {
			t.Errorf("answer %d while west is full: got %s, want east's", i, at)
		}
	}
	close(release)
	west := 0
	for range headroom {
		switch at := <-answers; at {
		case "west":
			west++
		case "east": // refused just before there was room
		default:
			t.Errorf("one of the last: got %s, want an answer", at)
		}
	}
	if west == 0 {
		t.Errorf("of %d at once, all were served in east; want a few in west, which has room for %d", visitors, headroom)
	}
	// West's own users have nothing to do with its headroom.
	if resp, _ := w.regions["west"].get(t, "/hello/"); resp.StatusCode != 200 {
		t.Errorf("west's own user: got %d, want 200", resp.StatusCode)
	}
}

// TestAnEvacuationUnderLoadFailsNobody moves two hundred users of one region to two others, who all come again at each tenth
// of the ramp, while it goes on.
func TestAnEvacuationUnderLoadFailsNobody(t *testing.T) {
	w := newWorld(t, nil, "east", "west", "north")
	const users, tenths = 200, 10
	seconds := 24 * 3600 // so that nobody moves meanwhile
	at := func(tenth int) {
		w.docs["east"] = region.RegionDocument{State: region.Draining, To: map[string]int{"west": 60, "north": 40}, RampSeconds: &seconds, Edges: w.docs["east"].Edges,
			Since: time.Now().Add(-24 * time.Hour * time.Duration(tenth) / tenths)}
		w.set()
	}
	var where [tenths + 1][users]string
	var failed atomic.Int64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	visit := func(user int) string {
		req, _ := http.NewRequest("GET", w.regions["east"].front.URL+"/hello/", nil)
		req.Header.Set("X-Member", fmt.Sprint("user-", user))
		resp, err := client.Do(req)
		if err != nil {
			failed.Add(1)
			return ""
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
			failed.Add(1)
		}
		return resp.Header.Get("X-Served-In")
	}
	for tenth := range tenths + 1 {
		var wg sync.WaitGroup
		for part := range 4 {
			wg.Go(func() {
				for i := part; i < users; i += 4 {
					visit(i) // while shares change
				}
			})
		}
		at(tenth)
		wg.Wait()
		for part := range 4 {
			wg.Go(func() {
				for i := part; i < users; i += 4 {
					where[tenth][i] = visit(i)
				}
			})
		}
		wg.Wait()
	}
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of %d requests failed, want none", n, 2*(tenths+1)*users)
	}
	half, to := 0, map[string]int{}
	for i := range users {
		moves := 0
		for k := 1; k <= tenths; k++ {
			if where[k][i] != where[k-1][i] {
				moves++
			}
		}
		if moves != 1 || where[0][i] != "east" {
			t.Errorf("user %d was served in %s first and moved %d times; want in east, and once", i, where[0][i], moves)
		}
		if where[tenths/2][i] != "east" {
			half++
		}
		to[where[tenths][i]]++
	}
	if half < users*3/8 || half > users*5/8 {
		t.Errorf("%d of %d users had moved after half of the ramp, want about half", half, users)
	}
	if to["east"] != 0 || to["west"] < users*45/100 || to["west"] > users*75/100 {
		t.Errorf("they went %v, want 60 %% to west and nobody in east", to)
	}
}

func TestWithoutRegionsNoRequestMeetsTheirFilters(t *testing.T) {
	w := newWorld(t, nil, "east")
	has := func() (n int) {
		s := api.New("test", "1")
		w.regions["east"].Mount(s)
		for _, f := range ask[[]filter.Standing](t, s, "/api/v1/edge/filters") {
			if f.Name == "Hop" || f.Name == "Visitors" || f.Name == "Region" || f.Name == "Tunnel" || f.Name == "RegionNoted" {
				n++
			}
		}
		return n
	}
	if n := has(); n != 5 {
		t.Errorf("with a region: %d filters of regions, want 5", n)
	}
	delete(w.docs, "east")
	w.set()
	if n := has(); n != 0 {
		t.Errorf("without: %d filters of regions, want none", n)
	}
	if resp, _ := w.regions["east"].get(t, "/hello/", "X-Edge-Hop", "east"); resp.StatusCode != 200 {
		t.Errorf("without: got %d, want 200", resp.StatusCode)
	}
}

func TestGRPCGoesThroughTheTunnel(t *testing.T) {
	app := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if r.ProtoMajor != 2 || err != nil {
			http.Error(w, fmt.Sprint("over ", r.Proto, ": ", err), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
		w.Header().Set("X-Path", r.URL.Path)
		w.Write(b) //nolint:errcheck // a test's
		w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", "of west")
	}))
	app.Config.Protocols = new(http.Protocols)
	app.Config.Protocols.SetUnencryptedHTTP2(true)
	app.Start()
	defer app.Close()
	w := newWorld(t, nil, "east", "west")
	w.regions["west"].route(fmt.Sprintf("[{id: grpc, match: {path: {prefix: /shop.Cart}}, backends: [{addr: %q}]}]", app.Listener.Addr()))
	west := open(t, w.regions["west"].Gateway)
	w.docs["east"] = evacuated(map[string]int{"west": 100})
	w.docs["west"] = region.RegionDocument{State: region.Serving, Edges: []string{"http://" + west}}
	w.set()
	east := open(t, w.regions["east"].Gateway)
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	ask := func(kind, body string) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequest("POST", "http://"+east+"/shop.Cart/Add", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", kind)
		req.Header.Set("TE", "trailers")
		resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(b)
	}
	frame := "\x00\x00\x00\x00\x02hi"
	resp, body := ask("application/grpc+proto", frame)
	if resp.StatusCode != 200 || body != frame || resp.Header.Get("X-Path") != "/shop.Cart/Add" || resp.Trailer.Get("Grpc-Status") != "0" || resp.Trailer.Get("Grpc-Message") != "of west" {
		t.Errorf("gRPC: got %d %q, header %v, trailers %v; want the frame back, and west's status", resp.StatusCode, body, resp.Header, resp.Trailer)
	}
	resp, body = ask("application/grpc-web+proto", frame) // which west translates, and not both
	if resp.StatusCode != 200 || !strings.HasPrefix(body, frame+"\x80") || !strings.Contains(strings.ToLower(body), "grpc-message: of west") || resp.Header.Get("Content-Type") != "application/grpc-web+proto" {
		t.Errorf("gRPC-Web: got %d %q, header %v; want the frame back, and the trailers as another", resp.StatusCode, body, resp.Header)
	}
}

// open has a door of g serve, until the test ends, and returns its address.
func open(t *testing.T, g *Gateway) string {
	t.Helper()
	d, err := g.Door(DoorConfig{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	g.begun.Do(func() { close(g.ready) }) // as Run does
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func TestAttemptsDoNotMultiplyAcrossRegions(t *testing.T) {
	w := newWorld(t, nil, "east", "west")
	attempts := func(region string) int64 {
		t.Helper()
		before := busy.Load()
		if resp, _ := w.regions[region].get(t, "/hello/busy"); resp.StatusCode != 503 || resp.Header.Get("X-Served-In") != "west" {
			t.Errorf("asked in %s: got %d of %q, want west's 503", region, resp.StatusCode, resp.Header.Get("X-Served-In"))
		}
		return busy.Load() - before
	}
	there := attempts("west")
	w.docs["east"] = evacuated(map[string]int{"west": 100})
	w.set()
	if n := attempts("east"); there == 0 || n > there {
		t.Errorf("what west tries %d times by itself, it is made to try %d times by east", there, n)
	}
}

// The other region's edge finds out who asks, and so it must see who has logged in, and its services must not.
func TestALoginsCookieReachesTheOtherRegionsEdgeAndNoService(t *testing.T) {
	got := make(chan []string, 1)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case got <- r.Header["Cookie"]:
		default:
		}
	}))
	defer other.Close()
	const cookie = "theme=dark; __Host-roadbed_session=roadbed.1.abc"
	w := newWorld(t, map[string]string{"edge.auth": `{"login": {"issuer": "https://login.example.com", "clientId": "shop"}, "optional": true}`}, "east", "west")
	_, body := w.regions["east"].get(t, "/hello/", "Cookie", cookie)
	if c := echoed(t, body).Header["Cookie"]; len(c) != 1 || c[0] != "theme=dark" {
		t.Errorf("a service here gets %q, want theme=dark alone", c)
	}
	w.docs["east"] = evacuated(map[string]int{"west": 100}, w.docs["east"].Edges...)
	w.set()
	for in := ""; in != "west"; { // or here, while west cannot be reached in time
		var resp *http.Response
		resp, body = w.regions["east"].get(t, "/hello/", "Cookie", cookie)
		in = resp.Header.Get("X-Served-In")
		if c := echoed(t, body).Header["Cookie"]; len(c) != 1 || c[0] != "theme=dark" {
			t.Errorf("a service in %s gets %q, want theme=dark alone", in, c)
		}
	}
	w.docs["west"] = region.RegionDocument{State: region.Serving, Edges: []string{other.URL}}
	w.set()
	for len(got) == 0 {
		w.regions["east"].get(t, "/hello/", "Cookie", cookie)
	}
	if c := <-got; len(c) != 1 || c[0] != cookie {
		t.Errorf("the other region's edge gets %q, want all of %q", c, cookie)
	}
}
