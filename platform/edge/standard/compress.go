package standard

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// textTypes are those that are compressed unless a property says otherwise. Source: Zuul 2, GZipResponseFilter, and later
// ones of the kind. Event streams and gRPC are none of them.
var textTypes = []string{
	"text/html", "text/css", "text/javascript", "text/plain", "text/xml", "text/csv", "text/markdown",
	"application/javascript", "application/x-javascript", "application/json", "application/problem+json", "application/ld+json",
	"application/manifest+json", "application/xml", "application/rss+xml", "application/atom+xml", "application/xhtml+xml", "application/graphql-response+json",
	"application/wasm", "application/vnd.ms-fontobject", "application/x-font-opentype", "application/x-font-truetype", "application/x-font-ttf",
	"font/eot", "font/otf", "font/ttf", "image/svg+xml", "image/vnd.microsoft.icon",
}

// encodings is a list of those offered, best first.
type encodings []string

// UnmarshalText reads names with commas between.
func (e *encodings) UnmarshalText(b []byte) error {
	list, err := config.ParseList(string(b))
	if err != nil {
		return err
	}
	for _, s := range list {
		if !slices.Contains(known[:], s) {
			return fmt.Errorf("%q is none of zstd, br, gzip", s)
		}
	}
	*e = list
	return nil
}

type compressSettings struct {
	Encodings encodings `config:"encodings"`
}

// compression compresses answers that gain by it.
func compression(p *config.Properties, m *meter.Registry) *filter.Filter {
	enabled := p.Bool("zuul.response.gzip.filter.enabled", true)
	least := p.Int("zuul.min.gzip.body.size", 860)
	types := p.List("zuul.gzip.contenttypes", textTypes)
	offered := config.Must(config.Bind(p, "edge.compression.", compressSettings{Encodings: encodings{"zstd", "br", "gzip"}}))
	pools := newPools()
	count := make(map[string]*meter.Counter)
	for name := range pools {
		count[name] = m.Counter("edge.compressed", "encoding", name)
	}
	return &filter.Filter{Name: "GZipResponseFilter", Kind: filter.Outbound, Order: 600, Quick: true,
		If: func(x *filter.Exchange) bool {
			return enabled.Get() && compressible(x, int64(least.Get())) && listed(types.Get(), x.Response.Header.Get("Content-Type"))
		},
		Apply: func(x *filter.Exchange) error {
			h := &x.Response.Header
			vary(h, "Accept-Encoding")
			name := choose(&x.Request.Header, offered.Get().Encodings)
			if name == "" {
				return nil
			}
			count[name].Inc()
			h.Set("Content-Encoding", name)
			h.Del("Content-Length")
			h.Del("Accept-Ranges")
			h.Del("Content-MD5")
			if tag := h.Get("Etag"); strings.HasPrefix(tag, `"`) {
				h.Set("Etag", x.Keep(append([]byte("W/"), tag...)))
			}
			return pools[name].wrap(x)
		}}
}

// compressible reports whether x's answer may be compressed, whatever the client says and whatever its type is.
func compressible(x *filter.Exchange, least int64) bool {
	r := &x.Response
	switch {
	case r.Body == nil || r.Takeover != nil || x.Request.Method == http.MethodHead:
		return false
	case r.Status < 200 || r.Status == http.StatusNoContent || r.Status == http.StatusPartialContent || r.Status == http.StatusNotModified:
		return false
	case r.ContentLength >= 0 && r.ContentLength < least || r.Trailer != nil:
		return false
	}
	return !r.Header.Has("Content-Encoding") && !r.Header.Contains("Cache-Control", "no-transform")
}

// listed reports whether types has the media type of a Content-Type.
func listed(types []string, value string) bool {
	if i := strings.IndexByte(value, ';'); i >= 0 {
		value = value[:i]
	}
	value = strings.Trim(value, " \t")
	return slices.ContainsFunc(types, func(t string) bool { return filter.Same(t, value) })
}

// known are the encodings that there are.
var known = [...]string{"zstd", "br", "gzip"}

// choose returns which of the encodings offered the client likes best; the first of those it likes equally; empty if none.
// spec: RFC 9110 §12.5.3
func choose(h *filter.Header, offered []string) string {
	best, most, liked := "", 0, liking(h)
	for _, name := range offered {
		for i := range known {
			if q := liked[i]; q > most && known[i] == name {
				best, most = name, q
			}
		}
	}
	return best
}

// liking returns how much the client wants each of the known encodings, 0 to 1000.
func liking(h *filter.Header) (liked [len(known)]int) {
	others := 0
	var named [len(known)]bool
	for v := range h.Values("Accept-Encoding") {
		for item := range strings.SplitSeq(v, ",") {
			coding, params, _ := strings.Cut(item, ";")
			if coding = strings.Trim(coding, " \t"); coding == "*" {
				others = weight(params)
			}
			for i, name := range known {
				if !named[i] && (filter.Same(coding, name) || name == "gzip" && filter.Same(coding, "x-gzip")) {
					named[i], liked[i] = true, weight(params)
				}
			}
		}
	}
	for i := range known {
		if !named[i] {
			liked[i] = others
		}
	}
	return liked
}

