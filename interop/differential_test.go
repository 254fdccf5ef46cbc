package interop

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// step is one request that a stock server and ours are both sent.
type step struct {
	method, path, body string // path below apps/
	replicated         bool
}

func (s step) String() string {
	text := s.method + " " + s.path
	if s.replicated {
		text += " (from a peer)"
	}
	return text + " " + s.body
}

// send sends the step to the Eureka API at base. What comes back is the status and, where clients read it, the body.
func (s step) send(t *testing.T, base string) string {
	t.Helper()
	req, err := http.NewRequest(s.method, base+"apps/"+s.path, strings.NewReader(s.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	if s.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if s.replicated {
		req.Header.Set("x-netflix-discovery-replication", "true")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer := fmt.Sprint(resp.StatusCode)
	if resp.StatusCode == http.StatusConflict {
		answer += " " + visible(t, body)
	}
	return answer
}

// visible is what clients see of an instance, less what two servers cannot have in common: their own times. Left out
// as well is in what ours differs on purpose: an instance that is known and registers again is MODIFIED, not ADDED, and
// one that is UP has been in service since some time, also if the end of an override made it so.
func visible(t *testing.T, body []byte) string {
	t.Helper()
	var doc struct{ Instance map[string]any }
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	i := doc.Instance
	delete(i, "lastUpdatedTimestamp")
	delete(i, "actionType")
	lease, ok := i["leaseInfo"].(map[string]any)
	if !ok {
		t.Fatalf("%s: no leaseInfo", body)
	}
	delete(lease, "registrationTimestamp")
	delete(lease, "lastRenewalTimestamp")
	delete(lease, "serviceUpTimestamp")
	out, err := json.Marshal(i) // with sorted members
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestOursDoesWhatAStockServerDoes sends the same random operations to a stock Eureka server and to ours in Eureka's
// mode. After each, the answers and what can be seen of every instance are the same. Not among them is what ours does
// otherwise on purpose: a stock server takes an override of one app's instance for that of every app's instance with that
// id; it leaves a client UNKNOWN for ever that comes back, after its override was cleared, with a record older than the
// operator's; and it brings an instance back that was cancelled when a peer tells old news of it.
func TestOursDoesWhatAStockServerDoes(t *testing.T) {
	t.Parallel()
	steps, seed := 600, uint64(time.Now().UnixNano())
	if *soak {
		steps = 10_000
	}
	stock := newSpring(t, freeAddr(t, "127.0.0.1"), nil, quick...)
	ours := newServer(t)
	stock.ready()
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 1))
	pick := func(of ...string) string { return of[dice.IntN(len(of))] }
	apps := map[string][]string{"A": {"a-1", "a-2", "a 3:x"}, "B": {"b-1", "b-2"}}
	clock := time.Now().UnixMilli() - int64(steps)*10 // of the clients; it rises
	dirty := func() string {                          // the newest there is, or one from before
		switch dice.IntN(4) {
		case 0:
			return fmt.Sprint(clock - 5)
		case 1:
			return fmt.Sprint(clock)
		}
		clock += 10
		return fmt.Sprint(clock)
	}
	gone := make(map[string]bool) // cancelled; peers tell nothing of these
	var log []step
	status := func() string { return pick("UP", "UP", "UP", "DOWN", "STARTING", "OUT_OF_SERVICE", "UNKNOWN") }
	for n := range steps {
		app := pick("A", "B")
		id := pick(apps[app]...)
		path := app + "/" + url.PathEscape(id)
		s := step{replicated: dice.IntN(4) == 0 && !gone[id]}
		switch dice.IntN(10) {
		case 0, 1, 2:
			override := ""
			if dice.IntN(4) == 0 {
				override = fmt.Sprintf(`"overriddenStatus":%q,`, status())
			}
			s.method, s.path = http.MethodPost, app
			version := dirty()
			if !s.replicated { // never an old record
				clock += 10
				version = fmt.Sprint(clock)
			}
			s.body = fmt.Sprintf(`{"instance":{"instanceId":%q,"hostName":"h","app":%q,"ipAddr":"127.0.0.1","status":%q,%s"port":{"$":%d,"@enabled":"true"},`+
				`"securePort":{"$":8443,"@enabled":"false"},"countryId":1,"dataCenterInfo":{"@class":"com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo","name":"MyOwn"},`+
				`"leaseInfo":{"renewalIntervalInSecs":30,"durationInSecs":600},"metadata":{"n":"%d"},"vipAddress":"v","lastDirtyTimestamp":"%s"}}`,
				id, app, status(), override, 8000+dice.IntN(3), dice.IntN(3), version)
			delete(gone, id)
		case 3, 4, 5:
			s.method, s.path = http.MethodPut, path
			if dice.IntN(3) > 0 {
				s.path += "?status=UP&lastDirtyTimestamp=" + dirty()
				if s.replicated && dice.IntN(2) == 0 {
					s.path += "&overriddenstatus=" + pick("OUT_OF_SERVICE", "DOWN", "UNKNOWN")
				}
			}
		case 6:
			s.method, s.path = http.MethodDelete, path
			gone[id] = true
		case 7:
			s.method, s.path = http.MethodPut, path+"/status?value="+pick("OUT_OF_SERVICE", "UP", "DOWN", "STARTING")+"&lastDirtyTimestamp="+dirty()
		case 8:
			s.method, s.path = http.MethodDelete, path+"/status?lastDirtyTimestamp="+dirty()
			if dice.IntN(2) == 0 {
				s.path += "&value=" + pick("UP", "DOWN", "UNKNOWN")
			}
		case 9:
			s.method, s.path = http.MethodPut, path+"/metadata?n="+fmt.Sprint(dice.IntN(9))+"&x=y"
		}
		log = append(log, s)
		theirs, mine := s.send(t, stock.base), s.send(t, ours.base())
		seen := map[string][2]string{"the answer": {theirs, mine}}
		for app, ids := range apps {
			for _, id := range ids {
				get := "apps/" + app + "/" + url.PathEscape(id)
				seen[get] = [2]string{look(t, stock.base+get), look(t, ours.base()+get)}
			}
		}
		failed := false
		for _, what := range slices.Sorted(maps.Keys(seen)) {
			if is := seen[what]; is[0] != is[1] {
				t.Errorf("after step %d, %s: %s is\n\t%s at a stock server,\n\t%s at ours", n, s, what, is[0], is[1])
				failed = true
			}
		}
		if failed {
			for _, s := range log {
				if strings.Contains(s.path, url.PathEscape(id)) || strings.Contains(s.body, fmt.Sprintf("%q", id)) {
					t.Logf("\t%s", s)
				}
			}
			return
		}
	}
}

// look reads an instance as clients see it.
func look(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Sprint(resp.StatusCode)
	}
	return visible(t, body)
}
