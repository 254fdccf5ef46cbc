//go:build linux

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/roadbed/roadbed/bench/process"
)

// originEnv holds the port of this program when it is the origin.
const originEnv = "ROADBED_BENCH_ORIGIN"

// answer is what the origin says to any request: eight fields and a kilobyte.
var answer = []byte("HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Thu, 26 Nov 2026 20:00:00 GMT\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Content-Length: 1024\r\nCache-Control: no-cache\r\nETag: \"5bf444d26f9f1c74\"\r\nX-Served-By: origin-1\r\nVary: Accept-Encoding\r\n\r\n" + strings.Repeat("x", 1024))

// serveOrigin answers every head that arrives, with as little work as can be: it costs the machine that the proxies run
// on. Requests have no bodies and do not come before the answer to the one before, so that a head ends what was read.
func serveOrigin(port string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			buf, n := make([]byte, 8192), 0
			for {
				m, err := c.Read(buf[n:])
				if err != nil {
					return
				}
				if n += m; !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
					continue
				}
				n = 0
				if _, err := c.Write(answer); err != nil {
					return
				}
			}
		}()
	}
}

// startOrigin returns the origin's address.
func (b *bench) startOrigin() (*process.Process, netip.AddrPort, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	at := local(ports[0])
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", originEnv, at.Port()))
	p, err := process.Start("the origin", filepath.Join(b.dir, "origin.log"), "http://"+at.String()+"/", cmd)
	return p, at, err
}

func local(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

// passes checks that a proxy passes on what the origin says.
func passes(url string) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	_, want, _ := bytes.Cut(answer, []byte("\r\n\r\n"))
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, want) || resp.Header.Get("X-Served-By") != "origin-1" {
		return fmt.Errorf("%s is answered with %s, %.200q, %v; want the origin's answer", url, resp.Status, body, err)
	}
	return nil
}
