package docscheck

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/archive"
	"makenot.work/sando/layout/node"
	nodereport "makenot.work/sando/layout/report"
	"makenot.work/sando/layout/tree"
	"makenot.work/sando/signing"
)

// errExample is matched by the error of an example that is not what its mark says.
var errExample = errors.New("example differs")

// same fails unless got is what want is.
func same(got, want string) error {
	if got != want {
		return fmt.Errorf("%w: it is\n%s\nand should be\n%s", errExample, got, want)
	}
	return nil
}

// examples returns the checks of blocks by the first words of their marks. A check gets
// the rest of the mark and the text of the block.
func examples(t *testing.T) map[string]func(arg, text string) error {
	return map[string]func(arg, text string) error{
		"same as ":      func(file, text string) error { return same(text, read(t, file)) },
		"message of ":   func(string, string) error { return nil }, // see quotes_test.go
		"listing of ":   checkListing,
		"state":         checkState,
		"pin":           checkPin,
		"history":       checkHistory,
		"reporting":     checkReporting,
		"fleet":         func(_, text string) error { _, err := channels.ParseFleet([]byte(text)); return err },
		"bucket keys":   func(_, text string) error { return checkBucketKeys(t, text) },
		"mirror keys":   func(_, text string) error { return checkMirrorKeys(t, text) },
		"repo files":    func(_, text string) error { return checkRepoFiles(t, text) },
		"tar header":    func(_, text string) error { return checkHeader(t, text) },
		"rollout":       checkRollout,
		"report policy": func(_, text string) error { return checkReportPolicy(t, text) },
	}
}

func checkListing(hash, text string) error {
	entries, err := tree.ParseListing([]byte(text))
	if err != nil {
		return err
	}
	return same(string(tree.Hash(entries)), hash)
}

func checkState(_, text string) error {
	s, err := node.ParseState([]byte(text))
	if err != nil {
		return err
	}
	data, err := s.Encode()
	return errors.Join(err, same(text, string(data)))
}

func checkPin(_, text string) error {
	p, err := node.ParsePin([]byte(text))
	if err != nil {
		return err
	}
	data, err := canon.Encode(p)
	return errors.Join(err, same(text, string(data)))
}

func checkReporting(_, text string) error {
	r, err := node.ParseReporting([]byte(text))
	if err != nil {
		return err
	}
	data, err := canon.Encode(r)
	return errors.Join(err, same(text, string(data)))
}

func checkHistory(_, text string) error {
	for line := range strings.Lines(text) {
		var e node.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return err
		}
		data, err := json.Marshal(e)
		if err := errors.Join(err, same(line, string(data)+"\n")); err != nil {
			return err
		}
	}
	return nil
}

// checkBucketKeys wants the keys of the golden manifest, signed by the golden release key.
func checkBucketKeys(t *testing.T, text string) error {
	doc := []byte(read(t, "layout/testdata/manifest.json"))
	m, err := layout.ParseManifest(doc)
	if err != nil {
		return err
	}
	d := layout.Sum(doc)
	names := []string{m.Bundles[0].Name, m.Bundles[1].Name, layout.ManifestSignature(d, releaseKid(t)), layout.ManifestName(d), layout.ManifestLatest}
	var want strings.Builder
	for _, name := range names {
		fmt.Fprintln(&want, layout.ReleaseKey(m.App, m.Version, name))
	}
	return same(text, want.String())
}

// checkMirrorKeys wants the keys of the golden trust and channel, signed as they must be.
func checkMirrorKeys(t *testing.T, text string) error {
	trust := golden(t)
	doc, channel := layout.Sum([]byte(read(t, "signing/testdata/trust.json"))), layout.Sum([]byte(read(t, "channels/testdata/channel.json")))
	var want strings.Builder
	fmt.Fprintln(&want, layout.TrustSignatureKey("mnw", 3, doc, trust.Kids(signing.RoleRoot)[0]))
	fmt.Fprintln(&want, layout.TrustKey("mnw", 3))
	for _, kid := range trust.Kids(trust.ChannelRole("b")) {
		fmt.Fprintln(&want, layout.ChannelSignatureKey("mnw", "b", channel, kid))
	}
	fmt.Fprintln(&want, layout.ChannelKey("mnw", "b"))
	return same(text, want.String())
}

// checkReportPolicy wants the object of the golden report, in the bucket of the other policies.
func checkReportPolicy(t *testing.T, text string) error {
	r, err := nodereport.Parse([]byte(read(t, "layout/report/testdata/report.json")), nodereport.Want{App: "mnw", Node: "alpha-west-1", Now: time.Now()})
	if err != nil {
		return err
	}
	want := map[string]any{"Version": "2012-10-17", "Statement": []any{map[string]any{
		"Effect": "Allow", "Action": []any{"s3:GetObject", "s3:PutObject"}, "Resource": "arn:aws:s3:::releases/" + layout.ReportKey(r.App, r.Node),
	}}}
	var got map[string]any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		return err
	}
	return same(fmt.Sprint(got), fmt.Sprint(want))
}

