package interop

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/roadbed/roadbed/config"
)

// fetchJSON reads a document that must be there.
func fetchJSON(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: status %d", url, resp.StatusCode)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
}

func TestSpringCloudConfigReadsAndRefreshes(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	prod := config.Scope{App: "bootapp", Env: "prod"}
	s.set("timeout", "1000", config.Scope{})
	s.set("timeout", "900", config.Scope{App: "bootapp"})
	own := s.set("timeout", "800", prod)
	s.set("timeout", "700", config.Scope{App: "bootapp", Env: "prod", Region: "eu", Stack: "main"})
	s.set("timeout", "1", config.Scope{App: "other"})
	s.set("composed", "${timeout} ms", prod)
	for k, v := range words {
		s.set("word."+strings.ReplaceAll(k, " ", "-"), v, prod)
	}
	for label, want := range map[string]string{"": "800", "main:eu:": "700"} {
		args := []string{
			"--eureka.client.enabled=false", "--spring.profiles.active=test,prod", "--spring.config.import=configserver:" + s.url + "/config/spring",
		}
		if label != "" {
			args = append(args, "--spring.cloud.config.label="+label)
		}
		app := newApp(t, args...)
		read := func(name string) func() []string {
			return func() []string { return []string{app.get("/property?name=" + name)} }
		}
		eventually(t, "label "+label+": the most specific wins", read("timeout"), want)
		eventually(t, "placeholders are the client's to replace", read("composed"), want+" ms")
		if label != "" {
			continue
		}
		for k, v := range words {
			if !strings.ContainsAny(k, " ö") {
				eventually(t, "the value of "+k, read("word."+k), v)
			}
		}
		s.set("timeout", "750", prod)
		app.post("/actuator/refresh")
		eventually(t, "a change arrives with a refresh", read("timeout"), "750")
		s.delete(own)
		app.post("/actuator/refresh")
		eventually(t, "what is deleted falls back to the app's", read("timeout"), "900")
	}
}
