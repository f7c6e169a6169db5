package transport

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/gitserver"
)

// newRepo makes an empty repository.
func newRepo(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "it's $(a) repo!.git")
	if out, err := exec.Command(testenv.Program(t, "git"), "init", "-q", "--bare", dir).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v\n%s", err, out)
	}
	return dir
}

func write(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	return file
}

func checkReason(t *testing.T, what string, err error, code reason.Code, words string) {
	t.Helper()
	if err == nil || reason.Of(err) != code || !strings.Contains(err.Error(), words) {
		t.Errorf("%s = %v (reason %s), want the reason %s and the words %q", what, err, reason.Of(err), code, words)
	}
}

func newHost(t *testing.T, c Config) Host {
	t.Helper()
	h, err := New(c, Patience{Dial: time.Minute, Stall: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// look opens a conversation, and reads how it begins.
func look(ctx context.Context, h Host) error {
	s, err := h.Open(ctx, Read)
	if err != nil {
		return err
	}
	var begin [4]byte
	_, err = io.ReadFull(s, begin[:])
	return errors.Join(err, s.Close())
}

func checkLook(t *testing.T, c Config) {
	t.Helper()
	if err := look(t.Context(), newHost(t, c)); err != nil {
		t.Errorf("the valid case: %v", err)
	}
}

// TestCheck changes one thing in a configuration that is in order.
func TestCheck(t *testing.T) {
	key, _ := gitserver.Key(t, filepath.Join(t.TempDir(), "key"))
	block, err := ssh.MarshalPrivateKeyWithPassphrase(mustKey(t, key), "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	locked := write(t, string(pemOf(block)), 0o600)
	w := gitserver.HTTPS(t, newRepo(t))
	s := gitserver.SSH(t, "/srv")
	web := Config{URL: "https://u@git.example/c.git", TokenFile: w.TokenFile, CAFile: w.CAFile}
	shell := Config{URL: "ssh://git@git.example/c.git", SSHKey: key, KnownHosts: s.KnownHosts}
	for _, good := range []Config{
		web, shell,
		{URL: "https://git.example:8443/a/b.git"}, {URL: "https://[2001:db8::1]/c.git"}, {URL: "http://127.0.0.1:80/c.git"},
		{URL: "http://[::1]/c.git"}, {URL: "http://localhost/c.git"},
		{URL: "ssh://git@git.example:2222/~/c.git", SSHKey: key, KnownHosts: s.KnownHosts},
	} {
		if err := Check(good); err != nil {
			t.Errorf("Check(%+v) = %v", good, err)
		}
	}
	for _, c := range []struct {
		name   string
		from   Config
		change func(c *Config)
		words  string
		file   bool // it is about a file
	}{
		{"password", web, func(c *Config) { c.URL = "https://u:hush@git.example/c.git" }, "holds a password", false},
		{"empty password", web, func(c *Config) { c.URL = "https://u:@git.example/c.git" }, "holds a password", false},
		{"token as user", web, func(c *Config) {
			c.URL = "https://github_pat_hush" + strings.Repeat("x", 80) + "@git.example/c.git"
		}, "a token belongs into the file that channels.token_file names", false},
		{"no slashes", web, func(c *Config) { c.URL = "https:hush@git.example/c.git" }, "more than a host and a path", false},
		{"query", web, func(c *Config) { c.URL += "?private_token=hush" }, "more than a host and a path", false},
		{"fragment", web, func(c *Config) { c.URL += "#hush" }, "more than a host and a path", false},
		{"no host", web, func(c *Config) { c.URL = "https:///c.git" }, `"" is not the name of a host`, false},
		{"no path", web, func(c *Config) { c.URL = "https://git.example/" }, "has no path", false},
		{"port", web, func(c *Config) { c.URL = "https://git.example:65536/c.git" }, "port", false},
		{"line feed", web, func(c *Config) { c.URL = "https://git.example/c%0Ad.git" }, "U+000A", false},
		{"odd host", web, func(c *Config) { c.URL = "https://git_%2d.example/c.git" }, "malformed", false},
		{"not loopback", web, func(c *Config) { c.URL = "http://git.example/c.git" }, "loopback addresses only", false},
		{"not quite loopback", web, func(c *Config) { c.URL = "http://127.0.0.1.git.example/c.git" }, "loopback addresses only", false},
		{"token in the clear", web, func(c *Config) { c.URL = "http://127.0.0.1/c.git" }, "are for https", false},
		{"no token file", web, func(c *Config) { c.TokenFile += ".none" }, "token_file: open", true},
		{"token of everybody", web, func(c *Config) { c.TokenFile = write(t, "t", 0o604) }, "everybody may read", true},
		{"empty token", web, func(c *Config) { c.TokenFile = write(t, "\n", 0o600) }, "does not hold a token", true},
		{"two tokens", web, func(c *Config) { c.TokenFile = write(t, "a\nb\n", 0o600) }, "does not hold a token", true},
		{"token is a pipe", web, func(c *Config) {
			c.TokenFile = filepath.Join(t.TempDir(), "pipe")
			if err := mkfifo(c.TokenFile); err != nil {
				t.Fatal(err)
			}
		}, "is not a regular file", true},
		{"token is a directory", web, func(c *Config) { c.TokenFile = t.TempDir() }, "is not a regular file", true},
		{"no CA", web, func(c *Config) { c.CAFile += ".none" }, "ca_file: open", true},
		{"odd CA", web, func(c *Config) { c.CAFile = key }, "holds no certificate", true},
		{"key for https", web, func(c *Config) { c.SSHKey = key }, "are for ssh://", false},
		{"token for ssh", shell, func(c *Config) { c.TokenFile = w.TokenFile }, "are for https://", false},
		{"CA for ssh", shell, func(c *Config) { c.CAFile = w.CAFile }, "are for https://", false},
		{"no user", shell, func(c *Config) { c.URL = "ssh://git.example/c.git" }, "want a user, such as ssh://git@git.example/c.git", false},
		{"option as user", shell, func(c *Config) { c.URL = "ssh://-oProxyCommand=x@git.example/c.git" }, "is not the name of a user", false},
		{"option as host", shell, func(c *Config) { c.URL = "ssh://git@-oProxyCommand=x/c.git" }, "is not the name of a host", false},
		{"host with a space", shell, func(c *Config) { c.URL = "ssh://git@a b/c.git" }, "malformed", false},
		{"no key", shell, func(c *Config) { c.SSHKey = "" }, "ssh needs ssh_key", false},
		{"no known hosts", shell, func(c *Config) { c.KnownHosts = "" }, "ssh needs ssh_key", false},
		{"key of everybody", shell, func(c *Config) { c.SSHKey = write(t, "k", 0o644) }, "everybody may read", true},
		{"key with a passphrase", shell, func(c *Config) { c.SSHKey = locked }, "has a passphrase", true},
		{"no private key", shell, func(c *Config) { c.SSHKey = w.TokenFile }, "is not a private key", true},
		{"empty known hosts", shell, func(c *Config) { c.KnownHosts = write(t, "\n", 0o644) }, "is empty", true},
		{"odd known hosts", shell, func(c *Config) { c.KnownHosts = write(t, "git.example what\n", 0o644) }, "known_hosts: ", true},
	} {
		conf := c.from
		c.change(&conf)
		_, err := New(conf, Default())
		checkReason(t, "New with "+c.name, err, reason.Config, c.words)
		switch cerr := Check(conf); {
		case c.file && cerr != nil:
			t.Errorf("Check with %s = %v, although it is about a file", c.name, cerr)
		case !c.file && (cerr == nil || cerr.Error() != err.Error()):
			t.Errorf("Check with %s = %v", c.name, cerr)
		}
		if strings.Contains(err.Error(), "hush") {
			t.Errorf("New with %s = %v, which holds a password", c.name, err)
		}
	}
}

func TestHTTPS(t *testing.T) {
	dir := newRepo(t)
	w := gitserver.HTTPS(t, dir)
	good := Config{URL: strings.ReplaceAll(strings.ReplaceAll(w.URL, " ", "%20"), "!", "%21"), TokenFile: w.TokenFile, CAFile: w.CAFile}
	checkLook(t, good)

	c := good
	c.CAFile = ""
	checkReason(t, "an authority that nobody knows", look(t.Context(), newHost(t, c)), reason.IO, "certificate signed by unknown authority: if the host's certificate is of your own authority, name that in channels.ca_file")
	c = good
	c.TokenFile = ""
	checkReason(t, "no token", look(t.Context(), newHost(t, c)), reason.IO, "set channels.token_file")

	c = good
	c.TokenFile = write(t, "wrong-hush\n", 0o600)
	h := newHost(t, c)
	err := look(t.Context(), h)
	checkReason(t, "another token", err, reason.IO, "does not accept the token in channels.token_file")
	if strings.Contains(err.Error(), "hush") {
		t.Errorf("the error holds the token: %v", err)
	}
	if err := os.WriteFile(c.TokenFile, []byte(w.Token), 0o600); err != nil { // it is renewed
		t.Fatal(err)
	}
	if err := look(t.Context(), h); err != nil {
		t.Errorf("with a new token: %v", err)
	}
	if err := os.Chmod(c.TokenFile, 0o666); err != nil {
		t.Fatal(err)
	}
	checkReason(t, "a token that everybody may write", look(t.Context(), h), reason.Config, "everybody may read")
	checkLook(t, good)
}

// TestHTTPLong has a host whose mistake is quoted in the error about it.
func TestHTTPLong(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, out, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(out, "HTTP/1.1 200 OK\r\nno header %s\r\n\r\n", strings.Repeat("x", 40<<10))
		out.Flush()
	}))
	t.Cleanup(s.Close)
	err := look(t.Context(), newHost(t, Config{URL: s.URL + "/c.git"}))
	checkReason(t, "a line that is no header", err, reason.IO, "no header xxx")
	if len(err.Error()) > 1000 {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

// TestHTTPStatus has hosts that answer something else.
func TestHTTPStatus(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another host was asked: %s, with the password %q", r.URL, r.Header.Get("Authorization"))
	}))
	t.Cleanup(other.Close)
	w := gitserver.HTTPS(t, newRepo(t))
	good := Config{URL: strings.ReplaceAll(strings.ReplaceAll(w.URL, " ", "%20"), "!", "%21"), TokenFile: w.TokenFile, CAFile: w.CAFile}
	for _, c := range []struct {
		status int
		to     string
		code   reason.Code
		words  string
	}{
		{301, other.URL + "/c.git/info/refs?service=git-upload-pack", reason.IO, `sends to "` + other.URL + `/c.git", another place`},
		{302, strings.Replace(w.URL, "https", "http", 1), reason.IO, "another place, which gets no token"},
		{307, "/moved.git/info/refs?service=git-upload-pack", reason.IO, `/moved.git", the same host`},
		{308, "https://u:hush@elsewhere.example/x", reason.IO, `sends to "https://elsewhere.example/x", another place`},
		{302, "", reason.IO, "redirects (status 302) to nowhere"},
		{401, "", reason.IO, "does not accept the token"},
		{403, "", reason.IO, "may do upload-pack here"},
		{404, "", reason.Stale, "there is no such repository"},
		{429, "", reason.IO, "status 429"},
		{503, "", reason.IO, "status 503"},
	} {
		w.Answer = func(rw http.ResponseWriter, _ *http.Request) bool {
			if c.to != "" {
				rw.Header().Set("Location", c.to)
			}
			rw.WriteHeader(c.status)
			return true
		}
		err := look(t.Context(), newHost(t, good))
		checkReason(t, fmt.Sprint("status ", c.status), err, c.code, c.words)
		if strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), w.Token) {
			t.Errorf("the error holds a secret: %v", err)
		}
	}
	w.Answer = nil
	checkLook(t, good)
}

