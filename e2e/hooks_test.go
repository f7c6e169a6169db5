package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/layout/node"
)

// hookScript is a program of the release that says, where only its own user can write, what it
// is run with. It does as the file /srv/how says.
const hookScript = `#!/bin/sh
exec 2>&1
echo "$1 says hello"
echo "$*: $(id -un) $(id -gn) $(id -Gn), in $PWD, $SANDO_APP $SANDO_VERSION $SANDO_PREVIOUS $SANDO_RELEASE, ADDR $ADDR, live $(readlink /opt/mnw/current)" >>/var/lib/hooks/$(id -un)
env >/var/lib/hooks/env.$1
grep ^NoNewPrivs /proc/self/status >/var/lib/hooks/status.$1
[ "$1" = before ] || exit 0
case $(cat /srv/how) in
fails) echo 'no such table: users'; exit 3 ;;
hangs) sleep 1000 & echo $! >/var/lib/hooks/pid; wait ;;
esac
`

const hookConfig = `
[env]
files = ["/etc/mnw/mnw.env"]
required = ["ADDR"]
[[hook]]
when = "before_swap"
run = ["{release}/hook", "before", "{version}", "$HOME %%n"]
[[hook]]
when = "after_swap"
run = ["{release}/hook", "root"]
user = "root"
[[hook]]
when = "after_healthy"
run = ["{release}/hook", "healthy"]
user = "games"
`

// Hooks on a server: as units of systemd's, out of the sandbox of the shipped units of the
// puller, as the app's user and nobody else.
func TestAsRootHooks(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newServer(t, host.Boot(t))
	s.Write(t, "/srv/src/hook", hookScript, 0o755)
	s.Write(t, "/srv/how", "", 0o644)
	s.Write(t, "/etc/sando/mnw.toml", s.Read(t, "/etc/sando/mnw.toml")+hookConfig, 0o600)
	s.appIs(t, "Group=games\nSupplementaryGroups=tape audio")
	s.Write(t, "/etc/systemd/system/puller-once@mnw.service.d/secret.conf", "[Service]\nEnvironment=AWS_SECRET_ACCESS_KEY=secret SANDO_SECRET=secret\n", 0o644)
	s.Run(t, "systemctl", "daemon-reload")
	s.Run(t, "mkdir", "--mode=1777", "/var/lib/hooks")
	for _, c := range []struct {
		name string
		test func(*testing.T, *server)
	}{
		{"users", hookUsers},
		{"nobody", hookNobody},
		{"fails", hookFails},
		{"killed puller", hookKilled},
		{"stopped puller", hookStopped},
		{"pin", hookPinned},
		{"env", hookEnv},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(t, s) }) {
			break
		}
	}
}

// appIs changes the unit of the app.
func (s *server) appIs(t *testing.T, lines string) {
	t.Helper()
	s.Write(t, "/etc/systemd/system/mnw.service.d/user.conf", "[Service]\n"+lines+"\n", 0o644)
	s.Run(t, "systemctl", "daemon-reload")
}

// clean asserts that no hook runs, and that nothing of one is left.
func (s *server) clean(t *testing.T) {
	t.Helper()
	if left := s.Run(t, "systemctl", "list-units", "--all", "--plain", "--no-legend", "sando-hook*"); left != "" {
		t.Errorf("units are left: %s", left)
	}
	if r := s.Try(t, "test", "-e", "/opt/mnw/.sando/hook"); r.Code == 0 {
		t.Error(".sando/hook is left")
	}
	if r := s.Try(t, "sh", "-c", "[ ! -e /var/lib/hooks/pid ] || ! kill -0 $(cat /var/lib/hooks/pid)"); r.Code != 0 {
		t.Error("a process of a hook runs")
	}
}

// events returns those of hooks, of a version.
func (s *server) hookEvents(t *testing.T, version string) (found []node.Event) {
	t.Helper()
	var all []node.Event
	if err := json.Unmarshal([]byte(s.Run(t, "puller", "history", "--json", "-n", "100")), &all); err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(e node.Event) bool { return e.Event != "hook" || e.To != version })
}

