package canon_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
)

const schema = "test/v1"

// doc has one field of each kind that a document may have.
type doc struct {
	Schema string               `json:"schema"`
	Text   string               `json:"text"`
	Count  int64                `json:"count"`
	Small  int                  `json:"small"`
	Flag   bool                 `json:"flag"`
	When   canon.Time           `json:"when"`
	Until  canon.Time           `json:"until,omitzero"`
	Note   string               `json:"note,omitempty"`
	List   []string             `json:"list"`
	Keys   map[string]canon.PEM `json:"keys"`
	Inner  inner                `json:"inner"`
	Ptr    *inner               `json:"ptr"`
}

type inner struct {
	Name string   `json:"name"`
	More []string `json:"more,omitempty"`
}

func valid() doc {
	return doc{
		Schema: schema, Text: "a <b> & c/d é", Count: 1<<53 - 1, Small: 7, Flag: true,
		When:  canon.At(time.Date(2026, 6, 3, 4, 53, 56, 999, time.FixedZone("", 2*3600))),
		Until: canon.At(time.Date(2026, 6, 17, 2, 53, 56, 0, time.UTC)),
		Note:  "why", List: []string{"x", "y"},
		Keys:  map[string]canon.PEM{"k2": "two\n", "k1": "one\ntwo\n"},
		Inner: inner{Name: "in", More: []string{"m"}}, Ptr: &inner{Name: "p"},
	}
}

const golden = `{
  "schema": "test/v1",
  "text": "a <b> & c/d é",
  "count": 9007199254740991,
  "small": 7,
  "flag": true,
  "when": "2026-06-03T02:53:56Z",
  "until": "2026-06-17T02:53:56Z",
  "note": "why",
  "list": [
    "x",
    "y"
  ],
  "keys": {
    "k1": "one\ntwo\n",
    "k2": "two\n"
  },
  "inner": {
    "name": "in",
    "more": [
      "m"
    ]
  },
  "ptr": {
    "name": "p"
  }
}
`

func parse(data []byte) ([]byte, error) {
	var d doc
	if err := canon.Decode(data, schema, &d); err != nil {
		return nil, reason.Errorf(reason.Format, "%w", err)
	}
	return canon.Encode(&d)
}

func TestGolden(t *testing.T) {
	d := valid()
	got, err := canon.Encode(&d)
	if err != nil || string(got) != golden {
		t.Fatalf("Encode: %v\n%s\nwant:\n%s", err, got, golden)
	}
}

func TestForm(t *testing.T) {
	d := valid()
	d.Keys = map[string]canon.PEM{strings.Repeat("a", 64): "PUBLIC KEY\n"}
	data, err := canon.Encode(&d)
	if err != nil {
		t.Fatal(err)
	}
	canontest.Run(t, canontest.Document{Golden: data, Optional: []string{"until", "note"}, Parse: parse})
}

