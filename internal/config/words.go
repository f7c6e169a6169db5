package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	gotoml "github.com/pelletier/go-toml/v2"
)

// syntax says where a file is not TOML.
func syntax(err error) error {
	var at *gotoml.DecodeError
	if !errors.As(err, &at) {
		return err
	}
	row, column := at.Position()
	return fmt.Errorf("line %d, column %d: %s", row, column, strings.TrimPrefix(at.Error(), "toml: "))
}

// mistyped says of a value that does not go into a struct like into what is there, and what
// is wanted.
func mistyped(err error, raw map[string]any, into any, src Source) error {
	var at *mapstructure.DecodeError
	if !errors.As(err, &at) {
		return errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	key := at.Name()
	want := kind(typeAt(reflect.TypeOf(into), key))
	found := valueAt(raw, key)
	if want == "" || found == nil {
		return fmt.Errorf("%s: %w%s", key, at.Unwrap(), src.origin(key))
	}
	there := fmt.Sprint(found)
	switch reflect.ValueOf(found).Kind() {
	case reflect.String:
		there = strconv.Quote(there)
	case reflect.Map:
		there = "a table"
	case reflect.Slice:
		there = "a list"
	}
	return fmt.Errorf("%s: %s is not %s%s", key, there, want, src.origin(key))
}

// unknown says which key is not known, and which one may have been meant.
func unknown(key string, into any, src Source) error {
	parent, last := "", key
	if dot := strings.LastIndexByte(key, '.'); dot >= 0 {
		parent, last = key[:dot], key[dot+1:]
	}
	near, best := "", max(1, len(last)/3)+1
	if t := typeAt(reflect.TypeOf(into), parent); t != nil && t.Kind() == reflect.Struct {
		for n := range t.NumField() {
			name := t.Field(n).Tag.Get("koanf")
			if d := distance(last, name); name != "" && d < best {
				near, best = name, d
			}
		}
	}
	if near == "" {
		return fmt.Errorf("unknown key %q%s", key, src.origin(key))
	}
	return fmt.Errorf("unknown key %q: did you mean %q?%s", key, strings.TrimSuffix(key, last)+near, src.origin(key))
}

// origin says where a key comes from, if that is not the file.
func (s Source) origin(key string) string {
	if _, ok := s.Flags[key]; ok {
		return " (given as a flag)"
	}
	name := EnvPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "__"))
	if _, ok := os.LookupEnv(name); ok {
		return fmt.Sprintf(" (environment variable %s)", name)
	}
	return ""
}

// steps cuts "hook[0].run" into "hook", "[0]", "run".
func steps(key string) []string { return regexp.MustCompile(`\[\d+\]|[^.\[]+`).FindAllString(key, -1) }

// typeAt returns the type of what key names in a struct of the type t, nil if there is none.
func typeAt(t reflect.Type, key string) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	for _, step := range steps(key) {
		switch {
		case step[0] == '[' && t.Kind() == reflect.Slice:
			t = t.Elem()
		case t.Kind() == reflect.Struct:
			var found reflect.Type
			for n := range t.NumField() {
				if t.Field(n).Tag.Get("koanf") == step {
					found = t.Field(n).Type
				}
			}
			if found == nil {
				return nil
			}
			t = found
		default:
			return nil
		}
	}
	return t
}

// valueAt returns what key names in what was read, nil if it is not there.
func valueAt(v any, key string) any {
	for _, step := range steps(key) {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			n, err := strconv.Atoi(strings.Trim(step, "[]"))
			if err != nil || n >= len(at) {
				return nil
			}
			v = at[n]
		default:
			return nil
		}
	}
	return v
}

// kind says in words what a type wants.
func kind(t reflect.Type) string {
	switch {
	case t == nil:
		return ""
	case t == reflect.TypeFor[time.Duration]():
		return `a duration, such as "60s"`
	}
	switch t.Kind() {
	case reflect.String:
		return "a text in quotes"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "a table"
	}
	return ""
}

// distance counts the letters that are to be put in, left out or changed to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := before
			if a[i] != b[j] {
				cost = 1 + min(before, row[j], row[j+1])
			}
			before, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
