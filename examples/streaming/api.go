package streaming

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Viewer is the member a page is for.
type Viewer struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Home is a member's home page.
type Home struct {
	Member    Viewer   `json:"member"`
	Cells     Cells    `json:"cells"`
	Rows      []Shelf  `json:"rows"`
	Resume    []Resume `json:"resume,omitempty"`    // points of the titles in the row "continue"
	Fallbacks []string `json:"fallbacks,omitempty"` // services whose part is a replacement
}

// Browse is one row at length.
type Browse struct {
	Member Viewer `json:"member"`
	Row    Shelf  `json:"row"`
}

// Play is all that a player needs.
type Play struct {
	Member    Viewer   `json:"member"`
	Plan      Plan     `json:"plan"`
	Manifest  Manifest `json:"manifest"`
	Seconds   int      `json:"seconds"`             // where to go on
	Fallbacks []string `json:"fallbacks,omitempty"` // services whose part is a replacement
}

// api composes what members see from what the other services know.
type api struct {
	pages    *template.Template
	settings *config.Value[*apiSettings]

	members, catalog, playback                  *caller // without these there is no page
	recommendations, bookmarks, abtest, billing *caller // these are replaced by something plainer
}

// newAPI is the origin of the edge.
//
//	GET /                     for people: the home page in HTML; otherwise what else there is
//	GET /home                 Home
//	GET /browse/{row}?page=0  Browse
//	GET /play/{title}         Play, or a player's page in HTML for who accepts it; 402 when the plan has lapsed
//
// The member is named by the header X-Member or the query member; a browser that names none is shown the pages of
// streaming.guest.
func newAPI(calls *ipc.Engine, props *config.Properties) http.Handler {
	a := &api{
		pages:    newPages(),
		settings: live(props, apiDefaults()),

		members:         newCaller(calls, "api", "members"),
		catalog:         newCaller(calls, "api", "catalog"),
		playback:        newCaller(calls, "api", "playback"),
		recommendations: newCaller(calls, "api", "recommendations"),
		bookmarks:       newCaller(calls, "api", "bookmarks"),
		abtest:          newCaller(calls, "api", "abtest"),
		billing:         newCaller(calls, "api", "billing"),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		if !human(r) {
			answer(w, map[string]string{"home": "home", "browse": "browse/popular", "play": "play/{title}", "member": "header X-Member: " + a.settings.Get().Guest}, nil)
			return
		}
		h, err := a.home(r)
		a.show(w, r, "home", h, err)
	})
	mux.HandleFunc("GET /home", handle(a.home))
	mux.HandleFunc("GET /browse/{row}", func(w http.ResponseWriter, r *http.Request) {
		b, err := a.browse(r)
		if human(r) {
			a.show(w, r, "browse", b, err)
		} else {
			answer(w, b, err)
		}
	})
	mux.HandleFunc("GET /play/{title}", func(w http.ResponseWriter, r *http.Request) {
		p, err := a.play(r)
		if human(r) {
			a.show(w, r, "play", p, err)
		} else {
			answer(w, p, err)
		}
	})
	return mux
}

func human(r *http.Request) bool { return strings.Contains(r.Header.Get("Accept"), "text/html") }

// who names the member of a request.
func who(r *http.Request, guest string) (string, error) {
	id := r.Header.Get("X-Member")
	if id == "" {
		id = r.URL.Query().Get("member")
	}
	if id == "" && human(r) {
		id = guest
	}
	if id == "" {
		return "", refuse(http.StatusBadRequest, "who asks? Add the header X-Member: %s", guest)
	}
	if _, ok := memberNumber(id); !ok {
		return "", noMember(id)
	}
	return id, nil
}

func (a *api) home(r *http.Request) (Home, error) {
	now := a.settings.Get()
	id, err := who(r, now.Guest)
	if err != nil {
		return Home{}, err
	}
	ctx := r.Context()
	var parts fallbacks
	var m Member
	cells := defaultCells
	var resume []Resume
	var wg sync.WaitGroup
	if now.ABTests {
		wg.Go(func() { cells = getOr(ctx, a.abtest, &parts, "http://abtest/members/"+id, defaultCells) })
	}
	if now.ContinueWatching {
		wg.Go(func() { resume = getOr(ctx, a.bookmarks, &parts, "http://bookmarks/members/"+id, []Resume(nil)) })
	}
	m, err = get[Member](ctx, a.members, "http://members/members/"+id)
	wg.Wait()
	if err != nil {
		return Home{}, err
	}

	perRow := strconv.Itoa(now.TitlesPerRow)
	var picks []Pick
	if now.Recommendations {
		picks = getOr(ctx, a.recommendations, &parts, "http://recommendations/members/"+id+"?"+url.Values{
			"tastes": {strings.Join(m.Tastes, ",")}, "maturity": {strconv.Itoa(m.Maturity)}, "cell": {cells.Home}, "limit": {perRow}}.Encode(), []Pick(nil))
	}

	// One call names everything that catalog has to tell: titles picked for the member and rows for all. Without
	// recommendations the rows of their tastes stand in.
	rows := slices.Clone(now.Rows)
	if picks == nil {
		rows = append(rows, m.Tastes...)
	}
	var ids []string
	for _, p := range picks {
		ids = append(ids, p.Titles...)
	}
	for _, x := range resume {
		ids = append(ids, x.Title)
	}
	shelves, err := get[Shelves](ctx, a.catalog, "http://catalog/shelves?"+url.Values{
		"rows": {strings.Join(rows, ",")}, "titles": {strings.Join(ids, ",")}, "maturity": {strconv.Itoa(m.Maturity)}, "limit": {perRow}}.Encode())
	if err != nil {
		return Home{}, err
	}
	return Home{Member: Viewer{m.ID, m.Name}, Cells: cells, Rows: compose(picks, resume, shelves), Resume: resume, Fallbacks: parts.list()}, nil
}

