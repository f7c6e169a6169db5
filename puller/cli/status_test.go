package cli

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// update writes the golden files anew: go test ./puller/cli -update
func update() bool { return flag.Lookup("update").Value.String() == "true" }

func TestMain(m *testing.M) {
	flag.Bool("update", false, "write testdata/status anew")
	flag.Parse()
	os.Exit(m.Run())
}

// stage is a node in one situation.
type stage struct {
	t      *testing.T
	now    time.Time
	base   string
	dir    *node.Dir
	st     *node.State
	ch     *channels.Channel
	pin    *node.Pin
	config string // added to the configuration
	unit   *puller.UnitStatus
	timer  string
}

var (
	m1 = layout.Sum([]byte("manifest of 1.0.0"))
	m2 = layout.Sum([]byte("manifest of 2.0.0"))
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newStage is a node that runs 1.0.0, as its channel says.
func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, now: time.Now(), base: t.TempDir()}
	var err error
	s.dir, err = node.Open(s.base + "/mnw")
	must(t, err)
	for _, v := range []string{"1.0.0", "2.0.0"} {
		must(t, os.MkdirAll(s.dir.ReleasePath(v), 0o755))
	}
	must(t, s.dir.Swap("1.0.0"))
	must(t, os.WriteFile(s.dir.Path("lock"), nil, 0o600))
	s.st = node.NewState()
	s.st.Running = &node.Release{Version: "1.0.0", Manifest: m1, Since: s.ago(2 * time.Hour)}
	s.st.LastGood = s.st.Running
	s.st.Last = node.Outcome{Reason: reason.Current, Since: s.ago(2 * time.Hour)}
	s.ch = &channels.Channel{
		Schema: "sando.channel/v1", App: "mnw", Channel: "b", Trust: 1, Seq: 7, Issued: s.ago(3 * time.Hour),
		Version: "1.0.0", Manifest: m1, Attempt: 1, Rollout: 100,
	}
	s.unit = &puller.UnitStatus{Name: "mnw.service", Load: "loaded", Active: "active", Sub: "running", Since: s.ago(2 * time.Hour), PID: 4711, Words: "active (running)"}
	return s
}

// ago is so long ago that the words for it hold for some time.
func (s *stage) ago(d time.Duration) canon.Time { return canon.At(s.now.Add(-d - 20*time.Second)) }

func (s *stage) in(d time.Duration) canon.Time { return canon.At(s.now.Add(d + 20*time.Second)) }

// wants makes the channel name 2.0.0.
func (s *stage) wants() {
	s.ch.Version, s.ch.Manifest, s.ch.Issued = "2.0.0", m2, s.ago(5*time.Minute)
}

// switching opens an activation of 2.0.0, after its swap.
func (s *stage) switching(from string) *node.Intent {
	s.wants()
	must(s.t, s.dir.Swap("2.0.0"))
	s.st.Intent = &node.Intent{Phase: node.Switching, From: from, Via: from, To: "2.0.0", Manifest: m2, Attempt: 1, Started: s.ago(0)}
	return s.st.Intent
}

const cause = `it ended before it was well: unit "mnw.service" was activating (auto-restart), its main process ended with status 3 (exit-code); ` +
	"`journalctl -u mnw.service` tells more"

// failed notes that 2.0.0 failed.
func (s *stage) failed() *node.Block {
	s.wants()
	s.st.Running = &node.Release{Version: "1.0.0", Manifest: m1, Since: s.ago(5 * time.Minute)}
	s.st.Blocked = []node.Block{{
		Version: "2.0.0", Manifest: m2, Attempt: 1, At: s.ago(5 * time.Minute), Cause: cause,
		Output: []string{"starting mnw 2.0.0", "panic: no such table: users", "mnw.service: Main process exited, code=exited, status=3/NOTIMPLEMENTED"},
	}}
	return &s.st.Blocked[0]
}

// reports makes the node report, and notes how it went.
func (s *stage) reports(change func(*node.Reporting)) {
	s.config += "\n[report]\nenabled = true\n"
	r := node.NewReporting()
	r.Written, r.Due = s.ago(3*time.Minute), s.in(10*time.Minute)
	change(r)
	must(s.t, s.dir.SaveReporting(r))
	s.daemon("")
}

func (s *stage) last(code reason.Code, message string) {
	s.st.Last = node.Outcome{Reason: code, Message: message, Since: s.ago(10 * time.Minute)}
}

