package telemetry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/roadbed/roadbed/meter"
	"github.com/roadbed/roadbed/platform/telemetry"
)

// A service publishes what it measures; the store finds it by its tags.
func Example() {
	store := httptest.NewServer(telemetry.New(telemetry.Config{}).Handler())
	defer store.Close()

	m := meter.New(map[string]string{"nf.app": "catalog"})
	m.Counter("titles.served", "country", "FR").Inc()
	ctx, stop := context.WithCancel(context.Background())
	stop() // what was measured so far is posted before Publish returns
	if err := m.Publish(ctx, store.URL, 5*time.Second); err != nil {
		fmt.Println(err)
	}

	resp, err := http.Get(store.URL + "/api/v1/tags/country?q=nf.app,catalog,:eq")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	fmt.Println(string(body), err)
	// Output: ["FR"] <nil>
}
