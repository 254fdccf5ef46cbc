//go:build race

package main

// raceFlag builds the tested binary as the tests were built.
var raceFlag = []string{"-race"}
