package main

import "testing"

func TestALargeHeapGrowsByLessAndNothingChangesToAndFro(t *testing.T) {
	now := usualGrow
	for _, step := range []struct {
		live uint64
		want int
	}{{1 << 20, 100}, {40 << 20, 100}, {100 << 20, 50}, {40 << 20, 50}, {20 << 20, 100}} {
		if now = growth(step.live, now); now != step.want {
			t.Errorf("%d MiB live: grows by %d %%, want %d", step.live>>20, now, step.want)
		}
	}
}
