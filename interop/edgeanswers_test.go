package interop

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/interop/smuggle"
)

// serveAnswers starts a server that answers /a0042/odd as the case says, and every other path with the path. It tells later
// when it has sent what comes later.
func serveAnswers(t *testing.T, all []smuggle.Answer, later chan<- struct{}) string {
	t.Helper()
	byID := make(map[string]*smuggle.Answer)
	for i := range all {
		byID[all[i].ID] = &all[i]
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerAll(c, byID, later)
		}
	}()
	return l.Addr().String()
}

func answerAll(c net.Conn, byID map[string]*smuggle.Answer, later chan<- struct{}) {
	defer c.Close()
	from := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(from)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body) //nolint:errcheck // they have none
		id, odd := strings.CutSuffix(strings.TrimPrefix(req.RequestURI, "/"), "/odd")
		a := byID[id]
		if a == nil || !odd {
			if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.RequestURI), req.RequestURI); err != nil {
				return
			}
			continue
		}
		if _, err := io.WriteString(c, a.Raw); err != nil || a.Closes {
			return
		}
		if a.Later != "" {
			time.Sleep(laterBy)
			io.WriteString(c, a.Later) //nolint:errcheck // the edge may have closed it
			later <- struct{}{}
		}
	}
}

const laterBy = 20 * time.Millisecond

// client speaks HTTP/1.1 on one connection, and on another when that has ended.
type client struct {
	addr, host string
	conn       net.Conn
	from       *bufio.Reader
}

// ask sends a request without a body, and returns the answer, and whether it is all there. Status 0 is no answer.
func (c *client) ask(method, target string) (status int, body string, whole bool) {
	if c.conn == nil {
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			return 0, err.Error(), false
		}
		c.conn, c.from = conn, bufio.NewReader(conn)
	}
	c.conn.SetDeadline(time.Now().Add(patience)) //nolint:errcheck // what follows tells
	fmt.Fprintf(c.conn, "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, target, c.host)
	var resp *http.Response
	for {
		var err error
		if resp, err = http.ReadResponse(c.from, &http.Request{Method: method}); err != nil {
			c.close()
			return 0, err.Error(), false
		}
		if resp.StatusCode >= 200 {
			break
		}
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.Close {
		c.close()
	}
	return resp.StatusCode, string(b), err == nil
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// TestNoAnswerReachesAnotherRequest has a server send what no server should, and asks for something sound after each.
func TestNoAnswerReachesAnotherRequest(t *testing.T) {
	all := smuggle.Answers()
	r := newRoad(t)
	later := make(chan struct{}, len(all))
	r.lead(map[string]string{"odd": serveAnswers(t, all, later)})
	r.set("duration", "edge.timeouts.request", "2s")
	began := time.Now()
	next := make(chan *smuggle.Answer)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for a := range next {
				try(t, r.edgeAddr(), a, later)
			}
		})
	}
	for i := range all {
		if all[i].Later == "" {
			next <- &all[i]
		}
	}
	close(next)
	wg.Wait()
	// What comes later is found on a connection that is idle by then. Whoever used it at once would have asked for it.
	for i := range all {
		if all[i].Later != "" {
			try(t, r.edgeAddr(), &all[i], later)
		}
	}
	t.Logf("%d answers in %v", len(all), time.Since(began).Round(time.Millisecond))
}

// try asks for an answer, and for something sound after it: on the same connection and another, twice each.
func try(t *testing.T, edge string, a *smuggle.Answer, later <-chan struct{}) {
	first, second := &client{addr: edge, host: "odd.test"}, &client{addr: edge, host: "odd.test"}
	defer first.close()
	defer second.close()
	ask := func(c *client, method, target string, fate smuggle.Fate) (status int, body string, whole bool) {
		for range 5 { // on a machine that stands still the server is late
			if status, body, whole = c.ask(method, target); status != http.StatusGatewayTimeout || fate != smuggle.Passes {
				break
			}
		}
		return status, body, whole
	}
	status, body, whole := ask(first, a.Method, "/"+a.ID+"/odd", a.Fate)
	if err := a.Judge(status, body, whole); err != nil {
		t.Errorf("%s %s: %v\nsent: %.300q, later %q", a.ID, a.Name, err, a.Raw, a.Later)
	}
	if a.Later != "" {
		<-later
		time.Sleep(laterBy) // the edge may look at what has come
	}
	for i, c := range []*client{first, second, first, second} {
		target := fmt.Sprintf("/%s/sound/%d", a.ID, i)
		if status, body, whole := ask(c, http.MethodGet, target, smuggle.Passes); status != 200 || body != target || !whole {
			t.Errorf("%s %s: request %d after it got %d with %.200q, want 200 with %s\nsent: %.300q, later %q", a.ID, a.Name, i+1, status, body, target, a.Raw, a.Later)
		}
	}
}
