package filter

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAHeaderIsAnOrderedMultimapWithoutCase(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h Header
		var model []Field
		name := rapid.SampledFrom([]string{"Host", "host", "HOST", "X-A", "x-a", "X-B", "Via", "vIA", "a", "A", "X-1", "X_1", "X-q"})
		without := func(n string, from int) (kept []Field) {
			for i, f := range model {
				if i < from || !strings.EqualFold(f.Name, n) {
					kept = append(kept, f)
				}
			}
			return kept
		}
		at := func(n string) int {
			return slices.IndexFunc(model, func(f Field) bool { return strings.EqualFold(f.Name, n) })
		}
		t.Repeat(map[string]func(*rapid.T){
			"Add": func(t *rapid.T) {
				f := Field{name.Draw(t, "name"), rapid.StringMatching("[a-z]{0,3}").Draw(t, "value")}
				h.Add(f.Name, f.Value)
				model = append(model, f)
			},
			"Set": func(t *rapid.T) {
				n, v := name.Draw(t, "name"), rapid.StringMatching("[a-z]{0,3}").Draw(t, "value")
				h.Set(n, v)
				if i := at(n); i >= 0 {
					model[i].Value = v
					model = without(n, i+1)
				} else {
					model = append(model, Field{n, v})
				}
			},
			"Del": func(t *rapid.T) {
				n := name.Draw(t, "name")
				h.Del(n)
				model = without(n, 0)
			},
			"Reset": func(*rapid.T) {
				h.Reset()
				model = nil
			},
			"": func(t *rapid.T) {
				if !slices.Equal(h.Fields(), model) {
					t.Fatalf("got %q, want %q", h.Fields(), model)
				}
				n := name.Draw(t, "asked")
				i := at(n)
				want := ""
				if i >= 0 {
					want = model[i].Value
				}
				if got := h.Get(n); got != want || h.Has(n) != (i >= 0) {
					t.Fatalf("Get(%q) of %q: got %q and %v, want %q and %v", n, model, got, h.Has(n), want, i >= 0)
				}
				if got := h.Count(n); got != len(model)-len(without(n, 0)) {
					t.Fatalf("Count(%q) of %q: got %d", n, model, got)
				}
			},
		})
	})
}

func TestNamesAreTheSameWithoutCaseAndOnlyThen(t *testing.T) {
	for a := range 256 {
		for b := range 256 {
			x, y := "x"+string(rune(a&0x7f)), "x"+string(rune(b&0x7f))
			if got, want := Same(x, y), strings.EqualFold(x, y) && a&0x7f < 0x80; got != want {
				t.Fatalf("Same(%q, %q) = %v, want %v", x, y, got, want)
			}
		}
	}
}

func TestATokenIsWhatAFieldsNameMayBe(t *testing.T) {
	for b := range 256 {
		want := b > ' ' && b < 0x7f && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, rune(b))
		if got := Token("X" + string([]byte{byte(b)})); got != want {
			t.Errorf("Token with the byte %#x: got %v, want %v", b, got, want)
		}
	}
	if Token("") {
		t.Error("nothing is a token, want it to be none")
	}
}

func TestAnAnswerTakesThePlaceOfTheResponse(t *testing.T) {
	var x Exchange
	closed := false
	x.Response = Response{Status: 200, ContentLength: 5, Body: closer{strings.NewReader("hello"), &closed}}
	x.Response.Header.Add("Set-Cookie", "secret")
	x.Answer(http.StatusServiceUnavailable, "later\n")
	if !closed || !x.Answered() || x.Response.Status != 503 || x.Response.Header.Has("Set-Cookie") || x.Response.ContentLength != 6 {
		t.Errorf("closed the old body: %v; got %+v", closed, x.Response)
	}
	if b, err := io.ReadAll(x.Response.Body); err != nil || string(b) != "later\n" {
		t.Errorf("body: got %q, %v", b, err)
	}
}

type closer struct {
	io.Reader
	closed *bool
}

func (c closer) Close() error { *c.closed = true; return nil }

func TestAFailureIsNotOverwrittenByASuccess(t *testing.T) {
	var x Exchange
	x.SetCategory(Success, "")
	x.SetCategory(FailureOrigin, "it said 500")
	x.SetCategory(SuccessNotFound, "")
	if c, why := x.Category(); c != FailureOrigin || why != "it said 500" {
		t.Errorf("got %v because %q, want FAILURE_ORIGIN because it said 500", c, why)
	}
	x.Reset()
	if c, _ := x.Category(); c != Unset {
		t.Errorf("after Reset: got %v, want none", c)
	}
}

