package interop

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadbed/roadbed/interop/smuggle"
)

// echoHeader carries what a server understood: a smuggle.Request as JSON, its body in base64, in base64.
const echoHeader = "X-Echo"

type echoed struct {
	Method, Target, Host string
	Body                 []byte
}

// echo is net/http as a server that says what it understood.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	text, _ := json.Marshal(echoed{r.Method, r.RequestURI, r.Host, body})
	w.Header().Set(echoHeader, base64.StdEncoding.EncodeToString(text))
	w.Header().Set("Content-Length", "3")
	io.WriteString(w, "ok\n") //nolint:errcheck // the edge may be gone
})

// serveEcho starts net/http on a port and returns its address.
func serveEcho(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: echo}
	go srv.Serve(l) //nolint:errcheck // it always ends with ErrServerClosed
	t.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

// run starts a program that runs until the test ends, and waits until addr takes connections.
func run(t *testing.T, addr, name string, args ...string) *exec.Cmd {
	t.Helper()
	said := new(lockedBuffer)
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = said, said
	begin(t, cmd)
	ended := make(chan struct{})
	go func() { defer close(ended); cmd.Wait() }() //nolint:errcheck // what it said tells more
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may have ended
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%.20000s", name, said)
		}
	})
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return cmd
		}
		select {
		case <-ended:
			t.Fatalf("%s ended at once:\n%s", name, said)
		default:
		}
		if time.Since(began) > 2*patience {
			t.Fatalf("%s does not listen on %s after %v:\n%s", name, addr, 2*patience, said)
		}
	}
}

// serveNginx starts nginx before net/http, which says what nginx made of a request.
func serveNginx(t *testing.T) string {
	t.Helper()
	need(t, "nginx", "apt-get install nginx-light")
	dir, addr := t.TempDir(), freeAddr(t, "127.0.0.1")
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log stderr error;
events { worker_connections 512; }
http {
	access_log off;
	client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; proxy_buffer_size 32k; proxy_buffers 4 32k; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
	upstream app { server %[3]s; keepalive 16; }
	server {
		listen %[2]s;
		location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_pass_request_headers on; }
	}
}`, dir, addr, serveEcho(t))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, addr, "nginx", "-p", dir, "-c", conf)
	return addr
}

// serveApache starts Apache httpd before net/http, which says what httpd made of a request.
func serveApache(t *testing.T) string {
	t.Helper()
	need(t, "apache2", "apt-get install apache2-bin")
	dir, addr := t.TempDir(), freeAddr(t, "127.0.0.1")
	conf := filepath.Join(dir, "httpd.conf")
	text := fmt.Sprintf(`
