// Package engine keeps the platform's durable shared state: tables, streams and leases. At Netflix this work was done
// by ZooKeeper, Cassandra and Kafka behind each control service.
//
// An [Engine] embeds a NATS server with JetStream inside the process, without any port, or is a client of one that
// another process embeds. Rooms see neither; they see three things:
//
//   - A [Table] is a map from keys to JSON values with compare-and-set, history and watches. Its reads come from a
//     copy in memory, so that they cost what a map lookup costs and never wait for the engine, not even while it is
//     away.
//   - A [Stream] is an append-only log.
//   - A [Lease] says who may act, with an epoch that only ever grows, to fence off whoever acted before.
//
// Beside these, [Engine.Publish] and [Engine.Answer] pass messages that nobody keeps.
//
// A program opens one engine, and from it as many tables and streams as it likes; closing the engine ends them all:
//
//	e, err := engine.Open(ctx, engine.Config{Dir: ".roadbed"})
//	groups, err := engine.OpenTable[roadbed.ServerGroup](ctx, e, "fleet", 5)
//	rev, err := groups.Create(ctx, "api-v000", group)
//	g, ok := groups.Get("api-v000") // the write is there: reads see the table's own writes
//
// # What it promises
//   - A write that returned survives kill -9 and power loss: it is synced to disk before it is acknowledged.
//   - A write that returned is seen by Get, List and new watches of the same Table.
//   - Two writers that update one key from the same revision never both succeed.
//   - Reads, lists and watches go on while the engine is away; a client starts from its last snapshot on disk.
//   - Watches and Follow lose nothing across reconnects. Follow repeats nothing.
//   - A nearly full disk stops writes with [ErrUnavailable] before it can damage anything; reads go on.
//   - A restored backup holds exactly what was backed up, revisions included, or Restore fails.
//
// # What it does not
//   - It does not roll back: a write that ends with [ErrUnavailable] after it was sent may or may not have happened,
//     and the error says so.
//   - It does not change several keys at once.
//   - A reader may see a write shortly before its writer is told of it.
//   - It replicates nothing yet: one node holds the state.
//   - It is not for hot data: a write costs a disk sync, shared by the writes that arrive together.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Why an operation did not happen. Errors of this package wrap one of these, with a sentence around it.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("exists already")
	ErrConflict    = errors.New("changed by somebody else")
	ErrUnavailable = errors.New("unavailable")
	ErrTooLarge    = errors.New("too large")
)

// MaxValue is the largest value of a table or record of a stream, in bytes.
const MaxValue = 1 << 20

// patience is how long a write waits for the engine when its context has no deadline.
const patience = 5 * time.Second

// Config says where the state is. The zero value does not work: set Dir, or URL, or both.
type Config struct {
	// Dir holds the state when the engine is embedded, which it is when URL is empty. A client keeps the snapshots
	// there from which it starts while the engine is away; empty means none.
	Dir string

	URL    string // e.g. "nats://127.0.0.1:4222": use that engine instead of embedding one; it may be away
	Token  string // shared secret of Listen and URL
	Listen string // e.g. "127.0.0.1:4222": let other processes on this machine in; empty opens no port at all
	Log    *slog.Logger
}

// Engine is the platform's durable state, or a connection to it. Its methods may be called from many goroutines.
type Engine struct {
	cfg    Config
	log    *slog.Logger
	server *server.Server // nil in client mode
	lock   *os.File       // held while the server uses Dir; nil in client mode
	nc     *nats.Conn
	js     jetstream.JetStream
	link   *link
	disk   *diskGuard

	ctx    context.Context // ends at Close; tables, streams and leases live in it
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once

	gate sync.RWMutex // held for writing while a backup needs the state to stand still

	mu         sync.Mutex
	closed     bool
	committers map[string]*committer    // by JetStream stream name; guarded by mu
	ensured    map[string]chan struct{} // by JetStream stream name: held while it is created; guarded by mu
	leases     *Table[leaseRecord]      // opened by the first Acquire; guarded by leaseMu
	leaseMu    sync.Mutex
}

// Open opens the state in c.Dir, which it creates if absent, and returns when it is ready; or, given a URL, returns
// at once with a client that connects, and reconnects, in the background for ever.
//
// It fails if another process has the directory open; the error names it.
func Open(ctx context.Context, c Config) (*Engine, error) {
	e, err := open(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("engine: %w", err)
	}
	return e, nil
}

