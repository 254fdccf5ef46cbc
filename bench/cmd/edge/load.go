//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/roadbed/roadbed/bench/process"
)

// figures are what one load of one proxy came to.
type figures struct {
	micros float64 // of processor time of the proxy by request
	rate   float64 // requests a second
	p99    float64 // milliseconds
}

// report is what a load generator tells.
type report struct {
	answers int
	took    time.Duration
	p99     time.Duration // 0 if it does not tell
}

// fields are those of a request beside Host, as many as a browser sends. Nothing is to be compressed: ours would,
// and the others, as they are set up, would not.
var fields = []string{
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept: text/html,application/json;q=0.9,*/*;q=0.8",
	"Accept-Language: en-US,en;q=0.5", "Accept-Encoding: identity", "Cookie: session=0123456789abcdef; theme=dark",
	"Referer: http://www.example.com/start", "X-Device: tv",
}

// wrk loads url as fast as it is answered, on so many connections.
func wrk(url string, conns int, d time.Duration) (report, error) {
	out, err := runWrk(url, conns, d)
	if err != nil {
		return report{}, err
	}
	return parseWrk(out)
}

// wrkRefused is the same where every request is to be refused.
func wrkRefused(url string, conns int, d time.Duration) (report, error) {
	out, err := runWrk(url, conns, d)
	if err != nil {
		return report{}, err
	}
	return parseRefused(out)
}

func runWrk(url string, conns int, d time.Duration) (string, error) {
	args := []string{"-t1", "-c" + strconv.Itoa(conns), "-d" + strconv.Itoa(int(d.Seconds())) + "s", "--latency", "--timeout", "10s"}
	for _, f := range fields {
		args = append(args, "-H", f)
	}
	out, err := exec.Command("wrk", append(args, url)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("wrk: %w\n%s", err, out)
	}
	return string(out), nil
}

var (
	wrkSum    = regexp.MustCompile(`(\d+) requests in ([\d.]+)(ms|s|m)`)
	wrkP99    = regexp.MustCompile(`(?m)^\s+99%\s+([\d.]+)(us|ms|s|m)`)
	wrkNoes   = regexp.MustCompile(`(?m)^  Non-2xx or 3xx responses: (\d+)\n`)
	wrkFaults = regexp.MustCompile(`Non-2xx or 3xx responses: .*|Socket errors: .*`)
)

// parseWrk reads what wrk prints. One answer that is missing or is no success makes it fail.
func parseWrk(out string) (r report, err error) {
	if wrong := wrkFaults.FindString(out); wrong != "" {
		return r, fmt.Errorf("not every request was answered as it should be: %s", wrong)
	}
	sum, p99 := wrkSum.FindStringSubmatch(out), wrkP99.FindStringSubmatch(out)
	if sum == nil || p99 == nil {
		return r, fmt.Errorf("wrk did not tell what is looked for:\n%s", out)
	}
	if r.answers, err = strconv.Atoi(sum[1]); err != nil || r.answers == 0 {
		return r, fmt.Errorf("wrk was answered nothing:\n%s", out)
	}
	if r.took, err = time.ParseDuration(sum[2] + sum[3]); err != nil {
		return r, err
	}
	r.p99, err = time.ParseDuration(p99[1] + p99[2])
	return r, err
}

// parseRefused reads what wrk prints when no request was to be answered with success.
func parseRefused(out string) (report, error) {
	noes := wrkNoes.FindStringSubmatch(out)
	if noes == nil {
		return report{}, fmt.Errorf("nothing was refused:\n%s", out)
	}
	r, err := parseWrk(wrkNoes.ReplaceAllString(out, ""))
	if err == nil && noes[1] != strconv.Itoa(r.answers) {
		err = fmt.Errorf("%s of %d requests were refused, not all", noes[1], r.answers)
	}
	return r, err
}

// h2load loads url by HTTP/2 as fast as it is answered, on so many connections with so many streams each.
func h2load(url string, conns, streams int, d time.Duration) (report, error) {
	args := []string{"-t1", "-c" + strconv.Itoa(conns), "-m" + strconv.Itoa(streams), "-D" + strconv.Itoa(int(d.Seconds()))}
	for _, f := range fields {
		args = append(args, "-H", f)
	}
	out, err := exec.Command("h2load", append(args, url)...).CombinedOutput()
	if err != nil {
		return report{}, fmt.Errorf("h2load: %w\n%s", err, out)
	}
	r, err := parseH2load(string(out))
	r.took = d
	return r, err
}

var (
	h2Protocol = regexp.MustCompile(`(?m)^Application protocol: h2$`)
	h2Sum      = regexp.MustCompile(`(?m)^requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout$`)
)

// parseH2load reads what h2load prints, but for how long it took, of which it tells only a rounded part. One request that
// failed, or another protocol, makes it fail.
func parseH2load(out string) (r report, err error) {
	sum := h2Sum.FindStringSubmatch(out)
	switch {
	case sum == nil:
		return r, fmt.Errorf("h2load did not tell what is looked for:\n%s", out)
	case !h2Protocol.MatchString(out):
		return r, fmt.Errorf("it was not HTTP/2 that was spoken:\n%s", out)
	case sum[1] != sum[2] || sum[3] != "0" || sum[4] != "0" || sum[5] != "0":
		return r, fmt.Errorf("not every request was answered as it should be: %s", sum[0])
	}
	if r.answers, err = strconv.Atoi(sum[1]); err != nil || r.answers == 0 {
		return r, fmt.Errorf("h2load was answered nothing:\n%s", out)
	}
	return r, nil
}

// measure runs a load against a proxy and says what it cost that proxy.
func measure(p *process.Process, load func() (report, error)) (figures, error) {
	before, err := p.Used()
	if err != nil {
		return figures{}, err
	}
	r, err := load()
	if err != nil {
		return figures{}, fmt.Errorf("%s: %w", p.Name, err)
	}
	after, err := p.Used()
	if err != nil {
		return figures{}, err
	}
	return figures{
		micros: float64((after - before).Microseconds()) / float64(r.answers),
		rate:   float64(r.answers) / r.took.Seconds(),
		p99:    float64(r.p99.Microseconds()) / 1000,
	}, nil
}

// median takes each figure's median.
func median(all []figures) figures {
	of := func(pick func(figures) float64) float64 {
		v := make([]float64, len(all))
		for i, f := range all {
			v[i] = pick(f)
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	return figures{
		micros: of(func(f figures) float64 { return f.micros }),
		rate:   of(func(f figures) float64 { return f.rate }),
		p99:    of(func(f figures) float64 { return f.p99 }),
	}
}
