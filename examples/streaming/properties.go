package streaming

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/config"
	"github.com/roadbed/roadbed/ipc"
)

// Property is a dynamic property that a service of the application reads: a change is in force with the next request.
type Property struct {
	Key     string
	Type    string
	Default string
	Min     *float64 // nil = none; of a duration in milliseconds
	Max     *float64
	Pattern string // that the whole value must match; "" = any
	Service string // who reads it
	Own     bool   // the default is this service's alone: other services' differ under the same key
	What    string // it is for
}

// Properties returns every property of the application: this is the table of what can be changed while it runs. A
// value out of its bounds is refused where it is set, and would be refused again where it is read.
func Properties() []Property {
	n := func(v float64) *float64 { return &v }
	table := []Property{
		{Key: "feature.abtests.enabled", Type: "bool", Default: "true", Service: "api", What: "ask abtest for cells; without, members are in the default ones"},
		{Key: "feature.continueWatching.enabled", Type: "bool", Default: "true", Service: "api", What: "ask bookmarks where members stopped"},
		{Key: "feature.recommendations.enabled", Type: "bool", Default: "true", Service: "api", What: "ask recommendations for rows; without, those of a member's tastes stand in"},
		{Key: "streaming.home.rows", Type: "list", Default: "popular,new", Service: "api", What: "rows of the home page that everybody sees"},
		{Key: "streaming.home.titlesPerRow", Type: "int", Default: "8", Min: n(1), Max: n(50), Service: "api", What: "titles in each row of the home page"},
		{Key: "streaming.browse.titlesPerPage", Type: "int", Default: "20", Min: n(1), Max: n(100), Service: "api", What: "titles in a row at length"},
		{Key: "streaming.guest", Type: "string", Default: "m00042", Pattern: "m[0-9]{5}", Service: "api", What: "whose pages a browser shows that names no member"},

		{Key: "streaming.playback.licence", Type: "duration", Default: "4h", Min: n(60_000), Max: n(86_400_000), Service: "playback", What: "how long a licence lasts"},
		{Key: "streaming.playback.maxHeight", Type: "int", Default: "2160", Min: n(480), Max: n(2160), Service: "playback", What: "the highest picture offered, in lines"},

		{Key: "streaming.catalog.maxTitles", Type: "int", Default: "100", Min: n(1), Max: n(500), Service: "catalog", What: "titles of a row in one answer at most"},
		{Key: "streaming.catalog.rowNames", Type: "map", Default: "", Service: "catalog", What: "other names for rows: new=Fresh,drama=Tears"},

		{Key: "streaming.members.maturity", Type: "int", Default: "18", Min: n(0), Max: n(18), Service: "members", What: "the age up to which anybody is shown titles"},

		{Key: "streaming.recommendations.whim", Type: "float", Default: "150", Min: n(0), Max: n(10_000), Service: "recommendations", What: "how far picks stray from what is popular and liked"},
		{Key: "streaming.recommendations.exploreWhim", Type: "float", Default: "400", Min: n(0), Max: n(10_000), Service: "recommendations", What: "the same for members in the cell \"explore\""},

		{Key: "streaming.bookmarks.members", Type: "int", Default: "5000", Min: n(1), Max: n(1_000_000), Service: "bookmarks", What: "members whose viewing one instance remembers"},
		{Key: "streaming.bookmarks.resumes", Type: "int", Default: "8", Min: n(0), Max: n(50), Service: "bookmarks", What: "titles of a member that can be resumed"},

		{Key: "streaming.abtest.explorePercent", Type: "int", Default: "50", Min: n(0), Max: n(100), Service: "abtest", What: "members in the cell \"explore\""},
		{Key: "streaming.abtest.widePercent", Type: "int", Default: "50", Min: n(0), Max: n(100), Service: "abtest", What: "members in the cell \"wide\""},

		{Key: "feature.freeWeekend.enabled", Type: "bool", Default: "false", Service: "billing", What: "every plan counts as active"},
		{Key: "streaming.billing.gracePercent", Type: "int", Default: "2", Min: n(0), Max: n(100), Service: "billing", What: "members whose last payment failed"},

		{Key: "demo.load.rps", Type: "float", Default: "100", Min: n(0), Max: n(100_000), Service: PopulationName, What: "requests per second, all members together; 0 pauses"},
		{Key: "demo.load.think", Type: "duration", Default: "300ms", Min: n(0), Max: n(60_000), Service: PopulationName, What: "what a member takes between two steps"},
	}
	for _, c := range commands() {
		limit := "hystrix.command." + c.to + ".execution.isolation.thread.timeoutInMilliseconds"
		table = append(table, Property{Key: limit, Type: "int", Default: strconv.FormatInt(c.Timeout.Milliseconds(), 10), Min: n(1), Service: c.from, Own: true, What: "time for a call of " + c.to + " with its retries"})
		if c.AttemptTimeout > 0 {
			attempt := "ipc.command." + c.to + ".attemptTimeoutInMilliseconds"
			table = append(table, Property{Key: attempt, Type: "int", Default: strconv.FormatInt(c.AttemptTimeout.Milliseconds(), 10), Min: n(0), Service: c.from, Own: true, What: "time for one attempt of a call of " + c.to})
		}
	}
	return table
}

