package enroll

import (
	"slices"
	"strings"

	"makenot.work/sando/internal/reason"
)

// valued and alone are the flags of puller bootstrap, with a value and without. The
// builder knows no puller: a test of package e2e compares them with it.
var (
	valued = [...]string{
		"access-key-file", "app", "branch", "channels", "channels-ca", "endpoint", "env-file", "env-template", "exec", "health",
		"health-json", "known-hosts", "min-seq", "node", "old-env", "old-health", "old-root", "old-unit", "path", "region", "root",
		"secret-key-file", "ssh-key", "state", "state-mode", "storage", "storage-ca", "tier", "token-file", "trust",
		"trust-fingerprint", "unit", "user",
	}
	alone = [...]string{"adopt", "anonymous", "dry-run", "json", "path-style", "timer", "verbose", "yes"}
	short = [...]string{"v", "y"} // of verbose and yes
)

// Flags returns the flags that puller bootstrap has: true for those with a value.
func Flags() map[string]bool {
	flags := map[string]bool{}
	for _, name := range valued {
		flags[name] = true
	}
	for _, name := range alone {
		flags[name] = false
	}
	return flags
}

// behind returns the names of the flags among words. Its errors, with the reason "config",
// are what puller bootstrap would have to tell somebody on the node.
func behind(words []string) ([]string, error) {
	var names []string
	flags := Flags()
	for i := 0; i < len(words); i++ {
		name, long := strings.CutPrefix(words[i], "--")
		name, _, assigned := strings.Cut(name, "=")
		wants, known := flags[name]
		switch {
		case words[i] == "-" || !strings.HasPrefix(words[i], "-"):
			return nil, reason.Errorf(reason.Config, "%q behind -- is no flag: quote a value that has spaces in it", words[i])
		case !long && slices.Contains(short[:], words[i][1:]):
			continue
		case !long || !known:
			return nil, reason.Errorf(reason.Config, "%q behind --: puller bootstrap has no such flag; its --help lists what it has", words[i])
		case wants && !assigned:
			if i++; i == len(words) {
				return nil, reason.Errorf(reason.Config, "--%s behind -- wants a value", name)
			}
		}
		names = append(names, name)
	}
	return names, nil
}
