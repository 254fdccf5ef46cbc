package route

import (
	"slices"
	"strings"
	"testing"
)

// TestWhatItsParserCouldNotBearIsNotReadAsYAML tries what has the parser of YAML call itself without end, or keep more than there
// is memory for: either would end the process.
func TestWhatItsParserCouldNotBearIsNotReadAsYAML(t *testing.T) {
	for name, text := range map[string]string{
		"brackets":                              strings.Repeat("[", 200),
		"brackets with others in quotes":        strings.Repeat(`["]",`, 200),
		"brackets with others in comments":      strings.Repeat("[ # ]\n", 200),
		"braces with others in quotes":          strings.Repeat(`{a: '}', b: `, 200),
		"lists within lists on a line":          strings.Repeat("- ", 2000),
		"tags of tags, on a line each":          strings.Repeat("!a\n", 2000),
		"tags of what is tagged, with words":    strings.Repeat("a: !a ", 20_000),
		"anchors with words":                    strings.Repeat("<<: &a a", 20_000),
		"documents":                             strings.Repeat("--- a\n", 20_000),
		"lines that begin far to the right":     "a:\n" + strings.Repeat(" ", 2000) + "b: c\n",
		"more words and signs than are allowed": strings.Repeat("- a\n", 1<<20),
	} {
		_, err := ParseYAML(text)
		if err == nil || !slices.ContainsFunc([]string{"nested deeper than 100 levels", "more than 10000 tags, anchors and documents", "best written in JSON"}, func(why string) bool { return strings.Contains(err.Error(), why) }) {
			t.Errorf("%s: got %v, want that it is too deep or too long", name, err)
		}
	}
	if _, err := ParseYAML(strings.Repeat("- {a: [']', b]} # }\n", 1000)); err != nil {
		t.Errorf("a long list of what nests twice: got %v, want no error", err)
	}
}
