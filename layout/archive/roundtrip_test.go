package archive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

// randomParts returns a bundle of any shape.
func randomParts(rng *rand.Rand) []part {
	dirs := []string{""}
	taken := map[string]part{}
	name := func() string {
		letters := []string{"a", "b", "-", "0", "Z", " ", ".x", "é", "日", strings.Repeat("w", 40), strings.Repeat("ö", 60)}
		var s strings.Builder
		for range 1 + rng.IntN(3) {
			s.WriteString(letters[rng.IntN(len(letters))])
		}
		return s.String()
	}
	for range rng.IntN(40) {
		dir := dirs[rng.IntN(len(dirs))]
		p := path.Join(dir, name())
		if _, ok := taken[p]; ok || layout.CheckPath(p) != nil {
			continue
		}
		switch rng.IntN(5) {
		case 0, 1:
			taken[p] = dirPart(p)
			dirs = append(dirs, p)
		case 2:
			target := strings.Repeat("../", rng.IntN(1+strings.Count(p, "/"))) + name()
			if layout.CheckLink(p, target) == nil {
				taken[p] = linkPart(p, target)
			}
		case 3:
			taken[p] = execPart(p, random(rng.IntN(3*blockSize)))
		default:
			taken[p] = filePart(p, strings.Repeat("text ", rng.IntN(bufSize/2)))
		}
	}
	taken["end"] = filePart("end", "")
	parts := make([]part, 0, len(taken))
	for _, p := range taken {
		parts = append(parts, p)
	}
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.h.path, b.h.path) })
	return parts
}

// Whatever is packed unpacks to the same tree, and packs again to the same bytes.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			parts := randomParts(rand.New(rand.NewPCG(seed, 0)))
			tarball, info, entries := pack(t, makeDir(t, parts))
			if diff := cmp.Diff(wantOf(parts), wanted(info)); diff != "" {
				t.Fatal(diff)
			}
			dst := t.TempDir()
			got, err := Unpack(t.Context(), bytes.NewReader(tarball), openRoot(t, dst), wanted(info), nil)
			check(t, err)
			if diff := cmp.Diff(entries, got); diff != "" {
				t.Error(diff)
			}
			onDisk, err := tree.Read(t.Context(), openRoot(t, dst))
			check(t, err)
			if diff := cmp.Diff(entries, onDisk); diff != "" {
				t.Error(diff)
			}
			parsed, err := tree.ParseListing(tree.Listing(entries))
			check(t, err)
			if diff := tree.Diff(parsed, entries); diff != nil {
				t.Error(diff)
			}
			if again, _, _ := pack(t, dst); !bytes.Equal(again, tarball) {
				t.Error("packed again to other bytes")
			}
		})
	}
}

// What unpacks packs again to the same bytes; nothing panics, nothing gets out.
func FuzzTar(f *testing.F) {
	f.Add(join(sample()))
	f.Add(join(nil))
	for _, p := range sample() {
		f.Add(join([]part{p}))
	}
	f.Add(join(change("d/f", named("../x"))))
	f.Add(join(change("d/f", pax(record("path", "d/f")))))
	f.Add(join(with("d/l", linkPart("d/g", ".."))))
	limits := Want{Unpacked: 1 << 16, Entries: 64, MTime: testTime}
	buf := make([]byte, bufSize)
	f.Fuzz(func(t *testing.T, data []byte) {
		out := &disk{dirs: dirs{root: openRoot(t, t.TempDir())}}
		u := unpacker{in: bytes.NewReader(data), out: out, want: limits, digest: sha256.New(), buf: buf}
		err := u.run(t.Context())
		check(t, out.dirs.close())
		if err != nil {
			if code := reason.Of(err); code != reason.Format && code != reason.Limit {
				t.Errorf("got %v with the reason %q", err, code)
			}
			return
		}
		if len(u.entries) == 0 {
			if !bytes.Equal(data, join(nil)) {
				t.Error("an archive of nothing is not two zero blocks")
			}
			return
		}
		var again bytes.Buffer
		entries, err := writeTar(t.Context(), &again, out.dirs.root, testTime, nil)
		check(t, err)
		if diff := cmp.Diff(u.entries, entries); diff != "" {
			t.Error(diff)
		}
		if !bytes.Equal(again.Bytes(), data) {
			t.Error("packed again to other bytes")
		}
	})
}

// What a frame is taken to hold is what the library, left alone, finds in it.
func FuzzFrame(f *testing.F) {
	f.Add(squeeze(f, join(sample())))
	f.Add(squeeze(f, nil))
	f.Add(append(squeeze(f, []byte("one")), squeeze(f, []byte("two"))...))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, plain, 0xff, 0, 0, 0})
	reference, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(2*maxWindow), zstd.WithDecoderMaxWindow(maxWindow))
	check(f, err)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := newStream(bytes.NewReader(data))
		check(t, err)
		defer s.close()
		got, err := io.ReadAll(io.LimitReader(s, 1<<20))
		if err != nil {
			if code := reason.Of(err); code != reason.Format && code != reason.Limit {
				t.Errorf("got %v with the reason %q", err, code)
			}
			return
		}
		want, err := reference.DecodeAll(data, nil)
		if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			return
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes; the library %d, %v", len(got), len(want), err)
		}
	})
}

// Check takes and refuses what Unpack does.
func FuzzUnpack(f *testing.F) {
	f.Add(squeeze(f, join(sample())))
	f.Add(squeeze(f, join(change("d/f", named("/etc/x")))))
	want := wantOf(sample())
	f.Fuzz(func(t *testing.T, data []byte) {
		dst := t.TempDir()
		_, cerr := Check(t.Context(), bytes.NewReader(data), want)
		_, uerr := Unpack(t.Context(), bytes.NewReader(data), openRoot(t, dst), want, nil)
		if fmt.Sprint(cerr) != fmt.Sprint(uerr) {
			t.Errorf("Check: %v; Unpack: %v", cerr, uerr)
		}
		if uerr == nil {
			onDisk, err := tree.Read(t.Context(), openRoot(t, dst))
			check(t, err)
			if tree.Hash(onDisk) != want.Tree {
				t.Error("another tree")
			}
		}
		check(t, os.RemoveAll(dst))
	})
}
