package oldroot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	maxFile = 2 << 30   // bytes of a file that is searched
	chunk   = 256 << 10 // of it at a time
	maxAll  = 64 << 30  // bytes of all files together
	maxHits = 100       // references of one file
	maxRefs = 20_000    // of all files together
	maxMute = 1000      // that could not be looked at
)

// search is one search, in one goroutine.
type search struct {
	o      Options
	disk   *disk
	report Report

	seen     map[string]bool // files that were searched, by where they are
	hits     map[string]int  // references by file
	added    map[Reference]bool
	mute     map[Unread]bool
	spent    int64             // bytes that were searched
	homes    map[string]string // of users
	commands map[string]string // files of programs that are called by name
	queue    []call            // scripts to be searched
	envFiles []origin          // env files to be searched
	caddy    []string          // files that caddy is started with
	buf      []byte
}

// origin is a file, and what names it.
type origin struct{ file, by string }

func newSearch(o Options, root *os.Root) *search {
	return &search{
		o:        o,
		disk:     &disk{root: root, old: o.Old, plain: map[string]bool{}},
		report:   Report{Old: o.Old, References: []Reference{}, Asides: []Reference{}, Unread: []Unread{}},
		seen:     map[string]bool{},
		hits:     map[string]int{},
		added:    map[Reference]bool{},
		mute:     map[Unread]bool{},
		homes:    map[string]string{},
		commands: map[string]string{},
		buf:      make([]byte, chunk),
	}
}

// source says what a file is.
type source struct {
	kind   Kind
	what   string
	aside  string                            // why nothing acts on it
	syntax syntax                            // of its comments
	say    func(line []byte, at span) string // what a line is, if not what
	reads  func(line []byte)                 // sees each line, before say and show
	spell  func(line []byte) (span, bool)    // finds, if not find alone
	show   func(line []byte, at span) string // shows, if not excerpt
}

// unread says that something could not be looked at.
func (s *search) unread(file string, why error) {
	text := why.Error()
	var pe *fs.PathError
	if errors.As(why, &pe) {
		text = pe.Err.Error()
	}
	u := Unread{visible(file), text}
	switch n := len(s.mute); {
	case s.mute[u] || n > maxMute:
		return
	case n == maxMute:
		u = Unread{"/", fmt.Sprintf("there is more that could not be looked at than the %d that are listed", maxMute)}
	}
	s.mute[u] = true
	s.report.Unread = append(s.report.Unread, u)
}

// add adds a reference, once.
func (s *search) add(r Reference) {
	list := &s.report.References
	if r.Aside != "" {
		list = &s.report.Asides
	}
	switch n := s.hits[r.File]; {
	case len(s.added) == maxRefs:
		s.unread("/", fmt.Errorf("there are more references than the %d that are listed", maxRefs))
	case n == maxHits:
		s.unread(r.File, fmt.Errorf("it has more references than the %d that are listed", maxHits))
		s.hits[r.File]++
	case n < maxHits:
		if where := (Reference{File: r.File, Line: r.Line, Offset: r.Offset}); !s.added[where] {
			s.added[where] = true
			*list = append(*list, r)
			s.hits[r.File]++
		}
	}
}

// where follows name; ok is false when there is nothing to be searched. That it leads into the
// old directory is a reference.
func (s *search) where(name string) (real string, ok bool) {
	real, err := s.disk.follow(name)
	var in *inOldError
	switch {
	case errors.As(err, &in):
		if !within(in.at, s.o.Old) {
			s.add(Reference{File: in.at, Kind: Link, What: "link into the old directory", Text: "-> " + visible(in.to)})
		}
		return "", false
	case absent(err):
		return "", false
	case err != nil:
		s.unread(name, err)
		return "", false
	}
	return real, !s.except(real) && !kernels(real)
}

// masked is what the name of a unit leads to that is not to be had.
const masked = "/dev/null"

