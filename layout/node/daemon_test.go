package node

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

func TestClaim(t *testing.T) {
	d, err := Open(t.TempDir() + "/mnw")
	if err != nil {
		t.Fatal(err)
	}
	if who, err := d.Daemon(); who != nil || err != nil {
		t.Fatalf("before: %+v, %v", who, err)
	}
	me := Daemon{PID: 42, Since: canon.At(time.Unix(1780000000, 0))}
	c, err := d.Claim(me)
	if err != nil {
		t.Fatal(err)
	}
	if who, err := d.Daemon(); err != nil || *who != me {
		t.Errorf("says %+v, %v", who, err)
	}
	_, err = d.Claim(me)
	if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "already (pid 42, since 2026-05-28T20:26:40Z)") {
		t.Errorf("second: %v", err)
	}
	me.Problem = strings.Repeat("tier: missing ", 300)
	if err := c.Write(me); err != nil {
		t.Error(err)
	}
	if who, err := d.Daemon(); err != nil || *who != me {
		t.Errorf("says %+v, %v", who, err)
	}
	// What it says may be in the middle of being written.
	if err := os.Truncate(d.Path("daemon"), 5); err != nil {
		t.Fatal(err)
	}
	if who, err := d.Daemon(); err != nil || *who != (Daemon{}) {
		t.Errorf("torn: %+v, %v", who, err)
	}
	_, err = d.Claim(me)
	if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "already: one is enough") {
		t.Errorf("second, torn: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if who, err := d.Daemon(); who != nil || err != nil {
		t.Errorf("after: %+v, %v", who, err)
	}
	if c, err = d.Claim(me); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
}

func TestClaimLink(t *testing.T) {
	d, err := Open(t.TempDir() + "/mnw")
	if err != nil {
		t.Fatal(err)
	}
	canary := t.TempDir() + "/canary"
	if err := os.WriteFile(canary, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(canary, d.Path("daemon")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Claim(Daemon{}); err == nil || !strings.Contains(err.Error(), "too many levels of symbolic links") {
		t.Errorf("claimed through a link: %v", err)
	}
	if data, err := os.ReadFile(canary); err != nil || string(data) != "mine" {
		t.Errorf("canary is %q, %v", data, err)
	}
}

// A daemon that did not start on a full disk could not go back on it either.
func TestAsRootClaimOnFullDisk(t *testing.T) {
	testenv.Root(t, "mounts")
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("after another=%t", before), func(t *testing.T) {
			disk := t.TempDir()
			if err := unix.Mount("none", disk, "tmpfs", 0, "size=4m,nr_inodes=64,mode=755"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(disk, 0); err != nil {
					t.Error(err)
				}
			})
			d, err := Open(disk + "/mnw")
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Ballast(0); err != nil {
				t.Fatal(err)
			}
			if before {
				if err := os.WriteFile(d.Path("daemon"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 1 << 16 { // neither inodes nor bytes
				if err := os.WriteFile(fmt.Sprintf("%s/%d", disk, i), make([]byte, 1<<20), 0o600); err != nil && i > 64 {
					break
				}
			}
			c, err := d.Claim(Daemon{PID: 42})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := d.Claim(Daemon{PID: 43}); reason.Of(err) != reason.Config {
				t.Errorf("second: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