// trust writes an anchor.
func (s *stage) trust() {
	key, err := keys.New()
	must(s.t, err)
	t := &signing.Trust{Schema: signing.TrustSchema, App: "mnw", Version: 1, Keys: map[string]canon.PEM{key.Public().Kid(): key.Public().PEM()}, Roles: map[string]signing.Role{}}
	for _, role := range []string{"root", "release", "channel"} {
		t.Roles[role] = signing.Role{Keys: []string{key.Public().Kid()}, Threshold: 1}
	}
	doc, err := t.Encode()
	must(s.t, err)
	must(s.t, os.WriteFile(s.base+"/trust.json", doc, 0o644))
}

// status returns what `puller status` prints.
func (s *stage) status() string {
	s.t.Helper()
	s.trust()
	must(s.t, s.dir.SaveState(s.st))
	if s.ch != nil {
		doc, err := s.ch.Encode()
		must(s.t, err)
		must(s.t, s.dir.SaveChannel("b", doc, nil))
	}
	if s.pin != nil {
		must(s.t, s.dir.SavePin(*s.pin))
	}
	file := s.base + "/mnw.toml"
	must(s.t, os.WriteFile(file, fmt.Appendf(nil, `app = "mnw"
tier = "b"
node = "alpha"
root = "%[1]s/mnw"
trust = "%[1]s/trust.json"
[channels]
repo = "file://%[1]s/channels.git"
[storage]
url = "file://%[1]s/bucket"
%[2]s`, s.base, s.config), 0o644))
	status, err := s.look(file)
	if status.App == "" {
		s.t.Fatal(err)
	}
	status.Unit, status.Timer = s.unit, s.timer
	var out bytes.Buffer
	writeStatus(&out, status, true)
	return s.normal(out.String())
}

func (s *stage) look(file string) (puller.Status, error) {
	cfg, err := puller.LoadConfig(file, nil)
	if err != nil {
		return puller.StatusDespite(s.t.Context(), file, nil, err)
	}
	p, err := puller.New(s.t.Context(), cfg, slog.New(slog.DiscardHandler), nil)
	must(s.t, err)
	return p.Status(s.t.Context())
}

// normal replaces what differs from run to run.
func (s *stage) normal(text string) string {
	for _, r := range [][2]string{
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "2026-06-03T12:00:00Z"},
		{`\d+ s ago`, "20 s ago"}, {`in \d+ s\b`, "in 20 s"}, {`\d+s ago`, "20s ago"},
		{`(\d+ min) \d+ s`, "$1 0 s"},
		{`pid \d+`, "pid 4711"}, {`"\d+ \d+ \* \* \*"`, `"0 15 * * *"`},
		{`in \d+ h \d+ min`, "in 3 h 0 min"},
		{regexp.QuoteMeta(s.base), "/opt"},
	} {
		text = regexp.MustCompile(r[0]).ReplaceAllString(text, r[1])
	}
	return text
}

// What people read in each situation. The files are made to be read.
func TestStatus(t *testing.T) {
	for name, make := range situations() {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			make(s)
			golden(t, filepath.Join("testdata/status", name+".txt"), s.status())
		})
	}
	t.Run("files", func(t *testing.T) {
		files, err := filepath.Glob("testdata/status/*.txt")
		must(t, err)
		if len(files) != len(situations()) {
			t.Errorf("%d files for %d situations", len(files), len(situations()))
		}
	})
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if update() {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("%s: %v\n%s\nwant:\n%s", file, err, got, want)
	}
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(line); n > 160 {
			t.Errorf("a line has %d columns: %s", n, line)
		}
	}
}

// situations are made of the one in which all is well, each by what makes it.
func situations() map[string]func(s *stage) {
	all := waits()
	maps.Copy(all, orders())
	maps.Copy(all, failures())
	maps.Copy(all, faults())
	return all
}

