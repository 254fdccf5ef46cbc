package http1

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestEveryRuleIsInTheDocumentation(t *testing.T) {
	docs, err := os.ReadFile("../../../docs/edge.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := map[string]bool{}
	for _, file := range []string{"refusal.go", "conn.go"} {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:bad\(|refusal\(\d+, |Refusal\{)"([a-z0-9.-]+)"`).FindAllStringSubmatch(string(src), -1) {
			rules[m[1]] = true
		}
	}
	if len(rules) < 35 {
		t.Fatalf("found only %d rules in the source", len(rules))
	}
	for rule := range rules {
		if rule != "status-line" && !strings.Contains(string(docs), "`"+rule+"`") { // that one is the origins' alone
			t.Errorf("docs/edge.md does not tell of %s", rule)
		}
	}
}
