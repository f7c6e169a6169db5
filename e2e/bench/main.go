// Command bench measures what an update costs: it releases a bundle of 160 MB (two
// binaries of 70 MB and 300 small files) with the real builder, updates a node to it
// with the real puller, and prints
//
//	the peak resident memory of each program (VmHWM), and how long it took
//	what a cycle with nothing to do takes
//	hash, unpacking, tree hash and sync, side by side with `tar --zstd -xf` and `sync`
//
// Bounds that are promised in docs/design.md are checked: bench fails when the puller
// needs 64 MB or more, or the builder 256 MB or more. Times are for reading, and
// ratios are of one run; machines differ. It needs Go, git, tar and zstd, and about
// 1.5 GB of disk, all of it given back.
//
// Usage: go run ./e2e/bench [-rounds N]
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often unpacking is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run: a scratch directory with the programs in bin/.
type bench struct{ dir string }

func run(ctx context.Context, rounds int) (err error) {
	dir, err := os.MkdirTemp("", "sando-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b := &bench{dir}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	if err := b.programs(ctx); err != nil {
		return err
	}
	return b.unpacking(ctx, rounds)
}

func (b *bench) path(elem ...string) string {
	return filepath.Join(append([]string{b.dir}, elem...)...)
}

// sh runs a script in the scratch directory.
func (b *bench) sh(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "sh", "-euc", script)
	cmd.Dir = b.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", script, err, out)
	}
	return nil
}

// prepare builds the programs, and makes a builder, its source and a node.
func (b *bench) prepare(ctx context.Context) error {
	for _, name := range []string{"builder", "puller"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.path("bin", name), "makenot.work/sando/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
		info, err := os.Stat(b.path("bin", name))
		if err != nil {
			return err
		}
		fmt.Printf("%-8s binary, stripped           %8.1f MB\n", name, float64(info.Size())/1e6)
	}
	if err := b.source(ctx); err != nil {
		return err
	}
	config := strings.NewReplacer("$DIR", b.dir).Replace(`app = "big"
state = "$DIR/state"
[build]
bin_dir = "out"
bin_names = ["server", "admin"]
[[release_contents]]
src = "static"
dst = "static"
required = true
[storage]
url = "file://$DIR/site/bucket"
[channels]
repo = "file://$DIR/site/channels.git"
branch = "main"
auto = ["host"]
[signing]
release_key = "$DIR/site/keys/release.key"
channel_key = "$DIR/site/keys/channel.key"
trust = "$DIR/site/keys/trust.json"
`)
	node := strings.NewReplacer("$DIR", b.dir).Replace(`app = "big"
tier = "host"
node = "bench"
root = "$DIR/node"
trust = "$DIR/site/keys/trust.json"
[channels]
repo = "file://$DIR/site/channels.git"
[storage]
url = "file://$DIR/site/bucket"
`)
	return errors.Join(
		b.sh(ctx, "SANDO_KEY_PASSWORD=bench bin/builder init site --app big"),
		os.WriteFile(b.path("builder.toml"), []byte(config), 0o644),
		os.WriteFile(b.path("node.toml"), []byte(node), 0o644),
	)
}

// source makes a checkout whose build has happened already: two binaries from those of
// the Go toolchain, and small files from its sources.
func (b *bench) source(ctx context.Context) error {
	script := `mkdir -p src/out src/static && cd src
root=$(go env GOROOT)
cat "$root"/pkg/tool/*/* "$root"/bin/* > ../pool
while [ $(stat -c %s ../pool) -lt 150000000 ]; do cat ../pool ../pool > ../pool2; mv ../pool2 ../pool; done
head -c 73400320 ../pool > out/server
tail -c 73400320 ../pool > out/admin
rm ../pool
i=0
for f in $(ls "$root"/src/*/*.go | head -300); do i=$((i+1)); cp "$f" static/$i.go; done
printf 'out/\n' > .gitignore
git init -q -b main . && git add -A
git -c user.name=bench -c user.email=bench@example.org commit -q -m bench`
	return b.sh(ctx, script)
}

