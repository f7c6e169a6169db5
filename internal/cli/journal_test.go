package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	for _, c := range []struct{ stream, want string }{
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino), "<6>msg=a\n<4>level=WARN msg=b app=mnw\n<3>level=ERROR msg=c x.n=1\n"},
		{fmt.Sprintf("%d:%d", st.Dev, st.Ino+1), "msg=a\nlevel=WARN msg=b app=mnw\nlevel=ERROR msg=c x.n=1\n"},
		{"", "msg=a\nlevel=WARN msg=b app=mnw\nlevel=ERROR msg=c x.n=1\n"},
	} {
		if err := f.Truncate(0); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		log := NewJournalLogger(f, func(string) string { return c.stream }, slog.LevelInfo)
		log.Debug("no")
		log.Info("a")
		log.With("app", "mnw").Warn("b")
		log.WithGroup("x").Error("c", "n", 1)
		got, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != c.want {
			t.Errorf("JOURNAL_STREAM=%s: %q, want %q", c.stream, got, c.want)
		}
	}
}
