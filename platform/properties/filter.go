package properties

import (
	"fmt"
	"slices"
	"strings"
)

// Filter selects properties. It is a conjunction of disjunctions, in the words of Archaius 2:
//
//	(appId='api' or appId is null) and (env='prod')
//
// The names are those of the scope's fields, and key, propertyId, prefix (of the key) and q. name='v' fits a record
// whose list holds v, in any letter case; keys and ids are compared to the letter. q='v' fits one that holds v anywhere
// a person would see it, see [Property.Mentions]. "is null" and =” both fit a record without that field. The zero Filter
// selects everything.
type Filter struct {
	all       [][]atom // every one must have one that fits
	mentioned map[string]bool
	exact     bool // leave out records with scope fields that are not mentioned
}

type atom struct {
	name  string
	value string // "" = is null
}

// maxFilter bounds a filter, in bytes.
const maxFilter = 16 << 10

// ParseFilter reads a filter. The empty text selects everything.
func ParseFilter(text string) (Filter, error) {
	if len(text) > maxFilter {
		return Filter{}, fmt.Errorf("the filter has %d bytes; %d are allowed", len(text), maxFilter)
	}
	p := filterParser{text: text}
	f := Filter{mentioned: map[string]bool{}}
	p.space()
	if p.end() {
		return f, nil
	}
	for {
		group, err := p.group()
		if err != nil {
			return Filter{}, fmt.Errorf("filter %q, at byte %d: %w", text, p.at, err)
		}
		f.all = append(f.all, group)
		for _, a := range group {
			f.mentioned[a.name] = true
		}
		if p.end() {
			return f, nil
		}
		if !p.word("and") {
			return Filter{}, fmt.Errorf("filter %q, at byte %d: want \"and\"", text, p.at)
		}
	}
}

// WithoutExtraScopes returns f leaving out records with a scope field that f does not mention.
func (f Filter) WithoutExtraScopes() Filter {
	f.exact = true
	return f
}

// Match reports whether f selects p.
func (f Filter) Match(p Property) bool {
	scope := fields(p.Scope)
	for _, any := range f.all {
		if !slices.ContainsFunc(any, func(a atom) bool { return a.fits(p, scope) }) {
			return false
		}
	}
	if f.exact {
		for i, v := range scope {
			if v != "" && !f.mentioned[fieldNames[i]] {
				return false
			}
		}
	}
	return true
}

// apps returns the apps outside of which f selects only records of no app, or false if there is no saying.
func (f Filter) apps() ([]string, bool) {
	for _, any := range f.all {
		var apps []string
		for _, a := range any {
			if a.name == "appId" {
				apps = append(apps, a.value)
			}
		}
		if len(apps) == len(any) {
			return apps, true
		}
	}
	return nil, false
}

func (a atom) fits(p Property, scope [len(fieldNames)]string) bool {
	switch a.name {
	case "key":
		return p.Key == a.value
	case "propertyId":
		return p.ID == a.value
	case "prefix":
		return strings.HasPrefix(p.Key, a.value)
	case "q":
		return p.Mentions(a.value)
	}
	have := scope[slices.Index(fieldNames[:], a.name)]
	if a.value == "" || have == "" {
		return a.value == have
	}
	return slices.ContainsFunc(values(have), func(v string) bool { return strings.EqualFold(v, a.value) })
}

type filterParser struct {
	text string
	at   int
}

func (p *filterParser) end() bool { return p.at == len(p.text) }

func (p *filterParser) space() {
	for !p.end() && (p.text[p.at] == ' ' || p.text[p.at] == '\t') {
		p.at++
	}
}

func (p *filterParser) token(t string) bool {
	if !strings.HasPrefix(p.text[p.at:], t) {
		return false
	}
	p.at += len(t)
	p.space()
	return true
}

// name reads letters.
func (p *filterParser) name() string {
	from := p.at
	for !p.end() && (p.text[p.at]|0x20 >= 'a' && p.text[p.at]|0x20 <= 'z') {
		p.at++
	}
	name := p.text[from:p.at]
	p.space()
	return name
}

func (p *filterParser) word(w string) bool {
	was := p.at
	if strings.EqualFold(p.name(), w) {
		return true
	}
	p.at = was
	return false
}

// group reads "(atom or atom ...)", or an atom alone.
func (p *filterParser) group() ([]atom, error) {
	if !p.token("(") {
		a, err := p.atom()
		return []atom{a}, err
	}
	var group []atom
	for {
		a, err := p.atom()
		if err != nil {
			return nil, err
		}
		group = append(group, a)
		switch {
		case p.token(")"):
			return group, nil
		case !p.word("or"):
			return nil, fmt.Errorf("want \"or\" or \")\"")
		}
	}
}

// atom reads "name='value'" or "name is null".
func (p *filterParser) atom() (atom, error) {
	name := p.name()
	if !slices.Contains(fieldNames[:], name) && name != "key" && name != "propertyId" && name != "prefix" && name != "q" {
		return atom{}, fmt.Errorf("%q is not a field; there are %s, key, propertyId, prefix and q", name, strings.Join(fieldNames[:], ", "))
	}
	if p.word("is") {
		if !p.word("null") {
			return atom{}, fmt.Errorf("want \"null\"")
		}
		return atom{name: name}, nil
	}
	if !p.token("=") {
		return atom{}, fmt.Errorf("want = or \"is null\" after %s", name)
	}
	if p.end() || p.text[p.at] != '\'' {
		return atom{}, fmt.Errorf("want a value in single quotes")
	}
	value, _, closed := strings.Cut(p.text[p.at+1:], "'")
	if !closed {
		return atom{}, fmt.Errorf("the quote is not closed")
	}
	p.at += len(value) + 2
	p.space()
	return atom{name, value}, nil
}

// prefix returns what the key of everything that f selects starts with.
func (f Filter) prefix() string {
	longest := ""
	for _, any := range f.all {
		if len(any) == 1 && (any[0].name == "prefix" || any[0].name == "key") && len(any[0].value) > len(longest) {
			longest = any[0].value
		}
	}
	return longest
}

// Prefix returns the filter that selects the keys that start with prefix.
func Prefix(prefix string) Filter { return Filter{all: [][]atom{{{"prefix", prefix}}}} }