// weight reads q=0.5 as 500; without a q, or with one that cannot be read, it is 1000 or 0.
func weight(params string) int {
	for p := range strings.SplitSeq(params, ";") {
		name, v, ok := strings.Cut(strings.Trim(p, " \t"), "=")
		if !ok || !filter.Same(name, "q") {
			continue
		}
		whole, part, _ := strings.Cut(v, ".")
		if whole == "1" {
			return 1000
		}
		if whole != "0" || len(part) > 3 {
			return 0
		}
		n := 0
		for i := range 3 {
			n *= 10
			if i < len(part) {
				if part[i] < '0' || part[i] > '9' {
					return 0
				}
				n += int(part[i] - '0')
			}
		}
		return n
	}
	return 1000
}

// encoder is what all three compressors have in common.
type encoder interface {
	io.WriteCloser
	Flush() error
	Reset(io.Writer)
}

// pool holds compressors of one encoding; each costs some hundred KiB.
type pool struct{ sync.Pool }

// newPools returns a pool for each encoding. The levels are those at which a core still compresses some 100 MB a second.
func newPools() map[string]*pool {
	of := func(enc func() encoder) *pool {
		p := &pool{}
		p.New = func() any { return &compressor{enc: enc(), in: make([]byte, 32<<10)} }
		return p
	}
	return map[string]*pool{
		"gzip": of(func() encoder {
			w, _ := gzip.NewWriterLevel(nil, 4) // the level is one there is
			return w
		}),
		"zstd": of(func() encoder {
			w, _ := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true)) // the options are good ones
			return w
		}),
		"br": of(func() encoder { return brotli.NewWriterOptions(nil, brotli.WriterOptions{Quality: 4, LGWin: 18}) }),
	}
}

// wholeUpTo is how large a body that is at hand may be to be compressed at once, in bytes, so that the answer has a length.
const wholeUpTo = 64 << 10

// wrap makes x's answer a compressed one.
func (p *pool) wrap(x *filter.Exchange) error {
	r := &x.Response
	c := p.Get().(*compressor)
	c.out.Reset()
	c.enc.Reset(&c.out)
	c.body, c.err, c.flush = r.Body, nil, r.ContentLength < 0 || r.Flush
	length := int64(-1)
	if b, ok := r.Body.(interface{ Buffered() []byte }); ok && r.ContentLength >= 0 && r.ContentLength <= wholeUpTo {
		if whole := b.Buffered(); int64(len(whole)) == r.ContentLength {
			c.write(whole)
			c.finish()
			if c.err != io.EOF {
				return c.err
			}
			length = int64(c.out.Len())
		}
	}
	r.ContentLength, r.Body = length, &compressed{c, p}
	return nil
}

// compressor compresses one body after the other.
type compressor struct {
	enc   encoder
	out   bytes.Buffer
	in    []byte
	body  io.ReadCloser
	flush bool  // what was read is passed on before more is waited for
	err   error // once out is empty
}

func (c *compressor) write(p []byte) {
	if _, err := c.enc.Write(p); err != nil {
		c.err = err
	}
}

func (c *compressor) finish() {
	c.err = io.EOF
	if err := c.enc.Close(); err != nil {
		c.err = err
	}
}

// compressed is a body that is compressed as it is read. It is not used again, so that closing it twice does no harm.
type compressed struct {
	*compressor // nil: closed
	pool        *pool
}

// Read reads on.
func (b *compressed) Read(p []byte) (int, error) {
	c := b.compressor
	if c == nil {
		return 0, http.ErrBodyReadAfterClose
	}
	for c.out.Len() == 0 && c.err == nil {
		n, err := c.body.Read(c.in)
		if n > 0 {
			c.write(c.in[:n])
		}
		switch {
		case c.err != nil:
		case err == io.EOF:
			c.finish()
		case err != nil:
			c.err = err // broken off, and must look so
			c.out.Reset()
		case c.flush && n > 0:
			c.err = c.enc.Flush()
		}
	}
	if c.out.Len() == 0 {
		return 0, c.err
	}
	return c.out.Read(p)
}

// Buffered returns what can be had without waiting.
func (b *compressed) Buffered() []byte {
	if b.compressor == nil {
		return nil
	}
	return b.out.Bytes()
}

// Close closes what is below, and gives the compressor back.
func (b *compressed) Close() error {
	c := b.compressor
	if c == nil {
		return nil
	}
	b.compressor = nil
	err := c.body.Close()
	c.body = nil
	if c.out.Cap() > 4*wholeUpTo {
		c.out = bytes.Buffer{}
	}
	c.enc.Reset(nil)
	b.pool.Put(c)
	return err
}
