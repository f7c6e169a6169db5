package bootstrap

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/config"
	"makenot.work/sando/internal/reason"
)

// Person is who runs bootstrap. Both are nil where nobody is there to ask.
type Person struct {
	Confirm func(ctx context.Context, question string) (bool, error)
	Secret  func(ctx context.Context, question string) ([]byte, error) // the answer is not shown
}

// credential is a file with one line that only root may know.
type credential struct {
	file  string // "": none
	typed []byte // what is to be written there; nil: it is there
	asked bool   // it will be asked for, when something is changed
}

// credentials are the files by which this node is let in.
type credentials struct {
	token, access, secret credential
	sshKey, knownHosts    string
}

// wanted is a credential to look for.
type wanted struct {
	key      string // of the configuration
	given    string // by flag: a path, None or ""
	usual    string // path
	question string
	missing  string // what to do about none, where nobody can be asked; "": go without
}

// find finds the credentials that the options ask for: by flag, by what the configuration
// of this node says already, in their usual places, or from the person.
func (n *Node) find(ctx context.Context) (err error) {
	o, dir := n.o, n.o.sandoDir()
	n.had = config.Peek(config.Source{File: o.configFile()},
		"app", "channels.token_file", "channels.ssh_key", "channels.known_hosts", "storage.access_key_file", "storage.secret_key_file")
	c := &n.creds
	u, err := url.Parse(o.Channels.URL)
	if err != nil {
		return refuse("--channels: %w", err)
	}
	switch u.Scheme {
	case "https":
		c.token, err = n.credential(ctx, wanted{
			"channels.token_file", o.Channels.TokenFile, filepath.Join(dir, "git.token"),
			fmt.Sprintf("Token that may read %s (it is not shown; none if anybody may: Enter): ", o.Channels.URL), "",
		})
	case "ssh":
		c.sshKey = given(cmp.Or(o.Channels.SSHKey, n.had["channels.ssh_key"], filepath.Join(dir, "ssh")))
		c.knownHosts = given(cmp.Or(o.Channels.KnownHosts, n.had["channels.known_hosts"], filepath.Join(dir, "known_hosts")))
		err = n.checkSSH(u)
	default:
		c.token.file, c.sshKey, c.knownHosts = given(o.Channels.TokenFile), given(o.Channels.SSHKey), given(o.Channels.KnownHosts)
	}
	if err != nil {
		return err
	}
	if !strings.HasPrefix(o.Storage.URL, "s3:") || o.Storage.Anonymous {
		c.access.file, c.secret.file = given(o.Storage.AccessKeyFile), given(o.Storage.SecretKeyFile)
		return nil
	}
	const none = "; where the machine itself is known to the storage, --access-key-file none --secret-key-file none; where anybody may read it, --anonymous"
	c.access, err = n.credential(ctx, wanted{
		"storage.access_key_file", o.Storage.AccessKeyFile, filepath.Join(dir, "s3.access"),
		fmt.Sprintf("Access key for %s (it is not shown; none if this machine has a role: Enter): ", o.Storage.URL), none,
	})
	missing := err
	if err == nil && c.access.file == "" || err != nil && n.person.Secret != nil {
		return err
	}
	c.secret, err = n.credential(ctx, wanted{
		"storage.secret_key_file", o.Storage.SecretKeyFile, filepath.Join(dir, "s3.secret"), "Its secret key: ", none,
	})
	if missing != nil && err != nil { // both at once, and what there is instead once
		text, _, _ := strings.Cut(missing.Error(), none)
		return refuse("%s; and %w", text, err)
	}
	return cmp.Or(missing, err)
}

func given(value string) string {
	if value == None {
		return ""
	}
	return value
}

