package download

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestArrives is every way to the right bytes, with what was asked for and how many bytes
// it took.
func TestArrives(t *testing.T) {
	data := noise(1000)
	other := bytes.Repeat([]byte("x"), 1000)
	good := honest(data)
	again := good
	again.version = "v2"
	old := answer{object: other, version: "v0", cut: -1}
	nameless := good
	nameless.version = ""
	reset, down := good.cutAt(300), answer{err: errors.New("503 Slow Down")}
	reset.end = syscall.ECONNRESET
	closed := good.cutAt(300)
	closed.end = io.EOF
	hung := good.cutAt(300)
	hung.hang = true
	rangeless := good
	rangeless.ranges = errors.New("the server answers 200, want 206")
	for name, c := range map[string]struct {
		before  []byte
		answers []answer
		asked   string
		sent    int64
	}{
		"at once":                   {nil, []answer{good}, "get", 1000},
		"empty beginning, cut":      {nil, []answer{good.cutAt(0), good}, "get, get", 1000},
		"reset":                     {nil, []answer{reset, good}, "get, range 300 v1", 1000},
		"closed early":              {nil, []answer{closed, good}, "get, range 300 v1", 1000},
		"hangs":                     {nil, []answer{hung, good}, "get, range 300 v1", 1000},
		"three breaks":              {nil, []answer{good.cutAt(300), good.cutAt(1), good.cutAt(600), good}, "get, range 300 v1, range 301 v1, range 901 v1", 1000},
		"down for a while":          {nil, []answer{down, good.cutAt(300), down, down, good}, "get, get, range 300 v1, range 300 v1, range 300 v1", 1000},
		"silence instead of it":     {nil, []answer{{silent: true}, good}, "get, get", 1000},
		"cut behind the last byte":  {nil, []answer{good.cutAt(1000)}, "get", 1000},
		"goes on":                   {data[:400], []answer{good}, "stat, range 400 v1", 600},
		"goes on, cut":              {data[:400], []answer{good.cutAt(100), good}, "stat, range 400 v1, range 500 v1", 600},
		"is there":                  {data, []answer{{err: errors.New("asked")}}, "", 0},
		"is there, and more":        {join(data, other), []answer{{err: errors.New("asked")}}, "", 0},
		"garbage first":             {other[:400], []answer{good}, "stat, range 400 v1, get", 1600},
		"garbage first, cut":        {other[:400], []answer{good, good.cutAt(700), good}, "stat, range 400 v1, get, range 700 v1", 1600},
		"all garbage":               {other, []answer{good}, "get", 1000},
		"all garbage, and more":     {join(other, other), []answer{good}, "get", 1000},
		"zeros as after a cut":      {make([]byte, 1000), []answer{good}, "get", 1000},
		"same bytes, other version": {nil, []answer{good.cutAt(300), again, again}, "get, range 300 v1, stat, range 300 v2", 1000},
		"altered, then restored":    {nil, []answer{old.cutAt(300), good, good}, "get, range 300 v0, stat, range 300 v1, get", 2000},
		"no ranges":                 {data[:400], []answer{rangeless}, "stat" + strings.Repeat(", range 400 v1", 8) + ", stat, get", 1000},
		"no versions":               {nil, []answer{nameless.cutAt(300), nameless}, "get, stat, range 300 ", 1000},
		"no versions, altered":      {nil, []answer{{object: other, cut: 300}, nameless}, "get, stat, range 300 , get", 2000},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{answers: c.answers}
				r := run(t, t.Context(), f, c.before, wanted(data))
				if r.err != nil || !bytes.Equal(r.left, data) {
					t.Errorf("ended with %v, and %d bytes that may be others", r.err, len(r.left))
				}
				if got := strings.Join(f.asked, ", "); got != c.asked || f.sent != c.sent {
					t.Errorf("asked %q for %d bytes, want %q and %d", got, f.sent, c.asked, c.sent)
				}
				if r.progress != 1000 {
					t.Errorf("progress says %d", r.progress)
				}
			})
		})
	}
}

