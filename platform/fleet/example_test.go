package fleet_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/roadbed/roadbed/platform/api"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/fleet"
	"github.com/roadbed/roadbed/platform/ledger"
)

// A fleet keeps three copies of a program running, one in each zone, and stops them when it ends.
func Example() {
	dir, err := os.MkdirTemp("", "fleet")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	e, err := engine.Open(ctx, engine.Config{Dir: filepath.Join(dir, "engine"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	defer e.Close()
	l, err := ledger.Open(ctx, e)
	if err != nil {
		panic(err)
	}
	f, err := fleet.New(ctx, fleet.Config{Engine: e, Ledger: l, Dir: filepath.Join(dir, "fleet"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	ended := make(chan error)
	go func() { ended <- f.Run(ctx) }()

	g, err := f.Create(api.As(ctx, "ana", "to show it"), fleet.Spec{Name: "hello", Command: []string{"sleep", "60"}, Instances: 3})
	if err != nil {
		panic(err)
	}
	fmt.Println(g.Name, "runs:", g.Image)
	for len(f.Instances("")) < 3 {
		time.Sleep(time.Millisecond)
	}
	for _, i := range f.Instances("hello-v000") {
		fmt.Println(i.Slot, i.Zone)
	}
	cancel()
	fmt.Println("ended:", <-ended)
	// Output:
	// hello-v000 runs: sleep 60
	// 0 zone-a
	// 1 zone-b
	// 2 zone-c
	// ended: <nil>
}
