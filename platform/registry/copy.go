package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

var errNoApplications = errors.New("there are no applications in it")

// readApplications reads what a Eureka server answers to GET apps/, as JSON, and hands over each instance. One that
// cannot be made sense of is left out. After an error, the instances before it have been handed over. The hash that comes
// back is what the server counted.
func readApplications(in io.Reader, take func(*record)) (hash string, err error) {
	a := applications{d: json.NewDecoder(in), take: take}
	if err := a.read("applications"); err != nil {
		return "", fmt.Errorf("read applications: %w", err)
	}
	if !a.seen {
		return "", fmt.Errorf("read applications: %w", errNoApplications)
	}
	return a.hash, nil
}

// applications is a document that is being read.
type applications struct {
	d    *json.Decoder
	take func(*record)
	raw  json.RawMessage
	seen bool
	hash string
}

// inside is what is looked for in which part of the document.
var inside = map[string]string{"applications": "application", "application": "instance"}

// read reads the next value, an object with a member called name or an array of such objects.
func (a *applications) read(name string) error {
	tok, err := a.d.Token()
	if err != nil {
		return err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil // null, and whatever else holds nothing
	}
	for a.d.More() {
		if delim == '[' {
			if err := a.read(name); err != nil {
				return err
			}
			continue
		}
		tok, err := a.d.Token()
		if err != nil {
			return err
		}
		switch {
		case tok == "apps__hashcode":
			err = a.d.Decode(&a.hash)
		case tok != name:
			err = a.d.Decode(&a.raw) // skip it
		case name == "instance":
			err = a.instances()
		default:
			a.seen = true
			err = a.read(inside[name])
		}
		if err != nil {
			return err
		}
	}
	_, err = a.d.Token() // its end
	return err
}

// instances reads an array of instances, or one that stands alone.
func (a *applications) instances() error {
	if err := a.d.Decode(&a.raw); err != nil {
		return err
	}
	list := []json.RawMessage{a.raw}
	if a.raw[0] == '[' {
		if err := json.Unmarshal(a.raw, &list); err != nil {
			return err
		}
	}
	for _, raw := range list {
		if r, err := decodeJSON(raw); err == nil {
			a.take(r)
		}
	}
	return nil
}
