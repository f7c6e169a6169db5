package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/signing"
)

// prospect asks for news as a cycle does, and says what would come of it.
func (e *examiner) prospect(ctx context.Context) []Check {
	p, err := e.puller(ctx)
	if err != nil {
		return []Check{failed("config", reason.Of(err), err.Error(), e.mendConfig(err))}
	}
	defer p.Close() // nothing was written
	busy := e.dir.Busy()
	s := p.Survey(ctx, e.o.limit)
	busy = cmp.Or(busy, e.dir.Busy())
	checks := []Check{e.node(&s, busy), e.anchor(&s), e.disk(&s)}
	checks = append(checks, e.news(&s)...)
	checks = append(checks, e.storage(&s)...)
	checks = append(checks, e.update(&s)...)
	checks = append(checks, e.environment(p, &s)...)
	return append(checks, e.leftovers()...)
}

// node is about the node's own files.
func (e *examiner) node(s *puller.Survey, busy string) Check {
	switch {
	case s.Local == nil && s.Recover != "" && !s.ByHand && busy != "":
		return ok("node", "%s; a cycle is at work on it (%s)", live(s.Current), busy)
	case s.Local == nil && s.Recover != "" && !s.ByHand:
		return warning("node", "the next cycle has to "+s.Recover, run("puller"))
	case s.Local == nil:
		return ok("node", "%s", live(s.Current))
	case s.Current.Odd != "":
		cur := e.dir.CurrentPath()
		return failed("node", reason.Config, s.Current.Odd, run("mv %s %s", quoted(cur), quoted(fmt.Sprintf("%s.%d", cur, e.now.Unix()))))
	case errors.Is(s.Local, node.ErrBroken):
		return failed("node", reason.Of(s.Local), s.Local.Error(), run("puller --unpin"))
	}
	c := failed("node", reason.Of(s.Local), s.Local.Error(), do("mend that, as it says"))
	if errors.Is(s.Local, fs.ErrPermission) {
		return c.because("user")
	}
	return c.because("permissions")
}

func live(cur node.Current) string {
	if cur.Version == "" {
		return "nothing is live yet"
	}
	return cur.Version + " is live"
}

// anchor shows the fingerprint, or says how to have an anchor again.
func (e *examiner) anchor(s *puller.Survey) Check {
	if s.TrustErr == nil {
		return ok("anchor", "%s, fingerprint %s; trust version %d is in force", e.cfg.Trust, fingerprint(e.cfg.Trust), s.Trust)
	}
	return e.anchorMissing(s.TrustErr)
}

func (e *examiner) anchorMissing(err error) Check {
	if errors.Is(err, fs.ErrPermission) {
		c := failed("anchor", reason.Of(err), err.Error(), do("run `puller doctor` as root"))
		return c.because("user")
	}
	c := failed("anchor", reason.Of(err), err.Error(), do("copy the builder's keys/trust.json there, and compare its `sha256sum` with the fingerprint that the builder says"))
	if kept := e.keptAnchor(); kept != "" {
		m := run("install -m 644 %s %s", quoted(kept), quoted(e.cfg.Trust))
		c.Mend, c.Command = m.text, m.command
	}
	return c
}

// keptAnchor returns the puller's own copy of the anchor that it had, if it has one.
func (e *examiner) keptAnchor() string {
	versions, err := e.dir.TrustVersions()
	if err != nil || len(versions) == 0 {
		return ""
	}
	first := slices.Min(versions)
	doc, err := e.dir.Trust(first)
	if err != nil {
		return ""
	}
	if t, err := signing.ParseTrust(doc); err != nil || t.App != e.cfg.App {
		return ""
	}
	return e.dir.Path("trust", fmt.Sprintf("%d.json", first))
}

