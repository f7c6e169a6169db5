package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket/s3"
)

// remote is a bucket on an S3-compatible server.
type remote struct {
	c      *s3.Client
	config s3.Config
}

func (r *remote) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	body, info, err := r.get(ctx, key, minio.GetObjectOptions{})
	return body, infoOf(info), err
}

func (r *remote) get(ctx context.Context, key string, o minio.GetObjectOptions) (body io.ReadCloser, info minio.ObjectInfo, err error) {
	err = r.read(ctx, key, func() error {
		body, info, err = r.c.Get(ctx, key, o)
		return err
	})
	return body, info, err
}

func (r *remote) Stat(ctx context.Context, key string) (Info, error) {
	var info minio.ObjectInfo
	err := r.read(ctx, key, func() (err error) {
		info, err = r.c.Stat(ctx, key)
		return err
	})
	return infoOf(info), err
}

// read calls ask, which asks for an object, again where that may help.
func (r *remote) read(ctx context.Context, key string, ask func() error) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := r.c.Retry(ctx, ask); err != nil {
		return fmt.Errorf("object %q: %w", key, unread(err))
	}
	return nil
}

// unread gives the answers that mean something of their own to a reader that meaning.
func unread(err error) error {
	var e *s3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Status == http.StatusNotFound && e.Code == "NoSuchBucket":
		return fmt.Errorf("%w: the server has %w", fs.ErrNotExist, ErrNoBucket)
	case e.Status == http.StatusNotFound:
		return fs.ErrNotExist
	case e.Forbidden():
		return fmt.Errorf("%w, or these credentials may not read it: %w", fs.ErrNotExist, e)
	case e.Status == http.StatusPreconditionFailed:
		return ErrChanged
	case e.Status == http.StatusRequestedRangeNotSatisfiable:
		return ErrRange
	}
	return err
}

func infoOf(o minio.ObjectInfo) Info {
	return Info{o.Size, versionIn(o.Headers)}
}

// versionIn returns the ETag as it is written. One that cannot be sent back is none.
func versionIn(h http.Header) string {
	tag := h.Get("ETag")
	if len(tag) > 256 || strings.ContainsFunc(tag, func(r rune) bool { return r < ' ' || r > '~' }) {
		return ""
	}
	return tag
}

// weak reports whether version may stand for several representations, such as a cache
// makes them. A server never finds one to match in a condition for bytes.
func weak(version string) bool { return strings.HasPrefix(version, "W/") }

// strong returns the version that a cache has made a weak one of.
func strong(version string) string { return strings.TrimPrefix(version, "W/") }

func (r *remote) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, Info, error) {
	if offset < 0 {
		return nil, Info{}, fmt.Errorf("object %q: %w: offset %d", key, ErrRange, offset)
	}
	var o minio.GetObjectOptions
	o.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	if version != "" && !weak(version) {
		o.Set("If-Match", version)
	}
	body, info, err := r.get(ctx, key, o)
	if err != nil {
		return nil, Info{}, err
	}
	size, err := rangeOf(info, offset)
	now := versionIn(info.Headers)
	if err == nil && version != "" && strong(now) != strong(version) {
		err = fmt.Errorf("%w: its version is %q, want %q", ErrChanged, now, version)
	}
	if version != "" && weak(version) != weak(now) {
		now = "" // a cache made one of the other, and the bytes are perhaps the same
	}
	if err != nil {
		body.Close()
		return nil, Info{}, fmt.Errorf("object %q: %w", key, err)
	}
	return body, Info{size, now}, nil
}

// rangeOf checks that an answer is what is there of an object from offset, and returns
// the size of the whole.
func rangeOf(o minio.ObjectInfo, offset int64) (int64, error) {
	said := o.Headers.Get("Content-Range")
	_, total, _ := strings.Cut(said, "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if err != nil || offset >= size || o.Size != size-offset || said != fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size) {
		return 0, fmt.Errorf("range mismatch: got %q with %d bytes, want those from %d to the end", said, o.Size, offset)
	}
	return size, nil
}

func (r *remote) Poll(ctx context.Context, key, version string, max int64) (data []byte, now string, err error) {
	err = inTime(ctx, key, func(ctx context.Context) error {
		return r.read(ctx, key, func() error {
			data, now, err = r.poll(ctx, key, version, max)
			return err
		})
	})
	return data, now, err
}

// poll is one attempt of Poll: one request.
func (r *remote) poll(ctx context.Context, key, version string, max int64) (data []byte, now string, err error) {
	var o minio.GetObjectOptions
	if version != "" {
		o.Set("If-None-Match", version)
	}
	body, info, err := r.c.Get(ctx, key, o)
	var e *s3.Error
	if version != "" && errors.As(err, &e) && e.Status == http.StatusNotModified {
		return nil, version, ErrSame
	}
	if err != nil {
		return nil, "", err
	}
	defer body.Close() // all that was asked for has been read, or is not wanted
	switch now = versionIn(info.Headers); {
	case version != "" && now == version:
		return nil, version, ErrSame
	case info.Size > max:
		return nil, "", tooLong(max)
	}
	if data, err = io.ReadAll(body); err != nil {
		return nil, "", err
	}
	return data, now, nil
}

func (r *remote) Create(ctx context.Context, key string, body io.ReadSeeker, size int64) error {
	err := CheckKey(key)
	if err == nil {
		_, err = r.store(ctx, key, body, size, "")
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrChanged):
		err = fs.ErrExist
	}
	return fmt.Errorf("create object %q: %w", key, err)
}

func (r *remote) Replace(ctx context.Context, key string, data []byte, version string) (now string, err error) {
	err = checkReplace(key, data)
	if err == nil && weak(version) {
		err = reason.Errorf(reason.Config, "version %q is that of a cache: write to the server behind it", version)
	}
	if err == nil {
		now, err = r.store(ctx, key, bytes.NewReader(data), int64(len(data)), version)
	}
	if err != nil {
		return "", fmt.Errorf("replace object %q: %w", key, err)
	}
	return now, nil
}
