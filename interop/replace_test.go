package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/roadbed/roadbed/platform/registry"
)

// crowd is instances that renew, change, go and come back, each at one server as long as that answers, as Eureka's
// clients do.
type crowd struct {
	all    []*churner
	sticky []int // per instance: which of the servers it speaks to
	dice   *rand.Rand

	mu           sync.Mutex
	servers      []string
	failed       []string // operations that no server carried out
	operations   int
	failovers    int
	unrecognised int  // renewals of what a server did not know
	calm         bool // all renew, and nobody does anything else
}

func newCrowd(servers []string) *crowd {
	c := &crowd{dice: rand.New(rand.NewPCG(5, 6)), servers: servers}
	for i := range 40 {
		c.all = append(c.all, &churner{app: "STABLE", id: fmt.Sprintf("stable-%d", i), zone: "a", status: "UP"})
	}
	for i := range 10 {
		c.all = append(c.all, &churner{app: "HELD", id: fmt.Sprintf("held-%d", i), zone: "b", status: "UP"})
	}
	c.all = append(c.all, newChurners(150, 12)...)
	for range c.all {
		c.sticky = append(c.sticky, c.dice.IntN(len(servers)))
	}
	return c
}

func (c *crowd) use(servers []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = servers
}

// ask sends the i-th instance's request to its server or, if that fails, to the next.
func (c *crowd) ask(ctx context.Context, i int, method, path, body string) int {
	c.mu.Lock()
	servers := c.servers
	c.operations++
	c.mu.Unlock()
	var why []string
	for range servers {
		base := servers[c.sticky[i]%len(servers)]
		tried, cancel := context.WithTimeout(ctx, 5*time.Second)
		status, err := ask(tried, method, base+"apps/"+path, body)
		cancel()
		if err == nil && status < 500 && status != http.StatusForbidden {
			return status
		}
		if ctx.Err() != nil {
			return 0
		}
		why = append(why, fmt.Sprint(base, " ", status, " ", err))
		c.mu.Lock()
		c.failovers++
		c.mu.Unlock()
		c.sticky[i]++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = append(c.failed, method+" "+path+": "+strings.Join(why, "; "))
	return 0
}

func (c *crowd) register(ctx context.Context, i int) {
	x := c.all[i]
	x.here, x.dirty = true, max(x.dirty+1, time.Now().UnixMilli())
	if status := c.ask(ctx, i, http.MethodPost, x.app, x.body()); status != http.StatusNoContent && ctx.Err() == nil {
		c.mu.Lock()
		c.failed = append(c.failed, fmt.Sprintf("registering %s: status %d", x.id, status))
		c.mu.Unlock()
	}
}

// rest lets the instances do nothing but renew from now on. A server that was told late that one is cancelled, which had
// come back meanwhile, learns of it so: in Eureka's protocol the end of an instance bears no date.
func (c *crowd) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calm = true
}

// run lets one instance after another do something until ctx ends.
func (c *crowd) run(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		i := n % len(c.all)
		x := c.all[i]
		c.mu.Lock()
		calm := c.calm
		c.mu.Unlock()
		path, churns := x.app+"/"+x.id, strings.HasPrefix(x.app, "CHURN") && !calm
		switch roll := c.dice.IntN(20); {
		case !x.here && calm:
		case !x.here:
			x.status = []string{"UP", "UP", "STARTING", "DOWN"}[c.dice.IntN(4)]
			c.register(ctx, i)
		case roll < 2 && !calm:
			x.n++
			c.register(ctx, i)
		case roll < 4 && churns:
			x.status = []string{"UP", "STARTING", "DOWN"}[c.dice.IntN(3)]
			c.register(ctx, i)
		case roll < 5 && churns:
			x.here = false
			c.ask(ctx, i, http.MethodDelete, path, "")
		default:
			if c.ask(ctx, i, http.MethodPut, path+"?lastDirtyTimestamp="+fmt.Sprint(x.dirty), "") == http.StatusNotFound {
				c.mu.Lock()
				c.unrecognised++
				c.mu.Unlock()
				c.register(ctx, i)
			}
		}
	}
}

