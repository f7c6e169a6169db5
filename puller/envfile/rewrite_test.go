package envfile

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestRewrite(t *testing.T) {
	const from, to = "/old/x", "/new/x"
	for _, c := range []struct{ name, text, want string }{
		{"plain", "A=/old/x\nB=2\n", "A=/new/x\nB=2\n"},
		{"no line end", "B=2\nA=/old/x", "B=2\nA=/new/x"},
		{"space around", " A = /old/x \t\nB=2\n", " A = /new/x\nB=2\n"},
		{"carriage return", "A=/old/x\r\nB=2\r\n", "A=/new/x\r\nB=2\r\n"},
		{"comments and order", "# A=/old/x\nB=2\n;A=/old/x\nA=/old/x\n\n# end", "# A=/old/x\nB=2\n;A=/old/x\nA=/new/x\n\n# end"},
		{"single quotes", "A='/old/x'\n", "A='/new/x'\n"},
		{"double quotes", "A=\"/old/x\"\n", "A=\"/new/x\"\n"},
		{"parts", "A='/old'\"/x\"\nB=1\n", "A='/new/x'\nB=1\n"},
		{"escaped", "A=/o\\ld/x\nB=1\n", "A=/new/x\nB=1\n"},
		{"continued", "A=/old\\\n/x\nB=1\n", "A=/new/x\nB=1\n"},
		{"twice", "A=/old/x\nA=/old/x\n", "A=/new/x\nA=/new/x\n"},
		{"the last counts", "A=/old/x\nA=1\n", "A=/new/x\nA=1\n"},
		{"exported", "export A=/old/x\nA=/old/x\n", "export A=/old/x\nA=/new/x\n"},
		{"nothing", "B=/old/xy\n", "B=/old/xy\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Rewrite([]byte(c.text), func(v Var) (string, bool) { return to, v.Value == from })
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestRewriteSyntax(t *testing.T) {
	_, err := Rewrite([]byte("A=1\x00"), func(Var) (string, bool) { return "", false })
	if !errors.Is(err, ErrSyntax) {
		t.Error(err)
	}
	// NUL has no spelling.
	_, err = Rewrite([]byte("A=1\n"), func(Var) (string, bool) { return "\x00", true })
	if !errors.Is(err, ErrSyntax) {
		t.Error(err)
	}
}

// What is read after that is what was read before, but for what was changed; and a change of
// nothing changes no byte.
func FuzzRewrite(f *testing.F) {
	f.Add([]byte("A=/old/x\n# c\nB='q'\"r\"\nC=\\\n1\n"), "/new $`\"' \\ x\n")
	f.Add([]byte("A = x \r\nA=\nexport B=1"), "")
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		before, err := Parse(data)
		if err != nil {
			return
		}
		same, err := Rewrite(data, func(Var) (string, bool) { return "", false })
		if err != nil || string(same) != string(data) {
			t.Fatalf("got %q, %v, want %q", same, err, data)
		}
		if !valid([]byte(value)) || strings.Contains(value, "\x00") || len(data) > 1000 || len(value) > 1000 {
			return
		}
		after, err := Rewrite(data, func(v Var) (string, bool) { return value, strings.HasPrefix(v.Name, "A") })
		if err != nil {
			t.Fatalf("%q: %v", data, err)
		}
		got, err := Parse(after)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range before {
			if strings.HasPrefix(v.Name, "A") {
				before[i].Value = value
			}
		}
		if !slices.Equal(got, before) {
			t.Fatalf("%q became %q: %q, want %q", data, after, got, before)
		}
	})
}