func TestEveryCategoryAndStateHasAName(t *testing.T) {
	ids := map[string]bool{}
	for c := Success; c < categories; c++ {
		if c.String() == "" || c.ID() == "" || ids[c.ID()] || c.Failure() != strings.HasPrefix(c.ID(), "2_") {
			t.Errorf("category %d: name %q, id %q", c, c, c.ID())
		}
		ids[c.ID()] = true
	}
	names := map[string]bool{}
	for s := range states {
		if s.String() == "" || names[s.String()] {
			t.Errorf("state %d: name %q", s, s)
		}
		names[s.String()] = true
	}
}

func TestAPassportTellsItsWayInOrder(t *testing.T) {
	var p Passport
	p.AddAt(InReqHeadersReceived, 1000)
	for i := range 40 {
		p.AddAt(FiltersInboundStart, 2000+int64(i))
	}
	p.AddAt(OutRespLastContentSent, 9000)
	if p.Len() != 42 {
		t.Errorf("got %d stamps, want 42", p.Len())
	}
	text := string(p.Append(nil))
	for _, want := range []string{"CurrentPassport {start_ms=", "[+0=IN_REQ_HEADERS_RECEIVED, +1000=FILTERS_INBOUND_START, +1001=", ", +8000=OUT_RESP_LAST_CONTENT_SENT, +", "=NOW]}"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s has no %q", text, want)
		}
	}
	if at, ok := p.Find(OutRespLastContentSent); !ok || at != 9000 {
		t.Errorf("Find: got %d, %v", at, ok)
	}
	if _, ok := p.Find(OriginRetryStart); ok {
		t.Error("Find found what was never stamped")
	}
}

func TestWhatIsKeptStaysAsItWas(t *testing.T) {
	var x Exchange
	var kept, want []string
	for i := range 200 {
		b := []byte(strings.Repeat(string(rune('a'+i%26)), i))
		kept, want = append(kept, x.Keep(b)), append(want, string(b))
		clear(b)
	}
	if !slices.Equal(kept, want) {
		t.Error("what was kept first changed when more was kept")
	}
}

func TestTheEndRunsLastFirstAndOnce(t *testing.T) {
	var x Exchange
	var ran []int
	for i := range 3 {
		x.OnEnd(func(*Exchange) { ran = append(ran, i) })
	}
	x.End()
	x.End()
	if !slices.Equal(ran, []int{2, 1, 0}) {
		t.Errorf("got %v, want 2 1 0", ran)
	}
}

// A request's own memory is used again: the second one of an exchange allocates nothing.
func TestASecondRequestAllocatesNothing(t *testing.T) {
	var x Exchange
	serve := func() {
		x.Reset()
		for range 8 {
			x.Request.Header.Add("X-Name", x.Keep([]byte("value")))
			x.Response.Header.Add("X-Name", "value")
		}
		x.Passport.Add(InReqHeadersReceived)
		x.Answer(503, "no\n")
		x.SetCategory(FailureShed, "")
		x.End()
	}
	if n := testing.AllocsPerRun(100, serve); n != 0 {
		t.Errorf("got %v allocations a request, want none", n)
	}
}

func BenchmarkHeaderMiss(b *testing.B) {
	var h Header
	for _, n := range []string{"Host", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Cookie", "X-Request-Id", "Connection"} {
		h.Add(n, "x")
	}
	for b.Loop() {
		if h.Has("X-Forwarded-For") {
			b.Fatal("found")
		}
	}
}

func BenchmarkPassport(b *testing.B) {
	var p Passport
	for b.Loop() {
		p.Reset()
		p.Add(InReqHeadersReceived)
	}
}

func BenchmarkReset(b *testing.B) {
	var x Exchange
	b.ReportAllocs()
	for b.Loop() {
		x.Reset()
	}
}

func BenchmarkKeep(b *testing.B) {
	var x Exchange
	text := []byte("3f2a9c0011223344aabbccdd")
	for b.Loop() {
		x.arena = x.arena[:0]
		x.Keep(text)
	}
}
