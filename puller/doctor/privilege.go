package doctor

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// plainly calls look as the puller is under its shipped units: as the same user, without any of
// root's capabilities. look is done by this thread alone, so it must not hand work on to others.
func plainly(look func()) {
	if os.Geteuid() != 0 {
		look()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, and nobody else gets one like it.
		runtime.LockOSThread()
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&head, &none[0]); err != nil {
			return // then what it would see is not known, and nothing is said
		}
		look()
	}()
	<-done
}

// readable returns why the puller could not read a file; nil if it could.
func readable(file string) (err error) {
	plainly(func() {
		var f *os.File
		if f, err = os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
	})
	return err
}