// waits are situations in which nothing is wrong.
func waits() map[string]func(s *stage) {
	return map[string]func(s *stage){
		"current": func(*stage) {},
		"updated_just_now": func(s *stage) {
			s.wants()
			must(s.t, s.dir.Swap("2.0.0"))
			s.st.Previous = s.st.Running
			s.st.Running = &node.Release{Version: "2.0.0", Manifest: m2, Since: s.ago(0)}
			s.st.LastGood = s.st.Running
		},
		"at_work": func(s *stage) {
			s.wants()
			s.works()
		},
		"wanted":  func(s *stage) { s.wants() },
		"rollout": func(s *stage) { s.wants(); s.ch.Rollout = 1 },
		"halted":  func(s *stage) { s.wants(); s.ch.Rollout = 0 },
		"window": func(s *stage) {
			s.wants()
			opens := s.now.UTC().Add(3*time.Hour + time.Minute)
			s.config = fmt.Sprintf("[schedule]\nwindow = \"%d %d * * *\"\ntimezone = \"UTC\"\n", opens.Minute(), opens.Hour())
		},
		"stale": func(s *stage) {
			s.wants()
			s.ch.Expires = s.ago(time.Minute)
		},
		"expired_but_current": func(s *stage) { s.ch.Expires = s.ago(time.Minute) },
		"never": func(s *stage) {
			must(s.t, os.Remove(s.dir.CurrentPath()))
			must(s.t, os.Remove(s.dir.Path("lock")))
			s.st, s.ch, s.unit = node.NewState(), nil, nil
		},
		"nothing_promoted": func(s *stage) {
			must(s.t, os.Remove(s.dir.CurrentPath()))
			s.st, s.ch, s.unit = node.NewState(), nil, nil
			s.last(reason.Stale, "no state of channel \"b\" was accepted on this node yet: the next `puller` asks for one; if nothing was promoted to the tier yet, `builder promote b` does it")
			s.works()
		},
		"daemon": func(s *stage) { s.daemon("") },
		"timer":  func(s *stage) { s.timer = "puller-once@mnw.timer" },
		"reported": func(s *stage) {
			s.st.Running.Downtime = 73
			s.reports(func(r *node.Reporting) {})
		},
		"unreported": func(s *stage) {
			s.reports(func(r *node.Reporting) {
				r.Written = s.ago(75 * time.Minute)
				r.Problem = &node.Unreported{Since: s.ago(time.Hour), Count: 7, Next: s.in(5 * time.Minute), Code: reason.IO,
					Cause: `replace object "mnw/reports/alpha.json": the server answers 403 AccessDenied: these credentials may not write it; that takes s3:GetObject and s3:PutObject`}
			})
		},
		"duplicate": func(s *stage) {
			s.reports(func(r *node.Reporting) {
				r.Namesake = &node.Namesake{Count: 2, At: s.ago(time.Minute), Until: s.in(time.Hour), Instance: r.Instance}
			})
		},
		"history_rewritten": func(s *stage) {
			s.st.Rewritten = true
			s.daemon("")
		},
	}
}

// orders are situations that a person made.
func orders() map[string]func(s *stage) {
	return map[string]func(s *stage){
		"pinned": func(s *stage) {
			s.pin = &node.Pin{Release: "1.0.0", At: s.ago(time.Hour).UnixMilli(), Reason: "page 12"}
			s.wants()
		},
		"pinned_until": func(s *stage) {
			s.pin = &node.Pin{Release: "1.0.0", At: s.ago(time.Hour).UnixMilli(), Until: s.in(time.Hour), Reason: "page 12"}
			s.wants()
		},
		"pin_ended": func(s *stage) {
			s.pin = &node.Pin{Release: "2.0.0", At: s.ago(2 * time.Hour).UnixMilli(), Until: s.ago(time.Hour), Reason: "page 12"}
			s.st.PinEnded = s.pin.At
		},
		"forced": func(s *stage) {
			s.pin = &node.Pin{Release: "1.0.0", At: s.ago(time.Hour).UnixMilli(), Force: true}
			s.st.Running = &node.Release{Version: "1.0.0", Manifest: m1, Since: s.ago(time.Hour), Forced: s.pin.At}
			s.st.LastGood = nil
		},
		"pin_blocked": func(s *stage) {
			b := s.failed()
			s.pin = &node.Pin{Release: "2.0.0", At: s.ago(6 * time.Minute).UnixMilli()}
			b.Attempt = s.pin.At
			s.ch.Version, s.ch.Manifest = "1.0.0", m1
		},
		"pin_broken": func(s *stage) {
			must(s.t, os.WriteFile(s.dir.Path("pin.json"), []byte("{"), 0o600))
		},
		"changed_by_hand": func(s *stage) { must(s.t, s.dir.Swap("2.0.0")) },
	}
}

