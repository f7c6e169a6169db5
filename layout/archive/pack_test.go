package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

// makeDir makes the directory that parts are the archive of, in a new place.
func makeDir(tb testing.TB, parts []part) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "staged")
	check(tb, os.Mkdir(dir, 0o755))
	for _, p := range parts {
		name := filepath.Join(dir, p.h.path)
		switch p.h.kind {
		case tree.Dir:
			check(tb, os.Mkdir(name, 0o755))
		case tree.Link:
			check(tb, os.Symlink(p.h.link, name))
		case tree.Exec:
			put(tb, name, string(p.body[:p.h.size]), 0o755)
		default:
			put(tb, name, string(p.body[:p.h.size]), 0o644)
		}
	}
	return dir
}

func TestPackWritesTheProfile(t *testing.T) {
	tarball, info, entries := pack(t, makeDir(t, sample()))
	if diff := cmp.Diff(join(sample()), unsqueeze(t, tarball)); diff != "" {
		t.Error(diff)
	}
	want := wantOf(sample())
	if diff := cmp.Diff(want, wanted(info)); diff != "" {
		t.Error(diff)
	}
	if info.Size != int64(len(tarball)) || info.SHA256 != layout.Sum(tarball).Hex() {
		t.Errorf("size %d and sum %s, want %d and %s", info.Size, info.SHA256, len(tarball), layout.Sum(tarball).Hex())
	}
	if tree.Hash(entries) != info.Tree {
		t.Error("the entries are not those of the tree")
	}
}

// The bytes of a tarball are fixed, down to those of the compression: machines that
// build the same commit must agree. When an update of the zstd library changes them,
// say so in the change log.
func TestPackIsGolden(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	rng := rand.New(rand.NewPCG(1, 2))
	var text bytes.Buffer
	for text.Len() < 2<<20 {
		fmt.Fprintf(&text, "%d words, %d lines, %x\n", rng.IntN(100), rng.IntN(1000), rng.Uint32())
	}
	var big strings.Builder
	for big.Len() < 36<<20 { // more than several windows, what repeats near and far
		at := rng.IntN(text.Len() - 64<<10)
		big.Write(text.Bytes()[at : at+64<<10])
	}
	_, info, _ := pack(t, makeDir(t, append([]part{filePart("big", big.String())}, sample()...)))
	got := fmt.Sprintf("%d %s", info.Size, info.SHA256)
	const want = "842377 39cb63d6a342d4b171c3b323cec58b53c833859f60cf73677289865ac0596515"
	if got != want {
		t.Errorf("tarball is %s, want %s", got, want)
	}
}

func TestPackDoesNotDependOnTheMachine(t *testing.T) {
	var text strings.Builder
	for i := range 300_000 {
		fmt.Fprintf(&text, "line %d %d\n", i, i*i)
	}
	parts := append([]part{execPart("big", text.String())}, sample()...)
	want, _, _ := pack(t, makeDir(t, parts))
	same := func(name, dir string) {
		t.Helper()
		if got, _, _ := pack(t, dir); !bytes.Equal(got, want) {
			t.Errorf("%s: other bytes", name)
		}
	}
	for _, n := range []int{1, 2, 5} {
		old := runtime.GOMAXPROCS(n)
		same(fmt.Sprintf("GOMAXPROCS %d", n), makeDir(t, parts))
		runtime.GOMAXPROCS(old)
	}
	for _, mask := range []int{0o000, 0o077} {
		old := syscall.Umask(mask)
		same(fmt.Sprintf("umask %03o", mask), makeDir(t, parts))
		syscall.Umask(old)
	}
	shuffled := makeShuffled(t, parts)
	same("made in another order", shuffled)
	t.Setenv("TZ", "Pacific/Kiritimati")
	same("another time zone", shuffled)
	check(t, filepath.WalkDir(shuffled, func(name string, d fs.DirEntry, err error) error {
		check(t, err)
		if d.Type() == fs.ModeSymlink {
			return nil
		}
		info, err := d.Info()
		check(t, err)
		mode := info.Mode().Perm() & 0o700
		if !d.IsDir() && mode&0o100 != 0 {
			mode = 0o710
		}
		check(t, os.Chmod(name, mode))
		return os.Chtimes(name, time.Unix(1, 2), time.Unix(3, 4))
	}))
	same("other modes and times", shuffled)
}

