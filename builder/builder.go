// Package builder turns a commit into a signed bundle and advances channels.
//
//	source -> build -> stage -> pack -> sign -> publish -> advance
//
// Its rooms: builder/source makes work trees, builder/stage lays out the tree of a
// bundle, builder/bundle publishes it and reads it back, builder/proc runs programs,
// builder/cli is the command line.
//
// # Parties
//
//	builder    has the release key: says that a bundle was built from a commit
//	promoter   has the channel key: says what a tier runs
//	git host   keeps the channel repo; merges proposals
//	bucket     keeps bundles
//
// A host with both keys is both parties, and that is how Init leaves it. To part them,
// give each host its own configuration with only its key in [signing]; to let the
// builder advance some tiers only, give those the role "channel:<tier>" in trust.
//
// # Files
//
// Below the state directory. Only keys matter for ever, and they are not here; the rest
// is made again when it is lost.
//
//	sando-state      says that the directory is the builder's
//	lock             held from the source to the end of a release; says who holds it
//	channels.lock    held while the channel repo is looked at or written
//	mirror.git, work/  see package source
//	channels.git     mirror of the channel repo
//	cache/           SANDO_CACHE of the build; never emptied by the builder
//	tmp/             tree and tarballs of the release under way; emptied at the next
//	seen/<tier>.json the newest channel state that this builder knows of
//
// seen/ is the counter that a node keeps too: a channel repo that shows an older state
// was rewound, and what was proposed before is not signed again.
// Who can write the state directory can change what is built, and so what is signed.
//
// # Release
//
// The version is known before anything is built. A version that is published already
// from the same commit stands and is not built again. From another commit it is built
// and compared: with the same tree for every platform it stands, with another it is
// refused (reason "mismatch") and nothing is changed. What is published is written in
// the order of package layout, manifest.json last and only if there is none, so that of
// two builders one decides what the version is, and the other compares with that.
//
// Then the tiers that fleet.toml asks for and channels.auto allows are advanced. A
// channel is written only when every object of the bundle is there, and only if it is
// still what it was when the release began: otherwise the reason is "stale", and the
// message says what moved it. Running a release that died again finishes it.
//
// The same commit, configuration and version of the builder give the same manifest and
// tarballs, if the build is reproducible; signatures differ each time. The URL of the
// source is in the manifest unless it is a path of the builder's machine.
//
// # Build
//
// The command runs in the work tree, once for each platform, with umask 022, in an
// environment that is the builder's own without SANDO_… and the variables that name a
// git repository, and with
//
//	SANDO_APP SANDO_COMMIT SANDO_VERSION
//	SANDO_OS SANDO_ARCH   of the platform
//	SANDO_CACHE           a directory that stays from release to release
//	SOURCE_DATE_EPOCH     time of the commit
//	TZ=UTC LC_ALL=C.UTF-8
//
// The version command gets the same without SANDO_VERSION, SANDO_OS and SANDO_ARCH. No
// passphrase is in it, and the command line makes its own environment unreadable for
// the build (Conceal).
//
// # Promote
//
// A tier is advanced to what the tier it follows ("from" in fleet.toml) names, or to a
// version that a person names, newer or older. It is refused (reason "policy") while
// "from" is below 100 % with that very manifest, when the version is yanked, the
// manifest revoked, or the tier not provisioned.
//
// A proposal is the same signed state on a branch bump/<tier>/<version>. Who merges it
// promotes. After a direct advance the proposals for the tier would be older than what
// it runs, so they are signed anew, but only those that nodes would have taken before:
// an old branch that somebody brings back is not.
//
// # What it does not protect from
//
// Who chooses the commit, or can write the state directory, chooses what is signed.
// A build runs as the builder's user: it reads what that user reads, sealed keys and the
// credentials of the source among it, and writes what that user writes, the state
// directory among it. When that user is root, it reads the passphrase and the open keys
// as well. And a shell that holds the passphrase in its own environment shows it, if it
// is of the same user. Run builds that you do not trust elsewhere.
// Whether a reproducible build was reproduced is for a second builder to say.
package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/builder/source"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// Options are what a builder talks to. The zero value of each has a meaning.
type Options struct {
	Log *slog.Logger // nil: nothing is logged
	// Passphrase returns the passphrase of the private key in file. It is asked again
	// for each key that no passphrase known so far opens.
	Passphrase func(ctx context.Context, file string) ([]byte, error)
	// Progress begins to show work of total bytes. Nil: nothing is shown.
	Progress func(what string, total int64) Progress
	// BuildOutput gets what the build prints. Nil: the last lines are kept for the
	// error.
	BuildOutput io.Writer
	Now         func() time.Time // nil: time.Now
}