ServerRoot %[1]s
PidFile %[1]s/pid
DefaultRuntimeDir %[1]s
ErrorLog /dev/stderr
Listen %[2]s
ServerName %[2]s
User nobody
Group nogroup
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
TraceEnable extended
AllowEncodedSlashes NoDecode
MaxKeepAliveRequests 0
KeepAliveTimeout 60
ProxyPreserveHost On
ProxyAddHeaders Off
ProxyPass / http://%[3]s/ nocanon
`, dir, addr, serveEcho(t))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, addr, "apache2", "-X", "-f", conf)
	return addr
}

// serveTomcat starts Tomcat.
func serveTomcat(t *testing.T) string {
	t.Helper()
	needJava(t)
	addr := freeAddr(t, "127.0.0.1")
	run(t, addr, "java/run", "edge", "Echo", strings.TrimPrefix(addr, "127.0.0.1:"))
	return addr
}

// python returns how to run Python with the packages that the tests need.
func python(t *testing.T, args ...string) []string {
	t.Helper()
	needPython(t)
	return append([]string{"PYTHONPATH=python:.", "python3"}, args...)
}

// needPython ends the test unless Python and the packages are installed.
func needPython(t *testing.T) {
	t.Helper()
	need(t, "python3", "apt-get install python3 python3-pip")
	if _, err := os.Stat("python/built"); err != nil {
		t.Fatal("Python's packages are missing; run ./interop/install.sh")
	}
}

// serveGunicorn starts gunicorn.
func serveGunicorn(t *testing.T) string {
	t.Helper()
	addr := freeAddr(t, "127.0.0.1")
	run(t, addr, "env", python(t, "-B", "-m", "gunicorn", "--bind", addr, "--worker-class", "gthread", "--threads", "8", "--keep-alive", "60", "echo:app")...)
	return addr
}

// serveNode starts Node.
func serveNode(t *testing.T) string {
	t.Helper()
	need(t, "node", "apt-get install nodejs")
	addr := freeAddr(t, "127.0.0.1")
	run(t, addr, "node", "echo.js", strings.TrimPrefix(addr, "127.0.0.1:"))
	return addr
}

// what reached a server, by case
type seenBy map[string][]smuggle.Seen

var caseID = regexp.MustCompile(`c\d{4}\b`)

// whose finds the case that bytes are of.
func whose(s string) string {
	if id := caseID.FindString(s); id != "" {
		return id
	}
	return "none"
}

// seen reads the tapes. wrong are those things that no sound proxy writes, and answers to no request, by case.
func (w *wire) seen() (all seenBy, wrong map[string][]string) {
	all, wrong = make(seenBy), make(map[string][]string)
	type at struct {
		step int64
		id   string
		seen smuggle.Seen
	}
	var list []at
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, tp := range w.tapes {
		tp.mu.Lock()
		up, down := tp.up.String(), bufio.NewReader(strings.NewReader(tp.down.String()))
		requests, rest, err := smuggle.Parse(up)
		if err != nil {
			wrong[whose(rest)] = append(wrong[whose(rest)], "the edge wrote to the server: "+err.Error())
		}
		offset := 0
		for _, m := range requests {
			s := smuggle.Seen{Message: m}
			resp, echo := answer(down, m.Method)
			if resp != nil {
				s.Status, s.Echo = resp.StatusCode, echo
			}
			list = append(list, at{tp.step(offset + strings.Index(up[offset:], m.Target)), whose(m.Target), s})
			offset += strings.Index(up[offset:], m.Target) + len(m.Target)
		}
		for {
			resp, echo := answer(down, http.MethodGet)
			if resp == nil {
				break
			}
			// That of a request which broke off is the server's own affair: gunicorn hands them to its application.
			if echo != nil && !strings.HasPrefix(rest, echo.Method+" "+echo.Target+" ") {
				wrong[whose(echo.Target)] = append(wrong[whose(echo.Target)], "the server understood what is no request as "+echo.String())
			}
		}
		tp.mu.Unlock()
	}
	slices.SortStableFunc(list, func(a, b at) int { return cmp.Compare(a.step, b.step) })
	for _, l := range list {
		all[l.id] = append(all[l.id], l.seen)
	}
	return all, wrong
}

// answer reads the next answer that is no informational one, and what the server says in it that it understood.
func answer(from *bufio.Reader, method string) (*http.Response, *smuggle.Request) {
	for {
		resp, err := http.ReadResponse(from, &http.Request{Method: method})
		if err != nil {
			return nil, nil
		}
		if resp.StatusCode < 200 {
			continue
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return nil, nil
		}
		text, err := base64.StdEncoding.DecodeString(resp.Header.Get(echoHeader))
		var e echoed
		if err != nil || json.Unmarshal(text, &e) != nil {
			return resp, nil
		}
		return resp, &smuggle.Request{Method: e.Method, Target: e.Target, Host: e.Host, Body: string(e.Body)}
	}
}

// commit sends a case and reads what comes back until the connection ends, or for at most limit.
func commit(t *testing.T, addr string, c *smuggle.Case, limit time.Duration) (o smuggle.Outcome) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(limit)) //nolint:errcheck // it never fails on a new connection
	go func() {
		io.WriteString(conn, c.Raw) //nolint:errcheck // who refuses need not read it all
		if c.Cut {
			conn.(*net.TCPConn).CloseWrite() //nolint:errcheck // it may be closed
		}
	}()
	all, err := io.ReadAll(conn)
	timeout, isNet := err.(net.Error)
	o.Closed = err == nil || !isNet || !timeout.Timeout()
	from := bufio.NewReader(strings.NewReader(string(all)))
	for i := 0; ; i++ {
		method := http.MethodGet
		if i < len(c.Reads) {
			method = c.Reads[i].Method
		}
		resp, _ := answer(from, method)
		if resp == nil {
			return o
		}
		o.Statuses = append(o.Statuses, resp.StatusCode)
		if resp.Close && resp.StatusCode >= 400 {
			return o // what may follow is the body of an answer to a HEAD that nobody understood
		}
	}
}

// TestNoRequestIsReadDifferentlyBehindTheEdge sends every case of the corpus through the edge to each server.
func TestNoRequestIsReadDifferentlyBehindTheEdge(t *testing.T) {
	servers := map[string]string{"nethttp": serveEcho(t), "nginx": serveNginx(t), "apache": serveApache(t), "node": serveNode(t), "gunicorn": serveGunicorn(t), "tomcat": serveTomcat(t)}
	r := newRoad(t)
	wires, at := make(map[string]*wire), make(map[string]string)
	for name, addr := range servers {
		wires[name] = newWire(t, addr)
		at[name] = wires[name].addr
	}
	r.lead(at)
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			judgeAll(t, r.edgeAddr(), name+".test", wires[name])
		})
	}
}

// judgeAll sends the corpus to an edge that leads to the server behind w, and says what is wrong.
func judgeAll(t *testing.T, edge, host string, w *wire) {
	began := time.Now()
	wrong, n := judged(t, edge, host, w, patience)
	for _, what := range wrong {
		t.Error(what)
	}
	t.Logf("%d cases in %v: %d refused by the edge, %d received as they are; the server declined %d requests that it received", n.cases, time.Since(began).Round(time.Millisecond), n.refused, n.received, n.declined)
	if n.received < 100 || n.refused < 400 {
		t.Errorf("%d cases reached the server and %d were refused, so that little was tried", n.received, n.refused)
	}
}

type tally struct{ cases, refused, received, declined int }

func judged(t *testing.T, edge, host string, w *wire, limit time.Duration) (wrong []string, n tally) {
	cases := smuggle.Requests(host)
	outcomes := make([]smuggle.Outcome, len(cases))
	next := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range next {
				outcomes[i] = commit(t, edge, &cases[i], limit)
			}
		})
	}
	for i := range cases {
		next <- i
	}
	close(next)
	wg.Wait()
	seen, unsound := w.seen()
	n.cases = len(cases)
	for i := range cases {
		c, o := &cases[i], outcomes[i]
		o.Seen = seen[c.ID]
		what := unsound[c.ID]
		if err := c.JudgeStrictly(o); err != nil {
			what = append(what, err.Error())
		}
		if len(what) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s %s: %s\nsent: %.600q\ngot: %v, and the server %v", c.ID, c.Name, strings.Join(what, "\n"), c.Raw, o.Statuses, requestsOf(o.Seen)))
		}
		if len(o.Seen) == 0 {
			n.refused++
		} else {
			n.received++
			for _, s := range o.Seen {
				if s.Echo == nil {
					n.declined++
				}
			}
		}
	}
	for _, what := range unsound["none"] {
		wrong = append(wrong, "of no case: "+what)
	}
	return wrong, n
}

func requestsOf(all []smuggle.Seen) (out []string) {
	for _, s := range all {
		out = append(out, fmt.Sprintf("%s, answered %d", s.Request, s.Status))
	}
	return out
}

// TestWhoeverCopiesBytesIsFoundOut holds a proxy that passes on whatever comes against the corpus.
func TestWhoeverCopiesBytesIsFoundOut(t *testing.T) {
	w := newWire(t, serveNginx(t))
	wrong, n := judged(t, w.addr, "nginx.test", w, 5*time.Second) // nginx waits for the rest of some for longer
	if len(wrong) < n.cases/3 {
		t.Errorf("of %d cases that reached a server as they are, %d were found to be wrong, want a third and more", n.cases, len(wrong))
	}
	t.Logf("%d of %d cases were found to be wrong", len(wrong), n.cases)
}
