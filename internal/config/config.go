// Package config loads a program's configuration: a TOML file, overridden by the
// environment, overridden by flags. It is strict: a key that the program does not
// know is an error, and so is a value of another type.
//
// An environment variable names a key with two underscores between levels:
// SANDO__HEALTH__START_TIMEOUT is health.start_timeout. A list is separated by commas.
// Names with single underscores only, such as SANDO_CONFIG, are not configuration.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	gotoml "github.com/pelletier/go-toml/v2"

	"makenot.work/sando/internal/reason"
)

// EnvPrefix begins the names of the environment variables that are configuration.
const EnvPrefix = "SANDO__"

// Source is where configuration comes from.
type Source struct {
	File  string         // a TOML file
	Flags map[string]any // keys such as "storage.url", only those that were given; values may be Text
	// NotYet lists keys that the format has and this version of the program does not
	// act on. They are refused rather than ignored.
	NotYet []string
}

// Text is a value whose type its key decides, as of an environment variable or of a
// flag: "60s", "3", "true", "a,b".
type Text string

// Load reads the configuration into the struct that into points to, whose fields
// carry `koanf` tags; what the source does not set keeps its value. Every error has
// the reason "config" and names the file.
func Load(src Source, into any) error {
	k := koanf.New(".")
	data, err := os.ReadFile(src.File)
	if err != nil {
		return reason.Errorf(reason.Config, "read config: %w", err)
	}
	if err := k.Load(rawbytes.Provider(data), toml.Parser()); err != nil {
		return reason.Errorf(reason.Config, "config %q: %w", src.File, syntax(err))
	}
	if err := k.Load(env.Provider(".", env.Opt{Prefix: EnvPrefix, TransformFunc: envKey}), nil); err != nil {
		return reason.Errorf(reason.Config, "config from environment: %w", err)
	}
	if err := k.Load(confmap.Provider(src.Flags, "."), nil); err != nil {
		return reason.Errorf(reason.Config, "config from flags: %w", err)
	}
	for _, key := range src.NotYet {
		if k.Exists(key) {
			return reason.Errorf(reason.Config, "config %q: %q is not in this version; remove it", src.File, key)
		}
	}
	if err := decode(k, into, src); err != nil {
		return reason.Errorf(reason.Config, "config %q: %w", src.File, err)
	}
	return nil
}

// Peek returns the texts that a source has under keys, as far as it can be read, of a file
// that is no TOML the lines before its error: for finding the node whose configuration Load
// refuses, and for nothing else.
func Peek(src Source, keys ...string) map[string]string {
	k := koanf.New(".")
	if data, err := os.ReadFile(src.File); err == nil {
		var broken *gotoml.DecodeError
		if errors.As(k.Load(rawbytes.Provider(data), toml.Parser()), &broken) {
			row, _ := broken.Position()
			_ = k.Load(rawbytes.Provider(before(data, row)), toml.Parser())
		}
	}
	_ = k.Load(env.Provider(".", env.Opt{Prefix: EnvPrefix, TransformFunc: envKey}), nil)
	_ = k.Load(confmap.Provider(src.Flags, "."), nil)
	found := map[string]string{}
	for _, key := range keys {
		switch v := k.Get(key).(type) {
		case string:
			found[key] = v
		case Text:
			found[key] = string(v)
		}
	}
	return found
}

// before returns the lines of data before the n-th.
func before(data []byte, n int) []byte {
	lines := bytes.SplitAfter(data, []byte("\n"))
	return bytes.Join(lines[:min(max(n-1, 0), len(lines))], nil)
}

func envKey(name, value string) (string, any) {
	key := strings.ToLower(strings.TrimPrefix(name, EnvPrefix))
	return strings.ReplaceAll(key, "__", "."), Text(value)
}

func decode(k *koanf.Koanf, into any, src Source) error {
	var meta mapstructure.Metadata
	dec, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:     into,
		TagName:    "koanf",
		Metadata:   &meta,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(convertEnv, refuseNumber, mapstructure.StringToTimeDurationHookFunc()),
		// Keys are written exactly as documented.
		MatchName: func(key, field string) bool { return key == field },
	})
	if err != nil {
		return err
	}
	if err := dec.Decode(k.Raw()); err != nil {
		return mistyped(err, k.Raw(), into, src)
	}
	if len(meta.Unused) > 0 {
		slices.Sort(meta.Unused)
		return unknown(meta.Unused[0], into, src)
	}
	return nil
}

// refuseNumber keeps a number from being read as so many nanoseconds.
func refuseNumber(from, to reflect.Type, data any) (any, error) {
	if to == reflect.TypeFor[time.Duration]() && from.Kind() != reflect.String {
		return nil, fmt.Errorf("%v is not a duration; write \"%vs\"", data, data)
	}
	return data, nil
}

// convertEnv gives the text of an environment variable the type that its key has.
func convertEnv(from, to reflect.Type, data any) (any, error) {
	if from != reflect.TypeFor[Text]() {
		return data, nil
	}
	s := string(data.(Text))
	switch {
	case to == reflect.TypeFor[time.Duration]():
		return s, nil // as in the file
	case to.Kind() == reflect.Bool:
		return strconv.ParseBool(s)
	case to.Kind() == reflect.Int, to.Kind() == reflect.Int64:
		return strconv.ParseInt(s, 10, 64)
	case to.Kind() == reflect.Slice && s == "":
		return []string{}, nil
	case to.Kind() == reflect.Slice:
		return strings.Split(s, ","), nil
	}
	return s, nil
}
