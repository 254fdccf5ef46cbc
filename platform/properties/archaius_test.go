package properties

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
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

// scopeQuery is what an Archaius 2 client is told to ask for: for each scope the values it wants, nil for records that
// have none. filter is how it writes that down; the order of scopes and values is any.
type scopeQuery map[string][]*string

func (q scopeQuery) filter() string {
	var groups []string
	for name, values := range q {
		var atoms []string
		for _, v := range values {
			if v == nil {
				atoms = append(atoms, name+" is null")
			} else {
				atoms = append(atoms, name+"='"+*v+"'")
			}
		}
		if len(atoms) > 0 {
			groups = append(groups, "("+strings.Join(atoms, " or ")+")")
		}
	}
	return strings.Join(groups, " and ")
}

// selects says the same in words of the record.
func (q scopeQuery) selects(record map[string]string, skipExtra bool) bool {
	for name, values := range q {
		have := strings.Split(strings.ToLower(record[name]), ",")
		if len(values) > 0 && !slices.ContainsFunc(values, func(v *string) bool {
			if v == nil || *v == "" {
				return record[name] == ""
			}
			return slices.Contains(have, strings.ToLower(*v))
		}) {
			return false
		}
	}
	for name, v := range record {
		if skipExtra && v != "" && len(q[name]) == 0 {
			return false
		}
	}
	return true
}

func TestTheFilterMeansWhatArchaius2AsksFor(t *testing.T) {
	value := rapid.SampledFrom([]string{"", "a", "B", "us-east-1", "x y", "(a)", "and", "is null"})
	names := rapid.SampledFrom(fieldNames[:])
	rapid.Check(t, func(t *rapid.T) {
		q := scopeQuery(rapid.MapOf(names, rapid.SliceOfN(rapid.Ptr(value, true), 0, 3)).Draw(t, "query"))
		text := q.filter()
		f, err := ParseFilter(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		record := rapid.MapOf(names, rapid.SampledFrom([]string{"", "A", "b", "a,us-east-1", "x y"})).Draw(t, "record")
		b, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		var p Property
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatal(err)
		}
		if got, want := f.Match(p), q.selects(record, false); got != want {
			t.Fatalf("%q on %v: got %v, want %v", text, record, got, want)
		}
		if got, want := f.WithoutExtraScopes().Match(p), q.selects(record, true); got != want {
			t.Fatalf("%q on %v without extra scopes: got %v, want %v", text, record, got, want)
		}
	})
}

// readPersisted does with an answer what Archaius 2's reader is documented to do: a record fits when each of its
// scopes holds the reader's value, and of two that fit the later one is taken only if, at the first of the prioritized
// scopes where one names something and the other does not, it is the one that does.
func readPersisted(t *testing.T, body []byte, mine map[string]string, order []string) map[string]string {
	t.Helper()
	var answer struct{ PropertiesList []map[string]any }
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	best := map[string]map[string]string{}
	for _, raw := range answer.PropertiesList {
		rec := map[string]string{}
		for name, v := range raw {
			text, ok := v.(string)
			if !ok {
				t.Fatalf("%s of %v is no string", name, raw)
			}
			rec[name] = text
		}
		fits := true
		for _, scope := range order {
			fits = fits && (rec[scope] == "" || slices.Contains(strings.Split(strings.ToLower(rec[scope]), ","), strings.ToLower(mine[scope])))
		}
		if !fits {
			continue
		}
		was, known := best[rec["key"]]
		better := !known
		for _, scope := range order {
			if known && (was[scope] == "") != (rec[scope] == "") {
				better = was[scope] == ""
				break
			}
		}
		if better {
			best[rec["key"]] = rec
		}
	}
	out := map[string]string{}
	for key, rec := range best {
		out[key] = rec["value"]
	}
	return out
}

func TestArchaius2SeesWhatResolveSays(t *testing.T) {
	s := open(t, t.TempDir())
	h := s.Handler()
	rapid.Check(t, func(t2 *rapid.T) {
		field := rapid.SampledFrom([]string{"", "", "", "", "a", "B", "a,c", "b,C"})
		var records []Property
		for i, n := 0, rapid.IntRange(0, 12).Draw(t2, "records"); i < n; i++ {
			p := Property{Key: []string{"k", "k2"}[i%2], Value: fmt.Sprint(i), Rev: uint64(i + 1)}
			scope := map[string]string{}
			for _, name := range fieldNames {
				scope[name] = field.Draw(t2, name)
			}
			b, err := json.Marshal(scope)
			if err != nil {
				t2.Fatal(err)
			}
			if err := json.Unmarshal(b, &p); err != nil {
				t2.Fatal(err)
			}
			p.Scope = canonical(p.Scope)
			p.ID = ID(p.Key, p.Scope)
			records = append(records, p)
		}
		s.index.Store(indexOf(records...))

		mine, query := map[string]string{}, scopeQuery{}
		for _, name := range fieldNames {
			v := rapid.SampledFrom([]string{"", "a", "A", "b", "c"}).Draw(t2, "my "+name)
			mine[name] = v
			query[name] = []*string{&v, nil}
		}
		caller := url.Values{}
		for name, v := range mine {
			caller.Set(name, v)
		}
		filter := rapid.SampledFrom([]string{"", query.filter()}).Draw(t2, "filter")
		skip := rapid.Bool().Draw(t2, "skipPropsWithExtraScopes") && filter != ""
		w := httptest.NewRecorder()
		h.ServeHTTP(w, request("GET", fmt.Sprintf("/config/archaius2?skipPropsWithExtraScopes=%v&filter=%s", skip, url.QueryEscape(filter)), ""))
		for order, prioritized := range map[Order][]string{
			Platform: {"serverId", "asg", "ami", "cluster", "zone", "region", "stack", "appId", "env", "countries"},
			Netflix:  {"serverId", "asg", "ami", "cluster", "appId", "env", "countries", "stack", "zone", "region"}, // the reader's own
		} {
			got := readPersisted(t, w.Body.Bytes(), mine, prioritized)
			want := s.index.Load().resolve(asCaller(scopeOf(request("GET", "/?"+caller.Encode(), "")), order), "").Properties
			if !maps.Equal(got, want) {
				t2.Fatalf("%s\nfor %v in order %v: got %v, want %v", w.Body, mine, prioritized, got, want)
			}
		}
	})
}

