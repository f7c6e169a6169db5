package adopt

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/envfile"
)

const (
	testOld     = "/opt/makenotwork"
	testCurrent = "/opt/mnw/current"
)

// lay makes files in a new directory; a name that ends in a slash is a directory.
func lay(t *testing.T, names ...string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, n)), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(n, "/") {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func testRules(t *testing.T, moves ...Move) *rules {
	t.Helper()
	old := lay(t, "mnw", ".env", "static/a.css", "static/uploads/me.png", "docs/assumptions.toml", "data/app.db", "cache/x", "odd:name")
	release := lay(t, "mnw", "static/a.css", "docs/assumptions.toml", "docs/more.md", "odd:name")
	return &rules{
		oldRoot: testOld, current: testCurrent, old: old.Stat, release: release.Stat, moves: moves,
		lost: func(rest string) string { return firstLost(old, release, rest) },
	}
}

func TestValue(t *testing.T) {
	r := testRules(t, Move{"data", "/var/lib/mnw"})
	for _, c := range []struct{ name, value, want, note string }{
		{"no path", "8080", "8080", ""},
		{"another place", "/opt/makenotwork2/static", "/opt/makenotwork2/static", ""},
		{"inside of another place", "/srv/opt/makenotwork/static", "/srv/opt/makenotwork/static", ""},
		{"in the release", testOld + "/docs/assumptions.toml", testCurrent + "/docs/assumptions.toml", ""},
		{"with a slash", testOld + "/docs/", testCurrent + "/docs/", ""},
		{"not clean", testOld + "//docs/../mnw", testCurrent + "/mnw", ""},
		{"out of it", testOld + "/../mnw", testOld + "/../mnw", "within a longer text"},
		{"release lacks some", testOld + "/static", testCurrent + "/static", "--state static=DIR"},
		{"state that moves", testOld + "/data/app.db", "/var/lib/mnw/app.db", ""},
		{"all of the state", testOld + "/data/", "/var/lib/mnw/", ""},
		{"state that stays", testOld + "/cache/x", testOld + "/cache/x", "is state: stays in the old root; --state cache=DIR"},
		{"nowhere", testOld + "/gone", testOld + "/gone", "neither in the release nor in the old root"},
		{"the root itself", testOld, testOld, "is the old root itself"},
		{"a list", "/usr/bin:" + testOld + "/mnw:" + testOld + "/data", "/usr/bin:" + testCurrent + "/mnw:/var/lib/mnw", ""},
		{"a colon in a name", testOld + "/odd:name", testCurrent + "/odd:name", ""},
		{"one colon", "sqlite:" + testOld + "/data/app.db", "sqlite:/var/lib/mnw/app.db", ""},
		{"a URL", "sqlite://" + testOld + "/data/app.db?key=s3cret", "sqlite://" + testOld + "/data/app.db?key=s3cret", "within a longer text"},
		{"arguments", testOld + "/gone?key=s3cret", testOld + "/gone?key=s3cret", testOld + "/gone… is neither"},
		{"an option", "--dir=" + testOld + "/data", "--dir=" + testOld + "/data", "within a longer text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _, notes := r.value(c.value)
			all := strings.Join(notes, "\n")
			if got != c.want || (c.note == "") != (all == "") || !strings.Contains(all, c.note) || strings.Contains(all, "s3cret") {
				t.Errorf("got %q, %q, want %q, %q", got, all, c.want, c.note)
			}
		})
	}
}

func TestRewriteEnv(t *testing.T) {
	r := testRules(t, Move{"data", "/var/lib/mnw"})
	text := "# of " + testOld + "\nDATABASE_URL=postgres://u:s3cret@db/\nDOCS='" + testOld + "/docs'\n; order\nDATA=" + testOld + "/data # not a comment\nDIRS=/s3cret/x:" + testOld + "/data\n"
	e, err := r.rewrite([]byte(text), "/opt/makenotwork/.env", "/etc/mnw/mnw.env")
	if err != nil {
		t.Fatal(err)
	}
	const want = "# of /opt/makenotwork\nDATABASE_URL=postgres://u:s3cret@db/\nDOCS='/opt/mnw/current/docs'\n; order\nDATA=/opt/makenotwork/data # not a comment\nDIRS=/s3cret/x:/var/lib/mnw\n"
	if string(e.Text) != want {
		t.Errorf("got\n%s", e.Text)
	}
	const diff = `--- /opt/makenotwork/.env
+++ /etc/mnw/mnw.env
 DATABASE_URL=(unchanged)
-DOCS=/opt/makenotwork/docs
+DOCS=/opt/mnw/current/docs
 DATA=(unchanged)
-DIRS=…/opt/makenotwork/data…
+DIRS=…/var/lib/mnw…
`
	if e.Diff != diff {
		t.Errorf("the diff is\n%s", e.Diff)
	}
	if len(e.Notes) != 1 || !strings.HasPrefix(e.Notes[0], "DATA: /opt/makenotwork/data… is neither") {
		t.Errorf("notes: %q", e.Notes)
	}
}

