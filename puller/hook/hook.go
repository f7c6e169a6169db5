// Package hook runs the programs that an operator's configuration names around the swap of
// a release: [[hook]].
//
// # When
//
//	before_swap    the new release is in place, the old one is live
//	after_swap     `current` names the new one, which is not started yet
//	after_healthy  it has proved itself
//
// Whether a hook is run, and what its failure means, is the affair of package puller.
//
// # How
//
// A hook is a program with arguments, no line of shell. In each of them {release} stands for
// the directory of the release, {version} for its version. It runs in that directory, with
// nothing on its standard input, and must end with status 0 within its timeout; then, and
// when it is told to stop (SIGTERM, 10 s later SIGKILL), everything that it started is ended
// as well. It may be run more than once for a release, so it has to be idempotent.
//
// Its environment: what any service gets (PATH, LANG, HOME, …), what is in the env files,
// and
//
//	SANDO_APP       the app
//	SANDO_VERSION   the version that it is run for
//	SANDO_PREVIOUS  the version that is live, or was before the swap; empty: none
//	SANDO_RELEASE   the directory of the release
//
// Nothing else of the puller's own environment: credentials may be in it.
//
// # By whom
//
// A puller that is root, on a machine that systemd runs, has systemd run the hook, as a unit
// of its own, sando-hook-<app>.service, that has nothing of the puller's sandbox and is gone
// when the hook has ended. What it prints goes to the journal. The file .sando/hook says that
// one may run: a puller that finds it when it starts ends that hook first (Clear).
//
// Any other puller runs the hook as its child, in a process group of its own; the kernel ends
// it when the puller dies.
//
// # As whom
//
// As the hook's `user`; else as the user of the app's unit, with its groups. Where neither says
// one, where the unit's user exists only while it runs, and where it is root, the hook is
// refused with the reason "config": nothing runs as root unless the configuration says so. A
// puller that is not root runs hooks as itself, and refuses those of anybody else.
package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
)

// When is the moment at which a hook runs.
type When string

// The moments.
const (
	BeforeSwap   When = "before_swap"
	AfterSwap    When = "after_swap"
	AfterHealthy When = "after_healthy"
)

// Hook is one [[hook]] of the configuration.
type Hook struct {
	When    When           `koanf:"when"`
	Run     []string       `koanf:"run"`     // program and arguments
	Timeout *time.Duration `koanf:"timeout"` // nil: 5 min
	User    string         `koanf:"user"`    // "": that of the app's unit
}

const (
	standardLimit = 5 * time.Minute
	maxLimit      = 24 * time.Hour
)

// Limit returns how long the hook may take.
func (h Hook) Limit() time.Duration {
	if h.Timeout == nil {
		return standardLimit
	}
	return *h.Timeout
}

// Patience is how much longer than its limit a hook may take to be begun and ended.
const Patience = 2 * time.Minute

// String returns how the hook is called in messages.
func (h Hook) String() string { return string(h.When) + " " + strings.Join(h.Run, " ") }

// releaseDir stands for the directory of the release.
const releaseDir = "{release}"

// Check reports what is wrong with the configuration of a hook, whatever the machine.
func (h Hook) Check() error {
	if !slices.Contains([]When{BeforeSwap, AfterSwap, AfterHealthy}, h.When) {
		return fmt.Errorf("when: %q is none of %q, %q, %q", h.When, BeforeSwap, AfterSwap, AfterHealthy)
	}
	if len(h.Run) == 0 {
		return errors.New("run: want a program and its arguments")
	}
	within, inside := strings.CutPrefix(h.Run[0], releaseDir+"/")
	switch {
	case inside && layout.CheckPath(within) != nil, !inside && (!path.IsAbs(h.Run[0]) || path.Clean(h.Run[0]) != h.Run[0]):
		return fmt.Errorf("run: %q is neither a clean absolute path nor one in the release, such as %q", h.Run[0], releaseDir+"/bin/migrate")
	case slices.ContainsFunc(h.Run, func(arg string) bool { return strings.Contains(arg, "\x00") }):
		return errors.New("run: an argument has a NUL character")
	case h.Limit() <= 0 || h.Limit() > maxLimit:
		return fmt.Errorf("timeout: %s is not more than 0 and at most %s", h.Limit(), maxLimit)
	case strings.ContainsFunc(h.User, func(r rune) bool { return r <= ' ' || strings.ContainsRune(":/\x7f", r) }) || strings.HasPrefix(h.User, "-"):
		return fmt.Errorf("user: %q is not the name of a user", h.User)
	}
	return nil
}

// Brought reports whether the program is one that the release brings.
func (h Hook) Brought() bool { return strings.HasPrefix(h.Run[0], releaseDir+"/") }

