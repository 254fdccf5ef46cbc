package turbine

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// stage is a cluster whose instances a test lets speak.
type stage struct {
	*cluster
	hosts map[string]*source
}

func newStage() *stage {
	return &stage{newCluster(http.DefaultClient, slog.New(slog.DiscardHandler)), map[string]*source{}}
}

func (s *stage) says(host, message string) {
	src := s.hosts[host]
	if src == nil {
		src = &source{id: host, cluster: s.cluster, said: map[string]*said{}}
		s.hosts[host] = src
	}
	src.hear([]byte(message))
}

func (s *stage) leaves(host string) {
	if src := s.hosts[host]; src != nil {
		src.silent()
		delete(s.hosts, host)
	}
}

// shows returns the blocks that a reader who comes now gets, without their times.
func (s *stage) shows(t interface{ Fatalf(string, ...any) }, r reading) []map[string]any {
	blocks, _ := s.since(0, r, nil)
	var out []map[string]any
	for _, b := range blocks {
		text, ok := strings.CutPrefix(string(b), "data: ")
		if !ok || !strings.HasSuffix(text, "\n\n") || strings.Count(text, "\n") != 2 {
			t.Fatalf("%q is no block", b)
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		delete(m, "currentTime")
		out = append(out, m)
	}
	return out
}

func TestValuesAddUpByKind(t *testing.T) {
	const mark = `{"type":"HystrixCommand","name":"A","currentTime":1,`
	for _, c := range []struct {
		what, one, two string
		want           string
	}{
		{"numbers are summed", `"requestCount":3`, `"requestCount":4`, `{"requestCount":7}`},
		{"percentages too, for the page divides", `"errorPercentage":50`, `"errorPercentage":51`, `{"errorPercentage":101}`},
		{"fractions are cut off", `"x":3.9`, `"x":-4.9e0`, `{"x":-1}`},
		{"numbers have bounds", `"x":1e300`, `"x":99999999999999999999`, fmt.Sprintf(`{"x":%d}`, 2*int64(most))},
		{"objects of numbers are summed by key", `"latencyExecute":{"0":1,"99.5":9}`, `"latencyExecute":{"0":2,"99.5":"8"}`, `{"latencyExecute":{"0":3,"99.5":17}}`},
		{"keys of objects that one lacks are kept", `"o":{"a":1,"b":2}`, `"o":{"b":3,"c":4}`, `{"o":{"a":1,"b":5,"c":4}}`},
		{"equal texts are that text", `"group":"G"`, `"group":"G"`, `{"group":"G"}`},
		{"different texts are counted", `"group":"G"`, `"group":"H"`, `{"group":{"G":1,"H":1}}`},
		{"equal booleans stay booleans", `"isCircuitBreakerOpen":false`, `"isCircuitBreakerOpen":false`, `{"isCircuitBreakerOpen":false}`},
		{"different booleans are counted", `"isCircuitBreakerOpen":true`, `"isCircuitBreakerOpen":false`, `{"isCircuitBreakerOpen":{"false":1,"true":1}}`},
		{"properties are texts, true and false aside", `"propertyValue_x":5,"propertyValue_y":true`, `"propertyValue_x":5,"propertyValue_y":true`, `{"propertyValue_x":"5","propertyValue_y":true}`},
		{"different properties are counted", `"propertyValue_x":5`, `"propertyValue_x":6`, `{"propertyValue_x":{"5":1,"6":1}}`},
		{"a property that is null is the text null", `"propertyValue_x":null`, `"propertyValue_x":null`, `{"propertyValue_x":"null"}`},
		{"a command's window is the most common", `"` + window + `":10000`, `"` + window + `":20000`, `{"` + window + `":"10000"}`},
		{"sums of sums add up", `"isCircuitBreakerOpen":{"true":2,"false":1}`, `"isCircuitBreakerOpen":true`, `{"isCircuitBreakerOpen":{"true":3,"false":1}}`},
		{"identifiers are nobody's values", `"instanceId":"a","InstanceKey":1`, `"instanceId":"b"`, `{}`},
		{"a key that one lacks is the other's", `"x":1`, `"y":2`, `{"x":1,"y":2}`},
		{"a number beats a text", `"x":1`, `"x":"one"`, `{"x":1}`},
		{"null says nothing", `"x":null`, `"x":2`, `{"x":2}`},
		{"names may hold anything", `"a\"\n\u00e9":1`, `"a\"\n\u00e9":2`, `{"a\"\n\u00e9":3}`},
	} {
		s := newStage()
		s.says("1", mark+c.one+"}")
		s.says("2", mark+c.two+"}")
		got := s.shows(t, 0)
		want := map[string]any{}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		want["type"], want["name"] = "HystrixCommand", "A"
		if diff := cmp.Diff([]map[string]any{want}, got); diff != "" {
			t.Errorf("%s: {%s} and {%s} (-want +got):\n%s", c.what, c.one, c.two, diff)
		}
	}
}

func TestAPoolsPropertiesAreSummedForThePageDividesThem(t *testing.T) {
	s := newStage()
	for i, text := range []string{`10000`, `10000`, `"10000"`} {
		s.says(fmt.Sprint(i), `{"type":"HystrixThreadPool","name":"P","`+window+`":`+text+`,"propertyValue_queueSizeRejectionThreshold":5,"reportingHosts":1}`)
	}
	got := s.shows(t, 0)[0]
	for key, want := range map[string]float64{window: 30000, "propertyValue_queueSizeRejectionThreshold": 15, "reportingHosts": 3} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
	if got := s.shows(t, hostWindow)[0][window]; got != 10000.0 {
		t.Errorf("with window=host %s is %v, want 10000", window, got)
	}
}

func TestTheMostCommonWindowOfACommandIsTheGroups(t *testing.T) {
	s := newStage()
	for i, ms := range []int{10000, 5000, 5000, 20000} {
		s.says(fmt.Sprint(i), fmt.Sprintf(`{"type":"HystrixCommand","name":"A",%q:%d}`, window, ms))
	}
	if got := s.shows(t, 0)[0][window]; got != "5000" {
		t.Errorf("of 10000, 5000, 5000 and 20000 the group has %v, want 5000", got)
	}
}

func TestOpenBreakersAreCountedForReadersWhoAsk(t *testing.T) {
	for _, c := range []struct {
		say           []bool
		plain, counts any
	}{
		{[]bool{false, false}, false, false},
		{[]bool{true, true, true}, true, 3.0},
		{[]bool{true, false, true}, map[string]any{"true": 2.0, "false": 1.0}, "2 true, 1 false"},
	} {
		s := newStage()
		for i, open := range c.say {
			s.says(fmt.Sprint(i), fmt.Sprintf(`{"type":"HystrixCommand","name":"A","isCircuitBreakerOpen":%v}`, open))
		}
		if got := s.shows(t, 0)[0]["isCircuitBreakerOpen"]; !cmp.Equal(got, c.plain) {
			t.Errorf("%v: got %v, want %v", c.say, got, c.plain)
		}
		if got := s.shows(t, openCount)[0]["isCircuitBreakerOpen"]; !cmp.Equal(got, c.counts) {
			t.Errorf("%v with open=count: got %v, want %v", c.say, got, c.counts)
		}
	}
}

func TestAGroupThatNobodySpeaksOfIsSentOnceMoreWithZeros(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		s.says("1", `{"type":"HystrixCommand","name":"A","group":"G","requestCount":7,"isCircuitBreakerOpen":true,"latencyExecute":{"50":4},"reportingHosts":1}`)
		_, seen := s.since(0, 0, nil)
		if parts, _ := s.since(seen, 0, nil); len(parts) != 0 {
			t.Errorf("nothing changed, yet %q is sent", parts)
		}
		s.leaves("1")
		if parts, _ := s.since(seen, 0, nil); len(parts) != 1 {
			t.Fatalf("after the last instance left %d blocks are sent, want 1", len(parts))
		}
		want := []map[string]any{{"type": "HystrixCommand", "name": "A", "group": "G", "requestCount": 0.0, "isCircuitBreakerOpen": true, "latencyExecute": map[string]any{"50": 0.0}, "reportingHosts": 0.0}}
		if diff := cmp.Diff(want, s.shows(t, 0)); diff != "" {
			t.Errorf("after the last instance left (-want +got):\n%s", diff)
		}
		time.Sleep(mourn + time.Second)
		s.since(0, 0, nil)
		if got := s.shows(t, 0); len(got) != 0 || len(s.groups) != 0 {
			t.Errorf("after %s the group is still shown: %v", mourn, got)
		}
	})
}

