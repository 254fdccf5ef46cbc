package api

import (
	"context"
	"net/http"
	"net/url"

	"github.com/roadbed/roadbed"
)

// Headers by which a client says who asks and why. On loopback they are believed; with a token, the token decides
// whether anybody may ask at all.
const (
	ActorHeader = "Roadbed-Actor"
	WhyHeader   = "Roadbed-Why" // percent-encoded when it is not ASCII
)

type askedBy struct{ actor, why string }

type askedByKey struct{}

// identify keeps who asks, and why, with the request.
func identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		by := askedBy{actor: r.Header.Get(ActorHeader), why: r.Header.Get(WhyHeader)}
		if by.actor == "" {
			by.actor = "anonymous"
		}
		if why, err := url.PathUnescape(by.why); err == nil {
			by.why = why
		}
		if len(by.actor) > 128 || len(by.why) > 2048 {
			WriteProblem(w, r, Problem(http.StatusBadRequest, "%s may have 128 bytes and %s 2048", ActorHeader, WhyHeader))
			return
		}
		next.ServeHTTP(w, r.WithContext(As(r.Context(), by.actor, by.why)))
	})
}

// As returns a context in which [Change] names actor and why.
func As(ctx context.Context, actor, why string) context.Context {
	return context.WithValue(ctx, askedByKey{}, askedBy{actor, why})
}

// Change returns a ledger entry for action on resource by whoever asked in ctx, for the reason they gave.
func Change(ctx context.Context, action, resource string) roadbed.Change {
	by, ok := ctx.Value(askedByKey{}).(askedBy)
	if !ok {
		by.actor = "roadbed"
	}
	return roadbed.Change{Actor: by.actor, Why: by.why, Action: action, Resource: resource, Result: roadbed.Succeeded}
}
