package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Want is what a reader knows of the report that it asked for.
type Want struct {
	App, Node string
	Now       time.Time
	Ahead     time.Duration // how far the clock of a node may be before this one's
}

var (
	// ErrOther is matched when a report is that of another app or node than was asked for.
	ErrOther = errors.New("report of something else")

	// ErrFuture is matched when a report names a time that is still to come.
	ErrFuture = errors.New("time is in the future")
)

// Parse reads the bytes of a report. The reasons of its errors are "limit" for bytes that
// are too many, "format" for what is no report, and "policy" for what is one, and not to
// be believed: those match ErrOther or ErrFuture. No error repeats more than a line of it,
// and nothing unprintable.
func Parse(data []byte, want Want) (*Report, error) {
	if len(data) > layout.MaxReport {
		return nil, reason.Errorf(reason.Limit, "report is longer than %d bytes", layout.MaxReport)
	}
	if !utf8.Valid(data) || !json.Valid(data) {
		return nil, bad("it is not one JSON document in UTF-8")
	}
	top, err := split("report", data)
	if err != nil {
		return nil, err
	}
	// The schema first: of another one nothing else is known.
	var schema string
	if err := json.Unmarshal(top["schema"], &schema); err != nil || schema != Schema {
		return nil, bad("schema is %s, want %q", brief(schema), Schema)
	}
	plain, err := known("report", data, reflect.TypeFor[Report]())
	if err != nil {
		return nil, reason.Wrap(reason.Format, err)
	}
	r := new(Report)
	if err := json.Unmarshal(plain, r); err != nil {
		return nil, bad("%s", layout.Brief(err.Error()))
	}
	if _, err := r.Encode(); err != nil {
		return nil, err
	}
	if err := r.judge(want); err != nil {
		return nil, err
	}
	return r, nil
}

// judge holds a well-formed report to what its reader knows.
func (r *Report) judge(want Want) error {
	if r.App != want.App || r.Node != want.Node {
		return reason.Errorf(reason.Policy, "%w: it is of node %q of app %q, want node %q of app %q", ErrOther, r.Node, r.App, want.Node, want.App)
	}
	latest := want.Now.Add(want.Ahead)
	for _, t := range r.past() {
		if t.at.After(latest) {
			return reason.Errorf(reason.Policy, "%w: %s is %s, and it is %s; is the clock of node %q right?", ErrFuture, t.what,
				t.at.Format(canon.TimeLayout), want.Now.UTC().Format(canon.TimeLayout), r.Node)
		}
	}
	return nil
}

type moment struct {
	what string
	at   canon.Time
}

// past returns the times that have passed when a report is written.
func (r *Report) past() []moment {
	times := []moment{{"written", r.Written}}
	add := func(what string, rel *Release) {
		if rel != nil {
			times = append(times, moment{what, rel.Since})
		}
	}
	add("since of desired", r.Desired)
	add("since of running", r.Running)
	add("since of last_good", r.LastGood)
	for i := range r.Blocked {
		add("since of blocked", &r.Blocked[i])
	}
	if r.Pin != nil {
		times = append(times, moment{"since of pin", r.Pin.Since})
	}
	if r.Failure != nil {
		times = append(times, moment{"at of failure", r.Failure.At})
	}
	return times
}

// known returns of a JSON value what the type t has a place for. encoding/json would take
// keys in any case and twice, and null for anything.
func known(what string, data json.RawMessage, t reflect.Type) (json.RawMessage, error) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case string(bytes.TrimSpace(data)) == "null":
		return nil, bad("%s is null", what)
	case t == reflect.TypeFor[canon.Time]():
		return data, nil
	case t.Kind() == reflect.Struct:
		return knownFields(what, data, t)
	case t.Kind() == reflect.Slice:
		return knownItems(what, data, t.Elem())
	}
	return data, nil
}

func knownFields(what string, data json.RawMessage, t reflect.Type) (json.RawMessage, error) {
	found, err := split(what, data)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.WriteByte('{')
	for i := range t.NumField() {
		key, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		value, ok := found[key]
		switch {
		case !ok && options == "":
			return nil, bad("%s has no field %q", what, key)
		case !ok:
			continue
		}
		plain, err := known(key, value, t.Field(i).Type)
		if err != nil {
			return nil, err
		}
		if out.Len() > 1 {
			out.WriteByte(',')
		}
		fmt.Fprintf(&out, "%q:%s", key, plain)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// split returns the fields of an object, each of which must be there once.
func split(what string, data json.RawMessage) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, bad("%s is not an object", what)
	}
	found := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return nil, bad("%s is not an object", what)
		}
		if _, twice := found[key]; twice {
			return nil, bad("%s has the field %s twice", what, brief(key))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, bad("%s: %s", what, layout.Brief(err.Error()))
		}
		found[key] = value
	}
	return found, nil
}

func knownItems(what string, data json.RawMessage, t reflect.Type) (json.RawMessage, error) {
	var items []json.RawMessage
	if err := json.Unmarshal(data, &items); err != nil {
		return nil, bad("%s is not a list", what)
	}
	plain := []json.RawMessage{}
	for _, item := range items {
		p, err := known(what, item, t)
		if err != nil {
			return nil, err
		}
		plain = append(plain, p)
	}
	return json.Marshal(plain)
}
