package channels_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func golden(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/channel.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func at(text string) canon.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return canon.At(t)
}

func channel() *channels.Channel {
	return &channels.Channel{
		Schema: "sando.channel/v1", App: "mnw", Channel: "b", Trust: 1, Seq: 1780455236000,
		Issued: at("2026-06-03T02:53:56Z"), Expires: at("2026-06-17T02:53:56Z"),
		Version: "0.9.5", Manifest: "sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
		Attempt: 1, Rollout: 100, Hotfix: "login broken on Safari & <iOS>",
	}
}

func TestGolden(t *testing.T) {
	got, err := channel().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden(t)), string(got)); diff != "" {
		t.Errorf("Encode (-golden +got):\n%s", diff)
	}
	c, err := channels.ParseChannel(golden(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(channel(), c); diff != "" {
		t.Errorf("ParseChannel (-want +got):\n%s", diff)
	}
}

func TestForm(t *testing.T) {
	canontest.Run(t, canontest.Document{
		Golden:   golden(t),
		Optional: []string{"expires", "hotfix"},
		Parse: func(data []byte) ([]byte, error) {
			c, err := channels.ParseChannel(data)
			if err != nil {
				return nil, err
			}
			return c.Encode()
		},
	})
}

func check(t *testing.T, err error, code reason.Code, want string) {
	t.Helper()
	if reason.Of(err) != code || (err != nil && !strings.Contains(err.Error(), want)) {
		t.Errorf("error is %v (%s), want reason %s with %q", err, reason.Of(err), code, want)
	}
}

// Each case is the golden channel with one thing changed.
func TestChannelTable(t *testing.T) {
	const digest = "sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab"
	for _, test := range []struct{ name, old, new, want string }{
		// Allowed.
		{"halted", `"rollout": 100`, `"rollout": 0`, ""},
		{"rollout 1", `"rollout": 100`, `"rollout": 1`, ""},
		{"first seq", `1780455236000`, `1`, ""},
		{"last seq", `1780455236000`, `9007199254740991`, ""},
		{"attempt 7", `"attempt": 1`, `"attempt": 7`, ""},
		{"shortest life", "2026-06-17T02:53:56Z", "2026-06-03T02:53:57Z", ""},
		{"hotfix in another script", "Safari", "サファリ", ""},
		// Not.
		{"schema of a trust document", "sando.channel/v1", "sando.trust/v1", `schema is "sando.trust/v1"`},
		{"schema of a manifest", "sando.channel/v1", "sando.manifest/v1", `schema is "sando.manifest/v1"`},
		{"newer schema", "sando.channel/v1", "sando.channel/v2", `schema is "sando.channel/v2"`},
		{"no app", `"mnw"`, `""`, `app ""`},
		{"reserved app", `"mnw"`, `"builder"`, "is reserved"},
		{"no tier", `"channel": "b"`, `"channel": ""`, `tier ""`},
		{"tier with a path", `"channel": "b"`, `"channel": "../b"`, `tier "../b"`},
		{"trust 0", `"trust": 1`, `"trust": 0`, "trust is 0"},
		{"seq 0", `1780455236000`, `0`, "seq is 0"},
		{"seq 2^53", `1780455236000`, `9007199254740992`, "want 0 to 2^53-1"},
		{"issued before 1970", "2026-06-03T02:53:56Z", "1969-12-31T23:59:59Z", "issued is 1969"},
		{"issued never", "2026-06-03T02:53:56Z", "0001-01-01T00:00:00Z", "issued is 0001"},
		{"expires when issued", "2026-06-17T02:53:56Z", "2026-06-03T02:53:56Z", "want a time after issued"},
		{"expires before issued", "2026-06-17T02:53:56Z", "2026-06-02T02:53:56Z", "want a time after issued"},
		{"expires zero", "2026-06-17T02:53:56Z", "0001-01-01T00:00:00Z", "differs from the canonical"},
		{"attempt 0", `"attempt": 1`, `"attempt": 0`, "attempt is 0"},
		{"rollout 101", `"rollout": 100`, `"rollout": 101`, "rollout is 101"},
		{"hotfix empty", `"login broken on Safari & <iOS>"`, `""`, "differs from the canonical"},
		{"hotfix escaped for HTML", `& <iOS>`, `\u0026 \u003ciOS\u003e`, "differs from the canonical"},
		{"version up", `"0.9.5"`, `".."`, `version ".."`},
		{"version dot", `"0.9.5"`, `"."`, `version "."`},
		{"version empty", `"0.9.5"`, `""`, `version ""`},
		{"version with a slash", `"0.9.5"`, `"a/b"`, `version "a/b"`},
		{"version hidden", `"0.9.5"`, `".hidden"`, `version ".hidden"`},
		{"version like a flag", `"0.9.5"`, `"-rf"`, `version "-rf"`},
		{"version of 200 characters", `"0.9.5"`, `"` + strings.Repeat("1", 200) + `"`, "malformed name: version"},
		{"version of a git lock", `"0.9.5"`, `"0.9.5.lock"`, `version "0.9.5.lock"`},
		{"digest in upper case", digest, "sha256:" + strings.ToUpper(digest[7:]), "digest"},
		{"digest too short", digest, digest[:70], "digest"},
		{"digest too long", digest, digest + "0", "digest"},
		{"digest of another algorithm", digest, "sha512" + digest[6:], "digest"},
		{"digest without its name", digest, digest[7:], "digest"},
		{"digest empty", digest, "", "digest"},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := reason.Format
			if test.want == "" {
				want = reason.Current
			}
			_, err := channels.ParseChannel(canontest.Edit(t, golden(t), test.old, test.new))
			check(t, err, want, test.want)
		})
	}
}

