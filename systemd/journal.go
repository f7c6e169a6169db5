package systemd

import (
	"context"

	"makenot.work/sando/systemd/journal"
)

// Journal is journal.Tail.
func Journal(ctx context.Context, unit, invocation string, lines int) ([]string, error) {
	return journal.Tail(ctx, unit, invocation, lines)
}
