package rules

import (
	"slices"
	"strings"
)

// edges returns the directions of docs/design.md: which packages of the module a package
// may import outside of its tests. A name that ends in "/..." stands for what is below it;
// the first row that fits counts, and a package without a row has no place yet. What only
// tests use (internal/testenv, buckettest, canontest) is in no row.
func edges() [][2]string {
	return [][2]string{
		{"cmd/builder", "builder/cli internal/cli"},
		{"cmd/puller", "puller/cli internal/cli"},

		{"builder/cli", "builder builder/bundle builder/enroll internal/cli internal/reason layout"},
		{"builder", "builder/bundle builder/candidate builder/enroll builder/proc builder/source builder/stage channels channels/mirror channels/repo signing signing/keys " +
			"layout layout/tree layout/archive layout/bucket internal/canon internal/config internal/durable internal/reason"},
		{"builder/bundle", "builder/stage signing signing/keys layout layout/archive layout/bucket internal/reason"},
		{"builder/candidate", "signing layout internal/durable internal/reason"},
		{"builder/enroll", "channels/repo layout layout/bucket internal/canon internal/reason"},
		{"builder/...", "builder/proc layout layout/tree internal/durable internal/reason"},

		{"puller/doctor", "puller puller/adopt/backup systemd signing channels layout layout/bucket layout/bucket/s3 layout/node internal/canon internal/cli internal/config internal/probe internal/reason"},
		{"puller/cli", "puller puller/adopt puller/adopt/backup puller/bootstrap puller/daemon puller/doctor puller/oldroot systemd/appunit layout layout/node internal/canon internal/cli internal/config internal/probe internal/reason"},
		{"puller/daemon", "puller puller/schedule systemd/notify layout/node internal/canon internal/later internal/reason"},
		{"puller/bootstrap", "channels channels/repo puller puller/anchor puller/envfile systemd systemd/appunit signing layout layout/bucket layout/node internal/canon internal/config internal/durable internal/probe internal/reason"},
		{"puller/adopt/backup", "internal/canon internal/durable internal/reason"},
		{"puller/adopt/convert", "layout/node internal/durable internal/reason"},
		{"puller/adopt", "channels puller puller/adopt/backup puller/adopt/convert puller/bootstrap puller/envfile systemd layout/node internal/canon internal/durable internal/probe internal/reason"},
		{"puller/anchor", "channels channels/repo signing layout layout/bucket internal/reason"},
		{"puller/reporter", "layout layout/bucket layout/node layout/report internal/canon internal/later internal/reason"},
		{"puller/schedule", ""},
		{"puller/envfile", ""},
		{"puller/oldroot", "internal/reason"},
		{"puller/hook", "puller/envfile systemd systemd/journal layout layout/node internal/reason"},
		{"puller/service", "systemd systemd/journal systemd/notify layout layout/bucket layout/node internal/reason"},
		{"puller", "puller/envfile puller/hook puller/reporter puller/schedule puller/service channels channels/mirror channels/repo signing systemd layout layout/tree layout/archive layout/bucket layout/bucket/download layout/node layout/report " +
			"internal/canon internal/config internal/durable internal/probe internal/reason"},

		{"channels/repo/objects", "internal/canon internal/reason"},
		{"channels/repo/pack/packtest", ""},
		{"channels/repo/pack", "channels/repo/objects internal/reason"},
		{"channels/repo/transport", "layout internal/canon internal/later internal/reason"},
		{"channels/repo/remote", "channels/repo/objects channels/repo/pack channels/repo/transport layout internal/canon internal/reason"},
		{"channels/repo", "channels/repo/objects channels/repo/remote channels signing layout " +
			"internal/canon internal/durable internal/reason"},
		{"channels/mirror", "channels signing layout layout/bucket internal/reason"},
		{"channels", "signing layout internal/canon internal/reason"},
		{"signing/keys", "signing internal/reason"},
		{"signing", "layout internal/canon internal/reason"},

		{"layout/archive", "layout layout/tree internal/reason"},
		{"layout/bucket/buckettest", "layout/bucket internal/reason"},
		{"layout/bucket/download", "layout/bucket internal/reason"},
		{"layout/bucket/s3", "layout internal/later internal/reason"},
		{"layout/bucket", "layout/bucket/s3 layout internal/canon internal/durable internal/reason"},
		{"layout/node", "layout layout/report layout/tree internal/canon internal/durable internal/reason"},
		{"layout/report", "layout internal/canon internal/reason"},
		{"layout/tree", "layout internal/reason"},
		{"layout", "internal/canon internal/reason"},

		{"systemd/appunit", ""},
		{"systemd/notify", ""},
		{"systemd/journal", "internal/canon"},
		{"systemd", ""},

		{"internal/canon/canontest", "internal/canon internal/reason"},
		{"internal/cli", "internal/canon internal/reason"},
		{"internal/config", "internal/reason"},
		{"internal/testenv/...", "internal/testenv"},
		{"internal/...", ""},

		{"e2e/...", "..."}, // where builder and puller meet
	}
}

