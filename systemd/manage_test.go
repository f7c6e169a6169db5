package systemd

import (
	"slices"
	"strings"
	"testing"
)

func testManage(t *testing.T, l *lab) {
	l.Write(t, "/etc/managed.env", "A=1\n", 0o600)
	unit := l.unit(t, "managed.service", "[Service]\nExecStart=/bin/sleep infinity\nWorkingDirectory=/srv\n"+
		"EnvironmentFile=-/etc/absent.env\nEnvironmentFile=/etc/managed.env\nEnvironment=B=secret C=x\n[Install]\nWantedBy=multi-user.target")
	l.Write(t, "/etc/systemd/system/managed.service.d/more.conf", "[Service]\nNice=1\n", 0o644)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.conn.Enable(t.Context(), unit))
	f, err := l.conn.Files(t.Context(), unit)
	must(err)
	env := []EnvFile{{"/etc/absent.env", true}, {"/etc/managed.env", false}}
	if f.Unit != "/etc/systemd/system/managed.service" || f.Enabled != "enabled" || f.Dir != "/srv" || !slices.Equal(f.Env, env) ||
		!slices.Equal(f.Programs, []string{"/bin/sleep"}) || !slices.Equal(f.EnvNames, []string{"B", "C"}) ||
		!slices.Equal(f.DropIns, []string{"/etc/systemd/system/managed.service.d/more.conf"}) {
		t.Errorf("files: %+v", f)
	}
	must(l.conn.Start(t.Context(), unit))
	first := l.facts(t, unit)
	must(l.conn.Start(t.Context(), unit))
	if again := l.facts(t, unit); first.ActiveState != "active" || again.InvocationID != first.InvocationID {
		t.Errorf("started: %+v, then %+v", first, again)
	}
	must(l.conn.Stop(t.Context(), unit))
	must(l.conn.Stop(t.Context(), unit))
	must(l.conn.Disable(t.Context(), unit))
	must(l.conn.Disable(t.Context(), unit))
	if f, err = l.conn.Files(t.Context(), unit); err != nil || f.Enabled != "disabled" {
		t.Errorf("files: %+v, %v", f, err)
	}
	if now := l.facts(t, unit); now.ActiveState != "inactive" {
		t.Errorf("stopped: %+v", now)
	}
	must(l.conn.Stop(t.Context(), "absent.service"))
	if err := l.conn.Start(t.Context(), "absent.service"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("start of a unit that is not there: %v", err)
	}
}
