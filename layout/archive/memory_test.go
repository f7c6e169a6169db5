package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/tree"
)

// Memory is measured in a process of its own: this test binary again, told by the
// environment what to do.
const (
	childDo   = "SANDO_TEST_DO"   // "pack", "unpack" or "check"
	childFile = "SANDO_TEST_FILE" // the directory or the tarball
	childWant = "SANDO_TEST_WANT" // the Want, as JSON
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childDo); what != "" {
		fmt.Println(child(what))
		return
	}
	m.Run()
}

// child returns, in one line, the reason code and the peak of resident memory in kB.
func child(what string) string {
	var err error
	switch name := os.Getenv(childFile); what {
	case "pack":
		err = childPack(name)
	default:
		err = childUnpack(name, os.Getenv(childWant), what == "check")
	}
	status, serr := os.ReadFile("/proc/self/status")
	if serr != nil {
		return serr.Error()
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ = strings.Cut(strings.TrimSpace(peak), " ")
	return string(reason.Of(err)) + " " + peak
}

func childPack(name string) error {
	root, err := os.OpenRoot(name)
	if err != nil {
		return err
	}
	_, _, err = Pack(context.Background(), io.Discard, root, testTime, nil)
	return err
}

func childUnpack(name, want string, check bool) error {
	var w Want
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	if check {
		_, err = Check(context.Background(), f, w)
		return err
	}
	dst, err := os.OpenRoot(name + ".d")
	if err != nil {
		return err
	}
	_, err = Unpack(context.Background(), f, dst, w, nil)
	return err
}

// peak runs a child and returns the reason code it ended with and the memory it took,
// in bytes.
func peak(tb testing.TB, what, name string, want Want) (reason.Code, int64) {
	tb.Helper()
	encoded, err := json.Marshal(want)
	check(tb, err)
	self, err := os.Executable()
	check(tb, err)
	if what == "unpack" {
		check(tb, os.RemoveAll(name+".d"))
		check(tb, os.Mkdir(name+".d", 0o700))
	}
	cmd := exec.CommandContext(tb.Context(), self)
	cmd.Env = append(os.Environ(), childDo+"="+what, childFile+"="+name, childWant+"="+string(encoded))
	out, err := cmd.Output()
	check(tb, err)
	code, kb, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	n, err := strconv.ParseInt(kb, 10, 64)
	check(tb, err)
	return reason.Code(code), n << 10
}

const (
	mb  = 1_000_000
	mib = 1 << 20
)

// The peaks that a node and a builder may have with a large bundle. They do not grow
// with it, so this one is half as large.
func TestMemoryOfABundle(t *testing.T) {
	testenv.NoRace(t, "it takes memory of its own")
	dir := filepath.Join(t.TempDir(), "staged")
	for i, name := range []string{"server", "admin"} {
		data := []byte(random(36 << 20))
		for j := range data {
			data[j] &= byte(0x1f << i) // some of it compresses
		}
		put(t, filepath.Join(dir, name), string(data), 0o755)
	}
	for i := range 150 {
		put(t, filepath.Join(dir, "static", fmt.Sprint(i%7), fmt.Sprint(i)), random(5000+i), 0o644)
	}
	if code, n := peak(t, "pack", dir, Want{}); code != reason.Current || n >= 256*mb {
		t.Errorf("pack: %q with %d MB, want less than 256", code, n/mb)
	}
	name, want := packFile(t, dir)
	if code, n := peak(t, "unpack", name, want); code != reason.Current || n >= 64*mb {
		t.Errorf("unpack: %q with %d MB, want less than 64", code, n/mb)
	}
}

func TestMemoryOfHostileTarballs(t *testing.T) {
	testenv.NoRace(t, "it takes memory of its own")
	large := []part{newPart(header{path: "f", kind: tree.File}, string(make([]byte, 200*mib)))}
	tooLarge := wantOf(large)
	tooLarge.Unpacked--
	var dirs, files []part
	for i := range 200_000 {
		dirs = append(dirs, dirPart(fmt.Sprintf("%070d", i)))
		files = append(files, filePart(fmt.Sprintf("%070d", i), ""))
	}
	fewer := wantOf(files)
	fewer.Entries--
	for _, c := range []struct {
		name   string
		parts  []part
		window int
		want   Want
		code   reason.Code
	}{
		{"the largest window", large, maxWindow, wantOf(large), reason.Current},
		{"a byte more than announced", large, maxWindow, tooLarge, reason.Limit},
		{"as many files as a node takes", files, ownWindow, wantOf(files), reason.Current},
		{"as many directories as a node takes", dirs, ownWindow, wantOf(dirs), reason.Current},
		{"more files than announced", files, ownWindow, fewer, reason.Limit},
		{"many files and the largest window", files[:50_000], maxWindow, wantOf(files[:50_000]), reason.Current},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			w, err := zstd.NewWriter(&b, zstd.WithWindowSize(c.window), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
			check(t, err)
			_, err = w.Write(join(c.parts))
			check(t, err)
			check(t, w.Close())
			name := filepath.Join(t.TempDir(), "hostile.tar.zst")
			put(t, name, b.String(), 0o644)
			code, n := peak(t, "check", name, c.want)
			if code != c.code || n >= 128*mib {
				t.Errorf("%q with %d MiB, want %q with less than 128", code, n/mib, c.code)
			}
			t.Logf("%d MiB", n/mib)
		})
	}
}
