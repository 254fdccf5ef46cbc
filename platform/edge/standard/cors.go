package standard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// CorsConfig says which pages of other origins may ask, and for what. Source of the rules: the Fetch standard, CORS
// protocol.
type CorsConfig struct {
	Origins     []string      `config:"origins" json:"origins"`         // https://app.example.com, https://*.example.com, or *
	Methods     []string      `config:"methods" json:"methods"`         // that may be asked for; none: GET, HEAD, POST; * is any
	Headers     []string      `config:"headers" json:"headers"`         // that a request may carry; * is any
	Expose      []string      `config:"expose" json:"expose"`           // of an answer that a page may read
	Credentials bool          `config:"credentials" json:"credentials"` // whether cookies and the like may be sent
	MaxAge      time.Duration `config:"maxAge" json:"-"`                // how long a browser may remember it, up to 24h; 0: as the browser likes
}

// Validate returns an error if c cannot be meant.
func (c *CorsConfig) Validate() error {
	var errs []error
	for _, o := range c.Origins {
		scheme, host, ok := strings.Cut(o, "://")
		if o != "*" && (!ok || scheme == "" || host == "" || strings.ContainsAny(host, "/ ,?#@") || strings.Contains(strings.TrimPrefix(host, "*."), "*")) {
			errs = append(errs, fmt.Errorf("origin %q is neither * nor of the form https://app.example.com or https://*.example.com", o))
		}
		if o == "*" && c.Credentials {
			errs = append(errs, errors.New("origin * with credentials would let every page act as the user; name the origins"))
		}
	}
	for _, names := range [][]string{c.Methods, c.Headers, c.Expose} {
		for _, n := range names {
			if n != "*" && !filter.Token(n) {
				errs = append(errs, fmt.Errorf("%q is no name of a method or header", n))
			}
		}
	}
	errs = append(errs, config.Between("maxAge", c.MaxAge, 0, 24*time.Hour))
	return errors.Join(errs...)
}

// cors is a CorsConfig made ready.
type cors struct {
	CorsConfig
	methods, headers, expose, maxAge string // as the fields have them
}

func newCors(c CorsConfig) *cors {
	r := &cors{CorsConfig: c, methods: strings.Join(c.Methods, ", "), headers: strings.Join(c.Headers, ", "), expose: strings.Join(c.Expose, ", ")}
	if len(c.Methods) == 0 {
		r.methods = "GET, HEAD, POST"
	}
	if c.MaxAge > 0 {
		r.maxAge = strconv.Itoa(int(c.MaxAge / time.Second))
	}
	return r
}

// allows returns what Access-Control-Allow-Origin says to origin; empty if it may not.
func (c *cors) allows(origin string) string {
	for _, o := range c.Origins {
		if o == "*" {
			return "*"
		}
		if strings.EqualFold(o, origin) {
			return origin
		}
		if scheme, domain, ok := strings.Cut(o, "://*"); ok {
			rest, found := strings.CutPrefix(strings.ToLower(origin), strings.ToLower(scheme)+"://")
			if found && strings.HasSuffix(rest, strings.ToLower(domain)) && len(rest) > len(domain) {
				return origin
			}
		}
	}
	return ""
}

// varies reports whether an answer depends on who asks.
func (c *cors) varies() bool { return len(c.Origins) != 1 || c.Origins[0] != "*" }

// preflight reports whether x asks beforehand whether a request would be allowed.
func preflight(x *filter.Exchange) bool {
	return x.Request.Method == http.MethodOptions && x.Request.Header.Has("Origin") && x.Request.Header.Has("Access-Control-Request-Method")
}

