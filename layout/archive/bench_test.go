package archive

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// bigBundle makes a directory as large as a real bundle: two binaries of 70 MB, from
// those of the Go toolchain, and 300 small files, from its sources.
func bigBundle(tb testing.TB) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), "go", "env", "GOROOT").Output()
	testenv.Need(tb, err == nil, "the go command")
	goroot := strings.TrimSpace(string(out))
	tools, err := filepath.Glob(goroot + "/pkg/tool/*/*")
	testenv.Need(tb, err == nil && len(tools) > 0, "the tools of the Go toolchain")
	dir := filepath.Join(tb.TempDir(), "bundle")
	var pool []byte
	for _, name := range append(tools, goroot+"/bin/go") {
		data, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		pool = append(pool, data...)
	}
	const size = 70 << 20
	for len(pool) < 2*size { // what repeats is farther away than the window is wide
		pool = append(pool, pool...)
	}
	put(tb, filepath.Join(dir, "server"), string(pool[:size]), 0o755)
	put(tb, filepath.Join(dir, "admin"), string(pool[size:2*size]), 0o755)
	sources, err := filepath.Glob(goroot + "/src/*/*.go")
	testenv.Need(tb, err == nil && len(sources) >= 300, "the sources of the Go toolchain")
	for i, name := range sources[:300] {
		data, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		put(tb, filepath.Join(dir, "static", fmt.Sprint(i%7), filepath.Base(name)+fmt.Sprint(i)), string(data), 0o644)
	}
	return dir
}

// BenchmarkUnpackAndSync measures what a node does with a bundle that it has fetched
// (hash of the tarball, unpacking with the hash of the tree, syncfs) side by side with
// "tar --zstd -xf" and "sync", and reports the ratio of the medians.
func BenchmarkUnpackAndSync(b *testing.B) {
	needsTar(b)
	tarball, want := packFile(b, bigBundle(b))
	base := b.TempDir()
	var ours, tars []time.Duration
	for b.Loop() {
		b.StopTimer()
		tars = append(tars, timed(b, base, func(dst string) error {
			return exec.CommandContext(b.Context(), "sh", "-c", `tar --zstd -xf "$1" -C "$2" && sync`, "sh", tarball, dst).Run()
		}))
		b.StartTimer()
		ours = append(ours, timed(b, base, func(dst string) error { return fetched(b.Context(), tarball, base, dst, want) }))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ours).Seconds(), "sando-s")
	b.ReportMetric(median(tars).Seconds(), "tar-s")
	b.ReportMetric(median(ours).Seconds()/median(tars).Seconds(), "ratio")
}

// fetched does with a tarball what a node does before the release is renamed to its
// place.
func fetched(ctx context.Context, tarball, base, dst string, want Want) error {
	sync, err := os.Open(base)
	if err != nil {
		return err
	}
	defer sync.Close()
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(sha256.New(), f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	root, err := os.OpenRoot(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := Unpack(ctx, f, root, want, nil); err != nil {
		return err
	}
	return durable.SyncFS(sync)
}

// timed runs do with a new directory in base, from a disk that is at rest. Of what it
// made the small files stay, because ext4 takes long over new files when many were
// deleted a moment before; the large ones give their memory to the next run.
func timed(b *testing.B, base string, do func(dst string) error) time.Duration {
	b.Helper()
	dst, err := os.MkdirTemp(base, "dst")
	if err != nil {
		b.Fatal(err)
	}
	if err := exec.CommandContext(b.Context(), "sync").Run(); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := do(dst); err != nil {
		b.Fatal(err)
	}
	took := time.Since(start)
	for _, name := range []string{"server", "admin"} {
		if err := os.Remove(filepath.Join(dst, name)); err != nil {
			b.Fatal(err)
		}
	}
	return took
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// packFile packs dir into a file.
func packFile(tb testing.TB, dir string) (string, Want) {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "bundle.tar.zst")
	f, err := os.Create(name)
	check(tb, err)
	info, _, err := Pack(tb.Context(), f, openRoot(tb, dir), testTime, nil)
	check(tb, err)
	check(tb, f.Close())
	return name, wanted(info)
}

// BenchmarkPack packs a large bundle, and reports time and size beside those of
// "zstd -3" and "zstd -9" over the same archive.
func BenchmarkPack(b *testing.B) {
	needsTar(b)
	dir := bigBundle(b)
	plain := filepath.Join(b.TempDir(), "bundle.tar")
	f, err := os.Create(plain)
	check(b, err)
	_, err = writeTar(b.Context(), f, openRoot(b, dir), testTime, nil)
	check(b, err)
	check(b, f.Close())
	var size int64
	for b.Loop() {
		info, _, err := Pack(b.Context(), io.Discard, openRoot(b, dir), testTime, nil)
		check(b, err)
		size = info.Size
	}
	b.ReportMetric(float64(size)/mb, "MB")
	for _, level := range []string{"-3", "-9"} {
		start := time.Now()
		out, err := exec.CommandContext(b.Context(), "zstd", "-q", "-c", level, plain).Output()
		check(b, err)
		b.ReportMetric(time.Since(start).Seconds(), "zstd"+level+"-s")
		b.ReportMetric(float64(len(out))/mb, "zstd"+level+"-MB")
	}
}

// BenchmarkMemory reports the peaks of resident memory with a large bundle.
func BenchmarkMemory(b *testing.B) {
	dir := bigBundle(b)
	name, want := packFile(b, dir)
	var packs, unpacks int64
	for b.Loop() {
		for _, c := range []struct {
			what, name string
			most       *int64
		}{{"pack", dir, &packs}, {"unpack", name, &unpacks}} {
			code, n := peak(b, c.what, c.name, want)
			if code != reason.Current {
				b.Fatalf("%s: %s", c.what, code)
			}
			*c.most = max(*c.most, n)
		}
	}
	b.ReportMetric(float64(packs)/mb, "pack-peak-MB")
	b.ReportMetric(float64(unpacks)/mb, "unpack-peak-MB")
}
