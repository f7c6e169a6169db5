package transport

import (
	"encoding/pem"
	"os"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

func pemOf(b *pem.Block) []byte { return pem.EncodeToMemory(b) }

// mustKey reads the private key in a file.
func mustKey(t *testing.T, file string) any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o600) }
