package listen

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roadbed/roadbed/platform/edge/filter"
)

// Calm limits what one HTTP/2 connection may ask without sending requests; beyond it the client is told
// ENHANCE_YOUR_CALM and the connection is closed.
type Calm struct {
	Resets        int           // streams that the client resets within ResetWindow, if they are more than half of those it opened: 200
	ResetWindow   time.Duration // 30 s
	Continuations int           // CONTINUATION frames in a row: 16
	Controls      int           // frames of each kind of PING, SETTINGS, PRIORITY, and DATA of nothing, in a second: 100
}

func (c Calm) orDefault() Calm {
	if c.Resets == 0 {
		c.Resets = 200
	}
	if c.ResetWindow == 0 {
		c.ResetWindow = 30 * time.Second
	}
	if c.Continuations == 0 {
		c.Continuations = 16
	}
	if c.Controls == 0 {
		c.Controls = 100
	}
	return c
}

// calmConn reads along what a client sends and ends the connection when it is abusive. Its Read is called by one goroutine.
type calmConn struct {
	net.Conn
	client  *filter.Client
	closed  chan struct{}
	closing sync.Once
	limit   Calm
	preface int // bytes of the preface that are still to come
	head    [9]byte
	have    int // bytes of head
	skip    int // bytes of the frame's payload still to come

	continuations int
	streams       int // opened within the window
	resets        int
	window        time.Time // when the window began
	second        time.Time
	controls      [10]int // by type of frame, this second
	abuse         error
	told          atomic.Bool // something longer than control frames was written
	lastStream    uint32
}

const clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func newCalmConn(c net.Conn, limit Calm) *calmConn {
	now := time.Now()
	return &calmConn{Conn: c, closed: make(chan struct{}), limit: limit.orDefault(), preface: len(clientPreface), window: now, second: now}
}

// Read reads on, unless the client has been abusive.
func (c *calmConn) Read(p []byte) (int, error) {
	if c.abuse != nil {
		return 0, c.abuse
	}
	n, err := c.Conn.Read(p)
	if why := c.follow(p[:n]); why != nil {
		c.abuse = why
		c.goAway()
		return 0, why
	}
	return n, err
}

// Close closes the connection.
func (c *calmConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Write sends to the client.
func (c *calmConn) Write(p []byte) (int, error) {
	if len(p) > 64 && !c.told.Load() {
		c.told.Store(true)
	}
	return c.Conn.Write(p)
}

const (
	frameData         = 0
	frameHeaders      = 1
	framePriority     = 2
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameContinuation = 9

	flagEndStream = 1
)

// follow looks at the heads of the frames in b.
func (c *calmConn) follow(b []byte) error {
	for len(b) > 0 {
		switch {
		case c.preface > 0:
			n := min(c.preface, len(b))
			c.preface -= n
			b = b[n:]
		case c.skip > 0:
			n := min(c.skip, len(b))
			c.skip -= n
			b = b[n:]
		default:
			n := copy(c.head[c.have:], b)
			c.have += n
			b = b[n:]
			if c.have == len(c.head) {
				c.have = 0
				c.skip = int(c.head[0])<<16 | int(c.head[1])<<8 | int(c.head[2])
				if err := c.frame(c.head[3], c.head[4], c.skip, binary.BigEndian.Uint32(c.head[5:])&^(1<<31)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// frame counts one frame.
func (c *calmConn) frame(kind, flags byte, length int, stream uint32) error {
	if kind != frameContinuation {
		c.continuations = 0
	}
	switch kind {
	case frameHeaders:
		if stream > c.lastStream {
			c.lastStream = stream
			c.streams++
		}
	case frameContinuation:
		if c.continuations++; c.continuations > c.limit.Continuations {
			return fmt.Errorf("more than %d CONTINUATION frames in a row", c.limit.Continuations)
		}
	case frameReset:
		now := time.Now()
		if now.Sub(c.window) > c.limit.ResetWindow {
			c.window, c.resets, c.streams = now, 0, 0
		}
		if c.resets++; c.resets > c.limit.Resets && 2*c.resets > c.streams {
			return fmt.Errorf("more than %d streams reset within %s, and more than half of those opened", c.limit.Resets, c.limit.ResetWindow)
		}
	case framePing:
		if c.told.Swap(false) {
			c.controls[framePing] = 0 // who is being sent a lot measures the way by pings, as gRPC does
		}
		return c.control(kind)
	case frameSettings, framePriority:
		return c.control(kind)
	case frameData:
		if length == 0 && flags&flagEndStream == 0 {
			return c.control(kind)
		}
	}
	return nil
}

func (c *calmConn) control(kind byte) error {
	now := time.Now()
	if now.Sub(c.second) > time.Second {
		c.second = now
		clear(c.controls[:])
	}
	if c.controls[kind]++; c.controls[kind] > c.limit.Controls {
		return fmt.Errorf("more than %d frames of type %d in a second", c.limit.Controls, kind)
	}
	return nil
}

// goAway tells the client why it is cut off. A frame of the server's may be under way; then this one makes no sense to
// the client, who is cut off all the same.
func (c *calmConn) goAway() {
	var f [17]byte
	f[2] = 8 // length
	f[3] = 7 // GOAWAY
	binary.BigEndian.PutUint32(f[9:], c.lastStream)
	f[16] = 0xb                                          // ENHANCE_YOUR_CALM
	c.Conn.SetWriteDeadline(time.Now().Add(time.Second)) //nolint:errcheck // it is closed in any case
	c.Conn.Write(f[:])                                   //nolint:errcheck // it is closed in any case
	c.Close()
}
