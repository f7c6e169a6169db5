// Package repo reads and writes the channel repo: the git repository in which a merged
// commit promotes. It moves bytes; what they mean, and whether they are to be believed,
// package channels and package signing decide.
//
// # Parties
//
// Pullers read one branch, "main". Builders and people write it: builders push a signed
// channel state as a commit, or propose one on a branch of its own that a person merges;
// people edit fleet.toml with any git program. The git host holds it all and is trusted
// with nothing: it can withhold news, and show an older state, a rewritten history or
// garbage. A rewritten history is reported in Snapshot.Rewritten, never refused, because
// the counter in the signed channel decides. Ancestry is always looked up; no answer of a
// fetch is taken for it.
//
// # The repo
//
// Below a directory Config.Path, so that one repo can serve several apps:
//
//	channels/<tier>.json  channels/<tier>.json.<kid16>.sigstore.json
//	trust/<N>.json        trust/<N>.json.<kid16>.sigstore.json
//	fleet.toml            .gitattributes
//
// Files are read by path from a commit; there is no work tree, so nothing of git's
// checkout (filters, line ends, hooks, submodules) touches them. Only regular files in
// directories are read. A commit is written as objects: the named files change and every
// other byte, mode and entry of the tree stays.
//
// # The mirror
//
// Each user of the repo has a bare mirror in a directory of its own, made with the mode
// 0700 and used by one process at a time; the callers hold a lock. It has the newest commits, each with its
// whole tree and without its past:
//
//	sando-mirror     says that this is one, so that Sando may empty the directory; not
//	                 asked for under Config.OwnsMirror
//	HEAD, config     always the same bytes
//	objects/         loose objects; a commit is written after all that it needs
//	refs/sando/head  the newest commit fetched
//	shallow          the same, for git programs: its parents are not here
//
// Whatever is found broken in it (by the hash of each object, too) is answered by
// throwing the mirror away and fetching again, once; also when news come and it has become
// crowded: more than 6912 objects or 256 MiB.
// Who can write the mirror can make a puller believe what the git host could; a builder,
// whose git program obeys the mirror's configuration, runs programs for him.
//
// # Transports
//
// file:///dir, read in process and written by the git program; https:// and ssh://, read and
// written in process: see channels/repo/remote. A push that lost against another writer is
// made again on the newer head, and so is a fetch of a branch that moved meanwhile. The objects
// and trees of git are channels/repo/objects, packs are channels/repo/pack. A Repo keeps a
// connection, which Close ends.
//
// # Example
//
//	r, err := repo.Open(mirror, repo.Config{URL: "file:///srv/channels.git", Branch: "main"})
//	s, err := r.Fetch(ctx, last)
//	signed, err := s.Signed("channels/b.json", trust.Kids(trust.ChannelRole("b")), layout.MaxChannel)
//	channel, news, err := channels.Accept(trust, "mnw", "b", signed, accepted)
//
// It does not protect from a git host that withholds news, nor does it authenticate
// anything: fleet.toml in particular is not signed.
package repo
