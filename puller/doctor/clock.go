package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
)

// How far a clock may be off. Servers of S3 refuse what was signed more than 15 minutes away.
const (
	noticed = 5 * time.Minute
	refused = 15 * time.Minute
)

// clockTime is how long one server is waited for.
const clockTime = 5 * time.Second

// clock compares this machine's clock with what was signed or built before, and with what
// servers say.
func (e *examiner) clock(ctx context.Context) []Check {
	set := do("set the clock of this machine: `timedatectl set-ntp true`, where a time service is installed, else `date --set`")
	for _, past := range e.past() {
		if ahead := past.at.Sub(e.now); ahead > refused {
			return []Check{failed("clock", reason.Config, fmt.Sprintf("this machine's clock says %s, which is %s before %s", e.now.UTC().Format(canon.TimeLayout), cli.Span(ahead), past.what), set)}
		}
	}
	said := e.servers(ctx)
	for _, s := range said {
		off := s.at.Sub(e.now).Abs().Round(time.Minute)
		if off < noticed {
			continue
		}
		side := "ahead of"
		if s.at.After(e.now) {
			side = "behind"
		}
		found := fmt.Sprintf("this machine's clock is %s %s that of %s", cli.Span(off), side, s.what)
		if off >= refused && e.signs() {
			return []Check{failed("clock", reason.Config, found+": the bucket refuses what is signed with it", set)}
		}
		return []Check{warning("clock", found, set)}
	}
	for _, past := range e.past() {
		if ahead := past.at.Sub(e.now); ahead > noticed {
			return []Check{warning("clock", fmt.Sprintf("this machine's clock is %s before %s", cli.Span(ahead), past.what), set)}
		}
	}
	if len(said) == 0 {
		return []Check{ok("clock", "%s; no server was there to compare with", e.now.UTC().Format(canon.TimeLayout))}
	}
	return []Check{ok("clock", "as that of %s", said[0].what)}
}

// signs reports whether requests to the bucket carry a time.
func (e *examiner) signs() bool {
	return e.good && strings.HasPrefix(e.cfg.Storage.URL, "s3:") && !e.cfg.Storage.Anonymous
}

// moment is a time of something.
type moment struct {
	what string
	at   time.Time
}

// past returns times that are over.
func (e *examiner) past() (all []moment) {
	if doc, err := e.dir.Channel(e.cfg.Tier); err == nil && e.cfg.Tier != "" {
		if ch, err := channels.ParseChannel(doc); err == nil {
			all = append(all, moment{fmt.Sprintf("the accepted state of channel %q was signed", e.cfg.Tier), ch.Issued.Time})
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				all = append(all, moment{"this program was written", at})
			}
		}
	}
	return all
}

// servers asks those that the puller talks to what time it is. Those that cannot be asked are
// left out: why is told by who needs them.
func (e *examiner) servers(ctx context.Context) []moment {
	if !e.good {
		return nil
	}
	hosts := e.hosts()
	answers := make([]*moment, len(hosts))
	var at sync.WaitGroup
	for n, h := range hosts {
		at.Go(func() { answers[n] = e.ask(ctx, h) })
	}
	at.Wait()
	var said []moment
	for _, a := range answers {
		if a != nil {
			said = append(said, *a)
		}
	}
	return said
}

// host is a server that speaks HTTP.
type host struct{ url, caFile string }

func (e *examiner) hosts() (hosts []host) {
	if s := e.cfg.Storage; strings.HasPrefix(s.URL, "s3:") {
		endpoint := s.Endpoint
		if endpoint == "" {
			region := s.Region
			if region == "" {
				region = "us-east-1"
			}
			endpoint = "https://s3." + region + ".amazonaws.com"
		}
		hosts = append(hosts, host{endpoint, s.CAFile})
	}
	if strings.HasPrefix(e.cfg.Channels.Repo, "http") {
		hosts = append(hosts, host{e.cfg.Channels.Repo, e.cfg.Channels.CAFile})
	}
	return hosts
}

// maxCertificates bounds a file of certificates, in bytes: those of all authorities are a quarter of it.
const maxCertificates = 1 << 20

// ask sends a request for nothing, without any credentials: whatever the answer is, it has a date.
func (e *examiner) ask(ctx context.Context, h host) *moment {
	u, err := url.Parse(h.url)
	if err != nil {
		return nil
	}
	u = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}
	ctx, cancel := context.WithTimeout(ctx, min(clockTime, e.o.limit))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, u.String(), nil)
	if err != nil {
		return nil
	}
	req.Header.Set("User-Agent", "sando")
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if pem, err := contents(h.caFile, maxCertificates); h.caFile != "" && err == nil {
		if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			conf.RootCAs = x509.NewCertPool()
		}
		conf.RootCAs.AppendCertsFromPEM(pem)
	}
	client := http.Client{
		Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: conf, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	resp.Body.Close()
	at, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return nil
	}
	// A cache says when it got its answer, and how long ago that is.
	if age, err := strconv.Atoi(resp.Header.Get("Age")); err == nil {
		at = at.Add(time.Duration(age) * time.Second)
	}
	return &moment{u.Host, at.Add(-time.Since(began) / 2)}
}
