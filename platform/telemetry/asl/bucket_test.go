package asl

import "github.com/roadbed/roadbed/meter"

func bucketOf(n int64) int { return meter.BucketIndex(n) }
