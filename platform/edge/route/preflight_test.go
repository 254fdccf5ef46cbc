package route

import "testing"

func TestARouteWithCorsTakesThePreflightsOfItsMethods(t *testing.T) {
	table := tabled(t, withCors, `
- {id: shared, match: {path: {prefix: /a}, methods: [GET, PUT]}, filters: [{cors: {origins: ["*"]}}], backends: [{vip: a}]}
- {id: own, match: {path: {prefix: /b}, methods: [GET]}, backends: [{vip: b}]}
- {id: writes, match: {path: {prefix: /a}, methods: [POST]}, filters: [{cors: {origins: ["*"]}}], backends: [{vip: w}]}
`)
	for _, tt := range []struct{ path, origin, method, want string }{
		{"/a", "https://app", "GET", "shared"},
		{"/a", "https://app", "PUT", "shared"},
		{"/a", "https://app", "POST", "writes"},
		{"/a", "https://app", "DELETE", ""},
		{"/a", "", "GET", ""},         // not from a page
		{"/a", "https://app", "", ""}, // an ordinary OPTIONS
		{"/b", "https://app", "GET", ""},
	} {
		var fields []string
		if tt.origin != "" {
			fields = append(fields, "Origin: "+tt.origin)
		}
		if tt.method != "" {
			fields = append(fields, "Access-Control-Request-Method: "+tt.method)
		}
		if got := routeOf(table, asked("OPTIONS", "http://h"+tt.path, fields...)); got != tt.want {
			t.Errorf("OPTIONS %s of %q for %q: got route %q, want %q", tt.path, tt.origin, tt.method, got, tt.want)
		}
	}
}
