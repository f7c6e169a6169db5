package convert

import (
	"io/fs"
	"testing"
)

const (
	appUID, deploy, www = 500, 600, 33
	appGID, shared      = 500, 700
)

func testApp() App { return App{UID: appUID, GIDs: []int{appGID, shared}} }

func TestRule(t *testing.T) {
	const dir = fs.ModeDir
	for _, c := range []struct {
		name     string
		uid, gid int
		mode     fs.FileMode
		wantGID  int
		want     fs.FileMode
	}{
		{"as it should be", 0, 0, 0o644, 0, 0o644},
		{"group-writable", deploy, deploy, 0o664, deploy, 0o644},
		{"writable by all", deploy, deploy, 0o666, deploy, 0o644},
		{"program", deploy, deploy, 0o775, deploy, 0o755},
		{"directory", deploy, deploy, dir | 0o775, deploy, dir | 0o755},
		{"directory with setgid", deploy, shared, dir | fs.ModeSetgid | 0o775, shared, dir | 0o755},
		{"sticky directory", deploy, deploy, dir | fs.ModeSticky | 0o777, deploy, dir | 0o755},
		{"setuid program", deploy, deploy, fs.ModeSetuid | 0o755, deploy, 0o755},
		{"by its group", deploy, appGID, 0o640, appGID, 0o640},
		{"by a group of the app", deploy, shared, 0o660, shared, 0o640},
		{"its own secret", appUID, appGID, 0o600, appGID, 0o640},
		{"its own secret in another group", appUID, deploy, 0o600, appGID, 0o640},
		{"its own program", appUID, deploy, 0o700, appGID, 0o750},
		{"its own, and all may read it", appUID, deploy, 0o644, deploy, 0o644},
		{"its own, its group may do less than others", appUID, shared, 0o604, shared, 0o644},
		{"its own directory", appUID, deploy, dir | 0o700, appGID, dir | 0o750},
		{"its own, only written to", appUID, deploy, 0o200, deploy, 0o200},
		{"somebody else's secret", deploy, deploy, 0o600, deploy, 0o600},
		{"read by another group only", deploy, www, 0o640, www, 0o640},
		{"the web server's as well, and all's", appUID, www, 0o644, www, 0o644},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := Node{c.mode, c.uid, c.gid}
			got, conflict := rule(before, testApp())
			if want := (Node{c.want, 0, c.wantGID}); got != want || conflict != "" {
				t.Errorf("%s became %s, %q, want %s", before, got, conflict, want)
			}
		})
	}
	for _, mode := range []fs.FileMode{0o640, 0o660, 0o750} {
		if n, conflict := rule(Node{mode, appUID, www}, testApp()); conflict == "" {
			t.Errorf("%04o of the app's in another group became %s", mode, n)
		}
	}
	if n, conflict := rule(Node{0o600, 0, 0}, App{UID: 0, GIDs: []int{0}}); n != (Node{0o600, 0, 0}) || conflict != "" {
		t.Errorf("an app that is root: %s, %q", n, conflict)
	}
}

// Over all modes, and all there is of owners and groups: what is promised holds, nobody gets more
// than to read what the app can, and a second time nothing changes.
func TestRuleAlways(t *testing.T) {
	app := testApp()
	for _, uid := range []int{0, appUID, deploy} {
		for _, gid := range []int{0, appGID, shared, deploy, www} {
			for perm := range fs.FileMode(0o1000) {
				before := Node{perm, uid, gid}
				now, conflict := rule(before, app)
				if conflict != "" {
					if uid != appUID || app.in(gid) {
						t.Fatalf("%s: %s", before, conflict)
					}
					continue
				}
				if now.UID != 0 || now.Mode&0o022 != 0 {
					t.Fatalf("%s became %s", before, now)
				}
				could, can := before.may(app.UID, app.GIDs)&^2, now.may(app.UID, app.GIDs)
				if can&could != could {
					t.Fatalf("%s became %s: the app may do %o, and could %o", before, now, can, could)
				}
				for _, other := range []struct {
					uid  int
					gids []int
				}{{deploy, []int{deploy}}, {www, []int{www}}, {999, []int{999}}} {
					could, can := before.may(other.uid, other.gids)&^2, now.may(other.uid, other.gids)
					if other.uid != before.UID && can&could != could && gid == now.GID {
						t.Fatalf("%s became %s: somebody else may do %o, and could %o", before, now, can, could)
					}
					// Who leaves the group of a file may do what everybody may.
					left := gid != now.GID && other.gids[0] == gid
					if other.uid != before.UID && !left && can&^could != 0 {
						t.Fatalf("%s became %s: somebody else may do %o, and could %o only", before, now, can, could)
					}
				}
				if again, _ := rule(now, app); again != now {
					t.Fatalf("%s became %s, and then %s", before, now, again)
				}
			}
		}
	}
}
