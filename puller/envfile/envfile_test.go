package envfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

type odd struct {
	name, text string
	want       []Var
	err        string // in the error; "" for none
	versions   bool   // systemd's versions disagree about it
}

func odds() []odd {
	v := func(pairs ...string) (vars []Var) {
		for i := 0; i < len(pairs); i += 2 {
			vars = append(vars, Var{pairs[i], pairs[i+1]})
		}
		return vars
	}
	return []odd{
		{name: "nothing", text: ""},
		{name: "plain", text: "A=b\nB=c d\n", want: v("A", "b", "B", "c d")},
		{name: "no line end", text: "A=b", want: v("A", "b")},
		{name: "no line end in a name", text: "A=b\nB", want: v("A", "b")},
		{name: "empty", text: "A=\nB=''\nC=\"\"\nD=", want: v("A", "", "B", "", "C", "", "D", "")},
		{name: "DOS line ends", text: "A=b\r\nB=c \r\n\r\n", want: v("A", "b", "B", "c")},
		{name: "old Macintosh line ends", text: "A=b\rB=c\r", want: v("A", "b", "B", "c")},
		{name: "space around", text: " \t A \t = \t b c \t \n", want: v("A", "b c")},
		{name: "comments", text: "#A=b\n;B=c\n  # C=d\nD=e # f\nE=;\n", want: v("D", "e # f", "E", ";")},
		{name: "no assignment", text: "A\n\nB b\nC=c\n", want: v("C", "c")},
		{name: "the last counts", text: "A=1\nB=2\nA=3\n", want: v("A", "3", "B", "2")},
		{name: "equals signs", text: "A=b=c\nB==\n==d\n=e\n", want: v("A", "b=c", "B", "=")},
		{name: "names that are dropped", text: "1A=x\nA-B=x\nA.B=x\nexport C=x\n=x\n=\nÄ=x\n[A]=x\nA B=x\n_1=y\na=z\n", want: v("_1", "y", "a", "z")},
		{name: "an order mark", text: "\ufeffA=b\nB=c\n", want: v("B", "c")},
		{name: "single quotes", text: "A='b  c '\nB='d\\n\\'\nC='\"'\nD='#'\n", want: v("A", "b  c ", "B", `d\n\`, "C", `"`, "D", "#")},
		{name: "double quotes", text: `A="b  c "` + "\n" + `B="\"\\\$\` + "`" + `\n\'"` + "\n" + `C="'"` + "\n", want: v("A", "b  c ", "B", "\"\\$`\\n\\'", "C", "'")},
		{name: "quotes over lines", text: "A='b\nc=d\n#e'\nB=\"f\n  g\\\nh\"\n", want: v("A", "b\nc=d\n#e", "B", "f\n  gh")},
		{name: "a carriage return that is escaped in quotes", text: "A=\"b\\\r\nc\"\n", want: v("A", "b\\\r\nc")},
		{name: "parts", text: "A='b'\"c\"d\nB='e' 'f' g  h \nC=i'j'\n", want: v("A", "bcd", "B", "efg  h", "C", "i'j'")},
		{name: "a quote that stays open", text: "A=b\nB='c\nD=e\n", want: v("A", "b", "B", "c\nD=e\n")},
		{name: "a double quote that stays open", text: "B=\"c \\", want: v("B", "c ")},
		{name: "backslashes", text: `A=b\c\\d\ ` + "\n" + `B=\'\"\#` + "\n" + `C=\t` + "\n", want: v("A", `bc\d `, "B", `'"#`, "C", "t")},
		{name: "lines that go on", text: "A=b \\\n  c\nB=\\\n  d\nC=e\\\n\nD=f \\\r\ng\nE=g\\", want: v("A", "b   c", "B", "  d", "C", "e", "D", "f ", "E", "g")},
		{name: "a name that does not go on", text: "A\\\nB=c\n", want: v("B", "c")},
		{name: "space before an escaped end", text: "A=b  \\\n\nB='c' \\\n \n", want: v("A", "b  ", "B", "c")},
		{name: "control characters", text: "A=\x01\x1b[1m\x7f\nB='\t'\n", want: v("A", "\x01\x1b[1m\x7f", "B", "\t")},
		{name: "not expanded", text: "A=$HOME/${B}$(c)`d`\nB=%h %%\nC=\"$A\"\n", want: v("A", "$HOME/${B}$(c)`d`", "B", "%h %%", "C", "$A")},
		{name: "text", text: "A=grüße 世界 🙂 \ufeff\ufffd\n", want: v("A", "grüße 世界 🙂 \ufeff\ufffd")},
		{name: "not UTF-8 in a value", text: "A=b\nB=secret\xff\n", err: "the assignment that ends in line 2 is not valid UTF-8"},
		{name: "not UTF-8 in a name", text: "secret\xff=b\n", err: "the assignment that ends in line 1 is not valid UTF-8"},
		{name: "not UTF-8 in a comment", text: "#\xff\nA=b\nC\xff\n", want: v("A", "b")},
		{name: "a surrogate", text: "A=\xed\xa0\x80\n", err: "is not valid UTF-8"},
		{name: "a noncharacter", text: "A=\ufdd0\n", err: "is not valid UTF-8"},
		{name: "another noncharacter", text: "A=\U0001ffff\n", err: "is not valid UTF-8"},
		{name: "NUL", text: "A=b\nB=secret\x00d\n", err: "it has a NUL byte"},
		{name: "NUL in a comment", text: "A=b\n#\x00\n", err: "it has a NUL byte"},
		{name: "a comment that may go on", text: "A=b\n# c \\\nD=secret\n", err: "the comment in line 2 ends in a backslash", versions: true},
		{name: "a comment that may go on, and not be text", text: "# c \\\nD=secret\xff\n", err: "the comment in line 1 ends in a backslash", versions: true},
		{name: "a comment that goes on to no end", text: "# c \\\n# d\nA=b\n# e\\f\\\\\nB=c\n", want: v("A", "b", "B", "c")},
	}
}

func TestParse(t *testing.T) {
	for _, o := range odds() {
		t.Run(o.name, func(t *testing.T) {
			got, err := Parse([]byte(o.text))
			if o.err != "" {
				if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), o.err) || strings.Contains(err.Error(), "secret") {
					t.Fatalf("error %v, want %q", err, o.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(o.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "app.env")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full := "A=" + strings.Repeat("x", MaxSize-2)
	write(full)
	if vars, err := Read(file); err != nil || len(vars) != 1 || len(vars[0].Value) != MaxSize-2 {
		t.Errorf("a file of the greatest size: %d assignments, %v", len(vars), err)
	}
	write(full + "x")
	if _, err := Read(file); !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("a file that is one byte too big: %v", err)
	}
	write("A=\xff")
	if _, err := Read(file); !errors.Is(err, ErrSyntax) || !strings.HasPrefix(err.Error(), file+": ") {
		t.Errorf("a file that is not text: %v", err)
	}
	if _, err := Read(file + "s"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{dir, pipe} {
		if _, err := Read(name); !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMerge(t *testing.T) {
	got := Merge([]Var{{"A", "1"}, {"B", "2"}}, nil, []Var{{"B", "3"}, {"C", "4"}})
	want := []Var{{"A", "1"}, {"B", "3"}, {"C", "4"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// written returns what Parse reads as vars.
func written(vars []Var) []byte {
	var b strings.Builder
	for _, v := range vars {
		b.WriteString(v.Name + "=\"" + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v.Value) + "\"\n")
	}
	return []byte(b.String())
}

// What parses, and is written again, parses to the same.
func FuzzParse(f *testing.F) {
	for _, o := range odds() {
		f.Add([]byte(o.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		vars, err := Parse(data)
		if err != nil {
			if !errors.Is(err, ErrSyntax) {
				t.Fatal(err)
			}
			return
		}
		text := written(vars)
		if len(text) > MaxSize {
			return
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(vars, again); diff != "" {
			t.Errorf("%q is written as %q (-first +again)\n%s", data, text, diff)
		}
	})
}
