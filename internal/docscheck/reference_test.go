package docscheck

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"makenot.work/sando/builder"
	"makenot.work/sando/channels"
)

// compare holds what a document says of some things to what the code says.
func compare(what string, doc, code facts) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(code)) {
		said, ok := doc[name]
		switch {
		case !ok:
			found = append(found, fmt.Sprintf("%s: %s is not listed", what, name))
		case said != code[name]:
			found = append(found, fmt.Sprintf("%s: %s is %q in the document and %q in the code", what, name, said, code[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		if _, ok := code[name]; !ok {
			found = append(found, fmt.Sprintf("%s: %s is listed and is not in the code", what, name))
		}
	}
	return found
}

// rows makes facts of tables: each name in the first column, with what fact says of it.
func rows(tables []table, fact func(t table, row []string) string) facts {
	found := facts{}
	for _, t := range tables {
		for _, row := range t.rows {
			for _, name := range codes(row[0]) {
				found[name] += fact(t, row)
			}
		}
	}
	return found
}

func noFact(table, []string) string { return "" }

// below returns a filter for sections with exactly this heading.
func below(heading string) func(string) bool {
	return func(h string) bool { return h == heading }
}

var commandForm = regexp.MustCompile("^`((?:builder|puller)(?: [a-z]+)?)`$")

// checkCommands: each command has a section with a table of its flags.
func checkCommands(p page, code map[string]facts) []string {
	listed, known := facts{}, facts{}
	for _, s := range p.sections {
		if m := commandForm.FindStringSubmatch(s.heading); m != nil {
			listed[m[1]] = ""
		}
	}
	for path := range code {
		known[path] = ""
	}
	found := compare("commands", listed, known)
	for _, path := range slices.Sorted(maps.Keys(code)) {
		if _, ok := listed[path]; ok {
			found = append(found, compare(path, flagsOf(p, path), code[path])...)
		}
	}
	return found
}

// flagsOf reads "`-n`, `--lines EVENTS`" and the column of defaults.
func flagsOf(p page, path string) facts {
	found := facts{}
	for _, t := range p.tables("flag", below("`"+path+"`")) {
		for _, row := range t.rows {
			short, name, value := "", "", false
			for _, c := range codes(row[0]) {
				if strings.HasPrefix(c, "--") {
					name, _, value = strings.Cut(c, " ")
				} else {
					short = strings.TrimPrefix(c, "-")
				}
			}
			found[name] = flagText(short, value, strings.Trim(t.cell(row, "default"), "`"))
		}
	}
	return found
}

// keysOf reads the table of keys below a heading.
func keysOf(p page, heading string, code facts) facts {
	return rows(p.tables("key", below(heading)), func(t table, row []string) string {
		text := t.cell(row, "type")
		standard := t.cell(row, "default")
		switch value := codes(standard); {
		case len(value) == 1 && text == "duration":
			d, err := time.ParseDuration(strings.Trim(value[0], `"`))
			if err != nil {
				return err.Error()
			}
			return fmt.Sprintf("%s = %gs", text, d.Seconds())
		case len(value) == 1:
			return text + " = " + value[0]
		case standard == "none", standard == "required":
			return text
		}
		// In words: it depends on the machine. The code must have one then.
		_, standard, _ = strings.Cut(code[codes(row[0])[0]], " = ")
		return text + " = " + standard
	})
}

// checkFields: each type has a section with a table of its fields.
func checkFields(p page, code map[string]facts) []string {
	var found []string
	listed, known := facts{}, facts{}
	for _, s := range p.sections {
		for _, t := range s.tables {
			if len(t.header) > 0 && t.header[0] == "field" {
				listed[strings.Trim(s.heading, "`")] = ""
			}
		}
	}
	for name := range code {
		known[name] = ""
	}
	found = append(found, compare("types of JSON", listed, known)...)
	for _, name := range slices.Sorted(maps.Keys(code)) {
		if _, ok := listed[name]; !ok {
			continue
		}
		doc := rows(p.tables("field", below("`"+name+"`")), func(t table, row []string) string {
			if t.cell(row, "always") == "yes" {
				return t.cell(row, "type") + ", always"
			}
			return t.cell(row, "type")
		})
		found = append(found, compare(name, doc, code[name])...)
	}
	return found
}

func reference(t *testing.T) page { return parse(read(t, "docs/reference.md")) }

func TestCommands(t *testing.T) { report(t, checkCommands(reference(t), commands(programs()...))) }

func TestKeys(t *testing.T) {
	p := reference(t)
	b, n := configs(t)
	for heading, code := range map[string]facts{"Configuration of builder": keys(b), "Configuration of puller": keys(n)} {
		report(t, compare(heading, keysOf(p, heading, code), code))
	}
	code := facts{}
	for _, key := range builder.NotYet() {
		code[key] = ""
	}
	report(t, compare("not in this version", rows(p.tables("not in this version", nil), noFact), code))
}

func TestFleet(t *testing.T) {
	f := sources(t, "channels")["channels/fleet.go"]
	code := facts{}
	for _, key := range tags(f, "fleetFile", "toml") {
		if key != "tier" && key != "node" {
			code[key] = ""
		}
	}
	for _, key := range tags(f, "tierFile", "toml") {
		code["tier."+key] = ""
	}
	for _, key := range tags(sources(t, "channels")["channels/inventory.go"], "nodeFile", "toml") {
		code["node."+key] = ""
	}
	if len(code) < 8 {
		t.Fatalf("the code has the keys %q", slices.Sorted(maps.Keys(code)))
	}
	p := reference(t)
	report(t, compare("fleet.toml", rows(p.tables("key", below("fleet.toml")), noFact), code))
	if _, err := channels.ParseFleet([]byte("app = \"mnw\"\n[[tier]]\nname = \"a\"\n")); err != nil {
		t.Errorf("what is not marked required is: %v", err)
	}
}

func TestReasons(t *testing.T) {
	doc := rows(reference(t).tables("reason", nil), func(t table, row []string) string { return strings.Trim(t.cell(row, "exit"), "`") })
	report(t, compare("reasons", doc, codesAndExits()))
}

func TestExits(t *testing.T) {
	code := facts{}
	for _, exit := range codesAndExits() {
		code[exit] = ""
	}
	report(t, compare("exit codes", rows(reference(t).tables("exit", nil), noFact), code))
}

func TestJSON(t *testing.T) {
	p := reference(t)
	report(t, checkFields(p, fields(slices.Collect(maps.Values(documentsOf()))...)))
	code := facts{}
	for _, r := range programs() {
		each(r, func(path string, cmd *cobra.Command) {
			if cmd.Flag("json") != nil && !strings.HasSuffix(path, " completion") && path != "puller run" && path != "puller unit" {
				code[path] = documentsOf()[path].String()
			}
		})
	}
	doc := rows(p.tables("command", below("JSON")), func(t table, row []string) string { return codes(t.cell(row, "prints"))[0] })
	report(t, compare("commands that print JSON", doc, code))
	if !p.slugs["pullerplan"] {
		t.Error("puller.Plan has no anchor")
	}
}

func TestVariables(t *testing.T) {
	code := variables(sources(t, "builder", "puller", "channels", "signing", "layout", "internal/cli", "internal/config"))
	report(t, compare("environment variables", rows(reference(t).tables("variable", nil), noFact), code))
}

func TestEvents(t *testing.T) {
	report(t, compare("events", rows(reference(t).tables("event", nil), noFact), events(sources(t, "puller"))))
}

// A small reference, which the tests below break in one place each.
const small = "# R\n### `puller`\n| flag | default | meaning |\n|---|---|---|\n| `-n`, `--lines N` | `30` | x |\n| `--json` | | x |\n" +
	"## Keys\n| key | type | default | meaning |\n|---|---|---|---|\n| `a.b` | integer | `3` | x |\n| `c` | duration | `\"60s\"` | x |\n" +
	"| `d` | string | none | x |\n| `e` | string | this machine's | x |\n" +
	"### `x.T`\n| field | type | always | meaning |\n|---|---|---|---|\n| `f` | list of `x.U` | no | |\n| `g` | time | yes | |\n"

// findAll runs every check of reference.md on a text, with code that small agrees with.
func findAll(text string) []string {
	p := parse(text)
	code := facts{"a.b": "integer = 3", "c": "duration = 60s", "d": "string", "e": "string = \"host\""}
	return slices.Concat(
		checkCommands(p, map[string]facts{"puller": {"--lines": "-n VALUE = 30", "--json": ""}}),
		compare("keys", keysOf(p, "Keys", code), code),
		checkFields(p, map[string]facts{"x.T": {"f": "list of `x.U`", "g": "time, always"}}),
	)
}

func TestReferenceBad(t *testing.T) {
	if got := findAll(small); len(got) > 0 {
		t.Fatalf("the small reference has findings: %q", got)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"no command", "### `puller`\n", "### Puller\n", "commands: puller is not listed"},
		{"no such command", "## Keys", "### `puller run`\n## Keys", "commands: puller run is listed and is not in the code"},
		{"no flag", "| `--json` | | x |\n", "", "puller: --json is not listed"},
		{"no such flag", "`--json`", "`--jsn`", "puller: --json is not listed"},
		{"other default", "`30`", "`40`", `puller: --lines is "-n VALUE = 40" in the document and "-n VALUE = 30" in the code`},
		{"other shorthand", "`-n`", "`-m`", `puller: --lines is "-m VALUE = 30" in the document and "-n VALUE = 30" in the code`},
		{"a switch with a value", "`--json`", "`--json X`", `puller: --json is "VALUE" in the document and "" in the code`},
		{"no key", "| `d` | string | none | x |\n", "", "keys: d is not listed"},
		{"no such key", "`d` |", "`d`, `z` |", "keys: z is listed and is not in the code"},
		{"other type", "| duration |", "| string |", `keys: c is "string = \"60s\"" in the document and "duration = 60s" in the code`},
		{"other value", "`3`", "`4`", `keys: a.b is "integer = 4" in the document and "integer = 3" in the code`},
		{"value of none", "| none |", "| `\"x\"` |", `keys: d is "string = \"x\"" in the document and "string" in the code`},
		{"none of a value", "| `3` |", "| none |", `keys: a.b is "integer" in the document and "integer = 3" in the code`},
		{"none in words", "| string | none |", "| string | this machine's |", `keys: d is "string = " in the document and "string" in the code`},
		{"no field", "| `g` | time | yes | |\n", "", "x.T: g is not listed"},
		{"no such field", "`g`", "`g`, `h`", "x.T: h is listed and is not in the code"},
		{"may be left out", "| time | yes |", "| time | no |", `x.T: g is "time" in the document and "time, always" in the code`},
		{"no type of JSON", "`x.T`", "`x.S`", "types of JSON: x.T is not listed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := findAll(strings.Replace(small, c.old, c.new, 1))
			if len(got) == 0 || got[0] != c.want {
				t.Errorf("findings are %q, want %q first", got, c.want)
			}
		})
	}
}

func TestCompareBad(t *testing.T) {
	got := compare("x", facts{"a": "", "b": "1", "d": ""}, facts{"a": "", "b": "2", "c": ""})
	want := []string{`x: b is "1" in the document and "2" in the code`, "x: c is not listed", "x: d is listed and is not in the code"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := fields(reflect.TypeFor[section]()); len(got) != 1 || len(got["docscheck.section"]) != 0 {
		t.Errorf("a type without tags has the fields %v", got)
	}
}
