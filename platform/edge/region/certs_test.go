package region

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/roadbed/roadbed/platform/edge/listen"
)

func TestFilesOfCertificatesAreLookedAtEveryFiveSeconds(t *testing.T) {
	dir := t.TempDir()
	if _, err := listen.NewCertificates(listen.CertificatesConfig{SelfSigned: dir}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "self-signed.pem")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRegions(t, "east", "edge.regions.tls.certs", dir, "edge.regions.tls.ca", file)
		go r.Run(t.Context()) //nolint:errcheck // it ends with the test
		defer r.Close()
		r.Set(docs("east", `{"state":"SERVING"}`, "west", westServes))
		is := func(when string, wrong bool) {
			t.Helper()
			synctest.Wait()
			if got := r.View().Problem; strings.Contains(got, "cannot be used, and what was there before stays") != wrong || r.certs.now.Load() == nil {
				t.Errorf("%s: problem %q, want one of certificates: %v; and certificates there", when, got, wrong)
			}
		}
		is("at first", false)
		for range 2 {
			if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
			is("6 s after the file was spoilt", true)
			if err := os.WriteFile(file, good, 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
			is("6 s after it was mended", false)
		}
	})
	r := newRegions(t, "east", "edge.regions.tls.certs", filepath.Join(dir, "none"))
	r.Set(docs("west", `{"state":"SERVING","edges":["https://127.0.0.1:1"],"identity":"spiffe://example.com/west"}`))
	if _, err := r.handshake(t.Context(), nil, "127.0.0.1:1", true); err == nil || !strings.Contains(err.Error(), "edge.regions.tls.certs") {
		t.Errorf("a directory that is not there: the handshake says %v, want it to name the property", err)
	}
	if _, err := Parse("west", `{"state":"SERVING","edges":["http://127.0.0.1:1"],"identity":"spiffe://example.com/west"}`); err == nil || !strings.Contains(err.Error(), "use https, or leave identity out") {
		t.Errorf("an identity without https: got %v, want it refused", err)
	}
}
