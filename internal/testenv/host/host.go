// Package host boots a host with a real systemd for a test.
//
// The host is a container of systemd-nspawn over a copy-on-write view of this machine's
// root file system: it has every program that this machine has, none of the units that an
// administrator added, an empty /opt, and a journal, a /tmp and a machine-id of its own.
// Everything that is written in it lives in memory and vanishes with the test. The network
// is this machine's, unless it is Private, so a server on loopback is reached from both sides;
// so are the CPUs and the kernel. It boots in about a second, and several may run at once.
//
//	h := host.Boot(t)
//	h.Write(t, "/etc/systemd/system/app.service", unit, 0o644)
//	h.Run(t, "systemctl", "start", "app.service")
//	h.Reboot(t)
//	if h.Run(t, "systemctl", "is-active", "app.service") …
//
// It needs root, and the Debian packages systemd, systemd-container and dbus. It keeps a
// test's writes from this machine's disk; it does not hold a hostile program, which would be
// root here as well.
package host

import (
	"bytes"
	"context"
	_ "embed" // for boot.sh
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
)

//go:embed boot.sh
var script string

// patience is how long a boot may take on a busy machine.
const patience = 2 * time.Minute

// Host is a booted host.
type Host struct {
	init    *exec.Cmd // process 1 of the namespace that holds it all
	dead    chan struct{}
	ready   *net.UnixConn // where nspawn says that a boot is done
	booted  chan struct{} // it said so
	console string        // file with what the host printed
	leader  int           // process 1 of the host, as seen from here
}

// An Option changes how a host is booted.
type Option string

// Private gives the host a network of its own, with nothing in it but loopback, and what
// Listen brings into it: so several hosts may serve on the same port, as servers do.
const Private Option = "--private-network"

// Named gives the host its name.
func Named(name string) Option { return Option("--hostname=" + name) }

// Boot boots a host and waits until it is up. It ends with the test, however that ends. The
// test is named TestAsRoot….
func Boot(t testing.TB, options ...Option) *Host {
	t.Helper()
	if name := t.Name(); strings.HasPrefix(name, "Test") && !strings.HasPrefix(name, "TestAsRoot") {
		t.Fatalf("%s boots a host: name it TestAsRoot…, so that make test can leave it out", name)
	}
	testenv.Root(t, "a real systemd")
	testenv.Program(t, "systemd-nspawn")
	testenv.Program(t, "nsenter")
	// Not t.TempDir: the path of a socket must be short.
	dir, err := os.MkdirTemp("", "sando-host-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	h := &Host{console: filepath.Join(dir, "console"), dead: make(chan struct{}), booted: make(chan struct{}, 1)}
	h.start(t, dir, options)
	h.await(t)
	return h
}

func (h *Host) start(t testing.TB, dir string, options []Option) {
	t.Helper()
	notify, merged := filepath.Join(dir, "notify"), filepath.Join(dir, "m")
	if err := os.Mkdir(merged, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.ready, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		h.listen()
	}()
	t.Cleanup(func() {
		h.ready.Close()
		<-heard
	})
	console, err := os.Create(h.console)
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	group := filepath.Base(dir)
	args := []string{"-c", script, "sh", merged, group}
	for _, o := range options {
		args = append(args, string(o))
	}
	h.init = exec.Command("sh", args...)
	h.init.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET=" + notify}
	h.init.Stdout, h.init.Stderr = console, console
	// As process 1 of a PID namespace it takes all others with it, also when this process
	// is killed.
	h.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := h.init.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = h.init.Wait() // how it ended is of no use: await has the console to show
		close(h.dead)
	}()
	t.Cleanup(func() {
		_ = h.init.Process.Kill()
		<-h.dead
		if t.Failed() {
			t.Logf("the host's console:\n%s", h.printed())
		}
		if err := removeGroups(group); err != nil {
			t.Error(err)
		}
	})
}

