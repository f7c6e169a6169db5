package adopt

import (
	"os"
	"testing"

	"makenot.work/sando/layout/node"
	"makenot.work/sando/systemd"
)

// A copy that the new app has worked with is not made anew, as long as the old one has not run since.
func TestLives(t *testing.T) {
	good := &node.Release{Version: "1.0.0"}
	root := t.TempDir()
	must(t, os.Chmod(root, 0o755))
	dir, err := node.Open(root)
	must(t, err)
	for _, c := range []struct {
		name, phase, active, enabled string
		proved, want                 bool
	}{
		{"adopted", switched, "inactive", "disabled", true, true},
		{"adopted, and an update failed since", switched, "inactive", "disabled", false, true},
		{"killed when it was well", switching, "inactive", "enabled", true, true},
		{"killed while it proved itself", switching, "inactive", "enabled", false, false},
		{"rebooted then, and the old one runs", switching, "active", "enabled", true, false},
		{"somebody went back", wentBack, "inactive", "disabled", true, false},
		{"somebody went back by hand", switched, "active", "disabled", true, false},
		{"somebody went back by hand and stopped it", switched, "inactive", "enabled", true, false},
		{"nothing was copied yet", "", "inactive", "disabled", true, false},
	} {
		st := node.NewState()
		if c.proved {
			st.Running, st.LastGood = good, good
		}
		must(t, dir.SaveState(st))
		a := &Adoption{dir: dir, old: former{facts: systemd.Facts{ActiveState: c.active}, files: systemd.Files{Enabled: c.enabled}}}
		if got := a.lives(progress{Phase: c.phase}); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
