package objects

import (
	"bytes"
	"compress/zlib"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/reason"
)

// TestLooseBomb has objects that unpack to much more than their headers say.
func TestLooseBomb(t *testing.T) {
	healthy := []byte("blob 5\x00hello")
	bomb := make([]byte, 64<<20)
	h := plumbing.ComputeHash(plumbing.BlobObject, []byte("hello"))
	for name, c := range map[string]struct {
		content []byte
		want    error
	}{
		"healthy":  {healthy, nil},
		"longer":   {append(healthy, bomb...), ErrCorrupt},
		"shorter":  {healthy[:len(healthy)-1], ErrCorrupt},
		"header":   {append([]byte("blob "), bytes.Repeat([]byte{'0'}, len(bomb))...), ErrCorrupt},
		"negative": {[]byte("blob -5\x00hello"), ErrCorrupt},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "objects", h.String()[:2], h.String()[2:])
		var packed bytes.Buffer
		z := zlib.NewWriter(&packed)
		_, err := z.Write(c.content)
		if err := errors.Join(err, z.Close(), os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, packed.Bytes(), 0o644)); err != nil {
			t.Fatal(err)
		}
		s := Open(dir)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err = s.Read(plumbing.BlobObject, h, MaxBlob)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Read = %v, want %v", name, err, c.want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: Read took %d bytes of memory", name, used)
		}
	}
}

// TestFileBounds has files that are one byte too long.
func TestFileBounds(t *testing.T) {
	for name, max := range map[string]int64{
		"config":                      maxPlain,
		"refs/heads/main":             maxPlain,
		"objects/info/alternates":     maxPlain,
		"packed-refs":                 maxPackedRefs,
		"objects/pack/pack-1234.idx":  maxIndex,
		"objects/pack/pack-1234.pack": 0,
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		for _, more := range []int64{0, 1} {
			if err := os.Truncate(file, max+more); err != nil {
				t.Fatal(err)
			}
			f, err := Open(dir).Git().Filesystem().Open(name)
			if err == nil {
				f.Close()
			}
			if tooLong := more == 1 && max > 0; tooLong != (reason.Of(err) == reason.Limit) || !tooLong && err != nil {
				t.Errorf("%s with %d bytes: Open = %v", name, max+more, err)
			}
		}
	}
}

// TestFileGrows appends to a file that is open.
func TestFileGrows(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/config", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := openRegular(dir, "config", 10)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.WriteFile(dir+"/config", make([]byte, 11), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = f.Read(make([]byte, 20))
	checkReason(t, "Read", err, reason.Limit, `"config" has more than 10 bytes`)
}

// TestTreeNames has names of the longest length, and one byte more.
func TestTreeNames(t *testing.T) {
	entry := Entry{Mode: ModeFile, Name: strings.Repeat("a", maxName)}
	if _, err := ParseTree(EncodeTree([]Entry{entry})); err != nil {
		t.Error(err)
	}
	entry.Name += "a"
	_, err := ParseTree(EncodeTree([]Entry{entry}))
	checkReason(t, "ParseTree", err, reason.Format, "more than 4096 bytes")
}
