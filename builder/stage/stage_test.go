package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// A work tree with a bit of everything, and the plan for it. Each case changes one
// thing.
var good = map[string]string{
	"out/app":            "binary",
	"out/tool":           "tool",
	"static/a.css":       "css",
	"static/img/x.png":   "png",
	"static/run.sh":      "+#!/bin/sh\n",
	"more/b.css":         "more",
	"more/a.css":         "css", // the same as in static
	"static/latest":      "@img/x.png",
	"static/up":          "@../static/a.css",
	"conf/limits.toml":   "limit",
	"static/.git":        "gitdir: ../../.git/modules/static",
	"more/.git/HEAD":     "ref",
	"link-to-more":       "@more",
	"static/empty/":      "",
	"unused/secret.text": "not in the bundle",
}

func goodPlan() Plan {
	return Plan{
		BinDir: "out", Bins: []string{"app", "tool"},
		Contents: []Content{
			{Src: "static", Dst: "static", Required: true},
			{Src: "more", Dst: "static", Required: true},
			{Src: "conf/limits.toml", Dst: "docs/business/limits.toml", Required: true},
			{Src: "gone", Dst: "gone"},
		},
		Forbidden: []string{"/opt/makenotwork/", "hunter2"},
	}
}

// lay makes the files: "@target" is a link, "+text" is executable, "name/" is a
// directory.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		put(t, dir, name, text)
	}
	return dir
}

