package bucket

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/minio/minio-go/v7"

	"makenot.work/sando/layout/bucket/s3"
)

// MayWrite reports whether the credentials of a bucket on S3 may write the object with the
// key, and writes nothing: it sends a PUT on the condition that the object has a version that
// none has. A server looks first whether who asks may do it (403 if not), and then at the
// condition (412, or 404 where there is no object).
//
// A server that ignores conditions stores what was sent. So that this does no harm either, it
// is the object as it is, where it can be read, and nothing at all where there is none: name
// then a key that nobody reads. One that refuses conditions (501) gives no answer: the error
// matches errors.ErrUnsupported, as for a bucket that is a directory.
func MayWrite(ctx context.Context, b Bucket, key string) (bool, error) {
	r, ok := b.(*remote)
	if !ok {
		return false, fmt.Errorf("%w: only a server knows credentials", errors.ErrUnsupported)
	}
	if err := CheckKey(key); err != nil {
		return false, err
	}
	data, _, err := r.Poll(ctx, key, "", MaxReplace)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	content := s3.Content{Body: bytes.NewReader(data), Size: int64(len(data))}
	if content.SHA256, content.MD5, err = hashes(ctx, content.Body, content.Size); err != nil {
		return false, err
	}
	err = r.c.Retry(ctx, func() error {
		if _, err := content.Body.Seek(0, io.SeekStart); err != nil {
			return err
		}
		o := minio.PutObjectOptions{}
		o.SetMatchETag("sando-" + rand.Text())
		return r.c.Put(ctx, key, content, o)
	})
	var e *s3.Error
	switch {
	case err == nil:
		return true, nil
	case !errors.As(err, &e):
	case e.Forbidden():
		return false, nil
	case e.Status == http.StatusPreconditionFailed, e.Status == http.StatusNotFound && e.Code != "NoSuchBucket":
		return true, nil
	case e.Unsupported():
		return false, fmt.Errorf("object %q: %w: %w", key, errors.ErrUnsupported, e)
	}
	return false, fmt.Errorf("object %q: %w", key, err)
}
