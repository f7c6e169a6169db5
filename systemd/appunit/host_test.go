package appunit

import (
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv/host"
)

// The app of this test says what it finds, tries what it may not do, and ends as it is told.
const app = `#!/bin/sh
id -un; pwd -P; echo "$WORD $1"
stat -c %a:%U /var/lib/demo
for file in /var/lib/demo /srv/shared /opt/demo/releases/1.0 /opt /etc /usr; do touch $file/x 2>/dev/null && echo "writes to $file"; done
ls /home /root 2>/dev/null | grep . && echo "sees homes"
code=$(cat /srv/shared/code) && rm /srv/shared/code && exit $code
exec sleep infinity
`

// A real systemd starts the unit as it was meant.
func TestAsRootStart(t *testing.T) {
	h := host.Boot(t)
	s := Spec{
		App: "demo", User: "nobody", Exec: "/opt/demo/current/app ${WORD}%n", EnvFiles: []string{"/etc/demo.env"},
		ReadWrite: []string{"/srv/shared"}, State: "demo", StateMode: 0o700, StopStatus: []int{2},
	}
	text, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	h.Write(t, "/etc/systemd/system/demo.service", text, 0o644)
	h.Write(t, "/etc/demo.env", "WORD=hello\n", 0o600)
	h.Run(t, "mkdir", "-m", "0777", "/srv/shared")
	h.Write(t, "/home/somebody/x", "", 0o644)
	h.Run(t, "systemctl", "daemon-reload")
	state := func(want string) {
		t.Helper()
		if got := strings.TrimSpace(h.Try(t, "systemctl", "is-active", "demo.service").Out); got != want {
			t.Errorf("the unit is %s, want %s\n%s", got, want, h.Journal(t, "demo.service"))
		}
	}

	h.Run(t, "systemctl", "start", "demo.service") // with no release there
	state("inactive")

	h.Write(t, "/opt/demo/releases/1.0/app", app, 0o755)
	h.Run(t, "ln", "-s", "releases/1.0", "/opt/demo/current")
	h.Run(t, "systemctl", "start", "demo.service")
	state("active")
	runs := func() string {
		t.Helper()
		h.Run(t, "sh", "-c", "until pgrep -u nobody -x sleep >/dev/null; do sleep 0.01; done")
		return h.Journal(t, "demo.service")
	}
	const want = "nobody\n/opt/demo/releases/1.0\nhello hello%n\n700:nobody\nwrites to /var/lib/demo\nwrites to /srv/shared\n"
	journal := strings.ReplaceAll(runs(), "Started demo.service - demo.\n", "")
	if !strings.Contains(journal, want) || strings.Contains(journal, "sees homes") {
		t.Errorf("the app says:\n%s", journal)
	}

	// Started again by systemd, but for the status that says that it is of no use.
	h.Write(t, "/srv/shared/code", "3", 0o644)
	h.Run(t, "chown", "nobody", "/srv/shared/code")
	h.Run(t, "systemctl", "restart", "demo.service")
	runs()
	state("active")
	if n := strings.TrimSpace(h.Run(t, "systemctl", "show", "--value", "--property=NRestarts", "demo.service")); n != "1" {
		t.Errorf("after status 3: started again %s times", n)
	}
	h.Write(t, "/srv/shared/code", "2", 0o644)
	h.Run(t, "chown", "nobody", "/srv/shared/code")
	h.Run(t, "systemctl", "restart", "demo.service")
	h.Run(t, "sh", "-c", "while systemctl is-active demo.service >/dev/null; do sleep 0.01; done")
	state("failed")
}
