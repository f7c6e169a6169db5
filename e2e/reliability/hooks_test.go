package reliability

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

// hooks are about programs that run around the swap: those of releases that are well, if
// nothing else is said, have nothing to do.
func hooks() []kase {
	migration := func(when string) string {
		return fmt.Sprintf("[env]\nfiles = [\"/etc/APP/APP.env\"]\n[[hook]]\nwhen = %q\nrun = [\"{release}/hook\"]\ntimeout = %q\n", when, 30*second)
	}
	all := []kase{
		{app: "hook-fails", name: "its hook `before_swap` fails", reason: reason.Hook, failed: 1, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			r := hooked("echo there is no such table; exit 1")(m)
			said := func(e node.Event) bool { return slices.Contains(e.Output, "there is no such table") }
			if history := m.history(); !slices.ContainsFunc(history, said) {
				m.Errorf("the history does not have what the hook said: %+v", history)
			}
			return r
		}},
		{app: "hook-hangs", name: "its hook `before_swap` hangs", reason: reason.Hook, failed: 1, runs: "1.0.0", starts: "1.0.0", test: hooked("sleep infinity")},
		{app: "hook-slow", name: "its hook `before_swap` takes 20 s", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			r := hooked(nap(20))(m)
			if got, want := strings.Join(m.hooks(), "\n"), "2.0.0 after 1.0.0 as www-data with /run/"+m.app+".database"; got != want {
				m.Errorf("the hook wrote %q, want %q", got, want)
			}
			return r
		}},
		{app: "hook-killed", name: "the puller is killed while a hook `before_swap` runs", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.daemon()
			m.migrates("2.0.0", nap(10))
			m.hookBegins()
			m.kill()
			return m.decided("updated")
		}},
		{app: "hook-pin", name: "`puller --pin 1.0.0` while a hook `before_swap` runs, of 3.0.0, which followed 2.0.0", reason: reason.Pinned, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			m.daemon()
			m.migrates("3.0.0", "sleep infinity")
			m.hookBegins()
			return m.order("--pin", "1.0.0")
		}},
	}
	for i := range all {
		all[i].config = migration("before_swap")
	}
	return append(all,
		kase{app: "hook-after", name: "its hook `after_swap` fails", config: migration("after_swap"), reason: reason.Unhealthy, failed: 1, back: 1, runs: "1.0.0", starts: "1.0.0 1.0.0", test: hooked("exit 1")},
		kase{app: "hook-healthy", name: "its hook `after_healthy` fails", config: migration("after_healthy"), reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: hooked("exit 1")},
	)
}

// nap is a line of a hook that takes a while.
func nap(seconds int) string {
	return fmt.Sprintf("sleep %g", (time.Duration(seconds) * second).Seconds())
}

// hooked is a test in which 2.0.0 has a hook that does something.
func hooked(script string) func(m *machine) puller.Result {
	return func(m *machine) puller.Result {
		m.good("1.0.0")
		m.migrates("2.0.0", script)
		return m.cycle()
	}
}

// migrates releases a version with a hook, which begins by writing what it is.
func (m *machine) migrates(version, script string) {
	m.Helper()
	m.publish(version, "", map[string]string{
		"hook": "#!/bin/sh\necho $SANDO_VERSION after $SANDO_PREVIOUS as $(id -un) with $DATABASE >>/var/lib/" + m.app + "/hooks\n" + script + "\n",
	})
	m.advance(version)
}

// hooks returns what hooks wrote, a line for each that began.
func (m *machine) hooks() []string {
	data, err := os.ReadFile(m.s.Path("/var/lib/" + m.app + "/hooks"))
	if err != nil {
		return nil // none yet
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (m *machine) hookBegins() {
	m.Helper()
	m.until("a hook begins", func() bool { return len(m.hooks()) > 0 })
}

// environments are audits of the app's environment.
func environments() []kase {
	const audit = "[env]\nfiles = [\"/etc/APP/APP.env\"]\nrequired = [\"SECRET\"]\n"
	write := func(m *machine, more string) {
		m.s.Write(m.T, "/etc/"+m.app+"/"+m.app+".env", m.environment+more, 0o600)
	}
	// 1.0.0 ran here before the keys were asked for.
	begin := func(m *machine) {
		write(m, "SECRET=x\n")
		m.good("1.0.0")
		write(m, "")
	}
	return []kase{
		{app: "env-required", name: "a key of `env.required` is missing", config: audit, reason: reason.Env, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			begin(m)
			m.release("2.0.0", "")
			return m.cycle()
		}},
		{app: "env-mended", name: "the same, and the key is there later", config: audit, reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			begin(m)
			m.release("2.0.0", "")
			m.cycle()
			write(m, "SECRET=x\n")
			return m.cycle()
		}},
		{app: "env-path", name: "the environment names a file below `current` that 2.0.0 does not have", config: audit, reason: reason.Env, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			begin(m)
			write(m, "SECRET=x\nRULES=/opt/"+m.app+"/current/docs/rules.toml\n")
			m.release("2.0.0", "")
			return m.cycle()
		}},
		{app: "env-pin", name: "`puller --pin 1.0.0`, although a key of `env.required` is missing", config: audit, reason: reason.Updated, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			write(m, "SECRET=x\n")
			m.good("1.0.0", "2.0.0")
			write(m, "")
			return m.order("--pin", "1.0.0")
		}},
	}
}
