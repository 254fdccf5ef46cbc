package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/telemetry/asl"
)

// The picture of traffic is drawn from three meters that every process on the road has: ipc.client.call of callers,
// ipc.server.call of who is called, edge.request.duration of the edge; and members.journey of a population, if any.
const (
	trafficSteps = 2               // live steps that are averaged: 10 seconds
	keptFor      = 5 * time.Minute // a node or connection without traffic keeps its place
	slowCall     = time.Second     // a call that took longer counts as warning
	warnShare    = 0.01            // of errors and of warnings; above it a node or connection is in class warning
	dangerShare  = 0.05            // of errors; above it, danger
	entryNode    = "INTERNET"
)

// Traffic is the picture at one moment, readable by Vizceral: regions, their services, and the calls between them.
type Traffic struct {
	Renderer    string          `json:"renderer"`
	Name        string          `json:"name"`
	MaxVolume   float64         `json:"maxVolume"`
	Updated     int64           `json:"serverUpdateTime"` // the end of the newest step in it, milliseconds
	Nodes       []*Region       `json:"nodes"`
	Connections []*Connection   `json:"connections"`
	Metadata    TrafficMetadata `json:"metadata"`

	home string // the region of what names none
}

// TrafficMetadata is what the picture says beside itself.
type TrafficMetadata struct {
	Window  float64           `json:"window"` // seconds that are averaged
	Members map[string]Member `json:"members,omitempty"`
}

// Member is what members experienced on one journey; "all" is all of them.
type Member struct {
	RPS     float64  `json:"rps"`
	Success float64  `json:"success"` // share, 0 to 1
	Late    float64  `json:"late"`    // share
	P50     *float64 `json:"p50"`     // seconds; null when nobody travelled
	P99     *float64 `json:"p99"`
}

// Region is the services of one region.
type Region struct {
	Renderer    string        `json:"renderer"`
	Name        string        `json:"name"`
	EntryNode   string        `json:"entryNode"`
	Layout      string        `json:"layout"`
	Class       string        `json:"class"`
	Updated     int64         `json:"updated"`
	MaxVolume   float64       `json:"maxVolume"`
	Nodes       []*Node       `json:"nodes"`
	Connections []*Connection `json:"connections"`
}

// Node is a service, or the world outside.
type Node struct {
	Name     string   `json:"name"`
	Renderer string   `json:"renderer"`
	Class    string   `json:"class"`
	Metadata Figures  `json:"metadata"`
	Notices  []Notice `json:"notices,omitempty"`

	buckets     buckets
	volume      volume
	hasOwnCalls bool // the service told of the calls it served; else they are taken from its callers
}

// Connection is the calls of one service to another.
type Connection struct {
	Source   string  `json:"source"`
	Target   string  `json:"target"`
	Metrics  Volumes `json:"metrics"`
	Class    string  `json:"class"`
	Metadata Figures `json:"metadata"`

	buckets buckets
	volume  volume
}

// Volumes are requests per second. Warnings are fallbacks and slow answers, dangers are failures.
type Volumes struct {
	Normal  float64 `json:"normal"`
	Warning float64 `json:"warning"`
	Danger  float64 `json:"danger"`
}

// Figures say how a node or a connection does.
type Figures struct {
	Streaming  int                `json:"streaming"`
	RPS        float64            `json:"rps"`
	ErrorShare float64            `json:"errorShare"` // 0 to 1
	P50        *float64           `json:"p50"`        // seconds; null without calls
	P99        *float64           `json:"p99"`
	Zones      map[string]float64 `json:"zones"` // requests per second by zone: of the caller, of a node its own
}

// Notice is something worth saying about a node.
type Notice struct {
	Title    string `json:"title"`
	Severity int    `json:"severity"` // 0 info, 1 warning, 2 error
}

type buckets [meter.BucketCount]float64

type volume struct{ normal, warning, danger float64 }

