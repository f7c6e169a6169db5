package doctor

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket/s3"
)

// asked is what was asked over a network, and the keys of the configuration that say where and how.
type asked struct {
	name  string // of the check
	where string // "channels" or "storage"
	url   string
	keys  []string // files with what proves who asks
}

type word struct{ text, name, needs, mend string }

// words are what errors say whose types do not come through so far, each with the check whose
// matter it is, the one that may be the cause, and what mends it.
func words() []word {
	return []word{
		{"certificate has expired or is not yet valid", "network", "clock", "see whether this machine's clock is right (`date -u`); else the server needs a new certificate"},
		{"certificate signed by unknown authority", "network", "", "name a file with the authority's certificate as {where}.ca_file in {file}"},
		{"failed to verify certificate", "network", "", "see whether {where} in {file} names the right host: the certificate is of another"},
		{"no such host", "network", "", "see whether {where} in {file} names the right host, and whether this machine has a name server: `getent hosts {host}`"},
		{"connection refused", "network", "", "see whether the server runs, and {where} in {file} names the right port: `curl -sS {base}`"},
		{"no route to host", "network", "", "see whether this machine's network is up: `ip route get {host}`"},
		{"network is unreachable", "network", "", "see whether this machine's network is up: `ip route`"},
		{"no end within", "network", "", "see whether the server answers at all: `curl -sS {base}`"},
		{"i/o timeout", "network", "", "see whether the server answers at all: `curl -sS {base}`"},
		{"attempt 6 of 6", "network", "", "see whether the server answers: `curl -sS {base}`"},
		{"does not accept the token", "channel", "", "put a token that can read the channel repo into {keys}: one line"},
		{"the host wants a password", "channel", "", "put a token that can read the channel repo into a file, chmod 600, and name it as channels.token_file in {file}"},
		{"the host forbids this", "channel", "", "let the token in {keys} read the channel repo, or put another into it"},
		{"there is no such repository", "channel", "", "see whether channels.repo in {file} is right, and what is in {keys} may read it"},
		{"nothing was promoted to tier", "channel", "", "have a version promoted to it, on the builder: `builder promote {tier}`"},
		{"nothing was mirrored for tier", "channel", "", "have it mirrored, on the builder: `builder mirror {tier}`"},
		{"does not accept the key", "channel", "", "let the key in {keys} read the channel repo: its .pub belongs to the repo's deploy keys"},
		{"is not in channels.known_hosts", "channel", "", "add the host's key to channels.known_hosts, as it says, once it is compared"},
	}
}

// judge makes a check of what asking ended with.
func (e *examiner) judge(a asked, err error) Check {
	text := err.Error()
	fill := strings.NewReplacer("{where}", a.where, "{file}", e.o.File, "{host}", hostOf(a.url), "{base}", baseOf(a.url), "{keys}", strings.Join(a.keys, " and "), "{tier}", e.cfg.Tier)
	var answer *s3.Error
	if errors.As(err, &answer) {
		return e.judgeAnswer(a, answer, err)
	}
	for _, w := range words() {
		if !strings.Contains(text, w.text) {
			continue
		}
		c := failed(w.name, reason.Of(err), text, do("%s", fill.Replace(w.mend)))
		return c.because(w.needs)
	}
	switch code := reason.Of(err); {
	case code == reason.Config:
		c := failed("credentials", code, text, do("mend that, as it says: the key is in section [%s] of %s", a.where, e.o.File))
		return c.because("user", "permissions", "credentials")
	case errors.Is(err, fs.ErrNotExist) || strings.Contains(text, "is not in the storage yet"):
		return failed(a.name, code, text, do("see that storage.url in %s is the builder's, and there, with `builder verify`, that the version is whole", e.o.File))
	case code == reason.Signature:
		return failed(a.name, code, text, do("compare the fingerprint of %s with the builder's `sha256sum keys/trust.json`; if they are the same, somebody else signed this", e.cfg.Trust))
	case errors.Is(err, context.DeadlineExceeded):
		return failed("network", code, text, do("%s", fill.Replace("see whether the server answers at all: `curl -sS {base}`")))
	default:
		return failed(a.name, code, text, do("mend that, as it says"))
	}
}

// judgeAnswer is about an answer of the bucket's.
func (e *examiner) judgeAnswer(a asked, answer *s3.Error, err error) Check {
	keys := "the credentials of the bucket"
	if len(a.keys) == 2 {
		keys = a.keys[0] + " and " + a.keys[1]
	}
	m := do("see whether storage.url, storage.endpoint and storage.region in %s are right", e.o.File)
	needs := ""
	switch {
	case answer.Code == "RequestTimeTooSkewed":
		needs, m = "clock", do("set the clock of this machine: `timedatectl set-ntp true`, where a time service is installed")
	case answer.Code == "InvalidAccessKeyId":
		m = do("the server does not know this access key: write one that it knows, and its secret, into %s", keys)
	case answer.Code == "SignatureDoesNotMatch":
		m = do("the secret is not that of the access key: write both again into %s, one line each", keys)
	case answer.Code == "ExpiredToken", answer.Code == "InvalidToken", answer.Code == "TokenRefreshRequired":
		m = do("write new keys into %s: these have expired", keys)
	case answer.Code == "NoSuchBucket":
		m = do("write the right bucket as storage.url in %s", e.o.File)
	case answer.Forbidden():
		m = do("let these credentials do s3:GetObject on %s/%s/*, if the object is there: `builder verify` tells that", strings.TrimPrefix(e.cfg.Storage.URL, "s3://"), e.cfg.App)
	case answer.Status/100 == 5:
		m = do("wait for the server, or see what is wrong with it: the puller tries again by itself")
	}
	c := failed(a.name, reason.Of(err), err.Error(), m)
	return c.because(needs)
}

// hostOf returns the name of the host in a URL.
func hostOf(place string) string {
	u, err := url.Parse(place)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// baseOf returns what is before the path of a URL.
func baseOf(place string) string {
	u, err := url.Parse(place)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String()
}
