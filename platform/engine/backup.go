package engine

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/nats-io/nats.go/jetstream"
)

// A backup is a zstd-compressed tar of manifest.json, then streams/NAME.snap for each of its streams: JetStream's own
// snapshot format, which keeps revisions and times.
const (
	manifestName    = "manifest.json"
	manifestVersion = 1
	manifestLimit   = 4 << 20
)

// Manifest says what is in a backup.
type Manifest struct {
	Version int              `json:"version"`
	Time    time.Time        `json:"time"`
	Streams []ManifestStream `json:"streams"`
}

// ManifestStream is one JetStream stream of a backup: a table is "KV_" and its name, a stream "EV_" and its name.
type ManifestStream struct {
	Name     string          `json:"name"`
	Messages uint64          `json:"messages"`
	LastSeq  uint64          `json:"lastSeq"`
	Hash     string          `json:"hash"`  // SHA-256 over all messages: sequence, time, subject, deletion, data
	Bytes    int64           `json:"bytes"` // of the snapshot
	SHA256   string          `json:"sha256"`
	Config   json.RawMessage `json:"config"` // of the stream, as JetStream knows it
	State    json.RawMessage `json:"state"`
}

// Backup writes all state to w. Writes wait meanwhile, so that all tables and streams are of one moment. Before
// Backup returns it has restored the backup into a throw-away server and found every message there; if it fails, what
// it wrote to w is no backup.
//
// Only an embedded engine can be backed up.
func (e *Engine) Backup(ctx context.Context, w io.Writer) (Manifest, error) {
	m, err := e.backup(ctx, w)
	if err != nil {
		return Manifest{}, fmt.Errorf("engine: backup: %w", err)
	}
	return m, nil
}

func (e *Engine) backup(ctx context.Context, w io.Writer) (m Manifest, err error) {
	if e.server == nil {
		return m, fmt.Errorf("the state is not here but at %s; back it up there", e.cfg.URL)
	}
	tmp, err := os.MkdirTemp(e.cfg.Dir, "backup-*")
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if m, err = e.snapshotAll(ctx, tmp); err != nil {
		return m, err
	}
	if err := verify(ctx, m, tmp, filepath.Join(tmp, "proof"), false, e.log); err != nil {
		return m, fmt.Errorf("the backup does not restore: %w", err)
	}
	return m, writeBackup(w, m, tmp)
}

// snapshotAll writes each stream's snapshot into dir while writes wait.
func (e *Engine) snapshotAll(ctx context.Context, dir string) (Manifest, error) {
	e.gate.Lock()
	defer e.gate.Unlock()
	m := Manifest{Version: manifestVersion, Time: time.Now().UTC()}
	streams := e.js.ListStreams(ctx)
	for info := range streams.Info() {
		s, err := e.snapshotStream(ctx, info.Config.Name, filepath.Join(dir, info.Config.Name+".snap"))
		if err != nil {
			return m, fmt.Errorf("%s: %w", info.Config.Name, err)
		}
		m.Streams = append(m.Streams, s)
	}
	return m, streams.Err()
}

// snapshotStream retries when processes beside this one, which the gate does not stop, wrote in between.
func (e *Engine) snapshotStream(ctx context.Context, name, file string) (ManifestStream, error) {
	for range 5 {
		s, err := e.snapshotOnce(ctx, name, file)
		if err != nil {
			return s, err
		}
		var count, last uint64
		if s.Hash, count, last, err = hashStream(ctx, e, name); err != nil {
			return s, err
		}
		if count == s.Messages && (count == 0 || last <= s.LastSeq) {
			return s, nil
		}
	}
	return ManifestStream{}, fmt.Errorf("%w: other processes write to it all the time; back up when they are quiet", ErrUnavailable)
}

