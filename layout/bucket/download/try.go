package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"makenot.work/sando/internal/reason"
)

// Limits say when a download is given up. A field that is zero has its default.
//
// They are made for links that are slow but honest: what is slower than Slowest is
// ended and tried anew, since another connection may be better. A download that
// is faster than that but takes longer than the whole may is ended with what is there,
// so that its caller can look for news, and goes on at the next call.
type Limits struct {
	Stall   time.Duration // a try ends when no byte comes for so long; 30 s
	Window  time.Duration // over which Slowest is measured, while waiting for bytes; 60 s
	Slowest int64         // bytes a second; 1 KiB
	Tries   int           // in a row that bring nothing, or too little for Slowest; 8
	Breaks  int           // in all; 100
	Grace   time.Duration // the whole may take Grace, and the time of the size at Rate; 5 min
	Rate    int64         // bytes a second; 32 KiB
}

func (l Limits) orDefault() Limits {
	set(&l.Stall, 30*time.Second)
	set(&l.Window, time.Minute)
	set(&l.Slowest, 1<<10)
	set(&l.Tries, 8)
	set(&l.Breaks, 100)
	set(&l.Grace, 5*time.Minute)
	set(&l.Rate, 32<<10)
	return l
}

func set[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// whole returns how long a download of size bytes may take.
func (l Limits) whole(size int64) time.Duration {
	return l.Grace + time.Duration(size/l.Rate)*time.Second
}

// rest fetches what is missing, in as many tries as it takes and Limits allow.
func (d *download) rest(parent context.Context) error {
	whole := d.limits.whole(d.want.Size)
	ctx, cancel := context.WithTimeout(parent, whole)
	defer cancel()
	vain := 0 // tries in a row
	for d.at < d.want.Size {
		before := d.at
		err := d.try(ctx)
		switch {
		case err == nil:
			return nil
		case parent.Err() != nil:
			return fmt.Errorf("interrupted, %s: %w", d.here(), parent.Err())
		case ctx.Err() != nil:
			return reason.Errorf(reason.IO, "it takes longer than %s, %s", whole, d.here())
		case !passing(err):
			return err
		}
		d.breaks++
		d.progress(0)
		if vain++; d.progressed(d.at-before, err) {
			vain = 0
		}
		if vain >= d.limits.Tries && d.rangeless(ctx) {
			vain, d.again = 0, true
			if err := d.empty(); err != nil {
				return err
			}
		}
		if vain >= d.limits.Tries || d.breaks >= d.limits.Breaks {
			return reason.Errorf(reason.IO, "given up after %d breaks, %s; the last one: %w", d.breaks, d.here(), err)
		}
		wait(ctx, vain)
	}
	return nil
}

// rangeless reports whether the source has the wanted object but does not open it by range.
func (d *download) rangeless(ctx context.Context) bool {
	if d.again || d.unrange < d.limits.Tries {
		return false
	}
	w := newWatch(ctx, d.limits)
	defer w.stop()
	info, err := d.src.Stat(w.ctx, d.key)
	return err == nil && info.Size == d.want.Size
}

func (d *download) here() string {
	return fmt.Sprintf("with %d of %d bytes; the next attempt goes on from there", d.at, d.want.Size)
}

// progressed reports whether a try that ended with err brought enough to be worth another
// one: a single byte, unless it came too slowly.
func (d *download) progressed(n int64, err error) bool {
	if errors.Is(err, errSlow) {
		return n >= d.limits.atLeast()
	}
	return n > 0
}

// atLeast returns how many bytes a window must bring.
func (l Limits) atLeast() int64 { return int64(float64(l.Slowest) * l.Window.Seconds()) }

// wait lets the other side come to itself: a moment, doubled with each try in vain,
// and at random so that many nodes do not come back at once.
func wait(ctx context.Context, vain int) {
	const first, last = 200 * time.Millisecond, 15 * time.Second
	long := min(first<<min(vain, 10), last)
	t := time.NewTimer(long/2 + rand.N(long/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// try reads the object from where the file ends, once. It returns nil when everything is
// there.
func (d *download) try(ctx context.Context) error {
	w := newWatch(ctx, d.limits)
	defer w.stop()
	body, err := d.open(w.ctx)
	if slow := w.slow(); err != nil && slow != nil {
		return fmt.Errorf("%w: %w", slow, err) // a source that tries again itself says what happened
	}
	if err != nil {
		return err
	}
	defer body.Close()
	for {
		left := d.want.Size - d.at
		n, err := w.read(body, d.buf[:min(int64(len(d.buf)), left+1)])
		if int64(n) > left {
			return altered("size is more, want %d bytes", d.want.Size)
		}
		if _, werr := d.f.WriteAt(d.buf[:n], d.at); werr != nil {
			return onDisk(werr)
		}
		d.took(d.buf[:n])
		switch {
		case err != nil && d.at == d.want.Size:
			return nil // whatever else went wrong
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case err != nil:
			return err
		}
	}
}

// errSlow is matched when a try was ended because too little arrived.
var errSlow = errors.New("too slow")

// watch ends a try that brings too little.
type watch struct {
	ctx    context.Context // ends with the try
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limits Limits
	spent  time.Duration // waiting for bytes, in this window
	got    int64         // bytes in this window
}

// newWatch begins to wait for the first byte.
func newWatch(ctx context.Context, l Limits) *watch {
	w := &watch{limits: l}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(l.Stall, func() { w.cancel(fmt.Errorf("%w: no byte for %s", errSlow, l.Stall)) })
	return w
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// slow returns why the watch ended the try, nil if it did not.
func (w *watch) slow() error {
	if cause := context.Cause(w.ctx); errors.Is(cause, errSlow) {
		return cause
	}
	return nil
}

// read reads from r until there is something. Time that the caller spends between two
// reads counts for nothing.
func (w *watch) read(r io.Reader, p []byte) (n int, err error) {
	w.timer.Reset(w.limits.Stall)
	defer w.timer.Stop()
	begin := time.Now()
	for n == 0 && err == nil {
		if n, err = r.Read(p); n == 0 && err == nil {
			err = w.ctx.Err()
		}
	}
	w.spent += time.Since(begin)
	w.got += int64(n)
	if err == nil && w.spent >= w.limits.Window {
		if w.got < w.limits.atLeast() {
			err = fmt.Errorf("%w: %d bytes in %s", errSlow, w.got, w.spent.Round(time.Millisecond))
		}
		w.spent, w.got = 0, 0
	}
	if slow := w.slow(); err != nil && slow != nil {
		err = slow
	}
	return n, err
}