func TestChannelCaps(t *testing.T) {
	_, err := channels.ParseChannel(append(golden(t), make([]byte, layout.MaxChannel)...))
	check(t, err, reason.Limit, "more than 16384 bytes")
	c := channel()
	c.Hotfix = strings.Repeat("x", layout.MaxChannel)
	_, err = c.Encode()
	check(t, err, reason.Limit, "more than 16384 bytes")
}

func TestEncodeRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*channels.Channel)
		want   string
	}{
		{"zero value", func(c *channels.Channel) { *c = channels.Channel{} }, "schema is"},
		{"negative trust", func(c *channels.Channel) { c.Trust = -1 }, "trust is -1"},
		{"negative seq", func(c *channels.Channel) { c.Seq = -1 }, "seq is -1"},
		{"seq at its end", func(c *channels.Channel) { c.Seq = channels.MaxSeq + 1 }, "the next trust version starts it again"},
		{"negative rollout", func(c *channels.Channel) { c.Rollout = -1 }, "rollout is -1"},
		{"negative attempt", func(c *channels.Channel) { c.Attempt = -1 }, "attempt is -1"},
		{"expires in the year 10000", func(c *channels.Channel) { c.Expires = canon.At(c.Issued.AddDate(9000, 0, 0)) }, "expires is"},
		{"issued in the year 10000", func(c *channels.Channel) { c.Issued, c.Expires = canon.At(c.Issued.AddDate(9000, 0, 0)), canon.Time{} }, "issued is"},
		{"newline in hotfix", func(c *channels.Channel) { c.Hotfix = "a\nb" }, "holds U+000A"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := channel()
			test.change(c)
			if data, err := c.Encode(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q; wrote %s", err, test.want, data)
			}
		})
	}
}

