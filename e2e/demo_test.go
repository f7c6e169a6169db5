package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"makenot.work/sando/internal/testenv"
)

// TestDemo runs the demo as a person does, to its end and not to its end. Each time
// nothing may be left: no process, no file.
func TestDemo(t *testing.T) {
	t.Parallel() // most of it is waiting
	testenv.Need(t, !testing.Short(), "the time that a demo takes: run without -short")
	program := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", program, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Run("whole", func(t *testing.T) { demoWhole(t, program) })
	t.Run("interrupted", func(t *testing.T) { demoInterrupted(t, program) })
	t.Run("closed pipe", func(t *testing.T) { demoClosedPipe(t, program) })
	t.Run("notices", func(t *testing.T) { demoNotices(t, program) })
}

// A show is one run of the demo.
type show struct {
	cmd  *exec.Cmd
	tmp  string // where it makes its directory
	in   io.WriteCloser
	pipe io.Closer // of out
	out  *bufio.Reader
	errs bytes.Buffer
}

// startDemo starts the demo in the worst of surroundings: no home, a umask of 000, and
// an environment full of settings that are not meant for it.
func startDemo(t *testing.T, program string, args ...string) *show {
	t.Helper()
	tmp, err := os.MkdirTemp("", "d") // short, for the width of lines
	if err != nil {
		t.Fatal(err)
	}
	s := &show{tmp: tmp}
	s.cmd = exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `umask 000 && exec "$@"`, "sh", program}, args...)...)
	s.cmd.Env = append(os.Environ(),
		"HOME=/nonexistent", "TMPDIR="+tmp, "GOCACHE="+goEnv(t, "GOCACHE"), "GOMODCACHE="+goEnv(t, "GOMODCACHE"),
		"GIT_DIR=/nonexistent", "GIT_AUTHOR_DATE=never", "SANDO_CONFIG=/nonexistent", "SANDO__STATE=/nonexistent",
		"SANDO_KEY_PASSWORD=", "http_proxy=http://127.0.0.1:1", "CDPATH=/", "LC_ALL=xx_XX", "TZ=Asia/Kathmandu")
	s.cmd.Stderr = &s.errs
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.pipe, s.out = out, bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.nothingLeft(t) })
	return s
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// until reads what the demo prints up to and with text, and returns it.
func (s *show) until(t *testing.T, text string) string {
	t.Helper()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), text) {
		c, err := s.out.ReadByte()
		if err != nil {
			t.Fatalf("never said %q: %v\n%s%s", text, err, got.String(), s.ended())
		}
		got.WriteByte(c)
	}
	return got.String()
}

// ended waits for the end of the demo, and tells how that was.
func (s *show) ended() string {
	err := s.cmd.Wait()
	return fmt.Sprintf("%v\n%s", err, s.errs.String())
}

// fails waits for the end of the demo, which must be exit code 1 with text as a message.
func (s *show) fails(t *testing.T, texts ...string) {
	t.Helper()
	end := s.ended()
	if code := s.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1: %s", code, end)
	}
	for _, text := range texts {
		if !strings.Contains(end, text) {
			t.Errorf("message lacks %q: %s", text, end)
		}
	}
}

// nothingLeft is called after the demo has ended.
func (s *show) nothingLeft(t *testing.T) {
	t.Helper()
	if s.cmd.ProcessState == nil {
		t.Error(s.ended())
	}
	entries, err := os.ReadDir(s.tmp)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		t.Errorf("it left %s", e.Name())
	}
	for _, p := range processesOf(t, s.tmp) {
		t.Errorf("it left the process %s", p)
	}
	if err := os.RemoveAll(s.tmp); err != nil {
		t.Error(err)
	}
}

// processesOf lists the processes whose program, directory, or command line is in dir.
func processesOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		exe, _ := os.Readlink(filepath.Join(p, "exe")) // of those that are not ours: unreadable
		cwd, _ := os.Readlink(filepath.Join(p, "cwd"))
		line, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		if all := fmt.Sprintf("%s in %s: %q", exe, cwd, line); strings.Contains(all, dir+"/") {
			found = append(found, filepath.Base(p)+" "+all)
		}
	}
	return found
}

func demoWhole(t *testing.T, program string) {
	s := startDemo(t, program)
	out, err := io.ReadAll(s.out)
	if err != nil {
		t.Fatal(err)
	}
	if end := s.ended(); s.cmd.ProcessState.ExitCode() != 0 {
		t.Fatalf("%s\n%s", out, end)
	}
	clone, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	text := string(out)
	if !strings.HasSuffix(text, " s. Nothing is left behind.\n") {
		t.Errorf("it does not end as it should: %s", text[max(0, len(text)-200):])
	}
	for line := range strings.Lines(text) {
		// A command to be pasted is not broken, however long the paths in it are.
		paths := strings.Contains(line, clone) || strings.Contains(line, os.TempDir())
		if utf8.RuneCountInString(line) > 101 && !paths {
			t.Errorf("line is wider than 100: %s", line)
		}
	}
	for _, word := range []string{"mismatch", "replay", "unhealthy", "blocked", "pinned"} { // what people look for
		if !strings.Contains(text, word+": ") {
			t.Errorf("no %s in it", word)
		}
	}
}

// firstNode is what the demo prints when an app has just begun to run.
const firstNode = "node-a/current -> releases/1.0.0\n"

func demoInterrupted(t *testing.T, program string) {
	s := startDemo(t, program)
	s.until(t, firstNode)
	if len(processesOf(t, s.tmp)) == 0 {
		t.Error("no app runs: there is nothing to leave behind")
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s.out); err != nil {
		t.Fatal(err)
	}
	s.fails(t, "demo: interrupted")
}

func demoClosedPipe(t *testing.T, program string) {
	s := startDemo(t, program)
	s.until(t, "\n")
	if err := s.pipe.Close(); err != nil {
		t.Fatal(err)
	}
	s.fails(t, "demo: ")
}

// demoNotices ends the app of node b behind the demo's back. The next step says that
// node b goes on running, which is not so.
func demoNotices(t *testing.T, program string) {
	s := startDemo(t, program, "-pause")
	const prompt = "Enter: the next step "
	var said string
	for !strings.Contains(said, "\n6. ") {
		if said != "" {
			if _, err := io.WriteString(s.in, "\n"); err != nil {
				t.Fatal(err)
			}
		}
		said = s.until(t, prompt)
	}
	found, err := filepath.Glob(filepath.Join(s.tmp, "sando-*", "node-b.pid"))
	if err != nil || len(found) != 1 {
		t.Fatalf("found %q, %v", found, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(s.in, "\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, s.out); err != nil {
		t.Fatal(err)
	}
	s.fails(t, "demo: step 7, 2.0.0 for tier a: ", "connection refused")
}
