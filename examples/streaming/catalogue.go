package streaming

import (
	"math/rand/v2"
	"slices"
	"strings"
)

// Genres are the rows every member can browse, besides "popular" and "new".
var genres = []string{
	"Drama", "Comedy", "Thriller", "Science Fiction", "Documentary", "Family", "Crime", "Romance", "Adventure", "Animation",
}

// Card is what a shelf shows of a title.
type Card struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Year     int    `json:"year"`
	Minutes  int    `json:"minutes"`
	Genre    string `json:"genre"`
	Maturity int    `json:"maturity"` // the age it is made for: 0, 7, 12, 16 or 18
	Hue      int    `json:"hue"`      // of its poster, 0 to 359
}

// Title is all that the catalogue knows of one film.
type Title struct {
	Card
	Synopsis string `json:"synopsis"`

	row string // its genre's
}

// Shelf is a named row of titles.
type Shelf struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	More   string `json:"more,omitempty"` // the row to browse for more of the same
	Titles []Card `json:"titles"`
}

// catalogue is the whole invented film library. It never changes, so it is read without locks.
type catalogue struct {
	titles []Title        // in order of popularity
	byID   map[string]int // index into titles
	rows   map[string][]int
	order  []string // ids of rows: popular, new, then the genres
	names  map[string]string
}

const titleCount = 500

// newCatalogue invents the same library in every process: catalog serves it, and recommendations has learnt from it.
func newCatalogue() *catalogue {
	rnd := rand.New(rand.NewPCG(1997, 2016))
	pick := func(words []string) string { return words[rnd.IntN(len(words))] }
	c := &catalogue{byID: map[string]int{}, rows: map[string][]int{}, names: map[string]string{}}
	for len(c.titles) < titleCount {
		var name string
		switch rnd.IntN(6) {
		case 0:
			name = "The " + pick(adjectives) + " " + pick(nouns)
		case 1:
			name = pick(adjectives) + " " + pick(nouns)
		case 2:
			name = "The " + pick(nouns) + " of " + pick(places)
		case 3:
			name = "Last " + pick(nouns) + " in " + pick(places)
		case 4:
			name = pick(people) + " and the " + pick(nouns)
		default:
			name = pick(people) + "'s " + pick(nouns)
		}
		id := slug(name)
		if _, taken := c.byID[id]; taken {
			continue
		}
		genre := pick(genres)
		maturity := []int{0, 7, 12, 12, 16, 18}[rnd.IntN(6)]
		if genre == "Family" || genre == "Animation" {
			maturity = []int{0, 0, 7}[rnd.IntN(3)]
		}
		c.byID[id] = len(c.titles)
		c.titles = append(c.titles, Title{
			Card: Card{ID: id, Name: name, Year: 2026 - min(rnd.IntN(8)*rnd.IntN(8), 40), Minutes: 78 + rnd.IntN(70),
				Genre: genre, Maturity: maturity, Hue: rnd.IntN(360)},
			row: slug(genre),
			Synopsis: pick(people) + " comes to " + pick(places) + " for " + strings.ToLower(pick(reasons)) +
				" and finds the " + strings.ToLower(pick(nouns)) + " that nobody asked about.",
		})
	}

	c.addRow("popular", "Popular now", func(Title) bool { return true }, 100)
	c.addRow("new", "New", func(t Title) bool { return t.Year >= 2025 }, 100)
	for _, g := range genres {
		c.addRow(slug(g), g, func(t Title) bool { return t.row == slug(g) }, titleCount)
	}
	return c
}

func (c *catalogue) addRow(id, name string, in func(Title) bool, most int) {
	c.order = append(c.order, id)
	c.names[id] = name
	for i, t := range c.titles {
		if in(t) && len(c.rows[id]) < most {
			c.rows[id] = append(c.rows[id], i)
		}
	}
}

// shelf returns up to limit titles of row that somebody of age maturity may see, after skipping offset of them. It
// reports false when there is no such row.
func (c *catalogue) shelf(row string, maturity, offset, limit int) (Shelf, bool) {
	if !slices.Contains(c.order, row) {
		return Shelf{}, false
	}
	s := Shelf{ID: row, Name: c.names[row], More: row, Titles: make([]Card, 0, limit)}
	for _, i := range c.rows[row] {
		if c.titles[i].Maturity > maturity {
			continue
		}
		if offset > 0 {
			offset--
			continue
		}
		if len(s.Titles) == limit {
			break
		}
		s.Titles = append(s.Titles, c.titles[i].Card)
	}
	return s, true
}

// title returns the title called id.
func (c *catalogue) title(id string) (Title, bool) {
	i, ok := c.byID[id]
	if !ok {
		return Title{}, false
	}
	return c.titles[i], true
}

// slug turns a name into what stands in a URL: "Ana's Tide" becomes "anas-tide".
func slug(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.ToLower(name), "'", ""), " ", "-")
}

var (
	adjectives = strings.Fields(`Quiet Crimson Hollow Paper Northern Borrowed Silent Golden Broken Velvet Distant Seventh Wooden Electric
		Patient Salted Frozen Unwritten Midnight Copper Restless Gentle Blind Amber Invisible Reluctant Tidal Forgotten`)
	nouns = strings.Fields(`Harbour Lantern Orchard Signal Winter Ferry Cartographer Bridge Comet Garden Letter Mirror Station Archive
		Compass Violin Glacier Parade Lighthouse Tide Engine Atlas Sparrow Kitchen Horizon Pilot Meadow Clockmaker Treaty Island`)
	places = strings.Fields(`Valparaiso Tromso Lisbon Odessa Marfa Kyoto Galway Tangier Tartu Hobart Trieste Bergamo Porto Split Quito
		Dakar Riga Bruges`)
	people = strings.Fields(`Ana Teodor Mirela Joaquin Ingrid Kofi Yuki Pascal Noor Bruno Saskia Emeka Lucia Anton Farida Idris Marta
		Silas Wren Oskar`)
	reasons = []string{"A wedding", "One last repair", "A borrowed boat", "The harvest", "A misdelivered letter", "The audition", "An inheritance",
		"A lost dog", "The eclipse", "An unpaid debt"}
)
