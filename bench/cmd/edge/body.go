//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	warmBody = 64 << 20  // bytes that pass before memory is looked at
	pace     = 128 << 20 // bytes a second that the slow side takes
	piece    = 256 << 10 // bytes that it takes at once
	mostRSS  = 1.0       // MiB that the edge may grow by
	look     = 50 * time.Millisecond
)

// body lets large bodies through, down to a client and up to an origin that read more slowly than the other side writes,
// and watches the edge's memory meanwhile, beside that of another edge which lets nothing through: in the first minutes a
// process grows by what it does by itself.
func (b *bench) body() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	origin := &http.Server{Handler: http.HandlerFunc(large)}
	go origin.Serve(l) //nolint:errcheck // ends by Close
	defer origin.Close()
	ours, err := b.startRoadbed(netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		return err
	}
	defer ours.Stop()
	idle, err := ours.another("idle", b.routes)
	if err != nil {
		return err
	}
	defer idle.proxy.Stop()
	if err := ours.setAll(map[string]string{"edge.timeouts.request": "1h"}); err != nil { // 10 s by default, the body included
		return err
	}
	for _, way := range []struct {
		what string
		pass func(url string, n int64) error
	}{{"to a slow client", download}, {"to a slow origin", upload}} {
		for _, p := range []*platform{ours, idle} {
			if err := way.pass(p.url, min(warmBody, b.big)); err != nil {
				return err
			}
		}
		before, err1 := ours.Resident()
		beside, err2 := idle.Resident()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		log.Printf("%d MiB %s; the edge has %d kB", b.big>>20, way.what, before>>10)
		done := make(chan error, 1)
		go func() { done <- way.pass(ours.url, b.big) }()
		most, mostIdle := before, beside
		for running := true; running; {
			select {
			case err := <-done:
				if err != nil {
					return err
				}
				running = false
			case <-time.After(look):
				now, err1 := ours.Resident()
				other, err2 := idle.Resident()
				if err := errors.Join(err1, err2); err != nil {
					return err
				}
				most, mostIdle = max(most, now), max(mostIdle, other)
			}
		}
		log.Printf("it grew by %d kB at most, an edge that was idle by %d kB", (most-before)>>10, (mostIdle-beside)>>10)
		b.table.keep(fmt.Sprintf("MiB that the process grows by at most while %d MiB pass %s, beyond what an idle one grows by", b.big>>20, way.what), float64(most-before-(mostIdle-beside))/(1<<20), mostRSS)
	}
	return nil
}

// large is an origin that writes as many bytes as it is asked for, and reads slowly what it is sent.
func large(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	switch {
	case err != nil:
		w.Header().Set("X-Served-By", "origin-1")
		w.Write(answer[len(answer)-1024:]) //nolint:errcheck // the edge is gone if this fails
	case r.Method == http.MethodPost:
		got, err := slowly(r.Body)
		fmt.Fprintln(w, got, err)
	default:
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.CopyN(w, zeros{}, n) //nolint:errcheck // the client counts
	}
}

// zeros has no end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// slowly reads all of r at the pace of a slow side.
func slowly(r io.Reader) (n int64, err error) {
	buf := make([]byte, piece)
	began := time.Now()
	for {
		m, err := io.ReadFull(r, buf)
		n += int64(m)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		time.Sleep(time.Until(began.Add(time.Duration(float64(n) / pace * float64(time.Second)))))
	}
}

func download(url string, n int64) error {
	resp, err := http.Get(at(url, n))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if got, err := slowly(resp.Body); err != nil || got != n || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("got %d bytes of %d, %s, %v", got, n, resp.Status, err)
	}
	return nil
}

func upload(url string, n int64) error {
	req, err := http.NewRequest(http.MethodPost, at(url, n), io.LimitReader(zeros{}, n))
	if err != nil {
		return err
	}
	req.ContentLength = n
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if want := fmt.Sprintln(n, nil); err != nil || string(said) != want || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the origin says %.200q, %s, %v; want %q", said, resp.Status, err, want)
	}
	return nil
}

// at is url with the number of bytes that the origin is to write or read.
func at(url string, n int64) string {
	bare, _, _ := strings.Cut(url, "?")
	return fmt.Sprintf("%s?bytes=%d", bare, n)
}
