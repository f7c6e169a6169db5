package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// node is a machine of the fleet: here a directory, a puller's configuration and an
// address for the app.
type node struct {
	tier string
	name string // also of the directory
	addr string
}

// config returns the name of the configuration file.
func (n *node) config() string { return n.tier + ".toml" }

// puller returns the command line of the puller of this node.
func (n *node) puller(args string) string {
	return strings.TrimSpace("puller --config " + n.config() + " " + args)
}

// freeAddresses returns addresses on the loopback interface that nobody listens on.
func freeAddresses(n int) (addrs []string, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // held until all are chosen
		addrs = append(addrs, l.Addr().String())
	}
	return addrs, nil
}

func fileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

// configText returns the configuration of the puller of a node.
func (d *stage) configText(n *node) string {
	return fmt.Sprintf(`app = "hello"
tier = %q
node = %q
root = %q
trust = %q
[channels]
repo = %q
[storage]
url = %q
[service]
command = [%q, %q, %q]
[health]
url = "http://%s/api/health"
json = { status = "operational", version = "{version}" }
start_timeout = "5s"
interval = "100ms"
stable_for = "1s"
`, n.tier, n.name, d.path(n.name), d.path("keys", "trust.json"),
		fileURL(d.path("channels.git")), fileURL(d.path("bucket")),
		d.path("restart"), n.name, n.addr, n.addr)
}

// restart is what [service] command runs: the place of a service manager.
const restart = `#!/bin/sh
# restart NODE ADDR: end the app of the node, if it runs, and start what current names
set -eu
cd "$(dirname "$0")" && here=$(pwd -P)
pid=$(cat "$1.pid" 2>/dev/null || true)
case $(readlink "/proc/$pid/exe") in
"$here/$1/releases/"*)
	kill "$pid" || true
	while [ -e "/proc/$pid/exe" ]; do sleep 0.05; done ;;
esac
ADDR=$2 setsid "$1/current/hello" </dev/null >>"$1.log" 2>&1 &
echo $! >"$1.pid"
`

// client asks the apps. Proxies are not for the loopback interface.
func client() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
}

// get returns what the app of the node answers.
func (n *node) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.addr+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client().Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: status is %s, want 200", req.URL, resp.Status)
	}
	return string(body), err
}

// answers checks that the node runs a version: `current` names it, and the app that
// answers is of it, program and page. It shows both.
func (d *stage) answers(ctx context.Context, n *node, version string) error {
	link, err := os.Readlink(d.path(n.name, "current"))
	if err != nil {
		return err
	}
	if want := "releases/" + version; link != want {
		return fmt.Errorf("%s/current is %q, want %q", n.name, link, want)
	}
	health, err := n.get(ctx, "/api/health")
	if err != nil {
		return err
	}
	var is struct{ Version string }
	if err := json.Unmarshal([]byte(health), &is); err != nil || is.Version != version {
		return fmt.Errorf("the app on %s answers %q, want version %q", n.name, health, version)
	}
	page, err := n.get(ctx, "/")
	if err != nil {
		return err
	}
	if want := "this is version " + version + "."; !strings.Contains(page, want) {
		return fmt.Errorf("the page of %s is %q, want %q in it", n.name, page, want)
	}
	d.look("http://%s/ says version %s; %s/current -> %s", n.addr, version, n.name, link)
	return nil
}

// status is what the demo reads of `puller status --json`.
type status struct {
	Reason  string `json:"reason"`
	Running struct {
		Version string `json:"version"`
	} `json:"running"`
	Blocked []struct {
		Version string `json:"version"`
	} `json:"blocked"`
}

// status asks the puller of the node how it is, and checks that it says so in the same
// word, and runs the same version.
func (d *stage) status(ctx context.Context, n *node, reason, version string) (status, error) {
	var s status
	line := n.puller("status --json")
	out, code, err := shell(ctx, d.dir, d.env, line)
	if err != nil {
		return s, fmt.Errorf("%s: %w", line, err)
	}
	if code != 0 {
		return s, fmt.Errorf("`%s` ended with exit code %d: %s", line, code, out)
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return s, fmt.Errorf("%s: %w", line, err)
	}
	if s.Reason != reason || s.Running.Version != version {
		return s, fmt.Errorf("%s: %s runs %q and is %q, want %q and %q", line, n.name, s.Running.Version, s.Reason, version, reason)
	}
	return s, nil
}

// update runs a cycle of the node that must end with a version running, for the reason
// that status names from then on.
func (d *stage) update(ctx context.Context, n *node, args, reason, version string) error {
	out, err := d.run(ctx, 0, n.puller(args))
	if err != nil {
		return err
	}
	if want := "updated: runs " + version; !strings.Contains(out, want) {
		return fmt.Errorf("the puller of %s does not say %q", n.name, want)
	}
	if _, err := d.status(ctx, n, reason, version); err != nil {
		return err
	}
	return d.answers(ctx, n, version)
}

// refuse runs a cycle of the node that must end with an exit code and a reason, while
// version goes on running. It returns what the puller said.
func (d *stage) refuse(ctx context.Context, n *node, exit int, reason, version string) (string, error) {
	out, err := d.run(ctx, exit, n.puller(""))
	if err != nil {
		return out, err
	}
	if want := "puller: " + reason + ": "; !strings.Contains(out, want) {
		return out, fmt.Errorf("the puller of %s does not say %q", n.name, want)
	}
	return out, d.answers(ctx, n, version)
}
