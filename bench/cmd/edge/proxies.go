//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/roadbed/roadbed/bench/process"
)

// proxy is a gateway in front of the origin.
type proxy struct {
	*process.Process
	url    string // of what is asked for
	secure string // the same by https; empty if it does not serve that here
}

// path is asked for of every proxy. At ours it is one route of many.
const path = "/shop/500/items/42?sort=price&page=2"

// caddyVersion is built from Go's module proxy.
const caddyVersion = "v2.11.9"

// places are where a proxy listens, in clear and by TLS, and where the origin is.
type places struct{ listen, secure, origin netip.AddrPort }

// peers are how the others are started, each in a folder of its own.
var peers = map[string]func(b *bench, dir string, at places) (*exec.Cmd, error){
	"nginx": func(b *bench, dir string, at places) (*exec.Cmd, error) {
		conf, err := b.configure("nginx.conf", dir, at)
		if err != nil {
			return nil, err
		}
		if err := os.Mkdir(filepath.Join(dir, "temp"), 0o777); err != nil {
			return nil, err
		}
		return exec.Command("nginx", "-p", dir, "-e", "stderr", "-c", conf), nil
	},
	"HAProxy": func(b *bench, dir string, at places) (*exec.Cmd, error) {
		conf, err := b.configure("haproxy.cfg", dir, at)
		return exec.Command("haproxy", "-db", "-f", conf), err
	},
	"Caddy": func(b *bench, dir string, at places) (*exec.Cmd, error) {
		conf, err := b.configure("Caddyfile", dir, at)
		if err != nil {
			return nil, err
		}
		install := exec.Command("go", "install", "-trimpath", "-ldflags", "-s -w", "github.com/caddyserver/caddy/v2/cmd/caddy@"+caddyVersion)
		install.Dir = dir // its own versions of everything, not this module's
		install.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=")
		if out, err := install.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build Caddy %s: %w\n%s", caddyVersion, err, out)
		}
		cmd := exec.Command(filepath.Join(dir, "caddy"), "run", "--adapter", "caddyfile", "--config", conf)
		cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
		return cmd, nil
	},
	"ReverseProxy": func(b *bench, dir string, at places) (*exec.Cmd, error) {
		binary := filepath.Join(dir, "reverse")
		err := process.Build(filepath.Join(b.root, "bench"), "./edge/reverse", binary)
		return exec.Command(binary, at.listen.String(), at.origin.String()), err
	},
	"Spring Cloud Gateway": func(b *bench, _ string, at places) (*exec.Cmd, error) {
		built := filepath.Join(b.root, "bench", "edge", "gateway", "target")
		if _, err := os.Stat(filepath.Join(built, "dependency")); err != nil {
			return nil, fmt.Errorf("Spring Cloud Gateway is not built, run bench/edge/install.sh: %w", err)
		}
		route := "--spring.cloud.gateway.server.webflux.routes[0]."
		cmd := exec.Command("java", "-cp", filepath.Join(built, "classes")+string(os.PathListSeparator)+filepath.Join(built, "dependency", "*"), "roadbed.bench.Gateway",
			"--server.address="+at.listen.Addr().String(), fmt.Sprintf("--server.port=%d", at.listen.Port()), "--spring.main.banner-mode=off",
			route+"id=origin", route+"uri=http://"+at.origin.String(), route+"predicates[0]=Path=/**")
		return cmd, nil
	},
}

// configure fills in a configuration of bench/edge and returns where it is.
func (b *bench) configure(name, dir string, at places) (string, error) {
	text, err := os.ReadFile(filepath.Join(b.root, "bench", "edge", name))
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, name)
	fill := strings.NewReplacer("LISTEN", at.listen.String(), "SECURE", at.secure.String(), "ORIGIN", at.origin.String(), "CERTS", filepath.Join(b.dir, "certs"))
	return file, os.WriteFile(file, []byte(fill.Replace(string(text))), 0o644)
}

// folder makes one for a process of that name.
func (b *bench) folder(name string) (string, error) {
	b.started++
	dir := filepath.Join(b.dir, fmt.Sprintf("%02d-%s", b.started, strings.ToLower(strings.ReplaceAll(name, " ", "-"))))
	// nginx's worker is another user and must get in.
	return dir, os.MkdirAll(dir, 0o755)
}

// startPeer starts one of the others and checks that it passes on what the origin says.
func (b *bench) startPeer(name string, origin netip.AddrPort) (*proxy, error) {
	dir, err := b.folder(name)
	if err != nil {
		return nil, err
	}
	ports, err := process.FreePorts(2)
	if err != nil {
		return nil, err
	}
	at := places{local(ports[0]), local(ports[1]), origin}
	cmd, err := peers[name](b, dir, at)
	if err != nil {
		return nil, err
	}
	cmd.Dir = dir
	url := "http://" + at.listen.String() + path
	p, err := process.Start(name, filepath.Join(dir, "log"), url, cmd)
	if err != nil {
		return nil, err
	}
	if err := passes(url); err != nil {
		p.Stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &proxy{p, url, "https://" + at.secure.String() + path}, nil
}
