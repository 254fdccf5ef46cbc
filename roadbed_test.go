package roadbed_test

import (
	"encoding/json"
	"testing"

	"github.com/roadbed/roadbed"
)

func TestParseStatusKnowsFiveWordsInAnyCase(t *testing.T) {
	for in, want := range map[string]roadbed.Status{
		"UP": roadbed.Up, "down": roadbed.Down, "Out_Of_Service": roadbed.OutOfService,
		"starting": roadbed.Starting, "": roadbed.Unknown, "sideways": roadbed.Unknown,
	} {
		if got := roadbed.ParseStatus(in); got != want {
			t.Errorf("ParseStatus(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestCriticalityIsTextInJSON(t *testing.T) {
	for _, c := range []roadbed.Criticality{roadbed.Critical, roadbed.Degraded, roadbed.BestEffort, roadbed.Bulk} {
		b, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var got roadbed.Criticality
		if err := json.Unmarshal(b, &got); err != nil || got != c {
			t.Errorf("%s written %s reads as %s, %v", c, b, got, err)
		}
	}
	if got, err := roadbed.ParseCriticality("best-effort"); err != nil || got != roadbed.BestEffort {
		t.Errorf(`ParseCriticality("best-effort") = %s, %v`, got, err)
	}
	if _, err := roadbed.ParseCriticality("urgent"); err == nil {
		t.Error(`ParseCriticality("urgent"): got no error`)
	}
	if _, err := json.Marshal(roadbed.Criticality(9)); err == nil {
		t.Error("marshalling criticality 9: got no error")
	}
}

func TestCapacityNeedsMinDesiredMaxInOrder(t *testing.T) {
	for c, ok := range map[roadbed.Capacity]bool{
		{Min: 0, Desired: 0, Max: 0}:  true,
		{Min: 1, Desired: 2, Max: 3}:  true,
		{Min: 2, Desired: 1, Max: 3}:  false,
		{Min: 1, Desired: 4, Max: 3}:  false,
		{Min: -1, Desired: 0, Max: 1}: false,
	} {
		if err := c.Validate(); (err == nil) != ok {
			t.Errorf("%+v.Validate() = %v, want valid %v", c, err, ok)
		}
	}
}

func TestChangeNeedsActorActionAndResource(t *testing.T) {
	whole := roadbed.Change{Actor: "ana", Action: "serverGroup.resize", Resource: "serverGroup:api-v003"}
	if err := whole.Validate(); err != nil {
		t.Errorf("a whole change: %v", err)
	}
	for _, c := range []roadbed.Change{{}, {Actor: "ana"}, {Actor: "ana", Action: "x.y"}, {Action: "x.y", Resource: "x:1"}} {
		if c.Validate() == nil {
			t.Errorf("%+v: got no error", c)
		}
	}
}
