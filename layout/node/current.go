package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Current is what the symlink `current` is found to be.
type Current struct {
	// Version is the release that is live; "" when there is none.
	Version string
	// Dangling is the version that `current` names although it is not on disk.
	Dangling string
	// Odd says, for a person, why `current` is nothing that Sando made or may replace:
	// a file, a directory, a link to somewhere else.
	Odd string
	// Changed is when the link was made.
	Changed time.Time
}

// Current looks at the symlink `current`.
func (d *Dir) Current() (Current, error) {
	path := d.CurrentPath()
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Current{}, nil
	}
	if err != nil {
		return Current{}, reason.OnDisk(err)
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		what := "a file"
		if info.IsDir() {
			what = "a directory"
		}
		return Current{Odd: fmt.Sprintf("%s is %s, want a symlink into releases/: move it away, then run puller again", path, what)}, nil
	}
	target, err := os.Readlink(path)
	if err != nil {
		return Current{}, reason.OnDisk(err)
	}
	version, ok := d.versionOf(target)
	if !ok {
		return Current{Odd: fmt.Sprintf("%s points to %q, which is no directory right below releases/: point it to a release, or remove it, then run puller again", path, target)}, nil
	}
	c := Current{Changed: info.ModTime()}
	has, err := d.Has(version)
	if err != nil {
		return Current{}, err
	}
	if has {
		c.Version = version
	} else {
		c.Dangling = version
	}
	return c, nil
}

// versionOf returns the version that a link target names, written relative as Sando
// does or absolute as other deployers do.
func (d *Dir) versionOf(target string) (string, bool) {
	dir, version := filepath.Split(strings.TrimSuffix(target, "/")) // as shells complete it
	if dir != "releases/" && dir != d.ReleasesPath()+"/" {
		return "", false
	}
	return version, layout.CheckVersion(version) == nil
}

// Swap makes `current` name version, in one step and durably. Whoever opens a path
// below `current` sees the old release or the new one, whole. After an error `current`
// may name either. A full disk takes the ballast.
func (d *Dir) Swap(version string) error {
	if err := layout.CheckVersion(version); err != nil {
		return err
	}
	c, err := d.Current()
	if err != nil {
		return err
	}
	if c.Odd != "" {
		return reason.Errorf(reason.Config, "%s", c.Odd)
	}
	return d.Urgent(func() error {
		if err := durable.Symlink("releases/"+version, d.CurrentPath()); err != nil {
			return reason.OnDisk(fmt.Errorf("swap current to %q: %w", version, err))
		}
		return nil
	})
}