func (n *Node) credential(ctx context.Context, w wanted) (credential, error) {
	path, known := w.given, w.given != ""
	if had, ok := n.had[w.key]; !known && n.had["app"] != "" {
		path, known = had, true
		if !ok {
			path = None
		}
	}
	if path == None {
		return credential{}, nil
	}
	file := path
	if file == "" {
		file = w.usual
	}
	info, err := os.Stat(file)
	switch {
	case err == nil:
		return credential{file: file}, private(w.key, file, info)
	case !errors.Is(err, fs.ErrNotExist):
		return credential{}, reason.OnDisk(err)
	case n.dry && n.person.Secret != nil:
		return credential{file: file, asked: true}, nil
	case n.person.Secret == nil && !known && w.missing == "":
		return credential{}, nil
	case n.person.Secret == nil:
		return credential{}, refuse("%s: %s is not there, and nobody can be asked for it here: write it first, `install -d -m 700 %s && (umask 077; cat >%[2]s)`%[4]s", w.key, file, filepath.Dir(file), w.missing)
	}
	line, err := n.person.Secret(ctx, w.question)
	if err != nil {
		return credential{}, err
	}
	line = bytes.TrimSpace(line)
	switch {
	case len(line) == 0 && !known && w.missing == "", len(line) == 0 && strings.HasSuffix(w.key, "access_key_file"):
		return credential{}, nil
	case len(line) == 0 || len(line) > 1024 || bytes.ContainsFunc(line, func(r rune) bool { return r <= ' ' || r > '~' }):
		return credential{}, refuse("%s: what was typed is not one word of printable ASCII", w.key)
	}
	return credential{file: file, typed: append(line, '\n')}, nil
}

// private refuses a file that others can read, and one that root without its privileges
// cannot: that is how the puller's unit runs.
func private(key, file string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	if int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 || info.Mode().Perm()&0o400 == 0 {
		return refuse("%s: %s is %s: it must be root's alone: `chown root:root %[2]s && chmod 600 %[2]s`", key, file, describe(info))
	}
	return nil
}

// hostName is what a shell takes for a name; commands with it are printed.
var hostName = regexp.MustCompile(`^[A-Za-z0-9:][A-Za-z0-9.:-]*$`)

// checkSSH says how to make what is missing: a key is not to travel.
func (n *Node) checkSSH(u *url.URL) error {
	c, host := n.creds, u.Hostname()
	if !hostName.MatchString(host) {
		return refuse("--channels: %q is no name of a host", host)
	}
	if u.Port() != "" {
		host = "-p " + u.Port() + " " + host
	}
	for _, f := range []struct{ flag, path, mend string }{
		{"--ssh-key", c.sshKey, "make one, `install -d -m 700 %s && ssh-keygen -q -t ed25519 -N '' -f %s`, and let the git host read with %[2]s.pub"},
		{"--known-hosts", c.knownHosts, "write it, `install -d -m 700 %s && ssh-keyscan -t ed25519 " + host + " >%s`, and compare `ssh-keygen -lf %[2]s` with what the git host publishes"},
	} {
		info, err := os.Stat(f.path)
		switch {
		case f.path == "":
			return refuse("%s: ssh needs one; leave out %[1]s %s", f.flag, None)
		case errors.Is(err, fs.ErrNotExist):
			return refuse("%s: %s is not there: "+f.mend, f.flag, f.path, filepath.Dir(f.path), f.path)
		case err != nil:
			return reason.OnDisk(err)
		case f.flag == "--ssh-key":
			if err := private(f.flag, f.path, info); err != nil {
				return err
			}
		}
	}
	return nil
}

// each calls do with every credential that is a file of one line.
func (c *credentials) each(do func(key string, c *credential)) {
	do("channels.token_file", &c.token)
	do("storage.access_key_file", &c.access)
	do("storage.secret_key_file", &c.secret)
}

// unwritten reports whether something is missing that only a person has.
func (c *credentials) unwritten() (missing bool) {
	c.each(func(_ string, c *credential) { missing = missing || c.asked })
	return missing
}

// memory is a file in memory, which ends with the process: what was typed is used before
// anything is written, and never by way of a disk.
func memory(name string, data []byte) (path string, closed func(), err error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return "", nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(0o600)); err != nil {
		f.Close()
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { f.Close() }, nil
}