// truth is what every server should have of the crowd when all have heard everything.
func (c *crowd) truth() []string {
	var out []string
	for _, x := range c.all {
		status := x.status
		if x.app == "HELD" {
			status = "OUT_OF_SERVICE"
		}
		if x.here {
			out = append(out, fmt.Sprintf("%s/%s/%s/%d", x.app, x.id, status, x.n))
		}
	}
	slices.Sort(out)
	return out
}

// of reads what a server has of the crowd.
func (c *crowd) of(base string) func() []string {
	return func() []string {
		list, err := instances(base, "")
		if err != nil {
			return []string{err.Error()}
		}
		return named(slices.DeleteFunc(list, func(i wireInstance) bool { return i.App == "EUREKA" || i.App == "JVM" }), true)
	}
}

// witness reads one server again and again, and notes when its list lacks an instance that never went, or shows one in
// traffic that an operator took out.
func witness(ctx context.Context, base string) (looked int, wrong []string) {
	for ; ctx.Err() == nil; time.Sleep(150 * time.Millisecond) {
		list, err := instances(base, "")
		if err != nil {
			continue // not open yet, or replaced
		}
		looked++
		have := map[string]int{}
		for _, i := range list {
			have[i.App+" "+i.Status]++
		}
		if have["STABLE UP"] != 40 || have["HELD OUT_OF_SERVICE"] != 10 {
			wrong = append(wrong, fmt.Sprintf("%s at %s: %v", base, time.Now().Format("15:04:05.000"), have))
		}
	}
	return looked, wrong
}

