package ipc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The prefixes of the properties that set commands, pools and collapsers; those of servers are beside their settings.
const (
	hystrixPrefix   = "hystrix.command."
	ipcPrefix       = "ipc.command."
	poolPrefix      = "hystrix.threadpool."
	collapserPrefix = "hystrix.collapser."
)

var prefixes = [...]string{hystrixPrefix, ipcPrefix, poolPrefix, collapserPrefix, serverPrefix}

// properties are all keys under the prefixes, with raw values. A map is never altered once stored.
type properties map[string]string

// knob is one dynamic setting of S.
type knob[S comparable] struct {
	prefix, suffix string
	set            func(s *S, text string) error
	zero           func(s *S) bool  // reports whether the code left it to the default
	keep           func(s, from *S) // copies it
	static         bool             // stays as it was first
	own            bool             // there is no form for all
}

func intKnob[S comparable](prefix, suffix string, lo, hi int, at func(*S) *int) knob[S] {
	return knob[S]{prefix: prefix, suffix: suffix,
		set: func(s *S, text string) error {
			n, err := parseRange(text, lo, hi)
			if err == nil {
				*at(s) = n
			}
			return err
		},
		zero: func(s *S) bool { return *at(s) == 0 },
		keep: func(s, from *S) { *at(s) = *at(from) },
	}
}

// noneKnob reads a number of which 0 is none, which in code is any below 0.
func noneKnob[S comparable](prefix, suffix string, hi int, at func(*S) *int) knob[S] {
	k := intKnob(prefix, suffix, 0, hi, at)
	number := k.set
	k.set = func(s *S, text string) error {
		err := number(s, text)
		if err == nil && *at(s) == 0 {
			*at(s) = -1
		}
		return err
	}
	return k
}

func msKnob[S comparable](prefix, suffix string, lo int, at func(*S) *time.Duration) knob[S] {
	return knob[S]{prefix: prefix, suffix: suffix,
		set: func(s *S, text string) error {
			n, err := parseRange(text, lo, int(maxTimeout/time.Millisecond))
			if err == nil {
				*at(s) = time.Duration(n) * time.Millisecond
			}
			return err
		},
		zero: func(s *S) bool { return *at(s) == 0 },
		keep: func(s, from *S) { *at(s) = *at(from) },
	}
}

// boolKnob reads true and false; inverse is for properties that enable what the field disables.
func boolKnob[S comparable](prefix, suffix string, inverse bool, at func(*S) *bool) knob[S] {
	return knob[S]{prefix: prefix, suffix: suffix,
		set: func(s *S, text string) error {
			on, err := parseBool(text)
			if err == nil {
				*at(s) = on != inverse
			}
			return err
		},
		zero: func(s *S) bool { return !*at(s) },
		keep: func(s, from *S) { *at(s) = *at(from) },
	}
}

// wordKnob reads one of some words, whatever their case.
func wordKnob[S comparable, W comparable](prefix, suffix string, words map[string]W, use string, at func(*S) *W) knob[S] {
	return knob[S]{prefix: prefix, suffix: suffix,
		set: func(s *S, text string) error {
			w, ok := words[strings.ToUpper(strings.TrimSpace(text))]
			if !ok {
				return errors.New(use)
			}
			*at(s) = w
			return nil
		},
		zero: func(s *S) bool { var none W; return *at(s) == none },
		keep: func(s, from *S) { *at(s) = *at(from) },
	}
}

func (k knob[S]) asStatic() knob[S] {
	k.static = true
	return k
}

func parseRange(text string, lo, hi int) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if err != nil || n < lo || n > hi {
		return 0, fmt.Errorf("use a whole number from %d to %d", lo, hi)
	}
	return n, nil
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errors.New("use true or false")
}

var errStatic = errors.New("it is read when its command is first named; the value counts after a restart")

// turn works out the settings of that name from code and properties; zeroes are left for defaults. A property that
// makes no sense is told to refuse and leaves what was in force before, which is nil at first.
func turn[S comparable](name string, code S, props properties, all []knob[S], before *S, refuse func(key, text string, err error)) S {
	out := code
	for i := range all {
		k := &all[i]
		if k.static && before != nil {
			k.keep(&out, before)
		}
		key, text, ok := k.find(name, props, &code)
		if !ok {
			continue
		}
		if k.static && before != nil {
			now := *before
			if err := k.set(&now, text); err == nil && now != *before {
				refuse(key, text, errStatic)
			} else if err != nil {
				refuse(key, text, err)
			}
			continue
		}
		if err := k.set(&out, text); err != nil {
			refuse(key, text, err)
			if before != nil {
				k.keep(&out, before)
			}
		}
	}
	return out
}

// find returns the property that counts: the one of that name, or of all if the code does not know better.
func (k *knob[S]) find(name string, props properties, code *S) (key, text string, ok bool) {
	key = k.prefix + name + "." + k.suffix
	if text, ok = props[key]; ok || k.own {
		return key, text, ok
	}
	if app, _, part := strings.Cut(name, "/"); part {
		key = k.prefix + app + "." + k.suffix
		if text, ok = props[key]; ok {
			return key, text, true
		}
	}
	if !k.zero(code) {
		return key, "", false
	}
	key = k.prefix + "default." + k.suffix
	text, ok = props[key]
	return key, text, ok
}
