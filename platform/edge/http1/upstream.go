package http1

import (
	"io"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Outgoing is a request to an origin.
type Outgoing struct {
	Method, Host, Target string
	Header               *filter.Header // end to end; what frames the message and what is the connection's is left out
	ContentLength        int64          // of Body; -1 is unknown, 0 is none
	Body                 io.Reader
	Deadline             int64 // for the answer's head, by [filter.Now]; 0: none
	Upgrade              bool  // ask for the protocol of x.Request.Upgrade

	Interim func(status int, h *filter.Header) // told of each 1xx answer but 100 and 101; nil: nobody
	Done    func(u *Upstream, reusable bool)   // called once, when the answer's body is at its end or given up
}

// Upstream is one connection to an origin.
type Upstream struct{}
