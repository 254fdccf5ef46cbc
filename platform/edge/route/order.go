package route

import (
	"cmp"
	"strings"
)

// inOrder orders documents as they are tried, by their least specific host. It is for people: which of a route's hosts
// counts is known only when there is a request.
func inOrder(a, b Route) int {
	return cmp.Or(
		-cmp.Compare(hostRank(a), hostRank(b)),
		byPath(&a.Match.Path, &b.Match.Path),
	)
}

// byPath orders exact paths before regular expressions before prefixes, and longer ones first.
func byPath(a, b *Path) int {
	return cmp.Or(
		-cmp.Compare(pathRank(a), pathRank(b)),
		-cmp.Compare(len(a.Exact)+len(a.Regex)+len(strings.TrimSuffix(a.Prefix, "/")), len(b.Exact)+len(b.Regex)+len(strings.TrimSuffix(b.Prefix, "/"))),
	)
}

func pathRank(p *Path) int {
	switch {
	case p.Exact != "":
		return 2
	case p.Regex != "":
		return 1
	}
	return 0
}

// hostRank is higher the more specific a route's least specific host is: exact names, then wildcards by length.
func hostRank(r Route) int {
	rank := 0
	for i, h := range r.Match.Hosts {
		k := len(h)
		if !strings.HasPrefix(h, "*.") {
			k += 1 << 16
		}
		if i == 0 || k < rank {
			rank = k
		}
	}
	return rank
}
