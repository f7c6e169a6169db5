package channels

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Node is a node of the inventory in fleet.toml.
type Node struct {
	Name string
	Tier string // that it follows
}

type nodeFile struct {
	Name string `toml:"name"`
	Tier string `toml:"tier"`
}

// check holds an entry against the tiers, and the nodes that stand above it.
func (n *nodeFile) check(f *Fleet) error {
	if err := layout.CheckNode(n.Name); err != nil {
		return err
	}
	if _, there := f.Node(n.Name); there {
		return errors.New("name is there twice")
	}
	if tiers := names(f.Tiers); !slices.Contains(tiers, n.Tier) {
		return fmt.Errorf("tier is %q, want one of %s", n.Tier, strings.Join(tiers, ", "))
	}
	return nil
}

// Node returns the node with this name, if the inventory has it.
func (f *Fleet) Node(name string) (Node, bool) {
	i := slices.IndexFunc(f.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return Node{}, false
	}
	return f.Nodes[i], true
}

// SetNode returns the text of fleet.toml with n in the inventory: as it is when n is
// there, else with the tier of its entry changed, or with an entry at its end. Nothing
// else of the text changes. Errors have the reason "config", or "limit" when the text
// becomes too long.
func SetNode(text []byte, n Node) ([]byte, error) {
	want, err := ParseFleet(text)
	if err != nil {
		return nil, err
	}
	if _, err := want.Tier(n.Tier); err != nil {
		return nil, err
	}
	have, there := want.Node(n.Name)
	var tries [][]byte
	switch {
	case there && have == n:
		return text, nil
	case there:
		want.Nodes[slices.Index(want.Nodes, have)] = n
		tries = otherTier(text, have.Tier, n.Tier)
	default:
		want.Nodes = append(want.Nodes, n)
		tries = [][]byte{withNode(text, n)}
	}
	err = errors.New("its entry is not where it was looked for")
	for _, t := range tries {
		// What an edit means the parser says: it is the one that changes n, and only n.
		var got *Fleet
		if got, err = ParseFleet(t); reason.Of(err) == reason.Limit {
			return nil, err
		}
		if err == nil && reflect.DeepEqual(got, want) {
			return t, nil
		}
	}
	return nil, reason.Errorf(reason.Config, "fleet.toml: node %q is not entered by itself, because of how the file is written: "+
		"give it a [[node]] with name = %q and tier = %q by hand, and push (%w)", n.Name, n.Name, n.Tier, err)
}

// withNode appends an entry, with the line ends that text has.
func withNode(text []byte, n Node) []byte {
	entry := fmt.Sprintf("[[node]]\nname = %q\ntier = %q\n", n.Name, n.Tier)
	switch {
	case len(text) > 0 && text[len(text)-1] != '\n':
		entry = "\n\n" + entry
	case !bytes.HasSuffix(text, []byte("\n\n")) && !bytes.HasSuffix(text, []byte("\n\r\n")):
		entry = "\n" + entry
	}
	if bytes.Contains(text, []byte("\r\n")) {
		entry = strings.ReplaceAll(entry, "\n", "\r\n")
	}
	return append(bytes.Clone(text), entry...)
}

var tierForm = regexp.MustCompile(`\btier"?[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*')`)

// otherTier returns text once for each place where an entry may name the tier from, which
// names to there.
func otherTier(text []byte, from, to string) [][]byte {
	var tries [][]byte
	for _, at := range tierForm.FindAllSubmatchIndex(text, -1) {
		first, end := at[2]+1, at[3]-1 // within the quotes
		if string(text[first:end]) == from {
			tries = append(tries, slices.Concat(text[:first], []byte(to), text[end:]))
		}
	}
	return tries
}
