package sidecar

import (
	"maps"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPropertiesAreReadAsJavaReadsThem(t *testing.T) {
	got, err := ParseProperties("# a comment\n! another\n\n" +
		"eureka.name=shop\n  eureka.port : 7101\r\nvip shop.prod\n" +
		"long = one, \\\n   two, \\\r\n\tthree\neven=a\\\\\nnext=b\n" +
		"a\\=b\\ c=d=e\nempty=\nalone\nu=\\u00e9\\ud83d\\ude00\\t|\n=nothing\nlast=no line end\\")
	want := map[string]string{
		"eureka.name": "shop", "eureka.port": "7101", "vip": "shop.prod", "long": "one, two, three", "even": `a\`, "next": "b",
		"a=b c": "d=e", "empty": "", "alone": "", "u": "é😀\t|", "": "nothing", "last": "no line end",
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("got %q %v\nwant %q", got, err, want)
	}
	if _, err := ParseProperties("a=b\nc=\\u12x4"); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a bad escape: got %v, want an error that names line 2", err)
	}
}

func FuzzProperties(f *testing.F) {
	for _, s := range []string{"a=b", "a\\\n b", `k=\ud83d\ude00`, `\u`, "\\", "=\n:\n \n", "a=\\\r\n\\\r\nb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseProperties(text)
		if err != nil {
			return
		}
		for k, v := range got {
			if utf8.ValidString(text) && (!utf8.ValidString(k) || !utf8.ValidString(v)) {
				t.Errorf("%q: valid text gave the invalid %q=%q", text, k, v)
			}
		}
	})
}

func FuzzHosts(f *testing.F) {
	for _, s := range []string{"recommendations", "recommendations:80", "[::1]:7080", "[::1]", "::1", "a@b", "127.0.0.1", "x.example.org:443", ":80", "a:b:c", "localhost"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, host string) {
		var n names
		var c call
		if why := n.resolve(host, &c); why == "" && c.app != "" {
			t.Errorf("%q became the app %q without a registry", host, c.app)
		}
		if strings.ContainsAny(c.host, " /\\?#@") {
			t.Errorf("%q became the host %q", host, c.host)
		}
	})
}

func TestWhatLooksLikeAnIDIsNoPartOfACommandsName(t *testing.T) {
	for segment, want := range map[string]bool{
		"users": true, "v1": true, "api-v2": true, "pkg.Service": true, "": false, "42": false, "4f2a99c1": false, "a%20b": false,
		"550e8400-e29b-41d4-a716-446655440000": false, strings.Repeat("x", 33): false, "f00": false, "é": false,
	} {
		if got := isWord(segment); got != want {
			t.Errorf("%q: got %v, want %v", segment, got, want)
		}
	}
}
