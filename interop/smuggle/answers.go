package smuggle

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Answer is what a server sends back to one request, sound or not.
type Answer struct {
	ID, Name string
	Method   string // of the request that it answers; GET when empty
	Raw      string
	Later    string // what the server sends a moment after, on the same connection, unasked
	Closes   bool   // the server closes the connection behind it
	Fate     Fate   // a refused one becomes a 502, 504 or 431, or breaks off
	Status   int    // with which one that passes reaches the client
	Body     string // that the client may see, whole
}

// Poison is in what no client may ever see.
const Poison = "poisoned"

// Answers returns every answer.
func Answers() []Answer {
	m := &answers{}
	m.heads()
	m.lengths()
	m.chunked()
	m.bodiless()
	m.informational()
	m.responses()
	return m.list
}

type answers struct{ list []Answer }

func (m *answers) add(a Answer) {
	a.ID = fmt.Sprintf("a%04d", len(m.list)+1)
	if a.Method == "" {
		a.Method = "GET"
	}
	m.list = append(m.list, a)
}

// passes adds one that reaches the client.
func (m *answers) passes(name, raw string, status int, body string) {
	m.add(Answer{Name: name, Raw: raw, Fate: Passes, Status: status, Body: body})
}

// refuse adds one that no client may be given.
func (m *answers) refuse(name, raw string) {
	m.add(Answer{Name: name, Raw: raw, Fate: Refused})
}

// either adds one that a proxy may refuse, or pass like this.
func (m *answers) either(name, raw string, status int, body string) {
	m.add(Answer{Name: name, Raw: raw, Fate: Either, Status: status, Body: body})
}

const (
	okHead   = "HTTP/1.1 200 OK\r\n"
	poisoned = okHead + "Content-Length: 8\r\n\r\n" + Poison
)

