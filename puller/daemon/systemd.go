package daemon

import (
	"time"

	"makenot.work/sando/systemd/notify"
)

// Systemd is the Manager of a daemon that systemd started. For any other it does nothing.
type Systemd struct{}

// Ready tells that the daemon is up, or up again after Reloading.
func (Systemd) Ready() error { return notify.Ready() }

// Reloading tells that the configuration is read again.
func (Systemd) Reloading() error { return notify.Reloading() }

// Stopping tells that the daemon is about to end.
func (Systemd) Stopping() error { return notify.Stopping() }

// Status is the line that `systemctl status` shows.
func (Systemd) Status(text string) error { return notify.Status(text) }

// Alive feeds the watchdog.
func (Systemd) Alive() error { return notify.Alive() }

// Patience asks for that much time from now on to start or to stop.
func (Systemd) Patience(d time.Duration) error { return notify.Patience(d) }

// Watchdog returns how long systemd waits for Alive; 0 when it does not.
func (Systemd) Watchdog() (time.Duration, error) { return notify.Watchdog() }
