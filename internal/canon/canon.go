// Package canon is the canonical form of Sando's signed and stored JSON.
//
// A document is what json.Encoder with SetIndent("", "  ") and SetEscapeHTML(false)
// writes for a Go struct: two-space indent, fields in the order of the struct, map
// keys sorted, one newline at the end. Decode has a single rule of strictness: bytes
// that do not re-encode to themselves are malformed. That one rule refuses duplicate
// and case-variant keys, unknown fields, other white space, a byte order mark, a
// trailing document, numbers written as 1e3 or 5.0, and null.
//
// Beyond that, by value: integers lie in [0, 2^53); strings are valid UTF-8 without
// control, bidirectional, byte-order-mark or line-separator characters (a newline is
// allowed in PEM only); times are "2006-01-02T15:04:05Z".
//
// A field is written always, unless its struct tag says omitempty or omitzero. A
// field added later must be one of these, so that documents which do not use it stay
// readable by older readers.
package canon

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"
	"unicode"
	"unicode/utf8"
)

// ErrForm is matched by every error about bytes or values that are not canonical.
var ErrForm = errors.New("not in canonical form")

// PEM is a string in which newlines are allowed.
type PEM string

const maxInt = 1<<53 - 1

// TimeLayout is the one way a time is written.
const TimeLayout = "2006-01-02T15:04:05Z"

// Time is a time in UTC with a precision of one second. Its zero value is "no time";
// a field that may lack one carries the tag omitzero.
type Time struct{ time.Time }

// At returns t as a Time, cut to the second.
func At(t time.Time) Time { return Time{t.UTC().Truncate(time.Second)} }

// MarshalJSON writes the time in TimeLayout.
func (t Time) MarshalJSON() ([]byte, error) {
	return []byte(`"` + t.UTC().Format(TimeLayout) + `"`), nil
}

// UnmarshalJSON reads exactly TimeLayout.
func (t *Time) UnmarshalJSON(b []byte) error {
	v, err := time.Parse(`"`+TimeLayout+`"`, string(b))
	if err != nil {
		return fmt.Errorf("time %s is not written as %s", b, TimeLayout)
	}
	t.Time = v
	return nil
}

// Now is the current time as a Time.
func Now() Time { return At(time.Now()) }

// Encode returns the canonical bytes of v. It fails with ErrForm when v holds a
// value that the form does not have.
func Encode(v any) ([]byte, error) {
	if err := checkValue(reflect.ValueOf(v), ""); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForm, err)
	}
	return buf.Bytes(), nil
}

// Decode parses data into v, a pointer to a struct with a field "schema" that must
// have the value schema. Every error matches ErrForm.
func Decode(data []byte, schema string, v any) error {
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	if head.Schema != schema {
		return fmt.Errorf("%w: schema is %q, want %q", ErrForm, head.Schema, schema)
	}
	return Parse(data, v)
}

// Parse is Decode for a document that carries no schema.
func Parse(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one document", ErrForm)
	}
	again, err := Encode(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("%w: byte %d differs from the canonical encoding", ErrForm, firstDifference(again, data))
	}
	return nil
}

func firstDifference(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

var (
	typeTime = reflect.TypeFor[Time]()
	typePEM  = reflect.TypeFor[PEM]()
)

func checkValue(v reflect.Value, path string) error {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return fmt.Errorf("%w: %s is null", ErrForm, path)
		}
		return checkValue(v.Elem(), path)
	case reflect.Struct:
		if v.Type() == typeTime {
			return nil
		}
		return checkStruct(v, path)
	case reflect.Slice:
		if v.IsNil() {
			return fmt.Errorf("%w: %s is null", ErrForm, path)
		}
		for i := range v.Len() {
			if err := checkValue(v.Index(i), fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		return checkMap(v, path)
	case reflect.String:
		return checkText(v.String(), path, v.Type() == typePEM)
	case reflect.Int, reflect.Int64:
		if n := v.Int(); n < 0 || n > maxInt {
			return fmt.Errorf("%w: %s is %d, want 0 to 2^53-1", ErrForm, path, n)
		}
	case reflect.Bool:
	default:
		return fmt.Errorf("%w: %s is of the kind %s", ErrForm, path, v.Kind())
	}
	return nil
}

func checkStruct(v reflect.Value, path string) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if omitted(f.Tag.Get("json")) && v.Field(i).IsZero() {
			continue
		}
		if err := checkValue(v.Field(i), path+"."+f.Name); err != nil {
			return err
		}
	}
	return nil
}

func checkMap(v reflect.Value, path string) error {
	if v.IsNil() {
		return fmt.Errorf("%w: %s is null", ErrForm, path)
	}
	for it := v.MapRange(); it.Next(); {
		if err := checkText(it.Key().String(), path, false); err != nil {
			return err
		}
		if err := checkValue(it.Value(), fmt.Sprintf("%s[%q]", path, it.Key().String())); err != nil {
			return err
		}
	}
	return nil
}

func omitted(tag string) bool {
	return bytes.Contains([]byte(tag), []byte(",omit"))
}

func checkText(s, path string, newlines bool) error {
	if err := Text(s, newlines); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// Text reports, as an error that matches ErrForm, whether s holds something that no
// string of a document may hold.
func Text(s string, newlines bool) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%w: %q is not UTF-8", ErrForm, s)
	}
	for _, r := range s {
		if Unprintable(r) && (r != '\n' || !newlines) {
			return fmt.Errorf("%w: %q holds %U", ErrForm, s, r)
		}
	}
	return nil
}

// Unprintable reports whether r can change how the text around it is shown or split:
// control and bidirectional characters, the byte order mark, line separators.
func Unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) ||
		r == '\uFEFF' || r == '\u2028' || r == '\u2029'
}
