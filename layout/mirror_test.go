package layout_test

import (
	"strings"
	"testing"

	"makenot.work/sando/layout"
)

// TestMirrorKeys: these names are what every puller asks for.
func TestMirrorKeys(t *testing.T) {
	d, kid := layout.Sum([]byte("hello\n")), strings.Repeat("0123456789abcdef", 4)
	for _, test := range []struct{ got, want string }{
		{layout.ChannelKey("mnw", "b"), "mnw/channels/b.json"},
		{layout.ChannelSignatureKey("mnw", "b", d, kid), "mnw/channels/b-5891b5b522d5df08.0123456789abcdef.sigstore.json"},
		{layout.TrustKey("mnw", 12), "mnw/trust/12.json"},
		{layout.TrustSignatureKey("mnw", 12, d, kid), "mnw/trust/12-5891b5b522d5df08.0123456789abcdef.sigstore.json"},
	} {
		if test.got != test.want {
			t.Errorf("key is %q, want %q", test.got, test.want)
		}
	}
}
