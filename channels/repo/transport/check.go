package transport

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

// Check judges a configuration by itself: the URL, and that the settings fit together. It reads
// no file: one that is gone is a matter of the repo, and what can do without that must go on.
// Errors have the reason "config".
func Check(c Config) error {
	_, err := check(c)
	return err
}

func check(c Config) (*url.URL, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		// The text of a url.Error holds the URL, and that may hold a password.
		return nil, refuse("the repo URL is malformed")
	}
	if err := checkURL(u); err != nil {
		return nil, err
	}
	if u.Scheme == "ssh" {
		err = checkSSH(c, u)
	} else {
		err = checkHTTP(c, u)
	}
	return u, err
}

func refuse(format string, args ...any) error { return reason.Errorf(reason.Config, format, args...) }

// hostName is a name or an address; userName what may stand before it. Neither begins like an
// option of a program.
var (
	hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
	userName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}$`)
)

func checkURL(u *url.URL) error {
	_, hasPassword := u.User.Password()
	switch host := u.Hostname(); {
	case hasPassword:
		return refuse("repo URL %q holds a password; put it into the file that channels.token_file names", name(u))
	case u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return refuse("repo URL %q holds more than a host and a path", name(u))
	case !hostName.MatchString(host) && net.ParseIP(host) == nil:
		return refuse("repo URL %q: %q is not the name of a host", name(u), host)
	case u.User != nil && !userName.MatchString(u.User.Username()):
		// It may be a token that somebody has put there.
		return refuse("repo URL %q: what stands before the @ is not the name of a user; a token belongs into the file that channels.token_file names", name(u))
	case strings.Trim(u.Path, "/") == "":
		return refuse("repo URL %q has no path", name(u))
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return refuse("repo URL %q: port %q is not 1 to 65535", name(u), port)
		}
	}
	if err := canon.Text(u.Path, false); err != nil {
		return refuse("repo URL %q: path: %w", name(u), err)
	}
	return nil
}

// Loopback reports whether a URL is of this machine.
func loopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return ip.IsLoopback() || u.Hostname() == "localhost"
}

func checkHTTP(c Config, u *url.URL) error {
	switch {
	case c.SSHKey != "" || c.KnownHosts != "":
		return refuse("repo URL %q: ssh_key and known_hosts are for ssh://", name(u))
	case u.Scheme == "http" && !loopback(u):
		return refuse("repo URL %q: http is for loopback addresses only; write https", name(u))
	case u.Scheme == "http" && (c.TokenFile != "" || c.CAFile != ""):
		return refuse("repo URL %q: token_file and ca_file are for https", name(u))
	}
	return nil
}

func checkSSH(c Config, u *url.URL) error {
	switch {
	case c.TokenFile != "" || c.CAFile != "":
		return refuse("repo URL %q: token_file and ca_file are for https://", name(u))
	case u.User == nil:
		return refuse("repo URL %q: want a user, such as ssh://git@%s%s", name(u), u.Host, u.Path)
	case c.SSHKey == "" || c.KnownHosts == "":
		return refuse("repo URL %q: ssh needs ssh_key, a private key without a passphrase, and known_hosts, a file with the host's keys", name(u))
	}
	return nil
}

// checkFiles looks whether the files of a configuration can be used.
func checkFiles(c Config) error {
	if c.TokenFile != "" {
		if _, err := readToken(c.TokenFile); err != nil {
			return err
		}
	}
	if c.CAFile != "" {
		if _, err := readCA(c.CAFile); err != nil {
			return err
		}
	}
	if c.SSHKey == "" {
		return nil
	}
	if _, err := readKey(c.SSHKey); err != nil {
		return err
	}
	_, err := readKnownHosts(c.KnownHosts)
	return err
}

// maxFile bounds the files of a configuration, in bytes.
const maxFile = 4 << 20

// readFile reads a file of the configuration. A private one is nobody else's to read: a group
// may, since that is how a service gets it.
func readFile(key, file string, private bool) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe does not hold it up
	if err != nil {
		return nil, refuse("%s: %w", key, err)
	}
	defer f.Close() // was only read
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, refuse("%s: %w", key, err)
	case !info.Mode().IsRegular():
		return nil, refuse("%s: %q is not a regular file", key, file)
	case private && info.Mode().Perm()&0o007 != 0:
		return nil, refuse("%s: everybody may read or write %q (mode %04o); chmod 600 it, and think about what it holds as known to others", key, file, info.Mode().Perm())
	case info.Size() > maxFile:
		return nil, refuse("%s: %q has more than %d bytes", key, file, maxFile)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, refuse("%s: %w", key, err)
	}
	return data, nil
}

// readToken returns a token: the one line of its file.
func readToken(file string) (string, error) {
	data, err := readFile("token_file", file, true)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(token) > 8<<10 || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", refuse("token_file: %q does not hold a token: want one line of printable ASCII", file)
	}
	return token, nil
}

// readCA returns the certificates of the system with those of a file.
func readCA(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, refuse("certificates of the system: %w", err)
	}
	data, err := readFile("ca_file", file, false)
	if err != nil {
		return nil, err
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, refuse("ca_file: %q holds no certificate in PEM form", file)
	}
	return pool, nil
}

func readKey(file string) (ssh.Signer, error) {
	data, err := readFile("ssh_key", file, true)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, refuse("ssh_key: %q has a passphrase, and nobody is there to type it; use a key of its own without one, that may only read", file)
	case err != nil:
		return nil, refuse("ssh_key: %q is not a private key that ssh uses", file)
	}
	return key, nil
}

func readKnownHosts(file string) (ssh.HostKeyCallback, error) {
	data, err := readFile("known_hosts", file, false)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, refuse("known_hosts: %q is empty; ssh-keyscan HOST prints lines for it, to be compared with what the host's operator says", file)
	}
	check, err := knownhosts.New(file)
	if err != nil {
		return nil, refuse("known_hosts: %w", err)
	}
	return check, nil
}
