package bucket

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket/s3"
)

// maxPut is the size of the largest object that S3 takes in one part.
const maxPut = 5 << 30

// writeNumber names the metadata that hold the number of the write that made an object.
const writeNumber = "Sando-Write"

// write is one object on its way to the server.
type write struct {
	r       *remote
	key     string
	content s3.Content
	version string // to be replaced; empty: nothing
	number  string
	bare    bool // the server does not know conditions
}

// store writes body in place of version, and returns the version that it has then. The
// error matches ErrChanged when there is another.
func (r *remote) store(ctx context.Context, key string, body io.ReadSeeker, size int64, version string) (now string, err error) {
	if size > maxPut {
		return "", reason.Errorf(reason.Limit, "%d bytes are more than %d, the most that can be stored in one part", size, int64(maxPut))
	}
	w := &write{r: r, key: key, version: version, number: rand.Text()}
	w.content = s3.Content{Body: body, Size: size}
	if w.content.SHA256, w.content.MD5, err = hashes(ctx, body, size); err != nil {
		return "", err
	}
	err = r.c.Retry(ctx, func() error {
		now, err = w.attempt(ctx)
		return err
	})
	return now, err
}

// hashes reads all of body, which must have exactly size bytes.
func hashes(ctx context.Context, body io.ReadSeeker, size int64) (sum, md string, err error) {
	if err := ctx.Err(); err != nil {
		return "", "", err
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return "", "", err
	}
	h, m := sha256.New(), md5.New()
	if _, err := io.Copy(io.MultiWriter(h, m), &exactly{r: body, left: size, size: size, check: ctx.Err}); err != nil {
		return "", "", err
	}
	return hex.EncodeToString(h.Sum(nil)), base64.StdEncoding.EncodeToString(m.Sum(nil)), nil
}

// attempt looks, writes, and looks again. Every attempt begins with looking: the one
// before may have succeeded without being told, and somebody else may have been there
// since.
func (w *write) attempt(ctx context.Context) (now string, err error) {
	there, err := w.look(ctx)
	switch {
	case err != nil:
		return "", err
	case there.number == w.number:
		return w.readBack(ctx)
	case there.Version != w.version || there.found != (w.version != ""):
		return "", there.differs(w.version)
	}
	err = w.put(ctx)
	var e *s3.Error
	if errors.As(err, &e) && e.Unsupported() && !w.bare {
		if there.hidden {
			return "", fmt.Errorf("the server does not know conditional writes (%w), and these credentials do not see whether "+
				"there is an object: let them list the bucket", e)
		}
		w.bare = true
		err = w.put(ctx)
	}
	if errors.As(err, &e) && (e.Status == http.StatusPreconditionFailed || e.Status == http.StatusNotFound && w.version != "") {
		return w.lost(ctx)
	}
	if e != nil && e.Forbidden() {
		return "", fmt.Errorf("%w: these credentials may not write it; that takes s3:GetObject and s3:PutObject", e)
	}
	if err != nil {
		return "", err
	}
	return w.readBack(ctx)
}

func (w *write) put(ctx context.Context) error {
	o := minio.PutObjectOptions{UserMetadata: map[string]string{writeNumber: w.number}}
	switch {
	case w.bare:
	case w.version == "":
		o.SetMatchETagExcept("*")
	default:
		o.SetMatchETag(strings.TrimPrefix(strings.TrimSuffix(w.version, `"`), `"`)) // which quotes it
	}
	return w.r.c.Put(ctx, w.key, w.content, o)
}

// lost finds out who was faster: it may have been this writer, in a request that was
// stored and not answered.
func (w *write) lost(ctx context.Context) (string, error) {
	there, err := w.look(ctx)
	switch {
	case err != nil:
		return "", err
	case there.number == w.number:
		return w.readBack(ctx)
	case w.version == "" && !there.found && !there.hidden:
		return "", errors.New("the server says that there is an object, and has none")
	}
	return "", there.differs(w.version)
}

// object is what a writer sees of the object that it is to write.
type object struct {
	Info
	found  bool
	hidden bool   // not found, but perhaps only because it may not be seen
	number string // of the write that made it
}

func found(o minio.ObjectInfo) object {
	return object{infoOf(o), true, false, o.UserMetadata[writeNumber]}
}

// differs says in what an object is not what a writer expected.
func (o object) differs(version string) error {
	switch {
	case version == "":
		return errIsThere
	case !o.found:
		return fmt.Errorf("%w: it is missing, want version %q", ErrChanged, version)
	}
	return fmt.Errorf("%w: its version is %q, want %q", ErrChanged, o.Version, version)
}

func (w *write) look(ctx context.Context) (object, error) {
	info, err := w.r.c.Stat(ctx, w.key)
	var e *s3.Error
	switch {
	case errors.As(err, &e) && e.Status == http.StatusNotFound:
		return object{}, nil
	case errors.As(err, &e) && e.Forbidden() && w.version == "":
		return object{hidden: true}, nil
	case err != nil:
		return object{}, err
	}
	return found(info), nil
}

// readBack checks that the object is the one that was written, and returns its version.
func (w *write) readBack(ctx context.Context) (string, error) {
	if w.content.Size > MaxReplace {
		there, err := w.look(ctx)
		if err != nil {
			return "", fmt.Errorf("read back: %w", err)
		}
		if !there.found || there.number != "" {
			return w.verdict(there, there.number == w.number && there.Size == w.content.Size)
		}
		// A server that keeps no metadata: the bytes have to say it.
	}
	body, info, err := w.r.c.Get(ctx, w.key, minio.GetObjectOptions{})
	if err != nil {
		return "", fmt.Errorf("read back: %w", err)
	}
	defer body.Close() // read to its end
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return "", fmt.Errorf("read back: %w", err)
	}
	there := found(info)
	same := there.number == w.number || there.number == ""
	return w.verdict(there, same && hex.EncodeToString(h.Sum(nil)) == w.content.SHA256)
}

// verdict is the outcome of a write after which there is this object.
func (w *write) verdict(there object, mine bool) (string, error) {
	switch {
	case !there.found:
		return "", errors.New("read back: the server has stored the object, and does not have it")
	case !mine && there.number == w.number:
		return "", errors.New("read back: the server holds other bytes than it was sent")
	case !mine:
		return "", fmt.Errorf("%w: another writer was at it at the same time", ErrChanged)
	}
	return there.Version, nil
}
