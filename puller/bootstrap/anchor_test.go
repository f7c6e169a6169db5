package bootstrap

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func TestReadTrust(t *testing.T) {
	doc, big := []byte("{}\n"), bytes.Repeat([]byte("x"), layout.MaxTrust+1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/trust.json":
			w.Write(doc)
		case "/big":
			w.Write(big)
		case "/moved":
			http.Redirect(w, r, "/trust.json", http.StatusFound)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "trust.json")
	if err := os.WriteFile(file, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".big", big, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		place string
		code  reason.Code // "": it is read
		want  string
	}{
		{file, "", ""},
		{srv.URL + "/trust.json", "", ""},
		{file + ".gone", reason.Config, "no such file"},
		{file + ".big", reason.Limit, "it is no trust.json"},
		{srv.URL + "/big", reason.Limit, "it is no trust.json"},
		{srv.URL + "/moved", reason.IO, "answers 302 Found, want 200 OK"},
		{srv.URL + "/gone", reason.IO, "answers 404 Not Found"},
		{"http://example.org/trust.json", reason.Config, "neither a file nor an https URL"},
		{"https://ada:pw@example.org/trust.json", reason.Config, "neither a file nor an https URL"},
		{"https://example.org/trust.json:%zz?token=:pw@", reason.Config, "the URL is malformed"},
		{srv.URL + "/gone?token=:pw@", reason.IO, "/gone answers 404"},
		{"http://127.0.0.1:1/trust.json?token=:pw@", reason.IO, "ask http://127.0.0.1:1/trust.json: dial tcp"},
		{"ftp://example.org/trust.json", reason.Config, "neither a file nor an https URL"},
	} {
		n := &Node{o: Options{Trust: c.place}}
		got, err := n.readTrust(t.Context())
		switch {
		case c.code == "" && (err != nil || !bytes.Equal(got, doc)):
			t.Errorf("%s: %q, %v", c.place, got, err)
		case c.code != "" && (err == nil || reason.Of(err) != c.code || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), ":pw@")):
			t.Errorf("%s: %v (%s), want %s with %q", c.place, err, reason.Of(err), c.code, c.want)
		}
	}
}

// Without --trust-fingerprint a person has to say that it is the right one, and --yes does not.
func TestConfirmTrust(t *testing.T) {
	for _, c := range []struct {
		person Person
		code   reason.Code
	}{
		{Person{}, reason.Config},
		{Person{Confirm: func(context.Context, string) (bool, error) { return false, nil }}, reason.Mismatch},
		{Person{Confirm: func(_ context.Context, question string) (bool, error) {
			return strings.Contains(question, string(layout.Sum(nil))), nil
		}}, ""},
	} {
		n := &Node{o: Options{Trust: "trust.json"}, person: c.person, fingerprint: layout.Sum(nil)}
		if err := n.confirm(t.Context()); (err == nil) != (c.code == "") || err != nil && reason.Of(err) != c.code {
			t.Errorf("%v, want %q", err, c.code)
		}
	}
}
