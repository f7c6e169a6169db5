package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/bucket/buckettest"
)

func openDir(t *testing.T, dir string) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), bucket.Config{URL: "file://" + dir})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDirConformance(t *testing.T) {
	for _, umask := range []int{0o022, 0o077, 0} {
		t.Run(fmt.Sprintf("umask %03o", umask), func(t *testing.T) {
			defer unix.Umask(unix.Umask(umask))
			buckettest.Run(t, func(t *testing.T) bucket.Bucket {
				dir := filepath.Join(t.TempDir(), "made by create", "bucket")
				t.Cleanup(func() { checkTree(t, dir) })
				return openDir(t, strings.ReplaceAll(dir, " ", "%20"))
			})
		})
	}
}

// checkTree reports everything in dir that is not an object or a directory, or has
// other modes than these.
func checkTree(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if path == filepath.Join(dir, ".lock") && info.Mode() == 0o600 {
			return nil
		}
		if m := info.Mode(); m != 0o644 && m != fs.ModeDir|0o755 || e.Name()[0] == '.' {
			t.Errorf("%s: left behind, mode %s", path, m)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	for _, c := range []struct {
		url, want string // want: part of the error, "" none
	}{
		{"file:///srv/bucket", ""},
		{"file:///srv/bucket/", ""},
		{"file:///srv/b%20c", ""},
		{"file://srv/bucket", "names a host"},
		{"file://localhost/srv/bucket", "names a host"},
		{"file://u:secret@localhost/srv/bucket", "more than a place"},
		{"file:///srv/bucket?x=1", "more than a place"},
		{"file:///srv/bucket?", "more than a place"},
		{"file:///srv/bucket#x", "more than a place"},
		{"file:srv/bucket", "more than a place"},
		{"s3:key:secret@releases", "more than a place"},
		{"file:///", "is the root"},
		{"file://", "not absolute"},
		{"file:///srv/../bucket", "not absolute and plain"},
		{"file:///srv//bucket", "not absolute and plain"},
		{"file:///srv/b%00", "not absolute and plain"},
		{"/srv/bucket", `is ""`},
		{"", "storage.url: want where bundles are kept"},
		{"s3://releases", ""},
		{"s3://releases/", ""},
		{"s3://releases/apps/all", ""},
		{"s3://", "not the name of a bucket"},
		{"s3://Releases", "not the name of a bucket"},
		{"s3://re_leases", "not the name of a bucket"},
		{"s3://127.0.0.1", "not the name of a bucket"},
		{"s3://releases:80", "not the name of a bucket"},
		{"s3://releases//x", "prefix"},
		{"s3://releases/../x", "prefix"},
		{"s3://releases/" + strings.Repeat("x", bucket.MaxPrefix), ""},
		{"s3://releases/" + strings.Repeat("x", bucket.MaxPrefix+1), "prefix"},
		{"s3://releases?key=secret", "more than a place"},
		{"s3://u:secret@releases", "more than a place"},
		{"http://u:secret@h/b", "more than a place"},
		{"http://h/b", `is "http"`},
		{"ftp://u:secret@h\x7f/", "malformed"},
	} {
		_, err := bucket.Open(t.Context(), bucket.Config{URL: c.url})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("Open(%q) = %v", c.url, err)
		case c.want != "" && (reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.want)):
			t.Errorf("Open(%q) = %v, want the reason config and %q", c.url, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%q) = %v, which holds a password", c.url, err)
		}
	}
}

func TestDirMissing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	b := openDir(t, dir)
	_, err := b.Stat(t.Context(), "a/b")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("Stat without the directory = %v, want fs.ErrNotExist and its name", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat made the directory")
	}
}

// TestDirNotAnObject puts other things where an object would be.
func TestDirNotAnObject(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"link out":         func(p string) error { return os.Symlink(outside, p) },
		"relative link":    func(p string) error { return os.Symlink("real", p) },
		"dangling link":    func(p string) error { return os.Symlink("nothing", p) },
		"link to itself":   func(p string) error { return os.Symlink(filepath.Base(p), p) },
		"pipe":             func(p string) error { return unix.Mkfifo(p, 0o644) },
		"directory":        func(p string) error { return os.Mkdir(p, 0o755) },
		"full directory":   func(p string) error { return os.MkdirAll(p+"/x", 0o755) },
		"link to root":     func(p string) error { return os.Symlink("/", p) },
		"link to the root": func(p string) error { return os.Symlink("..", p) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			b := openDir(t, dir)
			if err := b.Create(t.Context(), "a/real", strings.NewReader("x"), 1); err != nil {
				t.Fatal(err)
			}
			if err := put(filepath.Join(dir, "a/k")); err != nil {
				t.Fatal(err)
			}
			r, _, err := b.Get(t.Context(), "a/k")
			if err == nil {
				r.Close()
				t.Error("Get opened it")
			}
			_, serr := b.Stat(t.Context(), "a/k")
			wantMissing := strings.Contains(name, "directory")
			for _, err := range []error{err, serr} {
				if errors.Is(err, fs.ErrNotExist) != wantMissing || reason.Of(err) != reason.IO {
					t.Errorf("Get or Stat = %v", err)
				}
				if !wantMissing && !strings.Contains(err.Error(), "not a regular file") {
					t.Errorf("Get or Stat = %v, want to hear that it is no regular file", err)
				}
			}
			if err := b.Create(t.Context(), "a/k", strings.NewReader("y"), 1); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Create = %v, want fs.ErrExist", err)
			}
		})
	}
}