func TestNext(t *testing.T) {
	now := time.Date(2026, 6, 4, 10, 0, 0, 123456789, time.FixedZone("", 7200))
	const ms = 1780560000123
	change := channels.Channel{App: "mnw", Channel: "b", Version: "0.9.6", Manifest: channel().Manifest, Rollout: 25}
	want := change
	want.Schema, want.Trust, want.Seq, want.Issued, want.Attempt = "sando.channel/v1", 2, ms, at("2026-06-04T08:00:00Z"), 1
	with := func(f func(*channels.Channel)) *channels.Channel {
		c := want
		f(&c)
		return &c
	}
	last := func(f func(*channels.Channel)) *channels.Channel {
		c := channel()
		c.Trust = 2
		f(c)
		return c
	}
	for _, test := range []struct {
		name   string
		last   *channels.Channel
		change func(*channels.Channel)
		want   *channels.Channel
	}{
		{"the first", nil, func(*channels.Channel) {}, &want},
		{"from the clock", last(func(*channels.Channel) {}), func(*channels.Channel) {}, &want},
		{"twice in a millisecond", last(func(c *channels.Channel) { c.Seq = ms }), func(*channels.Channel) {}, with(func(c *channels.Channel) { c.Seq = ms + 1 })},
		{"clock gone back", last(func(c *channels.Channel) { c.Seq = ms + 5000 }), func(*channels.Channel) {}, with(func(c *channels.Channel) { c.Seq = ms + 5001 })},
		{"new trust starts from the clock", last(func(c *channels.Channel) { c.Trust, c.Seq = 1, channels.MaxSeq }), func(*channels.Channel) {}, &want},
		{"attempt is carried", last(func(c *channels.Channel) { c.Attempt = 3 }), func(*channels.Channel) {}, with(func(c *channels.Channel) { c.Attempt = 3 })},
		{"attempt is carried under new trust", last(func(c *channels.Channel) { c.Trust, c.Attempt = 1, 3 }), func(*channels.Channel) {}, with(func(c *channels.Channel) { c.Attempt = 3 })},
		{"attempt is raised", last(func(c *channels.Channel) { c.Attempt = 3 }), func(c *channels.Channel) { c.Attempt = 4 }, with(func(c *channels.Channel) { c.Attempt = 4 })},
		{"hotfix and expiry are not carried", last(func(*channels.Channel) {}), func(*channels.Channel) {}, &want},
		{"halt", last(func(*channels.Channel) {}), func(c *channels.Channel) { c.Rollout = 0 }, with(func(c *channels.Channel) { c.Rollout = 0 })},
		{"what only Next sets", nil, func(c *channels.Channel) {
			c.Schema, c.Trust, c.Seq, c.Issued = "x", 9, 9, at("1999-01-01T00:00:00Z")
		}, &want},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := change
			test.change(&c)
			got := channels.Next(test.last, now, 2, c)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Next (-want +got):\n%s", diff)
			}
			if _, err := got.Encode(); err != nil {
				t.Error(err)
			}
		})
	}
	if change.Schema != "" {
		t.Error("Next changed its argument")
	}
	end := channels.Next(last(func(c *channels.Channel) { c.Seq = channels.MaxSeq }), now, 2, change)
	if _, err := end.Encode(); err == nil {
		t.Error("a seq beyond its end can be written")
	}
}

func TestExpired(t *testing.T) {
	c, never := channel(), channel()
	never.Expires = canon.Time{}
	for _, test := range []struct {
		name string
		now  string
		want bool
	}{
		{"when issued", "2026-06-03T02:53:56Z", false},
		{"the second before", "2026-06-17T02:53:55Z", false},
		{"the second itself", "2026-06-17T02:53:56Z", true},
		{"after", "2026-06-18T00:00:00Z", true},
		{"clock in 2099", "2099-01-01T00:00:00Z", true},
		{"clock in 1970", "1970-01-01T00:00:00Z", false},
		{"clock just before issued", "2026-06-03T02:53:55Z", false},
	} {
		if got := c.Expired(at(test.now).Time); got != test.want {
			t.Errorf("%s: Expired = %v, want %v", test.name, got, test.want)
		}
		if never.Expired(at(test.now).Time) {
			t.Errorf("%s: Expired without an expiry", test.name)
		}
	}
}

// The places were computed with sha256sum; nodes of every version must agree on them.
func TestTakesPart(t *testing.T) {
	for _, test := range []struct {
		node, version string
		place         int
	}{
		{"alpha-west-1", "0.9.5", 96},
		{"alpha-west-2", "0.9.5", 43},
		{"alpha-west-1", "0.9.6", 96},
		{"n", "1", 9},
		{"host-a", "2026.06", 5},
	} {
		for rollout := range 101 {
			if got, want := channels.TakesPart(test.node, test.version, rollout), test.place < rollout; got != want {
				t.Errorf("TakesPart(%q, %q, %d) = %v, want %v", test.node, test.version, rollout, got, want)
			}
		}
	}
}

// A rollout of p percent reaches about p percent of the nodes, others for each version.
func TestTakesPartIsEven(t *testing.T) {
	const nodes = 20000
	for _, version := range []string{"0.9.5", "0.9.6"} {
		for _, percent := range []int{1, 10, 50} {
			n := 0
			for i := range nodes {
				if channels.TakesPart(fmt.Sprintf("node-%d", i), version, percent) {
					n++
				}
			}
			if got, want := float64(n), float64(nodes*percent/100); got < want*0.8 || got > want*1.2 {
				t.Errorf("rollout %d of %s reaches %d of %d nodes", percent, version, n, nodes)
			}
		}
	}
	same := 0
	for i := range nodes {
		node := fmt.Sprintf("node-%d", i)
		if channels.TakesPart(node, "0.9.5", 10) && channels.TakesPart(node, "0.9.6", 10) {
			same++
		}
	}
	if same > nodes/50 {
		t.Errorf("%d of %d nodes come first for both versions", same, nodes)
	}
}