func (v volume) total() float64 { return v.normal + v.warning + v.danger }

func (v volume) class() string {
	total := v.total()
	switch {
	case total > 0 && v.danger/total > dangerShare:
		return "danger"
	case total > 0 && (v.danger+v.warning)/total > warnShare:
		return "warning"
	}
	return "normal"
}

// picture remembers the newest picture, which all who look share, and who had traffic lately.
type picture struct {
	mu      sync.Mutex
	current *Traffic
	nodes   map[[2]string]int64 // region and name, to when it had traffic last
	edges   map[[3]string]int64 // region, source, target
	volume  float64             // the greatest seen on one connection
}

func (p *picture) init() {
	p.nodes, p.edges = make(map[[2]string]int64), make(map[[3]string]int64)
}

// traffic answers GET /api/v1/traffic, with at=MILLISECONDS for an earlier moment.
func (s *Store) traffic(w http.ResponseWriter, r *http.Request) error {
	at := r.FormValue("at")
	if at == "" {
		t, err := s.currentTraffic(r.Context(), time.Now())
		if err != nil {
			return err
		}
		return writeBody(w, t)
	}
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil || ms < liveTier.span() {
		return fmt.Errorf("at must be milliseconds since the epoch, got %q", at)
	}
	t, err := s.draw(r.Context(), ms/liveTier.step*liveTier.step)
	if err != nil {
		return err
	}
	t.finish(0)
	return writeBody(w, t)
}

// trafficStream answers GET /api/v1/traffic/stream: an event "traffic" now and at each complete step.
func (s *Store) trafficStream(w http.ResponseWriter, r *http.Request) {
	events := make(chan api.Event)
	ctx, cancel := context.WithCancel(r.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(events)
		s.follow(ctx, func(t *Traffic) bool {
			select {
			case events <- api.Event{ID: strconv.FormatInt(t.Updated, 10), Name: "traffic", Data: t}:
				return true
			case <-ctx.Done():
				return false
			}
		})
	})
	if err := api.Stream(ctx, w, events); err != nil {
		s.log.Debug("traffic stream ended", "error", err)
	}
	cancel()
	wg.Wait()
}

// lookEvery is how often it is checked whether another step is complete.
const lookEvery = 250 * time.Millisecond