func TestAMessageThatSaysTheSameChangesNothing(t *testing.T) {
	s := newStage()
	say := func(at, n int) {
		s.says("1", fmt.Sprintf(`{"type":"HystrixCommand","name":"A","currentTime":%d,"requestCount":%d}`, at, n))
	}
	say(1000, 5)
	before := s.version
	say(1500, 5)
	if s.version != before {
		t.Error("a message that differs in its time alone changed the group")
	}
	say(2000, 6)
	if s.version == before || s.shows(t, 0)[0]["requestCount"] != 6.0 {
		t.Errorf("a message with another count: %v, want 6", s.shows(t, 0))
	}
}

func TestWhatIsNoMessageIsLeftOut(t *testing.T) {
	s := newStage()
	s.says("1", `{"type":"HystrixCommand","name":"A","requestCount":1}`)
	for _, bad := range []string{
		"", "{", "[]", "null", "5", `"x"`, `{"type":"HystrixCommand"}`, `{"name":"A"}`, `{"type":1,"name":"A"}`, `{"type":"HystrixCommand","name":null}`,
		`{"type":"HystrixCommand","name":"A","x":}`, `{"type":"HystrixCommand","name":"A","x":1}}`, `{"type":"HystrixCommand","name":"A","x":tru}`,
		`{"type":"HystrixCommand","name":"A",}`, `{"type":"HystrixCommand","name":"A" "x":1}`, `{"type":"HystrixCommand","name":"A","x":"`,
		`{"type":"HystrixCommand","name":"A","x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`,
		`{"type":"HystrixCommand","name":"A","x":1` + strings.Repeat(`,"y":1`, maxMembers) + `}`,
	} {
		s.says("1", bad)
		s.says("2", bad)
	}
	want := []map[string]any{{"type": "HystrixCommand", "name": "A", "requestCount": 1.0}}
	if diff := cmp.Diff(want, s.shows(t, 0)); diff != "" {
		t.Errorf("after messages that are none (-want +got):\n%s", diff)
	}
}