// news is about the channel.
func (e *examiner) news(s *puller.Survey) (checks []Check) {
	if s.TrustErr != nil {
		return []Check{skip("channel", "the anchor")}
	}
	c := e.cfg.Channels
	a := asked{name: "channel", where: "channels", url: c.Repo}
	if c.Source == "bucket" {
		a.where, a.url, a.keys = "storage", e.endpoint(), e.storageKeys()
	} else {
		for _, f := range []string{c.TokenFile, c.SSHKey} {
			if f != "" {
				a.keys = append(a.keys, f)
			}
		}
	}
	if s.Poll != nil {
		checks = append(checks, e.judge(a, s.Poll))
		if checks[0].Name != "channel" {
			checks = append(checks, skip("channel", "the "+checks[0].Name))
		}
		return checks
	}
	ch := s.Channel
	if ch == nil {
		return []Check{skip("channel", "what was accepted of it")}
	}
	return []Check{ok("channel", "%s: names %s, seq %d, rollout %d %%, signed %s", e.cfg.Tier, ch.Version, ch.Seq, ch.Rollout, ch.Issued.Format(canon.TimeLayout))}
}

func (e *examiner) endpoint() string {
	for _, h := range e.hosts() {
		return h.url
	}
	return e.cfg.Storage.URL
}

func (e *examiner) storageKeys() []string {
	if e.cfg.Storage.AccessKeyFile == "" {
		return nil
	}
	return []string{e.cfg.Storage.AccessKeyFile, e.cfg.Storage.SecretKeyFile}
}

// storage is about what the channel names.
func (e *examiner) storage(s *puller.Survey) []Check {
	switch {
	case s.TrustErr != nil:
		return []Check{skip("storage", "the anchor")}
	case s.Channel == nil:
		return []Check{skip("storage", "a channel")}
	case s.Manifest == nil:
		return []Check{ok("storage", "manifest, signatures and tarball of %s can be read", s.Channel.Version)}
	}
	if e.cfg.Channels.Source == "bucket" && s.Poll != nil {
		return []Check{skip("storage", "the channel, which is in the same place")}
	}
	c := e.judge(asked{name: "storage", where: "storage", url: e.endpoint(), keys: e.storageKeys()}, s.Manifest)
	if c.Name != "storage" {
		return []Check{c, skip("storage", "the "+c.Name)}
	}
	return []Check{c}
}

// update says what would be activated, or why not.
func (e *examiner) update(s *puller.Survey) (checks []Check) {
	if s.Local != nil {
		return []Check{skip("update", "the node's own files")}
	}
	for _, w := range s.Warnings {
		if strings.Contains(w, "by hand") {
			continue // below
		}
		checks = append(checks, warning("update", w, do("see whether that is as it should be: `puller status`")))
	}
	for _, h := range s.Hooks {
		c := failed("update", reason.Of(h), h.Error(), do("mend that program or user, or correct [[hook]] in %s", e.o.File))
		checks = append(checks, c.because("unit"))
	}
	if len(s.Hooks) > 0 {
		return checks
	}
	if c := e.held(s); c != nil {
		return append(checks, *c)
	}
	switch {
	case s.Act:
		checks = append(checks, ok("update", "%s would be activated now", s.Version))
	default:
		checks = append(checks, ok("update", "%s", s.Message))
	}
	return checks
}

// held is about a node that takes no update, whatever its preconditions.
func (e *examiner) held(s *puller.Survey) *Check {
	var c Check
	switch {
	case s.ByHand:
		c = failed("deployer", reason.Config, fmt.Sprintf("`current` was changed to %s by another than the puller: the next cycle keeps that, and follows the channel no more", s.Current.Version), run("puller --unpin"))
	case s.Pin != nil && s.Pin.Reason == "changed by hand":
		c = failed("deployer", reason.Config, fmt.Sprintf("`current` was changed to %s by another than the puller at %s: that is held, and the channel not followed", s.Pin.Release, s.Pin.Time().UTC().Format(canon.TimeLayout)), run("puller --unpin"))
	case s.Act, s.Await:
		return nil
	case s.Reason == reason.Pinned:
		c = warning("update", s.Message+": no update by the channel is taken", run("puller --unpin"))
	case s.Reason == reason.Blocked:
		c = failed("update", s.Reason, s.Message, e.mendBlocked(s))
	case s.Reason == reason.Degraded:
		c = failed("update", s.Reason, s.Message, do("look at the app first (`puller history`), then `builder promote %s --retry` on the builder, or `puller --pin VERSION` here", e.cfg.Tier))
	case s.Reason.Exit() != 0:
		c = failed("update", s.Reason, s.Message, do("mend that, as it says"))
		c = c.because("channel")
	default:
		return nil
	}
	return &c
}