func golden(t *testing.T) *signing.Trust {
	t.Helper()
	trust, err := signing.ParseTrust([]byte(read(t, "signing/testdata/trust.json")))
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func releaseKid(t *testing.T) string { return golden(t).Kids(signing.RoleRelease)[0] }

// checkRepoFiles wants the files that the golden trust and channel have in a channel repo.
func checkRepoFiles(t *testing.T, text string) error {
	trust := golden(t)
	channel := "channels/b.json"
	version := fmt.Sprintf("trust/%d.json", trust.Version)
	want := []string{".gitattributes", channel, "fleet.toml", version}
	for _, kid := range trust.Kids(trust.ChannelRole("b")) {
		want = append(want, signing.SignatureFile(channel, kid))
	}
	want = append(want, signing.SignatureFile(version, trust.Kids(signing.RoleRoot)[0]))
	slices.Sort(want)
	return same(text, strings.Join(want, "\n")+"\n")
}

// checkHeader wants the header of bin/server as Pack writes it, its fields two spaces
// apart and without zeros.
func checkHeader(t *testing.T, text string) error {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "server"), []byte("hello world\n"), 0o755); err != nil {
		return err
	}
	r, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer r.Close()
	var packed bytes.Buffer
	mtime := time.Date(2026, 6, 2, 21, 0, 0, 0, time.UTC)
	if _, _, err := archive.Pack(t.Context(), &packed, r, mtime, nil); err != nil {
		return err
	}
	zr, err := zstd.NewReader(&packed)
	if err != nil {
		return err
	}
	defer zr.Close()
	raw, err := io.ReadAll(zr)
	if err != nil {
		return err
	}
	if _, err := tar.NewReader(bytes.NewReader(raw)).Next(); err != nil {
		return err
	}
	var fields []string
	h, at := raw[512:1024], 0
	for _, end := range []int{100, 108, 116, 124, 136, 148, 156, 157, 257, 263, 265, 297, 329, 337, 345} {
		if f := strings.Trim(string(h[at:end]), "\x00 "); f != "" {
			fields = append(fields, f)
		}
		at = end
	}
	return same(text, strings.Join(fields, "  ")+"\n")
}

// checkRollout wants "NODE VERSION PLACE" in each line: the node takes part in a rollout
// above PLACE.
func checkRollout(_, text string) error {
	for line := range strings.Lines(text) {
		var name, version string
		var place int
		if _, err := fmt.Sscanf(line, "%s %s %d\n", &name, &version, &place); err != nil {
			return fmt.Errorf("%w: %w", errExample, err)
		}
		sum := sha256.Sum256([]byte(name + "\n" + version))
		if got := int(binary.BigEndian.Uint64(sum[:8]) % 100); got != place {
			return fmt.Errorf("%w: the place of %s for %s is %d", errExample, name, version, got)
		}
		if channels.TakesPart(name, version, place) || !channels.TakesPart(name, version, place+1) {
			return fmt.Errorf("%w: %s does not begin to take part at %d %%", errExample, name, place+1)
		}
	}
	return nil
}

// checkExample runs the check of a block; no check for its mark is an error.
func checkExample(t *testing.T, b block) error {
	for mark, check := range examples(t) {
		if arg, ok := strings.CutPrefix(b.mark, mark); ok && (arg == "" || strings.HasSuffix(mark, " ")) {
			return check(arg, b.text)
		}
	}
	return fmt.Errorf("%w: no check for the mark %q", errExample, b.mark)
}

func TestExamples(t *testing.T) {
	seen := map[string]bool{}
	for name, text := range documents(t) {
		for _, b := range parse(text).blocks {
			if b.mark == "" {
				continue
			}
			for mark := range examples(t) {
				seen[mark] = seen[mark] || strings.HasPrefix(b.mark, mark)
			}
			if err := checkExample(t, b); err != nil {
				t.Errorf("%s:%d: %v", name, b.line, err)
			}
		}
	}
	for mark := range examples(t) {
		if !seen[mark] {
			t.Errorf("no document has an example with the mark %q", mark)
		}
	}
}

// TestExamplesBad changes each example of docs/formats.md in one place.
func TestExamplesBad(t *testing.T) {
	for _, b := range parse(read(t, "docs/formats.md")).blocks {
		if b.mark == "" || strings.HasPrefix(b.mark, "message of ") {
			continue
		}
		t.Run(b.mark, func(t *testing.T) {
			broken := b
			broken.text = strings.Replace(b.text, "a", "_", 1) // a tier of fleet.toml as well
			err := checkExample(t, broken)
			if !errors.Is(err, errExample) && !errors.Is(err, tree.ErrTree) && !errors.Is(err, node.ErrBroken) && reason.Of(err) != reason.Config {
				t.Errorf("error is %v, of:\n%s", err, broken.text)
			}
		})
	}
	if err := checkExample(t, block{mark: "some as x"}); !errors.Is(err, errExample) {
		t.Errorf("error is %v, want errExample", err)
	}
}
