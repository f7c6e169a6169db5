package oldroot

import (
	"cmp"
	"context"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// envs searches env files: those of units and of the configuration, and where they usually are.
func (s *search) envs(ctx context.Context) {
	files := s.envFiles
	for _, file := range s.o.EnvFiles {
		files = append(files, origin{file, "env file of the configuration"})
	}
	files = append(files, origin{"/etc/environment", "env file of every login"})
	for _, dir := range []string{"/etc/default", "/etc/sysconfig"} {
		for _, name := range s.files(dir) {
			files = append(files, origin{name, "env file in " + dir})
		}
	}
	for _, f := range files {
		for _, name := range s.glob(f.file) {
			s.env(ctx, name, f.by)
		}
	}
	if s.o.App == "" {
		return
	}
	dir := "/etc/" + s.o.App
	s.walk(ctx, dir, func(name string, _ bool) {
		if strings.Contains(path.Base(name), ".env") || path.Ext(name) == ".env" {
			s.env(ctx, name, "env file in "+dir)
			return
		}
		s.scan(ctx, name, source{kind: Etc, what: "file in " + dir, aside: copied(name), syntax: shell})
	})
}

// env searches one env file. Of it only keys and paths are shown.
func (s *search) env(ctx context.Context, name, what string) {
	key := ""
	s.scan(ctx, name, source{
		kind: Env, what: what, aside: copied(name), syntax: settings,
		reads: func(line []byte) {
			if m := envKey.FindSubmatch(line); m != nil {
				key = string(m[1]) + "="
			}
		},
		say: func([]byte, span) string { return cmp.Or(key, "a line") + " in " + what },
		show: func(line []byte, at span) string {
			return pathOnly(key, line, at)
		},
	})
}

var envKey = regexp.MustCompile(`^[#;\s]*(?:export\s+)?([A-Za-z_]\w*)\s*=`)

// release searches the files of the live release, and those that stand beside the releases.
func (s *search) release(ctx context.Context) {
	root := s.o.Root
	if live, err := s.disk.follow(root + "/current"); err == nil {
		what := "live release"
		if within(live, root+"/releases") {
			what += " " + visible(path.Base(live))
		}
		s.walk(ctx, live, func(name string, _ bool) {
			if strings.HasPrefix(name, live+"/.sando/") {
				return
			}
			s.scan(ctx, root+"/current"+strings.TrimPrefix(name, live), source{kind: Release, what: what})
		})
	} else {
		s.where(root + "/current") // says why
	}
	for _, name := range s.files(root) {
		s.scan(ctx, name, source{kind: Etc, what: "file in " + root, aside: copied(name), syntax: shell})
	}
}

// local searches the scripts that people put where everybody finds them.
func (s *search) local(ctx context.Context) {
	for _, dir := range []string{"/usr/local/bin", "/usr/local/sbin"} {
		s.walk(ctx, dir, func(name string, _ bool) {
			c := call{file: name, by: dir}
			if real, ok := s.where(name); ok && !s.seen[real] && s.script(c, real) {
				s.scan(ctx, name, source{kind: Script, what: "script in " + dir, aside: copied(name), syntax: shell})
			}
		})
	}
}

// etc searches what is left of /etc.
func (s *search) etc(ctx context.Context) {
	s.walk(ctx, "/etc", func(name string, link bool) {
		src := source{kind: Etc, what: "file in " + path.Dir(name), aside: copied(name), syntax: shell}
		switch {
		case strings.HasPrefix(name, "/etc/logrotate"):
			src.kind, src.what = Logrotate, "logrotate"
		case strings.Contains(name, "/.git/"), link && s.systems(name):
			return
		}
		s.scan(ctx, name, src)
	})
}

// systems reports whether a link in /etc leads to what is not the operator's.
func (s *search) systems(name string) bool {
	real, err := s.disk.follow(name)
	return err != nil || slices.ContainsFunc([]string{"/usr", "/bin", "/sbin", "/lib", "/run", "/dev", "/proc", "/sys"}, func(dir string) bool { return within(real, dir) })
}

// links looks at the links of the app's own directories, and at those that people put where
// everybody finds them: what names /srv/app uses the old directory, if that leads there.
func (s *search) links(ctx context.Context) {
	for _, dir := range append([]string{"/", "/opt", "/srv", "/home", "/mnt", "/var", "/var/lib", "/var/www"}, slices.Sorted(maps.Values(s.passwd()))...) {
		if !within(dir, s.o.Old) {
			s.files(dir)
		}
	}
	dirs := []string{s.o.Root, "/usr/local"}
	if s.o.App != "" {
		dirs = append(dirs, "/var/lib/"+s.o.App)
	}
	for _, dir := range dirs {
		s.walk(ctx, dir, func(string, bool) {})
	}
}
