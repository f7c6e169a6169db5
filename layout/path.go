package layout

import (
	"errors"
	"fmt"
	"strings"

	"makenot.work/sando/internal/canon"
)

// Bounds on a path inside a bundle.
const (
	MaxPath      = 1024 // bytes
	MaxComponent = 255  // bytes
	MaxDepth     = 64   // components
)

// MetaDir is the directory in a release that belongs to Sando, not to the bundle.
const MetaDir = ".sando"

// ErrPath is matched by every error about a path or link target that a bundle may
// not hold.
var ErrPath = errors.New("path not allowed in a bundle")

// CheckPath reports whether p may name an entry of a bundle: relative, separated by
// single slashes, no "." or ".." component, no control characters or backslashes, not
// in ".sando". Paths are rejected, never cleaned.
func CheckPath(p string) error {
	if err := checkComponents(p, strings.Split(p, "/")); err != nil {
		return err
	}
	if p == MetaDir || strings.HasPrefix(p, MetaDir+"/") {
		return fmt.Errorf("%w: %q belongs to the puller", ErrPath, p)
	}
	return nil
}

// CheckLink reports whether a symlink at the path link may have the target: relative,
// ".." only in front, and never above the bundle's root. A target that passes through
// other links stays inside as well, because each of them does.
func CheckLink(link, target string) error {
	parts := strings.Split(target, "/")
	up := 0
	for up < len(parts) && parts[up] == ".." {
		up++
	}
	if up > strings.Count(link, "/") {
		return fmt.Errorf("%w: link %q to %q leaves the bundle", ErrPath, link, target)
	}
	if up == len(parts) {
		return checkText(target)
	}
	if err := checkComponents(target, parts[up:]); err != nil {
		return fmt.Errorf("link %q: %w", link, err)
	}
	if up == strings.Count(link, "/") && parts[up] == MetaDir {
		return fmt.Errorf("%w: link %q to %q leads to what belongs to the puller", ErrPath, link, target)
	}
	return nil
}

func checkComponents(p string, parts []string) error {
	if err := checkText(p); err != nil {
		return err
	}
	if len(parts) > MaxDepth {
		return fmt.Errorf("%w: %q is deeper than %d", ErrPath, p, MaxDepth)
	}
	for _, c := range parts {
		switch {
		case c == "":
			return fmt.Errorf("%w: %q is absolute or has an empty component", ErrPath, p)
		case c == "." || c == "..":
			return fmt.Errorf("%w: %q has a %q component", ErrPath, p, c)
		case len(c) > MaxComponent:
			return fmt.Errorf("%w: a component of %q is longer than %d bytes", ErrPath, p, MaxComponent)
		}
	}
	return nil
}

func checkText(p string) error {
	if len(p) > MaxPath {
		return fmt.Errorf("%w: %q is longer than %d bytes", ErrPath, p, MaxPath)
	}
	if strings.ContainsRune(p, '\\') {
		return fmt.Errorf("%w: %q holds a backslash", ErrPath, p)
	}
	if err := canon.Text(p, false); err != nil {
		return fmt.Errorf("%w: %w", ErrPath, err)
	}
	return nil
}
