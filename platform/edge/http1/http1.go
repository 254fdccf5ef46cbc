// Package http1 speaks HTTP/1.1 on both sides of the edge, by a parser of its own that has no lenient mode. At Netflix this
// was the Netty codec under Zuul.
//
// # Why so strict
//
// A gateway and the server behind it each decide where a message ends. If they differ, what one takes for a body the other
// takes for the next request, and whoever sent it has smuggled a request past the gateway, or into somebody else's
// connection. Every such attack lives on something that two recipients read in two ways: two lengths, a length and a
// chunked body, a line that ends in LF alone, a space before a colon, a folded line, a sign before a number. All of these are
// refused here, with a sentence that tells the rule, and the connection is closed, because nobody knows where the next message
// would begin. What is not refused is never passed on as it came: the head that the origin gets is written anew from
// what was understood, with exactly one field that frames the body. Answers of origins are held to the same rules; one that
// breaks them is answered 502 for, since it may as well be the answer to another request.
//
// # How it reads
//
// A head is parsed where it lies, in the connection's read buffer: names, values, host and path of the exchange are views of
// that buffer, and nothing is allocated. One pass looks at each byte once, values eight at a time. If the head is not whole,
// the parser is called again with more bytes behind those it had; wherever they were split, it comes to the same result, and
// it refuses as soon as it can rather than wait for the end of a line that breaks a rule.
//
// The fields of an exchange are those that go from end to end. Host, Content-Length, Transfer-Encoding, Connection with
// what it names, Keep-Alive, Proxy-Connection, Upgrade, Expect and TE (but for trailers) are taken in by the engine, are told
// in fields of the exchange, and are written by the engine alone.
package http1
