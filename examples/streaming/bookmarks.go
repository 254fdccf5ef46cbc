package streaming

import (
	"net/http"
	"slices"
	"strconv"
	"sync"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Resume is where a member stopped watching a title.
type Resume struct {
	Title   string `json:"title"`
	Seconds int    `json:"seconds"`
}

// newBookmarks serves viewing history, the latest first.
//
//	GET /members/{member}                      []Resume
//	PUT /members/{member}/titles/{title}?at=90 the Resume of one title, now the latest; without at it keeps its point
//
// Services keep no state, and the demo has no database yet: what a member watched long ago derives from their id and
// the title, and what they watch now is remembered by the one instance that was told, for a bounded number of members.
// Another instance, or this one restarted, does not know it.
func newBookmarks(_ *ipc.Engine, props *config.Properties) http.Handler {
	films := newCatalogue()
	h := newHistory(props)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /members/{member}", handle(func(r *http.Request) ([]Resume, error) {
		id := r.PathValue("member")
		if _, ok := memberNumber(id); !ok {
			return nil, noMember(id)
		}
		return h.of(films, id), nil
	}))
	mux.HandleFunc("PUT /members/{member}/titles/{title}", handle(func(r *http.Request) (Resume, error) {
		id, title := r.PathValue("member"), r.PathValue("title")
		if _, ok := memberNumber(id); !ok {
			return Resume{}, noMember(id)
		}
		t, ok := films.title(title)
		if !ok {
			return Resume{}, refuse(http.StatusNotFound, "there is no title %q", title)
		}
		at, err := whole(r, "at", -1, 0, t.Minutes*60)
		if err != nil {
			return Resume{}, err
		}
		return h.watch(films, id, title, at), nil
	}))
	return mux
}

// history remembers what members watched through this instance, for a bounded number of them.
type history struct {
	settings *config.Value[*bookmarksSettings]

	mu    sync.Mutex
	seen  map[string][]Resume // by member, latest first; guarded by mu
	order []string            // members in the order they came, to forget the oldest; guarded by mu
}

func newHistory(props *config.Properties) *history {
	return &history{settings: live(props, bookmarksDefaults()), seen: map[string][]Resume{}}
}

// of returns a member's resume points: those told to this instance, then those from before.
func (h *history) of(films *catalogue, id string) []Resume {
	h.mu.Lock()
	most := h.settings.Get().Resumes
	list := slices.Clone(h.seen[id])
	h.mu.Unlock()
	list = list[:min(len(list), most)]
	for _, r := range before(films, id) {
		if len(list) < most && !slices.ContainsFunc(list, func(x Resume) bool { return x.Title == r.Title }) {
			list = append(list, r)
		}
	}
	if list == nil {
		list = []Resume{}
	}
	return list
}

// watch makes title the latest of a member, at a point in seconds, or at the one it had when at is negative.
func (h *history) watch(films *catalogue, id, title string, at int) Resume {
	now := Resume{Title: title, Seconds: at}
	if at < 0 {
		now.Seconds = 0
		list := h.of(films, id)
		if i := slices.IndexFunc(list, func(x Resume) bool { return x.Title == title }); i >= 0 {
			now.Seconds = list[i].Seconds
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	list, known := h.seen[id]
	if !known {
		h.order = append(h.order, id)
	}
	list = slices.DeleteFunc(list, func(x Resume) bool { return x.Title == title })
	bounds := h.settings.Get()
	h.seen[id] = slices.Insert(list, 0, now)[:min(len(list)+1, bounds.Resumes)]
	for len(h.order) > bounds.Members {
		delete(h.seen, h.order[0])
		h.order = slices.Delete(h.order, 0, 1)
	}
	return now
}

// before makes up what a member watched in the past: none to three titles.
func before(films *catalogue, id string) []Resume {
	n := int(hash(id, "history") % 4)
	list := make([]Resume, 0, n)
	for i := range n {
		h := hash(id, "watched", strconv.Itoa(i))
		t := &films.titles[h%titleCount]
		list = append(list, Resume{Title: t.ID, Seconds: int(h >> 32 % uint64(t.Minutes*60))})
	}
	return list
}
