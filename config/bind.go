package config

import (
	"cmp"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bind returns a handle of a struct whose fields are properties: each field of type bool, string, any int, uint or
// float, [time.Duration], []string, map[string]string, or with an UnmarshalText method. A field's key is prefix and its
// name with a small first letter, or what its tag says: `config:"db.timeout"`; a tag "-" leaves it alone. The fields of
// a struct within are under its name and a dot, those of an embedded one beside the others.
//
// A field that has no property is as in def. Get returns the same pointer until something changes, then another one:
// what it points to is never altered, and must not be. A text that a field cannot be read from leaves that field as it
// was.
//
// If *T has a method Validate() error it decides about each new struct; one that it refuses is not seen, the last good
// one stays, and the error is logged and told to the server, with the keys of the fields that would have changed.
// [Between] helps to write one. Validate and UnmarshalText must not use p, which waits for them.
//
// Bind fails if T is no such struct or its Validate refuses def: mistakes of the program, not of a property.
func Bind[T any](p *Properties, prefix string, def T) (*Value[*T], error) {
	fields, err := fieldsOf(reflect.TypeFor[T](), prefix, nil)
	if err != nil {
		return nil, fmt.Errorf("config: bind %T to %s: %w", def, prefix, err)
	}
	if err := validate(&def); err != nil {
		return nil, fmt.Errorf("config: bind %T to %s: its defaults are refused: %w", def, prefix, err)
	}
	read := func(raw map[string]string, last *T) (next *T, flaws []flaw) {
		defer func() { // code of the field's type, or Validate
			if r := recover(); r != nil {
				next, flaws = last, append(flaws, flaw{prefix, "", fmt.Sprintf("it panicked: %v", r)})
			}
		}()
		next = new(T)
		*next = def
		for _, f := range fields {
			text, ok := lookup(raw, f.key)
			if !ok {
				continue
			}
			field := reflect.ValueOf(next).Elem().FieldByIndex(f.index)
			if err := f.set(field, text); err != nil {
				field.Set(reflect.ValueOf(last).Elem().FieldByIndex(f.index))
				flaws = append(flaws, flaw{f.key, text, err.Error()})
			}
		}
		if err := validate(next); err != nil {
			return last, append(flaws, refused(fields, raw, next, last, err)...)
		}
		return next, flaws
	}
	v := &Value[*T]{key: prefix, def: &def, read: read, same: func(a, b *T) bool { return reflect.DeepEqual(a, b) }}
	return share(p, handleKey{prefix, bound{reflect.TypeFor[T](), fmt.Sprintf("%#v", def)}}, v), nil
}

// Must returns v, and panics if there is an error: for a [Bind] whose struct and defaults are the program's own.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// refused blames what differs between a struct that was refused and the one that stays.
func refused(fields []boundField, raw map[string]string, next, last any, err error) []flaw {
	var flaws []flaw
	a, b := reflect.ValueOf(next).Elem(), reflect.ValueOf(last).Elem()
	for _, f := range fields {
		if !reflect.DeepEqual(a.FieldByIndex(f.index).Interface(), b.FieldByIndex(f.index).Interface()) {
			text, _ := lookup(raw, f.key) // none if it was deleted
			flaws = append(flaws, flaw{f.key, text, err.Error()})
		}
	}
	return flaws
}

// bound is the default of a struct's handle, made comparable.
type bound struct {
	of  reflect.Type
	def string
}

func validate(v any) error {
	if v, ok := v.(interface{ Validate() error }); ok {
		return v.Validate()
	}
	return nil
}

// Between returns nil if v is from lo to hi, else an error that says so of name.
func Between[T cmp.Ordered](name string, v, lo, hi T) error {
	if v >= lo && v <= hi { // never true of NaN
		return nil
	}
	return fmt.Errorf("%s is %v; it must be from %v to %v", name, v, lo, hi)
}

// boundField is a field with its property.
type boundField struct {
	key   string
	index []int
	set   func(field reflect.Value, text string) error
}

func fieldsOf(t reflect.Type, prefix string, at []int) ([]boundField, error) {
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%s is no struct", t)
	}
	var out []boundField
	for i := range t.NumField() {
		f := t.Field(i)
		index := append(at[:len(at):len(at)], i)
		name, tagged := f.Tag.Lookup("config")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
			if tagged && name != "-" {
				return nil, fmt.Errorf("field %s has a tag but is not exported", f.Name)
			}
			continue
		case name == "":
			first, size := utf8.DecodeRuneInString(f.Name)
			name = string(unicode.ToLower(first)) + f.Name[size:]
		}
		if set := setter(f.Type); set != nil && f.IsExported() {
			out = append(out, boundField{prefix + name, index, set})
			continue
		}
		below := prefix + name + "."
		if f.Anonymous && !tagged {
			below = prefix
		}
		if f.Type.Kind() != reflect.Struct {
			return nil, fmt.Errorf("field %s is a %s, which no property can fill; leave it alone with the tag `config:\"-\"`", f.Name, f.Type)
		}
		sub, err := fieldsOf(f.Type, below, index)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		out = append(out, sub...)
	}
	if len(out) == 0 {
		return nil, errors.New("it has no field that a property could fill")
	}
	return out, nil
}

// setter returns what reads a text into a field of type t, nil if nothing does.
func setter(t reflect.Type) func(reflect.Value, string) error {
	switch {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return func(f reflect.Value, text string) error {
			return f.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
		}
	case t == reflect.TypeFor[time.Duration]():
		return setTo(ParseDuration)
	case t == reflect.TypeFor[[]string]():
		return setTo(ParseList)
	case t == reflect.TypeFor[map[string]string]():
		return setTo(ParseMap)
	}
	switch t.Kind() {
	case reflect.String:
		return func(f reflect.Value, text string) error { f.SetString(text); return nil }
	case reflect.Bool:
		return func(f reflect.Value, text string) error {
			b, err := ParseBool(text)
			f.SetBool(b)
			return err
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(f reflect.Value, text string) error {
			n, err := parseInt(text, t.Bits())
			f.SetInt(n)
			return err
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return func(f reflect.Value, text string) error {
			n, err := parseUint(text, t.Bits())
			f.SetUint(n)
			return err
		}
	case reflect.Float32, reflect.Float64:
		return func(f reflect.Value, text string) error {
			n, err := parseFloat(text, t.Bits())
			f.SetFloat(n)
			return err
		}
	}
	return nil
}

func setTo[T any](parse func(string) (T, error)) func(reflect.Value, string) error {
	return func(f reflect.Value, text string) error {
		v, err := parse(text)
		f.Set(reflect.ValueOf(&v).Elem())
		return err
	}
}

// quoted makes one text of several, such that no two lists make the same.
func quoted(texts []string) string {
	return strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%q", texts), "["), "]")
}