// Whatever a file says, the new one says the same, but for the values of which the rules say
// something else; a second time nothing changes.
func FuzzRewriteEnv(f *testing.F) {
	f.Add("A=/opt/makenotwork/docs\nB='/opt/makenotwork/data':x\n#\nC=1")
	f.Add("A=\"/opt/makenotwork/static\\\"\"\\\n/opt/makenotwork:/opt/makenotwork/cache/")
	release := map[string]bool{"docs": true, "static/a.css": true}
	r := &rules{oldRoot: testOld, current: testCurrent, lost: func(string) string { return "" }, moves: []Move{{"data", "/var/lib/mnw"}},
		old:     func(string) (os.FileInfo, error) { return nil, os.ErrNotExist },
		release: func(rest string) (os.FileInfo, error) { return found(release[rest]) },
	}
	f.Fuzz(func(t *testing.T, text string) {
		before, err := envfile.Parse([]byte(text))
		if err != nil {
			return
		}
		e, err := r.rewrite([]byte(text), "old", "new")
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range before {
			before[i].Value, _, _ = r.value(v.Value)
		}
		if !slices.Equal(e.Vars, before) {
			t.Fatalf("%q became %q: %q, want %q", text, e.Text, e.Vars, before)
		}
		again, err := r.rewrite(e.Text, "old", "new")
		if err != nil || string(again.Text) != string(e.Text) {
			t.Fatalf("again: %q, %v, want %q", again.Text, err, e.Text)
		}
	})
}

func found(yes bool) (os.FileInfo, error) {
	if !yes {
		return nil, os.ErrNotExist
	}
	return os.Stat("env_test.go")
}

func TestJoin(t *testing.T) {
	got, err := join([][]byte{[]byte("A=1\nB=2"), []byte("A=3\n")})
	if err != nil || string(got) != "A=1\nB=2\nA=3\n" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err = join([][]byte{[]byte("A='1\n"), []byte("A=3\n")}); err == nil || !strings.Contains(err.Error(), "end each of them with a whole line") {
		t.Error(err)
	}
}

func TestParseMove(t *testing.T) {
	if m, err := ParseMove("data/=/var/lib/mnw"); err != nil || m != (Move{"data", "/var/lib/mnw"}) {
		t.Error(m, err)
	}
	for text, want := range map[string]string{
		"data": "is not FROM=TO", "=/x": "below the old root", ".=/x": "below the old root", "/data=/x": "below the old root", "a/../b=/x": "below the old root",
		"../x=/x": "below the old root", "data=x": "clean absolute", "data=/": "clean absolute", "data=/x/": "clean absolute",
	} {
		if _, err := ParseMove(text); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// What is in the env file's place, planted or not, is given to nobody.
func TestWriteEnv(t *testing.T) {
	dir := t.TempDir()
	secret, link, name := filepath.Join(dir, "secret"), filepath.Join(dir, "link.env"), filepath.Join(dir, "etc", "mnw.env")
	must(t, os.WriteFile(secret, []byte("A=1\n"), 0o600))
	must(t, os.Symlink(secret, link))
	for _, path := range []string{link, name, name} {
		must(t, writeEnv(path, []byte("A=1\n"), os.Geteuid(), os.Getegid()))
	}
	for path, want := range map[string]os.FileMode{secret: 0o600, name: 0o640} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, info, err, want)
		}
	}
}

// What an app made of its .env by itself, and systemd does not, is said; no value is.
func TestDotenv(t *testing.T) {
	text := "\ufeffFIRST=s3cret\nPLAIN=s3cret\r\n export KEY = s3cret\nexport TWICE=s3cret\nTWICE=s3cret\nNOTE=s3cret # why\nURL=http://$HOST/#s3cret\nPRICE=5$\n"
	vars, err := envfile.Parse([]byte(text))
	must(t, err)
	var about []string
	for _, n := range dotenv([]byte(text), vars) {
		if strings.Contains(n, "s3cret") {
			t.Errorf("it shows a value: %s", n)
		}
		name, _, _ := strings.Cut(n, ":")
		about = append(about, name)
	}
	if want := []string{"KEY", "the first line", "NOTE", "URL"}; !slices.Equal(about, want) {
		t.Errorf("it is about %q, want %q", about, want)
	}
}
