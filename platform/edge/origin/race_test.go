//go:build race

package origin

// raceEnabled: the detector has pools forget at random, so that allocations cannot be counted.
const raceEnabled = true