// Look reports whether the program of the hook is there and can be executed. What is in a
// release is looked for in dir; "": it is not on disk. What is below current is not looked for
// as long as nothing is live. An error has the reason "config".
func (h Hook) Look(dir, current string) error {
	program := h.Run[0]
	switch _, err := os.Lstat(current); {
	case h.Brought() && dir == "", err != nil && strings.HasPrefix(program, current+"/"):
		return nil
	case h.Brought():
		program = dir + strings.TrimPrefix(program, releaseDir)
	}
	info, err := os.Stat(program)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("%q is not there", program)
	case err == nil && !info.Mode().IsRegular():
		err = fmt.Errorf("%q is no program but a %s", program, kind(info))
	case err == nil && info.Mode()&0o111 == 0:
		err = fmt.Errorf("%q is not executable (mode %04o)", program, info.Mode().Perm())
	}
	if err != nil {
		return reason.Errorf(reason.Config, "hook %s: %w", h, err)
	}
	return nil
}

func kind(info fs.FileInfo) string {
	if info.IsDir() {
		return "directory"
	}
	return "special file"
}

// Release is what a hook is run for.
type Release struct {
	App      string
	Version  string
	Previous string // "": none
	Dir      string
}

func (r Release) variables() []string {
	return []string{"SANDO_APP=" + r.App, "SANDO_VERSION=" + r.Version, "SANDO_PREVIOUS=" + r.Previous, "SANDO_RELEASE=" + r.Dir}
}

// Variables returns the names of what a hook is told in its environment. An env file that
// sets one of them would lie to it.
func Variables() []string {
	return []string{"SANDO_APP", "SANDO_VERSION", "SANDO_PREVIOUS", "SANDO_RELEASE"}
}

func (h Hook) command(r Release) []string {
	fill := strings.NewReplacer(releaseDir, r.Dir, "{version}", r.Version)
	args := make([]string, len(h.Run))
	for i, arg := range h.Run {
		args[i] = fill.Replace(arg)
	}
	return args
}

// Failed says that a hook ran, or should have, and did not do what it should.
type Failed struct {
	Hook   Hook
	Words  string   // how it ended
	Output []string // what it printed last, and what its manager said of it
	Unit   string   // as which it ran; "": as none
}

func (e *Failed) Error() string {
	text := fmt.Sprintf("hook %s %s", e.Hook, e.Words)
	if said := e.said(); said != "" {
		text += "; " + node.Said + said
	}
	return text
}

// said returns the last line that is the hook's own: what systemd says names the unit.
func (e *Failed) said() string {
	for _, line := range slices.Backward(e.Output) {
		if e.Unit == "" || !strings.Contains(line, e.Unit) {
			return line
		}
	}
	return ""
}

// ErrUnknown is matched when it is not known how a hook ended, or whether it did.
var ErrUnknown = errors.New("how the hook ended is not known")

// Config is what hooks have in common.
type Config struct {
	Root     string   // of the app
	Unit     string   // the app's; "": none
	EnvFiles []string // of the app
	Systemd  bool     // hooks are units of systemd's; else children
	App      string
}

// Runner runs hooks, one at a time.
type Runner struct{ engine engine }

type engine interface {
	user(ctx context.Context, h Hook) (account, error)
	run(ctx context.Context, h Hook, as account, r Release) (output []string, err error)
	clear(ctx context.Context) error
}

// account is as whom a hook runs.
type account struct {
	user   string
	group  string   // "": the user's
	groups []string // besides
}

// New returns a runner.
func New(cfg Config) *Runner {
	if cfg.Systemd {
		return &Runner{&units{cfg}}
	}
	return &Runner{&children{cfg}}
}

// User returns as whom a hook would run. An error has the reason "config", or "io" when
// systemd cannot be asked.
func (r *Runner) User(ctx context.Context, h Hook) (string, error) {
	as, err := r.engine.user(ctx, h)
	if err != nil {
		return "", fmt.Errorf("hook %s: %w", h, err)
	}
	return as.user, nil
}

// Run runs a hook to its end, and returns what it printed last. When ctx ends, the hook is
// ended, and the error is ctx's cause. Else an error is a *Failed; or as of User, and the hook
// did not run; or matches ErrUnknown, systemd.ErrStopping when the machine goes down.
func (r *Runner) Run(ctx context.Context, h Hook, rel Release) (output []string, err error) {
	as, err := r.engine.user(ctx, h)
	if err == nil {
		output, err = r.engine.run(ctx, h, as, rel)
	}
	if failed := (*Failed)(nil); err == nil || errors.As(err, &failed) {
		return output, err
	}
	return nil, fmt.Errorf("hook %s: %w", h, err)
}

// Clear ends a hook that a puller left running when it was killed, and waits for that.
func (r *Runner) Clear(ctx context.Context) error {
	if err := r.engine.clear(ctx); err != nil {
		return fmt.Errorf("end the hook that another puller left: %w", err)
	}
	return nil
}
