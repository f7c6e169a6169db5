package guides

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A section is a heading and the blocks up to the next one, of whatever level.
type section struct {
	heading string // the ones above it, from the second level on, before it: "A: B"
	line    int
	blocks  []*block
}

// A block is a fenced text.
type block struct {
	lang, text    string
	line          int    // of the first line in it
	machine, user string // of commands
	prints        *block // what the commands print that do not say so themselves
}

var (
	headingForm = regexp.MustCompile(`^(#{1,6}) +(.+?) *$`)
	machineForm = regexp.MustCompile("\\b[Oo]n\\s+`([a-z0-9.-]+)`")
	userForm    = regexp.MustCompile("\\b[Aa]s\\s+(?:(root)|`([a-z]+)`)")
)

// readDocument reads a document of docs.
func readDocument(t *testing.T, name string) []*section {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../docs", name))
	if err != nil {
		t.Fatal(err)
	}
	sections, problems := parse(string(text))
	for _, p := range problems {
		t.Errorf("docs/%s:%s", name, p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return sections
}

// parse finds all blocks of a document. The paragraph before commands, when it ends in a
// colon, says on which machine and as whom; what it leaves out is as before.
func parse(text string) (sections []*section, problems []string) {
	var open *block
	var paragraph, machine, user string
	now := &section{}
	var above []string
	for i, line := range strings.Split(text, "\n") {
		switch m := headingForm.FindStringSubmatch(line); {
		case open != nil && strings.HasPrefix(line, "```"):
			if p := now.take(open); p != "" {
				problems = append(problems, fmt.Sprintf("%d: %s", open.line, p))
			}
			open, paragraph = nil, ""
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			if strings.HasSuffix(strings.TrimSpace(paragraph), ":") {
				machine, user = said(machineForm, paragraph, machine), said(userForm, paragraph, user)
			}
			open = &block{lang: strings.TrimPrefix(line, "```"), line: i + 2, machine: machine, user: user}
		case m != nil:
			level := max(len(m[1])-2, 0)
			above = append(above[:min(level, len(above))], m[2])
			now, paragraph = &section{heading: strings.Join(above, ": "), line: i + 1}, ""
			sections = append(sections, now)
		case line == "" || strings.HasPrefix(line, "|"):
			// A blank line stands between a paragraph and its block.
		default:
			if i > 0 && strings.Split(text, "\n")[i-1] == "" {
				paragraph = ""
			}
			paragraph += line + "\n"
		}
	}
	if open != nil {
		problems = append(problems, fmt.Sprintf("%d: a block without an end", open.line))
	}
	return sections, problems
}

// said returns what a paragraph says last, or what was said before.
func said(form *regexp.Regexp, paragraph, before string) string {
	all := form.FindAllStringSubmatch(paragraph, -1)
	if len(all) == 0 {
		return before
	}
	return strings.Join(all[len(all)-1][1:], "")
}

// take adds a block, and says what is wrong with it: no block is left out.
func (s *section) take(b *block) string {
	switch b.lang {
	case "sh":
		if b.machine == "" || b.user == "" {
			return "no line before these commands says where and as whom"
		}
	case "text":
		if len(s.blocks) == 0 || s.blocks[len(s.blocks)-1].lang != "sh" || s.blocks[len(s.blocks)-1].prints != nil {
			return "no commands print this"
		}
		s.blocks[len(s.blocks)-1].prints = b
		return ""
	case "json": // the stage asks for it
	default:
		return fmt.Sprintf("a block of %q cannot be run", b.lang)
	}
	s.blocks = append(s.blocks, b)
	return ""
}

// data returns the one block of a language that a section has.
func data(t *testing.T, sections []*section, heading, lang string) string {
	t.Helper()
	var found []string
	for _, s := range sections {
		for _, b := range s.blocks {
			if s.heading == heading && b.lang == lang {
				found = append(found, b.text)
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("section %q has %d blocks of %s, want 1", heading, len(found), lang)
	}
	return found[0]
}

// A command is what the shell reads as one, of one line or more.
type command struct {
	text   string
	line   int
	exit   int    // what it is documented to exit with
	prints string // what it is documented to print; "" when that is not said
}

var (
	exitForm   = regexp.MustCompile(`(?m)\s# (?:.*\W)?exit (\d)\b.*$`)
	printsForm = regexp.MustCompile(`(?m)\s# prints (.+)$`)
)

// commands splits a block where the shell does.
func commands(t *testing.T, b *block) (all []command) {
	t.Helper()
	now := command{line: b.line}
	for i, line := range strings.Split(strings.TrimSuffix(b.text, "\n"), "\n") {
		now.text += line + "\n"
		if !complete(t, now.text) {
			continue
		}
		if m := exitForm.FindStringSubmatch(now.text); m != nil {
			now.exit = int(m[1][0] - '0')
		}
		if m := printsForm.FindStringSubmatch(now.text); m != nil {
			now.prints = m[1]
		}
		if strings.TrimSpace(now.text) != "" {
			all = append(all, now)
		}
		now = command{line: b.line + i + 1}
	}
	if now.text != "" {
		t.Fatalf("line %d: an unfinished command:\n%s", now.line, now.text)
	}
	return all
}

func complete(t *testing.T, text string) bool {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "bash", "--norc", "-n", "-c", text).CombinedOutput()
	return err == nil && len(out) == 0 && !strings.HasSuffix(text, "\\\n")
}

func TestParse(t *testing.T) {
	const text = "# A\nRoom.\n\nOn `web-1`, as root:\n\n```sh\na\n```\n\nIt runs as `mnw`.\n\n```text\nb\n```\n## B\n### C\n## D\n### E\nAs `builder`:\n```sh\nc\n```\n" +
		"```toml\nx = 1\n```\n```json\n{}\n```\n```text\nd\n```\n"
	sections, problems := parse(text)
	if want := []string{`24: a block of "toml" cannot be run`, "30: no commands print this"}; !slices.Equal(problems, want) {
		t.Errorf("problems are %q, want %q", problems, want)
	}
	var names []string
	for _, s := range sections {
		names = append(names, s.heading)
	}
	if want := []string{"A", "B", "B: C", "D", "D: E"}; !slices.Equal(names, want) {
		t.Fatalf("sections are %q, want %q", names, want)
	}
	first, second := sections[0].blocks[0], sections[4].blocks[0]
	if first.machine != "web-1" || first.user != "root" || first.line != 7 || first.prints.text != "b\n" {
		t.Errorf("the first block is %+v", first)
	}
	if second.machine != "web-1" || second.user != "builder" {
		t.Errorf("the second block is %+v", second)
	}
	if _, problems = parse("# A\n```sh\na\n```\n"); len(problems) != 1 {
		t.Errorf("problems are %q, want one: nobody to run it", problems)
	}
}

func TestCommands(t *testing.T) {
	got := commands(t, &block{line: 5, text: "a # b\n\ncat >x <<'END'\n1 # exit 9 \\\nEND\nfor i in 1\ndo c \\\n  d\ndone # exit 3: e\nf  # prints g # h\n"})
	want := []command{
		{"a # b\n", 5, 0, ""}, {"cat >x <<'END'\n1 # exit 9 \\\nEND\n", 7, 9, ""},
		{"for i in 1\ndo c \\\n  d\ndone # exit 3: e\n", 10, 3, ""}, {"f  # prints g # h\n", 14, 0, "g # h"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}
