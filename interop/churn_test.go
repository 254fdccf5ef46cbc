package interop

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"
)

// churner is one of many instances that come and go, each known to the registry by what it sends itself.
type churner struct {
	app, id string
	zone    string
	n       int   // how often it changed; its metadata tell it
	dirty   int64 // ms since 1970
	here    bool  // whether it is registered
	status  string
	lease   int // seconds without renewal; 0 means 90
}

func (c *churner) body() string {
	return fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":%q,"app":%q,"ipAddr":"127.0.0.1","status":%q,`+
		`"port":{"$":8080,"@enabled":"true"},"securePort":{"$":8443,"@enabled":"false"},"countryId":1,`+
		`"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},`+
		`"leaseInfo":{"renewalIntervalInSecs":10,"durationInSecs":%d},"vipAddress":"%s.test","metadata":{"n":"%d","zone":%q},"lastDirtyTimestamp":"%d"}}`,
		c.id, c.id, c.app, c.status, cmp.Or(c.lease, 90), strings.ToLower(c.app), c.n, c.zone, c.dirty)
}

// ask sends one request of Eureka's API and returns the status that came back.
func ask(ctx context.Context, method, url, body string) (int, error) {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, url, in)
	if err != nil {
		return 0, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, resp.Body) //nolint:errcheck // only to keep the connection
	return resp.StatusCode, nil
}

// readAll reads an answer to its end.
func readAll(resp *http.Response) (string, error) {
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// send sends a request of Eureka's API that must be answered with one of the statuses want.
func send(ctx context.Context, method, url, body string, want ...int) error {
	got, err := ask(ctx, method, url, body)
	if err != nil {
		return err
	}
	for _, w := range want {
		if got == w {
			return nil
		}
	}
	return fmt.Errorf("%s %s: status %d, want one of %v", method, url, got, want)
}

func (c *churner) register(ctx context.Context, base string) error {
	c.here = true
	c.dirty = max(c.dirty+1, time.Now().UnixMilli())
	return send(ctx, http.MethodPost, base+"apps/"+c.app, c.body(), http.StatusNoContent)
}

func (c *churner) path(base string) string { return base + "apps/" + c.app + "/" + c.id }

func newChurners(n, apps int) []*churner {
	list := make([]*churner, n)
	for i := range list {
		list[i] = &churner{app: fmt.Sprintf("CHURN%d", i%apps), id: fmt.Sprintf("churn-%d", i), zone: "abc"[i%3 : i%3+1], status: "UP"}
	}
	return list
}

// TestDiscoveryClientNeverMismatchesUnderChurn runs Netflix's own client, once per way it can read JSON, against a registry
// whose instances come, change and go all the time. Each delta carries a hash by which the client checks itself; one
// that does not match makes it count a mismatch and fetch everything again.
func TestDiscoveryClientNeverMismatchesUnderChurn(t *testing.T) {
	t.Parallel()
	needJava(t)
	lasts := time.Minute
	if *soak {
		lasts = 10 * time.Minute
	}
	s := newServer(t)
	door := newDoor(t, s)
	ctx := t.Context()
	all := newChurners(300, 20)
	for _, c := range all[:200] {
		if err := c.register(ctx, s.base()); err != nil {
			t.Fatal(err)
		}
	}
	decoders := []string{"LegacyJacksonJson", "JacksonJson"}
	jvm := start(t, "java/run", append([]string{"netflix", "Discovery", door.base}, decoders...)...)
	jvm.await("ready")
	whole := func() int { return door.count("GET", "apps/") + door.count("GET", "apps") }
	if got := whole(); got != len(decoders) {
		t.Errorf("full lists fetched as %d clients started: got %d, want one each", len(decoders), got)
	}

	began, changes := time.Now(), 0
	dice := rand.New(rand.NewPCG(1, 2))
	for ; time.Since(began) < lasts; time.Sleep(10 * time.Millisecond) {
		c := all[dice.IntN(len(all))]
		var err error
		switch roll := dice.IntN(10); {
		case !c.here:
			c.status = []string{"UP", "UP", "STARTING", "DOWN", "OUT_OF_SERVICE"}[dice.IntN(5)]
			err = c.register(ctx, s.base())
		case roll < 4:
			c.n++
			err = c.register(ctx, s.base())
		case roll < 6:
			c.status = []string{"UP", "STARTING", "DOWN"}[dice.IntN(3)]
			err = c.register(ctx, s.base())
		case roll < 7:
			err = send(ctx, http.MethodPut, c.path(s.base())+"/status?value=OUT_OF_SERVICE", "", http.StatusOK)
		case roll < 8:
			err = send(ctx, http.MethodDelete, c.path(s.base())+"/status?value=UP", "", http.StatusOK)
		case roll < 9:
			c.here = false
			err = send(ctx, http.MethodDelete, c.path(s.base()), "", http.StatusOK)
		default:
			err = send(ctx, http.MethodPut, c.path(s.base()), "", http.StatusOK, http.StatusNotFound)
		}
		if err != nil {
			t.Fatal(err)
		}
		if changes++; changes%500 == 0 { // one client changes its own status too
			jvm.order("status 0 "+[]string{"UP", "DOWN"}[changes/500%2], "status")
		}
	}
	jvm.order("status 0 UP", "status")

	eventually(t, "the first client's own status is the last it set", func() []string { return held(t, s.base(), "JVM")[:1] }, "JVM/jvm-0/UP")
	list, err := instances(s.base(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := named(list, true)
	for i, how := range decoders {
		eventually(t, how+" knows what the registry knows", func() []string { return jvm.order(fmt.Sprint("known ", i), "known") }, want...)
	}
	deltas := door.count("GET", "apps/delta")
	t.Logf("%d changes in %v, %d deltas read by %d clients", changes, lasts, deltas, len(decoders))
	if least := int(lasts.Seconds()) * len(decoders) / 2; deltas < least {
		t.Errorf("deltas read: got %d, want at least %d", deltas, least)
	}
	if got := jvm.order("mismatches", "mismatches")[0]; got != "0" {
		t.Errorf("reconcile mismatches counted by the clients: got %s, want 0", got)
	}
	if got := whole(); got != len(decoders) {
		t.Errorf("full lists fetched in all: got %d, want %d", got, len(decoders))
	}
	if got := jvm.order("vip 0 jvm.test", "vip"); len(got) != len(decoders) {
		t.Errorf("by VIP the client finds %q, want %d instances", got, len(decoders))
	}

	door.lie.Store(true) // the counter counts
	eventually(t, "a delta whose hash is wrong is found out", func() []string {
		return []string{fmt.Sprint(jvm.order("mismatches", "mismatches")[0] != "0")}
	}, "true")
	door.lie.Store(false)
	jvm.order("stop", "stop")
	eventually(t, "all have said farewell", func() []string { return held(t, s.base(), "JVM") })
}