func TestAnInstanceSpeaksOfSoManyGroupsAndNoMore(t *testing.T) {
	s := newStage()
	for i := range maxGroups + 10 {
		s.says("greedy", fmt.Sprintf(`{"type":"HystrixCommand","name":"c%d","requestCount":1}`, i))
	}
	s.says("modest", `{"type":"HystrixCommand","name":"mine","requestCount":1}`)
	s.says("greedy", `{"type":"HystrixCommand","name":"c0","requestCount":5}`) // one it has already
	if n := len(s.groups); n != maxGroups+1 {
		t.Errorf("there are %d groups, want the %d of the greedy instance and the one of the other", n, maxGroups)
	}
	if got := s.groups[[2]string{"HystrixCommand", "c0"}].byKey["requestCount"].sum; got != 5 {
		t.Errorf("a group from before is not followed any more: %d, want 5", got)
	}
}

func TestKeysThatComeAndGoAreForgotten(t *testing.T) {
	s := newStage()
	for i := range 5 * maxMembers {
		s.says("1", fmt.Sprintf(`{"type":"HystrixCommand","name":"A","k%d":1,"o":{"p%d":1}}`, i, i))
	}
	g := s.groups[[2]string{"HystrixCommand", "A"}]
	if n := len(g.fields); n > 2*maxMembers+1 || n != len(g.byKey) {
		t.Errorf("%d fields are kept, %d by key, want at most %d", n, len(g.byKey), 2*maxMembers+1)
	}
	if n := len(g.byKey["o"].parts); n > 2*maxMembers+1 {
		t.Errorf("%d parts of an object are kept, want at most %d", n, 2*maxMembers+1)
	}
}

// TestGroupsAreTheSumOfWhatWasSaidLast compares the running sums with sums made anew from the last messages.
func TestGroupsAreTheSumOfWhatWasSaidLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStage()
		last := map[string]map[string]map[string]any{} // name -> host -> message
		value := func(key string) any {
			switch key {
			case "n", "m":
				return rapid.IntRange(-1000, 1000).Draw(t, key)
			case "o":
				o := map[string]any{}
				for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3, rapid.ID).Draw(t, "keys") {
					o[k] = rapid.IntRange(0, 9).Draw(t, k)
				}
				return o
			case "propertyValue_p":
				return rapid.IntRange(1, 3).Draw(t, key)
			}
			return rapid.SampledFrom([]string{"x", "y"}).Draw(t, key)
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			host := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "host")
			if rapid.IntRange(0, 4).Draw(t, "leave") == 0 {
				s.leaves(host)
				for _, hosts := range last {
					delete(hosts, host)
				}
				continue
			}
			name := rapid.SampledFrom([]string{"A", "B"}).Draw(t, "name")
			m := map[string]any{"type": "T", "name": name}
			text := fmt.Sprintf(`{"type":"T","name":%q`, name)
			for _, key := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"n", "m", "o", "t", "propertyValue_p"}), rapid.ID).Draw(t, "fields") {
				m[key] = value(key)
				b, err := json.Marshal(m[key])
				if err != nil {
					t.Fatal(err)
				}
				text += fmt.Sprintf(",%q:%s", key, b)
			}
			s.says(host, text+"}")
			if last[name] == nil {
				last[name] = map[string]map[string]any{}
			}
			last[name][host] = m
		}
		got := map[string]map[string]any{}
		for _, g := range s.shows(t, 0) {
			got[g["name"].(string)] = g
		}
		for name, hosts := range last {
			if len(hosts) == 0 {
				continue
			}
			want := sum(slices.Collect(maps.Values(hosts)))
			g := got[name]
			for key := range g { // what nobody says any more has its last form
				if _, ok := want[key]; !ok && key != "type" && key != "name" {
					delete(g, key)
				}
			}
			want["type"], want["name"] = "T", name
			if diff := cmp.Diff(want, g); diff != "" {
				t.Fatalf("%s (-want +got):\n%s", name, diff)
			}
		}
	})
}

