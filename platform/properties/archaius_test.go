package properties

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/roadbed/roadbed/config"
)

// loadJava reads a properties file as the documentation of java.util.Properties.load says: natural lines, comments,
// logical lines joined by a backslash, a key that ends at the first unescaped separator, and escapes. It knows nothing
// of the writer.
func loadJava(text []byte) (map[string]string, error) {
	units := make([]uint16, len(text)) // ISO-8859-1: a byte is a character
	for i, b := range text {
		units[i] = uint16(b)
	}
	blank := func(u uint16) bool { return u == ' ' || u == '\t' || u == '\f' }
	var logical [][]uint16
	for i := 0; i < len(units); {
		for i < len(units) && (blank(units[i]) || units[i] == '\n' || units[i] == '\r') {
			i++
		}
		if i < len(units) && (units[i] == '#' || units[i] == '!') {
			for i < len(units) && units[i] != '\n' && units[i] != '\r' {
				i++
			}
			continue
		}
		var line []uint16
		for i < len(units) && units[i] != '\n' && units[i] != '\r' {
			if units[i] != '\\' {
				line = append(line, units[i])
				i++
				continue
			}
			if i++; i == len(units) {
				return nil, errors.New("the file ends in a backslash")
			}
			if units[i] == '\n' || units[i] == '\r' { // goes on with the next line
				if units[i] == '\r' && i+1 < len(units) && units[i+1] == '\n' {
					i++
				}
				for i++; i < len(units) && blank(units[i]); {
					i++
				}
				continue
			}
			line = append(line, '\\', units[i])
			i++
		}
		if line != nil {
			logical = append(logical, line)
		}
	}
	out := map[string]string{}
	for _, line := range logical {
		end := 0
		for end < len(line) && !blank(line[end]) && line[end] != '=' && line[end] != ':' {
			if line[end] == '\\' {
				end++
			}
			end++
		}
		from, separated := end, false
		for from < len(line) && (blank(line[from]) || !separated && (line[from] == '=' || line[from] == ':')) {
			separated = separated || !blank(line[from])
			from++
		}
		key, err := unescapeJava(line[:end])
		if err != nil {
			return nil, err
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("key %q twice", key)
		}
		if out[key], err = unescapeJava(line[from:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func unescapeJava(in []uint16) (string, error) {
	var out []uint16
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			out = append(out, in[i])
			continue
		}
		i++
		switch in[i] {
		case 't':
			out = append(out, '\t')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 'f':
			out = append(out, '\f')
		case 'u':
			if i+4 >= len(in) {
				return "", errors.New("\\u without four digits")
			}
			n, err := strconv.ParseUint(string(utf16.Decode(in[i+1:i+5])), 16, 16)
			if err != nil {
				return "", err
			}
			out, i = append(out, uint16(n)), i+4
		default:
			out = append(out, in[i])
		}
	}
	return string(utf16.Decode(out)), nil
}

func TestAJavaPropertiesFileIsReadBackAsItWasWritten(t *testing.T) {
	text := rapid.StringOf(rapid.OneOf(
		rapid.SampledFrom([]rune(" \t\f\n\r\\=:#!\"',${}ab0Z~\x00\x7f\u0080äÿĀ€\ufeff\uffff😀")), rapid.Rune()))
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.MapOf(text, text).Draw(t, "properties")
		file := javaProperties(want)
		got, err := loadJava(file)
		if err != nil || !maps.Equal(got, want) {
			t.Fatalf("%q: got %q, %v; want %q", file, got, err, want)
		}
	})
}

func FuzzJavaProperties(f *testing.F) {
	f.Add("key", "value", "other", "")
	f.Add(" a=b:c#d!e\\", " \\ #\t\n\r\f", "ключ", "😀\u00e4")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		want := map[string]string{k1: v1, k2: v2}
		for k, v := range want {
			if !utf8.ValidString(k) || !utf8.ValidString(v) {
				return // refused at write
			}
		}
		file := javaProperties(want)
		for _, b := range file {
			if b != '\n' && (b < ' ' || b > '~') {
				t.Errorf("%q holds byte %#x, want printable ASCII alone", file, b)
			}
		}
		if got, err := loadJava(file); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q: got %q, %v; want %q", file, got, err, want)
		}
	})
}

