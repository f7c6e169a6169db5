package reliability

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"makenot.work/sando/systemd/notify"
)

// misbehave is the app: this test binary, started by the file run of a release. In its
// working directory, the release, VERSION is what it is, and HOW what it does:
//
//	                well: it answers with its version
//	exits           with 1, at once
//	exits STATUS    with that, at once
//	exits-after D   never answers, and exits with 1
//	slow D          answers after a while
//	dies D          answers, and after a while kills itself
//	sick D          answers, and after a while with 500
//	500             answers with that
//	says VERSION    answers with the version of another
//	hangs           never answers, never ends
//	database        as well, as long as its database is there; it exits with 1 without it
//	once            well, the first time that it is started, and exits with 1 after that
//	fills DIR       fills the disk there, and exits with 1
//
// What it does is in the file log of its state directory, a line each: the time in
// microseconds, "start", "sick" or "end", its version.
func misbehave(ctx context.Context) error {
	version, err := os.ReadFile("VERSION")
	if err != nil {
		return err
	}
	how, err := os.ReadFile("HOW")
	if err != nil {
		return err
	}
	a := app{version: strings.TrimSpace(string(version)), dir: os.Getenv("STATE_DIRECTORY")}
	word, arg, _ := strings.Cut(strings.TrimSpace(string(how)), " ")
	if err := a.log("start"); err != nil {
		return err
	}
	err = a.run(ctx, word, arg)
	if lerr := a.log("end"); err == nil {
		err = lerr
	}
	return err
}

type app struct{ version, dir string }

func (a app) log(what string) error {
	f, err := os.OpenFile(filepath.Join(a.dir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%d %s %s\n", time.Now().UnixMicro(), what, a.version)
	return errors.Join(err, f.Close())
}

// status is the exit status that the app asks for.
type status int

func (s status) Error() string { return fmt.Sprintf("ends with status %d, as it was told", int(s)) }

func (a app) run(ctx context.Context, word, arg string) error {
	after, _ := time.ParseDuration(arg) // of those that have one
	says := a.version
	switch word {
	case "", "dies", "sick", "500":
	case "exits":
		if arg == "" {
			return status(1)
		}
		var s status
		if _, err := fmt.Sscan(arg, (*int)(&s)); err != nil {
			return err
		}
		return s
	case "exits-after":
		return errors.Join(a.wait(ctx, after), status(1))
	case "slow":
		if err := a.wait(ctx, after); err != nil {
			return err
		}
	case "says":
		says = arg
	case "hangs":
		<-ctx.Done()
		return nil
	case "database":
		if conn, err := net.Dial("unix", os.Getenv("DATABASE")); err != nil {
			return fmt.Errorf("connect to the database: %w", err)
		} else if err := conn.Close(); err != nil {
			return err
		}
	case "once":
		if err := os.Mkdir(filepath.Join(a.dir, "started"), 0o755); err != nil {
			return err
		}
	case "fills":
		return fill(arg)
	default:
		return fmt.Errorf("HOW is %q, which is not known", word)
	}
	return a.serve(ctx, word, says, after)
}

// serve answers until ctx ends, or what word says comes after a while.
func (a app) serve(ctx context.Context, word, says string, after time.Duration) error {
	l, err := net.Listen("tcp", os.Getenv("ADDR"))
	if err != nil {
		return err
	}
	sick := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-sick:
			w.WriteHeader(http.StatusInternalServerError)
		default:
		}
		fmt.Fprintf(w, "{\"status\":\"operational\",\"version\":%q}\n", says)
	})}
	if word == "500" {
		close(sick)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	if err := notify.Ready(); err != nil {
		return err
	}
	if word == "dies" || word == "sick" {
		if err := a.wait(ctx, after); err == nil {
			if word == "dies" {
				return errors.Join(a.log("end"), syscall.Kill(os.Getpid(), syscall.SIGKILL))
			}
			err = a.log("sick")
			close(sick)
			if err != nil {
				return err
			}
		}
	}
	<-ctx.Done()
	err = srv.Close()
	<-ended
	return err
}

func (a app) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fill writes to a new file in dir until nothing more fits.
func fill(dir string) error {
	f, err := os.CreateTemp(dir, "fill-")
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10, 1} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	return err
}
