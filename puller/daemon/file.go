package daemon

import (
	"fmt"
	"os"
	"reflect"
	"syscall"
	"time"

	"makenot.work/sando/puller"
)

// settle is how long a configuration file must have stayed as it is before it is read: an
// editor may write it in parts, and the first part of a configuration is often a good one.
const settle = tick

// file is the configuration file, as it was seen and as it was read.
type file struct {
	path   string
	loaded string // what it looked like just before it was read
	seen   string
	since  time.Time // when it was first seen so
}

// reading notes that the file is about to be read. Whatever happens to it from now on is a
// change.
func (f *file) reading() {
	f.loaded = f.look()
	f.seen, f.since = f.loaded, time.Now()
}

// look returns what changes whenever the file is written, replaced or taken away.
func (f *file) look() string {
	info, err := os.Stat(f.path)
	if err != nil {
		return "none"
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprint(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}

// changed reports whether the file is another one than was read, and stays so.
func (f *file) changed() bool {
	if now := f.look(); now != f.seen {
		f.seen, f.since = now, time.Now()
	}
	return f.seen != f.loaded && time.Since(f.since) >= settle
}

// same reports whether two configurations say the same, however they are written.
func same(a, b *puller.Config) bool { return reflect.DeepEqual(a, b) }
