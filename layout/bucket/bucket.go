// Package bucket is where bundles are kept: whole objects under string keys, behind a
// small interface, in a directory or on an S3-compatible server.
//
// # Objects
//
// An object is created once, whole or not at all, and never changed, so two readers of
// a key never see different bytes: of several creators of one key, in any number of
// processes, one wins and the others get fs.ErrExist. There is no listing and no
// deleting; readers know the keys they want.
//
// The channel objects of a mirror are the exception. They are small (MaxReplace) and
// written by Replace alone, which names the version that it takes the place of: of
// several writers that replace one version, one wins and the others get ErrChanged.
// Readers see the old object or the new one.
//
// # Versions
//
// A version is an opaque string without line ends that names the bytes of an object.
// As long as it is the same the bytes are; other bytes have another one. Bytes that come
// back may have their old version again.
//
// # Keys
//
// A key is a path of components separated by single slashes, at most 896 bytes long,
// a component at most 200. It is valid UTF-8 without control characters, and no component
// is empty or begins with a dot (so there is no "..", and a name that begins with a dot
// is free for temporary files). No key may be another key with a slash and more behind
// it: a directory cannot hold both. Keys are rejected, never cleaned.
//
// # file:///dir
//
// The object a/b/c is the regular file dir/a/b/c, mode 0644, in directories with the
// mode 0755, whatever the umask. The directory is made by the first Create; until then
// everything is missing. It needs a filesystem with hard links.
//
// A new object is written to dir/a/b/.c.<16 hex digits>, synced, and linked to its name,
// which fails when there is something. A process that is killed meanwhile leaves the
// temporary file; Create removes those that nobody wrote to for a day from the
// directory it writes into. An object that is replaced is renamed over, under an exclusive
// flock of dir/.lock; the kernel gives that lock back when its holder dies.
//
// The version of an object of up to MaxReplace bytes is its hash, whoever wrote it and
// wherever it was copied to. That of a longer one is made of what the filesystem says
// of its file: number, size and times.
//
// Nothing below dir is read or written through a symlink that leaves dir, and neither a
// symlink nor a device is an object. The directory itself may be a symlink.
//
// Who can write the directory can withhold, replace and forge objects, as with any
// bucket; readers find that out because a signed manifest names the hash of everything.
// Who can write it while a builder writes can also make a directory in it a symlink at
// the right moment, and so have the builder create a new file elsewhere. Give it to the
// builder alone.
//
// # s3://name/prefix
//
// The object a/b/c has the key prefix/a/b/c; the prefix may be missing. Where the server
// is, who comes in, and what is tried again is said in package s3. A reader sends one GET
// for each object, with a condition where it polls, and with a range where it reads on. A
// missing object may be answered 403 where the credentials must not list the bucket:
// that matches fs.ErrNotExist, and the error names both readings. The version of an object
// is its ETag.
//
// A creator sends HEAD, a PUT with If-None-Match: * in one part, and reads back: an object of
// up to MaxReplace bytes whole, of a longer one what HEAD says. The PUT carries the
// sizes and hashes of the body, which the server checks, and a number drawn for this
// write as the metadata sando-write. By that number a creator whose connection broke
// finds out whether it has won, when it tries again. Replace does the same with If-Match.
// Caches in front of the server have to ask it again for channel objects, and may keep
// all others for ever.
//
// A server that refuses the condition (501, or 400 for the request as such) is sent the
// PUT without one, provided that HEAD was answered 404, and not 403. Such servers, and
// those that ignore the condition, do not change an object under anyone either as long as
// one writer at a time works on a key: HEAD finds what is there. What no client can do on
// them is to decide between writers that are at the same key at the same moment: between
// the HEAD of one and its PUT another one's object may be lost, after both were told that
// they won. With a digest in the name both wrote the same bytes, so no manifest that
// a channel names can change. Of the keys without one, manifest.json may become that of
// the later writer, which is signed as the other is, and a channel object may lose a
// newer state to an older one until the next mirror, which nodes see and do not follow.
// Let one builder at a time publish to such a server.
//
// Readers need s3:GetObject on prefix/*, and nothing else. Builders need s3:GetObject and
// s3:PutObject on prefix/*; and s3:ListBucket too on a server without conditions,
// because only then HEAD says 404.
package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket/s3"
)

// Info is what is known of an object without reading it.
type Info struct {
	Size    int64  // bytes of the whole object
	Version string // names these very bytes; empty when the server gives it none
}

