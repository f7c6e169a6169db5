package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/channels/repo/pack/packtest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

func limits() Limits { return Limits{Objects: 1000, Bytes: 20 << 20, Skipped: 1 << 20} }

func checkReason(t *testing.T, what string, err error, code reason.Code, words string) {
	t.Helper()
	if err == nil || reason.Of(err) != code || !strings.Contains(err.Error(), words) {
		t.Errorf("%s = %v (reason %s), want the reason %s and the words %q", what, err, reason.Of(err), code, words)
	}
}

// git runs the git program in dir.
func git(t *testing.T, dir string, in string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(testenv.Program(t, "git"), args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(in)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=P", "GIT_AUTHOR_EMAIL=p@x", "GIT_COMMITTER_NAME=P", "GIT_COMMITTER_EMAIL=p@x")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %q: %v", args, err)
	}
	return out
}

// TestGit reads packs that git made, with deltas of both kinds.
func TestGit(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "", "init", "-q", "-b", "main")
	for i := range 12 {
		text := strings.Repeat("the same line\n", 300) + fmt.Sprint(i) + strings.Repeat("and another\n", 100)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i%3)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		git(t, dir, "", "add", "-A")
		git(t, dir, "", "commit", "-q", "-m", fmt.Sprint("number ", i, strings.Repeat(" some more words", 40)))
	}
	git(t, dir, "", "tag", "-a", "-m", "x", "v1")
	all := strings.Fields(string(git(t, dir, "", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")))
	for _, flag := range []string{"--delta-base-offset", "--no-reuse-delta"} {
		data := git(t, dir, strings.Join(all, "\n"), "pack-objects", "--stdout", "-q", flag)
		p, err := Read(iotest.HalfReader(bytes.NewReader(data)), limits())
		if err != nil {
			t.Fatal(err)
		}
		if p.Len() != len(all) {
			t.Errorf("%s: %d objects, want %d", flag, p.Len(), len(all))
		}
		commits := 0
		h, err := History(bytes.NewReader(data), limits())
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range all {
			kind := strings.TrimSpace(string(git(t, dir, "", "cat-file", "-t", name)))
			of, err := plumbing.ParseObjectType(kind)
			if err != nil {
				t.Fatal(err)
			}
			want := git(t, dir, "", "cat-file", kind, name)
			if got, err := p.Read(of, plumbing.NewHash(name), 1<<20); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: Read of %s %s = %q, %v", flag, kind, name, got, err)
			}
			if of == plumbing.CommitObject {
				commits++
				if got, err := h.Read(of, plumbing.NewHash(name), 1<<20); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: History, %s = %q, %v", flag, name, got, err)
				}
			}
		}
		if h.Len() != commits || commits != 12 {
			t.Errorf("%s: History has %d objects, want the %d commits", flag, h.Len(), commits)
		}
	}
}

func blob(text string) packtest.Entry {
	return packtest.Entry{Type: plumbing.BlobObject, Content: []byte(text)}
}

// base is a blob that deltas can copy 64 KiB of.
func base() packtest.Entry { return blob(strings.Repeat("0123456789abcdef", 4096)) }

func hashOf(e packtest.Entry) plumbing.Hash { return plumbing.ComputeHash(e.Type, e.Content) }

func ofs(content []byte) packtest.Entry {
	return packtest.Entry{Type: plumbing.OFSDeltaObject, Content: content, Back: 1}
}

func ref(content []byte, to plumbing.Hash) packtest.Entry {
	return packtest.Entry{Type: plumbing.REFDeltaObject, Content: content, Base: to}
}