func hookUsers(t *testing.T, s *server) {
	s.release(t, "1.0.0", "")
	s.once(t, 0)
	s.answers(t, "1.0.0")
	common := fmt.Sprintf(", in /opt/mnw/releases/1.0.0, mnw 1.0.0  /opt/mnw/releases/1.0.0, ADDR %s, live ", s.addr)
	for user, want := range map[string]string{
		"www-data": "before 1.0.0 $HOME %%n: www-data games games tape audio" + common + "\n",
		"root":     "root: root root root" + common + "releases/1.0.0\n",
		"games":    "healthy: games games games" + common + "releases/1.0.0\n",
	} {
		if got := s.Read(t, "/var/lib/hooks/"+user); got != want {
			t.Errorf("user %s wrote\n%s, want\n%s", user, got, want)
		}
	}
	for _, name := range []string{"before", "root", "healthy"} {
		if env := s.Read(t, "/var/lib/hooks/env."+name); strings.Contains(env, "secret") || strings.Contains(env, "NOTIFY_SOCKET") {
			t.Errorf("hook %s got the puller's environment:\n%s", name, env)
		}
		if got := s.Read(t, "/var/lib/hooks/status."+name); got != "NoNewPrivs:\t0\n" {
			t.Errorf("hook %s ran in a sandbox: %s", name, got)
		}
	}
	events := s.hookEvents(t, "1.0.0")
	if len(events) != 3 {
		t.Fatalf("events: %+v", events)
	}
	for i, name := range []string{"before", "root", "healthy"} {
		if e := events[i]; e.Reason != "" || !slices.Equal(e.Output, []string{name + " says hello"}) {
			t.Errorf("event: %+v", e)
		}
	}
	s.clean(t)
}

// Nothing runs as root unless the puller's configuration says so, whatever the unit says.
func hookNobody(t *testing.T, s *server) {
	s.release(t, "2.0.0", "")
	defer s.appIs(t, "")
	written := s.Read(t, "/var/lib/hooks/root")
	for lines, want := range map[string]string{
		"User=":           `unit "mnw.service" has no User=, so the app runs as root; write ` + "`user` in the hook, also for root",
		"User=root":       `unit "mnw.service" has User=root; write `,
		"User=postgress":  `unit "mnw.service" has User=postgress: there is no such user on this machine`,
		"User=0":          `unit "mnw.service" has User=0; write `,
		"DynamicUser=yes": `unit "mnw.service" has DynamicUser=yes: there is no such user while it does not run; write `,
	} {
		s.appIs(t, lines)
		if r := s.Try(t, "puller", "--dry-run"); r.Code != 2 || !strings.Contains(r.Err, want) {
			t.Errorf("%s: a dry run: %+v", lines, r)
		}
		s.once(t, 2)
		if st := s.status(t); st.Last.Reason != reason.Config || !strings.Contains(st.Last.Message, want) || st.Running.Version != "1.0.0" {
			t.Errorf("%s: status %+v", lines, st.Last)
		}
	}
	if s.Read(t, "/var/lib/hooks/root") != written {
		t.Error("a hook was run")
	}
	for set, want := range map[string]string{
		"service.unit=nothing.service": `unit "nothing.service" does not exist: `,
		"service.unit=mnw.target":      `"mnw.target" is not the name of a service`,
	} {
		if r := s.Try(t, "puller", "--dry-run", "--set", set); r.Code != 2 || !strings.Contains(r.Err, want) {
			t.Errorf("%s: a dry run: %+v", set, r)
		}
	}
	s.appIs(t, "")
	s.once(t, 0)
	s.answers(t, "2.0.0")
	if lines := strings.Split(s.Read(t, "/var/lib/hooks/www-data"), "\n"); !strings.HasPrefix(lines[1], "before 2.0.0 $HOME %%n: www-data www-data www-data, in /opt/mnw/releases/2.0.0, mnw 2.0.0 1.0.0 ") {
		t.Errorf("the hook wrote %q", lines)
	}
}

func hookFails(t *testing.T, s *server) {
	before := s.status(t)
	s.Write(t, "/srv/how", "fails", 0o644)
	s.release(t, "3.0.0", "")
	s.once(t, 3)
	after := s.status(t)
	if after.Last.Reason != reason.Hook || !strings.Contains(after.Last.Message, "ended with status 3; `journalctl -u sando-hook-mnw.service` tells more; it said: no such table: users; ") || after.Unit.Invocation != before.Unit.Invocation {
		t.Errorf("status: %+v", after.Last)
	}
	if b := after.Blocked; len(b) != 1 || !slices.Contains(b[0].Output, "no such table: users") {
		t.Errorf("blocked: %+v", b)
	}
	if e := s.hookEvents(t, "3.0.0"); len(e) != 1 || e[0].Reason != reason.Hook || !slices.Contains(e[0].Output, "no such table: users") {
		t.Errorf("events: %+v", e)
	}
	s.once(t, 3)
	if e := s.hookEvents(t, "3.0.0"); len(e) != 1 {
		t.Errorf("it was tried again: %+v", e)
	}
	s.clean(t)
	s.Write(t, "/srv/how", "", 0o644)
	s.Run(t, "puller", "unblock", "3.0.0")
	s.answers(t, "3.0.0")
}

