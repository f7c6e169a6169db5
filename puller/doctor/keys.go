package doctor

import (
	"fmt"
	"os"
	"strings"
	"time"

	"makenot.work/sando/internal/config"
)

// idleKeys finds keys of the configuration that have no effect, and what overrides it here and
// not in the puller's units.
func (e *examiner) idleKeys() (checks []Check) {
	idle := func(key, why string) {
		checks = append(checks, warning("config", fmt.Sprintf("%s has no effect: %s", key, why), do("take it out of %s", e.o.File)))
	}
	c := e.cfg
	if c.Channels.Source == "bucket" && c.Channels.Branch != "main" {
		idle("channels.branch", "channels come from the bucket")
	}
	if c.Schedule.Timezone != "" && c.Schedule.Window == "" && strings.HasPrefix(c.Schedule.Poll, "@every") {
		idle("schedule.timezone", "there is no window, and polls go by the interval")
	}
	if r := c.Report; !r.Enabled && (r.AccessKeyFile != "" || r.Heartbeat != 15*time.Minute) {
		idle("the rest of [report]", "report.enabled is false")
	}
	watched := c.Service.Unit != "" || c.Health.URL != "" || len(c.Health.Smoke) > 0
	if !watched {
		if c.Health.Interval != time.Second {
			idle("health.interval", "neither a unit nor a probe is asked")
		}
		if c.Health.StableFor != 30*time.Second {
			idle("health.stable_for", "neither a unit nor a probe is asked")
		}
	}
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, config.EnvPrefix) {
			checks = append(checks, warning("config", fmt.Sprintf("%s is set in this shell, and overrides %s here, and not in the puller's unit", name, e.o.File), run("unset %s", name)))
		}
	}
	return checks
}
