// Package canontest holds a kind of document to the canonical form: it takes golden
// bytes that parse, changes one thing at a time, and expects each change to be refused.
//
// The changes are made to lines that hold one field with a string or a number, so they
// need nothing but the golden bytes. What is special to a kind of document, such as its
// sorted lists, is for the tests beside it.
package canontest

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

// Document is a kind of document.
type Document struct {
	Golden []byte // canonical, with every optional field in it
	// Optional are the keys that are omitted when empty, and only these.
	Optional []string
	// Parse reads a document and returns what it encodes to again.
	Parse func(data []byte) (again []byte, err error)
}

// Edit returns data with old, which must be there exactly once, replaced by new.
func Edit(t testing.TB, data []byte, old, new string) []byte {
	t.Helper()
	if n := bytes.Count(data, []byte(old)); n != 1 {
		t.Fatalf("%q is there %d times, want once, in:\n%s", old, n, data)
	}
	return bytes.Replace(data, []byte(old), []byte(new), 1)
}

// Run tests d.
func Run(t *testing.T, d Document) {
	again, err := d.Parse(d.Golden)
	if err != nil {
		t.Fatalf("golden bytes: %v", err)
	}
	if !bytes.Equal(again, d.Golden) {
		t.Fatalf("golden bytes encode to other bytes:\n%s\nwant:\n%s", again, d.Golden)
	}
	t.Run("whole", func(t *testing.T) {
		for name, data := range whole(d.Golden) {
			d.refuse(t, name, data)
		}
	})
	fields := fieldLine.FindAllSubmatchIndex(d.Golden, -1)
	if len(fields) < 5 {
		t.Fatalf("golden bytes have %d lines with a field", len(fields))
	}
	for i, at := range fields {
		f := field{golden: d.Golden, at: at}
		t.Run(fmt.Sprintf("%s-%d", f.key(), i), func(t *testing.T) { d.runField(t, f) })
	}
}

func (d Document) refuse(t *testing.T, name string, data []byte) {
	t.Helper()
	_, err := d.Parse(data)
	if !errors.Is(err, canon.ErrForm) || reason.Of(err) != reason.Format {
		t.Errorf("%s: error is %v (%s), want one that matches canon.ErrForm, with reason format", name, err, reason.Of(err))
	}
}

// whole returns changes of the document as a whole.
func whole(golden []byte) map[string][]byte {
	text := string(golden)
	body := strings.TrimSuffix(text, "\n")
	replaced := func(old, new string) []byte { return []byte(strings.ReplaceAll(text, old, new)) }
	return map[string][]byte{
		"no newline at the end":     []byte(body),
		"two newlines at the end":   []byte(text + "\n"),
		"white space in front":      []byte(" " + text),
		"line ends of DOS":          replaced("\n", "\r\n"),
		"tabs":                      replaced("  ", "\t"),
		"four spaces":               replaced("  ", "    "),
		"compact":                   regexp.MustCompile(`\n *`).ReplaceAll(golden, nil),
		"no space behind colons":    replaced(`": `, `":`),
		"byte order mark":           []byte("\ufeff" + text),
		"UTF-16":                    utf16(text),
		"a second document":         []byte(text + text),
		"text behind the document":  []byte(text + "x"),
		"a NUL behind the document": []byte(text + "\x00"),
		"a comma before the end":    []byte(strings.TrimSuffix(body, "\n}") + ",\n}\n"),
		"a comment":                 []byte("// hello\n" + text),
		"unknown field in front":    []byte("{\n  \"aaa\": 1," + strings.TrimPrefix(text, "{")),
		"unknown field at the end":  []byte(strings.TrimSuffix(body, "\n}") + ",\n  \"zzz\": 1\n}\n"),
		"unknown empty field":       []byte(strings.TrimSuffix(body, "\n}") + ",\n  \"\": null\n}\n"),
		"deep nesting": []byte(strings.TrimSuffix(body, "\n}") + ",\n  \"zzz\": " +
			strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n}\n"),
		"inside of a list": []byte("[\n" + body + "\n]\n"),
		"empty":            nil,
		"newline":          []byte("\n"),
		"null":             []byte("null\n"),
		"list":             []byte("[]\n"),
		"empty object":     []byte("{}\n"),
		"string":           []byte("\"x\"\n"),
		"number":           []byte("1\n"),
		"first half":       golden[:len(golden)/2],
	}
}

func utf16(text string) []byte {
	var out []byte
	for _, r := range text {
		out = append(out, byte(r), byte(r>>8))
	}
	return out
}

// fieldLine is a line with a key and a string or a number.
var fieldLine = regexp.MustCompile(`(?m)^ *"([^"]+)": ("(?:[^"\\]|\\.)*"|[0-9]+)(,?)\n`)

type field struct {
	golden []byte
	at     []int
}