// hang starts a cycle whose hook hangs, and waits for that.
func (s *server) hang(t *testing.T) {
	t.Helper()
	s.Run(t, "rm", "-f", "/var/lib/hooks/pid")
	s.Write(t, "/srv/how", "hangs", 0o644)
	s.Run(t, "systemctl", "start", "--no-block", "puller-once@mnw.service")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.Tick(20 * time.Millisecond); s.Try(t, "test", "-s", "/var/lib/hooks/pid").Code != 0; {
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatal("the hook does not run")
		}
	}
	s.Write(t, "/srv/how", "", 0o644)
}

// over waits until the cycle that hang began is over.
func (s *server) over(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.Tick(20 * time.Millisecond); ; {
		state := strings.TrimSpace(s.Try(t, "systemctl", "is-active", "puller-once@mnw.service").Out)
		if state == "inactive" || state == "failed" {
			return
		}
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatalf("the cycle is %s", state)
		}
	}
}

// What a puller that was killed left is ended by the next one, before it runs anything.
func hookKilled(t *testing.T, s *server) {
	s.release(t, "4.0.0", "")
	s.hang(t)
	pid := s.Read(t, "/var/lib/hooks/pid")
	s.Run(t, "systemctl", "kill", "--signal=KILL", "puller-once@mnw.service")
	s.over(t)
	if r := s.Try(t, "systemctl", "is-active", "sando-hook-mnw.service"); strings.TrimSpace(r.Out) != "activating" {
		t.Fatalf("the hook is %s", r.Out)
	}
	s.once(t, 0)
	s.answers(t, "4.0.0")
	if r := s.Try(t, "kill", "-0", strings.TrimSpace(pid)); r.Code == 0 {
		t.Error("the first hook runs")
	}
	s.clean(t)
}

func hookStopped(t *testing.T, s *server) {
	s.release(t, "5.0.0", "")
	s.hang(t)
	s.Run(t, "systemctl", "stop", "puller-once@mnw.service")
	if r := s.Try(t, "sh", "-c", "kill -0 $(cat /var/lib/hooks/pid)"); r.Code == 0 {
		t.Error("the hook runs")
	}
	if st := s.status(t); st.Running.Version != "4.0.0" || slices.ContainsFunc(st.Blocked, func(b node.Block) bool { return b.Version == "5.0.0" }) {
		t.Errorf("status: %+v", st)
	}
	s.once(t, 0)
	s.answers(t, "5.0.0")
	s.clean(t)
}

// A pin does not wait for a hook.
func hookPinned(t *testing.T, s *server) {
	s.release(t, "6.0.0", "")
	s.hang(t)
	s.Run(t, "puller", "--pin", "4.0.0")
	s.answers(t, "4.0.0")
	s.over(t)
	s.clean(t)
	s.Run(t, "puller", "--unpin")
	s.answers(t, "6.0.0")
}

// An env file that is the app's alone, and nobody else's, is not for this puller to read.
func hookEnv(t *testing.T, s *server) {
	s.release(t, "7.0.0", "")
	s.Run(t, "chown", "www-data", "/etc/mnw/mnw.env")
	s.once(t, 3)
	if st := s.status(t); st.Last.Reason != reason.Env || !strings.Contains(st.Last.Message, "/etc/mnw/mnw.env may not be read by the puller (uid 0, without other rights)") {
		t.Errorf("status: %+v", st.Last)
	}
	s.Run(t, "chown", "root", "/etc/mnw/mnw.env")
	s.Write(t, "/etc/mnw/mnw.env", "MODEL=/opt/mnw/current/model\nADDR="+s.addr+"\n", 0o600)
	s.once(t, 3)
	if st := s.status(t); !strings.Contains(st.Last.Message, "MODEL names /opt/mnw/current/model, which 7.0.0 does not have") {
		t.Errorf("status: %+v", st.Last)
	}
	s.Write(t, "/etc/mnw/mnw.env", "MODEL=/opt/mnw/current/VERSION\nADDR="+s.addr+"\n", 0o600)
	s.once(t, 0)
	s.answers(t, "7.0.0")
	s.clean(t)
}
