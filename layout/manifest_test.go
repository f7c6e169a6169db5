package layout_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func goldenManifest(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func manifest() *layout.Manifest {
	return &layout.Manifest{
		Schema: "sando.manifest/v1", App: "mnw", Version: "0.9.5",
		Source: layout.Source{
			Repo:   "https://git.example/mnw.git",
			Commit: "f0970b8e1c5f0a3c9a1c6f2b6d9c1a7e0b4d3f21",
			Time:   canon.At(time.Date(2026, 6, 2, 21, 0, 0, 0, time.UTC)),
		},
		Bundles: []layout.Bundle{{
			Platform: "linux/amd64",
			Name:     "mnw-0.9.5-linux-amd64-1f40fc92da241694.tar.zst",
			Size:     31415926,
			SHA256:   "1f40fc92da241694750979ee6cf582f2d5d7d28e18335de05abc54d0560e0f53",
			Unpacked: 161061273, Entries: 312,
			Tree: "sha256:02f8056c2d6e3b6d0ac0ea1fbd66c0f1a9ce0e23b9ef16bfe3bf6ea80b1a1d49",
			Deltas: []layout.Delta{{
				Format: "sando.delta/v1", From: "0.9.4",
				Tree: "sha256:6b51d431df5d7f141cbececcf79edf3dd861c3b4069f0b11661a3eefacbba918",
				Name: "mnw-0.9.4..0.9.5-linux-amd64-9c56cc51b374c3ba.delta", Size: 2718281,
				SHA256: "9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
			}},
		}, {
			Platform: "linux/arm64",
			Name:     "mnw-0.9.5-linux-arm64-3fdba35f04dc8c46.tar.zst",
			Size:     30415926,
			SHA256:   "3fdba35f04dc8c462986c992bcf875546257113072a909c162f7e470e581e278",
			Unpacked: 151061273, Entries: 312,
			Tree: "sha256:4a44dc15364204a80fe80e9039455cc1608281820fe2b24f1e5233ade6af1dd5",
		}},
	}
}

func TestManifestGolden(t *testing.T) {
	golden := goldenManifest(t)
	got, err := manifest().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), string(got)); diff != "" {
		t.Errorf("Encode (-golden +got):\n%s", diff)
	}
	m, err := layout.ParseManifest(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(manifest(), m); diff != "" {
		t.Errorf("ParseManifest (-want +got):\n%s", diff)
	}
}

func TestManifestForm(t *testing.T) {
	canontest.Run(t, canontest.Document{
		Golden:   goldenManifest(t),
		Optional: []string{"repo"},
		Parse: func(data []byte) ([]byte, error) {
			m, err := layout.ParseManifest(data)
			if err != nil {
				return nil, err
			}
			return m.Encode()
		},
	})
}