// snapshotOnce asks the server for a snapshot, which it sends in chunks that want an answer.
func (e *Engine) snapshotOnce(ctx context.Context, name, file string) (s ManifestStream, err error) {
	sub, err := e.nc.SubscribeSync(e.nc.NewInbox())
	if err != nil {
		return s, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // fails only when the connection is gone, and the subscription with it
	var answer struct {
		apiError
		Config json.RawMessage `json:"config"`
		State  json.RawMessage `json:"state"`
	}
	err = e.api(ctx, "STREAM.SNAPSHOT."+name, map[string]any{
		"deliver_subject": sub.Subject, "no_consumers": true, "jsck": true, "chunk_size": 256 << 10, "window_size": 4 << 20,
	}, &answer)
	if err != nil {
		return s, err
	}
	var state jetstream.StreamState
	if err := json.Unmarshal(answer.State, &state); err != nil {
		return s, fmt.Errorf("state of the snapshot: %w", err)
	}
	f, err := os.Create(file)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	s = ManifestStream{Name: name, Messages: state.Msgs, LastSeq: state.LastSeq, Config: answer.Config, State: answer.State}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return s, err
		}
		if len(m.Data) == 0 {
			if status := m.Header.Get("Status"); status != "" && status != "204" {
				return s, fmt.Errorf("snapshot broke off: %s %s", status, m.Header.Get("Description"))
			}
			s.SHA256 = hex.EncodeToString(sum.Sum(nil))
			return s, nil
		}
		n, err := io.MultiWriter(f, sum).Write(m.Data)
		s.Bytes += int64(n)
		if err != nil {
			return s, err
		}
		if m.Reply != "" {
			if err := m.Respond(nil); err != nil {
				return s, err
			}
		}
	}
}

// hashStream returns a hash over all messages of a stream, their number and the last one's sequence.
func hashStream(ctx context.Context, e *Engine, name string) (sum string, count, last uint64, err error) {
	h := sha256.New()
	for from := uint64(1); ; from = last + 1 {
		msgs, more, err := e.readSome(ctx, name, "", from, readMost)
		if err != nil {
			return "", 0, 0, err
		}
		for _, m := range msgs {
			hashMessage(h, m)
			count, last = count+1, m.seq
		}
		if !more || len(msgs) == 0 {
			return hex.EncodeToString(h.Sum(nil)), count, last, nil
		}
	}
}

func hashMessage(h hash.Hash, m message) {
	fmt.Fprintf(h, "%d %d %s %t %d\n", m.seq, m.time.UnixNano(), m.subject, m.deleted, len(m.data))
	h.Write(m.data)
}

// writeBackup writes the archive to w.
func writeBackup(w io.Writer, m Manifest, dir string) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	err = func() error {
		b, err := json.MarshalIndent(m, "", "  ")
		if err != nil {
			return err
		}
		if err := t.WriteHeader(&tar.Header{Name: manifestName, Size: int64(len(b)), Mode: 0o600, ModTime: m.Time}); err != nil {
			return err
		}
		if _, err := t.Write(b); err != nil {
			return err
		}
		for _, s := range m.Streams {
			if err := addFile(t, s, m.Time, filepath.Join(dir, s.Name+".snap")); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
		}
		return nil
	}()
	return errors.Join(err, t.Close(), z.Close())
}

func addFile(t *tar.Writer, s ManifestStream, at time.Time, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.WriteHeader(&tar.Header{Name: "streams/" + s.Name + ".snap", Size: s.Bytes, Mode: 0o600, ModTime: at}); err != nil {
		return err
	}
	_, err = io.Copy(t, f)
	return err
}

// Restore brings a backup into dir, which must be absent or empty, and returns when every message is there and on
// disk. If it fails it leaves dir empty.
func Restore(ctx context.Context, dir string, r io.Reader) (Manifest, error) {
	m, err := restore(ctx, dir, r)
	if err != nil {
		return Manifest{}, fmt.Errorf("engine: restore into %s: %w", dir, err)
	}
	return m, nil
}

func restore(ctx context.Context, dir string, r io.Reader) (m Manifest, err error) {
	empty, err := isEmptyDir(dir)
	if err != nil {
		return m, err
	}
	if !empty {
		return m, errors.New("the directory is not empty; name an empty one, or move what is there away")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, emptyDir(dir))
		}
	}()
	lock, err := lockDir(dir)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	tmp, err := os.MkdirTemp(dir, "restore-*")
	if err != nil {
		return m, err
	}
	if m, err = readBackup(r, tmp); err != nil {
		return m, err
	}
	if err := verify(ctx, m, tmp, dir, true, slog.New(slog.DiscardHandler)); err != nil {
		return m, err
	}
	return m, os.RemoveAll(tmp)
}

func emptyDir(dir string) error {
	names, err := os.ReadDir(dir)
	for _, n := range names {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, n.Name())))
	}
	return err
}

// readBackup unpacks an archive into dir and checks every file against the manifest.
func readBackup(r io.Reader, dir string) (Manifest, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return Manifest{}, err
	}
	defer z.Close()
	m, err := unpack(tar.NewReader(z), dir)
	if err != nil {
		return m, fmt.Errorf("this is no backup, or a damaged one: %w", err)
	}
	return m, nil
}

