package puller

import (
	"os"
	"strings"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func TestRevoked(t *testing.T) {
	w := two(t)
	w.trust = w.newTrust(2)
	w.trust.Revoked = []layout.Digest{w.digests["2.0"]}
	w.pushTrust(w.root)
	w.advance("2.0", nil)
	w.step(reason.Policy)
	w.runs("1.0")
	w.pin("2.0", reason.Policy) // it is not on disk
	w.demand(reason.Policy)(w.puller.Unpin(t.Context(), Options{}))
}

func (w *world) pushTrust(signers ...*keys.Signer) {
	w.t.Helper()
	doc, sigs := w.sign(w.trust, signers...)
	path := "trust/2.json"
	files := map[string][]byte{path: doc}
	for kid, sig := range sigs {
		files[signing.SignatureFile(path, kid)] = sig
	}
	w.push(files)
}

func TestKeysRotated(t *testing.T) {
	w := two(t)
	oldRoot := w.root
	w.root, w.channel = newKey(t), newKey(t)
	w.trust = w.newTrust(2)
	w.pushTrust(w.root) // not by the old root
	w.step(reason.Signature)
	w.pushTrust(oldRoot, w.root)
	// What was accepted under the old key stays the counter; 2.0 is signed by the new one.
	r := w.step(reason.Signature)
	if !strings.Contains(r.Message, "was last promoted under trust version 1, by keys that version 2 does not name any more") || strings.Contains(r.Message, "forged") {
		t.Errorf("it says %q", r.Message)
	}
	w.advance("2.0", nil)
	w.step(reason.Updated)
	w.runs("2.0")
	// Going back needs no signature.
	w.pin("1.0", reason.Updated)
}

func TestAnchorRules(t *testing.T) {
	w := two(t)
	before := w.counter()
	// Newer than the chain: replaces it, counters stay.
	w.trust = w.newTrust(3)
	doc, _ := w.sign(w.trust)
	must(t, os.WriteFile(w.base+"/trust.json", doc, 0o644))
	w.advance("2.0", nil)
	w.step(reason.Updated)
	if before == "" || w.counter() == before {
		t.Error("the counter did not move on")
	}
	// Other bytes at a version of the chain: the operator's reset.
	w.root = newKey(t)
	w.trust = w.newTrust(3)
	doc, _ = w.sign(w.trust)
	must(t, os.WriteFile(w.base+"/trust.json", doc, 0o644))
	w.advance("1.0", func(c *channels.Channel) { c.Seq = 1 })
	r := w.step(reason.Updated)
	if !strings.Contains(strings.Join(r.Warnings, " "), "operator's reset") {
		t.Errorf("warnings: %v", r.Warnings)
	}
	w.runs("1.0")
	// A missing anchor is a person's to mend; a pin of what is on disk works.
	must(t, os.Remove(w.base+"/trust.json"))
	w.step(reason.Config)
	w.pin("2.0", reason.Updated)
	w.runs("2.0")
}

// A node without a counter is told how far the channel was when it was set up.
func TestFloor(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.publish("2.0", "")
	var seq int64
	note := func(c *channels.Channel) { seq = c.Seq }
	w.advance("1.0", note)
	w.puller.cfg.Channels.MinSeq = seq + 1
	r := w.step(reason.Replay)
	if !strings.Contains(r.Message, "with version 1.0 is below") || w.counter() != "" || w.live() != "" {
		t.Errorf("%q, counter %q, live %q", r.Message, w.counter(), w.live())
	}
	w.advance("2.0", note)
	w.step(reason.Updated)
	w.runs("2.0")

	// Raised above what was accepted, that activates nothing any more, also where nothing
	// new is heard.
	w.advance("1.0", note)
	w.puller.cfg.Channels.MinSeq = seq
	w.app.set("1.0", "500")
	w.step(reason.Unhealthy)
	w.puller.cfg.Channels.MinSeq = seq + 1
	r = w.unblock("1.0", reason.Replay)
	if !strings.HasPrefix(r.Message, `accepted state of channel "b": (trust 1, seq `) {
		t.Errorf("Unblock: %s", r.Message)
	}
	w.runs("2.0")
	// Under a trust above the anchor's seq starts again, and the floor is no more.
	w.app.set("1.0", "")
	w.trust = w.newTrust(2)
	w.pushTrust(w.root)
	w.advance("1.0", func(c *channels.Channel) { c.Seq = 1 })
	w.step(reason.Updated)
	w.runs("1.0")
	// Of an anchor with this very trust it is one again.
	doc, _ := w.sign(w.trust)
	must(t, os.WriteFile(w.base+"/trust.json", doc, 0o644))
	w.step(reason.Replay)
	w.runs("1.0")
}