func put(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	link, isLink := strings.CutPrefix(text, "@")
	body, isExec := strings.CutPrefix(text, "+")
	switch {
	case err != nil:
	case strings.HasSuffix(name, "/"):
		err = os.MkdirAll(path, 0o755)
	case isLink:
		err = os.Symlink(link, path)
	case isExec:
		err = os.WriteFile(path, []byte(body), 0o700)
	default:
		err = os.WriteFile(path, []byte(text), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, work string, p Plan) (string, Summary, error) {
	t.Helper()
	dst := t.TempDir()
	w, err := os.OpenRoot(work)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d, err := os.OpenRoot(dst)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sum, err := Fill(t.Context(), w, d, p)
	return dst, sum, err
}

// show lists a tree: "mode content" by path.
func show(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			got[rel] = fmt.Sprintf("%04o dir", info.Mode().Perm())
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			got[rel] = "link " + target
			return err
		default:
			data, err := os.ReadFile(p)
			got[rel] = fmt.Sprintf("%04o %s", info.Mode(), data)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

var goodTree = map[string]string{
	"app": "0755 binary", "tool": "0755 tool",
	"static": "0755 dir", "static/a.css": "0644 css", "static/b.css": "0644 more",
	"static/img": "0755 dir", "static/img/x.png": "0644 png", "static/run.sh": "0755 #!/bin/sh\n",
	"static/latest": "link img/x.png", "static/up": "link ../static/a.css", "static/empty": "0755 dir",
	"docs": "0755 dir", "docs/business": "0755 dir", "docs/business/limits.toml": "0644 limit",
}

func TestFill(t *testing.T) {
	work := lay(t, good)
	dst, sum, err := fill(t, work, goodPlan())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodTree, show(t, dst)); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
	want := Summary{
		Entries: []Size{
			{"out/app", "app", 1, 6}, {"out/tool", "tool", 1, 4}, {"static", "static", 5, 3 + 3 + 10},
			{"more", "static", 2, 7}, {"conf/limits.toml", "docs/business/limits.toml", 1, 5}, {"gone", "gone", 0, 0},
		},
		Warnings: []string{`release_contents src "gone" is not in this commit; left out (it is not required)`},
	}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	if err := os.RemoveAll(work); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(goodTree, show(t, dst)); diff != "" {
		t.Errorf("tree after the work tree is gone (-want +got):\n%s", diff)
	}
}

// The umask is the process's, so this test is not parallel to others.
func TestUmask(t *testing.T) {
	for _, mask := range []int{0o077, 0o000, 0o027} {
		work := lay(t, good)
		old := unix.Umask(mask)
		dst, _, err := fill(t, work, goodPlan())
		unix.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(goodTree, show(t, dst)); diff != "" {
			t.Errorf("umask %03o (-want +got):\n%s", mask, diff)
		}
	}
}

func TestVariants(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, work string, p *Plan)
		path   string
		want   string // of path in the tree
		warns  string
	}{
		"source is a link to a directory": {
			func(t *testing.T, w string, p *Plan) { p.Contents[1].Src = "link-to-more" }, "static/b.css", "0644 more", "",
		},
		"binary is a link inside": {
			func(t *testing.T, w string, p *Plan) {
				put(t, w, "out/alias", "@app")
				p.Bins[1] = "alias"
			}, "alias", "0755 binary", "",
		},
		"into the root": {
			func(t *testing.T, w string, p *Plan) { p.Contents[1].Dst = "." }, "b.css", "0644 more", "",
		},
		"everything": {
			func(t *testing.T, w string, p *Plan) {
				p.Contents = []Content{{Src: ".", Dst: "all", Required: true}}
			}, "all/more/a.css", "0644 css", "",
		},
		"the same link twice": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "more/latest", "@img/x.png") }, "static/latest", "link img/x.png", "",
		},
		"link to nothing": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/dangling", "@nothing") },
			"static/dangling", "link nothing", `link "static/dangling" leads to "nothing", which is not in the bundle`,
		},
		"link to what another entry brings": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/css", "@b.css") }, "static/css", "link b.css", "",
		},
		"optional below a file": {
			func(t *testing.T, w string, p *Plan) { p.Contents[3].Src = "out/app/x" },
			"app", "0755 binary", `release_contents src "out/app/x" is not in this commit`,
		},
		"setuid is dropped": {
			func(t *testing.T, w string, p *Plan) {
				if err := os.Chmod(filepath.Join(w, "static/run.sh"), 0o6777); err != nil {
					t.Fatal(err)
				}
			}, "static/run.sh", "0755 #!/bin/sh\n", "",
		},
		"executable for others only is not": {
			func(t *testing.T, w string, p *Plan) {
				if err := os.Chmod(filepath.Join(w, "static/run.sh"), 0o611); err != nil {
					t.Fatal(err)
				}
			}, "static/run.sh", "0644 #!/bin/sh\n", "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			work, p := lay(t, good), goodPlan()
			c.change(t, work, &p)
			dst, sum, err := fill(t, work, p)
			if err != nil {
				t.Fatal(err)
			}
			if got := show(t, dst)[c.path]; got != c.want {
				t.Errorf("%s: got %q, want %q", c.path, got, c.want)
			}
			if c.warns != "" && !strings.Contains(strings.Join(sum.Warnings, "\n"), c.warns) {
				t.Errorf("warnings %q, want %q", sum.Warnings, c.warns)
			}
		})
	}
}

// refusal changes one thing about what is staged.
type refusal struct {
	change func(t *testing.T, work string, p *Plan)
	code   reason.Code
	says   string
}

// entryCases are about entries that are missing or in each other's way.
func entryCases() map[string]refusal {
	return map[string]refusal{
		"required source missing": {
			func(t *testing.T, w string, p *Plan) { p.Contents[3].Required = true }, reason.Config, `release_contents src "gone" is missing`,
		},
		"binary missing": {
			func(t *testing.T, w string, p *Plan) { p.Bins[1] = "toll" }, reason.Config, `binary "out/toll" is missing`,
		},
		"binary is a directory": {
			func(t *testing.T, w string, p *Plan) { p.BinDir, p.Bins = ".", []string{"static"} }, reason.Config, "not a file",
		},
		"other bytes at one path": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "more/img/x.png", "other") },
			reason.Config, `two entries put different things at "static/img/x.png" of the bundle: "static/img/x.png" and "more/img/x.png"`,
		},
		"other mode at one path": {
			func(t *testing.T, w string, p *Plan) {
				if err := os.Chmod(filepath.Join(w, "more/a.css"), 0o700); err != nil {
					t.Fatal(err)
				}
			}, reason.Config, "two entries",
		},
		"file over a directory": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "more/img", "x") }, reason.Config, "two entries",
		},
		"directory over a file": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "more/run.sh/x", "x") }, reason.Config, "two entries",
		},
		"file below a link": {
			func(t *testing.T, w string, p *Plan) { p.Contents[2].Dst = "static/latest/x" }, reason.Config, "two entries",
		},
		"other link at one path": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "more/latest", "@a.css") }, reason.Config, "two entries",
		},
		"binary over contents": {
			func(t *testing.T, w string, p *Plan) { p.Contents[2].Dst = "tool" }, reason.Config, "two entries",
		},
	}
}

