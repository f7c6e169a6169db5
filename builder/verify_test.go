package builder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/internal/reason"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	dir := filepath.Join(s.dir, "bucket/mnw/releases/1.0.0")
	out, err := s.builder().Verify(t.Context(), "1.0.0")
	if err != nil || !out.OK || len(out.Objects) != 4 || out.Exit != 0 {
		t.Fatalf("got %+v, %v", out, err)
	}
	flip := func(t *testing.T, path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		pattern string
		spoil   func(t *testing.T, path string)
		code    reason.Code
		says    string
	}{
		"flip in the tarball":           {"*.tar.zst", flip, reason.Mismatch, "digest mismatch"},
		"flip in the manifest":          {"manifest.json", flip, reason.Signature, "manifest.json"},
		"flip in the one by its digest": {"manifest-????????????????.json", flip, reason.Mismatch, "bytes differ"},
		"flip in the signature":         {"*.sigstore.json", flip, reason.Signature, "signature"},
		"tarball gone":                  {"*.tar.zst", func(t *testing.T, p string) { os.Remove(p) }, reason.Stale, "is not in the bucket"},
		"manifest gone":                 {"manifest.json", func(t *testing.T, p string) { os.Remove(p) }, reason.Stale, "is not in the bucket"},
		"tarball longer": {"*.tar.zst", func(t *testing.T, p string) {
			data, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, append(data, 0), 0o644); err != nil {
				t.Fatal(err)
			}
		}, reason.Mismatch, "size mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := filepath.Glob(filepath.Join(dir, c.pattern))
			if err != nil || len(found) != 1 {
				t.Fatal(found, err)
			}
			good, err := os.ReadFile(found[0])
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := os.WriteFile(found[0], good, 0o644); err != nil {
					t.Fatal(err)
				}
			}()
			c.spoil(t, found[0])
			out, err := s.builder().Verify(t.Context(), "1.0.0")
			if err == nil || reason.Of(err) != c.code || out.OK || out.Reason != c.code || out.Exit != 3 {
				t.Fatalf("got %+v, %v, want %q", out, err, c.code)
			}
			problems := 0
			for _, o := range out.Objects {
				if !o.OK {
					problems++
					if !strings.Contains(o.Key+o.Problem, c.says) {
						t.Errorf("problem with %s: %s, want %q", o.Key, o.Problem, c.says)
					}
				}
			}
			if problems == 0 {
				t.Errorf("no object has a problem: %+v", out.Objects)
			}
		})
	}
	if _, err := s.builder().Verify(t.Context(), "2.0.0"); reason.Of(err) != reason.Stale || strings.Count(err.Error(), "version 2.0.0") != 1 {
		t.Errorf("unknown version, to be named once: %v", err)
	}
	if out, err := s.builder().Verify(t.Context(), "../x"); reason.Of(err) != reason.Config || out != nil {
		t.Errorf("malformed version: %+v, %v", out, err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "state", bundle.SpoolPrefix+"*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
