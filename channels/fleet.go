package channels

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// MaxFleet is the largest fleet.toml, in bytes.
const MaxFleet = 64 << 10

// AdvanceAuto is the value of Tier.Advance that asks the builder to advance the tier
// by itself.
const AdvanceAuto = "auto"

// Fleet is what fleet.toml says. Nobody signed it.
type Fleet struct {
	App    string
	Yanked []string // versions not to be promoted any more
	Tiers  []Tier   // in order
	Nodes  []Node   // that are known: an inventory, which gates nothing
}

// Tier is one tier of the fleet.
type Tier struct {
	Name        string
	Advance     string        // "" or AdvanceAuto
	From        string        // the tier before it; "" for the first
	BurnIn      time.Duration // how long a version must have run well on From
	Nodes       []string      // who must have reported well on From
	MinNodes    int           // or how many of them
	Propose     bool          // promoting opens a branch
	Provisioned bool          // has nodes
}

type fleetFile struct {
	App    string     `toml:"app"`
	Yanked []string   `toml:"yanked"`
	Tiers  []tierFile `toml:"tier"`
	Nodes  []nodeFile `toml:"node"`
}

type tierFile struct {
	Name        string   `toml:"name"`
	Advance     string   `toml:"advance"`
	From        string   `toml:"from"`
	BurnIn      string   `toml:"burn_in"`
	Nodes       []string `toml:"nodes"`
	MinNodes    *int     `toml:"min_nodes"`
	Propose     bool     `toml:"propose"`
	Provisioned *bool    `toml:"provisioned"`
}

// ParseFleet reads fleet.toml and fills in what has a default. Errors have the reason
// "config", or "limit" for data that is too long.
func ParseFleet(data []byte) (*Fleet, error) {
	if len(data) > MaxFleet {
		return nil, reason.Errorf(reason.Limit, "fleet.toml: more than %d bytes", MaxFleet)
	}
	var file fleetFile
	dec := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	if err := dec.Decode(&file); err != nil {
		return nil, reason.Errorf(reason.Config, "fleet.toml: %w", explain(err))
	}
	var tree any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, reason.Errorf(reason.Config, "fleet.toml: %w", explain(err))
	}
	if err := checkKeys(tree); err != nil {
		return nil, reason.Errorf(reason.Config, "fleet.toml: %w", err)
	}
	f, err := file.fleet()
	if err != nil {
		return nil, reason.Errorf(reason.Config, "fleet.toml: %w", err)
	}
	return f, nil
}

var keyForm = regexp.MustCompile(`^[a-z_]+$`)

// checkKeys refuses the other spellings of a key that the decoder takes for it, such as
// "App": two of them would be one key given twice.
func checkKeys(tree any) error {
	switch v := tree.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if !keyForm.MatchString(key) {
				return fmt.Errorf("unknown key %q: keys are lower-case", key)
			}
			if err := checkKeys(v[key]); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range v {
			if err := checkKeys(item); err != nil {
				return err
			}
		}
	}
	return nil
}

// explain puts the line and the key in front; the library's own text is many lines.
func explain(err error) error {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		var keys []string
		for _, e := range strict.Errors {
			line, _ := e.Position()
			keys = append(keys, fmt.Sprintf("line %d: unknown key %q", line, strings.Join(e.Key(), ".")))
		}
		return errors.New(strings.Join(keys, "; "))
	}
	var dec *toml.DecodeError
	if errors.As(err, &dec) {
		line, _ := dec.Position()
		text := strings.TrimPrefix(dec.Error(), "toml: ")
		if what, _, ok := strings.Cut(text, " into struct field "); ok { // Go's names are not the file's
			text = "value has the wrong type, a " + strings.TrimPrefix(what, "cannot decode ")
		}
		return fmt.Errorf("line %d: %s", line, text)
	}
	return err
}

