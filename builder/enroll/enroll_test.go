package enroll_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/builder/enroll"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
)

func line(change func(*enroll.Line)) enroll.Line {
	l := enroll.Line{
		App: "mnw", Tier: "b", Node: "alpha-west-1",
		Storage:     bucket.Config{URL: "s3://releases", Endpoint: "https://s3.example.org"},
		Channels:    repo.Config{URL: "https://git.example.org/ops/mnw-channels.git", Branch: "main"},
		Fingerprint: layout.Sum(nil), MinSeq: 1780455236000,
		Rest: []string{"--exec", "/opt/mnw/current/mnw serve"},
	}
	if change != nil {
		change(&l)
	}
	return l
}

const fingerprint = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestWords(t *testing.T) {
	const who = "puller bootstrap --app mnw --tier b --node alpha-west-1"
	const where = " --storage s3://releases --endpoint https://s3.example.org --channels https://git.example.org/ops/mnw-channels.git"
	const trust = " --trust-fingerprint " + fingerprint + " --min-seq 1780455236000"
	const rest = " --exec '/opt/mnw/current/mnw serve'"
	for _, test := range []struct {
		name   string
		change func(*enroll.Line)
		want   string
	}{
		{"as it is", nil, who + where + trust + rest},
		{"nothing promoted", func(l *enroll.Line) { l.MinSeq = 0 }, who + where + " --trust-fingerprint " + fingerprint + rest},
		{"all of storage", func(l *enroll.Line) {
			l.Storage = bucket.Config{URL: "s3://r", Endpoint: "https://e", Region: "eu", PathStyle: true, Anonymous: true}
		}, who + " --storage s3://r --endpoint https://e --region eu --path-style --anonymous --channels https://git.example.org/ops/mnw-channels.git" + trust + rest},
		{"all of channels", func(l *enroll.Line) { l.Channels.Branch, l.Channels.Path = "live", "apps/mnw" },
			who + where + " --branch live --path apps/mnw" + trust + rest},
		{"mirror", func(l *enroll.Line) { l.Channels = repo.Config{URL: enroll.Bucket} },
			who + " --storage s3://releases --endpoint https://s3.example.org --channels bucket" + trust + rest},
		{"ssh keeps its user", func(l *enroll.Line) { l.Channels.URL = "ssh://git@git.example.org/x" },
			who + " --storage s3://releases --endpoint https://s3.example.org --channels ssh://git@git.example.org/x" + trust + rest},
		{"what is behind counts", func(l *enroll.Line) { l.Rest = []string{"--endpoint=https://cdn", "--anonymous", "--min-seq", "1"} },
			who + " --storage s3://releases --channels https://git.example.org/ops/mnw-channels.git --trust-fingerprint " + fingerprint +
				" --endpoint=https://cdn --anonymous --min-seq 1"},
		{"a value is no flag", func(l *enroll.Line) { l.Rest = []string{"-y", "--exec", "--endpoint", "--adopt"} }, who + where + trust + " -y --exec --endpoint --adopt"},
	} {
		t.Run(test.name, func(t *testing.T) {
			words, err := line(test.change).Words()
			if diff := cmp.Diff(test.want, enroll.Quote(words)); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestWordsRefused(t *testing.T) {
	for _, test := range []struct {
		rest []string
		want string
	}{
		{[]string{"--node", "beta"}, "--node behind -- would make another node than the one that is enrolled"},
		{[]string{"--tier=a"}, "--tier behind --"},
		{[]string{"--app", "shop"}, "--app behind --"},
		{[]string{"--exec", "a b", "--state=x", "--node", "beta"}, "--node behind --"},
		{[]string{"--bogus"}, `"--bogus" behind --: puller bootstrap has no such flag; its --help lists what it has`},
		{[]string{"--adopt", "--bogus=1"}, `"--bogus=1" behind --: puller bootstrap has no such flag`},
		{[]string{"--config", "/etc/x"}, `"--config" behind --`},
		{[]string{"-x"}, `"-x" behind --`},
		{[]string{"--"}, `"--" behind --: puller bootstrap has no such flag`},
		{[]string{"--exec", "demo", "serve"}, `"serve" behind -- is no flag: quote a value that has spaces in it`},
		{[]string{"--timer", "-"}, `"-" behind -- is no flag`},
		{[]string{"--adopt", "--exec"}, "--exec behind -- wants a value"},
		{[]string{"--exec", "a\nrm -r /"}, "one line is one command"},
		{[]string{"--exec", "a\x1b[2K"}, "one line is one command"},
		{[]string{"--exec", "a\u202eb"}, "one line is one command"},
	} {
		words, err := line(func(l *enroll.Line) { l.Rest = test.rest }).Words()
		if words != nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: %q, %v", test.rest, words, err)
		}
	}
}

// Nothing that is a secret, or leads to one, gets into the line or the notes.
func TestNoSecret(t *testing.T) {
	l := line(func(l *enroll.Line) {
		l.Storage.AccessKeyFile, l.Storage.SecretKeyFile = "/b/SECRET.access", "/b/SECRET.secret"
		l.Channels.URL = "https://ghp_SECRET@git.example.org/ops/mnw-channels.git"
		l.Channels.TokenFile, l.Channels.SSHKey, l.Channels.KnownHosts = "/b/SECRET.token", "/b/SECRET.key", "/b/SECRET.hosts"
	})
	words, err := l.Words()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(words, "https://git.example.org/ops/mnw-channels.git") {
		t.Errorf("the channel repo is not there: %q", words)
	}
	for _, text := range append(words, l.Notes()...) {
		if strings.Contains(text, "SECRET") {
			t.Errorf("a secret: %q", text)
		}
	}
	if notes := l.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "what stands before the @ in channels.repo is left out") {
		t.Errorf("notes: %q", notes)
	}
}

func TestNotes(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*enroll.Line)
		want   []string // in the notes, one each
	}{
		{"elsewhere", nil, nil},
		{"storage here", func(l *enroll.Line) { l.Storage = bucket.Config{URL: "file:///srv/bucket"} }, []string{"only this machine reaches file:///srv/bucket, so the line is for a node on this machine; for one elsewhere give --storage URL"}},
		{"endpoint here", func(l *enroll.Line) { l.Storage.Endpoint = "http://127.0.0.1:9000" }, []string{"http://127.0.0.1:9000, so the line is for a node on this machine; for one elsewhere give -- --endpoint URL"}},
		{"endpoint here, another behind", func(l *enroll.Line) {
			l.Storage.Endpoint = "http://127.0.0.1:9000"
			l.Rest = []string{"--endpoint", "https://s3.example.org"}
		}, nil},
		{"channels here", func(l *enroll.Line) { l.Channels.URL = "http://[::1]/x.git" }, []string{"only this machine reaches http://[::1]/x.git,"}},
		{"channels here by name", func(l *enroll.Line) { l.Channels.URL = "https://localhost/x.git" }, []string{"for one elsewhere give --channels URL"}},
		{"both here", func(l *enroll.Line) {
			l.Storage = bucket.Config{URL: "file:///srv/bucket"}
			l.Channels.URL = "file:///srv/channels.git"
		}, []string{"only this machine reaches file:///srv/bucket and file:///srv/channels.git, so the line is for a node on this machine; for one elsewhere give --channels URL --storage URL"}},
		{"both here, another endpoint behind", func(l *enroll.Line) {
			l.Storage.Endpoint, l.Channels.URL = "http://127.0.0.1:9000", "file:///srv/channels.git"
			l.Rest = []string{"--endpoint", "https://s3.example.org"}
		}, []string{"only this machine reaches file:///srv/channels.git,"}},
		{"ssh", func(l *enroll.Line) { l.Channels.URL = "ssh://git@git.example.org/x" }, []string{"a key of its own that can only read"}},
		{"ssh, with its key", func(l *enroll.Line) {
			l.Channels.URL = "ssh://git@git.example.org/x"
			l.Rest = []string{"--ssh-key", "/etc/sando/mnw/ssh", "--known-hosts", "/etc/sando/mnw/hosts"}
		}, nil},
		{"own authorities", func(l *enroll.Line) { l.Storage.CAFile, l.Channels.CAFile = "/b/s3.pem", "/b/git.pem" },
			[]string{"the certificates in /b/s3.pem are those of the storage's own authority: copy them to the node, and give -- --storage-ca FILE", "give -- --channels-ca FILE"}},
		{"mirror", func(l *enroll.Line) { l.Channels = repo.Config{URL: enroll.Bucket, CAFile: "/b/git.pem"} }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := line(test.change).Notes()
			if len(got) != len(test.want) {
				t.Fatalf("notes are %q, want %d", got, len(test.want))
			}
			for i := range got {
				if !strings.Contains(got[i], test.want[i]) {
					t.Errorf("note is %q, want %q", got[i], test.want[i])
				}
			}
		})
	}
}

// A shell takes the line apart into the words it was made of.
func TestQuote(t *testing.T) {
	words := []string{"printf", `%s\n`, "", "plain", "a b", "it's", `"$HOME"`, "$(id)", "`id`", `back\slash`, "a;b", "a&b", "*", "~", "#x", "{a,b}", "!1", "ä", "a=b", "'", "--x='y'"}
	line := enroll.Quote(words)
	for _, shell := range []string{"sh", "bash"} {
		if _, err := exec.LookPath(shell); err != nil {
			continue // sh is everywhere
		}
		out, err := exec.Command(shell, "-c", line).Output()
		if diff := cmp.Diff(strings.Join(words[2:], "\n")+"\n", string(out)); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s\n%s", shell, err, line, diff)
		}
	}
}
