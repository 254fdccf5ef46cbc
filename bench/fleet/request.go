//go:build linux

package fleet

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Target is a Eureka server: where it listens, and under which path.
type Target struct {
	Addr netip.AddrPort
	Path string // "/eureka" for Spring's servers and for roadbed, "/eureka/v2" for Netflix's
}

// AppSize is how many instances an application of the fleet has.
const AppSize = 20

// Dirty is the lastDirtyTimestamp with which the fleet registers, in milliseconds since 1970.
const Dirty = 1_760_000_000_000

// App is the name of the application that instance i belongs to.
func App(i int) string { return fmt.Sprintf("SERVICE-%05d", i/AppSize) }

// IsApp reports whether an application of that name can be one of the fleet.
func IsApp(name string) bool { return strings.HasPrefix(name, "SERVICE-") }

// ID is the id of instance i.
func ID(i int) string { return fmt.Sprintf("web-%06d.internal:service-%05d:8080", i, i/AppSize) }

// head appends the first line and the headers that a Spring client sends, up to those that describe a body.
func (t Target) head(b []byte, method string) []byte {
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = t.Addr.AppendTo(b)
	b = append(b, "\r\nDiscoveryIdentity-Name: DefaultClient\r\nDiscoveryIdentity-Version: 1.4\r\nDiscoveryIdentity-Id: 10.1.2.3\r\nAccept: application/json\r\n"...)
	if method == "GET" {
		return b
	}
	return append(b, "Content-Type: application/json\r\n"...)
}

func (t Target) instance(b []byte, method string, i int) []byte {
	b = append(append(append(b, method...), ' '), t.Path...)
	b = append(b, "/apps/SERVICE-"...)
	b = digits(b, i/AppSize, 5)
	b = append(b, '/')
	return appendID(b, i)
}

func appendID(b []byte, i int) []byte {
	b = digits(append(b, "web-"...), i, 6)
	b = digits(append(b, ".internal:service-"...), i/AppSize, 5)
	return append(b, ":8080"...)
}

// Heartbeat appends the renewal of instance i.
func (t Target) Heartbeat(b []byte, i int) []byte {
	b = t.instance(b, "PUT", i)
	b = append(b, "?status=UP&lastDirtyTimestamp="...)
	b = strconv.AppendInt(b, Dirty, 10)
	return append(t.head(b, "PUT"), "Content-Length: 0\r\n\r\n"...)
}

// Cancel appends the farewell of instance i.
func (t Target) Cancel(b []byte, i int) []byte {
	return append(t.head(t.instance(b, "DELETE", i), "DELETE"), "Content-Length: 0\r\n\r\n"...)
}

// Status appends an operator's override of instance i's status.
func (t Target) Status(b []byte, i int, status string) []byte {
	b = append(append(t.instance(b, "PUT", i), "/status?value="...), status...)
	return append(t.head(b, "PUT"), "Content-Length: 0\r\n\r\n"...)
}

// Register appends the registration of instance i. Mark is a word in its metadata.
func (t Target) Register(b []byte, i int, mark string) []byte {
	b = append(append(b, "POST "...), t.Path...)
	b = digits(append(b, "/apps/SERVICE-"...), i/AppSize, 5)
	body := appendInstance(nil, i, mark)
	return t.body(t.head(b, "POST"), append(append([]byte(`{"instance":`), body...), '}'))
}

// Batch appends a peer's word of the renewals of instances from to to, as peers send it.
func (t Target) Batch(b []byte, from, to int) []byte {
	body := []byte(`{"replicationList":[`)
	for i := from; i < to; i++ {
		if i > from {
			body = append(body, ',')
		}
		body = digits(append(body, `{"appName":"SERVICE-`...), i/AppSize, 5)
		body = appendID(append(body, `","id":"`...), i)
		body = append(body, `","lastDirtyTimestamp":`...)
		body = strconv.AppendInt(body, Dirty, 10)
		body = append(body, `,"status":"UP","action":"Heartbeat"}`...)
	}
	b = append(append(b, "POST "...), t.Path...)
	return t.body(t.head(append(b, "/peerreplication/batch/"...), "POST"), append(body, `]}`...))
}

// Get appends a request for path, which is below t.Path, compressed if the server can.
func (t Target) Get(b []byte, path string, gzip bool) []byte {
	b = append(append(append(b, "GET "...), t.Path...), path...)
	b = t.head(b, "GET")
	if gzip {
		b = append(b, "Accept-Encoding: gzip\r\n"...)
	}
	return append(b, "\r\n"...)
}

func (t Target) body(b, body []byte) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	return append(append(b, "\r\n\r\n"...), body...)
}

// appendInstance appends instance i, about 990 bytes as a Eureka server renders it.
func appendInstance(b []byte, i int, mark string) []byte {
	host := fmt.Sprintf("web-%06d.internal", i)
	app := fmt.Sprintf("service-%05d", i/AppSize)
	return fmt.Appendf(b, `{"instanceId":"%s","hostName":"%s","app":"%s","ipAddr":"10.%d.%d.%d","status":"UP","overriddenStatus":"UNKNOWN",`+
		`"port":{"$":8080,"@enabled":"true"},"securePort":{"$":443,"@enabled":"false"},"countryId":1,`+
		`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},`+
		`"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":90,"registrationTimestamp":0,"lastRenewalTimestamp":0,"evictionTimestamp":0,"serviceUpTimestamp":0},`+
		`"metadata":{"zone":"zone-%d","version":"%s"},"homePageUrl":"http://%[2]s:8080/","statusPageUrl":"http://%[2]s:8080/actuator/info",`+
		`"healthCheckUrl":"http://%[2]s:8080/actuator/health","vipAddress":"%[9]s","secureVipAddress":"%[9]s",`+
		`"isCoordinatingDiscoveryServer":"false","lastUpdatedTimestamp":"%[10]d","lastDirtyTimestamp":"%[10]d","actionType":"ADDED"}`,
		ID(i), host, App(i), i>>16&255, i>>8&255, i&255, i%3, mark, app, Dirty)
}

// digits appends n in at least width digits.
func digits(b []byte, n, width int) []byte {
	from := len(b)
	b = strconv.AppendInt(b, int64(n), 10)
	for len(b)-from < width {
		b = append(b, 0)
		copy(b[from+1:], b[from:])
		b[from] = '0'
	}
	return b
}
