package channels_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
)

const fleetText = `app = "mnw"
yanked = ["0.9.3", "0.9.1"]  # versions not to be promoted any more

[[tier]]
name = "host"
advance = "auto"

[[tier]]
name = "a"

[[tier]]
name = "b"
burn_in = "48h"
nodes = ["alpha-west-1", "alpha-west-2"]
propose = true

[[tier]]
name = "c"
from = "a"
min_nodes = 1
provisioned = false
`

func TestParseFleet(t *testing.T) {
	f, err := channels.ParseFleet([]byte(fleetText))
	if err != nil {
		t.Fatal(err)
	}
	want := &channels.Fleet{App: "mnw", Yanked: []string{"0.9.3", "0.9.1"}, Tiers: []channels.Tier{
		{Name: "host", Advance: channels.AdvanceAuto, Provisioned: true},
		{Name: "a", From: "host", Provisioned: true},
		{Name: "b", From: "a", BurnIn: 48 * time.Hour, Nodes: []string{"alpha-west-1", "alpha-west-2"}, Propose: true, Provisioned: true},
		{Name: "c", From: "a", MinNodes: 1},
	}}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("ParseFleet (-want +got):\n%s", diff)
	}
	for _, tier := range want.Tiers {
		got, err := f.Tier(tier.Name)
		if diff := cmp.Diff(tier, got); err != nil || diff != "" {
			t.Errorf("Tier(%q): %v\n%s", tier.Name, err, diff)
		}
	}
	_, err = f.Tier("d")
	check(t, err, reason.Config, `tier "d" is not in fleet.toml: it has host, a, b, c`)
}

// Each case is the fleet above with one thing changed.
func TestFleetTable(t *testing.T) {
	for _, test := range []struct{ name, old, new, want string }{
		// Allowed.
		{"nothing yanked", `yanked = ["0.9.3", "0.9.1"]`, ``, ""},
		{"no burn-in", `burn_in = "48h"`, `burn_in = "0s"`, ""},
		{"advance empty", `"auto"`, `""`, ""},
		{"no node needed", `min_nodes = 1`, `min_nodes = 0`, ""},
		{"from the tier above, written", `from = "a"`, `from = "b"`, ""},
		{"line ends of DOS", "name = \"a\"\n", "name = \"a\"\r\n", ""},
		// Not.
		{"unknown key", `yanked = `, `yankd = `, `line 2: unknown key "yankd"`},
		{"unknown key of a tier", `burn_in = `, `burnin = `, `line 13: unknown key "tier.burnin"`},
		{"key in another case", `burn_in = `, `Burn_in = `, `unknown key "Burn_in"`},
		{"key in two cases", `app = "mnw"`, "app = \"mnw\"\nAPP = \"mnw\"", `unknown key "APP"`},
		{"key twice", `app = "mnw"`, "app = \"mnw\"\napp = \"mnw\"", `line 2: key app is already defined`},
		{"not TOML", `[[tier]]` + "\nname = \"host\"", "[[tier]\nname = \"host\"", `line 4: expected`},
		{"table of another name", "[[tier]]\nname = \"a\"", "[[tiers]]\nname = \"a\"", `unknown key "tiers`},
		{"no app", `app = "mnw"`, ``, `app ""`},
		{"reserved app", `app = "mnw"`, `app = "builder"`, "is reserved"},
		{"app a number", `app = "mnw"`, `app = 1`, `line 1: value has the wrong type, a TOML integer`},
		{"yanked malformed", `"0.9.1"]`, `".."]`, `yanked: malformed name: version ".."`},
		{"yanked twice", `"0.9.1"]`, `"0.9.3"]`, `yanked: "0.9.3" is there twice`},
		{"yanked a string", `["0.9.3", "0.9.1"]`, `"0.9.3"`, `line 2: value has the wrong type`},
		{"tier without a name", `name = "a"`, ``, `tier "": malformed name`},
		{"tier malformed", `name = "a"`, `name = "../a"`, `tier "../a": malformed name`},
		{"tier twice", `name = "c"`, `name = "a"`, `tier "a": name is there twice`},
		{"advance by hand", `"auto"`, `"manual"`, `tier "host": advance is "manual"`},
		{"advance a truth value", `"auto"`, `true`, `line 6: value has the wrong type`},
		{"from unknown", `from = "a"`, `from = "x"`, `tier "c": from is "x", want a tier above it: host, a, b`},
		{"from itself", `from = "a"`, `from = "c"`, `tier "c": from is "c"`},
		{"from further down", "name = \"a\"\n", "name = \"a\"\nfrom = \"b\"\n", `tier "a": from is "b", want a tier above it: host`},
		{"first tier with from", `advance = "auto"`, `from = "a"`, `tier "host": the first tier has none before it`},
		{"first tier with burn-in", `advance = "auto"`, `burn_in = "1h"`, `tier "host": the first tier has none before it`},
		{"first tier with nodes", `advance = "auto"`, `nodes = ["n"]`, `tier "host": the first tier has none before it`},
		{"first tier with min_nodes", `advance = "auto"`, `min_nodes = 0`, `tier "host": the first tier has none before it`},
		{"burn-in without a unit", `"48h"`, `"48"`, `tier "b": burn_in is "48"`},
		{"burn-in in days", `"48h"`, `"2d"`, `tier "b": burn_in is "2d"`},
		{"burn-in negative", `"48h"`, `"-48h"`, `tier "b": burn_in is "-48h"`},
		{"burn-in a number", `"48h"`, `48`, `line 13: value has the wrong type`},
		{"node malformed", `"alpha-west-2"`, `"alpha/west"`, `tier "b": nodes: malformed name: node "alpha/west"`},
		{"node twice", `"alpha-west-2"`, `"alpha-west-1"`, `tier "b": nodes: "alpha-west-1" is there twice`},
		{"nodes and min_nodes", `burn_in = "48h"`, `min_nodes = 1`, `tier "b": nodes and min_nodes exclude each other`},
		{"min_nodes negative", `min_nodes = 1`, `min_nodes = -1`, `tier "c": min_nodes is -1`},
		{"min_nodes a fraction", `min_nodes = 1`, `min_nodes = 1.5`, `value has the wrong type`},
		{"propose a string", `propose = true`, `propose = "yes"`, `line 15: value has the wrong type`},
		{"byte order mark", `app = "mnw"`, "\ufeffapp = \"mnw\"", `line 1`},
		{"not UTF-8", `# versions`, "# \xff", `line 2`},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := reason.Config
			if test.want == "" {
				want = reason.Current
			}
			_, err := channels.ParseFleet(canontest.Edit(t, []byte(fleetText), test.old, test.new))
			check(t, err, want, test.want)
			if err != nil && strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("error has several lines: %v", err)
			}
		})
	}
}

