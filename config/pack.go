package config

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Bounds of values, in bytes. A text longer than MaxValue is a value when it is packed, and no longer than MaxPacked then;
// see [Pack].
const (
	MaxValue  = 64 << 10
	MaxPacked = 768 << 10
	maxText   = 64 << 20 // that a packed value may have
)

// packed is what each packed value begins with: the head of gzip, in base64.
const packed = "H4sI"

// Pack returns text as the value of a property of type gzip: compressed, in base64. Documents of a few MiB fit so into one
// property, and are so in force as a whole or not at all.
func Pack(text string) string {
	var b bytes.Buffer
	lines := base64.NewEncoder(base64.StdEncoding, &b)
	z, err := gzip.NewWriterLevel(lines, gzip.BestCompression)
	if err == nil {
		_, err = io.WriteString(z, text)
	}
	if err = errors.Join(err, z.Close(), lines.Close()); err != nil {
		panic(err) // memory takes everything
	}
	return b.String()
}

// Packed reports whether value looks as if [Pack] had made it.
func Packed(value string) bool { return strings.HasPrefix(value, packed) }

// Unpack returns the text of a value that [Pack] has made, or anybody else who knows gzip and base64. It fails if it is
// neither, holds more than 64 MiB, or a text that is not UTF-8.
func Unpack(value string) (string, error) {
	z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(value)))
	if err != nil {
		return "", fmt.Errorf("it is not gzip in base64: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, maxText+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("it is not gzip in base64: %w", err)
	case len(text) > maxText:
		return "", fmt.Errorf("it unpacks to more than %d bytes", maxText)
	case !utf8.Valid(text):
		return "", errors.New("it unpacks to what is not UTF-8")
	}
	return string(text), nil
}