// kernels reports whether a file is made by the kernel as it is read. Nothing in it is the
// operator's, and to read some of them waits for ever: a user may link to /proc/kmsg. What is in
// /dev/shm is in memory, but somebody's.
func kernels(name string) bool {
	return name != masked && !within(name, "/dev/shm") && slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return within(name, dir) })
}

// except reports whether what is at name does not count.
func (s *search) except(name string) bool {
	return slices.ContainsFunc(append([]string{Backups, s.o.Root + "/.sando"}, s.o.Except...), func(dir string) bool {
		return within(name, path.Clean(dir))
	})
}

// scan searches a file, unless that was done before. Of a text of ordinary size it returns the
// content.
func (s *search) scan(ctx context.Context, name string, src source) []byte {
	real, ok := s.where(name)
	if !ok || s.seen[real] || ctx.Err() != nil {
		return nil
	}
	f, size, err := s.disk.open(real)
	switch {
	case absent(err):
		return nil
	case errors.Is(err, errKind) && real == masked:
		return nil
	case err != nil:
		s.unread(name, err)
		return nil
	}
	defer f.Close()
	s.seen[real] = true
	if size > maxFile {
		s.unread(name, fmt.Errorf("%d bytes are more than the %d that are searched", size, maxFile))
		return nil
	}
	if s.spent += size; s.spent > maxAll {
		s.unread(name, fmt.Errorf("it was not searched: %d bytes of other files were", s.spent-size))
		s.spent -= size
		return nil
	}
	if size > maxText {
		if err := s.stream(ctx, io.LimitReader(f, maxFile), name, src); err != nil {
			s.unread(name, err)
		}
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		s.unread(name, err)
		return nil
	}
	if binary(data) {
		if err := s.stream(ctx, bytes.NewReader(data), name, src); err != nil {
			s.unread(name, err)
		}
		return nil
	}
	s.lines(ctx, name, src, data)
	return data
}

// read reads a small file, without searching it.
func (s *search) read(name string) []byte {
	real, err := s.disk.follow(name)
	if err != nil {
		return nil // scan says why
	}
	f, _, err := s.disk.open(real)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxText))
	if err != nil {
		return nil
	}
	return data
}

// binary reports whether a file that begins with data is no text.
func binary(data []byte) bool { return bytes.IndexByte(data[:min(len(data), 8000)], 0) >= 0 }

// lines searches a text.
func (s *search) lines(ctx context.Context, name string, src source, data []byte) {
	for n, line := range bytes.Split(data, []byte{'\n'}) {
		if ctx.Err() != nil {
			return
		}
		at, ok := find(line, s.o.Old, 0)
		if !ok && src.spell != nil {
			at, ok = src.spell(line)
		}
		comment := src.syntax.comment(line, n, at.from)
		if src.reads != nil {
			src.reads(line)
		}
		if !ok {
			continue
		}
		r := Reference{File: name, Line: n + 1, Kind: src.kind, What: src.what, Aside: cmp.Or(src.aside, comment)}
		if src.say != nil {
			r.What = src.say(line, at)
		}
		if src.show != nil {
			r.Text = src.show(line, at)
		} else {
			r.Text = excerpt(line, at)
		}
		s.add(r)
	}
}

