package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"makenot.work/sando/layout"
)

// steps is the story, in the order in which it is told.
func (d *stage) steps() []step {
	return []step{
		{"The two programs", "They are built from this clone into a new directory, where everything happens that follows. It is removed at the end.", d.build},
		{"An app in a git repository", "hello is a small HTTP server with a page of its own. It says its version at /api/health.", d.app},
		{"A builder", "`builder init` makes keys, the trust that nodes begin with, a channel repo and a bucket. What is to be built goes into builder.toml.", d.builder},
		{"Release 1.0.0", "The newest commit is built, packed, signed and put into the bucket. The first tier, host, advances by itself.", d.releaseFirst},
		{"Promote 1.0.0 to tiers a and b", "The channel of a tier is a small signed file in the channel repo. It names one manifest, and through it every byte of the release.", d.promoteFirst},
		{"Two nodes", "A node is a puller with a configuration and the trust. On a server a timer runs it; here you do, and a script restarts the app. Each puller does one cycle: fetch, verify, unpack, swap one symlink, restart, watch the health.", d.nodes},
		{"2.0.0 for tier a", "A new commit is released and promoted to a. Tier b does not move.", d.second},
		{"2.0.0 for tier b, by merging", "The same promotion, proposed as a branch. Who merges it promotes. The commands are those that builder printed.", d.merge},
		{"Pin node b back", "Somebody on node b has a problem with 2.0.0 and goes back by hand. The release is on disk, so this needs no network. It holds whatever the channel says.", d.pin},
		{"Unpin node b", "The node follows its channel again.", d.unpin},
		{"A flipped byte in the bucket", "3.0.0 is released, and then one byte of its tarball is changed, as by a bad disk or an intruder. The puller must refuse it, and 2.0.0 must go on running.", d.flip},
		{"The byte put right", "Nothing has to be reset: the next cycle finds a whole bundle.", d.restore},
		{"A replayed channel", "Somebody undoes the promotion of 3.0.0 with `git revert`. That brings back an older signed state, as an attacker would who kept a copy of it. The counter in it is too low, so nodes refuse it, and say what to do.", d.replay},
		{"A tier rolled back", "What the message said: a new signed state that names the older version.", d.rollback},
		{"A bad release", "4.0.0 reads its address from another variable, which no node sets, so it ends as soon as it is started. The puller goes back by itself, and does not try it again.", d.bad},
		{"What there is afterwards", "Nodes keep a history, and verify what is on their disks. The log of the channel repo is the log of what was to run where.", d.after},
	}
}

func (d *stage) build(ctx context.Context) error {
	d.command("cd " + d.clone)
	// Built as the person would, who has set up Go: modules come from their cache.
	env := append(os.Environ(), "TMPDIR="+d.path("tmp"))
	if _, err := d.runIn(ctx, d.clone, env, 0, "go build -buildvcs=false -o "+d.path("bin")+"/ ./cmd/..."); err != nil {
		return err
	}
	d.command("cd " + d.dir)
	d.command("export PATH=$PWD/bin:$PATH SANDO_KEY_PASSWORD=" + passphrase)
	for _, name := range []string{"builder", "puller"} {
		if _, err := os.Stat(d.path("bin", name)); err != nil {
			return err
		}
	}
	d.look("bin/builder and bin/puller")
	return nil
}

func (d *stage) app(ctx context.Context) error {
	if err := os.CopyFS(d.path("hello"), os.DirFS(filepath.Join(d.clone, "e2e", "app"))); err != nil {
		return err
	}
	d.command("cp -r " + filepath.Join(d.clone, "e2e", "app") + " hello")
	_, err := d.run(ctx, 0, "printf 'module hello\\n\\ngo 1.22\\n' >hello/go.mod",
		"git init -q -b main hello",
		"git -C hello add . && git -C hello commit -q -m 'hello 1.0.0'",
		"git -C hello log --oneline")
	d.look("hello/main.go is the server, hello/static/index.html the page")
	return err
}

