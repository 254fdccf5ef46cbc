package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

type limits struct {
	Timeout time.Duration
	Rows    int               `config:"rows"`
	Share   float32           `config:"load.share"`
	On      bool              `config:"enabled"`
	Name    string            `config:"name"`
	Hosts   []string          `config:"hosts"`
	Weights map[string]string `config:"weights"`
	Listen  netip.AddrPort    `config:"listen"` // reads itself
	Retry   struct {
		Most  uint8
		Pause time.Duration
	}
	Budget
	Secret  string `config:"-"`
	private int
}

type Budget struct{ Percent int64 }

func (l *limits) Validate() error {
	return errors.Join(Between("rows", l.Rows, 1, 100), Between("timeout", l.Timeout, time.Millisecond, time.Minute))
}

func defaults() limits { return limits{Timeout: time.Second, Rows: 20, Secret: "s", private: 3} }

func TestAStructIsFilledFromThePropertiesUnderAPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		v, err := Bind(p, "db.", defaults())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := *v.Get(), defaults(); !reflect.DeepEqual(got, want) {
			t.Errorf("before any property: got %+v, want %+v", got, want)
		}
		var told []string
		v.OnChange(func(old, new *limits) { told = append(told, fmt.Sprint(old.Rows, ">", new.Rows)) })
		first := v.Get()
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{
			"db.timeout": "250", "db.rows": "30", "db.load.share": "0.5", "db.enabled": "on", "db.name": "main", "db.hosts": "a, b,,", "db.weights": "a=1, b = 2",
			"db.listen": "127.0.0.1:80", "db.retry.most": "3", "db.retry.pause": "1s", "db.percent": "7", "db.secret": "no", "db.private": "9",
		}})
		want := limits{Timeout: 250 * time.Millisecond, Rows: 30, Share: 0.5, On: true, Name: "main", Hosts: []string{"a", "b"},
			Weights: map[string]string{"a": "1", "b": "2"}, Listen: netip.MustParseAddrPort("127.0.0.1:80"), Budget: Budget{7}, Secret: "s", private: 3}
		want.Retry.Most, want.Retry.Pause = 3, time.Second
		second := v.Get()
		if !reflect.DeepEqual(*second, want) {
			t.Errorf("after the snapshot: got %+v, want %+v", *second, want)
		}
		s.set(t, 2, "other", "x")
		if v.Get() != second {
			t.Error("after a change elsewhere: got another pointer, want the same")
		}
		s.send(t, "change", Change{Rev: 3, Key: "db.rows"})
		if got := v.Get(); got.Rows != 20 || got.Name != "main" {
			t.Errorf("after rows was deleted: got %+v, want its default 20 and the rest as it was", got)
		}
		if !reflect.DeepEqual(*first, defaults()) || !reflect.DeepEqual(*second, want) {
			t.Errorf("structs handed out earlier changed: %+v, %+v", first, second)
		}
		if want := []string{"20>30", "30>20"}; !slices.Equal(told, want) {
			t.Errorf("callbacks: got %v, want %v", told, want)
		}
	})
}

func TestAStructKeepsWhatWasGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		p, s := started(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		v, err := Bind(p, "db.", defaults())
		if err != nil {
			t.Fatal(err)
		}
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"db.rows": "30", "db.retry.most": "3"}})
		for i, c := range []struct{ key, value, says string }{
			{"db.rows", "many", `\"many\" is not a whole number`},
			{"db.rows", "101", "rows is 101; it must be from 1 to 100"},
			{"db.retry.most", "256", `\"256\" is more than 8 bits hold`},
			{"db.retry.most", "-1", "not a whole number from 0"},
			{"db.load.share", "lots", "not a number"},
			{"db.enabled", "perhaps", "not true or false"},
			{"db.timeout", "0", "timeout is 0s; it must be from 1ms to 1m0s"},
			{"db.weights", "a", "write a=1,b=2"},
			{"db.listen", "here", "listen"},
		} {
			log.Reset()
			before := v.Get()
			s.set(t, uint64(2*i+2), c.key, c.value)
			if got := v.Get(); !reflect.DeepEqual(got, before) || !strings.Contains(log.String(), c.says) {
				t.Errorf("%s=%s: got %+v and log %q; want %+v and %q", c.key, c.value, got, log.String(), before, c.says)
			}
			s.set(t, uint64(2*i+3), "db.name", fmt.Sprint("still ", i)) // another field of the same struct
			refusedWhole := strings.Contains(c.says, "must be from")
			if got := v.Get().Name; (got == fmt.Sprint("still ", i)) == refusedWhole {
				t.Errorf("name changed beside %s=%s: got %q", c.key, c.value, got)
			}
			s.set(t, uint64(2*i+3), c.key, map[string]string{"db.rows": "30", "db.retry.most": "3", "db.timeout": "1s", "db.load.share": "1", "db.enabled": "1", "db.weights": "", "db.listen": "127.0.0.1:1"}[c.key])
			if got := v.Get(); got.Name != fmt.Sprint("still ", i) || got.Rows != 30 {
				t.Errorf("after %s was mended: got %+v", c.key, got)
			}
		}
	})
}

type touchy struct{ N int }

func (t *touchy) Validate() error {
	if t.N == 13 {
		panic("thirteen")
	}
	return nil
}

func TestAPanicOfAStructsCodeKeepsTheLastGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		v, err := Bind(p, "", touchy{N: 1})
		if err != nil {
			t.Fatal(err)
		}
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"n": "13"}})
		if got := v.Get().N; got != 1 {
			t.Errorf("n after a panic: got %d, want 1", got)
		}
		s.set(t, 2, "n", "14")
		if got := v.Get().N; got != 14 {
			t.Errorf("n after it: got %d, want 14", got)
		}
	})
}

func TestBindRefusesMistakesOfTheProgram(t *testing.T) {
	check := func(err error, says string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error that says %q", err, says)
		}
	}
	_, err := Bind(nil, "x.", limits{Rows: 0, Timeout: 1})
	check(err, "rows is 0; it must be from 1 to 100")
	_, err = Bind(nil, "x.", struct{ C chan int }{})
	check(err, "field C is a chan int")
	_, err = Bind(nil, "x.", 5)
	check(err, "int is no struct")
	_, err = Bind(nil, "x.", struct{ In struct{ a int } }{})
	check(err, "no field that a property could fill")
	_, err = Bind(nil, "x.", struct {
		a int `config:"a"`
		B int
	}{})
	check(err, "not exported")
	v, err := Bind(nil, "x.", touchy{N: 4})
	if err != nil || v.Get().N != 4 || v.Key() != "x." {
		t.Errorf("of nil properties: got %+v, %v; want the default for ever", v, err)
	}
}

func TestHandlesOfListsMapsAndStructsAreSharedToo(t *testing.T) {
	p := New(Options{})
	l, m := p.List("k", []string{"a", "b"}), p.Map("k", map[string]string{"a": "1"})
	if l != p.List("k", []string{"a", "b"}) || l == p.List("k", []string{"a b"}) {
		t.Error("lists: want one handle per default")
	}
	if m != p.Map("k", map[string]string{"a": "1"}) || p.Map("k", nil) == p.Map("k", map[string]string{"": ""}) {
		t.Error("maps: want one handle per default")
	}
	a, err := Bind(p, "k", touchy{N: 1})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Bind(p, "k", touchy{N: 1})
	if err != nil || a != b {
		t.Errorf("structs: got two handles, %v; want one", err)
	}
	mine := []string{"x"}
	v := p.List("own", mine)
	if mine[0] = "altered"; v.Get()[0] != "x" {
		t.Errorf("default after its owner altered it: got %q, want x", v.Get())
	}
}

func TestListsAndMapsFollowTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{})
		l, m := p.List("l", []string{"def"}), p.Map("m", map[string]string{"def": "1"})
		calls := 0
		l.OnChange(func(_, _ []string) { calls++ })
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"l": " a ,b,, ", "m": "a=1,b=x=y, c = "}})
		if !slices.Equal(l.Get(), []string{"a", "b"}) || !maps.Equal(m.Get(), map[string]string{"a": "1", "b": "x=y", "c": ""}) {
			t.Errorf("got %q and %q", l.Get(), m.Get())
		}
		s.set(t, 2, "l", "a,b") // the same list
		s.set(t, 3, "m", "no map")
		if calls != 1 || len(m.Get()) != 3 {
			t.Errorf("got %d calls for one change of the list, and the map %q; want 1 and the last good map", calls, m.Get())
		}
		s.set(t, 4, "l", "")
		if got := l.Get(); len(got) != 0 {
			t.Errorf("an empty list: got %q", got)
		}
	})
}

func TestOverridesWinOverTheServerAndAreNotKeptOnDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p, s := started(t, Options{Cache: dir, Override: map[string]string{"i": "7", "url": "http://${host}"}})
		i, url := p.Int("i", 1), p.String("url", "")
		if i.Get() != 7 {
			t.Errorf("i before the server spoke: got %d, want the override 7", i.Get())
		}
		s.send(t, "snapshot", Snapshot{Rev: 1, Properties: map[string]string{"i": "5", "host": "h"}})
		s.send(t, "hash", Hash{Rev: 1, Sum: Sum(map[string]string{"i": "5", "host": "h"})})
		if i.Get() != 7 || url.Get() != "http://h" || len(s.requests()) != 1 {
			t.Errorf("got i=%d url=%q after %d requests; want 7, http://h and no quarrel with the server", i.Get(), url.Get(), len(s.requests()))
		}
		p.Prefix("i", func(m map[string]string) {
			if m["i"] != "7" {
				t.Errorf("prefix: got %v, want the override", m)
			}
		})()
		time.Sleep(time.Second)
		synctest.Wait()
		if got := New(Options{URL: "http://config.test", Cache: dir}).Int("i", 1).Get(); got != 5 {
			t.Errorf("i of a process without the override: got %d, want the server's 5", got)
		}
	})
}

// TestAStructAgreesWithItsHandles changes properties at random and compares each field with a handle of its own.
func TestAStructAgreesWithItsHandles(t *testing.T) {
	type pair struct {
		A int
		B time.Duration
		C []string
	}
	rapid.Check(t, func(t *rapid.T) {
		p := New(Options{Log: slog.New(slog.DiscardHandler)})
		v, err := Bind(p, "x.", pair{A: 1, B: 2, C: []string{"d"}})
		if err != nil {
			t.Fatal(err)
		}
		a, b, c := p.Int("x.a", 1), p.Duration("x.b", 2), p.List("x.c", []string{"d"})
		value := rapid.SampledFrom([]string{"", "5", "x", "250ms", "${x.b}", "${x.c:7}", "a,b", "99999999999999999999"})
		for range 20 {
			raw := map[string]string{}
			for _, k := range []string{"x.a", "x.b", "x.c"} {
				if rapid.Bool().Draw(t, "has "+k) {
					raw[k] = value.Draw(t, k)
				}
			}
			p.replace(raw, map[string]bool{}, 1)
			if got, want := *v.Get(), (pair{a.Get(), b.Get(), c.Get()}); !reflect.DeepEqual(got, want) {
				t.Fatalf("%v: got %+v, want %+v", raw, got, want)
			}
		}
	})
}

func BenchmarkGetStruct(b *testing.B) {
	b.ReportAllocs()
	v, err := Bind(New(Options{}), "db.", defaults())
	if err != nil {
		b.Fatal(err)
	}
	sum := 0
	for b.Loop() {
		sum += v.Get().Rows
	}
	if sum == 0 {
		b.Fatal("Get returned nothing")
	}
}
