package registry

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func TestEveryPrefixNamesTheSameResources(t *testing.T) {
	tests := []struct {
		path string
		want target
	}{
		{"apps", target{what: allApps}},
		{"apps/", target{what: allApps}},
		{"apps/delta", target{what: deltaApps}},
		{"apps/web", target{what: oneApp, app: "WEB"}},
		{"apps/WEB/h:web:80", target{what: oneInstance, app: "WEB", id: "h:web:80"}},
		{"apps/WEB/a%2Fb%20c%3Ad+e", target{what: oneInstance, app: "WEB", id: "a/b c:d+e"}},
		{"apps/WEB/i/status", target{what: instanceStatus, app: "WEB", id: "i"}},
		{"apps/WEB/i/metadata/", target{what: instanceMetadata, app: "WEB", id: "i"}},
		{"instances/i-1", target{what: anyInstance, id: "i-1"}},
		{"vips/Shop", target{what: vip, id: "Shop"}},
		{"svips/shop", target{what: svip, id: "shop"}},
		{"status", target{what: serverStatus}},
		{"asg/web-v001/status", target{what: asgStatus, id: "web-v001"}},
		{"asg/web-v001", target{}},
		{"peerreplication/batch/", target{what: peerBatch}},
		{"serverinfo/statusoverrides", target{what: overrideList}},
		{"apps//WEB///i", target{what: oneInstance, app: "WEB", id: "i"}},
		{"apps/WEB/i/other", target{app: "WEB"}},
		{"apps/WEB/i/status/more", target{app: "WEB"}},
		{"lastn", target{what: lastPages}},
		{"", target{what: nodePages}},
		{"apps/%zz", target{}},
		{"a/b/c/d/e/f/g/h/i/j", target{}},
	}
	for _, prefix := range []string{"/eureka/v2/", "/eureka/", "/v2/", "/eureka/v1/", "/v1/", "//eureka//", "/eureka/v2//"} {
		for _, tt := range tests {
			got := prefixes(nil).parse(prefix + tt.path)
			if got.what == nothing {
				got = target{}
			}
			want := tt.want
			if want.what == nothing {
				want = target{}
			}
			if got != want {
				t.Errorf("path %q: got %+v, want %+v", prefix+tt.path, got, want)
			}
		}
	}
	for _, path := range []string{"/apps", "/lastn", "/eureka/v3/apps", "/other/apps", "/registry/v1/apps", "/eureka/registry/v1/watch"} {
		if got := prefixes(nil).parse(path); got.what != nothing {
			t.Errorf("path %q: got %+v, want nothing", path, got)
		}
	}
	for _, path := range []string{"/", "", "//"} {
		if got := prefixes(nil).parse(path); got.what != nodePages {
			t.Errorf("path %q: got %+v, want the page", path, got)
		}
	}
	if got := prefixes(nil).parse("/registry/v1/watch/"); got.what != watch {
		t.Errorf("the stream's path: got %+v", got)
	}
	if got := prefixes(nil).parse("/serverinfo/statusoverrides"); got.what != overrideList {
		t.Errorf("the overrides' path: got %+v", got)
	}
}

func TestFurtherPrefixesNameTheSameResourcesToo(t *testing.T) {
	ps := newPrefixes([]string{"/discovery", "/team/a/"})
	want := target{what: oneInstance, app: "WEB", id: "i"}
	for _, path := range []string{"/discovery/apps/web/i", "//discovery/v2/apps/web/i/", "/team/a/v1/apps/web/i", "/team/a/apps/web/i", "/eureka/apps/web/i", "/v2/apps/web/i"} {
		if got := ps.parse(path); got != want {
			t.Errorf("path %q: got %+v, want %+v", path, got, want)
		}
	}
	for _, path := range []string{"/team/apps/web/i", "/discovery/discovery/apps/web/i", "/apps/web/i", "/team/a/eureka/apps/web/i"} {
		if got := ps.parse(path); got.what != nothing {
			t.Errorf("path %q: got %+v, want nothing", path, got)
		}
	}
}

func TestRegionsAreSortedInLowerCase(t *testing.T) {
	for query, want := range map[string][]string{
		"": nil, "a=b": nil, "regions=": nil, "regions=,": nil, "regions=US-west-2": {"us-west-2"},
		"x=1&regions=us-west-2,EU,eu%2Cap&regions=no": {"ap", "eu", "us-west-2"},
	} {
		if got := regionsOf(query); !slices.Equal(got, want) {
			t.Errorf("regions of %q: got %q, want %q", query, got, want)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/eureka/v2/apps/A/b%2Fc/status", "//v1/apps/delta/", "/eureka/apps/%", "/vips/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := prefixes(nil).parse(path)
		if got.what == oneInstance {
			again := prefixes(nil).parse("/eureka/v2/apps/" + url.PathEscape(got.app) + "/" + url.PathEscape(got.id))
			if again != got {
				t.Fatalf("path %q names %+v, and written again %+v", path, got, again)
			}
		}
		if got.app != upper(got.app) {
			t.Fatalf("path %q: app %q is not in upper case", path, got.app)
		}
	})
}

func FuzzQuery(f *testing.F) {
	f.Add("status=UP&lastDirtyTimestamp=1&a=%20+")
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := url.ParseQuery(raw)
		if err != nil || strings.ContainsAny(raw, "%+;") {
			return
		}
		for k, v := range q {
			if got := queryValue(raw, k); k != "" && got != v[0] {
				t.Fatalf("query %q: value of %q: got %q, want %q", raw, k, got, v[0])
			}
		}
	})
}
