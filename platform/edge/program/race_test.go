//go:build race

package program

// raceEnabled: the detector has pools forget at random, so that allocations cannot be counted.
const raceEnabled = true
