package fault_test

import (
	"context"
	"fmt"
	"time"

	"github.com/roadbed/roadbed/fault"
)

func Example() {
	key := fault.Key("shared through config")
	now := time.Unix(1790000000, 0)

	// The edge decides that this request takes part.
	header := fault.Sign(key, "exp-17", now.Add(time.Minute), "db:members=error(unavailable)")

	// A service reads the header once and asks at its injection points.
	rules, err := fault.Parse(key, header, "request-1", now)
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := fault.With(context.Background(), rules)
	if a := fault.From(ctx).At("db", "members"); a.Err != nil {
		fmt.Println(a.Err)
	}
	// Output: failure injected on purpose: status 503 by rule db:members=error(unavailable)
}
