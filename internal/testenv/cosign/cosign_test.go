package cosign_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv/cosign"
)

func TestCosign(t *testing.T) {
	c, dir := cosign.New(t), t.TempDir()
	name, doc, signature := filepath.Join(dir, "key"), filepath.Join(dir, "doc"), filepath.Join(dir, "sig")
	if err := os.WriteFile(doc, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.GenerateKeyPair(name, "secret")
	c.Sign(name+".key", "secret", signature, doc)
	if err := c.Verify(name+".pub", signature, doc); err != nil {
		t.Error(err)
	}
	err := c.Verify(name+".pub", signature, signature)
	if err == nil || !strings.Contains(err.Error(), "invalid signature") {
		t.Errorf("another document: %v", err)
	}
}
