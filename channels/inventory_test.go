package channels_test

import (
	"strings"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
)

const nodesText = fleetText + `
[[node]]
name = "alpha-west-1"
tier = "a"    # tier = "b" from January on

[[node]]
tier = 'b'
name = "beta.example.org"
`

func TestInventory(t *testing.T) {
	f, err := channels.ParseFleet([]byte(nodesText))
	check(t, err, reason.Current, "")
	if n, there := f.Node("beta.example.org"); !there || n.Tier != "b" || len(f.Nodes) != 2 {
		t.Errorf("nodes are %+v", f.Nodes)
	}
	if n, there := f.Node("gamma"); there {
		t.Errorf("there is %+v", n)
	}
	for _, test := range []struct{ name, old, new, want string }{
		{"before the tiers", `app = "mnw"`, "app = \"mnw\"\n[[node]]\nname = \"n\"\ntier = \"c\"", `line 5: unknown key "node.yanked"`},
		{"no name", `name = "alpha-west-1"`, ``, `node "": malformed name`},
		{"malformed", `name = "alpha-west-1"`, `name = "../n"`, `node "../n": malformed name`},
		{"twice", `name = "beta.example.org"`, `name = "alpha-west-1"`, `node "alpha-west-1": name is there twice`},
		{"no tier", `tier = 'b'`, ``, `node "beta.example.org": tier is "", want one of host, a, b, c`},
		{"unknown tier", `tier = 'b'`, `tier = "d"`, `node "beta.example.org": tier is "d", want one of host, a, b, c`},
		{"unknown key", `tier = 'b'`, "tier = \"b\"\nuser = \"root\"", `unknown key "node.user"`},
		{"key in another case", `tier = 'b'`, `Tier = "b"`, `unknown key "Tier"`},
		{"tier a number", `tier = 'b'`, `tier = 1`, `value has the wrong type`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := channels.ParseFleet(canontest.Edit(t, []byte(nodesText), test.old, test.new))
			check(t, err, reason.Config, test.want)
		})
	}
}

func TestSetNode(t *testing.T) {
	dos := func(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }
	for _, test := range []struct {
		name, text string
		node       channels.Node
		want       string
	}{
		{"the first", fleetText, channels.Node{Name: "n-1", Tier: "b"}, fleetText + "\n[[node]]\nname = \"n-1\"\ntier = \"b\"\n"},
		{"one more", nodesText, channels.Node{Name: "n-1", Tier: "host"}, nodesText + "\n[[node]]\nname = \"n-1\"\ntier = \"host\"\n"},
		{"there already", nodesText, channels.Node{Name: "alpha-west-1", Tier: "a"}, nodesText},
		{"line ends of DOS", dos(nodesText), channels.Node{Name: "n-1", Tier: "b"}, dos(nodesText + "\n[[node]]\nname = \"n-1\"\ntier = \"b\"\n")},
		{"an empty line at the end", fleetText + "\n", channels.Node{Name: "n-1", Tier: "b"}, fleetText + "\n[[node]]\nname = \"n-1\"\ntier = \"b\"\n"},
		{"no line end at the end", strings.TrimSuffix(nodesText, "\n"), channels.Node{Name: "n-1", Tier: "b"}, nodesText + "\n[[node]]\nname = \"n-1\"\ntier = \"b\"\n"},
		{"a comment at the end", strings.TrimSuffix(fleetText, "\n") + " # the last", channels.Node{Name: "n-1", Tier: "b"}, strings.TrimSuffix(fleetText, "\n") + " # the last\n\n[[node]]\nname = \"n-1\"\ntier = \"b\"\n"},
		{"another tier", nodesText, channels.Node{Name: "alpha-west-1", Tier: "b"}, strings.Replace(nodesText, `tier = "a"    #`, `tier = "b"    #`, 1)},
		{"another tier, other quotes", nodesText, channels.Node{Name: "beta.example.org", Tier: "c"}, strings.Replace(nodesText, `'b'`, `'c'`, 1)},
		{"another tier, line ends of DOS", dos(nodesText), channels.Node{Name: "alpha-west-1", Tier: "b"}, dos(strings.Replace(nodesText, `tier = "a"    #`, `tier = "b"    #`, 1))},
		{"another tier, key in quotes", strings.Replace(nodesText, "tier = 'b'", `"tier"='b'`, 1), channels.Node{Name: "beta.example.org", Tier: "a"}, strings.Replace(nodesText, "tier = 'b'", `"tier"='a'`, 1)},
		{"another tier, in one line", "node = [{name = \"x\", tier = \"a\"}, {tier = \"a\", name = \"y\"}]\n" + fleetText, channels.Node{Name: "y", Tier: "b"}, "node = [{name = \"x\", tier = \"a\"}, {tier = \"b\", name = \"y\"}]\n" + fleetText},
		{"same number of each", strings.Replace(nodesText, "'b'", `"a"`, 1), channels.Node{Name: "beta.example.org", Tier: "c"}, strings.Replace(nodesText, "'b'", `"c"`, 1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := channels.SetNode([]byte(test.text), test.node)
			check(t, err, reason.Current, "")
			if string(got) != test.want {
				t.Errorf("text is\n%s\nwant\n%s", got, test.want)
			}
			again, err := channels.SetNode(got, test.node)
			if err != nil || string(again) != string(got) {
				t.Errorf("again: %v\n%s", err, again)
			}
		})
	}
}

func TestSetNodeRefused(t *testing.T) {
	n := channels.Node{Name: "n-1", Tier: "b"}
	byHand := `node "n-1" is not entered by itself, because of how the file is written: give it a [[node]] with name = "n-1" and tier = "b" by hand, and push (`
	for _, test := range []struct {
		name, text string
		node       channels.Node
		code       reason.Code
		want       string
	}{
		{"unknown tier", fleetText, channels.Node{Name: "n-1", Tier: "d"}, reason.Config, `tier "d" is not in fleet.toml: it has host, a, b, c`},
		{"malformed node", fleetText, channels.Node{Name: "n 1", Tier: "b"}, reason.Config, `malformed name: node "n 1"`},
		{"malformed fleet", "app = 1\n", n, reason.Config, "line 1"},
		{"nodes in one line", "node = [{name = \"x\", tier = \"a\"}]\n" + fleetText, n, reason.Config, byHand},
		{"tier with an escape", fleetText + "\n[[node]]\nname = \"n-1\"\ntier = \"\\u0061\"\n", n, reason.Config, byHand},
		{"no room", fleetText + strings.Repeat("#", channels.MaxFleet-len(fleetText)), n, reason.Limit, "more than 65536 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := channels.SetNode([]byte(test.text), test.node)
			check(t, err, test.code, test.want)
			if got != nil {
				t.Errorf("text is\n%s", got)
			}
		})
	}
}