// edits are what a person writes into the builder.toml that init made.
var edits = [...][2]string{
	{`command = []`, `command = ["go", "build", "-trimpath", "-buildvcs=false", "-o", "out/hello", "."]`},
	{`version = []`, `version = ["cat", "VERSION"]`},
	{`bin_dir = ""`, `bin_dir = "out"`},
	{`bin_names = []`, `bin_names = ["hello"]`},
}

const contents = `[[release_contents]]
src = "static"
dst = "static"
required = true
`

func (d *stage) builder(ctx context.Context) error {
	out, err := d.run(ctx, 0, "builder init --app hello --source ./hello")
	if err != nil {
		return err
	}
	trust, err := os.ReadFile(d.path("keys", "trust.json"))
	if err != nil {
		return err
	}
	if sum := string(layout.Sum(trust)); !strings.Contains(out, sum) {
		return fmt.Errorf("init does not print the sha256 of keys/trust.json, %s", sum)
	}
	text, err := os.ReadFile(d.path("builder.toml"))
	if err != nil {
		return err
	}
	d.printf("   edit builder.toml:\n")
	for _, e := range edits {
		if n := bytes.Count(text, []byte("\n"+e[0])); n != 1 {
			return fmt.Errorf("builder.toml has %d lines that begin with %q, want 1", n, e[0])
		}
		at := bytes.Index(text, []byte("\n"+e[0])) + 1
		end := at + bytes.IndexByte(text[at:], '\n')
		text = append(text[:at:at], append([]byte(e[1]), text[end:]...)...)
		d.wrap("   | ", "  ", e[1])
	}
	d.wrap("   | ", "  ", contents)
	d.look("keys/, channels.git, bucket/; sha256sum keys/trust.json prints the fingerprint")
	return os.WriteFile(d.path("builder.toml"), append(text, "\n"+contents...), 0o644)
}

// release releases a version and checks that it is published.
func (d *stage) release(ctx context.Context, version string) error {
	out, err := d.run(ctx, 0, "builder release")
	if err != nil {
		return err
	}
	if want := "published hello " + version + " "; !strings.Contains(out, want) {
		return fmt.Errorf("builder release does not say %q", want)
	}
	_, err = os.Stat(d.path("bucket", "hello", "releases", version, layout.ManifestLatest))
	return err
}

// promote advances a tier and checks that it did.
func (d *stage) promote(ctx context.Context, n *node, args, was, version string) error {
	out, err := d.run(ctx, 0, strings.TrimSpace("builder promote "+n.tier+" "+args))
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("advanced %s: %s -> %s", n.tier, was, version); !strings.Contains(out, want) {
		return fmt.Errorf("builder promote does not say %q", want)
	}
	return nil
}

func (d *stage) releaseFirst(ctx context.Context) error {
	if err := d.release(ctx, "1.0.0"); err != nil {
		return err
	}
	out, err := d.run(ctx, 0, "builder verify 1.0.0")
	if err != nil {
		return err
	}
	if want := "hello 1.0.0 is whole"; !strings.Contains(out, want) {
		return fmt.Errorf("builder verify does not say %q", want)
	}
	d.look("bucket/hello/releases/1.0.0/manifest.json names and hashes everything else")
	return nil
}

func (d *stage) promoteFirst(ctx context.Context) error {
	if err := d.promote(ctx, d.a, "", "nothing", "1.0.0"); err != nil {
		return err
	}
	if err := d.promote(ctx, d.b, "", "nothing", "1.0.0"); err != nil {
		return err
	}
	out, err := d.run(ctx, 0, "git -C channels.git show main:channels/b.json")
	if err == nil && !strings.Contains(out, `"version": "1.0.0"`) {
		err = errors.New("the channel of tier b does not name 1.0.0")
	}
	d.look("manifest is what nodes trust; seq is the counter that makes it newer than any other")
	return err
}

