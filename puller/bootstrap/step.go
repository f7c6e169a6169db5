// Package bootstrap makes a bare machine a node of an app, step by step.
//
// # Steps
//
// A Step is one thing that is to be so. Look says what is missing for it and changes
// nothing; Do makes it so, and may be interrupted anywhere and done again. Plan looks at a
// whole list of steps, which is all that a dry run does; Apply looks in the same way, and
// then does those steps for which something is missing. So what a dry run lists is what a
// run does and reports, and a run on a node where everything is so does nothing.
//
// Look of a later step finds what earlier steps would make still missing, and has to say
// what will be wanted of it then.
//
// A file that is there with other content is never overwritten. Its Change is Kept: it is
// shown with its difference, and left to a person.
//
// # Judged first
//
// New looks at flags, root, systemd, the app's unit and user, credentials, the configuration
// that would be written, and the anchor, and asks what has to be asked; so what is refused has
// changed nothing. What a person typed is in memory until then (memfd_create).
//
//	n, err := bootstrap.New(ctx, options, setup)
//	steps, err := n.Prepare()
//	plan, err := bootstrap.Plan(ctx, append(steps, n.Live()...))
//	err = plan.Apply(ctx, nil)
//
// # What is made
//
//	/usr/local/bin/puller                root:root 0755   this program
//	user APP                                              system, no login shell
//	/opt/APP                             root:root 0755   mended
//	/etc/sando, /etc/sando/APP           root:root 0755, 0700   mended
//	/etc/APP, /etc/APP/APP.env           root:APP 0750, 0640
//	/var/lib/APP                         APP:APP 0750
//	/etc/sando/APP/trust.json            root:root 0644   who can write it decides what runs here
//	/etc/sando/APP/git.token, s3.…       root:root 0600   what was typed
//	/etc/sando/APP.toml                  root:root 0644
//	/etc/systemd/system                  root:root 0644   the puller's units, that of the app
//
// A file or directory has its owner and mode from the moment it has its name. Temporary ones
// that a kill leaves beside it are found by their names, and removed by the next run.
//
// # Parties
//
// Whoever runs it is root, and decides. Who gave them the fingerprint decides whom the node
// believes; the channel repo, the bucket and the URL of an anchor are believed nothing that has
// another one. A credential is read from its file or typed, and is in no message, no diff and no
// argument; of env files only names are shown.
//
// # What it does not protect from
//
// Two of it at once on one machine. A fingerprint that came by the same way as the anchor. What
// the operator's own files, which it keeps, say.
package bootstrap

import (
	"context"
	"fmt"
	"strings"
)

// Step is one thing that is to be so on this node.
type Step struct {
	Name string                                      // for people: "service user mnw"
	Look func(ctx context.Context) ([]Change, error) // what is missing for it; changes nothing
	Do   func(ctx context.Context) error             // makes it so; may be interrupted anywhere and done again; nil: it only looks
}

// Change is one thing that a step changes, or would.
type Change struct {
	What string // "make directory /opt/mnw, root:root 0755"
	Diff string // unified, of a file
	Kept bool   // what is there is another thing, and stays; What says so, and what a person can do
}

// Planned is a change and the step that it belongs to.
type Planned struct {
	Step string `json:"step"`
	What string `json:"what"`
	Diff string `json:"diff,omitempty"`
	Kept bool   `json:"kept,omitempty"`
}

// Planning is what is missing for a list of steps.
type Planning struct {
	Changes []Planned // in the order of the steps

	steps []Step
	todo  []bool // by step: has something to do
}

// Plan looks at all steps, in order, and changes nothing.
func Plan(ctx context.Context, steps []Step) (*Planning, error) {
	p := &Planning{Changes: []Planned{}, steps: steps, todo: make([]bool, len(steps))}
	for n, s := range steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		changes, err := s.Look(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.Name, err)
		}
		for _, c := range changes {
			p.Changes = append(p.Changes, Planned{s.Name, c.What, c.Diff, c.Kept})
			p.todo[n] = p.todo[n] || !c.Kept
		}
	}
	return p, nil
}

// Nothing reports whether everything is so already, as far as it is to be changed at all.
func (p *Planning) Nothing() bool {
	for _, todo := range p.todo {
		if todo {
			return false
		}
	}
	return true
}

// Apply does the steps for which something is missing, in order, and stops at the first
// that fails. Before each of them, and when it has ended, it calls tell, which may be nil.
// ctx ends it between two steps, or within one that can be ended; then, as after an error, a
// new Plan finds the rest.
func (p *Planning) Apply(ctx context.Context, tell func(s Step, done bool)) error {
	if tell == nil {
		tell = func(Step, bool) {}
	}
	for n, s := range p.steps {
		if !p.todo[n] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped before %s: %w", s.Name, context.Cause(ctx))
		}
		tell(s, false)
		if err := s.Do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		tell(s, true)
	}
	return nil
}

// Done says of what a change is that it was done: "made directory /opt/mnw" of "make …".
func Done(what string) string {
	first, rest, _ := strings.Cut(what, " ")
	past := map[string]string{
		"back": "backed", "copy": "copied", "do": "did", "enable": "enabled", "fetch,": "fetched,", "have": "had", "look": "looked", "make": "made",
		"remove": "removed", "see": "saw", "set": "set", "start": "started", "write": "wrote",
	}
	if past[first] == "" {
		return what
	}
	return past[first] + " " + strings.Replace(rest, "verify and unpack ", "verified and unpacked ", 1)
}
