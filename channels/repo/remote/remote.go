// Package remote is where the channel repo really is: a git repository that is read and
// written over one of git's transports. It has one interface and an implementation for
// each kind of URL.
//
// # file:///dir
//
// A bare repository, or one with a work tree, on this machine. It is read in process, object
// by object, also while git programs write to it; a puller needs no git program. One fetch
// brings at most 32 MiB and 20 000 objects that are new, none bigger than 8 MiB, unpacked, and
// directories not bigger than 1 MiB. Of the history the newest 100 000 commits or 64 MiB are
// looked at.
// Repositories with sha256 names or reftables are refused. Its files must be regular ones, and
// links in it lead nowhere outside of it. Nothing in the repository is run, and
// of its configuration only the format is looked at.
//
// Writing to it is left to the git program (`git push`), so its hooks and its configuration
// count. The program sees none of the caller's GIT_ variables and git configuration, so
// `safe.directory` does not help either: the repository must belong to the user that pushes.
// A stale lock file of a git program that was killed is left to a person, as git wants it.
//
// # https://[user@]host/path, ssh://user@host/path
//
// A repository on another machine, read and written in process, by git's protocol in its
// version 0; package transport knows how to get there and who is there.
//
//	what                            a conversation
//	Branch, Branches                the advertisement: what every reference names
//	Fetch, the mirror is empty      want COMMIT, deepen 1, done
//	Fetch                           want COMMIT, have HEAD, done
//	Contains                        want COMMIT, have OLD, [filter tree:0], done
//	Push                            OLD NEW refs/heads/BRANCH, and a pack of what is new
//
// Over https the advertisement is a GET and the rest a POST; over ssh both are one run of
// git-upload-pack or git-receive-pack. So a poll with nothing new is one request.
//
// HEAD is the newest commit of the mirror, which has it without its past. Saying "have" means
// to have the past as well, so a host may leave out a file that an old commit had. Then, and
// when the host does not know HEAD or would send too much, Fetch falls back to its first
// form. Whether the history goes on from HEAD is seen from the commits that came.
//
// Contains follows commits by their hashes, from COMMIT to OLD. A host that does not know OLD
// has no history with it; one that sends more than 32 MiB is not listened to further. Both
// count as no.
//
// One conversation takes at most a minute for a look at the branches, 5 minutes for all else;
// 30 s without a byte end it. It brings at most 16 MiB of references, of which few are kept,
// and 32 MiB of a pack (see package pack). What a push replaces is sent along, so that of two
// writers the later one is refused; unless forced, it must be a parent of the new commit.
//
// Every other scheme is refused, as are git's other ways to name a repository: "host:path", a
// plain path, ext::. http is for loopback addresses.
package remote

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/transport"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Remote is a repository somewhere else.
type Remote interface {
	// Branch returns what a branch names; the reason is "stale" when there is no such
	// branch, "io" when the repository cannot be reached.
	Branch(ctx context.Context, name string) (plumbing.Hash, error)

	// Branches returns all branches with names that begin with prefix.
	Branches(ctx context.Context, prefix string) (map[string]plumbing.Hash, error)

	// Fetch brings the commit and its tree, each object after those it names. The reason
	// is "format" when the name is not that of a commit, "limit" when it is too big.
	Fetch(ctx context.Context, into Into, commit plumbing.Hash) error

	// Contains reports whether old is commit or an ancestor of it.
	Contains(ctx context.Context, into Into, old, commit plumbing.Hash) (bool, error)

	// Push updates a branch to a commit of the repository gitDir, or deletes it (zero).
	// Unless forced, the update is refused when the branch would lose a commit. The error
	// is a *PushError when the remote had its say, or should have had.
	Push(ctx context.Context, gitDir string, commit plumbing.Hash, branch string, force bool) error

	// Close ends idle connections.
	Close() error
}

// ErrMoved is matched by errors about a commit that was named a moment ago and is not any
// more: look at the branch again.
var ErrMoved = errors.New("the repository moved meanwhile")

// noBranch is what helps against a branch that is missing.
const noBranch = "set channels.branch, or push to it what builder init made in channels.git"

// Into is what a fetch fills. Its errors end the fetch, and are returned.
type Into interface {
	Head() plumbing.Hash // a commit that is there, with its tree; zero: none
	Has(h plumbing.Hash) (bool, error)
	Write(t plumbing.ObjectType, data []byte) error
}

// Verdict is what is known after a push that failed.
type Verdict int

const (
	Unclear Verdict = iota // the remote did not say: it may have happened
	Refused                // the remote said no, and will again
	Busy                   // another writer was there first, or is at it
)

// PushError is a push that failed, in the words of the remote.
type PushError struct {
	Verdict Verdict
	Text    string
}

func (e *PushError) Error() string { return e.Text }

// Config says where the repository is, and by what host and this side are known.
type Config = transport.Config

// Check judges a configuration as far as that is possible without the network. Errors have
// the reason "config".
func Check(c Config) error {
	u, err := parse(c.URL)
	if err != nil {
		return err
	}
	if u.Scheme != "file" {
		return transport.Check(c)
	}
	if c != (Config{URL: c.URL}) {
		return reason.Errorf(reason.Config, "repo URL %q is a directory: token_file, ca_file, ssh_key and known_hosts are for other machines", layout.Place(u))
	}
	_, err = dirOf(u)
	return err
}

// Open returns the repository that a configuration names. It does not look whether it is
// there. Errors have the reason "config".
func Open(c Config) (Remote, error) {
	if err := Check(c); err != nil {
		return nil, err
	}
	u, err := parse(c.URL)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "file" {
		return openFile(u)
	}
	return openNetwork(c, transport.Default(), defaultBounds())
}

// Dir returns the directory that a file URL names. Errors have the reason "config".
func Dir(repoURL string) (string, error) {
	u, err := parse(repoURL)
	if err != nil {
		return "", err
	}
	if u.Scheme != "file" {
		return "", reason.Errorf(reason.Config, "repo URL %q is not that of a directory; write file:///dir", layout.Place(u))
	}
	return dirOf(u)
}

// parse refuses the schemes that no version reads.
func parse(repoURL string) (*url.URL, error) {
	const ways = "a channel repo is written https://host/path, ssh://user@host/path or file:///dir"
	u, err := url.Parse(repoURL)
	if err != nil {
		// The text of a url.Error holds the URL, and that may hold a password.
		return nil, reason.Errorf(reason.Config, "repo URL is malformed; %s", ways)
	}
	switch u.Scheme {
	case "file", "https", "ssh", "http":
		return u, nil
	default:
		return nil, reason.Errorf(reason.Config, "repo URL %q: scheme %q is refused; %s", layout.Place(u), u.Scheme, ways)
	}
}

// Pause waits a random time that grows with the number of tries so far, so that those
// who got in each other's way part.
func Pause(ctx context.Context, try int) error {
	if try == 0 {
		return nil
	}
	longest := min(20*time.Millisecond<<try, 500*time.Millisecond)
	t := time.NewTimer(rand.N(longest))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
