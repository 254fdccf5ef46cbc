package config

import (
	"slices"
	"sync/atomic"
)

// Value is the handle of one property: what it is now, and who wants to know when it changes. Handles of the same
// key, type and default are one and the same.
type Value[T comparable] struct {
	now   atomic.Pointer[T] // never nil; what it points to never changes
	key   string
	def   T
	parse func(string) (T, error)
	props *Properties // nil for a handle that holds its default for ever

	// guarded by props.mu
	bad  string // the text that did not parse and was reported; "" = none
	subs []*sub[T]
}

// sub is one call of OnChange.
type sub[T comparable] struct {
	fn      func(old, new T)
	seen    T // guarded by Properties.mu
	queued  bool
	stopped bool
}

// value returns the one handle of key, T and def.
func value[T comparable](p *Properties, key string, def T, parse func(string) (T, error)) *Value[T] {
	v := &Value[T]{key: key, def: def, parse: parse, props: p}
	v.now.Store(&v.def)
	if p == nil {
		return v
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id := handleKey{key, def}
	if h, ok := p.handles[id]; ok {
		return h.(*Value[T])
	}
	p.handles[id] = v
	text, ok := lookup(p.raw, key)
	v.refresh(text, ok)
	return v
}

// Get returns the value of now. It costs one atomic load.
// hot path: 0 allocs, BenchmarkGet
func (v *Value[T]) Get() T { return *v.now.Load() }

// Key returns the property's key.
func (v *Value[T]) Key() string { return v.key }

// OnChange calls fn after each change, one call at a time and in order, with the value fn last knew and the new one.
// Changes that come while fn runs are told as one. After stop no call begins.
func (v *Value[T]) OnChange(fn func(old, new T)) (stop func()) {
	if v.props == nil {
		return func() {}
	}
	s := &sub[T]{fn: fn}
	v.props.mu.Lock()
	defer v.props.mu.Unlock()
	s.seen = v.Get()
	v.subs = append(v.subs, s)
	return func() {
		v.props.mu.Lock()
		defer v.props.mu.Unlock()
		s.stopped = true
		v.subs = slices.DeleteFunc(v.subs, func(x *sub[T]) bool { return x == s })
	}
}

// refresh takes the property's text, or its absence. The caller holds props.mu.
func (v *Value[T]) refresh(text string, ok bool) {
	next := &v.def
	if ok {
		parsed, err := v.parse(text)
		if err != nil {
			if v.bad != text {
				v.bad = text
				v.props.log.Error("property has a bad value; the last good one stays", "key", v.key, "value", brief(text), "kept", v.Get(), "err", err)
			}
			return
		}
		next = &parsed
	}
	v.bad = ""
	if *next == v.Get() {
		return
	}
	v.now.Store(next)
	for _, s := range v.subs {
		if !s.queued {
			s.queued = true
			v.props.enqueue(func() { v.deliver(s) })
		}
	}
}

func (v *Value[T]) deliver(s *sub[T]) {
	v.props.mu.Lock()
	s.queued = false
	old, now := s.seen, v.Get()
	s.seen = now
	stopped := s.stopped
	v.props.mu.Unlock()
	if !stopped && old != now {
		s.fn(old, now)
	}
}

// brief keeps a log line short.
func brief(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