func (file *fleetFile) fleet() (*Fleet, error) {
	if err := layout.CheckApp(file.App); err != nil {
		return nil, err
	}
	if err := distinct("yanked", file.Yanked, layout.CheckVersion); err != nil {
		return nil, err
	}
	if len(file.Tiers) == 0 {
		return nil, errors.New("no [[tier]]")
	}
	f := &Fleet{App: file.App, Yanked: file.Yanked}
	for _, t := range file.Tiers {
		tier, err := t.tier(f.Tiers)
		if err != nil {
			return nil, fmt.Errorf("tier %q: %w", t.Name, err)
		}
		f.Tiers = append(f.Tiers, tier)
	}
	for _, n := range file.Nodes {
		if err := n.check(f); err != nil {
			return nil, fmt.Errorf("node %q: %w", n.Name, err)
		}
		f.Nodes = append(f.Nodes, Node(n))
	}
	return f, nil
}

// tier checks one entry below the tiers that stand above it.
func (t *tierFile) tier(above []Tier) (Tier, error) {
	out := Tier{Name: t.Name, Advance: t.Advance, From: t.From, Nodes: t.Nodes, Propose: t.Propose, Provisioned: true}
	if err := layout.CheckTier(t.Name); err != nil {
		return out, err
	}
	if slices.Contains(names(above), t.Name) {
		return out, errors.New("name is there twice")
	}
	if t.Advance != "" && t.Advance != AdvanceAuto {
		return out, fmt.Errorf("advance is %q, want %q or nothing", t.Advance, AdvanceAuto)
	}
	if t.Provisioned != nil {
		out.Provisioned = *t.Provisioned
	}
	if err := t.gate(&out); err != nil {
		return out, err
	}
	if len(above) == 0 {
		if t.From != "" || t.BurnIn != "" || len(t.Nodes) > 0 || t.MinNodes != nil {
			return out, errors.New("the first tier has none before it: from, burn_in, nodes and min_nodes mean nothing here")
		}
		return out, nil
	}
	if t.From == "" {
		out.From = above[len(above)-1].Name
	} else if !slices.Contains(names(above), t.From) {
		return out, fmt.Errorf("from is %q, want a tier above it: %s", t.From, strings.Join(names(above), ", "))
	}
	return out, nil
}

// gate reads what a version must have shown on the tier before.
func (t *tierFile) gate(out *Tier) error {
	if t.BurnIn != "" {
		d, err := time.ParseDuration(t.BurnIn)
		if err != nil || d < 0 {
			return fmt.Errorf("burn_in is %q, want a duration like \"48h\" or \"30m\"", t.BurnIn)
		}
		out.BurnIn = d
	}
	if err := distinct("nodes", t.Nodes, layout.CheckNode); err != nil {
		return err
	}
	if t.MinNodes == nil {
		return nil
	}
	if len(t.Nodes) > 0 {
		return errors.New("nodes and min_nodes exclude each other")
	}
	if *t.MinNodes < 0 {
		return fmt.Errorf("min_nodes is %d, want 0 or more", *t.MinNodes)
	}
	out.MinNodes = *t.MinNodes
	return nil
}

func distinct(what string, list []string, check func(string) error) error {
	seen := map[string]bool{}
	for _, s := range list {
		if err := check(s); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if seen[s] {
			return fmt.Errorf("%s: %q is there twice", what, s)
		}
		seen[s] = true
	}
	return nil
}

func names(tiers []Tier) []string {
	var list []string
	for _, t := range tiers {
		list = append(list, t.Name)
	}
	return list
}

// Tier returns the tier name. Its error has the reason "config" and names the tiers
// that there are.
func (f *Fleet) Tier(name string) (Tier, error) {
	for _, t := range f.Tiers {
		if t.Name == name {
			return t, nil
		}
	}
	return Tier{}, reason.Errorf(reason.Config, "tier %q is not in fleet.toml: it has %s", name, strings.Join(names(f.Tiers), ", "))
}
