package balance

import "strconv"

const maxEjectedPct = 10

// ejectWorst ejects endpoints that failed too often in a row, as many as the limit allows. The caller holds mu.
func (b *Balancer) ejectWorst(now int64) {
	up, out := 0, 0
	for _, ep := range b.all {
		if isUp, isOut := ep.counts(now); isUp {
			up++
			if isOut {
				out++
			}
		}
	}
	allowed := up * maxEjectedPct / 100
	if allowed == 0 && up >= 3 {
		allowed = 1
	}
	for _, ep := range b.all {
		if out >= allowed {
			return
		}
		if ep.ejectIfDue(now) {
			out++
			b.tell(Event{Kind: Ejected, Endpoint: ep, Text: "too many failures in a row"})
		}
	}
}

// count writes "1 is fit" or "2 are fit".
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
