package interop

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/discovery"
)

// TestDiscoveryWorksUnchangedAgainstAStockEurekaServer takes a little more than half a minute, which is how often a
// Eureka client polls.
func TestDiscoveryWorksUnchangedAgainstAStockEurekaServer(t *testing.T) {
	t.Parallel()
	stock := newSpring(t, freeAddr(t, "127.0.0.1"), nil, quick...)
	stock.ready()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	client := func() *discovery.Client {
		c := discovery.New(discovery.Config{Registry: []string{stock.base}, Log: slog.New(slog.DiscardHandler)})
		wg.Go(func() { c.Run(ctx) }) //nolint:errcheck // it always ends with nil
		return c
	}
	see := func(c *discovery.Client) func() []string {
		return func() []string {
			var out []string
			for _, i := range c.Instances("shop") {
				out = append(out, i.ID+" "+i.Addr()+" "+string(i.Status)+" "+i.Location.Zone+" "+i.Metadata["owner"])
			}
			slices.Sort(out)
			return out
		}
	}

	service := client()
	me := service.Register(roadbed.Instance{
		ID: "shop-1", App: "shop", Host: "127.0.0.1", Port: 8080, Status: roadbed.Up,
		Location: roadbed.Location{Region: "local", Zone: "a"}, Metadata: map[string]string{"owner": "ana"},
	})
	eventually(t, "it is registered there", func() []string { return held(t, stock.base, "SHOP") }, "SHOP/shop-1/UP")
	caller := client()
	eventually(t, "who starts now reads it in full", see(caller), "shop-1 127.0.0.1:8080 UP a ana")

	if err := service.SetOverride(ctx, "shop", "shop-1", roadbed.OutOfService); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the override holds there", func() []string { return held(t, stock.base, "SHOP") }, "SHOP/shop-1/OUT_OF_SERVICE")
	within(t, time.Minute, "the next delta tells of the override", see(caller), "shop-1 127.0.0.1:8080 OUT_OF_SERVICE a ana")
	if err := me.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	if got := held(t, stock.base, "SHOP"); len(got) != 0 {
		t.Errorf("after its cancel the server holds %q, want nothing", got)
	}
}
