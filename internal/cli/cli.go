// Package cli is what both programs do alike on the command line: exit codes, errors,
// logs, progress, sizes and JSON.
//
// Results go to standard output; logs, progress and errors to standard error. With
// --json, standard output is one JSON object, also for an error:
//
//	{"error": "…", "reason": "signature", "exit": 3}
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"makenot.work/sando/internal/reason"
)

// Std is what a program talks to.
type Std struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
	Env func(string) string
}

// OS is the Std of the running process.
func OS() Std { return Std{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv} }

// reported is an error that the command has shown by itself.
type reported struct{ code reason.Code }

func (r reported) Error() string { return string(r.code) }

// Exit ends a command that has already said everything with the exit code of code.
func Exit(code reason.Code) error {
	if code.Exit() == 0 {
		return nil
	}
	return reported{code}
}

// Main runs the command tree root and returns the exit code. Errors of cobra itself
// (unknown command, unknown flag, wrong arguments) are usage errors, exit 2.
func Main(ctx context.Context, root *cobra.Command, args []string, std Std) int {
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.Version = Version()
	// No template of our own for it, nor for anything else: with text/template linked, the
	// linker drops no method any more, and each program is 5 MB bigger.
	root.Flags().Bool("version", false, "version of "+root.Name()) // cobra's has a -v, which is something else here
	root.InitDefaultCompletionCmd(args...)
	for _, c := range root.Commands() {
		if !c.Runnable() { // or cobra shows its help and is content, whatever it was asked for
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
	root.SetHelpCommand(help())
	root.InitDefaultHelpCmd()
	entered := false
	prepare(root, &entered)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !entered {
		err = reason.Errorf(reason.Config, "%w; see %q", plain(err), cmd.CommandPath()+" --help")
	}
	var done reported
	if errors.As(err, &done) {
		return done.code.Exit()
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = reason.Errorf(reason.Of(err), "stopped by a signal: %w", err)
	}
	code := reason.Of(err)
	fmt.Fprintf(std.Err, "%s: %s: %s\n", root.Name(), code, Printable(err.Error()))
	if f := cmd.Flags().Lookup("json"); f != nil && f.Value.String() == "true" {
		if jerr := JSON(std.Out, Failure{err.Error(), code, code.Exit()}); jerr != nil {
			fmt.Fprintf(std.Err, "%s: %s\n", root.Name(), jerr)
		}
	}
	return code.Exit()
}

// Version says what was built: the tag or the commit that the go command found in the clone,
// with "+dirty" after it when files were changed, and by which Go.
func Version() string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = info.Main.Version
	}
	return fmt.Sprintf("%s (%s %s/%s)", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// Failure is what --json prints for an error.
type Failure struct {
	Error  string      `json:"error"`
	Reason reason.Code `json:"reason"`
	Exit   int         `json:"exit"`
}

// JSON writes v as an indented JSON document.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// NewLogger returns a logger that writes "key=value" lines to w. It leaves the time
// out: journald adds it, and a person at a terminal does not need it.
func NewLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey && a.Value.String() == "INFO") {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
