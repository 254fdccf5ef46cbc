package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/roadbed/roadbed"
	"github.com/roadbed/roadbed/platform/engine"
	"github.com/roadbed/roadbed/platform/ledger"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "ledger")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	e, err := engine.Open(ctx, engine.Config{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer e.Close()
	l, err := ledger.Open(ctx, e)
	if err != nil {
		panic(err)
	}
	resize := roadbed.Change{Actor: "ana", Action: "serverGroup.resize", Resource: "serverGroup:api-v003", Why: "black friday"}
	err = l.Apply(ctx, resize, func(context.Context) error { return errors.New("no room in zone-a") })
	fmt.Println("error:", err)
	changes, err := l.List(ctx, ledger.Query{Resource: "serverGroup:api-"})
	if err != nil {
		panic(err)
	}
	for _, c := range changes {
		fmt.Println(c.ID, c.Actor, c.Action, c.Resource, c.Result, c.Error)
	}
	// Output:
	// error: no room in zone-a
	// 2 ana serverGroup.resize serverGroup:api-v003 FAILED no room in zone-a
	// 1 ana serverGroup.resize serverGroup:api-v003 SUCCEEDED
}
