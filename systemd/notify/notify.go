// Package notify tells the service manager how this process is, as sd_notify(3) has it: one
// datagram to the socket in NOTIFY_SOCKET, and nothing at all where there is none.
package notify

import (
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Ready tells the service manager that this process is up, or up again after Reloading.
func Ready() error { return send(daemon.SdNotifyReady) }

// Reloading tells it that the configuration is being read again; Ready ends that.
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	return send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Stopping tells it that this process is about to end.
func Stopping() error { return send(daemon.SdNotifyStopping) }

// Status is the line that `systemctl status` shows.
func Status(text string) error {
	return send("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Alive feeds the watchdog.
func Alive() error { return send(daemon.SdNotifyWatchdog) }

// Patience asks for that much time from now on to start or to stop, where the unit's own
// limit is shorter. What is not heard from again within that time has failed.
func Patience(d time.Duration) error {
	return send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// Watchdog returns how long the service manager waits for Alive before it ends this
// process; 0 when it does not wait for it.
func Watchdog() (time.Duration, error) {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("watchdog: %w", err)
	}
	return d, nil
}

func send(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}

// Private lists the environment variables by which the service manager speaks with this
// process alone. A program that is started from it must not take them for its own.
func Private() []string {
	return []string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
}