// programs measures the programs, each with what its process needed at most.
func (b *bench) programs(ctx context.Context) error {
	for _, m := range []struct {
		what  string
		limit float64 // MB; 0: none is promised
		args  []string
	}{
		{"builder release, 160 MB", 256, []string{"builder", "release", "--dir", b.path("src"), "--version", "1.0", "--quiet"}},
		{"puller, first update", 64, []string{"puller"}},
		{"puller, nothing to do", 64, []string{"puller"}},
		{"puller verify", 64, []string{"puller", "verify"}},
	} {
		peak, took, err := b.measure(ctx, m.args...)
		if err != nil {
			return fmt.Errorf("%s: %w", m.what, err)
		}
		fmt.Printf("%-34s %8.3f s  peak %6.1f MB", m.what, took.Seconds(), peak)
		if m.limit == 0 {
			fmt.Println()
			continue
		}
		fmt.Printf("  (bound %.0f MB)\n", m.limit)
		if peak >= m.limit {
			return fmt.Errorf("%s: peak is %.1f MB, want less than %.0f", m.what, peak, m.limit)
		}
	}
	return nil
}

// measure runs a program and returns the peak of its resident memory in MB.
func (b *bench) measure(ctx context.Context, args ...string) (peak float64, took time.Duration, err error) {
	cmd := exec.CommandContext(ctx, b.path("bin", args[0]), args[1:]...)
	cmd.Dir = b.dir
	config := b.path("node.toml")
	if args[0] == "builder" {
		config = b.path("builder.toml")
	}
	cmd.Env = append(os.Environ(), "SANDO_KEY_PASSWORD=bench", "SANDO_CONFIG="+config)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, out.String())
			}
			return peak, time.Since(begin), err
		case <-tick.C:
			peak = max(peak, highWater(cmd.Process.Pid))
		}
	}
}

// highWater returns VmHWM of a process in MB, 0 when it has ended.
func highWater(pid int) float64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "VmHWM:" {
			kib, err := strconv.ParseFloat(fields[1], 64)
			if err == nil {
				return kib * 1024 / 1e6
			}
		}
	}
	return 0
}

// unpacking measures what a node does with a bundle against tar and sync. Each round
// does both, in an order drawn by lot.
func (b *bench) unpacking(ctx context.Context, rounds int) error {
	found, err := filepath.Glob(b.path("site", "bucket", "big", "releases", "1.0", "*.tar.zst"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("tarball: %v, %w", found, err)
	}
	var ours, theirs, ratios []float64
	for range rounds {
		var sando, tar time.Duration
		steps := []func() error{
			func() (err error) { sando, err = b.sando(ctx); return err },
			func() (err error) { tar, err = b.tar(ctx, found[0]); return err },
		}
		if rand.IntN(2) == 0 {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		ours, theirs = append(ours, sando.Seconds()), append(theirs, tar.Seconds())
		ratios = append(ratios, sando.Seconds()/tar.Seconds())
	}
	fmt.Printf("fetch, hash, unpack, tree, sync, swap (puller)   %8.3f s   median of %d\n", median(ours), rounds)
	fmt.Printf("tar --zstd -xf, sync                             %8.3f s   median of %d\n", median(theirs), rounds)
	fmt.Printf("ratio                                            %8.2f     median of the rounds (aim: at most 1.0)\n", median(ratios))
	return nil
}

// sando is a whole first update of a fresh node: it polls, copies the tarball out of the
// bucket and verifies signatures as well.
func (b *bench) sando(ctx context.Context) (time.Duration, error) {
	if err := b.sh(ctx, "rm -rf node && sync"); err != nil {
		return 0, err
	}
	_, took, err := b.measure(ctx, "puller")
	return took, err
}

func (b *bench) tar(ctx context.Context, tarball string) (time.Duration, error) {
	if err := b.sh(ctx, "rm -rf tar && mkdir tar && sync"); err != nil {
		return 0, err
	}
	begin := time.Now()
	err := b.sh(ctx, fmt.Sprintf("tar --zstd -xf %q -C tar && sync", tarball))
	return time.Since(begin), err
}

func median(s []float64) float64 {
	s = slices.Sorted(slices.Values(s))
	if len(s) == 0 {
		return 0
	}
	return s[len(s)/2]
}
