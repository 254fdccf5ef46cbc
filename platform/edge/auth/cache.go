package auth

import (
	"hash/maphash"
	"strings"
	"sync"
)

const cacheShards = 16

// cache remembers what was found for a key, for a while, and for so many keys: the ones used lately.
type cache[V any] struct {
	seed  maphash.Seed
	parts [cacheShards]cachePart[V]
}

// cachePart holds two generations: when the young one is full it is the old one, and what was old is forgotten.
type cachePart[V any] struct {
	mu         sync.Mutex
	most       int // in each generation
	young, old map[uint64]cached[V]
}

// cached is one entry. The whole key is kept: nobody shall be let in by a hash.
type cached[V any] struct {
	key   string
	val   V
	until int64 // by the caller's clock
}

// newCache returns a cache of about n keys.
func newCache[V any](n int) *cache[V] {
	c := &cache[V]{seed: maphash.MakeSeed()}
	for i := range c.parts {
		c.parts[i].most = max(1, n/cacheShards/2)
	}
	return c
}

// get returns what is known of key at now.
//
// hot path: 0 allocs, BenchmarkKnownToken
func (c *cache[V]) get(key string, now int64) (val V, ok bool) {
	h := maphash.String(c.seed, key)
	p := &c.parts[h%cacheShards]
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.young[h]
	if !ok {
		if e, ok = p.old[h]; ok {
			p.add(h, e)
		}
	}
	if !ok || e.key != key || now >= e.until {
		return val, false
	}
	return e.val, true
}

// put remembers val until then.
func (c *cache[V]) put(key string, val V, until int64) {
	h := maphash.String(c.seed, key)
	p := &c.parts[h%cacheShards]
	p.mu.Lock()
	defer p.mu.Unlock()
	p.add(h, cached[V]{strings.Clone(key), val, until})
}

func (p *cachePart[V]) add(h uint64, e cached[V]) {
	if len(p.young) >= p.most {
		p.old, p.young = p.young, nil
	}
	if p.young == nil {
		p.young = make(map[uint64]cached[V])
	}
	p.young[h] = e
}
