package smuggle

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Seen is one whole request that reached a server.
type Seen struct {
	Message          // as the proxy wrote it
	Echo    *Request // as the server understood it; nil if it refused it
	Status  int      // that the server answered with; 0 if with nothing
}

// Outcome is what became of a case.
type Outcome struct {
	Seen     []Seen
	Statuses []int // of the answers that the client got, without informational ones
	Closed   bool  // whether the connection ended after them
}

// Judge says what is wrong about an outcome, nothing if the proxy was safe: each request is either refused, or the server
// received it as exactly one, the same. Whatever is behind a refused one is as refused. What a lenient proxy makes of a
// case that nobody may read is not held against it as long as the server makes the same of it.
func (c *Case) Judge(o Outcome) error {
	var wrong []error
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	next := 0 // of c.Reads
	o.Seen = answered(o.Seen)
	for _, s := range o.Seen {
		if len(c.Reads) > 0 {
			at := slices.IndexFunc(c.Reads[next:], func(r Request) bool { return sameRequest(s.Request, r) })
			if at < 0 {
				complain("the server received %s", s.Request)
				continue
			}
			next += at + 1
		}
		if s.Echo != nil && !sameRequest(*s.Echo, s.Request) {
			complain("the server understood %s as %s", s.Request, *s.Echo)
		}
		if s.Status == 0 {
			complain("the server gave no answer to %s", s.Request)
		}
	}
	good := 0
	for _, s := range o.Statuses {
		if s < 400 {
			good++
		}
	}
	if good > len(o.Seen) && !c.Local {
		complain("the client got the answers %v, the server only %d requests", o.Statuses, len(o.Seen))
	}
	if most := max(len(c.Reads), len(o.Seen)+1); len(o.Statuses) > most {
		complain("the client got %d answers, %v, to at most %d requests", len(o.Statuses), o.Statuses, most)
	}
	if !o.Closed && len(o.Statuses) > 0 {
		complain("the connection stays open after the answers %v", o.Statuses)
	}
	if o.Closed && len(o.Statuses) == 0 && !c.Cut {
		complain("the client got no answer")
	}
	return errors.Join(wrong...)
}

// JudgeStrictly says beyond Judge what is not as the case's fate wants it.
func (c *Case) JudgeStrictly(o Outcome) error {
	if err := c.Judge(o); err != nil {
		return err
	}
	o.Seen = answered(o.Seen)
	var wrong []error
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	switch {
	case !o.Closed:
		complain("the proxy waits for more")
	case c.Fate == Passes && len(o.Seen) != len(c.Reads):
		complain("the client got the answers %v and the server %d requests; all %d are sound", o.Statuses, len(o.Seen), len(c.Reads))
	case c.Fate == Refused && len(o.Seen) > 0:
		complain("the server received %s; it must be refused with %v", o.Seen[0].Request, c.Status)
	case c.Fate == Refused && !c.Cut && len(o.Statuses) != 1:
		complain("the client got the answers %v; want one refusal", o.Statuses)
	case c.Fate == Refused && !c.Cut && len(c.Status) > 0 && !slices.Contains(c.Status, o.Statuses[0]):
		complain("refused with %d, want one of %v", o.Statuses[0], c.Status)
	}
	for i, s := range o.Seen {
		if c.Fate == Passes && i < len(c.Reads) && s.Target != c.Reads[i].Target {
			complain("the server was asked for %s, want %s", s.Target, c.Reads[i].Target)
		}
		for _, f := range s.Flaws {
			complain("to the server, %s", f)
		}
		for _, f := range c.Gone {
			name, isTrailer := strings.CutPrefix(f, "trailer ")
			if _, has := s.Value(name); isTrailer && s.Trailer(name) || !isTrailer && has {
				complain("%s reached the server", f)
			}
		}
	}
	if len(o.Seen) > 0 {
		for _, f := range c.Kept {
			if _, has := o.Seen[0].Value(f); !has {
				complain("%s did not reach the server", f)
			}
		}
	}
	return errors.Join(wrong...)
}

// idempotent are the methods of requests that may be sent again. spec: RFC 9110 §9.2.2
var idempotent = []string{"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}

// answered leaves out those that a server did not answer, for it closed a connection which it had left open for long, and
// that were sent once more.
func answered(all []Seen) (out []Seen) {
	for _, s := range all {
		again := func(o Seen) bool { return o.Status != 0 && o.Request == s.Request }
		if s.Status != 0 || !slices.Contains(idempotent, s.Method) || !slices.ContainsFunc(all, again) {
			out = append(out, s)
		}
	}
	return out
}

// sameRequest reports whether two requests ask the same. The case of the host says nothing, nor does how bytes of the target
// are percent-encoded, as long as none becomes or ceases to be a delimiter, nor a "?" with nothing behind it, nor a second
// slash at the start, which httpd takes for one.
func sameRequest(a, b Request) bool {
	return a.Method == b.Method && a.Body == b.Body && strings.EqualFold(a.Host, b.Host) && plain(a.Target) == plain(b.Target)
}

// plain decodes what of a target is no delimiter.
func plain(target string) string {
	target = strings.TrimSuffix(target, "?")
	if strings.HasPrefix(target, "//") {
		target = target[1:]
	}
	var b strings.Builder
	for i := 0; i < len(target); i++ {
		c := target[i]
		if c == '%' && i+2 < len(target) {
			if n, err := strconv.ParseUint(target[i+1:i+3], 16, 8); err == nil {
				if strings.IndexByte("/?#%\\\r\n\x00", byte(n)) < 0 {
					c = byte(n)
					i += 2
				} else {
					b.WriteString(strings.ToUpper(target[i : i+3]))
					i += 2
					continue
				}
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}