// failures are about releases that have to prove themselves, or did not.
func failures() map[string]func(s *stage) {
	return map[string]func(s *stage){
		"probation": func(s *stage) {
			s.switching("1.0.0")
			s.works()
		},
		"probation_left": func(s *stage) { s.switching("1.0.0") },
		"probation_first_install": func(s *stage) {
			s.switching("")
			s.st.Running, s.st.LastGood = nil, nil
			s.works()
		},
		"probation_hindered": func(s *stage) {
			s.switching("1.0.0").Started = s.ago(time.Hour)
			s.last(reason.Config, "2.0.0 is live and not judged yet, the next cycle goes on; this says nothing about the release: unit \"mnw.service\" is masked, so it cannot be started: `systemctl unmask mnw.service` takes that back")
		},
		"going_back": func(s *stage) {
			i := s.switching("1.0.0")
			s.failed()
			i.Phase, i.Cause = node.RollingBack, cause
			s.works()
		},
		"blocked": func(s *stage) { s.failed() },
		"blocked_by_hook": func(s *stage) {
			b := s.failed()
			b.Cause = `hook "before_swap" "/opt/mnw/releases/2.0.0/mnw-admin migrate": exit status 1`
			b.Output = []string{"migrating", "ERROR: relation \"users\" is locked"}
		},
		"degraded": func(s *stage) {
			s.st.Degraded = s.failed()
			s.unit.Active, s.unit.Sub, s.unit.PID, s.unit.Since = "failed", "failed", 0, canon.Time{}
			s.unit.Words = "failed, its main process ended with status 3 (exit-code)"
		},
		"first_install_failing": func(s *stage) {
			s.st.LastGood = nil
			s.st.Running.Since = s.ago(2 * time.Minute)
			s.st.Retry = &node.Retry{Count: 3, Next: s.in(4 * time.Minute), Cause: cause, Output: []string{"panic: no DATABASE_URL"}}
			s.unit.Active, s.unit.Sub, s.unit.PID, s.unit.Since = "activating", "auto-restart", 0, canon.Time{}
			s.unit.Words = "activating (auto-restart), its main process ended with status 3 (exit-code), restarted by systemd 3 times"
		},
	}
}

// faults are about what is around a release.
func faults() map[string]func(s *stage) {
	return map[string]func(s *stage){
		"unit_stopped": func(s *stage) {
			s.unit.Active, s.unit.Sub, s.unit.PID, s.unit.Since, s.unit.Words = "inactive", "dead", 0, canon.Time{}, "inactive (dead)"
		},
		"unit_masked": func(s *stage) {
			s.wants()
			s.last(reason.Config, "unit \"mnw.service\" is masked, so it cannot be started: `systemctl unmask mnw.service` takes that back: nothing was changed; 1.0.0 stays")
		},
		"env": func(s *stage) {
			s.wants()
			s.last(reason.Env, "the app's environment does not fit 2.0.0: DATABASE_URL is not set in /etc/mnw/mnw.env; mend that, and the next cycle goes on; `puller --pin 2.0.0` would start it as it is; 1.0.0 stays")
		},
		"repair_stopped": func(s *stage) { s.st.Repair = "1.0.0" },
		"disk": func(s *stage) {
			s.wants()
			s.last(reason.Disk, "release 2.0.0: no space: it needs 512.0 MB, and 100.0 MB are free; 1.0.0 stays")
		},
		"offline": func(s *stage) {
			s.last(reason.IO, "poll https://git.example.org/ops/channels.git: connection refused (runs 1.0.0, as channel \"b\" says)")
		},
		"replay": func(s *stage) {
			s.last(reason.Replay, "channel \"b\": counter went back: (trust 1, seq 7) with version 1.0.0 was accepted, (trust 1, seq 6) with version 0.9.0 is older: it may be replayed from an old copy; to roll back run builder promote b --version 0.9.0 (runs 1.0.0, as channel \"b\" says)")
		},
		"config_bad": func(s *stage) { s.config = "[schedule]\npoll = \"60s\"\n" },
		"config_bad_under_a_daemon": func(s *stage) {
			s.config = "[schedule]\npoll = \"60s\"\n"
			s.daemon("config \"/etc/sando/mnw.toml\": schedule.poll: \"60s\" is neither a time like \"@every 60s\" nor like \"0 2 * * 6\"")
		},
		"current_odd": func(s *stage) {
			must(s.t, os.Remove(s.dir.CurrentPath()))
			must(s.t, os.Symlink("/usr", s.dir.CurrentPath()))
		},
		"current_lost": func(s *stage) { must(s.t, os.Remove(s.dir.CurrentPath())) },
	}
}

// works holds the lock, as a cycle that goes on does.
func (s *stage) works() {
	unlock, err := s.dir.Lock(context.WithoutCancel(s.t.Context()), "puller, since "+s.ago(0).Format(canon.TimeLayout), func(string) {})
	must(s.t, err)
	s.t.Cleanup(unlock)
}

// daemon is at work.
func (s *stage) daemon(problem string) {
	claim, err := s.dir.Claim(node.Daemon{PID: 4711, Since: s.ago(time.Hour), Problem: problem})
	must(s.t, err)
	s.t.Cleanup(func() { claim.Close() })
}
