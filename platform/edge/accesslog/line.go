package accesslog

import (
	"crypto/tls"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// append appends the line of x to b, with its end.
func (l *Log) append(b []byte, x *filter.Exchange, category filter.Category, took time.Duration, passport bool) []byte {
	q, p := &x.Request, &x.Response
	limit := l.pathLimit.Get()
	b = append(b, `{"ts":"`...)
	b = l.appendTime(b, filter.At(x.Start))
	b = append(b, `","id":`...)
	b = filter.AppendJSON(b, x.ID)
	b = text(b, `,"trace":`, x.Trace)
	b = append(b, `,"client":"`...)
	if from := asker(x); from.IsValid() {
		b = from.AppendTo(b)
	}
	b = append(b, `","method":`...)
	b = filter.AppendJSON(b, clip(q.Method, 32))
	b = append(b, `,"host":`...)
	b = filter.AppendJSON(b, clip(q.Host, 255))
	b = append(b, `,"path":`...)
	b = filter.AppendJSON(b, clip(q.Path, limit))
	if q.RawQuery != "" {
		b = l.appendQuery(b, x, limit)
	}
	b = append(b, `,"proto":"`...)
	b = append(b, byte('0'+q.Proto/10%10), '.', byte('0'+q.Proto%10))
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = append(b, `,"category":"`...)
	b = append(b, category.String()...)
	b = append(b, `","bytesIn":`...)
	b = strconv.AppendInt(b, x.Read, 10)
	b = append(b, `,"bytes":`...)
	b = strconv.AppendInt(b, x.Written, 10)
	b = append(b, `,"ms":`...)
	b = appendMillis(b, took)
	if x.Plan != nil {
		b = append(b, `,"route":`...)
		b = filter.AppendJSON(b, x.Plan.Route)
	}
	if x.App != "" {
		b = append(b, `,"origin":`...)
		b = filter.AppendJSON(b, x.App)
	}
	if n := len(x.Attempts); n > 0 {
		b = append(b, `,"attempts":`...)
		b = strconv.AppendInt(b, int64(n), 10)
		if n > 1 || x.Attempts[0].Error != "" {
			b = append(b, `,"tries":`...)
			b = filter.AppendAttempts(b, x.Attempts)
		}
	}
	if x.Priority != 0 {
		b = append(b, `,"priority":`...)
		b = strconv.AppendInt(b, int64(x.Priority), 10)
	}
	b = text(b, `,"region":`, l.region)
	b = text(b, `,"hop":`, x.Hop)
	b = text(b, `,"away":`, x.Away)
	b = text(b, `,"user":`, clip(x.User, 64))
	if x.Client != nil && x.Client.TLS != nil {
		b = append(b, `,"tls":"`...)
		b = append(b, tlsVersion(x.Client.TLS.Version)...)
		b = append(b, '"')
	}
	b = text(b, `,"agent":`, clip(q.Header.Get("User-Agent"), limit))
	b = l.appendFields(b, &p.Header)
	if x.Err != nil {
		b = text(b, `,"error":`, clip(x.Err.Error(), 1024))
	}
	if passport {
		b = append(b, `,"passport":"`...)
		b = x.Passport.Append(b) // has nothing that JSON would want escaped
		b = append(b, '"')
	}
	return append(b, '}', '\n')
}

func text(b []byte, key, v string) []byte {
	if v == "" {
		return b
	}
	return filter.AppendJSON(append(b, key...), v)
}

// appendFields appends those fields of the answer that are to be told.
func (l *Log) appendFields(b []byte, h *filter.Header) []byte {
	first := true
	for _, name := range l.fields.Get() {
		v := h.Get(name)
		if v == "" || filter.Same(name, "Set-Cookie") || filter.Same(name, "Authorization") {
			continue
		}
		if first {
			b = append(b, `,"headers":{`...)
		} else {
			b = append(b, ',')
		}
		first = false
		b = filter.AppendJSON(b, name)
		b = append(b, ':')
		b = filter.AppendJSON(b, clip(v, 256))
	}
	if !first {
		b = append(b, '}')
	}
	return b
}

// appendQuery appends the query with the values of some names masked, or nothing.
func (l *Log) appendQuery(b []byte, x *filter.Exchange, limit int) []byte {
	names := l.mask.Get()
	if slices.Contains(names, "*") {
		return b
	}
	var mem [512]byte
	masked := mem[:0]
	for pair := range strings.SplitSeq(x.Request.RawQuery, "&") {
		if len(masked) > 0 {
			masked = append(masked, '&')
		}
		name, _, ok := strings.Cut(pair, "=")
		if ok && slices.ContainsFunc(names, func(n string) bool { return sameDecoded(name, n) }) {
			masked = append(append(masked, name...), "=*"...)
		} else {
			masked = append(masked, pair...)
		}
		if len(masked) >= limit {
			masked = masked[:max(limit, 0)]
			break
		}
	}
	return filter.AppendJSON(append(b, `,"query":`...), x.Keep(masked))
}

// sameDecoded reports whether a name of a query, which may be percent-encoded, is n, in any letter case.
func sameDecoded(name, n string) bool {
	i := 0
	for j := range len(n) {
		if i >= len(name) {
			return false
		}
		c := name[i]
		i++
		if c == '%' && i+1 < len(name) {
			if v, err := strconv.ParseUint(name[i:i+2], 16, 8); err == nil {
				c, i = byte(v), i+2
			}
		}
		if c != n[j] && (c|0x20 != n[j]|0x20 || c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return i == len(name)
}

// appendMillis appends d as milliseconds with three places.
func appendMillis(b []byte, d time.Duration) []byte {
	us := max(d.Microseconds(), 0)
	b = strconv.AppendInt(b, us/1000, 10)
	us %= 1000
	return append(b, '.', byte('0'+us/100), byte('0'+us/10%10), byte('0'+us%10))
}

// second is the text of one second, which many lines share.
type second struct {
	unix int64
	text [20]byte
}

// appendTime appends t as RFC 3339 has it, in UTC and with milliseconds.
func (l *Log) appendTime(b []byte, t time.Time) []byte {
	s := l.second.Load()
	if unix := t.Unix(); s == nil || s.unix != unix {
		s = &second{unix: unix}
		t.UTC().AppendFormat(s.text[:0], "2006-01-02T15:04:05.")
		l.second.Store(s)
	}
	b = append(b, s.text[:]...)
	ms := t.Nanosecond() / 1e6
	return append(b, byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
}

func tlsVersion(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "1.2"
	case tls.VersionTLS13:
		return "1.3"
	}
	return "?"
}
