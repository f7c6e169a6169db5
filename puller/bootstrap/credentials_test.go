package bootstrap

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
)

const missing = "/nowhere/sando/git.token"

func TestCredentials(t *testing.T) {
	ask := func(answer string) Person {
		return Person{Secret: func(context.Context, string) ([]byte, error) { return []byte(answer), nil }}
	}
	for _, c := range []struct {
		name   string
		node   Node
		wanted wanted
		want   credential
		err    string
	}{
		{"typed", Node{person: ask(" s3cret ")}, wanted{usual: missing, missing: "; x"}, credential{file: missing, typed: []byte("s3cret\n")}, ""},
		{"typed nothing, may be none", Node{person: ask("")}, wanted{usual: missing}, credential{}, ""},
		{"typed nothing, was named", Node{person: ask("")}, wanted{key: "channels.token_file", given: missing}, credential{}, "what was typed is not one word"},
		{"typed two words", Node{person: ask("s3cret word")}, wanted{usual: missing}, credential{}, "what was typed is not one word"},
		{"dry", Node{dry: true, person: ask("s3cret")}, wanted{usual: missing}, credential{file: missing, asked: true}, ""},
		{"none", Node{}, wanted{given: None, usual: missing}, credential{}, ""},
		{"nobody there, may be none", Node{}, wanted{usual: missing}, credential{}, ""},
		{"nobody there", Node{}, wanted{key: "storage.access_key_file", usual: missing, missing: "; or --anonymous"}, credential{},
			"storage.access_key_file: " + missing + " is not there, and nobody can be asked for it here: write it first, `install -d -m 700 /nowhere/sando && (umask 077; cat >" + missing + ")`; or --anonymous"},
		{"the configuration names none", Node{had: map[string]string{"app": "mnw"}, person: ask("s3cret")}, wanted{key: "channels.token_file", usual: missing}, credential{}, ""},
		{"the configuration names one", Node{had: map[string]string{"app": "mnw", "channels.token_file": missing}}, wanted{key: "channels.token_file", usual: "/x"}, credential{}, "nobody can be asked"},
	} {
		got, err := c.node.credential(t.Context(), c.wanted)
		switch {
		case (err == nil) != (c.err == ""), err != nil && (!strings.Contains(err.Error(), c.err) || reason.Of(err) != reason.Config):
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: the error tells the secret: %v", c.name, err)
		case got.file != c.want.file || string(got.typed) != string(c.want.typed) || got.asked != c.want.asked:
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// What was typed can be used as a file before it is one.
func TestMemory(t *testing.T) {
	n := &Node{creds: credentials{token: credential{file: missing, typed: []byte("s3cret\n")}}}
	c, done, err := n.usable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(c.token.file)
	info, serr := os.Stat(c.token.file)
	if err != nil || serr != nil || string(data) != "s3cret\n" || info.Mode() != 0o600 || n.creds.token.file != missing {
		t.Errorf("%q, %v, %v", data, err, info)
	}
	done()
	if _, err := os.Stat(c.token.file); err == nil {
		t.Error("it is still there")
	}
}

// What is printed to be pasted asks the right port, and runs nothing that a URL says.
func TestSSHMend(t *testing.T) {
	for channels, want := range map[string]string{
		"ssh://git@git.example.org/x.git":      "&& ssh-keyscan -t ed25519 git.example.org >/nowhere/hosts`",
		"ssh://git@git.example.org:2222/x.git": "&& ssh-keyscan -t ed25519 -p 2222 git.example.org >/nowhere/hosts`",
		"ssh://git@[::1]:2222/x.git":           "&& ssh-keyscan -t ed25519 -p 2222 ::1 >/nowhere/hosts`",
		"ssh://git@$(reboot)/x.git":            `--channels: "$(reboot)" is no name of a host`,
		"ssh://git@-oProxyCommand=x/x.git":     `--channels: "-oProxyCommand=x" is no name of a host`,
	} {
		n := &Node{o: Options{App: "mnw", Channels: repo.Config{URL: channels, KnownHosts: "/nowhere/hosts"}}}
		n.o.Channels.SSHKey = filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(n.o.Channels.SSHKey, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.find(t.Context()); err == nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", channels, err, want)
		}
	}
}
