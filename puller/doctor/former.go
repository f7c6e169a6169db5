package doctor

import (
	"context"
	"fmt"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/adopt/backup"
	"makenot.work/sando/systemd"
)

// givenBack looks whether the app is run by the unit that it was adopted from: the way back was
// gone, or the switch did not come to its end. What would start the app here would then start a
// second one beside that, on the same data.
func (e *examiner) givenBack(ctx context.Context, conn *systemd.Conn, w workers) []Check {
	name := e.cfg.Service.Unit
	all, err := backup.Of(backup.Base, e.cfg.App)
	if err != nil || name == "" || w.daemon.active() || w.timer.active() {
		return nil // where there is no backup that can be read, nothing is known
	}
	if own, err := read(ctx, conn, name); err != nil || own.active() {
		return nil
	}
	for _, d := range all {
		if d.OldUnit == name {
			continue
		}
		if old, err := read(ctx, conn, d.OldUnit); err == nil && old.active() {
			return []Check{
				failed("deployer", reason.Policy, fmt.Sprintf("%s runs the app in %s, as before the adoption; %s and its puller are stopped", d.OldUnit, d.OldRoot, name),
					do("start neither beside it; to take over again, run the line of `puller bootstrap … --adopt` once more")),
				skip("puller", "the app to be adopted"), skip("unit", "the app to be adopted"), skip("app", "the app to be adopted"),
			}
		}
	}
	return nil
}
