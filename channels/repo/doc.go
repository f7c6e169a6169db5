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
// Each user of the repo has a bare mirror in a directory of its own, mode 0700, used by
// one process at a time; the callers hold a lock. It has the newest commits, each with its
// whole tree and without its past:
//
//	sando-mirror     says that this is one, so that Sando may empty the directory
//	HEAD, config     always the same bytes
//	objects/         loose objects; a commit is written after all that it needs
//	refs/sando/head  the newest commit fetched
//	shallow          the same, for git programs: its parents are not here
//
// Whatever is found broken in it (by the hash of each object, too) is answered by
// throwing the mirror away and fetching again, once; also when it has become crowded.
// Who can write the mirror can at most do what the git host can.
//
// # Transports
//
// file:///dir is a bare repository, or one with a work tree, on this machine. It is read in
// process, object by object, also while git programs write to it; a puller needs no git
// program. One fetch brings at most 32 MiB and 20 000 new objects, none bigger than 8 MiB,
// unpacked. Repositories with sha256 names or reftables are refused. Nothing in it is run and
// of its configuration only the format is looked at.
//
// Writing to it is left to the git program (`git push`), so its hooks and its configuration
// count. The program sees none of the caller's GIT_ variables and git configuration, so
// `safe.directory` does not help either: the repository must belong to the builder's user.
// A push that lost against another writer is tried again on the newer head.
//
// https and ssh are not in this version. Every other scheme is refused, as are git's other
// ways to name a repository: "host:path", a plain path, ext::.
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