func unpack(t *tar.Reader, dir string) (m Manifest, err error) {
	h, err := t.Next()
	if err != nil {
		return m, err
	}
	if h.Name != manifestName || h.Size > manifestLimit {
		return m, fmt.Errorf("it starts with %q of %d bytes, not with its manifest", h.Name, h.Size)
	}
	if err := json.NewDecoder(t).Decode(&m); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	if m.Version != manifestVersion {
		return m, fmt.Errorf("its version is %d and this program reads %d", m.Version, manifestVersion)
	}
	for _, s := range m.Streams {
		if !plainName(s.Name) {
			return m, fmt.Errorf("stream name %q", s.Name)
		}
		h, err := t.Next()
		if err != nil {
			return m, fmt.Errorf("%s: %w", s.Name, err)
		}
		if want := "streams/" + s.Name + ".snap"; h.Name != want || h.Size != s.Bytes {
			return m, fmt.Errorf("it has %q of %d bytes where %q of %d should be", h.Name, h.Size, want, s.Bytes)
		}
		if err := unpackStream(t, s, filepath.Join(dir, s.Name+".snap")); err != nil {
			return m, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	if _, err := t.Next(); err != io.EOF {
		return m, errors.Join(errors.New("it has more than its manifest says"), err)
	}
	return m, nil
}

func unpackStream(r io.Reader, s ManifestStream, file string) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, sum), r); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != s.SHA256 {
		return fmt.Errorf("its checksum is %s, not %s", got, s.SHA256)
	}
	return nil
}

// verify restores the snapshots in from into a server on dir, and compares what it then holds with the manifest.
func verify(ctx context.Context, m Manifest, from, dir string, sync bool, log *slog.Logger) (err error) {
	e := &Engine{log: log, link: newLink()}
	e.ctx, e.cancel = context.WithCancel(ctx)
	defer e.Close() //nolint:errcheck // it holds no lock, which is all that can fail
	if e.server, err = startServer(ctx, dir, "", "", sync, log); err != nil {
		return err
	}
	if err := e.connect(""); err != nil {
		return err
	}
	for _, s := range m.Streams {
		if err := e.restoreStream(ctx, s, filepath.Join(from, s.Name+".snap")); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		sum, count, _, err := hashStream(ctx, e, s.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if count != s.Messages || sum != s.Hash {
			return fmt.Errorf("%s has %d messages with hash %s, and should have %d with %s", s.Name, count, sum, s.Messages, s.Hash)
		}
	}
	return nil
}

func (e *Engine) restoreStream(ctx context.Context, s ManifestStream, file string) error {
	var answer struct {
		apiError
		DeliverSubject string `json:"deliver_subject"`
	}
	if err := e.api(ctx, "STREAM.RESTORE."+s.Name, map[string]any{"config": s.Config, "state": s.State}, &answer); err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	chunk := make([]byte, 256<<10)
	for {
		n, err := io.ReadFull(f, chunk)
		if n > 0 {
			if err := e.sendChunk(ctx, answer.DeliverSubject, chunk[:n]); err != nil {
				return err
			}
			continue
		}
		if err != io.EOF {
			return err
		}
		return e.sendChunk(ctx, answer.DeliverSubject, nil) // the end
	}
}

// sendChunk sends one chunk of a snapshot; the answer to the last one comes when all is restored.
func (e *Engine) sendChunk(ctx context.Context, to string, chunk []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	m, err := e.nc.RequestWithContext(ctx, to, chunk)
	if err != nil || len(m.Data) == 0 {
		return err
	}
	var a apiError
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return fmt.Errorf("answer of the restore: %w", err)
	}
	return a.reason()
}

// apiError is the error in an answer of JetStream's API.
type apiError struct {
	Error *struct {
		Code        int    `json:"code"`
		Description string `json:"description"`
	} `json:"error"`
}

func (a apiError) reason() error {
	if a.Error == nil {
		return nil
	}
	return fmt.Errorf("the engine refused: %s (%d)", a.Error.Description, a.Error.Code)
}

// api asks JetStream's API. answer embeds an apiError.
func (e *Engine) api(ctx context.Context, what string, ask any, answer interface{ reason() error }) error {
	req, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m, err := e.nc.RequestWithContext(ctx, "$JS.API."+what, req)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(m.Data, answer); err != nil {
		return fmt.Errorf("answer of %s: %w", what, err)
	}
	return answer.reason()
}
