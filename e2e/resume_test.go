package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/internal/testenv/wire"
	"makenot.work/sando/layout/bucket"
)

// TestKillDownload ends a puller in the middle of a download from a real server: killed,
// and told to stop. The next one fetches the rest alone, and leaves nothing behind.
func TestKillDownload(t *testing.T) {
	t.Parallel() // most of it is waiting
	server := minio.Start(t, minio.Options{})
	s := newSite(t, "1.0", "2.0", "3.0")
	for _, v := range []string{"1.0", "2.0", "3.0"} {
		s.release(v)
	}
	name := server.Bucket(t, minio.Private)
	s.upload(server, name)
	w := wire.New(t, strings.TrimPrefix(server.Endpoint, "http://"))
	m := s.machine("node")
	config, err := os.ReadFile(m.side + ".toml")
	must(t, err)
	storage := fmt.Sprintf("url = \"s3://%s\"\nendpoint = \"http://%s\"\npath_style = true\naccess_key_file = \"%s\"\nsecret_key_file = \"%s\"",
		name, w.Addr, server.Root.AccessKeyFile, server.Root.SecretKeyFile)
	file := "url = \"file://" + s.path("site", "bucket") + "\""
	must(t, os.WriteFile(m.side+".toml", []byte(strings.Replace(string(config), file, storage, 1)), 0o644))
	s.promote("1.0")
	m.cycle(0)
	for version, sig := range map[string]os.Signal{"2.0": syscall.SIGKILL, "3.0": syscall.SIGTERM} {
		s.promote(version)
		there, size := m.stopInFetch(w, version, sig)
		m.invariants()
		before := w.Down()
		if got := m.cycle(0); got != "updated" {
			t.Errorf("%s: the next puller says %s", version, got)
		}
		m.settled(version)
		const documents = 20_000 // manifest, signature, headers
		sent := w.Down() - before
		t.Logf("%s: %d bytes of %d were there, then %d were sent", sig, there, size, sent)
		if sent > size-there+documents {
			t.Errorf("%s: %d bytes of %d were there after %s, and %d more were sent", version, there, size, sig, sent)
		}
	}
}

// upload copies the site's bucket to a real server.
func (s *site) upload(server *minio.Server, name string) {
	s.t.Helper()
	b, err := bucket.Open(s.t.Context(), bucket.Config{
		URL: "s3://" + name, Endpoint: server.Endpoint, PathStyle: true,
		AccessKeyFile: server.Root.AccessKeyFile, SecretKeyFile: server.Root.SecretKeyFile,
	})
	must(s.t, err)
	root := s.path("site", "bucket")
	must(s.t, filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			return err
		}
		key, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return b.Create(s.t.Context(), key, f, info.Size())
	}))
}

// stopInFetch runs a puller until half of the tarball of version is there, and ends it. It
// returns how much is there, and the size of the tarball.
func (m *machine) stopInFetch(w *wire.Wire, version string, sig os.Signal) (there, size int64) {
	m.t.Helper()
	tarballs, err := filepath.Glob(m.path("site", "bucket", "mnw", "releases", version, "*.tar.zst"))
	must(m.t, err)
	info, err := os.Stat(tarballs[0])
	must(m.t, err)
	held := w.HoldAt(w.Down() + info.Size()/2)
	cmd := m.puller()
	must(m.t, cmd.Start())
	<-held
	part := m.root + "/.sando/fetch/" + info.Name()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		if begun, err := os.Stat(part); err == nil && begun.Size() > info.Size()/4 {
			break
		}
		if m.t.Context().Err() != nil {
			m.t.Fatal("nothing arrives")
		}
	}
	must(m.t, cmd.Process.Signal(sig))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || sig == syscall.SIGTERM && exit.ExitCode() != 1 {
		m.t.Fatalf("the puller ended with %v after %s", err, sig)
	}
	w.Release()
	begun, err := os.Stat(part)
	must(m.t, err)
	return begun.Size(), info.Size()
}
