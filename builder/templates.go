package builder

import (
	"fmt"
	"strings"

	"makenot.work/sando/channels"
)

// attributes keeps git from changing signed bytes, on checkout as well as by merging.
const attributes = `# Signed bytes: git must neither convert nor merge them.
channels/** -text -merge
trust/** -text -merge
`

// fleetText returns the first fleet.toml.
func (req *InitRequest) fleetText() string {
	var t strings.Builder
	fmt.Fprintf(&t, `# The fleet of %s: its tiers, in the order in which a version passes through them.
# This file is not signed, so it can only ask. Commit and push to change it.
app = %q
yanked = []               # versions not to be promoted any more, such as "0.9.3"
`, req.App, req.App)
	for i, name := range req.Tiers {
		fmt.Fprintf(&t, "\n[[tier]]\nname = %q\n", name)
		switch i {
		case 0:
			fmt.Fprintf(&t, "advance = %q          # asked for; counts if builder.toml [channels] auto names it too\n", channels.AdvanceAuto)
		case 1:
			fmt.Fprintf(&t, "# from = %-16q # the tier it follows; the one above when not given\n", req.Tiers[0])
			t.WriteString("# propose = true          # promoting opens a branch to merge instead of pushing\n")
			t.WriteString("# provisioned = false     # has no nodes yet\n")
		}
	}
	return t.String()
}

// configText returns the first builder.toml.
func (req *InitRequest) configText() string {
	repo := `# repo = "https://git.example/` + req.App + `.git"   # https, ssh, user@host:path, or file:///dir`
	if req.Source != "" {
		repo = fmt.Sprintf("repo = %q", req.Source)
	}
	return fmt.Sprintf(configTemplate, req.App, repo, req.App, initBranch, req.Tiers[0])
}

const configTemplate = `# Configuration of builder. Paths are relative to the directory of this file. Each key
# can be overridden by the environment: SANDO__SOURCE__BRANCH is source.branch.

app = %q
state = "state"                # work trees, mirrors, locks; made again when lost
forbidden_strings = []         # no bundle may hold one: old install paths, host names, …

[source]
%s
branch = "main"                # what "builder release" takes without --rev
keep_work = 3                  # work trees kept, one per commit

[build]
# The command runs in the work tree, once per platform, with SANDO_OS, SANDO_ARCH,
# SANDO_CACHE (a directory that stays), SANDO_COMMIT, SANDO_VERSION, SOURCE_DATE_EPOCH.
command = []                   # ["cargo", "build", "--release"]; empty: nothing to build
version = []                   # ["./version.sh"] prints the version; empty: --version is needed
bin_dir = ""                   # "target/release"
bin_names = []                 # files in bin_dir that go to the root of the bundle, 0755
# timeout = "30m"

# What goes into the bundle besides, any number of times. src is in the work tree, dst in
# the bundle; a directory's content goes into the directory dst.
# [[release_contents]]
# src = "static"
# dst = "static"
# required = true              # false: a commit without it can still be released

# Platforms to build for, in Go's words; none: this machine's.
# [[platform]]
# os = "linux"
# arch = "amd64"

[storage]
url = "./bucket"               # where bundles are published: a directory, or "s3://bucket"
# With s3; the credentials need s3:GetObject and s3:PutObject on bucket/%s/*.
# endpoint = "https://s3.example.org"     # none: Amazon's
# region = ""                  # none: us-east-1
# access_key_file = "s3.access"           # files with one line, chmod 600
# secret_key_file = "s3.secret"
# ca_file = ""                 # where the server's certificate is of your own authority

[channels]
repo = "./channels.git"        # the git repository that nodes follow; push this one to its host,
                               # then "ssh://git@host/path" or "https://host/path"
# ssh_key = "ssh"              # with ssh: a private key that may push, without passphrase,
# known_hosts = "known_hosts"  # and what ssh-keyscan prints of the host
# token_file = "git.token"     # with https: file with one line, chmod 600
branch = %q
path = ""                      # directory in it, so that one repository serves several apps
auto = [%q]                # tiers that a release may advance by itself
expires = ""                   # how long a channel state is good for, such as "336h"; empty: for ever
# mirror = true                # copy what is advanced to the bucket, for nodes that follow it there

[signing]
# Whoever has the release key says what was built, whoever has the channel key says what
# runs. A host with both is both parties: to part them, take one key away from here.
release_key = "keys/release.key"
channel_key = "keys/channel.key"
trust = "keys/trust.json"      # the anchor, the same file as on every node
`
