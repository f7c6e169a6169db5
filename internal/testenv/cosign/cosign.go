// Package cosign runs the real cosign for tests: that of the version pinned in
// tools/cosign, as `make tools` built it.
//
//	c := cosign.New(t)
//	err := c.Verify("release.pub", "manifest.json.sigstore.json", "manifest.json")
//	c.Sign("channel.key", passphrase, "b.json.sigstore.json", "b.json")
//
// The commands are those that the documents tell people to use. cosign sees none of the
// environment, and a home that is empty. At the end of the test the home must be empty
// still, and cosign must not have tried to reach anybody: what we sign can be verified,
// and signed, on a machine without a network.
//
// Only tests import this package.
package cosign

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"makenot.work/sando/internal/testenv"
)

// Cosign is the program, and where it runs.
type Cosign struct {
	t       testing.TB
	program string
	home    string
	proxy   string
}

// New needs cosign.
func New(t testing.TB) *Cosign {
	t.Helper()
	c := &Cosign{t: t, program: testenv.Tool(t, "cosign"), home: t.TempDir()}
	t.Cleanup(func() {
		if left, err := os.ReadDir(c.home); err != nil || len(left) > 0 {
			t.Errorf("cosign left %v in its home (%v)", left, err)
		}
	})
	c.watch()
	return c
}

// watch stands in for the way out: whoever connects to it is a failure of the test.
func (c *Cosign) watch() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.proxy = "http://" + l.Addr().String()
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed: the test ends
			}
			conn.Close()
			c.t.Errorf("cosign went to the network")
		}
	})
	c.t.Cleanup(func() {
		l.Close()
		done.Wait()
	})
}

// run returns an error with what cosign said when it refused. A panic is a refusal too:
// v3.1.3 was seen to dereference nil on a signature without a digest.
func (c *Cosign) run(pass string, args ...string) error {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), c.program, args...)
	cmd.Env = []string{
		"HOME=" + c.home, "TUF_ROOT=" + filepath.Join(c.home, "tuf"), "COSIGN_PASSWORD=" + pass,
		"HTTP_PROXY=" + c.proxy, "HTTPS_PROXY=" + c.proxy,
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	if err != nil {
		return fmt.Errorf("cosign %s: %w\n%s", args[0], err, out)
	}
	return nil
}

func (c *Cosign) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// Verify returns what cosign has against the file signature as one by the public key
// over doc.
func (c *Cosign) Verify(key, signature, doc string) error {
	c.t.Helper()
	return c.run("", "verify-blob", "--key", key, "--bundle", signature, "--insecure-ignore-tlog=true", doc)
}

// Sign writes the signature by the private key over doc to the file signature.
func (c *Cosign) Sign(key, pass, signature, doc string) {
	c.t.Helper()
	c.must(c.run(pass, "sign-blob", "--key", key, "--use-signing-config=false", "--tlog-upload=false", "--bundle", signature, doc))
}

// GenerateKeyPair writes NAME.key, which pass opens, and NAME.pub.
func (c *Cosign) GenerateKeyPair(name, pass string) {
	c.t.Helper()
	c.must(c.run(pass, "generate-key-pair", "--output-key-prefix", name))
}
