package puller

import (
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
)

// three is a node that runs 2.0, ran 1.0 before, has 3.0 on disk, and follows a channel
// that names 2.0.
func three(t *testing.T) *world {
	w := two(t)
	w.publish("3.0", "")
	w.pin("3.0", reason.Updated)
	must(t, w.puller.dir.RemovePin())
	w.step(reason.Updated) // back to 1.0
	w.advance("2.0", nil)
	w.step(reason.Updated)
	w.runs("2.0")
	return w
}

func (w *world) edit(change func(*node.State)) {
	w.t.Helper()
	st, err := w.puller.dir.State()
	must(w.t, err)
	change(st)
	must(w.t, w.puller.dir.SaveState(st))
}

func (w *world) link(version string) {
	w.t.Helper()
	os.Remove(w.app.current)
	must(w.t, os.Symlink("releases/"+version, w.app.current))
}

func (w *world) damage(version string) {
	w.t.Helper()
	must(w.t, os.WriteFile(w.puller.dir.ReleasePath(version)+"/app", []byte("damaged"), 0o644))
}

func switching(from, to string) *node.Intent {
	return &node.Intent{Phase: node.Switching, From: from, Via: from, To: to, Attempt: 1, Started: canon.Now()}
}

// goingBack opens the intent of a 3.0 that the channel names and that failed.
func (w *world) goingBack(s *node.State) {
	w.advance("3.0", nil)
	s.Intent = switching("2.0", "3.0")
	s.Intent.Phase, s.Intent.Manifest, s.Intent.Cause = node.RollingBack, w.digests["3.0"], "status is 500"
	s.Blocked = append(s.Blocked, node.Block{Version: "3.0", Manifest: w.digests["3.0"], Attempt: 1, At: canon.Now(), Cause: "status is 500"})
}

// row is a row of the recovery table: what is found, and what the next cycle makes of it.
type row struct {
	found    func(w *world)
	want     reason.Code
	runs     string
	restarts int
	also     func(t *testing.T, w *world, r Result)
}

// openIntents are the rows about an activation without a result.
func openIntents() map[string]row {
	return map[string]row{
		"before the swap": {func(w *world) {
			w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
		}, reason.Current, "2.0", 0, nil},
		"after the swap": {func(w *world) {
			w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
			w.link("3.0")
			w.advance("3.0", nil)
		}, reason.Updated, "3.0", 1, nil},
		"after the swap, unhealthy": {func(w *world) {
			w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
			w.link("3.0")
			w.app.set("3.0", "500")
		}, reason.Unhealthy, "2.0", 2, nil},
		"after the swap, its tree does not hold": {func(w *world) {
			w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
			w.link("3.0")
			w.damage("3.0")
		}, reason.Unhealthy, "2.0", 1, func(t *testing.T, w *world, r Result) {
			if !strings.Contains(r.Message, `release "3.0" is damaged`) {
				t.Errorf("got %s", r.Message)
			}
		}},
		"after the swap, the third try is over": {func(w *world) {
			w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0"); s.Intent.Tries = 3 })
			w.link("3.0")
		}, reason.Unhealthy, "2.0", 1, func(t *testing.T, w *world, r Result) {
			if !strings.Contains(r.Message, "interrupted 3 times") {
				t.Errorf("got %s", r.Message)
			}
		}},
		"going back, before the swap": {func(w *world) {
			w.edit(func(s *node.State) { w.goingBack(s) })
			w.link("3.0")
		}, reason.Unhealthy, "2.0", 1, nil},
		"going back, after the swap": {func(w *world) {
			w.edit(func(s *node.State) { w.goingBack(s) })
		}, reason.Unhealthy, "2.0", 1, nil},
		"going back, the third try is over": {func(w *world) {
			w.edit(func(s *node.State) {
				w.goingBack(s)
				s.Intent.Tries = 3
			})
			w.link("3.0")
			w.app.version = "3.0"
		}, reason.Degraded, "3.0", 0, nil},
		"going back, the tree of from does not hold": {func(w *world) {
			w.edit(func(s *node.State) {
				w.goingBack(s)
				s.LastGood, s.Previous = s.Running, &node.Release{Version: "1.0", Since: canon.Now()}
			})
			w.link("3.0")
			w.damage("2.0")
		}, reason.Unhealthy, "1.0", 1, nil},
		"going back, nothing holds": {func(w *world) {
			w.edit(func(s *node.State) { w.goingBack(s) })
			w.link("3.0")
			w.app.version = "3.0"
			w.damage("2.0")
			w.damage("1.0")
		}, reason.Degraded, "3.0", 0, nil},
	}
}

