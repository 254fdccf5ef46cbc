package registry

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// shop is the instance of the golden files.
func shop() *record {
	return &record{
		id: "web-1.internal:shop:8080", sentID: true, app: "SHOP", host: "web-1.internal", ip: "10.1.2.3",
		own: up, status: up, override: unknown, port: port{8080, true}, secure: port{443, false}, country: 1,
		renewal: 30, duration: 90, home: "http://web-1.internal:8080/", vip: "shop", svip: "shop",
		dirty: 1759999999000, updated: 1760000000001, registered: 1760000000000, serviceUp: 1760000000000,
		dcSent: true, dcName: true,
	}
}

var shopTimes = times{renewed: 1760000030000}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func shopDocument() *document {
	v := &view{name: "SHOP", recs: []shown{{shop(), shopTimes.renewed}}}
	return &document{version: 1, hash: "UP_1_", views: []*view{v}}
}

func TestJSONOfInstanceIsNetflixsToTheByte(t *testing.T) {
	v := shopDocument().views[0]
	got, want := string(v.one(0, jsonFull)), strings.TrimSpace(string(golden(t, "instance.json")))
	if got != want {
		t.Errorf("instance as JSON:\n got %s\nwant %s", got, want)
	}
	inner := strings.TrimSuffix(strings.TrimPrefix(want, `{"instance":`), "}")
	got = string(bytes.Join(shopDocument().parts(jsonFull), nil))
	want = `{"applications":{"versions__delta":"1","apps__hashcode":"UP_1_","application":[{"name":"SHOP","instance":[` + inner + `]}]}}`
	if got != want {
		t.Errorf("applications as JSON:\n got %s\nwant %s", got, want)
	}
	got = string(bytes.Join(v.whole(jsonFull), nil))
	if want = `{"application":{"name":"SHOP","instance":[` + inner + `]}}`; got != want {
		t.Errorf("application as JSON:\n got %s\nwant %s", got, want)
	}
	got = string(bytes.Join((&document{version: 1}).parts(jsonFull), nil))
	if want = `{"applications":{"versions__delta":"1","apps__hashcode":"","application":[]}}`; got != want {
		t.Errorf("no applications as JSON:\n got %s\nwant %s", got, want)
	}
}

func TestXMLOfApplicationsIsXStreamsToTheByte(t *testing.T) {
	got := string(bytes.Join(shopDocument().parts(xmlFull), nil))
	if want := string(golden(t, "applications.xml")); got != want {
		t.Errorf("applications as XML (-want +got):\n%s", cmp.Diff(want, got))
	}
	one := string(shopDocument().views[0].one(0, xmlFull))
	if !strings.HasPrefix(one, "<instance>\n  <instanceId>") || !strings.HasSuffix(one, "\n</instance>\n") {
		t.Errorf("instance as XML: got %s, want it indented from its root", one)
	}
}

func TestCompactFormDropsWhatNetflixDrops(t *testing.T) {
	r := shop()
	r.sid, r.appGroup, r.statusPage, r.health, r.secureHealth, r.meta = "s", "G", "u", "h", "sh", []pair{{"a", "b"}}
	r.dcAmazon = true
	r.dcMeta = []pair{{"ami-id", "ami"}, {"availability-zone", "z"}, {"instance-id", "i"}}
	v := &view{name: "SHOP", recs: []shown{{r, 1}}}
	var doc struct{ Instance map[string]any }
	if err := json.Unmarshal(v.one(0, jsonCompact), &doc); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"appGroupName", "overriddenStatus", "sid", "countryId", "homePageUrl", "statusPageUrl", "healthCheckUrl",
		"secureHealthCheckUrl", "isCoordinatingDiscoveryServer", "lastDirtyTimestamp", "leaseInfo", "metadata",
	} {
		if got, ok := doc.Instance[name]; ok {
			t.Errorf("compact instance: got %s = %v, want it dropped", name, got)
		}
	}
	if got, ok := doc.Instance["lastUpdatedTimestamp"].(float64); !ok || got != 1760000000001 {
		t.Errorf("compact lastUpdatedTimestamp: got %v, want the number 1760000000001", doc.Instance["lastUpdatedTimestamp"])
	}
	dc := doc.Instance["dataCenterInfo"].(map[string]any)["metadata"].(map[string]any)
	if want := map[string]any{"availability-zone": "z", "instance-id": "i"}; !cmp.Equal(dc, want) {
		t.Errorf("compact Amazon metadata: got %v, want %v", dc, want)
	}
	var whole map[string]any
	if err := json.Unmarshal(bytes.Join(shopDocument().parts(jsonCompact), nil), &whole); err != nil {
		t.Errorf("compact applications: %v", err)
	}
}