func TestSSH(t *testing.T) {
	s := gitserver.SSH(t, newRepo(t))
	good := Config{URL: strings.ReplaceAll(s.URL, " ", "%20"), SSHKey: s.KeyFile, KnownHosts: s.KnownHosts}
	checkLook(t, good)
	lines, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger := gitserver.Key(t, filepath.Join(t.TempDir(), "other"))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	otherKind, err := ssh.NewPublicKey(&rsaKey.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, known, words string
	}{
		{"known under another name too", "git.example " + strings.SplitN(string(lines), " ", 2)[1] + string(lines), ""},
		{"unknown host", strings.Replace(string(lines), "127.0.0.1", "127.0.0.2", 1), "is not in channels.known_hosts"},
		{"changed key", s.Line(stranger) + "\n", "shows another key than the one in channels.known_hosts"},
		{"another kind of key", s.Line(otherKind) + "\n", "has no key of the kinds in channels.known_hosts"},
		{"one of two keys", s.Line(stranger) + "\n" + string(lines), ""},
		{"revoked key", string(lines) + "@revoked " + string(lines), "revokes"},
	} {
		conf := good
		conf.KnownHosts = write(t, c.known, 0o644)
		err := look(t.Context(), newHost(t, conf))
		if c.words == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		checkReason(t, c.name, err, reason.IO, c.words)
	}
	c := good
	c.SSHKey, _ = gitserver.Key(t, filepath.Join(t.TempDir(), "key"))
	checkReason(t, "another key", look(t.Context(), newHost(t, c)), reason.IO, "does not accept the key in channels.ssh_key")
	c = good
	c.URL += ".none"
	checkReason(t, "no repository", look(t.Context(), newHost(t, c)), reason.Stale, "there is no such repository")
	checkLook(t, good)
}

