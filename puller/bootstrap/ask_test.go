package bootstrap

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/puller"
)

// What may be a slip of the pen is refused before anything is made; what was signed wrongly, or
// was not promoted yet, is for the first update to tell.
func TestMistaken(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{reason.Errorf(reason.IO, "connection refused"), true},
		{reason.Errorf(reason.Config, "secret is not that of the access key"), true},
		{fmt.Errorf("%w: %w", fs.ErrNotExist, bucket.ErrNoBucket), true},
		{reason.Errorf(reason.Stale, "%w: %w yet", bucket.ErrNoBucket, puller.ErrNotPromoted), true},
		{reason.Errorf(reason.Stale, "%w yet", puller.ErrNotPromoted), false},
		{reason.Errorf(reason.IO, "%w yet", puller.ErrNotPromoted), false},
		{reason.Errorf(reason.Signature, "too few"), false},
		{reason.Errorf(reason.Replay, "older"), false},
	} {
		if got := mistaken(c.err); got != c.want {
			t.Errorf("%v: %t, want %t", c.err, got, c.want)
		}
	}
}

func TestDone(t *testing.T) {
	for what, want := range map[string]string{
		"make directory /opt/mnw, root:root 0755":         "made directory /opt/mnw, root:root 0755",
		"have systemd read the unit files":                "had systemd read the unit files",
		"fetch, verify and unpack 1.0.0":                  "fetched, verified and unpacked 1.0.0",
		"stop a.service; start b.service, else a.service": "stop a.service; start b.service, else a.service",
		"enable mnw.service":                              "enabled mnw.service",
	} {
		if got := Done(what); got != want {
			t.Errorf("%q: %q, want %q", what, got, want)
		}
	}
}

// What is asked for beside the bucket is named with it.
func TestStrange(t *testing.T) {
	n := &Node{o: mnw(), creds: credentials{access: credential{file: "/etc/sando/mnw/s3.access"}, secret: credential{file: "/etc/sando/mnw/s3.secret"}}}
	err := n.strange(reason.Errorf(reason.IO, "no such host"))
	if want := "--storage: no such host; see that the builder means the same by --storage, --endpoint, /etc/sando/mnw/s3.access, /etc/sando/mnw/s3.secret; nothing was changed"; err.Error() != want || reason.Of(err) != reason.IO {
		t.Errorf("%v, want %s", err, want)
	}
	if strings.Contains((&Node{}).strange(err).Error(), ", ;") {
		t.Error("a flag without a name")
	}
}
