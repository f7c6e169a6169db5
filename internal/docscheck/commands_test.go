package docscheck

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var (
	lineForm    = regexp.MustCompile(`^(?:\$ )?((?:builder|puller)(?: .*)?)$`)
	messageForm = regexp.MustCompile("`((?:builder|puller) [^`]+)`")
)

// lines returns the command lines of ours in a text: in backticks, and in blocks that
// are meant to be typed.
func lines(text string) []span {
	p := parse(text)
	var found []span
	for _, s := range p.spans {
		if lineForm.MatchString(s.text) {
			found = append(found, s)
		}
	}
	for _, b := range p.blocks {
		if b.lang != "sh" && b.lang != "bash" && b.lang != "console" {
			continue
		}
		for i, line := range strings.Split(b.text, "\n") {
			line, _, _ = strings.Cut(line, " #")
			if m := lineForm.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
				found = append(found, span{m[1], b.line + i + 1})
			}
		}
	}
	return found
}

// wrong says what a command line names that the programs do not have; "" for nothing.
func wrong(line string) string {
	words := strings.Fields(regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(line, "TEXT"))
	var cmd *cobra.Command
	for _, r := range programs() {
		if r.Name() == words[0] {
			cmd = r
		}
	}
	for rest := words[1:]; len(rest) > 0; rest = rest[1:] {
		word := rest[0]
		switch {
		case strings.ContainsAny(word, "|&;<>"):
			return "" // the rest is for the shell
		case word == "--" && cmd.CommandPath() == "builder enroll":
			return wrong("puller bootstrap " + strings.Join(rest[1:], " "))
		case strings.HasPrefix(word, "-") && word != "-":
			name, _, assigned := strings.Cut(word, "=")
			f := cmd.Flag(strings.TrimLeft(name, "-"))
			if f == nil && len(name) == 2 {
				f = cmd.Flags().ShorthandLookup(name[1:])
			}
			if f == nil && len(name) == 2 {
				f = cmd.PersistentFlags().ShorthandLookup(name[1:])
			}
			if f == nil {
				return fmt.Sprintf("%s has no flag %s", cmd.CommandPath(), name)
			}
			if f.Value.Type() != "bool" && !assigned && len(rest) > 1 {
				rest = rest[1:]
			}
		case cmd.HasSubCommands() && word != strings.ToUpper(word): // else it stands for one
			sub, _, err := cmd.Find([]string{word})
			if err != nil || sub == cmd {
				return fmt.Sprintf("%s has no command %s", cmd.CommandPath(), word)
			}
			cmd = sub
		}
	}
	return ""
}

func TestCommandLines(t *testing.T) {
	n := 0
	docs := documents(t)
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		for _, l := range lines(docs[name]) {
			n++
			if w := wrong(l.text); w != "" {
				t.Errorf("%s:%d: `%s`: %s", name, l.line, l.text, w)
			}
		}
	}
	if n < 40 {
		t.Errorf("%d command lines: they are not seen", n)
	}
}

// TestMessages reads what messages tell people to type.
func TestMessages(t *testing.T) {
	n := 0
	for _, dir := range []string{"builder", "puller", "channels", "signing", "layout", "internal"} {
		for name, f := range sources(t, dir) {
			literals(f, func(text string) {
				for _, m := range messageForm.FindAllStringSubmatch(text, -1) {
					n++
					if w := wrong(m[1]); w != "" {
						t.Errorf("%s: `%s`: %s", name, m[1], w)
					}
				}
			})
		}
	}
	if n < 5 {
		t.Errorf("%d command lines: they are not seen", n)
	}
}

func TestCommandLinesBad(t *testing.T) {
	text := "`builder` `builder promote b --version 1` `builder demote b`\n`puller --pin 1 --reason 'so so'` `puller --pni 1` `builder.toml`\n" +
		"```sh\nbuilder init DIR --app x  # --not a flag\n$ puller history -n 5 | tail\nputter x\nbuilder release --vers=1\npuller -x\npuller verify 1 2\n```\n" +
		"```\nbuilder what\n```\n"
	want := []string{
		"1 builder has no command demote",
		"2 puller has no flag --pni",
		"7 builder release has no flag --vers",
		"8 puller has no flag -x",
	}
	var got []string
	for _, l := range lines(text) {
		if w := wrong(l.text); w != "" {
			got = append(got, fmt.Sprintf("%d %s", l.line, w))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if n := len(lines(text)); n != 10 {
		t.Errorf("%d lines, want 10", n)
	}
}