func TestArchaius2IsAnsweredAsItsReaderExpects(t *testing.T) {
	s := open(t, t.TempDir())
	s.must(t, "a.b", "1", config.Scope{Env: "prod", App: "api", Region: "us-east-1,eu-west-1"})
	s.must(t, "global", strings.Repeat("x", 300), config.Scope{})
	h := s.Handler()
	filter := url.QueryEscape("(appId='api' or appId is null) and (env='prod')")
	for query, want := range map[string]string{
		"?skipPropsWithExtraScopes=false&filter=" + filter: `{"propertiesList":[{"propertyId":"` + ID("a.b", config.Scope{Env: "prod", App: "api", Region: "us-east-1,eu-west-1"}) +
			`","key":"a.b","value":"1","env":"prod","appId":"api","region":"eu-west-1,us-east-1"}]}`,
		"?skipPropsWithExtraScopes=true&filter=" + filter: `{"propertiesList":[]}`,
	} {
		got, header := get(t, h, "/config/archaius2"+query)
		if got != want || header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %s %s, want %s", query, header.Get("Content-Type"), got, want)
		}
	}
	if got, _ := get(t, h, "/config/archaius2"); strings.Count(got, `"key"`) != 2 {
		t.Errorf("no filter: got %s, want everything", got)
	}
	r := request("GET", "/config/archaius2?skipPropsWithExtraScopes=false&filter=", "")
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Header().Get("Content-Encoding") != "gzip" || w.Header().Get("ETag") == "" {
		t.Fatalf("got header %v, want gzip and an ETag", w.Header())
	}
	r.Header.Set("If-None-Match", w.Header().Get("ETag"))
	for _, step := range []struct {
		what string
		do   func()
		want int
	}{
		{"nothing", func() {}, 304},
		{"nothing again", func() {}, 304},
		{"a change", func() { s.must(t, "a.b", "2", config.Scope{Env: "prod", App: "api", Region: "us-east-1,eu-west-1"}) }, 200},
		{"nothing since", func() {}, 304},
		{"a change that is none", func() { s.must(t, "a.b", "2", config.Scope{Env: "prod", App: "api", Region: "us-east-1,eu-west-1"}) }, 304},
		{"a deletion", func() {
			if err := s.Delete(t.Context(), ID("global", config.Scope{}), Any); err != nil {
				t.Fatal(err)
			}
		}, 200},
	} {
		step.do()
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != step.want {
			t.Errorf("after %s: got %d, want %d", step.what, w.Code, step.want)
		}
		r.Header.Set("If-None-Match", w.Header().Get("ETag"))
	}
	w = httptest.NewRecorder()
	if h.ServeHTTP(w, request("GET", "/config/archaius2?filter=(color='red')", "")); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "there are serverId") {
		t.Errorf("a scope there is not: got %d %s, want 400 and those there are", w.Code, w.Body)
	}
}

// BenchmarkPoll is one poll of each face by an app of 1,000 keys among 100,000 records, as a client makes it.
func BenchmarkPoll(b *testing.B) {
	var ps []Property
	for i := range 100_000 {
		p := Property{Key: fmt.Sprintf("some.prefix.key.%04d", i%1000), Value: fmt.Sprint("value-", i), Scope: config.Scope{App: fmt.Sprint("app-", i/1000)}, Rev: uint64(i + 1)}
		p.ID = ID(p.Key, p.Scope)
		ps = append(ps, p)
	}
	s := open(b, b.TempDir())
	s.index.Store(indexOf(ps...))
	h := s.Handler()
	for name, path := range map[string]string{
		"archaius1": "/config/v1/properties/app-7.properties?zone=zone-a",
		"archaius2": "/config/archaius2?skipPropsWithExtraScopes=false&filter=" + url.QueryEscape("(appId='app-7' or appId is null) and (env='prod' or env is null)"),
		"spring":    "/config/spring/app-7/prod",
	} {
		for _, again := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/again=%v", name, again), func(b *testing.B) {
				r := request("GET", path, "")
				r.Header.Set("Accept-Encoding", "gzip")
				want := http.StatusOK
				if again { // nothing changed since
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					r.Header.Set("If-None-Match", w.Header().Get("ETag"))
					want = http.StatusNotModified
				}
				b.ReportAllocs()
				for b.Loop() {
					w := httptest.NewRecorder()
					if h.ServeHTTP(w, r); w.Code != want {
						b.Fatalf("got %d, want %d", w.Code, want)
					}
				}
			})
		}
	}
}
