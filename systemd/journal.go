package systemd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"makenot.work/sando/internal/canon"
)

const (
	journalTime  = 10 * time.Second // to find the lines
	journalSync  = 3 * time.Second  // to wait for what is still on its way
	journalBytes = 4 << 20          // of what journalctl prints; a line of a log has up to 48 KiB
	lineBytes    = 300              // of a line that is returned
)

// Journal returns the last lines that the journal has of a unit, oldest first: what it
// printed, and what systemd said about it ("Main process exited, code=exited, status=2"),
// less what it says of each start and stop. With an invocation only those of that run, else
// the newest of any. Lines without text are left out, what is unprintable in one is replaced,
// and one of more than 300 bytes is cut.
//
// It asks the program journalctl, for 13 s at most. An ordinary user may not read the
// journal of the system: that is an error, or no lines. What a program sends to the journal
// otherwise than by its standard output, and then ends at once, is not always known as its.
func Journal(ctx context.Context, unit, invocation string, lines int) ([]string, error) {
	if !anyUnit.MatchString(unit) {
		return nil, fmt.Errorf("journal of unit %q: that is not the name of a unit", unit)
	}
	match := []string{"--unit=" + unit}
	if invocation != "" {
		if !invocationID.MatchString(invocation) {
			return nil, fmt.Errorf("journal of unit %q: %q is not the ID of an invocation", unit, invocation)
		}
		// What the processes of the unit said, and what process 1 said of it.
		match = []string{"_SYSTEMD_INVOCATION_ID=" + invocation, "+", "INVOCATION_ID=" + invocation, "_PID=1"}
	}
	sync(ctx)
	args := []string{"--quiet", "--no-pager", "--all", "--output=json", "--output-fields=MESSAGE,MESSAGE_ID", "--reverse",
		// Some are left out.
		fmt.Sprintf("--lines=%d", 2*lines+10)}
	found, err := journalctl(ctx, append(args, match...), lines)
	if err != nil {
		return nil, fmt.Errorf("journal of unit %q: %w", unit, err)
	}
	return found, nil
}

var (
	anyUnit      = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,255}$`) // what journalctl would take for a pattern is none
	invocationID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	colours      = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)
)

// sync waits until the journal has what was printed until now. Who may not ask for that
// reads what is there.
func sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, journalSync)
	defer cancel()
	cmd := journalProgram(ctx, "--sync")
	_ = cmd.Run()
}

// journalProgram is journalctl with none of this process's environment: there may be credentials in it.
func journalProgram(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	cmd.WaitDelay = time.Second
	return cmd
}

var errJournal = fmt.Errorf("journalctl took longer than %s", journalTime)

// journalctl returns the last lines of what it finds, newest first.
func journalctl(ctx context.Context, args []string, lines int) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, journalTime, errJournal)
	defer cancel()
	cmd := journalProgram(ctx, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	found, enough := newest(io.LimitReader(out, journalBytes), lines)
	if enough {
		cancel() // it may have more to print than anybody reads
		_ = cmd.Wait()
		return found, nil
	}
	err = cmd.Wait()
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		if text := cleanLine(said.String()); text != "" {
			err = fmt.Errorf("%w: it said: %s", err, text)
		}
		return nil, fmt.Errorf("journalctl: %w", err)
	}
	return found, nil
}

// newest returns the last lines of the entries in r, which come newest first, and whether
// there may be more of them.
func newest(r io.Reader, lines int) (found []string, more bool) {
	for d := json.NewDecoder(r); len(found) < lines; {
		var entry struct {
			Message json.RawMessage `json:"MESSAGE"`
			ID      json.RawMessage `json:"MESSAGE_ID"`
		}
		if err := d.Decode(&entry); err != nil {
			more = !errors.Is(err, io.EOF)
			slices.Reverse(found)
			return found, more
		}
		if slices.Contains(routine(), message(entry.ID)) {
			continue
		}
		for _, line := range slices.Backward(strings.Split(message(entry.Message), "\n")) {
			if line = cleanLine(line); line != "" && len(found) < lines {
				found = append(found, line)
			}
		}
	}
	slices.Reverse(found)
	return found, true
}

// routine lists the messages of systemd that say nothing about a failure; see
// sd-messages.h and `journalctl --catalog`.
func routine() []string {
	return []string{
		"7d4958e842da4a758f6c1cdc7b36dcc5", // Starting …
		"39f53479d3a045ac8e11786248231fbf", // Started …, Finished …
		"de5b426a63be47a7b6ac3eaac82e2f6f", // Stopping …
		"9d1aaa27d60140bd96365438aad20286", // Stopped …
		"7ad2d189f7e94e70a38c781354912448", // Deactivated successfully
		"ae8f7b866b0347b9af31fe1c80b127c0", // Consumed …
	}
}

// message returns the text of an entry: a string, the bytes of what is none, or a list of
// those where there are several.
func message(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var numbers []int
	if json.Unmarshal(raw, &numbers) == nil {
		data := make([]byte, len(numbers))
		for i, n := range numbers {
			data[i] = byte(n)
		}
		return string(data)
	}
	var several []json.RawMessage
	if json.Unmarshal(raw, &several) == nil && len(several) > 0 {
		return message(several[0])
	}
	return ""
}

// cleanLine makes a line of a log fit to be shown.
func cleanLine(line string) string {
	line = colours.ReplaceAllString(strings.ToValidUTF8(line, "\uFFFD"), "")
	line = strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case canon.Unprintable(r):
			return '\uFFFD'
		}
		return r
	}, line))
	if len(line) <= lineBytes {
		return line
	}
	cut := lineBytes - len("…")
	for !utf8.RuneStart(line[cut]) {
		cut--
	}
	return line[:cut] + "…"
}
