//go:build race

package http1

// raceEnabled: the detector has pools forget at random, so that allocations cannot be counted.
const raceEnabled = true
