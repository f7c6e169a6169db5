package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/puller"
)

// TestReports: after each cycle, and when one is due between two. No cycle comes of that, and
// an order is seen as before.
func TestReports(t *testing.T) {
	set := make(chan struct{})
	step := func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		<-set
		return current(ctx, n, opts)
	}
	run(t, "[schedule]\npoll = \"@every 8784h\"", step, func(b *bench) {
		b.due = func(n int) time.Duration {
			if n == 3 {
				return time.Hour
			}
			return 15 * time.Minute
		}
		close(set)
		b.after(40 * time.Minute)
		b.order("a pin")
		b.after(2 * time.Hour)
		b.began("0s", "40m2s order") // it looks every two seconds
		b.mu.Lock()
		defer b.mu.Unlock()
		want := []string{"0s", "15m0s", "30m0s", "40m2s", "55m2s", "1h10m2s", "1h25m2s", "1h40m2s", "1h55m2s", "2h10m2s", "2h25m2s"}
		if diff := cmp.Diff(want, b.reports); diff != "" {
			t.Errorf("reports (-want +got)\n%s", diff)
		}
	})
}

// TestNoReports: where they are off nobody is asked but after a cycle.
func TestNoReports(t *testing.T) {
	run(t, "[schedule]\npoll = \"@every 8784h\"", current, func(b *bench) {
		b.after(40 * time.Minute)
		b.began("0s")
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.reports != nil {
			t.Errorf("reports at %q", b.reports)
		}
	})
}
