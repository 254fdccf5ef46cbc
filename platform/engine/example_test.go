package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/roadbed/roadbed/platform/engine"
)

// open opens an engine in a directory of its own.
func open() (*engine.Engine, func()) {
	dir, err := os.MkdirTemp("", "engine")
	if err != nil {
		panic(err)
	}
	e, err := engine.Open(context.Background(), engine.Config{Dir: dir})
	if err != nil {
		panic(err)
	}
	return e, func() {
		if err := errors.Join(e.Close(), os.RemoveAll(dir)); err != nil {
			panic(err)
		}
	}
}

func ExampleTable() {
	e, done := open()
	defer done()
	ctx := context.Background()
	type group struct {
		Desired int `json:"desired"`
	}
	groups, err := engine.OpenTable[group](ctx, e, "groups", 5)
	if err != nil {
		panic(err)
	}
	rev, err := groups.Create(ctx, "api-v003", group{Desired: 3})
	if err != nil {
		panic(err)
	}
	if _, err := groups.Update(ctx, "api-v003", group{Desired: 6}, rev); err != nil {
		panic(err)
	}
	_, err = groups.Update(ctx, "api-v003", group{Desired: 9}, rev)
	fmt.Println("conflict:", errors.Is(err, engine.ErrConflict))
	now, _ := groups.Get("api-v003")
	fmt.Println("desired:", now.Value.Desired)
	// Output:
	// conflict: true
	// desired: 6
}

func ExampleStream_Follow() {
	e, done := open()
	defer done()
	ctx := context.Background()
	s, err := engine.OpenStream(ctx, e, "deployments", 7*24*time.Hour)
	if err != nil {
		panic(err)
	}
	for _, what := range []string{"started", "canary passed", "finished"} {
		if _, err := s.Append(ctx, []byte(what)); err != nil {
			panic(err)
		}
	}
	enough := errors.New("enough")
	err = s.Follow(ctx, 2, func(r engine.Record) error {
		fmt.Println(r.Seq, string(r.Data))
		if r.Seq == 3 {
			return enough
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// 2 canary passed
	// 3 finished
	// enough
}

func ExampleEngine_Acquire() {
	e, done := open()
	defer done()
	ctx := context.Background()
	lease, err := e.Acquire(ctx, "leader.fleet", "node-1", 5*time.Second)
	if err != nil {
		panic(err)
	}
	select {
	case <-lease.Lost():
		fmt.Println("stop acting")
	default:
		fmt.Println("act, and sign writes with the epoch:", lease.Epoch() > 0)
	}
	if err := lease.Release(ctx); err != nil {
		panic(err)
	}
	// Output: act, and sign writes with the epoch: true
}
