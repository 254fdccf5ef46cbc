package console

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// edge answers as an edge does whose day is not its best: an instance is ejected, a breaker open, one route refused, and
// bulk requests are shed.
var edge = map[string]string{
	"routes": `{"apps": ["api", "catalog", "playback"], "refused": "edge.routes:5: route \"cart\": match has no \"pth\"; did you mean path?", "documents": [], "routes": [
		{"id": "tv", "match": {"hosts": ["*.tv.example.com"], "path": {"prefix": "/playback"}, "methods": ["GET", "POST"], "headers": [{"name": "x-device", "exact": "tv"}], "when": "region == \"us-east-1\""},
			"filters": [{"stripPrefix": 1}, {"requestHeaders": {"set": {"x-tier": "gold"}}}], "backends": [{"vip": "playback", "weight": 90}, {"vip": "playback-canary", "weight": 10, "sticky": "user"}],
			"timeouts": {"request": "10s"}, "mirror": {"vip": "playback-shadow", "percent": 5}},
		{"id": "old-shop", "match": {"path": {"exact": "/shop"}}, "filters": [{"redirect": {"path": "/cart"}}]},
		{"id": "home", "match": {"path": {"prefix": "/"}}, "backends": [{"vip": "api"}]},
		{"id": "beta", "match": {"path": {"regex": "/beta/[0-9]+"}}, "backends": [{"addr": "10.0.0.7:8080"}], "disabled": true}]}`,
	"explain": `{"route": "tv", "backends": ["playback", "playback-canary"], "path": "/1", "why": "\"tv\" matches: host *.tv.example.com, path below /playback, method GET, header x-device = tv; it is the most specific one that does",
		"document": "edge.routes", "line": 1, "shares": [{"backend": "playback", "percent": 90}, {"backend": "playback-canary", "percent": 10, "sticky": "user", "chosen": true}],
		"inbound": ["StripPrefix", "RequestHeaders"], "timeout": "10s", "mirror": "playback-shadow (5 %)", "others": [
		{"route": "home", "matches": true, "why": "its host is less specific"}, {"route": "beta", "matches": false, "why": "it is disabled"}]}`,
	"top": `{"clients": [{"name": "192.0.2.17", "requests": 412.3, "bytes": 1843200, "failed": 0}, {"name": "2001:db8::7", "requests": 38.1, "bytes": 61440, "failed": 0.25}], "paths": [{"name": "/home", "requests": 301.7, "bytes": 1433600, "failed": 0.002}, {"name": "/playback/a-very-long-title-that-has-no-end-to-it-at-all/manifest.json", "requests": 88, "bytes": 61440, "failed": 0}]}`,
	"filters": `[{"name": "ConnectionInfo", "kind": "INBOUND", "order": -1000, "disabled": false, "guard": true, "running": 0, "limit": 0, "runs": 1900800, "skipped": 0, "failed": 0, "mean": 3382},
		{"name": "Cors", "kind": "INBOUND", "order": -500, "disabled": true, "guard": false, "running": 0, "limit": 0, "runs": 0, "skipped": 1900800, "failed": 0, "mean": 0},
		{"name": "Routes", "kind": "INBOUND", "order": -100, "disabled": false, "guard": true, "running": 3, "limit": 4000, "runs": 1900800, "skipped": 0, "failed": 2, "mean": 4800},
		{"name": "ProxyEndpoint", "kind": "ENDPOINT", "order": 0, "disabled": false, "guard": false, "running": 0, "limit": 0, "runs": 1900800, "skipped": 0, "failed": 0, "mean": 5800000},
		{"name": "Outward", "kind": "OUTBOUND", "order": -900, "disabled": false, "guard": false, "running": 0, "limit": 0, "runs": 1900800, "skipped": 0, "failed": 0, "mean": 1200}]`,
	"regions": `{"region": "east", "kept": 4, "visitors": {"inFlight": 3, "headroom": 500, "taken": 120, "refused": 1, "forged": 0}, "regions": [
		{"region": "east", "own": true, "document": {"state": "DRAINING", "to": {"west": 60, "north": 40}, "reason": "a drill"}, "moved": 37.5, "goal": 100, "paused": "west fails: 12.0 %% of 400 requests in 10 s, and 0.5 %% of those served here; 5.0 points more are allowed"},
		{"region": "north", "document": {"state": "SERVING"}, "moved": 0, "goal": 0, "tunnel": {"inFlight": 0, "requests": 812, "last": 0, "failed": 0, "shut": true}},
		{"region": "west", "document": {"state": "SERVING"}, "moved": 0, "goal": 0, "proposal": {"state": "OPEN", "at": "%s", "good": 38.2, "expected": 412.7, "sigma": 20.6, "baseline": "the same time last week", "to": {"north": 100}}, "tunnel": {"inFlight": 7, "requests": 4021, "last": 400, "failed": 48, "shut": false}}]}`,
	"shed": `{"x": 0.42, "threshold": 80, "floor": 30, "forced": 100, "shed": {"CRITICAL": 0, "DEGRADED": 0, "BEST_EFFORT": 12, "BULK": 4312}, "signals": [{"name": "cpu", "value": 0.91, "soft": 0.8, "hard": 1, "x": 0.42}, {"name": "delay", "value": 0.0021, "soft": 0.01, "hard": 0.1, "x": 0}, {"name": "memory", "value": 0.31, "soft": 0.7, "hard": 0.9, "x": 0}], "apps": [{"app": "playback", "inFlight": 91, "limit": 100, "slow": true, "overloaded": 0.04, "threshold": 60, "refused": 77}]}`,
	"programs": `[{"name": "tenant", "phase": "inbound", "order": 5, "global": true, "guard": true, "versions": [{"version": "9f21c3a0", "state": "CANARY", "kind": "starlark", "percent": 5, "runs": 410, "failures": 2, "mean": 9000}, {"version": "77ab01de", "state": "ACTIVE", "kind": "starlark", "percent": 95, "runs": 7800, "failures": 0, "mean": 8000}]},
		{"name": "broken", "phase": "", "order": 0, "global": false, "guard": false, "versions": [], "refused": "line 3: undefined: reqest"}]`,
	"origins": `[{"app": "api", "breaker": "CLOSED", "inFlight": 7, "limit": 200, "requests": 1109, "errorPercent": 0, "p50Seconds": 0.0038, "p99Seconds": 0.155, "retries": {"allowed": 221.8, "used": 3}, "protocol": "http1", "instances": [
		{"id": "api-v000-0-hchn", "address": "127.0.0.1:29300", "zone": "zone-a", "status": "UP", "eligible": true, "scoreSeconds": 0.0412, "active": 3, "utilization": 0.62, "errorRate": 0, "warm": 1, "requests": 38200, "failures": 0, "idle": 4, "inUse": 3},
		{"id": "api-v000-1-os7o", "address": "127.0.0.1:29301", "zone": "zone-b", "status": "UP", "eligible": false, "why": "it is ejected for what it did", "ejectedUntil": "%s", "scoreSeconds": 1.407, "active": 0, "utilization": 1, "errorRate": 0.61, "warm": 0.1, "requests": 68700, "failures": 412, "idle": 0, "inUse": 0},
		{"id": "api-v000-2-csvf", "address": "127.0.0.1:29302", "zone": "zone-c", "status": "STARTING", "eligible": false, "why": "its status is STARTING", "scoreSeconds": 0, "active": 0, "utilization": 1, "errorRate": 0, "warm": 0.1, "requests": 0, "failures": 0, "idle": 0, "inUse": 0},
		{"id": "", "address": "127.0.0.1:29299", "zone": "", "status": "", "eligible": false, "why": "the registry lists it no more", "scoreSeconds": 0, "active": 0, "utilization": 0, "errorRate": 0, "warm": 0, "requests": 0, "failures": 0, "idle": 0, "inUse": 1}]},
		{"app": "playback", "breaker": "OPEN", "inFlight": 91, "limit": 200, "requests": 312, "errorPercent": 74, "p50Seconds": 0.9, "p99Seconds": 2.4, "panic": true, "retries": {"allowed": 10, "used": 10}, "protocol": "h2c", "instances": []}]`,
	"passport": `[{"ts": "%[1]s", "id": "3f2a9c00", "client": "192.0.2.17", "method": "GET", "path": "/playback/1", "status": 200, "category": "SUCCESS", "ms": 1412.5, "route": "tv", "origin": "playback", "attempts": 2,
		"passport": "CurrentPassport {start_ms=1700000000000, [+0=IN_REQ_HEADERS_RECEIVED, +90000=FILTERS_INBOUND_START, +41000000=FILTERS_INBOUND_END, +41100000=ORIGIN_CONN_ACQUIRE_START, +41200000=ORIGIN_CH_CONNECTING, +246000000=ORIGIN_CH_CONNECTED, +246100000=OUT_REQ_HEADERS_SENDING, +248000000=OUT_REQ_HEADERS_SENT, +840000000=ORIGIN_CH_CLOSE, +841000000=ORIGIN_RETRY_START, +845000000=ORIGIN_CONN_ACQUIRE_START, +845100000=ORIGIN_CONN_ACQUIRE_END, +845100000=OUT_REQ_HEADERS_SENDING, +845200000=OUT_REQ_HEADERS_SENT, +1207000000=IN_RESP_HEADERS_RECEIVED, +1207200000=FILTERS_OUTBOUND_START, +1215000000=FILTERS_OUTBOUND_END, +1215100000=OUT_RESP_HEADERS_SENDING, +1412000000=OUT_RESP_LAST_CONTENT_SENT, +1412500000=NOW]}"},
		{"ts": "%[1]s", "id": "3f2a9c01", "client": "192.0.2.17", "method": "POST", "path": "/cart", "status": 504, "category": "FAILURE_ORIGIN_READ_TIMEOUT", "ms": 1000.2, "route": "home", "origin": "api", "attempts": 1, "error": "no answer within 1s",
		"passport": "CurrentPassport {start_ms=1700000000000, [+0=IN_REQ_HEADERS_RECEIVED, +20000=FILTERS_INBOUND_START, +80000=FILTERS_INBOUND_END, +81000=ORIGIN_CONN_ACQUIRE_START, +82000=ORIGIN_CONN_ACQUIRE_END, +82000=OUT_REQ_HEADERS_SENDING, +90000=OUT_REQ_HEADERS_SENT, +1000000000=ORIGIN_CH_READ_TIMEOUT, +1000100000=OUT_RESP_HEADERS_SENDING, +1000200000=NOW]}"}]`,
}

// ofEdge answers one part of what the edge tells, its times being now.
func ofEdge(r *http.Request) any {
	text, at := edge[r.PathValue("part")], time.Now()
	switch r.PathValue("part") {
	case "origins":
		text = fmt.Sprintf(text, at.Add(25*time.Second).Format(time.RFC3339))
	case "regions":
		text = fmt.Sprintf(text, at.Add(-4*time.Minute).Format(time.RFC3339))
	case "passport":
		text = fmt.Sprintf(text, at.Add(-8*time.Second).Format(time.RFC3339))
	case "faults":
		text = "[]"
	}
	return json.RawMessage(text)
}

// ofRegions answers as who watches over regions does.
func ofRegions(*http.Request) any {
	return json.RawMessage(`{"leads": true, "auto": false, "regions": [
		{"region": "east", "silent": "nothing is judged while its users are elsewhere or on the move"},
		{"region": "north", "good": 201.4, "expected": 198.2, "sigma": 9.9, "baseline": "the last hour"},
		{"region": "west", "good": 38.2, "expected": 412.7, "sigma": 20.6, "baseline": "the same time last week"}],
		"weights": {"url": "https://dns.example.com/weights", "failing": "it answers 503 Service Unavailable: try again", "attempts": 3}}`)
}