// TestBreakAnywhere breaks once behind each byte, and in another download behind every
// byte.
func TestBreakAnywhere(t *testing.T) {
	data := noise(90)
	synctest.Test(t, func(t *testing.T) {
		for n := range data {
			f := &fake{answers: []answer{honest(data).cutAt(n), honest(data)}}
			if r := run(t, t.Context(), f, nil, wanted(data)); r.err != nil || !bytes.Equal(r.left, data) || f.sent != 90 {
				t.Errorf("cut at %d: %v, %d bytes sent", n, r.err, f.sent)
			}
		}
		f := &fake{answers: []answer{honest(data).cutAt(1)}}
		if r := run(t, t.Context(), f, nil, wanted(data)); r.err != nil || !bytes.Equal(r.left, data) || f.sent != 90 {
			t.Errorf("cut everywhere: %v, %d bytes sent", r.err, f.sent)
		}
	})
}

// TestRefused is every object that is not the wanted one: refused as such, the file
// empty, and at most one byte more than the wanted size read each time.
func TestRefused(t *testing.T) {
	data := noise(1000)
	other := bytes.Repeat([]byte("x"), 1000)
	bad := answer{object: other, version: "v1", cut: -1}
	for name, c := range map[string]struct {
		before []byte
		answer answer
		text   string
		sent   int64
	}{
		"other bytes":                 {nil, bad, "sha256 is ", 1000},
		"longer":                      {nil, honest(join(data, []byte("x"))), "size is 1001, want 1000 bytes", 0},
		"shorter":                     {nil, honest(data[:999]), "size is 999, want 1000 bytes", 0},
		"longer than it says":         {nil, answer{object: join(data, other), lie: -1000, cut: -1}, "size is more, want 1000 bytes", 1001},
		"longer, behind a beginning":  {data[:10], honest(join(data, []byte("x"))), "size is 1001, want 1000 bytes", 0},
		"shorter than the beginning":  {data[:500], honest(data[:400]), "size is 400, want 1000 bytes", 0},
		"other bytes, with beginning": {data[:10], bad, "sha256 is ", 1990},
		"other bytes, with garbage":   {other[:10], bad, "sha256 is ", 1990},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{answers: []answer{c.answer}}
				r := run(t, t.Context(), f, c.before, wanted(data))
				if r.reason() != reason.Mismatch || !strings.Contains(r.err.Error(), c.text) || !strings.Contains(r.err.Error(), "altered in the storage") {
					t.Errorf("ended with %q: %v, want mismatch and %q", r.reason(), r.err, c.text)
				}
				if len(r.left) != 0 || f.sent != c.sent {
					t.Errorf("%d bytes are left and %d were sent, want none and %d", len(r.left), f.sent, c.sent)
				}
			})
		})
	}
}