// Each case is the golden manifest with one thing changed that the form allows and the
// meaning does not.
func TestManifestRefuses(t *testing.T) {
	const sha = "1f40fc92da241694750979ee6cf582f2d5d7d28e18335de05abc54d0560e0f53"
	for _, test := range []struct{ name, old, new, want string }{
		{"schema of a channel", "sando.manifest/v1", "sando.channel/v1", `schema is "sando.channel/v1"`},
		{"newer schema", "sando.manifest/v1", "sando.manifest/v2", `schema is "sando.manifest/v2"`},
		{"app that is reserved", `"app": "mnw"`, `"app": "builder"`, "is reserved"},
		{"empty app", `"app": "mnw"`, `"app": ""`, `app ""`},
		{"version up", `"version": "0.9.5"`, `"version": ".."`, `version ".."`},
		{"version dot", `"version": "0.9.5"`, `"version": "."`, `version "."`},
		{"version empty", `"version": "0.9.5"`, `"version": ""`, `version ""`},
		{"version with a slash", `"version": "0.9.5"`, `"version": "a/b"`, `version "a/b"`},
		{"version hidden", `"version": "0.9.5"`, `"version": ".hidden"`, `version ".hidden"`},
		{"version like a flag", `"version": "0.9.5"`, `"version": "-rf"`, `version "-rf"`},
		{"version of 200 characters", `"version": "0.9.5"`, `"version": "` + strings.Repeat("1", 200) + `"`, "malformed name: version"},
		{"other version", `"version": "0.9.5"`, `"version": "0.9.6"`, `name is "mnw-0.9.5-linux-amd64-1f40fc92da241694.tar.zst"`},
		{"user info in the repo", "https://git.example", "https://user:secret@git.example", "source.repo holds user info"},
		{"user name in the repo", "https://git.example/mnw.git", "git@git.example:mnw.git", "source.repo holds user info"},
		{"empty repo", `"https://git.example/mnw.git"`, `""`, "differs from the canonical"},
		{"short commit", "f0970b8e1c5f0a3c9a1c6f2b6d9c1a7e0b4d3f21", "f0970b8", "commit"},
		{"source time before 1970", "2026-06-02T21:00:00Z", "1969-12-31T23:59:59Z", "source.time"},
		{"source time beyond a tar header", "2026-06-02T21:00:00Z", "2242-03-16T12:56:32Z", "source.time"},
		{"platform out of order", `"platform": "linux/arm64"`, `"platform": "linux/386"`, "not sorted and distinct"},
		{"platform twice", `"platform": "linux/arm64"`, `"platform": "linux/amd64"`, "not sorted and distinct"},
		{"platform malformed", `"platform": "linux/amd64"`, `"platform": "linux"`, `platform "linux"`},
		{"platform that does not fit the name", `"platform": "linux/amd64"`, `"platform": "linux/386"`, "name is"},
		{"name of another tarball", "amd64-1f40fc92da241694.tar", "amd64-1f40fc92da241695.tar", "name is"},
		{"name with a path", "mnw-0.9.5-linux-amd64-1f40", "../mnw-0.9.5-linux-amd64-1f40", "name is"},
		{"other sha256", sha, "2" + sha[1:], "name is"},
		{"upper-case sha256", sha, strings.ToUpper(sha), "is not 64 hex digits"},
		{"short sha256", sha, sha[:63], "is not 64 hex digits"},
		{"sha256 with its name", sha, "sha256:" + sha, "is not 64 hex digits"},
		{"size 0", "31415926", "0", "size is 0"},
		{"no entries", "\"entries\": 312,\n      \"tree\": \"sha256:02", "\"entries\": 0,\n      \"tree\": \"sha256:02", "no entries"},
		{"tree in upper case", "sha256:02f8056c2d6e3b6d0ac0ea1fbd66c0f1", "sha256:02F8056C2D6E3B6D0AC0EA1FBD66C0F1", "digest"},
		{"tree too short", "sha256:02f8056c", "sha256:02f8056", "digest"},
		{"tree too long", "sha256:02f8056c", "sha256:02f8056c0", "digest"},
		{"tree of another algorithm", "sha256:02f8056c", "sha512:02f8056c", "digest"},
		{"tree without its name", "sha256:02f8056c", "02f8056c", "digest"},
		{"delta name of another delta", "amd64-9c56cc51b374c3ba.delta", "amd64-9c56cc51b374c3bb.delta", "name is"},
		{"delta from nowhere", `"from": "0.9.4"`, `"from": ".."`, `version ".."`},
		{"delta of size 0", "2718281", "0", "size is 0"},
		{"delta with a bad tree", "sha256:6b51d431", "sha256:6B51d431", "digest"},
		{"delta with a bad sha256", `"9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab"`, `"9c56cc51"`, "is not 64 hex digits"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := layout.ParseManifest(canontest.Edit(t, goldenManifest(t), test.old, test.new))
			if reason.Of(err) != reason.Format || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error is %v (%s), want reason format with %q; got %v", err, reason.Of(err), test.want, m)
			}
		})
	}
}