// otherFinds are the rows about `current`, the state files and leftovers.
func otherFinds() map[string]row {
	return map[string]row{
		"changed by hand": {func(w *world) {
			w.link("1.0")
			w.app.version = "1.0"
		}, reason.Pinned, "1.0", 0, changedByHand},
		"changed by hand in the middle": {func(w *world) {
			w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
			w.link("1.0")
			w.app.version = "1.0"
		}, reason.Pinned, "1.0", 0, changedByHand},
		"changed by hand, then pinned": {func(w *world) {
			w.link("1.0")
			must(w.t, w.puller.dir.SavePin(node.Pin{Release: "3.0", At: time.Now().Add(time.Minute).UnixMilli()}))
		}, reason.Updated, "3.0", 1, nil},
		"current is missing": {func(w *world) {
			os.Remove(w.app.current)
		}, reason.Updated, "2.0", 1, nil},
		"current dangles": {func(w *world) {
			w.link("9.9")
		}, reason.Updated, "2.0", 1, nil},
		"current is missing, what ran is damaged": {func(w *world) {
			os.Remove(w.app.current)
			w.damage("2.0")
			w.edit(func(s *node.State) { s.LastGood = &node.Release{Version: "1.0", Since: canon.Now()} })
		}, reason.Updated, "2.0", 2, nil}, // 1.0 is restored, then the channel's 2.0 is fetched again
		"nothing is left": {func(w *world) {
			must(w.t, os.RemoveAll(w.puller.dir.ReleasesPath()))
			os.Remove(w.app.current)
		}, reason.Updated, "2.0", 1, nil},
		"state missing": {func(w *world) {
			must(w.t, os.Remove(w.puller.dir.Path("state.json")))
		}, reason.Current, "2.0", 0, nil},
		"state broken": {func(w *world) {
			must(w.t, os.WriteFile(w.puller.dir.Path("state.json"), []byte("\x00"), 0o600))
		}, reason.Current, "2.0", 0, func(t *testing.T, w *world, r Result) {
			if _, err := os.Stat(w.puller.dir.Path("state.json.broken")); err != nil || len(r.Warnings) == 0 {
				t.Errorf("not set aside: %v, %v", err, r.Warnings)
			}
		}},
		"channel broken": {func(w *world) {
			must(w.t, os.WriteFile(w.puller.dir.Path("channels", "b.json"), []byte("{}"), 0o600))
		}, reason.Current, "2.0", 0, func(t *testing.T, w *world, r Result) {
			if _, err := os.Stat(w.puller.dir.Path("channels", "b.json.broken")); err != nil || len(r.Warnings) == 0 {
				t.Errorf("not set aside: %v, %v", err, r.Warnings)
			}
		}},
		"all of .sando is gone": {func(w *world) {
			must(w.t, os.RemoveAll(w.puller.dir.Path()))
		}, reason.Current, "2.0", 0, nil},
		"left over": {func(w *world) {
			must(w.t, os.MkdirAll(w.puller.dir.Path("staging", "x", "y"), 0o755))
			must(w.t, os.Symlink("releases/1.0", w.puller.dir.Root()+"/.current.0123456789abcdef"))
		}, reason.Current, "2.0", 0, nil},
	}
}

// TestRecovery is the recovery table of docs/design.md.
func TestRecovery(t *testing.T) {
	rows := openIntents()
	maps.Copy(rows, otherFinds())
	for name, c := range rows {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			c.found(w)
			restarts := w.app.count()
			r := w.step(c.want)
			w.runs(c.runs)
			if n := w.app.count() - restarts; n != c.restarts {
				t.Errorf("%d restarts, want %d", n, c.restarts)
			}
			if c.also != nil {
				c.also(t, w, r)
			}
		})
	}
}

func changedByHand(t *testing.T, w *world, r Result) {
	pin, err := w.puller.dir.Pin()
	if err != nil || pin == nil || pin.Release != "1.0" || pin.Reason != "changed by hand" {
		t.Errorf("pin %+v, %v", pin, err)
	}
	if !strings.Contains(strings.Join(r.Warnings, " "), "puller --unpin") {
		t.Errorf("warnings: %v", r.Warnings)
	}
	w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{}))
	w.runs("2.0")
}

