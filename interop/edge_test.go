package interop

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// lead has the edge send everything for the host NAME.test to an app of that name with one instance, for each of
// origins, which are addresses by name, so that what is sent once arrives once.
func (r *road) lead(origins map[string]string) {
	r.t.Helper()
	type match struct {
		Hosts []string `json:"hosts"`
	}
	type backend struct {
		VIP string `json:"vip"`
	}
	type route struct {
		ID       string    `json:"id"`
		Match    match     `json:"match"`
		Backends []backend `json:"backends"`
	}
	var routes []route
	for name, addr := range origins {
		routes = append(routes, route{name, match{[]string{name + ".test"}}, []backend{{name}}})
		r.once(name, addr)
	}
	text, err := json.Marshal(routes)
	if err != nil {
		r.t.Fatal(err)
	}
	r.set("json", "edge.routes", string(text))
	for name := range origins {
		eventually(r.t, "the edge leads to "+name, func() []string {
			req, err := http.NewRequest(http.MethodGet, r.at(7000)+"/ready", nil)
			if err != nil {
				r.t.Fatal(err)
			}
			req.Host, req.Close = name+".test", true
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return []string{err.Error()}
			}
			resp.Body.Close()
			return []string{fmt.Sprint(resp.StatusCode)}
		}, "200")
	}
}

// once registers an app with one instance, whose calls are not tried again and open no circuit.
func (r *road) once(name, addr string) {
	r.t.Helper()
	r.register(name, addr)
	r.set("int", "ipc.command."+name+".retries", "0")
	r.set("bool", "hystrix.command."+name+".circuitBreaker.enabled", "false")
	for _, rule := range []string{"consecutive5xx", "consecutiveGatewayFailure", "consecutiveLocalOriginFailure"} {
		r.set("int", "ipc.command."+name+".outlier."+rule, "0")
	}
}

// register puts an instance of an app that does not renew itself into the registry for an hour.
func (r *road) register(app, addr string) {
	r.t.Helper()
	r.registerAs(app, app+"-1", addr)
}

// registerAs is register for one of several instances.
func (r *road) registerAs(app, id, addr string) {
	r.t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		r.t.Fatal(err)
	}
	body := fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":%q,"app":%q,"ipAddr":%q,"status":"UP","port":{"$":%s,"@enabled":"true"},`+
		`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"leaseInfo":{"durationInSecs":3600},"vipAddress":%q}}`,
		id, host, app, host, port, app)
	if err := send(r.t.Context(), http.MethodPost, r.at(8761)+"/eureka/apps/"+app, body, http.StatusNoContent); err != nil {
		r.t.Fatal(err)
	}
}

// set sets a property for everybody.
func (r *road) set(kind, key, value string) {
	r.t.Helper()
	if out, err := exec.Command(r.binary, "config", "set", "--api", r.at(7070), "--type", kind, "--", key, value).CombinedOutput(); err != nil {
		r.t.Fatalf("setting %s to %q: %v\n%s", key, value, err, out)
	}
}

// edgeAddr is where the edge listens for plain HTTP.
func (r *road) edgeAddr() string { return strings.TrimPrefix(r.at(7000), "http://") }

// wire stands between the edge and a server and keeps what each says to the other, connection by connection.
type wire struct {
	addr  string
	to    string
	steps atomic.Int64

	mu    sync.Mutex
	tapes []*tape
}

// tape is what was said on one connection.
type tape struct {
	mu    sync.Mutex
	up    bytes.Buffer // from the edge
	down  bytes.Buffer
	marks []mark // of up, the oldest first
}

// mark says that at was written at a time that is ordered among all connections.
type mark struct {
	at   int
	step int64
}

// newWire listens in front of a server at an address.
func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{addr: l.Addr().String(), to: to}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(c) // until both ends have gone
		}
	}()
	t.Cleanup(func() { l.Close() })
	return w
}

// carry copies one connection, and closes each side as the other does.
func (w *wire) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer out.Close()
	tp := &tape{}
	w.mu.Lock()
	w.tapes = append(w.tapes, tp)
	w.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 32<<10)
		for {
			n, err := out.Read(buf)
			if n > 0 {
				tp.mu.Lock()
				tp.down.Write(buf[:n])
				tp.mu.Unlock()
				if _, err := in.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				in.(*net.TCPConn).CloseWrite() //nolint:errcheck // it may be closed
				return
			}
		}
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			tp.mu.Lock()
			tp.marks = append(tp.marks, mark{tp.up.Len(), w.steps.Add(1)})
			tp.up.Write(buf[:n])
			tp.mu.Unlock()
			if _, err := out.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			out.(*net.TCPConn).CloseWrite() //nolint:errcheck // it may be closed
			break
		}
	}
	<-done
}

// step is when the byte at an offset of up was written.
func (tp *tape) step(at int) int64 {
	i, found := slices.BinarySearchFunc(tp.marks, at, func(m mark, at int) int { return cmp.Compare(m.at, at) })
	if !found {
		i--
	}
	return tp.marks[max(i, 0)].step
}