// TestRegistrationsOfRealClientsAreUnderstood holds what clients were seen to send, and what must be made of it.
func TestRegistrationsOfRealClientsAreUnderstood(t *testing.T) {
	base := func(alter func(*record)) *record {
		r := &record{
			id: "h", app: "JQ", host: "h", ip: "1.2.3.4", own: up, status: up, override: unknown,
			port: port{8080, true}, secure: port{7002, false}, country: 1, renewal: 30, duration: 90, dcSent: true, dcName: true,
		}
		alter(r)
		return r
	}
	tests := []struct {
		name, body string
		want       *record
	}{
		{"eureka-js-client: lower case, no id, boolean", `{"instance":{"app":"jq","hostName":"h","ipAddr":"1.2.3.4","statusPageUrl":"http://h/info",
			"port":{"$":8080,"@enabled":true},"vipAddress":"jq.test","dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"}}}`,
			base(func(r *record) { r.statusPage, r.vip = "http://h/info", "jq.test" })},
		{"eureka-js-client: bare port", `{"instance":{"app":"jq","hostName":"h","ipAddr":"1.2.3.4","port":8080,"dataCenterInfo":{"name":"MyOwn"}}}`,
			base(func(*record) {})},
		{"Spring: nulls, sid, empty map, numbers as strings", `{"instance":{"instanceId":"h:jq:8080","hostName":"h","app":"JQ","appGroupName":null,"ipAddr":"1.2.3.4","sid":"na",
			"homePageUrl":null,"status":"STARTING","overriddenStatus":"UNKNOWN","port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,
			"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"metadata":{"@class":"java.util.Collections$EmptyMap"},
			"leaseInfo":{"renewalIntervalInSecs":"10","durationInSecs":20,"registrationTimestamp":0},"lastUpdatedTimestamp":"5","lastDirtyTimestamp":"1760000000000"}}`,
			base(func(r *record) {
				r.id, r.sentID, r.own, r.status, r.secure, r.renewal, r.duration, r.dirty = "h:jq:8080", true, starting, starting, port{443, false}, 10, 20, 1760000000000
			})},
		{"fargo: number in a string, empty override", `{"instance":{"hostName":"h","app":"jq","ipAddr":"1.2.3.4","status":"UP","overriddenstatus":"","port":{"$":"8080","@enabled":"true"},
			"securePort":{"$":"443","@enabled":"false"},"dataCenterInfo":{"@class":"com.netflix.appinfo.MyDataCenterInfo","name":"MyOwn"},"metadata":{"@class":"","n":1,"b":true,"o":{"x":[1]}}}}`,
			base(func(r *record) {
				r.secure = port{443, false}
				r.meta = []pair{{"@class", ""}, {"b", "true"}, {"n", "1"}, {"o", `{"x":[1]}`}}
			})},
		{"go-eureka-client: unknown members at any depth", `{"instance":{"hostName":"h","app":"jq","ipAddr":"1.2.3.4","Status":"out_of_service","x":{"y":[{}]},
			"port":{"$":8080,"@enabled":true,"z":1},"leaseInfo":{"evictionDurationInSecs":90},"dataCenterInfo":{"name":"Netflix","class":"c"}}}`,
			base(func(r *record) { r.own, r.status, r.dcNetflix = outOfService, outOfService, true })},
		{"go-eureka-client: boolean, lease members of its own", `{"instance":{"hostName":"h","app":"jq","ipAddr":"1.2.3.4","vipAddress":"jq","secureVipAddress":"jq","status":"UP",
			"port":{"$":8080,"@enabled":true},"securePort":{"$":7002,"@enabled":false},"dataCenterInfo":{"name":"MyOwn","@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","metadata":null},
			"leaseInfo":{"evictionDurationInSecs":30,"durationInSecs":30},"metadata":null}}`,
			base(func(r *record) { r.vip, r.svip, r.duration = "jq", "jq", 30 })},
		{"py-eureka-client: empty strings, booleans and times as strings", `{"instance": {"instanceId": "h:jq:8080", "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 90, "registrationTimestamp": 0, "lastRenewalTimestamp": 0, "evictionTimestamp": 0, "serviceUpTimestamp": 0},
			"hostName": "h", "app": "JQ", "ipAddr": "1.2.3.4", "status": "UP", "overriddenstatus": "", "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 7002, "@enabled": "false"}, "countryId": 1,
			"dataCenterInfo": {"name": "MyOwn", "@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"}, "metadata": {"zone": "z", "management.port": "8080"}, "homePageUrl": "http://h:8080/", "statusPageUrl": "", "healthCheckUrl": "",
			"secureHealthCheckUrl": "", "vipAddress": "jq", "secureVipAddress": "", "isCoordinatingDiscoveryServer": "false", "lastUpdatedTimestamp": "1760000000000", "lastDirtyTimestamp": "1760000000001"}}`,
			base(func(r *record) {
				r.id, r.sentID, r.home, r.vip, r.dirty = "h:jq:8080", true, "http://h:8080/", "jq", 1760000000001
				r.meta = []pair{{"management.port", "8080"}, {"zone", "z"}}
				r.blank = statusPageMember | healthMember | secureHealthMember | svipMember
			})},
		{"Steeltoe: no nulls, other letter case of the override", `{"instance":{"instanceId":"h:jq:8080","app":"JQ","ipAddr":"1.2.3.4","port":{"@enabled":"true","$":8080},"securePort":{"@enabled":"false","$":7002},
			"vipAddress":"jq","secureVipAddress":"jq","countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"hostName":"h","status":"UP",
			"overriddenStatus":"OUT_OF_SERVICE","leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":90},"isCoordinatingDiscoveryServer":"false","metadata":{"@class":"java.util.Collections$EmptyMap"},
			"lastUpdatedTimestamp":"1760000000000","lastDirtyTimestamp":"1760000000001","actionType":"ADDED"}}`,
			base(func(r *record) {
				r.id, r.sentID, r.vip, r.svip, r.override, r.dirty = "h:jq:8080", true, "jq", "jq", outOfService, 1760000000001
			})},
		{"Java: the full form back", string(golden(t, "instance.json")), func() *record {
			r := shop()
			r.updated, r.registered, r.serviceUp = 0, 0, 0
			return r
		}()},
		{"fargo in XML", `<instance><hostName>h</hostName><app>jq</app><ipAddr>1.2.3.4</ipAddr><vipAddress>jq</vipAddress><secureVipAddress></secureVipAddress><status>UP</status><overriddenstatus></overriddenstatus>
			<port enabled="true">8080</port><securePort enabled="false">7002</securePort><homePageUrl></homePageUrl><statusPageUrl></statusPageUrl><healthCheckUrl></healthCheckUrl><countryId>0</countryId>
			<dataCenterInfo class="com.netflix.appinfo.MyDataCenterInfo"><name>MyOwn</name><metadata></metadata></dataCenterInfo><leaseInfo><renewalIntervalInSecs>0</renewalIntervalInSecs><durationInSecs>0</durationInSecs></leaseInfo>
			<metadata><Raw></Raw></metadata></instance>`,
			base(func(r *record) {
				r.vip, r.country, r.meta, r.blank = "jq", 0, []pair{{"Raw", ""}}, svipMember|homeMember|statusPageMember|healthMember
			})},
		{"array of one, no wrapper, odd status", `{"hostName":["h"],"app":"jq","ipAddr":"1.2.3.4","status":"weird","port":[{"$":8080}],"dataCenterInfo":[{"name":"MyOwn"}]}`,
			base(func(r *record) { r.own, r.status = unknown, unknown })},
		{"Amazon: id of the cloud", `{"instance":{"hostName":"h","app":"jq","ipAddr":"1.2.3.4","port":8080,"dataCenterInfo":{"@class":"com.netflix.appinfo.AmazonInfo","name":"Amazon","metadata":{"instance-id":"i-1","availability-zone":"us-east-1c"}}}}`,
			base(func(r *record) {
				r.id, r.dcAmazon, r.dcMeta = "i-1", true, []pair{{"availability-zone", "us-east-1c"}, {"instance-id", "i-1"}}
			})},
		{"Amazon without an id gets one", `{"instance":{"hostName":"h","app":"jq","ipAddr":"1.2.3.4","port":8080,"dataCenterInfo":{"name":"Amazon"}}}`,
			base(func(r *record) { r.dcAmazon, r.dcMeta, r.dcNoID = true, []pair{{"instance-id", "h"}}, true })},
		{"py-eureka-client in XML", `<?xml version="1.0"?><instance><instanceId>h:8080</instanceId><hostName>h</hostName><app>JQ</app><ipAddr>1.2.3.4</ipAddr><status>UP</status>
			<overriddenstatus></overriddenstatus><port enabled="true">8080</port><securePort enabled="false">9443</securePort><countryId>1</countryId>
			<dataCenterInfo class="com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo"><name>MyOwn</name></dataCenterInfo>
			<leaseInfo><renewalIntervalInSecs>5</renewalIntervalInSecs><durationInSecs>15</durationInSecs></leaseInfo>
			<metadata><user__id>7</user__id><_-x>a &amp; b</_-x><a_.002fb>s</a_.002fb></metadata><secureVipAddress/><vipAddress>jq</vipAddress></instance>`,
			base(func(r *record) {
				r.id, r.sentID, r.secure, r.renewal, r.duration, r.vip = "h:8080", true, port{9443, false}, 5, 15, "jq"
				r.meta = []pair{{"$x", "a & b"}, {"a/b", "s"}, {"user_id", "7"}}
				r.blank = svipMember
			})},
		{"Java in XML: keys with colons and letters of all scripts", `<instance><hostName>h</hostName><app>straße</app><ipAddr>1.2.3.4</ipAddr><port>8080</port>
			<dataCenterInfo><name>MyOwn</name></dataCenterInfo><metadata><a:b>1</a:b><größe>2</größe><键>3</键></metadata></instance>`,
			base(func(r *record) { r.app, r.meta = "STRASSE", []pair{{"a:b", "1"}, {"größe", "2"}, {"键", "3"}} })},
		{"XML: empty metadata and absent attributes", `<instance><hostName>h</hostName><app>jq</app><ipAddr>1.2.3.4</ipAddr><port>8080</port><securePort enabled="TRUE">1</securePort>
			<dataCenterInfo><name>MyOwn</name></dataCenterInfo><metadata class="java.util.Collections$EmptyMap"/></instance>`,
			base(func(r *record) { r.secure = port{1, true} })},
	}
	for _, tt := range tests {
		decode := decodeJSON
		if strings.HasPrefix(tt.body, "<") {
			decode = decodeXML
		}
		got, err := decode([]byte(tt.body))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(record{}, port{}, pair{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestBrokenBodiesAreRefused(t *testing.T) {
	deep := strings.Repeat("<a>", 20) + strings.Repeat("</a>", 20)
	for _, body := range []string{"", "{", "null", "7", `{"instance":{}} {}`, `[1,2]`} {
		if got, err := decodeJSON([]byte(body)); err == nil {
			t.Errorf("JSON %q: got %+v, want an error", body, got)
		}
	}
	for _, body := range []string{
		"", "<instance>", "<instance/>", "text", deep, "<a><b/></a><c/>",
		`<!DOCTYPE x [<!ENTITY e "boom">]><instance><app>&e;</app></instance>`, `<instance><app>&e;</app></instance>`,
		`<?xml version="1.0" encoding="utf-16"?><instance><app>a</app></instance>`,
	} {
		if got, err := decodeXML([]byte(body)); err == nil {
			t.Errorf("XML %q: got %+v, want an error", body, got)
		}
	}
}

// records draws registrations as the registry holds them.
func records() *rapid.Generator[*record] {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("aZ09-_.$ /:<>&\"'\\\té\u20ac\U0001F600\x01")), 0, 12, -1)
	word := rapid.StringMatching(`[A-Za-z0-9._:-]{1,12}`)
	return rapid.Custom(func(t *rapid.T) *record {
		meta := func(name string) (ps []pair) {
			for k, v := range rapid.MapOfN(rapid.StringN(1, 8, -1), text, 0, 4).Draw(t, name) {
				ps = append(ps, pair{k, v})
			}
			slices.SortFunc(ps, func(a, b pair) int { return strings.Compare(a.key, b.key) })
			return ps
		}
		p := func(name string) port {
			return port{int32(rapid.IntRange(0, 65535).Draw(t, name)), rapid.Bool().Draw(t, name+" on")}
		}
		st := func(name string) status { return status(rapid.IntRange(0, int(statuses)-1).Draw(t, name)) }
		r := &record{
			id: word.Draw(t, "id"), sentID: true, app: upper(word.Draw(t, "app")), appGroup: upper(word.Draw(t, "group")),
			host: word.Draw(t, "host"), ip: word.Draw(t, "ip"), override: st("override"), port: p("port"), secure: p("secure"),
			country: int32(rapid.IntRange(0, 99).Draw(t, "country")), renewal: int32(rapid.IntRange(1, 99).Draw(t, "renewal")),
			duration: int32(rapid.IntRange(1, 99).Draw(t, "duration")), meta: meta("meta"), home: text.Draw(t, "home"),
			statusPage: text.Draw(t, "status page"), health: text.Draw(t, "health"), secureHealth: text.Draw(t, "secure health"),
			vip: text.Draw(t, "vip"), svip: text.Draw(t, "svip"), asg: text.Draw(t, "asg"), dirty: rapid.Int64Range(1, 1<<45).Draw(t, "dirty"),
			dcSent: true, dcName: true,
		}
		r.blank = members(rapid.Uint8().Draw(t, "blank"))
		for m, s := range map[members]string{
			appGroupMember: r.appGroup, homeMember: r.home, statusPageMember: r.statusPage, healthMember: r.health,
			secureHealthMember: r.secureHealth, vipMember: r.vip, svipMember: r.svip, asgMember: r.asg,
		} {
			if s != "" {
				r.blank &^= m
			}
		}
		r.own = st("status")
		r.status = r.own
		switch rapid.IntRange(0, 2).Draw(t, "data center") {
		case 0:
			r.dcAmazon, r.dcMeta = true, setPair(meta("dc"), "instance-id", "i-1")
		case 1:
			r.dcNetflix = true
		}
		return r
	})
}

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := records().Draw(t, "record")
		tm := times{renewed: 1}
		got, err := decodeJSON(append(r.appendJSON([]byte(`{"instance":`), tm, false), '}'))
		if err != nil {
			t.Fatalf("JSON: %v", err)
		}
		if d := cmp.Diff(r, got, cmp.AllowUnexported(record{}, port{}, pair{})); d != "" {
			t.Fatalf("through JSON (-want +got):\n%s", d)
		}
		doc := r.appendXML(nil, tm, false, 0)
		got, err = decodeXML(doc)
		if err != nil {
			t.Fatalf("XML: %v\n%s", err, doc)
		}
		want := *r // XML knows neither control characters nor space around text that stands beside elements
		for _, s := range []*string{&want.home, &want.statusPage, &want.health, &want.secureHealth, &want.vip, &want.svip, &want.asg} {
			*s = xmlSafe(*s)
		}
		for _, ps := range []*[]pair{&want.meta, &want.dcMeta} {
			*ps = slices.Clone(*ps)
			for i := range *ps {
				(*ps)[i].value = xmlSafe((*ps)[i].value)
			}
		}
		if d := cmp.Diff(&want, got, cmp.AllowUnexported(record{}, port{}, pair{})); d != "" {
			t.Fatalf("through XML (-want +got):\n%s\n%s", d, doc)
		}
	})
}

