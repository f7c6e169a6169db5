package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

func TestUnpack(t *testing.T) {
	for _, mask := range []int{0o022, 0o000, 0o077} {
		dst := t.TempDir()
		tarball := squeeze(t, join(sample()))
		root := openRoot(t, dst)
		old := syscall.Umask(mask)
		got, err := Unpack(t.Context(), bytes.NewReader(tarball), root, wantOf(sample()), nil)
		syscall.Umask(old)
		if err != nil {
			t.Errorf("umask %03o: %v", mask, err)
			continue
		}
		onDisk, err := tree.Read(t.Context(), root) // exact modes
		check(t, err)
		if diff := cmp.Diff(got, onDisk); diff != "" {
			t.Errorf("umask %03o: %s", mask, diff)
		}
		checked, err := Check(t.Context(), bytes.NewReader(tarball), wantOf(sample()))
		check(t, err)
		if diff := cmp.Diff(got, checked); diff != "" {
			t.Errorf("Check: %s", diff)
		}
	}
}

// A setgid directory hands its bit down to new directories; a bundle does not have it.
func TestUnpackIntoASetgidDirectory(t *testing.T) {
	dst := t.TempDir()
	check(t, os.Chmod(dst, 0o755|fs.ModeSetgid))
	root := openRoot(t, dst)
	_, err := Unpack(t.Context(), bytes.NewReader(squeeze(t, join(sample()))), root, wantOf(sample()), nil)
	check(t, err)
	if _, err := tree.Read(t.Context(), root); err != nil {
		t.Error(err)
	}
}

// The archive and the manifest must agree exactly.
func TestUnpackWantsExactlyTheManifest(t *testing.T) {
	tarball := squeeze(t, join(sample()))
	for _, c := range []struct {
		name   string
		change func(w *Want)
		code   reason.Code
		says   string
	}{
		{"zero value", func(w *Want) { *w = Want{} }, reason.Format, "is not a whole second"},
		{"nothing but a time", func(w *Want) { *w = Want{MTime: testTime} }, reason.Format, "0 entries with 0 bytes are wanted"},
		{"negative bytes", func(w *Want) { w.Unpacked = -1 }, reason.Format, "with -1 bytes are wanted"},
		{"no tree", func(w *Want) { w.Tree = "" }, reason.Format, `digest ""`},
		{"tree without its algorithm", func(w *Want) { w.Tree = layout.Digest(w.Tree.Hex()) }, reason.Format, "is not sha256:"},
		{"one entry less", func(w *Want) { w.Entries-- }, reason.Limit, "more entries than the 8"},
		{"one entry more", func(w *Want) { w.Entries++ }, reason.Mismatch, "has 9 entries, the manifest says 10"},
		{"one byte less", func(w *Want) { w.Unpacked-- }, reason.Limit, "more bytes than the 726"},
		{"one byte more", func(w *Want) { w.Unpacked++ }, reason.Mismatch, "unpacks to 727 bytes, the manifest says 728"},
		{"another tree", func(w *Want) { w.Tree = layout.Sum(nil) }, reason.Mismatch, "tree mismatch: got sha256:"},
		{"a second later", func(w *Want) { w.MTime = w.MTime.Add(1e9) }, reason.Format, `field mtime is "15207642120", want "15207642121"`},
		{"half a second later", func(w *Want) { w.MTime = w.MTime.Add(5e8) }, reason.Format, "is not a whole second"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := wantOf(sample())
			c.change(&want)
			refused(t, tarball, want, c.code, c.says)
		})
	}
}

// refused asserts that neither Check nor Unpack takes a tarball, for which reason, and
// that nothing happened outside of the directory that was unpacked into.
func refused(t *testing.T, tarball []byte, want Want, code reason.Code, says string) {
	t.Helper()
	_, err := Check(t.Context(), bytes.NewReader(tarball), want)
	if err == nil || reason.Of(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("Check: got %v with the reason %q; want %q with the reason %q", err, reason.Of(err), says, code)
	}
	base := t.TempDir()
	dst := filepath.Join(base, "a", "dst")
	check(t, os.MkdirAll(dst, 0o700))
	put(t, base+"/a/canary", "alive", 0o600)
	put(t, base+"/canary/x", "alive", 0o600)
	check(t, os.Symlink("canary/x", base+"/x"))
	before := snapshot(t, base, dst)
	entries, err := Unpack(t.Context(), bytes.NewReader(tarball), openRoot(t, dst), want, nil)
	if err == nil || reason.Of(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("Unpack: got %v with the reason %q; want %q with the reason %q", err, reason.Of(err), says, code)
	}
	if entries != nil {
		t.Errorf("Unpack: returned %d entries with its error", len(entries))
	}
	if diff := cmp.Diff(before, snapshot(t, base, dst)); diff != "" {
		t.Errorf("outside of the directory: %s", diff)
	}
	if _, err := tree.Read(t.Context(), openRoot(t, dst)); err != nil {
		t.Errorf("what was made before the refusal: %v", err)
	}
}