func TestDecodeRefuses(t *testing.T) {
	for _, test := range []struct{ name, old, new, want string }{
		{"schema of another kind", `test/v1`, `test/v2`, `schema is "test/v2", want "test/v1"`},
		{"unknown field", `"small"`, "\"x\": 1,\n  \"small\"", `unknown field "x"`},
		{"keys of a map out of order", "\"k1\": \"one\\ntwo\\n\",\n    \"k2\": \"two\\n\"", "\"k2\": \"two\\n\",\n    \"k1\": \"one\\ntwo\\n\"", "differs from the canonical"},
		{"fields out of order", "\"small\": 7,\n  \"flag\": true", "\"flag\": true,\n  \"small\": 7", "differs from the canonical"},
		{"null for a list", "[\n    \"x\",\n    \"y\"\n  ]", "null", ".List is null"},
		{"null in a list", `    "y"`, `    null`, "differs from the canonical"},
		{"null for a map", "{\n    \"k1\": \"one\\ntwo\\n\",\n    \"k2\": \"two\\n\"\n  }", "null", ".Keys is null"},
		{"null for a struct", "{\n    \"name\": \"in\",\n    \"more\": [\n      \"m\"\n    ]\n  }", "null", "differs from the canonical"},
		{"null for a pointer", "{\n    \"name\": \"p\"\n  }", "null", ".Ptr is null"},
		{"empty list where it is omitted", "\n      \"m\"\n    ", "", "differs from the canonical"},
		{"empty string where it is omitted", `"why"`, `""`, "differs from the canonical"},
		{"zero time where it is omitted", "2026-06-17T02:53:56Z", "0001-01-01T00:00:00Z", "differs from the canonical"},
		{"empty list over two lines", "[\n    \"x\",\n    \"y\"\n  ]", "[\n  ]", "differs from the canonical"},
		{"time with a fraction", "02:53:56Z\",\n  \"until", "02:53:56.0Z\",\n  \"until", "differs from the canonical"},
		{"time with an offset", "2026-06-03T02:53:56Z", "2026-06-03T02:53:56+00:00", "is not written as"},
		{"time with a small z", "2026-06-03T02:53:56Z", "2026-06-03T02:53:56z", "is not written as"},
		{"time without a T", "2026-06-03T02:53:56Z", "2026-06-03 02:53:56Z", "is not written as"},
		{"leap second", "2026-06-03T02:53:56Z", "2026-06-03T02:53:60Z", "is not written as"},
		{"day that does not exist", "2026-06-17", "2026-02-30", "is not written as"},
		{"time as a number", `"2026-06-03T02:53:56Z"`, `1780455236`, "is not written as"},
		{"time with an escape", "2026-06-03T02:53:56Z", `2026-06-03T02:53:56\u005a`, "is not written as"},
		{"string for a truth value", "true", `"true"`, "cannot unmarshal"},
		{"2^53", "9007199254740991", "9007199254740992", "want 0 to 2^53-1"},
		{"tab in a PEM", `"two\n"`, `"two\t\n"`, "holds U+0009"},
		{"newline in the key of a map", `"k2"`, `"k2\n"`, "holds U+000A"},
		{"newline in a list", `"x"`, `"x\n"`, ".List[0]"},
		{"bidi in an inner struct", `"in"`, "\"in\u202e\"", ".Inner.Name"},
		{"C1 control", `"in"`, "\"in\u0085\"", "holds U+0085"},
		{"replacement for broken UTF-8", `"in"`, "\"in\xff\"", "differs from the canonical"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parse(canontest.Edit(t, []byte(golden), test.old, test.new))
			if !errors.Is(err, canon.ErrForm) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error is %v, want ErrForm with %q", err, test.want)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*doc)
		want   string
	}{
		{"negative number", func(d *doc) { d.Count = -1 }, ".Count is -1"},
		{"number too large", func(d *doc) { d.Count = 1 << 53 }, ".Count is 9007199254740992"},
		{"small number too large", func(d *doc) { d.Small = math.MaxInt }, ".Small is"},
		{"nil list", func(d *doc) { d.List = nil }, ".List is null"},
		{"nil map", func(d *doc) { d.Keys = nil }, ".Keys is null"},
		{"nil pointer", func(d *doc) { d.Ptr = nil }, ".Ptr is null"},
		{"control character", func(d *doc) { d.Text = "a\x1bb" }, "holds U+001B"},
		{"newline", func(d *doc) { d.Text = "a\nb" }, "holds U+000A"},
		{"not UTF-8", func(d *doc) { d.Text = "a\xff" }, "is not UTF-8"},
		{"in an optional field", func(d *doc) { d.Note = "a\u2028b" }, "holds U+2028"},
		{"in a PEM", func(d *doc) { d.Keys["k1"] = "a\rb" }, "holds U+000D"},
		{"in a map's key", func(d *doc) { d.Keys["a\ufeffb"] = "" }, "holds U+FEFF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := valid()
			test.change(&d)
			data, err := canon.Encode(&d)
			if !errors.Is(err, canon.ErrForm) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error is %v, want ErrForm with %q; wrote %s", err, test.want, data)
			}
		})
	}
}

// A type that the form does not have is a mistake in code; it must not go unseen.
func TestEncodeRefusesTypes(t *testing.T) {
	for _, v := range []any{
		struct{ F float64 }{1}, struct{ B []byte }{[]byte("x")}, struct{ A any }{1}, struct{ U uint64 }{1},
	} {
		if data, err := canon.Encode(v); !errors.Is(err, canon.ErrForm) {
			t.Errorf("Encode(%#v) = %s, %v, want ErrForm", v, data, err)
		}
	}
}

func TestUnprintable(t *testing.T) {
	for _, r := range "\x00\a\b\t\n\v\f\r\x1b\x1f\x7f\u0080\u0085\u009f\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff" {
		if !canon.Unprintable(r) {
			t.Errorf("Unprintable(%U) = false", r)
		}
	}
	for _, r := range " ~aé\u00a0日\U0001f600\u200b\ufffd" {
		if canon.Unprintable(r) {
			t.Errorf("Unprintable(%U) = true", r)
		}
	}
}

func TestAt(t *testing.T) {
	at := canon.At(time.Date(2026, 1, 1, 1, 2, 3, 999999999, time.FixedZone("", 3600)))
	if got := at.Format(canon.TimeLayout); got != "2026-01-01T00:02:03Z" || at.Nanosecond() != 0 {
		t.Errorf("At = %v", at)
	}
}
