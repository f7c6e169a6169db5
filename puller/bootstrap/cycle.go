package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

// Empty reports whether no release is live.
func (n *Node) Empty() (bool, error) {
	dir, err := node.View(n.o.Root)
	if err != nil {
		return false, err
	}
	cur, err := dir.Current()
	return cur.Version == "", err
}

// cycle does a cycle of the puller where one is missing, so that what runs in the end is told
// by who did it, or waited for it.
func (n *Node) cycle() Step {
	return Step{
		Name: "update",
		Look: func(ctx context.Context) ([]Change, error) {
			what, err := n.missing(ctx)
			if err != nil || what == "" {
				return nil, err
			}
			return []Change{{What: fmt.Sprintf("%s, as `puller --app %s` does", what, n.o.App)}}, nil
		},
		Do: n.doCycle,
	}
}

// missing says for what a cycle is due; "": for nothing. Where a puller is at work it has its
// turn first, and the lock is waited for.
func (n *Node) missing(ctx context.Context) (string, error) {
	empty, err := n.Empty()
	if err != nil {
		return "", err
	}
	const first = "look for the first update"
	_, err = os.Stat(n.o.configFile())
	switch {
	case errors.Is(err, fs.ErrNotExist) && empty:
		return first, nil
	case errors.Is(err, fs.ErrNotExist) && n.o.Adopt:
		return "", nil // what runs goes on until the puller finds an update by itself
	case errors.Is(err, fs.ErrNotExist):
		return "look for an update by the new configuration", nil
	case err != nil:
		return "", reason.OnDisk(err)
	}
	at, err := n.anyAtWork(ctx)
	if err != nil {
		return "", err
	}
	s, err := n.Status(ctx)
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil && empty:
		return first, nil // which then says what is wrong
	case err != nil:
		return "", nil // doctor says what is wrong
	case s.Intent != nil:
		return fmt.Sprintf("see the update to %s through", s.Intent.To), nil
	case n.o.Adopt && !empty:
		return "", nil
	case empty && (!at || s.Reason != reason.Stale):
		return first, nil
	case s.Pending, at && s.Reason.Exit() == 1:
		return "look for the update that is wanted", nil
	}
	return "", nil
}

// anyAtWork reports whether the daemon or the timer is.
func (n *Node) anyAtWork(ctx context.Context) (bool, error) {
	for _, unit := range []string{n.o.worker(), n.o.otherWorker()} {
		if at, err := n.atWork(ctx, unit); err != nil || at {
			return at, err
		}
	}
	return false, nil
}

// Status returns how this node is, by the configuration in force.
func (n *Node) Status(ctx context.Context) (puller.Status, error) {
	cfg, err := puller.LoadConfig(n.o.configFile(), nil)
	if err != nil {
		return puller.Status{}, err
	}
	p, err := puller.New(ctx, cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return puller.Status{}, err
	}
	s, err := p.Status(ctx)
	return s, errors.Join(err, p.Close())
}

// doCycle does one cycle. That it does not end well is no failure of bootstrap: the puller
// that is started next goes on with it.
func (n *Node) doCycle(ctx context.Context) error {
	cfg, err := puller.LoadConfig(n.o.configFile(), nil)
	if err != nil {
		return err
	}
	p, err := puller.New(ctx, cfg, n.Log, n.Meter)
	if err != nil {
		return err
	}
	res, err := p.Step(ctx, puller.Options{Tell: n.Tell})
	err = errors.Join(err, p.Close())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	n.update, n.updateErr = &res, err
	if errors.Is(err, puller.ErrNotPromoted) {
		n.updateErr = nil
	}
	return nil
}
