package http2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
	"go.uber.org/goleak"
	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is what was finished.
type told struct {
	mu  sync.Mutex
	all []string
}

func (t *told) finished(x *filter.Exchange) {
	category, _ := x.Category()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, fmt.Sprintf("%s %s %d %s", x.Request.Method, x.Request.Path, x.Response.Status, category))
}

// wait returns what was finished once that is n requests.
func (t *told) wait(n int) []string {
	for {
		t.mu.Lock()
		all := append([]string(nil), t.all...)
		t.mu.Unlock()
		if len(all) >= n {
			return all
		}
		time.Sleep(time.Millisecond)
	}
}

// front is a server on a port of its own that ends with the test.
func front(t testing.TB, c Config) (addr string, s *Server) {
	t.Helper()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s = NewServer(c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { s.ServeConn(nc, &filter.Client{Remote: nc.RemoteAddr().(*net.TCPAddr).AddrPort()}, nil) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Drain(ctx) //nolint:errcheck // what is left is cut
		all.Wait()
	})
	return l.Addr().String(), s
}

// goClient is net/http's client of HTTP/2 in clear.
func goClient(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// player is a client that says what no client says.
type player struct {
	t     testing.TB
	nc    net.Conn
	fr    *xhttp2.Framer
	dec   *hpack.Decoder
	block bytes.Buffer
	enc   *hpack.Encoder
	all   map[uint32]*result
}

// play connects, and says the preface.
func play(t testing.TB, addr string) *player {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(time.Minute))
	return playOn(t, nc)
}

func playOn(t testing.TB, nc net.Conn) *player {
	p := &player{t: t, nc: nc, fr: xhttp2.NewFramer(nc, nc), dec: hpack.NewDecoder(4096, nil)}
	p.fr.AllowIllegalWrites = true
	p.fr.AllowIllegalReads = true
	p.start()
	io.WriteString(nc, xhttp2.ClientPreface)
	p.fr.WriteSettings()
	return p
}

func (p *player) start() { p.enc = hpack.NewEncoder(&p.block) }

type field = hpack.HeaderField

// usual is the usual fields of a request, with others in place of them and behind them; one with an empty value in front of
// its name's takes it away.
func usual(more ...field) []field {
	all := []field{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "shop.example"}, {Name: ":path", Value: "/a"}}
	for _, m := range more {
		found := false
		for i := range all {
			if all[i].Name == m.Name && m.Name[0] == ':' {
				all[i].Value, found = m.Value, true
			}
		}
		if !found {
			all = append(all, m)
		}
	}
	return all
}

func (p *player) encode(fields []field) []byte {
	p.block.Reset()
	for _, f := range fields {
		p.enc.WriteField(f)
	}
	return p.block.Bytes()
}

func (p *player) ask(id uint32, end bool, fields []field) {
	p.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: p.encode(fields), EndHeaders: true, EndStream: end})
}

// result is what became of a stream.
type result struct {
	status   string
	fields   []field
	body     []byte
	trailers []field
	interim  []string
	reset    xhttp2.ErrCode
	wasReset bool
	goAway   xhttp2.ErrCode
	went     bool
	closed   bool
	over     bool
	frames   int // HEADERS and DATA
}

// String tells it in short.
func (r result) String() string {
	switch {
	case r.went && r.goAway != 0:
		return "GOAWAY " + r.goAway.String()
	case r.wasReset && r.reset != xhttp2.ErrCodeNo:
		return "RST " + r.reset.String()
	case r.status != "":
		return r.status
	case r.closed:
		return "closed"
	}
	return "nothing"
}

// await reads until the stream is over.
func (p *player) await(id uint32) result {
	if p.all == nil {
		p.all = map[uint32]*result{}
	}
	of := func(id uint32) *result {
		if p.all[id] == nil {
			p.all[id] = &result{}
		}
		return p.all[id]
	}
	r := of(id)
	for !r.over {
		f, err := p.fr.ReadFrame()
		if err != nil {
			r.closed = true
			return *r
		}
		switch f := f.(type) {
		case *xhttp2.SettingsFrame:
			if !f.IsAck() {
				p.fr.WriteSettingsAck()
			}
		case *xhttp2.PingFrame:
			if !f.IsAck() {
				p.fr.WritePing(true, f.Data)
			}
		case *xhttp2.HeadersFrame:
			block := append([]byte(nil), f.HeaderBlockFragment()...)
			to, last := of(f.StreamID), f.StreamEnded()
			for ended := f.HeadersEnded(); !ended; {
				k, err := p.fr.ReadFrame()
				if err != nil {
					p.t.Errorf("read CONTINUATION: %v", err)
					return *r
				}
				c := k.(*xhttp2.ContinuationFrame)
				block = append(block, c.HeaderBlockFragment()...)
				ended = c.HeadersEnded()
			}
			all, err := p.dec.DecodeFull(block)
			if err != nil {
				p.t.Errorf("decode a head: %v", err)
				return *r
			}
			switch {
			case all[0].Name == ":status" && all[0].Value[0] == '1':
				to.interim = append(to.interim, all[0].Value)
			case all[0].Name == ":status":
				to.status, to.fields = all[0].Value, all[1:]
			default:
				to.trailers = all
			}
			to.frames++
			to.over = to.over || last
		case *xhttp2.DataFrame:
			to := of(f.StreamID)
			to.body = append(to.body, f.Data()...)
			to.frames++
			to.over = to.over || f.StreamEnded()
		case *xhttp2.RSTStreamFrame:
			to := of(f.StreamID)
			to.reset, to.wasReset, to.over = f.ErrCode, true, true
		case *xhttp2.GoAwayFrame:
			if r.goAway, r.went = f.ErrCode, true; f.ErrCode != xhttp2.ErrCodeNo {
				return *r
			}
		}
	}
	return *r
}

var errTest = errors.New("as the test wants it")
