package route

import "github.com/roadbed/roadbed/platform/edge/filter"

// Bucket returns where x falls among 10,000, always the same for one salt and one value of key, which is user, client,
// header:NAME, cookie:NAME or query:NAME; by chance, and has is false, if x has no such value. It fails if key is none of
// these.
func Bucket(x *filter.Exchange, salt, key string) (n int, has bool, err error) {
	k, err := parseKey(key)
	if err != nil {
		return 0, false, err
	}
	n, has = k.bucket(x, salt)
	return n, has, nil
}

// Cookie returns the value of the first cookie of that name, and whether there is one.
func Cookie(h *filter.Header, name string) (value string, has bool) { return cookie(h, name) }

// QueryValue returns the first value of the parameter of that name in a raw query, unescaped, and whether there is one.
func QueryValue(raw, name string) (value string, has bool) {
	for v := range queryValues(raw, name) {
		return v, true
	}
	return "", false
}
