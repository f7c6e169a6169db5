package secrets_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/testenv/secrets"
)

const token = `s3cr/t+"token~?>é`

func search(t *testing.T) *secrets.Search {
	t.Helper()
	return secrets.Of(t, []secrets.Secret{{Name: "token", Text: token}}, secrets.Presigned())
}

// Each form is found where it was planted, and nothing without it.
func TestForms(t *testing.T) {
	s := search(t)
	for _, c := range []struct{ name, text, form string }{
		{"plain", token, "plain"},
		{"hex", hex.EncodeToString([]byte(token)), "in hex"},
		{"HEX", strings.ToUpper(hex.EncodeToString([]byte(token))), "in hex"},
		{"query", url.QueryEscape(token), "escaped for a URL"},
		{"path", url.PathEscape(token), "escaped for a URL"},
		{"lower escapes", "s3cr%2ft%2b%22token~%3f%3e%c3%a9", "escaped for a URL"},
		{"JSON", strings.ReplaceAll(token, `"`, `\"`), "in JSON"},
		{"JSON for HTML", `s3cr/t+\"token~?\u003eé`, "in JSON"},
		{"base64", base64.StdEncoding.EncodeToString([]byte(token)), "in base64"},
		{"base64 of x:token", base64.StdEncoding.EncodeToString([]byte("x:" + token)), "in base64"},
		{"base64 of me:token and more", base64.StdEncoding.EncodeToString([]byte("me:" + token + "!")), "in base64"},
		{"base64 of user:token", base64.RawStdEncoding.EncodeToString([]byte("user:" + token)), "in base64"},
		{"base64 for URLs", base64.URLEncoding.EncodeToString([]byte(token)), "in base64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := s.Text("output", []byte("before "+c.text+" after"))
			forms := map[string]bool{}
			for _, f := range got {
				if f.Name != "token" || f.Where != "output" || f.Offset < 7 || f.Offset > 14 {
					t.Errorf("found %v", f)
				}
				if strings.Contains(f.String(), token) {
					t.Errorf("%q holds the secret", f)
				}
				forms[f.Form] = true
			}
			if diff := cmp.Diff(map[string]bool{c.form: true}, forms); diff != "" {
				t.Errorf("forms (-want +got)\n%s", diff)
			}
			damaged := []byte("before " + c.text + " after")
			damaged[7+len(c.text)/2] ^= 1
			if got := s.Text("output", damaged); len(got) > 0 {
				t.Errorf("with a bit changed: %v", got)
			}
		})
	}
}

func TestPresigned(t *testing.T) {
	s := search(t)
	const line = "GET https://s3.example/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&x-amz-credential=A&X-Amz-Signature=1"
	var got []string
	for _, f := range s.Text("log", []byte(line)) {
		got = append(got, f.String())
	}
	slices.Sort(got)
	want := []string{"log:43: AWS4-HMAC-SHA256, plain", "log:60: X-Amz-Credential, plain", "log:79: X-Amz-Signature, plain"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTree(t *testing.T) {
	const name = "0123456789abcdef"
	s := secrets.Of(t, []secrets.Secret{{Name: "key", Text: name}})
	dir := t.TempDir()
	for file, text := range map[string]string{
		"clean": "nothing", "a/b/log": "4 x " + name, "a/file-" + name: "", "here/belongs": name, "one": name,
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	must(t, os.Symlink("/somewhere/"+name, filepath.Join(dir, "link")))
	s.Except(filepath.Join(dir, "here"), filepath.Join(dir, "one"))
	var got []string
	for _, f := range s.Tree(t, dir) {
		got = append(got, strings.TrimPrefix(f.String(), dir))
	}
	want := []string{"/a/b/log:4: key, plain", "/a/file-" + name + ":-1: key, plain", "/link:-1: key, plain"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	one, several := filepath.Join(dir, "token"), filepath.Join(dir, "id")
	line := strings.Repeat("b3BlbnNzaC1r", 5)
	must(t, os.WriteFile(one, []byte("12345678\n"), 0o600))
	must(t, os.WriteFile(several, fmt.Appendf(nil, "-----BEGIN OPENSSH PRIVATE KEY-----\n%s\n%sA\nshort\n-----END OPENSSH PRIVATE KEY-----\n", line, line), 0o600))
	want := []secrets.Secret{{Name: "line 1 of token", Text: "12345678"}, {Name: "line 1 of id", Text: line}, {Name: "line 2 of id", Text: line + "A"}}
	if diff := cmp.Diff(want, slices.Concat(secrets.File(t, one), secrets.File(t, several))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
