package e2e

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"makenot.work/sando/builder/enroll"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/cli"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	puller "makenot.work/sando/puller/cli"
)

// What builder enroll prints is a command that puller has, with flags that it has.
func TestEnrollLine(t *testing.T) {
	lines := map[string]enroll.Line{
		"all of it": {
			Storage:  bucket.Config{URL: "s3://releases/apps", Endpoint: "https://s3.example.org", Region: "eu-1", PathStyle: true, Anonymous: true},
			Channels: repo.Config{URL: "ssh://git@git.example.org/ops/channels.git", Branch: "live", Path: "apps/mnw"},
			MinSeq:   1780455236000,
			Rest:     []string{"--ssh-key", "/root/ssh", "--known-hosts", "/root/hosts", "--storage-ca", "/root/s3.pem", "--exec", "/opt/mnw/current/mnw serve"},
		},
		"mirror": {Storage: bucket.Config{URL: "file:///srv/bucket"}, Channels: repo.Config{URL: enroll.Bucket}},
		"as notes say": {
			Storage: bucket.Config{URL: "s3://releases"}, Channels: repo.Config{URL: "https://git.example.org/x.git", Branch: "main"},
			Rest: []string{"--channels-ca", "/root/git.pem", "--token-file", "/root/token", "--trust", "/root/trust.json", "--endpoint", "https://cdn.example.org", "--adopt"},
		},
	}
	for name, l := range lines {
		l.App, l.Tier, l.Node, l.Fingerprint = "mnw", "b", "alpha-west-1", layout.Sum(nil)
		words, err := l.Words()
		if err != nil {
			t.Fatal(err)
		}
		root := puller.Command(cli.Std{Out: io.Discard, Err: io.Discard})
		if words[0] != root.Name() {
			t.Fatalf("%s: program is %q, want %q", name, words[0], root.Name())
		}
		cmd, rest, err := root.Find(words[1:])
		if err != nil || cmd.Name() != words[1] {
			t.Fatalf("%s: command is %q, want %q: %v", name, cmd.Name(), words[1], err)
		}
		if err := cmd.ParseFlags(rest); err != nil {
			t.Fatalf("%s: %v in %q", name, err, rest)
		}
		if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
			t.Errorf("%s: %v in %q", name, err, rest)
		}
		for flag, want := range map[string]string{"app": l.App, "tier": l.Tier, "node": l.Node, "trust-fingerprint": string(l.Fingerprint), "storage": l.Storage.URL, "channels": l.Channels.URL} {
			if got := cmd.Flag(flag); got == nil || got.Value.String() != want {
				t.Errorf("%s: --%s is %v, want %q", name, flag, got, want)
			}
		}
	}
}

// The flags that builder enroll lets pass behind -- are those that puller bootstrap takes.
func TestEnrollFlags(t *testing.T) {
	root := puller.Command(cli.Std{Out: io.Discard, Err: io.Discard})
	cmd, _, err := root.Find([]string{"bootstrap"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	line := enroll.Line{App: "mnw", Tier: "b", Node: "alpha-west-1", Fingerprint: layout.Sum(nil)}
	add := func(f *pflag.Flag) {
		if f.Name == "config" || f.Name == "set" {
			return // bootstrap refuses them
		}
		want[f.Name] = f.Value.Type() != "bool"
		if f.Shorthand != "" {
			line.Rest = append(line.Rest, "-"+f.Shorthand)
		}
	}
	cmd.LocalFlags().VisitAll(add)
	cmd.InheritedFlags().VisitAll(add)
	if diff := cmp.Diff(want, enroll.Flags()); diff != "" {
		t.Errorf("puller bootstrap has other flags than builder/enroll/flags.go (-want +got):\n%s", diff)
	}
	if _, err := line.Words(); err != nil || len(line.Rest) == 0 {
		t.Errorf("%q: %v", line.Rest, err)
	}
}
