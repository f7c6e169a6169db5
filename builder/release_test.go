package builder

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func TestRelease(t *testing.T) {
	s := newSite(t)
	commit := s.git(s.src, "rev-parse", "HEAD")
	out := s.release(ReleaseRequest{})
	if out.Outcome != OutcomePublished || out.Version != "1.0.0" || out.Commit != commit || len(out.Bundles) != 1 {
		t.Errorf("got %+v", out)
	}
	if len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], `"gone" is not in this commit`) {
		t.Errorf("warnings %q", out.Warnings)
	}
	if len(out.Channels) != 1 || out.Channels[0].Outcome != OutcomeAdvanced || out.Channels[0].Tier != "host" {
		t.Errorf("channels %+v", out.Channels)
	}
	c := s.channel("host")
	if c == nil || c.Version != "1.0.0" || c.Manifest != out.Manifest || c.Rollout != 100 || c.Attempt != 1 || c.Trust != 1 || !c.Expires.IsZero() {
		t.Errorf("channel %+v", c)
	}
	s.names("a", "")

	dir := filepath.Join(s.dir, "bucket/mnw/releases/1.0.0")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Fatalf("bucket has %v, %v", entries, err)
	}
	doc, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := layout.ParseManifest(doc)
	if err != nil {
		t.Fatal(err)
	}
	if m.Source.Repo != "" || m.Source.Commit != commit || !m.Source.Time.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("source %+v", m.Source)
	}
	listing, err := exec.Command("tar", "--zstd", "-tvf", filepath.Join(dir, m.Bundles[0].Name), "--utc").CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, listing)
	}
	for _, want := range []string{"-rwxr-xr-x", " app\n", "-rw-r--r--", "static/a.css\n", "2026-01-02 03:04"} {
		if !strings.Contains(string(listing), want) {
			t.Errorf("listing lacks %q:\n%s", want, listing)
		}
	}
	if left, err := os.ReadDir(filepath.Join(s.dir, "state/tmp")); err != nil || len(left) != 0 {
		t.Errorf("left in tmp: %v, %v", left, err)
	}
}

// builds counts the runs of the build command.
func builds(t *testing.T) func() int {
	log := filepath.Join(t.TempDir(), "builds")
	t.Setenv("BUILD_LOG", log)
	return func() int {
		data, err := os.ReadFile(log)
		if err != nil && !missing(err) {
			t.Fatal(err)
		}
		return strings.Count(string(data), "built")
	}
}

func TestReleaseAgain(t *testing.T) {
	s := newSite(t)
	built := builds(t)
	first := s.release(ReleaseRequest{})
	before := s.snapshot("bucket", "channels.git")

	again := s.release(ReleaseRequest{})
	if again.Outcome != OutcomeStands || again.From != "" || again.Manifest != first.Manifest || again.Channels[0].Outcome != OutcomeAlready {
		t.Errorf("same commit: got %+v", again)
	}
	if built() != 1 {
		t.Errorf("same commit: built %d times, want once", built())
	}

	s.commit("only the docs", map[string]string{"docs/index.md": "# other"})
	same := s.release(ReleaseRequest{})
	if same.Outcome != OutcomeStands || same.From != first.Commit || same.Manifest != first.Manifest {
		t.Errorf("same tree: got %+v", same)
	}
	if built() != 2 {
		t.Errorf("same tree: built %d times in all, want twice", built())
	}

	other := s.commit("other content", map[string]string{"static/a.css": "other"})
	_, err := s.builder().Release(t.Context(), ReleaseRequest{})
	if reason.Of(err) != reason.Mismatch || !strings.Contains(err.Error(), "release under a new version") ||
		!strings.Contains(err.Error(), other) || !strings.Contains(err.Error(), first.Commit) {
		t.Errorf("other tree: got %v", err)
	}
	if diff := cmp.Diff(before, s.snapshot("bucket", "channels.git")); diff != "" {
		t.Errorf("bucket or channel changed:\n%s", diff)
	}
	s.release(ReleaseRequest{Version: "1.0.1"})
	s.names("host", "1.0.1")
}

