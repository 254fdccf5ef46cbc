//go:build race

package http2

// raceEnabled: the detector has pools forget at random, so that allocations cannot be counted.
const raceEnabled = true
