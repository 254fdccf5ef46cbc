package interop

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// forms are the four in which a registry shows a document, by how they are asked for.
var forms = []struct{ name, accept, compact string }{
	{"jsonFull", "application/json", ""}, {"jsonCompact", "application/json", "compact"},
	{"xmlFull", "application/xml", ""}, {"xmlCompact", "application/xml", "compact"},
}

// codecs is the JVM's side of the comparison. It answers one JSON object to each.
type codecs struct {
	t      *testing.T
	in     io.Writer
	out    *bufio.Reader
	stderr *lockedBuffer
}

func newCodecs(t *testing.T) *codecs {
	needJava(t)
	cmd := exec.Command("java/run", "netflix", "Codec")
	cmd.Env = append(os.Environ(), "JAVA_OPTS=-Xmx1g -XX:+UseSerialGC") // all it compares is in memory, and it runs for long
	c := &codecs{t: t, stderr: new(lockedBuffer)}
	cmd.Stderr = c.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() }) //nolint:errcheck // it may have ended
	c.in, c.out = in, bufio.NewReaderSize(out, 1<<20)
	return c
}

func (c *codecs) ask(order, answer any) {
	c.t.Helper()
	raw, err := json.Marshal(order)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.in.Write(append(raw, '\n')); err != nil {
		c.t.Fatalf("the codecs ended: %v\n%s", err, c.stderr)
	}
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		c.t.Fatalf("the codecs ended: %v\n%s", err, c.stderr)
	}
	if err := json.Unmarshal(line, answer); err != nil {
		c.t.Fatal(err)
	}
}

type verdict struct {
	Checks int
	Faults []string
}

// TestDocumentsAreThoseOfTheJVMsCodecs registers 10,000 generated instances as Netflix's encoders write them, and
// holds what the registry then shows against what those encoders make of the same instances: full JSON byte by byte,
// and every form by what each of Netflix's decoders reads in it.
func TestDocumentsAreThoseOfTheJVMsCodecs(t *testing.T) {
	const instances, batch = 10_000, 250
	c := newCodecs(t)
	s := newServer(t)
	h := s.reg.Handler()
	serve := func(method, path, body, contentType string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	path := func(names ...string) string {
		p := "/eureka/apps"
		for _, n := range names {
			p += "/" + url.PathEscape(n)
		}
		return p
	}
	show := func(path string) map[string]string {
		t.Helper()
		doc := make(map[string]string, len(forms))
		for _, f := range forms {
			w := serve(http.MethodGet, path, "", "", "Accept", f.accept, "X-Eureka-Accept", f.compact)
			if w.Code != http.StatusOK {
				t.Fatalf("GET %s as %s: status %d", path, f.name, w.Code)
			}
			doc[f.name] = w.Body.String()
		}
		return doc
	}

	began, checks, faults := time.Now(), 0, 0
	report := func(v verdict) {
		checks += v.Checks
		for _, f := range v.Faults {
			if faults++; faults <= 20 {
				t.Error(f)
			}
		}
	}
	for from := 0; from < instances; from += batch {
		var made struct {
			Registrations []struct {
				Body, Type, App, ID string
				OnlyJSON            bool
			}
		}
		c.ask(map[string]any{"do": "generate", "from": from, "to": from + batch}, &made)
		var documents []map[string]string
		before := time.Now().UnixMilli()
		for _, r := range made.Registrations {
			if w := serve(http.MethodPost, path(r.App), r.Body, r.Type); w.Code != http.StatusNoContent {
				t.Fatalf("registering %s: status %d %s, want 204", r.Body, w.Code, w.Body)
			}
		}
		last := made.Registrations[len(made.Registrations)-1]
		eventually(t, "the last can be read", func() []string {
			return []string{fmt.Sprint(serve(http.MethodGet, path(last.App, last.ID), "", "").Code)}
		}, "200")
		for _, r := range made.Registrations {
			doc := show(path(r.App, r.ID))
			serverTimes(t, doc["jsonFull"], before)
			documents = append(documents, doc)
			if r.OnlyJSON {
				if w := serve(http.MethodDelete, path(r.App, r.ID), "", ""); w.Code != http.StatusOK {
					t.Fatalf("cancelling %s: status %d", r.ID, w.Code)
				}
			}
		}
		var v verdict
		c.ask(map[string]any{"do": "judge", "from": from, "documents": documents}, &v)
		report(v)
	}
	all := show("/eureka/apps/")
	order := map[string]any{"do": "judgeAll"}
	for name, doc := range all {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
		order[name] = file
	}
	var v verdict
	c.ask(order, &v)
	report(v)
	t.Logf("%d checks of %d instances in %v, the last on one document of the %d that XML can show too",
		checks, instances, time.Since(began).Round(time.Second), strings.Count(all["jsonFull"], `"hostName":`))
	if faults > 0 {
		t.Errorf("%d faults in all", faults)
	}
	if least := instances * 8; checks < least {
		t.Errorf("checks: got %d, want at least %d", checks, least)
	}
}

// serverTimes checks what only the server can know of an instance that registered just now.
func serverTimes(t *testing.T, jsonFull string, before int64) {
	t.Helper()
	var doc struct {
		Instance struct {
			LeaseInfo struct {
				RegistrationTimestamp, LastRenewalTimestamp, EvictionTimestamp, ServiceUpTimestamp int64
			}
			Status               string
			LastUpdatedTimestamp int64 `json:",string"`
		}
	}
	if err := json.Unmarshal([]byte(jsonFull), &doc); err != nil {
		t.Fatal(err)
	}
	now := func(ms int64) bool { return ms >= before-1 && ms <= time.Now().UnixMilli()+1 }
	i, l := doc.Instance, doc.Instance.LeaseInfo
	up := now(l.ServiceUpTimestamp)
	if i.Status != "UP" {
		up = l.ServiceUpTimestamp == 0
	}
	if !now(l.RegistrationTimestamp) || !now(l.LastRenewalTimestamp) || !now(i.LastUpdatedTimestamp) || l.EvictionTimestamp != 0 || !up {
		t.Errorf("the server's own times: got %+v, want those of now, no eviction, and service since now if UP", fmt.Sprintf("%+v", i))
	}
}