func TestReleaseAnotherPlatformSet(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.edit("[storage]", "[[platform]]\nos = \"linux\"\narch = \"arm64\"\n[[platform]]\nos = \"linux\"\narch = \"amd64\"\n[storage]")
	out := s.release(ReleaseRequest{})
	if len(out.Bundles) != 2 || out.Bundles[0].Platform != "linux/amd64" || out.Bundles[1].Platform != "linux/arm64" || out.Bundles[0].Tree == out.Bundles[1].Tree {
		t.Fatalf("got %+v", out.Bundles)
	}
	if v, err := s.builder().Verify(t.Context(), "1.0.0"); err != nil || len(v.Objects) != 5 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	s.edit("[[platform]]\nos = \"linux\"\narch = \"arm64\"\n", "")
	if out = s.release(ReleaseRequest{}); out.Outcome != OutcomeStands || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "that takes a new version") {
		t.Errorf("same commit for fewer platforms: %+v", out)
	}
	s.commit("docs", map[string]string{"docs/x": "x"})
	if _, err := s.builder().Release(t.Context(), ReleaseRequest{}); reason.Of(err) != reason.Mismatch || !strings.Contains(err.Error(), "platforms") {
		t.Errorf("other commit for fewer platforms: %v", err)
	}
}

// The umask, TZ and GOMAXPROCS are the process's, so nothing here runs in parallel.
func TestReproducible(t *testing.T) {
	var want map[string]string
	s := newSite(t)
	for i, c := range []struct {
		umask, procs int
		tz           string
	}{{0o022, 2, "UTC"}, {0o077, 1, "Pacific/Kiritimati"}, {0o000, 2, "America/St_Johns"}} {
		t.Setenv("TZ", c.tz)
		t.Setenv("LC_ALL", "de_DE.UTF-8")
		mask, procs := unix.Umask(c.umask), runtime.GOMAXPROCS(c.procs)
		dir := filepath.Join(t.TempDir(), strings.Repeat("deep", i)+"x")
		s.git(".", "clone", "-q", s.src, dir)
		state := filepath.Join(t.TempDir(), "state")
		store := t.TempDir()
		b := s.builder(inState(state), func(c *Config, _ *Options) { c.Storage.URL, c.Channels.Auto = FileURL(store), nil })
		_, err := b.Release(t.Context(), ReleaseRequest{Dir: dir})
		unix.Umask(mask)
		runtime.GOMAXPROCS(procs)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		files, err := filepath.Glob(store + "/mnw/releases/1.0.0/*")
		if err != nil || len(files) != 4 {
			t.Fatalf("published %v, %v", files, err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(f, ".sigstore.json") { // no two signatures are the same
				got[filepath.Base(f)] = string(data)
			}
		}
		if want == nil {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("umask %03o, GOMAXPROCS %d, TZ %s: other bytes:\n%s", c.umask, c.procs, c.tz, diff)
		}
	}
}

func TestReleaseRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *site)
		req    ReleaseRequest
		code   reason.Code
		says   string
	}{
		"both":              {func(*site) {}, ReleaseRequest{Rev: "main", Dir: "."}, reason.Config, "exclude each other"},
		"no such revision":  {func(*site) {}, ReleaseRequest{Rev: "nope"}, reason.Config, `"nope": no such commit`},
		"version malformed": {func(*site) {}, ReleaseRequest{Version: "a/b"}, reason.Config, "malformed name"},
		"version command":   {func(s *site) { s.commit("change", map[string]string{"VERSION": "1.0 beta"}) }, ReleaseRequest{}, reason.Config, `printed "1.0 beta"`},
		"long version":      {func(s *site) { s.commit("change", map[string]string{"VERSION": strings.Repeat("x", 5000)}) }, ReleaseRequest{}, reason.IO, "more output than a version has"},
		"no version":        {func(s *site) { s.edit(`["cat", "VERSION"]`, "[]") }, ReleaseRequest{}, reason.Config, "no version"},
		"version fails":     {func(s *site) { s.edit(`["cat", "VERSION"]`, `["cat", "NONE"]`) }, ReleaseRequest{}, reason.IO, "NONE"},
		"build fails":       {func(s *site) { s.commit("change", map[string]string{"build.sh": "echo oh no >&2; exit 3"}) }, ReleaseRequest{}, reason.IO, "exit status 3; it said last:\n  oh no"},
		"build takes long": {func(s *site) {
			s.edit("[build]", "[build]\ntimeout = \"50ms\"")
			s.commit("change", map[string]string{"build.sh": "sleep 100"})
		}, ReleaseRequest{}, reason.IO, "build.timeout: 50ms passed"},
		"no such program":  {func(s *site) { s.edit(`["sh", "./build.sh"]`, `["no-such-program"]`) }, ReleaseRequest{}, reason.Config, "a program was not found, or may not be executed"},
		"binary missing":   {func(s *site) { s.commit("change", map[string]string{"build.sh": ":"}) }, ReleaseRequest{}, reason.Config, `binary "out/app" is missing`},
		"forbidden string": {func(s *site) { s.commit("change", map[string]string{"static/x": "cd /opt/makenotwork/"}) }, ReleaseRequest{}, reason.Policy, `"/opt/makenotwork/" in "static/x" at offset 3`},
		"nothing to stage": {func(s *site) {
			s.edit(`bin_names = ["app"]`, "")
			s.edit("[[release_contents]]\nsrc = \"static\"\ndst = \"static\"\nrequired = true\n[[release_contents]]\nsrc = \"gone\"\ndst = \"gone\"\n", "")
		}, ReleaseRequest{}, reason.Config, "nothing to stage"},
		"no release key":     {func(s *site) { s.edit(`release_key = "keys/release.key"`, "") }, ReleaseRequest{}, reason.Config, "signing.release_key is not set"},
		"release key absent": {func(s *site) { s.edit("keys/release.key", "keys/none.key") }, ReleaseRequest{}, reason.Config, "none.key"},
		"wrong release key":  {func(s *site) { s.edit("keys/release.key", "keys/channel.key") }, ReleaseRequest{}, reason.Signature, `does not have in role "release"`},
		"wrong channel key":  {func(s *site) { s.edit("keys/channel.key", "keys/release.key") }, ReleaseRequest{}, reason.Signature, `does not have in role "channel"`},
		"yanked":             {func(s *site) { s.fleet("yanked = []", `yanked = ["1.0.0"]`) }, ReleaseRequest{}, reason.Policy, "yanked"},
		"gate on an own tier": {func(s *site) {
			s.fleet("name = \"a\"", "name = \"a\"\nadvance = \"auto\"\nburn_in = \"48h\"")
			s.edit(`auto = ["host"]`, `auto = ["host", "a"]`)
		}, ReleaseRequest{}, reason.Config, "not in this version"},
		"another app's fleet": {func(s *site) { s.fleet(`app = "mnw"`, `app = "other"`) }, ReleaseRequest{}, reason.Config, `of app "other"`},
		"no such branch":      {func(s *site) { s.edit("repo = \"./channels.git\"", "repo = \"./channels.git\"\nbranch = \"none\"") }, ReleaseRequest{}, reason.Stale, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			c.change(s)
			before := s.snapshot("bucket")
			_, err := s.builder().Release(t.Context(), c.req)
			if busy, _ := filepath.Glob(filepath.Join(s.dir, "state/work/*.busy")); (len(busy) == 1) != (name == "build takes long") {
				t.Errorf("work trees that were marked: %v", busy)
			}
			if err == nil || reason.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got reason %q: %v\nwant %q: %s", reason.Of(err), err, c.code, c.says)
			}
			if diff := cmp.Diff(before, s.snapshot("bucket")); diff != "" {
				t.Errorf("the bucket changed:\n%s", diff)
			}
			s.names("host", "")
		})
	}
}

