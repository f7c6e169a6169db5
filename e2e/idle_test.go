package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/testenv/gitserver"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/daemon"
)

// idlePolls is how often the idle daemon looks for news.
const idlePolls = 1000

// BenchmarkIdleDaemon measures what a daemon with nothing to do costs: 1000 polls of a
// channel repo over https, by the daemon's own loop in a process of its own, which does
// not wait between them; and the memory of the real program, stripped, that polls once a
// second.
func BenchmarkIdleDaemon(b *testing.B) {
	s := newSite(b, "1.0")
	s.release("1.0")
	s.promote("1.0")
	web := gitserver.HTTPS(b, s.path("site", "channels.git"))
	node := func(name string) *machine {
		m := &machine{s, s.path(name), s.path(name)}
		must(b, os.WriteFile(m.side+".toml", fmt.Appendf(nil, `
app = "mnw"
tier = "a"
node = %q
root = %q
trust = %q
[channels]
repo = %q
ca_file = %q
token_file = %q
[storage]
url = "file://%s"
[schedule]
poll = "@every 1s"
`, name, m.root, s.path("site", "keys", "trust.json"), web.URL, web.CAFile, web.TokenFile, s.path("site", "bucket")), 0o644))
		return m
	}
	b.ResetTimer()
	for b.Loop() {
		polls(b, node("hurried"), web)
	}
	program := stripped(b)
	resident(b, program, node("real"), web)
}

// polls runs the idle daemon, and reports what its polls cost.
func polls(b *testing.B, m *machine, web *gitserver.Web) {
	cmd := m.command("idle")
	cmd.Env = append(cmd.Env, "SANDO_CONFIG="+m.side+".toml")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(b, err)
	out, err := cmd.StdoutPipe()
	must(b, err)
	must(b, cmd.Start())
	said := bufio.NewScanner(out)
	said.Scan() // the first cycle is over
	web.Requests()
	web.Bytes()
	begin := time.Now()
	fmt.Fprintln(in, "go on")
	said.Scan()
	cpu, err := strconv.ParseFloat(said.Text(), 64)
	must(b, errors.Join(err, cmd.Wait()))
	received, sent := web.Bytes()
	b.ReportMetric(float64(len(web.Requests()))/idlePolls, "requests/poll")
	b.ReportMetric(float64(received+sent)/idlePolls, "bytes/poll")
	b.ReportMetric(cpu/idlePolls, "cpu-ms/poll")
	b.ReportMetric(float64(time.Since(begin).Milliseconds())/idlePolls, "ms/poll")
}

// hurried is a puller that has its daemon poll again at once.
type hurried struct {
	*puller.Puller
	std   cli.Std
	stop  context.CancelFunc
	steps int
	looks int
	cpu   float64
}

// Orders says something else each time: that wakes the daemon. In its sleep it reads that
// there is no pin, so it polls.
func (h *hurried) Orders() string {
	h.looks++
	return []string{"", "a pin"}[h.looks%2]
}

func (h *hurried) Step(ctx context.Context, opts puller.Options) (puller.Result, error) {
	switch h.steps {
	case 1:
		fmt.Fprintln(h.std.Out, "begin")
		if _, err := bufio.NewReader(h.std.In).ReadString('\n'); err != nil {
			return puller.Result{}, err
		}
		h.cpu = cpu()
	case idlePolls + 1:
		fmt.Fprintln(h.std.Out, cpu()-h.cpu)
		h.stop()
	}
	h.steps++
	return h.Puller.Step(ctx, opts)
}

// cpu returns the time that this process has had, in ms.
func cpu() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}

// idle is the process of the idle daemon.
func idle(ctx context.Context, _ []string, std cli.Std) int {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	log := slog.New(slog.NewTextHandler(std.Err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	err := daemon.Run(ctx, daemon.Options{
		Load: func() (*puller.Config, error) { return puller.LoadConfig(std.Env("SANDO_CONFIG"), nil) },
		Open: func(ctx context.Context, cfg *puller.Config) (daemon.Puller, error) {
			p, err := puller.New(ctx, cfg, log, nil)
			return &hurried{Puller: p, std: std, stop: stop}, err
		},
		Manager: daemon.Systemd{},
		Log:     log,
	})
	if err != nil {
		fmt.Fprintln(std.Err, err)
		return 1
	}
	return 0
}

// stripped builds the puller as it is shipped, and reports its size.
func stripped(b *testing.B) string {
	file := filepath.Join(b.TempDir(), "puller")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", file, "makenot.work/sando/cmd/puller")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	info, err := os.Stat(file)
	must(b, err)
	b.ReportMetric(float64(info.Size())/1e6, "binary-MB")
	return file
}

// resident reports the memory of the real program after some polls.
func resident(b *testing.B, program string, m *machine, web *gitserver.Web) {
	cmd := m.command(program, "--config", m.side+".toml", "run")
	var log strings.Builder
	cmd.Stderr = &log
	must(b, cmd.Start())
	web.Requests()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for asked := 0; asked < 12; asked += len(web.Requests()) {
		<-tick.C
	}
	b.ReportMetric(memory(b, cmd.Process.Pid, "VmRSS:"), "resident-MB")
	b.ReportMetric(memory(b, cmd.Process.Pid, "VmHWM:"), "peak-MB")
	must(b, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v\n%s", err, log.String())
	}
}

// memory returns a figure of /proc/PID/status in MB.
func memory(b *testing.B, pid int, name string) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(b, err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name {
			kib, err := strconv.ParseFloat(f[1], 64)
			must(b, err)
			return kib * 1024 / 1e6
		}
	}
	b.Fatalf("no %s", name)
	return 0
}
