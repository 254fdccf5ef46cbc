package registry

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// bothWays reads body by the scanner and by encoding/json; plain says whether the scanner understood it.
func bothWays(body string) (scanned, read []batchItem, plain bool, err error) {
	c := cursor{s: body}
	scanned, plain = c.batch(nil)
	var doc map[string]json.RawMessage
	if err = json.Unmarshal([]byte(body), &doc); err == nil {
		read, err = readItems(member(doc, "replicationList"), nil, readOperation)
	}
	return scanned, read, plain, err
}

func TestBatchesOfPeersAreScannedAsTheyAreRead(t *testing.T) {
	info := string(golden(t, "instance.json"))
	tests := []struct {
		name, body string
		plain      bool
		want       []batchItem
	}{
		{"empty", `{"replicationList":[]}`, true, nil},
		{"heartbeats", `{"replicationList":[{"appName":"WEB","id":"h:web:80","lastDirtyTimestamp":1759999999000,"overriddenStatus":"OUT_OF_SERVICE","status":"UP","action":"Heartbeat"},
			{"appName":"WEB","id":"i","action":"Heartbeat"}]}`, true, []batchItem{
			{action: heartbeatItem, app: "WEB", id: "h:web:80", dirty: 1759999999000, status: "UP", overridden: "OUT_OF_SERVICE"},
			{action: heartbeatItem, app: "WEB", id: "i"},
		}},
		{"register", `{"replicationList":[{"instanceInfo":` + info + `,"action":"Register","id":"i","appName":"web"}]}`, true,
			[]batchItem{{action: registerItem, app: "web", id: "i", info: strings.TrimSpace(info)}}},
		{"every order, space, null", "\n{ \"replicationList\" : [ {\t\"action\" :\"Cancel\", \"status\":null,\"instanceInfo\":null , \"lastDirtyTimestamp\":null,\"id\":\"i\",\"appName\":\"A\"} ] }\n", true,
			[]batchItem{{action: cancelItem, app: "A", id: "i"}}},
		{"escapes", `{"replicationList":[{"appName":"A","id":"a\/\u0062","action":"Cancel"}]}`, false, []batchItem{{action: cancelItem, app: "A", id: "a/b"}}},
		{"beyond ASCII", `{"replicationList":[{"appName":"A","id":"é","action":"Cancel"}]}`, false, []batchItem{{action: cancelItem, app: "A", id: "é"}}},
		{"number in a string", `{"replicationList":[{"appName":"A","id":"i","lastDirtyTimestamp":"7","action":"Heartbeat"}]}`, false, []batchItem{{action: heartbeatItem, app: "A", id: "i", dirty: 7}}},
		{"unknown members, other letter case", `{"v":{},"ReplicationList":[{"appname":"A","ID":"i","x":[1],"action":"Cancel"}]}`, false, []batchItem{{action: cancelItem, app: "A", id: "i"}}},
		{"one without a list", `{"replicationList":{"appName":"A","id":"i","action":"Cancel"}}`, false, []batchItem{{action: cancelItem, app: "A", id: "i"}}},
	}
	for _, tt := range tests {
		scanned, read, plain, err := bothWays(tt.body)
		if plain != tt.plain || err != nil || !slices.Equal(read, tt.want) || plain && !slices.Equal(scanned, tt.want) {
			t.Errorf("%s: scanned %+v (plain %v), read %+v, %v; want plain %v, %+v", tt.name, scanned, plain, read, err, tt.plain, tt.want)
		}
		if got, err := scanBatch(tt.body, nil); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestBrokenBatchesAreRefusedWhole(t *testing.T) {
	good := `{"appName":"A","id":"i","action":"Heartbeat"}`
	for _, body := range []string{
		"", "null", "7", "[]", "{}", `{"replicationList":null}`, `{"replicationList":7}`, `{"replicationList":[` + good,
		`{"replicationList":[` + good + `]`, `{"replicationList":[` + good + `,]}`, `{"replicationList":[` + good + ` ` + good + `]}`,
		`{"replicationList":[` + good + `]} x`, `{"replicationList":[` + good + `,null]}`, `{"replicationList":[` + good + `,7]}`,
		`{"replicationList":[{"appName":"A","id":"i","instanceInfo":{"a":tru},"action":"Register"}]}`,
		`{"replicationList":[{"id":"` + "\n" + `"}]}`,
		`{"replicationList":[` + strings.Repeat("{},", itemLimit) + `{}]}`,
	} {
		if got, err := scanBatch(body, nil); err == nil || got != nil {
			t.Errorf("batch %.80q: got %d items, %v; want an error", body, len(got), err)
		}
	}
	if got, err := scanBatch(`{"replicationList":[`+strings.Repeat("{},", itemLimit-1)+`{}]}`, nil); err != nil || len(got) != itemLimit {
		t.Errorf("batch of %d: got %d items, %v; want all", itemLimit, len(got), err)
	}
}

func TestRenewalListsAreScannedAsTheyAreRead(t *testing.T) {
	one := []batchItem{{action: heartbeatItem, app: "A", id: "i", dirty: 5}}
	for _, tt := range []struct {
		body string
		want []batchItem
	}{
		{`[]`, nil},
		{`[{"app":"A","id":"i","dirty":5}]`, one},
		{`[{"dirty":"5","ID":"i","app":"\u0041","x":{}}]`, one},
		{`{"app":"A","id":"i","dirty":5}`, one},
		{` [ {"id":"i" , "app":"A","dirty":5},{"app":"B","id":"j"} ] `, append(slices.Clone(one), batchItem{action: heartbeatItem, app: "B", id: "j"})},
	} {
		if got, err := scanRenewals(tt.body, nil); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("renewals %s: got %+v, %v; want %+v", tt.body, got, err, tt.want)
		}
	}
	for _, body := range []string{"", "[", "[{}", "7", `[{"app":"A"}]]`, `[null]`, `"x"`} {
		if got, err := scanRenewals(body, nil); err == nil {
			t.Errorf("renewals %q: got %+v, want an error", body, got)
		}
	}
}

func FuzzBatch(f *testing.F) {
	f.Add(`{"replicationList":[{"appName":"A","id":"i","lastDirtyTimestamp":17,"status":"UP","overriddenStatus":null,"action":"Heartbeat"},{"instanceInfo":{"a":[1.5e3,-0,true,"\u00e9\n"]}}]}`)
	f.Add(`{"replicationlist":{"APPNAME":"A","id":"\ud800","lastDirtyTimestamp":"1e3","x":null}}`)
	f.Fuzz(func(t *testing.T, body string) {
		scanned, read, plain, err := bothWays(body)
		if plain && (err != nil || !slices.Equal(scanned, read)) {
			t.Fatalf("%q: scanned %+v, read %+v, %v", body, scanned, read, err)
		}
		if got, err2 := scanBatch(body, nil); err == nil && (err2 != nil || !slices.Equal(got, read)) {
			t.Fatalf("%q: got %+v, %v; want %+v", body, got, err2, read)
		}
	})
}

func FuzzRenewals(f *testing.F) {
	f.Add(`[{"app":"A","id":"i","dirty":17},{"id":"j"}]`)
	f.Fuzz(func(t *testing.T, body string) {
		c := cursor{s: body}
		scanned, ok := c.list(nil, true)
		if !ok || !c.end() {
			return
		}
		var doc json.RawMessage
		err := json.Unmarshal([]byte(body), &doc)
		if err != nil {
			t.Fatalf("%q: scanned %+v, but it is no JSON: %v", body, scanned, err)
		}
		if read, err := readItems(doc, nil, readRenewal); err != nil || !slices.Equal(scanned, read) {
			t.Fatalf("%q: scanned %+v, read %+v, %v", body, scanned, read, err)
		}
	})
}

// heartbeats is the body of a batch of n renewals, as Java peers write it.
func heartbeats(n int) string {
	var b strings.Builder
	b.WriteString(`{"replicationList":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"appName":"APP%d","id":"web-%d.internal:shop:8080","lastDirtyTimestamp":1759999999000,"status":"UP","action":"Heartbeat"}`, i/20, i)
	}
	b.WriteString(`]}`)
	return b.String()
}

func BenchmarkScanBatch(b *testing.B) {
	body := heartbeats(250)
	items := make([]batchItem, 0, 250)
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		got, err := scanBatch(body, items)
		if err != nil || len(got) != 250 {
			b.Fatal(len(got), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/250, "ns/item")
}

func BenchmarkScanRenewals(b *testing.B) {
	body := "[" + strings.Repeat(`{"app":"APP7","id":"web-141.internal:shop:8080","dirty":1759999999000},`, 249) + `{"app":"A","id":"i"}]`
	items := make([]batchItem, 0, 250)
	b.ReportAllocs()
	for b.Loop() {
		got, err := scanRenewals(body, items)
		if err != nil || len(got) != 250 {
			b.Fatal(len(got), err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/250, "ns/item")
}