// Progress shows how far long work has come.
type Progress = bundle.Progress

// Builder does the work of one configuration. Its methods may be called one after the
// other; other builders, in this process or elsewhere, may work at the same time.
type Builder struct {
	cfg    Config
	opt    Options
	log    *slog.Logger
	store  *bundle.Store // where bundles are published
	anchor *signing.Trust
	keys   keyring
}

// New opens the bucket and the anchor of trust. Its errors have the reason "config".
func New(ctx context.Context, cfg *Config, opt Options) (*Builder, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	if opt.Progress == nil {
		opt.Progress = func(string, int64) Progress { return noProgress{} }
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	b := &Builder{cfg: *cfg, opt: opt, log: opt.Log, keys: keyring{ask: opt.Passphrase, log: opt.Log}}
	if err := checkBucket(cfg.Storage.URL); err != nil {
		return nil, err
	}
	at, err := bucket.Open(ctx, cfg.bucket())
	if err != nil {
		return nil, err
	}
	b.store = &bundle.Store{App: cfg.App, Bucket: at, Progress: opt.Progress, Spool: cfg.State}
	if b.anchor, err = readAnchor(cfg.Signing.Trust, cfg.App); err != nil {
		return nil, err
	}
	return b, nil
}

type noProgress struct{}

func (noProgress) Add(int64) {}
func (noProgress) Done()     {}

// checkBucket refuses a directory that is not there: with a mistyped path, releases
// would go to where no node looks.
func checkBucket(storage string) error {
	u, err := url.Parse(storage)
	if err != nil || u.Scheme != "file" {
		return nil // package bucket says what is wrong with it
	}
	if _, err := os.Stat(u.Path); errors.Is(err, fs.ErrNotExist) {
		return reason.Errorf(reason.Config, "storage.url: %s does not exist: is the path right? builder init makes one, or make the directory", u.Path)
	}
	return nil
}

// state returns the path of a name in the state directory.
func (b *Builder) state(name ...string) string {
	return filepath.Join(append([]string{b.cfg.State}, name...)...)
}

// marker is a file that says that a directory is a state directory, where the builder
// may delete what it does not know.
const marker = "sando-state"

// openState makes the state directory when it is missing, and refuses one that holds
// anything else.
func (b *Builder) openState() error {
	dir := b.cfg.State
	if err := durable.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if _, err := os.Lstat(b.state(marker)); err == nil {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != marker && !strings.HasPrefix(e.Name(), "."+marker) { // another builder may be at it
			return reason.Errorf(reason.Config, "state directory %q holds %q, which is none of the builder's: set state to a directory of its own",
				dir, e.Name())
		}
	}
	const text = "Work trees, mirrors and locks of builder. All of it is made again when it is lost.\n"
	return durable.WriteFile(b.state(marker), []byte(text), 0o644)
}

// withChannels calls do with the channel repo, while no other builder with this state
// directory uses it.
func (b *Builder) withChannels(ctx context.Context, what string, do func(*repo.Repo) error) (err error) {
	if err := b.openState(); err != nil {
		return err
	}
	l, err := b.lock(ctx, "channels.lock", what)
	if err != nil {
		return err
	}
	defer func() {
		if uerr := l.release(); err == nil {
			err = uerr
		}
	}()
	if err := removeTemps(b.state("seen")); err != nil {
		return err
	}
	r, err := repo.Open(b.state("channels.git"), b.cfg.repo())
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	return do(r)
}

// sweep removes what killed releases left. The caller holds the lock.
func (b *Builder) sweep() error {
	if err := source.Sweep(b.cfg.State); err != nil {
		return err
	}
	return os.RemoveAll(b.state("tmp"))
}

// removeTemps removes the temporary files that package durable left in dir.
func removeTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if durable.IsTemp(e.Name()) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// missing reports whether err says that there is no such file or object.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// readFile is os.ReadFile with a cap.
func readFile(name string, max int64) (data []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	data, err = io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = fmt.Errorf("%s: more than %d bytes", name, max)
	}
	return data, err
}
