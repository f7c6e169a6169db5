package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// NewJournalLogger is NewLogger, and where w leads to systemd's journal, each line begins
// with its priority, as sd-daemon(3) has it: so `journalctl -p warning` finds the warnings.
func NewJournalLogger(w io.Writer, env func(string) string, level slog.Leveler) *slog.Logger {
	if !isJournal(w, env("JOURNAL_STREAM")) {
		return NewLogger(w, level)
	}
	line := &line{w: w}
	return slog.New(&journal{NewLogger(line, level).Handler(), line})
}

// isJournal reports whether w is the stream that systemd says it has connected.
func isJournal(w io.Writer, stream string) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// journal is a handler that puts the priority before each line.
type journal struct {
	slog.Handler
	line *line
}

func (j *journal) Handle(ctx context.Context, r slog.Record) error {
	j.line.mu.Lock()
	defer j.line.mu.Unlock()
	j.line.level = r.Level
	return j.Handler.Handle(ctx, r)
}

func (j *journal) WithAttrs(a []slog.Attr) slog.Handler {
	return &journal{j.Handler.WithAttrs(a), j.line}
}

func (j *journal) WithGroup(name string) slog.Handler {
	return &journal{j.Handler.WithGroup(name), j.line}
}

// line writes what a handler writes in one piece, a line.
type line struct {
	mu    sync.Mutex
	w     io.Writer
	level slog.Level
}

func (l *line) Write(p []byte) (int, error) {
	priority := "<7>"
	switch {
	case l.level >= slog.LevelError:
		priority = "<3>"
	case l.level >= slog.LevelWarn:
		priority = "<4>"
	case l.level >= slog.LevelInfo:
		priority = "<6>"
	}
	if _, err := l.w.Write(bytes.Join([][]byte{[]byte(priority), p}, nil)); err != nil {
		return 0, err
	}
	return len(p), nil
}
