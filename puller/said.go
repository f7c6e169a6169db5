package puller

import (
	"fmt"

	"makenot.work/sando/layout/node"
)

// What history and results say of an activation.

// by says on whose order an intent was, and what it ended.
func (c *cycle) by(i *node.Intent) string {
	text := fmt.Sprintf("by channel %q", c.cfg.Tier)
	switch {
	case i.Pin && c.order != nil && c.order.At == i.Attempt && c.order.Reason != "":
		text = "by pin: " + c.order.Reason
	case i.Pin:
		text = "by pin"
	case i.Attempt == 0:
		text = "by recovery"
	}
	if ended := endedBy(i); ended != "" {
		text += "; " + ended
	}
	return text
}

// endedBy says whose probation an intent ended, "" if none's.
func endedBy(i *node.Intent) string {
	switch {
	case i.Over == nil || i.Via == i.To:
		return ""
	case i.Over.Phase == node.RollingBack:
		return fmt.Sprintf("the way back from %s was ended by it", i.Over.To)
	}
	return fmt.Sprintf("the probation of %s was ended by it", i.Over.To)
}

// ranBefore returns what was live before an intent: during a probation that is not what to
// go back to.
func ranBefore(i *node.Intent) string {
	switch {
	case i.Over != nil && i.Via != i.To:
		return i.Via
	case i.Over == nil && i.Via == i.To:
		return "" // it was live before, and was only started again
	case i.Via != "" && i.Via != i.To:
		return i.Via // what is gone back to is another one after a force
	case i.From != i.To:
		return i.From
	}
	return ""
}

// before says what an intent replaced, for a sentence about what runs.
func before(i *node.Intent) string {
	v := ranBefore(i)
	switch {
	case v == "":
		return ""
	case v == i.From || endedBy(i) == "":
		return ", before that " + v
	case i.From == i.To:
		return fmt.Sprintf(" again: the probation of %s was ended", v)
	}
	return fmt.Sprintf(", before that %s, whose probation was ended", v)
}

// stillHeld says, of what failed by a pin, that the pin holds this node all the same.
func (c *cycle) stillHeld(byPin bool) string {
	if !byPin || c.pin == nil {
		return ""
	}
	return "; the pin stays, `puller --unpin` follows the channel"
}
