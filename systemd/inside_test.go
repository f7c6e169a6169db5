package systemd

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"makenot.work/sando/systemd/journal"
)

// insideName is the name of this test binary in the host: there it does what it is told to
// do in its arguments, as a puller would that runs there.
const insideName = "/usr/local/bin/inside"

func TestMain(m *testing.M) {
	if os.Args[0] == insideName {
		os.Exit(inside(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// reply is what a call inside returned.
type reply struct {
	Lines []string `json:",omitempty"`
	Ended Ended    `json:",omitzero"`
	Err   string   `json:",omitempty"`
}

// request is a call to be made inside.
type request struct {
	Unit, Invocation string
	Lines            int
	Hook             *Hook // to be run, instead of reading a journal
}

func inside(args []string) int {
	var r request
	a, err := reply{}, json.Unmarshal([]byte(args[0]), &r)
	if err == nil {
		a, err = r.do(context.Background())
	}
	if err != nil {
		a.Err = err.Error()
	}
	out := os.Stdout
	if len(args) > 1 {
		if out, err = os.Create(args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if err := json.NewEncoder(out).Encode(a); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (r *request) do(ctx context.Context) (a reply, err error) {
	if r.Hook == nil {
		a.Lines, err = journal.Tail(ctx, r.Unit, r.Invocation, r.Lines)
		return a, err
	}
	conn, err := Connect(ctx)
	if err != nil {
		return a, err
	}
	defer conn.Close()
	a.Ended, err = conn.RunHook(ctx, *r.Hook)
	return a, err
}

// inside makes a call in the host, by the program before it if one is named.
func (l *lab) inside(t *testing.T, r request, by ...string) reply {
	t.Helper()
	words, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	args := append(by, insideName, string(words))
	return parseReply(t, l.Run(t, args[0], args[1:]...))
}

func parseReply(t *testing.T, text string) reply {
	t.Helper()
	var a reply
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return a
}

// sandbox returns the sandbox of a unit that is shipped.
func sandbox(t *testing.T, name string) string {
	t.Helper()
	data, err := fs.ReadFile(Units(), name)
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(data), "\n# The sandbox.")
	if !ok {
		t.Fatalf("%s has no sandbox", name)
	}
	text, _, _ = strings.Cut(text, "\n[")
	return "#" + strings.TrimSpace(text)
}

// sandboxed makes a call in the host, from a service with the sandbox of the puller.
func (l *lab) sandboxed(t *testing.T, r request) reply {
	t.Helper()
	words, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	l.Run(t, "mkdir", "-p", "/opt/mnw")
	l.Write(t, "/run/request", string(words), 0o600)
	l.unit(t, "inside@.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exec "+insideName+` "$$(cat /run/request)" /opt/mnw/answer'`+"\n"+sandbox(t, "puller@.service"))
	if r := l.Try(t, "systemctl", "start", "inside@mnw.service"); r.Code != 0 {
		t.Fatalf("%s%s", r.Err, l.Journal(t, "inside@mnw.service"))
	}
	return parseReply(t, l.Read(t, "/opt/mnw/answer"))
}