// makeShuffled is makeDir, with the names made in another order.
func makeShuffled(t *testing.T, parts []part) string {
	t.Helper()
	dir := makeDir(t, parts[:0])
	for i := range parts {
		p := parts[len(parts)-1-i]
		name := filepath.Join(dir, p.h.path)
		check(t, os.MkdirAll(filepath.Dir(name), 0o755))
		switch {
		case p.h.kind == tree.Dir:
			check(t, os.MkdirAll(name, 0o755))
		case p.h.kind == tree.Link:
			check(t, os.Symlink(p.h.link, name))
		default:
			perm := fs.FileMode(0o644)
			if p.h.kind == tree.Exec {
				perm = 0o755
			}
			put(t, name, string(p.body[:p.h.size]), perm)
		}
	}
	return dir
}

func TestPackNormalizesModes(t *testing.T) {
	for mode, want := range map[fs.FileMode]tree.Kind{
		0o644: tree.File, 0o600: tree.File, 0o666: tree.File, 0o444: tree.File, 0o644 | fs.ModeSticky: tree.File,
		0o755: tree.Exec, 0o700: tree.Exec, 0o777: tree.Exec, 0o654: tree.Exec, 0o645: tree.Exec,
	} {
		dir := makeDir(t, nil)
		put(t, dir+"/f", "x", mode.Perm())
		check(t, os.Chmod(dir+"/f", mode))
		if _, _, entries := pack(t, dir); entries[0].Kind != want {
			t.Errorf("a file with the mode %s is packed as %s, want %s", mode, entries[0].Kind, want)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		says   string
		path   bool // matches layout.ErrPath as well
	}{
		{"nothing", func(t *testing.T, dir string) { check(t, os.RemoveAll(dir)); check(t, os.Mkdir(dir, 0o755)) }, "is empty", false},
		{"setuid", func(t *testing.T, dir string) { check(t, os.Chmod(dir+"/server", 0o755|fs.ModeSetuid)) }, `file "server" has mode u`, false},
		{"setgid", func(t *testing.T, dir string) { check(t, os.Chmod(dir+"/server", 0o755|fs.ModeSetgid)) }, `file "server" has mode g`, false},
		{"named pipe", func(t *testing.T, dir string) { check(t, unix.Mkfifo(dir+"/d/pipe", 0o644)) }, `"d/pipe" is a named pipe`, false},
		{"a file larger than a header holds", func(t *testing.T, dir string) { check(t, os.Truncate(dir+"/server", maxNumber+1)) }, `file "server" has 8589934592 bytes`, false},
		{"own directory", func(t *testing.T, dir string) { put(t, dir+"/.sando/x", "", 0o644) }, `".sando" belongs to the puller`, true},
		{"own directory as a file", func(t *testing.T, dir string) { put(t, dir+"/.sando", "", 0o644) }, `".sando" belongs to the puller`, true},
		{"newline", func(t *testing.T, dir string) { put(t, dir+"/a\nb", "", 0o644) }, "holds U+000A", true},
		{"backslash", func(t *testing.T, dir string) { put(t, dir+`/a\b`, "", 0o644) }, "holds a backslash", true},
		{"not UTF-8", func(t *testing.T, dir string) { put(t, dir+"/a\xff", "", 0o644) }, "is not UTF-8", true},
		{"absolute link", func(t *testing.T, dir string) { check(t, os.Symlink("/etc", dir+"/etc")) }, "absolute", true},
		{"link to the staged file itself", func(t *testing.T, dir string) { check(t, os.Symlink(dir+"/server", dir+"/s")) }, "absolute", true},
		{"link out", func(t *testing.T, dir string) { check(t, os.Symlink("../x", dir+"/l")) }, "leaves the bundle", true},
		{"link out from below", func(t *testing.T, dir string) { check(t, os.Symlink("../../x", dir+"/d/l2")) }, "leaves the bundle", true},
		{"link with a slash at its end", func(t *testing.T, dir string) { check(t, os.Symlink("d/", dir+"/l")) }, "empty component", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := makeDir(t, sample())
			c.change(t, dir)
			_, _, err := Pack(t.Context(), io.Discard, openRoot(t, dir), testTime, nil)
			if !errors.Is(err, tree.ErrTree) || errors.Is(err, layout.ErrPath) != c.path {
				t.Fatalf("got %v; want tree.ErrTree, with layout.ErrPath: %t", err, c.path)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

func TestPackRefusesATimeThatNoHeaderHolds(t *testing.T) {
	root := openRoot(t, makeDir(t, sample()))
	for _, at := range []time.Time{{}, testTime.Add(time.Nanosecond), time.Unix(-1, 0), time.Unix(maxNumber+1, 0)} {
		if _, _, err := Pack(t.Context(), io.Discard, root, at, nil); err == nil || !strings.Contains(err.Error(), "is not a whole second") {
			t.Errorf("time %s: got %v", at, err)
		}
	}
}

// Progress is called while a file is read, so it is the place to change the file.
func TestPackRefusesAFileThatChangesItsSize(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		says string
	}{{"shorter", 2 * bufSize, "its size changed"}, {"longer", 4*bufSize + 1, "its size changed"}, {"gone", 0, "its size changed"}} {
		t.Run(c.name, func(t *testing.T) {
			dir := makeDir(t, []part{filePart("f", strings.Repeat("x", 4*bufSize))})
			first := true
			_, _, err := Pack(t.Context(), io.Discard, openRoot(t, dir), testTime, func(int64) {
				if first {
					check(t, os.Truncate(dir+"/f", c.size))
				}
				first = false
			})
			if !errors.Is(err, tree.ErrTree) || !strings.Contains(err.Error(), `file "f"`) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want tree.ErrTree and %q", err, c.says)
			}
		})
	}
}

func TestPackStopsWhenTold(t *testing.T) {
	dir := makeDir(t, []part{filePart("f", strings.Repeat("x", 4*bufSize))})
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	_, _, err := Pack(ctx, io.Discard, openRoot(t, dir), testTime, func(int64) { calls++; cancel() })
	if !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("got %v after %d calls, want context.Canceled after 1", err, calls)
	}
}

// failing is a writer that has room for so many bytes.
type failing struct {
	room int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.room {
		return 0, f.err
	}
	f.room -= len(p)
	return len(p), nil
}

func TestPackTellsAFullDisk(t *testing.T) {
	root := openRoot(t, makeDir(t, sample()))
	for err, want := range map[error]reason.Code{unix.ENOSPC: reason.Disk, unix.EDQUOT: reason.Disk, unix.EIO: reason.IO} {
		for _, room := range []int{0, 10, 200} {
			_, _, got := Pack(t.Context(), &failing{room, err}, root, testTime, nil)
			if !errors.Is(got, err) || reason.Of(got) != want {
				t.Errorf("%v after %d bytes: got %v with the reason %q, want %q", err, room, got, reason.Of(got), want)
			}
		}
	}
}

func TestProgressCountsEveryByte(t *testing.T) {
	dir := makeDir(t, append([]part{filePart("big", strings.Repeat("x", 3*bufSize+1))}, sample()...))
	var packed, unpacked, calls int64
	var b bytes.Buffer
	info, _, err := Pack(t.Context(), &b, openRoot(t, dir), testTime, func(n int64) { packed += n; calls++ })
	check(t, err)
	if packed != info.Unpacked || calls < 4 {
		t.Errorf("%d bytes in %d calls while packing, want %d in several", packed, calls, info.Unpacked)
	}
	_, err = Unpack(t.Context(), &b, openRoot(t, t.TempDir()), wanted(info), func(n int64) { unpacked += n })
	check(t, err)
	if unpacked != info.Unpacked {
		t.Errorf("%d bytes while unpacking, want %d", unpacked, info.Unpacked)
	}
}

// GNU tar lists and extracts what Pack writes, without a word of warning.
func TestTarReadsWhatPackWrites(t *testing.T) {
	needsTar(t)
	dir := makeDir(t, sample())
	tarball, info, _ := pack(t, dir)
	name := filepath.Join(t.TempDir(), "bundle.tar.zst")
	put(t, name, string(tarball), 0o644)
	deep := strings.Repeat("l", 60)
	long := deep + "/" + strings.Repeat("n", 60)
	want := strings.Join([]string{
		"drwxr-xr-x 0/0 0 2026-06-02 21:00:00 d/",
		"-rw-r--r-- 0/0 0 2026-06-02 21:00:00 d/empty",
		"-rw-r--r-- 0/0 8 2026-06-02 21:00:00 d/f",
		"lrwxr-xr-x 0/0 0 2026-06-02 21:00:00 d/l -> f",
		"drwxr-xr-x 0/0 0 2026-06-02 21:00:00 " + deep + "/",
		"-rw-r--r-- 0/0 700 2026-06-02 21:00:00 " + long,
		"-rwxr-xr-x 0/0 10 2026-06-02 21:00:00 server",
		"lrwxr-xr-x 0/0 0 2026-06-02 21:00:00 z -> " + long,
		`-rw-r--r-- 0/0 9 2026-06-02 21:00:00 \303\244`,
	}, "\n") + "\n"
	got := run(t, "tar", "--zstd", "--utc", "--full-time", "-tvf", name)
	for strings.Contains(got, "  ") { // columns
		got = strings.ReplaceAll(got, "  ", " ")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	out := t.TempDir()
	if got := run(t, "tar", "--zstd", "-xf", name, "-C", out, "--no-same-owner", "--no-same-permissions", "--preserve-permissions"); got != "" {
		t.Errorf("tar says %q", got)
	}
	entries, err := tree.Read(t.Context(), openRoot(t, out))
	check(t, err)
	if tree.Hash(entries) != info.Tree {
		t.Errorf("what tar extracted differs: %q", tree.Diff(entries, nil))
	}
	if got := run(t, "zstd", "-t", "-q", name); got != "" {
		t.Errorf("zstd says %q", got)
	}
}

// run runs a program that must succeed, and returns all that it says.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

// Go's own reader agrees on every field.
func TestGoReadsWhatPackWrites(t *testing.T) {
	tarball, _, _ := pack(t, makeDir(t, sample()))
	r := tar.NewReader(bytes.NewReader(unsqueeze(t, tarball)))
	for _, p := range sample() {
		h, err := r.Next()
		check(t, err)
		data, err := io.ReadAll(r)
		check(t, err)
		want := &tar.Header{Name: p.h.path, Linkname: p.h.link, Size: p.h.size, Mode: 0o755, ModTime: testTime}
		switch p.h.kind {
		case tree.Dir:
			want.Typeflag, want.Name = tar.TypeDir, p.h.path+"/"
		case tree.Link:
			want.Typeflag = tar.TypeSymlink
		case tree.Exec:
			want.Typeflag = tar.TypeReg
		default:
			want.Typeflag, want.Mode = tar.TypeReg, 0o644
		}
		want.PAXRecords, want.Format = h.PAXRecords, h.Format
		if diff := cmp.Diff(want, h); diff != "" {
			t.Error(diff)
		}
		if got := sha256.Sum256(data); got != sha256.Sum256(p.body[:p.h.size]) {
			t.Errorf("%q: other content", p.h.path)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last entry: %v", err)
	}
}
