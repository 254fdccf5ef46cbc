// Package standard holds the edge's filters that need no room of their own: who asks, request ids, deadlines, loops, CORS,
// changes of header fields, compression, answers of the edge's own. At Netflix these came with Zuul.
//
//	s := standard.New(standard.Config{Properties: props, Instance: id})
//	filter.NewChain(filter.ChainConfig{Filters: append(s.Filters(), mine...), Error: s.ErrorResponse, ...})
//
// The filters of every chain, by kind and order:
//
//	INBOUND   -1000 ConnectionInfo  who asks; forwarding fields, if the peer may send them; debugging
//	           -995 RequestId       X-Request-Id
//	           -992 Trace           traceparent, B3
//	           -990 Improper        400 for what no route may see
//	           -980 Loop            508 for a request that is led back here again and again
//	           -970 Healthcheck     200 healthy at /healthcheck
//	           -800 Deadline        how long the request may take, before its route is known
//	           -500 Cors            of all routes, by properties
//	            -90 RouteDeadline   how long it may take by its route
//	            -80 BodyLimit       413
//	            950 Onward          what the origin is told: Via, X-Forwarded-Prefix, X-Originating-URL
//	            960 RequestBuffer   a body is at hand, or the first of it, before its app is asked
//	OUTBOUND   -900 Outward         what only services say to each other is taken out, X-Request-Id put in
//	            450 GRPCStatus      answers of the edge's own to gRPC calls become gRPC's
//	            460 CorsHeaders
//	            600 GZipResponseFilter  gzip, br, zstd
//	            700 DebugHeaders    X-Zuul-*
//
// Routes may have CORS of their own, by [RouteCors].
//
// # What it promises
//   - Nothing a client says of itself is believed: forwarding fields, X-Edge-*, X-Ipc-*, X-Fit and client certificates by
//     header reach no origin, unless the peer is trusted.
//   - A request with all these filters allocates nothing, unless it is compressed or debugged.
//
// # What it does not
//   - Fields that belong to one connection, such as Connection and Keep-Alive, are the engines' and the proxy's.
package standard

import (
	"errors"
	"math"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Config says what the filters need to know. All of it may be empty.
type Config struct {
	Properties *config.Properties
	Meter      *meter.Registry
	Instance   string       // id of this edge, told in X-Zuul-Instance
	Healthy    func() error // why the edge should get no requests now; nil, or nil from it: it should
}

// Standard is the filters of every chain. It has no other state than properties.
type Standard struct {
	// ErrorResponse is the endpoint that answers for [filter.Exchange.Err]: with a problem detail if the client asks for
	// JSON, in gRPC's way if it speaks that, else in plain text.
	ErrorResponse *filter.Filter

	// NoRoute is the endpoint that answers 404.
	NoRoute *filter.Filter

	filters []*filter.Filter
}

// New returns the filters. They follow these live properties:
//
//	edge.allowProxyHeadersWhen          TRUSTED_CIDRS  who may send forwarding fields; or ALWAYS, MUTUAL_SSL_AUTH, NEVER
//	edge.trusted.cidrs                  (none)         peers that may, such as 10.0.0.0/8, 192.0.2.7
//	edge.profile                        (none)         zuul: ALWAYS, and forwarding fields as Zuul has them
//	edge.headers.xforwarded.mode        append         the peer is appended to X-Forwarded-For; absent: only put in if there is none
//	zuul.headers.xforwarded.overwrite   false          forwarding fields are set even if there are any
//	zuul.proxy.headers.host.blacklist   (none)         hosts for which nobody may send them
//	edge.headers.originatingUrl         false          X-Originating-URL to the origin
//	edge.debug.token                    (none)         X-Edge-Debug with this value makes answers tell X-Zuul-*; trusted peers need none
//	edge.trace.create                   false          whether a request without a trace gets a new one
//	edge.trace.recorded                 0.01           share of the new ones that services are to record
//	edge.timeouts.request               10s            how long a request may take, 1ms to 1h
//	edge.body.maxBytes                  0              how large a request's body may be; 0 is any size
//	edge.http.request.buffer            65536          bytes of a body that are waited for before its app is asked; 0: none, up to 16 MiB
//	edge.http.request.buffer.total      268435456      of all together; with more of them bodies pass as they come
//	edge.healthcheck.path               /healthcheck   where the edge tells whether it is healthy; empty: nowhere
//	edge.cors.origins                   (none)         origins whose pages may use all routes, such as https://*.example.com
//	zuul.response.gzip.filter.enabled   true
//	zuul.min.gzip.body.size             860            bytes; smaller answers are left as they are
//	zuul.gzip.contenttypes              (texts)        types that are compressed
//	edge.compression.encodings          zstd,br,gzip   those offered, best first
//
// and further ones of edge.cors: methods, headers, expose, credentials, maxAge.
func New(c Config) *Standard {
	p := c.Properties
	limits := config.Must(config.Bind(p, "edge.", limits{Timeout: 10 * time.Second}))
	corsIn, corsOut := liveCors(p)
	return &Standard{
		ErrorResponse: errorResponse(),
		NoRoute:       noRoute(),
		filters: []*filter.Filter{
			connectionInfo(p), requestID(), trace(p), improper(), loop(), healthcheck(p, c.Healthy), deadline(limits), corsIn, routeDeadline(), bodyLimit(limits), onward(p), newGatherer(p, c.Meter).filter(),
			outward(), grpcStatus(), corsOut, compression(p, c.Meter), debugHeaders(c.Instance),
		},
	}
}

// Filters returns the inbound and outbound filters.
func (s *Standard) Filters() []*filter.Filter { return s.filters[:len(s.filters):len(s.filters)] }

// limits are those of every route that has none of its own.
type limits struct {
	Timeout time.Duration `config:"timeouts.request"`
	MaxBody int64         `config:"body.maxBytes"` // 0 = any
}

// Validate keeps what cannot be meant out of force.
func (l *limits) Validate() error {
	return errors.Join(config.Between("edge.timeouts.request", l.Timeout, time.Millisecond, time.Hour), config.Between("edge.body.maxBytes", l.MaxBody, 0, math.MaxInt64))
}
