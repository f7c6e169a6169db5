package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// account is a user of this machine, as its name service has it.
type account struct {
	name, group string
	uid, gid    int
	shell       string
}

// lookUp returns a user, by name or number; nil when there is none.
func lookUp(ctx context.Context, name string) (*account, error) {
	f, err := getent(ctx, "passwd", name)
	if err != nil || f == nil {
		return nil, err
	}
	if len(f) < 7 {
		return nil, fmt.Errorf("look up user %q: getent says %d fields, want 7", name, len(f))
	}
	a := &account{name: f[0], shell: f[6]}
	var uerr, gerr error
	a.uid, uerr = strconv.Atoi(f[2])
	a.gid, gerr = strconv.Atoi(f[3])
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, fmt.Errorf("look up user %q: %w", name, err)
	}
	a.group = f[3]
	if g, err := getent(ctx, "group", f[3]); err != nil {
		return nil, err
	} else if g != nil {
		a.group = g[0]
	}
	return a, nil
}

// getent returns the fields of an entry; nil when there is none. It knows what /etc/passwd
// alone does not: users of LDAP and of systemd.
func getent(ctx context.Context, database, key string) ([]string, error) {
	out, err := command(ctx, "getent", database, key)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 2 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(out, "\n")
	return strings.Split(line, ":"), nil
}

// mayLogIn reports whether a login as this user gets a shell.
func (a *account) mayLogIn() bool {
	return !slices.Contains([]string{"nologin", "false", "sync", "halt", "shutdown"}, path.Base(a.shell))
}

// addUser makes a system user that nobody can log in as.
func addUser(ctx context.Context, name, home, shell string) error {
	args := []string{"--system", "--user-group"}
	group, err := getent(ctx, "group", name)
	if err != nil {
		return err
	}
	if group != nil { // of a user that was taken away
		args = []string{"--system", "--no-user-group", "--gid", name}
	}
	_, err = command(ctx, "useradd", append(args, "--home-dir", home, "--no-create-home", "--shell", shell, "--", name)...)
	return err
}

// nologin returns the shell of a user that nobody can log in as.
func nologin() (string, error) {
	for _, shell := range []string{"/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false"} {
		if _, err := exec.LookPath(shell); err == nil {
			return shell, nil
		}
	}
	return "", refuse("this machine has neither nologin nor false, which is what a user has as shell that nobody can log in as; install the package login or util-linux")
}

// programTimeout bounds a program of the system that changes or asks its user database.
const programTimeout = time.Minute

// command runs a program of the system and returns what it printed. A signal does not reach
// it: half a user database would be worse than a moment's wait.
func command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}
