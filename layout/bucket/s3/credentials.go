package s3

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

// provider finds the keys that sign a request. It is a credentials.Provider.
type provider struct {
	section        string // of the configuration, for messages
	anonymous      bool
	access, secret string // files
	machine        *credentials.Credentials
	metadata       *http.Client
	found          atomic.Bool // the machine gave keys before
}

func newProvider(c Config) (*provider, error) {
	p := &provider{
		section:   cmp.Or(c.Section, "storage"),
		anonymous: c.Anonymous,
		access:    c.AccessKeyFile,
		secret:    c.SecretKeyFile,
		machine:   credentials.New(&credentials.IAM{}),
		metadata: &http.Client{
			Transport: modest{&http.Transport{DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, DisableKeepAlives: true}},
			Timeout:   10 * time.Second,
			// A redirect would take tokens somewhere else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	switch {
	case (c.AccessKeyFile == "") != (c.SecretKeyFile == ""):
		return nil, reason.Errorf(reason.Config, "%[1]s.access_key_file and %[1]s.secret_key_file: one is set and the other is not; set both, or neither", p.section)
	case c.Anonymous && c.AccessKeyFile != "":
		return nil, reason.Errorf(reason.Config, "storage.anonymous: it is true, and there are key files as well; remove one or the other")
	}
	return p, nil
}

// maxMetadata bounds an answer of the machine's. It comes without TLS from whoever has the
// address in the network that the machine is in, and is read into memory.
const maxMetadata = 1 << 20

// modest cuts the answers of a transport off.
type modest struct{ http.RoundTripper }

func (m modest) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := m.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxMetadata), resp.Body}
	}
	return resp, err
}

// IsExpired makes the client ask for the keys at each request.
func (p *provider) IsExpired() bool { return true }

// Retrieve is RetrieveWithCredContext without a context.
func (p *provider) Retrieve() (credentials.Value, error) {
	return p.RetrieveWithCredContext(&credentials.CredContext{})
}

// RetrieveWithCredContext returns the keys for one request.
func (p *provider) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	switch {
	case p.anonymous:
		return credentials.Value{SignerType: credentials.SignatureAnonymous}, nil
	case p.access != "":
		return p.fromFiles()
	}
	env, err := new(credentials.EnvAWS).RetrieveWithCredContext(nil)
	switch {
	case err == nil && env.AccessKeyID != "" && env.SecretAccessKey != "":
		return env, nil
	case err == nil && env.AccessKeyID+env.SecretAccessKey != "":
		return env, reason.Errorf(reason.Config, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: one is set and the other is not; set both, or neither")
	}
	v, err := p.machine.GetWithContext(&credentials.CredContext{Client: p.metadata, Context: cc.Context})
	switch {
	case err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "":
		p.found.Store(true)
		return v, nil
	case err == nil:
		err = errors.New("the machine's role has no keys")
	}
	if p.found.Load() {
		return v, &broken{fmt.Errorf("renew the credentials of the machine: %w", bare(err))}
	}
	return v, reason.Errorf(reason.Config, "no credentials for the bucket: set storage.access_key_file and storage.secret_key_file, "+
		"or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or give the machine a role (asking for it: %w), "+
		"or read without any by storage.anonymous = true", bare(err))
}

// bare returns err without the URL that package net/http puts in front.
func bare(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// renew forgets keys that were fetched.
func (p *provider) renew() { p.machine.Expire() }

func (p *provider) fromFiles() (v credentials.Value, err error) {
	v.SignerType = credentials.SignatureV4
	if v.AccessKeyID, err = readKey(p.section+".access_key_file", p.access); err != nil {
		return v, err
	}
	v.SecretAccessKey, err = readKey(p.section+".secret_key_file", p.secret)
	return v, err
}

// maxKey bounds a key file; a key has some 40 bytes.
const maxKey = 1024

// readKey reads the one line of a key file. Its errors have the reason "config" and hold
// nothing of the file.
func readKey(name, path string) (_ string, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", reason.Errorf(reason.Config, "%s: %w", name, err)
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return "", reason.Errorf(reason.Config, "%s: %w", name, err)
	}
	switch {
	case !info.Mode().IsRegular():
		return "", reason.Errorf(reason.Config, "%s: %q is not a file", name, path)
	case info.Mode().Perm()&0o007 != 0:
		return "", reason.Errorf(reason.Config, "%s: %q has mode %o, so that anybody may use it: chmod 600 it", name, path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return "", reason.Errorf(reason.Config, "%s: %w", name, err)
	}
	key := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if key == "" || len(data) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", reason.Errorf(reason.Config, "%s: %q does not hold one line with a key", name, path)
	}
	return key, nil
}