func (d *stage) nodes(ctx context.Context) error {
	if err := d.write("restart", restart, 0o755); err != nil {
		return err
	}
	if err := d.write(d.a.config(), d.configText(d.a), 0o644); err != nil {
		return err
	}
	d.printf("   %s is the same with tier b, node-b and %s\n", d.b.config(), d.b.addr)
	if err := os.WriteFile(d.path(d.b.config()), []byte(d.configText(d.b)), 0o644); err != nil {
		return err
	}
	for _, n := range []*node{d.a, d.b} {
		if err := d.update(ctx, n, "", "current", "1.0.0"); err != nil {
			return err
		}
	}
	return nil
}

// next commits a new version of the app. Everything that names its version follows.
func (d *stage) next(ctx context.Context, was, version string, more ...string) error {
	lines := append(more,
		fmt.Sprintf("sed -i s/%s/%s/ hello/VERSION hello/static/index.html", was, version),
		fmt.Sprintf("git -C hello commit -q -a -m 'hello %s'", version))
	_, err := d.run(ctx, 0, lines...)
	return err
}

func (d *stage) second(ctx context.Context) error {
	if err := d.next(ctx, "1.0.0", "2.0.0"); err != nil {
		return err
	}
	if err := d.release(ctx, "2.0.0"); err != nil {
		return err
	}
	if err := d.promote(ctx, d.a, "", "1.0.0", "2.0.0"); err != nil {
		return err
	}
	if err := d.update(ctx, d.a, "", "current", "2.0.0"); err != nil {
		return err
	}
	out, err := d.run(ctx, 0, d.b.puller(""))
	if err != nil {
		return err
	}
	if want := "current: runs 1.0.0"; !strings.Contains(out, want) {
		return fmt.Errorf("the puller of node-b does not say %q", want)
	}
	return d.answers(ctx, d.b, "1.0.0")
}

// mergeCommands are the two lines that a proposal ends with.
var mergeCommands = regexp.MustCompile(`(?m)^  (git clone .*)\n  (git merge .*)$`)

func (d *stage) merge(ctx context.Context) error {
	out, err := d.run(ctx, 0, "builder promote b --propose")
	if err != nil {
		return err
	}
	said := mergeCommands.FindStringSubmatch(out)
	if said == nil {
		return errors.New("builder promote does not print how to merge")
	}
	if _, err := d.run(ctx, 0, said[1]+"\n"+said[2]); err != nil {
		return err
	}
	d.command("cd ..")
	return d.update(ctx, d.b, "", "current", "2.0.0")
}

func (d *stage) pin(ctx context.Context) error {
	if err := d.update(ctx, d.b, "--pin 1.0.0 --reason 'the page of 2.0.0 is wrong'", "pinned", "1.0.0"); err != nil {
		return err
	}
	out, err := d.run(ctx, 0, d.b.puller(""), d.b.puller("status"))
	if err == nil && !strings.Contains(out, "pinned: runs 1.0.0 and holds it") {
		err = errors.New("a cycle does not hold the pin")
	}
	return err
}

func (d *stage) unpin(ctx context.Context) error {
	return d.update(ctx, d.b, "--unpin", "current", "2.0.0")
}

// flipAt is which byte of the tarball is changed.
const flipAt = 4711

