package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/roadbed/roadbed/platform/api/porttest"
)

func TestMessagesReachWhoListensAndQuestionsAreAnsweredOnce(t *testing.T) {
	host := Config{Dir: t.TempDir(), Listen: porttest.Hold(t), Token: "secret", Log: testLog()}
	e := openTest(t, host)
	second := openTest(t, Config{URL: "nats://" + host.Listen, Token: "secret"})
	nc, err := nats.Connect("nats://"+host.Listen, nats.Token("secret")) // as any program connects
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	heard, err := nc.SubscribeSync("x.*.z")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := e.Publish("x.y.z", map[string]string{"Kind": "news"}, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	m, err := heard.NextMsg(time.Minute)
	if err != nil || m.Subject != "x.y.z" || string(m.Data) != "hello" || m.Header.Get("Kind") != "news" {
		t.Errorf("heard %+v, %v; want hello on x.y.z, which is news", m, err)
	}

	stops := []func(){}
	for _, one := range []*Engine{e, second} {
		stop, err := one.Answer("ask.*", "group", func(subject string, q []byte) []byte { return []byte(subject + " " + string(q)) })
		if err != nil {
			t.Fatal(err)
		}
		stops = append(stops, stop)
	}
	eventually(t, "both answer", func() bool { return second.link.up() })
	for range 5 {
		a, err := nc.Request("ask.me", []byte("how"), time.Minute)
		if err != nil || string(a.Data) != "ask.me how" {
			t.Fatalf("answer: got %v, %v; want ask.me how", a, err)
		}
	}
	for _, stop := range stops {
		stop()
		stop() // is no harm
	}
	eventually(t, "nobody answers after stop", func() bool {
		_, err := nc.Request("ask.me", nil, 50*time.Millisecond)
		return errors.Is(err, nats.ErrNoResponders)
	})
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Publish("x.y.z", nil, nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("publishing on a closed engine: got %v, want ErrUnavailable", err)
	}
	if _, err := e.Answer("x", "g", nil); !errors.Is(err, ErrUnavailable) {
		t.Errorf("answering on a closed engine: got %v, want ErrUnavailable", err)
	}
}

func TestAnyTextMakesAPartOfASubject(t *testing.T) {
	for in, want := range map[string]string{
		"WEB": "WEB", "": "-", "a.b": "a%2Eb", "*": "%2A", ">": "%3E", "a b": "a%20b", "ü": "%C3%BC", "a-b_c9": "a-b_c9", "%": "%25",
	} {
		if got := SubjectPart(in); got != want {
			t.Errorf("part of %q: got %q, want %q", in, got, want)
		}
	}
}
