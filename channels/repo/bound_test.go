package repo

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// allocated returns how many bytes of memory do takes, freed ones too. It stands for the
// time as well, which is no measure in a test.
func allocated(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// bigTree writes a tree of nearly the most bytes that are read.
func bigTree(t *testing.T, s objects.Store) plumbing.Hash {
	t.Helper()
	var all []objects.Entry
	for i := range 250 {
		all = append(all, objects.Entry{Mode: objects.ModeSubmodule, Name: fmt.Sprintf("%04d", i) + strings.Repeat("a", 4000)})
	}
	return writeTree(t, s, all)
}

func writeTree(t *testing.T, s objects.Store, all []objects.Entry) plumbing.Hash {
	t.Helper()
	h, err := s.Write(plumbing.TreeObject, objects.EncodeTree(all))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func writeCommit(t *testing.T, s objects.Store, tree plumbing.Hash) plumbing.Hash {
	t.Helper()
	h, err := s.WriteCommit(tree, plumbing.ZeroHash, tester, time.Now(), "x")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestFetchRepeated has one big directory in the place of thousands.
func TestFetchRepeated(t *testing.T) {
	dir := newRepo(t)
	s := objects.Open(dir)
	big := bigTree(t, s)
	var all []objects.Entry
	for i := range 4000 {
		all = append(all, objects.Entry{Mode: objects.ModeDir, Name: fmt.Sprintf("d%05d", i), Hash: big})
	}
	git(t, dir, "update-ref", "refs/heads/main", writeCommit(t, s, writeTree(t, s, all)).String())
	for _, what := range []string{"new", "known"} {
		r := open(t, dir)
		if what == "known" {
			fetch(t, r, "")
			r.head = plumbing.ZeroHash
		}
		if used := allocated(func() { fetch(t, r, "") }); used > 64<<20 {
			t.Errorf("Fetch of the %s commit took %d MiB of memory", what, used>>20)
		}
	}
}

// TestVerifyBounded has a mirror with more than is verified.
func TestVerifyBounded(t *testing.T) {
	r := open(t, newRepo(t))
	fetch(t, r, "")
	var all []objects.Entry
	for i := range maxVerifyBytes/maxVerifyBlob + 3 {
		all = append(all, objects.Entry{
			Mode: objects.ModeFile, Name: fmt.Sprintf("%03d", i),
			Hash: blob(t, r.m.Store, append(make([]byte, maxVerifyBlob-1), byte(i))),
		})
	}
	v := newVerification()
	if err := r.m.verify(t.Context(), v, writeCommit(t, r.m.Store, writeTree(t, r.m.Store, all)), ""); err != nil {
		t.Fatal(err)
	}
	if v.bytes < maxVerifyBytes || v.bytes > maxVerifyBytes+maxVerifyBlob {
		t.Errorf("verify read %d bytes, want about %d", v.bytes, maxVerifyBytes)
	}
}

// TestBranchesBounded has proposals that bring too much together.
func TestBranchesBounded(t *testing.T) {
	dir := newRepo(t)
	s := objects.Open(dir)
	for i := range 4 {
		tree := writeTree(t, s, []objects.Entry{{Mode: objects.ModeFile, Name: "x", Hash: blob(t, s, bytes.Repeat([]byte{byte(i)}, 1000))}})
		git(t, dir, "update-ref", fmt.Sprintf("refs/heads/promote/%d", i), writeCommit(t, s, tree).String())
	}
	r := open(t, dir)
	r.news = 4 * 1000
	_, err := r.Branches(t.Context(), "promote/")
	checkReason(t, "Branches", err, reason.Limit, "more than 4000 new bytes; delete old ones")
	r.news = maxBranchesNews
	if all, err := r.Branches(t.Context(), "promote/"); err != nil || len(all) != 4 {
		t.Errorf("Branches = %v, %v, want 4", all, err)
	}
}

// TestSignedBounded looks for hundreds of signatures in a big directory.
func TestSignedBounded(t *testing.T) {
	dir := newRepo(t)
	s := objects.Open(dir)
	all := []objects.Entry{{Mode: objects.ModeFile, Name: "doc", Hash: blob(t, s, []byte("doc"))}}
	for i := range 250 {
		all = append(all, objects.Entry{Mode: objects.ModeSubmodule, Name: fmt.Sprintf("e%04d", i) + strings.Repeat("a", 4000)})
	}
	git(t, dir, "update-ref", "refs/heads/main", writeCommit(t, s, writeTree(t, s, all)).String())
	r := open(t, dir)
	snap := fetch(t, r, "")
	var kids []string
	for i := range 500 {
		kids = append(kids, fmt.Sprintf("%064x", i))
	}
	used := allocated(func() {
		if got, err := snap.Signed("doc", kids, layout.MaxChannel); err != nil || string(got.Doc) != "doc" || len(got.Sigs) != 0 {
			t.Errorf("Signed = %v, %v", got, err)
		}
	})
	if used > 32<<20 {
		t.Errorf("Signed took %d MiB of memory", used>>20)
	}
}
