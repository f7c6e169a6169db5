// Package story tells the whole story on real parts, as a test.
//
// One builder pushes over ssh to a repository that two hosts with a real systemd follow:
// one over https, the other by the mirror in a bucket of MinIO. Each host runs two apps
// side by side. One begins with the timer and goes on with the daemon, the other begins
// with the daemon.
//
//	story_test.go   what happens
//	stage_test.go   the servers, and the machine of the builder
//	node_test.go    the hosts
package story

import (
	"testing"

	"makenot.work/sando/internal/testenv"
)

func TestAsRootStory(t *testing.T) {
	testenv.Root(t, "hosts with a real systemd")
	s := newStage(t)
	mnw, web := s.newApp("mnw"), s.newApp("web")
	nodes := []*machine{s.newMachine("git", timer), s.newMachine("bucket", daemon)}

	// A release advances the tier host by itself; tier a is promoted.
	mnw.release("1.0.0")
	mnw.promote()
	for _, m := range nodes {
		m.install(mnw)
		m.answers(mnw, "1.0.0")
	}

	// Another app comes beside it.
	web.release("1.0.0")
	web.promote()
	for _, m := range nodes {
		same := m.remember(mnw)
		m.install(web)
		m.answers(web, "1.0.0")
		same()
	}

	// Merging a bump promotes. The other app is not touched.
	mnw.release("2.0.0")
	same := remember(nodes, web)
	mnw.merge("2.0.0")
	for _, m := range nodes {
		m.answers(mnw, "2.0.0")
	}
	same()

	// After a reboot everything is as it was. Then the other way of running goes on.
	for _, m := range nodes {
		m.host.Reboot(t)
		m.answers(mnw, "2.0.0")
		m.answers(web, "1.0.0")
		m.change(mnw, web)
	}

	// A pin holds whatever the channel says.
	for _, m := range nodes {
		m.puller(mnw, "--pin", "1.0.0", "--reason", why)
		m.answers(mnw, "1.0.0")
	}
	mnw.release("3.0.0")
	mnw.promote()
	for _, m := range nodes {
		m.knows(mnw, "3.0.0")
		m.answers(mnw, "1.0.0")
		m.puller(mnw, "--unpin")
		m.answers(mnw, "3.0.0")
	}

	// Now the other one moves.
	web.release("2.0.0")
	same = remember(nodes, mnw)
	web.promote()
	for _, m := range nodes {
		m.answers(web, "2.0.0")
	}
	same()
	for _, m := range nodes {
		m.ends(mnw, "3.0.0")
		m.ends(web, "2.0.0")
	}
	s.secretless(nodes)
}