func TestRead(t *testing.T) {
	const kib64 = 1 << 16
	twice := blob(strings.Repeat(string(base().Content), 2))
	for name, entries := range map[string][]packtest.Entry{
		"by offset":              {base(), ofs(packtest.Delta(kib64, 2*kib64))},
		"by name":                {base(), ref(packtest.Delta(kib64, 2*kib64), hashOf(base()))},
		"by name, before it":     {ref(packtest.Delta(kib64, 2*kib64), hashOf(base())), base()},
		"by offset, on the next": {ref(packtest.Delta(kib64, kib64), hashOf(base())), ofs(packtest.Delta(kib64, 2*kib64)), base()},
		"the same twice":         {base(), twice, base(), twice},
	} {
		p, err := Read(bytes.NewReader(packtest.Pack(t, entries...)), limits())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := p.Read(plumbing.BlobObject, hashOf(twice), 1<<20); err != nil || !bytes.Equal(got, twice.Content) || p.Len() != 2 {
			t.Errorf("%s: %d bytes, %v, of %d objects", name, len(got), err, p.Len())
		}
	}
	p, err := Read(bytes.NewReader(packtest.Pack(t, base())), limits())
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Read(plumbing.CommitObject, hashOf(base()), 1<<20)
	checkReason(t, "Read of another type", err, reason.Format, "is a blob, want a commit")
	_, err = p.Read(plumbing.BlobObject, hashOf(base()), 10)
	checkReason(t, "Read of too much", err, reason.Limit, "65536 bytes are more than 10")
	if _, err = p.Read(plumbing.BlobObject, hashOf(twice), 10); !errors.Is(err, objects.ErrAbsent) {
		t.Errorf("Read of nothing = %v", err)
	}
	if p, err := Read(bytes.NewReader(packtest.Pack(t)), limits()); err != nil || p.Len() != 0 {
		t.Errorf("an empty pack: %v", err)
	}
}

// TestReadRefused changes one thing in a pack that is in order.
func TestReadRefused(t *testing.T) {
	const kib64 = 1 << 16
	valid := packtest.Pack(t, base(), ofs(packtest.Delta(kib64, 2*kib64)))
	changed := func(at int, to byte) []byte {
		data := bytes.Clone(valid[:len(valid)-20])
		data[at] = to
		return packtest.Seal(data)
	}
	big := func(typ plumbing.ObjectType, size int64) packtest.Entry {
		return packtest.Entry{Type: typ, Content: []byte("x"), Says: size}
	}
	lying := base()
	lying.Says = kib64 - 1
	short := base()
	short.Says = kib64 + 1
	for _, c := range []struct {
		name  string
		data  []byte
		code  reason.Code
		words string
	}{
		{"no pack", []byte("<html>, which is longer than a header"), reason.Format, "malformed pack file signature"},
		{"version", changed(7, 3), reason.Format, "unsupported packfile version"},
		{"checksum", append(bytes.Clone(valid[:len(valid)-1]), valid[len(valid)-1]^1), reason.Format, "checksum mismatch"},
		{"type 0", packtest.Pack(t, base(), packtest.Entry{Type: 0, Content: []byte("x")}), reason.Format, "object of the type 0"},
		{"type 5", packtest.Pack(t, base(), packtest.Entry{Type: 5, Content: []byte("x")}), reason.Format, "object of the type 5"},
		{"longer than it says", packtest.Pack(t, lying), reason.Format, "exceeds declared size"},
		{"shorter than it says", packtest.Pack(t, short), reason.Format, "object of 65536 bytes, which says that it has 65537"},
		{"delta of another base", packtest.Pack(t, base(), ofs(packtest.Delta(kib64-1, kib64))), reason.Format, "invalid delta"},
		{"delta beyond its base", packtest.Pack(t, blob("short"), ofs(packtest.Delta(5, kib64))), reason.Format, "invalid delta"},
		{"delta of nothing", packtest.Pack(t, base(), ofs([]byte{0x80})), reason.Format, "invalid delta"},
		{"delta of itself", packtest.Pack(t, packtest.Entry{Type: plumbing.OFSDeltaObject, Content: []byte("x")}), reason.Format, "invalid OFS delta offset"},
		{"empty", nil, reason.IO, "pack ends early"},
		{"too many", packtest.Pack(t, make([]packtest.Entry, 1001)...), reason.Limit, "pack holds 1001 objects, more than 1000"},
		{"big blob", packtest.Pack(t, big(plumbing.BlobObject, objects.MaxBlob+1)), reason.Limit, "pack holds a blob of 8388609 bytes"},
		{"big tree", packtest.Pack(t, big(plumbing.TreeObject, objects.MaxTree+1)), reason.Limit, "pack holds a tree of 1048577 bytes"},
		{"big commit", packtest.Pack(t, big(plumbing.CommitObject, objects.MaxCommit+1)), reason.Limit, "pack holds a commit of 1048577 bytes"},
		{"gigantic", packtest.Pack(t, big(plumbing.BlobObject, 1<<56)), reason.Limit, "pack holds a blob"},
		{"big delta", packtest.Pack(t, base(), packtest.Entry{Type: plumbing.OFSDeltaObject, Says: 1 << 40, Back: 1}), reason.Limit, "pack holds a ofs-delta"},
		{"delta to a big blob", packtest.Pack(t, base(), ofs(packtest.Delta(kib64, objects.MaxBlob+kib64))), reason.Limit, "pack holds a blob of 8454144 bytes"},
		{"delta that says gigabytes", packtest.Pack(t, base(), ofs([]byte{0x80, 0x80, 0x04, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01})), reason.Limit, "pack holds a blob"},
	} {
		_, err := Read(bytes.NewReader(c.data), limits())
		checkReason(t, "Read of "+c.name, err, c.code, c.words)
	}
	for n := range len(valid) {
		_, err := Read(bytes.NewReader(valid[:n]), limits())
		if !errors.Is(err, io.ErrUnexpectedEOF) || reason.Of(err) != reason.IO {
			t.Fatalf("Read of the first %d bytes = %v, want the reason io", n, err)
		}
	}
	broken := errors.New("the cable is cut")
	if _, err := Read(io.MultiReader(bytes.NewReader(valid[:50]), iotest.ErrReader(broken)), limits()); err != broken {
		t.Errorf("Read = %v, want the error of the reader", err)
	}
	if _, err := Read(bytes.NewReader(valid), limits()); err != nil {
		t.Error(err)
	}
}

