package repo

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// bigRepo makes a repo with a history of n commits that each change two files, packed.
func bigRepo(b *testing.B, n int) string {
	b.Helper()
	dir := newRepo(b)
	var in strings.Builder
	for i := range n {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter X <x> %d +0000\ndata 0\n", i)
		if i == 0 {
			in.WriteString("from refs/heads/main^0\n")
		}
		for _, f := range []string{"json", "json.0123456789abcdef.sigstore.json"} {
			text := strings.Repeat(fmt.Sprintf("%x", i*7919), 100)
			fmt.Fprintf(&in, "M 644 inline channels/%c.%s\ndata %d\n%s\n", 'a'+i%3, f, len(text), text)
		}
	}
	cmd := exec.Command("git", "--git-dir="+dir, "fast-import", "--quiet")
	cmd.Stdin = strings.NewReader(in.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("git fast-import: %v\n%s", err, out)
	}
	git(b, dir, "gc", "-q")
	return dir
}

const history = 1000

// BenchmarkIdle is a poll with nothing new by a daemon.
func BenchmarkIdle(b *testing.B) {
	r := open(b, bigRepo(b, history))
	last := fetch(b, r, "").Commit
	b.ReportAllocs()
	for b.Loop() {
		fetch(b, r, last)
	}
}

// BenchmarkIdleProcess is a poll with nothing new by a process that has just begun: it
// opens the mirror and verifies what it holds.
func BenchmarkIdleProcess(b *testing.B) {
	dir := bigRepo(b, history)
	r := open(b, dir)
	last := fetch(b, r, "").Commit
	b.ReportAllocs()
	for b.Loop() {
		r, err := Open(r.m.dir, config(dir))
		if err != nil {
			b.Fatal(err)
		}
		fetch(b, r, last)
	}
}

// BenchmarkFirst is the first fetch into an empty mirror.
func BenchmarkFirst(b *testing.B) {
	dir := bigRepo(b, history)
	b.ReportAllocs()
	for b.Loop() {
		fetch(b, open(b, dir), "")
	}
}

// BenchmarkNews is a poll that finds one new commit.
func BenchmarkNews(b *testing.B) {
	dir := bigRepo(b, history)
	r := open(b, dir)
	head := fetch(b, r, "").Commit
	back := git(b, dir, "rev-parse", "main~3")
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		if err := r.drop(); err != nil {
			b.Fatal(err)
		}
		write(b, dir+"/refs/heads/main", back+"\n")
		fetch(b, r, "")
		write(b, dir+"/refs/heads/main", head+"\n")
		b.StartTimer()
		if s := fetch(b, r, back); s.Rewritten {
			b.Fatal("rewritten")
		}
	}
}

// BenchmarkRewritten is a poll that finds a head from which last cannot be reached.
func BenchmarkRewritten(b *testing.B) {
	dir := bigRepo(b, history)
	r := open(b, dir)
	fetch(b, r, "")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if s := fetch(b, r, fmt.Sprintf("%040x", i+1)); !s.Rewritten {
			b.Fatal("not rewritten")
		}
	}
}

// BenchmarkPush is an advance: a commit on top of the head, and git push.
func BenchmarkPush(b *testing.B) {
	r := open(b, bigRepo(b, history))
	for i := 0; b.Loop(); i++ {
		if _, err := r.Push(b.Context(), tester, files("channels/a.json", fmt.Sprint("state ", i))); err != nil {
			b.Fatal(err)
		}
	}
}
