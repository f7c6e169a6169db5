package puller

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/hook"
)

// env writes an env file, which counts from then on.
func (w *world) env(text string) string {
	w.t.Helper()
	file := filepath.Join(w.base, "mnw.env")
	must(w.t, os.WriteFile(file, []byte(strings.ReplaceAll(text, "ROOT", w.puller.cfg.Root)), 0o600))
	w.puller.cfg.Env.Files = []string{file}
	return file
}

func TestAudit(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string // in the message; none: it fits
	}{
		"nothing":                     {"", nil},
		"fits":                        {"DATABASE_URL=postgres://secret@host/db\nCSS=ROOT/current/static/a.css\nLINK=ROOT/current/style.css\nALL=ROOT/current\nDIR=ROOT/current/static/\n", nil},
		"missing file":                {"MODEL=ROOT/current/docs/assumptions.toml\n", []string{"MODEL names ROOT/current/docs/assumptions.toml, which 2.0 does not have"}},
		"below a file":                {"MODEL=ROOT/current/VERSION/x\n", []string{"MODEL names ROOT/current/VERSION/x, which 2.0"}},
		"below a link":                {"MODEL=ROOT/current/style.css/x\n", []string{"MODEL names"}},
		"list":                        {"P=/usr/bin:ROOT/current/static:ROOT/current/none:ROOT/current\n", []string{"P names ROOT/current/none, which"}},
		"list of missing ones":        {"P=ROOT/current/a:ROOT/current/b\n", []string{"P names ROOT/current/a, which", "P names ROOT/current/b, which"}},
		"not quite clean":             {"P=ROOT/./current//none/\n", []string{"P names ROOT/./current//none/, which"}},
		"elsewhere":                   {"P=ROOT/currently/none\nQ=ROOT/releases/9.9/x\nR=ROOT/current/../x\nS=relative/none\n", nil},
		"URL":                         {"U=file://ROOT/current/none?mode=ro\nV=sqlite:ROOT/current/VERSION\n", nil},
		"with arguments":              {"C=ROOT/current/app --token secret\n", nil},
		"missing, with arguments":     {"C=ROOT/current/none --token secret\n", []string{"C names ROOT/current/none, which"}},
		"the release's own directory": {"P=ROOT/current/.sando/none\n", []string{"P names"}},
		"of a URL, with arguments":    {"U=sqlite:ROOT/current/none?key=secret\nV=ROOT/current/none;pw=secret\n", []string{"U names ROOT/current/none, which", "V names ROOT/current/none, which"}},
		"several":                     {"A=ROOT/current/a\nB=secret\nC=ROOT/current/c\n", []string{"A names ROOT/current/a, which", "C names ROOT/current/c, which"}},
		"not an env file":             {"A=secret\xff\n", []string{"mnw.env: not an environment file: the assignment that ends in line 1 is not valid UTF-8"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := two(t)
			w.env(c.text)
			w.advance("2.0", nil)
			if c.want == nil {
				if r := w.step(reason.Updated); len(r.Warnings) > 0 {
					t.Errorf("warnings: %q", r.Warnings)
				}
				return
			}
			restarts := w.app.count()
			r := w.step(reason.Env)
			for _, want := range append(c.want, "the app's environment does not fit 2.0: ", "`puller --pin 2.0` would start it as it is; 1.0 stays") {
				if want = strings.ReplaceAll(want, "ROOT", w.puller.cfg.Root); !strings.Contains(r.Message, want) {
					t.Errorf("message %q, want %q in it", r.Message, want)
				}
			}
			if strings.Contains(r.Message, "secret") {
				t.Errorf("a value is in the message: %s", r.Message)
			}
			w.runs("1.0")
			if w.app.count() != restarts {
				t.Error("the app was restarted")
			}
			if st := w.known(); st.Intent != nil || len(st.Blocked) > 0 {
				t.Errorf("state: %+v", st)
			}
			// It is looked at anew, and not read as a whole for that.
			must(t, os.WriteFile(w.puller.dir.ReleasePath("2.0")+"/app", []byte("damaged"), 0o644))
			w.step(reason.Env)
			if got, err := os.ReadFile(w.puller.dir.ReleasePath("2.0") + "/app"); err != nil || string(got) != "damaged" {
				t.Errorf("the release was read as a whole: %q, %v", got, err)
			}
			w.env("")
			w.step(reason.Updated) // damaged: fetched again
			w.runs("2.0")
		})
	}
}

