// Package smuggle has what is sent to a proxy to make it and the server behind it disagree about where a message ends
// or what it asks for: requests by [Requests], answers by [Answers]. It also has a reader of its own, [Parse], that
// takes nothing but the one way in which a proxy may write a request, and judges by it what became of each.
//
// Each request names itself in its path, so that whatever reaches a server, in whatever shape, is known by whom it came:
// /c0042 is the request of case c0042, /c0042/smuggled one that hides in it, /c0042/probe a sound one that follows on the
// same connection.
//
// # Sources
//
// RFC 9110 and RFC 9112; the permutations of James Kettle's "HTTP Desync Attacks" (2019) and of HTTP Request Smuggler;
// the findings of the HTTP Garden; Jabiyev and others, "T-Reqs: HTTP Request Smuggling with Differential Fuzzing" (2021).
package smuggle

import (
	"fmt"
	"slices"
	"strings"
)

// Fate is what a strict proxy does to a case.
type Fate int

// The three fates. A proxy that is merely safe may refuse what passes, and pass what has a reading.
const (
	Passes Fate = iota // it is sound, however odd, and reaches the server
	Refused
	Either
)

// Request is what a server understands a request to be.
type Request struct{ Method, Target, Host, Body string }

// String returns r in one line.
func (r Request) String() string {
	body := r.Body
	if len(body) > 80 {
		body = fmt.Sprintf("%s... (%d bytes)", body[:80], len(body))
	}
	return fmt.Sprintf("%s %s of %q with %q", r.Method, r.Target, r.Host, body)
}

// Case is what a client sends on one connection.
type Case struct {
	ID, Name string
	Raw      string
	Fate     Fate
	Status   []int     // with which it is refused, if it is; any from 400 when empty
	Reads    []Request // the one way to read it, the probe included; empty when nobody may read it
	Cut      bool      // the client closes after Raw, in the midst of something
	Local    bool      // the proxy may answer it as a server does
	Gone     []string  // fields that must not reach the server
	Kept     []string  // fields that must
}

// Requests returns every case for a server named host, and a proxy that sends everything for that name there.
func Requests(host string) []Case {
	m := &maker{host: host, had: make(map[string]bool)}
	m.transferEncodings()
	m.contentLengths()
	m.lines()
	m.fields()
	m.requestLines()
	m.targets()
	m.hosts()
	m.chunks()
	m.trailers()
	m.hopByHop()
	m.expectations()
	m.methods()
	m.sequences()
	m.upgrades()
	m.large()
	return m.list
}

// maker collects cases. In what it is given {h} stands for the host and {id} for the case.
type maker struct {
	host string
	list []Case
	had  map[string]bool // the bytes of those that are there; of combinations that come out the same, one is enough
}

const (
	probe    = "GET /{id}/probe HTTP/1.1\r\nHost: {h}\r\nConnection: close\r\n\r\n"
	smuggled = "GET /{id}/smuggled HTTP/1.1\r\nHost: {h}\r\n\r\n"
)

func (m *maker) fill(s, id string) string {
	return strings.NewReplacer("{id}", id, "{h}", m.host).Replace(s)
}

// add adds a case that ends with a probe unless it is cut. reads are without the probe, and their host is the usual one
// when it is empty.
func (m *maker) add(c Case, reads ...Request) {
	c.ID = fmt.Sprintf("c%04d", len(m.list)+1)
	if !c.Cut {
		c.Raw += probe
	}
	if m.had[c.Raw] {
		return
	}
	m.had[c.Raw] = true
	c.Raw = m.fill(c.Raw, c.ID)
	if len(reads) > 0 && !c.Cut {
		reads = append(slices.Clone(reads), Request{Method: "GET", Target: "/{id}/probe"})
	}
	for _, r := range reads {
		r.Target, r.Body = m.fill(r.Target, c.ID), m.fill(r.Body, c.ID)
		if r.Host == "" {
			r.Host = m.host
		}
		c.Reads = append(c.Reads, r)
	}
	m.list = append(m.list, c)
}

// passes adds a case that a strict proxy hands on.
func (m *maker) passes(name, raw string, reads ...Request) {
	m.add(Case{Name: name, Raw: raw, Fate: Passes}, reads...)
}

// refuse adds a case that a strict proxy refuses. With reads a lenient one may hand it on, so understood.
func (m *maker) refuse(name, raw string, status []int, reads ...Request) {
	m.add(Case{Name: name, Raw: raw, Fate: Refused, Status: status}, reads...)
}

// either adds a case that may be refused.
func (m *maker) either(name, raw string, reads ...Request) {
	m.add(Case{Name: name, Raw: raw, Fate: Either}, reads...)
}

// show makes bytes that are not seen visible in a name.
func show(s string) string {
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}

var (
	bad         = []int{400}
	badOrUnimpl = []int{400, 501}
)

func get(target string) Request        { return Request{Method: "GET", Target: target} }
func post(target, body string) Request { return Request{Method: "POST", Target: target, Body: body} }