// contentCases are about what no bundle may hold.
func contentCases(outside string) map[string]refusal {
	return map[string]refusal{
		"absolute link": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/l", "@"+w+"/more/b.css") }, reason.Policy, "would leave the bundle",
		},
		"link up and out": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/l", "@../../x") }, reason.Policy, "would leave the bundle",
		},
		"source link leaves the work tree": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "gone", "@"+outside) }, reason.Policy, "leaves the work tree",
		},
		"source below a link that leaves": {
			func(t *testing.T, w string, p *Plan) {
				put(t, w, "away", "@"+outside)
				p.Contents[2].Src = "away/x"
			}, reason.Policy, "leaves the work tree",
		},
		"binary link leaves the work tree": {
			func(t *testing.T, w string, p *Plan) {
				put(t, w, "out/x", "@"+outside+"/x")
				p.Bins[1] = "x"
			}, reason.Policy, "leaves the work tree",
		},
		"pipe": {
			func(t *testing.T, w string, p *Plan) {
				if err := unix.Mkfifo(filepath.Join(w, "static/fifo"), 0o600); err != nil {
					t.Fatal(err)
				}
			}, reason.Policy, "neither a file",
		},
		"name with a newline": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/a\nb", "x") }, reason.Policy, "path not allowed",
		},
		"reserved directory": {
			func(t *testing.T, w string, p *Plan) {
				p.Contents[2].Dst = "x"
				p.Contents[1].Dst = "."
				put(t, w, "more/.sando/x", "x")
			},
			reason.Policy, "belongs to the puller",
		},
	}
}

func forbiddenCases() map[string]refusal {
	big := bytes.Repeat([]byte("."), 3*(256<<10)+7)
	at := func(off int) string { return string(big[:off]) + "/opt/makenotwork/" + string(big[off:]) }
	return map[string]refusal{
		"forbidden string at the start": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/f", "/opt/makenotwork/x") },
			reason.Policy, `"/opt/makenotwork/" in "static/f" at offset 0`,
		},
		"forbidden string in a binary": {
			func(t *testing.T, w string, p *Plan) {
				put(t, w, "out/app2", "\x00\x01hunter2\x00")
				p.Bins[0] = "app2"
			},
			reason.Policy, `"hunter2" in "out/app2" at offset 2`,
		},
		"forbidden string across two reads": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/f", at(256<<10-5)) },
			reason.Policy, fmt.Sprintf(`"/opt/makenotwork/" in "static/f" at offset %d`, 256<<10-5),
		},
		"forbidden string at the very end": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/f", at(len(big))) },
			reason.Policy, fmt.Sprintf(`in "static/f" at offset %d`, len(big)),
		},
		"forbidden string in a name": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/hunter2.txt", "x") },
			reason.Policy, `"hunter2" in path static/hunter2.txt at offset 7`,
		},
		"forbidden string in a link": {
			func(t *testing.T, w string, p *Plan) { put(t, w, "static/l", "@hunter2") },
			reason.Policy, `"hunter2" in the target of link "static/l" at offset 0`,
		},
	}
}

