package oldroot

import (
	"bytes"
	"context"
	"path"
	"regexp"
	"slices"
	"strings"
)

// copied says that a file is a copy of another, by how its name ends; programs that read a whole
// directory mostly leave it out, and nobody would run it. They do read app.old.conf.
func copied(name string) string {
	base := path.Base(name)
	if copyName.MatchString(base) || slices.Contains([]string{"passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-"}, base) {
		return "a copy, by its name"
	}
	return ""
}

var copyName = regexp.MustCompile(`~$|(?i)\.(bak|backup|old|orig|save|sav|swp|swo|rej|dpkg-\w+|ucf-\w+|rpm(save|new|orig)|disabled)([-_.]?[0-9][^A-Za-z]*)?~?$`)

// sudoers searches the rules of sudo.
func (s *search) sudoers(ctx context.Context) {
	s.programs()
	s.sudo(ctx, "/etc/sudoers", "")
	s.sudoDir(ctx, "/etc/sudoers.d")
}

// sudoDir searches a directory of rules, of which sudo leaves out what has a dot in its name.
func (s *search) sudoDir(ctx context.Context, dir string) {
	for _, name := range s.files(dir) {
		aside := ""
		if base := path.Base(name); strings.Contains(base, ".") || strings.HasSuffix(base, "~") {
			aside = "sudo does not read it: there is a dot in its name, or a ~ at its end"
		}
		s.sudo(ctx, name, aside)
	}
}

func (s *search) sudo(ctx context.Context, name, aside string) {
	s.scan(ctx, name, source{
		kind: Sudoers, what: "sudoers", aside: aside, syntax: sudo,
		reads: func(line []byte) {
			m := sudoInclude.FindSubmatch(line)
			switch {
			case aside != "":
			case m != nil && len(m[1]) > 0:
				s.sudoDir(ctx, string(m[2]))
			case m != nil:
				s.sudo(ctx, string(m[2]), "")
			case !sudo.remark(line):
				s.calls(string(line), name, "", "/root")
			}
		},
	})
}

var sudoInclude = regexp.MustCompile(`^\s*[@#]include(dir)?\s+"?([^"\s]+)`)

// cron searches crontabs, what run-parts runs, and at jobs.
func (s *search) cron(ctx context.Context) {
	for _, dir := range []string{"/var/spool/cron/crontabs", "/var/spool/cron", "/etc/crontabs"} {
		for _, name := range s.files(dir) {
			user := path.Base(name)
			s.crontab(ctx, name, "crontab of "+visible(user), "", user)
		}
	}
	for _, name := range []string{"/etc/crontab", "/etc/anacrontab"} {
		s.crontab(ctx, name, "crontab", "", "root")
	}
	for _, name := range s.files("/etc/cron.d") {
		s.crontab(ctx, name, "crontab", s.partName(name, "cron"), "root")
	}
	for _, dir := range []string{"/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly", "/etc/cron.yearly"} {
		for _, name := range s.files(dir) {
			s.part(ctx, name, path.Base(dir))
		}
	}
	for _, dir := range []string{"/var/spool/cron/atjobs", "/var/spool/at"} {
		for _, name := range s.files(dir) {
			s.crontab(ctx, name, "at job", "", "")
		}
	}
}

func (s *search) crontab(ctx context.Context, name, what, aside, user string) {
	home := "/root"
	if user != "root" {
		home = s.passwd()[user]
	}
	s.scan(ctx, name, source{
		kind: Crontab, what: what, aside: aside, syntax: shell,
		reads: func(line []byte) {
			if aside == "" && !shell.remark(line) {
				s.calls(string(line), what, home, home)
			}
		},
	})
}

// part searches a program of a directory that run-parts runs.
func (s *search) part(ctx context.Context, name, when string) {
	aside := s.partName(name, "run-parts")
	if real, err := s.disk.follow(name); err == nil && aside == "" {
		if info, err := s.disk.root.Lstat(relative(real)); err == nil && info.Mode()&0o111 == 0 {
			aside = "run-parts does not run it: it is not executable"
		}
	}
	s.scan(ctx, name, source{
		kind: Crontab, what: "script in " + when, aside: aside, syntax: shell,
		reads: func(line []byte) {
			if aside == "" && !shell.remark(line) {
				s.calls(string(line), "script "+name, path.Dir(name), "/root")
			}
		},
	})
}

// partName says that cron and run-parts leave a file out: Debian's do so by the name.
func (s *search) partName(name, reader string) string {
	_, err := s.disk.root.Lstat("etc/debian_version")
	if err == nil && !cronName.MatchString(path.Base(name)) {
		return reader + " does not read it: there is more in its name than letters, digits, _ and -"
	}
	if err != nil && cronCopy.MatchString(path.Base(name)) {
		return reader + " does not read it: by its name it is a copy"
	}
	return ""
}

var (
	cronName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)                      // Debian's
	cronCopy = regexp.MustCompile(`^\.|[~,]$|\.(rpm(save|new|orig)|swp)$`) // others read app.bak, too
)

