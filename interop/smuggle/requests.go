package smuggle

import (
	"fmt"
	"strings"
)

// what hides behind a body that ends early for whoever reads chunks
const (
	chunkedHello = "5\r\nhello\r\n0\r\n\r\n"
	attack       = chunkedHello + smuggled
)

// transferEncodings combines each way to write Transfer-Encoding with a Content-Length before it, behind it and none.
func (m *maker) transferEncodings() {
	type meaning int
	const (
		chunked meaning = iota // it is chunked, written as it may be
		unfit                  // it is no sound Transfer-Encoding
		another                // it is another field, which says nothing of the length
	)
	for _, v := range []struct {
		lines string
		is    meaning
	}{
		{"Transfer-Encoding: chunked", chunked},
		{"Transfer-Encoding:chunked", chunked},
		{"Transfer-Encoding:  \t chunked", chunked},
		{"Transfer-Encoding: chunked \t ", chunked},
		{"Transfer-Encoding:\tchunked", chunked},
		{"transfer-encoding: chunked", chunked},
		{"TRANSFER-ENCODING: chunked", chunked},
		{"tRANSFER-eNCODING: cHUNKED", chunked},
		{"Transfer-Encoding: CHUNKED", chunked},
		{"Transfer-Encoding: xchunked", unfit},
		{"Transfer-Encoding: chunkedx", unfit},
		{"Transfer-Encoding: chunk", unfit},
		{"Transfer-Encoding: chunked2", unfit},
		{"Transfer-Encoding: chu nked", unfit},
		{"Transfer-Encoding: chunked chunked", unfit},
		{"Transfer-Encoding: chunked, chunked", unfit},
		{"Transfer-Encoding: chunked, identity", unfit},
		{"Transfer-Encoding: identity, chunked", unfit},
		{"Transfer-Encoding: identity", unfit},
		{"Transfer-Encoding: gzip, chunked", unfit},
		{"Transfer-Encoding: gzip", unfit},
		{"Transfer-Encoding: gzip,chunked", unfit},
		{"Transfer-Encoding: chunked, gzip", unfit},
		{"Transfer-Encoding: deflate, gzip, chunked", unfit},
		{"Transfer-Encoding: compress, chunked", unfit},
		{"Transfer-Encoding: cow, chunked", unfit},
		{"Transfer-Encoding: cow", unfit},
		{"Transfer-Encoding:", unfit},
		{"Transfer-Encoding: ", unfit},
		{"Transfer-Encoding: ,", unfit},
		{"Transfer-Encoding: chunked,", unfit},
		{"Transfer-Encoding: chunked ,", unfit},
		{"Transfer-Encoding: ,chunked", unfit},
		{"Transfer-Encoding: , , chunked", unfit},
		{"Transfer-Encoding: chunked;", unfit},
		{"Transfer-Encoding: chunked;q=1", unfit},
		{"Transfer-Encoding: chunked; foo=\"bar\"", unfit},
		{"Transfer-Encoding: \"chunked\"", unfit},
		{"Transfer-Encoding: 'chunked'", unfit},
		{"Transfer-Encoding: chunked'", unfit},
		{"Transfer-Encoding: (comment) chunked", unfit},
		{"Transfer-Encoding: \vchunked", unfit},
		{"Transfer-Encoding: chunked\v", unfit},
		{"Transfer-Encoding: \fchunked", unfit},
		{"Transfer-Encoding: chunked\f", unfit},
		{"Transfer-Encoding: \x00chunked", unfit},
		{"Transfer-Encoding: chunked\x00", unfit},
		{"Transfer-Encoding: chun\x00ked", unfit},
		{"Transfer-Encoding: \bchunked", unfit},
		{"Transfer-Encoding: \x1fchunked", unfit},
		{"Transfer-Encoding: \x7fchunked", unfit},
		{"Transfer-Encoding: \x85chunked", unfit},
		{"Transfer-Encoding: \xa0chunked", unfit},
		{"Transfer-Encoding: \xc2\xa0chunked", unfit},
		{"Transfer-Encoding: \xffchunked", unfit},
		{"Transfer-Encoding: chun\xe2\x84\xaaed", unfit}, // the sign for Kelvin, which becomes k in lower case
		{"Transfer-Encoding: \xef\xbb\xbfchunked", unfit},
		{"Transfer-Encoding: \rchunked", unfit},
		{"Transfer-Encoding: chunked\r", unfit},
		{"Transfer-Encoding: chun\rked", unfit},
		{"Transfer-Encoding:\nchunked", unfit},
		{"Transfer-Encoding:\n chunked", unfit},
		{"Transfer-Encoding:\r\n chunked", unfit},
		{"Transfer-Encoding:\r\n\tchunked", unfit},
		{"Transfer-Encoding: chunked\r\n ", unfit},
		{"Transfer-Encoding: chunked\r\n , identity", unfit},
		{"Transfer-Encoding: chunked\r\n\tx", unfit},
		{"Transfer-\r\n Encoding: chunked", unfit},
		{"Transfer-Encoding : chunked", unfit},
		{"Transfer-Encoding\t: chunked", unfit},
		{"Transfer-Encoding\n: chunked", unfit},
		{"Transfer-Encoding\r: chunked", unfit},
		{"Transfer-Encoding\x00: chunked", unfit},
		{"Transfer-Encoding\v: chunked", unfit},
		{"Transfer-Encoding\x85: chunked", unfit},
		{"Transfer-Encoding\xa0: chunked", unfit},
		{"\x00Transfer-Encoding: chunked", unfit},
		{"\xffTransfer-Encoding: chunked", unfit},
		{"Transfer Encoding: chunked", unfit},
		{"Transfer-Encoding chunked", unfit},
		{"Transfer-Encoding", unfit},
		{":Transfer-Encoding: chunked", unfit},
		{"\"Transfer-Encoding\": chunked", unfit},
		{"X: y\nTransfer-Encoding: chunked", unfit},
		{"X: y\rTransfer-Encoding: chunked", unfit},
		{"X: y\r\n Transfer-Encoding: chunked", unfit},
		{"X: y\r\n\tTransfer-Encoding: chunked", unfit},
		{"X: y\n\rTransfer-Encoding: chunked", unfit},
		{"X: y\r\r\nTransfer-Encoding: chunked", unfit},
		{"X: y\x00\r\nTransfer-Encoding: chunked", unfit},
		{"\rTransfer-Encoding: chunked", unfit},
		{"\nTransfer-Encoding: chunked", unfit},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", unfit},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", unfit},
		{"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", unfit},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow", unfit},
		{"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", unfit},
		{"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", unfit},
		{"Transfer-Encoding: chunked\r\ntransfer-encoding: cow", unfit},
		{"Transfer-Encoding:\r\nTransfer-Encoding: chunked", unfit},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding:", unfit},
		{"Content-Encoding: chunked", another},
		{"Transfer_Encoding: chunked", another},
		{"TransferEncoding: chunked", another},
		{"Transfer-Encoding-: chunked", another},
		{"X-Transfer-Encoding: chunked", another},
		{"HTTP_TRANSFER_ENCODING: chunked", another},
		{"TE: chunked", another},
	} {
		name := "TE: " + show(v.lines)
		head := "POST /{id} HTTP/1.1\r\nHost: {h}\r\n"
		// The whole of what follows is the body for whoever goes by the length.
		length := fmt.Sprintf("Content-Length: %d\r\n", len(m.fill(attack, "c0000")))
		before, behind := head+length+v.lines+"\r\n\r\n"+attack, head+v.lines+"\r\n"+length+"\r\n"+attack
		switch v.is {
		case chunked:
			m.passes(name, head+v.lines+"\r\n\r\n"+chunkedHello, post("/{id}", "hello"))
			m.refuse(name+", behind CL", before, bad, post("/{id}", "hello"), get("/{id}/smuggled"))
			m.refuse(name+", before CL", behind, bad, post("/{id}", "hello"), get("/{id}/smuggled"))
			m.refuse(name+", with CL 0", head+v.lines+"\r\nContent-Length: 0\r\n\r\n"+chunkedHello, bad, post("/{id}", "hello"))
			m.refuse(name+", in HTTP/1.0", strings.Replace(head, "/1.1", "/1.0", 1)+v.lines+"\r\n\r\n"+chunkedHello, bad)
		case unfit:
			m.refuse(name, head+v.lines+"\r\n\r\n"+chunkedHello, badOrUnimpl)
			m.refuse(name+", behind CL", before, badOrUnimpl)
			m.refuse(name+", before CL", behind, badOrUnimpl)
		case another:
			m.passes(name+", behind CL", before, post("/{id}", attack))
			m.passes(name+", before CL", behind, post("/{id}", attack))
		}
	}
}