// listen hears what process 1 of the host says all its life, of jobs that take long for
// example: it would wait for ever where nobody listens, and with it the whole host.
func (h *Host) listen() {
	for buf := make([]byte, 4096); ; {
		n, err := h.ready.Read(buf)
		if err != nil {
			return
		}
		if !slices.Contains(strings.Split(string(buf[:n]), "\n"), "READY=1") {
			continue
		}
		select {
		case h.booted <- struct{}{}:
		default:
		}
	}
}

// await waits until the host says that it has booted.
func (h *Host) await(t testing.TB) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		select {
		case <-h.booted:
		case <-h.dead:
			t.Fatal("host did not boot: it ended")
		case <-limit.C:
			t.Fatalf("host did not boot within %s", patience)
		}
		// It says so after a daemon-reload as well.
		if leader, err := h.first(); err == nil && leader != h.leader {
			h.leader = leader
			return
		}
	}
}

// first returns process 1 of the host: the child of nspawn, which is a child of init.
func (h *Host) first() (int, error) {
	pid := h.init.Process.Pid
	for range 2 {
		child, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
		if err != nil {
			return 0, err
		}
		if pid, err = strconv.Atoi(strings.TrimSpace(string(child))); err != nil {
			return 0, err
		}
	}
	return pid, nil
}

// Reboot reboots the host in an orderly way and waits until it is up again. What was
// written outside of /tmp and /run is still there.
func (h *Host) Reboot(t testing.TB) {
	t.Helper()
	h.Run(t, "systemctl", "reboot", "--no-block")
	h.await(t)
}

func (h *Host) printed() string {
	data, err := os.ReadFile(h.console)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// removeGroups removes the cgroups of a host that has ended.
func removeGroups(group string) error {
	for _, hierarchy := range []string{"", "systemd", "unified"} {
		var found []string
		err := filepath.WalkDir(filepath.Join("/sys/fs/cgroup", hierarchy, group), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				found = append(found, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, path := range slices.Backward(found) {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// Path returns where the file name of the host is to be found from here. It may be used
// until the next Reboot, for regular files and sockets; an absolute symbolic link in it would
// lead out of the host.
func (h *Host) Path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(h.leader), "root", name)
}

// Bus returns the address of the host's system bus, for DBUS_SYSTEM_BUS_ADDRESS. As Path,
// it may be used until the next Reboot.
func (h *Host) Bus() string { return "unix:path=" + h.Path("/run/dbus/system_bus_socket") }

// Command returns a command that runs in the host, as root, in no unit of its own, with
// nothing of this process's environment.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(h.leader), "--all", "--", "env", "-C", "/", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	// nsenter waits for a child that entered the PID namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// Result is how a command ended.
type Result struct {
	Out, Err string
	Code     int
}

// Try runs a command in the host, however it ends.
func (h *Host) Try(t testing.TB, name string, args ...string) Result {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := h.Command(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || !exit.Exited()) {
		t.Fatalf("%s in the host: %v\n%s", name, err, errs.String())
	}
	return Result{Out: out.String(), Err: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// Run runs a command in the host that must exit with 0, and returns what it printed.
func (h *Host) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := h.Try(t, name, args...)
	if r.Code != 0 {
		t.Fatalf("%s %q in the host: exit code %d\n%s%s", name, args, r.Code, r.Out, r.Err)
	}
	return r.Out
}

// Write writes a file of the host, and the directories it is in.
func (h *Host) Write(t testing.TB, name, text string, mode fs.FileMode) {
	t.Helper()
	file := h.Path(name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil { // not what umask leaves of it
		t.Fatal(err)
	}
}

// Read returns what is in a file of the host.
func (h *Host) Read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(h.Path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Copy writes a file of this machine into the host, for example a program that the test
// has built.
func (h *Host) Copy(t testing.TB, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	h.Write(t, to, string(data), info.Mode().Perm())
}

// Journal returns what the journal has of a unit, oldest first, of all boots.
func (h *Host) Journal(t testing.TB, unit string) string {
	t.Helper()
	h.Run(t, "journalctl", "--sync")
	return h.Run(t, "journalctl", "--quiet", "--no-pager", "--output=cat", "--unit="+unit)
}
