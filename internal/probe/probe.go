// Package probe asks a running program whether it is well: one GET of a health URL
// that must answer 200 with the expected JSON fields, and one GET of each smoke URL
// that must answer 200. Redirects are not followed, proxies not used, bodies read up
// to 1 MiB.
package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	maxBody = 1 << 20
	timeout = 5 * time.Second // of one request
)

// ErrUnhealthy is matched by every answer, or lack of one, that is not the expected.
var ErrUnhealthy = errors.New("unhealthy")

// Probe is what to ask. The zero value asks nothing and is always well.
type Probe struct {
	URL string
	// JSON holds fields that the answer must have, nested ones in tables. "{version}"
	// in a string stands for the version; what follows "+" in one is not compared.
	JSON  map[string]any
	Smoke []string
}

// Check reports whether the URLs of p can be asked.
func (p Probe) Check() error {
	for _, u := range append([]string{p.URL}, p.Smoke...) {
		if u == "" && len(p.JSON) == 0 {
			continue
		}
		parsed, err := url.Parse(u)
		if err != nil || parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
			return fmt.Errorf("probe %q is not an http or https URL", u)
		}
	}
	return nil
}

// Empty reports whether p asks nothing.
func (p Probe) Empty() bool { return p.URL == "" && len(p.Smoke) == 0 }

// NamesVersion reports whether the answer must name the version that is asked for.
func (p Probe) NamesVersion() bool { return p.URL != "" && namesVersion(p.JSON) }

func namesVersion(fields map[string]any) bool {
	for _, v := range fields {
		switch v := v.(type) {
		case string:
			if strings.Contains(v, "{version}") {
				return true
			}
		case map[string]any:
			if namesVersion(v) {
				return true
			}
		}
	}
	return false
}

// Run asks once. The error matches ErrUnhealthy and says what was asked and answered.
func (p Probe) Run(ctx context.Context, version string) error {
	client := newClient()
	defer client.CloseIdleConnections()
	if p.URL != "" {
		if err := p.health(ctx, client, version); err != nil {
			return fmt.Errorf("%w: probe %s: %w", ErrUnhealthy, p.URL, err)
		}
	}
	for _, u := range p.Smoke {
		if _, err := get(ctx, client, u); err != nil {
			return fmt.Errorf("%w: smoke %s: %w", ErrUnhealthy, u, err)
		}
	}
	return nil
}

func newClient() *http.Client {
	return &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DialContext: (&net.Dialer{}).DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (p Probe) health(ctx context.Context, client *http.Client, version string) error {
	body, err := get(ctx, client, p.URL)
	if err != nil || len(p.JSON) == 0 {
		return err
	}
	var got map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber() // compared as written
	if err := dec.Decode(&got); err != nil {
		return fmt.Errorf("answer is no JSON object: %w", err)
	}
	return compare("", p.JSON, got, version)
}

func get(ctx context.Context, client *http.Client, u string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the URL is said by the caller
		}
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status is %d, want 200", resp.StatusCode)
	}
	return body, nil
}

// compare reports the first field of want that got does not have with that value.
func compare(path string, want, got map[string]any, version string) error {
	for key, w := range want {
		name := strings.TrimPrefix(path+"."+key, ".")
		g, ok := got[key]
		if !ok {
			return fmt.Errorf("field %q is missing", name)
		}
		if err := compareValue(name, w, g, version); err != nil {
			return err
		}
	}
	return nil
}

func compareValue(name string, w, g any, version string) error {
	switch w := w.(type) {
	case map[string]any:
		if g, ok := g.(map[string]any); ok {
			return compare(name, w, g, version)
		}
	case string:
		if !strings.Contains(w, "{version}") {
			break
		}
		expect := strings.ReplaceAll(w, "{version}", release(version))
		if s, ok := g.(string); ok && release(s) == expect {
			return nil
		}
		return fmt.Errorf("field %q is %q, want %q", name, fmt.Sprint(g), expect)
	}
	if fmt.Sprint(w) != fmt.Sprint(g) {
		return fmt.Errorf("field %q is %q, want %q", name, fmt.Sprint(g), fmt.Sprint(w))
	}
	return nil
}

// release cuts the build metadata off a version.
func release(version string) string {
	v, _, _ := strings.Cut(version, "+")
	return v
}