// TestTouchesNothing: `current` is nothing that Sando made, or a newer puller wrote the
// state, or the order cannot be read. A person must look; nothing changes.
func TestTouchesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		found func(w *world)
		text  string
		mend  func(w *world)
	}{
		"current is a file": {
			func(w *world) {
				os.Remove(w.app.current)
				must(w.t, os.WriteFile(w.app.current, nil, 0o644))
			}, "is a file", func(w *world) { os.Remove(w.app.current) }},
		"current is a directory": {
			func(w *world) { os.Remove(w.app.current); must(w.t, os.Mkdir(w.app.current, 0o755)) },
			"is a directory", func(w *world) { os.Remove(w.app.current) }},
		"current points outside": {
			func(w *world) { os.Remove(w.app.current); must(w.t, os.Symlink("/etc", w.app.current)) },
			`points to "/etc"`, func(w *world) { os.Remove(w.app.current) }},
		"state of a newer puller": {
			func(w *world) { replace(w, "state.json", `"version": 1,`, `"version": 2,`) },
			"a newer puller wrote it", func(w *world) { replace(w, "state.json", `"version": 2,`, `"version": 1,`) }},
		"broken pin": {
			func(w *world) { must(w.t, os.WriteFile(w.puller.dir.Path("pin.json"), []byte("{"), 0o600)) },
			"`puller --unpin` mends it", func(w *world) { must(w.t, w.puller.dir.RemovePin()) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			c.found(w)
			w.advance("3.0", nil)
			restarts, before := w.app.count(), w.counter()
			r, err := w.puller.Step(t.Context(), Options{})
			if reason.Of(err) != reason.Config || r.Reason != reason.Config || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("got %v (%s)", err, r.Reason)
			}
			if w.app.count() != restarts || w.counter() != before {
				t.Error("something happened")
			}
			c.mend(w)
			w.step(reason.Updated)
			w.runs("3.0")
		})
	}
}

func replace(w *world, name, old, new string) {
	w.t.Helper()
	data, err := os.ReadFile(w.puller.dir.Path(name))
	must(w.t, err)
	changed := strings.Replace(string(data), old, new, 1)
	if changed == string(data) {
		w.t.Fatalf("%s does not hold %s", name, old)
	}
	must(w.t, os.WriteFile(w.puller.dir.Path(name), []byte(changed), 0o600))
}

// TestPinOverAnOpenProbation: a probation that a dead cycle left open, and an order
// that came since. If the order can be carried out the probation ends at once; if not,
// it is finished all the same.
func TestPinOverAnOpenProbation(t *testing.T) {
	w := three(t)
	w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
	w.link("3.0")
	restarts := w.app.count()
	w.pin("1.0", reason.Updated)
	w.runs("1.0")
	if n := w.app.count() - restarts; n != 1 {
		t.Errorf("%d restarts, want 1", n)
	}

	w = three(t)
	w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
	w.link("3.0")
	w.app.set("3.0", "500")
	w.pin("9.9", reason.IO)
	w.runs("2.0")
	if st, _ := w.puller.dir.State(); st.Intent != nil {
		t.Errorf("the intent is still open: %+v", st.Intent)
	}
}

// TestIntentThatEndedAProbationIsDropped: killed between the intent of a pin and its
// swap, with the order gone at the next start, the probation is finished first.
func TestIntentThatEndedAProbationIsDropped(t *testing.T) {
	w := three(t)
	w.edit(func(s *node.State) {
		over := switching("2.0", "3.0")
		s.Intent = &node.Intent{Phase: node.Switching, From: "2.0", Via: "3.0", To: "1.0", Attempt: 7, Pin: true, Over: over, Started: canon.Now()}
	})
	w.link("3.0")
	w.advance("3.0", nil)
	w.step(reason.Updated)
	w.runs("3.0")
}

// TestStatusReadsWell holds the first lines of status to what a person needs.
func TestStatusReadsWell(t *testing.T) {
	w := three(t)
	status := func() Status {
		s, err := w.puller.Status(t.Context())
		must(t, err)
		return s
	}
	if s := status(); s.Reason != reason.Current || s.Running.Version != "2.0" || s.Wanted.By != "channel" {
		t.Errorf("updated: %+v", s)
	}
	w.advance("1.0", func(c *channels.Channel) { c.Seq = 1 })
	w.step(reason.Replay)
	if s := status(); s.Reason != reason.Replay || !strings.Contains(s.Message, "builder promote b --version") {
		t.Errorf("refused: %+v", s)
	}
	w.pin("1.0", reason.Updated)
	if s := status(); s.Reason != reason.Pinned || s.Wanted.By != "pin" {
		t.Errorf("pinned: %+v", s)
	}
	w.edit(func(s *node.State) { s.Intent = switching("1.0", "3.0") })
	w.link("3.0")
	if s := status(); s.Reason != reason.Probation || !strings.Contains(s.Message, "has to prove itself") {
		t.Errorf("half-killed: %+v", s)
	}
}
