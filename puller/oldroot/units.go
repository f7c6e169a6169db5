package oldroot

import (
	"bytes"
	"context"
	"path"
	"regexp"
	"strings"
)

// unitDirs are where units of the system and of users are, those that count more first. What
// generators write at boot is not among them: what that is made from is searched.
func unitDirs() (system, user []string) {
	system = []string{
		"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient",
		"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system",
	}
	user = []string{
		"/etc/xdg/systemd/user", "/etc/systemd/user", "/run/systemd/user",
		"/usr/local/share/systemd/user", "/usr/share/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user",
	}
	return system, user
}

// units searches units and drop-ins, and remembers what they run and which env files they read.
func (s *search) units(ctx context.Context) {
	system, user := unitDirs()
	s.unitsIn(ctx, system, "")
	s.unitsIn(ctx, user, "user unit ")
}

// unitsIn searches one set of directories.
func (s *search) unitsIn(ctx context.Context, dirs []string, what string) {
	first := map[string]string{} // file of a unit, by its name within the directories
	for _, dir := range dirs {
		s.walk(ctx, dir, func(name string, link bool) {
			inside := strings.TrimPrefix(name, dir+"/")
			if at, ok := s.namedBy(path.Base(name)); ok {
				s.add(Reference{File: name, Kind: Unit, What: "name of a unit", Text: at})
			}
			aside := notRead(inside)
			if by := first[inside]; by != "" && aside == "" && s.elsewhere(by, name) {
				aside = by + " replaces it"
			} else if by == "" {
				first[inside] = name
			}
			s.unit(ctx, name, unitOf(inside), what, aside)
		})
	}
}

// elsewhere reports whether two names are of different files.
func (s *search) elsewhere(a, b string) bool {
	x, err := s.disk.follow(a)
	y, errToo := s.disk.follow(b)
	return err != nil || errToo != nil || x != y
}

// notRead says why systemd does not read the file inside a directory of units.
func notRead(inside string) string {
	dir, base := path.Split(inside)
	switch {
	case strings.HasSuffix(dir, ".d/") && !strings.HasSuffix(base, ".conf"):
		return "systemd reads drop-ins only that end in .conf"
	case !strings.HasSuffix(dir, ".d/") && !unitName.MatchString(base):
		return "not a name of a unit"
	}
	return ""
}

var unitName = regexp.MustCompile(`\.(service|socket|device|mount|automount|swap|target|path|timer|slice|scope)$`)

// unitOf returns the unit that a file is of: "x.service", also for x.service.d/y.conf.
func unitOf(inside string) string {
	dir, base := path.Split(inside)
	if unit, ok := strings.CutSuffix(strings.TrimSuffix(dir, "/"), ".d"); ok {
		return unit
	}
	return base
}

// unit searches the file of a unit.
func (s *search) unit(ctx context.Context, file, name, what, aside string) {
	key, shown, goesOn := "", "", false
	what += visible(name)
	s.scan(ctx, file, source{
		kind: Unit, what: what, aside: aside, syntax: settings,
		reads: func(line []byte) {
			text := strings.TrimSpace(string(line))
			if shown = ""; text == "" || text[0] == '#' || text[0] == ';' {
				return // also within a value of several lines
			}
			value := text
			if !goesOn {
				key, value, _ = strings.Cut(text, "=")
				key = strings.TrimSpace(key)
			}
			if goesOn = strings.HasSuffix(text, `\`); settingName.MatchString(key) {
				shown = key + "= of "
			}
			value = strings.TrimSpace(strings.TrimSuffix(specified(name, value), `\`))
			if aside == "" {
				s.setting(key, value, key+"= of "+what, name)
			}
		},
		say:   func([]byte, span) string { return shown + what },
		spell: func(line []byte) (span, bool) { return s.unitSpelled(name, line) },
		show: func(line []byte, at span) string {
			if strings.HasPrefix(shown, "Environment=") || bytes.Contains(line, []byte("Environment=")) {
				return pathOnly(assignments(line, at), line, at)
			}
			return excerpt(line, at)
		},
	})
}

var settingName = regexp.MustCompile(`^[A-Za-z]+$`)

// setting remembers what a setting of a unit makes systemd run or read.
func (s *search) setting(key, value, by, unit string) {
	switch {
	case key == "EnvironmentFile":
		s.envFiles = append(s.envFiles, origin{strings.Trim(strings.TrimPrefix(value, "-"), `"`), "env file of " + unit})
	case strings.HasPrefix(key, "Exec"):
		s.calls(value, by, "", "/root")
		if words := strings.Fields(value); len(words) > 0 && path.Base(words[0]) == "caddy" {
			for i, word := range words[:len(words)-1] {
				if word == "--config" || word == "-c" {
					s.caddy = append(s.caddy, words[i+1])
				}
			}
		}
	}
}

// specified fills in the specifiers that follow from the name of a unit.
func specified(name, text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	whole := unitName.ReplaceAllString(name, "")
	prefix, instance, _ := strings.Cut(whole, "@")
	pairs := []string{"%%", "%", "%n", name, "%N", whole, "%p", prefix, "%P", unescaped(prefix)}
	if instance != "" {
		pairs = append(pairs, "%i", instance, "%I", unescaped(instance), "%f", "/"+unescaped(instance))
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// unescaped undoes what systemd-escape does.
func unescaped(name string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		if c, ok := escaped([]byte(name[i:])); ok {
			b.WriteByte(c)
			i += 3
		} else if name[i] == '-' {
			b.WriteByte('/')
		} else {
			b.WriteByte(name[i])
		}
	}
	return b.String()
}

// unitSpelled finds what only a unit writes: paths with specifiers, and paths in names of units.
func (s *search) unitSpelled(name string, line []byte) (span, bool) {
	if text := specified(name, string(line)); text != string(line) {
		if _, ok := find([]byte(text), s.o.Old, 0); ok {
			return span{0, len(line)}, true
		}
	}
	for at := range strings.FieldsFuncSeq(string(line), func(r rune) bool { return strings.ContainsRune(" \t=\"',", r) }) {
		if word, ok := s.namedBy(at); ok {
			from := bytes.Index(line, []byte(word))
			return span{from, from + len(word)}, true
		}
	}
	return span{}, false
}

// namedBy reports whether the name of a unit has the old directory in it: opt-app.mount,
// backup@opt-app-data.service.
func (s *search) namedBy(name string) (string, bool) {
	kind := unitName.FindString(name)
	whole, instance, isInstance := strings.Cut(strings.TrimSuffix(name, kind), "@")
	switch {
	case kind == "":
		return "", false
	case isInstance:
		whole = instance
	case kind != ".mount" && kind != ".automount" && kind != ".swap":
		return "", false
	}
	return name, within("/"+strings.Trim(unescaped(whole), "/"), s.o.Old)
}

// assignments shows which variable of Environment= a place is in the value of.
func assignments(line []byte, at span) string {
	keys := assignment.FindAllSubmatch(bytes.TrimPrefix(line[:at.from], []byte("Environment=")), -1)
	if len(keys) == 0 {
		return "Environment=…"
	}
	return "Environment=" + string(keys[len(keys)-1][1]) + "="
}

var assignment = regexp.MustCompile(`(?:^|[\s"'])([A-Za-z_]\w*)=`)
