package registry

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// readAlike checks that what is read in one pass is what would be read without hurry.
func readAlike(t interface{ Fatalf(string, ...any) }, body string) (scanned bool) {
	got, ok := scanInstance(body)
	if !ok {
		return false
	}
	want, err := readAnyJSON(body)
	if err != nil {
		t.Fatalf("%s: read in one pass, but it is %v", body, err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\nin one pass  %+v\nleniently    %+v", body, got, want)
	}
	got.pack()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s:\npacked       %+v\nbefore       %+v", body, got, want)
	}
	return true
}

// wireInstances are registrations as clients send them, and whether they are read in one pass.
var wireInstances = map[string]bool{
	// DiscoveryClient
	`{"instance":{"instanceId":"web-1:shop:8080","hostName":"web-1.internal","app":"SHOP","ipAddr":"10.1.2.3","status":"UP","overriddenStatus":"UNKNOWN","port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":90,"registrationTimestamp":0,"lastRenewalTimestamp":0,"evictionTimestamp":0,"serviceUpTimestamp":0},"metadata":{"@class":"java.util.Collections$EmptyMap"},"homePageUrl":"http://web-1.internal:8080/","statusPageUrl":"http://web-1.internal:8080/info","healthCheckUrl":"","vipAddress":"shop","secureVipAddress":"shop","isCoordinatingDiscoveryServer":"false","lastUpdatedTimestamp":"1760000000001","lastDirtyTimestamp":"1759999999000","actionType":"ADDED"}}`: true,
	// Spring
	`{"instance":{"instanceId":"h:app:0","app":"APP","appGroupName":null,"ipAddr":"10.0.0.1","sid":"na","homePageUrl":"http://h:0/","vipAddress":"app","secureVipAddress":null,"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},"hostName":"h","status":"STARTING","overriddenStatus":"UNKNOWN","leaseInfo":{"renewalIntervalInSecs":5,"durationInSecs":10},"isCoordinatingDiscoveryServer":false,"lastUpdatedTimestamp":1,"lastDirtyTimestamp":2,"actionType":null,"asgName":null,"port":{"$":0,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"metadata":{"management.port":"0","zone":"a"}}}`: true,
	// Amazon
	`{"instance":{"hostName":"h","app":"a","ipAddr":"1","dataCenterInfo":{"@class":"com.netflix.appinfo.AmazonInfo","name":"Amazon","metadata":{"instance-id":"i-1","availability-zone":"us-east-1a"}}}}`: true,
	`{"instance":{"instanceId":"x","hostName":"h","app":"a","ipAddr":"1","dataCenterInfo":{"name":"Amazon"}}}`:                                                                                            true,
	// fargo
	`{"instance":{"hostName":"h","port":{"$":"8080","@enabled":"true"},"securePort":{"$":"0","@enabled":"false"},"app":"TESTAPP","ipAddr":"127.0.0.10","vipAddress":"127.0.0.10","dataCenterInfo":{"name":"MyOwn","@class":"com.netflix.appinfo.MyDataCenterInfo"},"status":"UP","overriddenstatus":"","metadata":null,"uniqueID":null}}`: false,
	// eureka-js-client
	`{"instance":{"app":"jq","hostName":"h","ipAddr":"127.0.0.1","port":{"$":8080,"@enabled":true},"vipAddress":"jq","dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"}}}`: true,
	`{"instance":{"app":"jq","hostName":"h","ipAddr":"127.0.0.1","port":8080,"dataCenterInfo":{"name":"MyOwn"}}}`:                                                                                                           false,
	// Without the wrapping, with white space
	" {\n\"hostName\" : \"h\" , \"app\":\"a\",\"ipAddr\":\"1\",\"dataCenterInfo\":null , \"metadata\":{}}\n": true,
	`{}`:                                               true,
	`{"instance":{}}`:                                  true,
	`{"instance":{"app":"a","app":"b"}}`:               false,
	`{"instance":{"App":"a"}}`:                         false,
	`{"instance":{"app":"gr\u00f6\u00dfe"}}`:           false,
	`{"instance":{"app":"größe"}}`:                     false,
	`{"instance":{"metadata":{"a":"1","a":"2"}}}`:      false,
	`{"instance":{"metadata":{"a":1}}}`:                false,
	`{"instance":{"port":{"$":99999999999}}}`:          true,
	`{"instance":{"lastDirtyTimestamp":1e3}}`:          false,
	`{"instance":{"app":"a"}} x`:                       false,
	`{"instance":{"app":"a"},"x":1}`:                   false,
	`[{"app":"a"}]`:                                    false,
	`{"instance":{"actionType":{"a":[1,{"b":null}]}}}`: true,
}