// TestDirLinkOnTheWay replaces a directory of the bucket by a symlink.
func TestDirLinkOnTheWay(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "k"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	b := openDir(t, dir)
	if data, err := bucket.ReadAll(t.Context(), b, "a/k", 100); err == nil {
		t.Errorf("read %q from outside of the bucket", data)
	}
	err := b.Create(t.Context(), "a/new", strings.NewReader("y"), 1)
	if err == nil || !strings.Contains(err.Error(), `"a" in the bucket is not a directory`) {
		t.Errorf("Create below a symlink = %v, want a refusal", err)
	}
	if got := names(t, outside); !slices.Equal(got, []string{"k"}) {
		t.Errorf("outside of the bucket there is %q", got)
	}
}

func TestDirItselfALink(t *testing.T) {
	real, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	b := openDir(t, link)
	if err := b.Create(t.Context(), "a/k", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	if data, err := bucket.ReadAll(t.Context(), b, "a/k", 100); string(data) != "x" || err != nil {
		t.Errorf("ReadAll = %q, %v", data, err)
	}
}

func TestDirKeyBelowAnObject(t *testing.T) {
	b := openDir(t, t.TempDir())
	if err := b.Create(t.Context(), "a", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	err := b.Create(t.Context(), "a/b/c", strings.NewReader("y"), 1)
	if err == nil || !strings.Contains(err.Error(), `"a" in the bucket is not a directory`) {
		t.Errorf("Create below an object = %v, want a refusal", err)
	}
}

func TestDirOldTemps(t *testing.T) {
	dir := t.TempDir()
	b := openDir(t, dir)
	put := func(name string, age time.Duration) {
		path := filepath.Join(dir, "a", name)
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(".k.0123456789abcdef", 25*time.Hour)
	put(".other.0123456789abcdef", 25*time.Hour)
	put(".k.fedcba9876543210", 23*time.Hour)
	put("k.0123456789abcdef", 25*time.Hour)
	put(".notes", 25*time.Hour)
	if err := b.Create(t.Context(), "a/k", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	want := []string{".k.fedcba9876543210", ".notes", "k", "k.0123456789abcdef"}
	if got := names(t, filepath.Join(dir, "a")); !slices.Equal(got, want) {
		t.Errorf("after Create there is %q, want %q", got, want)
	}
}

func TestDirReadOnly(t *testing.T) {
	testenv.User(t, "root may write everywhere")
	dir := t.TempDir()
	b := openDir(t, dir)
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	err := b.Create(t.Context(), "a/k", strings.NewReader("x"), 1)
	if !errors.Is(err, fs.ErrPermission) || reason.Of(err) != reason.IO {
		t.Errorf("Create = %v, want fs.ErrPermission with the reason io", err)
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	return got
}

// The test binary runs itself as a creator, to have several processes.
const (
	creatorDir = "SANDO_TEST_CREATOR_DIR"
	creatorID  = "SANDO_TEST_CREATOR_ID"
	counterDir = "SANDO_TEST_COUNTER_DIR"
)

const counts = 25 // that each counter adds

func TestMain(m *testing.M) {
	if dir := os.Getenv(creatorDir); dir != "" {
		os.Exit(creator(dir, os.Getenv(creatorID)))
	}
	if dir := os.Getenv(counterDir); dir != "" {
		if err := count(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// creator waits for a line and creates an object: exit 0 for a success, 3 when there is
// one, 1 otherwise. The creator "slow" says when it is half way and waits to be killed.
func creator(dir, id string) int {
	ctx := context.Background()
	b, err := bucket.Open(ctx, bucket.Config{URL: "file://" + dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var body io.ReadSeeker = bytes.NewReader(bytes.Repeat([]byte(id), 100_000))
	if id == "slow" {
		body = stuck{body}
	}
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		return 1
	}
	err = b.Create(ctx, "a/k", body, int64(100_000*len(id)))
	switch {
	case errors.Is(err, fs.ErrExist):
		return 3
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// count adds to the number in the object n, one at a time.
func count(dir string) error {
	ctx := context.Background()
	b, err := bucket.Open(ctx, bucket.Config{URL: "file://" + dir})
	if err != nil {
		return err
	}
	for done := 0; done < counts; {
		data, version, err := b.Poll(ctx, "n", "", 10)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		n, _ := strconv.Atoi(string(data)) // 0 without an object
		_, err = b.Replace(ctx, "n", []byte(strconv.Itoa(n+1)), version)
		switch {
		case err == nil:
			done++
		case !errors.Is(err, bucket.ErrChanged):
			return err
		}
	}
	return nil
}

// TestDirReplaceProcesses: no writer of several processes undoes what another did.
func TestDirReplaceProcesses(t *testing.T) {
	dir := t.TempDir()
	var cmds []*exec.Cmd
	for range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), counterDir+"="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	got, err := bucket.ReadAll(t.Context(), openDir(t, dir), "n", 10)
	if want := strconv.Itoa(len(cmds) * counts); string(got) != want || err != nil {
		t.Errorf("%s, %v, want %s: some were lost", got, err, want)
	}
	checkTree(t, dir)
}

// TestDirLockHeld: who holds the lock holds up Replace, and nothing else; the wait ends with
// the context.
func TestDirLockHeld(t *testing.T) {
	dir := t.TempDir()
	b := openDir(t, dir)
	version, err := b.Replace(t.Context(), "k", []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Replace(ctx, "k", []byte("two"), version); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Replace under another's lock = %v, want context.DeadlineExceeded", err)
	}
	if got, _, err := b.Poll(t.Context(), "k", "", 10); string(got) != "one" || err != nil {
		t.Errorf("Poll under another's lock = %q, %v", got, err)
	}
	if err := b.Create(t.Context(), "new", strings.NewReader("x"), 1); err != nil {
		t.Errorf("Create under another's lock = %v", err)
	}
	if err := f.Close(); err != nil { // as when its holder dies
		t.Fatal(err)
	}
	if _, err := b.Replace(t.Context(), "k", []byte("two"), version); err != nil {
		t.Errorf("Replace after that = %v", err)
	}
}

// stuck stops for ever after it said so, once some of it was read.
type stuck struct{ io.ReadSeeker }

func (s stuck) Read(p []byte) (int, error) {
	n, err := s.ReadSeeker.Read(p)
	if err == io.EOF {
		fmt.Println("half")
		select {}
	}
	return n, err
}

func startCreator(t *testing.T, dir, id string) (*exec.Cmd, io.WriteCloser, io.Reader) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), creatorDir+"="+dir, creatorID+"="+id)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, in, out
}

func TestDirProcesses(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bucket")
	var cmds []*exec.Cmd
	var starts []io.Writer
	for id := range 8 {
		cmd, in, _ := startCreator(t, dir, fmt.Sprint(id))
		cmds, starts = append(cmds, cmd), append(starts, in)
	}
	for _, in := range starts {
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
	}
	winner := -1
	for id, cmd := range cmds {
		err := cmd.Wait()
		switch code := cmd.ProcessState.ExitCode(); {
		case code == 0 && winner < 0:
			winner = id
		case code != 3:
			t.Errorf("creator %d ends with %v, want exit 3, or 0 for one of them", id, err)
		}
	}
	got, err := bucket.ReadAll(t.Context(), openDir(t, dir), "a/k", 1<<20)
	if want := bytes.Repeat([]byte(fmt.Sprint(winner)), 100_000); err != nil || !bytes.Equal(got, want) {
		t.Errorf("ReadAll = %d bytes, %v, want the winner's %d", len(got), err, len(want))
	}
	checkTree(t, dir)
}

func TestDirKilled(t *testing.T) {
	dir := t.TempDir()
	cmd, in, out := startCreator(t, dir, "slow")
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("half"))); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // killed, as asked
	left := names(t, filepath.Join(dir, "a"))
	if len(left) != 1 || !durable.IsTemp(left[0]) {
		t.Fatalf("after the kill there is %q, want one temporary file", left)
	}
	b := openDir(t, dir)
	if _, err := b.Stat(t.Context(), "a/k"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat after the kill = %v, want fs.ErrNotExist", err)
	}
	if _, err := b.Stat(t.Context(), "a/"+left[0]); !errors.Is(err, bucket.ErrKey) {
		t.Errorf("Stat of the temporary file = %v, want bucket.ErrKey", err)
	}
	if err := b.Create(t.Context(), "a/k", strings.NewReader("x"), 1); err != nil {
		t.Errorf("Create after the kill: %v", err)
	}
}