// Lists take several lines, so their cases are made from the struct.
func TestManifestLists(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*layout.Manifest)
		want   string // "" when allowed
	}{
		{"unchanged", func(*layout.Manifest) {}, ""},
		{"no deltas", func(m *layout.Manifest) { m.Bundles[0].Deltas = nil }, ""},
		{"delta of an unknown format", func(m *layout.Manifest) {
			m.Bundles[0].Deltas[0] = layout.Delta{Format: "other/v9", From: "??", Name: "x"}
		}, ""},
		{"no repo", func(m *layout.Manifest) { m.Source.Repo = "" }, ""},
		{"bundle for any", func(m *layout.Manifest) {
			m.Bundles = m.Bundles[:1]
			m.Bundles[0].Platform, m.Bundles[0].Deltas = "any", nil
			m.Bundles[0].Name = "mnw-0.9.5-any-1f40fc92da241694.tar.zst"
		}, ""},
		{"nothing unpacked", func(m *layout.Manifest) { m.Bundles[0].Unpacked = 0 }, ""},
		{"no bundles", func(m *layout.Manifest) { m.Bundles = nil }, "no bundles"},
		{"empty bundles", func(m *layout.Manifest) { m.Bundles = []layout.Bundle{} }, "no bundles"},
		{"bundles swapped", func(m *layout.Manifest) { m.Bundles[0], m.Bundles[1] = m.Bundles[1], m.Bundles[0] }, "not sorted and distinct"},
		{"bundle twice", func(m *layout.Manifest) { m.Bundles[1] = m.Bundles[0] }, "not sorted and distinct"},
		{"negative size", func(m *layout.Manifest) { m.Bundles[0].Size = -1 }, "size is -1"},
		{"size of 2^53", func(m *layout.Manifest) { m.Bundles[0].Size = 1 << 53 }, "want 0 to 2^53-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := manifest()
			test.change(m)
			data, err := m.Encode()
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if _, err := layout.ParseManifest(data); err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error is %v, want %q", err, test.want)
			}
		})
	}
}

func TestManifestNull(t *testing.T) {
	data := goldenManifest(t)
	bundles := string(data[strings.Index(string(data), "[\n") : strings.LastIndex(string(data), "]")+1])
	source := string(data[strings.Index(string(data), "{\n    \"repo\""):strings.Index(string(data), "  \"bundles\"")])
	deltas := bundles[strings.Index(bundles, "[\n        {") : strings.Index(bundles, "      ]\n")+len("      ]")]
	for _, test := range []struct{ name, old, new string }{
		{"null for bundles", bundles, "null"},
		{"null for source", source, "null,\n"},
		{"null for deltas", deltas, "null"},
		{"no deltas, written", deltas, "[]"},
		{"bundles without the key", "  \"bundles\": " + bundles, "  \"bundle\": []"},
	} {
		_, err := layout.ParseManifest(canontest.Edit(t, data, test.old, test.new))
		if reason.Of(err) != reason.Format || !strings.Contains(err.Error(), canon.ErrForm.Error()) {
			t.Errorf("%s: error is %v (%s), want the form refused", test.name, err, reason.Of(err))
		}
	}
}

func TestManifestTooLong(t *testing.T) {
	_, err := layout.ParseManifest(append(goldenManifest(t), make([]byte, layout.MaxManifest)...))
	if reason.Of(err) != reason.Limit {
		t.Errorf("error is %v (%s), want reason limit", err, reason.Of(err))
	}
}

func TestManifestFor(t *testing.T) {
	m := manifest()
	m.Bundles = append([]layout.Bundle{{Platform: layout.Any, SHA256: "a"}}, m.Bundles...)
	for _, test := range []struct {
		bundles    []layout.Bundle
		goos, arch string
		want       string
	}{
		{m.Bundles, "linux", "amd64", "linux/amd64"},
		{m.Bundles, "linux", "arm64", "linux/arm64"},
		{m.Bundles, "linux", "riscv64", "any"},
		{m.Bundles[1:], "linux", "riscv64", ""},
		{nil, "linux", "amd64", ""},
	} {
		m := &layout.Manifest{Bundles: test.bundles}
		b, ok := m.For(test.goos, test.arch)
		if b.Platform != test.want || ok != (test.want != "") {
			t.Errorf("For(%s, %s) = %q, %v, want %q", test.goos, test.arch, b.Platform, ok, test.want)
		}
	}
}

