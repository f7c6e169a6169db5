package reliability

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/reason"
)

// row is what was seen of a case.
type row struct {
	name   string
	reason reason.Code
	runs   string
	starts string
	status string
}

func table(rows []row) string {
	text := "| case | reason | exit | answers at the end | started | `puller status`, first line |\n|---|---|---|---|---|---|\n"
	for _, r := range rows {
		text += fmt.Sprintf("| %s | `%s` | %d | %s | %s | %s |\n", r.name, r.reason, r.reason.Exit(), r.runs, r.starts, strings.ReplaceAll(r.status, "|", `\|`))
	}
	return text
}

const (
	document = "../../docs/reliability.md"
	begin    = "<!-- begin: made by e2e/reliability -->\n"
	end      = "<!-- end -->\n"
	// rewrite is the environment variable that has the document written anew.
	rewrite = "SANDO_REWRITE"
)

// compare demands that the document has the table of these rows.
func compare(t *testing.T, rows []row) {
	t.Helper()
	data, err := os.ReadFile(document)
	must(t, err)
	before, rest, ok := strings.Cut(string(data), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s: the table's place is not marked by %q and %q", document, begin, end)
	}
	now := table(rows)
	if os.Getenv(rewrite) != "" {
		must(t, os.WriteFile(document, []byte(before+begin+now+end+after), 0o644))
		return
	}
	if diff := cmp.Diff(strings.Split(old, "\n"), strings.Split(now, "\n")); diff != "" {
		t.Errorf("%s shows something else than what was seen; look at it, then write it with %s=1 (-document +seen):\n%s", document, rewrite, diff)
	}
}

var (
	moments = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	agos    = regexp.MustCompile(` \([^()]* ago\)| \(just now\)| \(in [^()]*\)`)
)

// timeless returns text without what depends on when it was written.
func timeless(text string) string {
	return moments.ReplaceAllString(agos.ReplaceAllString(text, ""), "…")
}