// stream searches what is big, or no text: only for the path as it is written plainly.
func (s *search) stream(ctx context.Context, r io.Reader, name string, src source) error {
	var (
		old     = []byte(s.o.Old)
		base    int64 // offset of buf
		kept    int   // bytes of it that were there before
		from    int   // where what was not looked at begins
		line    = 1   // at from
		text    bool
		lastOne int
	)
	for first := true; ; first = false {
		n, err := io.ReadFull(r, s.buf[kept:])
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		data := s.buf[:kept+n]
		if first {
			text = !binary(data)
		}
		end := len(data)
		if !last {
			end -= reach
		}
		for {
			k := bytes.Index(data[from:], old)
			if k < 0 || from+k >= end {
				break
			}
			line += bytes.Count(data[from:from+k], []byte{'\n'})
			from += k
			at := span{from, from + len(old)}
			switch {
			case text && line != lastOne && begins(data[:at.to], at.from) && ends(data, at.to):
				lastOne = line
				s.add(Reference{File: name, Line: line, Kind: src.kind, What: src.what, Aside: src.aside, Text: around(data, at)})
			case !text:
				if v := judge(data, at); v != another {
					s.add(Reference{File: name, Offset: base + int64(at.from), Kind: src.kind, What: src.what + v.note(), Aside: src.aside, Text: around(data, at)})
				}
			}
			from++ // the path has no line end in it
		}
		if last {
			return nil
		}
		line += bytes.Count(data[from:end], []byte{'\n'})
		keep := max(0, end-reach)
		kept = copy(s.buf, data[keep:])
		base += int64(keep)
		from = end - keep
	}
}

func (v verdict) note() string {
	if v == perhaps {
		return ", perhaps a part of a longer name"
	}
	return ""
}

// walk calls visit for the files of a tree, and for links to files. Links into the old directory are
// references; links to directories are not entered.
func (s *search) walk(ctx context.Context, dir string, visit func(name string, link bool)) {
	if _, ok := s.where(dir); !ok {
		return
	}
	left := maxEntries
	for todo := []string{dir}; len(todo) > 0 && ctx.Err() == nil; {
		dir, todo = todo[len(todo)-1], todo[:len(todo)-1]
		real, ok := s.where(dir)
		if !ok {
			continue
		}
		entries, err := s.disk.list(real, left)
		if err != nil {
			if !absent(err) {
				s.unread(dir, err)
			}
			continue
		}
		if left -= len(entries); left <= 0 {
			s.unread(dir, fmt.Errorf("there are more than %d files: those beyond that were not looked at", maxEntries))
			return
		}
		for _, e := range slices.Backward(entries) {
			if e.IsDir() {
				todo = append(todo, path.Join(dir, e.Name()))
			}
		}
		for _, e := range entries {
			s.entry(path.Join(dir, e.Name()), e.Type(), visit)
		}
	}
}

// entry visits one entry of a directory.
func (s *search) entry(name string, kind fs.FileMode, visit func(name string, link bool)) {
	switch {
	case kind.IsRegular():
		visit(name, false)
	case kind&fs.ModeSymlink != 0:
		if real, ok := s.where(name); ok {
			if info, err := s.disk.root.Lstat(relative(real)); err == nil && !info.IsDir() {
				visit(name, true)
			}
		}
	}
}

// files returns what is directly in a directory.
func (s *search) files(dir string) (names []string) {
	real, ok := s.where(dir)
	if !ok {
		return nil
	}
	entries, err := s.disk.list(real, maxEntries)
	if err != nil && !absent(err) && !errors.Is(err, unix.ENOTDIR) {
		s.unread(dir, err)
	}
	for _, e := range entries {
		s.entry(path.Join(dir, e.Name()), e.Type(), func(name string, _ bool) { names = append(names, name) })
	}
	return names
}

// glob returns the files that a pattern names; one without marks as it is.
func (s *search) glob(pattern string) []string {
	names := []string{"/"}
	for _, part := range parts(pattern) {
		var next []string
		for _, dir := range names {
			if !slices.ContainsFunc([]byte(part), func(c byte) bool { return bytes.IndexByte([]byte(`*?[\`), c) >= 0 }) {
				next = append(next, path.Join(dir, part))
				continue
			}
			real, err := s.disk.follow(dir)
			if err != nil {
				continue
			}
			entries, err := s.disk.list(real, maxEntries)
			if err != nil {
				continue
			}
			for _, e := range entries {
				if ok, err := path.Match(part, e.Name()); ok && err == nil && len(next) < 1000 {
					next = append(next, path.Join(dir, e.Name()))
				}
			}
		}
		names = next
	}
	return names
}
