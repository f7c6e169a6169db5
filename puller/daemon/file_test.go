package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

const hourly = "[schedule]\npoll = \"@every 1h\"\n"

// write replaces the whole file, or part of it.
func (b *bench) write(text string) {
	b.t.Helper()
	if err := os.WriteFile(b.base+"/mnw.toml", []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) read() string {
	b.t.Helper()
	data, err := os.ReadFile(b.base + "/mnw.toml")
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func (b *bench) problem() string {
	b.t.Helper()
	dir, err := node.View(b.base + "/node")
	if err != nil {
		b.t.Fatal(err)
	}
	who, err := dir.Daemon()
	if err != nil || who == nil {
		b.t.Fatalf("daemon file: %+v, %v", who, err)
	}
	return who.Problem
}

func (b *bench) logs(text string, n int) {
	b.t.Helper()
	if got := strings.Count(b.log.String(), text); got != n {
		b.t.Errorf("%q is logged %d times, want %d: %s", text, got, n, b.log.String())
	}
}

// A file that is written anew counts within seconds, without a signal.
func TestFileChanges(t *testing.T) {
	run(t, hourly, current, func(b *bench) {
		b.after(time.Minute)
		b.config("[schedule]\npoll = \"@every 20m\"\n")
		b.after(2 * time.Second)
		b.began("0s")
		b.after(2 * time.Second)
		b.began("0s", "1m4s")
		b.logs(`msg=reloaded node=alpha tier=b poll="@every 20m"`, 1)
		if got := strings.Join(b.told.heard("RELOADING", "READY"), ", "); got != "0s READY, 1m4s RELOADING, 1m4s READY" {
			t.Errorf("told %s", got)
		}
	})
}

// So does one that an editor puts in its place, and one that comes by a link.
func TestFileIsReplaced(t *testing.T) {
	run(t, hourly, current, func(b *bench) {
		b.after(time.Minute)
		name, start := b.base+"/mnw.toml", b.read()
		for i, put := range []func(temp string) error{
			func(temp string) error { return os.Rename(temp, name) },
			func(temp string) error { return errors.Join(os.Remove(name), os.Symlink(temp, name)) },
		} {
			temp := fmt.Sprint(b.base, "/", i)
			text := strings.Replace(start, "@every 1h", fmt.Sprintf("@every 4%dm", i), 1)
			if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := put(temp); err != nil {
				t.Fatal(err)
			}
			b.after(4 * time.Second)
			b.logs(fmt.Sprintf(`msg=reloaded node=alpha tier=b poll="@every 4%dm"`, i), 1)
		}
		b.began("0s", "1m4s", "1m8s")
	})
}

// Who writes a file in parts is waited for; and if not for long enough, what was read of it
// is not the last word.
func TestFileIsWrittenInParts(t *testing.T) {
	run(t, hourly, current, func(b *bench) {
		whole := strings.Replace(b.read(), "@every 1h", "@every 20m", 1)
		b.after(time.Minute)
		for n := 0; n < len(whole); n += 10 {
			b.write(whole[:n])
			b.after(time.Second)
		}
		b.began("0s")
		b.logs("reloaded", 0)
		b.write(whole[:len(whole)/2])
		b.after(10 * time.Second) // it hangs
		b.logs("msg=\"not reloaded", 1)
		if b.problem() == "" {
			t.Error("half a file is no problem")
		}
		b.write(whole)
		b.after(4 * time.Second)
		b.logs("msg=reloaded", 1)
		if p := b.problem(); p != "" || b.cycles() != 2 {
			t.Errorf("the problem is %q after %d cycles", p, b.cycles())
		}
	})
}

// A bad file is said once, however often it is touched.
func TestBadFileIsSaidOnce(t *testing.T) {
	run(t, hourly, current, func(b *bench) {
		b.after(time.Second)
		b.config("retain = 0\n")
		b.after(time.Minute)
		for i := range 3 {
			b.config("retain = 0\n" + strings.Repeat("\n", i+1))
			b.after(time.Minute)
		}
		b.began("0s")
		b.logs("not reloaded", 1)
		if p := b.problem(); !strings.Contains(p, "retain: 0 is less than 1") {
			t.Errorf("the problem is %q", p)
		}
		status := b.told.heard("STATUS")
		if !strings.Contains(status[len(status)-1], "not reloaded, config ") {
			t.Errorf("status is %q", status)
		}
		b.config("retain = 0\n[schedule]\njitter = \"60%\"\n") // the same fault
		b.after(time.Minute)
		b.logs("not reloaded", 1)
		b.config("retain = 1\n[schedule]\njitter = \"60%\"\n") // another one
		b.after(time.Minute)
		b.logs("not reloaded", 2)
		// As before: no problem any more.
		b.config(hourly)
		b.after(4 * time.Second)
		b.logs("msg=reloaded", 1)
		if p := b.problem(); p != "" || b.cycles() != 2 {
			t.Errorf("the problem is %q after %d cycles", p, b.cycles())
		}
	})
}

func TestFileVanishes(t *testing.T) {
	run(t, hourly, current, func(b *bench) {
		b.after(time.Minute)
		if err := os.Rename(b.base+"/mnw.toml", b.base+"/away"); err != nil {
			t.Fatal(err)
		}
		b.after(5 * time.Minute)
		b.began("0s")
		b.logs("not reloaded", 1)
		if p := b.problem(); !strings.Contains(p, "mnw.toml: no such file or directory") {
			t.Errorf("the problem is %q", p)
		}
		if err := os.Rename(b.base+"/away", b.base+"/mnw.toml"); err != nil {
			t.Fatal(err)
		}
		b.after(4 * time.Second)
		if p := b.problem(); p != "" || b.cycles() != 2 {
			t.Errorf("the problem is %q after %d cycles", p, b.cycles())
		}
	})
}

// A file that says the same in other words disturbs nobody.
func TestFileSaysTheSame(t *testing.T) {
	window := "window = \"0 2 * * 6\"\ntimezone = \"Europe/Berlin\"\n"
	run(t, hourly+window, current, func(b *bench) {
		b.after(time.Minute)
		b.config(hourly + window + "\n# as agreed\n")
		b.after(5 * time.Minute)
		b.began("0s")
		b.logs("reloaded", 0)
		if b.closed.Load() != 0 {
			t.Error("the puller was opened anew")
		}
		b.config(hourly + strings.Replace(window, "Berlin", "Paris", 1))
		b.after(4 * time.Second)
		b.logs("msg=reloaded", 1)
	})
}

// What changes during a cycle counts soon after it, also when cycles are short of breath.
func TestFileChangesInCycle(t *testing.T) {
	run(t, "[schedule]\npoll = \"@every 1s\"\njitter = \"0%\"\n", func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		<-time.After(time.Second)
		return current(ctx, n, opts)
	}, func(b *bench) {
		b.after(10 * time.Second)
		b.config(hourly)
		b.after(5 * time.Second)
		b.logs(`poll="@every 1h"`, 1)
	})
}
