// Package secrets looks for credentials where a test wants none: in everything that the
// programs wrote and printed.
//
//	s := secrets.Of(t, secrets.File(t, "token"), secrets.Presigned())
//	s.Except("/etc/sando/mnw/token")              // where it belongs
//	for _, f := range s.Tree(t, "/opt/mnw") {
//		t.Error(f)                            // /opt/mnw/.sando/history.jsonl:812: token, in base64
//	}
//	for _, f := range s.Text("journal", output) { … }
//
// A secret is found as it is, and in hex, in base64 of both alphabets wherever it begins
// in the encoded text (so in "user:token" as well), escaped for a URL, and in JSON. Names of
// files and targets of links are searched too. What is compressed or encrypted is not
// opened: hand in what journalctl prints, not the journal.
//
// Only tests import this package.
package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Secret is a text that may not be anywhere, and what a finding calls it.
type Secret struct{ Name, Text string }

// Finding is a secret in a place.
type Finding struct {
	Where  string // a file, or what Text was told
	Offset int    // of the first byte; -1: in the name of the file, or in the target of a link
	Name   string // of the secret
	Form   string // how it is written there
}

// String never holds the secret.
func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s, %s", f.Where, f.Offset, f.Name, f.Form)
}

// least is how long a secret must be: a shorter text is found by chance.
const least = 8

// File returns the secrets in a file: its one line, or of several, such as a private key
// in PEM, each that could not be anything else.
func File(t testing.TB, name string) []Secret {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > 1 {
		lines = slices.DeleteFunc(lines, func(line string) bool {
			return len(line) < 2*least || strings.HasPrefix(line, "-----")
		})
	}
	var found []Secret
	for i, line := range lines {
		found = append(found, Secret{fmt.Sprintf("line %d of %s", i+1, filepath.Base(name)), line})
	}
	return found
}

// Presigned returns what only requests to S3 with a signature have.
func Presigned() []Secret {
	var found []Secret
	for _, text := range []string{"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token", "AWS4-HMAC-SHA256"} {
		found = append(found, Secret{text, text})
		if lower := strings.ToLower(text); lower != text {
			found = append(found, Secret{text, lower})
		}
	}
	return found
}

// Search is what is looked for.
type Search struct {
	patterns []pattern
	except   []string
}

type pattern struct {
	name, form string
	bytes      []byte
}

// Of returns a search for all of the secrets.
func Of(t testing.TB, lists ...[]Secret) *Search {
	t.Helper()
	s := &Search{}
	for _, secret := range slices.Concat(lists...) {
		if len(secret.Text) < least {
			t.Fatalf("secret %s has %d characters: it would be found by chance", secret.Name, len(secret.Text))
		}
		for _, f := range forms(secret.Text) {
			s.add(secret.Name, f.name, f.text)
		}
	}
	if len(s.patterns) == 0 {
		t.Fatal("no secret to look for")
	}
	return s
}

// add adds a form, unless another form of the same secret is written the same way.
func (s *Search) add(name, form, text string) {
	for _, p := range s.patterns {
		if p.name == name && string(p.bytes) == text {
			return
		}
	}
	s.patterns = append(s.patterns, pattern{name, form, []byte(text)})
}

type form struct{ name, text string }

func forms(text string) []form {
	all := []form{
		{"plain", text},
		{"in hex", hex.EncodeToString([]byte(text))},
		{"in hex", strings.ToUpper(hex.EncodeToString([]byte(text)))},
		{"in JSON", inJSON(text, true)},
		{"in JSON", inJSON(text, false)},
	}
	for _, escaped := range []string{url.QueryEscape(text), url.PathEscape(text)} {
		all = append(all, form{"escaped for a URL", escaped}, form{"escaped for a URL", lowerEscapes(escaped)})
	}
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 3 {
			all = append(all, form{"in base64", inside(enc, text, before)})
		}
	}
	return all
}

func inJSON(text string, escapeHTML bool) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(escapeHTML)
	if err := enc.Encode(text); err != nil {
		panic(err) // of a string
	}
	quoted := strings.TrimSpace(b.String())
	return quoted[1 : len(quoted)-1]
}

// lowerEscapes returns %2F as %2f.
func lowerEscapes(escaped string) string {
	b := []byte(escaped)
	for i := range b {
		if b[i] == '%' {
			copy(b[i:], bytes.ToLower(b[i:i+3]))
		}
	}
	return string(b)
}

// inside returns the characters that text alone decides, when it stands in a longer
// encoded text with as many bytes before it, modulo 3.
func inside(enc *base64.Encoding, text string, before int) string {
	encoded := enc.EncodeToString(append(make([]byte, before), text...))
	first, end := (before*8+5)/6, (before+len(text))*8/6
	return encoded[first:end]
}

// Except leaves out files and directories: where a secret belongs.
func (s *Search) Except(paths ...string) { s.except = append(s.except, paths...) }

// Text returns what is in data, which a finding calls where: the first place of each
// form.
func (s *Search) Text(where string, data []byte) []Finding {
	var found []Finding
	for _, p := range s.patterns {
		if at := bytes.Index(data, p.bytes); at >= 0 {
			found = append(found, Finding{where, at, p.name, p.form})
		}
	}
	return found
}

// Tree returns what is in the files at and below root, in their names, and in links. It
// is an error of the test when there is no root.
func (s *Search) Tree(t testing.TB, root string) []Finding {
	t.Helper()
	var found []Finding
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case slices.Contains(s.except, path) && e.IsDir():
			return fs.SkipDir
		case slices.Contains(s.except, path):
			return nil
		}
		for _, f := range s.Text(path, []byte(e.Name())) {
			f.Offset = -1
			found = append(found, f)
		}
		more, err := s.content(path, e.Type())
		found = append(found, more...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (s *Search) content(path string, kind fs.FileMode) ([]Finding, error) {
	switch kind {
	case 0:
		data, err := os.ReadFile(path)
		return s.Text(path, data), err
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		found := s.Text(path, []byte(target))
		for i := range found {
			found[i].Offset = -1
		}
		return found, err
	}
	return nil, nil
}
