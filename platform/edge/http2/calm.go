package http2

import (
	"fmt"
	"time"
)

// What a connection may ask of the edge without asking for anything.
const (
	resetsMost        = 200 // streams reset by the client in resetWindow, if they are more than half of those opened
	faultsMost        = 200 // streams that the edge had to reset by the client's fault in resetWindow (CVE-2025-8671)
	resetWindow       = 30 * time.Second
	heardWithin       = 10 * time.Second // until then who has not acknowledged SETTINGS may not know how many streams are too many
	continuationsMost = 16               // CONTINUATION frames in a row (CVE-2024-27316)
	controlsMost      = 100              // frames of each kind of PING, SETTINGS, PRIORITY, and DATA of nothing, in a second
	updatesMost       = 2000             // WINDOW_UPDATE frames in a second (CVE-2019-9511)
	updatesForData    = 40               // more of them for each DATA frame that was sent in this second or the one before
)

// calm counts what a client does that costs it nothing. It is the reader's own.
type calm struct {
	window  int64 // when it began, by filter.Now
	streams int   // opened since
	resets  int
	faults  int
	second  int64
	sent    int                        // DATA frames that were sent until this second began
	former  int                        // and until the one before
	counts  [frameWindowUpdate + 1]int // by type of frame, this second
}

func tooMuch(of string, most int) error {
	return broken(enhanceYourCalm, fmt.Sprintf("more than %d %s", most, of))
}

func (k *calm) turn(now int64) {
	if now-k.window > int64(resetWindow) {
		k.window, k.streams, k.resets, k.faults = now, 0, 0, 0
	}
}

// reset counts a stream that the client reset. Rapid reset is CVE-2023-44487.
func (k *calm) reset(now int64) error {
	k.turn(now)
	if k.resets++; k.resets > resetsMost && 2*k.resets > k.streams {
		return tooMuch("streams reset within 30 s, and more than half of those opened", resetsMost)
	}
	return nil
}

// fault counts a stream that the client made the edge reset.
func (k *calm) fault(now int64) error {
	k.turn(now)
	if k.faults++; k.faults > faultsMost {
		return tooMuch("streams with faults within 30 s", faultsMost)
	}
	return nil
}

// control counts a frame that asks for nothing.
func (k *calm) control(now int64, kind byte, most int) error {
	if now-k.second > int64(time.Second) {
		k.second = now
		clear(k.counts[:])
	}
	if k.counts[kind]++; k.counts[kind] > most {
		return tooMuch(fmt.Sprintf("frames of type %d in a second", kind), most)
	}
	return nil
}
