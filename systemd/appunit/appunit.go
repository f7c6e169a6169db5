// Package appunit writes the systemd unit of an app from a template, for an operator to
// install: as Sando wants to find it, and in a sandbox that does not break apps.
//
//	text, err := appunit.Spec{App: "mnw", User: "mnw", Exec: "/opt/mnw/current/mnw serve"}.File()
//
// The file is the operator's from then on: the puller never writes a unit, and what is in one
// never comes from a bundle.
//
// # The template
//
// In a line of app.service.in, {name} stands for a value. A line is written once for each
// value that there is of it; where there is none it is left out, and so are the lines of
// comment directly above it.
//
// # Values
//
// A value is checked before it is filled in, so that it cannot end its line, continue it, or
// be two values where one is meant. A percent sign is doubled: systemd's specifiers are not
// to be had. Paths are absolute and clean, of letters, digits and ._+-@:,=~%, because
// not every setting has a way to quote the others. In Spec.Exec, quotes and $VARIABLE mean
// what they mean in ExecStart=; backslashes, and the prefixes by which a command gets more
// rights, are refused.
package appunit

import (
	_ "embed" // for the template
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

//go:embed app.service.in
var template string

// Spec is what the unit of an app is made from.
type Spec struct {
	App       string
	Unit      string   // default: App.service
	Root      string   // default: /opt/App
	Exec      string   // as in ExecStart=: the program's absolute path, and its arguments
	Type      string   // "exec" (the default), "simple" or "notify"
	User      string   // "root" has to be written as well
	Group     string   // "": the user's
	EnvFiles  []string // they have to exist
	ReadWrite []string // paths that it may write to, which have to exist
	State     string   // a directory in /var/lib that systemd makes for it; "": none
	StateMode fs.FileMode
	// StopStatus are exit statuses by which the app says that it need not be started again;
	// none: the line is a comment.
	StopStatus []int
}

// Types returns the types of unit to choose from.
func Types() []string { return []string{"exec", "simple", "notify"} }

// File returns the unit file.
func (s Spec) File() (string, error) {
	if s.Unit == "" {
		s.Unit = s.App + ".service"
	}
	if s.Root == "" {
		s.Root = "/opt/" + s.App
	}
	if s.Type == "" {
		s.Type = Types()[0]
	}
	if err := s.check(); err != nil {
		return "", err
	}
	values := map[string][]string{
		"app":          one(s.App),
		"unit":         one(s.Unit),
		"root":         one(s.Root),
		"exec":         one(s.Exec),
		"type":         one(s.Type),
		"user":         one(s.User),
		"group":        one(s.Group),
		"env_file":     s.EnvFiles,
		"read_write":   s.ReadWrite,
		"state":        one(s.State),
		"protect_home": one(s.protectHome()),
	}
	mode := fmt.Sprintf("%04o", s.StateMode)
	if s.State == "" {
		mode = ""
	}
	values["state_mode"] = one(mode)
	var stops []string
	for _, n := range s.StopStatus {
		stops = append(stops, strconv.Itoa(n))
	}
	values["unless_stop"], values["stop_status"] = []string{""}, one(strings.Join(stops, " "))
	if len(stops) == 0 { // a comment, for whoever wants it
		values["unless_stop"], values["stop_status"] = one("# "), one("78")
	}
	return fill(template, values)
}

// one returns a value as a list, which is empty when the value is.
func one(value string) []string {
	if value == "" {
		return nil
	}
	return []string{value}
}

var (
	appName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	unitName  = regexp.MustCompile(`^[A-Za-z0-9:_.-]{1,200}(@[A-Za-z0-9:_.-]{1,200})?\.service$`)
	userName  = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_.-]{0,30}|[0-9]{1,10})$`)
	stateName = regexp.MustCompile(`^[A-Za-z0-9_+@-][A-Za-z0-9._+@-]*(/[A-Za-z0-9_+@-][A-Za-z0-9._+@-]*)*$`)
	plainPath = regexp.MustCompile(`^/[A-Za-z0-9._+@:,=~%/-]*$`)
)

func (s *Spec) check() error {
	switch {
	case !appName.MatchString(s.App):
		return fmt.Errorf("app: %q is not the name of an app", s.App)
	case !unitName.MatchString(s.Unit):
		return fmt.Errorf("unit: %q is not the name of a service, such as %q", s.Unit, s.App+".service")
	case !slices.Contains(Types(), s.Type):
		return fmt.Errorf("type: %q is none of %s", s.Type, strings.Join(Types(), ", "))
	case s.User == "":
		return errors.New("user: none is named; write root if that is meant")
	case !userName.MatchString(s.User):
		return fmt.Errorf("user: %q is not the name of a user", s.User)
	case s.Group != "" && !userName.MatchString(s.Group):
		return fmt.Errorf("group: %q is not the name of a group", s.Group)
	}
	if err := checkPath("root", s.Root); err != nil {
		return err
	}
	for _, name := range s.EnvFiles {
		if err := checkPath("env file", name); err != nil {
			return err
		}
	}
	for _, name := range s.ReadWrite {
		if err := checkPath("read-write path", name); err != nil {
			return err
		}
	}
	for _, n := range s.StopStatus {
		if n < 1 || n > 255 {
			return fmt.Errorf("exit status: %d is not between 1 and 255", n)
		}
	}
	if err := s.checkState(); err != nil {
		return err
	}
	return s.checkExec()
}

func checkPath(what, name string) error {
	if !plainPath.MatchString(name) || path.Clean(name) != name || name == "/" {
		return fmt.Errorf("%s: %q is not an absolute path without detours and without characters that a unit file would have to quote", what, name)
	}
	return nil
}

func (s *Spec) checkState() error {
	switch {
	case s.State == "":
		return nil
	case !stateName.MatchString(s.State) || strings.HasPrefix(s.State+"/", "private/"): // which is systemd's own
		return fmt.Errorf("state directory: %q is not the name of a directory in /var/lib", s.State)
	case s.StateMode&^0o777 != 0 || s.StateMode&0o700 != 0o700:
		return fmt.Errorf("mode of the state directory: %04o does not let its owner in", s.StateMode)
	case s.StateMode&0o002 != 0:
		return fmt.Errorf("mode of the state directory: %04o lets everybody write there", s.StateMode)
	}
	return nil
}

// checkExec checks a command line, which is filled in as it is.
func (s *Spec) checkExec() error {
	program, _, _ := strings.Cut(s.Exec, " ")
	switch {
	case !utf8.ValidString(s.Exec) || strings.ContainsFunc(s.Exec, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("command: %q has characters that are not printable", s.Exec)
	case strings.Contains(s.Exec, `\`):
		return fmt.Errorf("command: %q has a backslash: put it into a script, and name that", s.Exec)
	case !plainPath.MatchString(program) || path.Clean(program) != program || program == "/":
		return fmt.Errorf("command: %q is not an absolute path: begin with that of the program, such as %s/current/%s", program, s.Root, s.App)
	case slices.Contains(strings.Fields(s.Exec), ";"):
		return fmt.Errorf("command: %q has a \";\", which would begin a second command", s.Exec)
	case strings.Contains(s.Exec+"/", s.Root+"/releases/"):
		return fmt.Errorf("command: %q names one release, and no other would ever run: write %s/current", s.Exec, s.Root)
	}
	var quote rune
	for _, r := range s.Exec {
		switch {
		case quote == 0 && (r == '"' || r == '\''):
			quote = r
		case r == quote:
			quote = 0
		}
	}
	if quote != 0 {
		return fmt.Errorf("command: %q has a %c that is not closed", s.Exec, quote)
	}
	return nil
}

// protectHome keeps the homes away from an app that has no business there.
func (s *Spec) protectHome() string {
	program, _, _ := strings.Cut(s.Exec, " ")
	for _, name := range append([]string{s.Root, program}, s.ReadWrite...) {
		for _, home := range []string{"/home", "/root", "/run/user"} {
			if name == home || strings.HasPrefix(name, home+"/") {
				return "read-only"
			}
		}
	}
	return "yes"
}

var mark = regexp.MustCompile(`\{[a-z_]+\}`)

// fill returns the template with the values in it.
func fill(template string, values map[string][]string) (string, error) {
	var out, comment strings.Builder
	for line := range strings.Lines(template) {
		filled, ok, err := fillLine(line, values)
		switch {
		case err != nil:
			return "", err
		case !ok:
			comment.Reset()
		case strings.HasPrefix(line, "#"):
			comment.WriteString(filled)
		default:
			out.WriteString(comment.String() + filled)
			comment.Reset()
		}
	}
	return out.String() + comment.String(), nil
}

// fillLine returns a line as often as its marks have values; not ok when that is never.
func fillLine(line string, values map[string][]string) (filled string, ok bool, err error) {
	n := 1
	for i, m := range mark.FindAllString(line, -1) {
		list, known := values[m[1:len(m)-1]]
		switch {
		case !known:
			return "", false, fmt.Errorf("template: %s is not known", m)
		case i > 0 && len(list) != n:
			return "", false, fmt.Errorf("template: %q has marks with different numbers of values", line)
		}
		n = len(list)
	}
	for i := range n {
		filled += mark.ReplaceAllStringFunc(line, func(m string) string {
			return strings.ReplaceAll(values[m[1:len(m)-1]][i], "%", "%%")
		})
	}
	return filled, n > 0, nil
}
