package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// manager listens as systemd does on NOTIFY_SOCKET.
func manager(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 1, "manager FILE")
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	ts.Check(err)
	// An abstract name: the path of a work directory may be too long for a socket.
	name := fmt.Sprintf("@sando-%d-%s-%s", os.Getpid(), filepath.Base(filepath.Dir(ts.Getenv("WORK"))), filepath.Base(ts.Getenv("WORK")))
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	ts.Check(err)
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, err = f.Write(append(buf[:n:n], '\n'))
			}
			if err != nil {
				panic(err)
			}
		}
	})
	ts.Defer(func() {
		c.Close()
		reader.Wait()
		f.Close()
	})
	ts.Setenv("NOTIFY_SOCKET", name)
}