// follow calls fn with the picture of each complete step until fn returns false or ctx ends.
func (s *Store) follow(ctx context.Context, fn func(*Traffic) bool) {
	last := int64(0)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if now := time.Now(); s.sources.complete(now) > last {
			t, err := s.currentTraffic(ctx, now)
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("traffic cannot be drawn", "error", err)
				}
				return
			}
			if t.Updated > last {
				last = t.Updated
				if !fn(t) {
					return
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// currentTraffic returns the picture of the newest complete step, drawn once for all who ask.
func (s *Store) currentTraffic(ctx context.Context, now time.Time) (*Traffic, error) {
	p := &s.picture
	p.mu.Lock()
	defer p.mu.Unlock()
	end := s.sources.complete(now)
	if p.current != nil && p.current.Updated >= end {
		return p.current, nil
	}
	t, err := s.draw(ctx, end)
	if err != nil {
		return nil, err
	}
	p.keepPlaces(t)
	t.finish(p.volume)
	for _, r := range t.Nodes {
		p.volume = max(p.volume, r.MaxVolume)
	}
	p.current = t
	return t, nil
}

// keepPlaces adds what had traffic within the last minutes and has none now.
func (p *picture) keepPlaces(t *Traffic) {
	oldest := t.Updated - keptFor.Milliseconds()
	for _, r := range t.Nodes {
		for _, n := range r.Nodes {
			p.nodes[[2]string{r.Name, n.Name}] = t.Updated
		}
		for _, c := range r.Connections {
			p.edges[[3]string{r.Name, c.Source, c.Target}] = t.Updated
		}
	}
	maps.DeleteFunc(p.nodes, func(_ [2]string, seen int64) bool { return seen < oldest })
	maps.DeleteFunc(p.edges, func(_ [3]string, seen int64) bool { return seen < oldest })
	for k := range p.nodes {
		t.region(k[0]).node(k[1])
	}
	for k := range p.edges {
		t.region(k[0]).connection(k[1], k[2])
	}
}

func (t *Traffic) region(name string) *Region {
	if name == "" {
		name = t.home
	}
	for _, r := range t.Nodes {
		if r.Name == name {
			return r
		}
	}
	r := &Region{Renderer: "region", Name: name, EntryNode: entryNode, Layout: "ltrTree", Class: "normal", Updated: t.Updated,
		Nodes: []*Node{}, Connections: []*Connection{}}
	t.Nodes = append(t.Nodes, r)
	return r
}

func (r *Region) node(name string) *Node {
	for _, n := range r.Nodes {
		if n.Name == name {
			return n
		}
	}
	n := &Node{Name: name, Renderer: "focusedChild", Class: "normal", Metadata: Figures{Streaming: 1, Zones: map[string]float64{}}}
	r.Nodes = append(r.Nodes, n)
	return n
}

func (r *Region) connection(source, target string) *Connection {
	for _, c := range r.Connections {
		if c.Source == source && c.Target == target {
			return c
		}
	}
	c := &Connection{Source: source, Target: target, Class: "normal", Metadata: Figures{Streaming: 1, Zones: map[string]float64{}}}
	r.Connections = append(r.Connections, c)
	r.node(source)
	r.node(target)
	return c
}

// pick is the sum over the series of one meter, by keys.
func pick(name, statistic string, by ...string) *asl.Data {
	q, err := asl.ParseQuery("name," + name + ",:eq," + statistic + ",:and")
	if err != nil {
		panic(err) // the program is ours
	}
	return &asl.Data{Query: q, Aggr: asl.Sum, By: by}
}

const (
	countOf   = "statistic,count,:eq"
	bucketsOf = "percentile,:has"
)

// draw draws the picture of the steps that end at end.
func (s *Store) draw(ctx context.Context, end int64) (*Traffic, error) {
	t := &Traffic{Renderer: "global", Updated: end, Nodes: []*Region{}, Connections: []*Connection{},
		Metadata: TrafficMetadata{Window: float64(trafficSteps*liveTier.step) / 1000}, home: "local"}
	if regions := s.index.texts(&asl.Query{Op: asl.True}, "nf.region"); len(regions) > 0 {
		t.home = regions[0]
	}
	w := asl.Window{Start: end - (trafficSteps-1)*liveTier.step, Step: liveTier.step, Points: trafficSteps}
	fetch := s.fetchFrom(liveTier, true)
	each := func(d *asl.Data, fn func(tags map[string]string, rate float64)) error {
		lines, err := fetch(ctx, d, w)
		if err != nil {
			return err
		}
		for _, l := range lines {
			if rate := mean(l.Values); rate > 0 {
				fn(l.Tags, rate)
			}
		}
		return nil
	}
	for _, part := range []func(*Traffic, func(*asl.Data, func(map[string]string, float64)) error) error{drawCalls, drawServers, drawEdge, drawMembers} {
		if err := part(t, each); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// mean is over all steps: a step without a point had no calls.
func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += orZero(v)
	}
	return sum / float64(len(values))
}

type eachLine = func(*asl.Data, func(tags map[string]string, rate float64)) error

// drawCalls draws the connections between services.
func drawCalls(t *Traffic, each eachLine) error {
	err := each(pick("ipc.client.call", countOf, "nf.region", "nf.app", "ipc.vip", "nf.zone", "ipc.result"), func(tags map[string]string, rate float64) {
		c := t.region(tags["nf.region"]).connection(tags["nf.app"], tags["ipc.vip"])
		c.volume.add(tags["ipc.result"], rate)
		c.Metadata.in(tags["nf.zone"], rate)
	})
	if err != nil {
		return err
	}
	return each(pick("ipc.client.call", bucketsOf, "nf.region", "nf.app", "ipc.vip", "ipc.result", "percentile"), func(tags map[string]string, rate float64) {
		c := t.region(tags["nf.region"]).connection(tags["nf.app"], tags["ipc.vip"])
		if i := c.buckets.add(tags["percentile"], rate); i > meter.BucketIndex(int64(slowCall)) && tags["ipc.result"] == "success" {
			c.volume.slow(rate)
		}
	})
}

// drawServers tells how each service does, by what it served itself.
func drawServers(t *Traffic, each eachLine) error {
	err := each(pick("ipc.server.call", countOf, "nf.region", "nf.app", "nf.zone", "ipc.status"), func(tags map[string]string, rate float64) {
		n := t.region(tags["nf.region"]).node(tags["nf.app"])
		n.hasOwnCalls = true
		n.volume.add(ofStatus(tags["ipc.status"]), rate)
		n.Metadata.in(tags["nf.zone"], rate)
	})
	if err != nil {
		return err
	}
	return each(pick("ipc.server.call", bucketsOf, "nf.region", "nf.app", "percentile"), func(tags map[string]string, rate float64) {
		t.region(tags["nf.region"]).node(tags["nf.app"]).buckets.add(tags["percentile"], rate)
	})
}

// drawEdge draws what comes in from outside.
func drawEdge(t *Traffic, each eachLine) error {
	err := each(pick("edge.request.duration", countOf, "nf.region", "nf.app", "nf.zone", "edge.status"), func(tags map[string]string, rate float64) {
		c := t.region(tags["nf.region"]).connection(entryNode, tags["nf.app"])
		c.volume.add(ofStatus(tags["edge.status"]), rate)
		c.Metadata.in(tags["nf.zone"], rate)
	})
	if err != nil {
		return err
	}
	return each(pick("edge.request.duration", bucketsOf, "nf.region", "nf.app", "percentile"), func(tags map[string]string, rate float64) {
		t.region(tags["nf.region"]).connection(entryNode, tags["nf.app"]).buckets.add(tags["percentile"], rate)
	})
}

// ofStatus takes a class of status codes for a result: a client's mistake is not the service's.
func ofStatus(status string) string {
	if strings.HasPrefix(status, "5") {
		return "failure"
	}
	return "success"
}

func drawMembers(t *Traffic, each eachLine) error {
	type journey struct {
		volume, success, late float64
		buckets               buckets
	}
	all := make(map[string]*journey)
	of := func(tags map[string]string) []*journey {
		var out []*journey
		for _, name := range []string{tags["journey"], "all"} {
			if all[name] == nil {
				all[name] = new(journey)
			}
			out = append(out, all[name])
		}
		return out
	}
	err := each(pick("members.journey", countOf, "journey", "result"), func(tags map[string]string, rate float64) {
		for _, j := range of(tags) {
			j.volume += rate
			switch tags["result"] {
			case "success":
				j.success += rate
			case "late":
				j.late += rate
			}
		}
	})
	if err != nil {
		return err
	}
	err = each(pick("members.journey", bucketsOf, "journey", "percentile"), func(tags map[string]string, rate float64) {
		for _, j := range of(tags) {
			j.buckets.add(tags["percentile"], rate)
		}
	})
	if err != nil {
		return err
	}
	for name, j := range all {
		if j.volume == 0 {
			continue
		}
		if t.Metadata.Members == nil {
			t.Metadata.Members = make(map[string]Member)
		}
		t.Metadata.Members[name] = Member{RPS: round(j.volume), Success: round(j.success / j.volume), Late: round(j.late / j.volume),
			P50: j.buckets.seconds(50), P99: j.buckets.seconds(99)}
	}
	return nil
}

func (v *volume) add(result string, rate float64) {
	switch result {
	case "failure":
		v.danger += rate
	case "fallback":
		v.warning += rate
	default:
		v.normal += rate
	}
}

// slow moves calls that were counted as normal.
func (v *volume) slow(rate float64) {
	rate = min(rate, v.normal)
	v.normal -= rate
	v.warning += rate
}

// add counts rate into a bucket such as T0056 and returns its index, -1 if that is none.
func (b *buckets) add(name string, rate float64) int {
	if len(name) != 5 || name[0] != 'T' {
		return -1
	}
	i, err := strconv.ParseUint(name[1:], 16, 16)
	if err != nil || i >= meter.BucketCount {
		return -1
	}
	b[i] += rate
	return int(i)
}

func (b *buckets) merge(other *buckets) {
	for i, v := range other {
		b[i] += v
	}
}

// seconds returns a percentile, nil without calls.
func (b *buckets) seconds(p float64) *float64 {
	v := meter.Percentile((*[meter.BucketCount]float64)(b), p) * 1e-9
	if math.IsNaN(v) {
		return nil
	}
	v = math.Round(v*1e6) / 1e6
	return &v
}

// round keeps what anybody looks at.
func round(v float64) float64 { return math.Round(v*1e4) / 1e4 }

// in counts rate in a zone, if the publisher says where it is.
func (f *Figures) in(zone string, rate float64) {
	if zone != "" {
		f.Zones[zone] += rate
	}
}

func (f *Figures) fill(v volume, b *buckets) {
	f.RPS = round(v.total())
	if total := v.total(); total > 0 {
		f.ErrorShare = round(v.danger / total)
	}
	f.P50, f.P99 = b.seconds(50), b.seconds(99)
	for z, rate := range f.Zones {
		f.Zones[z] = round(rate)
	}
}

// finish computes what follows from the volumes: figures, classes, notices, order. volume is the greatest seen before.
func (t *Traffic) finish(volume float64) {
	greatest := volume
	for _, r := range t.Nodes {
		for _, c := range r.Connections {
			if target := r.node(c.Target); !target.hasOwnCalls {
				target.volume.normal += c.volume.normal
				target.volume.warning += c.volume.warning
				target.volume.danger += c.volume.danger
				target.buckets.merge(&c.buckets)
				for z, rate := range c.Metadata.Zones {
					target.Metadata.Zones[z] += rate
				}
			}
			r.MaxVolume = max(r.MaxVolume, c.volume.total())
		}
		for _, c := range r.Connections {
			c.Metrics = Volumes{round(c.volume.normal), round(c.volume.warning), round(c.volume.danger)}
			c.Class = c.volume.class()
			c.Metadata.fill(c.volume, &c.buckets)
		}
		for _, n := range r.Nodes {
			n.Class = n.volume.class()
			n.Metadata.fill(n.volume, &n.buckets)
			if share := n.Metadata.ErrorShare; share > warnShare {
				severity := 1
				if n.Class == "danger" {
					severity = 2
				}
				n.Notices = []Notice{{Title: fmt.Sprintf("error share %.3g %%", share*100), Severity: severity}}
			}
			r.Class = worse(r.Class, n.Class)
		}
		slices.SortFunc(r.Nodes, func(a, b *Node) int { return cmp.Compare(a.Name, b.Name) })
		slices.SortFunc(r.Connections, func(a, b *Connection) int {
			return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Target, b.Target))
		})
		r.MaxVolume = round(r.MaxVolume)
		greatest = max(greatest, r.MaxVolume)
	}
	slices.SortFunc(t.Nodes, func(a, b *Region) int { return cmp.Compare(a.Name, b.Name) })
	t.Name = t.home
	if len(t.Nodes) > 0 {
		t.Name = t.Nodes[0].Name
	}
	t.MaxVolume = round(greatest * 1.5)
}

func worse(a, b string) string {
	order := []string{"normal", "warning", "danger"}
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}
