package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"makenot.work/sando/builder/proc"
	"makenot.work/sando/builder/source"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
)

// hidden are the variables that the build does not get from outside, by the beginning
// of their names: what is the builder's own, what makes builds differ from machine to
// machine, and what would lead git away from the work tree. The keys of the bucket come
// on top.
var hidden = [...]string{
	"SANDO_",
	"TZ=", "LANG=", "LANGUAGE=", "LC_",
	"PWD=", "OLDPWD=", "CDPATH=",
	"GIT_DIR=", "GIT_WORK_TREE=", "GIT_INDEX_FILE=", "GIT_PREFIX=", "GIT_NAMESPACE=", "GIT_COMMON_DIR=",
	"GIT_OBJECT_DIRECTORY=", "GIT_ALTERNATE_OBJECT_DIRECTORIES=", "GIT_QUARANTINE_PATH=", "GIT_CONFIG_PARAMETERS=",
}

// Conceal makes what this process was given in its environment, and what it holds in
// memory, unreadable for the build; not when the user is root.
func Conceal() error { return proc.Conceal() }

// job is one run of a program of the configuration in a work tree.
type job struct {
	runner proc.Runner
	tree   source.Tree
	env    []string // besides what every job gets
}

func (b *Builder) environment(j job) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(bucket.Variables(), name) ||
			slices.ContainsFunc(hidden[:], func(prefix string) bool { return strings.HasPrefix(v, prefix) })
	})
	return append(append(env,
		"PWD="+j.tree.Dir, "TZ=UTC", "LC_ALL=C.UTF-8",
		"SOURCE_DATE_EPOCH="+strconv.FormatInt(j.tree.Time.Unix(), 10),
		"SANDO_APP="+b.cfg.App, "SANDO_COMMIT="+j.tree.Commit, "SANDO_CACHE="+b.state("cache"),
	), j.env...)
}

// failed is how many lines are shown of a program that failed.
const failed = 20

// run runs a command of the configuration. Its error says what the program said last,
// unless that was shown as it came.
func (b *Builder) run(ctx context.Context, j job, command []string, out io.Writer) error {
	if err := durable.MkdirAll(b.state("cache"), 0o755); err != nil {
		return err
	}
	tail := &proc.Tail{Max: failed}
	var errs io.Writer = tail
	if b.opt.BuildOutput != nil {
		errs = b.opt.BuildOutput
	}
	if out == nil {
		out = errs
	}
	// The shell sets the umask, which Go sets for the whole process only.
	args := append([]string{"/bin/sh", "-c", `umask 022 && exec "$@"`, "sh"}, command...)
	env := b.environment(j)
	err := j.runner.Run(ctx, proc.Cmd{Dir: j.tree.Dir, Args: args, Env: env, Stdout: out, Stderr: errs})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%q in %q: %w", command, j.tree.Dir, notRun(err, env))
	lines := tail.Lines()
	switch {
	case ctx.Err() != nil || !errors.As(err, new(*exec.ExitError)):
	case b.opt.BuildOutput != nil:
		err = fmt.Errorf("%w; what it printed is above", err)
	case len(lines) > 0:
		err = fmt.Errorf("%w; it said last:\n  %s", err, strings.Join(lines, "\n  "))
	}
	return err
}

// notRun says what it means that a program ended with one of the two statuses by which
// shells, and env, say that they ran none. Another try does not help then.
func notRun(err error, env []string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	// Which of the two it is depends on the directories of PATH as well: one that the builder's
	// user may not look into makes "not found" a "not allowed".
	if code := exit.ExitCode(); code != 126 && code != 127 {
		return err
	}
	path := "which is not set"
	for _, v := range env { // the last one counts
		if value, is := strings.CutPrefix(v, "PATH="); is {
			path = fmt.Sprintf("which is %q", value)
		}
	}
	return reason.Errorf(reason.Config, "%w: a program was not found, or may not be executed: put a link to it into a directory of PATH, %s; "+
		"or, where it is of the source: git update-index --chmod=+x FILE", err, path)
}

var errTimeout = errors.New("build.timeout")

// build runs the build command for a platform. An error of one that was killed because
// it took too long matches errTimeout.
func (b *Builder) build(ctx context.Context, j job, p Platform, version string) error {
	if len(b.cfg.Build.Command) == 0 {
		return nil
	}
	if d := b.cfg.Build.Timeout; d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, d, fmt.Errorf("%w: %s passed", errTimeout, d))
		defer cancel()
	}
	b.log.Info("building", "version", version, "platform", p.String(), "commit", j.tree.Commit)
	j.env = []string{"SANDO_VERSION=" + version, "SANDO_OS=" + p.OS, "SANDO_ARCH=" + p.Arch}
	if err := b.run(ctx, j, b.cfg.Build.Command, nil); err != nil {
		return fmt.Errorf("build for %s: %w", p, err)
	}
	return nil
}

// version returns the version of the tree: the one given, or what the version command
// prints.
func (b *Builder) version(ctx context.Context, j job, given string) (string, error) {
	if given != "" {
		return given, reason.Wrap(reason.Config, layout.CheckVersion(given))
	}
	if len(b.cfg.Build.Version) == 0 {
		return "", reason.Errorf(reason.Config, "no version: give --version, or set build.version to a command that prints it")
	}
	out := &capped{max: 1 << 10}
	if err := b.run(ctx, j, b.cfg.Build.Version, out); err != nil {
		return "", fmt.Errorf("build.version: %w", err)
	}
	version := strings.TrimSpace(out.buf.String())
	if err := layout.CheckVersion(version); err != nil {
		return "", reason.Errorf(reason.Config, "build.version: %q printed %q: %w", b.cfg.Build.Version, version, err)
	}
	return version, nil
}

var errTooMuch = errors.New("more output than a version has")

// capped keeps what is written to it, up to max bytes.
type capped struct {
	buf bytes.Buffer
	max int
}

func (c *capped) Write(p []byte) (int, error) {
	if c.buf.Len()+len(p) > c.max {
		return 0, errTooMuch
	}
	return c.buf.Write(p)
}