func open(ctx context.Context, c Config) (*Engine, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	e := &Engine{
		cfg:        c,
		log:        c.Log.With("room", "engine"),
		link:       newLink(),
		committers: make(map[string]*committer),
		ensured:    make(map[string]chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.start(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Engine) start(ctx context.Context) error {
	if e.cfg.URL != "" {
		if e.cfg.Listen != "" {
			return fmt.Errorf("a client of %s cannot listen on %s; set one of the two", e.cfg.URL, e.cfg.Listen)
		}
		return e.connect(e.cfg.URL)
	}
	if e.cfg.Dir == "" {
		return errors.New("no directory for the state is named; set one, e.g. .roadbed, or the URL of another engine")
	}
	if err := localOnly(e.cfg.Listen); err != nil {
		return err
	}
	if err := os.MkdirAll(e.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	var err error
	if e.lock, err = lockDir(e.cfg.Dir); err != nil {
		return err
	}
	e.disk = newDiskGuard(e.cfg.Dir)
	if e.server, err = startServer(ctx, e.cfg.Dir, e.cfg.Listen, e.cfg.Token, true, e.log); err != nil {
		return err
	}
	return e.connect("")
}

// localOnly refuses addresses that other machines can reach: the engine's port speaks in clear.
func localOnly(listen string) error {
	if listen == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("listen address %q: %w", listen, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("listening on %s would show the state to the network, in clear; use 127.0.0.1", listen)
	}
	return nil
}

// connect makes the connection: in-process when url is empty.
func (e *Engine) connect(url string) error {
	opts := []nats.Option{
		nats.Name("roadbed"),
		nats.Token(e.cfg.Token),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(100 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now fails now; the committer decides what is sent again
		nats.IgnoreAuthErrorAbort(),
		nats.Timeout(2 * time.Second),
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.NoCallbacksAfterClientClose(),
		nats.SyncQueueLen(readMost + 24), // its default, 64k, takes 512 KB for each question asked
		nats.ConnectHandler(func(*nats.Conn) { e.link.connected() }),
		nats.ReconnectHandler(func(*nats.Conn) {
			e.log.Info("engine is back", "url", e.cfg.URL)
			e.link.connected()
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			e.link.disconnected()
			if e.ctx.Err() == nil {
				e.log.Warn("engine is away; reads go on from memory, writes wait", "url", e.cfg.URL, "err", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			e.log.Warn("engine connection", "err", err)
		}),
	}
	if e.server != nil {
		opts = append(opts, nats.InProcessServer(e.server))
	}
	var err error
	if e.nc, err = nats.Connect(url, opts...); err != nil {
		return fmt.Errorf("connect to %q: %w", url, err)
	}
	if e.nc.IsConnected() {
		e.link.connected()
	}
	if e.js, err = jetstream.New(e.nc); err != nil {
		return fmt.Errorf("connect to %q: %w", url, err)
	}
	return nil
}

// Close ends every table, stream and lease of the engine, and the embedded server. Acknowledged writes are on disk
// before Close is called; others fail with [ErrUnavailable].
func (e *Engine) Close() error {
	var err error
	e.once.Do(func() {
		e.mu.Lock()
		e.closed = true
		e.mu.Unlock()
		e.cancel()
		e.wg.Wait()
		if e.nc != nil {
			e.nc.Close()
		}
		e.link.disconnected()
		stopServer(e.server)
		if e.lock != nil {
			err = e.lock.Close()
		}
	})
	return err
}

// Health returns nil, or why writes are refused now.
func (e *Engine) Health() error {
	if err := e.writable(); err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	if !e.link.up() {
		return fmt.Errorf("engine: %w", e.away())
	}
	return nil
}

// writable says whether a write may start: not after Close, and not on a full disk.
func (e *Engine) writable() error {
	if e.ctx.Err() != nil {
		return fmt.Errorf("%w: the engine is closed", ErrUnavailable)
	}
	if e.disk != nil {
		return e.disk.check()
	}
	return nil
}

func (e *Engine) away() error {
	return fmt.Errorf("%w: no connection to %s; it is tried again all the time, see whether that platform runs", ErrUnavailable, e.cfg.URL)
}

// Go runs f in a goroutine of the engine: ctx ends when the engine is closed, and Close waits for f. Rooms use it for
// work that lives exactly as long as the state it works on. It reports false, without running f, after Close.
func (e *Engine) Go(f func(ctx context.Context)) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.wg.Go(func() { f(e.ctx) })
	return true
}

// bounded returns ctx with a deadline.
func (e *Engine) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, patience)
}

// ensure creates the JetStream stream of cfg or brings it to cfg, one caller at a time.
func (e *Engine) ensure(ctx context.Context, cfg jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	e.mu.Lock()
	turn := e.ensured[cfg.Name]
	if turn == nil {
		turn = make(chan struct{}, 1)
		e.ensured[cfg.Name] = turn
	}
	e.mu.Unlock()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if e.server != nil {
		// Close waits: a server that is stopped while it creates a stream leaves some of it running.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
	}
	s, err := e.js.CreateOrUpdateStream(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", cfg.Name, err)
	}
	return s.CachedInfo(), nil
}

// viewDir is where a client keeps snapshots; empty for none.
func (e *Engine) viewDir() string {
	if e.cfg.URL == "" || e.cfg.Dir == "" {
		return ""
	}
	return filepath.Join(e.cfg.Dir, "views")
}

// isEmptyDir reports whether dir is absent or has nothing in it.
func isEmptyDir(dir string) (bool, error) {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return len(names) == 0, err
}

// Log returns the engine's logger.
func (e *Engine) Log() *slog.Logger { return e.log }
