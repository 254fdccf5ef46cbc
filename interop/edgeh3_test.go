package interop

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mccutchen/go-httpbin/v2/httpbin"
)

// serveBinAndRaw starts go-httpbin, and beside it /raw, which returns what it is sent, and /slow, which never ends by itself.
// slow is how many of these there are.
func serveBinAndRaw(t *testing.T) (addr string, slow *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", httpbin.New())
	mux.HandleFunc("/raw", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex() //nolint:errcheck // HTTP/1.1 has it
		io.Copy(w, r.Body)                               //nolint:errcheck // the client counts
	})
	slow = new(atomic.Int64)
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		slow.Add(1)
		defer slow.Add(-1)
		for r.Context().Err() == nil {
			io.WriteString(w, "slow\n")           //nolint:errcheck // ends with the request
			http.NewResponseController(w).Flush() //nolint:errcheck // as above
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})
	srv := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)} // go-httpbin panics when a client goes
	go srv.Serve(l)                                                         //nolint:errcheck // it always ends with ErrServerClosed
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String(), slow
}

// TestHTTP3ClientsAreServedAndStrangeOnesHoldNothingUp has aioquic ask in ways that clients do, good and bad ones.
func TestHTTP3ClientsAreServedAndStrangeOnesHoldNothingUp(t *testing.T) {
	r := newRoad(t, "--edge-tls-port", "7443", "--edge-http3")
	addr, slow := serveBinAndRaw(t)
	r.leadAll("httpbin", addr)
	out, err := exec.CommandContext(t.Context(), "env", append(python(t, "-B", "h3.py"), strings.TrimPrefix(r.at(7443), "http://"))...).CombinedOutput()
	if err != nil {
		t.Fatalf("h3.py: %v\n%s", err, out)
	}
	want := `["GET", [200, 1000, "915811bce2", {}], "application/octet-stream"]
["HEAD", [200, 0, "", {}]]
["POST", 200]
["trailers", {"x-t": "1"}]
["no body", [204, 0, "", {}]]
["16 MiB up and down", [200, 16777216], true]
["1 MiB without a length", [200, 1048576], true]
["ninety at once", 90]
["after two resets", [200, 10]]
["a length that is too large", 400]
["a length that is too small", "reset"]
["a space in the path", 400]
["two hosts", "reset"]
["a method that is no token", "reset"]
["at the end", [200, 10]]
["a new connection", [200, 10]]
`
	if string(out) != want {
		t.Errorf("aioquic says\n%swant\n%s", out, want)
	}
	eventually(t, "what clients gave up is given up at the origin", func() []string { return []string{fmt.Sprint(slow.Load())} }, "0")
}

// TestCurlComesByHTTP3OnceAnAnswerHasToldOfIt has curl ask by HTTP/2, and again on a new connection.
func TestCurlComesByHTTP3OnceAnAnswerHasToldOfIt(t *testing.T) {
	r := newRoad(t, "--edge-tls-port", "7443", "--edge-http3")
	origin, _ := serveBinAndRaw(t)
	r.leadAll("httpbin", origin)
	out, err := exec.CommandContext(t.Context(), "env", append(python(t, "-B", "altsvc.py"), strings.Replace(r.at(7443), "http:", "https:", 1)+"/get", filepath.Join(t.TempDir(), "known"))...).CombinedOutput()
	if want := "200 by HTTP 2\n200 by HTTP 3\n"; err != nil || string(out) != want {
		t.Errorf("curl says %q, %v; want %q", out, err, want)
	}
}

// pin is how Chromium is told of a certificate that nobody vouches for: the digest of its public key.
func pin(t *testing.T, addr string) string {
	t.Helper()
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sum := sha256.Sum256(c.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// TestABrowserSpeaksHTTP3WithTheEdge has Chromium do by HTTP/3 what pages do. It is told to: by Alt-Svc it would come only to
// a certificate that the whole world trusts.
func TestABrowserSpeaksHTTP3WithTheEdge(t *testing.T) {
	r := newRoad(t, "--edge-tls-port", "7443", "--edge-http3")
	origin, slow := serveBinAndRaw(t)
	r.leadAll("httpbin", origin)
	addr := strings.TrimPrefix(r.at(7443), "http://")
	base := "https://" + addr
	b := openBrowser(t, "--origin-to-force-quic-on="+addr, "--ignore-certificate-errors-spki-list="+pin(t, addr))
	b.open(base + "/html")
	b.eval(`
				performance.clearResourceTimings()
				window.got = {events: 0}
				const big = new Uint8Array(4 << 20).fill(7)
				fetch('/post', {method: 'POST', body: 'from a browser'}).then(r => r.json()).then(d => got.posted = d.data)
				fetch('/gzip').then(r => r.json()).then(d => got.gzipped = d.gzipped)
				fetch('/redirect/2').then(r => got.redirected = r.url)
				fetch('/raw', {method: 'POST', body: big}).then(r => r.arrayBuffer()).then(a => got.big = a.byteLength === big.length && new Uint8Array(a).every(b => b === 7))
				const events = new EventSource('/sse?count=5&duration=1&delay=0')
				for (const name of ['message', 'ping']) events.addEventListener(name, () => { if (++got.events === 5) events.close() })
				const stop = new AbortController()
				fetch('/slow', {signal: stop.signal}).then(() => { stop.abort(); return fetch('/bytes/10') }).then(r => got.after = r.status)
				true`)
	is := map[string]string{
		"a POST": `got.posted && atob(got.posted.split(',').pop()) === 'from a browser' || got.posted === 'from a browser'`, "gzip": `got.gzipped === true`, "redirects": `got.redirected === location.origin + '/get'`,
		"4 MiB": `got.big`, "a stream of events": `got.events === 5`, "an answer after one that was given up": `got.after === 200`,
	}
	for _, claim := range slices.Sorted(maps.Keys(is)) {
		b.until(claim+" came back", is[claim])
	}
	if got := b.eval(`[...new Set(performance.getEntriesByType('resource').map(e => e.nextHopProtocol))].join()`); got != "h3" {
		t.Errorf("the browser spoke %v, want h3 alone", got)
	}
	eventually(t, "what clients gave up is given up at the origin", func() []string { return []string{fmt.Sprint(slow.Load())} }, "0")
}