// TestSSHSilent has hosts that say nothing, at each step.
func TestSSHSilent(t *testing.T) {
	s := gitserver.SSH(t, newRepo(t))
	lines, err := os.ReadFile(s.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	key := strings.SplitN(string(lines), " ", 2)[1]
	c := Config{
		URL: "ssh://git@" + l.Addr().String() + "/c.git", SSHKey: s.KeyFile,
		KnownHosts: write(t, "[127.0.0.1]:"+port+" "+key, 0o644),
	}
	h, err := New(c, Patience{Dial: 200 * time.Millisecond, Stall: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	checkReason(t, "silence at first", look(t.Context(), h), reason.IO, "the host says nothing for 200ms")

	// The program runs, and says nothing: the repository is a pipe with nobody at the other end.
	dir := newRepo(t)
	if err := os.Remove(dir + "/HEAD"); err != nil {
		t.Fatal(err)
	}
	if err := mkfifo(dir + "/HEAD"); err != nil {
		t.Fatal(err)
	}
	s = gitserver.SSH(t, "/")
	t.Cleanup(func() { // or git would wait for ever
		pipe, err := os.OpenFile(dir+"/HEAD", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(dir+"/HEAD"), pipe.Close()); err != nil {
			t.Fatal(err)
		}
	})
	c = Config{URL: strings.TrimSuffix(s.URL, "/") + strings.ReplaceAll(dir, " ", "%20"), SSHKey: s.KeyFile, KnownHosts: s.KnownHosts}
	h = newHost(t, c)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("the whole takes too long"))
	defer cancel()
	checkReason(t, "silence of git", look(ctx, h), reason.IO, "the whole takes too long")
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{
		"/c.git": "'/c.git'", "/it's": `'/it'\''s'`, "/a!b": `'/a'\!'b'`, "/$(x) `y`": "'/$(x) `y`'",
	} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
		out, err := exec.Command("sh", "-c", "printf %s "+quote(in)).Output()
		if err != nil || string(out) != in {
			t.Errorf("a shell reads %s as %q, %v", quote(in), out, err)
		}
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"  a\x1b[31mb\u202e\n see https://u:hush@h/x\t.\r\n": "a [31mb see https://h/x .",
		"":                        "",
		strings.Repeat("ä", 1000): strings.Repeat("ä", 250) + "…",
	} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q, want %q", in, got, want)
		}
	}
}