// snapshot returns all there is to know about what is below base, but not below skip.
func snapshot(t *testing.T, base, skip string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	check(t, filepath.WalkDir(base, func(name string, d fs.DirEntry, err error) error {
		check(t, err)
		if name == skip {
			return fs.SkipDir
		}
		info, err := d.Info()
		check(t, err)
		what := info.Mode().String() + " " + info.ModTime().String()
		if d.Type().IsRegular() {
			data, err := os.ReadFile(name)
			check(t, err)
			what += " " + string(data)
		}
		all[name] = what
		return nil
	}))
	return all
}

func TestUnpackWantsAnEmptyDirectory(t *testing.T) {
	for _, name := range []string{"server", ".x"} {
		dst := t.TempDir()
		put(t, filepath.Join(dst, name), "here before", 0o644)
		_, err := Unpack(t.Context(), bytes.NewReader(squeeze(t, join(sample()))), openRoot(t, dst), wantOf(sample()), nil)
		if err == nil || reason.Of(err) != reason.IO || !strings.Contains(err.Error(), "is not empty: it holds") {
			t.Errorf("got %v with the reason %q, want %q", err, reason.Of(err), reason.IO)
		}
		if left, _ := os.ReadDir(dst); len(left) != 1 {
			t.Errorf("%d names in the directory, want the one of before", len(left))
		}
	}
}

// Every part of a tarball is needed.
func TestUnpackRefusesATruncatedTarball(t *testing.T) {
	tarball := squeeze(t, join(sample()))
	for i := range tarball {
		_, err := Check(t.Context(), bytes.NewReader(tarball[:i]), wantOf(sample()))
		if reason.Of(err) != reason.Format || !strings.Contains(err.Error(), "ends early") {
			t.Fatalf("the first %d bytes of %d: got %v with the reason %q, want %q", i, len(tarball), err, reason.Of(err), reason.Format)
		}
	}
	data := join(sample())
	buf := make([]byte, bufSize)
	for i := range data {
		_, err := unpackTar(t, data[:i], wantOf(sample()), buf)
		if reason.Of(err) != reason.Format || !strings.Contains(err.Error(), "tar archive ends early") {
			t.Fatalf("the first %d bytes of %d in a whole frame: got %v with the reason %q, want %q", i, len(data), err, reason.Of(err), reason.Format)
		}
	}
}

// No byte of a tar archive can be another one.
func TestUnpackRefusesEveryOtherByte(t *testing.T) {
	data, buf := join(sample()), make([]byte, bufSize)
	for i := range data {
		for _, bit := range []byte{0x01, 0x80} {
			data[i] ^= bit
			_, err := unpackTar(t, data, wantOf(sample()), buf)
			data[i] ^= bit
			switch code := reason.Of(err); {
			case err == nil:
				t.Fatalf("byte %d is changed, and nobody sees it", i)
			case code != reason.Format && code != reason.Mismatch && code != reason.Limit:
				t.Fatalf("byte %d: got %v with the reason %q", i, err, code)
			}
		}
	}
}

// unpackTar is Check for an archive that is not compressed.
func unpackTar(t *testing.T, data []byte, want Want, buf []byte) ([]tree.Entry, error) {
	t.Helper()
	u := unpacker{in: bytes.NewReader(data), out: nowhere{}, want: want, digest: sha256.New(), buf: buf}
	if err := u.run(t.Context()); err != nil {
		return nil, err
	}
	return u.entries, want.compare(&u)
}

// Nor can one of the frame, unless it says the same in another way.
func TestUnpackRefusesAnotherByteOfTheFrame(t *testing.T) {
	tarball := squeeze(t, join(sample()))
	want := wantOf(sample())
	for i := range tarball {
		for _, bit := range []byte{0x01, 0x10, 0x80} {
			tarball[i] ^= bit
			entries, err := Check(t.Context(), bytes.NewReader(tarball), want)
			tarball[i] ^= bit
			if err == nil && tree.Hash(entries) != want.Tree {
				t.Fatalf("byte %d: another tree", i)
			}
			if code := reason.Of(err); err != nil && code != reason.Format && code != reason.Limit {
				t.Fatalf("byte %d: got %v with the reason %q", i, err, code)
			}
		}
	}
}

func TestUnpackTellsAFailingSource(t *testing.T) {
	tarball := squeeze(t, join(sample()))
	cut := errors.New("cable cut")
	for _, c := range []struct {
		name string
		err  error
		code reason.Code
	}{
		{"an error", cut, reason.IO},
		{"an early end that the source knows of", io.ErrUnexpectedEOF, reason.IO},
		{"an error that has a reason", reason.Errorf(reason.Stale, "%w", cut), reason.Stale},
	} {
		for _, at := range []int{0, 3, 5, 6, 8, 50, len(tarball) - 2, len(tarball)} {
			r := io.MultiReader(bytes.NewReader(tarball[:at]), iotest.ErrReader(c.err))
			_, err := Check(t.Context(), r, wantOf(sample()))
			if !errors.Is(err, c.err) || reason.Of(err) != c.code {
				t.Errorf("%s after %d bytes: got %v with the reason %q, want %q", c.name, at, err, reason.Of(err), c.code)
			}
		}
	}
}

