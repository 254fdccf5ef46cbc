//go:build race

package shed

// The race detector has sync.Pool forget things.
const raceEnabled = true
