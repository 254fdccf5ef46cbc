package streaming

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Manifest is what a player needs to play a title.
type Manifest struct {
	Title   Title    `json:"title"`
	Licence string   `json:"licence"`
	Expires int64    `json:"expires"` // of the licence, in Unix seconds
	Streams []Stream `json:"streams"`
}

// Stream is one encoding of a title. Its path is on a content delivery network that the demo does not have.
type Stream struct {
	Height int    `json:"height"`
	Kbps   int    `json:"kbps"`
	Path   string `json:"path"`
}

// licenceKey signs the demo's licences. It protects nothing.
var licenceKey = []byte("streaming demo")

// newPlayback is the control plane of playing: it licenses a title to a member and tells where its streams are.
//
//	GET /licences/{title}?member=m00042&maturity=18  Manifest; 403 when the title is not for that age
func newPlayback(calls *ipc.Engine, props *config.Properties) http.Handler {
	settings := live(props, playbackDefaults())
	films := newCaller(calls, "playback", "catalog")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /licences/{title}", handle(func(r *http.Request) (Manifest, error) {
		who := r.URL.Query().Get("member")
		if _, ok := memberNumber(who); !ok {
			return Manifest{}, noMember(who)
		}
		maturity, err := whole(r, "maturity", 18, 0, 18)
		if err != nil {
			return Manifest{}, err
		}
		t, err := get[Title](r.Context(), films, "http://catalog/titles/"+url.PathEscape(r.PathValue("title")))
		if err != nil {
			return Manifest{}, err
		}
		if t.Maturity > maturity {
			return Manifest{}, refuse(http.StatusForbidden, "%s is for ages from %d", t.Name, t.Maturity)
		}
		now := settings.Get()
		expires := time.Now().Add(now.Licence).Unix()
		return Manifest{Title: t, Licence: licence(t.ID, who, expires), Expires: expires, Streams: streams(t, now.MaxHeight)}, nil
	}))
	return mux
}

// licence binds a title to a member until it expires.
func licence(title, member string, expires int64) string {
	mac := hmac.New(sha256.New, licenceKey)
	fmt.Fprintf(mac, "%s/%s/%d", title, member, expires)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// streams lists the encodings of t up to a height: quieter pictures need fewer bits.
func streams(t Title, maxHeight int) []Stream {
	still := 70 + int(hash(t.ID, "encode")%60) // percent of the usual rate
	list := make([]Stream, 0, 4)
	for _, s := range [...]Stream{{Height: 2160, Kbps: 11000}, {Height: 1080, Kbps: 4300}, {Height: 720, Kbps: 2300}, {Height: 480, Kbps: 1000}} {
		if s.Height > maxHeight {
			continue
		}
		list = append(list, Stream{Height: s.Height, Kbps: s.Kbps * still / 100, Path: "/" + t.ID + "/" + strconv.Itoa(s.Height) + ".mp4"})
	}
	return list
}
