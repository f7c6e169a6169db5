package daemon

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// A cycle that goes on without a sign of life is not vouched for.
func TestHangs(t *testing.T) {
	var free atomic.Bool
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		opts.Beat(puller.Polling, time.Minute)
		opts.Beat("fetch", 2*time.Minute)
		for !free.Load() { // whatever ctx says
			<-time.After(time.Second)
		}
		return current(ctx, n, opts)
	}, func(b *bench) {
		b.after(10 * time.Minute)
		if got := strings.Join(b.told.heard("ALIVE"), ", "); got != "0s ALIVE, 30s ALIVE, 1m0s ALIVE, 1m30s ALIVE" {
			t.Errorf("fed %s", got)
		}
		if n := strings.Count(b.log.String(), `level=ERROR msg="a cycle hangs: the watchdog is not fed any more" part=fetch`); n != 1 {
			t.Errorf("logged %d times: %s", n, b.log.String())
		}
		free.Store(true)
		b.after(time.Minute)
		if got := b.told.heard("ALIVE"); len(got) < 5 || !strings.Contains(b.log.String(), `msg="it moves again" part=fetch`) {
			t.Errorf("fed %s; logged %s", got, b.log.String())
		}
	})
}

// A download may take as long as it wants to, while it moves.
func TestMoves(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		for range 100 {
			opts.Beat("fetch", time.Minute)
			<-time.After(59 * time.Second)
		}
		return current(ctx, n, opts)
	}, func(b *bench) {
		b.after(time.Hour)
		if got := b.told.heard("ALIVE"); len(got) != 121 || strings.Contains(b.log.String(), "hangs") {
			t.Errorf("fed %d times; logged %s", len(got), b.log.String())
		}
		b.after(time.Hour)
	})
}

// The daemon is fed while it waits, however long that is.
func TestSleeps(t *testing.T) {
	run(t, "[schedule]\npoll = \"@daily\"\n", current, func(b *bench) {
		b.after(5 * time.Hour)
		if got := b.told.heard("ALIVE"); len(got) != 601 {
			t.Errorf("fed %d times", len(got))
		}
	})
}

// Ready is who has recovered, and what takes long before that asks for patience.
func TestReady(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		if n > 0 {
			return current(ctx, n, opts)
		}
		opts.Beat(puller.Restarting, 10*time.Minute)
		<-time.After(5*time.Minute - time.Second)
		opts.Beat(puller.Polling, 10*time.Minute)
		<-time.After(5 * time.Minute)
		return failed(ctx, n, opts)
	}, func(b *bench) {
		b.after(20 * time.Minute)
		if got := strings.Join(b.told.heard("READY"), ", "); got != "4m59s READY" {
			t.Errorf("told %s", got)
		}
		got := b.told.heard("PATIENCE")
		if len(got) != 10 || got[0] != "0s PATIENCE 1m30s" || got[9] != "4m30s PATIENCE 1m30s" {
			t.Errorf("told %q", got)
		}
	})
}

// A release that recovery has restarted, and that has to stay well for an hour, does not keep
// `systemctl start` waiting.
func TestReadyInProbation(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		if n > 0 {
			return current(ctx, n, opts)
		}
		opts.Beat(puller.Hashing, 10*time.Minute)
		<-time.After(10 * time.Second)
		opts.Beat(puller.Restarting, 10*time.Minute)
		<-time.After(10 * time.Second)
		for range 60 {
			opts.Beat(puller.Probing, 2*time.Minute)
			<-time.After(time.Minute)
		}
		return current(ctx, n, opts)
	}, func(b *bench) {
		b.after(30 * time.Minute)
		if got := strings.Join(b.told.heard("READY", "PATIENCE"), ", "); got != "0s PATIENCE 1m30s, 20s READY" {
			t.Errorf("told %s", got)
		}
		b.after(31 * time.Minute)
	})
}

// Who waits for another puller's lock is ready: that one has recovered.
func TestReadyBehindAnother(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		for range 3 {
			opts.Beat(puller.Waiting, time.Minute)
			<-time.After(30 * time.Second)
		}
		return current(ctx, n, opts)
	}, func(b *bench) {
		b.after(time.Minute)
		if got := strings.Join(b.told.heard("READY"), ", "); got != "0s READY" {
			t.Errorf("told %s", got)
		}
		b.after(time.Minute)
	})
}

// Told to stop, it waits for the step that must not be cut in half, and asks for the time.
func TestStops(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		opts.Beat(puller.Deciding, time.Minute)
		opts.Beat(puller.Restarting, 10*time.Minute)
		<-ctx.Done()
		<-time.After(2 * time.Minute)
		return puller.Result{Reason: reason.Updated, Message: "runs 2.0"}, nil
	}, func(b *bench) {
		b.after(45 * time.Second)
		b.cancel()
		b.after(time.Minute)
		if n := b.stops.Load(); n != 1 {
			t.Errorf("stopping was called %d times", n)
		}
		b.after(2 * time.Minute)
		if got := strings.Join(b.told.heard("STOPPING", "PATIENCE 1m30s"), ", "); got != "0s PATIENCE 1m30s, 45s STOPPING, 45s PATIENCE 1m30s, 1m0s PATIENCE 1m30s, 1m30s PATIENCE 1m30s, 2m0s PATIENCE 1m30s, 2m30s PATIENCE 1m30s" {
			t.Errorf("told %s", got)
		}
		b.began("0s")
		if got := b.log.String(); !strings.Contains(got, `msg="runs 2.0" reason=updated`) || !strings.HasSuffix(got, "msg=\"daemon stops\"\n") {
			t.Errorf("logged %s", got)
		}
	})
}

// A cycle that was interrupted is no failure.
func TestInterrupted(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		<-ctx.Done()
		return puller.Result{Reason: reason.IO, Message: "x"}, ctx.Err()
	}, func(b *bench) {
		b.after(time.Second)
		b.cancel()
		b.after(time.Second)
		if got := b.log.String(); strings.Contains(got, "WARN") || !strings.Contains(got, `msg="stopped in a cycle" at="context canceled"`) {
			t.Errorf("logged %s", got)
		}
	})
}
