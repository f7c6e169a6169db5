package archive

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

var testTime = time.Unix(1780434000, 0) // 2026-06-02T21:00:00Z

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// put makes a regular file, and the directories that it lies in.
func put(tb testing.TB, name, data string, perm fs.FileMode) {
	tb.Helper()
	check(tb, os.MkdirAll(filepath.Dir(name), 0o755))
	check(tb, os.WriteFile(name, []byte(data), 0o600))
	check(tb, os.Chmod(name, perm))
}

func openRoot(tb testing.TB, dir string) *os.Root {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	check(tb, err)
	tb.Cleanup(func() { root.Close() })
	return root
}

// pack returns the tarball of dir.
func pack(tb testing.TB, dir string) ([]byte, Info, []tree.Entry) {
	tb.Helper()
	var b bytes.Buffer
	info, entries, err := Pack(tb.Context(), &b, openRoot(tb, dir), testTime, nil)
	check(tb, err)
	return b.Bytes(), info, entries
}

func wanted(info Info) Want {
	return Want{Unpacked: info.Unpacked, Entries: info.Entries, Tree: info.Tree, MTime: testTime}
}

// squeeze puts data into a zstd frame.
func squeeze(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := newEncoder(&b)
	check(tb, err)
	_, err = w.Write(data)
	check(tb, err)
	check(tb, w.Close())
	return b.Bytes()
}

// unsqueeze is zstd as others know it.
func unsqueeze(tb testing.TB, data []byte) []byte {
	tb.Helper()
	s, err := newStream(bytes.NewReader(data))
	check(tb, err)
	defer s.close()
	plain, err := io.ReadAll(s)
	check(tb, err)
	return plain
}

// part is one entry of a tar archive.
type part struct {
	h    header
	head []byte // header blocks
	body []byte // content, filled up
}

func newPart(h header, content string) part {
	h.size = int64(len(content))
	body := append([]byte(content), make([]byte, padding(h.size))...)
	return part{h, h.append(nil, testTime), body}
}

func dirPart(path string) part { return newPart(header{path: path, kind: tree.Dir}, "") }
func linkPart(path, target string) part {
	return newPart(header{path: path, kind: tree.Link, link: target}, "")
}
func filePart(path, content string) part {
	return newPart(header{path: path, kind: tree.File}, content)
}
func execPart(path, content string) part {
	return newPart(header{path: path, kind: tree.Exec}, content)
}

// join returns the archive of parts.
func join(parts []part) []byte {
	var b []byte
	for _, p := range parts {
		b = append(append(b, p.head...), p.body...)
	}
	return append(b, make([]byte, endSize)...)
}

// wantOf is what a manifest would say about parts.
func wantOf(parts []part) Want {
	w := Want{MTime: testTime}
	var entries []tree.Entry
	for _, p := range parts {
		e := tree.Entry{Path: p.h.path, Kind: p.h.kind, Sum: tree.NoSum}
		switch {
		case p.h.kind == tree.Link:
			e.Sum = tree.HexOf(p.h.link)
		case p.h.kind.Regular():
			e.Sum = tree.HexOf(string(p.body[:p.h.size]))
		}
		entries = append(entries, e)
		w.Unpacked += p.h.size
	}
	w.Entries, w.Tree = int64(len(entries)), tree.Hash(entries)
	return w
}

// sample is a small archive of everything.
func sample() []part {
	deep := strings.Repeat("l", 60)
	long := deep + "/" + strings.Repeat("n", 60)
	return []part{
		dirPart("d"),
		filePart("d/empty", ""),
		filePart("d/f", "content\n"),
		linkPart("d/l", "f"),
		dirPart(deep),
		filePart(long, strings.Repeat("x", 700)),
		execPart("server", "#!/bin/sh\n"),
		linkPart("z", long),
		filePart("ä", "not ASCII"),
	}
}

// lenient lets pass anything small, up to the comparison at the end.
func lenient() Want {
	return Want{Unpacked: 1 << 20, Entries: 1000, Tree: layout.Sum(nil), MTime: testTime}
}

// needsTar skips a test where GNU tar or zstd are missing.
func needsTar(tb testing.TB) {
	tb.Helper()
	testenv.Program(tb, "tar")
	testenv.Program(tb, "zstd")
}
