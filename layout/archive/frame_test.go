package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/tree"
)

// frameOf is a zstd frame made by hand: a header, and the data in raw blocks.
func frameOf(t *testing.T, descriptor byte, header []byte, data []byte) []byte {
	t.Helper()
	b := append([]byte{0x28, 0xb5, 0x2f, 0xfd, descriptor}, header...)
	for first := true; first || len(data) > 0; first = false {
		n := min(len(data), 60_000)
		b = append(b, blockHeader(len(data) == n, 0, n)...)
		b = append(b, data[:n]...)
		data = data[n:]
	}
	return b
}

func blockHeader(last bool, kind, size int) []byte {
	v := uint32(size)<<3 | uint32(kind)<<1
	if last {
		v |= 1
	}
	return binary.LittleEndian.AppendUint32(nil, v)[:3]
}

// checksum returns the checksum of data, as another encoder writes it.
func checksum(t *testing.T, data []byte) []byte {
	t.Helper()
	b := squeeze(t, data)
	return b[len(b)-4:]
}

const (
	plain  = 0x04        // with a checksum
	single = 0x20 | 0x04 // with the content's size for a window
	size8  = 0xc0        // which has 8 bytes
)

func le64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// window returns the byte for a window of 2^log bytes, and some eighths more.
func window(log, eighths int) []byte { return []byte{byte((log-10)<<3 | eighths)} }

func TestFramesThatAreTaken(t *testing.T) {
	data := join(sample())
	end := checksum(t, data)
	n := uint64(len(data))
	for name, b := range map[string][]byte{
		"made by hand":              slices.Concat(frameOf(t, plain, window(20, 0), data), end),
		"the largest window":        slices.Concat(frameOf(t, plain, window(26, 0), data), end),
		"the smallest window":       slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, plain, 0}, smallBlocks(data), end),
		"a single segment":          slices.Concat(frameOf(t, single|size8, le64(n), data), end),
		"a size of two bytes":       slices.Concat(frameOf(t, single|0x40, binary.LittleEndian.AppendUint16(nil, uint16(n-256)), data), end),
		"a size of four bytes":      slices.Concat(frameOf(t, single|0x80, binary.LittleEndian.AppendUint32(nil, uint32(n)), data), end),
		"a window and a size":       slices.Concat(frameOf(t, plain|size8, append(window(20, 0), le64(n)...), data), end),
		"empty blocks in between":   slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, plain}, window(20, 0), blockHeader(false, 0, 0), frameOf(t, plain, nil, data)[5:], end),
		"our own":                   squeeze(t, data),
		"by the library's defaults": withLibrary(t, data),
		"at its best":               withLibrary(t, data, zstd.WithEncoderLevel(zstd.SpeedBestCompression)),
	} {
		if _, err := Check(t.Context(), bytes.NewReader(b), wantOf(sample())); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// smallBlocks is for a window of 1 KiB, which no block may exceed.
func smallBlocks(data []byte) []byte {
	var b []byte
	for chunk := range slices.Chunk(data, 1024) {
		b = append(append(b, blockHeader(false, 0, len(chunk))...), chunk...)
	}
	return append(b, blockHeader(true, 0, 0)...)
}

func withLibrary(t *testing.T, data []byte, options ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, options...)
	check(t, err)
	return w.EncodeAll(data, nil)
}

