package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/channels/repo/remote"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// Create makes a bare repository at a file URL, whose branch holds one commit with the
// files. There must be nothing, or an empty directory; the error matches fs.ErrExist
// otherwise, and has the reason "config". The repository is made beside its place and
// renamed, so it is whole or not there.
func Create(ctx context.Context, repoURL, branch string, author Author, files map[string][]byte) error {
	dir, err := checkCreate(repoURL, branch, author, files)
	if err != nil {
		return fmt.Errorf("create channel repo: %w", err)
	}
	if err := create(ctx, dir, branch, author, files); err != nil {
		return fmt.Errorf("create channel repo in %q: %w", dir, reason.OnDisk(err))
	}
	return nil
}

func checkCreate(repoURL, branch string, author Author, files map[string][]byte) (string, error) {
	dir, err := remote.Dir(repoURL)
	if err != nil {
		return "", err
	}
	if err := checkBranch(branch); err != nil {
		return "", err
	}
	for p := range files {
		if err := objects.CheckPath(p); err != nil {
			return "", err
		}
	}
	return dir, author.Check()
}

func create(ctx context.Context, dir, branch string, author Author, files map[string][]byte) (err error) {
	if err := checkFree(dir); err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := durable.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(parent, "."+filepath.Base(dir)+"."+rand.Text())
	if err := os.Mkdir(tmp, 0o777); err != nil { // as git does: the umask decides
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := fillBare(tmp, branch, author, files); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := syncAll(tmp); err != nil {
		return err
	}
	// An empty directory goes; os.Rename refuses anything else that is in the place.
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.Rename(tmp, dir)
}

// checkFree refuses a place where there is something.
func checkFree(dir string) error {
	info, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.IsDir():
		return reason.Errorf(reason.Config, "%w, and is not an empty directory; name another, or use what is there", fs.ErrExist)
	}
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		return reason.Errorf(reason.Config, "%w, and is not empty; name another, or use what is there", fs.ErrExist)
	}
	return err
}

// fillBare makes a bare repository in the empty directory dir.
func fillBare(dir, branch string, author Author, files map[string][]byte) error {
	ref := plumbing.NewBranchReferenceName(branch)
	for _, d := range []string{"objects/info", "objects/pack", "refs/tags", filepath.Dir(string(ref))} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			return err
		}
	}
	s := objects.Open(dir)
	tree, err := s.Replace(plumbing.ZeroHash, files)
	if err != nil {
		return err
	}
	commit, err := s.WriteCommit(tree, plumbing.ZeroHash, author, time.Now(), "Create the channel repo")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"config":    mirrorConfig,
		"HEAD":      "ref: " + string(ref) + "\n",
		string(ref): commit.String() + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			return err
		}
	}
	return nil
}

func syncAll(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	return durable.SyncFS(f)
}
