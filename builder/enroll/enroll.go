// Package enroll writes the line that makes a node of a machine:
//
//	puller bootstrap --app mnw --tier b --node alpha-west-1 --storage s3://releases --endpoint https://s3.example.org
//	  --channels https://git.example.org/ops/mnw-channels.git --trust-fingerprint sha256:… --min-seq 1780455236000
//
// all in one, with what was given behind it. A person pastes it into a shell of that machine.
//
// # Parties
//
// The builder knows where bundles and channels are, what trust is, and how far the channel
// of the tier has come. Whoever runs the line believes all of that.
//
// # What is in it
//
// No credential: neither the names of the builder's key files, which mean nothing on
// another machine, nor what stands before the @ of an https URL, which may be a token. The
// node asks for credentials of its own.
//
// Every word is quoted so that sh takes it for that word and nothing more. A word with a
// control character is refused: one line is one command.
package enroll

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
)

// Bucket as Line.Channels.URL means that the node follows the mirror in the bucket.
const Bucket = "bucket"

// Line is what a node is told.
type Line struct {
	App, Tier, Node string
	Storage         bucket.Config // the files it names are not passed on
	Channels        repo.Config   // URL may be Bucket; neither are its files
	Fingerprint     layout.Digest // of the trust that is to be the node's anchor
	MinSeq          int64         // 0: nothing was promoted yet
	Rest            []string      // comes last; what it says counts instead of what is said above
}

// Words returns the line as its words. The reason of its errors is "config".
func (l Line) Words() ([]string, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	words := []string{"puller", "bootstrap"}
	flag := func(name, value string) {
		if value != "" && !l.saysItself(name) {
			words = append(words, "--"+name, value)
		}
	}
	alone := func(name string, set bool) {
		if set && !l.saysItself(name) {
			words = append(words, "--"+name)
		}
	}
	flag("app", l.App)
	flag("tier", l.Tier)
	flag("node", l.Node)
	flag("storage", l.Storage.URL)
	flag("endpoint", l.Storage.Endpoint)
	flag("region", l.Storage.Region)
	alone("path-style", l.Storage.PathStyle)
	alone("anonymous", l.Storage.Anonymous)
	if l.Channels.URL == Bucket {
		flag("channels", Bucket)
	} else {
		flag("channels", withoutUser(l.Channels.URL))
		if l.Channels.Branch != "main" { // what it is without a word
			flag("branch", l.Channels.Branch)
		}
		flag("path", l.Channels.Path)
	}
	flag("trust-fingerprint", string(l.Fingerprint))
	if l.MinSeq > 0 {
		flag("min-seq", strconv.FormatInt(l.MinSeq, 10))
	}
	return append(words, l.Rest...), nil
}

// saysItself reports whether the words behind have a flag of this name.
func (l Line) saysItself(name string) bool {
	names, err := behind(l.Rest)
	return err == nil && slices.Contains(names, name)
}

func (l Line) check() error {
	for _, w := range l.Rest {
		if err := canon.Text(w, false); err != nil {
			return reason.Errorf(reason.Config, "%q behind --: %w: one line is one command", w, err)
		}
	}
	names, err := behind(l.Rest)
	if err != nil {
		return err
	}
	for _, name := range []string{"app", "tier", "node"} {
		if slices.Contains(names, name) {
			return reason.Errorf(reason.Config, "--%s behind -- would make another node than the one that is enrolled: leave it out there", name)
		}
	}
	return nil
}

// Notes returns what a person should know who passes the line on.
func (l Line) Notes() []string {
	var notes []string
	say := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	const copied = "the certificates in %s are those of the %s's own authority: copy them to the node, and give -- --%s FILE"
	if near, other := l.near(); len(near) > 0 {
		say("only this machine reaches %s, so the line is for a node on this machine; for one elsewhere give %s", strings.Join(near, " and "), other)
	}
	if l.Storage.CAFile != "" && !l.saysItself("storage-ca") {
		say(copied, l.Storage.CAFile, "storage", "storage-ca")
	}
	url := l.Channels.URL
	if url == Bucket || l.saysItself("channels") {
		return notes
	}
	bare := withoutUser(url)
	if bare != url {
		say("what stands before the @ in channels.repo is left out: it may be a token, and nodes have one of their own, in the file of --token-file")
	}
	if strings.HasPrefix(bare, "ssh:") && !l.saysItself("ssh-key") {
		say("the node reads channels by ssh, with a key of its own that can only read: give -- --ssh-key FILE --known-hosts FILE; or another address, with --channels URL")
	}
	if l.Channels.CAFile != "" && !l.saysItself("channels-ca") {
		say(copied, l.Channels.CAFile, "git host", "channels-ca")
	}
	return notes
}

// near returns what the line names that is of this very machine, and the flags of builder
// enroll that name something else.
func (l Line) near() (urls []string, flags string) {
	var storage, repository string
	if at := cmp.Or(l.Storage.Endpoint, l.Storage.URL); here(at) && !l.saysItself("storage") && !l.saysItself("endpoint") {
		urls, storage = append(urls, at), "--storage URL"
		if l.Storage.Endpoint != "" {
			storage = "-- --endpoint URL" // behind all others
		}
	}
	if url := withoutUser(l.Channels.URL); here(url) && !l.saysItself("channels") {
		urls, repository = append(urls, url), "--channels URL"
	}
	return urls, strings.TrimSpace(repository + " " + storage)
}

// withoutUser takes the user out of an https URL. The one of an ssh URL is needed, and is
// no secret.
func withoutUser(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil || u.Scheme == "ssh" {
		return s
	}
	u.User = nil
	return u.String()
}

// here reports whether a URL names something of this very machine.
func here(s string) bool {
	u, err := url.Parse(s)
	if err != nil || s == "" {
		return false
	}
	return u.Scheme == "file" || u.Hostname() == "localhost" || net.ParseIP(u.Hostname()).IsLoopback()
}

// Quote joins words to a line for sh.
func Quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}

// plain is what no shell does anything with, at any place behind the first word.
var plain = regexp.MustCompile(`^[A-Za-z0-9_@%+=:,./-]+$`)

func quote(w string) string {
	if plain.MatchString(w) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}