func TestAuditRequired(t *testing.T) {
	w := two(t)
	file := w.env("DATABASE_URL=\nOTHER=x\n")
	second := file + ".local"
	must(t, os.WriteFile(second, []byte("SMTP=x\n"), 0o600))
	cfg := w.puller.cfg
	cfg.Env.Files = append(cfg.Env.Files, second)
	cfg.Env.Required = []string{"DATABASE_URL", "SECRET_KEY", "OTHER", "SMTP"}
	w.advance("2.0", nil)
	r := w.step(reason.Env)
	if want := fmt.Sprintf("does not fit 2.0: DATABASE_URL is empty; SECRET_KEY is not set in %s, %s; mend", file, second); !strings.Contains(r.Message, want) {
		t.Errorf("message %q, want %q", r.Message, want)
	}
	// What cannot be read may have it.
	must(t, os.Remove(second))
	r = w.step(reason.Env)
	if want := fmt.Sprintf("does not fit 2.0: %s is missing: make it, or remove it from env.files; DATABASE_URL is empty; mend", second); !strings.Contains(r.Message, want) {
		t.Errorf("message %q, want %q", r.Message, want)
	}
	plan, err := w.puller.Plan(t.Context(), Options{})
	if reason.Of(err) != reason.Env || plan.Reason != reason.Env || plan.Act {
		t.Errorf("plan: %+v, %v", plan, err)
	}
	must(t, os.WriteFile(second, []byte("DATABASE_URL=x\nSECRET_KEY=y\nSMTP=z\n"), 0o600))
	w.step(reason.Updated)
}

// Whoever goes back, or orders a release, is warned.
func TestAuditWarns(t *testing.T) {
	w := two(t)
	w.env("A=" + w.puller.cfg.Root + "/current/none\n")
	want := "the app's environment does not fit 2.0: A names " + w.puller.cfg.Root + "/current/none, which 2.0 does not have"
	if r := w.pin("2.0", reason.Updated); !slices.Equal(r.Warnings, []string{want}) {
		t.Errorf("warnings of a pin: %q", r.Warnings)
	}
	if r := w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{})); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "does not fit 1.0: ") {
		t.Errorf("warnings of a release that ran well here: %q", r.Warnings)
	}
	if r := w.step(reason.Current); len(r.Warnings) > 0 {
		t.Errorf("warnings of what runs: %q", r.Warnings)
	}
}

// An env file that says what the puller says to hooks would lie to them.
func TestAuditOfHooksVariables(t *testing.T) {
	w := two(t)
	w.env("SANDO_VERSION=0.1\n")
	w.hook(hook.AfterHealthy, note)
	w.advance("2.0", nil)
	if r := w.step(reason.Env); !strings.Contains(r.Message, "SANDO_VERSION is set, and is for the puller to tell hooks: remove it") {
		t.Errorf("message: %s", r.Message)
	}
	w.env("SANDO_PREVIOUSLY=0.1\n")
	w.step(reason.Updated)
	w.wantLogged("after_healthy 2.0: mnw 2.0 from 1.0, live releases/2.0, in 2.0")
}

// What does not fit is told while there is time to mend it, not when the window opens.
func TestAuditBeforeTheWindow(t *testing.T) {
	w, _, opening := waiting(t)
	w.env("A=ROOT/current/none\n")
	w.step(reason.Env)
	w.step(reason.Env)
	w.env("")
	w.step(reason.Window)
	w.env("A=ROOT/current/none\n")
	w.step(reason.Env)
	w.env("")
	w.opened(opening)
	w.step(reason.Updated)
	w.runs("2.0")
}