// planCases are about malformed plans.
func planCases() map[string]refusal {
	return map[string]refusal{
		"empty forbidden string":   {func(t *testing.T, w string, p *Plan) { p.Forbidden[0] = "" }, reason.Config, "empty string"},
		"nothing planned":          {func(t *testing.T, w string, p *Plan) { p.Bins, p.Contents = nil, nil }, reason.Config, "nothing to stage"},
		"nothing there":            {func(t *testing.T, w string, p *Plan) { p.Bins, p.Contents = nil, p.Contents[3:] }, reason.Config, "nothing was staged"},
		"src up":                   {func(t *testing.T, w string, p *Plan) { p.Contents[0].Src = "../x" }, reason.Config, "below the work tree"},
		"src absolute":             {func(t *testing.T, w string, p *Plan) { p.Contents[0].Src = "/etc" }, reason.Config, "below the work tree"},
		"src empty":                {func(t *testing.T, w string, p *Plan) { p.Contents[0].Src = "" }, reason.Config, "below the work tree"},
		"dst up":                   {func(t *testing.T, w string, p *Plan) { p.Contents[0].Dst = "a/../../x" }, reason.Config, "dst"},
		"dst absolute":             {func(t *testing.T, w string, p *Plan) { p.Contents[0].Dst = "/x" }, reason.Config, "dst"},
		"dst empty":                {func(t *testing.T, w string, p *Plan) { p.Contents[0].Dst = "" }, reason.Config, "dst"},
		"dst with a slash behind":  {func(t *testing.T, w string, p *Plan) { p.Contents[0].Dst = "x/" }, reason.Config, "dst"},
		"dst reserved":             {func(t *testing.T, w string, p *Plan) { p.Contents[0].Dst = ".sando/x" }, reason.Config, "dst"},
		"file into the root":       {func(t *testing.T, w string, p *Plan) { p.Contents[2].Dst = "." }, reason.Config, "dst must name it"},
		"bin with a slash":         {func(t *testing.T, w string, p *Plan) { p.Bins[0] = "x/app" }, reason.Config, "bin_names"},
		"bin_dir up":               {func(t *testing.T, w string, p *Plan) { p.BinDir = ".." }, reason.Config, "bin_dir"},
		"bins without a directory": {func(t *testing.T, w string, p *Plan) { p.BinDir = "" }, reason.Config, "bin_dir"},
	}
}

func TestRefusals(t *testing.T) {
	outside := t.TempDir()
	put(t, outside, "x", "outside")
	for _, cases := range []map[string]refusal{entryCases(), contentCases(outside), forbiddenCases(), planCases()} {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				work, p := lay(t, good), goodPlan()
				c.change(t, work, &p)
				_, _, err := fill(t, work, p)
				if reason.Of(err) != c.code || err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got reason %q: %v\nwant reason %q: %s", reason.Of(err), err, c.code, c.says)
				}
			})
		}
	}
}

func TestUnreadable(t *testing.T) {
	testenv.User(t, "root reads everything")
	work := lay(t, good)
	if err := os.Chmod(filepath.Join(work, "static/a.css"), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := fill(t, work, goodPlan()); !errors.Is(err, fs.ErrPermission) || reason.Of(err) != reason.IO {
		t.Errorf("got %v, want a permission error", err)
	}
}

func TestCancelled(t *testing.T) {
	w, err := os.OpenRoot(lay(t, good))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	d, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	stop := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	if _, err := Fill(ctx, w, d, goodPlan()); !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause", err)
	}
}

// Whatever the writes are cut into, the scanner finds what bytes.Index finds.
func FuzzScanner(f *testing.F) {
	f.Add([]byte("aaabaab"), "ab", "aab", uint8(2))
	f.Add([]byte("needle in the hay"), "hay", "needle in", uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, n1, n2 string, cut uint8) {
		if n1 == "" || n2 == "" || cut == 0 {
			return
		}
		s := newScanner([]string{n1, n2})
		for rest := data; len(rest) > 0; {
			n := min(int(cut), len(rest))
			s.Write(rest[:n])
			rest = rest[n:]
		}
		got := map[string]int64{}
		for _, h := range s.hits {
			got[h.text] = h.at
		}
		want := map[string]int64{}
		for _, n := range []string{n1, n2} {
			if i := bytes.Index(data, []byte(n)); i >= 0 {
				want[n] = int64(i)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}
