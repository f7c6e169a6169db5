package remote

import (
	"fmt"
	"slices"
	"testing"
)

func TestGitEnv(t *testing.T) {
	got := gitEnv([]string{"PATH=/bin", "HOME=/h", "GIT_DIR=x", "SANDO_KEY_PASSWORD=secret", "SANDO__A=b", "LANG=de", "LC_ALL=de", "GITHUB=keep", "odd"})
	want := []string{"PATH=/bin", "HOME=/h", "GITHUB=keep", "odd", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=file"}
	if !slices.Equal(got, want) {
		t.Errorf("gitEnv = %q, want %q", got, want)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		out, err string
		want     Verdict
	}{
		{"", "", Unclear},
		{"", "fatal: the remote end hung up unexpectedly", Unclear},
		{"To file:///x\n!\ta:b\t[rejected] (fetch first)\nDone\n", "error: failed to push", Busy},
		{"!\ta:b\t[rejected] (non-fast-forward)\n", "", Busy},
		{"!\ta:b\t[remote rejected] (failed to update ref)\n", "remote: error: cannot lock ref 'b': is at 1 but expected 2", Busy},
		{"!\ta:b\t[remote rejected] (failed to update ref)\n", "remote: error: cannot lock ref 'b': Unable to create 'b.lock': Permission denied", Refused},
		{"!\ta:b\t[remote rejected] (failed to update ref)\n", "remote: error: cannot lock ref 'b/c': 'b' exists; cannot create 'b/c'", Refused},
		{"!\ta:b\t[remote rejected] (incorrect old value provided)\n", "", Busy},
		{"!\ta:b\t[remote rejected] (pre-receive hook declined)\n", "remote: failed to update ref? no", Refused},
		{"!\ta:b\t[remote rejected] (branch is currently checked out)\n", "", Refused},
		{"!\ta:b\t[remote rejected] (non-fast-forward)\n", "error: denying non-fast-forward b", Refused},
		{"remote said !\tx\n", "", Unclear},
	} {
		s := &said{tail{[]byte(c.out)}, tail{[]byte(c.err)}}
		if got := judge(s); got != c.want {
			t.Errorf("judge(%q, %q) = %d, want %d", c.out, c.err, got, c.want)
		}
	}
}

func TestTail(t *testing.T) {
	var w tail
	for i := range 5000 {
		fmt.Fprintf(&w, "line %d\n", i)
	}
	if n := len(w.data); n != maxOutput {
		t.Errorf("kept %d bytes, want %d", n, maxOutput)
	}
	s := &said{err: w}
	if got, want := s.lastLines(), "line 4994; line 4995; line 4996; line 4997; line 4998; line 4999"; got != want {
		t.Errorf("lastLines = %q, want %q", got, want)
	}
	s = &said{out: tail{[]byte("To https://u:p@h/x\nDone\n")}, err: tail{[]byte("a\x1b[31mb\u202e\n  see ssh://u:secret@h/x\t.\r\n\n")}}
	if got, want := s.lastLines(), "a [31mb; see ssh://h/x ."; got != want {
		t.Errorf("lastLines = %q, want %q", got, want)
	}
}