// within reports whether the package dir is named by pattern.
func within(dir, pattern string) bool {
	if pattern == "..." {
		return true
	}
	below, tree := strings.CutSuffix(pattern, "/...")
	return dir == below || tree && strings.HasPrefix(dir, below+"/")
}

// directions: a package imports what its row allows. Tests may reach further; see
// strangers.
func directions(f *file) []string {
	if f.test() {
		return nil
	}
	row := slices.IndexFunc(edges(), func(e [2]string) bool { return within(f.dir(), e[0]) })
	if row < 0 {
		return []string{f.at(f.ast.Name, "package %s has no row in the table of imports", f.dir())}
	}
	var found []string
	allowed := strings.Fields(edges()[row][1])
	for _, i := range f.imports() {
		if i.own && !slices.ContainsFunc(allowed, func(p string) bool { return within(i.path, p) }) {
			found = append(found, f.at(i, "%s must not import %s", f.dir(), i.path))
		}
	}
	return found
}

// strangers: builder and puller never import each other, not even in tests, which meet
// in e2e.
func strangers(f *file) []string {
	var found []string
	for _, pair := range [][2]string{{"builder/...", "puller/..."}, {"puller/...", "builder/..."}} {
		for _, i := range f.imports() {
			if i.own && within(f.dir(), pair[0]) && within(i.path, pair[1]) {
				found = append(found, f.at(i, "%s must not import %s: test both in e2e", f.dir(), i.path))
			}
		}
	}
	return found
}

// pure: the rules in channels and signing work on bytes. They name nothing of the
// system or the network.
func pure(f *file) []string {
	if f.test() || f.dir() != "channels" && f.dir() != "signing" {
		return nil
	}
	var found []string
	for _, i := range f.imports() {
		for _, out := range strings.Fields("os/... net/... syscall io/fs io/ioutil path/filepath golang.org/x/sys/...") {
			if within(i.path, out) {
				found = append(found, f.at(i, "%s must not import %s: its rules do no I/O", f.dir(), i.path))
			}
		}
	}
	return found
}

// reach: what a program is not to contain is not in it by a detour either. The puller
// has no code that could sign.
func reach(files []*file) []string {
	imports := map[string][]string{}
	for _, f := range files {
		for _, i := range f.imports() {
			if i.own && !f.test() && !slices.Contains(imports[f.dir()], i.path) {
				imports[f.dir()] = append(imports[f.dir()], i.path)
			}
		}
	}
	var found []string
	for _, bar := range []struct{ from, out string }{
		{"puller/...", "signing/keys"},
		{"cmd/puller", "signing/keys"},
		{"puller/...", "builder/..."},
		{"cmd/puller", "builder/..."},
		{"builder/...", "puller/..."},
		{"cmd/builder", "puller/..."},
	} {
		for dir := range imports {
			if !within(dir, bar.from) {
				continue
			}
			if way := walk(imports, []string{dir}, bar.out); way != nil {
				found = append(found, strings.Join(way, " -> "))
			}
		}
	}
	return found
}