// Bucket holds objects. It may be used by several goroutines at once.
//
// A malformed key is refused with an error that matches ErrKey.
type Bucket interface {
	// Get opens the object for reading from its start. The error matches fs.ErrNotExist
	// when there is none, and when the server denies it, as one does for what is missing
	// that lets nobody list. The caller closes the reader, also before its end.
	Get(ctx context.Context, key string) (io.ReadCloser, Info, error)

	// Range opens the object as Get does, for reading from offset to its end. When
	// version is not empty, an object that has another one by now is ErrChanged. An offset
	// that is negative or not within the object is ErrRange. Bytes that are not the
	// ones asked for are an error, never data.
	Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, Info, error)

	// Stat says whether the object is there, as Get does, and what is known of it.
	Stat(ctx context.Context, key string) (Info, error)

	// Create stores the whole of body, which holds exactly size bytes, as a new object.
	// It reads body from its start, more than once when it has to try again. The error
	// matches fs.ErrExist when there is an object with this key, and nothing changed;
	// after any other error there is no object, or the whole one. When Create returns
	// nil, the object is durable.
	Create(ctx context.Context, key string, body io.ReadSeeker, size int64) error

	// Poll returns a small object that may be replaced, and its version now. When it is
	// still version, the error is ErrSame and nothing was transferred; an empty version is
	// never the same. More than max bytes have the reason "limit", and ones that do not
	// arrive within a minute "io".
	Poll(ctx context.Context, key, version string, max int64) (data []byte, now string, err error)

	// Replace makes data, at most MaxReplace bytes, the object in place of version, and
	// returns the version it has now. An empty version says that there must be no object
	// yet. When there is another version, or none, or one after all, the error is
	// ErrChanged and nothing changed; after any other error the object is the old or the
	// new one. When Replace returns nil, the object is durable.
	Replace(ctx context.Context, key string, data []byte, version string) (now string, err error)
}

// MaxReplace is the size of the largest object that can be replaced.
const MaxReplace = 64 << 10

// Config says where a bucket is, and how to come in. Package s3 says more of each field.
type Config struct {
	URL string // file:///dir or s3://bucket[/prefix]

	// The rest is for s3 only.
	Endpoint      string // https://host[:port]; http for a loopback address only
	Region        string // empty: that of an endpoint of Amazon's, or us-east-1
	PathStyle     bool   // the bucket is named in the path, also where the host name could name it
	Anonymous     bool   // requests are not signed, whatever credentials are around
	AccessKeyFile string // files that hold one line each
	SecretKeyFile string
	CAFile        string // PEM certificates, trusted besides those of the system
}

// Variables returns the environment variables that hold the keys of a bucket: what a
// program that is started need not see.
func Variables() []string {
	return []string{
		"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN",
		"AWS_CONTAINER_AUTHORIZATION_TOKEN",
	}
}

var (
	// ErrKey is matched by every error about a malformed key.
	ErrKey = errors.New("malformed key")

	// ErrRange is matched when an offset is not within the object.
	ErrRange = errors.New("offset is not within the object")

	// ErrNoBucket is matched, besides fs.ErrNotExist, where more is missing than an object.
	ErrNoBucket = errors.New("no such bucket")

	// ErrSame is matched when an object is still the version that is known.
	ErrSame = errors.New("object is unchanged")

	// ErrChanged is matched when an object is not the version that it should be.
	ErrChanged = errors.New("object was changed")
)

// Check judges everything about c that can be judged without a network, the files that
// it names among it. Its errors have the reason "config".
func (c Config) Check() error {
	b, err := Open(context.Background(), c)
	if r, ok := b.(*remote); ok && err == nil {
		return s3.Check(r.config)
	}
	return err
}

// Open returns the bucket that c names. It looks neither whether it is there nor at the
// files that c names, which are read when they are needed. Its errors have the reason
// "config".
func Open(_ context.Context, c Config) (Bucket, error) {
	if c.URL == "" {
		return nil, reason.Errorf(reason.Config, "storage.url: want where bundles are kept; %s", urlForms)
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		// The text of a url.Error holds the URL, and that may hold a password.
		return nil, reason.Errorf(reason.Config, "storage.url is malformed; %s", urlForms)
	}
	if u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, reason.Errorf(reason.Config, "storage.url: %q holds more than a place; %s", layout.Place(u), urlForms)
	}
	switch u.Scheme {
	case "file":
		return openFile(u, c)
	case "s3":
		return openS3(u, c)
	default:
		return nil, reason.Errorf(reason.Config, "storage.url: the scheme of %q is %q; %s", layout.Place(u), u.Scheme, urlForms)
	}
}

// Keys are those of somebody who may do other things in a bucket than who its Config names.
type Keys struct {
	Section       string // of the configuration that they are from, for messages
	AccessKeyFile string
	SecretKeyFile string
}

