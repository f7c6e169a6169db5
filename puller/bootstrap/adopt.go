package bootstrap

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"makenot.work/sando/internal/probe"
	"makenot.work/sando/puller"
)

// What an adoption needs of a node to be: package adopt has its steps, which come between
// Prepare and Live.

// Former leaves to an adoption what is its affair: the env file, if it makes that from another
// one, and what starts with the machine, which is the old install until the new one is well.
// It is called before Prepare.
func (n *Node) Former(env bool) { n.former, n.formerEnv = true, env }

// Names returns the options as they count, with what was left out filled in, and as whom the
// app runs.
func (n *Node) Names() (o Options, user string) { return n.o, n.user }

// Probe returns how the app is asked whether it is well: by the configuration that is there, if
// there is one.
func (n *Node) Probe() (probe.Probe, error) {
	cfg, done, err := n.load(n.o.Root)
	if err != nil {
		return probe.Probe{}, err
	}
	defer done()
	return probe.Probe{URL: cfg.Health.URL, JSON: cfg.Health.JSON, Smoke: cfg.Health.Smoke}, nil
}

// Opened is a puller of the node to be.
type Opened struct {
	*puller.Puller
	done func()
}

// Close ends what it keeps open.
func (o *Opened) Close() error {
	defer o.done()
	return o.Puller.Close()
}

// Open returns the puller of the node to be with root as its root directory: a rehearsal has
// one of its own, and what is not written yet is in memory for it.
func (n *Node) Open(ctx context.Context, root string) (*Opened, error) {
	cfg, done, err := n.load(root)
	if err != nil {
		return nil, err
	}
	p, err := puller.New(ctx, cfg, n.Log, n.Meter)
	if err != nil {
		done()
		return nil, err
	}
	return &Opened{p, done}, nil
}

// load returns the configuration of the node to be.
func (n *Node) load(root string) (*puller.Config, func(), error) {
	c, done, err := n.usable()
	if err != nil {
		return nil, nil, err
	}
	for _, f := range []credential{c.access, c.secret} {
		if f.asked {
			done()
			return nil, nil, refuse("a rehearsal fetches the release, and %s is not there to do it with: write it first, `install -d -m 700 %s && (umask 077; cat >%[1]s)`", f.file, filepath.Dir(f.file))
		}
	}
	if c.token.asked {
		c.token.file = "" // perhaps there is none
	}
	closing := []func(){done}
	all := func() {
		for _, f := range closing {
			f()
		}
	}
	fail := func(err error) (*puller.Config, func(), error) {
		all()
		return nil, nil, err
	}
	flags := map[string]any{"root": root}
	file := n.o.configFile()
	if _, err := os.Stat(file); err != nil {
		text, err := n.o.config(c)
		if err != nil {
			return fail(err)
		}
		draft, closed, err := memory(n.o.App+".toml", []byte(text))
		if err != nil {
			return fail(err)
		}
		file, closing = draft, append(closing, closed)
	}
	if _, err := os.Stat(n.o.anchorFile()); err != nil && n.anchor != nil {
		anchor, closed, err := memory("trust.json", n.anchor)
		if err != nil {
			return fail(err)
		}
		flags["trust"], closing = anchor, append(closing, closed)
	}
	cfg, err := puller.LoadConfig(file, flags)
	if err != nil {
		return fail(fmt.Errorf("configuration of the node to be: %w", err))
	}
	return cfg, all, nil
}
