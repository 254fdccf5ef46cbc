package engine

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// Publish sends data, with headers, to whoever listens on subject at this moment; nobody keeps it. It does not wait for
// anybody, and fails with [ErrUnavailable] while the engine is away. A subject is made of parts separated by single
// dots; see [SubjectPart].
func (e *Engine) Publish(subject string, headers map[string]string, data []byte) error {
	m := nats.NewMsg(subject)
	for k, v := range headers {
		m.Header.Set(k, v)
	}
	m.Data = data
	if err := e.nc.PublishMsg(m); err != nil {
		return fmt.Errorf("engine: publish on %s: %w: %w", subject, ErrUnavailable, err)
	}
	return nil
}

// Answer has answer called for each request on subject, whose last part may be "*", until stop is called or the engine
// is closed. Of all who answer on a subject in the name of the same group, one gets each request. The calls are in
// order and must not block for long.
func (e *Engine) Answer(subject, group string, answer func(subject string, question []byte) []byte) (stop func(), err error) {
	sub, err := e.nc.QueueSubscribe(subject, group, func(m *nats.Msg) {
		if m.Reply != "" {
			m.Respond(answer(m.Subject, m.Data)) //nolint:errcheck // whoever asked asks again
		}
	})
	if err != nil {
		return nil, fmt.Errorf("engine: answer on %s: %w: %w", subject, ErrUnavailable, err)
	}
	return func() {
		sub.Unsubscribe() //nolint:errcheck // it fails only if the connection is closed already
	}, nil
}

// SubjectPart makes a part of a subject of any text: what is neither a letter, a digit, "-" nor "_" is written as "%"
// and two hexadecimal digits, and nothing as "-".
func SubjectPart(s string) string {
	if s == "" {
		return "-"
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; alnum(c) || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