func TestDirtyDirectory(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	if err := os.WriteFile(filepath.Join(s.src, "static/a.css"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.builder().Release(t.Context(), ReleaseRequest{Dir: s.src}); reason.Of(err) != reason.Policy {
		t.Errorf("got %v", err)
	}
	s.git(s.src, "checkout", "-q", ".")
	if _, err := s.builder().Release(t.Context(), ReleaseRequest{Dir: s.src}); err != nil {
		t.Error(err)
	}
}

func TestAutoNeedsBoth(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.edit(`auto = ["host"]`, `auto = ["a", "zz"]`)
	out := s.release(ReleaseRequest{})
	text := strings.Join(out.Warnings, "\n")
	for _, want := range []string{
		`"host" is not advanced: fleet.toml asks for it, channels.auto does not allow it`,
		`"a" is not advanced: channels.auto allows it, fleet.toml does not ask for it`,
		`tier "zz" is not in fleet.toml`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("warnings lack %q:\n%s", want, text)
		}
	}
	if len(out.Channels) != 0 {
		t.Errorf("advanced %+v", out.Channels)
	}
	s.names("host", "")
}

func TestBuildEnvironment(t *testing.T) {
	s := newSite(t)
	t.Setenv("SANDO_KEY_PASSWORD", "hunter2")
	t.Setenv("SANDO__SOURCE__BRANCH", "main")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "of the bucket")
	t.Setenv("LANG", "de_DE.UTF-8")
	t.Setenv("OF_THE_USER", "kept")
	commit := s.commit("change", map[string]string{"build.sh": "mkdir -p out; umask >out/app; pwd >>out/app; env >>out/app"})
	t.Setenv("GIT_DIR", "/nonexistent")
	s.release(ReleaseRequest{})
	state := filepath.Join(s.dir, "state")
	data, err := os.ReadFile(filepath.Join(state, "work", commit, "out/app"))
	if err != nil {
		t.Fatal(err)
	}
	text := "\n" + string(data)
	for _, want := range []string{
		"\n0022\n", "\nOF_THE_USER=kept\n", "\nTZ=UTC\n", "\nLC_ALL=C.UTF-8\n", "\nSOURCE_DATE_EPOCH=1767323045\n",
		"\nSANDO_APP=mnw\n", "\nSANDO_VERSION=1.0.0\n", "\nSANDO_COMMIT=" + commit + "\n",
		"\nSANDO_OS=" + runtime.GOOS + "\n", "\nSANDO_ARCH=" + runtime.GOARCH + "\n", "\nSANDO_CACHE=" + state + "/cache\n",
		"\nPWD=" + state + "/work/" + commit + "\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("environment lacks %q:\n%s", want, text)
		}
	}
	for _, bad := range []string{"hunter2", "SANDO__", "of the bucket", "GIT_DIR", "LANG="} {
		if strings.Contains(text, bad) {
			t.Errorf("environment holds %q:\n%s", bad, text)
		}
	}
}

