package ipc

import (
	"time"

	"github.com/roadbed/roadbed/ipc/limit"
)

// leased is a call's place under the adaptive limit of its command.
type leased struct {
	limiter *limit.Limiter
	permit  limit.Permit
	dropped bool // the callee refused it
}

// lease asks the command's adaptive limit; nil is a refusal. Commands without one never come here.
func (c *Command) lease(now int64) *leased {
	l := c.adaptive.Load()
	if l == nil { // it was switched off at this moment
		return &leased{}
	}
	p, ok := l.Acquire(now)
	if !ok {
		return nil
	}
	return &leased{limiter: l, permit: p}
}

// end gives the place back. What the call says about the callee depends on how it ended.
func (l *leased) end(e event, now int64) {
	switch {
	case l.limiter == nil:
	case l.dropped, e == timeout:
		l.limiter.Drop(l.permit, now)
	case e == success:
		l.limiter.Success(l.permit, now)
	default:
		l.limiter.Ignore(l.permit)
	}
}

// isLimited reports whether the settings ask for an adaptive limit.
func (s *Settings) isLimited() bool { return s.Limit != LimitDefault && s.Limit != LimitOff }

// limitError reports why the settings of the adaptive limit make no sense together; nil if they do, or there is none.
func (s *Settings) limitError() error {
	if !s.isLimited() {
		return nil
	}
	_, err := s.limiter()
	return err
}

// adapt puts the settings of the adaptive limit in force. What is in flight stays counted while a limit lasts.
func (c *Command) adapt(before, now *settings) {
	if !now.isLimited() {
		c.adaptive.Store(nil)
		return
	}
	l := c.adaptive.Load()
	if l != nil && before != nil && before.limitOnly() == now.limitOnly() {
		return
	}
	set, err := now.limiter()
	switch {
	case err != nil: // cannot be: resolve has tried it
	case l != nil:
		err = l.Configure(set)
	default:
		if l, err = limit.New(set); err == nil {
			c.adaptive.Store(l)
			c.engine.meter.GaugeFunc("ipc.limit", func() float64 { return float64(l.Limit()) }, "ipc.side", "client", "ipc.command", c.name)
		}
	}
	if err != nil {
		c.engine.log.Error("settings of a command's limit make no sense; the others stay", "command", c.name, "err", err)
	}
}

// limitOnly returns what the limit is made of.
func (s *Settings) limitOnly() Settings {
	return Settings{Limit: s.Limit, LimitInitial: s.LimitInitial, LimitMin: s.LimitMin, LimitMax: s.LimitMax, LimitTimeout: s.LimitTimeout}
}

// limiter returns what the settings say of the limiter. It fails if they make no sense together.
func (s *Settings) limiter() (c limit.Config, err error) {
	switch s.Limit {
	case LimitVegas:
		c.Algorithm, err = limit.NewVegas(limit.VegasConfig{Initial: s.LimitInitial, Min: s.LimitMin, Max: s.LimitMax})
	case LimitGradient2:
		c.Algorithm, err = limit.NewGradient2(limit.Gradient2Config{Initial: s.LimitInitial, Min: s.LimitMin, Max: s.LimitMax})
	case LimitFixed:
		n := s.LimitInitial
		if n == 0 {
			n = fixedLimit
		}
		c.Algorithm = limit.Fixed(n)
	default:
		c.Algorithm, err = limit.NewAIMD(limit.AIMDConfig{Initial: s.LimitInitial, Min: s.LimitMin, Max: s.LimitMax, Timeout: s.LimitTimeout})
	}
	return c, err
}

const (
	fixedLimit      = 20
	maxLimitTimeout = time.Hour
)