// sum adds messages up the plain way.
func sum(messages []map[string]any) map[string]any {
	out := map[string]any{}
	counts := map[string]map[string]any{}
	for _, m := range messages {
		for key, v := range m {
			switch v := v.(type) {
			case map[string]any:
				if out[key] == nil {
					out[key] = map[string]any{}
				}
				for k, n := range v {
					old, _ := out[key].(map[string]any)[k].(float64)
					out[key].(map[string]any)[k] = old + float64(n.(int))
				}
				continue
			case int:
				if !strings.HasPrefix(key, "propertyValue_") {
					old, _ := out[key].(float64)
					out[key] = old + float64(v)
					continue
				}
			}
			if counts[key] == nil {
				counts[key] = map[string]any{}
			}
			old, _ := counts[key][fmt.Sprint(v)].(float64)
			counts[key][fmt.Sprint(v)] = old + 1
		}
	}
	for key, c := range counts {
		if out[key] = any(c); len(c) == 1 {
			for text := range c {
				out[key] = text
			}
		}
	}
	return out
}

func FuzzHear(f *testing.F) {
	f.Add([]byte(`{"type":"HystrixCommand","name":"A","currentTime":1,"x":[1,{"a":null}],"latencyExecute":{"0":1,"b":{"c":1},"d":"x"}}`))
	f.Add([]byte(`{"name":"A","type":"HystrixThreadPool","` + window + `":"x"}`))
	f.Add([]byte(`{"type":"a","name":"b","k":1,"k":"two","\u0000":{},"isCircuitBreakerOpen":{"true":1}}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		s := newStage()
		s.says("1", `{"type":"HystrixCommand","name":"A","currentTime":1,"requestCount":5,"group":"G","latencyExecute":{"50":4}}`)
		before := s.shows(t, 0)
		s.says("2", string(message))
		if heard := len(s.hosts["2"].said) > 0; json.Valid(message) && !heard {
			var m map[string]any
			kind, name := m["type"], m["name"]
			if json.Unmarshal(message, &m) == nil && kind != nil && name != nil && len(m) < maxMembers {
				t.Errorf("%q is a message and was left out", message)
			}
		}
		s.shows(t, 0) // is JSON
		s.shows(t, openCount)
		s.says("2", `{"type":"HystrixCommand","name":"A","requestCount":6}`)
		s.leaves("2")
		after := s.shows(t, 0)[:1]
		for key := range after[0] { // a key that only the other had stays, with nothing
			if _, ok := before[0][key]; !ok {
				delete(after[0], key)
			}
		}
		if o, ok := after[0]["latencyExecute"].(map[string]any); ok && !cmp.Equal(o, map[string]any{"50": 4.0}) {
			t.Errorf("after %q came and went latencyExecute is %v", message, o)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("after %q came and went (-before +after):\n%s", message, diff)
		}
	})
}

func BenchmarkMessageUnchanged(b *testing.B) {
	s := newStage()
	m := []byte(command(1, 5))
	s.says("1", string(m))
	b.ReportAllocs()
	b.SetBytes(int64(len(m)))
	for b.Loop() {
		s.hosts["1"].hear(m)
	}
}

func BenchmarkMessageChanged(b *testing.B) {
	s := newStage()
	m := [2][]byte{[]byte(command(1, 5)), []byte(command(2, 6))}
	s.says("1", string(m[0]))
	b.ReportAllocs()
	b.SetBytes(int64(len(m[0])))
	for i := 0; b.Loop(); i++ {
		s.hosts["1"].hear(m[i%2])
	}
}

// command is a message of Hystrix's size.
func command(at, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, `{"type":"HystrixCommand","name":"GetRecommendations","group":"Recommendations","currentTime":%d,"requestCount":%d`, 1790000000000+at, n)
	for i := range 24 {
		fmt.Fprintf(&b, `,"rollingCountOfSomething%d":%d`, i, i)
	}
	fmt.Fprintf(&b, `,"latencyExecute":{"0":2,"25":8,"50":11,"75":15,"90":21,"95":27,"99":48,"99.5":61,"100":97},"latencyTotal":{"0":2,"25":8,"50":11,"75":15,"90":21,"95":27,"99":48,"99.5":61,"100":%d}`, n)
	for i := range 16 {
		fmt.Fprintf(&b, `,"propertyValue_circuitBreakerSomething%d":%d`, i, i)
	}
	return b.String() + `,"reportingHosts":1,"threadPool":"Recommendations"}`
}