// contentLengths has each way to write a length alone, before a sound one and behind it.
func (m *maker) contentLengths() {
	head := "POST /{id} HTTP/1.1\r\nHost: {h}\r\n"
	for _, v := range []string{
		"Content-Length: 5", "Content-Length:5", "Content-Length: \t5 \t", "content-length: 5", "CONTENT-LENGTH: 5", "Content-Length: 05", "Content-Length: 000000005",
	} {
		m.passes("CL: "+show(v), head+v+"\r\n\r\nhello", post("/{id}", "hello"))
		m.refuse("CL: "+show(v)+", twice", head+v+"\r\n"+v+"\r\n\r\nhello", bad, post("/{id}", "hello"))
	}
	for _, v := range []string{
		"Content-Length: +5", "Content-Length: -5", "Content-Length: -0", "Content-Length: 0x5", "Content-Length: 0X5", "Content-Length: 5_0", "Content-Length: _5",
		"Content-Length: 5 0", "Content-Length: 5 5", "Content-Length: 5,5", "Content-Length: 5, 5", "Content-Length: 5, 6", "Content-Length: 5,", "Content-Length: ,5",
		"Content-Length: 0, 5", "Content-Length: 5;", "Content-Length: 5.0", "Content-Length: 5e0", "Content-Length: \"5\"", "Content-Length: '5'", "Content-Length: 5h",
		"Content-Length: h5", "Content-Length: five", "Content-Length:", "Content-Length: ", "Content-Length: 05a", "Content-Length: 0b101", "Content-Length: 0o5",
		"Content-Length: 12345678901234567890", "Content-Length: 18446744073709551621", "Content-Length: 9223372036854775813", "Content-Length: 36893488147419103237",
		"Content-Length: 4294967301999999999999", "Content-Length: 00000000000000000000000005", "Content-Length: \v5", "Content-Length: 5\v", "Content-Length: 5\f",
		"Content-Length: \x005", "Content-Length: 5\x00", "Content-Length: 5\x000", "Content-Length: 5\x7f", "Content-Length: \xa05", "Content-Length: 5\xa0",
		"Content-Length: \x855", "Content-Length: \xd9\xa5", "Content-Length: \xef\xbc\x95", "Content-Length: \xef\xbb\xbf5", "Content-Length: 5\r", "Content-Length: \r5",
		"Content-Length:\n5", "Content-Length:\n 5", "Content-Length:\r\n 5", "Content-Length: 5\r\n 0", "Content-Length: 5\r\n\t", "Content-Length : 5", "Content-Length\t: 5",
		"Content-Length\x00: 5", "Content-Length\v: 5", "Content Length: 5", "Content-Length 5", " Content-Length: 5", "\tContent-Length: 5", "\vContent-Length: 5",
		"X: y\nContent-Length: 5", "X: y\rContent-Length: 5", "X: y\r\n Content-Length: 5", "X: y\r\r\nContent-Length: 5", "\xffContent-Length: 5",
		"Content-\r\n Length: 5", ":Content-Length: 5",
	} {
		name := "CL: " + show(v)
		m.refuse(name, head+v+"\r\n\r\nhello", bad)
		m.refuse(name+", before a sound one", head+v+"\r\nContent-Length: 5\r\n\r\nhello", bad)
		m.refuse(name+", behind a sound one", head+"Content-Length: 5\r\n"+v+"\r\n\r\nhello", bad)
	}
	two := "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: %d\r\n%sContent-Length: %d\r\n\r\n%s"
	whole := m.fill(smuggled, "c0000")
	m.refuse("CL: 0 then all", fmt.Sprintf(two, 0, "", len(whole), smuggled), bad)
	m.refuse("CL: all then 0", fmt.Sprintf(two, len(whole), "", 0, smuggled), bad)
	m.refuse("CL: 0 then all, apart", fmt.Sprintf(two, 0, "X: y\r\n", len(whole), smuggled), bad)
	m.refuse("CL: three", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", bad, post("/{id}", "hello"))
	m.passes("CL: Content_Length beside it", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent_Length: 0\r\nContent-Length: 5\r\n\r\nhello", post("/{id}", "hello"))
	m.passes("CL: Content-Lengt beside it", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Lengt: 0\r\nContent-Length: 5\r\n\r\nhello", post("/{id}", "hello"))
	m.passes("CL: a request as the body", fmt.Sprintf("POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: %d\r\n\r\n%s", len(whole), smuggled), post("/{id}", smuggled))
}

// lines has line ends that are none.
func (m *maker) lines() {
	head := []string{"GET /{id} HTTP/1.1", "Host: {h}", "X-A: b", "X-C: d", ""}
	after := []string{"the request line", "Host", "a field", "the last field", "the head"}
	for _, end := range []string{"\n", "\r", "\n\r", "\r\r\n", "\x00\r\n", "\r\x00\n", "\v\r\n", "\x85", "\xe2\x80\xa8"} {
		for at := range head {
			var b strings.Builder
			for i, line := range head {
				b.WriteString(line)
				if i == at {
					b.WriteString(end)
				} else {
					b.WriteString("\r\n")
				}
			}
			name := "line end " + show(end) + " after " + after[at]
			if end[0] > 0x7f && at == 2 { // which makes one value of two lines
				m.either(name, b.String(), get("/{id}"))
				continue
			}
			m.refuse(name, b.String(), nil, readsOfLine(end, "/{id}")...)
		}
	}
	m.refuse("all line ends LF", "GET /{id} HTTP/1.1\nHost: {h}\n\n", bad, get("/{id}"))
	m.refuse("LF CR LF as the end of the head", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: y\n\r\n", bad, get("/{id}"))
	m.refuse("a body behind a head that ends in LF LF", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\n\nhello", bad, post("/{id}", "hello"))
	m.refuse("a request behind a field that ends in LF LF", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: y\n\n"+smuggled, bad, get("/{id}"), get("/{id}/smuggled"))
	m.refuse("a request behind CR CR", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: y\r\r"+smuggled, bad)
	m.refuse("a request within a value, by CR", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: y\rGET /{id}/smuggled HTTP/1.1\r\n\r\n", bad)
	m.refuse("a request within a value, by LF", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: y\nGET /{id}/smuggled HTTP/1.1\r\n\r\n", bad)
}

// readsOfLine is how a lenient reader, who takes LF for CRLF, may read a request with such a line end.
func readsOfLine(end, target string) []Request {
	if end == "\n" {
		return []Request{get(target)}
	}
	return nil
}

// fields has names and values that no field may have.
func (m *maker) fields() {
	head := "GET /{id} HTTP/1.1\r\nHost: {h}\r\n"
	for c := range 256 {
		switch b := string([]byte{byte(c)}); {
		case c < 0x20 && c != '\t' && c != '\r' && c != '\n', c == 0x7f:
			m.refuse("value with "+show(b), head+"X-A: b"+b+"c\r\n\r\n", bad)
			m.refuse("name with "+show(b), head+"X"+b+"A: b\r\n\r\n", bad)
		case strings.ContainsRune("\"(),/;<=>?@[\\]{} \t", rune(c)), c == 0x80, c == 0xa0, c == 0xe9, c == 0xff:
			m.refuse("name with "+show(b), head+"X"+b+"A: b\r\n\r\n", bad)
		case strings.ContainsRune("!#$%&'*+.^`|~", rune(c)):
			m.passes("name with "+show(b), head+"X"+b+"A: b\r\n\r\n", get("/{id}"))
		}
	}
	for _, l := range []string{": b", " : b", "X-A : b", "X-A\t: b", "X-A", "X-A b", "=", "::", "X-A\x00", " X-A: b\r\n  c", "X: y\r\n z", "X: y\r\n\tz", "X: y\r\n \r\nZ: z"} {
		m.refuse("line "+show(l), head+l+"\r\n\r\n", bad)
	}
	for _, first := range []string{" ", "\t", "  ", "\r\n ", "\v"} {
		m.refuse("first field behind "+show(first), "GET /{id} HTTP/1.1\r\n"+first+"Host: {h}\r\n\r\n", bad)
		m.refuse("first field behind "+show(first)+", Host once more", "GET /{id} HTTP/1.1\r\n"+first+"Host: {h}\r\nHost: {h}\r\n\r\n", bad)
	}
	for _, v := range []string{"X-A:", "X-A: ", "X-A:\t\tb\t", "X-A: b:c:d", "X-A: \"b", "X-A: b, c", "X-A: \x80\xff", "X-A: \xc3\xa9", "x-a: B", "X-A: b\r\nX-A: c", "X-A: b\tc"} {
		m.passes("field "+show(v), head+v+"\r\n\r\n", get("/{id}"))
	}
	for _, v := range []string{"X_A", "Content_Length", "X_Forwarded_For", "_", "HOST_"} {
		m.add(Case{Name: "field " + v, Raw: head + v + ": 5\r\n\r\n", Fate: Passes, Gone: []string{v}}, get("/{id}"))
	}
}

// requestLines has first lines.
func (m *maker) requestLines() {
	rest := "\r\nHost: {h}\r\n\r\n"
	for _, l := range []string{
		"GET  /{id} HTTP/1.1", "GET /{id}  HTTP/1.1", "GET\t/{id} HTTP/1.1", "GET /{id}\tHTTP/1.1", " GET /{id} HTTP/1.1", "\tGET /{id} HTTP/1.1", "GET /{id} HTTP/1.1 ", "GET /{id} HTTP/1.1\t",
		"GET /{id} HTTP/1.1 HTTP/1.1", "GET /{id} x HTTP/1.1", "GET\v/{id} HTTP/1.1", "GET\f/{id} HTTP/1.1", "GET\x00/{id} HTTP/1.1", "GET\xa0/{id} HTTP/1.1", "GET /{id}\x00 HTTP/1.1",
		"GET /{id}\v HTTP/1.1", "GET /{id}\xa0HTTP/1.1", "GET\r/{id} HTTP/1.1", "GET /{id}\rHTTP/1.1", "G\x00T /{id} HTTP/1.1", "GE(T /{id} HTTP/1.1", "GE\"T /{id} HTTP/1.1", "GE/T /{id} HTTP/1.1",
		"G\xcaT /{id} HTTP/1.1", "GET:/{id} HTTP/1.1", "GET /{id}", "GET /{id} ", "GET", "GET HTTP/1.1", "/{id} HTTP/1.1", " /{id} HTTP/1.1",
		"GET /{id} http/1.1", "GET /{id} Http/1.1", "GET /{id} HTTP/1.1x", "GET /{id} HTTP /1.1", "GET /{id} HTTP/ 1.1", "GET /{id} HTTP/1 .1", "GET /{id} HTTP/1. 1", "GET /{id} HTP/1.1",
		"GET /{id} XHTTP/1.1", "GET /{id} HTTP/1.", "GET /{id} HTTP/.1", "GET /{id} HTTP/", "GET /{id} HTTP", "GET /{id} HTTP/1", "GET /{id} HTTP/11", "GET /{id} HTTP/1,1",
		"GET /{id} HTTP/1.1.1", "GET /{id} HTTP/-1.1", "GET /{id} HTTP/+1.1", "GET /{id} HTTP/0x1.1", "GET /{id} HTTP/1.1\x00", "GET /{id} HTTP/1.\xd9\xa1", "GET /{id} HTTP\\1.1", "GET /{id} ICY/1.1",
		"HTTP/1.1 200 OK", "GET /{id} HTTP/1.1;", "GET /{id} \"HTTP/1.1\"", "GET /{id}#HTTP/1.1", "GET /{id} HTTPS/1.1",
	} {
		m.refuse("first line "+show(l), l+rest, []int{400, 505})
	}
	for _, v := range []string{"0.9", "1.2", "1.3", "1.9", "2.0", "3.0", "1.10", "1.01", "01.1", "10.1", "9.9", "2", "3", "1.11"} {
		m.refuse("HTTP/"+v, "GET /{id} HTTP/"+v+rest, []int{505, 400})
	}
	m.refuse("HTTP/0.9, bare", "GET /{id}\r\n", []int{400, 505})
	m.refuse("HTTP/0.9, with LF", "GET /{id}\n", []int{400, 505})
	// Who speaks HTTP/2 with prior knowledge goes on in frames, of which there is no sound one.
	m.add(Case{Name: "the preface of HTTP/2", Raw: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + probe, Fate: Refused, Cut: true})
	m.passes("HTTP/1.0", "GET /{id} HTTP/1.0\r\nHost: {h}\r\nConnection: keep-alive\r\n\r\n", get("/{id}"))
	m.passes("an empty line before", "\r\nGET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", get("/{id}"))
	m.refuse("two empty lines before", "\r\n\r\nGET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", bad, get("/{id}"))
	m.refuse("five empty lines before", strings.Repeat("\r\n", 5)+"GET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", bad, get("/{id}"))
	m.refuse("an LF before", "\nGET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", bad, get("/{id}"))
	m.refuse("a CR before", "\rGET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("a NUL before", "\x00GET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("a byte order mark before", "\xef\xbb\xbfGET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("a TLS hello", "\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03"+strings.Repeat("\x00", 32)+"\r\n\r\n", bad)
}

// targets has what a request may ask for.
func (m *maker) targets() {
	of := func(target string) string { return "GET " + target + " HTTP/1.1\r\nHost: {h}\r\n\r\n" }
	for _, t := range []string{
		"/{id}?a=b", "/{id}?", "/{id}?a=b?c", "/{id}/a;b=c", "/{id}/a:b@c", "/{id}/a%20b", "/{id}/%C3%A9", "/{id}/a%2Fb", "/{id}?a=%0d%0ab", "/{id}/a+b", "/{id}/~a", "/{id}/a,b",
		"/{id}/(a)", "/{id}/a!$&'*", "/{id}?a=/../b", "/{id}?a=[1]",
	} {
		m.passes("target "+show(t), of(t), get(t))
	}
	m.passes("target /{id}/a%2fb", of("/{id}/a%2fb"), get("/{id}/a%2Fb")) // RFC 3986 section 6.2.2.1: one spelling
	for _, t := range []string{"/{id}?a=\"b\"", "/{id}?a=<b>", "/{id}/a|b", "/{id}/a^b", "/{id}/a`b", "/{id}/{a}", "/{id}/a\\b", "/{id}/a\"b", "/{id}/<a>", "/{id}/a[1]", "/{id}//b", "//{id}", "/{id}/%41"} {
		m.either("target "+show(t), of(t), get(t))
	}
	for _, t := range []string{"/{id}/a/../b", "/{id}/./b", "/{id}/%2e/b", "/{id}/a/%2e%2e/b", "/{id}/a/%2E./b", "/{id}/a/.%2e/b"} {
		m.either("target "+show(t), of(t), get("/{id}/b"))
	}
	m.either("target /../{id}", of("/../{id}"), get("/{id}"))
	m.either("target /{id}/..", of("/{id}/a/.."), get("/{id}/"))
	m.either("target with %5c", of("/{id}/a%5cb"), get("/{id}/a%5cb"))
	m.either("target with %0d%0a", of("/{id}/a%0d%0aX: y"), get("/{id}/a%0d%0aX: y"))
	for _, t := range []string{
		"/{id}#a", "/{id}?a#b", "/{id}%", "/{id}%2", "/{id}%zz", "/{id}%00", "/{id}%u0041", "/{id}/a b", "/{id}\xc3\xa9", "/{id}\x80", "/{id}\xff", "/{id}\x7f", "/{id}\x01", "/{id}\x00a", "{id}", "?{id}", "", "\\{id}",
		"mailto:a@{h}", "http:/{id}", "http:///{id}", "*{id}", "*/{id}", "{h}:80", "{h}", "http:{id}", "/{id}\n/x",
	} {
		m.refuse("target "+show(t), of(t), nil)
	}
	m.refuse("asterisk of GET", "GET * HTTP/1.1\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("asterisk of POST", "POST * HTTP/1.1\r\nHost: {h}\r\nContent-Length: 0\r\n\r\n", bad)
	m.add(Case{Name: "asterisk of OPTIONS", Raw: "OPTIONS * HTTP/1.1\r\nHost: {h}\r\n\r\n", Fate: Either, Local: true}, Request{Method: "OPTIONS", Target: "*"})
	m.refuse("CONNECT", "CONNECT {h}:80 HTTP/1.1\r\nHost: {h}:80\r\n\r\n", []int{400, 405})
	m.refuse("CONNECT to a path", "CONNECT /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", []int{400, 405})
	m.refuse("CONNECT with a body", "CONNECT {h}:80 HTTP/1.1\r\nHost: {h}:80\r\nContent-Length: 5\r\n\r\nhello", []int{400, 405})
	m.refuse("authority of GET", "GET {h}:80 HTTP/1.1\r\nHost: {h}\r\n\r\n", bad)
	m.passes("absolute target", of("http://{h}/{id}"), get("/{id}"))
	m.passes("absolute target with a query", of("http://{h}/{id}?a=b"), get("/{id}?a=b"))
	m.either("absolute target in capitals", of("HTTP://{h}/{id}"), get("/{id}"))
	for _, t := range []string{
		"http://other.test/{id}", "http://{h}.other.test/{id}", "http://user@{h}/{id}", "http://user:pass@{h}/{id}", "http://{h}@other.test/{id}", "http://other.test#@{h}/{id}",
		"http://other.test\\@{h}/{id}", "http://{h} /{id}", "http://{h},other.test/{id}", "http://[{h}]/{id}", "http://{h}:port/{id}", "http://{h}%00/{id}", "ftp://{h}/{id}", "http://:80/{id}",
		"http://{h}:81/{id}",
	} {
		m.refuse("absolute target "+show(t), of(t), nil)
	}
}

// hosts has names to go by.
func (m *maker) hosts() {
	m.refuse("no Host", "GET /{id} HTTP/1.1\r\n\r\n", bad)
	m.refuse("no Host, absolute target", "GET http://{h}/{id} HTTP/1.1\r\n\r\n", bad)
	m.refuse("Host twice, equal", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("Host twice, equal, in two cases", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nhOST: {h}\r\n\r\n", bad)
	m.refuse("Host twice, the other first", "GET /{id} HTTP/1.1\r\nHost: other.test\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("Host twice, the other last", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nHost: other.test\r\n\r\n", bad)
	m.refuse("Host twice, apart", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: y\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("Host twice, one empty", "GET /{id} HTTP/1.1\r\nHost:\r\nHost: {h}\r\n\r\n", bad)
	m.refuse("Host twice, absolute target", "GET http://{h}/{id} HTTP/1.1\r\nHost: {h}\r\nHost: other.test\r\n\r\n", bad)
	m.refuse("Host empty", "GET /{id} HTTP/1.1\r\nHost:\r\n\r\n", nil)
	for _, v := range []string{
		"{h}/path", "{h}?q", "{h}#f", "user@{h}", "user:pass@{h}", "other.test@{h}", "{h}@other.test", "{h},other.test", "{h}, other.test", "{h} other.test", "other.test {h}", "{h}\tother.test",
		"{h}:", "{h}:port", "{h}:80:80", "{h}:80a", "{h}:-1", "{h}:99999", "{h}:0x50", "{h}: 80", "{h} :80", "[{h}]", "[::1", "::1]", "[::1]x", "{h}\x00", "{h}\x00.test", "\x00{h}", "{h}\v", "{h}\xa0",
		"{h}\xff", "{h}\\path", "{h}%00", "{h}%0d%0aX: y", "\"{h}\"", "<{h}>", "{h};a=b", "http://{h}", "http://{h}/", "{h}\r", "{h}\r\n other.test", "{h}\nHost: other.test", "{h}\rX: y", "{h}|x", "{h}^x", "{h}`x", "{{h}}",
	} {
		m.refuse("Host "+show(v), "GET /{id} HTTP/1.1\r\nHost: "+v+"\r\n\r\n", nil)
	}
	for _, l := range []string{"Host : {h}", "Host\t: {h}", " Host: {h}", "Host\x00: {h}", "Host\v: {h}", "Ho st: {h}", "Host {h}", "Host:\r\n {h}", "Host\r\n : {h}"} {
		m.refuse("line "+show(l), "GET /{id} HTTP/1.1\r\n"+l+"\r\n\r\n", bad)
		m.refuse("line "+show(l)+" beside Host", "GET /{id} HTTP/1.1\r\nHost: other.test\r\n"+l+"\r\n\r\n", bad)
	}
	m.either("Host with a port", "GET /{id} HTTP/1.1\r\nHost: {h}:80\r\n\r\n", Request{Method: "GET", Target: "/{id}", Host: m.host + ":80"})
	m.either("Host in capitals", "GET /{id} HTTP/1.1\r\nHost: "+strings.ToUpper(m.host)+"\r\n\r\n", Request{Method: "GET", Target: "/{id}", Host: strings.ToUpper(m.host)})
	m.either("Host with a dot at its end", "GET /{id} HTTP/1.1\r\nHost: {h}.\r\n\r\n", Request{Method: "GET", Target: "/{id}", Host: m.host + "."})
	m.passes("Host without a space", "GET /{id} HTTP/1.1\r\nHost:{h}\r\n\r\n", get("/{id}"))
	m.passes("host in small letters", "GET /{id} HTTP/1.1\r\nhost: {h}\r\n\r\n", get("/{id}"))
	m.passes("Host at the end", "GET /{id} HTTP/1.1\r\nX: y\r\nHost: {h}\r\n\r\n", get("/{id}"))
	m.passes("X-Forwarded-Host and others of the kind", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX-Forwarded-Host: other.test\r\nX-Host: other.test\r\nForwarded: host=other.test\r\nX-Original-URL: /x\r\nX-Rewrite-URL: /x\r\n\r\n", get("/{id}"))
}

// chunks has bodies in chunks.
func (m *maker) chunks() {
	head := "POST /{id} HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, s := range []string{"5", "05", "0000005", "5;a", "5;a=b", "5;a=\"b\"", "5;a=b;c=d", "5;a=\"\\\"\"", "5;\xc3\xa9"} {
		m.passes("chunk size "+show(s), head+s+"\r\nhello\r\n0\r\n\r\n", post("/{id}", "hello"))
	}
	for _, s := range []string{"5 ;a=b", "5; a=b", "5;", "5;;", "5;a=", "5\t;a", "5;a=\"b\r\n", "5 ", "5\t", "5  "} {
		body := head + s + "\r\nhello\r\n0\r\n\r\n"
		if strings.Contains(s, "\r\n") {
			m.refuse("chunk size "+show(s), body, bad)
			continue
		}
		m.either("chunk size "+show(s), body, post("/{id}", "hello"))
	}
	m.passes("chunk sizes in both cases", head+"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", post("/{id}", "01234567890123456789"))
	m.passes("the last chunk as 000", head+"5\r\nhello\r\n000\r\n\r\n", post("/{id}", "hello"))
	m.passes("the last chunk with an extension", head+"5\r\nhello\r\n0;a=b\r\n\r\n", post("/{id}", "hello"))
	m.passes("a chunk per byte", head+"1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n", post("/{id}", "hello"))
	m.passes("no chunk", head+"0\r\n\r\n", post("/{id}", ""))
	m.passes("a request within a chunk", head+fmt.Sprintf("%x\r\n", len(m.fill(smuggled, "c0000")))+smuggled+"\r\n0\r\n\r\n", post("/{id}", smuggled))
	m.passes("an end within a chunk", head+"7\r\n0\r\n\r\nab\r\n0\r\n\r\n", post("/{id}", "0\r\n\r\nab"))
	for _, s := range []string{
		"0x5", "0X5", "+5", "-5", "-0", "5_0", "_5", " 5", "\t5", "5h", "h", "5.0", "", ";", ";a=b", "5,", "5\x00", "\x005", "5\v", "\v5", "5\f", "\xa05", "5\xa0", "5\x85", "\xd9\xa5", "\xef\xbc\x95", "'5'", "\"5\"",
		"10000000000000005", "00000000000000000000000000000005", "ffffffffffffffff", "7fffffffffffffff", "8000000000000005", "100000005\x00", "fffffffffffffffffffffff5", "5\r", "\r5", "5\r5", "5\n", "5\n5", "\n5", "5\n\r", "5;a\nb", "5;a\rb", "5;\n", "5;a=b\n", "5;a\x00", "5;a\x7f", "5;\x01", "5 5", "5 a", "5=a", "5:a", "five",
	} {
		body := s + "\r\nhello\r\n0\r\n\r\n"
		m.refuse("chunk size "+show(s), head+body, bad)
		m.refuse("chunk size "+show(s)+", second", head+"3\r\nabc\r\n"+body, bad)
	}
	for _, l := range []string{"0x0", "-0", "+0", " 0", "0\n", "0;\n", "00000000000000000000", "0_0", "0\x00"} {
		m.refuse("last chunk "+show(l), head+"5\r\nhello\r\n"+l+"\r\n\r\n"+smuggled, bad)
	}
	for _, v := range []struct{ name, body string }{
		{"LF after the size", "5\nhello\r\n0\r\n\r\n"}, {"LF after the data", "5\r\nhello\n0\r\n\r\n"}, {"LF after the last size", "5\r\nhello\r\n0\n\r\n"}, {"LF after the last line", "5\r\nhello\r\n0\r\n\n"},
		{"LF everywhere", "5\nhello\n0\n\n"}, {"CR after the size", "5\rhello\r\n0\r\n\r\n"}, {"CR after the data", "5\r\nhello\r0\r\n\r\n"}, {"nothing after the data", "5\r\nhello0\r\n\r\n"},
		{"too much data", "5\r\nhellox\r\n0\r\n\r\n"}, {"much too much data", "5\r\nhello world\r\n0\r\n\r\n"}, {"too little data", "6\r\nhello\r\n0\r\n\r\n"}, {"two bytes too much", "5\r\nhelloXX0\r\n\r\n"},
		{"an empty line after the data", "5\r\nhello\r\n\r\n0\r\n\r\n"}, {"a space after the data", "5\r\nhello \r\n0\r\n\r\n"}, {"CR CR LF after the data", "5\r\nhello\r\r\n0\r\n\r\n"}, {"LF CR after the data", "5\r\nhello\n\r0\r\n\r\n"},
		{"CR CR LF after the size", "5\r\r\nhello\r\n0\r\n\r\n"}, {"CR X after the last size", "5\r\nhello\r\n0\rX\r\n"}, {"a space before the last line end", "5\r\nhello\r\n0\r\n \r\n"},
		{"two bytes of something for CRLF after the size", "2\r\r;abc\r\n0\r\n\r\n"}, {"two bytes of something for CRLF at the end", "5\r\nhello\r\n0\r\nX\r\n"},
	} {
		m.refuse("chunks: "+v.name, head+v.body, bad)
		m.refuse("chunks: "+v.name+", with more behind", head+v.body+smuggled, bad)
	}
	long := strings.Repeat("a", 300)
	m.refuse("chunk extension of 300 bytes", head+"5;"+long+"\r\nhello\r\n0\r\n\r\n", nil, post("/{id}", "hello"))
	m.refuse("chunk extensions of 30,000 bytes in all", head+strings.Repeat("1;"+long[:200]+"\r\nh\r\n", 150)+"0\r\n\r\n", nil, post("/{id}", strings.Repeat("h", 150)))
	for _, v := range []struct{ name, raw string }{
		{"in the size", "5"}, {"after the size", "5\r\n"}, {"in the data", "5\r\nhel"}, {"after the data", "5\r\nhello"}, {"before the last chunk", "5\r\nhello\r\n"}, {"in the last size", "5\r\nhello\r\n0"},
		{"after the last size", "5\r\nhello\r\n0\r\n"}, {"in the last line end", "5\r\nhello\r\n0\r\n\r"}, {"in a trailer", "5\r\nhello\r\n0\r\nX: y"}, {"after a trailer", "5\r\nhello\r\n0\r\nX: y\r\n"},
	} {
		m.add(Case{Name: "cut " + v.name, Raw: head + v.raw, Fate: Refused, Cut: true})
	}
	for _, size := range []string{"5e", "0b101", "fffff"} { // sound, but that much does not come
		m.add(Case{Name: "cut in the data of size " + size, Raw: head + size + "\r\nhello\r\n0\r\n\r\n" + smuggled, Fate: Refused, Cut: true})
	}
	for _, v := range []struct{ name, raw string }{
		{"in the request line", "GET /{id}"}, {"after the request line", "GET /{id} HTTP/1.1\r\n"}, {"in a field", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: "}, {"before the end of the head", "GET /{id} HTTP/1.1\r\nHost: {h}\r\n"},
		{"in the end of the head", "GET /{id} HTTP/1.1\r\nHost: {h}\r\n\r"}, {"before the body", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\n\r\n"}, {"in the body", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\n\r\nhell"},
	} {
		m.add(Case{Name: "cut " + v.name, Raw: v.raw, Fate: Refused, Cut: true})
	}
}

// trailers has fields behind a body.
func (m *maker) trailers() {
	head := "POST /{id} HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n%s\r\n5\r\nhello\r\n0\r\n"
	for _, t := range []string{
		"X-Sum: 1", "X-Sum: 1\r\nX-Other: 2", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Content-Length: 100", "Content-Length: 0", "Host: other.test", "Trailer: X", "Authorization: Basic eA==", "Cookie: a=b", "TE: trailers",
		"Connection: close", "Content-Encoding: gzip", "Content-Type: text/plain", "Content-Range: bytes 0-1/2", "Set-Cookie: a=b", "X-Forwarded-For: 1.2.3.4",
	} {
		name, _, _ := strings.Cut(t, ":")
		c := Case{Name: "trailer " + show(t), Raw: fmt.Sprintf(head, "") + t + "\r\n\r\n", Fate: Passes}
		if !strings.HasPrefix(t, "X-Sum") && !strings.HasPrefix(t, "X-Forw") {
			c.Gone = []string{"trailer " + name}
		}
		m.add(c, post("/{id}", "hello"))
		c.Name, c.Raw = "announced "+c.Name, fmt.Sprintf(head, "Trailer: "+name+"\r\n")+t+"\r\n\r\n"
		c.Fate = Either
		m.add(c, post("/{id}", "hello"))
	}
	for _, t := range []string{
		"X : y", "X\x00: y", ": y", "X", " X: y", "X: y\r\n z", "X: \x00", "X: a\rb", "X: a\nY: b", "X: y\n", "GET /{id}/smuggled HTTP/1.1", "GET /{id}/smuggled HTTP/1.1\r\nHost: {h}", "\nX: y", "X\xff: y", "Transfer-Encoding : chunked",
		"Content-Length : 3", "Transfer-Encoding\r\n : chunked",
	} {
		m.refuse("trailer "+show(t), fmt.Sprintf(head, "")+t+"\r\n\r\n", bad)
	}
	m.refuse("trailers of 10,000 bytes", fmt.Sprintf(head, "")+"X: "+strings.Repeat("y", 10000)+"\r\n\r\n", nil, post("/{id}", "hello"))
}

// hopByHop has fields that Connection names, and others that concern one connection only.
func (m *maker) hopByHop() {
	body := "hello"
	for _, v := range []struct{ named, field string }{
		{"Content-Length", ""}, {"content-length", ""}, {"Host", ""}, {"Cookie", "Cookie: a=b"}, {"Authorization", "Authorization: Basic eA=="}, {"X-Forwarded-For", ""}, {"X-Forwarded-Host", ""}, {"Forwarded", ""}, {"X-Request-Id", ""}, {"Via", ""}, {"Content-Type", "Content-Type: text/plain"},
	} {
		for _, form := range []string{"Connection: %s", "Connection: keep-alive, %s", "Connection: %s\r\nConnection: keep-alive", "connection: ,%s,"} {
			line := fmt.Sprintf(form, v.named)
			c := Case{Name: "nominated: " + show(line), Fate: Passes}
			c.Raw = "POST /{id} HTTP/1.1\r\nHost: {h}\r\n" + line + "\r\nContent-Length: 5\r\n"
			if v.field != "" {
				c.Raw += v.field + "\r\n"
				if v.named != "Content-Type" {
					c.Kept = []string{v.named}
				}
			}
			c.Raw += "\r\n" + body
			m.add(c, post("/{id}", body))
		}
	}
	m.passes("nominated: Transfer-Encoding", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkedHello, post("/{id}", "hello"))
	m.passes("nominated: Transfer-Encoding and Content-Length", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Transfer-Encoding, Content-Length\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkedHello, post("/{id}", "hello"))
	m.add(Case{Name: "nominated: X-Mine", Raw: "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: X-Mine\r\nX-Mine: 1\r\n\r\n", Gone: []string{"X-Mine"}}, get("/{id}"))
	for _, l := range []string{"Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: gzip", "Proxy-Connection: close", "TE: chunked, gzip"} {
		name, _, _ := strings.Cut(l, ":")
		m.add(Case{Name: "field " + l, Raw: "GET /{id} HTTP/1.1\r\nHost: {h}\r\n" + l + "\r\n\r\n", Gone: []string{name}}, get("/{id}"))
	}
	m.either("Connection with what is no token", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: \"x\", (y)\r\n\r\n", get("/{id}"))
	m.either("Connection empty", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection:\r\n\r\n", get("/{id}"))
}

// expectations has Expect.
func (m *maker) expectations() {
	head := "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\n"
	for _, v := range []string{"100-continue", "100-Continue", "100-CONTINUE", " 100-continue "} {
		m.add(Case{Name: "Expect: " + v, Raw: head + "Expect: " + v + "\r\n\r\nhello", Fate: Passes, Gone: []string{"Expect"}}, post("/{id}", "hello"))
	}
	for _, v := range []string{"100", "200-ok", "100-continue, 100-continue", "100-continue;q=1", "x", "y 100-continue", "100-continuex", "100-continue\x00", "\v100-continue", "\"100-continue\""} {
		m.refuse("Expect: "+show(v), head+"Expect: "+v+"\r\n\r\nhello", []int{417, 400})
	}
	m.either("Expect twice", head+"Expect: 100-continue\r\nExpect: 100-continue\r\n\r\nhello", post("/{id}", "hello"))
	m.either("Expect empty", head+"Expect:\r\n\r\nhello", post("/{id}", "hello"))
	m.either("Expect of GET", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nExpect: 100-continue\r\n\r\n", get("/{id}"))
	m.either("Expect of HTTP/1.0", "POST /{id} HTTP/1.0\r\nHost: {h}\r\nConnection: keep-alive\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello", post("/{id}", "hello"))
	m.passes("Expect of chunks", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkedHello, post("/{id}", "hello"))
	m.refuse("Expect : 100-continue", head+"Expect : 100-continue\r\n\r\nhello", bad)
	m.refuse("Expect folded", head+"Expect:\r\n 100-continue\r\n\r\nhello", bad)
	m.add(Case{Name: "Expect, and the body is never sent", Raw: head + "Expect: 100-continue\r\n\r\n", Fate: Refused, Cut: true})
	m.refuse("Expect with both lengths", head+"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"+chunkedHello, bad, post("/{id}", "hello"))
}

// methods has each method with and without a body.
func (m *maker) methods() {
	for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "POST", "PROPFIND", "BREW", "get", "M-SEARCH"} {
		r := Request{Method: method, Target: "/{id}"}
		add := m.passes
		if method == "get" || method == "BREW" || method == "M-SEARCH" {
			add = m.either
		}
		add(method+" without a body", method+" /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", r)
		add(method+" with Content-Length 0", method+" /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 0\r\n\r\n", r)
		whole := m.fill(smuggled, "c0000")
		r.Body = smuggled
		add(method+" with a request as its body", fmt.Sprintf("%s /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: %d\r\n\r\n%s", method, len(whole), smuggled), r)
		add(method+" with a request as its chunk", fmt.Sprintf("%s /{id} HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", method, len(whole), smuggled), r)
	}
	m.either("TRACE", "TRACE /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", Request{Method: "TRACE", Target: "/{id}"})
	m.either("TRACE with a body", "TRACE /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5\r\n\r\nhello", Request{Method: "TRACE", Target: "/{id}", Body: "hello"})
	m.either("a method of 100 letters", strings.Repeat("M", 100)+" /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", Request{Method: strings.Repeat("M", 100), Target: "/{id}"})
	m.either("X-HTTP-Method-Override", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nX-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n", post("/{id}", ""))
}

// sequences has several requests on one connection.
func (m *maker) sequences() {
	one := "GET /{id}/a HTTP/1.1\r\nHost: {h}\r\n\r\n"
	m.passes("two in a row", one+"GET /{id}/b HTTP/1.1\r\nHost: {h}\r\n\r\n", get("/{id}/a"), get("/{id}/b"))
	m.passes("a body, then another", "POST /{id}/a HTTP/1.1\r\nHost: {h}\r\nContent-Length: 3\r\n\r\nabc"+"POST /{id}/b HTTP/1.1\r\nHost: {h}\r\nTransfer-Encoding: chunked\r\n\r\n"+chunkedHello, post("/{id}/a", "abc"), post("/{id}/b", "hello"))
	m.passes("an empty line between", one+"\r\n"+"GET /{id}/b HTTP/1.1\r\nHost: {h}\r\n\r\n", get("/{id}/a"), get("/{id}/b"))
	m.passes("ten in a row", strings.Repeat(one, 10), slicesOf(get("/{id}/a"), 10)...)
	m.passes("HEAD, then GET", "HEAD /{id}/a HTTP/1.1\r\nHost: {h}\r\n\r\n"+"GET /{id}/b HTTP/1.1\r\nHost: {h}\r\n\r\n", Request{Method: "HEAD", Target: "/{id}/a"}, get("/{id}/b"))
	for _, second := range []string{"x\r\n", "x\r\n\r\n", "GET ", "GET\r\n\r\n", "\x00", "{\"a\":1}", "0\r\n\r\n", "\n"} {
		// What is no request at all ends the connection, but the one before it was sound.
		c := Case{Name: "sound, then " + show(second), Raw: one + second, Fate: Either}
		m.add(c, get("/{id}/a"))
	}
	m.add(Case{Name: "after a refusal", Raw: "GET /{id}/a HTTP/1.1\r\nHost: {h}\r\nX : y\r\n\r\n" + smuggled, Fate: Refused, Status: bad})
	m.add(Case{Name: "after a refused length", Raw: "POST /{id}/a HTTP/1.1\r\nHost: {h}\r\nContent-Length: 5, 5\r\n\r\nhello" + smuggled, Fate: Refused, Status: bad})
	m.add(Case{Name: "after a target that is too long", Raw: "GET /{id}/" + strings.Repeat("a", 20000) + " HTTP/1.1\r\nHost: {h}\r\n\r\n" + smuggled, Fate: Refused, Status: []int{414, 431, 400}},
		get("/{id}/"+strings.Repeat("a", 20000)), get("/{id}/smuggled"))
	m.passes("Connection: close, then another", "GET /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", get("/{id}"))
}

func slicesOf(r Request, n int) []Request {
	out := make([]Request, n)
	for i := range out {
		out[i] = r
	}
	return out
}

// upgrades has wishes to speak something else.
func (m *maker) upgrades() {
	ws := "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	m.add(Case{Name: "h2c, as curl asks for it", Raw: "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", Fate: Either, Gone: []string{"Upgrade", "HTTP2-Settings"}}, get("/{id}"))
	m.add(Case{Name: "h2c, HTTP2-Settings not nominated", Raw: "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", Fate: Either, Gone: []string{"Upgrade", "HTTP2-Settings"}}, get("/{id}"))
	m.add(Case{Name: "h2c without Connection", Raw: "GET /{id} HTTP/1.1\r\nHost: {h}\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", Fate: Passes, Gone: []string{"Upgrade"}}, get("/{id}"))
	m.add(Case{Name: "Upgrade without Connection", Raw: "GET /{id} HTTP/1.1\r\nHost: {h}\r\n" + ws + "\r\n", Fate: Passes, Gone: []string{"Upgrade"}}, get("/{id}"))
	m.add(Case{Name: "Upgrade to TLS", Raw: "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n", Fate: Either, Gone: []string{"Upgrade"}}, get("/{id}"))
	// The servers know no WebSocket: they answer as if it had not been asked for. What follows must not be taken for its
	// bytes by one and for a request by another.
	for _, v := range []string{"websocket", "WebSocket", "websocket, h2c", "h2c, websocket"} {
		raw := "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Upgrade\r\n" + strings.Replace(ws, "websocket", v, 1) + "\r\n"
		m.either("Upgrade to "+v+" that is declined", raw, get("/{id}"))
		m.either("Upgrade to "+v+" that is declined, with a request behind", raw+smuggled, get("/{id}"), get("/{id}/smuggled"))
	}
	m.either("Upgrade of another version of WebSocket", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Upgrade\r\n"+strings.Replace(ws, "13", "777", 1)+"\r\n"+smuggled, get("/{id}"), get("/{id}/smuggled"))
	whole := m.fill(smuggled, "c0000")
	m.refuse("Upgrade with a body", fmt.Sprintf("GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Upgrade\r\n%sContent-Length: %d\r\n\r\n%s", ws, len(whole), smuggled), bad, Request{Method: "GET", Target: "/{id}", Body: smuggled})
	m.refuse("Upgrade with chunks", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nConnection: Upgrade\r\n"+ws+"Transfer-Encoding: chunked\r\n\r\n"+chunkedHello, bad, Request{Method: "GET", Target: "/{id}", Body: "hello"})
}

// large has heads at and over every limit.
func (m *maker) large() {
	over := []int{400, 414, 431}
	huge := strings.Repeat("a", 70000)
	m.refuse("a target of 70,000 bytes", "GET /{id}/"+huge+" HTTP/1.1\r\nHost: {h}\r\n\r\n", over)
	m.refuse("a value of 70,000 bytes", "GET /{id} HTTP/1.1\r\nHost: {h}\r\nX: "+huge+"\r\n\r\n", over)
	m.refuse("a name of 70,000 bytes", "GET /{id} HTTP/1.1\r\nHost: {h}\r\n"+huge+": y\r\n\r\n", over)
	m.refuse("a method of 70,000 bytes", huge+" /{id} HTTP/1.1\r\nHost: {h}\r\n\r\n", append(over, 501))
	m.refuse("10,000 fields", "GET /{id} HTTP/1.1\r\nHost: {h}\r\n"+strings.Repeat("X: yyyyyy\r\n", 10000)+"\r\n", over)
	m.refuse("1,000 fields", "GET /{id} HTTP/1.1\r\nHost: {h}\r\n"+strings.Repeat("X: y\r\n", 1000)+"\r\n", over, get("/{id}"))
	m.passes("50 fields", "GET /{id} HTTP/1.1\r\nHost: {h}\r\n"+strings.Repeat("X: y\r\n", 50)+"\r\n", get("/{id}"))
	m.passes("a body of 4,000 bytes", "POST /{id} HTTP/1.1\r\nHost: {h}\r\nContent-Length: 4000\r\n\r\n"+strings.Repeat("b", 4000), post("/{id}", strings.Repeat("b", 4000)))
}
