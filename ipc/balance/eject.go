package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/roadbed/roadbed"
)

// cause is why an endpoint should be ejected.
type cause uint8

const (
	none cause = iota
	fives
	gateways
	locals
	slowSuccess
	failures
)

// judge looks for too many failures in a row, each kind of which is decided on once as it is reached. It returns true
// if the endpoint is now to be ejected. The caller holds mu.
func (e *Endpoint) judge(s *Settings) bool {
	if e.wants != none {
		return false // the balancer knows, and waits for others to return
	}
	for _, k := range [...]struct {
		count, limit, enforce int
		why                   cause
	}{
		{e.bad, s.Consecutive5xx, s.Enforce5xx, fives},
		{e.gateway, s.ConsecutiveGateway, s.EnforceGateway, gateways},
		{e.local, s.ConsecutiveLocal, s.EnforceLocal, locals},
	} {
		if k.limit > 0 && k.count > 0 && k.count%k.limit == 0 && enforced(k.enforce) {
			e.wants = k.why
			return true
		}
	}
	return false
}

func enforced(percent int) bool { return percent >= 100 || percent > 0 && rand.IntN(100) < percent }

// ejectDue looks for outliers, if it is time, and ejects as many of those that should be as the limit allows. The
// caller holds mu.
func (b *Balancer) ejectDue(now int64, s *Settings) {
	if b.nextLook == 0 {
		b.nextLook = now + int64(s.Interval)
	}
	if now >= b.nextLook {
		spans := 1 + (now-b.nextLook)/int64(s.Interval)
		b.nextLook += spans * int64(s.Interval)
		b.lookForOutliers(now, int(min(spans, 1000)), s)
	}
	up, out, wanted := 0, 0, 0
	for _, ep := range b.all {
		ep.mu.Lock()
		if ep.status == roadbed.Up {
			up++
			switch {
			case now < ep.ejected:
				out++
			case ep.wants != none:
				wanted++
			}
		}
		ep.mu.Unlock()
	}
	if wanted == 0 {
		return
	}
	allowed := up * s.MaxEjectedPercent / 100
	if allowed == 0 && up >= 3 && s.MaxEjectedPercent > 0 {
		allowed = 1
	}
	for _, ep := range b.all {
		if out >= allowed {
			return
		}
		if why, ok := ep.ejectIfDue(now, s); ok {
			out++
			b.tell(Event{Kind: Ejected, Endpoint: ep, Text: why})
		}
	}
}

// lookForOutliers compares the endpoints by what they did since the last look, spans intervals ago. The caller holds
// mu. Source: Envoy's outlier detection.
func (b *Balancer) lookForOutliers(now int64, spans int, s *Settings) {
	type sample struct {
		ep    *Endpoint
		rate  float64
		total int
	}
	var all []sample
	for _, ep := range b.all {
		ep.mu.Lock()
		if ep.status == roadbed.Up && now >= ep.ejected {
			if ep.spanTotal > 0 {
				all = append(all, sample{ep, 1 - float64(ep.spanFailed)/float64(ep.spanTotal), ep.spanTotal})
			}
			clean := spans
			if ep.ejected > 0 {
				clean = min(clean, int((now-ep.ejected)/int64(s.Interval)))
			}
			ep.ejections = max(0, ep.ejections-clean)
		}
		ep.spanTotal, ep.spanFailed = 0, 0
		if ep.wants == slowSuccess || ep.wants == failures {
			ep.wants = none
		}
		ep.mu.Unlock()
	}
	mark := func(hosts, requests, enforce int, why cause, below func(rates []float64) float64) {
		var rates []float64
		for _, x := range all {
			if x.total >= requests {
				rates = append(rates, x.rate)
			}
		}
		if len(rates) < hosts {
			return
		}
		limit := below(rates)
		for _, x := range all {
			if x.total >= requests && x.rate < limit && enforced(enforce) {
				x.ep.mu.Lock()
				if x.ep.wants == none {
					x.ep.wants = why
				}
				x.ep.mu.Unlock()
			}
		}
	}
	mark(s.SuccessRateHosts, s.SuccessRateRequests, s.EnforceSuccessRate, slowSuccess, func(rates []float64) float64 {
		mean, dev := spread(rates)
		return mean - s.SuccessRateFactor*dev
	})
	mark(s.FailureHosts, s.FailureRequests, s.EnforceFailure, failures, func([]float64) float64 {
		return math.Nextafter(1-float64(s.FailurePercent)/100, 1) // at the threshold is out
	})
}

// spread returns the mean and the standard deviation.
func spread(x []float64) (mean, dev float64) {
	for _, v := range x {
		mean += v
	}
	mean /= float64(len(x))
	for _, v := range x {
		dev += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(dev / float64(len(x)))
}

// ejectIfDue ejects an endpoint that is to be, and says why.
func (e *Endpoint) ejectIfDue(now int64, s *Settings) (why string, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.status != roadbed.Up || e.wants == none || now < e.ejected {
		return "", false
	}
	switch e.wants {
	case fives:
		why = count(e.bad, "answer of 500 or more", "answers of 500 or more in a row")
	case gateways:
		why = count(e.gateway, "answer 502, 503 or 504", "answers 502, 503 or 504 in a row")
	case locals:
		why = count(e.local, "attempt broke or reached nobody", "attempts in a row broke or reached nobody")
	case slowSuccess:
		why = "it succeeds much more rarely than the others"
	case failures:
		why = fmt.Sprintf("%d %% or more of its attempts failed", s.FailurePercent)
	}
	return fmt.Sprintf("%s; for %s", why, e.eject(now, s).Round(time.Millisecond)), true
}

// eject takes the endpoint out of service for a while, longer each time. The caller holds mu.
func (e *Endpoint) eject(now int64, s *Settings) time.Duration {
	e.ejections++
	d := min(s.BaseEjection*time.Duration(e.ejections), max(s.BaseEjection, s.MaxEjection))
	if s.EjectionJitter > 0 {
		d += rand.N(s.EjectionJitter + 1)
	}
	e.bad, e.gateway, e.local, e.wants = 0, 0, 0, none
	e.ejected = now + int64(d)
	e.back = e.ejected + backTime
	return d
}

// count writes "1 is fit" or "2 are fit".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
