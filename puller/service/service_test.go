package service

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/layout/node"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommandCheck(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/noexec", nil, 0o644))
	for program, ok := range map[string]bool{
		"/bin/sh": true, dir + "/none": false, dir + "/noexec": false, "/opt/mnw/current/restart": true,
	} {
		err := (&command{args: []string{program}, root: "/opt/mnw"}).Check(t.Context())
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), program) {
			t.Errorf("%s: %v", program, err)
		}
	}
}

// TestBackgroundOfACommandLivesOn: the app that a command starts writes to its output
// long after the puller has gone on.
func TestBackgroundOfACommandLivesOn(t *testing.T) {
	d, err := node.Open(t.TempDir() + "/app")
	must(t, err)
	fifo := t.TempDir() + "/done"
	script := fmt.Sprintf("(sleep 1.5; echo still here; echo done > %s) & echo started", fifo)
	c := &command{args: []string{"/bin/sh", "-c", script}, root: d.Root()}
	must(t, c.Restart(t.Context(), Start{}, 5*time.Second))
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-deadline.C:
			t.Fatal("the background process did not end well")
		case <-tick.C:
		}
		if _, err := os.Stat(fifo); err == nil {
			break
		}
	}
	data, err := os.ReadFile(d.Path("service.log"))
	if err != nil || string(data) != "started\nstill here\n" {
		t.Errorf("service.log is %q, %v", data, err)
	}
}

func TestCommandFailsWithItsLastWords(t *testing.T) {
	d, err := node.Open(t.TempDir() + "/app")
	must(t, err)
	c := &command{args: []string{"/bin/sh", "-c", "echo no port >&2; exit 3"}, root: d.Root()}
	err = c.Restart(t.Context(), Start{}, 5*time.Second)
	if err == nil || !strings.Contains(err.Error(), "exit status 3: it said: no port") {
		t.Errorf("got %v", err)
	}
	c.args[2] = "sleep 60"
	err = c.Restart(t.Context(), Start{}, 50*time.Millisecond)
	if !errors.Is(err, errTimeout) {
		t.Errorf("got %v", err)
	}
}

// A program that the puller runs must not speak to the puller's service manager, nor to
// the bucket.
func TestEnviron(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/notify")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("SANDO_TEST", "kept")
	env := strings.Join(Environ(), "\n") + "\n"
	if strings.Contains(env, "NOTIFY_SOCKET=") || strings.Contains(env, "AWS_SECRET_ACCESS_KEY=") || !strings.Contains(env, "SANDO_TEST=kept\n") {
		t.Error(env)
	}
}
