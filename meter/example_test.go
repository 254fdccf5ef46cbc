package meter_test

import (
	"fmt"
	"time"

	"github.com/roadbed/roadbed/meter"
)

func Example() {
	m := meter.New(map[string]string{"nf.app": "catalog"})

	served := m.Counter("titles.served", "country", "FR")
	took := m.PercentileTimer("titles.latency")
	served.Inc()
	took.Record(12 * time.Millisecond)

	seen := took.Snapshot()
	fmt.Println(served.Count(), seen.Count, seen.Total)
	// Output: 1 1 12ms
}