// passwd returns the homes of users.
func (s *search) passwd() map[string]string {
	if len(s.homes) > 0 {
		return s.homes
	}
	s.homes["root"] = "/root"
	for line := range bytes.SplitSeq(s.read("/etc/passwd"), []byte("\n")) {
		if f := strings.Split(string(line), ":"); len(f) == 7 && path.IsAbs(f[5]) {
			s.homes[f[0]] = path.Clean(f[5])
		}
	}
	return s.homes
}

// users searches /etc/passwd, and what is read in homes.
func (s *search) users(ctx context.Context) {
	s.scan(ctx, "/etc/passwd", source{
		kind: Passwd, what: "users", syntax: noComments,
		say: func(line []byte, at span) string {
			f := strings.Split(string(line), ":")
			switch bytes.Count(line[:at.from], []byte(":")) {
			case 5:
				return "home of " + visible(f[0])
			case 6:
				return "login shell of " + visible(f[0])
			}
			return "entry of " + visible(f[0])
		},
	})
	homes := s.passwd()
	for _, user := range sortedKeys(homes) {
		home := homes[user]
		if within(home, s.o.Old) {
			continue
		}
		if _, ok := s.where(home); !ok {
			continue
		}
		for _, name := range []string{".ssh/authorized_keys", ".ssh/authorized_keys2"} {
			s.keys(ctx, path.Join(home, name), user)
		}
		for _, name := range []string{
			".ssh/rc", ".ssh/config", ".profile", ".bash_profile", ".bash_login", ".bashrc", ".bash_aliases", ".bash_logout",
			".zshenv", ".zprofile", ".zshrc", ".forward",
		} {
			s.scan(ctx, path.Join(home, name), source{kind: Home, what: name + " of " + visible(user), syntax: shell})
		}
		for _, name := range []string{".netrc", ".pgpass", ".my.cnf", ".pam_environment", ".ssh/environment"} { // there are secrets in any place of these
			s.scan(ctx, path.Join(home, name), source{
				kind: Home, what: name + " of " + visible(user), syntax: settings,
				show: func(line []byte, at span) string { return pathOnly("", line, at) },
			})
		}
		s.unitsIn(ctx, []string{home + "/.config/systemd/user", home + "/.local/share/systemd/user"}, "unit of "+visible(user)+": ")
	}
}

// keys searches an authorized_keys.
func (s *search) keys(ctx context.Context, name, user string) {
	what := "authorized_keys of " + visible(user)
	option := func(line []byte, at span) string {
		for _, m := range keyOption.FindAllSubmatchIndex(line, -1) {
			if m[0] <= at.from && at.from < m[1] {
				return string(line[m[2]:m[3]]) + "= in " + what
			}
		}
		return what
	}
	s.scan(ctx, name, source{
		kind: Home, what: what, syntax: settings, say: option,
		reads: func(line []byte) {
			for _, m := range keyOption.FindAllSubmatch(line, -1) {
				if string(m[1]) == "command" && line[0] != '#' {
					home := s.passwd()[user]
					s.calls(strings.ReplaceAll(string(m[2]), `\"`, `"`), "command= in "+what, home, home)
				}
			}
		},
	})
}

var keyOption = regexp.MustCompile(`([A-Za-z-]+)="((?:[^"\\]|\\.)*)"`)

// web searches the configuration of Caddy and nginx: first what they read, then the rest.
func (s *search) web(ctx context.Context) {
	for _, file := range append([]string{"/etc/caddy/Caddyfile"}, s.caddy...) {
		s.included(ctx, file, source{kind: Caddy, what: "Caddy configuration", syntax: shell}, caddyImport, "")
	}
	s.walk(ctx, "/etc/caddy", func(name string, _ bool) {
		s.scan(ctx, name, source{kind: Caddy, what: "Caddy configuration", aside: copied(name), syntax: shell})
	})
	nginx := source{kind: Nginx, what: "nginx configuration", syntax: shell}
	s.included(ctx, "/etc/nginx/nginx.conf", nginx, nginxInclude, "/etc/nginx")
	_, err := s.disk.follow("/etc/nginx/nginx.conf")
	s.walk(ctx, "/etc/nginx", func(name string, _ bool) {
		rest := nginx
		if rest.aside = copied(name); rest.aside == "" && err == nil && strings.Contains(name, "/sites-available/") {
			rest.aside = "nginx.conf does not include it"
		}
		s.scan(ctx, name, rest)
	})
}

var (
	caddyImport  = regexp.MustCompile(`^\s*import\s+"?([^\s"]+)`)
	nginxInclude = regexp.MustCompile(`(?:^|[\s;{])include\s+["']?([^\s;"']+)`)
)

// included searches a file, and those that it includes: below dir, or below its own directory.
func (s *search) included(ctx context.Context, name string, src source, include *regexp.Regexp, dir string) {
	src.reads = func(line []byte) {
		if shell.remark(line) {
			return
		}
		for _, m := range include.FindAllSubmatch(line, -1) {
			pattern := string(m[1])
			if !path.IsAbs(pattern) {
				below := dir
				if below == "" {
					below = path.Dir(name)
				}
				pattern = path.Join(below, pattern)
			}
			for _, file := range s.glob(pattern) {
				s.included(ctx, file, src, include, dir)
			}
		}
	}
	s.scan(ctx, name, src)
}