func TestPassphrase(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	asked := 0
	answer := func(answers ...string) func(*Config, *Options) {
		return func(_ *Config, o *Options) {
			o.Passphrase = func(context.Context, string) ([]byte, error) {
				asked++
				return []byte(answers[min(asked, len(answers))-1]), nil
			}
		}
	}
	for name, c := range map[string]struct {
		answers []string
		asked   int
		fails   bool
	}{
		"one for both keys":  {[]string{""}, 1, false},
		"mistyped once":      {[]string{"oops", ""}, 2, false},
		"always the same":    {[]string{"oops"}, 2, true},
		"always another one": {[]string{"1", "2", "3", ""}, 3, true},
	} {
		asked = 0
		_, err := s.builder(answer(c.answers...)).Release(t.Context(), ReleaseRequest{})
		if (err != nil) != c.fails || asked != c.asked || c.fails && reason.Of(err) != reason.Config {
			t.Errorf("%s: asked %d times, %v; want %d", name, asked, err, c.asked)
		}
	}
}

// A release that died between any two objects is finished by the next one.
func TestFinish(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	dir := filepath.Join(s.dir, "bucket/mnw/releases/1.0.0")
	files, err := filepath.Glob(dir + "/*")
	if err != nil || len(files) != 4 {
		t.Fatal(files, err)
	}
	// Written last, removed first.
	for _, gone := range []string{"/manifest.json", "/manifest-*.json", "/manifest-*.sigstore.json", "/*.tar.zst"} {
		matches, err := filepath.Glob(dir + gone)
		if err != nil || len(matches) == 0 {
			t.Fatal(gone, err)
		}
		for _, m := range matches {
			if err := os.Remove(m); err != nil {
				t.Fatal(err)
			}
		}
		out := s.release(ReleaseRequest{})
		if out.Outcome != OutcomePublished {
			t.Errorf("%s gone: %+v", gone, out)
		}
		now, err := filepath.Glob(dir + "/*")
		if err != nil || !cmp.Equal(now, files) {
			t.Errorf("%s gone: bucket has %v", gone, now)
		}
		if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil {
			t.Fatal(err)
		}
	}
	// What an earlier release left must be what belongs there.
	tarball, err := filepath.Glob(dir + "/*.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(tarball[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(tarball[0], data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.builder().Release(t.Context(), ReleaseRequest{}); reason.Of(err) != reason.Mismatch || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("flipped byte in what was left: %v", err)
	}
}

func TestManifestInTheWay(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	manifest := filepath.Join(s.dir, "bucket/mnw/releases/1.0.0/manifest.json")
	data, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, []byte(strings.Replace(string(data), `"1.0.0"`, `"1.0.1"`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.builder().Release(t.Context(), ReleaseRequest{}); reason.Of(err) != reason.Signature {
		t.Errorf("got %v, want that the manifest in the bucket is not signed", err)
	}
}
