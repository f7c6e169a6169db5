package cli

import (
	"fmt"
	"io"
	"time"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/puller"
)

// narrator says on a terminal what a cycle waits for: who gave an order at night wants to
// see that it is carried out.
type narrator struct {
	w    io.Writer
	now  func() time.Time
	part puller.Part
	next time.Time // when to say more about part
}

const (
	patience = time.Second      // what is over sooner is not spoken of
	again    = 10 * time.Second // from one line about the same part to the next
)

func (n *narrator) tell(part puller.Part, words func() string) {
	now := n.now()
	if part != n.part {
		n.part, n.next = part, now.Add(patience)
	}
	if now.Before(n.next) {
		return
	}
	n.next = now.Add(again)
	fmt.Fprintf(n.w, "puller: %s\n", cli.Printable(words()))
}

// teller returns what tells a person at a terminal what takes its time; nil if nobody looks.
func (p *program) teller() puller.Tell {
	if p.json || p.v || !cli.IsTerminal(p.std.Err) {
		return nil
	}
	return (&narrator{w: p.std.Err, now: time.Now}).tell
}