func TestFleetAsAWhole(t *testing.T) {
	_, err := channels.ParseFleet(nil)
	check(t, err, reason.Config, `app ""`)
	_, err = channels.ParseFleet([]byte("app = \"mnw\"\n"))
	check(t, err, reason.Config, "no [[tier]]")
	_, err = channels.ParseFleet([]byte(fleetText + strings.Repeat("#", channels.MaxFleet)))
	check(t, err, reason.Limit, "more than 65536 bytes")
	f, err := channels.ParseFleet([]byte("app = \"mnw\"\n[[tier]]\nname = \"only\"\n"))
	check(t, err, reason.Current, "")
	if len(f.Tiers) != 1 || f.Tiers[0].From != "" {
		t.Errorf("one tier: %+v", f.Tiers)
	}
}

// enter puts n into the inventory, and holds that nothing else of the text changes.
func enter(t *testing.T, data []byte, fleet *channels.Fleet, n channels.Node) {
	t.Helper()
	text, err := channels.SetNode(data, n)
	if err != nil {
		if r := reason.Of(err); r != reason.Config && r != reason.Limit {
			t.Fatalf("SetNode: reason is %s: %v", r, err)
		}
		return
	}
	after, err := channels.ParseFleet(text)
	if err != nil {
		t.Fatal(err)
	}
	was, there := fleet.Node(n.Name)
	if got, ok := after.Node(n.Name); !ok || got != n {
		t.Fatalf("node is %+v, want %+v", got, n)
	}
	switch {
	case !there && !strings.HasPrefix(string(text), string(data)), there && was == n && string(text) != string(data):
		t.Fatalf("text changed:\n%s", text)
	case there && len(text)-len(data) != len(n.Tier)-len(was.Tier):
		t.Fatalf("more than the tier changed:\n%s", text)
	}
}

// What parses is a chain that goes upward and ends, and takes a node.
func FuzzFleet(f *testing.F) {
	f.Add([]byte(fleetText))
	f.Add([]byte(nodesText))
	f.Add([]byte("app = \"mnw\"\ntier = [{name = \"a\"}, {name = \"b\", from = \"a\"}]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fleet, err := channels.ParseFleet(data)
		if err != nil {
			if r := reason.Of(err); r != reason.Config && r != reason.Limit {
				t.Fatalf("reason is %s: %v", r, err)
			}
			return
		}
		for i, tier := range fleet.Tiers {
			above := slices.IndexFunc(fleet.Tiers[:i], func(t channels.Tier) bool { return t.Name == tier.From })
			if (i == 0) != (tier.From == "") || (i > 0 && above < 0) || tier.BurnIn < 0 || tier.MinNodes < 0 {
				t.Fatalf("tier %d is %+v", i, tier)
			}
			if got, err := fleet.Tier(tier.Name); err != nil || got.From != tier.From {
				t.Fatalf("Tier(%q) = %+v, %v", tier.Name, got, err)
			}
		}
		enter(t, data, fleet, channels.Node{Name: "fuzz", Tier: fleet.Tiers[len(fleet.Tiers)-1].Name})
		if len(fleet.Nodes) > 0 {
			enter(t, data, fleet, channels.Node{Name: fleet.Nodes[0].Name, Tier: fleet.Tiers[0].Name})
		}
	})
}