func (m *answers) heads() {
	m.passes("plain", okHead+"Content-Length: 5\r\n\r\nhello", 200, "hello")
	m.passes("no reason", "HTTP/1.1 200 \r\nContent-Length: 5\r\n\r\nhello", 200, "hello")
	m.either("no reason and no space", "HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")
	m.passes("a reason of letters beyond ASCII", "HTTP/1.1 200 \xc3\xa9t\xc3\xa9\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")
	m.passes("a status that nobody knows", "HTTP/1.1 299 Odd\r\nContent-Length: 5\r\n\r\nhello", 299, "hello")
	m.passes("status 599", "HTTP/1.1 599 Odd\r\nContent-Length: 5\r\n\r\nhello", 599, "hello")
	m.passes("status 404", "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello", 404, "hello")
	for _, l := range []string{
		"HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 2x0 OK", "HTTP/1.1 -200 OK", "HTTP/1.1 +20 OK", "HTTP/1.1 0x2 OK", "HTTP/1.1 099 OK", "HTTP/1.1 000 OK", "HTTP/1.1 OK", "HTTP/1.1", "HTTP/1.1  200 OK", "HTTP/1.1\t200 OK",
		"HTTP/1.1200 OK", " HTTP/1.1 200 OK", "HTTP/2.0 200 OK", "HTTP/2 200 OK", "HTTP/0.9 200 OK", "HTTP/1.2 200 OK", "HTTP/11 200 OK", "HTTP/1 200 OK", "http/1.1 200 OK", "ICY 200 OK", "HTTP 200 OK", "hello", "GET / HTTP/1.1",
		"HTTP/1.1 200\x00OK", "HTTP/1.1 200 O\x00K", "HTTP/1.1 200 O\rK", "HTTP/1.1 1000 OK", "HTTP/1.1 2 OK", "HTTP/1.1 200OK", "\x00HTTP/1.1 200 OK", "\xef\xbb\xbfHTTP/1.1 200 OK", "HTTP/1.1 \xd9\xa2\xd9\xa0\xd9\xa0 OK",
	} {
		m.refuse("first line "+show(l), l+"\r\nContent-Length: 8\r\n\r\n"+Poison)
	}
	m.refuse("an answer without a head", Poison)
	m.refuse("a line of something first", "\r\n"+Poison+"\r\n"+poisoned)
	for _, l := range []string{
		"X : y", "X\t: y", " X: y", "\tX: y", ": y", "X", "X y", "X\x00: y", "X: y\x00", "X: \x01y", "X: y\x7f", "X: y\v", "X: a\rb", "X: a\rSet-Cookie: " + Poison, "X\xff: y", "X(: y", "X\r: y", "\rX: y", "X: y\r\r\nZ: z", "\x00: y",
	} {
		m.refuse("field "+show(l), okHead+l+"\r\nContent-Length: 8\r\n\r\n"+Poison)
	}
	for _, l := range []string{"X: a\r\n b", "X: a\r\n\tb", "Set-Cookie: a=b\r\n ; secure"} {
		m.refuse("folded "+show(l), okHead+l+"\r\nContent-Length: 8\r\n\r\n"+Poison)
	}
	for name, raw := range sorted(map[string]string{
		"LF after the status line": "HTTP/1.1 200 OK\nContent-Length: 8\r\n\r\n" + Poison, "LF after a field": okHead + "X: y\nContent-Length: 8\r\n\r\n" + Poison,
		"LF everywhere": "HTTP/1.1 200 OK\nContent-Length: 8\n\n" + Poison, "LF LF as the end of the head": okHead + "Content-Length: 8\n\n" + Poison, "CR after the status line": "HTTP/1.1 200 OK\rContent-Length: 8\r\n\r\n" + Poison,
		"CR CR LF": "HTTP/1.1 200 OK\r\r\nContent-Length: 8\r\n\r\n" + Poison, "LF CR": okHead + "X: y\n\rContent-Length: 8\r\n\r\n" + Poison,
	}) {
		m.refuse("line end: "+name, raw)
	}
	for name, raw := range sorted(map[string]string{
		"two answers in one by LF":    okHead + "X: y\n\nHTTP/1.1 200 OK\nContent-Length: 8\n\n" + Poison,
		"two answers in one by CR":    okHead + "X: y\r\rHTTP/1.1 200 OK\rContent-Length: 8\r\r" + Poison + "\r\n\r\n",
		"two answers in one by CR LF": okHead + "X: y\r\nContent-Length: 0\r\n\r\n" + poisoned,
	}) {
		switch {
		case strings.Contains(name, "CR LF"):
			m.passes(name, raw, 200, "")
		default:
			m.refuse(name, raw)
		}
	}
	m.refuse("a head of 100,000 bytes", okHead+"X: "+strings.Repeat("y", 100_000)+"\r\nContent-Length: 8\r\n\r\n"+Poison)
	m.refuse("a head of 2,000,000 bytes", okHead+"X: "+strings.Repeat("y", 2_000_000)+"\r\nContent-Length: 8\r\n\r\n"+Poison)
	m.refuse("10,000 fields", okHead+strings.Repeat("X: yyyyyyyyyyy\r\n", 10_000)+"Content-Length: 8\r\n\r\n"+Poison)
	m.refuse("a status line of 100,000 bytes", "HTTP/1.1 200 "+strings.Repeat("y", 100_000)+"\r\nContent-Length: 8\r\n\r\n"+Poison)
	for _, cut := range []string{"", "HTTP/1.1", "HTTP/1.1 200 OK\r\n", okHead + "Content-Length: 5\r\n", okHead + "Content-Length: 5\r\n\r"} {
		m.add(Answer{Name: "cut off after " + show(cut), Raw: cut, Closes: true, Fate: Refused})
	}
}

