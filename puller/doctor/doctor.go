// Package doctor looks at everything that an update of this node needs, and says of each thing
// whether it is good, and if not, what mends it.
//
//	checks := doctor.Examine(ctx, doctor.Options{File: "/etc/sando/mnw.toml"})
//	err := doctor.Verdict(checks)
//
// # What it looks at
//
// The names of the checks, in the order in which one causes another: a clock that is wrong
// makes a bucket refuse good credentials, so the clock is told first.
//
//	config       the configuration is read, and each of its keys has an effect
//	user         doctor may look at what the puller looks at
//	permissions  who could change what runs, or read what is secret; what the puller can read
//	credentials  key files, tokens and certificates are such
//	kernel       it has what durable writes need
//	disk         room beside the reserve, inodes, ballast, writable
//	clock        against what was signed, the program, and what servers say
//	anchor       trust.json is there and of this app; its fingerprint
//	node         the node's own files let a cycle begin
//	deployer     nobody else deploys into the same directory
//	network      the git host and the bucket can be reached
//	channel      the tier's channel is there, well signed, and news
//	storage      what the channel names can be read with these credentials
//	reports      this node's report can be written by its credential, and nothing else
//	sandbox      the puller's unit lets it read and write what the configuration names
//	puller       its daemon or timer is at work, by this configuration and this program
//	unit         the app's unit can run what `current` names
//	environment  the app's env files fit the release
//	app          the release that is live is well, by the probes of the configuration
//	update       what the channel, or a pin, names would be activated
//	leftovers    what a killed puller or an older state left behind
//
// # Results
//
// failed means that an update would not work now, or that what protects this node is broken:
// what is wrong can be mended, and Mend says how. A warning is for a person to think about, and
// keeps no update back. skipped was not looked at, or says nothing, because of something else
// that failed. A node on which nothing failed takes an update now, as far as that can be known
// without one.
//
// # What it does
//
// It writes nothing on the node, takes no lock, and asks the channel repo, the storage, systemd
// and the app the questions that a puller asks, each for some seconds at most; so it works while
// a daemon is at work, and without a network. It also asks the servers, without credentials,
// what time it is. What only the puller's sandbox keeps from it, it finds out by giving up
// root's privileges for a moment.
//
// It names files, users and addresses, and no secret: neither a value of an env file, unless it
// is a path in a release, nor anything of a key file or a token.
//
// # What it does not find
//
// Releases that are bad, and what is wrong on the builder's side. Another deployer that is at
// work seldom, and comes the next time: only what it left, or what it does now.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

// Result is what came of a check.
type Result string

// The results.
const (
	OK      Result = "ok"
	Warning Result = "warning"
	Failed  Result = "failed"
	Skipped Result = "skipped"
)

// Check is one thing that was looked at. Several may have the same name.
type Check struct {
	Name    string      `json:"name"`
	Result  Result      `json:"result"`
	Reason  reason.Code `json:"reason,omitempty"` // of what failed
	Found   string      `json:"found"`
	Mend    string      `json:"mend,omitempty"`
	Command bool        `json:"command,omitempty"` // Mend is a command, for root's shell

	needs string // the checks, with spaces between, of which one that failed is why this one did
}

// names are the checks, in the order in which one causes another.
var names = [...]string{
	"config", "user", "permissions", "credentials", "kernel", "disk", "clock", "anchor", "node", "deployer",
	"network", "channel", "storage", "reports", "sandbox", "puller", "unit", "environment", "app", "update", "leftovers",
}

// Names returns the names of all checks, for the reference.
func Names() []string { return slices.Clone(names[:]) }

// Options say what to examine.
type Options struct {
	File  string         // the configuration
	Flags map[string]any // keys of it that are overridden

	limit time.Duration // 0: standardLimit
}

// standardLimit is how long news, and what the storage holds, are waited for.
const standardLimit = 15 * time.Second

// examiner looks at one node.
type examiner struct {
	o    Options
	cfg  *puller.Config
	good bool // cfg is what the configuration says; else what can be guessed of it
	dir  *node.Dir
	uid  int // as whom the puller runs
	now  time.Time
}

// Examine looks at everything. What failed comes first, in the order of Names; then warnings,
// what was skipped, and what is good.
func Examine(ctx context.Context, o Options) []Check {
	e := &examiner{o: o, uid: os.Geteuid(), now: time.Now()}
	if o.limit == 0 {
		e.o.limit = standardLimit
	}
	checks := e.configuration()
	if e.dir == nil {
		return arrange(checks)
	}
	checks = append(checks, e.user()...)
	checks = append(checks, e.permissions()...)
	checks = append(checks, e.kernel())
	groups := []func(context.Context) []Check{e.clock, e.systemd}
	if e.good {
		groups = append(groups, e.surroundings, e.prospect, e.reports)
	} else {
		checks = append(checks, e.disk(nil), e.unconfiguredAnchor())
		checks = append(checks, e.leftovers()...)
	}
	found := make([][]Check, len(groups))
	var at sync.WaitGroup
	for n, look := range groups {
		at.Go(func() { found[n] = look(ctx) })
	}
	at.Wait()
	for _, f := range found {
		checks = append(checks, f...)
	}
	return arrange(checks)
}

