package cli

import "testing"

func TestLiteral(t *testing.T) {
	const flags = "--app mnw"
	for text, want := range map[string]string{
		"held; `puller --unpin` follows":      "held; `puller --app mnw --unpin` follows",
		"run `puller`, or `puller --now`":     "run `puller --app mnw`, or `puller --app mnw --now`",
		"`current` was changed; `puller`":     "`current` was changed; `puller --app mnw`",
		"puller --unpin, and `pullers` too":   "puller --unpin, and `pullers` too",
		"`systemctl start puller@mnw`":        "`systemctl start puller@mnw`",
		"`puller --app mnw status` is whole":  "`puller --app mnw status` is whole",
		"`puller --config a.toml` is as well": "`puller --config a.toml` is as well",
		"`puller --unpin never ends":          "`puller --unpin never ends",
	} {
		if got := literal(text, flags); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if got := literal(text, ""); got != text {
			t.Errorf("%s without flags: %s", text, got)
		}
	}
	for word, want := range map[string]string{"a/b-c.toml": "a/b-c.toml", "a b": "'a b'", "it's": `'it'\''s'`} {
		if got := quoted(word); got != want {
			t.Errorf("%s is written %s, want %s", word, got, want)
		}
	}
}