// TestAStockClusterIsReplacedUnderTraffic replaces three stock Eureka servers by three of ours, one by one, while 200
// instances come and go and five of Netflix's own clients look others up.
func TestAStockClusterIsReplacedUnderTraffic(t *testing.T) {
	t.Parallel()
	var stockBases, ourBases, ourAddrs []string
	var stockAddrs [3]string
	for i := range 3 {
		stockAddrs[i] = freeAddr(t, fmt.Sprintf("127.0.1.%d", i+2))
		stockBases = append(stockBases, baseAt(stockAddrs[i]))
		ourAddrs = append(ourAddrs, freeAddr(t, fmt.Sprintf("127.0.2.%d", i+2)))
		ourBases = append(ourBases, baseAt(ourAddrs[i]))
	}
	var stock [3]*spring
	for i := range stock {
		stock[i] = newSpring(t, stockAddrs[i], stockBases, append([]string{
			"--management.endpoint.env.post.enabled=true", "--management.endpoints.web.exposure.include=env",
		}, quick...)...)
	}
	for _, s := range stock {
		s.ready()
		within(t, time.Minute, s.base+" knows all three", func() []string { return statuses(s.base, "EUREKA") }, "UP", "UP", "UP")
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := newCrowd(stockBases)
	for i := range c.all {
		c.register(ctx, i)
	}
	for _, b := range stockBases {
		within(t, time.Minute, b+" knows everybody", c.of(b), named(crowdAsRegistered(c), true)...)
	}
	for _, x := range c.all {
		if x.app == "HELD" {
			if err := send(ctx, http.MethodPut, x.path(stockBases[0])+"/status?value=OUT_OF_SERVICE", "", http.StatusOK); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, b := range stockBases {
		within(t, time.Minute, b+" knows the overrides", c.of(b), c.truth()...)
	}
	jvm := start(t, "java/run", append([]string{"netflix", "Discovery", strings.Join(stockBases, ",")}, slices.Repeat([]string{"LegacyJacksonJson"}, 5)...)...)
	jvm.await("ready")
	jvm.order("watch stable.test UP 40", "watch")
	jvm.order("watch held.test OUT_OF_SERVICE 10", "watch")

	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { c.run(ctx) })
	var mu sync.Mutex
	looked, wrong := 0, []string(nil)
	watching := make(map[string]context.CancelFunc)
	watch := func(base string) {
		ctx, cancel := context.WithCancel(ctx)
		watching[base] = cancel
		wg.Go(func() {
			n, w := witness(ctx, base)
			mu.Lock()
			defer mu.Unlock()
			looked += n
			wrong = append(wrong, w...)
		})
	}
	for _, b := range stockBases {
		watch(b)
	}
	live := slices.Clone(stockBases)
	everywhere := slices.Concat(stockBases, ourBases)
	move := func(servers ...string) {
		live = servers
		c.use(servers)
		jvm.order("servers "+strings.Join(servers, " "), "servers")
	}
	pause := func() { time.Sleep(4 * time.Second) } // what is done is lived with for a while

	pause()
	began := time.Now()
	for i := range stock {
		watch(ourBases[i])
		node := newNode(t, ourAddrs[i], "", registry.Settings{Peers: map[string][]string{"default": everywhere}, MyURL: ourBases[i], LeaseExpiryMultiplier: 2})
		eventually(t, "the new node opens", func() []string {
			status, err := ask(ctx, http.MethodGet, node.base()+"apps/", "")
			return []string{fmt.Sprint(status, err)}
		}, "200 <nil>")
		for j := i; j < len(stock); j++ {
			tellPeers(t, stock[j], everywhere)
		}
		pause()
		rest := slices.DeleteFunc(slices.Clone(live), func(b string) bool { return b == stockBases[i] })
		watching[stockBases[i]]()
		if i == 1 { // one dies, and the clients notice by themselves
			stock[i].kill()
			pause()
			move(append(rest, ourBases[i])...)
		} else { // the others are taken out of use, and then stopped
			move(append([]string{ourBases[i]}, rest...)...)
			pause()
			stock[i].cmd.Process.Signal(syscall.SIGTERM) //nolint:errcheck // that it ends is waited for
			<-stock[i].done
		}
		pause()
	}
	t.Logf("the cluster was replaced in %v", time.Since(began).Round(time.Second))
	c.rest()
	pause() // so that the last operation is carried out
	for i, b := range ourBases {
		within(t, time.Minute, fmt.Sprintf("new node %d knows what the instances last said", i), c.of(b), c.truth()...)
	}
	lookups := jvm.order("lookups", "lookups")
	if lookups[1] != "0" {
		t.Errorf("look-ups of %s that failed: got %s, want none:\n%s", lookups[0], lookups[1], strings.Join(lookups[2:], "\n"))
	}
	for _, b := range ourBases {
		watching[b]()
	}
	for _, x := range c.all {
		if x.app == "HELD" {
			if err := send(ctx, http.MethodDelete, x.path(ourBases[2])+"/status?value=UP", "", http.StatusOK); err != nil {
				t.Errorf("delete an override: %v", err)
			}
		}
	}
	for _, b := range ourBases {
		eventually(t, "overrides end everywhere", func() []string { return slices.Compact(statuses(b, "HELD")) }, "UP")
	}
	cancel()
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%d operations of instances, %d of them at another server than the first tried; %d renewals of what the server did not know; %s look-ups; %d lists read by witnesses",
		c.operations, c.failovers, c.unrecognised, lookups[0], looked)
	for _, f := range c.failed {
		t.Errorf("an instance was refused everywhere: %s", f)
	}
	if len(wrong) > 0 {
		t.Errorf("%d lists that lacked something, the first: %s", len(wrong), strings.Join(wrong[:min(5, len(wrong))], "\n"))
	}
}

// crowdAsRegistered is the crowd before any override.
func crowdAsRegistered(c *crowd) []wireInstance {
	var out []wireInstance
	for _, x := range c.all {
		out = append(out, wireInstance{App: x.app, InstanceID: x.id, Status: x.status, Metadata: map[string]string{"n": fmt.Sprint(x.n)}})
	}
	return out
}

// tellPeers gives a stock server another list of peers, as its operators can while it runs.
func tellPeers(t *testing.T, s *spring, peers []string) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"name": "eureka.client.serviceUrl.defaultZone", "value": strings.Join(peers, ",")})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(strings.TrimSuffix(s.base, "eureka/")+"actuator/env", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("telling %s its peers: status %d", s.base, resp.StatusCode)
	}
}