func (e *examiner) mendBlocked(s *puller.Survey) mend {
	if s.Pin != nil {
		return run("puller --unpin")
	}
	return do("see what it failed with (`puller history`), then promote another version, or try it once more with `puller unblock %s`", s.Channel.Version)
}

// environment is about the app's env files.
func (e *examiner) environment(p *puller.Puller, s *puller.Survey) (checks []Check) {
	files := e.cfg.Env.Files
	if len(files) == 0 {
		return []Check{ok("environment", "env.files names none")}
	}
	wanted, err := p.Environment(s.Version)
	runs, err2 := p.Environment(s.Current.Version)
	if err := errors.Join(err, err2); err != nil {
		return []Check{failed("environment", reason.Of(err), err.Error(), do("mend that, as it says")).because("user")}
	}
	at := files[len(files)-1]
	again := ""
	if e.cfg.Service.Unit != "" {
		again = fmt.Sprintf(", then `systemctl restart %s`", e.cfg.Service.Unit)
	}
	for _, f := range wanted.General {
		c := failed("environment", reason.Env, f, do("correct it in %s%s", at, again))
		if strings.Contains(f, "may not be read") {
			c = c.because("user", "permissions")
		}
		checks = append(checks, c)
	}
	for _, f := range wanted.Release {
		checks = append(checks, failed("environment", reason.Env, f, do("correct it in %s%s; or release a version that has it", at, again)))
	}
	for _, f := range runs.Release {
		if !slices.Contains(wanted.Release, f) {
			checks = append(checks, warning("environment", f, do("correct it in %s%s", at, again)))
		}
	}
	if len(checks) == 0 {
		checks = append(checks, ok("environment", "%s: %s", strings.Join(files, ", "), fits(s)))
	}
	return checks
}

func fits(s *puller.Survey) string {
	if s.Current.Version == "" {
		return "what is required is set"
	}
	return "fits " + s.Current.Version
}

// leftovers finds what a killed puller, or an older state, left. A puller that is at work has
// some of it in use.
func (e *examiner) leftovers() (checks []Check) {
	broken, _ := fs.Glob(os.DirFS(e.dir.Path()), "*.broken")
	channels, _ := fs.Glob(os.DirFS(e.dir.Path()), "channels/*.broken")
	for _, name := range append(broken, channels...) {
		path := e.dir.Path(name)
		checks = append(checks, warning("leftovers", path+" is what could not be read before, kept for a person to look at", run("rm %s", quoted(path))))
	}
	if pin, err := e.dir.Pin(); err == nil && pin != nil && !pin.Until.IsZero() && pin.Until.Before(e.now) {
		checks = append(checks, warning("leftovers", fmt.Sprintf("a pin of %s ended at %s", pin.Release, pin.Until.Format(canon.TimeLayout)), run("puller --unpin")))
	}
	if e.dir.Busy() == "" {
		checks = append(checks, e.abandoned()...)
	}
	if len(checks) == 0 {
		checks = append(checks, ok("leftovers", "none"))
	}
	return checks
}

// abandonedAfter is how long what a cycle left unfinished may lie there: the next one goes on.
const abandonedAfter = time.Hour

// abandoned finds what the next cycle would delete, and has not for an hour.
func (e *examiner) abandoned() (checks []Check) {
	old := func(path string) bool {
		info, err := os.Lstat(path)
		return err == nil && e.now.Sub(info.ModTime()) > abandonedAfter
	}
	for _, sub := range []string{"staging", "trash"} {
		entries, err := os.ReadDir(e.dir.Path(sub))
		if err != nil {
			continue
		}
		for _, entry := range entries {
			if path := e.dir.Path(sub, entry.Name()); old(path) {
				checks = append(checks, warning("leftovers", path+" is what a cycle left unfinished", run("puller")))
				break
			}
		}
	}
	if path := e.dir.Path("hook"); old(path) {
		checks = append(checks, warning("leftovers", path+" says that a hook may still be running that a killed puller began", run("puller")))
	}
	return checks
}
