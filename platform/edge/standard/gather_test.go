package standard

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/edge/filter"
)

// buffering is the filter RequestBuffer by itself.
type buffering struct {
	*gatherer
	f *filter.Filter
}

func newBuffering(props map[string]string) buffering {
	g := newGatherer(config.New(config.Options{Override: props}), meter.New(nil))
	return buffering{g, g.filter()}
}

// run has the filter run on x, if it is to.
func (b buffering) run(x *filter.Exchange) (ran bool, err error) {
	if !b.f.If(x) {
		return false, nil
	}
	return true, b.f.Apply(x)
}

// posted is a request with a body of that length, which is written by the returned end; it has 10 s.
func posted(length int64) (*filter.Exchange, *io.PipeWriter) {
	r, w := io.Pipe()
	x := &filter.Exchange{App: "app", Plan: &filter.Plan{}, Deadline: filter.Now() + int64(10*time.Second)}
	x.Request.Method, x.Request.Body, x.Request.ContentLength = "POST", r, length
	return x, w
}

// lying is what lies ready of the body of x.
func lying(x *filter.Exchange) string {
	return string(x.Request.Body.(interface{ Buffered() []byte }).Buffered())
}

func TestABodyIsAtHandBeforeItsAppIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffering(nil)
		x, w := posted(10)
		go func() {
			for _, part := range []string{"012", "345", "6789"} {
				time.Sleep(2 * time.Second)
				io.WriteString(w, part)
			}
			w.Close()
		}()
		start := time.Now()
		if ran, err := b.run(x); !ran || err != nil {
			t.Fatalf("ran %t, error %v; want it to run without one", ran, err)
		}
		if took := time.Since(start); took != 6*time.Second {
			t.Errorf("waited for %v, want 6s, until the last byte", took)
		}
		if got := lying(x); got != "0123456789" {
			t.Errorf("lies ready: %q, want the whole body", got)
		}
		if got := b.held.Load(); got <= 0 {
			t.Errorf("edge.http.request.buffered: got %v while a body is held, want more than 0", got)
		}
		if all, err := io.ReadAll(x.Request.Body); string(all) != "0123456789" || err != nil {
			t.Errorf("read %q, %v; want the body", all, err)
		}
		x.End()
		if got := b.held.Load(); got != 0 {
			t.Errorf("edge.http.request.buffered: got %v after the request, want 0", got)
		}
	})
}

func TestOfALongBodyTheFirstPartIsWaitedForAndTheRestStreams(t *testing.T) {
	for _, length := range []int64{1000, -1} {
		synctest.Test(t, func(t *testing.T) {
			b := newBuffering(map[string]string{"edge.http.request.buffer": "64"})
			x, w := posted(length)
			text := strings.Repeat("0123456789", 100)
			go func() {
				for i := 0; i < len(text); i += 50 {
					io.WriteString(w, text[i:i+50])
				}
				w.Close()
			}()
			if ran, err := b.run(x); !ran || err != nil {
				t.Fatalf("length %d: ran %t, error %v; want it to run without one", length, ran, err)
			}
			if got := lying(x); got != text[:64] {
				t.Errorf("length %d: lies ready: %q, want the first 64 bytes", length, got)
			}
			if all, err := io.ReadAll(x.Request.Body); string(all) != text || err != nil {
				t.Errorf("length %d: read %q, %v; want the body", length, all, err)
			}
			x.End()
			if got := b.held.Load(); got != 0 {
				t.Errorf("length %d: edge.http.request.buffered: got %v, want 0", length, got)
			}
		})
	}
}

func TestAClientThatPausesInABodyOfUnknownLengthMayWaitForTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffering(nil)
		x, w := posted(-1)
		go func() {
			io.WriteString(w, "a question")
			time.Sleep(5 * time.Second)
			io.WriteString(w, ", another")
			w.Close()
		}()
		start := time.Now()
		if ran, err := b.run(x); !ran || err != nil {
			t.Fatalf("ran %t, error %v; want it to run without one", ran, err)
		}
		if took := time.Since(start); took != pause {
			t.Errorf("went on after %v, want %v", took, pause)
		}
		if got := lying(x); got != "a question" {
			t.Errorf("lies ready: %q, want what came", got)
		}
		if all, err := io.ReadAll(x.Request.Body); string(all) != "a question, another" || err != nil {
			t.Errorf("read %q, %v; want the body", all, err)
		}
		x.End()
	})
}