// TestGivenUp is everything that ends with the reason "io": in time, with what arrived
// left in the file, and from there the next attempt arrives.
func TestGivenUp(t *testing.T) {
	data := noise(1 << 20)
	want := wanted(data)
	good := honest(data)
	hung := good.cutAt(0)
	hung.hang = true
	mid := good.cutAt(500_000)
	mid.hang = true
	closed := good.cutAt(0)
	closed.end = io.EOF
	down := answer{err: errors.New("503 Service Unavailable")}
	for name, c := range map[string]struct {
		answers  []answer
		left     int
		min, max time.Duration
		text     string
	}{
		"silence":                     {[]answer{{silent: true}}, 0, 4 * time.Minute, 5 * time.Minute, "no byte for 30s"},
		"silence after headers":       {[]answer{hung}, 0, 4 * time.Minute, 5 * time.Minute, "no byte for 30s"},
		"silence in the middle":       {[]answer{mid, hung}, 500_000, 4 * time.Minute, 6 * time.Minute, "no byte for 30s"},
		"a byte a second":             {[]answer{good.paced(1, time.Second)}, 322, 5 * time.Minute, 6 * time.Minute, "it takes longer than 5m32s"},
		"a byte in half a minute":     {[]answer{good.paced(1, 29*time.Second)}, 0, 5 * time.Minute, 6 * time.Minute, "it takes longer than 5m32s"},
		"down":                        {[]answer{down}, 0, 10 * time.Second, 40 * time.Second, "given up after 8 breaks, with 0 of 1048576 bytes; the next attempt goes on from there; the last one: 503"},
		"down, with something there":  {[]answer{good.cutAt(1000), down}, 1000, 10 * time.Second, 40 * time.Second, "given up after 9 breaks, with 1000 of"},
		"closed each time":            {[]answer{closed}, 0, 10 * time.Second, 40 * time.Second, "unexpected EOF"},
		"cut after each byte":         {[]answer{good.cutAt(1)}, 100, 9 * time.Second, 21 * time.Second, "given up after 100 breaks"},
		"slow, but honest: 2 KiB a s": {[]answer{good.paced(2<<10, 1001*time.Millisecond)}, 331 * 2 << 10, 5 * time.Minute, 6 * time.Minute, "it takes longer than 5m32s"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := run(t, t.Context(), &fake{answers: c.answers}, nil, want)
				if r.reason() != reason.IO || r.err == nil || !strings.Contains(r.err.Error(), c.text) {
					t.Errorf("ended with %q: %v, want io and %q", r.reason(), r.err, c.text)
				}
				if r.took < c.min || r.took > c.max {
					t.Errorf("took %s, want %s to %s", r.took, c.min, c.max)
				}
				// Jitter decides on a few bytes of those that come one by one.
				if n := len(r.left); n < c.left-40 || n > c.left+40 || !bytes.Equal(r.left, data[:n]) || r.progress != int64(n) {
					t.Errorf("%d bytes are left, and progress says %d, want %d", n, r.progress, c.left)
				}
				f := &fake{answers: []answer{good}}
				next := run(t, t.Context(), f, r.left, want)
				if next.err != nil || !bytes.Equal(next.left, data) || f.sent != int64(len(data)-len(r.left)) {
					t.Errorf("the next attempt ended with %v, after %d bytes", next.err, f.sent)
				}
			})
		})
	}
}

// TestTriesTooSlow: what trickles is tried anew, and given up before the whole is late.
func TestTriesTooSlow(t *testing.T) {
	data := noise(100 << 20)
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answers: []answer{honest(data).paced(1, time.Second)}}
		r := run(t, t.Context(), f, nil, wanted(data))
		if r.reason() != reason.IO || !errors.Is(r.err, errSlow) || !strings.Contains(r.err.Error(), "given up after 8 breaks") || !strings.Contains(r.err.Error(), "60 bytes in 1m0s") {
			t.Errorf("ended with %q: %v", r.reason(), r.err)
		}
		if r.took < 8*time.Minute || r.took > 9*time.Minute || f.asked[1] != "range 60 v1" {
			t.Errorf("took %s, and asked %q", r.took, f.asked)
		}
	})
}

// TestPassedOn is what another try in this call would not mend: known at once, with the
// file as it was.
func TestPassedOn(t *testing.T) {
	data := noise(1000)
	for name, c := range map[string]struct {
		err  error
		want func(error) bool
	}{
		"no object": {fs.ErrNotExist, func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		"a directory that may not be read": {&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES},
			func(err error) bool { return errors.Is(err, fs.ErrPermission) }},
		"a broken disk under a directory": {&fs.PathError{Op: "read", Path: "/x", Err: syscall.EIO},
			func(err error) bool { return errors.Is(err, syscall.EIO) }},
		"configuration": {reason.Errorf(reason.Config, "no such bucket"),
			func(err error) bool { return reason.Of(err) == reason.Config }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{answers: []answer{{err: c.err}}}
				r := run(t, t.Context(), f, data[:10], wanted(data))
				if !c.want(r.err) || len(f.asked) != 1 || r.took != 0 || !bytes.Equal(r.left, data[:10]) {
					t.Errorf("ended with %v after %s, asked %q, %d bytes left", r.err, r.took, f.asked, len(r.left))
				}
			})
		})
	}
}

