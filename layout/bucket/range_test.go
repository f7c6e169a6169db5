package bucket

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/minio/minio-go/v7"
)

// FuzzRange: what is accepted as a range says, in the one way there is, what was asked for.
func FuzzRange(f *testing.F) {
	f.Add("bytes 1000-65535/65536", int64(64536), int64(1000))
	f.Add("bytes 0-0/1", int64(1), int64(0))
	f.Add("bytes 5-4/5", int64(0), int64(5))
	f.Add("bytes 0-4/+5", int64(5), int64(0))
	f.Add("bytes */5", int64(0), int64(7))
	f.Add("bytes 0-9223372036854775806/9223372036854775807", int64(9223372036854775807), int64(0))
	f.Add("", int64(-1), int64(0))
	f.Fuzz(func(t *testing.T, said string, length, offset int64) {
		if offset < 0 {
			return // is refused before
		}
		o := minio.ObjectInfo{Headers: http.Header{"Content-Range": {said}}, Size: length}
		size, err := rangeOf(o, offset)
		if err != nil {
			return
		}
		if length <= 0 || offset+length != size || said != fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size) {
			t.Errorf("%q with %d bytes is taken for the range from %d of %d", said, length, offset, size)
		}
	})
}
