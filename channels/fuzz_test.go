package channels_test

import (
	"bytes"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
)

// What parses prints back the same bytes, and has a successor that can be written and
// is greater.
func FuzzChannel(f *testing.F) {
	f.Add(golden(f))
	f.Add(canontest.Edit(f, golden(f), ",\n  \"hotfix\": \"login broken on Safari & <iOS>\"", ""))
	f.Add(canontest.Edit(f, golden(f), "  \"expires\": \"2026-06-17T02:53:56Z\",\n", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := channels.ParseChannel(data)
		if err != nil {
			if r := reason.Of(err); r != reason.Format && r != reason.Limit {
				t.Fatalf("reason is %s: %v", r, err)
			}
			return
		}
		again, err := c.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("encodes to %q, %v, want %q", again, err, data)
		}
		next := channels.Next(c, c.Issued.Time, c.Trust, *c)
		if next.Seq <= c.Seq || next.Attempt != c.Attempt || next.Version != c.Version {
			t.Fatalf("Next = %+v after %+v", next, c)
		}
		if _, err := next.Encode(); err != nil && c.Seq < channels.MaxSeq {
			t.Fatalf("Next cannot be written: %v", err)
		}
	})
}