// answer answers a preflight. One that is not allowed gets no permission, which the browser then explains.
func (c *cors) answer(x *filter.Exchange) {
	q := &x.Request.Header
	asked := q.Get("Access-Control-Request-Headers")
	method := q.Get("Access-Control-Request-Method")
	origin := c.allows(q.Get("Origin"))
	x.Answer(http.StatusNoContent, "")
	x.SetCategory(filter.Success, "")
	h := &x.Response.Header
	h.Add("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
	if origin == "" {
		return
	}
	h.Add("Access-Control-Allow-Origin", origin)
	if c.Credentials {
		h.Add("Access-Control-Allow-Credentials", "true")
	}
	methods, headers := c.methods, c.headers
	if slices.Contains(c.Methods, "*") && filter.Token(method) { // * itself means nothing once there are credentials
		methods = method
	}
	if slices.Contains(c.Headers, "*") {
		headers = asked
	}
	h.Add("Access-Control-Allow-Methods", methods)
	if headers != "" {
		h.Add("Access-Control-Allow-Headers", headers)
	}
	if c.maxAge != "" {
		h.Add("Access-Control-Max-Age", c.maxAge)
	}
}

// mark tells the browser whether the page may read the answer.
func (c *cors) mark(x *filter.Exchange) {
	h := &x.Response.Header
	if c.varies() {
		vary(h, "Origin")
	}
	origin := c.allows(x.Request.Header.Get("Origin"))
	if origin == "" {
		return
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if c.Credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	} else {
		h.Del("Access-Control-Allow-Credentials")
	}
	if c.expose != "" {
		h.Set("Access-Control-Expose-Headers", c.expose)
	}
}

// RouteCors returns the filters of a route whose answers pages of other origins may read, from what the route's document
// says under cors: a [CorsConfig] with maxAge written like 10m. The first answers preflights, the second marks answers.
func RouteCors(with json.RawMessage) ([]*filter.Filter, error) {
	var doc struct {
		CorsConfig
		MaxAge string `json:"maxAge"`
	}
	d := json.NewDecoder(bytes.NewReader(with))
	d.DisallowUnknownFields()
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	c := doc.CorsConfig
	if doc.MaxAge != "" {
		var err error
		if c.MaxAge, err = config.ParseDuration(doc.MaxAge); err != nil {
			return nil, fmt.Errorf("maxAge: %w", err)
		}
	}
	if len(c.Origins) == 0 {
		return nil, errors.New("name the origins whose pages may ask, such as https://app.example.com")
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	r := newCors(c)
	return []*filter.Filter{
		{Name: "RouteCors", Kind: filter.Inbound, Quick: true, If: preflight, Apply: func(x *filter.Exchange) error { r.answer(x); return nil }},
		{Name: "RouteCors", Kind: filter.Outbound, Quick: true, Always: true,
			If:    func(x *filter.Exchange) bool { return !preflight(x) },
			Apply: func(x *filter.Exchange) error { r.mark(x); return nil }},
	}, nil
}

// liveCors is Cors for all routes, by properties.
func liveCors(p *config.Properties) (in, out *filter.Filter) {
	settings := config.Must(config.Bind(p, "edge.cors.", corsSettings{}))
	return &filter.Filter{Name: "Cors", Kind: filter.Inbound, Order: -500, Quick: true,
			If: preflight,
			Apply: func(x *filter.Exchange) error {
				if c := settings.Get().ready; c != nil {
					c.answer(x)
				}
				return nil
			}}, &filter.Filter{Name: "CorsHeaders", Kind: filter.Outbound, Order: 460, Quick: true, Always: true,
			Apply: func(x *filter.Exchange) error {
				if c := settings.Get().ready; c != nil && !preflight(x) {
					c.mark(x)
				}
				return nil
			}}
}

// corsSettings is a CorsConfig that properties fill.
type corsSettings struct {
	CorsConfig
	ready *cors // nil: there are no origins
}

// Validate makes the settings ready, once and before anybody sees them.
func (s *corsSettings) Validate() error {
	if err := s.CorsConfig.Validate(); err != nil {
		return err
	}
	s.ready = nil
	if len(s.Origins) > 0 {
		s.ready = newCors(s.CorsConfig)
	}
	return nil
}

// vary notes that an answer depends on a field of the request.
func vary(h *filter.Header, name string) {
	if !h.Contains("Vary", name) && !h.Contains("Vary", "*") {
		h.Add("Vary", name)
	}
}
