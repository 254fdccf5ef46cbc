package streaming

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
)

//go:embed page.html
var pageSource string

// newPages parses what people see in a browser: no script, no request besides the page itself.
func newPages() *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{
		"card": func(v view, c Card, watched int) cardView { return cardView{v.Base, v.Who, c, watched} },
		"clock": func(seconds int) string {
			if seconds >= 3600 {
				return fmt.Sprintf("%d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60)
			}
			return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
		},
		"has":    func(names []string, name string) bool { return slices.Contains(names, name) },
		"list":   func(names []string) string { return strings.Join(names, ", ") },
		"resume": watched,
		"slug":   slug,
	}).Parse(pageSource))
}

// view is what a page is rendered from.
type view struct {
	Base   string // prefix of all links: "./" or "../", for the edge may serve the pages under any path
	Who    string // query that keeps a member chosen by query, e.g. "?member=m00007"
	Genres []string
	Data   any
	Error  *problem
}

// cardView is what one poster is rendered from.
type cardView struct {
	Base, Who string
	Card      Card
	Watched   int // percent
}

// show answers with the page called name, or with what went wrong.
func (a *api) show(w http.ResponseWriter, r *http.Request, name string, data any, err error) {
	v := view{Genres: genres, Data: data, Base: "./"}
	if up := strings.Count(r.URL.Path, "/") - 1; up > 0 {
		v.Base = strings.Repeat("../", up)
	}
	if id := r.URL.Query().Get("member"); id != "" && err == nil {
		v.Who = "?member=" + id
	}
	status := http.StatusOK
	if err != nil {
		if !errors.As(err, &v.Error) {
			v.Error = refuse(http.StatusInternalServerError, "%v", err)
		}
		name, status = "error", v.Error.Status
	}
	var page bytes.Buffer
	if err := a.pages.ExecuteTemplate(&page, name, v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept")
	w.WriteHeader(status)
	w.Write(page.Bytes())
}

// watched returns how far, in percent, a title was watched; 0 for one that was not begun.
func watched(h Home, c Card) int {
	for _, r := range h.Resume {
		if r.Title == c.ID && c.Minutes > 0 {
			return max(1, min(100, r.Seconds*100/(c.Minutes*60)))
		}
	}
	return 0
}