func TestArchaius1GetsEverythingItsCallerSees(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "timeout", "1000", config.Scope{})
	s.must(t, "timeout", "900", config.Scope{App: "api"})
	s.must(t, "timeout", "800", config.Scope{App: "api", Zone: "zone-b"})
	s.must(t, "greeting", "grüß Gott", config.Scope{App: "api"})
	s.must(t, "raw", "${timeout}", config.Scope{App: "api"})
	s.must(t, "other", "x", config.Scope{App: "web"})
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, request("GET", "/config/v1/properties/api.properties?zone=zone-b", ""))
	const want = "greeting=gr\\u00FC\\u00DF Gott\nraw=${timeout}\ntimeout=800\n"
	if w.Code != http.StatusOK || w.Body.String() != want {
		t.Errorf("got %d %q, want %q", w.Code, w.Body, want)
	}
	for name, want := range map[string]string{"Content-Type": "text/plain;charset=ISO-8859-1", "Content-Length": strconv.Itoa(len(want))} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got, _ := get(t, s.Handler(), "/config/v1/properties/nobody.properties"); got != "timeout=1000\n" {
		t.Errorf("an app nobody heard of: got %q, want what is for everybody", got)
	}
}

func TestAPolledBodyIsNeverSentTwiceNorBrokenOff(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "long", strings.Repeat("0123456789", 1000), config.Scope{})
	h := s.Handler()
	ask := func(encoding, tag string) *httptest.ResponseRecorder {
		r := request("GET", "/config/v1/properties/api.properties", "")
		r.Header.Set("Accept-Encoding", encoding)
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got, want := w.Header().Get("Content-Length"), strconv.Itoa(w.Body.Len()); w.Code == 200 && got != want {
			t.Errorf("Accept-Encoding %q: Content-Length is %q, want %q", encoding, got, want)
		}
		return w
	}
	plain := ask("", "")
	for _, encoding := range []string{"gzip", "deflate, gzip;q=0.5", "GZIP"} {
		zipped := ask(encoding, "")
		if got := zipped.Header().Get("Content-Encoding"); got != "gzip" {
			t.Fatalf("Accept-Encoding %q: Content-Encoding is %q, want gzip", encoding, got)
		}
		gz, err := gzip.NewReader(zipped.Body)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(gz)
		if err != nil || string(body) != plain.Body.String() {
			t.Errorf("Accept-Encoding %q: got %d bytes, %v; want those of the plain body", encoding, len(body), err)
		}
		if again := ask(encoding, zipped.Header().Get("ETag")); again.Code != http.StatusNotModified || again.Body.Len() != 0 {
			t.Errorf("Accept-Encoding %q with the ETag it gave: got %d, want an empty 304", encoding, again.Code)
		}
	}
	for _, encoding := range []string{"gzip;q=0", "gzip; q=0.0", "br"} {
		if got := ask(encoding, "").Header().Get("Content-Encoding"); got != "" {
			t.Errorf("Accept-Encoding %q: got Content-Encoding %q, want none", encoding, got)
		}
	}
	s.must(t, "unseen", "x", config.Scope{App: "web"}) // changes nothing here
	if again := ask("", plain.Header().Get("ETag")); again.Code != http.StatusNotModified {
		t.Errorf("after a change for others: got %d, want 304", again.Code)
	}
	s.must(t, "seen", "x", config.Scope{App: "api"})
	if again := ask("", plain.Header().Get("ETag")); again.Code != http.StatusOK {
		t.Errorf("after a change: got %d, want 200", again.Code)
	}
}