func TestABodyThatDoesNotComeInTimeIsAnswered408(t *testing.T) {
	for _, tt := range []struct {
		length    int64
		buffering int8
	}{{10, 0}, {10, 1}, {-1, 1}} {
		synctest.Test(t, func(t *testing.T) {
			b := newBuffering(nil)
			x, w := posted(tt.length)
			x.Plan.Buffering = tt.buffering
			go io.WriteString(w, "012")
			start := time.Now()
			_, err := b.run(x)
			if status, category, _ := filter.Verdict(err); status != 408 || category != filter.FailureClientTimeout {
				t.Errorf("length %d: got %d %v (%v), want 408 %v", tt.length, status, category, err, filter.FailureClientTimeout)
			}
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("length %d: waited for %v, want the request's 10s", tt.length, took)
			}
			x.End()
			if got := b.held.Load(); got != 0 {
				t.Errorf("length %d: edge.http.request.buffered: got %v, want 0", tt.length, got)
			}
		})
	}
}

func TestARequestThatEndsWhileItsClientPausesLeavesNobodyReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which waits for every goroutine
		b := newBuffering(nil)
		x, _ := posted(-1)
		if ran, err := b.run(x); !ran || err != nil {
			t.Fatalf("ran %t, error %v; want it to run without one", ran, err)
		}
		x.End()
	})
}

func TestABodyThatBreaksOffIsNotSentOn(t *testing.T) {
	for _, length := range []int64{10, -1} {
		synctest.Test(t, func(t *testing.T) {
			x, w := posted(length)
			w.CloseWithError(io.ErrUnexpectedEOF)
			_, err := newBuffering(nil).run(x)
			if status, category, _ := filter.Verdict(err); status != 400 || category != filter.FailureClientCancelled {
				t.Errorf("length %d: got %d %v (%v), want 400 %v", length, status, category, err, filter.FailureClientCancelled)
			}
			x.End()
		})
	}
}

// faulty is a body that panics.
type faulty struct{}

func (faulty) Read([]byte) (int, error) { panic("a body with a fault") }
func (faulty) Close() error             { return nil }

func TestABodyThatPanicsWhileItIsWaitedForEndsNothingElse(t *testing.T) {
	x, _ := posted(-1)
	x.Request.Body = faulty{}
	if _, err := newBuffering(nil).run(x); err == nil {
		t.Error("got no error, want one")
	}
	x.End()
}

func TestBodiesThatNeedNotOrMustNotWaitPass(t *testing.T) {
	whole := &filter.Exchange{App: "app", Plan: &filter.Plan{}}
	whole.Request.Body, whole.Request.ContentLength = filter.Text("all of it"), 9
	of := func(kind string, buffering int8) *filter.Exchange {
		x, _ := posted(-1)
		x.Request.Header.Add("Content-Type", kind)
		x.Plan.Buffering = buffering
		return x
	}
	answered, _ := posted(10)
	answered.Plan = &filter.Plan{Endpoint: &filter.Filter{}}
	noRoute, _ := posted(10)
	noRoute.Plan = nil
	for _, tt := range []struct {
		name  string
		x     *filter.Exchange
		props map[string]string
		runs  bool
	}{
		{"it is at hand", whole, nil, false},
		{"gRPC", of("application/grpc+proto", 0), nil, false},
		{"gRPC-Web", of("application/grpc-web-text", 0), nil, false},
		{"a stream of Connect's", of("application/connect+json", 0), nil, false},
		{"the route says off", of("text/plain", -1), nil, false},
		{"the edge answers itself", answered, nil, false},
		{"no route takes it", noRoute, nil, false},
		{"no buffer", of("text/plain", 1), map[string]string{"edge.http.request.buffer": "0"}, false},
		{"of gRPC, but the route says on", of("application/grpc", 1), map[string]string{"edge.http.request.buffer.total": "0"}, true},
	} {
		ran, err := newBuffering(tt.props).run(tt.x)
		if ran != tt.runs || err != nil {
			t.Errorf("%s: ran %t, error %v; want %t without one", tt.name, ran, err, tt.runs)
		}
	}
}

func TestBeyondTheTotalBodiesPassAsTheyCome(t *testing.T) {
	b := newBuffering(map[string]string{"edge.http.request.buffer.total": "1"})
	first := &filter.Exchange{App: "app", Plan: &filter.Plan{}}
	first.Request.Body, first.Request.ContentLength = io.NopCloser(strings.NewReader("012")), 3
	if ran, err := b.run(first); !ran || err != nil {
		t.Fatalf("ran %t, error %v; want it to run without one", ran, err)
	}
	second := &filter.Exchange{App: "app", Plan: &filter.Plan{}}
	body := io.NopCloser(bytes.NewReader([]byte("012")))
	second.Request.Body, second.Request.ContentLength = body, 3
	if _, err := b.run(second); err != nil || second.Request.Body != body {
		t.Errorf("got error %v and body %T; want none, and the body untouched", err, second.Request.Body)
	}
	if got := b.over.Count(); got != 1 {
		t.Errorf("edge.http.request.unbuffered: got %v, want 1", got)
	}
	first.End()
}
