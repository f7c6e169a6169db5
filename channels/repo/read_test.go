package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func TestRead(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		write(t, work+"/channels/exec.json", "exec")
		write(t, work+"/channels/empty.json", "")
		if err := os.Chmod(work+"/channels/exec.json", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("a.json", work+"/channels/link.json"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("channels", work+"/linked"); err != nil {
			t.Fatal(err)
		}
		write(t, work+"/channels/dir.json/x", "x")
		git(t, work, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",channels/sub.json")
		git(t, work, "add", "-A", "--", "channels/exec.json", "channels/empty.json", "channels/link.json", "linked", "channels/dir.json")
		git(t, work, "commit", "-q", "-m", "kinds")
		git(t, work, "push", "-q", "origin", "HEAD:main")
		s := fetch(t, open(t, dir), "")
		checkRead(t, s, "channels/a.json", "{\"a\":1}\n")
		checkRead(t, s, "channels/exec.json", "exec")
		checkRead(t, s, "channels/empty.json", "")
		for _, c := range []struct{ path, words string }{
			{"channels/link.json", "is a symlink, want a file"},
			{"channels/sub.json", "is a submodule, want a file"},
			{"channels/dir.json", "is a directory, want a file"},
			{"channels", "is a directory, want a file"},
			{"linked/a.json", `"linked" is a symlink, want a directory`},
			{"channels/sub.json/x", "is a submodule, want a directory"},
			{"channels/a.json/x", "is a file, want a directory"},
			{"", `component ""`}, {"/channels/a.json", `component ""`}, {"channels//a.json", `component ""`},
			{"channels/../channels/a.json", `component ".."`}, {"./channels/a.json", `component "."`},
			{".git/config", `component ".git"`}, {"channels/a.json\x00", "U+0000"},
		} {
			_, err := s.Read(c.path, 100)
			checkReason(t, fmt.Sprintf("Read(%q)", c.path), err, reason.Format, c.words)
		}
		for _, path := range []string{"channels/none.json", "none/a.json", "channels/A.json", "fleet.toml "} {
			if _, err := s.Read(path, 100); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Read(%q) = %v, want fs.ErrNotExist", path, err)
			}
		}
		if _, err := s.Read("channels/a.json", 8); err != nil {
			t.Errorf("Read of exactly 8 bytes: %v", err)
		}
		_, err := s.Read("channels/a.json", 7)
		checkReason(t, "Read of 8 bytes with a cap of 7", err, reason.Limit, "8 bytes are more than 7")
	})
}

func TestSigned(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	kid := func(c string) string { return strings.Repeat(c, 64) }
	file := func(c string) string {
		return work + "/channels/a.json." + strings.Repeat(c, 16) + ".sigstore.json"
	}
	write(t, file("1"), "one")
	write(t, file("2"), "two")
	write(t, file("3"), strings.Repeat("x", layout.MaxSignature+1))
	if err := os.Symlink("a.json", file("4")); err != nil {
		t.Fatal(err)
	}
	write(t, file("6")+"/x", "a directory")
	commitAll(t, work, "signatures")
	s := fetch(t, open(t, dir), "")
	got, err := s.Signed("channels/a.json", []string{kid("1"), kid("3"), kid("4"), kid("5"), kid("6")}, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{kid("1"): "one", kid("3"): "", kid("4"): "", kid("6"): ""}
	if string(got.Doc) != "{\"a\":1}\n" || len(got.Sigs) != len(want) {
		t.Errorf("Signed = %q, want the document and %q", got, want)
	}
	for k, sig := range want {
		if have, ok := got.Sigs[k]; !ok || string(have) != sig {
			t.Errorf("signature by %.4s is %q (%t), want %q", k, have, ok, sig)
		}
	}
	if _, err := s.Signed("channels/none.json", []string{kid("1")}, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Signed without a document = %v, want fs.ErrNotExist", err)
	}
	_, err = s.Signed("channels/a.json", nil, 3)
	checkReason(t, "Signed with a small cap", err, reason.Limit, "more than 3")

	for i := range 20 {
		write(t, fmt.Sprintf("%s/channels/a.json.%016d.sigstore.json", work, i), "x")
	}
	commitAll(t, work, "more")
	var kids []string
	for i := range 20 {
		kids = append(kids, fmt.Sprintf("%016d%048d", i, 0))
	}
	if got, err = fetch(t, s.r, "").Signed("channels/a.json", kids, 100); err != nil || len(got.Sigs) != layout.MaxSignatures {
		t.Errorf("Signed with 20 signatures has %d, %v, want %d", len(got.Sigs), err, layout.MaxSignatures)
	}
}

func TestBranches(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		if got, err := r.Branches(t.Context(), "bump/"); err != nil || len(got) != 0 {
			t.Errorf("Branches = %v, %v, want none", got, err)
		}
		work := clone(t, dir)
		for _, b := range []string{"bump/a/1.0", "bump/b/1.0", "other"} {
			git(t, work, "checkout", "-q", "-b", b, "origin/HEAD")
			write(t, work+"/channels/a.json", b)
			git(t, work, "commit", "-q", "-am", b)
			git(t, work, "push", "-q", "origin", b)
		}
		write(t, dir+"/refs/heads/bump/tree", git(t, dir, "rev-parse", "main^{tree}")+"\n")
		write(t, dir+"/refs/heads/bump/\x1b[31m", git(t, dir, "rev-parse", "main")+"\n")
		got, err := r.Branches(t.Context(), "bump/")
		if err != nil || len(got) != 2 {
			t.Fatalf("Branches = %v, %v, want two", got, err)
		}
		for _, odd := range []string{"tree", "\x1b[31m"} {
			if err := os.Remove(dir + "/refs/heads/bump/" + odd); err != nil {
				t.Fatal(err)
			}
		}
		head := fetch(t, r, "")
		for _, b := range []string{"bump/a/1.0", "bump/b/1.0"} {
			checkRead(t, got[b], "channels/a.json", b)
			if merged, err := r.Merged(t.Context(), got[b].Commit, head); merged || err != nil {
				t.Errorf("Merged(%q) = %t, %v", b, merged, err)
			}
		}
		git(t, work, "checkout", "-q", "--detach", "origin/HEAD")
		git(t, work, "merge", "-q", "--no-ff", "-m", "merge", "bump/b/1.0")
		git(t, work, "push", "-q", "origin", "HEAD:main")
		head = fetch(t, r, head.Commit)
		for b, want := range map[string]bool{"bump/a/1.0": false, "bump/b/1.0": true} {
			if merged, err := r.Merged(t.Context(), got[b].Commit, head); merged != want || err != nil {
				t.Errorf("Merged(%q) = %t, %v, want %t", b, merged, err, want)
			}
		}
		if merged, err := r.Merged(t.Context(), strings.Repeat("1", 40), head); merged || err != nil {
			t.Errorf("Merged of a commit that does not exist = %t, %v", merged, err)
		}
	})
}
