package envfile

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// assignment is where in a file the text of a value is.
type assignment struct {
	Var
	begin, end int
}

// errRewrite says that a value has no spelling that systemd reads as that value.
var errRewrite = errors.New("the file would not say what it should")

// Rewrite returns the file with other values: change is asked for each assignment, in the
// order of the file, and says whether it gets another one. Everything else stays byte for byte:
// comments, order, spelling. Where the value was quoted it is quoted in the same way if that can
// be. An error may match ErrSyntax.
func Rewrite(data []byte, change func(Var) (value string, other bool)) ([]byte, error) {
	want, err := Parse(data)
	if err != nil {
		return nil, err
	}
	p := parser{}
	if _, err := p.parse(data); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	done := 0
	last := map[string]string{}
	for _, a := range p.found {
		value, other := change(a.Var)
		if !other {
			last[a.Name] = a.Value
			continue
		}
		last[a.Name] = value
		text := string(data[a.begin:a.end])
		spelt := strings.TrimLeft(text, " \t")
		out.Write(data[done : a.end-len(spelt)])
		out.WriteString(spell(value, spelt))
		done = a.end
	}
	out.Write(data[done:])
	for i, v := range want {
		want[i].Value = last[v.Name]
	}
	got, err := Parse(out.Bytes())
	if err == nil && !slices.Equal(got, want) {
		err = fmt.Errorf("%w: %w", ErrSyntax, errRewrite)
	}
	if err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// plain is what needs no quotes, here or in a shell.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,=~-]*$`)

// spell writes a value as it was spelt before, as far as that goes.
func spell(value, before string) string {
	switch {
	case strings.HasPrefix(before, "'") && !strings.Contains(value, "'"):
		return "'" + value + "'"
	case plain.MatchString(value) && !strings.HasPrefix(before, `"`):
		return value
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "`", "\\`", `$`, `\$`).Replace(value) + `"`
}