func (f field) group(i int) string { return string(f.golden[f.at[2*i]:f.at[2*i+1]]) }
func (f field) line() string       { return f.group(0) }
func (f field) key() string        { return f.group(1) }
func (f field) value() string      { return f.group(2) }

func (f field) with(line string) []byte {
	return slices.Concat(f.golden[:f.at[0]], []byte(line), f.golden[f.at[1]:])
}

func (f field) withValue(v string) []byte {
	return slices.Concat(f.golden[:f.at[4]], []byte(v), f.golden[f.at[5]:])
}

func (f field) withKey(k string) []byte {
	return slices.Concat(f.golden[:f.at[2]], []byte(k), f.golden[f.at[3]:])
}

// without leaves the line out, and the comma before it when it was the last.
func (f field) without() []byte {
	if f.group(3) == "," {
		return f.with("")
	}
	head := bytes.TrimSuffix(f.golden[:f.at[0]], []byte(",\n"))
	return slices.Concat(head, []byte("\n"), f.golden[f.at[1]:])
}

func (d Document) runField(t *testing.T, f field) {
	line := strings.TrimSuffix(strings.TrimSuffix(f.line(), "\n"), ",")
	d.refuse(t, "null", f.withValue("null"))
	d.refuse(t, "there twice", f.with(line+",\n"+f.line()))
	d.refuse(t, "there twice, the first null", f.with(strings.Replace(line, f.value(), "null", 1)+",\n"+f.line()))
	d.refuse(t, "two spaces behind the colon", f.withValue(" "+f.value()))
	d.refuse(t, "as a list", f.withValue("["+f.value()+"]"))
	d.refuse(t, "as an object", f.withValue("{}"))
	d.refuse(t, "as a truth value", f.withValue("true"))
	d.refuse(t, "key with an escape", f.withKey(fmt.Sprintf(`\u%04x`, f.key()[0])+f.key()[1:]))
	if len(f.key()) < 20 { // not a key id, which is the key of a map
		upper := strings.ToUpper(f.key()[:1]) + f.key()[1:]
		d.refuse(t, "key in another case", f.withKey(upper))
		d.refuse(t, "key in two cases", f.with(line+",\n"+strings.Replace(f.line(), f.key(), upper, 1)))
		d.runMissing(t, f)
	}
	if f.value()[0] == '"' {
		d.runString(t, f)
	} else {
		d.runNumber(t, f)
	}
}

// runMissing leaves the field out, which only an optional one may be.
func (d Document) runMissing(t *testing.T, f field) {
	if !slices.Contains(d.Optional, f.key()) {
		d.refuse(t, "missing", f.without())
		return
	}
	if again, err := d.Parse(f.without()); err != nil || !bytes.Equal(again, f.without()) {
		t.Errorf("without the optional field: %v\n%s", err, again)
	}
}

func (d Document) runNumber(t *testing.T, f field) {
	for _, v := range []string{
		"1e3", "1E3", "5.0", "5.5", `"5"`, "-1", "-0", "+5", "05", "0x5", "5,0", "", "NaN", "Infinity", "5n",
		"9007199254740992", "9223372036854775808", "1" + strings.Repeat("0", 400), "-9007199254740993",
	} {
		d.refuse(t, "number as "+v[:min(len(v), 20)], f.withValue(v))
	}
}

func (d Document) runString(t *testing.T, f field) {
	content := strings.TrimSuffix(strings.TrimPrefix(f.value(), `"`), `"`)
	first, rest := content[:1], content[1:]
	for name, v := range map[string]string{
		"escaped letter":         fmt.Sprintf(`\u%04x`, first[0]) + rest,
		"escaped slash":          `\/` + content,
		"escaped angle bracket":  content + `\u003c`,
		"escaped ampersand":      content + `\u0026`,
		"lone surrogate":         content + `\ud800`,
		"not UTF-8":              content + "\xff",
		"overlong UTF-8":         content + "\xc0\x80",
		"surrogate in UTF-8":     content + "\xed\xa0\x80",
		"raw newline":            content + "\n",
		"raw NUL":                content + "\x00",
		"NUL":                    content + `\u0000`,
		"tab":                    content + `\t`,
		"carriage return":        content + `\r`,
		"escape character":       content + `\u001b[31m`,
		"delete":                 content + "\u007f",
		"C1 control":             content + "\u0085",
		"bidirectional override": content + "\u202e",
		"bidirectional isolate":  content + "\u2066",
		"left-to-right mark":     content + "\u200e",
		"byte order mark":        content + "\ufeff",
		"line separator":         content + `\u2028`,
		"paragraph separator":    content + `\u2029`,
	} {
		d.refuse(t, name, f.withValue(`"`+v+`"`))
	}
	if !strings.Contains(content, "PUBLIC KEY") {
		d.refuse(t, "newline", f.withValue(`"`+content+`\n"`))
	}
}
