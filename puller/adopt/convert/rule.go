package convert

import (
	"fmt"
	"io/fs"
	"slices"
)

// App is who runs the app.
type App struct {
	UID  int
	GIDs []int // the first one is its own group
}

// in reports whether the app is in a group.
func (a App) in(gid int) bool { return slices.Contains(a.GIDs, gid) }

// Node is what the rule knows of a file or directory.
type Node struct {
	Mode fs.FileMode // permissions, setuid, setgid, sticky, and whether it is a directory
	UID  int
	GID  int
}

// String is as ls would say it.
func (n Node) String() string {
	special := fs.FileMode(0)
	for bit, octal := range map[fs.FileMode]fs.FileMode{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if n.Mode&bit != 0 {
			special |= octal
		}
	}
	return fmt.Sprintf("%d:%d %04o", n.UID, n.GID, n.Mode.Perm()|special)
}

// may returns what somebody with this uid and these groups may do: bits of rwx.
func (n Node) may(uid int, gids []int) fs.FileMode {
	perm := n.Mode.Perm()
	switch {
	case uid == n.UID:
		return perm >> 6
	case slices.Contains(gids, n.GID):
		return perm >> 3 & 7
	}
	return perm & 7
}

// rule says what becomes of n: root's, writable by nobody else, without setuid, setgid and
// sticky bits, and as readable for the app as it was. conflict says whose right to read it would cost.
//
// What only its owner could read, if that is the app, gets the app's group, and its group may
// read. That is refused where another group may read it and the others may not: one of the two
// would lose.
func rule(n Node, app App) (now Node, conflict string) {
	now = Node{Mode: n.Mode.Type() | n.Mode.Perm()&^0o022, UID: 0, GID: n.GID}
	if app.UID == 0 {
		return now, ""
	}
	want := n.may(app.UID, app.GIDs) &^ 2 // to read, and to run
	if now.may(app.UID, app.GIDs)&want == want {
		return now, ""
	}
	if app.in(n.GID) {
		now.Mode |= want << 3
		return now, ""
	}
	// The app was its owner, and is not in its group.
	if others := n.Mode.Perm() & 7 &^ 2; n.Mode.Perm()>>3&7&^2&^others != 0 {
		return n, "its group may read it, and so may the app as its owner; it can have one group only"
	}
	now.GID = app.GIDs[0]
	now.Mode |= want << 3
	return now, ""
}
