package fleet

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// The marks by which a process is known to be an instance of this data directory, and which one.
const (
	dataMark     = "ROADBED_DATA"
	instanceMark = "ROADBED_INSTANCE"
)

// pidRecord remembers one instance on disk, so that the next run can end what this one could not. It is written
// before the instance is started and again, with its pid, after.
type pidRecord struct {
	ID    string `json:"id"`
	PID   int    `json:"pid,omitempty"`
	Ticks uint64 `json:"ticks,omitempty"` // when the leader started, in clock ticks since boot
	Since uint64 `json:"since"`           // no process of the instance started before
	Boot  string `json:"boot"`            // after a restart of the machine nothing is left
}

// pidDir is where the records are: one file per instance.
type pidDir string

func (d pidDir) file(id string) string { return filepath.Join(string(d), id+".json") }

func (d pidDir) write(r pidRecord) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	// A torn file would be passed over by the sweep, so it must never be seen.
	tmp := d.file(r.ID) + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("remember instance %s: %w", r.ID, err)
	}
	if err := os.Rename(tmp, d.file(r.ID)); err != nil {
		return fmt.Errorf("remember instance %s: %w", r.ID, err)
	}
	return nil
}

func (d pidDir) remove(id string) error {
	if err := os.Remove(d.file(id)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("forget instance %s: %w", id, err)
	}
	return nil
}

// sweep ends what an earlier run on the same data left behind, and forgets it. A process is signalled only if its
// environment carries this directory's mark and a recorded instance's, and its pid and start fit the record.
func (d pidDir) sweep(data string, log *slog.Logger) error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return fmt.Errorf("look for instances of an earlier run: %w", err)
	}
	boot := bootID()
	left := make(map[string]pidRecord)
	var done []string
	for _, e := range entries {
		name := filepath.Join(string(d), e.Name())
		id, ok := strings.CutSuffix(strings.TrimSuffix(e.Name(), ".tmp"), ".json")
		if !ok || !instanceID.MatchString(id) {
			continue // not the fleet's
		}
		done = append(done, name)
		if strings.HasSuffix(name, ".json") {
			b, err := os.ReadFile(name)
			if err != nil {
				return fmt.Errorf("look for instances of an earlier run: %w", err)
			}
			var r pidRecord
			switch err := json.Unmarshal(b, &r); {
			case err != nil || r.ID != id:
				log.Warn("unreadable record of an instance of an earlier run; if the process still runs, it stays", "file", name, "err", err)
			case r.Boot == boot:
				left[id] = r
			}
		}
	}
	if len(left) > 0 {
		if killed := slayInstances(data, left); len(killed) > 0 {
			log.Warn("ended processes that an earlier run left behind", "pids", killed)
		}
	}
	for _, name := range done {
		if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("forget instances of an earlier run: %w", err)
		}
	}
	return nil
}
