package discovery

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/roadbed/roadbed"
)

const (
	cacheName  = "registry.json"
	cacheEvery = time.Second // at most one write in this time
)

// The cache file is a line with the checksum of the rest, in hex, and the instances as a JSON array.

// load takes over what the cache holds. Whatever is wrong with it, the client works without.
func (c *Client) load() {
	if c.cfg.Cache == "" {
		return
	}
	list, err := readCache(filepath.Join(c.cfg.Cache, cacheName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		c.log.Warn("the list last known cannot be used; starting without", "err", err)
	default:
		c.known.merge(list)
	}
}

func readCache(path string) ([]roadbed.Instance, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum, body, ok := bytes.Cut(raw, []byte("\n"))
	if !ok || string(sum) != checksum(body) {
		return nil, fmt.Errorf("%s is damaged: its checksum is wrong; it will be written anew", path)
	}
	var list []roadbed.Instance
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return list, nil
}

func checksum(b []byte) string {
	h := xxhash.New()
	h.Write(b) //nolint:errcheck // a hash takes everything
	return hex.EncodeToString(h.Sum(nil))
}

// persist writes the list after it changed, until ctx ends, and then once more.
func (c *Client) persist(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			select {
			case <-c.unsave:
				c.save()
			default:
			}
			return
		case <-c.unsave:
		}
		t := time.NewTimer(cacheEvery)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
		c.save()
	}
}

func (c *Client) save() {
	c.mu.Lock()
	list, _ := c.known.list("")
	c.mu.Unlock()
	if list == nil {
		list = []roadbed.Instance{}
	}
	if err := writeCache(c.cfg.Cache, list); err != nil {
		c.log.Warn("the list last known is not kept on disk", "err", err)
	}
}

// writeCache replaces the file at once, so that a reader sees the old list or the new one.
func writeCache(dir string, list []roadbed.Instance) (err error) {
	body, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("encode instances: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, cacheName+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(append([]byte(checksum(body)+"\n"), body...))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, cacheName))
	}
	return err
}
