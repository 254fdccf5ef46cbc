package properties

import (
	"slices"
	"strings"
)

// shelf is a sorted map from names to records that never changes: [shelf.with] returns another one, which shares all
// pages but those that differ. A change copies one page and the list of pages, some microseconds with a million names.
type shelf []page

// page is the slots of some consecutive names, never none.
type page []slot

// slot is what is under one name: records from general to specific, then from old to new; never none.
type slot struct {
	name    string
	records []*record
}

// pageMost is how many slots a page may have. One that grows beyond it is split in two.
const pageMost = 512

func (s shelf) page(name string) int {
	// The last page whose first name is not after name.
	i, found := slices.BinarySearchFunc(s, name, func(p page, name string) int { return strings.Compare(p[0].name, name) })
	if !found && i > 0 {
		i--
	}
	return i
}

func (p page) find(name string) (int, bool) {
	return slices.BinarySearchFunc(p, name, func(s slot, name string) int { return strings.Compare(s.name, name) })
}

// get returns the records of a name.
func (s shelf) get(name string) []*record {
	if len(s) == 0 {
		return nil
	}
	p := s[s.page(name)]
	if i, ok := p.find(name); ok {
		return p[i].records
	}
	return nil
}

// with returns s with the records of these slots, which are sorted by name, in place of what is there; a slot without
// records takes its name out.
func (s shelf) with(changes []slot) shelf {
	out := make(shelf, 0, len(s)+len(changes)/pageMost+1)
	for len(changes) > 0 {
		if len(s) == 0 {
			out, changes = append(out, split(page(nil).merge(changes))...), nil
			break
		}
		at := s.page(changes[0].name)
		out, s = append(out, s[:at]...), s[at:]
		n := len(changes) // those that belong on this page
		if len(s) > 1 {
			n, _ = slices.BinarySearchFunc(changes, s[1][0].name, func(c slot, name string) int { return strings.Compare(c.name, name) })
		}
		out = append(out, split(s[0].merge(changes[:n]))...)
		s, changes = s[1:], changes[n:]
	}
	return append(out, s...)
}

// merge returns p with changes.
func (p page) merge(changes []slot) page {
	out := make(page, 0, len(p)+len(changes))
	for _, c := range changes {
		at, found := p.find(c.name)
		out = append(out, p[:at]...)
		if p = p[at:]; found {
			p = p[1:]
		}
		if len(c.records) > 0 {
			out = append(out, c)
		}
	}
	return append(out, p...)
}

func split(p page) []page {
	if len(p) == 0 {
		return nil
	}
	parts := (len(p) + pageMost - 1) / pageMost
	out := make([]page, 0, parts)
	for i := range parts {
		from, to := i*len(p)/parts, (i+1)*len(p)/parts
		out = append(out, slices.Clip(p[from:to]))
	}
	return out
}

// cursor walks over the slots of a shelf in the order of their names.
type cursor struct {
	left shelf
	at   int // in the first page of left
}

// from returns a cursor at the first name that is not before name.
func (s shelf) from(name string) cursor {
	if len(s) == 0 {
		return cursor{}
	}
	i := s.page(name)
	at, _ := s[i].find(name)
	c := cursor{s[i:], at}
	c.turn()
	return c
}

func (c *cursor) turn() {
	if len(c.left) > 0 && c.at == len(c.left[0]) {
		c.left, c.at = c.left[1:], 0
	}
}

// peek returns the slot at the cursor; nil at the end.
func (c *cursor) peek() *slot {
	if len(c.left) == 0 {
		return nil
	}
	return &c.left[0][c.at]
}

func (c *cursor) step() {
	c.at++
	c.turn()
}