func TestStripUserInfo(t *testing.T) {
	for in, want := range map[string]string{
		"https://user:secret@git.example/a.git":  "https://git.example/a.git",
		"https://token@git.example/a.git":        "https://git.example/a.git",
		"https://a@b@git.example/a.git":          "https://git.example/a.git",
		"ssh://git@git.example/a.git":            "ssh://git.example/a.git",
		"git@git.example:a.git":                  "git.example:a.git",
		"https://git.example/a@b.git":            "https://git.example/a@b.git",
		"file:///srv/a@b.git":                    "file:///srv/a@b.git",
		"/srv/a.git":                             "/srv/a.git",
		"":                                       "",
		"https://user:se%2Fcret@git.example/a":   "https://git.example/a",
		"HTTPS://user@git.example/a":             "HTTPS://git.example/a",
		"git+ssh://git@git.example:2222/a/b.git": "git+ssh://git.example:2222/a/b.git",
	} {
		if got := layout.StripUserInfo(in); got != want {
			t.Errorf("StripUserInfo(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"fatal: clone of 'https://user:secret@git.example/g/lib.git' into submodule path": "fatal: clone of 'https://git.example/g/lib.git' into submodule path",
		"https://token@a.example/x\nhttps://b@c@b.example/y":                              "https://a.example/x\nhttps://b.example/y",
		"HTTPS://user@git.example:8443":                                                   "HTTPS://git.example:8443",
		"mail me@git.example about https://git.example/a@b.git":                           "mail me@git.example about https://git.example/a@b.git",
		"see https://git.example/a and ask me@git.example":                                "see https://git.example/a and ask me@git.example",
		"Host key of git@git.example: changed":                                            "Host key of git@git.example: changed",
		"":                                                                                "",
	} {
		if got := layout.Redact(in); got != want {
			t.Errorf("Redact(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestKeys(t *testing.T) {
	d := layout.Digest("sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab")
	kid := "51d816633abdd5fa94b93f7506fa997181bde47d6666c8ac376916e9882a2d5d"
	if got, want := layout.ReleaseKey("mnw", "0.9.5", layout.ManifestName(d)), "mnw/releases/0.9.5/manifest-9c56cc51b374c3ba.json"; got != want {
		t.Errorf("manifest: %q, want %q", got, want)
	}
	if got, want := layout.ManifestSignature(d, kid), "manifest-9c56cc51b374c3ba.51d816633abdd5fa.sigstore.json"; got != want {
		t.Errorf("signature: %q, want %q", got, want)
	}
}

// What parses prints back the same bytes, and means something.
func FuzzManifest(f *testing.F) {
	golden := goldenManifest(f)
	f.Add(golden)
	f.Add(canontest.Edit(f, golden, `"sando.delta/v1"`, `"sando.delta/v2"`))
	f.Add(canontest.Edit(f, golden, "    \"repo\": \"https://git.example/mnw.git\",\n", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := layout.ParseManifest(data)
		if err != nil {
			if r := reason.Of(err); r != reason.Format && r != reason.Limit {
				t.Fatalf("reason is %s: %v", r, err)
			}
			return
		}
		again, err := m.Encode()
		if err != nil || string(again) != string(data) {
			t.Fatalf("encodes to %q, %v, want %q", again, err, data)
		}
		for _, b := range m.Bundles {
			if strings.ContainsAny(b.Name, "/\\\x00\n") || strings.HasPrefix(b.Name, ".") {
				t.Fatalf("name %q is a path", b.Name)
			}
		}
	})
}
