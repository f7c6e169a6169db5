package guides

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A shell is the terminal that a reader has open on a machine: what one block changes, the
// next one finds.
type shell struct {
	in   io.Writer
	said chan string // lines
	mark string      // ends what a command prints
}

// patience is how long a command may take on a busy machine. One that waits for somebody to
// type is found out by it.
const patience = 90 * time.Second

// open starts a shell, which cmd is to run, and ends it with the test.
func open(t *testing.T, cmd *exec.Cmd) *shell {
	t.Helper()
	in, input, err := os.Pipe()
	must(t, err)
	output, out, err := os.Pipe()
	must(t, err)
	s := &shell{in: input, said: make(chan string, 100), mark: rand.Text()}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, out // in turn, as on a terminal
	must(t, cmd.Start())
	in.Close()
	out.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(s.said)
		for r := bufio.NewReader(output); ; {
			line, err := r.ReadString('\n')
			if line != "" {
				s.said <- line
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		input.Close()
		_ = cmd.Cancel() // may have ended
		_ = cmd.Wait()   // how is of no use
		output.Close()
		for range s.said {
		}
		<-done
	})
	return s
}

// run has the shell run a command as if it were pasted, and returns what it printed and its
// exit status.
func (s *shell) run(text string) (printed string, exit int, err error) {
	// The shell would not find the mark if the command read it.
	if _, err := fmt.Fprintf(s.in, "%s\nprintf '%%s %%d\\n' %s $?\n", strings.TrimSuffix(text, "\n"), s.mark); err != nil {
		return "", 0, err
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		select {
		case line, ok := <-s.said:
			if !ok {
				return printed, 0, fmt.Errorf("the shell ended")
			}
			before, after, marked := strings.Cut(line, s.mark+" ")
			printed += before
			if marked {
				exit, err = strconv.Atoi(strings.TrimSpace(after))
				return printed, exit, err
			}
		case <-limit.C:
			return printed, 0, fmt.Errorf("not done after %s; does it read what is pasted behind it?", patience)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
