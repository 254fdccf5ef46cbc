package main

import "testing"

func TestTheEdgeIsLookedForBesideTheAPI(t *testing.T) {
	for base, want := range map[string]string{
		"http://127.0.0.1:7070":          "http://127.0.0.1:7000",
		"http://127.0.0.1:10070":         "http://127.0.0.1:10000",
		"https://platform.example:7170/": "http://platform.example:7100",
		"http://[::1]:7070":              "http://[::1]:7000",
		"http://platform.example":        "http://platform.example:7000",
		"http://127.0.0.1:60":            "http://127.0.0.1:7000", // nowhere to move to
		"nonsense":                       "http://127.0.0.1:7000",
	} {
		if got := edgeBeside(base); got != want {
			t.Errorf("API at %s: got %s, want %s", base, got, want)
		}
	}
}
