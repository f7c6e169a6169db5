package archive

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/tree"
)

// disk is the sink that makes entries in a directory. Everything goes through os.Root,
// names one component in a directory that is already open, and only makes what is not
// there: no link is followed, nothing is replaced.
type disk struct{ dirs dirs }

func (d *disk) checkEmpty() error {
	f, err := d.dirs.root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close() // was only read
	names, err := f.Readdirnames(1)
	if err == io.EOF {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("directory %q is not empty: it holds %q", f.Name(), names[0])
	}
	return err
}

func (d *disk) dir(p string) (err error) {
	parent, err := d.dirs.open(path.Dir(p))
	if err != nil {
		return err
	}
	name := path.Base(p)
	if err := parent.Mkdir(name, 0o755); err != nil {
		return err
	}
	f, err := parent.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	return f.Chmod(0o755) // whatever the umask is
}

func (d *disk) link(p, target string) error {
	parent, err := d.dirs.open(path.Dir(p))
	if err != nil {
		return err
	}
	return parent.Symlink(target, path.Base(p))
}

func (d *disk) file(p string, kind tree.Kind) (io.WriteCloser, error) {
	parent, err := d.dirs.open(path.Dir(p))
	if err != nil {
		return nil, err
	}
	f, err := parent.OpenFile(path.Base(p), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	perm := fs.FileMode(0o644)
	if kind == tree.Exec {
		perm = 0o755
	}
	if err := f.Chmod(perm); err != nil { // whatever the umask is
		return nil, errors.Join(err, f.Close())
	}
	return &diskFile{f: f}, nil
}

// diskFile is a new file whose bytes are on their way to the disk while the ones that
// follow are still being decoded. That makes nothing durable, but the syncfs that does
// then finds little left to do.
type diskFile struct {
	f             *os.File
	written, sent int64
}

// sendSize is how many bytes are sent to the disk at a time.
const sendSize = 8 << 20

func (d *diskFile) Write(p []byte) (int, error) {
	n, err := d.f.Write(p)
	d.written += int64(n)
	if err == nil && d.written-d.sent >= sendSize {
		err = d.send()
	}
	return n, err
}

func (d *diskFile) Close() error {
	return errors.Join(d.send(), d.f.Close())
}

// send starts the write-back of what was written since it was called last. Only an
// error that says that the disk did not take it counts: a kernel or filesystem that
// does not know the call loses some time, nothing else.
func (d *diskFile) send() error {
	if d.sent == d.written {
		return nil
	}
	err := unix.SyncFileRange(int(d.f.Fd()), d.sent, d.written-d.sent, unix.SYNC_FILE_RANGE_WRITE)
	d.sent = d.written
	if reason.Of(reason.OnDisk(err)) == reason.Disk || errors.Is(err, unix.EIO) {
		return &fs.PathError{Op: "sync_file_range", Path: d.f.Name(), Err: err}
	}
	return nil
}