// TestInterrupted keeps what arrived.
func TestInterrupted(t *testing.T) {
	data := noise(1 << 20)
	synctest.Test(t, func(t *testing.T) {
		for _, a := range []answer{honest(data).paced(1<<10, time.Second), {silent: true}, {err: errors.New("down")}} {
			ctx, cancel := context.WithTimeout(t.Context(), 10500*time.Millisecond)
			r := run(t, ctx, &fake{answers: []answer{a}}, data[:10], wanted(data))
			cancel()
			if !errors.Is(r.err, context.DeadlineExceeded) || r.reason() != reason.IO || r.took != 10500*time.Millisecond {
				t.Errorf("ended with %q after %s: %v", r.reason(), r.took, r.err)
			}
			if len(r.left) < 10 || !bytes.HasPrefix(data, r.left) || a.pace > 0 && len(r.left) != 10+10<<10 {
				t.Errorf("%d bytes are left", len(r.left))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		r := run(t, ctx, &fake{answers: []answer{honest(data)}}, data[:10], wanted(data))
		if !errors.Is(r.err, context.Canceled) || !bytes.Equal(r.left, data[:10]) {
			t.Errorf("ended with %v, %d bytes left", r.err, len(r.left))
		}
	})
}

func TestDiskFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	data := noise(1000)
	f := &fake{answers: []answer{honest(data)}}
	err = File(t.Context(), f, "key", full, wanted(data), Options{})
	if reason.Of(err) != reason.Disk || !errors.Is(err, syscall.ENOSPC) || len(f.asked) != 1 {
		t.Errorf("ended with %q: %v, asked %q", reason.Of(err), err, f.asked)
	}
}

// TestAsRootDiskFull: what filled the disk is given back to those who may need it more.
func TestAsRootDiskFull(t *testing.T) {
	testenv.Root(t, "a small filesystem")
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	file, err := os.Create(dir + "/object")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data := noise(2 << 20)
	err = File(t.Context(), &fake{answers: []answer{honest(data)}}, "key", file, wanted(data), Options{})
	if reason.Of(err) != reason.Disk || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("ended with %q: %v", reason.Of(err), err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil || st.Bfree != st.Blocks {
		t.Errorf("%d of %d blocks are free (%v)", st.Bfree, st.Blocks, err)
	}
}

// TestDiskError: a file that cannot be written to is not the storage's fault, and is not
// gone on with.
func TestDiskError(t *testing.T) {
	path := t.TempDir() + "/object"
	data := noise(1000)
	if err := os.WriteFile(path, data[:10], 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := &fake{answers: []answer{honest(data)}}
	err = File(t.Context(), f, "key", file, wanted(data), Options{})
	if reason.Of(err) != reason.IO || !errors.Is(err, syscall.EBADF) || len(f.asked) != 2 {
		t.Errorf("ended with %q: %v, asked %q", reason.Of(err), err, f.asked)
	}
}

// TestRealTime is silence and a trickle without a fake clock, with short limits.
func TestRealTime(t *testing.T) {
	data := noise(1000)
	limits := Limits{Stall: 20 * time.Millisecond, Window: 40 * time.Millisecond, Slowest: 1 << 20, Tries: 2}
	for name, a := range map[string]answer{"silence": {silent: true}, "trickle": honest(data).paced(1, 5*time.Millisecond)} {
		file, err := os.Create(t.TempDir() + "/object")
		if err != nil {
			t.Fatal(err)
		}
		err = File(t.Context(), &fake{answers: []answer{a}}, "key", file, wanted(data), Options{Limits: limits})
		if reason.Of(err) != reason.IO || !errors.Is(err, errSlow) {
			t.Errorf("%s: ended with %q: %v", name, reason.Of(err), err)
		}
		file.Close()
	}
}
