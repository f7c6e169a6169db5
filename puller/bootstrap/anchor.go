package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/puller/anchor"
	"makenot.work/sando/signing"
)

// trust finds the anchor that is to be here, and has its fingerprint confirmed. n.anchor
// stays empty where there is one already that nobody doubts, and where a dry run cannot
// fetch it yet.
func (n *Node) trust(ctx context.Context) error {
	var want layout.Digest
	if n.o.Fingerprint != "" {
		d, err := anchor.ParseFingerprint(n.o.Fingerprint)
		if err != nil {
			return err
		}
		want = d
	}
	there, err := os.ReadFile(n.o.anchorFile())
	switch {
	case err == nil:
		return n.keepAnchor(there, want)
	case !errors.Is(err, fs.ErrNotExist):
		return reason.OnDisk(err)
	case n.o.Trust == "" && want == "":
		return refuse("--trust-fingerprint: want the fingerprint of trust.json, as `builder init` and `builder enroll` say it; or --trust FILE, whose fingerprint is then shown and asked about")
	}
	n.fingerprint = want
	doc, err := n.fetchAnchor(ctx, want)
	if err != nil || doc == nil {
		return err
	}
	if err := n.checkAnchor(doc, want, "--trust "+n.o.trustPlace()); err != nil {
		return err
	}
	n.anchor, n.fingerprint = doc, layout.Sum(doc)
	if want != "" || n.dry {
		return nil
	}
	return n.confirm(ctx)
}

// keepAnchor is about an anchor that is there. Another one than asked for is no detail.
func (n *Node) keepAnchor(doc []byte, want layout.Digest) error {
	n.fingerprint = layout.Sum(doc)
	file := n.o.anchorFile()
	if err := n.checkAnchor(doc, want, file); err != nil {
		return fmt.Errorf("%w; if it is to be replaced: `mv %s %[2]s.old`, and run this again", err, file)
	}
	if n.o.Trust == "" {
		return nil
	}
	given, err := n.readTrust(context.Background())
	if err == nil && layout.Sum(given) != n.fingerprint {
		return reason.Errorf(reason.Mismatch, "--trust %s has the fingerprint %s, and %s, which is there, %s: leave --trust out to keep that one; if it is to be replaced: `mv %[3]s %[3]s.old`, and run this again",
			n.o.trustPlace(), layout.Sum(given), file, n.fingerprint)
	}
	return nil // what it was copied from may be gone
}

func (n *Node) checkAnchor(doc []byte, want layout.Digest, place string) error {
	if got := layout.Sum(doc); want != "" && got != want {
		return reason.Errorf(reason.Mismatch, "%s has the fingerprint %s, want %s: it is another version or another app's, or somebody changed it", place, got, want)
	}
	t, err := signing.ParseTrust(doc)
	if err != nil {
		return fmt.Errorf("%s: %w", place, err)
	}
	if t.App != n.o.App {
		return reason.Errorf(reason.Policy, "%s is the trust of app %q, want %q", place, t.App, n.o.App)
	}
	return nil
}

func (n *Node) fetchAnchor(ctx context.Context, want layout.Digest) ([]byte, error) {
	if n.o.Trust != "" {
		return n.readTrust(ctx)
	}
	if n.creds.unwritten() { // a dry run asks nobody for secrets
		return nil, nil
	}
	s := anchor.Source{App: n.o.App}
	c, done, err := n.usable()
	if err != nil {
		return nil, err
	}
	defer done()
	if n.o.Channels.URL == Bucket {
		s.Bucket = n.o.Storage
		s.Bucket.AccessKeyFile, s.Bucket.SecretKeyFile = c.access.file, c.secret.file
	} else {
		r := n.channelRepo(c)
		s.Repo = &r
	}
	found, err := anchor.Find(ctx, s, want)
	var missing *anchor.NotFound
	switch {
	case errors.As(err, &missing):
		return nil, err
	case err != nil && s.Repo == nil:
		return nil, fmt.Errorf("--storage: %w", err)
	case err != nil:
		return nil, fmt.Errorf("--channels: %w", err)
	}
	return found.Doc, nil
}

// confirm has a person compare the fingerprint.
func (n *Node) confirm(ctx context.Context) error {
	if n.person.Confirm == nil {
		return refuse("--trust-fingerprint: the fingerprint of %s is %s: if that is what `builder init` said, run this again with --trust-fingerprint %[2]s", n.o.trustPlace(), n.fingerprint)
	}
	yes, err := n.person.Confirm(ctx, fmt.Sprintf("Who can sign by it decides what runs here. The fingerprint of %s is\n  %s\nIs that what `builder init` said?", n.o.trustPlace(), n.fingerprint))
	if err == nil && !yes {
		err = reason.Errorf(reason.Mismatch, "the fingerprint of %s is not the one that was expected; nothing was changed", n.o.trustPlace())
	}
	return err
}

// trustPlace is --trust for messages: the rest of a URL may let in who has it.
func (o *Options) trustPlace() string {
	if !strings.Contains(o.Trust, "://") {
		return o.Trust
	}
	u, err := url.Parse(o.Trust)
	if err != nil {
		return "the URL"
	}
	return layout.Place(u)
}

// readTrust reads the anchor from where --trust says.
func (n *Node) readTrust(ctx context.Context) ([]byte, error) {
	place := n.o.Trust
	if !strings.Contains(place, "://") {
		f, err := os.Open(place)
		if err != nil {
			return nil, refuse("--trust: %w", err)
		}
		defer f.Close() // only read
		return limited(f, place)
	}
	u, err := url.Parse(place)
	if err != nil {
		return nil, refuse("--trust: the URL is malformed") // and may hold a secret
	}
	ip := net.ParseIP(u.Hostname())
	if u.User != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || ip == nil || !ip.IsLoopback()) {
		return nil, refuse("--trust: %q is neither a file nor an https URL without user and password", n.o.trustPlace())
	}
	return download(ctx, u)
}

// fetchTimeout bounds the download of the anchor, which is small.
const fetchTimeout = 30 * time.Second

func download(ctx context.Context, u *url.URL) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, refuse("--trust: %w", err)
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		if named := (*url.Error)(nil); errors.As(err, &named) {
			err = named.Err
		}
		return nil, fmt.Errorf("--trust: ask %s: %w", layout.Place(u), err)
	}
	defer resp.Body.Close() // only read
	if resp.StatusCode != http.StatusOK {
		return nil, reason.Errorf(reason.IO, "--trust: %s answers %s, want 200 OK", layout.Place(u), resp.Status)
	}
	return limited(resp.Body, layout.Place(u))
}

// limited reads at most as much as an anchor may have.
func limited(r io.Reader, place string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, layout.MaxTrust+1))
	if err != nil {
		return nil, fmt.Errorf("--trust: read %s: %w", place, err)
	}
	if len(data) > layout.MaxTrust {
		return nil, reason.Errorf(reason.Limit, "--trust: %s has more than %d bytes: it is no trust.json", place, layout.MaxTrust)
	}
	return data, nil
}