// OpenWith is Open with other keys than those of c.
func OpenWith(ctx context.Context, c Config, k Keys) (Bucket, error) {
	if strings.HasPrefix(c.URL, "file:") && k.AccessKeyFile+k.SecretKeyFile != "" {
		return nil, reason.Errorf(reason.Config, "%s.access_key_file: storage.url is a directory, which takes no keys; remove it, and %[1]s.secret_key_file", k.Section)
	}
	c.Anonymous, c.AccessKeyFile, c.SecretKeyFile = false, k.AccessKeyFile, k.SecretKeyFile
	b, err := Open(ctx, c)
	r, ok := b.(*remote)
	if err != nil || !ok {
		return b, err
	}
	r.config.Section = k.Section
	r.c, err = s3.New(r.config)
	return r, err
}

const urlForms = "a directory is written file:///dir, with three slashes, and a bucket s3://name or s3://name/prefix"

func openFile(u *url.URL, c Config) (Bucket, error) {
	switch {
	case u.Host != "":
		return nil, reason.Errorf(reason.Config, "storage.url: %q names a host; %s", u, urlForms)
	case !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") || strings.ContainsRune(u.Path, 0):
		return nil, reason.Errorf(reason.Config, "storage.url: the path of %q is not absolute and plain, or is the root; %s", u, urlForms)
	case c != Config{URL: c.URL}:
		return nil, reason.Errorf(reason.Config, "storage.url: %q is a directory; remove the other keys of [storage], they are for s3 alone", u)
	}
	return &dir{path: filepath.Clean(u.Path)}, nil
}

func openS3(u *url.URL, c Config) (Bucket, error) {
	prefix := strings.TrimSuffix(strings.TrimPrefix(u.Path, "/"), "/")
	if prefix != "" && (CheckKey(prefix) != nil || len(prefix) > MaxPrefix) {
		return nil, reason.Errorf(reason.Config, "storage.url: the prefix %q is longer than %d bytes or not of the form of a key", prefix, MaxPrefix)
	}
	config := s3.Config{
		Bucket: u.Host, Prefix: prefix,
		Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.PathStyle, CAFile: c.CAFile,
		Anonymous: c.Anonymous, AccessKeyFile: c.AccessKeyFile, SecretKeyFile: c.SecretKeyFile,
	}
	client, err := s3.New(config)
	if err != nil {
		return nil, err
	}
	return &remote{client, config}, nil
}

// readTime is how long a small object may take to arrive.
const readTime = time.Minute

// inTime calls read with a context that ends after readTime.
func inTime(ctx context.Context, key string, read func(context.Context) error) error {
	timed, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	err := read(timed)
	if err != nil && timed.Err() != nil && ctx.Err() == nil {
		return reason.Errorf(reason.IO, "object %q: it did not arrive within %s", key, readTime)
	}
	return err
}

// ReadAll returns the object with the key. It reads at most max+1 bytes, and fails with
// the reason "limit" when there are more than max, with "io" when they do not arrive
// within a minute.
func ReadAll(ctx context.Context, b Bucket, key string, max int64) (data []byte, err error) {
	err = inTime(ctx, key, func(ctx context.Context) error {
		data, err = readAll(ctx, b, key, max)
		return err
	})
	return data, err
}

func readAll(ctx context.Context, b Bucket, key string, max int64) (data []byte, err error) {
	r, info, err := b.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := r.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("read object %q: %w", key, cerr)
		}
	}()
	if info.Size <= max {
		data, err = io.ReadAll(io.LimitReader(r, max+1))
		if err != nil {
			return nil, fmt.Errorf("read object %q: %w", key, err)
		}
	}
	if info.Size > max || int64(len(data)) > max {
		return nil, fmt.Errorf("object %q: %w", key, tooLong(max))
	}
	return data, nil
}

// Bounds on a key, and on the prefix of a bucket.
const (
	MaxKey       = 896 // bytes
	MaxComponent = 200 // bytes
	MaxPrefix    = 127 // bytes; with a slash and a key that makes 1024, which is S3's bound
)

// CheckKey reports whether key may name an object. Its errors match ErrKey and have the
// reason "format".
func CheckKey(key string) error {
	if len(key) > MaxKey {
		return reason.Errorf(reason.Format, "%w: %d bytes are more than %d", ErrKey, len(key), MaxKey)
	}
	if err := canon.Text(key, false); err != nil {
		return reason.Errorf(reason.Format, "%w: %w", ErrKey, err)
	}
	for c := range strings.SplitSeq(key, "/") {
		switch {
		case c == "":
			return reason.Errorf(reason.Format, "%w: %q is absolute or has an empty component", ErrKey, key)
		case c[0] == '.':
			return reason.Errorf(reason.Format, "%w: a component of %q begins with a dot", ErrKey, key)
		case len(c) > MaxComponent:
			return reason.Errorf(reason.Format, "%w: a component of %q is longer than %d bytes", ErrKey, key, MaxComponent)
		}
	}
	return nil
}
