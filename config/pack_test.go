package config

import (
	"strings"
	"testing"
)

func TestAPackedTextComesOutAsItWas(t *testing.T) {
	for _, text := range []string{"", "- id: a\n", "ä€\x00", strings.Repeat("- {id: x, backends: [{vip: x}]}\n", 100_000)} {
		value := Pack(text)
		if !Packed(value) {
			t.Errorf("%.40q packed is %.20q..., which does not look packed", text, value)
		}
		got, err := Unpack(value)
		if err != nil || got != text {
			t.Errorf("%.40q comes out as %.40q, %v", text, got, err)
		}
	}
	if got := len(Pack(strings.Repeat("x", 1<<20))); got > 4096 {
		t.Errorf("1 MiB of one letter takes %d bytes, want a few thousand at most", got)
	}
}

func TestWhatIsNotPackedIsRefused(t *testing.T) {
	good := Pack("- id: a\n")
	for what, value := range map[string]string{
		"plain text":        "- id: a",
		"base64 of text":    "aGVsbG8=",
		"cut off":           good[:len(good)-8],
		"a changed byte":    good[:20] + "A" + good[21:],
		"not UTF-8":         Pack("a\xff"),
		"more than 64 MiB":  Pack(strings.Repeat("x", maxText+1)),
		"something after":   good + "!",
		"packed and broken": "H4sI",
	} {
		if text, err := Unpack(value); err == nil {
			t.Errorf("%s: %.40q unpacks to %.40q, want an error", what, value, text)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	for _, s := range []string{"", "H4sI", Pack(""), Pack("- id: a\n"), "aGVsbG8="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		text, err := Unpack(value)
		if err != nil {
			return
		}
		if again, err := Unpack(Pack(text)); err != nil || again != text {
			t.Errorf("%q packed again comes to %q, %v", text, again, err)
		}
	})
}
