package archive

import "os"

// dirs opens directories below root. It keeps the last one open, because entries that
// follow one another mostly lie in the same directory, and a path from root costs a
// system call for each component.
type dirs struct {
	root *os.Root
	path string   // of last
	last *os.Root // nil: none yet
}

// open returns the directory with the path p, "." for root itself. It stays open until
// the next call of open or close.
func (d *dirs) open(p string) (*os.Root, error) {
	if p == "." {
		return d.root, nil
	}
	if d.last != nil && d.path == p {
		return d.last, nil
	}
	if err := d.close(); err != nil {
		return nil, err
	}
	dir, err := d.root.OpenRoot(p)
	if err != nil {
		return nil, err
	}
	d.path, d.last = p, dir
	return dir, nil
}

func (d *dirs) close() error {
	if d.last == nil {
		return nil
	}
	err := d.last.Close()
	d.last = nil
	return err
}