func TestHostileFrames(t *testing.T) {
	data := join(sample())
	valid := squeeze(t, data)
	end := checksum(t, data)
	n := uint64(len(data))
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0}, "skip"...)
	wrong := slices.Clone(end)
	wrong[0] ^= 1
	dictionary := append(window(20, 0), 7)
	for _, c := range []struct {
		name string
		data []byte
		code reason.Code
		says string
	}{
		{"empty", nil, reason.Format, "zstd frame ends early"},
		{"a window of 2 GiB", slices.Concat(frameOf(t, plain, window(31, 0), data), end), reason.Limit, "zstd window is 2147483648 bytes, want at most 67108864"},
		{"the largest window there is", slices.Concat(frameOf(t, plain, window(41, 7), data), end), reason.Limit, "zstd window is 4123168604160 bytes"},
		{"a window a little too large", slices.Concat(frameOf(t, plain, window(26, 1), data), end), reason.Limit, "zstd window is 75497472 bytes"},
		{"a segment a little too large", slices.Concat(frameOf(t, single|size8, le64(maxWindow+1), data), end), reason.Limit, "zstd window is 67108865 bytes"},
		{"a segment of 2^64 bytes", slices.Concat(frameOf(t, single|size8, le64(1<<64-1), data), end), reason.Limit, "zstd window is 18446744073709551615 bytes"},
		{"a size that is too small", slices.Concat(frameOf(t, plain|size8, append(window(20, 0), le64(n-1)...), data), end), reason.Format, "size"},
		{"a size that is too large", slices.Concat(frameOf(t, plain|size8, append(window(20, 0), le64(n+1)...), data), end), reason.Format, "size"},
		{"a dictionary", slices.Concat(frameOf(t, plain|1, dictionary, data), end), reason.Format, "names a dictionary"},
		{"dictionary 0", slices.Concat(frameOf(t, plain|1, append(window(20, 0), 0), data), end), reason.Format, "names a dictionary"},
		{"no checksum", frameOf(t, 0, window(20, 0), data), reason.Format, "has no checksum"},
		{"another checksum", slices.Concat(frameOf(t, plain, window(20, 0), data), wrong), reason.Format, "zstd frame: CRC check failed"},
		{"the reserved bit", slices.Concat(frameOf(t, plain|0x08, window(20, 0), data), end), reason.Format, "unknown flags 0x08"},
		{"the unused bit", slices.Concat(frameOf(t, plain|0x10, window(20, 0), data), end), reason.Format, "unknown flags 0x10"},
		{"a block of the reserved type", slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, plain}, window(20, 0), blockHeader(true, 3, 4), []byte("data"), end), reason.Format, "reserved type"},
		{"a block that is too large", slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, plain}, window(20, 0), blockHeader(true, 0, maxBlock+1), make([]byte, maxBlock+1), end), reason.Format, "zstd block has 131073 bytes"},
		{"a block larger than its window", slices.Concat(frameOf(t, plain, window(10, 0), data), end), reason.Format, ""},
		{"a skippable frame before", append(slices.Clone(skippable), valid...), reason.Format, "zstd frame begins with 502a4d18"},
		{"a skippable frame after", append(slices.Clone(valid), skippable...), reason.Format, "bytes after the end of the zstd frame"},
		{"a second frame", append(slices.Clone(valid), valid...), reason.Format, "bytes after the end of the zstd frame"},
		{"an empty second frame", append(slices.Clone(valid), squeeze(t, nil)...), reason.Format, "bytes after the end of the zstd frame"},
		{"an archive in two frames", append(squeeze(t, data[:1024]), squeeze(t, data[1024:])...), reason.Format, "bytes after the end of the zstd frame"},
		{"a byte after the end", append(slices.Clone(valid), 0), reason.Format, "bytes after the end of the zstd frame"},
		{"gzip", append([]byte{0x1f, 0x8b, 8, 0}, valid...), reason.Format, "zstd frame begins with 1f8b0800"},
		{"xz", append([]byte("\xfd7zXZ\x00"), valid...), reason.Format, "zstd frame begins with fd377a58"},
		{"bzip2", append([]byte("BZh9"), valid...), reason.Format, "zstd frame begins with 425a6839"},
		{"lz4", append([]byte{4, 0x22, 0x4d, 0x18}, valid...), reason.Format, "zstd frame begins with 04224d18"},
		{"an older zstd", append([]byte{0x27, 0xb5, 0x2f, 0xfd}, valid[4:]...), reason.Format, "zstd frame begins with 27b52ffd"},
		{"not compressed", data, reason.Format, "zstd frame begins with 642f0000"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, c.data, wantOf(sample()), c.code, c.says) })
	}
}

// bomb is a reader of a frame whose blocks each repeat one byte 128 KiB long, without
// end: 4 bytes for 131072.
func bomb(start []byte) io.Reader {
	head := slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, plain}, window(23, 0), blockHeader(false, 0, len(start)), start)
	return io.MultiReader(bytes.NewReader(head), endless{})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	n := len(p) - len(p)%4
	for i := 0; i < n; i += 4 {
		copy(p[i:], append(blockHeader(false, 1, maxBlock), 0))
	}
	if n == 0 {
		panic("a buffer of less than four bytes")
	}
	return n, nil
}

// What expands without end is refused as soon as it is more than was announced.
func TestBombs(t *testing.T) {
	large := header{path: "f", kind: tree.File, size: maxNumber}.append(nil, testTime)
	small := header{path: "f", kind: tree.File, size: 1000}.append(nil, testTime)
	for _, c := range []struct {
		name  string
		start []byte
		code  reason.Code
		says  string
	}{
		{"a file larger than announced", large, reason.Limit, "unpacks to more bytes than the 1048576"},
		{"after a file", small, reason.Format, "goes on after its end"},
		{"at once", nil, reason.Format, "goes on after its end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			counted := &countingReader{r: bufio.NewReader(bomb(c.start))}
			_, err := Check(t.Context(), counted, lenient())
			if reason.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v with the reason %q; want %q with the reason %q", err, reason.Of(err), c.says, c.code)
			}
			if counted.n > 1<<20 {
				t.Errorf("read %d bytes before", counted.n)
			}
		})
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// A million entries are not looked at when a thousand are announced.
func TestAMillionEntries(t *testing.T) {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		zw, err := newEncoder(w)
		for i := 0; err == nil && i < 1_000_000; i++ {
			_, err = zw.Write(header{path: fmt.Sprintf("%020d", i), kind: tree.File}.append(nil, testTime))
		}
		w.CloseWithError(err)
	}()
	_, err := Check(t.Context(), r, lenient())
	check(t, r.Close())
	<-done
	if reason.Of(err) != reason.Limit || !strings.Contains(err.Error(), "more entries than the 1000") {
		t.Errorf("got %v with the reason %q, want %q", err, reason.Of(err), reason.Limit)
	}
}
