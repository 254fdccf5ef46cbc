package api

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// Problem returns an error that is answered with status and, as its detail, a sentence a user can act on. Handlers of
// operations return it; plain handlers give it to [WriteProblem].
func Problem(status int, format string, args ...any) huma.StatusError {
	return huma.NewError(status, fmt.Sprintf(format, args...))
}

// WriteProblem answers r with err as an RFC 9457 problem detail. An error that carries no status is a 500.
func WriteProblem(w http.ResponseWriter, _ *http.Request, err error) {
	se, ok := err.(huma.StatusError)
	if !ok {
		se = huma.NewError(http.StatusInternalServerError, err.Error())
	}
	body, jerr := json.Marshal(se)
	if jerr != nil {
		http.Error(w, se.Error(), se.GetStatus())
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(se.GetStatus())
	w.Write(body) //nolint:errcheck // the client is gone if this fails
}

// WriteJSON answers with v and status 200. It is for plain handlers; operations return their value.
func WriteJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		WriteProblem(w, nil, fmt.Errorf("encode answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(body) //nolint:errcheck // the client is gone if this fails
}
