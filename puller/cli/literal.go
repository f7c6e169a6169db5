package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"makenot.work/sando/puller"
)

// literal puts flags behind the program's name in each command of text that begins with it:
// a command is what stands between two backticks. So it can be typed as it is printed.
func literal(text, flags string) string {
	if flags == "" {
		return text
	}
	parts := strings.Split(text, "`")
	for n := 1; n < len(parts)-1; n += 2 {
		rest, ok := strings.CutPrefix(parts[n], "puller")
		given := strings.HasPrefix(rest, " --app ") || strings.HasPrefix(rest, " --config ")
		if ok && !given && (rest == "" || rest[0] == ' ') {
			parts[n] = "puller " + flags + rest
		}
	}
	return strings.Join(parts, "`")
}

// flags returns what this call needs so that it finds its configuration, "" if it would be
// found anyway.
func (p *program) flags() string {
	given := p.config
	if given == "" && p.app == "" {
		given = p.std.Env("SANDO_CONFIG")
	}
	file, err := puller.FindConfig(given, p.app, puller.ConfigDir)
	if err != nil {
		return ""
	}
	if abs, err := filepath.Abs(file); err == nil {
		if only, err := puller.FindConfig("", "", puller.ConfigDir); err == nil && only == abs {
			return ""
		}
	}
	if given != "" {
		return "--config " + quoted(given)
	}
	return "--app " + p.app
}

// installed reports whether this call has the configuration that the puller's units read.
func (p *program) installed(app string) bool {
	file, _, err := p.source()
	if err == nil {
		file, err = filepath.Abs(file)
	}
	return err == nil && file == filepath.Join(puller.ConfigDir, app+".toml")
}

// quoted writes a word for a shell.
func quoted(word string) string {
	if plain, err := regexp.MatchString(`^[\w./@%+=:,-]+$`, word); err == nil && plain {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// print writes what write writes, with the commands in it as this call needs them.
func (p *program) print(write func(io.Writer)) {
	var text bytes.Buffer
	write(&text)
	io.WriteString(p.std.Out, literal(text.String(), p.flags()))
}

// spell has the errors of cmd, and of those below it, name commands as this call needs them.
func (p *program) spell(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			err := run(c, args)
			if err == nil {
				return nil
			}
			text := literal(err.Error(), p.flags())
			if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 && !strings.Contains(text, "root") {
				text += ": run it as root"
			}
			if text != err.Error() {
				return &spelt{err, text}
			}
			return err
		}
	}
	for _, sub := range cmd.Commands() {
		p.spell(sub)
	}
}

// spelt is an error in other words.
type spelt struct {
	error
	text string
}

func (s *spelt) Error() string { return s.text }
func (s *spelt) Unwrap() error { return s.error }

// speller is a handler that has log lines name commands as this call needs them.
type speller struct {
	slog.Handler
	flags string
}

func (s speller) Handle(ctx context.Context, r slog.Record) error {
	as := slog.NewRecord(r.Time, r.Level, literal(r.Message, s.flags), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		if text := a.Value.String(); strings.Contains(text, "`puller") {
			a.Value = slog.StringValue(literal(text, s.flags))
		}
		as.AddAttrs(a)
		return true
	})
	return s.Handler.Handle(ctx, as)
}

func (s speller) WithAttrs(a []slog.Attr) slog.Handler {
	return speller{s.Handler.WithAttrs(a), s.flags}
}

func (s speller) WithGroup(name string) slog.Handler {
	return speller{s.Handler.WithGroup(name), s.flags}
}
