package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"makenot.work/sando/builder/proc"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// kept are the variables that git gets from outside: what it takes to find programs,
// the user's own git configuration (credential helpers), ssh and a proxy.
// Nothing else passes; GIT_DIR of a hook that calls the builder must not.
var kept = [...]string{
	"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CONFIG_HOME",
	"SSH_AUTH_SOCK", "GIT_SSH_COMMAND", "GIT_SSH", "GIT_SSH_VARIANT",
	"GIT_ASKPASS", "SSH_ASKPASS", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM",
	"GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY",
}

// settings overrule the user's configuration where it would change which bytes a
// checkout has, run a hook, or leave a process behind.
var settings = [...]string{
	"core.autocrlf=false", "core.eol=lf", "core.symlinks=true", "core.fileMode=true",
	"core.attributesFile=/dev/null", "core.excludesFile=/dev/null", "core.ignoreCase=false",
	"core.ignoreStat=false", "core.trustctime=true", "core.checkStat=default",
	"core.hooksPath=/dev/null", "core.fsmonitor=false", "core.untrackedCache=false", "init.templateDir=",
	"clone.defaultRemoteName=origin",
	"gc.autoDetach=false", "maintenance.autoDetach=false", "submodule.recurse=false",
	"log.showSignature=false", "status.showUntrackedFiles=normal", "status.relativePaths=true",
	"advice.detachedHead=false", "color.ui=false", "core.quotePath=false",
}

func gitEnv(protocols string) []string {
	env := make([]string, 0, len(kept)+8)
	for _, name := range kept {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, "LC_ALL=C", "GIT_ATTR_NOSYSTEM=1", "GIT_NO_REPLACE_OBJECTS=1",
		"GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "GIT_ALLOW_PROTOCOL="+protocols)
}

// checkoutEnv is gitEnv for what writes a work tree of ours, or looks at one. The user's
// filters are off, and large files come from git-lfs the way it installs itself, whatever
// the user made of that: a commit gives the same bytes on every machine, or none. All
// submodules are wanted.
func (s *Source) checkoutEnv(ctx context.Context, protocols string) ([]string, error) {
	env := gitEnv(protocols)
	var n int
	set := func(key, value string) {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", n, key), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", n, value))
		n++
	}
	out, err := s.git(ctx, s.State, "", "config", "--null", "--name-only", "--get-regexp", `^filter\.`)
	var none *gitError
	if err != nil && !(errors.As(err, &none) && none.code == 1) {
		return nil, err
	}
	for key := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		switch {
		case strings.HasSuffix(key, ".required"):
			set(key, "false")
		case key != "":
			set(key, "")
		}
	}
	set("filter.lfs.process", "git-lfs filter-process")
	set("filter.lfs.smudge", "git-lfs smudge -- %f")
	set("filter.lfs.clean", "git-lfs clean -- %f")
	set("filter.lfs.required", "true")
	set("lfs.fetchInclude", "")
	set("lfs.fetchExclude", "")
	set("lfs.skipDownloadErrors", "false")
	set("submodule.active", ".")
	return append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", n)), nil
}

// git runs the git program in dir and returns what it printed. Protocols is the list
// of transports it may use, submodules included; it overrules all configuration.
func (s *Source) git(ctx context.Context, dir, protocols string, args ...string) (string, error) {
	return s.gitWith(ctx, gitEnv(protocols), dir, args...)
}

// gitWith is git with an environment.
func (s *Source) gitWith(ctx context.Context, env []string, dir string, args ...string) (string, error) {
	all := []string{"git"}
	for _, c := range settings {
		all = append(all, "-c", c)
	}
	var out bytes.Buffer
	tail := &proc.Tail{Max: 8}
	err := s.Run.Run(ctx, proc.Cmd{
		Dir: dir, Args: append(all, args...), Env: env, Stdout: &out, Stderr: tail,
	})
	if err == nil {
		return out.String(), nil
	}
	if errors.Is(err, proc.ErrNotFound) {
		return "", reason.Errorf(reason.Config, "%w: install git", err)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		said := strings.TrimSpace(strings.Join(tail.Lines(), "\n  "))
		err = &gitError{exit.ExitCode(), layout.Redact(said)}
	}
	return "", fmt.Errorf("git %s: %w", args[0], err)
}

// A gitError is an unhappy end of the git program.
type gitError struct {
	code int
	said string
}

func (e *gitError) Error() string {
	if e.said == "" {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return fmt.Sprintf("exit status %d: %s", e.code, e.said)
}
