// Command demo shows what Sando does, with the real programs: go run ./e2e/demo, in a
// clone of the repository.
//
// It needs Go and git, and neither root, nor systemd, nor a server, nor the network. In
// a directory of its own it makes a git repository of a small app (e2e/app), a builder
// with a bucket and a channel repo, and two nodes, one of tier a and one of tier b.
// Five versions are released, promoted, pinned, tampered with, rolled back. Each step
// prints what it is about, the commands, which are run exactly as they are printed, what
// they answered, and after "look:" what there is to see.
//
// What a step says is checked: the exit codes, what `puller status` says, what `current`
// names, what the app answers over HTTP. The demo ends with exit code 1 at the first
// thing that is not as it should be.
//
// With -pause it waits for Enter after each step, to look around in another terminal.
//
// Nothing is left behind, also when it fails or is interrupted: every process that it
// started is ended, and the directory removed. Only SIGKILL leaves something.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	// With a handler for SIGPIPE, writing to a closed pipe is an error like others, and
	// what was started is still ended.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run tells the story and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(errs)
	pause := flags.Bool("pause", false, "wait for Enter after each step, to look around in another terminal")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	began := time.Now()
	p := &printer{w: out}
	err := play(ctx, p, in, *pause)
	if err == nil {
		p.printf("\nAll of it went as it said, in %d s. Nothing is left behind.\n", int(time.Since(began).Seconds()))
		err = p.err
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.New("interrupted; what it had started was ended, and its directory removed")
		}
		fmt.Fprintf(errs, "\ndemo: %v\n", err)
		return 1
	}
	return 0
}

// play makes the stage, plays the steps on it, and clears it away.
func play(ctx context.Context, p *printer, in io.Reader, pause bool) (err error) {
	d, err := newStage(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.clear()) }()
	p.printf("Sando, shown with the real programs. Ctrl-C ends it; nothing is left behind.\n")
	wait := enter(in)
	for i, s := range d.steps() {
		p.printf("\n%d. %s\n", i+1, s.title)
		p.wrap("   ", "", s.what)
		p.printf("\n")
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("step %d, %s: %w", i+1, s.title, err)
		}
		if p.err != nil {
			return p.err
		}
		if pause {
			p.printf("\n   Enter: the next step ")
			if err := wait(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// step is one scene.
type step struct {
	title string
	what  string
	do    func(context.Context) error
}

// enter returns a function that waits for a line from in. The goroutine that reads it
// cannot be called off; after an interrupt it ends with the process.
func enter(in io.Reader) func(context.Context) error {
	r := bufio.NewReader(in)
	return func(ctx context.Context) error {
		line := make(chan error, 1)
		go func() {
			_, err := r.ReadString('\n')
			line <- err
		}()
		select {
		case err := <-line:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
