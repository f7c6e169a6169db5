package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// Asks reports whether somebody is there to answer questions.
func (s Std) Asks() bool { return IsTerminal(s.In) }

// Secret asks for a line on the terminal, which is not shown.
func (s Std) Secret(ctx context.Context, question string) ([]byte, error) {
	fd := int(s.In.(*os.File).Fd()) // Asks
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(s.Err, question)
	defer fmt.Fprintln(s.Err)
	line, err := typed(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
	if ctx.Err() != nil {
		if rerr := term.Restore(fd, before); rerr != nil {
			return nil, rerr
		}
	}
	return line, err
}

// Confirm asks a question on the terminal. Anything but yes is no.
func (s Std) Confirm(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(s.Err, "%s [y/N] ", question)
	line, err := typed(ctx, func() ([]byte, error) {
		line, err := bufio.NewReader(s.In).ReadBytes('\n')
		if len(line) > 0 || errors.Is(err, io.EOF) {
			err = nil // the end is no yes
		}
		return line, err
	})
	if len(line) == 0 {
		fmt.Fprintln(s.Err)
	}
	if err != nil {
		return false, err
	}
	answer := strings.ToLower(strings.TrimSpace(string(line)))
	return answer == "y" || answer == "yes", nil
}

// typed waits for a line. A read from a terminal cannot be called off: after ctx has ended,
// the goroutine waits for a line until the process ends, which is soon.
func typed(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		line []byte
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		line, err := read()
		done <- answer{line, err}
	}()
	select {
	case a := <-done:
		return a.line, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
