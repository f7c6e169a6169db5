// Package journal reads what the journal of systemd has of a unit.
//
//	lines, err := journal.Tail(ctx, "mnw.service", invocation, 20)
//
// It asks the program journalctl, since the format of the journal's files is systemd's own. An
// ordinary user may not read what the system's services say: that is an error, or no lines.
//
// # What belongs to an invocation
//
// The journal marks each line with the invocation of the unit that printed it, unless it reads
// the line when the process is gone and the unit has ended: then it knows only the unit. That
// is how a shell script fails. So lines without a mark belong to the invocation before them.
// What a program sends otherwise than by its standard output, and then ends at once, may not
// be known as its at all. A unit with LogNamespace= has a journal of its own, which is not
// looked at.
package journal

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
	maxTime  = 10 * time.Second // to find the lines
	syncTime = 3 * time.Second  // to wait for what is still on its way
	maxBytes = 16 << 20         // of what journalctl prints; a line of a log has up to 48 KiB
	maxLine  = 300              // bytes of a line that is returned
)

// Tail returns the last lines that the journal has of a unit, oldest first: what it
// printed, and what systemd said about it ("Main process exited, code=exited, status=2"),
// less what it says of each start and stop. With an invocation only those of that run, else
// the newest of any. Lines without text are left out, what is unprintable in one is replaced,
// and one of more than 300 bytes is cut.
//
// It takes 13 s at most.
func Tail(ctx context.Context, unit, invocation string, lines int) ([]string, error) {
	if !anyUnit.MatchString(unit) {
		return nil, fmt.Errorf("journal of unit %q: that is not the name of a unit", unit)
	}
	if invocation != "" && !invocationID.MatchString(invocation) {
		return nil, fmt.Errorf("journal of unit %q: %q is not the ID of an invocation", unit, invocation)
	}
	sync(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, maxTime, errTime)
	defer cancel()
	s := scan{unit: unit, invocation: invocation, lines: lines}
	err := s.ask(ctx, "--unit="+unit)
	if err == nil && s.cut && !s.seen {
		// Later invocations have too much to say. Then without what is not marked.
		err = s.ask(ctx, "_SYSTEMD_INVOCATION_ID="+invocation, "+", "INVOCATION_ID="+invocation, "_PID=1")
	}
	if err != nil {
		return nil, fmt.Errorf("journal of unit %q: %w", unit, err)
	}
	slices.Reverse(s.found)
	return s.found, nil
}

var (
	anyUnit      = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,255}$`) // what journalctl would take for a pattern is none
	invocationID = regexp.MustCompile(`^[0-9a-f]{32}$`)
	colours      = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)
)

// sync waits until the journal has what was printed until now. Who may not ask for that
// reads what is there.
func sync(ctx context.Context) {
	limit := syncTime
	if end, has := ctx.Deadline(); has {
		limit = min(limit, time.Until(end)/2) // what is there is worth more than what may come
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := program(ctx, "--sync")
	_ = cmd.Run()
}

// program is journalctl with none of this process's environment: there may be credentials in it.
func program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "journalctl", args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	cmd.WaitDelay = time.Second
	return cmd
}

var errTime = fmt.Errorf("journalctl took longer than %s", maxTime)

// scan looks for the last lines of one invocation of a unit, from the newest on.
//
// It cannot leave the choice to journalctl, which finds only what is marked.
type scan struct {
	unit, invocation string
	lines            int

	found   []string // newest first
	unknown []string // of no known invocation, later than any of found
	seen    bool     // something of the invocation was there
	cut     bool     // there may be more
}

// ask looks through what journalctl has that matches.
func (s *scan) ask(ctx context.Context, match ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := program(ctx, append([]string{"--quiet", "--no-pager", "--all", "--reverse", "--output=json",
		"--output-fields=MESSAGE,MESSAGE_ID,INVOCATION_ID,_SYSTEMD_INVOCATION_ID,_SYSTEMD_UNIT"}, match...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if s.read(io.LimitReader(out, maxBytes)) && ctx.Err() == nil {
		cancel() // it may have more to print than anybody reads
		_ = cmd.Wait()
		return nil
	}
	err = cmd.Wait()
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		if words := cleanLine(said.String()); words != "" {
			err = fmt.Errorf("%w: it said: %s", err, words)
		}
		return fmt.Errorf("journalctl: %w", err)
	}
	return nil
}

// entry is what is asked of one: each a string, or something else; see text.
type entry struct {
	Message    json.RawMessage `json:"MESSAGE"`
	ID         json.RawMessage `json:"MESSAGE_ID"`
	About      json.RawMessage `json:"INVOCATION_ID"` // process 1 says it of a unit
	Invocation json.RawMessage `json:"_SYSTEMD_INVOCATION_ID"`
	Unit       json.RawMessage `json:"_SYSTEMD_UNIT"`
}

// read reads entries, newest first, until it has enough. It reports whether there may be more.
func (s *scan) read(r io.Reader) (more bool) {
	s.cut, s.unknown = false, nil
	for d := json.NewDecoder(r); ; {
		var e entry
		if err := d.Decode(&e); err != nil {
			s.cut = !errors.Is(err, io.EOF)
			return s.cut
		}
		if s.add(e) {
			return true
		}
	}
}

// add takes an entry, and reports whether that is enough.
func (s *scan) add(e entry) bool {
	// Of the unit's own processes the journal knows it. They may say something else.
	id := text(e.About)
	if known := text(e.Invocation); known != "" && text(e.Unit) == s.unit {
		id = known
	}
	if id != "" && id != s.invocation && s.invocation != "" {
		s.unknown = nil
		return s.seen
	}
	idle := id == "" && text(e.Unit) == "init.scope" // systemd on a unit that does not run
	if !idle && !slices.Contains(routine(), text(e.ID)) {
		for _, line := range slices.Backward(strings.Split(text(e.Message), "\n")) {
			if line = cleanLine(line); line != "" && len(s.found)+len(s.unknown) < s.lines {
				s.unknown = append(s.unknown, line)
			}
		}
	}
	if id == s.invocation || s.invocation == "" {
		s.found, s.unknown, s.seen = append(s.found, s.unknown...), nil, true
	}
	return len(s.found) >= s.lines
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

// text returns a field of an entry: a string, the bytes of what is none, or a list of
// those where there are several.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
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
		return text(several[0])
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
	if len(line) <= maxLine {
		return line
	}
	cut := maxLine - len("…")
	for !utf8.RuneStart(line[cut]) {
		cut--
	}
	return line[:cut] + "…"
}