// Verdict is nil when nothing failed; else it has the reason of what failed first.
func Verdict(checks []Check) error {
	for _, c := range checks {
		if c.Result == Failed {
			return reason.Errorf(c.Reason, "%s: %s", c.Name, c.Found)
		}
	}
	return nil
}

// arrange puts checks in order. One that failed because of another that did says nothing.
func arrange(checks []Check) []Check {
	failed := map[string]bool{}
	for _, c := range checks {
		if c.Result == Failed && c.needs == "" {
			failed[c.Name] = true
		}
	}
	for _, name := range names {
		for _, c := range checks {
			needs := strings.Fields(c.needs)
			if c.Name == name && c.Result == Failed && !slices.Contains(needs, name) && !slices.ContainsFunc(needs, func(n string) bool { return failed[n] }) {
				failed[name] = true // what it needs is not what failed
			}
		}
	}
	for n, c := range checks {
		for _, needed := range strings.Fields(c.needs) {
			if c.Result == Failed && failed[needed] {
				checks[n] = skip(c.Name, needed)
				break
			}
		}
	}
	checks = slices.DeleteFunc(checks, func(c Check) bool { return c.Result == Skipped && failed[c.Name] })
	rank := func(c Check) int { return slices.Index([]Result{Failed, Warning, Skipped, OK}, c.Result) }
	slices.SortStableFunc(checks, func(a, b Check) int {
		if rank(a) != rank(b) {
			return rank(a) - rank(b)
		}
		return slices.Index(names[:], a.Name) - slices.Index(names[:], b.Name)
	})
	return slices.CompactFunc(checks, func(a, b Check) bool { return a == b })
}

// mend is what a person can do: a command, or a sentence.
type mend struct {
	text    string
	command bool
}

// run is a mend that a shell can do.
func run(format string, args ...any) mend { return mend{fmt.Sprintf(format, args...), true} }

// do is a mend that only a person can do.
func do(format string, args ...any) mend { return mend{fmt.Sprintf(format, args...), false} }

func ok(name, format string, args ...any) Check {
	return Check{Name: name, Result: OK, Found: fmt.Sprintf(format, args...)}
}

// skip is a check that says nothing because of others.
func skip(name string, needs ...string) Check {
	return Check{Name: name, Result: Skipped, Found: "not looked at: needs " + strings.Join(needs, " and ")}
}

func warning(name, found string, m mend) Check {
	return Check{Name: name, Result: Warning, Found: found, Mend: m.text, Command: m.command}
}

func failed(name string, code reason.Code, found string, m mend) Check {
	if code.Exit() == 0 {
		code = reason.IO // what failed is never a good end
	}
	return Check{Name: name, Result: Failed, Reason: code, Found: found, Mend: m.text, Command: m.command}
}

// because is c, which says nothing where another check failed.
func (c Check) because(needs ...string) Check {
	c.needs = strings.Join(needs, " ")
	return c
}

// configuration reads it.
func (e *examiner) configuration() []Check {
	cfg, err := puller.LoadConfig(e.o.File, e.o.Flags)
	e.cfg, e.good = cfg, err == nil
	if err != nil {
		e.cfg = puller.Guess(e.o.File, e.o.Flags)
	}
	var checks []Check
	if err != nil {
		checks = append(checks, failed("config", reason.Of(err), err.Error(), e.mendConfig(err)))
	}
	if e.dir, err = node.View(e.cfg.Root); err != nil {
		return checks // of the configuration itself
	}
	if !e.good {
		for _, name := range []string{"network", "channel", "storage", "reports", "environment", "app", "deployer", "update"} {
			checks = append(checks, skip(name, "a configuration that is accepted"))
		}
		return checks
	}
	idle := e.idleKeys()
	checks = append(checks, idle...)
	if len(idle) == 0 {
		checks = append(checks, ok("config", "%s: app %s, tier %s, node %s", e.o.File, cfg.App, cfg.Tier, cfg.Node))
	}
	return checks
}

func (e *examiner) mendConfig(err error) mend {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return do("write %s: `builder enroll NODE --tier TIER`, on the builder, prints the line that makes it", e.o.File)
	case errors.Is(err, os.ErrPermission):
		return do("run `puller doctor` as root")
	}
	return do("correct that in %s; a daemon takes it up by itself", e.o.File)
}

// puller returns what asks as the puller does.
func (e *examiner) puller(ctx context.Context) (*puller.Puller, error) {
	return puller.New(ctx, e.cfg, slog.New(slog.DiscardHandler), nil)
}