func (m *answers) lengths() {
	m.refuse("CL and TE", okHead+"Content-Length: 8\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n"+Poison+"\r\n0\r\n\r\n")
	m.refuse("TE and CL", okHead+"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n8\r\n"+Poison+"\r\n0\r\n\r\n")
	m.either("CL twice, equal", okHead+"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")
	m.either("CL as a list, equal", okHead+"Content-Length: 5, 5\r\n\r\nhello", 200, "hello")
	m.refuse("CL twice, different", okHead+"Content-Length: 8\r\nContent-Length: 3\r\n\r\n"+Poison)
	m.refuse("CL twice, different, the shorter first", okHead+"Content-Length: 3\r\nContent-Length: 8\r\n\r\n"+Poison)
	for _, v := range []string{"+8", "-8", "0x8", "8_0", "8,3", "8 3", "eight", "8.0", "8;", "\"8\"", "\v8", "8\x00", "18446744073709551624", "99999999999999999999", "\xef\xbc\x98", "8h", "-1", "\xa08"} {
		m.refuse("CL: "+show(v), okHead+"Content-Length: "+v+"\r\n\r\n"+Poison)
	}
	m.refuse("CL empty", okHead+"Content-Length:\r\n\r\n"+Poison)
	m.refuse("CL : 8", okHead+"Content-Length : 8\r\n\r\n"+Poison)
	m.refuse("CL folded", okHead+"Content-Length:\r\n 8\r\n\r\n"+Poison)
	m.add(Answer{Name: "CL too large, then the end", Raw: okHead + "Content-Length: 100\r\n\r\nhello", Closes: true, Fate: Refused})
	m.add(Answer{Name: "until the end", Raw: okHead + "\r\nhello", Closes: true, Fate: Passes, Status: 200, Body: "hello"})
	m.add(Answer{Name: "until the end, of HTTP/1.0", Raw: "HTTP/1.0 200 OK\r\n\r\nhello", Closes: true, Fate: Passes, Status: 200, Body: "hello"})
	m.add(Answer{Name: "until the end, an answer in it", Raw: okHead + "\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", Closes: true, Fate: Passes, Status: 200, Body: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"})
	m.add(Answer{Name: "HTTP/1.0 with a length", Raw: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", Closes: true, Fate: Passes, Status: 200, Body: "hello"})
	m.refuse("HTTP/1.0 with TE", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n"+Poison+"\r\n0\r\n\r\n")
}

func (m *answers) chunked() {
	head := okHead + "Transfer-Encoding: chunked\r\n\r\n"
	m.passes("chunks", head+"5\r\nhello\r\n0\r\n\r\n", 200, "hello")
	m.passes("chunks with extensions", head+"5;a=b\r\nhello\r\n0;c\r\n\r\n", 200, "hello")
	m.passes("chunks with a trailer", head+"5\r\nhello\r\n0\r\nX: y\r\n\r\n", 200, "hello")
	m.passes("chunks with Content-Length as a trailer", head+"5\r\nhello\r\n0\r\nContent-Length: 100\r\n\r\n", 200, "hello")
	m.passes("TE in capitals", okHead+"TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, "hello")
	for _, v := range []string{"xchunked", "identity", "gzip, chunked", "chunked, identity", "chunked, chunked", "gzip", "chunked,", "\vchunked", "chunked\x00", "\"chunked\"", "cow", "chunk", "chunked;q=1"} {
		m.add(Answer{Name: "TE: " + show(v), Raw: okHead + "Transfer-Encoding: " + v + "\r\n\r\n8\r\n" + Poison + "\r\n0\r\n\r\n", Closes: true, Fate: Refused})
	}
	m.refuse("TE twice", okHead+"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n"+Poison+"\r\n0\r\n\r\n")
	m.refuse("TE : chunked", okHead+"Transfer-Encoding : chunked\r\n\r\n8\r\n"+Poison+"\r\n0\r\n\r\n")
	m.refuse("TE folded", okHead+"Transfer-Encoding:\r\n chunked\r\n\r\n8\r\n"+Poison+"\r\n0\r\n\r\n")
	// Its head has gone out by then: what is left is to break off, so that nobody takes it for whole.
	for _, s := range []string{"0x8", "+8", "-8", "8_", " 8", "8h", "", "8\n", "8;a\n", "8\r8", "\v8", "g", "10000000000000008", "8;\x00", "fffffffffffffffff", "8 8"} {
		m.refuse("chunk size "+show(s), head+s+"\r\n"+Poison+"\r\n0\r\n\r\n")
	}
	for name, body := range sorted(map[string]string{
		"LF after the size": "5\nhello\r\n0\r\n\r\n", "LF after the data": "5\r\nhello\n0\r\n\r\n", "LF after the last size": "5\r\nhello\r\n0\n\r\n", "LF at the end": "5\r\nhello\r\n0\r\n\n", "nothing after the data": "5\r\nhello0\r\n\r\n",
		"too much data": "5\r\nhello, more\r\n0\r\n\r\n", "an unsound trailer": "5\r\nhello\r\n0\r\nX : y\r\n\r\n", "a NUL in a trailer": "5\r\nhello\r\n0\r\nX: \x00\r\n\r\n", "a folded trailer": "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
	}) {
		m.refuse("chunks: "+name, head+body)
	}
	for _, cut := range []string{"5", "5\r\n", "5\r\nhel", "5\r\nhello", "5\r\nhello\r\n", "5\r\nhello\r\n0", "5\r\nhello\r\n0\r\n", "5\r\nhello\r\n0\r\nX: y\r\n"} {
		m.add(Answer{Name: "chunks cut off after " + show(cut), Raw: head + cut, Closes: true, Fate: Refused})
	}
}

// bodiless has answers that have no body whatever their fields say, and yet send one.
func (m *answers) bodiless() {
	for _, a := range []Answer{
		{Name: "HEAD with a length", Method: "HEAD", Raw: okHead + "Content-Length: 5\r\n\r\n", Fate: Passes, Status: 200},
		{Name: "HEAD with TE", Method: "HEAD", Raw: okHead + "Transfer-Encoding: chunked\r\n\r\n", Fate: Passes, Status: 200},
		{Name: "HEAD with a body", Method: "HEAD", Raw: okHead + "Content-Length: 8\r\n\r\n" + Poison, Fate: Passes, Status: 200},
		{Name: "HEAD with an answer as its body", Method: "HEAD", Raw: okHead + "Content-Length: 46\r\n\r\n" + poisoned, Fate: Passes, Status: 200},
		{Name: "HEAD with chunks", Method: "HEAD", Raw: okHead + "Transfer-Encoding: chunked\r\n\r\n8\r\n" + Poison + "\r\n0\r\n\r\n", Fate: Passes, Status: 200},
		{Name: "HEAD with an answer later", Method: "HEAD", Raw: okHead + "Content-Length: 46\r\n\r\n", Later: poisoned, Fate: Passes, Status: 200},
		{Name: "204 with a body", Raw: "HTTP/1.1 204 No Content\r\nContent-Length: 8\r\n\r\n" + Poison, Fate: Either, Status: 204},
		{Name: "204 with an answer as its body", Raw: "HTTP/1.1 204 No Content\r\nContent-Length: 46\r\n\r\n" + poisoned, Fate: Either, Status: 204},
		{Name: "204 with chunks", Raw: "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n" + Poison + "\r\n0\r\n\r\n", Fate: Either, Status: 204},
		{Name: "204 with an answer behind", Raw: "HTTP/1.1 204 No Content\r\n\r\n" + poisoned, Fate: Either, Status: 204},
		{Name: "204", Raw: "HTTP/1.1 204 No Content\r\n\r\n", Fate: Passes, Status: 204},
		{Name: "304", Raw: "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", Fate: Passes, Status: 304},
		{Name: "304 with a length", Raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 46\r\n\r\n", Fate: Passes, Status: 304},
		{Name: "304 with a body", Raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 8\r\n\r\n" + Poison, Fate: Either, Status: 304},
		{Name: "304 with an answer as its body", Raw: "HTTP/1.1 304 Not Modified\r\nContent-Length: 46\r\n\r\n" + poisoned, Fate: Either, Status: 304},
		{Name: "304 with chunks", Raw: "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n" + Poison + "\r\n0\r\n\r\n", Fate: Either, Status: 304},
		{Name: "205 without a body", Raw: "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", Fate: Passes, Status: 205},
	} {
		m.add(a)
	}
}

func (m *answers) informational() {
	m.passes("100, then 200", "HTTP/1.1 100 Continue\r\n\r\n"+okHead+"Content-Length: 5\r\n\r\nhello", 200, "hello")
	m.passes("103, then 200", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"+okHead+"Content-Length: 5\r\n\r\nhello", 200, "hello")
	m.passes("102 three times, then 200", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 3)+okHead+"Content-Length: 5\r\n\r\nhello", 200, "hello")
	m.either("103 with a length, then 200", "HTTP/1.1 103 Early Hints\r\nContent-Length: 46\r\n\r\n"+okHead+"Content-Length: 5\r\n\r\nhello", 200, "hello")
	m.refuse("103 with a body", "HTTP/1.1 103 Early Hints\r\nContent-Length: 8\r\n\r\n"+Poison)
	m.refuse("a flood of 100", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 100_000))
	m.refuse("a flood of 103", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n", 50_000))
	m.refuse("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"+Poison)
	m.refuse("101 without Upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n"+poisoned)
	m.refuse("100 alone, then the end", "HTTP/1.1 100 Continue\r\n\r\n")
	m.list[len(m.list)-1].Closes = true
	m.refuse("199, then nothing that is one", "HTTP/1.1 199 Odd\r\n\r\nhello\r\n\r\n")
}

// Judge says what is wrong about what a client got for the answer: all of it, or only a beginning.
func (a *Answer) Judge(status int, body string, whole bool) error {
	asIs := whole && status == a.Status && body == a.Body
	switch {
	case asIs && a.Fate != Refused:
		return nil
	case a.Fate == Passes:
		return fmt.Errorf("the client got %d with %q, whole: %t; want %d with %q", status, clip(body), whole, a.Status, a.Body)
	case whole && status != 502 && status != 504 && status != 431:
		return fmt.Errorf("the client got %d with %q; want 502, 504 for one that never becomes whole, 431 for one that is too large as Zuul has it, or an answer that breaks off", status, clip(body))
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 80)] }

// responses has answers that nobody asked for.
func (m *answers) responses() {
	sound := okHead + "Content-Length: 5\r\n\r\nhello"
	m.passes("two answers", sound+poisoned, 200, "hello")
	m.passes("three answers", sound+poisoned+poisoned, 200, "hello")
	m.passes("something behind", sound+Poison, 200, "hello")
	m.passes("a line end behind", sound+"\r\n", 200, "hello")
	m.passes("half an answer behind", sound+"HTTP/1.1 200 OK\r\nX-Half: ", 200, "hello")
	m.passes("an answer behind chunks", okHead+"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"+poisoned, 200, "hello")
	m.passes("an error behind", sound+"HTTP/1.1 500 Oh\r\nContent-Length: 8\r\n\r\n"+Poison, 200, "hello")
	m.passes("408 behind", sound+"HTTP/1.1 408 Request Timeout\r\nContent-Length: 8\r\nConnection: close\r\n\r\n"+Poison, 200, "hello")
	m.add(Answer{Name: "an answer later", Raw: sound, Later: poisoned, Fate: Passes, Status: 200, Body: "hello"})
	m.add(Answer{Name: "100 later", Raw: sound, Later: "HTTP/1.1 100 Continue\r\n\r\n", Fate: Passes, Status: 200, Body: "hello"})
	m.add(Answer{Name: "half an answer later", Raw: sound, Later: "HTTP/1.1 200 OK\r\nX-Half: ", Fate: Passes, Status: 200, Body: "hello"})
	m.add(Answer{Name: "something later", Raw: sound, Later: Poison, Fate: Passes, Status: 200, Body: "hello"})
	m.add(Answer{Name: "an answer later, behind 204", Raw: "HTTP/1.1 204 No Content\r\n\r\n", Later: poisoned, Fate: Passes, Status: 204})
	m.add(Answer{Name: "Connection: close, and it stays open", Raw: okHead + "Connection: close\r\nContent-Length: 5\r\n\r\nhello", Later: poisoned, Fate: Passes, Status: 200, Body: "hello"})
	m.passes("Connection names fields", okHead+"Connection: X-A, Content-Length, Set-Cookie\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")
	m.passes("Connection: keep-alive, Keep-Alive, Proxy-Connection", okHead+"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")
	m.passes("Upgrade offered", okHead+"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello", 200, "hello")
}

// sorted is m by name.
func sorted(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
