package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

// Info is what a manifest says about a tarball.
type Info struct {
	Size     int64  // bytes of the tarball
	SHA256   string // of the tarball, 64 hex digits
	Unpacked int64  // bytes of all regular files together
	Entries  int64  // directories, files and links
	Tree     layout.Digest
}

// Pack writes the tarball of the directory root to w, and returns what the manifest
// says about it and the entries of its tree. Every entry gets the time mtime, a whole
// second. A regular file with any executable bit becomes 0755, another 0644, a
// directory 0755. progress, unless nil, is called with the number of bytes of regular
// files that were packed since it was called last.
//
// An error matches tree.ErrTree when root holds what the profile does not have, and
// layout.ErrPath as well when that is a path or a link target; the error names it. A
// full disk has the reason "disk".
func Pack(ctx context.Context, w io.Writer, root *os.Root, mtime time.Time, progress func(bytes int64)) (Info, []tree.Entry, error) {
	out := &meter{w: w, sum: sha256.New()}
	zw, err := newEncoder(out)
	if err != nil {
		return Info{}, nil, err
	}
	entries, err := writeTar(ctx, zw, root, mtime, progress)
	if err == nil {
		err = zw.Close()
	}
	if err != nil {
		return Info{}, nil, reason.OnDisk(err)
	}
	info := Info{
		Size: out.n, SHA256: hex.EncodeToString(out.sum.Sum(nil)),
		Entries: int64(len(entries)), Tree: tree.Hash(entries),
	}
	for _, e := range entries {
		info.Unpacked += e.Size
	}
	return info, entries, nil
}

// meter counts and hashes what passes to w.
type meter struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (m *meter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.sum.Write(p[:n])
	m.n += int64(n)
	return n, err
}

// writeTar writes the tar archive of the directory root to w.
func writeTar(ctx context.Context, w io.Writer, root *os.Root, mtime time.Time, progress func(int64)) ([]tree.Entry, error) {
	if err := checkTime(mtime); err != nil {
		return nil, err
	}
	all, err := tree.Scan(ctx, root)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: the directory is empty", tree.ErrTree)
	}
	p := &packer{w: w, mtime: mtime, dirs: dirs{root: root}, buf: make([]byte, bufSize), progress: progress}
	defer p.dirs.close() // were only read
	entries := make([]tree.Entry, 0, len(all))
	for _, f := range all {
		e, err := p.add(ctx, f)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	if _, err := w.Write(make([]byte, endSize)); err != nil {
		return nil, err
	}
	return entries, nil
}

func checkTime(mtime time.Time) error {
	if s := mtime.Unix(); s < 0 || s > maxNumber || mtime.Nanosecond() != 0 {
		return fmt.Errorf("time %s is not a whole second that a tar header holds", mtime.UTC().Format(time.RFC3339Nano))
	}
	return nil
}

type packer struct {
	w        io.Writer
	mtime    time.Time
	dirs     dirs
	rules    tree.Rules
	buf      []byte
	progress func(int64)
}

func (p *packer) add(ctx context.Context, f tree.Found) (tree.Entry, error) {
	h, err := describe(f)
	if err != nil {
		return tree.Entry{}, err
	}
	if err := p.rules.Next(h.path, h.kind); err != nil {
		return tree.Entry{}, err
	}
	p.buf = h.append(p.buf[:0], p.mtime)
	if _, err := p.w.Write(p.buf); err != nil {
		return tree.Entry{}, err
	}
	e := tree.Entry{Path: h.path, Kind: h.kind, Sum: tree.NoSum, Size: h.size}
	switch {
	case h.kind == tree.Link:
		e.Sum = tree.HexOf(h.link)
	case h.kind.Regular():
		if e.Sum, err = p.content(ctx, f); err != nil {
			return tree.Entry{}, fmt.Errorf("file %q: %w", f.Path, err)
		}
	}
	return e, nil
}

// describe returns the header for what was found.
func describe(f tree.Found) (header, error) {
	mode := f.Info.Mode()
	h := header{path: f.Path, link: f.Target}
	switch {
	case mode.IsDir():
		h.kind = tree.Dir
		return h, nil
	case mode.Type() == fs.ModeSymlink:
		h.kind = tree.Link
		return h, nil
	case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		return h, fmt.Errorf("%w: file %q has mode %s, want no setuid and no setgid", tree.ErrTree, f.Path, mode)
	case f.Info.Size() > maxNumber:
		return h, fmt.Errorf("%w: file %q has %d bytes, want at most %d", tree.ErrTree, f.Path, f.Info.Size(), int64(maxNumber))
	case mode.Perm()&0o111 != 0:
		h.kind = tree.Exec
	default:
		h.kind = tree.File
	}
	h.size = f.Info.Size()
	return h, nil
}

// content writes the bytes of a regular file, and what fills its last block.
func (p *packer) content(ctx context.Context, found tree.Found) (string, error) {
	dir, err := p.dirs.open(path.Dir(found.Path))
	if err != nil {
		return "", err
	}
	f, err := tree.OpenSame(dir, path.Base(found.Path), found.Info)
	if err != nil {
		return "", err
	}
	defer f.Close() // was only read
	h := sha256.New()
	size, done := found.Info.Size(), int64(0)
	buf := p.buf[:cap(p.buf)]
	for {
		n, err := f.Read(buf)
		if done += int64(n); err == io.EOF || done > size {
			break
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return "", err
		}
		h.Write(buf[:n])
		if _, err := p.w.Write(buf[:n]); err != nil {
			return "", err
		}
		report(p.progress, n)
	}
	if done != size {
		return "", fmt.Errorf("%w: its size changed from %d bytes while it was packed", tree.ErrTree, size)
	}
	_, err = p.w.Write(make([]byte, padding(size)))
	return tree.Hex(h), err
}

func report(progress func(int64), n int) {
	if progress != nil {
		progress(int64(n))
	}
}
