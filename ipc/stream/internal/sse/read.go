package sse

import "bytes"

// MaxEvent is how long an event may be. Longer ones are left out.
const MaxEvent = 1 << 20

// Splitter takes a stream apart, however it arrives in pieces, and calls Event with the data of each event. It is
// lenient: lines end with LF or CR LF, "data:" needs no space after it, an event that begins with "{" ends the one
// before it, and all other lines are left out.
type Splitter struct {
	Event func(data []byte) // data is valid until it returns

	line  []byte // what has come of the present line
	event []byte // what has come of the present event
	long  bool   // the present line is too long
	skip  bool   // the present event is too long
}

// Write takes the next piece. It never fails.
func (s *Splitter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			s.keep(p)
			break
		}
		if len(s.line) == 0 && !s.long {
			s.take(p[:end]) // in place, as nearly always
		} else {
			s.keep(p[:end])
			if s.long {
				s.skip = true
			} else {
				s.take(s.line)
			}
			s.line, s.long = s.line[:0], false
		}
		p = p[end+1:]
	}
	return n, nil
}

// keep adds to the present line.
func (s *Splitter) keep(p []byte) {
	if s.long || len(s.line)+len(p) > MaxEvent {
		s.line, s.long = s.line[:0], true
		return
	}
	s.line = append(s.line, p...)
}

// take reads a whole line.
func (s *Splitter) take(line []byte) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		s.end()
		return
	}
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		return
	}
	data = bytes.TrimPrefix(data, []byte(" "))
	if len(s.event) > 0 {
		if len(data) > 0 && data[0] == '{' {
			s.end()
		} else {
			s.event = append(s.event, '\n')
		}
	}
	if len(s.event)+len(data) > MaxEvent {
		s.skip = true
		return
	}
	s.event = append(s.event, data...)
}

func (s *Splitter) end() {
	if len(s.event) > 0 && !s.skip {
		s.Event(s.event)
	}
	s.event, s.skip = s.event[:0], false
}
