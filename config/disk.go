package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"
)

// settle is how long a change waits for others before all are written.
const settle = 500 * time.Millisecond

// magic begins a file of last known good properties; the checksum of the rest follows, then a newline.
const magic = "roadbed properties 1 "

// kept is what is on disk.
type kept struct {
	Scope      Scope             `json:"scope"`
	Rev        uint64            `json:"rev"`
	Saved      time.Time         `json:"saved"`
	Properties map[string]string `json:"properties"`
}

// file is where the last known good properties are. Instances of one server group share it, since the next instance
// has another id; so it holds nothing that is for one instance alone.
func (p *Properties) file() string {
	s := p.opts.Scope
	s.Instance = ""
	sum := xxhash.Sum64String(fmt.Sprintf("%q %q", p.opts.URL, s))
	app := s.App
	if app == "" || app != filepath.Base(app) || app == "." || app == ".." {
		app = "any"
	}
	return filepath.Join(p.opts.Cache, fmt.Sprintf("properties-%s-%016x", app, sum))
}

// recall loads what the last process knew. Nothing there is nothing known; a damaged file is reported and ignored.
func (p *Properties) recall() {
	if p.opts.Cache == "" {
		return
	}
	b, err := os.ReadFile(p.file())
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k kept
	if err == nil {
		k, err = unseal(b)
	}
	if err != nil {
		p.log.Warn("the last known properties on disk are ignored", "file", p.file(), "err", err)
		return
	}
	p.raw, p.rev = k.Properties, k.Rev
}

func seal(k kept) ([]byte, error) {
	body, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%s%016x\n", magic, xxhash.Sum64(body)), body...), nil
}

func unseal(b []byte) (kept, error) {
	head, body, ok := bytes.Cut(b, []byte("\n"))
	if !ok || string(head) != fmt.Sprintf("%s%016x", magic, xxhash.Sum64(body)) {
		return kept{}, errors.New("its checksum is wrong")
	}
	var k kept
	if err := json.Unmarshal(body, &k); err != nil {
		return kept{}, err
	}
	if k.Properties == nil {
		return kept{}, errors.New("it holds no properties")
	}
	return k, nil
}

// remember writes the properties soon after each change, and a last time when ctx ends.
func (p *Properties) remember(ctx context.Context) {
	if p.opts.Cache == "" {
		return
	}
	for {
		select {
		case <-ctx.Done():
			select {
			case <-p.dirty:
				p.save()
			default:
			}
			return
		case <-p.dirty:
		}
		t := time.NewTimer(settle)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		p.save()
	}
}

func (p *Properties) save() {
	p.mu.Lock()
	k := kept{Scope: p.opts.Scope, Rev: p.rev, Saved: time.Now(), Properties: p.raw}
	k.Scope.Instance = ""
	if len(p.own) > 0 {
		k.Properties = maps.Clone(p.raw)
		maps.DeleteFunc(k.Properties, func(key, _ string) bool { return p.own[key] })
	}
	p.mu.Unlock()
	if err := write(p.file(), k); err != nil {
		p.log.Warn("the properties could not be kept for a start without the server", "file", p.file(), "err", err)
	}
}

// write replaces path by k in one step: a reader sees the old file or the new one.
func write(path string, k kept) error {
	b, err := seal(k)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
