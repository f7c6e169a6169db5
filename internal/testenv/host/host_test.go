package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const unit = `[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cat /etc/word'
RemainAfterExit=yes
[Install]
WantedBy=multi-user.target
`

func TestAsRootBoot(t *testing.T) {
	h := Boot(t)
	state := h.Try(t, "systemctl", "is-system-running")
	if s := strings.TrimSpace(state.Out); s != "running" {
		t.Errorf("the host is %q, want running:\n%s", s, h.Try(t, "systemctl", "--failed", "--no-pager").Out)
	}
	if left := h.Try(t, "ls", "-A", "/opt").Out; left != "" {
		t.Errorf("/opt of the host has %q", left)
	}

	h.Write(t, "/etc/systemd/system/word.service", unit, 0o644)
	h.Write(t, "/etc/word", "first", 0o600)
	h.Run(t, "systemctl", "enable", "--now", "word.service")
	h.Write(t, "/etc/word", "second", 0o600)
	before := h.leader
	h.Reboot(t)
	if h.leader == before {
		t.Error("the reboot kept process 1")
	}
	journal := h.Journal(t, "word.service")
	first, second := strings.Index(journal, "first"), strings.Index(journal, "second")
	if first < 0 || second < first {
		t.Errorf("the journal does not have both boots in turn:\n%s", journal)
	}
	if got := h.Read(t, "/etc/word"); got != "second" {
		t.Errorf("/etc/word of the host has %q", got)
	}

	r := h.Try(t, "sh", "-c", "echo out; echo err >&2; exit 7")
	if r != (Result{"out\n", "err\n", 7}) {
		t.Errorf("Try returned %+v", r)
	}
	if _, err := os.Lstat("/etc/word"); err == nil {
		t.Error("/etc/word is on this machine's disk")
	}
}

// Two hosts do not see each other, and nothing is left of them.
func TestAsRootTwo(t *testing.T) {
	var group string
	t.Run("two", func(t *testing.T) {
		a, b := Boot(t), Boot(t)
		group = filepath.Base(filepath.Dir(a.console))
		a.Write(t, "/opt/a", "", 0o644)
		a.Run(t, "systemd-run", "--unit=only-here", "sleep", "infinity")
		if r := b.Try(t, "systemctl", "is-active", "only-here.service"); r.Code == 0 {
			t.Error("the second host runs the unit of the first")
		}
		if r := b.Try(t, "ls", "/opt/a"); r.Code == 0 {
			t.Error("the second host has the file of the first")
		}
	})
	left, err := filepath.Glob("/sys/fs/cgroup/*/" + group)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(os.TempDir(), group)); len(left) > 0 || err == nil {
		t.Errorf("left behind: %q, directory: %v", left, err)
	}
}