func xmlSafe(s string) string { return strings.ReplaceAll(s, "\x01", "\uFFFD") }

func TestMetadataKeysSurviveAsElementNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringN(1, 20, -1).Draw(t, "key")
		name := escapeName(s)
		if got := unescapeName(name); got != s {
			t.Fatalf("key %q as element %q: got %q back", s, name, got)
		}
		d := xml.NewDecoder(strings.NewReader("<" + name + "/>"))
		if tok, err := d.Token(); err != nil || tok.(xml.StartElement).Name.Local != name {
			t.Fatalf("key %q: %q is not an element name: %v, %v", s, name, tok, err)
		}
	})
	for key, want := range map[string]string{"user_id": "user__id", "$x": "_-x", "a/b": "a_.002fb", "plain": "plain", "größe": "größe", "键": "键", "ǿ": "_.01ff"} {
		if got := escapeName(key); got != want {
			t.Errorf("element of key %q: got %q, want %q", key, got, want)
		}
	}
}

func TestCRCOfJoinedBytesNeedsOnlyTheParts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOf(rapid.Byte()).Draw(t, "a"), rapid.SliceOf(rapid.Byte()).Draw(t, "b")
		got := crcJoin(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), len(b))
		if want := crc32.ChecksumIEEE(append(slices.Clone(a), b...)); got != want {
			t.Fatalf("crc of %x+%x: got %08x, want %08x", a, b, got, want)
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add(golden(f, "instance.json"))
	f.Add([]byte(`{"instance":{"app":"jq","hostName":"h","port":8080,"metadata":{"a":[1,{"b":null}]}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeJSON(body)
		if err != nil {
			return
		}
		again, err := decodeJSON(r.appendJSON(nil, times{}, false))
		if err != nil {
			t.Fatalf("what was made of %q cannot be read: %v", body, err)
		}
		if !r.same(again) && r.sentID {
			t.Fatalf("%q: read %+v, and back %+v", body, r, again)
		}
		if _, err := decodeXML(r.appendXML(nil, times{}, false, 0)); err != nil {
			t.Fatalf("XML made of %q cannot be read: %v", body, err)
		}
	})
}

func FuzzXML(f *testing.F) {
	f.Add(shopDocument().views[0].one(0, xmlFull))
	f.Add([]byte(`<instance><app>a</app><metadata><a_.002fb>x</a_.002fb><b><c/></b></metadata></instance>`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeXML(body)
		if err != nil {
			return
		}
		if _, err := decodeXML(r.appendXML(nil, times{}, false, 0)); err != nil {
			t.Fatalf("what was made of %q cannot be read: %v", body, err)
		}
		if doc := r.appendJSON(nil, times{}, false); !json.Valid(doc) {
			t.Fatalf("JSON made of %q is none: %s", body, doc)
		}
	})
}