func TestWhatClientsSendIsReadInOnePassOrElseLeniently(t *testing.T) {
	for body, want := range wireInstances {
		if got := readAlike(t, body); got != want {
			t.Errorf("%s: read in one pass: %v, want %v", body, got, want)
		}
	}
}

func TestScannedInstancesAreReadAsLeniently(t *testing.T) {
	word := rapid.SampledFrom([]string{`""`, `"x"`, `"UP"`, `"down"`, `"OUT_OF_SERVICE"`, `"na"`, `null`, `"Amazon"`, `"Netflix"`, `"MyOwn"`, `" UP "`, `"java.util.Collections$EmptyMap"`, `"true"`, `"17"`, `"1.5"`})
	number := rapid.SampledFrom([]string{`0`, `1`, `42`, `"42"`, `null`, `""`, `"x"`, `70000`, `4294967296`, `"-1"`, `1760000000000`})
	flag := rapid.SampledFrom([]string{`true`, `false`, `"true"`, `"FALSE"`, `null`, `"x"`})
	object := func(t *rapid.T, values map[string]*rapid.Generator[string]) string {
		var ms []string
		for name, v := range values {
			if rapid.Bool().Draw(t, name) {
				ms = append(ms, fmt.Sprintf("%q:%s", name, v.Draw(t, name)))
			}
		}
		return "{" + strings.Join(ms, ",") + "}"
	}
	rapid.Check(t, func(t *rapid.T) {
		values := map[string]*rapid.Generator[string]{"countryId": number, "lastDirtyTimestamp": number, "actionType": word, "lastUpdatedTimestamp": number}
		for _, name := range strings.Fields("instanceId app appGroupName hostName ipAddr sid status overriddenStatus overriddenstatus homePageUrl statusPageUrl healthCheckUrl secureHealthCheckUrl vipAddress secureVipAddress asgName") {
			values[name] = word
		}
		pairs := map[string]*rapid.Generator[string]{"a": word, "b": word, "@class": word, "instance-id": word}
		of := func(values map[string]*rapid.Generator[string]) *rapid.Generator[string] {
			return rapid.Custom(func(t *rapid.T) string {
				if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
					return "null"
				}
				return object(t, values)
			})
		}
		values["port"] = of(map[string]*rapid.Generator[string]{"$": number, "@enabled": flag})
		values["securePort"] = values["port"]
		values["leaseInfo"] = of(map[string]*rapid.Generator[string]{"renewalIntervalInSecs": number, "durationInSecs": number, "evictionTimestamp": number})
		values["metadata"] = of(pairs)
		values["dataCenterInfo"] = of(map[string]*rapid.Generator[string]{"name": word, "@class": word, "metadata": of(pairs)})
		body := object(t, values)
		if rapid.Bool().Draw(t, "wrapped") {
			body = `{"instance":` + body + `}`
		}
		if !readAlike(t, body) {
			t.Fatalf("%s: is not read in one pass", body)
		}
	})
}

func FuzzScanInstance(f *testing.F) {
	for body := range wireInstances {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) { readAlike(t, body) })
}

func TestPackedRecordsHoldEachTextOnce(t *testing.T) {
	r := shop()
	r.host, r.id, r.home, r.statusPage, r.health = "web-1.internal", "web-1.internal:shop:80", "http://web-1.internal:80/", "http://web-1.internal:80/info", "http://web-1.internal:80/health"
	before := *r
	r.pack()
	if !reflect.DeepEqual(*r, before) {
		t.Errorf("packing altered %+v to %+v", before, *r)
	}
	if got := testing.AllocsPerRun(100, r.pack); got != 1 {
		t.Errorf("packing allocates %v times, want once", got)
	}
}
