package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestATableHoldsWhateverIsRegistered(t *testing.T) {
	for in, want := range map[string]string{
		"api":                    "api",
		"ünïcödé \"quoted\"":     "ünïcödé \"quoted\"",
		"\x1b[31mred":            `\x1b[31mred`,
		"two\nlines\tand tabs":   `two\nlines\tand tabs`,
		"\u202eright to left":    `\u202eright to left`,
		strings.Repeat("ö", 500): strings.Repeat("ö", widest-3) + "...",
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestWithoutATerminalEveryLineIsItsOwn(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out, log: &out}
	s.show("one")
	s.Write([]byte("logged\n"))
	s.show("two")
	s.show("")
	if got, want := out.String(), "one\nlogged\ntwo\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