// TestReadThin leaves out what deltas need: only they are missing.
func TestReadThin(t *testing.T) {
	p, err := Read(bytes.NewReader(packtest.Pack(t, blob("here"), ref(packtest.Delta(1<<16, 1<<16), hashOf(base())))), limits())
	if err != nil || p.Len() != 1 {
		t.Errorf("Read = %v, want one object", err)
	}
}

// TestReadBounds has objects that are too much together.
func TestReadBounds(t *testing.T) {
	const kib64 = 1 << 16
	entries := []packtest.Entry{base()}
	for i := range 10 {
		entries = append(entries, ref(packtest.Delta(kib64, int64(i+2)*kib64), hashOf(base())))
	}
	data := packtest.Pack(t, entries...)
	l := limits()
	if _, err := Read(bytes.NewReader(data), l); err != nil {
		t.Fatal(err)
	}
	l.Bytes = 60 * kib64
	_, err := Read(bytes.NewReader(data), l)
	checkReason(t, "Read of too much together", err, reason.Limit, "unpacks to more than is allowed")

	data = packtest.Pack(t, base(), base(), ofs(packtest.Delta(kib64, kib64)))
	l = limits()
	if h, err := History(bytes.NewReader(data), l); err != nil || h.Len() != 0 {
		t.Errorf("History = %v, want nothing", err)
	}
	l.Skipped = 2 * kib64
	_, err = History(bytes.NewReader(data), l)
	checkReason(t, "History of too much beside", err, reason.Limit, "too much beside its commits")
}

func FuzzRead(f *testing.F) {
	const kib64 = 1 << 16
	f.Add(packtest.Pack(f, blob("x"), blob("y")))
	f.Add(packtest.Pack(f, base(), ofs(packtest.Delta(kib64, 2*kib64)), ref(packtest.Delta(kib64, kib64), hashOf(base()))))
	f.Add(packtest.Pack(f, ref(packtest.Delta(kib64, kib64), hashOf(base())), base()))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := Limits{Objects: 100, Bytes: 1 << 20, Skipped: 1 << 20}
		p, err := Read(bytes.NewReader(data), l)
		if err == nil {
			for h, o := range p.objects {
				if got := plumbing.ComputeHash(o.kind, o.data); got != h {
					t.Errorf("object %s has the hash %s", h, got)
				}
			}
		}
		if _, herr := History(bytes.NewReader(data), l); err == nil && herr != nil {
			t.Errorf("Read takes what History refuses: %v", herr)
		}
	})
}
