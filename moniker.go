package roadbed

import (
	"fmt"
	"strconv"
	"strings"
)

// Moniker is the name of a server group taken apart: app, stack, detail and sequence, written
// "app-stack-detail-v003". Stack and detail may be empty; an empty stack before a detail leaves two dashes:
// "app--detail-v000". The grammar is Frigga's, Netflix's naming library.
type Moniker struct {
	App    string `json:"app"`
	Stack  string `json:"stack,omitempty"`
	Detail string `json:"detail,omitempty"`

	// Sequence is the version, 0 to 999999, or -1 for a name without one. A name without a sequence is the cluster.
	Sequence int `json:"sequence"`
}

// NoSequence is the Sequence of a name that has none.
const NoSequence = -1

// ParseMoniker takes a server group's or cluster's name apart. It fails if the name is outside the grammar: an app
// of letters, digits, "." and "_"; a stack of the same; a detail that may hold "-", "~" and "^" too; a sequence of
// "v" and three to six digits. "foo-bar-v2" has no sequence but the detail "v2".
func ParseMoniker(name string) (Moniker, error) {
	m := Moniker{Sequence: NoSequence}
	cluster := name
	if c, push, ok := cutLast(name, "-v"); ok && len(push) >= 3 && len(push) <= 6 && all(push, digit) {
		n, err := strconv.Atoi(push)
		if err != nil {
			return Moniker{}, fmt.Errorf("name %q: %w", name, err)
		}
		cluster, m.Sequence = c, n
	}
	app, rest, _ := strings.Cut(cluster, "-")
	m.App = app
	m.Stack, m.Detail, _ = strings.Cut(rest, "-")
	if err := m.Validate(); err != nil {
		return Moniker{}, fmt.Errorf("name %q: %w", name, err)
	}
	return m, nil
}

// Validate reports the first rule of the grammar that m breaks.
func (m Moniker) Validate() error {
	switch {
	case m.App == "":
		return fmt.Errorf("the app is empty; a name is app, app-stack or app-stack-detail, each optionally with -v000")
	case !all(m.App, word):
		return fmt.Errorf("app %q: only letters, digits, '.' and '_' are allowed", m.App)
	case !all(m.Stack, word):
		return fmt.Errorf("stack %q: only letters, digits, '.' and '_' are allowed", m.Stack)
	case !all(m.Detail, func(c byte) bool { return word(c) || c == '-' || c == '~' || c == '^' }):
		return fmt.Errorf("detail %q: only letters, digits and '._-~^' are allowed", m.Detail)
	case m.Sequence < NoSequence || m.Sequence > 999999:
		return fmt.Errorf("sequence %d: must be 0 to 999999", m.Sequence)
	}
	if m.Sequence == NoSequence {
		// A cluster that ends like a push would be read back as a server group.
		if _, push, ok := cutLast(m.Cluster(), "-v"); ok && len(push) >= 3 && len(push) <= 6 && all(push, digit) {
			return fmt.Errorf("cluster %q ends like a sequence", m.Cluster())
		}
	}
	return nil
}

// Cluster returns the name without the sequence: all versions of one thing share it.
func (m Moniker) Cluster() string {
	switch {
	case m.Detail != "":
		return m.App + "-" + m.Stack + "-" + m.Detail
	case m.Stack != "":
		return m.App + "-" + m.Stack
	}
	return m.App
}

// String returns the whole name, e.g. "api-prod-v003".
func (m Moniker) String() string {
	if m.Sequence == NoSequence {
		return m.Cluster()
	}
	return fmt.Sprintf("%s-v%03d", m.Cluster(), m.Sequence)
}

// Next returns the moniker that follows m: sequence plus one modulo 1000, v000 after a name without one. Sequences
// for which taken reports true are skipped. It fails when all thousand are taken.
func (m Moniker) Next(taken func(Moniker) bool) (Moniker, error) {
	n := m
	for range 1000 {
		n.Sequence = (n.Sequence + 1) % 1000
		if !taken(n) {
			return n, nil
		}
	}
	return Moniker{}, fmt.Errorf("cluster %s has all 1000 sequences in use; destroy old server groups first", m.Cluster())
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
func word(c byte) bool {
	return digit(c) || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '.' || c == '_'
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}