func (d *stage) flip(ctx context.Context) error {
	if err := d.next(ctx, "2.0.0", "3.0.0"); err != nil {
		return err
	}
	if err := d.release(ctx, "3.0.0"); err != nil {
		return err
	}
	const dir = "bucket/hello/releases/3.0.0/"
	found, err := filepath.Glob(d.path(dir + "*.tar.zst"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("%s has %d tarballs, want 1: %w", dir, len(found), err)
	}
	good, err := os.ReadFile(found[0])
	if err != nil {
		return err
	}
	letter := "X"
	if good[flipAt] == letter[0] {
		letter = "Y"
	}
	if _, err := d.run(ctx, 0, fmt.Sprintf("file=$(ls %s*.tar.zst) && cp $file good.tar.zst && "+
		"printf %s | dd of=$file bs=1 seek=%d conv=notrunc status=none", dir, letter, flipAt)); err != nil {
		return err
	}
	if err := d.promote(ctx, d.a, "", "2.0.0", "3.0.0"); err != nil {
		return err
	}
	out, err := d.refuse(ctx, d.a, 3, "mismatch", "2.0.0")
	if err == nil && !strings.Contains(out, string(layout.Sum(good).Hex())) {
		err = errors.New("the puller does not say which hash it wants")
	}
	return err
}

func (d *stage) restore(ctx context.Context) error {
	if _, err := d.run(ctx, 0, "cp good.tar.zst bucket/hello/releases/3.0.0/*.tar.zst"); err != nil {
		return err
	}
	return d.update(ctx, d.a, "", "current", "3.0.0")
}

// wayOut is the command that a refused replay names.
var wayOut = regexp.MustCompile(`builder promote a --version [0-9.]+[0-9]`)

func (d *stage) replay(ctx context.Context) error {
	out, err := d.run(ctx, 0, "git -C channels pull -q && git -C channels log --oneline -1",
		"git -C channels revert --no-edit HEAD && git -C channels push -q")
	if err != nil {
		return err
	}
	if want := "a: 3.0.0"; !strings.Contains(out, want) {
		return fmt.Errorf("the newest commit of the channel repo is not %q", want)
	}
	if out, err = d.refuse(ctx, d.a, 3, "replay", "3.0.0"); err != nil {
		return err
	}
	if got, want := wayOut.FindString(out), "builder promote a --version 2.0.0"; got != want {
		return fmt.Errorf("the puller names the way out %q, want %q", got, want)
	}
	return nil
}

func (d *stage) rollback(ctx context.Context) error {
	out, err := d.run(ctx, 0, "builder promote a --version 2.0.0")
	if err != nil {
		return err
	}
	if want := "-> 2.0.0"; !strings.Contains(out, want) {
		return fmt.Errorf("builder promote does not say %q", want)
	}
	return d.update(ctx, d.a, "", "current", "2.0.0")
}

func (d *stage) bad(ctx context.Context) error {
	if err := d.next(ctx, "3.0.0", "4.0.0", `sed -i 's/"ADDR"/"HELLO_ADDR"/' hello/main.go`); err != nil {
		return err
	}
	if err := d.release(ctx, "4.0.0"); err != nil {
		return err
	}
	if err := d.promote(ctx, d.a, "", "2.0.0", "4.0.0"); err != nil {
		return err
	}
	if _, err := d.refuse(ctx, d.a, 4, "unhealthy", "2.0.0"); err != nil {
		return err
	}
	if _, err := d.refuse(ctx, d.a, 3, "blocked", "2.0.0"); err != nil {
		return err
	}
	s, err := d.status(ctx, d.a, "blocked", "2.0.0")
	if err == nil && (len(s.Blocked) != 1 || s.Blocked[0].Version != "4.0.0") {
		err = fmt.Errorf("blocked on node-a is %v, want 4.0.0", s.Blocked)
	}
	if err != nil {
		return err
	}
	out, err := d.run(ctx, 0, "tail -n 3 node-a.log")
	if err == nil && !strings.Contains(out, "no address to listen on is set") {
		err = errors.New("the log of the app does not say why 4.0.0 ended")
	}
	return err
}

func (d *stage) after(ctx context.Context) error {
	if _, err := d.status(ctx, d.b, "current", "2.0.0"); err != nil {
		return err
	}
	out, err := d.run(ctx, 0, d.a.puller("status"), d.a.puller("verify"), d.a.puller("history"))
	if err != nil {
		return err
	}
	if want := "rolled back from 4.0.0 to 2.0.0"; !strings.Contains(out, want) {
		return fmt.Errorf("the history of node-a does not say %q", want)
	}
	_, err = d.run(ctx, 0, "git -C channels pull -q && git -C channels log --oneline")
	return err
}
