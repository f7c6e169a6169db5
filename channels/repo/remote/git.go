package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Push runs the git program, because only it runs the repo's hooks and obeys its
// configuration.
func (f *file) Push(ctx context.Context, gitDir string, commit plumbing.Hash, branch string, force bool) error {
	spec := ":refs/heads/" + branch
	if commit != plumbing.ZeroHash {
		spec = commit.String() + spec
	}
	if force {
		spec = "+" + spec
	}
	said, err := runGit(ctx, "--git-dir="+gitDir, "push", "--porcelain", "--no-verify", "--", f.url(), spec)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if said.err.contains("dubious ownership") {
		return reason.Errorf(reason.Config, "repo %q belongs to another user, and git does not push there (safe.directory is not looked at): give it to this user, or run as its owner", f.dir)
	}
	return &PushError{Verdict: judge(said), Text: "git push: " + said.lastLines()}
}

// said is what a program said, without the beginning when that is long.
type said struct {
	out, err tail
}

// runGit runs the git program. Nothing in the environment or in the user's configuration
// changes what it does. When git itself reports a failure, the error is an *exec.ExitError.
func runGit(ctx context.Context, args ...string) (*said, error) {
	s := new(said)
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = gitEnv(os.Environ())
	cmd.Stdout, cmd.Stderr = &s.out, &s.err
	// A git that is killed leaves the lock of the branch behind, one that is asked to
	// end does not; and the processes it started must end as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, reason.Errorf(reason.Config, "no git program in PATH: writing to a file:// channel repo needs it")
	case ctx.Err() != nil:
		return nil, fmt.Errorf("git: %w", ctx.Err())
	case errors.Is(err, exec.ErrWaitDelay): // git succeeded; a hook left something running
		return s, nil
	}
	return s, err
}

// gitEnv returns env without what changes git's behaviour, and without our secrets.
func gitEnv(env []string) []string {
	var clean []string
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		switch {
		case strings.HasPrefix(name, "GIT_"), strings.HasPrefix(name, "SANDO"), strings.HasPrefix(name, "LC_"), name == "LANG", name == "LANGUAGE":
		default:
			clean = append(clean, kv)
		}
	}
	return append(clean, "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=file")
}

// maxOutput bounds what is kept of a program's words, in bytes.
const maxOutput = 16 << 10

// tail keeps the end of what is written to it.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if extra := len(t.data) - maxOutput; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(p), nil
}

func (t *tail) lines() []string { return strings.Split(string(t.data), "\n") }

// contains reports whether any of the words were said.
func (t *tail) contains(words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(string(t.data), w) })
}

// judge reads what `git push --porcelain` said about the one branch: "!", a tab, the
// names, a tab, the summary. "[rejected]" is said by this side, which saw that the branch
// would lose commits; "[remote rejected]" by the other, which may have been too late for
// a lock. A lock that cannot be had for a lasting reason is nobody's turn to wait for.
func judge(s *said) Verdict {
	for _, line := range s.out.lines() {
		if !strings.HasPrefix(line, "!\t") {
			continue
		}
		if strings.Contains(line, "\t[rejected]") || s.late() {
			return Busy
		}
		return Refused
	}
	return Unclear
}

// late reports whether the other side was too late for a lock, or for the old value.
func (s *said) late() bool {
	return s.out.contains("failed to update ref", "cannot lock ref", "incorrect old value", "reference already exists") &&
		!s.err.contains("Permission denied", "Read-only file system", "No space left", "Disk quota exceeded", "exists; cannot create")
}

// lastLines returns the end of what was said, on one line, without passwords.
func (s *said) lastLines() string {
	const n = 6
	var lines []string
	for _, line := range slices.Concat(s.err.lines(), s.out.lines()) {
		line = strings.Join(strings.FieldsFunc(line, canon.Unprintable), " ")
		if line = strings.TrimSpace(line); line != "" && line != "Done" && !strings.HasPrefix(line, "To ") {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return "it failed without a word"
	}
	return layout.Redact(strings.Join(lines[max(0, len(lines)-n):], "; "))
}