// However a source portions its bytes.
func TestUnpackFromSlowSources(t *testing.T) {
	tarball := squeeze(t, join(sample()))
	for name, r := range map[string]io.Reader{
		"one byte at a time":    iotest.OneByteReader(bytes.NewReader(tarball)),
		"the end with the data": iotest.DataErrReader(bytes.NewReader(tarball)),
		"halves":                iotest.HalfReader(bytes.NewReader(tarball)),
	} {
		if _, err := Check(t.Context(), r, wantOf(sample())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// after is a reader that must not be read any more once done is set.
type after struct {
	t    *testing.T
	r    io.Reader
	done atomic.Bool
}

func (a *after) Read(p []byte) (int, error) {
	if a.done.Load() {
		a.t.Error("read after Unpack had returned")
	}
	return a.r.Read(p)
}

func TestUnpackStopsWhenTold(t *testing.T) {
	parts := []part{filePart("f", random(20*bufSize))}
	tarball := squeeze(t, join(parts))
	for _, at := range []int64{1, 5 * bufSize} {
		ctx, cancel := context.WithCancel(t.Context())
		r := &after{t: t, r: bytes.NewReader(tarball)}
		var done int64
		_, err := Unpack(ctx, r, openRoot(t, t.TempDir()), wantOf(parts), func(n int64) {
			if done += n; done >= at {
				cancel()
			}
		})
		r.done.Store(true)
		if !errors.Is(err, context.Canceled) || done > at+bufSize {
			t.Errorf("got %v after %d bytes, want context.Canceled soon after %d", err, done, at)
		}
		cancel()
	}
}

// random returns n bytes that do not compress, always the same.
func random(n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return string(b)
}

// failingSink fails one of the steps of making entries. A disk that is full or broken
// at a chosen step cannot be had without root.
type failingSink struct {
	step string
	err  error
}

func (f failingSink) at(step string) error {
	if step == f.step {
		return f.err
	}
	return nil
}

func (f failingSink) dir(string) error                               { return f.at("dir") }
func (f failingSink) link(string, string) error                      { return f.at("link") }
func (f failingSink) file(string, tree.Kind) (io.WriteCloser, error) { return f, f.at("file") }
func (f failingSink) Close() error                                   { return f.at("close") }
func (f failingSink) Write(p []byte) (int, error)                    { return len(p), f.at("write") }

func TestUnpackTellsAFullDisk(t *testing.T) {
	tarball := squeeze(t, join(sample()))
	for _, step := range []string{"dir", "link", "file", "write", "close"} {
		for err, want := range map[error]reason.Code{unix.ENOSPC: reason.Disk, unix.EDQUOT: reason.Disk, unix.EIO: reason.IO, unix.EROFS: reason.IO} {
			sink := failingSink{step: step, err: &fs.PathError{Op: step, Path: "x", Err: err}}
			_, got := unpack(t.Context(), bytes.NewReader(tarball), sink, wantOf(sample()), nil)
			if !errors.Is(got, err) || reason.Of(got) != want {
				t.Errorf("%v at %s: got %v with the reason %q, want %q", err, step, got, reason.Of(got), want)
			}
		}
	}
}

func TestAsRootUnpackOnASmallFilesystem(t *testing.T) {
	testenv.Root(t, "a mount")
	dst := t.TempDir()
	check(t, unix.Mount("tmpfs", dst, "tmpfs", 0, "size=256k,mode=700"))
	t.Cleanup(func() { check(t, unix.Unmount(dst, unix.MNT_DETACH)) })
	parts := []part{filePart("f", random(2*bufSize))}
	_, err := Unpack(t.Context(), bytes.NewReader(squeeze(t, join(parts))), openRoot(t, dst), wantOf(parts), nil)
	if !errors.Is(err, unix.ENOSPC) || reason.Of(err) != reason.Disk {
		t.Errorf("got %v with the reason %q, want %q", err, reason.Of(err), reason.Disk)
	}
}

func TestUnpackTellsWhatItMayNotWrite(t *testing.T) {
	testenv.User(t, "root may write everywhere")
	dst := t.TempDir()
	root := openRoot(t, dst)
	check(t, os.Chmod(dst, 0o500))
	t.Cleanup(func() { check(t, os.Chmod(dst, 0o700)) })
	_, err := Unpack(t.Context(), bytes.NewReader(squeeze(t, join(sample()))), root, wantOf(sample()), nil)
	if !errors.Is(err, fs.ErrPermission) || reason.Of(err) != reason.IO {
		t.Errorf("got %v with the reason %q, want fs.ErrPermission with %q", err, reason.Of(err), reason.IO)
	}
}
