package service

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/systemd"
)

// A restart that others spoil says nothing about a release: it is asked for once more.
func TestAsRootUnitAgain(t *testing.T) {
	h := host.Boot(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", h.Bus())
	// It gets ready only if it may when it starts.
	h.Write(t, "/etc/systemd/system/slow.service", `[Service]
Type=notify
NotifyAccess=all
TimeoutStopSec=1
ExecStart=/bin/sh -c 'test ! -e /run/may || systemd-notify --ready; touch /run/looked.$$$$; exec sleep infinity'
`, 0o644)
	h.Run(t, "systemctl", "daemon-reload")
	u := &Unit{"slow.service", systemd.Restart}
	// The next restart may cancel it in turn.
	stop := func() { h.Try(t, "systemctl", "stop", "slow.service") }

	for _, c := range []struct {
		name  string
		spoil func()
	}{
		{"another job", stop},
		{"no bus", func() { h.Run(t, "systemctl", "kill", "--signal=KILL", "dbus.service") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			end := make(chan error, 1)
			go func() { end <- u.Restart(t.Context(), Start{}, time.Minute) }()
			starting(t, h, u)
			h.Write(t, "/run/may", "", 0o644)
			c.spoil()
			must(t, <-end)
			run, err := u.Look(t.Context())
			must(t, err)
			if !run.Up || run.Ended || run.Invocation == Never || run.Began.IsZero() || !run.Fresh {
				t.Errorf("%+v", run)
			}
			h.Run(t, "rm", "/run/may")
			stop()
		})
	}

	t.Run("twice", func(t *testing.T) {
		end := make(chan error, 1)
		go func() { end <- u.Restart(t.Context(), Start{}, time.Minute) }()
		for range 2 {
			starting(t, h, u)
			stop()
		}
		var job *systemd.JobError
		err := <-end
		if !errors.As(err, &job) || job.Result != systemd.Canceled || !errors.Is(err, ErrHindered) || reason.Of(err) != reason.IO {
			t.Errorf("got %v", err)
		}
	})

	// What ran before has the time that its unit gives it to stop.
	t.Run("stops slowly", func(t *testing.T) {
		h.Write(t, "/etc/systemd/system/stubborn.service", "[Service]\nTimeoutStopSec=1500ms\nExecStart=/bin/sh -c 'trap \"\" TERM; touch /run/deaf; while :; do sleep 1; done'\n", 0o644)
		h.Run(t, "systemctl", "daemon-reload")
		stubborn := &Unit{"stubborn.service", systemd.Restart}
		must(t, stubborn.Restart(t.Context(), Start{}, time.Minute))
		for h.Try(t, "test", "-e", "/run/deaf").Code != 0 {
			must(t, sleep(t.Context(), 10*time.Millisecond))
		}
		before, err := stubborn.Facts(t.Context())
		must(t, err)
		must(t, stubborn.Restart(t.Context(), Start{}, time.Second))
		after, err := stubborn.Facts(t.Context())
		must(t, err)
		if after.InvocationID == before.InvocationID || !after.Began.Before(after.ActiveSince.Add(time.Millisecond)) {
			t.Errorf("before %+v, after %+v", before, after)
		}
	})

	t.Run("takes too long", func(t *testing.T) {
		err := u.Restart(t.Context(), Start{}, 300*time.Millisecond)
		if !errors.Is(err, errTimeout) || !strings.Contains(err.Error(), "goes on with it by itself") {
			t.Errorf("got %v", err)
		}
	})
}

// starting waits until the unit is starting and has looked whether it may.
func starting(t *testing.T, h *host.Host, u *Unit) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		f, err := u.Facts(ctx)
		must(t, err)
		if f.ActiveState == "activating" && f.MainPID != 0 && h.Try(t, "test", "-e", fmt.Sprintf("/run/looked.%d", f.MainPID)).Code == 0 {
			return
		}
		must(t, sleep(ctx, 10*time.Millisecond))
	}
}
