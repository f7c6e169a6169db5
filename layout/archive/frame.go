package archive

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"

	"makenot.work/sando/internal/reason"
)

const (
	// maxWindow bounds how far back a tarball's frame may refer: so much memory it
	// takes to unpack it.
	maxWindow = 64 << 20
	// ownWindow is the window of the frames that Pack writes.
	ownWindow = 8 << 20
	// maxBlock is the most that one block of a frame may hold.
	maxBlock = 128 << 10
)

// newEncoder returns the one encoder of this package. What it writes depends on the
// input alone: with a concurrency of 1 there is no other goroutine, and nothing in it
// depends on the machine. Changing anything here changes the bytes of every tarball.
func newEncoder(w io.Writer) (*zstd.Encoder, error) {
	return zstd.NewWriter(w,
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(ownWindow),
		zstd.WithEncoderCRC(true))
}

// stream reads what a tarball's frame holds. A goroutine decodes ahead, so that
// decoding takes place beside hashing and writing; the decoder has a concurrency of 1,
// because its own way of sharing the work costs more than it gains on two cores.
type stream struct {
	dec   *zstd.Decoder
	full  chan chunk    // decoded, in order
	free  chan []byte   // buffers to decode into
	stop  chan struct{} // closed by close
	done  chan struct{} // closed by the goroutine
	chunk chunk         // being read
}

type chunk struct {
	buf  []byte
	rest []byte // of buf, not yet read
	err  error  // after rest
}

// aheadChunks is how many blocks are decoded ahead at most: 1 MiB.
const aheadChunks = 8

// newStream begins to decode r. The caller closes the stream; from then on r is not
// read any more.
func newStream(r io.Reader) (*stream, error) {
	dec, err := zstd.NewReader(&frame{src: bufio.NewReaderSize(source{r}, 64<<10)},
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	s := &stream{
		dec:  dec,
		full: make(chan chunk, aheadChunks), free: make(chan []byte, aheadChunks),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	for range aheadChunks {
		s.free <- make([]byte, maxBlock)
	}
	go s.decode()
	return s, nil
}

func (s *stream) decode() {
	defer close(s.done)
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-s.stop:
			return
		}
		n, err := s.dec.Read(buf)
		var known *reason.Error // frame's errors; the decoder passes them on
		if err != nil && err != io.EOF && !errors.As(err, &known) {
			err = reason.Errorf(reason.Format, "zstd frame: %w", err)
		}
		s.full <- chunk{buf, buf[:n], err} // there is room: no more chunks than buffers
		if err != nil {
			return
		}
	}
}

// Read fails with the reason "format" where the frame is malformed or ends early, with
// "limit" for too large a window, with "io" where its source fails. io.EOF means that
// the frame was whole, and the last thing in the source.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.chunk.rest) == 0 {
		if s.chunk.err != nil {
			return 0, s.chunk.err
		}
		if s.chunk.buf != nil {
			s.free <- s.chunk.buf
		}
		s.chunk = <-s.full
	}
	n := copy(p, s.chunk.rest)
	s.chunk.rest = s.chunk.rest[n:]
	return n, nil
}

func (s *stream) close() {
	close(s.stop)
	<-s.done
	s.dec.Close()
}

// source gives the errors of a reader the reason "io", so that the end of the bytes
// stays the only io.EOF and io.ErrUnexpectedEOF.
type source struct{ r io.Reader }

func (s source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = reason.Wrap(reason.IO, err)
	}
	return n, err
}

// frame passes on a zstd stream as long as it is exactly one frame, with a checksum
// and without a dictionary, and nothing else. It looks at what is around the blocks'
// contents; the contents are the decoder's.
type frame struct {
	src  *bufio.Reader
	head []byte // read from src, not yet passed on
	left int    // bytes of src that head announced
	next func() error
}

func (f *frame) Read(p []byte) (int, error) {
	for len(f.head) == 0 && f.left == 0 {
		if f.next == nil {
			f.next = f.readHeader
		}
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.src.Read(p[:min(len(p), f.left)])
	f.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, early(err)
}

// take reads n more bytes of a header.
func (f *frame) take(n int) ([]byte, error) {
	old := len(f.head)
	f.head = append(f.head, make([]byte, n)...)
	if _, err := io.ReadFull(f.src, f.head[old:]); err != nil {
		return nil, early(err)
	}
	return f.head[old:], nil
}

func early(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return reason.Errorf(reason.Format, "zstd frame ends early")
	}
	return err
}

// readHeader reads the frame header, RFC 8878 section 3.1.1.1.
func (f *frame) readHeader() error {
	b, err := f.take(5)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(b) != 0xFD2FB528 {
		return reason.Errorf(reason.Format, "zstd frame begins with %x, want 28b52ffd", b[:4])
	}
	desc := b[4]
	single := desc&0x20 != 0
	switch {
	case desc&0x18 != 0:
		return reason.Errorf(reason.Format, "zstd frame has unknown flags %#02x", desc&0x18)
	case desc&0x03 != 0:
		return reason.Errorf(reason.Format, "zstd frame names a dictionary")
	case desc&0x04 == 0:
		return reason.Errorf(reason.Format, "zstd frame has no checksum")
	}
	var window uint64
	if !single {
		b, err := f.take(1)
		if err != nil {
			return err
		}
		base := uint64(1) << (10 + b[0]>>3)
		window = base + base/8*uint64(b[0]&7)
	}
	size := 1 << (desc >> 6) // of the content size field
	if desc>>6 == 0 && !single {
		size = 0
	}
	b, err = f.take(size)
	if err != nil {
		return err
	}
	if single { // then the content is the window
		var field [8]byte
		copy(field[:], b)
		window = binary.LittleEndian.Uint64(field[:])
	}
	if window > maxWindow {
		return reason.Errorf(reason.Limit, "zstd window is %d bytes, want at most %d", window, maxWindow)
	}
	f.next = f.readBlock
	return nil
}

// readBlock reads a block header, section 3.1.1.2.
func (f *frame) readBlock() error {
	b, err := f.take(3)
	if err != nil {
		return err
	}
	v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
	last, kind, size := v&1 != 0, v>>1&3, int(v>>3)
	switch {
	case kind == 3:
		return reason.Errorf(reason.Format, "zstd block has the reserved type")
	case size > maxBlock:
		return reason.Errorf(reason.Format, "zstd block has %d bytes, want at most %d", size, maxBlock)
	case kind == 1: // one byte, repeated
		size = 1
	}
	f.left = size
	if last {
		f.left += 4 // the checksum
		f.next = f.readEnd
	}
	return nil
}

func (f *frame) readEnd() error {
	_, err := f.src.ReadByte()
	if err == nil {
		return reason.Errorf(reason.Format, "bytes after the end of the zstd frame")
	}
	return err
}
