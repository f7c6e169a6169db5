//go:build faults

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A bootstrap that is killed before a change of the disk leaves nothing that keeps the next
// one from the same end. Those of the update itself are in TestEveryPersistStep.
func TestAsRootBootstrapSteps(t *testing.T) {
	t.Parallel() // most of it is waiting
	b := newBare(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b.Copy(t, self, "/srv/puller") // with faults in it
	b.release(t, "1.1.0", "")
	b.Run(t, "env", append([]string{"SANDO_FAULT_LOG=/run/ops"}, b.line("/srv/puller")...)...)
	b.live(t, "1.1.0")
	want := b.tree(t, false)
	var steps []string // by number from 1
	for line := range strings.Lines(b.Read(t, "/run/ops")) {
		if f := strings.Fields(line); strings.HasPrefix(f[2], "/opt/mnw/") {
			break
		}
		steps = append(steps, strings.TrimSpace(line))
	}
	if len(steps) < 40 {
		t.Fatalf("only %d operations: %q", len(steps), steps)
	}
	each := len(steps)/3 - 1
	if os.Getenv("SANDO_SOAK") != "" {
		each = 1
	}
	t.Logf("%d changes of the disk, killed before every %dth", len(steps), each)
	for n := each; n <= len(steps); n += each {
		b.reset(t)
		r := b.Try(t, "sh", append([]string{"-c", `env "$@"; true`, "sh", fmt.Sprintf("SANDO_FAULT=kill:%d", n)}, b.line("/srv/puller")...)...)
		b.again(t, "killed before "+steps[n-1], r.Out+r.Err, want)
	}
}
