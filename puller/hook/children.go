package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/envfile"
)

// children runs hooks as children of this process.
type children struct{ Config }

func (c *children) user(_ context.Context, h Hook) (account, error) {
	self := strconv.Itoa(os.Geteuid())
	switch {
	case h.User == "" && self == "0":
		return account{}, reason.Errorf(reason.Config, "this puller is root, and as whom the hook is to run is not known: write `user`, also for root")
	case h.User == "":
		return account{user: self}, nil
	}
	who, err := lookup(h.User)
	switch {
	case err != nil:
		return account{}, reason.Errorf(reason.Config, "user %q: %w", h.User, err)
	case self != "0" && who.Uid != self:
		return account{}, reason.Errorf(reason.Config, "user %q is not the user of this puller, which is not root, so it runs hooks as itself: run it as root, or remove `user`", h.User)
	}
	return account{user: h.User}, nil
}

// lookup returns the user of a name or number.
func lookup(name string) (*user.User, error) {
	who, err := user.Lookup(name)
	if err != nil {
		if _, e := strconv.ParseUint(name, 10, 32); e == nil {
			return user.LookupId(name)
		}
	}
	return who, err
}

// clear has nothing to do: the kernel ends a child when its parent dies.
func (*children) clear(context.Context) error { return nil }

const (
	stopTime = 10 * time.Second // between SIGTERM and SIGKILL
	lineTime = time.Second      // for what was printed last to arrive
)

var errTime = errors.New("took longer than its timeout")

func (c *children) run(ctx context.Context, h Hook, as account, r Release) ([]string, error) {
	env, err := c.environ(r)
	if err != nil {
		return nil, &Failed{Hook: h, Words: fmt.Sprintf("was not run: env file %s", err)}
	}
	who, err := lookup(as.user)
	if err != nil { // a puller may be nobody whom the machine knows
		who = &user.User{Uid: as.user, Gid: strconv.Itoa(os.Getegid()), Username: as.user, HomeDir: "/"}
	}
	limited, cancel := context.WithTimeoutCause(ctx, h.Limit(), errTime)
	defer cancel()
	args := h.command(r)
	cmd := exec.CommandContext(limited, args[0], args[1:]...)
	cmd.Dir = r.Dir
	cmd.Env = slices.Concat(personal(who), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		if cmd.SysProcAttr.Credential, err = credential(who); err != nil {
			return nil, reason.Wrap(reason.Config, err)
		}
	}
	cmd.Cancel = func() error {
		if unix.Kill(-cmd.Process.Pid, unix.SIGTERM) != nil {
			return os.ErrProcessDone
		}
		return nil
	}
	cmd.WaitDelay = stopTime
	text, err := supervise(cmd)
	output := node.Lines(text)
	switch {
	case err == nil:
		return output, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	words := "ended with " + err.Error()
	switch exit := (*exec.ExitError)(nil); {
	case limited.Err() != nil:
		words = fmt.Sprintf("took longer than its %s, and was ended", h.Limit())
	case !errors.As(err, &exit):
		words = "was not run: " + err.Error()
	case exit.Exited():
		words = fmt.Sprintf("ended with status %d", exit.ExitCode())
	}
	return output, &Failed{Hook: h, Words: words, Output: output}
}

// supervise runs cmd and ends its process group after it. It returns the end of what they
// printed.
func supervise(cmd *exec.Cmd) ([]byte, error) {
	// The kernel takes a child whose parent's thread has ended for one whose parent has.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	heard := make(chan []byte)
	go func() { heard <- tail(r) }()
	err = cmd.Wait()
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // there may be nobody left
	// Who left the group holds the pipe open.
	_ = r.SetReadDeadline(time.Now().Add(lineTime))
	return <-heard, err
}

// tail reads to the end of r and returns what comes last.
func tail(r *os.File) []byte {
	const keep = 64 << 10
	var text []byte
	for buf := make([]byte, keep); ; {
		n, err := r.Read(buf)
		text = append(text, buf[:n]...)
		if len(text) > keep {
			text = append(text[:0], text[len(text)-keep:]...)
		}
		if err != nil {
			return text
		}
	}
}

// environ is what a hook gets of this process's environment, its env files and r.
func (c *children) environ(r Release) ([]string, error) {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if slices.Contains([]string{"PATH", "LANG", "LANGUAGE", "TZ"}, name) || strings.HasPrefix(name, "LC_") {
			env = append(env, v)
		}
	}
	for _, file := range c.EnvFiles {
		vars, err := envfile.Read(file)
		if err != nil {
			return nil, err
		}
		for _, v := range vars {
			env = append(env, v.Name+"="+v.Value)
		}
	}
	return append(env, r.variables()...), nil
}

func personal(who *user.User) []string {
	return []string{"HOME=" + who.HomeDir, "USER=" + who.Username, "LOGNAME=" + who.Username}
}

func credential(who *user.User) (*syscall.Credential, error) {
	names, err := who.GroupIds()
	if err != nil {
		return nil, err
	}
	ids := make([]uint32, 0, len(names)+2)
	for _, name := range append([]string{who.Uid, who.Gid}, names...) {
		id, err := strconv.ParseUint(name, 10, 32)
		if err != nil {
			return nil, err
		}
		ids = append(ids, uint32(id))
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}