// compose orders the rows of a home page: what was picked, what was begun, what everybody sees.
func compose(picks []Pick, resume []Resume, s Shelves) []Shelf {
	cards := make(map[string]Card, len(s.Titles))
	for _, c := range s.Titles {
		cards[c.ID] = c
	}
	rows := make([]Shelf, 0, len(picks)+1+len(s.Rows))
	add := func(row Shelf, ids []string) {
		for _, id := range ids {
			if c, ok := cards[id]; ok {
				row.Titles = append(row.Titles, c)
			}
		}
		if len(row.Titles) > 0 {
			rows = append(rows, row)
		}
	}
	for i, p := range picks {
		add(Shelf{ID: p.ID, Name: p.Name, More: p.More}, p.Titles)
		if i == 0 {
			add(Shelf{ID: "continue", Name: "Continue watching"}, titlesOf(resume))
		}
	}
	if len(picks) == 0 {
		add(Shelf{ID: "continue", Name: "Continue watching"}, titlesOf(resume))
	}
	for _, row := range s.Rows {
		add(row, nil)
	}
	return rows
}

func titlesOf(resume []Resume) []string {
	ids := make([]string, len(resume))
	for i, r := range resume {
		ids[i] = r.Title
	}
	return ids
}

func (a *api) browse(r *http.Request) (Browse, error) {
	now := a.settings.Get()
	id, err := who(r, now.Guest)
	if err != nil {
		return Browse{}, err
	}
	page, err := whole(r, "page", 0, 0, titleCount)
	if err != nil {
		return Browse{}, err
	}
	ctx := r.Context()
	m, err := get[Member](ctx, a.members, "http://members/members/"+id)
	if err != nil {
		return Browse{}, err
	}
	limit := now.TitlesPerPage
	row, err := get[Shelf](ctx, a.catalog, "http://catalog/rows/"+url.PathEscape(r.PathValue("row"))+"?"+url.Values{
		"maturity": {strconv.Itoa(m.Maturity)}, "offset": {strconv.Itoa(min(page*limit, titleCount))}, "limit": {strconv.Itoa(limit)}}.Encode())
	if err != nil {
		return Browse{}, err
	}
	return Browse{Member: Viewer{m.ID, m.Name}, Row: row}, nil
}

func (a *api) play(r *http.Request) (Play, error) {
	now := a.settings.Get()
	id, err := who(r, now.Guest)
	if err != nil {
		return Play{}, err
	}
	ctx := r.Context()
	title := url.PathEscape(r.PathValue("title"))
	var parts fallbacks
	var plan Plan
	var wg sync.WaitGroup
	wg.Go(func() { plan = getOr(ctx, a.billing, &parts, "http://billing/members/"+id, assumedPlan) })
	m, err := get[Member](ctx, a.members, "http://members/members/"+id)
	wg.Wait()
	if err != nil {
		return Play{}, err
	}
	if plan.State == "lapsed" {
		return Play{}, refuse(http.StatusPaymentRequired, "the plan of %s has lapsed; renew it to go on watching", id)
	}
	manifest, err := get[Manifest](ctx, a.playback, "http://playback/licences/"+title+"?member="+id+"&maturity="+strconv.Itoa(m.Maturity))
	if err != nil {
		return Play{}, err
	}
	// Told even to a bookmarks that is away: the member watches, and nobody will know where they stopped.
	var at Resume
	if now.ContinueWatching {
		at = sendOr(ctx, a.bookmarks, &parts, http.MethodPut, "http://bookmarks/members/"+id+"/titles/"+title, Resume{})
	}
	return Play{Member: Viewer{m.ID, m.Name}, Plan: plan, Manifest: manifest, Seconds: at.Seconds, Fallbacks: parts.list()}, nil
}

// fallbacks collects which services were replaced in one answer.
type fallbacks struct {
	mu    sync.Mutex
	names []string // guarded by mu
}

func (f *fallbacks) add(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Contains(f.names, name) {
		f.names = append(f.names, name)
	}
}

func (f *fallbacks) list() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.names)
	return f.names
}
