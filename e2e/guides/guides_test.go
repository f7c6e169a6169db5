// Package guides does what the guides in docs say, word by word: their commands are run out
// of their own text.
//
// A machine is a booted host with a network of its own. It has what a reader has: systemd,
// Go, git, make and a clone of this repository; the servers that a guide names answer under
// these names. What a guide presupposes, such as an install that is to be migrated, or a disk
// that is full, is made before the section that speaks of it.
//
//   - Every block of a guide is used; one that cannot be is an error. Blocks of sh are pasted
//     one after the other into a terminal, which is kept open for each machine and user.
//   - The paragraph before a block ends in a colon and says on which machine, and as whom:
//     "On `web-1`, as root:". What it leaves out is as before.
//   - A command must exit with 0, or with what a comment behind it says: "# exit 3".
//   - A comment "# prints TEXT" says what a command prints, and a block of text what the
//     other commands of the block before it print. Times, sizes and digests may differ, and an
//     ellipsis stands for anything.
//
// SANDO_GUIDES=1 go test -v ./e2e/guides, as root, shows all that is pasted and printed.
package guides

import (
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv/host"
)

func TestAsRootQuickstart(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	sections := readDocument(t, "quickstart.md")
	web1 := s.boot("web-1")
	s.clone(web1, "/root/sando")
	s.before["Part 2: three servers"] = func() {
		policy := data(t, sections, "Part 2: three servers: Bucket and git host", "json")
		v := s.serve(policy, strings.Replace(policy, `, "s3:PutObject"`, "", 1), "hello-channels.git")
		v.reach(web1)
		others := map[string]*host.Host{"staging": s.boot("staging"), "web-2": s.boot("web-2")}
		for _, h := range others {
			v.reach(h)
		}
		s.logsIn(web1, others)
	}
	s.follow("quickstart.md", sections)
}
