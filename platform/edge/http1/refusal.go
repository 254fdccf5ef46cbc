package http1

import "github.com/roadbed/roadbed/platform/edge/filter"

// Refusal is a message that breaks a rule: what the rule is, how a client is answered, and a sentence that tells. A client's
// connection is always closed after one, because where the next message would begin is not known any more.
type Refusal struct {
	Rule     string // a short name, for metrics: bare-lf
	Status   int    // of the answer
	Category filter.Category
	What     string // happened
	Why      string // that is refused, and what to do
}

// Error returns the sentence.
func (r *Refusal) Error() string { return r.What + "; " + r.Why }

func bad(rule, what, why string) *Refusal {
	return &Refusal{rule, 400, filter.FailureBadRequest, what, why}
}

func refusal(status int, rule, what, why string) *Refusal {
	return &Refusal{rule, status, filter.FailureBadRequest, what, why}
}

// The rules of heads and bodies. RFC 9112 and 9110 leave some of these to the recipient; wherever two recipients could read
// one message in two ways, it is refused here.
var (
	bareLF        = bad("bare-lf", "a line ends in LF alone", "lines end in CR LF (RFC 9112 section 2.2)")
	bareCR        = bad("bare-cr", "there is a CR without LF", "a CR stands only before the LF that ends a line (RFC 9112 section 2.2)")
	control       = bad("control", "there is a control character", "remove it: of these only the tab may be in a field's value (RFC 9110 section 5.5)")
	emptyName     = bad("field-name", "a field has no name", "a field is a name, a colon and a value (RFC 9112 section 5)")
	badName       = bad("field-name", "a field's name has a character that no name may have", "names are letters, digits and !#$%&'*+-.^_`|~ (RFC 9110 section 5.1)")
	nameSpace     = bad("field-name-space", "there is white space between a field's name and its colon", "remove it: recipients differ in what they make of it (RFC 9112 section 5.1)")
	noColon       = bad("field-colon", "a line of the head has no colon", "a field is a name, a colon and a value (RFC 9112 section 5)")
	folded        = bad("folded", "a line begins with white space", "put a field on one line: folding is obsolete (RFC 9112 section 5.2)")
	leadingSpace  = bad("leading-space", "the first field begins with white space", "remove it: recipients differ in what they make of it (RFC 9112 section 2.2)")
	blankLines    = bad("blank-lines", "there is more than one empty line before the request", "begin with the request line (RFC 9112 section 2.2)")
	requestLine   = bad("request-line", "the first line is not a method, a target and a version with one space between each", "write it as in: GET /path HTTP/1.1 (RFC 9112 section 3)")
	badVersion    = bad("version", "the protocol is not HTTP", "the request line ends in HTTP/1.1 or HTTP/1.0, in capitals (RFC 9112 section 2.3)")
	noVersion     = bad(badVersion.Rule, badVersion.What, badVersion.Why) // not even something like it
	otherVersion  = refusal(505, "version", "the version of HTTP is neither 1.0 nor 1.1", "use HTTP/1.1; HTTP/2 begins with its preface or with ALPN, not with this line")
	underscore    = bad("underscore", "a field's name has an underscore", "this listener refuses these (edge.headers.underscores): many servers read _ as -")
	noHost        = bad("host", "there is no Host field", "HTTP/1.1 wants exactly one (RFC 9112 section 3.2)")
	manyHosts     = bad("host", "there is more than one Host field", "HTTP/1.1 wants exactly one (RFC 9112 section 3.2)")
	badHost       = bad("host", "the host is not a name or address with a port or without", "letters, digits and -._~ or an IPv6 address in brackets, then perhaps :port (RFC 9110 section 7.2)")
	otherHost     = bad("host-differs", "the target's host is not the Host field's", "let both be the same (RFC 9112 section 3.2.2)")
	noConnect     = refusal(405, "connect", "CONNECT makes a tunnel", "this is a gateway to services and no forward proxy")
	asterisk      = bad("asterisk", "the target is * and the method not OPTIONS", "ask for a path (RFC 9112 section 3.2.4)")
	badTarget     = bad("target", "the target is neither a path nor an http URL", "begin it with / or with http:// (RFC 9112 section 3.2)")
	fragment      = bad("fragment", "the target has a fragment", "leave out # and what follows: it is the client's own (RFC 9112 section 3.2)")
	targetByte    = bad("target-byte", "the target has a byte that is no visible ASCII character", "percent-encode it (RFC 3986 section 2.1)")
	percent       = bad("percent", "the path has a % that two hexadecimal digits do not follow", "percent-encode it as %25 (RFC 3986 section 2.1)")
	percentZero   = bad("percent-zero", "the path has %00", "remove it: no resource's name has a NUL")
	dotParameter  = bad("dot-parameter", "a path segment . or .. has a parameter", "remove it: some servers read ..; as .. and so leave the directory that was asked for")
	encodedSlash  = bad("encoded-slash", "the path has an encoded slash or a backslash", "this listener refuses these (edge.path.encodedslash): some servers read them as /")
	twoFramings   = bad("two-framings", "there are both Transfer-Encoding and Content-Length", "send one: recipients differ in which they believe (RFC 9112 section 6.3)")
	manyLengths   = bad("content-length", "there is more than one Content-Length", "send one (RFC 9112 section 6.3)")
	badLength     = bad("content-length", "Content-Length is not a number of at most 18 digits", "send digits alone (RFC 9110 section 8.6)")
	oldEncoding   = bad("transfer-encoding-1.0", "there is a Transfer-Encoding with HTTP/1.0", "use HTTP/1.1, which has it (RFC 9112 section 6.1)")
	badEncoding   = bad("transfer-encoding", "Transfer-Encoding is not chunked alone in one field", "send Transfer-Encoding: chunked (RFC 9112 section 6.1)")
	otherEncoding = refusal(501, "transfer-encoding", "the transfer is compressed", "send Transfer-Encoding: chunked, and compress with Content-Encoding (RFC 9112 section 6.1)")
	badExpect     = refusal(417, "expect", "something other than 100-continue is expected", "send Expect: 100-continue or none (RFC 9110 section 10.1.1)")
	upgradeBody   = bad("upgrade-body", "a request for another protocol has a body", "send it without: what follows it may be of the other protocol")
	lineTooLong   = refusal(414, "line-length", "the request line is longer than allowed", "shorten the target (server.http.decoder.maxInitialLineLength)")
	headTooLarge  = &Refusal{"head-size", 431, filter.FailureHeaderFieldsTooLarge, "the fields are longer than allowed", "send less, cookies often are the cause (server.http.decoder.maxHeaderSize)"}
	manyFields    = &Refusal{"head-fields", 431, filter.FailureHeaderFieldsTooLarge, "there are more fields than allowed", "send fewer (edge.http.maxHeaders)"}
	chunkSize     = bad("chunk-size", "a chunk's size is not 1 to 15 hexadecimal digits", "send digits alone (RFC 9112 section 7.1)")
	chunkLine     = bad("chunk-line", "the line of a chunk's size is longer than allowed", "send shorter extensions or none")
	chunkExt      = bad("chunk-extensions", "the extensions of chunks are longer than allowed in all", "send shorter ones or none")
	chunkEnd      = bad("chunk-end", "a chunk's data is not followed by CR LF", "let the size be that of the data (RFC 9112 section 7.1)")
	trailerSize   = &Refusal{"trailer-size", 431, filter.FailureHeaderFieldsTooLarge, "the trailers are longer than allowed", "send less"}
	slowBody      = &Refusal{"body-slow", 408, filter.FailureClientTimeout, "the body comes too slowly", "send faster, and never pause for long (httpRequestReadTimeout, edge.http.body.minrate)"}
	statusLine    = bad("status-line", "the first line is not a version, a status of three digits and a reason", "the origin must answer as in: HTTP/1.1 200 OK (RFC 9112 section 4)")
	stateless     = bad("status-line", "the origin changed the protocol without being asked to", "101 answers a request with Upgrade only (RFC 9110 section 15.2.2)")
)