// command is one service that another calls, with the limits that hold while no property says otherwise.
type command struct {
	from, to string
	ipc.Settings
}

// commands returns who calls whom. Where there is no page without the callee, an instance that hangs costs one attempt,
// and time is left to ask another well within a member's two seconds; the others are replaced by something plainer.
func commands() []command {
	const ms = time.Millisecond
	return []command{
		{"api", "members", ipc.Settings{Timeout: 900 * ms, AttemptTimeout: 350 * ms}},
		{"api", "catalog", ipc.Settings{Timeout: 900 * ms, AttemptTimeout: 350 * ms}},
		{"api", "playback", ipc.Settings{Timeout: 1200 * ms, AttemptTimeout: 550 * ms}},
		{"api", "recommendations", ipc.Settings{Timeout: 250 * ms, Criticality: roadbed.Degraded}},
		{"api", "bookmarks", ipc.Settings{Timeout: 250 * ms, Criticality: roadbed.Degraded}},
		{"api", "abtest", ipc.Settings{Timeout: 150 * ms, Criticality: roadbed.BestEffort}},
		{"api", "billing", ipc.Settings{Timeout: 250 * ms, Criticality: roadbed.BestEffort}},
		{"playback", "catalog", ipc.Settings{Timeout: 500 * ms, AttemptTimeout: 250 * ms}},
	}
}

// live returns the settings of a service, which follow their properties.
func live[T any](props *config.Properties, def T) *config.Value[*T] {
	return config.Must(config.Bind(props, "", def))
}

type apiSettings struct {
	ABTests          bool     `config:"feature.abtests.enabled"`
	ContinueWatching bool     `config:"feature.continueWatching.enabled"`
	Recommendations  bool     `config:"feature.recommendations.enabled"`
	Rows             []string `config:"streaming.home.rows"`
	TitlesPerRow     int      `config:"streaming.home.titlesPerRow"`
	TitlesPerPage    int      `config:"streaming.browse.titlesPerPage"`
	Guest            string   `config:"streaming.guest"`
}

func apiDefaults() apiSettings {
	return apiSettings{ABTests: true, ContinueWatching: true, Recommendations: true, Rows: []string{"popular", "new"}, TitlesPerRow: 8, TitlesPerPage: 20, Guest: "m00042"}
}

func (s *apiSettings) Validate() error {
	var guest error
	if _, ok := memberNumber(s.Guest); !ok {
		guest = fmt.Errorf("streaming.guest: %w", noMember(s.Guest))
	}
	return errors.Join(guest, config.Between("streaming.home.titlesPerRow", s.TitlesPerRow, 1, 50), config.Between("streaming.browse.titlesPerPage", s.TitlesPerPage, 1, 100))
}

