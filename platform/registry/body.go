package registry

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	bodyLimit  = 1 << 20  // bytes of one registration, inflated
	batchLimit = 64 << 20 // bytes of many, inflated
)

// readBody reads a request's body into UTF-8, inflated. With an error comes the status to answer.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) (body string, status int, err error) {
	charset, err := charsetOf(r.Header.Get("Content-Type"))
	if err != nil {
		return "", http.StatusUnsupportedMediaType, err
	}
	var in io.Reader = http.MaxBytesReader(w, r.Body, limit)
	switch encoding := strings.ToLower(r.Header.Get("Content-Encoding")); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return "", badBody(err), fmt.Errorf("inflate: %w", err)
		}
		in = io.LimitReader(z, limit+1)
	default:
		return "", http.StatusUnsupportedMediaType, fmt.Errorf("content encoding %q is not supported; send gzip or none", encoding)
	}
	b, err := readAll(in, min(r.ContentLength, bodyLimit))
	switch {
	case err != nil:
		return "", badBody(err), fmt.Errorf("read body: %w", err)
	case int64(len(b)) > limit:
		return "", http.StatusRequestEntityTooLarge, fmt.Errorf("a body may have %d bytes", limit)
	}
	body = textOf(b) // nobody else has b
	if charset == "iso-8859-1" {
		return latin1(body), 0, nil
	}
	return body, 0, nil
}

// readAll reads in to its end. It allocates once if there are no more than hint bytes.
func readAll(in io.Reader, hint int64) ([]byte, error) {
	b := make([]byte, 0, max(hint, 0)+512) // and some to see the end
	for {
		n, err := in.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		case len(b) == cap(b):
			b = slices.Grow(b, len(b))
		}
	}
}

func badBody(err error) int {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}

// charsetOf returns the charset that a content type names, "" if none.
func charsetOf(contentType string) (string, error) {
	if !strings.Contains(contentType, ";") {
		return "", nil
	}
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", nil // clients have sent stranger types and meant JSON
	}
	switch charset := strings.ToLower(params["charset"]); charset {
	case "", "utf-8", "utf8", "us-ascii":
		return "", nil
	case "iso-8859-1", "latin1":
		return "iso-8859-1", nil
	default:
		return "", fmt.Errorf("charset %q is not supported; send UTF-8", charset)
	}
}

// latin1 makes UTF-8 of the bytes of ISO-8859-1, which are the first 256 characters of Unicode.
func latin1(s string) string {
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		b = utf8.AppendRune(b, rune(s[i]))
	}
	return string(b)
}

// readRecord reads a registration. With an error comes the status to answer.
func readRecord(w http.ResponseWriter, r *http.Request) (*record, int, error) {
	body, status, err := readBody(w, r, bodyLimit)
	if err != nil {
		return nil, status, err
	}
	media, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	decode := readJSON
	if strings.Contains(media, "xml") || !strings.Contains(media, "json") && looksLikeXML(body) {
		decode = func(body string) (*record, error) { return decodeXML([]byte(body)) }
	}
	rec, err := decode(body)
	if err != nil {
		return nil, http.StatusBadRequest, err
	}
	return rec, 0, nil
}

func looksLikeXML(body string) bool {
	return strings.HasPrefix(strings.TrimLeft(body[:min(len(body), 64)], " \t\r\n\uFEFF"), "<")
}
