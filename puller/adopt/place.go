package adopt

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/adopt/convert"
	"makenot.work/sando/puller/bootstrap"
	"makenot.work/sando/systemd"
)

// InPlace is the adoption of a root directory that another deployer made: its releases are
// converted, and one that is in the way of what the channel names is taken over or renamed.
type InPlace struct {
	App     string
	Root    string
	Unit    string // the app's
	User    string // that it runs as
	Tier    string
	Backups string
	Open    func(ctx context.Context, root string) (Puller, error)
	Now     func() time.Time
	Log     func(text string)

	// Waits is set when nothing was promoted yet, so that it is not known which release is to run.
	Waits bool

	plan *convert.Plan
}

// Steps returns the steps. They leave what runs alone.
func (p *InPlace) Steps() []bootstrap.Step {
	return []bootstrap.Step{
		{Name: "releases of another deployer", Look: p.lookOwners, Do: p.doOwners},
		{Name: "release under a taken name", Look: p.lookTaken, Do: p.doTaken},
	}
}

func (p *InPlace) lookOwners(ctx context.Context) ([]bootstrap.Change, error) {
	app, err := p.app(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := node.View(p.Root)
	if err != nil {
		return nil, err
	}
	if p.plan, err = convert.Look(ctx, dir, p.Backups, app); err != nil || p.plan.Nothing() {
		return nil, err
	}
	return []bootstrap.Change{{What: p.plan.Words()}}, nil
}

func (p *InPlace) doOwners(ctx context.Context) error {
	if _, err := p.lookOwners(ctx); err != nil { // as it is now: earlier steps have changed the root
		return err
	}
	record, err := p.plan.Do(ctx, p.Backups, p.Now())
	if err != nil {
		return err
	}
	if _, err := p.lookOwners(ctx); err != nil {
		return err
	}
	if !p.plan.Nothing() {
		return reason.Errorf(reason.Config, "somebody put more below %s meanwhile, which is not root's yet: is a deployer at work? Stop it, and run this again", p.Root)
	}
	p.Log("owners and modes as they were: " + record)
	return nil
}

// app finds out as whom the app runs.
func (p *InPlace) app(ctx context.Context) (convert.App, error) {
	var f systemd.Facts
	err := with(ctx, func(c *systemd.Conn) (err error) {
		f, err = c.Facts(ctx, p.Unit)
		return err
	})
	if err != nil {
		return convert.App{}, err
	}
	if f.DynamicUser {
		return convert.App{}, reason.Errorf(reason.Config, "unit %s: DynamicUser= gives the app another user each time, so nothing can be made readable for it alone: give it a user of its own", p.Unit)
	}
	name := p.User
	if f.LoadState == "loaded" {
		name = f.User
	}
	app := convert.App{}
	var gid int
	if app.UID, gid, err = ids(name); err != nil {
		return app, err
	}
	app.GIDs = []int{gid}
	groups := slices.Clone(f.Groups)
	if f.Group != "" {
		groups = append([]string{f.Group}, groups...)
		app.GIDs = nil
	}
	for _, g := range groups {
		id, err := group(g)
		if err != nil {
			return app, err
		}
		app.GIDs = append(app.GIDs, id)
	}
	if u, err := user.LookupId(strconv.Itoa(app.UID)); err == nil {
		more, err := u.GroupIds()
		if err != nil {
			return app, fmt.Errorf("groups of user %q: %w", u.Username, err)
		}
		for _, g := range more {
			if id, err := strconv.Atoi(g); err == nil {
				app.GIDs = append(app.GIDs, id)
			}
		}
	}
	return app, nil
}

// group returns the number of a group, by name or number.
func group(name string) (int, error) {
	if g, err := user.LookupGroup(name); err == nil {
		name = g.Gid
	}
	id, err := strconv.Atoi(name)
	if err != nil {
		return 0, reason.Errorf(reason.Config, "group %q is not known here", name)
	}
	return id, nil
}

// lookTaken reports whether it is known already what the channel names, and that it is no
// release of another deployer.
func (p *InPlace) lookTaken(context.Context) ([]bootstrap.Change, error) {
	dir, err := node.View(p.Root)
	if err != nil {
		return nil, err
	}
	versions, err := dir.Releases()
	if err != nil {
		return nil, err
	}
	foreign := false
	for _, v := range versions {
		_, own, err := dir.Placed(v)
		if err != nil {
			return nil, err
		}
		foreign = foreign || !own
	}
	if !foreign {
		return nil, nil
	}
	if doc, err := dir.Channel(p.Tier); err == nil {
		// What it names is known. A state that cannot be read is for the puller to mend.
		if ch, err := channels.ParseChannel(doc); err == nil {
			has, err := dir.Has(ch.Version)
			if err != nil {
				return nil, err
			}
			if _, own, err := dir.Placed(ch.Version); err != nil || own || !has {
				return nil, err
			}
		}
	}
	return []bootstrap.Change{{What: "fetch, verify and unpack the release that the channel names, without activating it; if another deployer's release has its name, that is taken over when it holds the same, else renamed and kept"}}, nil
}

func (p *InPlace) doTaken(ctx context.Context) error {
	pl, err := p.Open(ctx, p.Root)
	if err != nil {
		return err
	}
	defer pl.Close()
	res, err := pl.Step(ctx, puller.Options{Prepare: true, Adopt: true, Now: true})
	for _, w := range res.Warnings {
		p.Log(w)
	}
	if errors.Is(err, puller.ErrNotPromoted) {
		p.Waits = true
		return nil // the puller goes on with it
	}
	return err
}
