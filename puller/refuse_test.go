package puller

import (
	"errors"
	"os"
	"strings"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// TestChannelFaults holds every fault of a channel to P1-P7: refused with its reason,
// nothing changed, the counter neither, and the next good state updates.
func TestChannelFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(w *world, doc []byte, sigs signing.Signatures) map[string][]byte
		want  reason.Code
		text  string
	}{
		"byte flipped in the channel": {func(w *world, doc []byte, sigs signing.Signatures) map[string][]byte {
			return channelFiles("b", flip(doc), sigs)
		}, reason.Signature, "docs/trust.md"},
		"byte flipped in the signature": {func(w *world, doc []byte, sigs signing.Signatures) map[string][]byte {
			for kid := range sigs {
				sigs[kid] = flip(sigs[kid])
			}
			return channelFiles("b", doc, sigs)
		}, reason.Signature, "docs/trust.md"},
		"signature missing": {func(w *world, doc []byte, sigs signing.Signatures) map[string][]byte {
			files := channelFiles("b", doc, sigs)
			for name := range files {
				if strings.Contains(name, "sigstore") {
					files[name] = nil
				}
			}
			return files
		}, reason.Signature, "docs/trust.md"},
		"another tier's file": {func(w *world, doc []byte, sigs signing.Signatures) map[string][]byte {
			return channelFiles("b", doc, sigs)
		}, reason.Policy, "were swapped"},
		"replay": {func(w *world, _ []byte, _ signing.Signatures) map[string][]byte {
			doc, sigs := w.state("1.0", func(c *channels.Channel) { c.Seq = 5 })
			return channelFiles("b", doc, sigs)
		}, reason.Replay, "builder promote b --version"},
		"removed": {func(w *world, doc []byte, _ signing.Signatures) map[string][]byte {
			return map[string][]byte{"channels/b.json": nil}
		}, reason.Stale, "what runs stays"},
		"a trust version that nobody has": {func(w *world, _ []byte, _ signing.Signatures) map[string][]byte {
			doc, sigs := w.state("2.0", func(c *channels.Channel) { c.Trust = 2 })
			return channelFiles("b", doc, sigs)
		}, reason.Signature, "trust version 2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := two(t)
			before, restarts := w.counter(), w.app.count()
			change := func(*channels.Channel) {}
			if name == "another tier's file" {
				change = func(c *channels.Channel) { c.Channel = "a" }
			}
			doc, sigs := w.state("2.0", change)
			w.push(c.fault(w, doc, sigs))
			r := w.step(c.want)
			if !strings.Contains(r.Message, c.text) {
				t.Errorf("message %q does not say %q", r.Message, c.text)
			}
			w.runs("1.0")
			if w.counter() != before || w.app.count() != restarts {
				t.Error("the counter moved, or the app was restarted")
			}
			w.advance("2.0", nil)
			w.step(reason.Updated)
			w.runs("2.0")
		})
	}
}

func flip(b []byte) []byte {
	b = append([]byte{}, b...)
	b[len(b)/2] ^= 1
	return b
}

// TestBundleFaults: the channel is accepted, nothing is activated, and once the bucket
// is right again the same state updates.
func TestBundleFaults(t *testing.T) {
	for name, c := range map[string]struct {
		find func(name string) bool
		want reason.Code
	}{
		"tarball": {func(n string) bool { return strings.HasSuffix(n, ".tar.zst") }, reason.Mismatch},
		"manifest": {func(n string) bool {
			return len(n) == len("manifest-0123456789abcdef.json") && strings.HasPrefix(n, "manifest-")
		}, reason.Mismatch},
		"signature": {func(n string) bool { return strings.HasSuffix(n, ".sigstore.json") }, reason.Signature},
	} {
		for how, spoil := range map[string]func([]byte) []byte{
			"flipped": flip,
			"longer":  func(b []byte) []byte { return append(append([]byte{}, b...), 'x') },
			"shorter": func(b []byte) []byte { return b[:len(b)-9] },
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				w := two(t)
				file := w.find("2.0", c.find)
				good, err := os.ReadFile(file)
				must(t, err)
				must(t, os.WriteFile(file, spoil(good), 0o644))
				w.advance("2.0", nil)
				before, restarts := w.counter(), w.app.count()
				w.step(c.want)
				w.runs("1.0")
				if w.counter() == before {
					t.Error("the channel was not accepted")
				}
				if w.app.count() != restarts {
					t.Error("the app was restarted")
				}
				must(t, os.WriteFile(file, good, 0o644))
				w.step(reason.Updated)
				w.runs("2.0")
			})
		}
	}
}

func (w *world) find(version string, is func(string) bool) string {
	w.t.Helper()
	entries, err := os.ReadDir(w.object(w.key(version, "")))
	must(w.t, err)
	for _, e := range entries {
		if is(e.Name()) {
			return w.object(w.key(version, e.Name()))
		}
	}
	w.t.Fatal("no such object")
	return ""
}

func TestManifestsOfTwoVersionsSwapped(t *testing.T) {
	w := two(t)
	one := w.object(w.key("1.0", layout.ManifestName(w.digests["1.0"])))
	other := w.object(w.key("2.0", layout.ManifestName(w.digests["2.0"])))
	must(t, errors.Join(os.Rename(other, other+".x"), os.Rename(one, other), os.Rename(other+".x", one)))
	w.advance("2.0", nil)
	w.step(reason.Mismatch)
	w.runs("1.0")
	// A well-signed channel that names the manifest of another version.
	w.publish("3.0", "")
	w.advance("3.0", func(c *channels.Channel) { c.Version = "4.0" })
	doc, err := os.ReadFile(w.object(w.key("3.0", layout.ManifestName(w.digests["3.0"]))))
	must(t, err)
	w.put(w.key("4.0", layout.ManifestName(w.digests["3.0"])), doc)
	kid := w.release.Public().Kid()
	sig, err := w.release.Sign(doc)
	must(t, err)
	w.put(w.key("4.0", layout.ManifestSignature(w.digests["3.0"], kid)), sig)
	if r := w.step(reason.Mismatch); !strings.Contains(r.Message, `is of version "3.0", want "4.0"`) {
		t.Errorf("got %s", r.Message)
	}
	w.runs("1.0")
}

func TestManifestAppearsLater(t *testing.T) {
	w := two(t)
	doc, sigs := w.state("2.0", nil)
	w.push(channelFiles("b", doc, sigs))
	file := w.object(w.key("2.0", layout.ManifestName(w.digests["2.0"])))
	must(t, os.Rename(file, file+".later"))
	w.step(reason.IO)
	must(t, os.Rename(file+".later", file))
	w.step(reason.Updated)
	w.runs("2.0")
}