type playbackSettings struct {
	Licence   time.Duration `config:"streaming.playback.licence"`
	MaxHeight int           `config:"streaming.playback.maxHeight"`
}

func playbackDefaults() playbackSettings {
	return playbackSettings{Licence: 4 * time.Hour, MaxHeight: 2160}
}

func (s *playbackSettings) Validate() error {
	return errors.Join(config.Between("streaming.playback.licence", s.Licence, time.Minute, 24*time.Hour), config.Between("streaming.playback.maxHeight", s.MaxHeight, 480, 2160))
}

type catalogSettings struct {
	MaxTitles int               `config:"streaming.catalog.maxTitles"`
	RowNames  map[string]string `config:"streaming.catalog.rowNames"`
}

func catalogDefaults() catalogSettings { return catalogSettings{MaxTitles: 100} }

func (s *catalogSettings) Validate() error {
	return config.Between("streaming.catalog.maxTitles", s.MaxTitles, 1, titleCount)
}

type membersSettings struct {
	Maturity int `config:"streaming.members.maturity"`
}

func membersDefaults() membersSettings { return membersSettings{Maturity: 18} }

func (s *membersSettings) Validate() error {
	return config.Between("streaming.members.maturity", s.Maturity, 0, 18)
}

type recommendationsSettings struct {
	Whim        float64 `config:"streaming.recommendations.whim"`
	ExploreWhim float64 `config:"streaming.recommendations.exploreWhim"`
}

func recommendationsDefaults() recommendationsSettings {
	return recommendationsSettings{Whim: 150, ExploreWhim: 400}
}

func (s *recommendationsSettings) Validate() error {
	return errors.Join(config.Between("streaming.recommendations.whim", s.Whim, 0, 10_000), config.Between("streaming.recommendations.exploreWhim", s.ExploreWhim, 0, 10_000))
}

type bookmarksSettings struct {
	Members int `config:"streaming.bookmarks.members"`
	Resumes int `config:"streaming.bookmarks.resumes"`
}

func bookmarksDefaults() bookmarksSettings { return bookmarksSettings{Members: 5000, Resumes: 8} }

func (s *bookmarksSettings) Validate() error {
	return errors.Join(config.Between("streaming.bookmarks.members", s.Members, 1, 1_000_000), config.Between("streaming.bookmarks.resumes", s.Resumes, 0, 50))
}

type abtestSettings struct {
	ExplorePercent int `config:"streaming.abtest.explorePercent"`
	WidePercent    int `config:"streaming.abtest.widePercent"`
}

func abtestDefaults() abtestSettings { return abtestSettings{ExplorePercent: 50, WidePercent: 50} }

func (s *abtestSettings) Validate() error {
	return errors.Join(config.Between("streaming.abtest.explorePercent", s.ExplorePercent, 0, 100), config.Between("streaming.abtest.widePercent", s.WidePercent, 0, 100))
}

type billingSettings struct {
	FreeWeekend  bool `config:"feature.freeWeekend.enabled"`
	GracePercent int  `config:"streaming.billing.gracePercent"`
}

func billingDefaults() billingSettings { return billingSettings{GracePercent: 2} }

func (s *billingSettings) Validate() error {
	return config.Between("streaming.billing.gracePercent", s.GracePercent, 0, 100)
}

type loadSettings struct {
	RPS   float64       `config:"demo.load.rps"`
	Think time.Duration `config:"demo.load.think"`
}

func loadDefaults() loadSettings { return loadSettings{RPS: 100, Think: 300 * time.Millisecond} }

func (s *loadSettings) Validate() error {
	return errors.Join(config.Between("demo.load.rps", s.RPS, 0, 100_000), config.Between("demo.load.think", s.Think, 0, time.Minute))
}
