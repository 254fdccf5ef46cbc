package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/fault/search"
	"github.com/roadbed/roadbed/platform/registry"
)

func TestASearchSaysWhatContradictsIt(t *testing.T) {
	services := []registry.Service{{Name: "catalog", Criticality: roadbed.Critical}, {Name: "billing", Criticality: roadbed.Degraded}, {Name: "members", Criticality: roadbed.Critical}, {Name: "away", Criticality: roadbed.Critical}}
	res := search.Result{Points: []string{"client:billing", "client:catalog", "client:members"}, Hurting: [][]string{{"client:billing"}, {"client:members"}}, Whole: true}
	var out strings.Builder
	if err := searched(&out, "table", res, services); err != nil {
		t.Errorf("nothing but single services hurts: got %v", err)
	}
	for _, want := range []string{"billing says that it is DEGRADED, and the request fails without it", "catalog says that it is CRITICAL, and the request does without it"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("got %s, want %q in it", out.String(), want)
		}
	}
	if strings.Contains(out.String(), "members says") || strings.Contains(out.String(), "away says") {
		t.Errorf("got %s, want nothing of members and of who was not asked", out.String())
	}
	out.Reset()
	deaf := search.Result{Points: res.Points, Untested: [][]string{{"client:catalog"}}}
	if err := searched(&out, "table", deaf, services); err == nil || !strings.Contains(err.Error(), "not tested: catalog") || strings.Contains(out.String(), "catalog says") {
		t.Errorf("catalog untested: got %v and %s, want that it was not tested and nothing more of it", err, out.String())
	}
	res.Hurting = [][]string{{"client:a", "client:b"}}
	for _, tc := range []struct {
		found search.Result
		code  int
	}{{res, exitHurt}, {deaf, exitUnknown}, {search.Result{}, exitUnknown}} {
		var v verdictError
		if err := searched(&out, "json", tc.found, nil); !errors.As(err, &v) || v.code != tc.code {
			t.Errorf("%+v: got %v, want exit code %d", tc.found, err, tc.code)
		}
	}
}