// walk returns a way that continues way and ends in a package out, if there is one.
func walk(imports map[string][]string, way []string, out string) []string {
	last := way[len(way)-1]
	for _, next := range imports[last] {
		longer := append(slices.Clip(way), next)
		if within(next, out) {
			return longer
		}
		if end := walk(imports, longer, out); end != nil {
			return end
		}
	}
	return nil
}

func importSamples() []sample {
	const sando = `"makenot.work/sando/`
	return []sample{
		{"directions", map[string]string{"layout/a.go": "package layout\nimport " + sando + `channels"`},
			[]string{"layout/a.go:2: layout must not import channels"}},
		{"directions", map[string]string{"puller/a.go": "package puller; import k " + sando + `signing/keys"`},
			[]string{"puller/a.go:1: puller must not import signing/keys"}},
		{"directions", map[string]string{"layout/a.go": "package layout; import " + sando + `internal/testenv"`},
			[]string{"layout/a.go:1: layout must not import internal/testenv"}},
		{"directions", map[string]string{"common/a.go": "package common"},
			[]string{"common/a.go:1: package common has no row in the table of imports"}},
		{"directions", map[string]string{
			"puller/a.go":           "package puller; import " + sando + `channels/repo"`,
			"puller/a_test.go":      "package puller; import " + sando + `signing/keys"`,
			"layout/node/a_test.go": "package node; import " + sando + `internal/testenv"`,
			"e2e/demo/a.go":         "package main; import " + sando + `puller/cli"`,
		}, nil},

		{"strangers", map[string]string{"builder/a_test.go": "package builder; import " + sando + `puller"`},
			[]string{"builder/a_test.go:1: builder must not import puller: test both in e2e"}},
		{"strangers", map[string]string{"puller/cli/a.go": "package cli; import " + sando + `builder/proc"`},
			[]string{"puller/cli/a.go:1: puller/cli must not import builder/proc: test both in e2e"}},

		{"pure", map[string]string{"channels/a.go": `package channels; import (_ "net/http"; _ "time")`},
			[]string{"channels/a.go:1: channels must not import net/http: its rules do no I/O"}},
		{"pure", map[string]string{"signing/a.go": `package signing; import _ "os"`},
			[]string{"signing/a.go:1: signing must not import os: its rules do no I/O"}},
		{"pure", map[string]string{
			"channels/repo/a.go":    `package repo; import "os"`,
			"signing/keys/a.go":     `package keys; import "os"`,
			"channels/fuzz_test.go": `package channels; import "os"`,
		}, nil},

		{"reach", map[string]string{
			"puller/a.go":        "package puller; import " + sando + `channels/repo"`,
			"channels/repo/a.go": "package repo; import " + sando + `channels"`,
			"channels/a.go":      "package channels; import " + sando + `signing/keys"`,
		}, []string{"puller -> channels/repo -> channels -> signing/keys"}},
		{"reach", map[string]string{
			"cmd/builder/a.go":  "package main; import " + sando + `internal/cli"`,
			"internal/cli/a.go": "package cli; import " + sando + `puller/cli"`,
		}, []string{"cmd/builder -> internal/cli -> puller/cli"}},
		{"reach", map[string]string{
			"puller/a.go":        "package puller; import " + sando + `signing"`,
			"puller/a_test.go":   "package puller; import " + sando + `signing/keys"`,
			"signing/keys/a.go":  "package keys; import " + sando + `signing"`,
			"cmd/builder/a.go":   "package main; import " + sando + `signing/keys"`,
			"e2e/crash_test.go":  "package e2e; import " + sando + `puller"`,
			"e2e/demo/demo.go":   "package main; import " + sando + `builder"`,
			"internal/cli/a.go":  "package cli",
			"internal/cli/b.go":  "package cli",
			"channels/repo/a.go": "package repo",
		}, nil},
	}
}
