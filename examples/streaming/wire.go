package streaming

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// problem is an error as the services tell it: RFC 9457 without the members nobody here needs.
type problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

func (p *problem) Error() string { return p.Detail }

func refuse(status int, format string, args ...any) *problem {
	return &problem{Status: status, Title: http.StatusText(status), Detail: fmt.Sprintf(format, args...)}
}

// answer writes v as JSON, or err as a problem: with its own status when it is one, otherwise 500.
func answer(w http.ResponseWriter, v any, err error) {
	status := http.StatusOK
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		var p *problem
		if !errors.As(err, &p) {
			p = refuse(http.StatusInternalServerError, "%v", err)
		}
		v, status = p, p.Status
		w.Header().Set("Content-Type", "application/problem+json")
	}
	body, err := json.Marshal(v)
	if err != nil { // a type of ours that has no JSON: a defect
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}

// handle makes a handler of a function from request to answer.
func handle[T any](serve func(*http.Request) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := serve(r)
		answer(w, v, err)
	}
}

// maxBody bounds what one service reads of another's answer.
const maxBody = 1 << 20

// read decodes an answer of another service. An answer other than 200 is a [*problem] with that status.
func read[T any](resp *http.Response) (v T, err error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return v, fmt.Errorf("%s: read answer: %w", resp.Request.URL, err)
	}
	if resp.StatusCode != http.StatusOK {
		p := &problem{}
		if json.Unmarshal(body, p) != nil || p.Detail == "" {
			p.Detail = fmt.Sprintf("%s answered %s", resp.Request.URL.Host, resp.Status)
		}
		p.Status, p.Title = resp.StatusCode, http.StatusText(resp.StatusCode)
		return v, p
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return v, fmt.Errorf("%s: answer is not what was expected: %w", resp.Request.URL, err)
	}
	return v, nil
}

// whole reads a number between least and most from a query, def when it is absent.
func whole(r *http.Request, key string, def, least, most int) (int, error) {
	text := r.URL.Query().Get(key)
	if text == "" {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, refuse(http.StatusBadRequest, "%s=%q is not a number from %d to %d", key, text, least, most)
	}
	return n, nil
}
