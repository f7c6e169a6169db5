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

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket/s3"
)

// remote is a bucket on an S3-compatible server.
type remote struct {
	c      *s3.Client
	config s3.Config
}

func (r *remote) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	resp, err := r.read(ctx, http.MethodGet, key, nil, http.StatusOK)
	if err != nil {
		return nil, Info{}, err
	}
	return resp.Body, infoOf(resp), nil
}

func (r *remote) Stat(ctx context.Context, key string) (Info, error) {
	resp, err := r.read(ctx, http.MethodHead, key, nil, http.StatusOK)
	if err != nil {
		return Info{}, err
	}
	return infoOf(resp), resp.Body.Close()
}

// read sends a request for an object that only the status want answers.
func (r *remote) read(ctx context.Context, method, key string, header map[string]string, want int) (*http.Response, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	resp, err := r.c.Do(ctx, s3.Request{Method: method, Key: key, Header: header})
	if err != nil {
		return nil, fmt.Errorf("object %q: %w", key, unread(err))
	}
	if resp.StatusCode != want {
		resp.Body.Close()
		return nil, fmt.Errorf("object %q: the server answers %d, want %d", key, resp.StatusCode, want)
	}
	return resp, nil
}

// unread gives the answers that mean something of their own to a reader that meaning.
func unread(err error) error {
	var e *s3.Error
	if !errors.As(err, &e) {
		return err
	}
	switch {
	case e.Status == http.StatusNotFound && e.Code == "NoSuchBucket":
		return fmt.Errorf("%w: the server has no such bucket", fs.ErrNotExist)
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

func infoOf(resp *http.Response) Info {
	return Info{resp.ContentLength, versionIn(resp.Header)}
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

func (r *remote) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, Info, error) {
	if offset < 0 {
		return nil, Info{}, fmt.Errorf("object %q: %w: offset %d", key, ErrRange, offset)
	}
	header := map[string]string{"Range": fmt.Sprintf("bytes=%d-", offset)}
	if version != "" && !weak(version) {
		header["If-Match"] = version
	}
	resp, err := r.read(ctx, http.MethodGet, key, header, http.StatusPartialContent)
	if err != nil {
		return nil, Info{}, err
	}
	size, err := rangeOf(resp, offset)
	if now := versionIn(resp.Header); err == nil && version != "" && now != version {
		err = fmt.Errorf("%w: its version is %q, want %q", ErrChanged, now, version)
	}
	if err != nil {
		resp.Body.Close()
		return nil, Info{}, fmt.Errorf("object %q: %w", key, err)
	}
	return resp.Body, Info{size, versionIn(resp.Header)}, nil
}

// rangeOf checks that an answer is what is there of an object from offset, and returns
// the size of the whole.
func rangeOf(resp *http.Response, offset int64) (int64, error) {
	said := resp.Header.Get("Content-Range")
	_, total, _ := strings.Cut(said, "/")
	size, err := strconv.ParseInt(total, 10, 64)
	if err != nil || offset >= size || resp.ContentLength != size-offset || said != fmt.Sprintf("bytes %d-%d/%d", offset, size-1, size) {
		return 0, fmt.Errorf("range mismatch: got %q with %d bytes, want those from %d to the end", said, resp.ContentLength, offset)
	}
	return size, nil
}

func (r *remote) Poll(ctx context.Context, key, version string, max int64) (data []byte, now string, err error) {
	if err := CheckKey(key); err != nil {
		return nil, "", err
	}
	err = inTime(ctx, key, func(ctx context.Context) error {
		err := r.c.Retry(ctx, func() error {
			data, now, err = r.poll(ctx, key, version, max)
			return err
		})
		if err != nil {
			return fmt.Errorf("object %q: %w", key, unread(err))
		}
		return nil
	})
	return data, now, err
}

// poll is one attempt of Poll: one request.
func (r *remote) poll(ctx context.Context, key, version string, max int64) (data []byte, now string, err error) {
	header := map[string]string{}
	if version != "" {
		header["If-None-Match"] = version
	}
	resp, err := r.c.Once(ctx, s3.Request{Method: http.MethodGet, Key: key, Header: header})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close() // all that was asked for has been read, or is not wanted
	now = versionIn(resp.Header)
	switch {
	case version != "" && (resp.StatusCode == http.StatusNotModified || resp.StatusCode == http.StatusOK && now == version):
		return nil, version, ErrSame
	case resp.StatusCode != http.StatusOK:
		return nil, "", fmt.Errorf("the server answers %d, want 200", resp.StatusCode)
	case resp.ContentLength > max:
		return nil, "", tooLong(max)
	}
	if data, err = io.ReadAll(resp.Body); err != nil {
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
